"""Simulated raters and the planning of a study: marks that stay, known values, coverage."""

import random
from dataclasses import asdict
from pathlib import Path

import numpy as np
import pandas as pd
import pytest

from csv_files import rows as rows_of
from emplifai import agreement, simulation
from emplifai.panel import Panel, panels
from emplifai.records import Dialogue, Question, Turn
from emplifai.statistics import correlation
from emplifai.study import power
from rating_study import emplifai, make, plain


@pytest.fixture(scope="module")
def folder(tmp_path_factory) -> Path:
    return make(tmp_path_factory.mktemp("rating"))


def test_simulated_raters_are_marked_for_good(folder, tmp_path):
    done = emplifai(folder, "simulate", "--seed", "3", "--to", tmp_path / "s.csv")
    assert "SIMULATED" in done.stderr
    rows = rows_of(tmp_path / "s.csv")
    assert rows and all(r["simulated"] == "true" and r["rater_id"].startswith("simulated-") for r in rows)
    text = (tmp_path / "s.csv").read_text()
    (tmp_path / "stripped.csv").write_text("\n".join(line.rsplit(",", 1)[0] for line in text.splitlines()))
    emplifai(folder, "import", tmp_path / "stripped.csv", "--to", tmp_path / "t.csv")
    assert (tmp_path / "t.csv").read_text() == text
    emplifai(folder, "simulate", "--seed", "3", "--to", tmp_path / "again.csv")
    assert (tmp_path / "again.csv").read_text() == text


def test_simulated_raters_do_not_join_people(folder):
    people = folder / "data/ratings/people.csv"
    people.write_text(plain(folder, [("r1", "fluency", "3")]))
    done = emplifai(folder, "simulate", ok=False)
    people.unlink()
    assert done.returncode == 2 and "people.csv" in done.stderr


def test_power_agrees_with_what_is_known():
    """Alpha is the expected one; the spread of Spearman is near Fisher's z with Bonett and Wright's standard error."""
    share = power.quality_share(0.5, 1)
    alphas, correlations = power.simulate(150, 4, share, 0.7, 1500, 1)
    assert np.mean(alphas) == pytest.approx(0.5, abs=0.01)
    rho = np.median(correlations)
    error = np.sqrt((1 + rho**2 / 2) / (150 - 3))
    low, high = np.tanh(np.arctanh(rho) + np.array([-1.96, 1.96]) * error)
    assert np.quantile(correlations, [0.025, 0.975]) == pytest.approx([low, high], abs=0.03)
    assert power._spearman(np.array([[1.0, 2, 2, 4]]), np.array([[1.0, 3, 2, 4]]))[0] == pytest.approx(0.9486833)


def test_power_command(folder):
    done = emplifai(folder, "power", "--items", "20", "80", "--raters", "4", "--studies", "300")
    narrow = [line.split() for line in done.stdout.splitlines()[1:3]]
    assert [row[0] for row in narrow] == ["20", "80"] and float(narrow[1][6]) < float(narrow[0][6])
    assert "--raters: at least 2" in emplifai(folder, "power", "--raters", "1", ok=False).stderr


@pytest.mark.slow
def test_correlate_recovers_what_the_simulation_planted_at_the_nominal_rate():
    """A judge who measures the likeness that the simulation plants: the intervals of correlate hold its true Spearman."""
    pool = [likeness_question(k) for k in range(3000)]
    judge = {q.dialogue.dialogue_id: simulation._dice(q.text, q.dialogue.reference) for q in pool}
    whole = [spearman_of(simulated_panel(pool, judge, 3000, seed)) for seed in range(5)]
    truth = np.mean(whole)
    assert truth == pytest.approx(0.55, abs=0.05)  # 0.6 planted, less what raters' noise and the scale take
    covered = []
    for seed in range(120):
        settings = agreement.Settings(scale=(1, 5), cluster="dialogue_id", resamples=400, seed=seed)
        rows = agreement.judge_rows(simulated_panel(pool, judge, 80, seed + 100), "likeness", settings, models=False)
        row = next(r for r in rows if r["level"] == "pooled" and r["statistic"] == "spearman")
        covered.append(row["ci_low"] <= truth <= row["ci_high"])
    assert 0.90 <= np.mean(covered) <= 1  # 0.95 less two and a half standard errors


def likeness_question(k: int) -> Question:
    """A reply that shares some of its letters with the person's reply."""
    chance = random.Random(k)
    reference = "".join(chance.choices("あいうえおかきくけこ", k=30))
    cut = chance.randint(0, 30)
    text = reference[:cut] + "".join(chance.choices("さしすせそたちつてと", k=30 - cut))
    return Question(Dialogue(f"d{k}", f"s{k}", "joy", None, "", [Turn("patient", "p"), Turn("supporter", reference)]), "m", text)


def simulated_panel(pool: list[Question], judge: dict[str, float], items: int, seed: int) -> Panel:
    made = pd.DataFrame([asdict(r) for r in simulation.simulate(pool, 5, items, ["empathy"], (1, 5), seed)])
    rated = made[["dialogue_id", "model", "criterion"]].drop_duplicates()
    scores = rated.assign(judge="likeness", score=[judge[d] for d in rated["dialogue_id"]])
    attributes = rated[["dialogue_id", "model"]].set_index(["dialogue_id", "model"], drop=False)[[]]
    (panel,) = panels(made, scores, "dialogue_id", {"likeness"}, attributes)
    return panel


def spearman_of(panel: Panel) -> float:
    return correlation.spearman(panel.judges["likeness"], panel.human).estimate()
