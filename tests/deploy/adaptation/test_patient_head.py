"""A head that is fitted to corrections: its fit, its tests, and the states of one session, on arrays."""

from __future__ import annotations

import json
from collections.abc import Callable
from typing import Any

import numpy as np
import pytest

from deploy.adaptation.fit import Example, fit_head
from deploy.adaptation.guards import FrameGuard, foreground_dice, judge
from deploy.adaptation.head import MAX_PARAMETERS, ClassifierHead, label_shares, shipped_head, upsampled
from deploy.adaptation.limits import AdaptLimits, FitOptions
from deploy.adaptation.session import PatientHead, golden_examples

SIZE, COARSE, DEPTH = (64, 64), (16, 16), 6
DARK = 0.4  # brightness of the organ in this patient, below the threshold of the shipped head
SHADOW = 5
UNLIKE = 20.0


def head() -> ClassifierHead:
    """Class 1 where the first feature is above 0.5; the others have no weight."""
    weight = np.zeros((2, DEPTH))
    weight[1, 0] = 12.0
    return shipped_head(weight, np.array([0.0, -6.0]), size=SIZE)


def picture(seed: int, *, organ: float = DARK) -> np.ndarray:
    """uint8 [1, H, W, K]: an organ on a dark ground. The channels are brightness and noise."""
    rng = np.random.default_rng(seed)
    frame = rng.uniform(0, 0.12, (*SIZE, DEPTH))
    y, x = rng.integers(8, 28, 2)
    frame[y : y + 24, x : x + 24, 0] += organ
    return np.clip(np.rint(255 * frame), 0, 255).astype(np.uint8)[None]


def truth(seed: int) -> np.ndarray:
    rng = np.random.default_rng(seed)
    rng.uniform(0, 0.12, (*SIZE, DEPTH))
    y, x = rng.integers(8, 28, 2)
    mask = np.zeros(SIZE, np.uint8)
    mask[y : y + 24, x : x + 24] = 1
    return mask


class Runner:
    """Features are the channels of the frame, averaged over 4 x 4 pixels."""

    def __init__(self) -> None:
        self.calls = 0

    def __call__(self, frames: np.ndarray) -> np.ndarray:
        self.calls += 1
        coarse = (frames[0].astype(np.float32) / 255).reshape(COARSE[0], 4, COARSE[1], 4, DEPTH).mean((1, 3))
        self._features = np.ascontiguousarray(coarse.transpose(2, 0, 1), np.float32)
        return head().mask(self._features)[None]

    def features(self) -> np.ndarray:
        return self._features


def example(seed: int, mask: np.ndarray | None = None, *, organ: float = DARK) -> Example:
    infer = Runner()
    infer(picture(seed, organ=organ))
    return Example(infer.features(), truth(seed) if mask is None else mask)


def golden() -> list[Example]:
    """Frames of the training population: a bright organ, which the shipped head finds."""
    return golden_examples(Runner(), [(picture(seed, organ=0.8), truth(seed)) for seed in range(100, 104)])


def session(**limits: Any) -> PatientHead:
    options = AdaptLimits(**{"shadow": SHADOW, "unlike": UNLIKE, "disagreement": 1.0, "golden_loss": 0.1, **limits})
    return PatientHead(head(), golden(), limits=options, options=FitOptions(replay=0.5), background=False)


def watched(patient: PatientHead) -> list[str]:
    names: list[str] = []
    patient.observe = lambda name, fields: names.append(name)
    return names


def show(patient: PatientHead, infer: Runner, seed: int, **options: Any) -> tuple[np.ndarray, bool]:
    """A frame as the inference thread treats it."""
    shipped_mask = infer(picture(seed, **options))[0]
    shown, adapted = patient.mask(infer, shipped_mask)
    patient.take_corrections(infer)
    return shown, adapted


def teach(
    patient: PatientHead, infer: Runner, *seeds: int, wrong: Callable[[np.ndarray], np.ndarray] | None = None
) -> None:
    for seed in seeds:
        patient.correct(picture(seed)[0], truth(seed) if wrong is None else wrong(truth(seed)))
        show(patient, infer, seed)


def adapted_session(infer: Runner, **limits: Any) -> PatientHead:
    patient = session(**limits)
    teach(patient, infer, 1, 2, 3)
    for seed in range(10, 10 + SHADOW):
        show(patient, infer, seed)
    assert patient.state == "adapted"
    return patient


def test_upsampling_is_that_of_the_exported_graph() -> None:
    torch = pytest.importorskip("torch")
    plane = np.random.default_rng(0).normal(size=(12, 10)).astype(np.float32)
    for size in ((48, 40), (64, 53)):
        wanted = torch.nn.functional.interpolate(torch.from_numpy(plane)[None, None], size=size, mode="bilinear")
        assert np.allclose(upsampled(plane, size), wanted[0, 0].numpy(), atol=1e-5)


