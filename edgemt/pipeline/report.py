"""The end of the flow: latency of what was shipped beside where it came from, and the report that shows it all."""

from __future__ import annotations

import json
from datetime import datetime, timezone
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np

from deploy.benchmark.bench import without_raw
from deploy.package.files import IR_FP16, IR_FP32, IR_INT8, ONNX_FP16, ONNX_FP32, ONNX_INT8
from deploy.runtimes.load import runner
from edgemt.artefacts import network_folder, stage_folder
from edgemt.contract import IGNORE
from edgemt.data.options import DataOptions
from edgemt.io.atomic import write_text
from edgemt.io.channels import shown
from edgemt.io.images import fit_label
from edgemt.model_card import FileMetrics, ModelCard
from edgemt.pipeline.benchmark import bench
from edgemt.pipeline.log import log
from edgemt.report.deployed_file import deployed, precision_of, quantization_notes

if TYPE_CHECKING:
    from edgemt.pipeline.run_context import RunContext

_GALLERY = 6
_BENCH = "bench.json"


def report(context: RunContext, controls: list[Path]) -> Path:
    """Time the ship beside the torch networks, in turns in one run, and write report.html and report.json."""
    from edgemt.report import write_report

    folder = context.folder("report")
    key = stage_folder.key_of(
        context.recipe.bench, stage_folder.identity(context.folder("ship")), context.slices.list_key
    )
    record = _saved_bench(folder / _BENCH, key) or bench(context)
    write_text(folder / _BENCH, json.dumps({**record, "key": key}, indent=1) + "\n")
    write_report(folder, _record(context, record, controls), _gallery(context))
    log(f"report: {folder / 'report.html'}")
    return folder


def _saved_bench(file: Path, key: str) -> dict[str, Any] | None:
    """The record of an earlier bench of the same package and options; None without one."""
    if not file.exists():
        return None
    try:
        record = json.loads(file.read_text())
    except ValueError:
        return None
    return record if record.get("key") == key else None


def _record(context: RunContext, timed: dict[str, Any], controls: list[Path]) -> dict[str, Any]:
    stages = [_stage(context, name, timed) for name in ("teacher", "student", "slim")]
    ship = stage_folder.read_card(context.folder("ship"))
    shipped = [file for file in (ONNX_FP32, IR_FP32, ONNX_FP16, IR_FP16, ONNX_INT8, IR_INT8) if file in ship.measured]
    stages += [_shipped(context, ship, file, timed) for file in shipped]
    slices = [len(truth) for truth in context.slices.val.truths if truth.ndim == 3]
    for stage in stages:
        stage |= _of_volumes(stage, slices=sum(slices) / len(slices) if slices else 0.0)
    curves = {
        name: json.loads((context.folder(name) / stage_folder.CURVES).read_text())
        for name in ("teacher", "student", "slim")
    }
    return {
        "name": context.recipe.name,
        "created": datetime.now(timezone.utc).isoformat(timespec="seconds"),
        "recipe": stage_folder.flat(context.recipe),
        "device": timed["machine"],
        "classes": list(context.recipe.data.classes),
        **({"overlapping": True} if context.recipe.data.overlapping else {}),
        "counts": {
            "labelled": len(
                {case.image for case in context.slices.cohort.labelled}
            ),  # a volume is one case, as in "val"
            "unlabelled": len({case.image for case in context.slices.cohort.unlabelled}),
            "val": len(context.slices.val),
        },
        "stages": stages,
        "delivered": deployed(ship),
        "controls": [_stage(context, f"controls/{folder.name}", timed) for folder in controls],
        "curves": curves,
        "bench": [without_raw(timed)],
        "given_up": list(ship.given_up),
        "messages": [*_messages(stages), *quantization_notes(ship), *timed["notes"]],
    }


def _stage(context: RunContext, name: str, timed: dict[str, Any]) -> dict[str, Any]:
    folder = context.folder(name)
    card = stage_folder.read_card(folder)
    measured = card.measured[stage_folder.WEIGHTS]
    size = (folder / stage_folder.WEIGHTS).stat().st_size
    latency = {e["runtime"]: _latency(e) for e in timed["calls"] if e["name"] == f"torch/{name}"}
    return _row(name, measured, card, size, latency, note="torch, eager")


def _shipped(context: RunContext, card: ModelCard, file: str, timed: dict[str, Any]) -> dict[str, Any]:
    folder, measured = context.folder("ship"), card.measured[file]
    size = (folder / file).stat().st_size
    if file.endswith(".xml"):
        size += (folder / file).with_suffix(".bin").stat().st_size
    latency = {
        f"{e['runtime']} {e['precision']}": _latency(e)
        for e in timed["calls"]
        if e["file"] == file and e["runtime"] == measured.runtime
    }
    return _row(f"{precision_of(file)}/{measured.runtime}", measured, card, size, latency, note=file)


def _row(
    name: str, measured: FileMetrics, card: ModelCard, size: int, latency: dict[str, Any], *, note: str
) -> dict[str, Any]:
    per_class = {c: {"dice": v.get("dice"), "hd95": v.get("hd95")} for c, v in measured.per_class.items()}
    far = [v["hd95"] for v in per_class.values() if v["hd95"] is not None]
    return {
        "name": name,
        "dice": measured.dice,
        "hd95_px": sum(far) / len(far) if far else None,
        "per_class": per_class,
        "params": card.params,
        "macs": card.macs,
        "size_bytes": size,
        "latency": latency,
        "drop": measured.drop,
        "note": note,
        "measured": {k: v for k, v in measured.to_dict().items() if k in ("largest_component", "windows_per_volume")},
        "mean": {key: _mean_of(measured, key) for key in ("jaccard", "hd95_mm", "asd", "asd_mm", "nsd")},
    }


