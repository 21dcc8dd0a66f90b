"""Imports go down the floors, and the front door stays light."""

from __future__ import annotations

import ast
import subprocess
import sys
from pathlib import Path

import pytest

ROOT = Path(__file__).parent.parent
FLOORS = [
    {
        *("contract", "frames", "geometry", "depth", "masks", "files", "names", "entries", "hub", "telemetry"),
        *("plain_files", "children", "encoder_weights", "network_options", "decode_limits", "decoding", "h5_links"),
    },
    {
        *("losses", "perturb", "prompts", "pseudo", "ramps", "metrics", "surface", "components", "roles"),
        *("overlay", "through", "ensemble", "checkpoint", "progress", "ranks", "fingerprints", "locking"),
        "feature_losses",
    },
    {"targets", "methods"},
    {
        *("engine", "data", "phantom", "phantom_volumes", "evaluate", "sliding", "bank"),
        *("deploy", "teachers", "students"),
    },
    {
        *(
            "flow",
            "training",
            "slimming",
            "fallback",
            "quantizing",
            "shipping",
            "reporting",
            "workspace",
            "quantization_aware",
            "fake_quant",
            "ladder",
            "second_teacher",
            "feature_teacher",
            "warm_up",
            "volumetric",
            "frame_bank",
            "artefact",
            "reuse",
            "data_changes",
            "recipes",
        ),
        *("report", "plugins", "cli", "commands", "comparing", "zoo"),
        *("overrides", "listing", "shipped", "predicting", "prompting", "doctor"),
    },
]
LEVEL = {room: floor for floor, rooms in enumerate(FLOORS) for room in rooms}
WINGS = {"teachers", "students", "deploy"}
FILES = [p for top in ("edgemt", *sorted(WINGS)) for p in sorted((ROOT / top).rglob("*.py"))]


def room_of(module: str) -> str | None:
    """`edgemt.data.slice_dataset` -> data, `deploy.pruning.prune` -> deploy; None for what is not ours."""
    top, *rest = module.split(".")
    if top in WINGS:
        return top
    return rest[0] if top == "edgemt" and rest else None


def imports(path: Path) -> set[str]:
    """Every module a file imports anywhere in it, absolute."""
    package = path.relative_to(ROOT).with_suffix("").parts[:-1]
    found = set()
    for node in ast.walk(ast.parse(path.read_text())):
        if isinstance(node, ast.Import):
            found |= {alias.name for alias in node.names}
        elif isinstance(node, ast.ImportFrom):
            base = ".".join((*package[: len(package) - node.level + 1], *([node.module] if node.module else [])))
            base = base if node.level else node.module or ""
            found |= {f"{base}.{alias.name}" if base in ("edgemt", "deploy") else base for alias in node.names}
    return found


@pytest.mark.parametrize("path", FILES, ids=lambda p: p.relative_to(ROOT).as_posix())
def test_imports_go_down_or_stay_inside_their_room(path: Path) -> None:
    own = room_of(".".join(path.relative_to(ROOT).with_suffix("").parts))
    if own in (None, "__init__"):
        return
    assert own in LEVEL, f"{own} has no floor yet: add it to the plan above"
    for module in imports(path):
        other = room_of(module)
        if other is None or other == own or other not in LEVEL:
            continue
        assert LEVEL[other] <= LEVEL[own], f"{path.name} (floor {LEVEL[own]}) imports {module} (floor {LEVEL[other]})"
        if own in WINGS:
            assert LEVEL[other] == 0, f"{path.name}: a wing takes from the house only its ground floor, not {module}"
        elif LEVEL[own] < 4:
            assert other not in WINGS, f"{path.name}: {module} is a wing; take what you need as an argument"


def loaded_after(code: str) -> set[str]:
    said = subprocess.run(
        [sys.executable, "-c", f"{code}\nimport sys; print(' '.join(sys.modules))"],
        capture_output=True, text=True, check=True, cwd=ROOT,
    )  # fmt: skip
    return set(said.stdout.split())


@pytest.mark.parametrize(
    "code", ["import edgemt", "import edgemt.cli\ntry: edgemt.cli.main(['--help'])\nexcept SystemExit: pass"]
)
def test_the_front_door_loads_nothing_heavy(code: str) -> None:
    heavy = {
        "torch",
        "scipy",
        "onnxruntime",
        "openvino",
        "nibabel",
        "matplotlib",
        "timm",
        "monai",
        "lightning",
    }
    assert not heavy & loaded_after(code)
