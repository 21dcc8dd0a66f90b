"""Clicks and boxes of label tools as prompts, with coordinates as shares of the image.

Label Studio  regions of smart controls, in POST /predict {"params": {"context": {"result": [...]}}}: KeyPointLabels
              with "is_positive", RectangleLabels; x, y, width and height in percent of the image
CVAT          {"pos_points": [[x, y], ...], "neg_points": ..., "obj_bbox": [[x0, y0], [x1, y1]] or null} in pixels

Facts from the sources of both: cvat/apps/lambda_manager/views.py, and the interactive examples of
label-studio-ml-backend.
"""

from __future__ import annotations

import math
from typing import Any

from deploy.promptable.runner import Prompt

_KINDS = ("keypointlabels", "rectanglelabels")


def of_label_studio(context: Any) -> tuple[Prompt, str] | None:
    """The prompt and its label; None without regions. Raises ValueError for a region of another kind."""
    regions = context.get("result") if isinstance(context, dict) else None
    if not regions:
        return None
    points: list[tuple[float, float, bool]] = []
    box, label = None, ""
    try:
        for region in regions:
            kind, value = region["type"], region["value"]
            if kind not in _KINDS:
                raise ValueError(f"predict: a region of type {kind} is no prompt; draw a key point or a rectangle")
            label = str(value[kind][0])
            x, y = float(value["x"]) / 100, float(value["y"]) / 100
            if kind == "rectanglelabels":
                if float(value.get("rotation") or 0):
                    raise ValueError("predict: the rectangle is turned; draw it upright")
                box = _inside(x, y, x + float(value["width"]) / 100, y + float(value["height"]) / 100)
            else:
                points.append((x, y, bool(int(region.get("is_positive", 1)))))
    except (KeyError, TypeError, IndexError, AttributeError):
        raise ValueError("predict: a region of params.context has no type, label or place") from None
    return Prompt(box, tuple(points)), label


def of_cvat(request: dict[str, Any], size: tuple[int, int]) -> Prompt:
    """The prompt for an image of `size` (rows, columns). Raises ValueError without a point on the object and a box."""
    rows, columns = size
    try:
        signed = [(p, True) for p in request["pos_points"]] + [(p, False) for p in request.get("neg_points") or []]
        points = tuple((float(x) / columns, float(y) / rows, on) for (x, y), on in signed)
        corners = request.get("obj_bbox") or ()
        box = None
        if corners:
            (x0, y0), (x1, y1) = corners
            box = _inside(*(float(v) for v in (x0 / columns, y0 / rows, x1 / columns, y1 / rows)))
    except (KeyError, TypeError, ValueError):
        raise ValueError("pos_points, neg_points and obj_bbox: are no lists of points [x, y] in pixels") from None
    if box is None and not any(point[2] for point in points):
        raise ValueError("pos_points: is empty; click on the object, or draw a box around it")
    return Prompt(box, points)


def _inside(x0: float, y0: float, x1: float, y1: float) -> tuple[float, float, float, float]:
    """The box with its corners in order, cut at the rim of the image. NaN stays, for `Prompt` to refuse."""
    xs, ys = sorted((x0, x1)), sorted((y0, y1))

    def cut(value: float) -> float:
        return value if math.isnan(value) else min(max(value, 0.0), 1.0)

    return cut(xs[0]), cut(ys[0]), cut(xs[1]), cut(ys[1])
