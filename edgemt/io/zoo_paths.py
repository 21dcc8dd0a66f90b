"""Where trained students lie: `zoo/NAME` is a folder of the installed package. Loads no torch."""

from __future__ import annotations

from pathlib import Path

from edgemt.errors import unknown_name_message

HOME = Path(__file__).parents[2] / "students" / "zoo"
PREFIX = "zoo/"
CARD = "card.json"


def names(home: Path | None = None) -> list[str]:
    """The entries of the package, without their prefix."""
    home = home or HOME
    return sorted(path.parent.name for path in home.glob(f"*/{CARD}"))


def is_name(target: str | Path) -> bool:
    """Whether `target` is written `zoo/...`, with a slash or as a path of this system."""
    return _text(target).startswith(PREFIX)


def located(target: str | Path) -> Path:
    """The folder of `zoo/NAME` in the package; any other path as it is, and so is a `zoo/...` that exists here alone.

    Raises ValueError in one line for an unknown name (with the nearest), and for a name that is both an entry of the
    package and another folder here.
    """
    here = Path(target)
    if not is_name(target):
        return here
    short, known = _text(target).removeprefix(PREFIX).rstrip("/"), names()
    if short not in known:
        if here.exists():
            return here
        raise ValueError(
            unknown_name_message("zoo entry", short, known) if known else f"{target}: the zoo is empty here"
        )
    entry = HOME / short
    if here.is_dir() and not here.samefile(entry):
        raise ValueError(
            f"{target}: an entry of the package, and a folder here; name the folder by its full path {here.resolve()}, "
            "or run from another folder to use the entry"
        )
    return entry


def _text(target: str | Path) -> str:
    return target.as_posix() if isinstance(target, Path) else str(target)
