"""Trained students that travel with the package: `students/zoo/NAME`. The names are cheap, the doing loads torch.

zoo.pack(RUN / "slim", "atrium_small")     zoo.export("zoo/atrium_small", out=DIR)
"""

from __future__ import annotations

from importlib import import_module
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from edgemt.zoo.exporting import export as export
    from edgemt.zoo.packing import pack as pack
    from edgemt.zoo.shelf import names as names
    from edgemt.zoo.shelf import open_entry as open_entry
    from edgemt.zoo.starting import begin as begin
    from edgemt.zoo.starting import begun as begun
    from edgemt.zoo.starting import pruned_further as pruned_further
    from edgemt.zoo.starting import told as told

_ROOMS = {
    "export": "exporting",
    "pack": "packing",
    "names": "shelf",
    "open_entry": "shelf",
    "begin": "starting",
    "begun": "starting",
    "pruned_further": "starting",
    "told": "starting",
}


def __getattr__(name: str) -> Any:
    if name not in _ROOMS:
        raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
    return getattr(import_module(f"{__name__}.{_ROOMS[name]}"), name)
