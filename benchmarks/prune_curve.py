"""Dice against latency of a finished run's student, pruned by latency and by multiply-accumulates.

    python benchmarks/prune_curve.py runs/acdc_cpu --steps 100 --threads 1 --out curve

Every student is pruned, fine-tuned by the recipe's own method and schedule (but for its steps), quantized, and judged
on the validation list as its runtime runs it; at the end all are timed in turns. A run that was cut goes on.
"""

from __future__ import annotations

import argparse
import json
import os
import statistics
import sys
from collections.abc import Sequence
from dataclasses import fields, is_dataclass, replace
from pathlib import Path
from typing import Any

ROOT = Path(__file__).parents[1]


def main() -> None:
    reads = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    reads.add_argument("run", type=Path, help="folder of a finished run: recipe.json, teacher, student")
    reads.add_argument("--out", type=Path, default=Path("prune_curve"))
    reads.add_argument("--ratios", type=float, nargs="+", default=[0.0, 0.15, 0.3, 0.45, 0.6, 0.7])
    reads.add_argument("--targets", nargs="+", default=["latency", "macs"])
    reads.add_argument("--steps", type=int, default=100, help="of fine-tuning, for every point")
    reads.add_argument("--runtime", default="openvino")
    reads.add_argument("--threads", type=int, default=0, help="0: every core")
    given = reads.parse_args()
    sys.path.insert(0, str(ROOT))
    os.environ.setdefault("CUDA_VISIBLE_DEVICES", "")
    import torch

    if given.threads:
        torch.set_num_threads(given.threads)
    rows = [row for row in (made(given, target, ratio) for target, ratio in points(given)) if row]
    times = timed(given, rows)
    (given.out / "curve.json").write_text(json.dumps([{**r, **times[r["name"]]} for r in rows], indent=2) + "\n")
    print(table(rows, times))
    (given.out / "curve.svg").write_text(picture(rows, times), encoding="utf-8")


def points(given: argparse.Namespace) -> list[tuple[str, float]]:
    whole = [("whole", 0.0)] if 0.0 in given.ratios else []
    return whole + [(target, ratio) for ratio in given.ratios if ratio > 0 for target in given.targets]


def made(given: argparse.Namespace, target: str, ratio: float) -> dict[str, Any] | None:
    """One point: its folder holds the INT8 graph and what was measured; None where so much cannot go."""
    from deploy import export
    from deploy.pruning import prune
    from deploy.quantization import int8
    from deploy.runtimes.load import runner
    from edgemt.artefacts import network_folder, stage_folder
    from edgemt.inference.evaluate import evaluate
    from edgemt.io.atomic import write_text
    from edgemt.pipeline.quantize import frames_of

    name = f"{target}-{ratio:g}"
    folder = given.out / name
    if (folder / "row.json").exists():
        return json.loads((folder / "row.json").read_text())
    context = opened(given.run)
    card = stage_folder.read_card(given.run / "student")
    network = network_folder.load_network(given.run / "student")
    plan = None
    if ratio:
        try:
            plan = cut(given, context, network, target, ratio)
        except ValueError as error:
            print(f"{name}: {error}", file=sys.stderr)
            return None
        write_text(folder / "plan.json", stage_folder.to_json(plan))
    network = tuned(given, context, network, folder)
    graph = export.export_onnx(
        network, folder / "model.onnx", size=card.size, channels=card.channels, normalise=card.normalise
    )
    frames = [frame[None] for frame in frames_of(context.slices.unlabelled, 100, seed=0)]
    small = int8.quantize(graph, folder / "model.int8.onnx", calibration=frames, frames=len(frames))
    dice = evaluate(
        runner(small, runtime=given.runtime, threads=given.threads or None), context.slices.val, dice_only=True
    ).dice
    params, macs = prune.count(network, context.slices.example)
    row = {"name": name, "target": target, "share": ratio, "dice": dice, "params": params, "macs": macs}
    row |= {"float_dice": context.slices.dice(network), "latency": plan.latency if plan else {}}
    write_text(folder / "row.json", json.dumps(row, indent=2))
    print(f"{name}: INT8 Dice {dice:.4f}, {macs / 1e6:.1f} MMACs", file=sys.stderr, flush=True)
    return row


