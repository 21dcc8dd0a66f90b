"""The part of a data set that a label file, a folder or a list belongs to, by what it is called."""

from __future__ import annotations

import re
from collections import Counter
from collections.abc import Sequence
from pathlib import PurePath

TEST = "test"  # also the folder of an import in which it is written
_CALLED = {
    **dict.fromkeys(("val", "valid", "validation"), "val"),
    **dict.fromkeys(("test", "testing"), TEST),
    **dict.fromkeys(("train", "training"), ""),
}


def part_of(path: PurePath) -> str:
    """The part by the stem of a file, or else by its folders, the deepest first: "val", "test", or "" for training.

    The name of a part counts where no letter is beside it: instances_val2017.json is validation, mitral_valve.json is
    not. `path`: from the source on.
    """
    for text in (path.stem, *reversed(path.parts[:-1])):
        found = {_CALLED[name] for name in re.split(r"[^a-z]+", text.casefold()) if name in _CALLED}
        if len(found) == 1:
            return found.pop()
    return ""


def usable_parts(parts: Sequence[str]) -> tuple[list[str], tuple[str, ...]]:
    """(the part of each labelled image, a line for the user where some do not train).

    All are for training where none is: nothing would be left to learn from.
    """
    counts = Counter(parts)
    if not counts["val"] + counts[TEST]:
        return list(parts), ()
    if not counts[""]:
        return [""] * len(parts), ("all labelled images are of the validation or test part: taken for training",)
    return list(parts), (
        f"of the images in label files {counts['val']} are the validation part and {counts[TEST]} the test part, by "
        "the names of files, folders or lists",
    )
