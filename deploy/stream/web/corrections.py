"""What a page may send: which frozen picture to hold, its clicks and boxes, and that the result is to be kept.

Requests are small JSON objects; answers are packed as looks are (`page_looks`).
"""

from __future__ import annotations

import json
from collections.abc import Callable, Mapping
from typing import Any

import numpy as np

from deploy.promptable.runner import Prompt
from deploy.stream.correction.session import STEPS, Correcting, Step
from deploy.stream.state.frames import Frame
from deploy.stream.web.updates import packed

LONGEST = 8192  # bytes of a request
Picture = Callable[[Frame], bytes]


def hold(correcting: Correcting, body: bytes, picture: Picture) -> bytes:
    """{"frame": id, "mask": id or -1} -> the picture that will be corrected and its mask: a picture and the mask that
    was made from it, even where the page had frozen a newer picture with that mask."""
    said = _object(body, "frame", "mask")
    held = correcting.hold(frame=said["frame"], mask=said["mask"])
    jpeg = b"" if held.frame.id == said["frame"] else picture(held.frame)
    about = {"frame": held.frame.id, "size": list(held.frame.size)}
    return _with_mask(about, held.mask, jpeg)


def ask(correcting: Correcting, body: bytes, picture: Picture) -> bytes:
    """{"frame": id, "steps": [...]} -> the mask of that picture after all steps."""
    said = _object(body, "frame", "steps")
    steps = steps_from(said["steps"], classes=correcting.classes)
    corrected = correcting.ask(said["frame"], steps)
    return _with_mask({"frame": said["frame"], "followed": corrected.followed}, corrected.mask, b"")


def keep(correcting: Correcting, body: bytes, picture: Picture) -> bytes:
    """{"frame": id, "steps": [...]} -> the name of the case that was written."""
    said = _object(body, "frame", "steps")
    steps = steps_from(said["steps"], classes=correcting.classes)
    path = correcting.keep(said["frame"], steps)
    return packed({"frame": said["frame"], "case": path.stem}, b"", b"")


ENDPOINTS: dict[str, Callable[[Correcting, bytes, Picture], bytes]] = {"hold": hold, "ask": ask, "keep": keep}


def steps_from(raw: Any, *, classes: int) -> tuple[Step, ...]:
    """What a page sends: [{"class": 1, "click": [x, y, on]}, {"class": 1, "box": [x0, y0, x1, y1]}].

    Raises ValueError, in a sentence, for anything else.
    """
    if not isinstance(raw, list) or len(raw) > STEPS:
        raise ValueError(f"steps: a list of at most {STEPS} clicks and boxes")
    return tuple(_step(each, classes=classes) for each in raw)


def _step(raw: Any, *, classes: int) -> Step:
    value = raw.get("class") if isinstance(raw, Mapping) else None
    if type(value) is not int or not 0 < value < classes:
        raise ValueError(f"class {value!r}: must be a number from 1 to {classes - 1}")
    numbers = raw.get("click", raw.get("box"))
    wanted = 3 if "click" in raw else 4
    real = isinstance(numbers, list) and len(numbers) == wanted and all(type(n) in (int, float) for n in numbers)
    if not real or len(raw) != 2:
        raise ValueError("a step is a class with a click of three numbers or a box of four")
    x, y, *rest = (float(n) for n in numbers)
    if wanted == 3:
        Prompt(points=((x, y, bool(rest[0])),))
        return Step(value, click=(x, y, bool(rest[0])))
    Prompt(box=(x, y, rest[0], rest[1]))
    return Step(value, box=(x, y, rest[0], rest[1]))


def _object(body: bytes, *keys: str) -> dict[str, Any]:
    try:
        said = json.loads(body)
    except (ValueError, RecursionError):
        raise ValueError("not JSON") from None
    if not isinstance(said, dict) or set(said) != set(keys):
        raise ValueError(f"wanted an object with {' and '.join(keys)}")
    for key in keys:
        if key != "steps" and type(said[key]) is not int:
            raise ValueError(f"{key}: a whole number")
    return said


def _with_mask(about: dict[str, Any], mask: np.ndarray, jpeg: bytes) -> bytes:
    return packed({**about, "mask_size": list(mask.shape)}, jpeg, np.ascontiguousarray(mask).tobytes())
