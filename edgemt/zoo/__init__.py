"""Trained students that travel with the package: `students/zoo/NAME`. The names are cheap, the doing loads torch.

`edgemt.pipeline.pack_student.pack` makes an entry, `edgemt.pipeline.export_student.export` makes graphs of one.
"""

from __future__ import annotations

from importlib import import_module
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from edgemt.zoo.entry import names as names
    from edgemt.zoo.entry import open_entry as open_entry
    from edgemt.zoo.warm_start import begin as begin
    from edgemt.zoo.warm_start import begun as begun
    from edgemt.zoo.warm_start import pruned_further as pruned_further
    from edgemt.zoo.warm_start import told as told

_MODULES = {
    "names": "entry",
    "open_entry": "entry",
    "begin": "warm_start",
    "begun": "warm_start",
    "pruned_further": "warm_start",
    "told": "warm_start",
}


def __getattr__(name: str) -> Any:
    if name not in _MODULES:
        raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
    return getattr(import_module(f"{__name__}.{_MODULES[name]}"), name)
