"""The state of results/ for the journal: every run.json with its numbers, curves, data and small files."""

import hashlib
import json
import math
from collections.abc import Iterator
from pathlib import Path
from typing import Any

from emplifai import STAGES, accounting, traces
from emplifai.journal import Job, Metric, Pipeline, file, keep, keep_text, put
from emplifai.params import Params
from emplifai.paths import Paths
from emplifai.records import Dialogue, Reply, digest, dumps, file_sha256, read_json, read_jsonl, sha256

LARGEST = 20_000_000  # bytes of a file that is kept


def take(params: Params, paths: Paths) -> Pipeline | None:
    """Snapshot results/ into the journal; None where there is no result yet. Changes nothing in results/."""
    jobs = [job(params, paths, path) for stage in STAGES for path in sorted(paths.stage(stage).glob("**/run.json"))]
    jobs += failed(params, paths)
    if not jobs:
        return None
    account(jobs)
    values = params.model_dump(mode="json", by_alias=True)
    commits = sorted({j.tags.get("git_commit", "none") for j in jobs} - {"none"})
    tags = {
        "git_commit": ", ".join(commits) or "none",
        "git_dirty": str(any(j.tags.get("git_dirty") == "true" for j in jobs)).lower(),
        "params_sha256": digest(values),
        "profile": "slurm" if any("slurm_job_id" in j.tags for j in jobs) else "local",
    }
    name = params.tracking.name or f"{(commits[-1] if commits else 'no commit')[:8]} {tags['params_sha256'][:8]}"
    pipeline = Pipeline(digest(sorted(j.key for j in jobs)), name, tags, flat(values), jobs)
    judges = [j for j in jobs if j.stage == "judge" and j.name in params.judges and j.status == "FINISHED"]
    pipeline.traces = {j.key: traces_of(params, paths, j) for j in judges}
    put(paths, pipeline)
    return pipeline


def account(jobs: list[Job]) -> None:
    """Add what SLURM kept of each job, where it keeps any."""
    numbers = {job.tags["slurm_job_id"] for job in jobs if "slurm_job_id" in job.tags}
    kept = accounting.ended(sorted(numbers)) if numbers else {}
    for job in jobs:
        if found := kept.get(job.tags.get("slurm_job_id", "")):
            job.tags["slurm_state"] = found.state
            known = {"elapsed_seconds": found.seconds, "max_rss_bytes": found.memory}
            measured = {name: value for name, value in known.items() if value is not None}
            job.metrics += [(f"system/slurm_{name}", float(value), 0, job.end) for name, value in measured.items()]


def traces_of(params: Params, paths: Paths, job: Job) -> list:
    """Keep a judge's traces as a file: its digest, how many there are, how many are left out."""
    numbers = {name: value for name, value, _, _ in job.metrics}
    judgements = numbers.get("system/judgements")
    mean = numbers["system/seconds"] / judgements if judgements else None
    found, left_out = traces.collect(params, paths, job.name, job.key, mean)
    return [keep_text(paths, dumps(found)), len(found), left_out]


def job(params: Params, paths: Paths, record: Path) -> Job:
    """One run.json with what lies beside it."""
    run = read_json(record)
    stage, name = run["stage"], run.get("name") or ""
    start = int(1000 * run["started"])
    end = start + int(1000 * run["seconds"])
    git = run.get("git") or {}
    tags = {
        "stage": stage,
        "git_commit": str(git.get("commit") or "none"),
        "git_dirty": str(git.get("dirty")).lower(),
        "params_sha256": run.get("params_sha256", ""),
        "inputs_sha256": digest(run.get("inputs", {})),
    }
    tags |= {k: str(run[k]) for k in ("host", "device", "python", "emplifai") if run.get(k)}
    tags |= {k: str(v) for k, v in run.items() if k.startswith("slurm_")}
    tags["packages"] = ", ".join(f"{name} {version}" for name, version in sorted(run.get("packages", {}).items()))
    if name:
        tags["judge" if stage == "judge" else "model"] = name
    system = params.section("judges" if stage == "judge" else "models").get(name) or {}
    values = flat(run["params"]) | flat(system, "model.")
    found = Job(sha256(record.read_bytes()), stage, name, start, end, values, tags)
    found.metrics = [*numbers(run, record, end), *curve(paths, found), *pace(run, start)]
    found.data = list(data(paths, run))
    small = [(where, path) for where, path in artifacts(params, paths, stage, name) if path.stat().st_size < LARGEST]
    found.files = [keep(paths, where, path) for where, path in small]
    found.files.append(keep(paths, "run.json", record))
    if stage == "finetune":
        found.adapter = [keep(paths, path.name, path) for path in sorted(paths.adapter(name).glob("[!.]*"))]
    return found


def failed(params: Params, paths: Paths) -> Iterator[Job]:
    """Jobs that ended before their end: no result, and a log whose last words are an error."""
    from emplifai import status

    for stage, name in status.parts(params):
        if paths.record(stage, name).exists() or not (fault := status.failure(paths, stage, name)):
            continue
        text, path = fault
        end = int(1000 * path.stat().st_mtime)
        found = Job(sha256(f"{stage} {name} {end} ".encode() + path.read_bytes()), stage, name, end, end, {}, {"stage": stage})
        found.tags["error"], found.status = text, "FAILED"
        found.tags |= {"slurm_job_id": path.stem} if "slurm_logs" in path.parts else {}
        found.files = [keep(paths, "log.txt", path)] if path.stat().st_size < LARGEST else []
        yield found


