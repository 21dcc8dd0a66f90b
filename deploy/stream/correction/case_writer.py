"""Writes corrected frames as labelled cases, to a folder that `edgemt run RECIPE --data.root DIR` reads.

    DIR/images/NAME.png   the frame as it was captured      DIR/masks/NAME.png   its mask, one class index per pixel
    DIR/cases.jsonl       for each case: frame id, model, clicks and boxes

The names of all cases of a session begin with the start time of the session, which is read as the patient id, so that a
split never divides them. Of the source, only the pixels are written.

Shapes: H W of the picture, h w of the mask.
"""

from __future__ import annotations

import contextlib
import io
import json
import os
import threading
from collections.abc import Sequence
from dataclasses import asdict
from datetime import datetime, timezone
from pathlib import Path
from typing import Any

import numpy as np
from PIL import Image

from deploy.stream.outputs.base import recording
from deploy.stream.state.frames import Frame
from edgemt.io.atomic import write_bytes
from edgemt.io.images import fit_label

LIST_FILE = "cases.jsonl"


class CorrectedCaseWriter:
    """Writes cases until it is closed; until then, the page shows "Recording".

    Raises ValueError for a folder that cannot be written, or that has cases with other classes.
    """

    def __init__(self, folder: Path, *, classes: Sequence[str], model: str) -> None:
        self._folder, self._classes, self._model = Path(folder), list(classes), model
        self._session = f"live-{datetime.now(timezone.utc):%Y%m%d-%H%M%S}-{os.getpid()}"
        self._lock = threading.Lock()
        try:
            for name in ("images", "masks"):
                (self._folder / name).mkdir(parents=True, exist_ok=True)
            (self._folder / LIST_FILE).touch()
        except OSError as error:
            raise ValueError(f"collect {folder}: cannot be written ({error.strerror}); name another folder") from None
        self._reject_other_classes()
        self._recording = contextlib.ExitStack()
        self._recording.enter_context(recording(f"cases in {folder}"))

    def save(self, frame: Frame, mask: np.ndarray, *, steps: Sequence[Any]) -> Path:
        """Write one case; a second case of the same frame replaces the first. Returns the image file.

        Raises ValueError if it cannot be written; then no file of the case remains.
        """
        name = f"{self._session}_frame{frame.id:06d}"
        image_file, mask_file = (self._folder / kind / f"{name}.png" for kind in ("images", "masks"))
        entry = {
            "case": name, "picture": frame.id, "size": list(frame.size), "classes": self._classes, "model": self._model,
            "steps": [{key: value for key, value in asdict(step).items() if value is not None} for step in steps],
        }  # fmt: skip
        with self._lock:
            exists = image_file.exists()
            try:
                write_bytes(mask_file, _png(fit_label(mask, size=frame.size)))
                if not exists:
                    write_bytes(image_file, _png(frame.pixels))
                with open(self._folder / LIST_FILE, "a", encoding="utf-8") as list_:
                    list_.write(json.dumps(entry) + "\n")
            except (OSError, ValueError) as error:
                for path in () if exists else (image_file, mask_file):
                    path.unlink(missing_ok=True)
                why = error.strerror if isinstance(error, OSError) else "no space left on the disk"
                raise ValueError(f"{name}: was not saved ({why})") from None
        return image_file

    def close(self) -> None:
        self._recording.close()

    def _reject_other_classes(self) -> None:
        file = self._folder / LIST_FILE
        for number, line in enumerate(file.read_text(encoding="utf-8").splitlines(), 1):
            try:
                classes = json.loads(line)["classes"]
            except (ValueError, KeyError, TypeError):
                continue  # a line that was cut by a full disk
            if classes != self._classes:
                listed, own = ", ".join(classes), ", ".join(self._classes)
                raise ValueError(
                    f"{file}: line {number} has the classes {listed}, this model {own}; "
                    "name another folder with --collect"
                )


def _png(array: np.ndarray) -> bytes:
    """PNG bytes. OpenCV is preferred because it releases the interpreter lock, so that the video is not delayed."""
    try:
        import cv2
    except ImportError:
        buffer = io.BytesIO()
        Image.fromarray(array).save(buffer, "PNG", compress_level=1)
        return buffer.getvalue()
    pixels = cv2.cvtColor(array, cv2.COLOR_RGB2BGR) if array.ndim == 3 else array
    return bytes(cv2.imencode(".png", pixels, [cv2.IMWRITE_PNG_COMPRESSION, 1])[1])