def test_an_unchanged_head_has_the_classes_of_the_shipped_classifier() -> None:
    rng = np.random.default_rng(1)
    weight, bias, features = rng.normal(size=(4, DEPTH)), rng.normal(size=4), rng.normal(size=(DEPTH, *COARSE))
    made = shipped_head(weight, bias, size=SIZE)
    logits = np.einsum("cd,dhw->chw", weight, features) + bias[:, None, None]
    wanted = np.stack([upsampled(one.astype(np.float32), SIZE) for one in logits]).argmax(0)
    assert (made.mask(features.astype(np.float32)) == wanted).mean() > 0.999
    assert made.parameters == 4 * (4 * DEPTH + 1)


def test_scores_and_mask_of_a_changed_head_are_those_of_its_inputs() -> None:
    rng = np.random.default_rng(2)
    features = rng.normal(size=(DEPTH, *COARSE)).astype(np.float32)
    made = shipped_head(rng.normal(size=(4, DEPTH)), rng.normal(size=4), size=SIZE)
    made = made.changed(0.3 * rng.normal(size=made.change.shape))
    inputs = made.inputs(features).reshape(-1, COARSE[0] * COARSE[1])
    logits = made.weight @ inputs[:DEPTH] + made.bias[:, None]
    changed = logits + made.change[:, :-1] @ inputs + made.change[:, -1:]
    for found, wanted in zip(made.scores(features), (logits, changed), strict=True):
        assert np.allclose(found, (wanted[1:] - wanted[0]).reshape(3, *COARSE), atol=1e-4)
    full = np.stack([upsampled(plane.reshape(COARSE).astype(np.float32), SIZE) for plane in changed])
    assert (made.mask(features) == full.argmax(0)).mean() > 0.999


def test_means_are_those_of_the_squares_around_a_pixel() -> None:
    features = np.zeros((1, 64, 64), np.float32)
    features[0, 32, 32] = 1.0
    inputs = shipped_head(np.ones((2, 1)), np.zeros(2), size=SIZE).inputs(features)
    assert [int(np.count_nonzero(plane > 1e-6)) for plane in inputs] == [1, 5**2, 13**2, 25**2]
    assert np.allclose(inputs.sum((1, 2)), 1, atol=1e-4)


def test_a_wide_classifier_is_changed_with_fewer_surroundings() -> None:
    made = shipped_head(np.zeros((2, 900)), np.zeros(2), size=SIZE)
    assert made.parameters == 2 * (2 * 900 + 1)
    assert np.array_equal(made.mask(np.ones((900, *COARSE), np.float32)), np.zeros(SIZE))


def test_a_classifier_that_is_too_wide_is_refused() -> None:
    depth = MAX_PARAMETERS // 2
    with pytest.raises(ValueError, match="at most 5000 are adapted"):
        shipped_head(np.zeros((2, depth)), np.zeros(2), size=SIZE)


def test_label_shares_are_shares() -> None:
    shares = label_shares(truth(3), COARSE, classes=3)
    assert np.allclose(shares.sum(0), 1) and shares[2].max() == 0
    assert abs(shares[1].mean() - truth(3).mean()) < 0.01


def test_a_fit_finds_the_darker_organ_and_is_the_same_each_time() -> None:
    one, two = (fit_head(head(), [example(1), example(2)], golden=golden()) for _ in range(2))
    assert np.array_equal(one.change, two.change)
    unseen = example(7)
    assert foreground_dice(head().mask(unseen.features), unseen.mask) < 0.1
    assert foreground_dice(one.mask(unseen.features), unseen.mask) > 0.8


def test_a_fit_tells_two_places_with_the_same_features_by_their_surroundings() -> None:
    def scene(shift: int) -> Example:
        features = np.zeros((2, *COARSE), np.float32)
        features[0, 2:6, 2 + shift : 4 + shift] = features[0, 10:14, 2 + shift : 4 + shift] = 1
        features[1, 9:15, 4 + shift :] = 1  # beside the second place alone
        mask = np.zeros(SIZE, np.uint8)
        mask[40:56, 8 + 4 * shift : 16 + 4 * shift] = 1
        return Example(features, mask)

    shipped = shipped_head(np.array([[0.0, 0.0], [8.0, 0.0]]), np.array([0.0, -4.0]), size=SIZE)
    unseen = scene(3)
    assert shipped.mask(unseen.features)[:32].any()
    fitted = fit_head(shipped, [scene(0), scene(1), scene(5)], options=FitOptions(pull=1e-3, steps=200))
    found = fitted.mask(unseen.features)
    assert not found[:32].any() and foreground_dice(found, unseen.mask) > 0.75  # the first place is gone