def cut(given: argparse.Namespace, context: Any, network: Any, target: str, ratio: float) -> Any:
    """Prune in place. The table of layer times is measured once for all points."""
    import torch

    from deploy.pruning import prune
    from deploy.pruning.layer_profiler import RuntimeLatencyBackend
    from edgemt.pipeline import prune_attempt

    known: dict[Any, float] = {}
    file = given.out / "layers.json"
    if file.exists():
        known = {key: ms for key, ms in json.loads(file.read_text()).items()}

    class Remembering(RuntimeLatencyBackend):
        def layers(self, layers: Sequence[Any]) -> list[float]:
            new = [layer for layer in layers if str(layer) not in known]
            known.update(zip(map(str, new), super().layers(new), strict=True))
            file.write_text(json.dumps(known))
            return [known[str(layer)] for layer in layers]

    of = context.recipe.slim
    stream = context.slices.stream(of.schedule)
    options = replace(of.prune, share=ratio, target=target, runtime=given.runtime, round_to=0, rounds=1)
    options = replace(options, max_ratio=max(of.prune.max_ratio, 0.875 if ratio > 0.5 else 0.0))
    plan = prune.prune(
        network,
        example=context.slices.example,
        options=options,
        gradients=lambda net: prune_attempt.supervised_gradients(stream, 4, net),
        backend=Remembering(runtime=given.runtime, threads=given.threads) if target == "latency" else None,
    )
    prune.recalibrate(network, (stream.batch(i, torch.device("cpu")).image for i in range(8)))
    return plan


