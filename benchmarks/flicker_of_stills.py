"""Flicker of a ship on pseudo-videos: each validation image becomes a clip under a slow, known camera motion.

    python benchmarks/flicker_of_stills.py runs/before/ship runs/after/ship --data.root kvasir-seg --json flicker.json

A clip has 16 frames: the image under a smooth path of pan, zoom and rotation, with a drift of exposure, fresh sensor
noise and JPEG in each frame, all drawn from the number of the clip. The flow between frames is known exactly, so the
flicker (edgemt/metrics/flicker.py) has no error of an optical flow in it. Pixels beyond the image are left out. `truth`
is the flicker of the true masks under the same motion: what interpolation alone costs.

Several ships see the same frames; the difference to the first one has a 95 % interval over clips (bootstrap).
"""

from __future__ import annotations

import argparse
import json
import math
import sys
from pathlib import Path
from typing import Any, NamedTuple

import cv2
import numpy as np

from deploy.package.package import open_package
from deploy.runtimes.load import runner
from deploy.stream.inference.mask_vote import MaskVote
from edgemt.contract import Runner
from edgemt.data.cohort import split_dataset
from edgemt.data.options import DataOptions
from edgemt.inference.evaluate import EvalSet, prepare
from edgemt.io.atomic import write_text
from edgemt.io.images import fit_label
from edgemt.metrics.flicker import FlickerMeter, Flow, known_flow, mean_record

FRAMES = 16
PAN, ZOOM, DEGREES = 0.06, 0.06, 6.0  # largest deviation from the still: share of the side, share, degrees
EXPOSURE, NOISE, QUALITY = 0.15, 4.0, 85  # share, grey levels (standard deviation), of JPEG


class Clip(NamedTuple):
    """Frames uint8 [T, H, W, K], true masks uint8 [T, H, W], pixels inside of the still bool [T, H, W], T - 1 flows."""

    frames: np.ndarray
    truths: np.ndarray
    inside: np.ndarray
    flows: list[Flow]


def pseudo_video(still: np.ndarray, truth: np.ndarray, *, seed: int, frames: int = FRAMES) -> Clip:
    """A clip of a still uint8 [H, W, K] and its mask uint8 [H, W]."""
    rng = np.random.default_rng(seed)
    height, width = truth.shape
    phase, rate = rng.uniform(0, 2 * np.pi, 5), rng.uniform(0.15, 0.35, 5)  # radians, and radians a frame
    poses, made, masks, inside = [], [], [], []
    for t in range(frames):
        across, down, zoom, turn, light = np.sin(phase + rate * t)
        pose = _pose(across * PAN * width, down * PAN * height, 1 + ZOOM * zoom, DEGREES * turn, size=(height, width))
        moved = cv2.warpAffine(
            still,
            pose[:2],
            (width, height),
            flags=cv2.INTER_CUBIC | cv2.WARP_INVERSE_MAP,
            borderMode=cv2.BORDER_REFLECT,
        ).reshape(still.shape)
        lit = moved * (1 + EXPOSURE * light) + rng.normal(0, NOISE, still.shape)
        made.append(_jpeg(np.clip(np.rint(lit), 0, 255).astype(np.uint8)))
        masks.append(_moved_mask(truth, pose))
        y, x = np.mgrid[:height, :width]
        at = np.einsum("ij,jhw->ihw", pose[:2], np.stack([x, y, np.ones_like(x)]))
        inside.append((at[0] >= 0) & (at[0] <= width - 1) & (at[1] >= 0) & (at[1] <= height - 1))
        poses.append(pose)
    flows = []
    for t in range(1, frames):
        back = np.linalg.inv(poses[t - 1]) @ poses[t]  # position in the present frame -> in the last one
        motion = np.einsum("ij,jhw->hwi", back[:2], np.stack([x, y, np.ones_like(x)])) - np.stack([x, y], -1)
        flow = known_flow(motion)
        flows.append(Flow(flow.motion, flow.valid & inside[t]))
    return Clip(np.stack(made), np.stack(masks), np.stack(inside), flows)