def test_a_fit_to_masks_that_are_right_already_and_a_strong_pull_change_little() -> None:
    right = [example(seed, organ=0.8) for seed in (1, 2)]
    free, tied = (fit_head(head(), right, options=FitOptions(pull=pull, replay=0)).change for pull in (1e-3, 100.0))
    assert np.abs(tied).max() < 0.05 * np.abs(free).max()


def test_one_correction_alone_is_never_enough() -> None:
    judged = judge(head(), [example(1)], golden(), limits=AdaptLimits(), options=FitOptions())
    assert judged.refused.startswith("confirmed masks with a structure 1")


def test_a_candidate_that_loses_on_the_golden_frames_is_refused() -> None:
    inverted = [example(seed, 1 - truth(seed)) for seed in (1, 2, 3)]
    judged = judge(head(), inverted, golden(), limits=AdaptLimits(), options=FitOptions(replay=0.01))
    assert "golden" in judged.refused


def test_a_candidate_that_does_not_help_the_held_back_corrections_is_refused() -> None:
    others = [example(seed, truth(seed + 60), organ=0.8) for seed in (1, 2, 3)]
    judged = judge(head(), others, golden(), limits=AdaptLimits(golden_loss=1.0, unsure=100.0), options=FitOptions())
    assert "left-out" in judged.refused


def test_without_a_correction_the_mask_is_the_same_object_and_no_features_are_read() -> None:
    class NoFeatures(Runner):
        def features(self) -> np.ndarray:
            raise AssertionError("features were read")

    patient, infer = session(), NoFeatures()
    for seed in range(20):
        shipped_mask = infer(picture(seed))[0]
        shown, adapted = patient.mask(infer, shipped_mask)
        patient.take_corrections(infer)
        assert shown is shipped_mask and not adapted
    assert infer.calls == 20


def test_a_good_candidate_runs_unseen_and_then_takes_over() -> None:
    patient, infer = session(), Runner()
    names = watched(patient)
    teach(patient, infer, 1, 2, 3)
    assert (names, patient.state) == (["refused", "refused", "fitted"], "shadow")
    for number, seed in enumerate(range(10, 10 + SHADOW)):
        shown, adapted = show(patient, infer, seed)
        assert not adapted and shown.sum() == 0, number
    assert names[-1] == "took-over"
    shown, adapted = show(patient, infer, 30)
    assert adapted and foreground_dice(shown, truth(30)) > 0.8
    assert patient.record()["results"]["adapted_masks"] == 1


@pytest.mark.parametrize(
    ("limits", "frame", "test"),
    [
        ({"disagreement": 0.2}, {"organ": DARK}, "between the two heads"),
        ({"unlike": 0.5}, {"organ": 0.9}, "distance to the corrected frames"),
        ({"unsure": 0.001}, {"organ": DARK}, "uncertainty"),
    ],
)
def test_a_frame_that_fails_a_test_has_the_shipped_mask_at_once(
    limits: dict[str, float], frame: dict[str, float], test: str
) -> None:
    infer = Runner()
    patient = adapted_session(infer)
    patient._running = type(patient._running)(  # type: ignore[misc, union-attr, call-arg]
        patient._running.head,  # type: ignore[union-attr]
        FrameGuard(
            head(),
            corrections=[example(1)],
            golden=golden(),
            limits=AdaptLimits(**{"unlike": 50.0, "disagreement": 1.0, "unsure": 1e6, **limits}),
        ),
    )
    names = watched(patient)
    shown, adapted = show(patient, infer, 40, **frame)
    assert not adapted and np.array_equal(shown, head().mask(infer.features()))
    assert names == ["fell-back"] and patient.state == "shadow"
    assert test in patient.record()["results"]["changes"][-1]["test"]


def test_small_masks_may_differ_and_large_ones_may_not() -> None:
    guard = FrameGuard(head(), corrections=[example(1)], golden=golden(), limits=AdaptLimits(unlike=1e3, unsure=1e3))
    features, empty = example(2).features, np.zeros(SIZE, np.uint8)
    for side, passed in ((8, True), (24, False)):  # the corrected organ is 24 x 24, and the shipped head misses it
        small = empty.copy()
        small[:side, :side] = 1
        difference = guard.tests(features, head().scores(features), shown=empty, adapted=small)[0]
        assert difference.passed == passed and abs(difference.measured - side**2 / 24**2) < 1e-6


def test_failed_frames_count_from_the_last_take_over() -> None:
    infer = Runner()
    patient = adapted_session(infer, fall_backs=2)
    for start in (60, 70, 80):
        show(patient, infer, 50, organ=2.0)
        assert patient.state == "shadow"
        for seed in range(start, start + SHADOW):
            show(patient, infer, seed)
        assert patient.state == "adapted"


