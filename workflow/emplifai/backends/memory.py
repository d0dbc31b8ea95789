"""Memory of the process."""

import ctypes
import os
import sys
from pathlib import Path
from typing import Any

M_TRIM_THRESHOLD, M_MMAP_THRESHOLD = -1, -3  # malloc.h of glibc
LARGEST = 1 << 30
KERNELS = "64"  # a step of training has some 45 different products


def tune() -> None:
    """Let freed tensors stay with the process, but few of the kernels that were compiled for products of one shape.

    glibc takes each block above 128 kB from the kernel and gives it back when it is freed; touching its new pages then
    costs more than the arithmetic. Likelihoods of the embedded model took a quarter of the time with this (9.0 s to 2.2 s
    for 24 dialogues on two cores). Elsewhere than on glibc it does nothing.

    oneDNN compiles a kernel for each shape of a product in bfloat16 and keeps 1,024 of them, twice (its own cache and PyTorch's):
    20 MB for each new length of a training batch, and in between the tensors, whose freed places then fit no others. 32 steps
    came to 3.9 GB with 1,024.
    """
    for name in ("ONEDNN_PRIMITIVE_CACHE_CAPACITY", "LRU_CACHE_CAPACITY"):  # read at the first product
        os.environ.setdefault(name, KERNELS)
    if sys.platform == "linux":
        mallopt = getattr(ctypes.CDLL(None), "mallopt", None)
        if mallopt:
            mallopt(M_MMAP_THRESHOLD, LARGEST)
            mallopt(M_TRIM_THRESHOLD, 2 * LARGEST - 1)


def used(device: Any) -> int:
    """Bytes that the process holds now: on the GPU where `device` (torch.device) is one, else resident; 0 where unknown."""
    if device.type == "cuda":
        import torch

        return torch.cuda.memory_allocated(device)
    pages = Path("/proc/self/statm")
    return int(pages.read_text().split()[1]) * os.sysconf("SC_PAGE_SIZE") if pages.exists() else 0
