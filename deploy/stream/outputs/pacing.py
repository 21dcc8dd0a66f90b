"""How quickly a reader takes what is sent to it, so that nothing grows old in the buffers of the system.

Linux tells a sender how many bytes the reader's program has not read yet: of a pipe, of a Unix socket, and of a TCP
connection whose other end is in the same network name space. Of a TCP connection to another machine, and on other
systems, only what the other system has not confirmed is known; what lies there unread is not.
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
_LATEST = 5  # messages of a kind that are looked back on
_NEEDED = 3  # messages before a reader's speed is known
_OUTQ, _OUTQ_NOT_SENT, _FIONREAD = 0x5411, 0x894B, 0x541B
_SOCK_DIAG, _BY_FAMILY, _REQUEST, _ANY = 4, 20, 1, 0xFFFFFFFF


class Pace:
    """Of one reader: when its last message was sent, and how long it left the latest messages unread, in seconds."""

    def __init__(self) -> None:
        self._took: dict[str, deque[float]] = {}  # kind of message -> the latest of it
        self._count = 0
        self._sent: float | None = None
        self._kind = ""

    def sent(self, now: float, kind: str = "") -> None:
        """A message is under way. Readers treat each `kind` in their own way, so each is measured for itself."""
        self._sent, self._kind = now, kind

    def update(self, now: float, unread: int) -> None:
        """`unread` bytes of what was sent are not read yet; 0 ends the message that is under way."""
        if self._sent is not None and unread == 0:
            self._took.setdefault(self._kind, deque(maxlen=_LATEST)).append(now - self._sent)
            self._sent, self._count = None, self._count + 1

    def taken_back(self, now: float) -> None:
        """The message under way will never be read; its wait counts."""
        self.update(now, 0)

    def waited_s(self, now: float) -> float:
        """How long the message under way has been unread; 0 when there is none."""
        return 0.0 if self._sent is None else now - self._sent

    @property
    def under_way(self) -> bool:
        return self._sent is not None

    @property
    def known(self) -> bool:
        return self._count >= _NEEDED

    def lag_s(self, *kinds: str) -> float:
        """How long messages of these kinds, one after the other, may lie unread by the slowest of the latest of each
        kind; of a kind that was not sent yet, by the slowest of all. Infinite while the speed is unknown."""
        if not self.known:
            return float("inf")
        slowest = {kind: max(took) for kind, took in self._took.items()}
        return sum(slowest.get(kind, max(slowest.values())) for kind in kinds)


def withheld(pace: Pace, *kinds: str, left_s: float, budget_s: float) -> str:
    """Why a mask that is valid for `left_s` more is not fresh any longer when a reader has read `kinds`, the messages
    still to be sent; empty when it will be. A reader is slow when it alone takes half of the budget."""
    lag_s = pace.lag_s(*kinds)
    if lag_s < left_s:
        return ""
    if not pace.known:
        return UNKNOWN
    return SLOW if lag_s > budget_s / 2 else TOO_OLD


def is_observable(link: socket.socket) -> bool:
    """Whether `unread_bytes` counts what the other program has not read, not only what its system has not confirmed."""
    try:
        return _peer_queue(link) is not None
    except OSError:
        return False


def unread_bytes(link: socket.socket) -> int:
    """Bytes of a connected TCP or Unix socket that the other program has not read, as far as the system can tell."""
    try:
        if link.family not in (socket.AF_INET, socket.AF_INET6):
            return _ioctl(link.fileno(), _OUTQ)
        behind = _peer_queue(link)
        return _ioctl(link.fileno(), _OUTQ) if behind is None else behind + _ioctl(link.fileno(), _OUTQ_NOT_SENT)
    except OSError:
        return 0


def unread_in_file(descriptor: int) -> int:
    """Bytes of a pipe, a socket or a terminal that were written and not read; 0 for a file, which has no reader.

    Raises BrokenPipeError when the reader has closed its end.
    """
    if _is_deserted(descriptor):
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


def _is_deserted(descriptor: int) -> bool:
    if not hasattr(select, "poll"):
        return False
    poll = select.poll()
    poll.register(descriptor, 0)
    return any(event & (select.POLLERR | select.POLLHUP) for _, event in poll.poll(0))


def take_back(descriptor: int, data: bytes) -> bool:
    """Remove `data` from a pipe where no byte of it, and nothing else, was read or written since. Linux alone.

    What a reader took of it meanwhile is left to that reader: the rest goes back into the pipe.
    """
    try:
        if not stat.S_ISFIFO(os.fstat(descriptor).st_mode) or _ioctl(descriptor, _FIONREAD) != len(data):
            return False
        end = os.open(f"/proc/self/fd/{descriptor}", os.O_RDONLY | os.O_NONBLOCK | os.O_CLOEXEC)
    except OSError:
        return False
    try:
        got = os.read(end, len(data))
        if got != data:
            _write_all(descriptor, got)
            return False
        return True
    except OSError:  # the reader was quicker
        return False
    finally:
        os.close(end)


def _write_all(descriptor: int, data: bytes) -> None:
    while data:
        data = data[os.write(descriptor, data) :]


def _ioctl(descriptor: int, request: int) -> int:
    if not sys.platform.startswith("linux"):
        return 0
    import fcntl

    return int(struct.unpack("i", fcntl.ioctl(descriptor, request, bytes(4)))[0])


def _peer_queue(link: socket.socket) -> int | None:
    """Bytes in the receive queue of the other end; None where that end is in no reach of this system."""
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
