"""Corrected pictures as labelled cases, in a folder that `edgemt run RECIPE --data.root DIR` reads.

    DIR/images/NAME.png   the picture as it was captured      DIR/masks/NAME.png   its mask, one class index a pixel
    DIR/cases.jsonl       of each case: picture, model, clicks and boxes

All cases of a session carry its start in their name, as a patient does, so that no split tears them apart. Nothing of
the source but its pixels is written.

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

from deploy.stream.outputs.recording import recording
from deploy.stream.state.frames import Frame
from edgemt.io.atomic import write_bytes
from edgemt.io.images import fit_label

LIST = "cases.jsonl"


class Collector:
    """Writes cases until it is closed; meanwhile whoever watches is told that something is recorded.

    Raises ValueError for a folder that cannot be written, or holds cases of other classes.
    """

    def __init__(self, folder: Path, *, classes: Sequence[str], model: str) -> None:
        self._folder, self._classes, self._model = Path(folder), list(classes), model
        self._session = f"live-{datetime.now(timezone.utc):%Y%m%d-%H%M%S}-{os.getpid()}"
        self._lock = threading.Lock()
        try:
            for name in ("images", "masks"):
                (self._folder / name).mkdir(parents=True, exist_ok=True)
            (self._folder / LIST).touch()
        except OSError as error:
            raise ValueError(f"collect {folder}: cannot be written ({error.strerror}); name another folder") from None
        self._refuse_others()
        self._sign = contextlib.ExitStack()
        self._sign.enter_context(recording(f"cases in {folder}"))

    def keep(self, frame: Frame, mask: np.ndarray, *, steps: Sequence[Any]) -> Path:
        """Returns the image file. The same picture again replaces its case. Raises ValueError; then nothing is left."""
        name = f"{self._session}_frame{frame.id:06d}"
        image, label = (self._folder / kind / f"{name}.png" for kind in ("images", "masks"))
        about = {
            "case": name, "picture": frame.id, "size": list(frame.size), "classes": self._classes, "model": self._model,
            "steps": [{key: value for key, value in asdict(step).items() if value is not None} for step in steps],
        }  # fmt: skip
        with self._lock:
            again = image.exists()
            try:
                write_bytes(label, _png(fit_label(mask, size=frame.size)))
                if not again:
                    write_bytes(image, _png(frame.pixels))
                with open(self._folder / LIST, "a", encoding="utf-8") as list_:
                    list_.write(json.dumps(about) + "\n")
            except (OSError, ValueError) as error:
                for path in () if again else (image, label):
                    path.unlink(missing_ok=True)
                why = error.strerror if isinstance(error, OSError) else "no space left on the disk"
                raise ValueError(f"{name}: was not saved ({why})") from None
        return image

    def close(self) -> None:
        self._sign.close()

    def _refuse_others(self) -> None:
        file = self._folder / LIST
        for number, line in enumerate(file.read_text(encoding="utf-8").splitlines(), 1):
            try:
                found = json.loads(line)["classes"]
            except (ValueError, KeyError, TypeError):
                continue  # cut short by a full disk
            if found != self._classes:
                raise ValueError(
                    f"{file}: line {number} has the classes {', '.join(found)}, this model {', '.join(self._classes)}; "
                    "name another folder with --collect"
                )


def _png(array: np.ndarray) -> bytes:
    """By OpenCV where it is installed: it lets the video go on meanwhile, Pillow does not."""
    try:
        import cv2
    except ImportError:
        buffer = io.BytesIO()
        Image.fromarray(array).save(buffer, "PNG", compress_level=1)
        return buffer.getvalue()
    pixels = cv2.cvtColor(array, cv2.COLOR_RGB2BGR) if array.ndim == 3 else array
    return bytes(cv2.imencode(".png", pixels, [cv2.IMWRITE_PNG_COMPRESSION, 1])[1])
