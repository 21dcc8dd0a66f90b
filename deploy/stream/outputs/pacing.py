"""Measures how fast a reader reads, so that no message grows too old in the buffers of the operating system.

Linux reports to a sender how many bytes the reading program has not read yet: for a pipe, for a Unix socket, and for a
TCP connection whose other end is in the same network namespace. For a TCP connection to another machine, and on other
operating systems, only the bytes that the other system has not acknowledged are known, not those that its program has
not read.
"""

from __future__ import annotations

import contextlib
import errno
import ipaddress
import os
import select
import socket
import stat
import struct
import sys
from collections import deque

UNKNOWN = "how quickly this reader reads is not known yet"
SLOW = "this reader reads too slowly for the budget"
TOO_OLD = "mask too old"
_WINDOW = 5  # latest messages of each kind that are considered
_MIN_MESSAGES = 3  # before the speed of a reader is known
_OUTQ, _OUTQ_NOT_SENT, _FIONREAD = 0x5411, 0x894B, 0x541B
_SOCK_DIAG, _BY_FAMILY, _REQUEST, _ANY = 4, 20, 1, 0xFFFFFFFF


class Pace:
    """The speed of one reader: for how many seconds it left its latest messages unread.

    One message is unread at a time.
    """

    def __init__(self) -> None:
        self._read_times: dict[str, deque[float]] = {}  # kind of message -> seconds until it was read
        self._count = 0
        self._sent: float | None = None
        self._kind = ""

    def sent(self, now: float, kind: str = "") -> None:
        """A message was sent. Readers process each kind at its own speed, so each kind is measured separately."""
        self._sent, self._kind = now, kind

    def update(self, now: float, unread: int) -> None:
        """`unread` bytes of the message are not read yet; with 0 it was read."""
        if self._sent is not None and unread == 0:
            self._read_times.setdefault(self._kind, deque(maxlen=_WINDOW)).append(now - self._sent)
            self._sent, self._count = None, self._count + 1

    def retracted(self, now: float) -> None:
        """The unread message was removed; the time until now counts as its read time."""
        self.update(now, 0)

    def waited_s(self, now: float) -> float:
        """Seconds since the unread message was sent; 0 without one."""
        return 0.0 if self._sent is None else now - self._sent

    @property
    def in_flight(self) -> bool:
        """Whether a message was sent and not read yet."""
        return self._sent is not None

    @property
    def speed_known(self) -> bool:
        return self._count >= _MIN_MESSAGES

    def lag_s(self, *kinds: str) -> float:
        """Expected seconds until messages of these kinds, sent one after the other, are read.

        The sum over the kinds of the slowest of the latest messages; for a kind that was not sent yet, the slowest of
        all kinds. Infinite while the speed is unknown.
        """
        if not self.speed_known:
            return float("inf")
        slowest = {kind: max(times) for kind, times in self._read_times.items()}
        return sum(slowest.get(kind, max(slowest.values())) for kind in kinds)


def withhold_reason(pace: Pace, *kinds: str, remaining_s: float, budget_s: float) -> str:
    """Why a mask must not be sent as fresh; empty if it may.

    The mask is valid for `remaining_s` more, and `kinds` are the messages that are still to be read. A reader is slow
    if its reading alone takes half of the budget.
    """
    lag_s = pace.lag_s(*kinds)
    if lag_s < remaining_s:
        return ""
    if not pace.speed_known:
        return UNKNOWN
    return SLOW if lag_s > budget_s / 2 else TOO_OLD


def is_observable(link: socket.socket) -> bool:
    """Whether `unread_bytes` counts the bytes that the other program has not read.

    If not, it counts only those that the other system has not acknowledged.
    """
    try:
        return _peer_queue(link) is not None
    except OSError:
        return False


def unread_bytes(link: socket.socket) -> int:
    """Bytes of a connected TCP or Unix socket that the other program has not read, as far as the system reports it."""
    try:
        if link.family not in (socket.AF_INET, socket.AF_INET6):
            return _ioctl(link.fileno(), _OUTQ)
        received = _peer_queue(link)
        return _ioctl(link.fileno(), _OUTQ) if received is None else received + _ioctl(link.fileno(), _OUTQ_NOT_SENT)
    except OSError:
        return 0


def unread_in_file(descriptor: int) -> int:
    """Bytes of a pipe, a socket or a terminal that were written and not read; 0 for a regular file.

    Raises BrokenPipeError if the reader has closed its end.
    """
    if _reader_has_closed(descriptor):
        raise BrokenPipeError(errno.EPIPE, "the reader is gone")
    with contextlib.suppress(OSError):
        mode = os.fstat(descriptor).st_mode
        if stat.S_ISFIFO(mode):
            return _ioctl(descriptor, _FIONREAD)
        if stat.S_ISSOCK(mode):
            with socket.socket(fileno=os.dup(descriptor)) as link:
                return unread_bytes(link)
        if os.isatty(descriptor):
            return _ioctl(descriptor, _OUTQ)
    return 0


def _reader_has_closed(descriptor: int) -> bool:
    if not hasattr(select, "poll"):
        return False
    poll = select.poll()
    poll.register(descriptor, 0)
    return any(event & (select.POLLERR | select.POLLHUP) for _, event in poll.poll(0))


def retract(descriptor: int, data: bytes) -> bool:
    """Remove `data` from a pipe if it is its only content and no byte of it was read. Returns whether it was removed.

    Linux only. If the reader reads a part of it meanwhile, the rest is written back.
    """
    try:
        if not stat.S_ISFIFO(os.fstat(descriptor).st_mode) or _ioctl(descriptor, _FIONREAD) != len(data):
            return False
        read_end = os.open(f"/proc/self/fd/{descriptor}", os.O_RDONLY | os.O_NONBLOCK | os.O_CLOEXEC)
    except OSError:
        return False
    try:
        removed = os.read(read_end, len(data))
        if removed != data:
            _write_all(descriptor, removed)
            return False
        return True
    except OSError:  # the reader was faster
        return False
    finally:
        os.close(read_end)


def _write_all(descriptor: int, data: bytes) -> None:
    while data:
        data = data[os.write(descriptor, data) :]


def _ioctl(descriptor: int, request: int) -> int:
    if not sys.platform.startswith("linux"):
        return 0
    import fcntl

    return int(struct.unpack("i", fcntl.ioctl(descriptor, request, bytes(4)))[0])


def _peer_queue(link: socket.socket) -> int | None:
    """Bytes in the receive queue of the other end; None if that end is on another system."""
    if not sys.platform.startswith("linux"):
        return None
    own, peer = link.getsockname(), link.getpeername()
    packed = [ipaddress.ip_address(address.partition("%")[0]).packed.ljust(16, b"\0") for address in (peer[0], own[0])]
    ident = struct.pack(">HH", peer[1], own[1]) + b"".join(packed) + struct.pack("=III", 0, _ANY, _ANY)
    query = struct.pack("=BBBxI", link.family, socket.IPPROTO_TCP, 0, _ANY) + ident
    with socket.socket(socket.AF_NETLINK, socket.SOCK_RAW | socket.SOCK_CLOEXEC, _SOCK_DIAG) as diag:
        diag.settimeout(0.1)
        diag.send(struct.pack("=IHHII", 16 + len(query), _BY_FAMILY, _REQUEST, 1, 0) + query)
        answer = diag.recv(4096)
    if struct.unpack_from("=IH", answer)[1] != _BY_FAMILY:  # an error: no such socket here
        return None
    return int(struct.unpack_from("=I", answer, 16 + 4 + 48 + 4)[0])
