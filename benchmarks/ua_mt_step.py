"""Milliseconds of one UA-MT step of a 3-D V-Net: this engine beside the published loop, in turns.

    python benchmarks/ua_mt_step.py --patch 112 112 80 --rounds 5 --json step.json

A step takes 2 labelled and 2 unlabelled patches, a student's forward and backward pass, the teacher's target and
8 stochastic passes, both losses, an optimiser step and the average. The published loop (Yu et al., MICCAI 2019) is
restated plainly: single precision, the target and then four forward passes of the doubled batch one after another,
an average moved weight by weight, losses read at every step. All run the same network on the same patches; the engine
a second time in single precision, so that what its precision and what its arrangement saves can be told apart.

Shapes: N batch, L labelled, U unlabelled, C classes, X Y Z patch.
"""

from __future__ import annotations

import argparse
import json
import math
import os
import platform
import statistics
import time
from collections.abc import Callable, Sequence
from copy import deepcopy
from pathlib import Path
from typing import Any

LABELLED, UNLABELLED, CLASSES, PASSES = 2, 2, 2, 8
STEPS = 6000  # of the published run, for its ramps
OURS, SINGLE, PUBLISHED = "ours", "ours, fp32", "published"


def options() -> argparse.Namespace:
    parser = argparse.ArgumentParser(description=(__doc__ or "").splitlines()[0])
    parser.add_argument("--patch", type=int, nargs=3, default=(112, 112, 80), metavar=("X", "Y", "Z"))
    parser.add_argument("--filters", type=int, default=16, help="of the first level of V-Net")
    parser.add_argument("--rounds", type=int, default=5, help="timed steps of each, after one that is not timed")
    parser.add_argument("--threads", type=int, default=0, help="of the CPU; 0: as torch chooses")
    parser.add_argument("--device", choices=("auto", "cpu"), default="auto", help="auto: a GPU where there is one")
    parser.add_argument("--json", type=Path, default=None, help="file for every single time")
    return parser.parse_args()


def main() -> None:
    given = options()
    if given.device == "cpu":
        os.environ["CUDA_VISIBLE_DEVICES"] = ""  # before torch looks

    found = measure(given.patch, filters=given.filters, rounds=given.rounds, threads=given.threads)
    report(found)
    if given.json is not None:
        given.json.write_text(json.dumps(found, indent=1) + "\n")


def measure(patch: Sequence[int], *, filters: int, rounds: int, threads: int = 0) -> dict[str, Any]:
    """Times in ms of every round by loop, the memory that a step takes beside the weights, and the conditions."""
    import torch

    if threads:
        torch.set_num_threads(threads)
    device = torch.device("cuda" if torch.cuda.is_available() else "cpu")
    torch.manual_seed(0)
    image = torch.randn(LABELLED + UNLABELLED, 1, *patch, device=device)
    label = (torch.rand(LABELLED, *patch, device=device) < 0.1).long()
    steps = {
        OURS: ours(image, label, filters=filters),
        SINGLE: ours(image, label, filters=filters, precision="32-true"),
        PUBLISHED: published(image, label, filters=filters),
    }
    times: dict[str, list[float]] = {name: [] for name in steps}
    memory: dict[str, float] = {}
    for index in range(rounds + 1):
        for name, step in steps.items():
            before = torch.cuda.memory_allocated() if device.type == "cuda" else 0
            if device.type == "cuda":
                torch.cuda.reset_peak_memory_stats()
            took = timed(step, device)
            if index:
                times[name].append(took)
                if device.type == "cuda":
                    memory[name] = (torch.cuda.max_memory_allocated() - before) / 2**30
    return {
        "patch": list(patch),
        "filters": filters,
        "device": _device_name(device),
        "torch": torch.__version__,
        "precision": ours_precision(device),
        "tf32_in_convolutions": bool(torch.backends.cudnn.allow_tf32) if device.type == "cuda" else None,
        "ms": times,
        "gib": memory,
    }


def ours(image: Any, label: Any, *, filters: int, precision: str = "auto") -> Callable[[], object]:
    """The engine's own step, with the engine's own choice of precision or the given one."""
    import teachers
    from edgemt.contract import Batch
    from edgemt.methods import METHODS
    from edgemt.training.engine import Trainer
    from edgemt.training.options import Schedule

    def build(kind: str, init: int) -> Any:
        return teachers.build("vnet", channels=1, classes=CLASSES, filters=filters)

    schedule = Schedule(
        labelled=LABELLED,
        unlabelled=UNLABELLED,
        optimiser="sgd",
        learning_rate=0.01,
        precision=precision,  # type: ignore[arg-type]
    )
    run = Trainer(METHODS["ua_mt"], build=build, schedule=schedule, seed=0)
    batch = Batch(image=image, label=label)
    return lambda: run.step(lambda index, device: batch)