def _pose(across: float, down: float, zoom: float, degrees: float, *, size: tuple[int, int]) -> np.ndarray:
    """[3, 3]: pixel (x, y, 1) of a frame -> pixel of the still."""
    height, width = size
    centre, back = np.eye(3), np.eye(3)
    centre[:2, 2] = -(width - 1) / 2, -(height - 1) / 2
    back[:2, 2] = (width - 1) / 2 + across, (height - 1) / 2 + down
    cos, sin = math.cos(math.radians(degrees)) * zoom, math.sin(math.radians(degrees)) * zoom
    turn = np.array([[cos, -sin, 0], [sin, cos, 0], [0, 0, 1]])
    return np.asarray(back @ turn @ centre)


def _moved_mask(truth: np.ndarray, pose: np.ndarray) -> np.ndarray:
    shares = [
        cv2.warpAffine(
            (truth == c).astype(np.float32), pose[:2], truth.shape[::-1],
            flags=cv2.INTER_LINEAR | cv2.WARP_INVERSE_MAP, borderMode=cv2.BORDER_REFLECT,
        )
        for c in range(int(truth.max()) + 1)
    ]  # fmt: skip
    return np.argmax(np.stack(shares), axis=0).astype(np.uint8)


def _jpeg(picture: np.ndarray) -> np.ndarray:
    coded = cv2.imencode(".jpg", picture, [cv2.IMWRITE_JPEG_QUALITY, QUALITY])[1]
    return np.asarray(cv2.imdecode(coded, cv2.IMREAD_UNCHANGED)).reshape(picture.shape)


def stills(ship: Path, root: Path | None, val: str) -> EvalSet:
    """The validation images of the ship's data folder, or of `root`."""
    card = open_package(ship).card
    if card.channel_order == "slices":
        raise ValueError(f"{ship}: reads slices of volumes, which make no video; name a ship of frames")
    changes: dict[str, Any] = {"root": root} if root is not None else {}
    options = DataOptions.from_dict(dict(card.data), **changes, **({"val": val} if val else {}))
    return prepare(
        split_dataset(options).val, size=card.size, channels=card.channels, classes=card.classes,
        mask_threshold=options.mask_threshold, depth=options.depth, window=options.window,
    )  # fmt: skip


def measure(predict: Runner, clip: Clip, *, classes: tuple[str, ...], vote: int, estimated: bool) -> dict[str, Any]:
    """The record of one clip: flicker, jitter of the area, mean Dice of its frames."""
    masks = predict(clip.frames)
    if vote > 1:
        voting = MaskVote(vote, classes=len(classes))
        masks = np.stack([voting.add(mask, epoch=0) for mask in masks])
    return record_of(masks, clip, classes=classes, estimated=estimated)


def record_of(masks: np.ndarray, clip: Clip, *, classes: tuple[str, ...], estimated: bool = False) -> dict[str, Any]:
    """`estimated`: along the flow that DIS finds in the frames, as `edgemt eval --video` measures."""
    meter = FlickerMeter(classes)
    dice: list[float] = []
    for t, mask in enumerate(masks):
        meter.add(mask, frame=clip.frames[t], flow=None if estimated or not t else clip.flows[t - 1])
        own, truth = mask[clip.inside[t]], clip.truths[t][clip.inside[t]]
        for c in range(1, len(classes)):
            total = int((own == c).sum()) + int((truth == c).sum())
            dice += [2 * int(((own == c) & (truth == c)).sum()) / total] if total else []
    return {**meter.record(), "dice": sum(dice) / len(dice) if dice else None}


