"""How large a file may become when it is decoded: a few kilobytes can hold gigabytes of one value.

The size is known from the header, before anything is decompressed. A reader calls `check_pixels` or `check_bytes` there
and gets one line in place of a machine that swaps or a process that the system ends.
"""

from __future__ import annotations

import math
import os
import sys
from collections.abc import Sequence
from pathlib import Path

from edgemt.io.decode_errors import Refused

PIXELS = 100_000_000  # of one picture: 10,000 x 10,000
BYTES = 8 << 30  # of one volume or sequence, in the type in which it is read
SHARE = 0.7  # of the memory that is free


def check_pixels(path: str | Path, width: int, height: int) -> None:
    """Raises ValueError, naming the file, for a picture of more than `PIXELS`."""
    if width * height > PIXELS:
        raise Refused(
            f"{path}: {width} x {height} pixels, at most {PIXELS // 10**6} million are decoded; cut or resize it"
        )


def check_bytes(path: str | Path, shape: Sequence[int], itemsize: int) -> None:
    """Raises ValueError, naming the file, where an array of `shape` does not fit the free memory, or `BYTES`.

    `itemsize`: bytes of an element as it is read; 8 where nibabel scales integers to float64.
    """
    wanted, limit = math.prod(int(n) for n in shape) * itemsize, BYTES
    free = free_memory()
    if free is not None:
        limit = min(limit, int(free * SHARE))
    if wanted > limit:
        size = " x ".join(str(n) for n in shape)
        raise Refused(
            f"{path}: decodes to {size} values, {wanted / 2**30:.1f} GiB, and {limit / 2**30:.1f} GiB may be used "
            "here; cut it into parts, or use a machine with more memory"
        )


def free_memory() -> int | None:
    """Bytes that this process may still take: of the machine, its container and its own limit. None where unknown."""
    found = [_of_machine(), _of_container(), _of_process()]
    return min((n for n in found if n is not None), default=None)


def _of_machine() -> int | None:
    kib = _field("/proc/meminfo", "MemAvailable:")
    return None if kib is None else kib << 10


def _of_container() -> int | None:
    try:
        most = Path("/sys/fs/cgroup/memory.max").read_text().strip()
        return None if most == "max" else max(int(most) - int(Path("/sys/fs/cgroup/memory.current").read_text()), 0)
    except (OSError, ValueError):
        return None


def _of_process() -> int | None:
    """What `ulimit -v` leaves."""
    if sys.platform == "win32" or os.name != "posix":
        return None
    import resource

    most = resource.getrlimit(resource.RLIMIT_AS)[0]
    used = _field("/proc/self/status", "VmSize:")
    return None if most == resource.RLIM_INFINITY or used is None else max(most - (used << 10), 0)


def _field(file: str, name: str) -> int | None:
    try:
        line = next(line for line in Path(file).read_text().splitlines() if line.startswith(name))
        return int(line.split()[1])
    except (OSError, StopIteration, ValueError, IndexError):
        return None
