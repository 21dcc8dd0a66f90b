"""A live page whose masks can be corrected: a promptable network in three lines, frames, and a client for requests."""

from __future__ import annotations

import http.client
import json
import time
from pathlib import Path
from typing import Any

import numpy as np

from deploy.adaptation.session import PatientHead
from deploy.promptable.runner import PromptableRunner
from deploy.stream.correction.case_writer import CorrectedCaseWriter
from deploy.stream.correction.session import CorrectableOutputContext, CorrectionSession
from deploy.stream.outputs.base import OutputContext
from deploy.stream.state.display_state import DisplayState, FreshnessLimits
from deploy.stream.state.frames import Frame, InferenceResult
from deploy.stream.state.overlay import empty_overlay
from deploy.stream.web.page import Page
from edgemt.model_card import ModelCard

CLASSES, COLOURS = ("background", "organ", "tool"), ((128, 128, 128), (64, 240, 200), (255, 210, 63))
SIZE, PICTURE = (48, 64), (96, 128)
ORGAN, TOOL = np.s_[10:30, 8:28], np.s_[30:40, 40:60]  # where they lie, in mask pixels


def bright_objects() -> PromptableRunner:
    """A promptable network in three lines: the bright pixels of what is clicked or boxed."""

    def embed(feed: Any) -> dict[str, np.ndarray]:
        grey = feed["frame"].astype(np.float32).mean(-1)
        return {"fine": grey[:, None], "deep": grey[:, None]}

    def decode(feed: Any) -> dict[str, np.ndarray]:
        y, x = ((np.arange(n) + 0.5) / n for n in SIZE)
        x0, y0, x1, y1 = feed["box"][0]
        inside = ((x >= x0) & (x <= x1))[None] & ((y >= y0) & (y <= y1))[:, None] | (feed["put"][0] == 0)
        logits = np.where((feed["fine"][0, 0] > 120) & inside, 5.0, -5.0).astype(np.float32)
        return {"logits": logits[None], "quality": np.ones(1, np.float32)}

    return PromptableRunner(embed, decode, shape=(1, *SIZE, 3), runtime="numpy")


def frame(number: int) -> Frame:
    pixels = np.full((*SIZE, 3), 40 + number % 16, np.uint8)
    pixels[ORGAN] = pixels[TOOL] = 200
    return Frame(number, np.kron(pixels, np.ones((2, 2, 1), np.uint8)), time.monotonic_ns())


def mask(number: int) -> np.ndarray:
    """Half of the organ is missing and the tool is there."""
    made = np.zeros(SIZE, np.uint8)
    made[10 : 20 - number % 3, 8:28] = 1
    made[TOOL] = 2
    return made


ON_ORGAN = {"class": 1, "click": [0.3, 0.5, 1]}
NOT_TOOL = {"class": 2, "click": [0.75, 0.75, 0]}


def show(display_state: DisplayState, number: int, *, masked: bool = True) -> Frame:
    new = frame(number)
    display_state.put_frame(new)
    if masked:
        display_state.put_result(InferenceResult(new, mask(number), empty_overlay(new.size), time.monotonic_ns()))
    return new


class Live:
    """A page whose masks can be corrected, and its client."""

    def __init__(self, collect: Path | None = None, *, prompt: bool = True, patient: PatientHead | None = None) -> None:
        card = ModelCard(name="tiny", classes=CLASSES, size=SIZE)
        case_writer = CorrectedCaseWriter(collect, classes=CLASSES, model="tiny@0") if collect else None
        self.corrections = CorrectionSession(bright_objects(), card, case_writer, patient=patient) if prompt else None
        self.display_state = DisplayState(FreshnessLimits(60_000, 120_000), model="tiny@0")
        context = CorrectableOutputContext(self.display_state, card, COLOURS, None, self.corrections)
        self.page = Page(context if prompt else OutputContext(self.display_state, card, COLOURS))

    def send(self, name: str, body: Any, *, token: str | None = None, **headers: str | None) -> tuple[int, bytes]:
        data = body if isinstance(body, bytes) else json.dumps(body).encode()
        link = http.client.HTTPConnection("127.0.0.1", self.page.port, timeout=10)
        usual = {"Content_Type": "application/json", "Content_Length": str(len(data))}
        link.putrequest("POST", f"/{token or self.page.token}/{name}", skip_host="Host" in headers)
        for key, value in {**usual, **headers}.items():
            if value is not None:
                link.putheader(key.replace("_", "-"), value)
        link.endheaders(data)
        answer = link.getresponse()
        said = answer.status, answer.read()
        link.close()
        return said

    def get(self, name: str) -> tuple[int, bytes]:
        link = http.client.HTTPConnection("127.0.0.1", self.page.port, timeout=10)
        link.request("GET", f"/{self.page.token}/{name}")
        answer = link.getresponse()
        said = answer.status, answer.read()
        link.close()
        return said

    def asked(self, name: str, body: Any) -> tuple[dict[str, Any], bytes, np.ndarray | None]:
        status, data = self.send(name, body)
        assert status == 200, data
        return unpacked(data)

    def refused(self, name: str, body: Any) -> tuple[int, str]:
        status, data = self.send(name, body)
        assert status != 200
        return status, data.decode()

    def frozen(self, number: int = 1) -> dict[str, int]:
        """A picture that the page was sent and has frozen."""
        show(self.display_state, number)
        self.get("look")
        return {"frame": number, "mask": number}

    def close(self) -> None:
        self.page.close()
        if self.corrections is not None:
            self.corrections.close()


def unpacked(data: bytes) -> tuple[dict[str, Any], bytes, np.ndarray | None]:
    length = int.from_bytes(data[:4], "big")
    said, rest = json.loads(data[4 : 4 + length]), data[4 + length :]
    grid = np.frombuffer(rest[said["jpeg_bytes"] :], np.uint8)
    return said, rest[: said["jpeg_bytes"]], grid.reshape(said["mask_size"]) if len(grid) else None
