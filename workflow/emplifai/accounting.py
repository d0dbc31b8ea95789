"""What SLURM itself kept of jobs that have ended, where the cluster has accounting (slurmdbd): state, time and memory."""

import os
import re
import subprocess
from collections.abc import Iterable
from dataclasses import dataclass
from pathlib import Path

FIELDS = ("JobIDRaw", "State", "ElapsedRaw", "MaxRSS", "WorkDir")
UNITS = {"": 1, "K": 2**10, "M": 2**20, "G": 2**30, "T": 2**40}
RUNNING = ("RUNNING", "PENDING", "REQUEUED", "SUSPENDED")


@dataclass
class Ended:
    """A job that has ended."""

    state: str  # COMPLETED, FAILED, TIMEOUT, OUT_OF_MEMORY, CANCELLED by 1000, ...
    seconds: int
    memory: int | None = None  # bytes, the highest of a step's tasks; None where SLURM did not measure it


def ended(jobs: Iterable[str]) -> dict[str, Ended]:
    """Jobs of this folder by their id. Nothing without sacct or accounting; another cluster's job of the same number is none."""
    command = ["sacct", "--noheader", "--parsable2", "--noconvert", f"--format={','.join(FIELDS)}", f"--jobs={','.join(jobs)}"]
    try:
        asked = subprocess.run(command, capture_output=True, text=True, timeout=30, env={**os.environ, "LC_ALL": "C"})
    except (OSError, subprocess.TimeoutExpired):
        return {}
    rows = [row for line in asked.stdout.splitlines() if len(row := line.split("|", len(FIELDS) - 1)) == len(FIELDS)]
    found = {
        job: Ended(state, int(seconds))
        for job, state, seconds, _, folder in rows
        if "." not in job and not state.startswith(RUNNING) and Path(folder) == Path.cwd()
    }
    for step, _, _, size, _ in rows:
        if (job := found.get(step.partition(".")[0])) and (number := re.fullmatch(r"([\d.]+)([KMGT]?)", size)):
            job.memory = max(job.memory or 0, round(float(number[1]) * UNITS[number[2]]))
    return found
