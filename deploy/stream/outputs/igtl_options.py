"""Address and limits of the OpenIGTLink server."""

from __future__ import annotations

import socket
from dataclasses import dataclass

from deploy.stream.igtl import protocol


@dataclass(frozen=True)
class IgtlOptions:
    """The default address accepts connections from this machine only."""

    host: str = "127.0.0.1"
    port: int = protocol.PORT  # 0: any free port
    version: int = 1  # of the messages; 2 for clients of protocol version 3
    max_clients: int = 8
    max_bytes: int = 1 << 16  # of a message from a client
    stall_s: float = 5.0  # time limit for one message, in either direction
    max_errors: int = 10  # damaged messages before a client is dropped


def listen(options: IgtlOptions) -> socket.socket:
    """A non-blocking listening socket. Raises ValueError in one line if the address cannot be used."""
    family = socket.AF_INET6 if ":" in options.host else socket.AF_INET
    listener = socket.socket(family, socket.SOCK_STREAM)
    listener.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
    try:
        listener.bind((options.host, options.port))
        listener.listen(options.max_clients)
    except (OSError, OverflowError) as error:
        listener.close()
        why = error.strerror if isinstance(error, OSError) else str(error)
        raise ValueError(
            f"OpenIGTLink {options.host}:{options.port}: cannot listen ({why}); name another port"
        ) from None
    listener.setblocking(False)
    return listener
