"""Outer and inner lines of live masks: what is drawn, where, and when the claim is dropped."""

from __future__ import annotations

import json
import threading

import numpy as np
import pytest

from deploy.stream.inference.contours import StreamContours, stream_contours
from deploy.stream.state import band_lines
from deploy.stream.state.band_lines import DeferredMarks, line_pixels, with_band_lines
from deploy.stream.state.display_state import DisplayState, FreshnessLimits
from deploy.stream.state.frames import Frame, InferenceResult
from deploy.stream.state.overlay import composite, empty_overlay
from deploy.stream.web.updates import PageUpdates
from edgemt.contour_margins import ContourMargins
from edgemt.io.contour_bands import Band
from edgemt.model_card import ModelCard

CLASSES = ("background", "organ", "tool")
MARGINS = ContourMargins(0.1, 0.0, "px", {"organ": 6.0, "tool": None}, {"organ": 4.0, "tool": 1.0}, 50, 50, "l", "hash")
COLOURS = ((128, 128, 128), (64, 240, 200), (255, 210, 63))


def organ() -> np.ndarray:
    y, x = np.mgrid[:64, :80]
    return np.asarray((y - 30) ** 2 + (x - 40) ** 2 <= 15**2).astype(np.uint8)


def test_the_claim_is_dropped_with_its_reason() -> None:
    card = ModelCard(classes=CLASSES, files={"m.onnx": "hash"}, contours={"m.onnx": MARGINS})
    contours = stream_contours(card, file="m.onnx")
    assert [band.value for band in contours.of(organ())] == [1]
    assert contours.dropped(0.9) == contours.dropped(None) == ""
    assert contours.dropped(0.3) == "the picture is unlike those of training, so the calibration does not hold"
    assert "a vote of several" in contours.dropped(0.9, voted=True)
    assert "dashed line encloses all of the true area" in contours.claim
    absent = stream_contours(card, file="other.onnx")
    assert "no margins for other.onnx" in absent.dropped(0.9)
    assert (absent.of(organ()), absent.claim) == ((), "")
    volumes = ModelCard(
        classes=CLASSES,
        files={"m.onnx": "hash"},
        contours={"m.onnx": ContourMargins(0.1, 0.0, "mm", {"organ": 6.0}, {"organ": 4.0}, 50, 50, "l", "hash")},
    )
    assert "are of volumes" in stream_contours(volumes, file="m.onnx").reason


@pytest.mark.parametrize("opencv", [True, False])
def test_lines_lie_on_the_edges_of_the_regions(opencv: bool, monkeypatch: pytest.MonkeyPatch) -> None:
    if opencv:
        pytest.importorskip("cv2")
    else:
        monkeypatch.setattr(band_lines, "find_opencv", lambda: None)
    (band,) = StreamContours(CLASSES, MARGINS).of(organ())
    for size in ((64, 80), (256, 320)):
        scale = size[0] / 64
        drawn = {}
        for region, radius in ((band.outer, 21), (band.inner, 11)):
            assert region is not None
            for dashed in (True, False):
                index = line_pixels(region, size=size, thickness=1, dashed=dashed)
                y, x = np.divmod(index, size[1])
                distance = np.hypot((y + 0.5) / scale - 30.5, (x + 0.5) / scale - 40.5)
                assert np.abs(distance - radius).max() < 1.6
                drawn[radius, dashed] = len(np.unique(index))
        assert drawn[21, True] < 0.8 * drawn[21, False]


def test_lines_are_added_to_the_overlay_in_the_colour_of_the_class() -> None:
    bands = StreamContours(CLASSES, MARGINS).of(organ())
    overlay = with_band_lines(empty_overlay((128, 160)), bands, colours=COLOURS)
    assert len(overlay.index) == len(overlay.colour) > 50
    assert (overlay.colour == COLOURS[1]).all()
    assert int(overlay.index.max()) < 128 * 160
    assert with_band_lines(empty_overlay((128, 160)), (), colours=COLOURS).index.size == 0


def test_a_mask_does_not_wait_for_its_lines_and_they_are_computed_once() -> None:
    contours, calls = StreamContours(CLASSES, MARGINS), []

    def compute() -> tuple[Band, ...]:
        calls.append(threading.current_thread())
        return contours.of(organ())

    state = DisplayState(FreshnessLimits(60_000, 60_000), model="tiny@0")
    frame = Frame(1, np.full((64, 80, 3), 9, np.uint8), state.clock())
    marks = DeferredMarks(bands=compute, colours=COLOURS)
    state.put_frame(frame)
    state.put_result(InferenceResult(frame, organ(), empty_overlay((64, 80)), state.clock(), marks=marks))
    snapshot = state.snapshot()
    assert (calls, snapshot.overlay.index.size) == ([], 0)
    pictures: list[np.ndarray | None] = []
    threads = [threading.Thread(target=lambda: pictures.append(state.snapshot().picture())) for _ in range(3)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join(10)
    assert calls == calls[:1] != []
    assert calls[0] in threads
    want = composite(frame.pixels, with_band_lines(empty_overlay((64, 80)), contours.of(organ()), colours=COLOURS))
    assert all(np.array_equal(picture, want) for picture in pictures if picture is not None)
    assert len(pictures) == 3
    assert not np.array_equal(want, frame.pixels)


def test_the_page_gets_the_regions_with_a_new_mask_and_the_reason_in_the_record() -> None:
    state = DisplayState(FreshnessLimits(60_000, 60_000), model="tiny@0", claim="in at least 90 of 100")
    updates = PageUpdates(
        state, classes=CLASSES, colours=COLOURS, recording=lambda: False, encode=lambda pixels: b"jpeg"
    )
    assert updates.about["claim"] == "in at least 90 of 100"
    bands = StreamContours(CLASSES, MARGINS).of(organ())

    def show(number: int, **of: object) -> tuple[dict, bytes]:
        frame = Frame(number, np.zeros((64, 80, 3), np.uint8), state.clock())
        state.put_frame(frame)
        state.put_result(InferenceResult(frame, organ(), empty_overlay((64, 80)), state.clock(), **of))  # type: ignore[arg-type]
        data = updates.next(version=-1, frame=-1, mask=-1, wait_s=0)
        length = int.from_bytes(data[:4], "big")
        message = json.loads(data[4 : 4 + length])
        return message, data[4 + length + message["jpeg_bytes"] + message["mask_bytes"] :]

    message, lines = show(1, marks=DeferredMarks(bands=lambda: bands, colours=COLOURS))
    assert message["lines"] == [{"class": 1, "outer": True}, {"class": 1, "outer": False}]
    outer, inner = (
        np.unpackbits(np.frombuffer(part, np.uint8))[: 64 * 80].reshape(64, 80) for part in (lines[:640], lines[640:])
    )
    assert np.array_equal(outer, bands[0].outer)
    assert np.array_equal(inner, bands[0].inner)
    message, lines = show(2, contours="no margins")
    assert (message["lines"], lines, message["record"]["contours"]) == ([], b"", "no margins")
