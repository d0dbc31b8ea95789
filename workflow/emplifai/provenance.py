"""run.json: what made the files beside it, so that a result can be traced and made again."""

import os
import platform
import resource
import subprocess
import sys
import time
from collections.abc import Iterable, Iterator
from contextlib import contextmanager
from importlib import metadata
from pathlib import Path
from typing import Any

from emplifai import __version__
from emplifai.records import digest, file_sha256, write_json

PACKAGES = ("torch", "transformers", "peft", "bert-score", "datasketch", "scipy", "scikit-learn", "pandas", "numpy")
SLURM = ("SLURM_JOB_ID", "SLURM_JOB_NODELIST", "SLURM_JOB_PARTITION", "SLURM_STEP_GPUS")


@contextmanager
def record(path: Path, stage: str, params: dict[str, Any], inputs: Iterable[Path], name: str = "") -> Iterator[dict]:
    """Write run.json when the block ends well. The block may add to the yielded dict (device, counts, memory)."""
    extra: dict[str, Any] = {}
    started = time.time()
    yield extra
    job = {k.lower(): os.environ[k] for k in SLURM if k in os.environ}
    write_json(
        path,
        {
            "stage": stage,
            "name": name,
            "params": params,
            "params_sha256": digest(params),
            "inputs": {str(p): file_sha256(p) for p in sorted(map(Path, inputs)) if p.is_file()},
            "git": _git(),
            "emplifai": __version__,
            "python": platform.python_version(),
            "packages": {p: _version(p) for p in PACKAGES if _version(p)},
            "command": [Path(sys.argv[0]).name, *sys.argv[1:]],
            "host": platform.node(),
            "started": started,
            "seconds": round(time.time() - started, 3),
            "peak_memory_bytes": 1024 * resource.getrusage(resource.RUSAGE_SELF).ru_maxrss,
            **job,
            **extra,
        },
    )


def _version(package: str) -> str | None:
    try:
        return metadata.version(package)
    except metadata.PackageNotFoundError:
        return None


def _git() -> dict[str, Any]:
    def git(*args: str) -> str:
        return subprocess.run(["git", *args], capture_output=True, text=True, timeout=10, check=True).stdout.strip()

    try:
        return {"commit": git("rev-parse", "HEAD"), "dirty": bool(git("status", "--porcelain", "--untracked-files=no"))}
    except (OSError, subprocess.SubprocessError):
        return {"commit": None, "dirty": None}
