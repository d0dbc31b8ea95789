"""What a run cost: seconds, memory, tokens and dollars, by stage and by job, as far as the files tell."""

from typing import Any, NamedTuple

from emplifai import STAGES
from emplifai.evidence import Evidence
from emplifai.records import Reply, read_jsonl
from emplifai.tables import Table

COLUMNS = ["seconds", "memory, GB (highest)", "tokens read", "tokens written", "USD"]


class Cost(NamedTuple):
    """None: not known. Tokens of cached answers count as those of new ones."""

    stage: str
    name: str
    seconds: float
    gigabytes: float | None
    read: int | None
    written: int | None
    dollars: float | None

    @property
    def cells(self) -> list[Any]:
        return [self.seconds, self.gigabytes, self.read, self.written, self.dollars]


def tables(run: Evidence) -> list[Table]:
    """One row a stage and a sum; then, folded, one row a job."""
    jobs = [_cost(run, record) for record in run.records]
    stages = [_sum(stage, part) for stage in STAGES if (part := [j for j in jobs if j.stage == stage])]
    places = {"seconds": 1, "memory, GB (highest)": 1, "USD": 4}
    rows = [[cost.stage, len([j for j in jobs if j.stage == cost.stage]), *cost.cells] for cost in stages]
    rows.append(["all", len(jobs), *_sum("all", jobs).cells])
    each = [[job.stage, job.name, *job.cells, r.get("device")] for job, r in zip(jobs, run.records, strict=True)]
    return [
        Table("cost", "Cost by stage", ["stage", "jobs", *COLUMNS], rows, places=places),
        Table("jobs", "Cost by job", ["stage", "model or judge", *COLUMNS, "device"], each, places=places, folded=True),
    ]


def _cost(run: Evidence, record: dict[str, Any]) -> Cost:
    stage, name = record["stage"], record.get("name") or ""
    size = max((record.get(k) or 0 for k in ("peak_memory_bytes", "peak_gpu_bytes")), default=0)
    used = _tokens(run, stage, name) if stage != "finetune" else (record.get("trained_tokens"), None, None)
    return Cost(stage, name, float(record.get("seconds") or 0), size / 1e9 if size else None, *used)


def _tokens(run: Evidence, stage: str, name: str) -> tuple[int | None, int | None, float | None]:
    if stage == "generate":
        files = [p for p in (run.paths.replies(name, task) for task in ("reply", "emotion")) if p.exists()]
        rows = [row for path in files for row in read_jsonl(path, Reply)]
        return _total(r.input_tokens for r in rows), _total(r.output_tokens for r in rows), None
    if stage == "judge" and name in run.judgements:
        rows = [row for part in run.judgements[name].values() for row in part]
        return tuple(_total(getattr(r, k) for r in rows) for k in ("input_tokens", "output_tokens", "cost_usd"))
    return None, None, None


def _sum(stage: str, jobs: list[Cost]) -> Cost:
    highest = max((j.gigabytes for j in jobs if j.gigabytes is not None), default=None)
    sums = (_total(getattr(j, k) for j in jobs) for k in ("read", "written", "dollars"))
    return Cost(stage, "", sum(j.seconds for j in jobs), highest, *sums)


def _total(values: Any) -> Any:
    """The sum of what is known; None where nothing is."""
    known = [v for v in values if v is not None]
    return sum(known) if known else None
