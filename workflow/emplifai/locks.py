"""One process at a time works on one part of a stage, so that no two ever compute the same.

That happens on a cluster: Snakemake was killed, its jobs run on, and a new Snakemake submits them again. The second job waits
here for the first, then finds in the cache what the first has made.
"""

import contextlib
import fcntl
import json
import os
import platform
import sys
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any, TextIO

from emplifai import usage
from emplifai.paths import Paths

#: Stages whose work is dear and kept in a cache.
DEAR = ("finetune", "generate", "bertscore", "judge")
HELD = "EMPLIFAI_LOCK"  # the lock that this job holds, also for the processes that it begins


def file(paths: Paths, stage: str, name: str = "") -> Path:
    return paths.cache / "locks" / f"{stage}{f'-{name}' if name else ''}.lock"


def files(paths: Paths, stage: str, name: str = "") -> list[Path]:
    """The locks of a part and of its shards."""
    own = file(paths, stage, name)
    return [own, *own.parent.glob(f"{own.stem}{'.' if name else '-'}*of*.lock")]


@contextlib.contextmanager
def alone(paths: Paths, stage: str, name: str = "") -> Iterator[None]:
    """Hold the lock of a stage's part; first wait until no other process holds it, on this node or another.

    flock ends with its process, however that ends. A file system that has none (some Lustre mounts) costs a warning.
    """
    path = file(paths, stage, name)
    path.parent.mkdir(parents=True, exist_ok=True)
    with open(path, "a+", encoding="utf-8") as held:
        try:
            _wait(held, " ".join(filter(None, (stage, name))))
        except OSError as error:
            print(f"warning: {path}: {error.strerror}: two jobs of this part are not kept apart", file=sys.stderr)
        held.truncate(0)
        held.write(json.dumps(me()))
        held.flush()
        os.environ[HELD] = str(path.absolute())
        try:
            yield
        finally:  # closing alone would not do while a child process shares the file
            os.environ.pop(HELD, None)
            held.truncate(0)
            with contextlib.suppress(OSError):
                fcntl.flock(held, fcntl.LOCK_UN)


def note() -> None:
    """Write into the lock of this job, if it holds one, what it has used so far."""
    with contextlib.suppress(OSError, KeyError, ValueError), open(os.environ[HELD], "r+", encoding="utf-8") as held:
        known = json.loads(held.read())
        held.seek(0)
        held.write(json.dumps(known | usage.now(known["pid"])))
        held.truncate()


def holder(path: Path) -> dict[str, Any] | None:
    """Who holds a lock; None when nobody does."""
    try:
        with open(path, encoding="utf-8") as held:
            if _free(held):
                return None
            return _read(held)
    except OSError:
        return None


def me() -> dict[str, Any]:
    own = {"host": platform.node(), "pid": os.getpid(), "job": os.environ.get("SLURM_JOB_ID"), "since": round(time.time())}
    return own | usage.now(os.getpid())


def _wait(held: TextIO, what: str) -> None:
    try:
        fcntl.flock(held, fcntl.LOCK_EX | fcntl.LOCK_NB)
        return
    except BlockingIOError:
        other = _read(held)
    job = other.get("job")
    where = f"SLURM job {job}; `scancel {job}` ends it" if job else f"process {other.get('pid')} on {other.get('host')}"
    print(
        f"{what}: waiting for another that does the same ({where}); what it makes is not made again", file=sys.stderr, flush=True
    )
    fcntl.flock(held, fcntl.LOCK_EX)


def _free(held: TextIO) -> bool:
    try:
        fcntl.flock(held, fcntl.LOCK_SH | fcntl.LOCK_NB)
    except BlockingIOError:
        return False
    fcntl.flock(held, fcntl.LOCK_UN)
    return True


def _read(held: TextIO) -> dict[str, Any]:
    held.seek(0)
    try:
        return json.loads(held.read())
    except ValueError:
        return {}