def difference(first: list[dict[str, Any]], other: list[dict[str, Any]], key: str) -> dict[str, float]:
    """Mean over clips of other - first, with a 95 % interval of 2000 bootstrap samples of clips."""
    pairs = [(a[key], b[key]) for a, b in zip(first, other, strict=True) if a[key] is not None and b[key] is not None]
    gaps = np.array([b - a for a, b in pairs])
    drawn = gaps[np.random.default_rng(0).integers(0, len(gaps), (2000, len(gaps)))].mean(1)
    low, high = np.percentile(drawn, [2.5, 97.5])
    return {"mean": round(float(gaps.mean()), 6), "low": round(float(low), 6), "high": round(float(high), 6)}


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("ships", nargs="+", type=Path, help="ship folders; the first one is compared with")
    parser.add_argument("--data.root", dest="root", type=Path, help="another folder than the one on the first card")
    parser.add_argument("--data.val", dest="val", default="", help="another list of images")
    parser.add_argument("--file", help="int8 (the default where there is one), fp32, or a file on the card")
    parser.add_argument("--runtime", default="auto")
    parser.add_argument("--frames", type=int, default=FRAMES)
    parser.add_argument("--vote", type=int, default=1, help="majority of so many masks, as edgemt stream --vote")
    parser.add_argument(
        "--flow", choices=("exact", "dis"), default="exact", help="dis: as edgemt eval --video measures"
    )
    parser.add_argument("--clips", type=int, help="only so many images, evenly spaced")
    parser.add_argument("--json", type=Path)
    given = parser.parse_args()
    try:
        record = run(given)
    except ValueError as error:
        sys.exit(f"flicker_of_stills: {error}")
    if given.json is not None:
        write_text(given.json, json.dumps(record, indent=1) + "\n")


def run(given: argparse.Namespace) -> dict[str, Any]:
    prepared = stills(given.ships[0], given.root, given.val)
    runners = [runner(open_package(ship), runtime=given.runtime, file=given.file) for ship in given.ships]
    clips: list[list[dict[str, Any]]] = [[] for _ in runners]
    truths = []
    choices = {"classes": prepared.classes, "vote": given.vote, "estimated": given.flow == "dis"}
    numbers = range(len(prepared))
    if given.clips is not None:
        numbers = np.linspace(0, len(prepared) - 1, min(given.clips, len(prepared))).astype(int).tolist()
    for i in numbers:
        name = prepared.names[i]
        size = prepared.frames.shape[1:3]
        clip = pseudo_video(prepared.frames[i], fit_label(prepared.truths[i], size=size), seed=i, frames=given.frames)
        truths.append(record_of(clip.truths, clip, classes=prepared.classes))
        for rows, predict in zip(clips, runners, strict=True):
            rows.append({"name": name, **measure(predict, clip, **choices)})
    record: dict[str, Any] = {
        "frames": given.frames, "vote": given.vote, "flow": given.flow, "truth": mean_record(truths), "ships": []
    }  # fmt: skip
    print(f"{len(truths)} clips of {given.frames} frames; the true masks flicker by {record['truth']['flicker']:.4f}")
    for ship, predict, rows in zip(given.ships, runners, clips, strict=True):
        dice = sum(row["dice"] for row in rows) / len(rows)
        one = {"ship": str(ship), "file": predict.file, "runtime": predict.runtime, **mean_record(rows), "dice": dice}
        text = f"flicker {one['flicker']:.4f}, area jitter {one['area_jitter']:.4f}, Dice {dice:.4f}"
        if rows is not clips[0]:
            gaps = {key: difference(clips[0], rows, key) for key in ("flicker", "area_jitter", "dice")}
            one["against_first"] = gaps
            shown = (f"{key} {gap['mean']:+.4f} ({gap['low']:+.4f} to {gap['high']:+.4f})" for key, gap in gaps.items())
            text += f"; against the first: {', '.join(shown)}"
        print(f"{ship} ({predict.file}): {text}")
        record["ships"].append({**one, "per_clip": rows})
    return record


if __name__ == "__main__":
    main()
