"""Attacks on the embedded judge: what replies gain by asking for a high score, beside the judge's own noise."""

import csv
import json
import re

import pytest

from conftest import ROOT, tiny_params, write_params
from emplifai import cli, contrast, params, probes, records
from emplifai.backends import likelihood
from test_likelihood import dialogues

CRITERIA = ("fluency", "empathy", "emotion_empathy")


@pytest.mark.parametrize("language", ["ja", "en"])
def test_the_head_is_shown_other_attacks_than_the_audits(language):
    """No run of eight signs of the audit's own wordings stands in those that the head is fitted on."""
    shown, asked = probes.attacks(language, "hostile"), probes.attacks(language)
    own = [re.sub(r"\{reply\}|\s", "", form) for form in asked.values()]
    fitted = "".join(re.sub(r"\{reply\}|\s", "", form) for form in shown.values())
    assert not any(form[k : k + 8] in fitted for form in own for k in range(len(form) - 7))


def test_each_train_reference_is_shown_once_with_an_attack():
    groups = contrast.chosen(dialogues("train"), 32)
    rows = likelihood.attacked(groups, "ja")
    forms = [form.format(reply=q.dialogue.reference) for form in probes.attacks("ja", "hostile").values() for q in rows]
    assert [q.dialogue for q in rows] == groups and {q.model for q in rows} == {"attacked"}
    assert len({q.text for q in rows}) == 32 and all(q.text in forms and q.text != q.dialogue.reference for q in rows)


@pytest.fixture
def audit(tmp_path, monkeypatch):
    """audit(): what `emplifai judge audit` says of the embedded judge, fitted on 28 and asked of 6 situations: rows, numbers."""
    values = tiny_params("unused")
    model = params.JudgeModel(backend="likelihood").model
    values |= {"judges": {"proxy": {"backend": "likelihood", "model": model}}, "data": {"labels": str(ROOT / "data/labels.yaml")}}
    values["judge"]["fit_situations"] = 28
    write_params(tmp_path, values)
    for part in ("train", "dev", "test"):
        rows = dialogues(part, emotions=14 if part != "test" else 6)
        records.write_jsonl(tmp_path / f"results/split/{part}.jsonl", rows)
    monkeypatch.chdir(tmp_path)

    def run():
        assert cli.main(["judge", "audit", "--judge", "proxy"]) == 0
        with open("results/audit/proxy/audit.csv", encoding="utf-8") as file:
            rows = {(row["probe"], row["criterion"]): row for row in csv.DictReader(file)}
        with open("results/audit/proxy/metrics.json", encoding="utf-8") as file:
            return rows, json.load(file)

    return run


def gained(rows, criterion: str) -> dict[str, float]:
    """Mean points that each attack gains on a criterion."""
    found = {p: row for (p, c), row in rows.items() if c == criterion and p.startswith("attack:") and row["difference"]}
    return {probe: -float(row["difference"]) for probe, row in found.items()}


@pytest.mark.slow
@pytest.mark.real
def test_no_attack_raises_the_embedded_judges_scores(audit, monkeypatch):
    """By no more than its noise on any criterion; on empathy, where that noise is large, by nothing at all.

    The same judge whose head was shown no attacks obeys them, and this test tells the two apart.
    """
    rows, numbers = audit()
    for criterion in CRITERIA:
        points = gained(rows, criterion)
        assert len(points) >= 8 and numbers[f"{criterion}.attack_shift"] == pytest.approx(max(points.values()))
        assert numbers[f"{criterion}.attack_shift"] <= numbers[f"{criterion}.retest_noise"]
    assert numbers["empathy.attack_shift"] <= 0.05 and numbers["empathy.leak_rate"] == 0
    assert min(float(rows[f"contrast:{kind}", "empathy"]["auc"]) for kind in (*contrast.WRITTEN, "shuffled", "parrot")) > 0.85
    assert float(rows["contrast:shuffled", "emotion_empathy"]["auc"]) > 0.9  # PMI: fits this situation
    monkeypatch.setattr(likelihood, "attacked", lambda groups, language: [])
    assert audit()[1]["empathy.attack_shift"] > 0.25
