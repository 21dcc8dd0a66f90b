"""The table of outputs: where masks go besides the display.

To add an output, write a class with `show` and `close` (`OutputSink` in base.py) and a function that makes it, and add
a row to OUTPUTS. An output that reads the display state in a thread of its own needs no `show`. Delays behind an output
(pipes, sockets) are handled by the output itself: see `json_lines` and `igtl_server`.
"""

from __future__ import annotations

from dataclasses import dataclass
from importlib import import_module
from typing import Any

from deploy.stream.outputs.base import OutputContext
from edgemt.errors import unknown_name_message
from edgemt.io.class_regions import no_overlapping


@dataclass(frozen=True)
class OutputSpec:
    """A row of OUTPUTS."""

    factory: str  # module:function, called with the text after the colon and the OutputContext
    description: str


OUTPUTS: dict[str, OutputSpec] = {
    "lines": OutputSpec(
        "deploy.stream.outputs.json_lines:JsonLinesOutput",
        "a line of JSON on stdout for every mask and change of state",
    ),
    "page": OutputSpec("deploy.stream.web.page:open_page", "a page in the browser, on this machine: page, page:PORT"),
    "igtl": OutputSpec(
        "deploy.stream.outputs.igtl_server:open_igtl", "OpenIGTLink for 3D Slicer: igtl, igtl:PORT, igtl:HOST:PORT"
    ),
    "video": OutputSpec(
        "deploy.stream.outputs.video_file:open_video", "a video file of what was shown: video:FILE.mp4"
    ),
}


def open_output(text: str, context: OutputContext) -> Any:
    """The output that `text` (NAME or NAME:ARGUMENT) names.

    Raises ValueError in one line for an unknown name and for an argument that the output does not accept.
    """
    name, _, argument = text.partition(":")
    if name not in OUTPUTS:
        raise ValueError(unknown_name_message("output", name, OUTPUTS))
    if name == "igtl":
        no_overlapping(context.card, where="output igtl", what="its label maps have one class a pixel; use page")
    module, _, factory = OUTPUTS[name].factory.partition(":")
    return getattr(import_module(module), factory)(argument, context)
