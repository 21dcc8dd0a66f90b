"""The figures of an uncertainty, from maps and from a softmax, and `edgemt eval` on the float network of a run."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest

pytest.importorskip("torch")

from edgemt import cli  # noqa: E402
from edgemt.inference.evaluate_uncertainty import entropy_record, to_probability, uncertainty_record  # noqa: E402

TRUTHS = [np.zeros((4, 6), np.uint8), np.ones((4, 6), np.uint8)]
FRAMES = np.stack([np.full((4, 6, 1), value, np.uint8) for value in (10, 200)])


def test_a_map_that_marks_the_wrong_frame_finds_every_wrong_pixel() -> None:
    def predict(frames: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
        sure = frames[..., 0] < 100
        return np.zeros(frames.shape[:3], np.uint8), np.where(sure, 0, 255).astype(np.uint8)

    record = uncertainty_record(predict, FRAMES, TRUTHS)
    assert record["auroc"] == 1.0 and record["brier"] == record["ece"] == 0.0
    assert record["wrong"] == 0.5 and record["pixels"] == 48
    assert to_probability(np.array([0, 51, 255], np.uint8)).tolist() == pytest.approx([0, 0.04, 1])


def test_the_entropy_of_a_softmax_ranks_and_its_largest_probability_calibrates() -> None:
    def softmax(frames: np.ndarray) -> np.ndarray:
        p = np.where(frames[..., 0] < 100, 0.1, 0.4)
        return np.stack([1 - p, p], axis=1)

    record = entropy_record(softmax, FRAMES, TRUTHS)
    assert record["auroc"] == 1.0
    assert record["mean_probability"] == pytest.approx(0.25)
    assert record["brier"] == pytest.approx((0.1**2 + 0.6**2) / 2)


def test_eval_measures_the_float_network_of_a_run(tiny_run: Path, capsys: pytest.CaptureFixture[str]) -> None:
    cli.main(["eval", str(tiny_run / "student")])
    out = capsys.readouterr().out
    assert "weights.safetensors on torch (f32)" in out
    assert "softmax entropy: AUROC of wrong pixels 0." in out and "\nuncertainty:" not in out
