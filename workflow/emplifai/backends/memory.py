"""Memory of the process on CPUs."""

import ctypes
import sys

M_TRIM_THRESHOLD, M_MMAP_THRESHOLD = -1, -3  # malloc.h of glibc
LARGEST = 1 << 30


def keep_freed() -> None:
    """Let freed tensors stay with the process.

    glibc takes each block above 128 kB from the kernel and gives it back when it is freed; touching its new pages then
    costs more than the arithmetic. Likelihoods of the embedded model took a quarter of the time with this (9.0 s to 2.2 s
    for 24 dialogues on two cores). Elsewhere than on glibc it does nothing.
    """
    if sys.platform == "linux":
        mallopt = getattr(ctypes.CDLL(None), "mallopt", None)
        if mallopt:
            mallopt(M_MMAP_THRESHOLD, LARGEST)
            mallopt(M_TRIM_THRESHOLD, 2 * LARGEST - 1)
