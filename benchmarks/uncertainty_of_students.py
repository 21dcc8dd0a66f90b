"""Which uncertainty finds the wrong pixels of a student: its head, its softmax entropy, or its teachers' ensemble.

    python benchmarks/uncertainty_of_students.py RUN --json FILE

RUN is a finished run with several teachers; one without student.method.uncertainty has no rows of a head. Measured on
its validation list, for the pruned student in float and for the INT8 file of the ship (whose graph has no softmax: the
entropy is that of the float network). Intervals are 95 % of a bootstrap over frames; "minus entropy" is paired over the
same frames.
"""

from __future__ import annotations

import argparse
import json
from datetime import date
from pathlib import Path
from typing import Any

import numpy as np
import torch

from deploy.hardware.machine import describe
from deploy.package.files import IR_INT8
from deploy.runtimes.load import runner
from edgemt.artefacts import network_folder, stage_folder
from edgemt.data.augment2d import normalised
from edgemt.data.cohort import split_dataset
from edgemt.data.options import DataOptions
from edgemt.inference.evaluate import EvalSet, prepare
from edgemt.inference.evaluate_uncertainty import to_probability
from edgemt.learning.ensemble import Ensemble, between_variance
from edgemt.learning.losses import probabilities
from edgemt.metrics.uncertainty import auroc, error_detection, sample
from students.network import StudentNetwork

BATCH = 10
FEW = 1500  # pixels of a frame in each resample of the bootstrap


def validation_list(folder: Path) -> EvalSet:
    """The validation frames of the run, as the student of `folder` reads them."""
    card = stage_folder.read_card(folder)
    options = DataOptions.from_dict(dict(card.data))
    return prepare(
        split_dataset(options).val,
        size=card.size,
        channels=options.channels,
        slices=options.slices,
        classes=card.classes,
        mask_threshold=options.mask_threshold,
        depth=options.depth,
        window=options.window,
        compare=options.affines == "compare",
    )


def entropy(p: torch.Tensor, dim: int) -> torch.Tensor:
    return -(p * p.clamp_min(1e-12).log()).sum(dim)


@torch.inference_mode()
def predictions(run: Path, cases: EvalSet, file: str) -> dict[str, np.ndarray]:
    """Masks of the float student and of an INT8 file, and every uncertainty, each [N, H, W]."""
    card = stage_folder.read_card(run / "slim")
    student, teacher = (network_folder.load_network(run / stage) for stage in ("slim", "teacher"))
    assert isinstance(student, StudentNetwork) and isinstance(teacher, Ensemble)
    int8 = runner(run / "ship", runtime="openvino", file=file)
    parts: dict[str, list[np.ndarray]] = {}
    for first in range(0, len(cases.frames), BATCH):
        frames = cases.frames[first : first + BATCH]
        x = normalised(torch.from_numpy(frames).permute(0, 3, 1, 2).float() / 255, card.normalise)
        p, each = probabilities(student(x).logits), teacher.each(x)
        mean = each.mean(0)
        second = student.uncertainty is not None
        mask, head = student.mask_and_uncertainty(x) if second else (student.mask(x), None)
        found = {
            "float mask": mask,
            "entropy": entropy(p, 1),
            "1 - max p": 1 - p.amax(1),
            "ensemble mask": mean.argmax(1).to(torch.uint8),
            "ensemble variance": between_variance(each),
            "ensemble entropy": entropy(mean, 1),
            "ensemble mutual information": entropy(mean, 1) - entropy(each, 2).mean(0),
        }
        arrays = {name: values.numpy() for name, values in found.items()}
        if head is not None:
            arrays["float head"] = head.numpy()
        if int8.has_uncertainty:
            arrays["int8 mask"], arrays["int8 head"] = int8.with_uncertainty(frames)
        else:
            arrays["int8 mask"] = int8(frames)
        for name, values in arrays.items():
            parts.setdefault(name, []).append(values)
        print(f"{first + len(frames)}/{len(cases.frames)} frames", flush=True)
    return {name: np.concatenate(values) for name, values in parts.items()}


