"""The only place that knows where a file lies. Rules and stages both ask here."""

import ast
import re
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from emplifai import STAGES

_PROMPTS = Path("workflow/emplifai/prompts")


@dataclass(frozen=True)
class Paths:
    """Every file of a run. `folders` puts a stage's folder elsewhere (`emplifai STAGE --out DIR`)."""

    results: Path = Path("results")
    logs: Path = Path("logs")
    cache: Path = Path(".cache")
    folders: dict[str, Path] = field(default_factory=dict)

    def stage(self, stage: str) -> Path:
        assert stage in STAGES, stage
        return self.folders.get(stage, self.results / stage)

    def code(self, stage: str) -> list[Path]:
        """The stage's module and all of ours that it imports, but for the contracts: a change in them reruns it."""
        found: set[str] = set()
        todo = [stage]
        while todo:
            module = todo.pop()
            if module not in found and _source(module).is_file():
                found.add(module)
                todo += _imports(_source(module))
        return sorted(_source(module) for module in found)

    def talk(self, prompt: str) -> Path:
        """The wording of that name (data.prompt)."""
        return _PROMPTS / f"talk-{prompt}.yaml"

    @property
    def wordings(self) -> list[Path]:
        """Every wording there is: which of them a judge reads follows from several settings."""
        return sorted(_PROMPTS.glob("*.yaml"))

    def log(self, stage: str, name: str = "") -> Path:
        """The log of a stage, or of one model's or judge's part of it."""
        return self.logs / stage / f"{name or stage}.log"

    def metrics(self, stage: str, name: str = "") -> Path:
        """metrics.json of a stage, or of one model's or judge's part of it."""
        return self.stage(stage) / name / "metrics.json"

    def record(self, stage: str, name: str = "") -> Path:
        """run.json: what made the files beside it."""
        return self.stage(stage) / name / "run.json"

    # validate
    @property
    def dialogues(self) -> Path:
        return self.stage("validate") / "dialogues.jsonl"

    @property
    def rejects(self) -> Path:
        return self.stage("validate") / "rejects.jsonl"

    @property
    def overlaps(self) -> Path:
        """Near duplicates, and texts that several situations share: kept, but told of."""
        return self.stage("validate") / "overlaps.jsonl"

    # split
    def part(self, part: str) -> Path:
        """Dialogues of a part: train, dev or test."""
        return self.stage("split") / f"{part}.jsonl"

    @property
    def manifest(self) -> Path:
        return self.stage("split") / "manifest.json"

    # finetune
    def adapter(self, model: str) -> Path:
        return self.stage("finetune") / model / "adapter"

    def history(self, model: str) -> Path:
        return self.stage("finetune") / model / "history.jsonl"

    # generate
    def replies(self, model: str, task: str = "reply") -> Path:
        """What a model wrote for a task: reply or emotion."""
        return self.stage("generate") / model / f"{task}.jsonl"

    def likelihood(self, model: str) -> Path:
        """Log-probability of each reference under a model; empty where the backend has none."""
        return self.stage("generate") / model / "likelihood.jsonl"

    def shard(self, stage: str, name: str, shard: Any) -> Path:
        """The mark that a shard of a stage's part has filled the cache."""
        return self.cache / "shards" / stage / name / str(shard)

    # bertscore
    def scores(self, model: str) -> Path:
        return self.stage("bertscore") / f"{model}.jsonl"

    def score_table(self, name: str) -> Path:
        """A table of the bertscore stage: emotions (scores by emotion) or confusion (of the emotion task)."""
        return self.stage("bertscore") / f"{name}.csv"

    # judge
    def judgements(self, judge: str, model: str) -> Path:
        return self.stage("judge") / judge / f"{model}.jsonl"

    def contrasts(self, judge: str) -> Path:
        """What a judge says of the references and of worse replies of known kinds (field model: the kind)."""
        return self.stage("judge") / judge / "contrast.jsonl"

    def pairs(self, judge: str) -> Path:
        """Which of two systems' replies a judge preferred (judge.pairwise); empty where it is not asked."""
        return self.stage("judge") / judge / "pairs.jsonl"

    def audit_table(self, judge: str) -> Path:
        """What the stage's probes of a judge found; the judgements lie beside it as audit.jsonl."""
        return self.stage("judge") / judge / "audit.csv"

    def audit(self, judge: str) -> Path:
        """What `emplifai judge audit` found: not a stage's output, made when asked for."""
        return self.results / "audit" / judge

    # correlate
    def table(self, name: str) -> Path:
        """A table of the correlate stage: items, agreement, systems, comparisons or bias."""
        return self.stage("correlate") / f"{name}.csv"

    @property
    def verdict(self) -> Path:
        """Can a judge stand in for people? In words and numbers."""
        return self.stage("correlate") / "verdict.json"

    # report
    @property
    def page(self) -> Path:
        return self.stage("report") / "index.html"

    @property
    def figures(self) -> Path:
        return self.stage("report") / "figures"

    @property
    def page_tables(self) -> Path:
        """The tables of the page as CSV files."""
        return self.stage("report") / "tables"

    @property
    def templates(self) -> list[Path]:
        """What the page is poured into: a change in it reruns the report."""
        return [Path("workflow/emplifai/templates") / f"report.{kind}" for kind in ("css", "html.jinja", "js")]


#: Modules that every stage shares: what they promise is the contract between stages, not a stage's result.
CONTRACTS = (
    "errors",
    "records",
    "params",
    "prompts",
    "yaml_file",
    "paths",
    "cache",
    "progress",
    "provenance",
    "models",
    "labels",
    "privacy",
    "locks",
    "usage",
    "shards",
)


def _source(module: str) -> Path:
    return Path("workflow/emplifai", *module.split(".")).with_suffix(".py")


_IMPORT = re.compile(r"^[ \t]*(from emplifai(?:\.[\w.]+)? import (?:\([^)]*\)|.+))", re.MULTILINE)


def _imports(source: Path) -> list[str]:
    """Our modules that a file imports, wherever in it: `emplifai.a.b` and `from emplifai.a import b` are a.b."""
    names = set()
    for line in _IMPORT.findall(source.read_text("utf-8")):  # only these lines are parsed: each start of Snakemake comes by here
        (node,) = ast.parse(line).body
        names |= {node.module, *(f"{node.module}.{alias.name}" for alias in node.names)}
    found = {name.removeprefix("emplifai.") for name in names}
    return sorted(found - {"emplifai", *CONTRACTS})


#: Kinds of files that hold dialogues.
KINDS = (".jsonl", ".ndjson", ".csv", ".tsv", ".parquet")


def data_files(path: Path) -> list[Path]:
    """The files that make up data.path: itself, or those in the folder that are of a kind that is read, but for hidden ones."""
    path = Path(path)
    if not path.is_dir():
        return [path]
    return sorted(f for f in path.iterdir() if f.suffix.lower() in KINDS and not f.name.startswith("."))


def rating_files(folder: Path) -> list[Path]:
    """The CSV files of human ratings."""
    return sorted(Path(folder).glob("*.csv"))
