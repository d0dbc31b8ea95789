"""What the report reads: every file of a run, by dialogue and system."""

import json
from collections import defaultdict
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path
from typing import Any

from emplifai import STAGES, labels
from emplifai.params import Params
from emplifai.paths import Paths
from emplifai.records import Dialogue, Judgement, Reply, Score, read_csv, read_json, read_jsonl

ANCHORS = ("reference", "retrieval", "parrot", "shuffled")


@dataclass
class Evidence:
    """All results of one run. Dictionaries by system (model) and by dialogue id hold sample 0, the one that is scored first."""

    params: Params
    paths: Paths
    labels: dict[str, labels.Label]
    dialogues: dict[str, list[Dialogue]]  # by part: train, dev, test
    rejects: list[dict[str, Any]]
    metrics: dict[str, dict[str, Any]]  # by stage, as `NAME.METRIC` or METRIC
    records: list[dict[str, Any]]  # every run.json
    history: dict[str, list[dict[str, Any]]]  # by tuned model
    replies: dict[str, dict[str, Reply]]
    emotions: dict[str, dict[str, Reply]]
    likelihoods: dict[str, dict[str, dict[str, Any]]]
    scores: dict[str, dict[str, list[Score]]]  # by task, then by system
    judgements: dict[str, dict[str, list[Judgement]]]  # by judge, then by system
    audits: dict[str, list[dict[str, str]]]  # by judge, rows of audit.csv
    agreement: list[dict[str, str]]
    comparisons: list[dict[str, str]]
    bias: list[dict[str, str]]
    systems: list[dict[str, str]]
    items: list[dict[str, str]]
    verdict: dict[str, Any]  # of the correlate stage

    @cached_property
    def test(self) -> dict[str, Dialogue]:
        return {d.dialogue_id: d for d in self.dialogues["test"]}

    @property
    def simulated(self) -> bool:
        """Whether ratings came from simulated raters: then every place that shows them says so."""
        told = any(value for key, value in self.metrics["correlate"].items() if "simulated" in key)
        return told or any(row.get("simulated", "").lower() in ("true", "1") for row in self.items)

    def backend(self, backend: str) -> str | None:
        """The first system of a backend, such as the parrot."""
        return next((name for name, model in self.params.models.items() if model.backend == backend), None)

    def base_of(self, tuned: str) -> str | None:
        """The system that is the tuned one without its adapter."""
        model = self.params.models[tuned]
        same = ((n, m) for n, m in self.params.models.items() if m.model == model.model and m.revision == model.revision)
        return next((n for n, m in same if m.backend == model.backend and not m.adapter and m.shots == model.shots), None)


def read(params: Params, paths: Paths) -> Evidence:
    """Read everything. Raises UserError for a file that is missing or is not what it should be."""
    models = list(params.models)
    return Evidence(
        params=params,
        paths=paths,
        labels=labels.load(params.data.labels),
        dialogues={part: list(read_jsonl(paths.part(part), Dialogue)) for part in ("train", "dev", "test")},
        rejects=_rows(paths.rejects),
        metrics={stage: flat(read_json(paths.metrics(stage))) for stage in STAGES if stage != "report"},
        records=records(paths),
        history={model: _rows(paths.history(model)) for model in params.tuned},
        replies={model: _first(paths.replies(model)) for model in models},
        emotions={model: _first(paths.replies(model, "emotion")) for model in models},
        likelihoods={model: {row["dialogue_id"]: row for row in _rows(paths.likelihood(model))} for model in models},
        scores=_scores(paths, models),
        judgements={j: {m: list(read_jsonl(paths.judgements(j, m), Judgement)) for m in models} for j in params.judges},
        audits={judge: _table(paths.audit_table(judge)) for judge in params.judges},
        verdict=read_json(paths.verdict) if paths.verdict.exists() else {},
        **{name: _table(paths.table(name)) for name in ("agreement", "comparisons", "bias", "systems", "items")},
    )


def records(paths: Paths) -> list[dict[str, Any]]:
    """Every run.json of a run in the order of the stages, the report's own left out."""
    found = []
    for stage in STAGES[:-1]:
        found += [read_json(path) for path in sorted(paths.stage(stage).glob("**/run.json"))]
    return found


def flat(values: dict[str, Any], before: str = "") -> dict[str, Any]:
    """Nested dictionaries as one, keys joined by a dot."""
    out: dict[str, Any] = {}
    for key, value in values.items():
        out |= flat(value, f"{before}{key}.") if isinstance(value, dict) else {f"{before}{key}": value}
    return out


def _rows(path: Path) -> list[dict[str, Any]]:
    """Rows of a JSONL file; none where the file is not there."""
    if not path.exists():
        return []
    with open(path, encoding="utf-8") as file:
        return [json.loads(line) for line in file]


def _table(path: Path) -> list[dict[str, str]]:
    return read_csv(path.read_text("utf-8")) if path.exists() else []


def _first(path: Path) -> dict[str, Reply]:
    found: dict[str, Reply] = {}
    for reply in read_jsonl(path, Reply) if path.exists() else []:
        if reply.sample == 0:
            found[reply.dialogue_id] = reply
    return found


def _scores(paths: Paths, models: list[str]) -> dict[str, dict[str, list[Score]]]:
    scores: dict[str, dict[str, list[Score]]] = {"reply": defaultdict(list), "emotion": defaultdict(list)}
    for model in models:
        for score in read_jsonl(paths.scores(model), Score) if paths.scores(model).exists() else []:
            scores[score.task][model].append(score)
    return scores
