"""The POST endpoints of the live page: freeze a picture, predict its mask from clicks and boxes, save it as a case.

With `edgemt stream --adapt` also: let the head learn from that mask, and return to the shipped head.

Requests are small JSON objects; answers have the message format of `updates.py`.
"""

from __future__ import annotations

import json
from collections.abc import Callable, Mapping
from typing import Any

import numpy as np

from deploy.promptable.runner import Prompt
from deploy.stream.correction.session import MAX_STEPS, CorrectionSession, CorrectionStep
from deploy.stream.state.frames import Frame
from deploy.stream.web.updates import pack_message

MAX_BYTES = 8192  # of a request
EncodeFrame = Callable[[Frame], bytes]


def freeze(corrections: CorrectionSession, body: bytes, encode: EncodeFrame) -> bytes:
    """{"frame": id, "mask": id or -1} -> the picture to correct and its mask.

    The picture is the one that the mask was computed from, even if the page has frozen a newer picture with that mask.
    """
    request = _parse_object(body, "frame", "mask")
    frozen = corrections.freeze(frame=request["frame"], mask=request["mask"])
    jpeg = b"" if frozen.frame.id == request["frame"] else encode(frozen.frame)
    about = {"frame": frozen.frame.id, "size": list(frozen.frame.size)}
    return _with_mask(about, frozen.mask, jpeg)


def predict(corrections: CorrectionSession, body: bytes, encode: EncodeFrame) -> bytes:
    """{"frame": id, "steps": [...]} -> the mask of the picture after all steps."""
    request = _parse_object(body, "frame", "steps")
    steps = parse_steps(request["steps"], classes=corrections.classes)
    result = corrections.predict(request["frame"], steps)
    return _with_mask({"frame": request["frame"], "followed": result.network_followed}, result.mask, b"")


def save(corrections: CorrectionSession, body: bytes, encode: EncodeFrame) -> bytes:
    """{"frame": id, "steps": [...]} -> the name of the case that was written."""
    request = _parse_object(body, "frame", "steps")
    steps = parse_steps(request["steps"], classes=corrections.classes)
    path = corrections.save(request["frame"], steps)
    return pack_message({"frame": request["frame"], "case": path.stem}, b"", b"")


def learn(corrections: CorrectionSession, body: bytes, encode: EncodeFrame) -> bytes:
    """{"frame": id, "steps": [...]} -> the status of the patient head, which learns from the mask after all steps."""
    request = _parse_object(body, "frame", "steps")
    steps = parse_steps(request["steps"], classes=corrections.classes)
    return pack_message({"frame": request["frame"], "patient": corrections.learn(request["frame"], steps)}, b"", b"")


def use_shipped(corrections: CorrectionSession, body: bytes, encode: EncodeFrame) -> bytes:
    """{} -> the status of the patient head, which is the shipped one from now on."""
    _parse_object(body)
    if corrections.patient is None:
        raise ValueError("the head is not adapted; start with --adapt")
    corrections.patient.use_shipped()
    return pack_message({"patient": corrections.patient.status()}, b"", b"")


Endpoint = Callable[[CorrectionSession, bytes, EncodeFrame], bytes]
ENDPOINTS: dict[str, Endpoint] = {  # by the last part of the URL
    "hold": freeze,
    "ask": predict,
    "keep": save,
    "learn": learn,
    "shipped": use_shipped,
}


def parse_steps(raw: Any, *, classes: int) -> tuple[CorrectionStep, ...]:
    """Steps from JSON: [{"class": 1, "click": [x, y, on]}, {"class": 1, "box": [x0, y0, x1, y1]}].

    Raises ValueError, in one line, for anything else.
    """
    if not isinstance(raw, list) or len(raw) > MAX_STEPS:
        raise ValueError(f"steps: a list of at most {MAX_STEPS} clicks and boxes")
    return tuple(_parse_step(item, classes=classes) for item in raw)


def _parse_step(raw: Any, *, classes: int) -> CorrectionStep:
    value = raw.get("class") if isinstance(raw, Mapping) else None
    if type(value) is not int or not 0 < value < classes:
        raise ValueError(f"class {value!r}: must be a number from 1 to {classes - 1}")
    numbers = raw.get("click", raw.get("box"))
    expected = 3 if "click" in raw else 4
    valid = isinstance(numbers, list) and len(numbers) == expected and all(type(n) in (int, float) for n in numbers)
    if not valid or len(raw) != 2:
        raise ValueError("a step is a class with a click of three numbers or a box of four")
    x, y, *rest = (float(n) for n in numbers)
    if expected == 3:
        Prompt(points=((x, y, bool(rest[0])),))
        return CorrectionStep(value, click=(x, y, bool(rest[0])))
    Prompt(box=(x, y, rest[0], rest[1]))
    return CorrectionStep(value, box=(x, y, rest[0], rest[1]))


def _parse_object(body: bytes, *keys: str) -> dict[str, Any]:
    try:
        request = json.loads(body)
    except (ValueError, RecursionError):
        raise ValueError("not JSON") from None
    if not isinstance(request, dict) or set(request) != set(keys):
        raise ValueError(f"wanted an object with {' and '.join(keys) or 'nothing in it'}")
    for key in keys:
        if key != "steps" and type(request[key]) is not int:
            raise ValueError(f"{key}: a whole number")
    return request


def _with_mask(about: dict[str, Any], mask: np.ndarray, jpeg: bytes) -> bytes:
    return pack_message({**about, "mask_size": list(mask.shape)}, jpeg, np.ascontiguousarray(mask).tobytes())
