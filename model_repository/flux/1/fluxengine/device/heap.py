"""The memory that glibc holds for the process, kept at what is in use.

Tensors of all sizes come and go between small things that stay, such as cached prompts. Left alone, glibc's heaps are
soon full of holes, and grow for as long as new mixtures of picture sizes are drawn.
"""

from __future__ import annotations

import ctypes
import platform

IS_GLIBC = platform.libc_ver()[0] == "glibc"
M_MMAP_THRESHOLD = -3

LARGE_BYTES = 8 << 20
"""From this size on, memory goes back to the system when it is freed. glibc would raise the limit to the largest that
was ever freed, up to 32 MiB; a lower one costs time, as each page is cleared again when it is first written to."""


def set_up_heaps() -> None:
    """To be called before anything large is allocated."""
    if IS_GLIBC:
        ctypes.CDLL(None).mallopt(M_MMAP_THRESHOLD, LARGE_BYTES)


def trim_heaps() -> None:
    """Gives unused pages back to the system. It takes tens of milliseconds, in which nobody else can allocate."""
    if IS_GLIBC:
        ctypes.CDLL(None).malloc_trim(0)
