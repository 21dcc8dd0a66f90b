"""What works on this machine, what does not, and why; whether a ship is whole and gives its masks."""

from __future__ import annotations

from pathlib import Path

import numpy as np

from deploy.hardware import machine
from deploy.measurement.variants import BUSY, fastest, undecided
from deploy.package.golden import golden_pairs, self_test
from deploy.package.package import Package, open_package
from deploy.runtimes.load import fastest_here, runner
from deploy.runtimes.onnxruntime_placement import placement_text
from deploy.runtimes.registry import CHECKED, INSTALL, RUNTIMES, available
from deploy.runtimes.tensorrt_engine_cache import EngineNotBuiltError

AGREEMENT = 0.999  # share of golden pixels on which two runtimes must agree, at the same precision
# INT8 kernels round each sum once or several times: one runtime differs from itself by 0.1 to 0.2 % of pixels when
# its optimizer is switched off, so less than this is what tells a broken one
INT8_AGREEMENT = 0.995

_FOR = {
    "numpy": "everything",
    "pillow": "images",
    "scipy": "surface distances in eval",
    "nibabel": "NIfTI volumes",
    "nvidia-ml-py": "clocks, memory and energy of an NVIDIA GPU in bench",
    "torch": "training",
    "timm": "students",
    "lightning": "training",
    "monai": "further teachers",
    "segmentation-models-pytorch": "further teachers",
    "torch-pruning": "pruning",
    "nncf": "quantizing",
    "onnx": "exporting",
    "onnxscript": "exporting",
    "safetensors": "weights",
    "tensorboard": "training curves",
}


def doctor(ship: Path | None = None, *, cpu_fallback: bool = True) -> tuple[bool, list[str]]:
    """(fit to run models, lines to print). Fit: a runtime works, and the ship, if given, passes its test.

    Without `cpu_fallback` a file fails of which nodes run on the processor instead of the provider of its runtime.
    """
    found = machine.describe()
    gib = f"{found['memory_bytes'] / 2**30:.0f} GiB" if found["memory_bytes"] else "memory unknown"
    lines = [
        f"python       {found['python']} on {found['system']}",
        f"processor    {found['cpu']}, {found['cores_allowed']} cores to use, {gib}",
        f"instructions {', '.join(found['flags']) or 'none of those that speed up bf16 or INT8'}",
        f"governor     {found['governor'] or 'not reported by the system'}",
        "",
    ]
    runtimes = available()
    for name, (fine, text) in runtimes.items():
        lines.append(
            f"{'ok' if fine else '--':3} {name:28} {text:14} {RUNTIMES[name].about}" if fine else _lack(name, text)
        )
    lines.append("")
    for name, use in _FOR.items():
        if name not in RUNTIMES:
            version = machine.version(name)
            lines.append(
                f"ok  {name:28} {version:14} {use}" if version else _lack(name, f"not installed; needed for {use}")
            )
    if machine.version("timm"):
        lines += ["", *_encoder_weights()]
    able = [name for name, row in RUNTIMES.items() if row.load is not None and runtimes[name][0]]
    healthy = bool(able)
    if not able:
        lines += ["", f"no runtime for a ship: {INSTALL}"]
    if ship is not None:
        tested, report = _try_ship(Path(ship), able, cpu_fallback=cpu_fallback)
        lines += ["", *report]
        healthy = healthy and tested
    return healthy, lines


def _encoder_weights() -> list[str]:
    """Where the pretrained weights of each student's encoder can be had here; the network is not used."""
    import students
    from edgemt.io import encoder_weights

    lines = []
    for name, row in students.STUDENTS.items():
        try:
            source = encoder_weights.sources(row.encoder)
        except ImportError as error:  # timm is listed as installed, and cannot be imported
            return [_lack("pretrained weights", f"timm does not work here ({error})")]
        here = "installed" in source and "not installed" not in source or source.startswith("hub cache")
        lines.append(f"{'ok' if here else '--':3} {name:28} pretrained weights: {source}")
    return lines


def _lack(name: str, why: str) -> str:
    return f"--  {name:28} {why}"


