"""What runs now, in MLflow while it runs. One writer, `emplifai track --watch` on the login node, reads locks and logs.

A job that runs has a run of its own there, with its SLURM job, node, seconds, progress and losses. It goes when the job
ends: what the job came to is sent by `emplifai track`, the last step of the workflow.
"""

import os
import re
import sys
import time
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

from emplifai import journal, locks, track
from emplifai.params import Params
from emplifai.paths import Paths

SECONDS = 15  # between looks
PROGRESS = re.compile(r"(\d+)/(\d+) (\w+), ([\d.]+)/s[^;]*(?:; (.*))?$")
LOSSES = re.compile(r"(loss|dev) (\d+\.\d+)")
TAGS = {"slurm_job_id": "job", "gpus": "gpus", "device": "gpu"}  # and what they are called in the lock
NAMES = {"loss": "training/loss", "dev": "training/dev_loss"}  # as in the run of a finished job


@dataclass
class Work:
    """A part of a stage, or a shard of it, that a process works on."""

    title: str  # stage/name
    key: str  # of this very process
    since: float
    tags: dict[str, str]
    log: Path
    memory: int | None  # bytes, the highest so far; None where it is not known


def watch(params: Params, paths: Paths) -> None:
    """Until Ctrl-C, or the end of the process that began this: bring MLflow in line with what runs."""
    parent, told, sent = os.getppid(), False, {}
    while os.getppid() == parent:
        try:
            show(params, paths, sent)
            told = False
        except Exception as error:  # a tracking server must never cost a result, nor end the watch
            if not told:
                print(f"warning: not shown: {track.reason(error)}", file=sys.stderr)
            told = True
        for _ in range(SECONDS):
            if os.getppid() == parent:
                time.sleep(1)


def show(params: Params, paths: Paths, sent: dict[str, int]) -> None:
    """One look. sent: the last step of each run that MLflow has; filled here."""
    from emplifai.mlflow_connection import KEY, KIND, Connection, alone

    works = {work.key: work for work in running(paths)}
    with alone(params.tracking, paths):
        at = Connection(params.tracking, paths, texts=False)
        there = tidy(at, set(works))
        for key, work in works.items():
            if key not in there:
                tags = {KEY: key, KIND: "live", "mlflow.source.name": "emplifai", **work.tags}
                there[key] = at.client.create_run(
                    at.experiment, int(1000 * work.since), tags, f"running: {work.title}"
                ).info.run_id
            at.log(there[key], {}, work.tags, list(points(work, sent)))


def tidy(at, running_keys: set[str]) -> dict[str, str]:
    """Remove the runs of processes that have ended; return those left: {key: run id}."""
    from emplifai.mlflow_connection import KEY

    there = {run.data.tags[KEY]: run.info.run_id for run in at.runs("live") if run.info.lifecycle_stage == "active"}
    for key in set(there) - running_keys:
        at.client.set_terminated(there[key], "KILLED")
        at.client.delete_run(there.pop(key))
    return there


def running(paths: Paths) -> Iterator[Work]:
    """From the locks: who works on what, on whichever node."""
    for path in sorted((paths.cache / "locks").glob("*.lock")):
        if not (held := locks.holder(path)):
            continue
        stage, _, name = path.stem.partition("-")
        tags = {"stage": stage, "host": str(held.get("host")), "pid": str(held.get("pid"))}
        tags |= {tag: str(held[key]) for tag, key in TAGS.items() if held.get(key)}
        tags |= {"judge" if stage == "judge" else "model": name} if name else {}
        log = next(
            (p for p in (paths.log(stage, name), paths.log(stage, f"{stage}.{name}")) if p.exists()), paths.log(stage, name)
        )
        since = float(held.get("since") or 0)
        key = f"{path.stem} {[held.get(k) for k in ('host', 'pid', 'since')]}"
        yield Work("/".join(filter(None, (stage, name))), key, since, tags, log, held.get("memory"))


def points(work: Work, sent: dict[str, int]) -> Iterator[journal.Metric]:
    """Seconds so far, and what the log says of progress and losses since the last look."""
    now = int(1000 * time.time())
    yield "system/seconds", time.time() - work.since, 0, now
    if work.memory:
        yield "system/peak_memory_bytes", float(work.memory), 0, now
    text = work.log.read_text("utf-8", "replace") if work.log.exists() else ""
    for line in re.split(r"[\r\n]", text):
        if (found := PROGRESS.search(line)) and int(found[1]) > sent.get(work.key, -1):
            sent[work.key] = step = int(found[1])
            yield "progress", step / max(1, int(found[2])), step, now
            yield f"{found[3]}_per_second", float(found[4]), step, now
            yield from ((NAMES[name], float(value), step, now) for name, value in LOSSES.findall(found[5] or ""))