def numbers(run: dict[str, Any], record: Path, at: int) -> Iterator[Metric]:
    """metrics.json beside a run.json, and the run's own numbers (seconds, memory, tokens), which MLflow shows apart."""
    path = record.with_name("metrics.json")
    found = flat_numbers(read_json(path)) if path.exists() else {}
    found |= {f"system/{k}": v for k, v in flat_numbers(run).items() if not k.startswith(("params.", "started", "git."))}
    yield from ((name, value, 0, at) for name, value in found.items())


def curve(paths: Paths, job: Job) -> Iterator[Metric]:
    """The training history of a finetune job, a point a step."""
    path = paths.history(job.name)
    if job.stage != "finetune" or not path.exists():
        return
    rows = [json.loads(line) for line in path.read_text("utf-8").splitlines()]
    last = max((row.get("step", 0) for row in rows), default=0) or 1
    for row in rows:
        step = int(row.get("step", 0))
        at = job.start + (job.end - job.start) * step // last
        yield from ((f"training/{k}", v, step, at) for k, v in flat_numbers(row).items() if k != "step")


def pace(run: dict[str, Any], start: int) -> Iterator[Metric]:
    """Rate and memory of training over time, as far as its run.json holds them."""
    rows = run.get("pace", [])
    for before, row in zip([None, *rows], rows, strict=False):
        at = start + int(1000 * row["seconds"])
        yield "system/memory_megabytes", row["memory_bytes"] / 1e6, row["step"], at
        if before and row["seconds"] > before["seconds"]:
            rate = (row["tokens"] - before["tokens"]) / (row["seconds"] - before["seconds"])
            yield "system/tokens_per_second", rate, row["step"], at


def data(paths: Paths, run: dict[str, Any]) -> Iterator[dict[str, str]]:
    """The parts of the data that a job read: SHA-256, and where the file is still that one its rows and DVC's hash."""
    for part in ("train", "dev", "test"):
        source = paths.part(part)
        if str(source) in run.get("inputs", {}):
            key = run["inputs"][str(source)]
            profile = {"sha256": key} | (_profile(source) if source.exists() and file_sha256(source) == key else {})
            yield {"name": part, "digest": key[:36], "context": part, "source": str(source), "profile": dumps(profile)}


def _profile(path: Path) -> dict[str, Any]:
    text = path.read_bytes()
    return {"num_rows": text.count(b"\n"), "dvc_md5": hashlib.md5(text, usedforsecurity=False).hexdigest()}


def artifacts(params: Params, paths: Paths, stage: str, name: str) -> Iterator[tuple[str, Path]]:
    """Small files worth opening from a run: where they go, and where they lie."""
    if stage == "report":
        yield "index.html", paths.page
        yield from ((f"figures/{path.name}", path) for path in sorted(paths.figures.glob("*")))
    if stage in ("correlate", "bertscore"):
        yield from ((path.name, path) for path in sorted(paths.stage(stage).glob("*.csv")))
    if stage == "generate" and paths.part("test").exists() and paths.replies(name).exists():
        yield "samples.json", samples(paths, name)
    if stage == "finetune":
        readme = paths.adapter(name) / "README.md"
        yield from [("README.md", readme)] if readme.exists() else []


def samples(paths: Paths, model: str, most: int = 100) -> Path:
    """A table that MLflow shows: situation, patient, reference and what the model answered."""
    test = {d.dialogue_id: d for d in read_jsonl(paths.part("test"), Dialogue)}
    replies = [r for r in read_jsonl(paths.replies(model), Reply) if r.sample == 0 and r.dialogue_id in test]
    replies = sorted(replies, key=lambda r: sha256(r.dialogue_id))[:most]
    columns = ["dialogue_id", "emotion", "situation", "patient", "reference", "reply"]
    dialogues = [(r, test[r.dialogue_id]) for r in replies]
    rows = [[d.dialogue_id, d.emotion, d.situation, d.patient, d.reference, r.text] for r, d in dialogues]
    return file(paths, keep_text(paths, dumps({"columns": columns, "data": rows})))


def flat(values: Any, before: str = "") -> dict[str, str]:
    """Nested settings as texts under dotted names."""
    out: dict[str, str] = {}
    for key, value in values.items():
        if isinstance(value, dict):
            out |= flat(value, f"{before}{key}.")
        elif value is not None:
            out[f"{before}{key}"] = value if isinstance(value, str) else json.dumps(value, ensure_ascii=False)
    return out


def flat_numbers(values: dict[str, Any], before: str = "") -> dict[str, float]:
    """Finite numbers of a nested dictionary under dotted names."""
    out: dict[str, float] = {}
    for key, value in values.items():
        if isinstance(value, dict):
            out |= flat_numbers(value, f"{before}{key}.")
        elif isinstance(value, int | float) and math.isfinite(value):
            out[f"{before}{key}"] = float(value)
    return out
