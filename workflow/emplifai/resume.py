"""After `kill -9` of Snakemake the same command goes on, though Snakemake (9.27) itself would refuse.

Its lock is files that outlive it, and what it was making it calls incomplete until --rerun-incomplete is given. Here every
running Snakemake also shares an flock, which ends with its process, however that ends: where nobody holds it, the lock is a
dead one's. Our files are moved into place whole, so making them again is always right.
"""

import fcntl
import os
import platform
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from pathlib import Path
from typing import Any, TextIO


def mend() -> None:
    """Mend the lock and the check of incomplete files of the Snakemake that runs this; once."""
    from snakemake.dag import DAG
    from snakemake.persistence import PersistenceBase

    if hasattr(PersistenceBase, "mended"):
        return
    PersistenceBase.mended = True
    PersistenceBase.lock = _lock(PersistenceBase.lock)
    DAG.check_incomplete = _again(DAG.check_incomplete)


def _lock(original):
    @contextmanager
    def lock(self) -> Iterator[None]:
        with open(Path(self.path, "alive"), "a+", encoding="utf-8") as held:
            with suppress(OSError):  # a file system without flock: Snakemake's own lock is all there is
                _share(held, self)
            with original(self):
                yield

    return lock


def _again(original):
    async def check_incomplete(self) -> None:
        self.workflow.dag_settings.force_incomplete = True
        await original(self)

    return check_incomplete


def _share(held: TextIO, persistence: Any) -> None:
    """Hold the flock with all that run; if we are the first, take away what a dead one left."""
    try:
        fcntl.flock(held, fcntl.LOCK_EX | fcntl.LOCK_NB)
        if persistence.locked:
            _take_away(held, persistence)
        held.truncate(0)
    except BlockingIOError:  # whether both may is for Snakemake to say
        _tell_of_another(held)
    fcntl.flock(held, fcntl.LOCK_SH)
    print(f"{platform.node()} process {os.getpid()}", file=held, flush=True)


def _tell_of_another(held: TextIO) -> None:
    from snakemake.logging import logger

    held.seek(0)
    process = "".join(held.read().splitlines()[:1])
    logger.warning(f"Another Snakemake runs here ({process or 'unknown'}): wait for it, or end it and give this command again.")


def _take_away(held: TextIO, persistence: Any) -> None:
    """Raises WorkflowError where the lock may be that of a living Snakemake on another host: not every flock reaches there."""
    from snakemake.exceptions import WorkflowError
    from snakemake.logging import logger

    held.seek(0)
    elsewhere = sorted({line.split()[0] for line in held if line.strip()} - {platform.node()})
    if elsewhere:
        raise WorkflowError(
            f"the last Snakemake here ran on {', '.join(elsewhere)} and did not end well: if it is really gone from there, "
            "`snakemake --unlock`, then the same command again"
        )
    logger.warning("The last Snakemake here was killed: its lock is taken away, and what it had not finished is done.")
    persistence.unlock()
    Path(persistence.path, "locks").mkdir(exist_ok=True)  # where its next lock is written