def tuned(given: argparse.Namespace, context: Any, network: Any, folder: Path) -> Any:
    """Fine-tuned by the recipe's method; a checkpoint in the folder is taken up."""
    import copy

    from edgemt.artefacts import network_folder
    from edgemt.pipeline.network_spec import network_factory
    from edgemt.training import engine

    folder.mkdir(parents=True, exist_ok=True)
    known = {
        "student": lambda: copy.deepcopy(network),
        "teacher": lambda: network_folder.load_network(given.run / "teacher"),
    }
    done = engine.train(
        context.recipe.student.method,
        build=network_factory(known, context.slices, seed=0),
        draw=context.slices.stream(context.recipe.slim.schedule).batch,
        schedule=replace(
            context.recipe.slim.schedule, steps=given.steps, warmup=min(20, given.steps // 4), validations=0
        ),
        folder=folder,
        seed=1,
        label=folder.name,
    )
    (folder / "checkpoint.safetensors").unlink(missing_ok=True)
    return done.network.cpu().eval()


_RUNS: dict[Path, Any] = {}


def opened(run: Path) -> Any:
    """The run's recipe at work; images are read once."""
    from edgemt import recipes
    from edgemt.pipeline import run_context

    if run not in _RUNS:
        saved = json.loads((run / "recipe.json").read_text())
        _RUNS[run] = run_context.open_run(filled(recipes.load(saved["name"]), saved), run)
    return _RUNS[run]


def filled(default: Any, saved: dict[str, Any]) -> Any:
    """A recipe's default with the values that were saved; what has another name or class now stays as it is."""
    values = {}
    for field in fields(default):
        if field.name not in saved or not field.init:
            continue
        old, new = getattr(default, field.name), saved[field.name]
        if is_dataclass(old):
            if isinstance(new, dict) and new.get("is") == type(old).__name__:
                values[field.name] = filled(old, new)
        elif isinstance(old, Path) or (field.name == "root" and new is not None):
            values[field.name] = Path(new)
        elif isinstance(new, list):
            values[field.name] = tuple(tuple(part) if isinstance(part, list) else part for part in new)
        elif not isinstance(new, dict):
            values[field.name] = new
    return replace(default, **values)


def timed(given: argparse.Namespace, rows: list[dict[str, Any]]) -> dict[str, dict[str, float]]:
    """Median latency, and the median of its ratios to the first row's inside a round."""
    from deploy.measurement.timing import BenchOptions, time_interleaved, warm_up
    from deploy.runtimes.load import runner
    from edgemt.pipeline.quantize import frames_of

    context = opened(given.run)
    frames = [frame[None] for frame in frames_of(context.slices.unlabelled, 16, seed=1)]
    calls = {
        row["name"]: runner(
            given.out / row["name"] / "model.int8.onnx", runtime=given.runtime, threads=given.threads or None
        )
        for row in rows
    }
    options = BenchOptions(iterations=1000, seconds=4.0, rounds=30, block_ms=40.0)
    for call in calls.values():
        warm_up(call, frames, options)
    by = time_interleaved(calls, frames, options)
    first = {turn: statistics.median(ns) for turn, ns in by[rows[0]["name"]].items()}
    out = {}
    for name, blocks in by.items():
        ratio = statistics.median(statistics.median(ns) / first[turn] for turn, ns in blocks.items())
        out[name] = {"p50_ms": statistics.median(t for ns in blocks.values() for t in ns) / 1e6, "times": ratio}
    return out


def table(rows: list[dict[str, Any]], times: dict[str, dict[str, float]]) -> str:
    lines = ["| pruned by | share asked | MMACs | parameters | p50 ms | latency, times whole | Dice, INT8 |"]
    lines.append("|---|---|---|---|---|---|---|")
    for row in rows:
        at = times[row["name"]]
        lines.append(
            f"| {row['target']} | {row['share']:g} | {row['macs'] / 1e6:.1f} | {row['params'] / 1e6:.2f} M "
            f"| {at['p50_ms']:.3f} | {at['times']:.2f} | {row['dice']:.4f} |"
        )
    return "\n".join(lines)


def picture(rows: list[dict[str, Any]], times: dict[str, dict[str, float]]) -> str:
    """Dice against latency, a line for each target from the unpruned student on."""
    from edgemt.report.svg import Axis, dot, drawing, line, padded_range, path, text

    tones = {"latency": "#2373b8", "macs": "#c2570c", "params": "#0a8f74", "whole": "#64748b"}
    left, right, top, bottom = 60.0, 700.0, 30.0, 330.0
    x = Axis(*padded_range([times[r["name"]]["times"] for r in rows], least=0.1, low=0.0), left, right)
    y = Axis(*padded_range([r["dice"] for r in rows], least=0.02, low=0.0, high=1.0), bottom, top)
    parts = [line("grid", left, y(t), right, y(t)) for t in y.ticks()]
    parts += [text("tick end", left - 8, y(t) + 4, f"{t:g}") for t in y.ticks()]
    parts += [text("tick mid", x(t), bottom + 18, f"{t:g}") for t in x.ticks()]
    parts += [text("name", left, top - 10, "Dice, INT8"), text("name end", right, bottom + 38, "latency, times whole")]
    for row_target in dict.fromkeys(r["target"] for r in rows if r["target"] != "whole"):
        run = [r for r in rows if r["target"] in ("whole", row_target)]
        spots = [(x(times[r["name"]]["times"]), y(r["dice"])) for r in run]
        parts.append(path(f"curve {row_target}", spots))
        for spot, r in zip(spots, run, strict=True):
            parts.append(dot(f"dot {r['target']}", *spot, title=f"{r['target']} {r['share']:g}: Dice {r['dice']:.4f}"))
    for number, (name, tone) in enumerate((n, t) for n, t in tones.items() if any(r["target"] == n for r in rows)):
        parts.append(f'<text x="{left + 12 + 80 * number}" y="{bottom + 38}" style="fill:{tone}">{name}</text>')
    style = "text{font:12px sans-serif;fill:#16212c}.end{text-anchor:end}.mid{text-anchor:middle}.grid{stroke:#dbe2e8}"
    style += ".curve{fill:none;stroke-width:1.6}"
    style += "".join(f".curve.{n}{{stroke:{t}}}.dot.{n}{{fill:{t}}}" for n, t in tones.items())
    svg = drawing(720, bottom + 52, "Dice against latency of the pruned students", parts)
    return svg.replace("<svg ", '<svg xmlns="http://www.w3.org/2000/svg" ', 1).replace(
        ">", f"><style>{style}</style>", 1
    )


if __name__ == "__main__":
    main()
