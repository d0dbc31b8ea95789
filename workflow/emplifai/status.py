"""Where a run stands: each stage and model or judge, what runs where, what failed and why, what the same command would do."""

import re
import subprocess
import time
from collections.abc import Iterator
from dataclasses import dataclass
from datetime import datetime
from pathlib import Path

from emplifai import STAGES, locks, usage
from emplifai.errors import UserError
from emplifai.params import Params
from emplifai.paths import Paths

FAULT = re.compile(r"^(error: |\w*(Error|Exception)\b|slurmstepd: error|.*\boom[-_ ]kill|.*\bKilled\b|.*CANCELLED AT)")
LONGEST = 110  # characters of a line that is quoted


@dataclass
class Part:
    """A stage's work for one model or judge ("" where a stage has no parts)."""

    stage: str
    name: str
    state: str = "done"  # done | running | queued | failed | stopped | waiting
    note: str = ""


@dataclass
class Job:
    """A SLURM job of this project."""

    id: str
    state: str  # RUNNING, PENDING, ...
    since: str
    reason: str
    node: str


def run(params: Params, paths: Paths) -> None:
    """Print the table, then what a run would do. Starts nothing, writes nothing."""
    plan, jobs = planned(), submitted()
    rows = [part(paths, stage, name, plan, jobs) for stage, name in parts(params)]
    width = max(len(r.name) for r in rows)
    print(f"{'stage':<10} {'model or judge':<{max(width, 14)}} {'state':<8} since, or why")
    for r in rows:
        print(f"{r.stage:<10} {r.name or '-':<{max(width, 14)}} {r.state:<8} {r.note}".rstrip())
    print(f"\n{summary(rows)}")


def parts(params: Params) -> Iterator[tuple[str, str]]:
    """Stages in order, each with its parts."""
    names = {"finetune": params.tuned, "generate": list(params.models), "judge": list(params.judges)}
    return ((stage, name) for stage in STAGES for name in names.get(stage, [""]))


def part(paths: Paths, stage: str, name: str, plan: dict[tuple[str, str], str], jobs: dict[tuple[str, str], Job]) -> Part:
    found, job = Part(stage, name), jobs.get((stage, name))
    held = next(filter(None, map(locks.holder, locks.files(paths, stage, name))), None)
    if held is not None:
        found.state, found.note = "running", _where(held, job)
    elif job and job.state != "PENDING":
        found.state, found.note = "running", f"since {job.since}, SLURM job {job.id} on {job.node}"
    elif job:
        found.state, found.note = "queued", f"SLURM job {job.id}, since {job.since} ({job.reason})"
    elif (stage, name) in plan:
        found.state, found.note = "waiting", plan[stage, name]
        if not paths.record(stage, name).exists():
            _failure(found, paths, name)
    else:
        found.note = f"since {_clock(paths.record(stage, name).stat().st_mtime)}" if paths.record(stage, name).exists() else ""
    return found


def planned() -> dict[tuple[str, str], str]:
    """What Snakemake would run now, and why: {(stage, name): reason}. Raises UserError with what it says if it cannot plan."""
    command = ["snakemake", "--profile", "none", "--dry-run", "--cores", "1", "--nolock", "--", "all"]
    try:
        done = subprocess.run(command, capture_output=True, text=True)
    except FileNotFoundError:
        raise UserError("snakemake: not found; activate the environment: . .venv/bin/activate") from None
    if done.returncode:
        raise UserError(f"snakemake cannot plan: {' '.join((done.stderr + done.stdout).split())[-600:]}")
    text = done.stdout + done.stderr
    found = {}
    for block in re.findall(r"^(?:local)?rule (\w+):\n((?:    .*\n)*)", text, re.M):
        rule, body = block
        reason = re.search(r"^    reason: (.*)$", body, re.M)
        name = re.search(r"^    wildcards: (?:model|judge)=([^\s,]+)", body, re.M)
        stage = re.sub("_(here|shard)$", "", rule)
        if stage in STAGES:
            found[stage, name[1] if name else ""] = _short(reason[1] if reason else "")
    return found


