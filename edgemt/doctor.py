"""What works on this machine, what does not, and why; whether a ship is whole and gives its masks."""

from __future__ import annotations

from pathlib import Path

from deploy import machine
from deploy.runtime import RUNTIMES, available, runner
from deploy.ship import open_ship, self_test

_FOR = {
    "numpy": "everything",
    "pillow": "images",
    "scipy": "surface distances in eval",
    "nibabel": "NIfTI volumes",
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


def doctor(ship: Path | None = None) -> tuple[bool, list[str]]:
    """(fit to run models, lines to print). Fit: a runtime works, and the ship, if given, passes its test."""
    found = machine.describe()
    gib = f"{found['memory_bytes'] / 2**30:.0f} GiB" if found["memory_bytes"] else "memory unknown"
    lines = [
        f"python       {found['python']} on {found['system']}",
        f"processor    {found['cpu']}, {found['cores_allowed']} cores to use, {gib}",
        f"instructions {', '.join(found['flags']) or 'none of those that speed up bf16 or INT8'}",
        f"governor     {found['governor'] or 'not said by the system'}",
        "",
    ]
    runtimes = available()
    for name, (fine, said) in runtimes.items():
        lines.append(
            f"{'ok' if fine else '--':3} {name:28} {said:14} {RUNTIMES[name].about}" if fine else _lack(name, said)
        )
    lines.append("")
    for name, use in _FOR.items():
        if name not in RUNTIMES:
            version = machine.version(name)
            lines.append(
                f"ok  {name:28} {version:14} {use}" if version else _lack(name, f"not installed; needed for {use}")
            )
    able = [name for name, row in RUNTIMES.items() if row.load is not None and runtimes[name][0]]
    healthy = bool(able)
    if not able:
        lines += ["", "no runtime for a ship: pip install openvino or onnxruntime"]
    if ship is not None:
        tested, report = _try_ship(Path(ship), able)
        lines += ["", *report]
        healthy = healthy and tested
    return healthy, lines


def _lack(name: str, why: str) -> str:
    return f"--  {name:28} {why}"


def _try_ship(folder: Path, runtimes: list[str]) -> tuple[bool, list[str]]:
    try:
        ship = open_ship(folder)
    except ValueError as error:
        return False, [f"--  ship {error}"]
    lines = [f"ok  ship {ship.card.name or folder.name}: {len(ship.card.files)} files have the hash of the card"]
    healthy = True
    for name in runtimes:
        for kind, files in RUNTIMES[name].files.items():
            if not any(file in ship.card.files for file in files):
                continue
            try:
                made = runner(ship, runtime=name, file=kind)
                test = self_test(ship, made)
                fine, said = test.ok, f"{made.file} runs in {made.precision}: {test.message}"
            except ValueError as error:
                fine, said = False, str(error)
            healthy = healthy and fine
            lines.append(f"{'ok' if fine else '--':3} {name:12} {said}")
    return healthy, lines
