"""The lock of the operating system on an open file, which is released when the process ends."""

from __future__ import annotations


def try_lock(handle: int) -> bool | None:
    """Whether this process got the lock of an open file or folder; None where system or file system have no locks."""
    try:
        import fcntl
    except ImportError:  # Windows
        return None
    try:
        fcntl.flock(handle, fcntl.LOCK_EX | fcntl.LOCK_NB)
    except BlockingIOError:
        return False
    except OSError:  # a network file system without locks
        return None
    return True