def _mean_of(measured: FileMetrics, metric: str) -> float | None:
    """Mean over the classes where a metric is defined."""
    there = [value for v in measured.per_class.values() if (value := v.get(metric)) is not None]
    return sum(there) / len(there) if there else None


def _of_volumes(stage: dict[str, Any], *, slices: float) -> dict[str, Any]:
    """What a whole volume costs: windows of a 3-D teacher, slices of a student. Nothing for single frames."""
    pieces = stage["measured"].get("windows_per_volume", slices)
    return {"macs_per_volume": stage["macs"] * pieces if pieces else None}


def _latency(entry: dict[str, Any]) -> dict[str, Any]:
    return {key: entry[key] for key in ("p50_ms", "p90_ms", "p99_ms", "precision", "n")}


def _messages(stages: list[dict[str, Any]]) -> list[str]:
    """Sentences that state the results, good or bad."""
    by = {stage["name"]: stage for stage in stages}
    student, slim = by["student"], by["slim"]
    less = 1 - slim["macs"] / student["macs"]
    messages = [
        f"Pruning removed {less:.0%} of the student's multiply-accumulates "
        f"and moved Dice by {slim['dice'] - student['dice']:+.4f}."
        if less > 0
        else "The student ships unpruned.",
        f"The student keeps {student['dice'] / max(by['teacher']['dice'], 1e-9):.0%} of its teacher's Dice "
        f"with {student['params'] / by['teacher']['params']:.0%} of its parameters.",
    ]
    teacher = by["teacher"]
    if "windows_per_volume" in teacher["measured"]:
        messages.append(
            f"A volume costs the 3-D teacher {teacher['macs_per_volume'] / 1e9:.1f} G multiply-accumulates and the "
            f"pruned student {slim['macs_per_volume'] / 1e9:.2f} G, "
            f"{slim['macs_per_volume'] / teacher['macs_per_volume']:.2%} of it."
        )
    for name, stage in by.items():
        if name.startswith("int8/"):
            messages.append(
                f"INT8 on {name[5:]}: Dice {stage['dice'] - student['dice']:+.4f} against the unpruned student."
            )
    return messages


def _gallery(context: RunContext) -> list[dict[str, Any]]:
    """Frames with foreground, spread over the validation list, and the mask of each stage."""
    size = context.recipe.data.size
    truths: list[np.ndarray] = []
    for truth in context.slices.val.truths:
        truths += [fit_label(t, size=size) for t in (truth if truth.ndim == 3 else truth[None])]
    truths = [np.where(truth == IGNORE, 0, truth).astype(np.uint8) for truth in truths]
    chosen = _shown(context, truths)
    frames = context.slices.val.frames[chosen]
    masks = {name: _masks(context, name, chosen) for name in ("teacher", "student")}
    ship = stage_folder.read_card(context.folder("ship"))
    shown = next(file for file in (IR_INT8, IR_FP32, ONNX_INT8, ONNX_FP32) if file in ship.measured)
    masks[precision_of(shown)] = runner(context.folder("ship") / shown, runtime=ship.measured[shown].runtime)(frames)
    names = [
        name
        for name, rows in zip(context.slices.val.names, context.slices.val.rows, strict=True)
        for _ in range(rows.stop - rows.start)
    ]
    return [
        {
            "name": names[index],
            "image": _picture(frames[row], context.recipe.data),
            "masks": {"true": truths[index], **{name: found[row] for name, found in masks.items()}},
        }
        for row, index in enumerate(chosen)
    ]


def _picture(frame: np.ndarray, data: DataOptions) -> np.ndarray:
    """The frame, its middle slice, or of several channels the first or the colours: [H, W, 1] or [H, W, 3]."""
    if data.channel_names:
        picture = shown(frame, data.channel_names, slices=data.slices)
        return picture if picture.ndim == 3 else picture[..., None]
    middle = data.slices // 2
    return frame if data.channels == 3 and not middle else frame[..., middle : middle + 1]


def _shown(context: RunContext, truths: list[np.ndarray]) -> list[int]:
    """Frames for the gallery: of a volume the middle one of those that hold the most classes, else spread evenly."""
    num_classes = [len(np.unique(truth)) for truth in truths]
    volumes = [range(rows.start, rows.stop) for rows in context.slices.val.rows if rows.stop - rows.start > 1]
    if volumes:
        best = [[i for i in rows if num_classes[i] == max(num_classes[j] for j in rows)] for rows in volumes]
        full = [some[len(some) // 2] for some in best]
    else:
        full = [i for i, n in enumerate(num_classes) if n == len(context.recipe.data.classes)]
        full = full or [i for i, n in enumerate(num_classes) if n > 1] or list(range(len(truths)))
    return [full[int(i)] for i in np.linspace(0, len(full) - 1, min(_GALLERY, len(full)))]


def _masks(context: RunContext, stage: str, chosen: list[int]) -> np.ndarray:
    """uint8 [n, H, W] of the chosen validation frames, by the network of a stage."""
    network = network_folder.load_network(context.folder(stage))
    if stage != "teacher" or not context.is_3d:
        return context.slices.predict(network)(context.slices.val.frames[chosen])
    volumes = context.volumes.masks(network.to(context.slices.device), stride=context.recipe.volume.stride)
    slices = [fit_label(mask, size=context.recipe.data.size) for volume in volumes for mask in volume]
    return np.stack([slices[i] for i in chosen])
