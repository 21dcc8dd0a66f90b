"""The commands that name what there is, and put a trained student into the zoo."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path
from typing import Literal

from tyro.conf import Positional

from edgemt.commands.console import log

Listed = Literal[
    "recipes",
    "methods",
    "teachers",
    "students",
    "encoders",
    "runtimes",
    "datasets",
    "layouts",
    "corruptions",
    "formats",
    "zoo",
]


@dataclass(frozen=True)
class List:
    """What can be named: recipes, methods, teachers, students, runtimes, public data sets, students of the zoo.

    `datasets`: for edgemt import NAME --from FOLDER; `layouts`: how folders of training data may look.
    `encoders`: parameters, multiply-accumulates at 256 x 256, INT8 time against mobilenetv4_small, and where pretrained
    weights can be had on this machine. `corruptions`: for edgemt eval --corrupt and --augment.corruptions.
    """

    what: Positional[Listed]


def list_names(command: List) -> None:
    """Print the names of a table, each with its line of description."""
    from edgemt.commands import list_rows

    for name, about in list_rows.rows(command.what):
        print(f"{name:24} {about}")


@dataclass(frozen=True)
class Explain:
    """A method: its idea, roles, target, hyper-parameters and citation."""

    method: Positional[str]


def explain_method(command: Explain) -> None:
    """Print the description of a method."""
    from edgemt.methods.catalogue import explain

    print(explain(command.method))


@dataclass(frozen=True)
class Pack:
    """A trained student as an entry of the zoo, which is a ship too.

    It has half-precision weights to start from, the INT8 graph of the run, input statistics, synthetic golden frames
    and a card. Then edgemt predict zoo/NAME and the like.
    """

    stage: Positional[Path]
    """RUN/ship, RUN/slim or RUN/student; or a ship of edgemt export zoo/NAME, whose graph the entry gets."""
    name: Positional[str]
    out: Path | None = None
    """Folder that gets NAME; the package's own zoo if not given."""
    note: str = ""
    """A line for its card."""
    overwrite: bool = False
    """Replace the entry NAME that stands."""


def pack_stage(command: Pack) -> None:
    """Make an entry of the zoo and print its path."""
    from edgemt.pipeline.pack_student import pack

    made = pack(command.stage, command.name, into=command.out, note=command.note, overwrite=command.overwrite, say=log)
    print(made)