def ours_precision(device: Any) -> str:
    from edgemt.training.device import resolve_precision

    students, averages = (resolve_precision("auto", device, learns_volumes=learns) for learns in (True, False))
    return f"{students} (students), {averages} (averages)"


def published(image: Any, label: Any, *, filters: int) -> Callable[[], object]:
    """The loop as it was published, restated."""
    import torch

    import teachers

    student = teachers.build("vnet", channels=1, classes=CLASSES, filters=filters).to(image.device).train()
    teacher = deepcopy(student).requires_grad_(False)
    optimiser = torch.optim.SGD(student.parameters(), lr=0.01, momentum=0.9, weight_decay=1e-4)
    unlabelled, done, log = image[LABELLED:], 0, []

    def ramp(at: float, length: float) -> float:
        return math.exp(-5 * (1 - min(at / length, 1)) ** 2)

    def noisy(x: Any) -> Any:
        return x + (torch.randn_like(x) * 0.1).clamp(-0.2, 0.2)

    def mc_probabilities() -> Any:
        """Mean probability [U, C, X, Y, Z] of the stochastic passes, two at a time."""
        doubled = unlabelled.repeat(2, 1, 1, 1, 1)
        logits = torch.zeros(PASSES * UNLABELLED, CLASSES, *image.shape[2:], device=image.device)
        for turn in range(PASSES // 2):
            at = turn * len(doubled)
            logits[at : at + len(doubled)] = teacher(noisy(doubled)).logits
        return logits.softmax(1).unflatten(0, (PASSES, UNLABELLED)).mean(0)

    def step() -> None:
        nonlocal done
        logits = student(image).logits
        with torch.no_grad():
            target = teacher(noisy(unlabelled)).logits.softmax(1)
            mean = mc_probabilities()
            uncertainty = -(mean * (mean + 1e-6).log()).sum(1, keepdim=True)
            certain = (uncertainty < (0.75 + 0.25 * ramp(done, STEPS)) * math.log(2)).float()
        entropy = torch.nn.functional.cross_entropy(logits[:LABELLED], label)
        p, q = logits[:LABELLED].softmax(1)[:, 1], (label == 1).float()
        dice = 1 - (2 * (p * q).sum() + 1e-5) / ((p * p).sum() + (q * q).sum() + 1e-5)
        gap = (logits[LABELLED:].softmax(1) - target) ** 2
        consistency = 0.1 * ramp(done // 150, 40) * (certain * gap).sum() / (2 * certain.sum() + 1e-16)
        loss = 0.5 * (entropy + dice) + consistency
        optimiser.zero_grad()
        loss.backward()
        optimiser.step()
        keep = min(1 - 1 / (done + 1), 0.99)
        for average, weight in zip(teacher.parameters(), student.parameters(), strict=True):
            average.data.mul_(keep).add_(weight.data, alpha=1 - keep)
        done += 1
        log.append([loss.item(), entropy.item(), dice.item(), consistency.item()])

    return step


def timed(step: Callable[[], object], device: Any) -> float:
    """Milliseconds of one call, the device's queue emptied before and after."""
    import torch

    def settle() -> None:
        if device.type == "cuda":
            torch.cuda.synchronize()

    settle()
    began = time.perf_counter()
    step()
    settle()
    return (time.perf_counter() - began) * 1e3


def ratios(times: dict[str, list[float]], slower: str, quicker: str) -> list[float]:
    """The time of one loop divided by that of another, round by round."""
    return [a / b for a, b in zip(times[slower], times[quicker], strict=True)]


def report(found: dict[str, Any]) -> None:
    times, patch = found["ms"], " x ".join(map(str, found["patch"]))
    where = f"{found['device']}, torch {found['torch']}, ours in {found['precision']}"
    print(f"{LABELLED} + {UNLABELLED} patches of {patch}, V-Net {found['filters']}, {PASSES} passes; {where}")
    for name, took in times.items():
        memory = f", {found['gib'][name]:.2f} GiB beside the weights" if name in found["gib"] else ""
        median = statistics.median(took)
        print(f"  {name:<12}{median:12.1f} ms  (from {min(took):.1f} to {max(took):.1f}){memory}")
    for name in (OURS, SINGLE):
        each = ratios(times, PUBLISHED, name)
        print(f"  published / {name}: {statistics.median(each):.2f} (median of {len(each)} rounds)")


def _device_name(device: Any) -> str:
    import torch

    if device.type == "cuda":
        return torch.cuda.get_device_name(device)
    info = Path("/proc/cpuinfo")
    lines = info.read_text().splitlines() if info.exists() else []
    models = [line.split(":", 1)[1].strip() for line in lines if line.startswith("model name")]
    return f"{models[0] if models else platform.machine()}, {torch.get_num_threads()} threads"


if __name__ == "__main__":
    main()
