"""Child processes of Python: no file of the current folder is imported by them, and no library reports anything."""

from __future__ import annotations

import os
import sys
from pathlib import Path

from edgemt.telemetry import OFF

_ROOT = str(Path(__file__).resolve().parents[2])
# Python 3.10 has no -P: with -c the first entry of the path is "", the current folder
_RUN_MODULE = "import sys; sys.path[:] = [p for p in sys.path if p]; import runpy; runpy._run_module_as_main({name!r})"


def python_module(name: str, *arguments: str) -> list[str]:
    """The command that runs a module of this package. Start it with `environment()`."""
    if sys.version_info >= (3, 11):
        return [sys.executable, "-P", "-m", name, *arguments]
    return [sys.executable, "-c", _RUN_MODULE.format(name=name), *arguments]


def environment() -> dict[str, str]:
    """That of this process, with what it imports from as PYTHONPATH: the same packages, without the current folder.

    The current folder stays where PYTHONPATH names it, or where this package itself lies in it.
    """
    here = os.path.realpath(os.curdir)
    wanted = [p for p in os.environ.get("PYTHONPATH", "").split(os.pathsep) if os.path.isabs(p)]
    allowed = {os.path.realpath(p) for p in (*wanted, _ROOT)}
    paths = [
        p for p in sys.path if os.path.isabs(p) and (os.path.realpath(p) != here or os.path.realpath(p) in allowed)
    ]
    if _ROOT not in paths:
        paths.append(_ROOT)
    return {**os.environ, **OFF, "PYTHONSAFEPATH": "1", "PYTHONPATH": os.pathsep.join(paths)}