def submitted() -> dict[tuple[str, str], Job]:
    """This project's SLURM jobs by (stage, name); the plugin writes rule and wildcards into the comment."""
    try:
        ask = ["squeue", "--me", "--noheader", "--format=%i|%T|%k|%S|%V|%r|%N|%Z"]
        lines = subprocess.run(ask, capture_output=True, text=True, timeout=30).stdout.splitlines()
    except (OSError, subprocess.TimeoutExpired):
        return {}
    found = {}
    for row in (line.split("|", 7) for line in lines):
        comment = re.fullmatch(r"rule_([a-z]+)(_shard)?(?:_wildcards_(.*))?", row[2]) if len(row) == 8 else None
        if comment and Path(row[7]).resolve() == Path.cwd():
            began = row[3] if row[1] != "PENDING" else row[4]
            name = comment[3] or ""
            name = re.sub(r"_?\d+_\d+$", "", name) if comment[2] else name
            found[comment[1], name] = Job(row[0], row[1], began.replace("T", " "), row[5], row[6])
    return found


def summary(rows: list[Part]) -> str:
    """What the same command would do."""
    open_ = [r for r in rows if r.state not in ("done", "running", "queued")]
    busy = [r for r in rows if r.state in ("running", "queued")]
    if busy:
        log = Paths().log(busy[0].stage, busy[0].name)
        return f"{len(busy)} running or queued, {len(open_)} to come. Progress: tail -f {log}"
    if not open_:
        return "All done: neither snakemake nor dvc repro would run anything."
    return f"A run would do {len(open_)} of {len(rows)} parts; what is done and cached is kept."


def _failure(found: Part, paths: Paths, name: str) -> None:
    """A log without its result: the job ended before its end. Its last words, and where they stand."""
    log, lines = paths.log(found.stage, name), _last_words(paths, found.stage, name)
    if not log.exists() and not lines:
        return
    faults = [line for line in lines if FAULT.match(line[0])]
    text, path = (faults or lines or [("nothing was logged", log)])[-1]
    found.state = "failed" if faults else "stopped"
    found.note = f"{_short(text)} ({path})"


def failure(paths: Paths, stage: str, name: str) -> tuple[str, Path] | None:
    """The last fault that the logs of a job tell, and the log; None for one that failed in no way known, or still runs."""
    if any(map(locks.holder, locks.files(paths, stage, name))):
        return None
    faults = [line for line in _last_words(paths, stage, name) if FAULT.match(line[0])]
    return faults[-1] if faults else None


def _last_words(paths: Paths, stage: str, name: str) -> list[tuple[str, Path]]:
    """Last lines of a job's logs, its own after SLURM's, each with its file."""
    slurm = max(Path(".snakemake/slurm_logs").glob(f"rule_{stage}/{name or '.'}/*.log"), key=_time, default=None)
    logs = [path for path in filter(None, (slurm, paths.log(stage, name))) if path.exists()]
    return [(text, path) for path in logs for text in _lines(path)]


def _lines(path: Path) -> list[str]:
    """The last lines of a log; of a progress line only what it came to."""
    with open(path, "rb") as file:
        file.seek(max(0, path.stat().st_size - 8000))
        text = file.read().decode("utf-8", "replace")
    return [line for raw in text.splitlines() if (line := raw.split("\r")[-1].replace("\x1b[K", "").strip())]


def _where(held: dict, job: Job | None) -> str:
    number = held.get("job") or (job and job.id)
    since = f"since {_clock(held['since'])}" if held.get("since") else ""
    place = f"{f'SLURM job {number}' if number else 'process ' + str(held.get('pid'))} on {held.get('host')}"
    return ", ".join(filter(None, (since, place, usage.words(held))))


def _time(path: Path) -> float:
    return path.stat().st_mtime


def _clock(seconds: float) -> str:
    day = datetime.fromtimestamp(seconds)
    return day.strftime("%H:%M" if time.time() - seconds < 80000 else "%Y-%m-%d %H:%M")


def _short(text: str) -> str:
    return text if len(text) <= LONGEST else f"{text[: LONGEST - 3]}..."
