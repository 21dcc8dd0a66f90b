"""The patient head on pretend patients with a simulated user: Dice without and with it, harm, garbage, cost.

    python benchmarks/patient_head.py SHIP --data.root DIR [--style strong] [--json FILE]

SHIP has features (edgemt export SHIP --with-features). A patient is a patient of the data where it names them (frames
of a volume), else a group of 8 frames of like colour and texture; each has a style of its own (gamma, gain of each
channel, blur), drawn from its number. The user looks at the frames in a random order and corrects those whose Dice is
below 0.9 to the true mask, one to five of them; the frames that were good until then, at most three, are confirmed as
they are (not with --no-confirm). Then all other frames are shown, three times, with all guards at their defaults,
except that a candidate is on trial for 5 frames instead of 30, as a patient has few. The Dice is of the third time.

Garbage: the same with wrong masks. `unguarded` is the fitted head without any test, to show what the guards do.
`bound`: what the same kind of head removes when it is fitted to the true masks of two thirds of all frames of the
patient, and judged on the last third, each third in turn. `even` and `odd`: patients by their number, as the limits
were chosen on even ones. Seconds of a fit are those of the processor.
"""

from __future__ import annotations

import json
import time
from collections.abc import Callable
from dataclasses import dataclass, field
from pathlib import Path
from typing import Annotated, Any, Literal

import cv2
import numpy as np
import tyro
from patient_head_cost import cost, cost_of_output, same_bits
from tyro.conf import Positional, arg

from deploy.adaptation.fit import Example, fit_head
from deploy.adaptation.guards import foreground_dice
from deploy.adaptation.head import read_head
from deploy.adaptation.limits import AdaptLimits, FitOptions
from deploy.adaptation.session import PatientHead, golden_examples
from deploy.hardware.machine import describe
from deploy.package.frame_features import frame_features
from deploy.package.golden import golden_pairs
from deploy.package.package import open_package
from deploy.runtimes.load import runner
from deploy.runtimes.runner import ModelRunner
from edgemt.inference.contours import patients_of
from edgemt.inference.evaluate_package import find_cases, read_cases