def test_a_part_of_a_change_that_loses_as_a_whole_on_the_golden_frames_is_refused() -> None:
    inverted = [example(seed, 1 - truth(seed)) for seed in (1, 2, 3)]
    limits = AdaptLimits(golden_loss=0.5, unsure=100.0, worst=-1.0, gain=1e-3)
    options = FitOptions(replay=0.01)
    judged = judge(head(), inverted, golden(), limits=limits, options=options)
    assert "golden" in judged.refused and judged.tests[1].measured > 0.5
    part = fit_head(head(), inverted, golden=golden(), options=options)
    quarter = part.changed(0.25 * part.change)
    lost = [foreground_dice(head().mask(g.features), g.mask) - foreground_dice(quarter.mask(g.features), g.mask)
            for g in golden()]  # fmt: skip
    assert np.mean(lost) < 0.5


def test_after_several_failed_frames_the_head_is_dropped() -> None:
    infer = Runner()
    patient = adapted_session(infer, fall_backs=2)
    names = watched(patient)
    for _ in range(2):
        show(patient, infer, 50, organ=2.0)
    assert names == ["fell-back", "shadow-failed"] and patient.state == "shipped"
    assert patient.record()["results"]["changes"][-1]["dropped"]
    assert not any(show(patient, infer, seed)[1] for seed in range(60, 60 + 2 * SHADOW))


def test_the_operator_returns_to_the_shipped_head() -> None:
    infer = Runner()
    patient = adapted_session(infer)
    names = watched(patient)
    assert patient.use_shipped() and not patient.use_shipped()
    assert names == ["operator-return"] and (patient.state, patient.corrections) == ("shipped", 0)
    assert not show(patient, infer, 11)[1]


def test_garbage_corrections_leave_the_shipped_head() -> None:
    rng = np.random.default_rng(0)
    kinds: list[Callable[[np.ndarray], np.ndarray]] = [
        lambda mask: 1 - mask,
        lambda mask: np.zeros_like(mask),
        lambda mask: np.ones_like(mask),
        lambda mask: (rng.random(mask.shape) > 0.5).astype(np.uint8),
        lambda mask: np.roll(mask, 32, axis=1),
    ]
    for number, wrong in enumerate(kinds):
        limits, infer = AdaptLimits(shadow=SHADOW, unlike=UNLIKE), Runner()
        patient = PatientHead(head(), golden(), limits=limits, background=False)
        names = watched(patient)
        teach(patient, infer, 1, 2, 3, wrong=wrong)
        assert not any(show(patient, infer, seed)[1] for seed in range(10, 10 + 3 * SHADOW)), number
        assert "took-over" not in names, number


def test_empty_masks_alone_are_no_reason_to_change() -> None:
    empty = [example(seed, np.zeros(SIZE, np.uint8), organ=0.8) for seed in range(4)]
    judged = judge(head(), empty, golden(), limits=AdaptLimits(golden_loss=1.0, unsure=100.0), options=FitOptions())
    assert judged.refused.startswith("confirmed masks with a structure 0")


def test_a_mask_of_another_size_or_class_is_refused() -> None:
    patient = session()
    for mask in (np.zeros((8, 8), np.uint8), np.full(SIZE, 2, np.uint8), np.zeros(SIZE, np.float32)):
        with pytest.raises(ValueError, match="correction: a mask"):
            patient.correct(picture(1)[0], mask)


def test_the_end_forgets_everything_and_the_record_has_no_pixels() -> None:
    infer = Runner()
    patient = adapted_session(infer)
    patient.close()
    patient.correct(picture(1)[0], truth(1))
    assert patient.corrections == 0 and not show(patient, infer, 11)[1]
    record = patient.record()
    assert [change["event"] for change in record["results"]["changes"]] == [
        "refused",
        "refused",
        "fitted",
        "took-over",
        "forgotten",
    ]
    assert {"description_of_modifications", "modification_protocol", "impact_assessment"} < set(record)
    assert len(json.dumps(record)) < 6000


def test_a_fit_that_the_operator_overtakes_is_not_used() -> None:
    patient = session()
    names = watched(patient)
    examples = [example(1), example(2)]
    patient._corrections.extend(examples)
    number = patient._fit
    patient.use_shipped()
    patient._run_fit(number, examples)
    assert names == ["operator-return"] and patient.state == "shipped"


@pytest.mark.parametrize("options", [{"gain": 0.0}, {"shadow": 0}, {"golden_loss": -1.0}, {"unlike": float("nan")}])
def test_limits_out_of_range_are_refused(options: dict[str, Any]) -> None:
    with pytest.raises(ValueError, match=f"adaptation.{next(iter(options))}"):
        AdaptLimits(**options)
