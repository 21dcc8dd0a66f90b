"""What label tools send and get: Label Studio's ML-backend protocol and CVAT's serverless functions.

Label Studio  https://github.com/HumanSignal/label-studio-ml-backend (label_studio_ml/api.py): GET /health, POST /setup
              and POST /predict {"tasks": [{"data": {"image": ...}}], "label_config": XML} -> {"results": [...]}
CVAT          https://github.com/cvat-ai/cvat (cvat/apps/lambda_manager/views.py): GET /api/functions, and
              POST /api/function_invocations {"image": base64} -> [{"label", "type", "points", "mask"}];
              a mask is its pixels in the box, row by row, then left, top, right, bottom
Clicks and boxes of both, for a ship with a prompt input: edgemt/label_server/prompts.py. CVAT sends them to a function
of its own, an interactor, which answers {"mask": rows of 0 and 1}.

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

from deploy.promptable.runner import Prompt
from edgemt.convert.contract import ExportOptions
from edgemt.convert.drawn_images import LabelledImage, Pictures
from edgemt.convert.label_studio import file_of, values_of
from edgemt.convert.names import inner_path
from edgemt.convert.outlines import outlines
from edgemt.convert.text_files import parse_xml
from edgemt.io.images import image_header
from edgemt.label_server.prompts import of_cvat, of_label_studio

FUNCTION, INTERACTOR = "edgemt", "edgemt-prompt"
_TAGS = {"BrushLabels": "rle", "PolygonLabels": "polygon"}
_SIMPLIFY = 1.0  # pixels, of the outlines that CVAT gets beside its masks
_SOURCE = Path("request")
_NO_PROMPT = "this ship takes no clicks and boxes; add that with edgemt export SHIP --with-prompt RUN/promptable"


class LabelBackend:
    """Answers of one model. `masks`: path of an image -> uint8 [H, W] of class indices; `classes` with the background.

    `images`: the folder in which the images of Label Studio's tasks are found by their names. `prompted`: path of an
    image and a prompt -> bool [H, W] of the object that it names; None for a model without a prompt input. Every method
    raises ValueError, in one line, for a request that cannot be answered.
    """

    def __init__(
        self, masks: Callable[[Path], np.ndarray], classes: tuple[str, ...], *, name: str, images: Path | None = None,
        prompted: Callable[[Path, Prompt], np.ndarray] | None = None,
    ) -> None:  # fmt: skip
        self._masks, self.classes, self.name, self._prompted = masks, classes, name, prompted
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
        params = request.get("params")
        prompt = of_label_studio(params.get("context")) if isinstance(params, dict) else None
        if prompt is None:
            return {"results": [self._prediction(self._masks(self._image_of(task)), controls) for task in tasks]}
        return {"results": [self._prediction(self._object(self._image_of(task), *prompt), controls) for task in tasks]}

    def _object(self, image: Path, prompt: Prompt, label: str) -> np.ndarray:
        """uint8 [H, W], the class `label` on the object that the prompt names."""
        if self._prompted is None:
            raise ValueError(_NO_PROMPT)
        if label not in self.classes[1:]:
            raise ValueError(f"predict: the label of the prompt is {label}, none of {', '.join(self.classes[1:])}")
        return self._prompted(image, prompt).astype(np.uint8) * np.uint8(self.classes.index(label))

    def _prediction(self, mask: np.ndarray, controls: dict[str, tuple[str, str, str]]) -> dict[str, Any]:
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
        """GET /api/functions: the detector, and with a prompt input the interactor, as Nuclio's dashboard has them."""
        return {FUNCTION: self.function()} | ({INTERACTOR: self.interactor()} if self._prompted is not None else {})

    def function(self) -> dict[str, Any]:
        """GET /api/functions/edgemt."""
        labels = [{"id": k, "name": name, "type": "mask"} for k, name in enumerate(self.classes[1:], 1)]
        annotations = {
            "name": f"EdgeMT {self.name}",
            "type": "detector",
            "framework": "edgemt",
            "spec": json.dumps(labels),
        }
        return _function(FUNCTION, annotations, f"masks of {self.name}")

    def interactor(self) -> dict[str, Any]:
        """GET /api/functions/edgemt-prompt. Raises ValueError for a model without a prompt input."""
        if self._prompted is None:
            raise ValueError(_NO_PROMPT)
        annotations = {
            "name": f"EdgeMT {self.name}, clicks",
            "type": "interactor",
            "version": "2",
            "framework": "edgemt",
            "spec": "[]",
            "min_pos_points": "1",
            "min_neg_points": "0",
            "startswith_box_optional": "true",
            "help_message": "Click on the object; right clicks exclude. Or draw a box around it.",
        }
        return _function(INTERACTOR, annotations, f"one object of {self.name} by clicks or a box")

    def invoke(self, request: dict[str, Any]) -> list[dict[str, Any]] | dict[str, Any]:
        """POST /api/function_invocations: the masks of the image that CVAT sends, one for each class that is there.

        With pos_points in the request the mask of the object that they name.
        """
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
                if "pos_points" in request:
                    return self._clicked(path, request)
                mask = self._masks(path)
            except ValueError as error:
                raise ValueError(f"image: {str(error).replace(str(path), 'what was sent')}") from None
        areas = ((name, mask == k) for k, name in enumerate(self.classes[1:], 1))
        return [_cvat_shape(name, area) for name, area in areas if area.any()]

    def _clicked(self, path: Path, request: dict[str, Any]) -> dict[str, Any]:
        if self._prompted is None:
            raise ValueError(_NO_PROMPT)
        header = image_header(path)
        size = header.size if header.orientation < 5 else header.size[::-1]  # 5 to 8: a quarter turn
        return {"mask": self._prompted(path, of_cvat(request, size)).astype(int).tolist()}


def _function(name: str, annotations: dict[str, str], description: str) -> dict[str, Any]:
    return {
        "metadata": {"name": name, "annotations": annotations},
        "spec": {"description": description},
        "status": {"state": "ready", "httpPort": 0},
    }


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