GROUP, HARM, WORTH_CORRECTING = 8, 0.01, 0.9
STYLES = {"none": (1.0, 0.0, 0.0), "mild": (2.0, 0.25, 1.5), "strong": (2.5, 0.4, 2.5)}  # gamma, gain, blur in pixels
WRONG: dict[str, Callable[[np.ndarray, np.random.Generator], np.ndarray]] = {
    "inverted": lambda mask, rng: np.where(mask > 0, 0, 1).astype(np.uint8),
    "empty": lambda mask, rng: np.zeros_like(mask),
    "everything": lambda mask, rng: np.ones_like(mask),
    "noise": lambda mask, rng: (rng.random(mask.shape) > 0.5).astype(np.uint8),
    "shifted by a third": lambda mask, rng: np.roll(mask, mask.shape[1] // 3, axis=1),
    "a blob anywhere": lambda mask, rng: _blob(mask.shape, rng),
}


@dataclass(frozen=True)
class Options:
    """What is measured."""

    ship: Positional[Path]
    root: Annotated[Path, arg(name="data.root")]
    val: Annotated[str, arg(name="data.val")] = ""
    file: str = "int8"
    runtime: str = "onnxruntime"
    style: Literal["none", "mild", "strong"] = "strong"
    corrections: tuple[int, ...] = (1, 2, 3, 5)
    repeats: int = 1  # orders of the frames
    shadow: int = 5
    confirm: bool = True  # good frames that are met before the last correction, at most three
    limits: AdaptLimits = field(default_factory=AdaptLimits)
    fit: FitOptions = field(default_factory=FitOptions)
    garbage: bool = True
    same_bits: int = 0  # frames that are run without a correction, and compared
    before: Path | None = None  # the ship without features: what the output of the graph costs
    json: Path | None = None


@dataclass(frozen=True, eq=False)
class Patient:
    """Frames of one pretend patient with their masks, the features and the shipped mask of each."""

    number: int
    frames: np.ndarray  # uint8 [N, H, W, K]
    truths: np.ndarray  # uint8 [N, H, W]
    features: list[np.ndarray]
    masks: list[np.ndarray]


class Replay:
    """A runner that returns stored features and masks of the frames that it knows: no frame is computed twice."""

    def __init__(self, patient: Patient) -> None:
        self._index = {frame.tobytes(): n for n, frame in enumerate(patient.frames)}
        self._patient, self._last = patient, 0

    def __call__(self, frames: np.ndarray) -> np.ndarray:
        self._last = self._index[frames[0].tobytes()]
        return self._patient.masks[self._last][None]

    def features(self) -> np.ndarray:
        return self._patient.features[self._last]


def main(options: Options) -> None:
    package = open_package(options.ship)
    infer = runner(package, runtime=options.runtime, file=options.file, threads=1)
    golden = golden_examples(infer, [(pair.frame, pair.mask) for pair in golden_pairs(package)])
    patients = make_patients(options, package, infer)
    head = read_head(package)
    rows: list[dict[str, Any]] = []
    for patient in patients:
        for repeat in range(options.repeats):
            for count in options.corrections:
                row = play(patient, head, golden, options, count=count, repeat=repeat)
                rows += [row] if row else []
    record: dict[str, Any] = {
        "ship": package.card.name, "file": infer.file, "runtime": infer.runtime, "style": options.style,
        "patients": len(patients), "frames": sum(len(p.frames) for p in patients), "machine": describe(),
        "parameters": head.parameters,
        "corrections": {n: summary([row for row in rows if row["count"] == n]) for n in options.corrections},
    }  # fmt: skip
    for part, name in enumerate(("even", "odd")):
        some = [row for row in rows if row["patient"] % 2 == part]
        record[name] = {n: summary([row for row in some if row["count"] == n]) for n in options.corrections}
    if options.garbage:
        record["garbage"] = {name: garbage(patients, head, golden, options, wrong) for name, wrong in WRONG.items()}
    record["bound"] = bound(patients, head)
    record["cost"] = cost(infer, head, golden, max(patients, key=lambda one: len(one.frames)).frames)
    if options.before is not None:
        record["cost"]["output"] = cost_of_output(options.before, options.ship, patients[0].frames)
    if options.same_bits:
        other = runner(package, runtime=options.runtime, file=options.file, threads=1)
        frames = np.concatenate([patient.frames for patient in patients])
        record["same_bits"] = same_bits(
            infer, other, PatientHead(head, golden, background=False), frames, options.same_bits
        )
    print(
        json.dumps(record["corrections"], indent=1),
        json.dumps(record.get("garbage")),
        json.dumps(record["bound"]),
        json.dumps(record["cost"]),
        sep="\n",
    )
    print(json.dumps(record.get("same_bits")))
    if options.json is not None:
        options.json.write_text(json.dumps({**record, "rows": rows}, indent=1) + "\n")


def make_patients(options: Options, package: Any, infer: ModelRunner) -> list[Patient]:
    """Groups of frames, each in its style, with what the shipped graph gives for them."""
    data, cases = find_cases(package, options.root, options.val)
    prepared, names = read_cases(package.card, data, cases), patients_of(cases)
    truths = np.stack(prepared.frame_truths())
    if len(set(names)) < len(prepared.frames) / 4:
        of = np.concatenate(
            [[name] * (rows.stop - rows.start) for name, rows in zip(names, prepared.rows, strict=True)]
        )
        groups = [np.flatnonzero(of == name) for name in dict.fromkeys(names)]
    else:
        groups = like_frames(prepared.frames)
    patients = []
    for number, group in enumerate(groups):
        patients.append(_patient(number, prepared.frames[group], truths[group], options, infer))
    return patients


def _patient(number: int, frames: np.ndarray, truths: np.ndarray, options: Options, infer: ModelRunner) -> Patient:
    frames = restyle(frames, number, STYLES[options.style])
    features, masks = [], []
    for frame in frames:
        masks.append(infer(frame[None])[0].copy())
        features.append(infer.features().copy())
    return Patient(number, frames, truths, features, masks)


def like_frames(frames: np.ndarray) -> list[np.ndarray]:
    """Groups of GROUP frames whose colour and texture are nearest."""
    values, _ = frame_features(frames)
    values = (values - values.mean(0)) / (values.std(0) + 1e-6)
    left, groups, rng = np.arange(len(frames)), [], np.random.default_rng(0)
    while len(left) >= GROUP:
        first = rng.choice(left)
        nearest = left[np.argsort(((values[left] - values[first]) ** 2).sum(1))[:GROUP]]
        groups.append(nearest)
        left = np.setdiff1d(left, nearest)
    return groups


def restyle(frames: np.ndarray, number: int, most: tuple[float, float, float]) -> np.ndarray:
    """The frames uint8 [N, H, W, K] in the style of patient `number`."""
    rng = np.random.default_rng(100 + number)
    gamma = np.exp(rng.uniform(-np.log(most[0]), np.log(most[0])))
    gain, sigma = rng.uniform(1 - most[1], 1 + most[1], frames.shape[-1]), rng.uniform(0, most[2])
    made = np.clip(np.rint(255 * (frames / 255.0) ** gamma * gain), 0, 255).astype(np.uint8)
    if sigma < 0.2:
        return made
    return np.stack([cv2.GaussianBlur(frame, (0, 0), sigma).reshape(frame.shape) for frame in made])


def play(
    patient: Patient, head: Any, golden: list[Example], options: Options, *, count: int, repeat: int = 0,
    wrong: Callable[[np.ndarray, np.random.Generator], np.ndarray] | None = None,
) -> dict[str, Any] | None:  # fmt: skip
    """One session; None if the patient has too few frames worth a correction, or none left to show."""
    rng = np.random.default_rng(1000 * repeat + patient.number)
    order = rng.permutation(len(patient.frames))
    before = {int(n): foreground_dice(patient.masks[n], patient.truths[n]) for n in order}
    bad = [n for n in before if before[n] < WORTH_CORRECTING and patient.truths[n].any()]
    chosen = bad[:count]
    if len(chosen) < count:
        return None
    met = list(before)[: list(before).index(chosen[-1])]
    good = [n for n in met if before[n] >= WORTH_CORRECTING and patient.masks[n].any()][:3] if options.confirm else []
    rest = [n for n in before if n not in chosen and n not in good]
    if len(rest) < 3:
        return None
    limits = AdaptLimits(**{**vars(options.limits), "shadow": options.shadow})
    session, infer = PatientHead(head, golden, limits=limits, options=options.fit, background=False), Replay(patient)
    began = time.process_time()
    for n in chosen:
        truth = patient.truths[n] if wrong is None else wrong(patient.truths[n], rng)
        session.correct(patient.frames[n], truth)
    for n in good:
        session.correct(patient.frames[n], patient.masks[n])
    infer(patient.frames[chosen[0]][None])
    session.take_corrections(infer)
    seconds = time.process_time() - began
    shown: dict[int, tuple[np.ndarray, bool]] = {}
    for _ in range(3):
        for n in rest:
            shown[n] = session.mask(infer, infer(patient.frames[n][None])[0])
    after = {n: foreground_dice(mask, patient.truths[n]) for n, (mask, _) in shown.items()}
    examples = [Example(patient.features[n], patient.truths[n]) for n in chosen]
    free = fit_head(head, examples, golden=golden, options=options.fit)
    unguarded = [foreground_dice(free.mask(patient.features[n]), patient.truths[n]) for n in rest]
    changes = session.record()["results"]["changes"]
    events = [change["event"] for change in changes]
    return {
        "patient": patient.number, "count": count, "confirmed": len(good), "seconds": seconds,
        "before": float(np.mean([before[n] for n in rest])), "after": float(np.mean(list(after.values()))),
        "unguarded": float(np.mean(unguarded)), "fitted": "fitted" in events, "took_over": "took-over" in events,
        "shown_adapted": float(np.mean([adapted for _, adapted in shown.values()])), "events": events,
        "tests": {test["test"]: test["measured"] for change in changes[:1] for test in change.get("tests", [])},
        "refused": next((c["reason"] for c in changes if c["event"] == "refused"), ""),
    }  # fmt: skip


def summary(rows: list[dict[str, Any]]) -> dict[str, Any]:
    """Means over patients; `harmed`: share of patients whose Dice falls by more than one point."""
    if not rows:
        return {"sessions": 0}
    before, after, free = (np.array([row[key] for row in rows]) for key in ("before", "after", "unguarded"))
    took = np.array([row["took_over"] for row in rows])
    return {
        "sessions": len(rows), "took_over": int(took.sum()), "before": round(float(before.mean()), 4),
        "after": round(float(after.mean()), 4), "harmed": int((after < before - HARM).sum()),
        "worst": round(float((after - before).min()), 4),
        "error_removed": _removed(before, after),
        "error_removed_where_taken_over": _removed(before[took], after[took]),
        "unguarded": round(float(free.mean()), 4), "unguarded_harmed": int((free < before - HARM).sum()),
        "fit_seconds": round(float(np.median([row["seconds"] for row in rows])), 3),
    }  # fmt: skip


def _removed(before: np.ndarray, after: np.ndarray) -> float | None:
    """Share of 1 - Dice that is gone."""
    return round(float(1 - (1 - after).sum() / (1 - before).sum()), 4) if len(before) else None


def bound(patients: list[Patient], head: Any) -> dict[str, Any]:
    """Dice before and after a fit to two thirds of all frames of a patient, on the last third."""
    before, after = [], []
    for patient in patients:
        third = np.random.default_rng(patient.number).permutation(len(patient.frames)) % 3
        examples = [Example(x, y) for x, y in zip(patient.features, patient.truths, strict=True)]
        gained = []
        for left_out in range(3):
            seen = [one for one, part in zip(examples, third, strict=True) if part != left_out]
            fitted = fit_head(head, seen, options=FitOptions(pull=0.003, replay=0))
            rest = [one for one, part in zip(examples, third, strict=True) if part == left_out]
            gained += [foreground_dice(fitted.mask(one.features), one.mask) for one in rest]
        before.append(np.mean([foreground_dice(m, t) for m, t in zip(patient.masks, patient.truths, strict=True)]))
        after.append(np.mean(gained))
    old, new = np.array(before), np.array(after)
    return {"before": round(float(old.mean()), 4), "after": round(float(new.mean()), 4),
            "error_removed": _removed(old, new), "harmed": int((new < old - HARM).sum())}  # fmt: skip


def garbage(
    patients: list[Patient], head: Any, golden: list[Example], options: Options,
    wrong: Callable[[np.ndarray, np.random.Generator], np.ndarray],
) -> dict[str, int]:  # fmt: skip
    """Sessions of three wrong corrections: how many were fitted, took over, and harmed."""
    rows = [row for patient in patients if (row := play(patient, head, golden, options, count=3, wrong=wrong))]
    return {
        "sessions": len(rows),
        "fitted": sum(row["fitted"] for row in rows),
        "took_over": sum(row["took_over"] for row in rows),
        "harmed": sum(row["after"] < row["before"] - HARM for row in rows),
    }


def _blob(shape: tuple[int, ...], rng: np.random.Generator) -> np.ndarray:
    y, x = np.mgrid[: shape[0], : shape[1]]
    centre, radius = rng.uniform(0, 1, 2) * shape, rng.uniform(0.1, 0.3) * shape[0]
    return ((y - centre[0]) ** 2 + (x - centre[1]) ** 2 < radius**2).astype(np.uint8)


if __name__ == "__main__":
    main(tyro.cli(Options))
