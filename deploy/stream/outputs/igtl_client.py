"""The state that the OpenIGTLink server stores for each of its clients."""

from __future__ import annotations

import socket
from dataclasses import dataclass, field

from deploy.stream.outputs.pacing import Pace
from deploy.stream.state.frames import InferenceResult

_MAX_WHOLE_READS = 3  # late messages in a row that were read at once; then the client gets undivided messages


@dataclass(eq=False)
class Client:
    """The buffers and the protocol state of one client."""

    connection: socket.socket
    rx_started: float = 0.0  # time of the first byte of the message that is being received
    rx_buffer: bytearray = field(default_factory=bytearray)
    tx_buffer: memoryview = memoryview(b"")
    answer: bytes = b""  # a message to send before the next round
    last_sent: tuple[str, str, int | None] = ("", "", None)  # state, reason and frame id at the start of the last round
    round_started: float = 0.0
    pending: list[str] = field(default_factory=list)  # kinds of message of this round that are still to be sent
    round_mask: InferenceResult | None = None  # the mask that was sent in this round
    subscribed: bool = True  # False: it gets answers to its requests only
    requested: bool = False
    num_errors: int = 0
    pace: Pace = field(default_factory=Pace)
    observable: bool = False  # whether the system reports the bytes that its program has not read
    head_sent: str = ""  # kind of the message of which only the head was sent
    late_since: float = 0.0  # when the rest of a message was sent although its head was unread
    num_whole_reads: int = 0  # late messages in a row that were read at once after their rest was sent

    @property
    def split_messages(self) -> bool:
        return self.observable and self.subscribed and self.num_whole_reads < _MAX_WHOLE_READS

    @property
    def idle(self) -> bool:
        """Whether everything was sent and read."""
        return not self.tx_buffer and not self.pace.in_flight
