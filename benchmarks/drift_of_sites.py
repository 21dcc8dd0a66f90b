"""How many sessions until a planted drift is found, and how often one is found where there is none.

    python benchmarks/drift_of_sites.py SHIP FRAMES_FOLDER --json drift.json

Frames of the folder (searched for images of one kind) become pretend sessions of 40 frames that are like each other
in colour and area, as frames of one patient are. Groups of 5 to 11 sessions are drawn without replacement: two groups
as they are (no drift), and one with every frame changed: `lamp` (70 % of the light), `camera` (colder, sharper),
`population` (the second group from the sessions with the larger objects). Counted: in how many of the repetitions the
report finds any change.
"""

from __future__ import annotations

import argparse
import json
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
from PIL import Image, ImageFilter

from deploy.package.frame_features import matching_features
from deploy.package.input_drift import read_inputs
from deploy.package.package import open_package
from deploy.runtimes.load import runner
from deploy.site_statistics.compare import compare_sessions
from deploy.site_statistics.features import features_of, measure_mask, measure_picture
from deploy.site_statistics.session_file import SessionStatistics, histogram_of
from edgemt.io.atomic import write_text
from edgemt.io.images import fit_frame

FRAMES, SIZES = 40, (5, 6, 8, 11)


def lamp(frame: np.ndarray) -> np.ndarray:
    """70 % of the light."""
    return (frame * np.float32(0.7)).astype(np.uint8)


def camera(frame: np.ndarray) -> np.ndarray:
    """Another white balance, and edges sharpened by the processor."""
    sharp = np.asarray(Image.fromarray(frame).filter(ImageFilter.UnsharpMask(2, 120, 0)), np.float32)
    return np.clip(sharp * np.array([0.9, 1.0, 1.15], np.float32), 0, 255).astype(np.uint8)


def values_of(
    paths: list[Path], ship: Path, change: Callable[[np.ndarray], np.ndarray] | None
) -> list[dict[str, float]]:
    """The features of every frame, as a stream measures them; the age and the share without mask are left out."""
    package = open_package(ship)
    card, inputs = package.card, read_inputs(package)
    run = runner(package, threads=1)
    rows = []
    for number, path in enumerate(paths):
        frame = np.asarray(Image.open(path).convert("RGB"))
        frame = frame if change is None else change(frame)
        fitted = fit_frame(frame, size=tuple(card.size), channels=card.channels)
        values = measure_picture(frame) | measure_mask(run(fitted[None])[0], card.classes)
        features = matching_features(fitted[None], inputs.names) if inputs is not None else None
        if inputs is not None and features is not None:
            values["likeness"] = float(inputs.in_distribution_score(features)[0])
        rows.append(values)
        if number % 200 == 199:
            print(f"{number + 1}/{len(paths)}", file=sys.stderr, flush=True)
    return rows


def like_frames(rows: list[dict[str, float]], rng: np.random.Generator) -> list[np.ndarray]:
    """Indices of the frames of each session: a drawn frame and its nearest neighbours among those left."""
    names = [name for name in rows[0] if name in ("red", "green", "blue", "contrast") or name.startswith("area")]
    table = np.array([[row[name] for name in names] for row in rows])
    table = (table - table.mean(0)) / table.std(0)
    left = np.arange(len(rows))
    sessions = []
    while len(left) >= FRAMES:
        distance = ((table[left] - table[rng.choice(left)]) ** 2).sum(1)
        near = np.argsort(distance)[:FRAMES]
        sessions.append(left[near])
        left = np.delete(left, near)
    return sessions


def session(rows: list[dict[str, float]], chosen: np.ndarray, classes: tuple[str, ...]) -> SessionStatistics:
    features = {one.name: one for one in features_of(classes)}
    histograms = {name: histogram_of(one) for name, one in features.items()}
    for index in chosen:
        for name, value in rows[index].items():
            histograms[name].counts[features[name].bin_of(value)] += 1
    return SessionStatistics("", "", "", "", "", 0.0, len(chosen), histograms)


def measure(rows: dict[str, list[dict[str, float]]], classes: tuple[str, ...], *, repetitions: int) -> dict[str, Any]:
    """kind -> sessions in each group -> {found, features}."""
    out: dict[str, Any] = {}
    area = f"area of {classes[1]}"
    for kind in ("none", "lamp", "camera", "population"):
        out[kind] = {}
        for size in SIZES:
            found: list[list[str]] = []
            for repetition in range(repetitions):
                rng = np.random.default_rng([repetition, size])
                drawn = like_frames(rows["none"], rng)
                order = rng.permutation(len(drawn))
                if kind == "population":
                    large = np.array([np.mean([rows["none"][i][area] for i in one]) for one in drawn])
                    half = np.argsort(large)
                    order = np.concatenate([rng.permutation(half[: len(half) // 2])[:size],
                                            rng.permutation(half[len(half) // 2 :])[:size]])  # fmt: skip
                second = rows[kind] if kind in rows else rows["none"]
                a = [session(rows["none"], drawn[i], classes) for i in order[:size]]
                b = [session(second, drawn[i], classes) for i in order[size : 2 * size]]
                found.append([one.name for one in compare_sessions(a, b).changed])
            names = [name for some in found for name in some]
            out[kind][str(size)] = {
                "found": sum(map(bool, found)),
                "of": repetitions,
                "features": {name: names.count(name) for name in sorted(set(names))},
            }
            print(f"{kind:10} {size:2} sessions of {FRAMES} frames in each group: {out[kind][str(size)]}", flush=True)
    return out


def main() -> None:
    """Parse the command line and measure."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("ship", type=Path)
    parser.add_argument("folder", type=Path)
    parser.add_argument("--repetitions", type=int, default=20)
    parser.add_argument("--json", type=Path)
    args = parser.parse_args()
    paths = sorted(path for kind in ("*.jpg", "*.png") for path in args.folder.rglob(kind))
    paths = [path for path in paths if "masks" not in path.parts]
    if len(paths) < 2 * max(SIZES) * FRAMES:
        parser.error(f"{args.folder}: {len(paths)} images, {2 * max(SIZES) * FRAMES} are needed")
    changes: dict[str, Callable[[np.ndarray], np.ndarray] | None] = {"none": None, "lamp": lamp, "camera": camera}
    rows = {kind: values_of(paths, args.ship, change) for kind, change in changes.items()}
    result = measure(rows, tuple(open_package(args.ship).card.classes), repetitions=args.repetitions)
    if args.json:
        write_text(args.json, json.dumps({"frames_of_a_session": FRAMES, "drift": result}, indent=1) + "\n")


if __name__ == "__main__":
    main()
