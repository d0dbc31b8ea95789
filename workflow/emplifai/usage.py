"""What a running job has used so far: memory and GPU. It stands in the lock of the job, for `emplifai status` and the tracking.

Written when a stage begins and with each line of its progress. What is not known is left out.
"""

import os
import platform
import re
import resource
import sys
from collections.abc import Iterator
from contextlib import suppress
from pathlib import Path
from typing import Any

#: Where SLURM or the user says which GPUs are the job's; indices on its node.
GPUS = ("SLURM_STEP_GPUS", "SLURM_JOB_GPUS", "CUDA_VISIBLE_DEVICES")


def now(first: int) -> dict[str, Any]:
    """first: the job's first process. memory: bytes, the sum of the peaks of it and of the processes that it began."""
    gpus = next((os.environ[name] for name in GPUS if os.environ.get(name)), "")
    if gpus.startswith("-"):  # how a user hides them all
        gpus = ""
    used = {"gpus": gpus, "gpu": _gpu(), "memory": sum(map(_peak, _family(first))) or None}
    return {name: value for name, value in used.items() if value}


def words(used: dict[str, Any]) -> str:
    """In words: "GPU 0 (NVIDIA H100), 1.2 GB"; "" where nothing is known."""
    gpu = " ".join(filter(None, (used.get("gpus"), used.get("gpu") and f"({used['gpu']})")))
    memory = f"{used['memory'] / 1e9:.1f} GB" if used.get("memory") else ""
    return ", ".join(filter(None, (gpu and f"GPU {gpu}", memory)))


def _gpu() -> str | None:
    """The name of this process's GPU, once it computes on one."""
    torch = sys.modules.get("torch")
    return torch.cuda.get_device_name() if torch and torch.cuda.is_initialized() else None


def _family(first: int) -> Iterator[int]:
    yield first
    for file in Path(f"/proc/{first}/task").glob("*/children"):
        with suppress(OSError):  # a thread that has ended
            for child in file.read_text().split():
                yield from _family(int(child))


def _peak(process: int) -> int:
    """Bytes; 0 where the kernel does not tell, or the process has ended."""
    try:
        found = re.search(r"^VmHWM:\s+(\d+) kB", Path(f"/proc/{process}/status").read_text(), re.M)
    except OSError:
        own = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss if process == os.getpid() else 0
        return own if platform.system() == "Darwin" else 1024 * own
    return 1024 * int(found[1]) if found else 0
