"""Delays are what they are called, and pixels outside the marker are the source's own."""

from __future__ import annotations

import sys

import numpy as np
import pytest
from checkout import ROOT
from faulty_source import MODEL_SIZE, picture
from PIL import Image

from deploy.stream.state.display_state import DisplayState, FreshnessLimits
from deploy.stream.state.frames import Frame, InferenceResult
from deploy.stream.state.latency import LatencySeries, LatencyTracker
from deploy.stream.state.overlay import composite, count_changed_outside, empty_overlay, outline, palette, text_overlay

sys.path.insert(0, str(ROOT / "benchmarks"))
import queue_policies  # noqa: E402

MS = 1_000_000


def test_tracker_measures_video_and_annotation_latency() -> None:
    now = [0]
    display_state, latency = (
        DisplayState(FreshnessLimits(100, 500), model="m", clock=lambda: now[0]),
        LatencyTracker(check_every=1),
    )

    def show(at_ms: int) -> None:
        now[0] = at_ms * MS
        shown = display_state.snapshot()
        latency.record(shown, shown.picture(), shown_ns=now[0])

    first, second = Frame(0, picture(0), 0), Frame(1, picture(1), 33 * MS)
    display_state.put_frame(first)
    show(2)
    display_state.put_frame(second)
    show(37)  # still without a mask
    display_state.put_result(InferenceResult(first, np.ones(MODEL_SIZE, np.uint8), empty_overlay(first.size), 40 * MS))
    show(41)  # the mask of the first frame, on the second
    show(45)  # and again: it counts once
    said = latency.summary()
    assert latency.video.raw() == [(0, 2 * MS), (1, 4 * MS)]
    assert latency.annotation.raw() == [(0, 41 * MS)]
    assert said["shows"] == 4 and said["redrawn"] == 2 and said["states"]["stale"] == 2
    assert said["pictures_checked"] == 4 and said["pixels_outside_marker"] == 0


def test_tracker_counts_skipped_frames() -> None:
    display_state, latency = DisplayState(FreshnessLimits(100, 500), model="m", clock=lambda: 0), LatencyTracker()
    for k in (0, 1, 5, 6):
        display_state.put_frame(Frame(k, picture(k), 0))
        shown = display_state.snapshot()
        latency.record(shown, shown.picture(), shown_ns=0)
    assert latency.skipped == 3


def test_latency_series_stores_worst_frames_of_whole_stream() -> None:
    delay = LatencySeries(capacity=10)
    for k in range(100):
        delay.add(k, (500 if k == 3 else k) * MS)
    said = delay.summary()
    assert said is not None and said["n"] == 10 and delay.raw()[0][0] == 90
    assert said["worst"][0] == {"frame": 3, "ms": 500.0} and [w["frame"] for w in said["worst"][1:]] == [99, 98, 97, 96]
    assert LatencySeries().summary() is None


@pytest.mark.parametrize("grey", [False, True])
def test_count_changed_outside_finds_changed_pixels(grey: bool) -> None:
    pixels = picture(0)[..., 0].copy() if grey else picture(0)
    overlay = text_overlay("AI STALE: a test", (60, 80))
    shown = composite(pixels, overlay)
    assert count_changed_outside(shown, pixels, overlay) == 0 and (shown != 0).any()
    shown[0, 79] ^= 1
    shown[5, 70] ^= 1
    assert count_changed_outside(shown, pixels, overlay) == 2


def test_overlay_of_other_size_is_not_painted() -> None:
    pixels = picture(0)
    assert np.array_equal(composite(pixels, text_overlay("text", (600, 800))), pixels)


def test_outline_follows_border() -> None:
    y, x = np.mgrid[0:64, 0:96]
    disk = ((y - 30) ** 2 + (x - 40) ** 2 < 20**2).astype(np.uint8)
    overlay = outline(disk, size=(640, 960), colours=palette(2), thickness=3)
    rows, columns = np.divmod(overlay.index, 960)
    radius = np.hypot((rows + 0.5) / 10 - 30.5, (columns + 0.5) / 10 - 40.5)
    assert radius.min() > 19 and radius.max() < 20.8
    turn = np.unique(np.round(np.degrees(np.arctan2(rows - 305, columns - 405))).astype(int))
    assert len(turn) >= 360  # closed
    assert (overlay.colour == palette(2)[1]).all()


@pytest.mark.parametrize("seed", range(4))
def test_outline_separates_regions(seed: int) -> None:
    """Of ragged masks, at the size of the mask times eight: what the line encloses is what was enclosed."""
    noise = np.random.default_rng(seed).normal(size=(12, 16)).astype(np.float32)
    mask = (np.asarray(Image.fromarray(noise).resize((48, 36), Image.Resampling.BICUBIC)) > 0.2).astype(np.uint8)
    overlay = outline(mask, size=(288, 384), colours=palette(2), thickness=2)
    line = np.zeros(288 * 384, bool)
    line[overlay.index] = True
    line = line.reshape(288, 384)
    centres = (slice(4, None, 8), slice(4, None, 8))
    crossings = mask[:, 1:] != mask[:, :-1]
    for row, column in np.argwhere(crossings):
        between = line[row * 8 + 4, column * 8 + 3 : column * 8 + 14]
        assert between.any(), (row, column)
    far = np.ones_like(mask, bool)
    far[1:-1, 1:-1] = False
    same = mask[1:-1, 1:-1]
    for dy in (-1, 0, 1):
        for dx in (-1, 0, 1):
            far[1:-1, 1:-1] |= mask[1 + dy : 35 + dy, 1 + dx : 47 + dx] != same
    assert not line[centres][~far].any()


def test_outline_of_border_and_single_pixels_stays_inside_picture() -> None:
    mask = np.zeros((20, 30), np.uint8)
    mask[:, 0] = 1
    mask[0, 29] = 2
    overlay = outline(mask, size=(200, 300), colours=palette(3), thickness=3)
    assert overlay.index.min() >= 0 and overlay.index.max() < 200 * 300
    assert {tuple(c) for c in overlay.colour.tolist()} == {palette(3)[1], palette(3)[2]}
    assert len(outline(np.zeros((20, 30), np.uint8), size=(200, 300), colours=palette(3)).index) == 0


def test_queue_comparison_measures_every_policy() -> None:
    seen = queue_policies.measure(hz=200, model_s=0.02, seconds=0.5)
    said = queue_policies.table(seen, seconds=0.5)
    assert len(seen) == 3 and all(len(s.ages_ns) > 1 for s in seen.values())
    blocking, _, latest = seen.values()
    assert blocking.captured < latest.captured  # it holds its camera up
    assert all(name in said for name in queue_policies.POLICIES)


def test_queue_policies_hold_newest_items() -> None:
    oldest, latest = queue_policies.DropOldest(), queue_policies.KeepLatest()
    for k in range(9):
        oldest.put(k)
        latest.put(k)
    assert [oldest.take() for _ in range(5)] == [4, 5, 6, 7, 8] and latest.take() == 8
