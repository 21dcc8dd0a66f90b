"""Where an OpenIGTLink server listens, and what its clients may do."""

from __future__ import annotations

import socket
from dataclasses import dataclass

from deploy.stream.igtl import protocol


@dataclass(frozen=True)
class IgtlOptions:
    """On this machine alone, unless another address is given."""

    host: str = "127.0.0.1"
    port: int = protocol.PORT  # 0: any free one
    version: int = 1  # of the messages; 2 where the other side speaks protocol version 3
    clients: int = 8
    most_bytes: int = 1 << 16  # of a message from a client
    stall_s: float = 5.0  # for a message that was begun, in either direction
    mistakes: int = 10  # damaged messages before a client is dropped


def listen(options: IgtlOptions) -> socket.socket:
    family = socket.AF_INET6 if ":" in options.host else socket.AF_INET
    listener = socket.socket(family, socket.SOCK_STREAM)
    listener.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
    try:
        listener.bind((options.host, options.port))
        listener.listen(options.clients)
    except (OSError, OverflowError) as error:
        listener.close()
        why = error.strerror if isinstance(error, OSError) else str(error)
        raise ValueError(
            f"OpenIGTLink {options.host}:{options.port}: cannot listen ({why}); name another port"
        ) from None
    listener.setblocking(False)
    return listener
