"""Who gets the masks beside the display. Each output has a thread of its own that looks at the board when there is
something new: a slow one misses looks, holds nobody up, and is given what is judged at that moment. What lies between
an output and its reader (pipes, sockets) is the output's affair: see `lines` and `igtl_server`.

A new output is a class with `show` and `close`, and a row in OUTPUTS. One that reads the board itself needs no `show`.
"""

from __future__ import annotations

import sys
import threading
from collections.abc import Sequence
from dataclasses import dataclass
from importlib import import_module
from typing import Any, Protocol

from deploy.stream.outputs.json_lines import Lines
from deploy.stream.state.display_state import Board
from deploy.stream.state.frames import Shown
from deploy.stream.state.overlay import Colour
from edgemt.errors import unknown_name_message
from edgemt.model_card import ModelCard

__all__ = ["OUTPUTS", "Lines", "Outlet", "Output", "OutputKind", "Stage", "open_output"]


class Output(Protocol):
    def show(self, shown: Shown) -> None:
        """The newest frame, `shown.frame`, and what may be said of its mask, `shown.record`."""

    def close(self) -> None: ...


@dataclass(frozen=True, eq=False)
class Stage:
    """What an output may know."""

    board: Board
    card: ModelCard
    colours: Sequence[Colour]
    source: Any = None  # what the frames come from: OpenIGTLink masks keep its place and time stamp


@dataclass(frozen=True)
class OutputKind:
    made_by: str  # module:function, called with what stands after the colon and the Stage
    about: str


OUTPUTS: dict[str, OutputKind] = {
    "lines": OutputKind(
        "deploy.stream.outputs.json_lines:Lines", "a line of JSON on stdout for every mask and change of state"
    ),
    "page": OutputKind("deploy.stream.web.page:open_page", "a page in the browser, on this machine: page, page:PORT"),
    "igtl": OutputKind(
        "deploy.stream.outputs.igtl_server:open_igtl", "OpenIGTLink for 3D Slicer: igtl, igtl:PORT, igtl:HOST:PORT"
    ),
    "video": OutputKind(
        "deploy.stream.outputs.video_file:open_video", "a video file of what was shown: video:FILE.mp4"
    ),
}


def open_output(text: str, stage: Stage) -> Any:
    """`lines`, or NAME:ARGUMENT. Raises ValueError in one line for an unknown name and for what the output refuses."""
    name, _, argument = text.partition(":")
    if name not in OUTPUTS:
        raise ValueError(unknown_name_message("output", name, OUTPUTS))
    module, _, maker = OUTPUTS[name].made_by.partition(":")
    return getattr(import_module(module), maker)(argument, stage)


class Outlet:
    """The thread of one output. An output that raises is closed and says why; the rest goes on."""

    def __init__(self, output: Any, board: Board, *, name: str) -> None:
        self.name, self.failed = name, ""
        self._output, self._board = output, board
        self._stop = threading.Event()
        self._thread = threading.Thread(target=self._run, name=f"edgemt-output-{name}", daemon=True)
        if hasattr(output, "show"):
            self._thread.start()

    def close(self, timeout_s: float = 2.0) -> None:
        """Never raises: the others are to be closed too."""
        self._stop.set()
        if self._thread.is_alive():
            self._thread.join(timeout_s)
        if self._thread.is_alive():  # in the middle of a write that does not end; closing it now could crash
            self._failed(f"does not come to an end within {timeout_s:g} s; what it wrote last may be missing")
        elif not self.failed:
            self._end()

    def _run(self) -> None:
        seen = -1
        try:
            while not self._stop.is_set():
                seen = self._board.wait(seen, min(0.25, self._board.next_change_s(self._board.look())))
                self._output.show(self._board.look())
        except Exception as error:  # a full disk, a closed window
            self._failed(str(error) or type(error).__name__)
            self._end()

    def _end(self) -> None:
        try:
            self._output.close()
        except Exception as error:
            if not self.failed:
                self._failed(str(error) or type(error).__name__)

    def _failed(self, why: str) -> None:
        self.failed = why
        print(f"edgemt: warning: output {self.name} stopped: {why}", file=sys.stderr, flush=True)
