"""What label tools send and get: Label Studio's ML-backend protocol and CVAT's serverless functions.

Label Studio  https://github.com/HumanSignal/label-studio-ml-backend (label_studio_ml/api.py): GET /health, POST /setup
              and POST /predict {"tasks": [{"data": {"image": ...}}], "label_config": XML} -> {"results": [...]}
CVAT          https://github.com/cvat-ai/cvat (cvat/apps/lambda_manager/views.py): GET /api/functions, and
              POST /api/function_invocations {"image": base64} -> [{"label", "type", "points", "mask"}];
              a mask is its pixels in the box, row by row, then left, top, right, bottom

Shapes: H W size of an image in pixels, C classes.
"""

from __future__ import annotations

import base64
import binascii
import json
import tempfile
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np

from edgemt.convert.contract import ExportOptions
from edgemt.convert.drawn_images import LabelledImage, Pictures
from edgemt.convert.label_studio import file_of, values_of
from edgemt.convert.names import inner_path
from edgemt.convert.outlines import outlines
from edgemt.convert.text_files import parse_xml

FUNCTION = "edgemt"
_TAGS = {"BrushLabels": "rle", "PolygonLabels": "polygon"}
_SIMPLIFY = 1.0  # pixels, of the outlines that CVAT gets beside its masks
_SOURCE = Path("request")


class LabelBackend:
    """Answers of one model. `masks`: path of an image -> uint8 [H, W] of class indices; `classes` with the background.

    `images`: the folder in which the images of Label Studio's tasks are found by their names. Every method raises
    ValueError, in one line, for a request that cannot be answered.
    """

    def __init__(
        self, masks: Callable[[Path], np.ndarray], classes: tuple[str, ...], *, name: str, images: Path | None = None
    ) -> None:
        self._masks, self.classes, self.name = masks, classes, name
        self._pictures = Pictures(images) if images is not None else None

    def health(self) -> dict[str, Any]:
        """GET /health and GET /."""
        return {"status": "UP", "model_class": "EdgeMT"}

    def setup(self, request: dict[str, Any]) -> dict[str, Any]:
        """POST /setup: Label Studio connects a project; its labelling configuration must name a class of the model."""
        schema = request.get("schema")
        if schema:
            self._controls(schema)
        return {"model_version": self.name}

    def predict(self, request: dict[str, Any]) -> dict[str, Any]:
        """POST /predict: a prediction for each task, in their order."""
        tasks = request.get("tasks")
        if not isinstance(tasks, list) or not all(isinstance(task, dict) for task in tasks):
            raise ValueError("predict: the request has no list 'tasks'")
        controls = self._controls(request.get("label_config") or "")
        return {"results": [self._prediction(task, controls) for task in tasks]}

    def _prediction(self, task: dict[str, Any], controls: dict[str, tuple[str, str, str]]) -> dict[str, Any]:
        mask = self._masks(self._image_of(task))
        common = {"original_width": mask.shape[1], "original_height": mask.shape[0], "image_rotation": 0}
        results: list[dict[str, Any]] = []
        for k, label in enumerate(self.classes[1:], 1):
            if label not in controls:
                continue
            from_name, to_name, tag = controls[label]
            options = ExportOptions("polygon" if _TAGS[tag] == "polygon" else "rle")
            for value, kind in values_of(mask == k, label, options):
                number = {
                    "id": f"{FUNCTION}-{len(results) + 1}",
                    "from_name": from_name,
                    "to_name": to_name,
                    "type": kind,
                }
                results.append({**number, **common, "value": value})
        return {"model_version": self.name, "result": results}

    def _image_of(self, task: dict[str, Any]) -> Path:
        if self._pictures is None:
            raise ValueError("predict: Label Studio sends names of images; start edgemt serve-labels with --images DIR")
        if not isinstance(task.get("data"), dict):
            raise ValueError(f"predict: task {task.get('id', '')} has no 'data'")
        name = inner_path(file_of(task), source=_SOURCE, field="image")
        found = self._pictures.find(LabelledImage(name, _SOURCE))
        if not isinstance(found, Path):
            raise ValueError(f"predict: {name} is a frame of a video; extract its frames with edgemt import")
        return found

    def _controls(self, text: str) -> dict[str, tuple[str, str, str]]:
        """Label -> (name of its control, name of the image, tag). ValueError without a class of the model."""
        found: dict[str, tuple[str, str, str]] = {}
        for node in parse_xml(text, _SOURCE).iter() if text else ():
            if node.tag in _TAGS:
                for label in node.iter("Label"):
                    names = (node.get("name") or "", node.get("toName") or "", node.tag)
                    found.setdefault(label.get("value") or "", names)
        if not set(found) & set(self.classes[1:]):
            raise ValueError(
                f"the labelling configuration has no BrushLabels or PolygonLabels with {', '.join(self.classes[1:])}"
            )
        return found

    def functions(self) -> dict[str, Any]:
        """GET /api/functions: the one function, as Nuclio's dashboard describes it to CVAT."""
        return {FUNCTION: self.function()}

    def function(self) -> dict[str, Any]:
        """GET /api/functions/edgemt."""
        labels = [{"id": k, "name": name, "type": "mask"} for k, name in enumerate(self.classes[1:], 1)]
        annotations = {
            "name": f"EdgeMT {self.name}",
            "type": "detector",
            "framework": "edgemt",
            "spec": json.dumps(labels),
        }
        return {
            "metadata": {"name": FUNCTION, "annotations": annotations},
            "spec": {"description": f"masks of {self.name}"},
            "status": {"state": "ready", "httpPort": 0},
        }

    def invoke(self, request: dict[str, Any]) -> list[dict[str, Any]]:
        """POST /api/function_invocations: the masks of the image that CVAT sends, one for each class that is there."""
        try:
            data = base64.b64decode(str(request.get("image", "")), validate=True)
        except (binascii.Error, ValueError):
            raise ValueError("image: is no base64 text") from None
        if not data:
            raise ValueError("image: the request has none")
        suffix = ".png" if data.startswith(b"\x89PNG") else ".jpg"
        with tempfile.TemporaryDirectory(prefix="edgemt-labels-") as folder:
            path = Path(folder) / f"image{suffix}"
            path.write_bytes(data)
            try:
                mask = self._masks(path)
            except ValueError as error:
                raise ValueError(f"image: {str(error).replace(str(path), 'what was sent')}") from None
        areas = ((name, mask == k) for k, name in enumerate(self.classes[1:], 1))
        return [_cvat_shape(name, area) for name, area in areas if area.any()]


def _cvat_shape(name: str, area: np.ndarray) -> dict[str, Any]:
    rows, columns = np.flatnonzero(area.any(1)), np.flatnonzero(area.any(0))
    top, left, bottom, right = (int(v) for v in (rows[0], columns[0], rows[-1], columns[-1]))
    pixels = area[top : bottom + 1, left : right + 1].astype(int).reshape(-1).tolist()
    largest = max(outlines(area, simplify=_SIMPLIFY), key=len)
    return {
        "label": name,
        "type": "mask",
        "points": largest.reshape(-1).tolist(),
        "mask": [*pixels, left, top, right, bottom],
    }