def table(found: dict[str, np.ndarray], truths: np.ndarray, *, resamples: int) -> dict[str, Any]:
    """For the masks of each network the AUROC of every score; for what is a probability all metrics."""
    out: dict[str, Any] = {}
    pixels = [sample(truths[0].size, frame=k) for k in range(len(truths))]

    def chosen(values: np.ndarray) -> np.ndarray:
        return np.stack([frame.reshape(-1)[own] for frame, own in zip(values, pixels, strict=True)])

    of_teachers = ("ensemble variance", "ensemble entropy", "ensemble mutual information")
    for network in ("float", "int8", "ensemble"):
        wrong = chosen(found[f"{network} mask"] != truths)
        scores = ("entropy", *of_teachers) if network != "ensemble" else of_teachers
        ranked = {name: chosen(found[name]) for name in scores}
        rows: dict[str, Any] = {}
        if f"{network} head" in found:
            ranked = {"head": chosen(found[f"{network} head"]), **ranked}
        for name, values in ranked.items():
            rows[name] = {"auroc": auroc(wrong, values), **_interval(wrong, values, ranked.get("entropy"), resamples)}
        if "head" in ranked:
            rows["head"] |= error_detection(wrong, to_probability(ranked["head"]))
        if network != "ensemble":
            rows["entropy"] |= error_detection(wrong, chosen(found["1 - max p"]), ranked["entropy"])
        out[network] = {"wrong": float(wrong.mean()), "scores": rows}
    return out


def _interval(wrong: np.ndarray, values: np.ndarray, entropy: np.ndarray | None, resamples: int) -> dict[str, Any]:
    """95 % intervals over frames, of the AUROC and of its difference from that of the entropy."""
    few = slice(0, None, max(1, wrong.shape[1] // FEW))
    draw, own, gain = np.random.default_rng(0), [], []
    for _ in range(resamples):
        rows = draw.integers(0, len(wrong), len(wrong))
        own.append(auroc(wrong[rows, few], values[rows, few]))
        if entropy is not None:
            gain.append(own[-1] - auroc(wrong[rows, few], entropy[rows, few]))
    out = {"interval": np.quantile(own, (0.025, 0.975)).round(4).tolist()}
    return out | ({"minus_entropy_interval": np.quantile(gain, (0.025, 0.975)).round(4).tolist()} if gain else {})


def main() -> None:
    """Print the table, and write it as JSON where a file is given."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("run", type=Path)
    parser.add_argument("--json", type=Path)
    parser.add_argument("--file", default=IR_INT8, help="the INT8 file of the ship, on OpenVINO")
    parser.add_argument("--resamples", type=int, default=200)
    parser.add_argument("--threads", type=int, default=1)
    given = parser.parse_args()
    torch.set_num_threads(given.threads)
    cases = validation_list(given.run / "slim")
    rows = table(predictions(given.run, cases, given.file), np.stack(cases.frame_truths()), resamples=given.resamples)
    for network, part in rows.items():
        print(f"\nerrors of the {network} masks: {part['wrong']:.2%} of the pixels")
        for name, row in part["scores"].items():
            rest = "  ".join(f"{key} {row[key]:.4f}" for key in ("ece", "brier", "aurc") if key in row)
            gain = f"  minus entropy {row['minus_entropy_interval']}" if "minus_entropy_interval" in row else ""
            print(f"  {name:28s} AUROC {row['auroc']:.4f} {row['interval']}{gain}  {rest}")
    if given.json:
        record = {"run": given.run.name, "date": date.today().isoformat(), "device": describe().get("cpu"), **rows}
        given.json.write_text(json.dumps({**record, "frames": len(cases.frames)}, indent=1) + "\n")


if __name__ == "__main__":
    main()
