"""What every network of every_student.py learns from one teacher: the same images, steps and seed for all.

    python benchmarks/every_student_dice.py runs/polyps --out runs/every-student/dice
    python benchmarks/every_student.py --frames kvasir-seg/val/images --runs runs/polyps --dice runs/every-student/dice

RUN is a finished run. Named students and heavy baselines alike start from random weights and learn by the run's own
student method from its teacher, its labelled and its unlabelled images; each is then quantized and judged on the
validation list as OpenVINO runs it. A network is one JSON file, so the same command goes on where it was cut.
"""

from __future__ import annotations

import argparse
import json
import sys
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import Any

import torch
from every_student_networks import BASELINES, Entrant, baselines, named
from prune_curve import opened
from torch import nn

import students
from deploy.export import export_onnx
from deploy.quantization.int8 import quantize
from deploy.runtimes.load import runner
from edgemt.artefacts import network_folder, stage_folder
from edgemt.inference.evaluate import evaluate
from edgemt.io.atomic import write_text
from edgemt.pipeline.network_spec import network_factory
from edgemt.pipeline.quantize import frames_of
from edgemt.training import engine


def learnt(entrant: Entrant, run: Path, context: Any, *, steps: int, seed: int, folder: Path) -> nn.Module:
    """The network after `steps` of the run's student method; a checkpoint in the folder is taken up."""
    known: dict[str, Callable[[], nn.Module]] = {
        "student": entrant.build,
        "teacher": lambda: network_folder.load_network(run / "teacher"),
    }
    schedule = replace(context.recipe.student.schedule, validations=0)
    schedule = replace(schedule, steps=steps) if steps else schedule
    done = engine.train(
        context.recipe.student.method,
        build=network_factory(known, context.slices, seed=seed),
        draw=context.slices.stream(schedule).batch,
        schedule=schedule,
        folder=folder,
        seed=seed,
        label=entrant.name,
    )
    return done.network.cpu().eval()


def row(entrant: Entrant, run: Path, context: Any, *, steps: int, seed: int, out: Path) -> dict[str, Any]:
    """Dice of the float network in torch and of its INT8 file in OpenVINO; kept as a file of the network's name."""
    file = out / f"{entrant.slug}.json"
    if file.exists():
        return json.loads(file.read_text())
    folder = out / "graphs" / entrant.slug
    network = learnt(entrant, run, context, steps=steps, seed=seed, folder=folder)
    card = stage_folder.read_card(run / "teacher")
    face = {"size": card.size, "channels": card.channels, "normalise": card.normalise}
    graph = export_onnx(network, folder / "model.onnx", **face)
    frames = [frame[None] for frame in frames_of(context.slices.unlabelled, 100, seed=0)]
    small = quantize(graph, folder / "model.int8.onnx", calibration=frames, frames=len(frames))
    judged = evaluate(runner(small, runtime="openvino"), context.slices.val, dice_only=True)
    made = {
        "network": entrant.name,
        "float": context.slices.dice(network),
        "int8": judged.dice,
        "size": list(card.size),
    }
    made |= {"run": run.name, "steps": steps or context.recipe.student.schedule.steps, "seed": seed}
    made |= {"teacher": stage_folder.read_card(run / "teacher").measured[stage_folder.WEIGHTS].dice}
    write_text(file, json.dumps(made, indent=1))
    (folder / "checkpoint.safetensors").unlink(missing_ok=True)
    return made


def main() -> None:
    parser = argparse.ArgumentParser(description=(__doc__ or "").splitlines()[0])
    parser.add_argument("run", type=Path, help="folder of a finished run: recipe.json, teacher")
    parser.add_argument("--students", nargs="*", default=list(students.names()))
    parser.add_argument("--baselines", nargs="*", default=list(BASELINES), choices=list(BASELINES))
    parser.add_argument("--steps", type=int, default=0, help="of training; 0: what the run's recipe gives its student")
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--threads", type=int, default=0, help="0: every core")
    parser.add_argument("--out", type=Path, default=Path("runs/every-student/dice"))
    given = parser.parse_args()
    if given.threads:
        torch.set_num_threads(given.threads)
    try:
        context = opened(given.run)
        channels = stage_folder.read_card(given.run / "teacher").channels
        for entrant in (*named(given.students, channels=channels), *baselines(given.baselines, channels=channels)):
            made = row(entrant, given.run, context, steps=given.steps, seed=given.seed, out=given.out)
            print(f"{entrant.name}: Dice {made['float']:.4f}, INT8 {made['int8']:.4f}", file=sys.stderr, flush=True)
    except ValueError as error:
        raise SystemExit(f"error: {error}") from None


if __name__ == "__main__":
    main()