def _try_ship(folder: Path, runtimes: list[str], *, cpu_fallback: bool) -> tuple[bool, list[str]]:
    try:
        ship = open_package(folder)
    except ValueError as error:
        return False, [f"--  ship {error}"]
    lines = [f"ok  ship {ship.card.name or folder.name}: {len(ship.card.files)} files have the hash of the card"]
    healthy = True
    for kind in ("fp32", "fp16", "int8"):
        holding = [
            name for name in runtimes if any(file in ship.card.files for file in RUNTIMES[name].files.get(kind, ()))
        ]
        masks: dict[str, np.ndarray] = {}
        for name in holding:
            fine, line = _try_file(ship, name, kind, masks, cpu_fallback=cpu_fallback)
            healthy = healthy and fine
            lines.append(line)
        comparable = {n: m for n, m in masks.items() if kind != "int8" or not RUNTIMES[n].own_quantization}
        for fine, line in _agreement(kind, comparable, least=_least(ship, kind)):
            healthy = healthy and fine
            lines.append(line)
    return healthy, [*lines, *_fastest_lines(ship)]


def _fastest_lines(ship: Package) -> list[str]:
    """One line: the file and runtime that `runner` chooses on this machine by default, and why."""
    if not undecided(ship.card):
        return [
            f"    quickest     {record['file']} on {name}, when the ship was made"
            for name, record in list(fastest(ship.card).items())[:1]
        ]
    found = fastest_here(ship)
    if found is None:
        return []
    busy = found.foreign_cores or 0.0
    busy_too = f"; other processes used {busy:.1f} cores meanwhile, repeat on an idle machine" if busy > BUSY else ""
    what = f"{found.file} on {found.runtime}, {found.p50_ms:.2f} ms, timed here, since the card leaves it undecided"
    return [f"    quickest     {what}{busy_too}"]


def _try_file(
    ship: Package, name: str, kind: str, masks: dict[str, np.ndarray], *, cpu_fallback: bool
) -> tuple[bool, str]:
    """The self-test of one file on one runtime; its masks in the comparable precision go to `masks`."""
    try:
        made = runner(ship, runtime=name, file=kind, cpu_fallback=cpu_fallback, tested=False)
        test = self_test(ship, made)
        if test.frames:
            masks[name] = golden_masks(ship, name, kind)
    except EngineNotBuiltError as error:  # no error: the engine has not been built yet
        return True, f"--  {name:12} {error}"
    except ValueError as error:
        return False, f"--  {name:12} {error}"
    alone = " (one class alone: this proves little)" if test.frames and len(np.unique(masks[name])) == 1 else ""
    placed = f" ({nodes} nodes)" if (nodes := placement_text(made.details)) else ""
    text = f"{made.file} runs in {made.precision}{placed}: {test.message}{alone}"
    return test.ok, f"{'ok' if test.ok else '--':3} {name:12} {text}"


def golden_masks(ship: Package, name: str, kind: str) -> np.ndarray:
    """Masks of the golden frames on a runtime, in the precision that the other runtimes have too."""
    made, exact = runner(ship, runtime=name, file=kind, tested=False), RUNTIMES[name].reference_precision
    if exact is not None and set(made.precision.split("+")) - {exact, "int8"}:
        made = runner(ship, runtime=name, file=kind, precision=exact, tested=False)
    return np.concatenate([made(pair.frame) for pair in golden_pairs(ship)])


def int8_agreement(ship: Package) -> float:
    """The fraction of golden pixels on which all runtimes that a package is checked on give one class in INT8."""
    first, *others = (golden_masks(ship, runtime, "int8") for runtime in CHECKED)
    return float(np.all([first == masks for masks in others], axis=0).mean())


def _least(ship: Package, kind: str) -> float:
    """The required agreement. For INT8 it follows from the agreement that the export measured, where it did."""
    if kind != "int8":
        return AGREEMENT
    noted = [m.golden_agreement for m in ship.card.measured.values() if m.golden_agreement is not None]
    return min([INT8_AGREEMENT, *(share - (1 - INT8_AGREEMENT) for share in noted)])


def _agreement(kind: str, masks: dict[str, np.ndarray], *, least: float) -> list[tuple[bool, str]]:
    """How far each runtime agrees with the first, at the same precision."""
    first, *others = masks or [""]
    found = []
    for name in others:
        share = float((masks[first] == masks[name]).mean())
        fine = share >= least
        text = f"{first} and {name} agree on {share:.3%} of golden pixels with {kind}"
        if share >= AGREEMENT:
            text += f", at least {AGREEMENT:.1%}"
        elif fine:
            text += f", below {AGREEMENT:.1%}: INT8 rounding, which a runtime may do in its own way"
        else:
            text += f", wanted {AGREEMENT:.1%}; one of the two is broken, trust the one whose self-test is nearer"
        found.append((fine, f"{'ok' if fine else '--':3} {'agreement':12} {text}"))
    return found
