"""Frames of another modality, camera or colour order are noticed, in words and once; those of the same are not."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest

from deploy.package.frame_features import matching_features
from deploy.package.input_drift import (
    INPUTS,
    InputDriftMonitor,
    InputStatistics,
    drift_message,
    measure,
    read_inputs,
    write_inputs,
)
from deploy.stream.sources.synthetic import SyntheticSource
from edgemt.data import phantom2d
from edgemt.io.images import fit_frame


def frames(seeds: range) -> np.ndarray:
    """uint8 [N, 48, 48, 3], a synthetic camera."""
    return np.stack([phantom2d.frame(seed, size=(48, 48))[0] for seed in seeds])


@pytest.fixture(scope="module")
def known() -> InputStatistics:
    return measure(frames(range(60)))


@pytest.fixture(scope="module")
def fresh() -> np.ndarray:
    return frames(range(1000, 1030))


def grey(pictures: np.ndarray) -> np.ndarray:
    return pictures.mean(-1, keepdims=True).astype(np.uint8)


def test_frames_of_the_same_kind_pass_together_and_one_by_one(known: InputStatistics, fresh: np.ndarray) -> None:
    assert drift_message(fresh, known, what="input") is None
    watch = InputDriftMonitor(known, what="input")
    assert not any(watch.update(frame) for frame in fresh)


@pytest.mark.parametrize("few", [2, 5, 12])
def test_a_dozen_training_frames_do_not_make_everything_strange(few: int, fresh: np.ndarray) -> None:
    assert drift_message(fresh, measure(frames(range(few))), what="input") is None


def test_many_slices_of_few_patients_do_not_make_other_patients_strange(fresh: np.ndarray) -> None:
    """Three patients, twenty slices each that differ little; the others are usual frames of other patients."""
    draw = np.random.default_rng(0)
    alike = [np.clip(frame.astype(int) + draw.integers(-4, 5), 0, 255) for frame in frames(range(3)) for _ in range(20)]
    slices = np.stack(alike).astype(np.uint8)
    assert drift_message(fresh, measure(slices), what="input") is not None
    by_patient = measure(slices, patients=3)
    assert drift_message(fresh, by_patient, what="input") is None
    assert drift_message(255 - fresh, by_patient, what="input") is not None


OTHER = {
    "a negative": lambda x: 255 - x,
    "red and blue swapped": lambda x: x[..., ::-1],
    "a dark room": lambda x: x // 8,
    "a lamp too bright": lambda x: np.clip(x.astype(int) * 3, 0, 255).astype(np.uint8),
    "noise": lambda x: np.random.default_rng(0).integers(0, 256, x.shape).astype(np.uint8),
    "nothing": np.zeros_like,
}


@pytest.mark.parametrize("kind", OTHER)
def test_frames_of_another_kind_are_said_in_one_sentence(kind: str, known: InputStatistics, fresh: np.ndarray) -> None:
    result = drift_message(OTHER[kind](fresh), known, what="calibration")
    assert result is not None
    assert result.startswith("calibration: ") and "unlike those of training" in result and "\n" not in result


def test_drift_message_names_deviating_feature(known: InputStatistics, fresh: np.ndarray) -> None:
    assert "black share" in (drift_message(np.zeros_like(fresh), known, what="x") or "")
    assert "of 30 frames" in (drift_message(255 - fresh, known, what="x") or "")
    assert "the frame is unlike" in (drift_message(np.zeros_like(fresh[:1]), known, what="x") or "")


def test_it_is_said_once(known: InputStatistics, fresh: np.ndarray) -> None:
    watch = InputDriftMonitor(known, what="input")
    assert sum(watch.update(255 - frame) is not None for frame in fresh) == 1


def test_a_single_odd_frame_among_many_is_no_alarm(known: InputStatistics, fresh: np.ndarray) -> None:
    assert drift_message(np.concatenate([fresh, np.zeros_like(fresh[:3])]), known, what="input") is None


def test_grey_frames_and_slices_are_known_again() -> None:
    one = measure(grey(frames(range(40))))
    assert drift_message(grey(frames(range(100, 130))), one, what="input") is None
    assert drift_message(255 - grey(frames(range(100, 130))), one, what="input") is not None
    five = np.repeat(grey(frames(range(40))), 5, axis=-1)
    assert drift_message(five, measure(five), what="input") is None


def test_frames_of_other_channels_are_not_compared_silently(known: InputStatistics, fresh: np.ndarray) -> None:
    assert "1 channels" in (drift_message(grey(fresh), known, what="input") or "")


def synthetic() -> np.ndarray:
    """uint8 [24, 48, 48, 3], of the synthetic video, which is no picture of any camera."""
    video = SyntheticSource("synthetic:640x360")
    return np.stack([fit_frame(video.frame(k), size=(48, 48), channels=3) for k in range(0, 120, 5)])


def in_distribution_score(pictures: np.ndarray, known: InputStatistics) -> np.ndarray:
    described = matching_features(pictures, known.names)
    assert described is not None
    return known.in_distribution_score(described)


def test_frames_of_another_kind_in_usual_colours_and_tones_are_still_unlike(known: InputStatistics) -> None:
    assert drift_message(synthetic(), known, what="source") is not None
    assert np.median(in_distribution_score(synthetic(), known)) < 0.5


def test_likeness_is_high_for_frames_of_the_same_kind_and_falls_with_the_distance(
    known: InputStatistics, fresh: np.ndarray
) -> None:
    own = in_distribution_score(fresh, known)
    assert np.median(own) > 0.95 and (own > 0.5).mean() > 0.9
    brighter = [
        float(np.median(in_distribution_score(np.clip(fresh * by, 0, 255).astype(np.uint8), known)))
        for by in (1, 1.5, 3)
    ]
    assert brighter == sorted(brighter, reverse=True) and brighter[-1] < 0.1


def test_statistics_of_fewer_descriptors_are_still_compared(known: InputStatistics, fresh: np.ndarray) -> None:
    few = [at for at, name in enumerate(known.names) if "saturation" not in name and "edges" not in name]
    old = replace(
        known,
        names=tuple(known.names[at] for at in few),
        **{key: tuple(getattr(known, key)[at] for at in few) for key in ("mean", "std", "low", "high")},
        inverse=tuple(tuple(known.inverse[at][other] for other in few) for at in few),
    )  # as written before those were known
    assert drift_message(fresh, old, what="x") is None and not any(
        InputDriftMonitor(old, what="x").update(frame) for frame in fresh
    )
    assert drift_message(255 - fresh, old, what="x") is not None
    assert "4 channels" in (drift_message(np.zeros((2, 48, 48, 4), np.uint8), old, what="x") or "")


def test_statistics_carry_the_histogram_and_survive_a_file(tmp_path: Path, known: InputStatistics) -> None:
    text = known.to_json()
    assert InputStatistics.from_json(text) == known
    assert np.asarray(known.histogram).sum(axis=1) == pytest.approx(1, abs=1e-4)
    assert known.mean[0] == pytest.approx(frames(range(60))[..., 0].mean(), abs=1e-3)
    for spoilt in ("", "[]", "{}", text.replace("reach", "rech"), text.replace("[[", "[[null, ", 1)):
        with pytest.raises(ValueError, match=r"inputs\.json: holds no input statistics"):
            InputStatistics.from_json(spoilt)


@pytest.mark.parametrize(
    "wrong", [np.zeros((0, 4, 4, 3), np.uint8), np.zeros((2, 4, 4, 3)), np.zeros((4, 4, 3), np.uint8)]
)
def test_nothing_cannot_be_known_again(wrong: np.ndarray) -> None:
    with pytest.raises(ValueError, match="inputs: needs uint8"):
        measure(wrong)


def test_a_ship_carries_them_under_its_hashes(tmp_path: Path, fresh: np.ndarray) -> None:
    pytest.importorskip("onnx")
    from tiny_package import make_ship

    from deploy.package.package import finalize, open_package

    ship = make_ship(tmp_path / "ship")
    assert read_inputs(ship) is None
    assert InputDriftMonitor(read_inputs(ship), what="input").update(fresh[0]) is None
    write_inputs(ship.folder, fresh)
    finalize(ship.folder, ship.card)
    again = open_package(ship.folder)
    assert read_inputs(again) == measure(fresh)
    (ship.folder / INPUTS).write_text("{}")
    with pytest.raises(ValueError, match=r"inputs\.json: changed"):
        open_package(ship.folder)
