"""What this machine lacks for the parts, found in a few seconds before the first of them starts."""

from __future__ import annotations

import json
import os
import re
import shutil
import subprocess
import sys
from collections.abc import Sequence
from dataclasses import dataclass, field
from importlib.util import find_spec
from pathlib import Path
from typing import Any

from gpu.plan import NAMES, Part

WHEELS = Path(__file__).with_name("wheels.txt")
DISK_GB = 10.0  # checkpoints, soft labels and graphs of both recipes
_TORCH = """
import json, torch
found = torch.cuda.is_available()
print(json.dumps({"torch": torch.__version__, "cuda": torch.version.cuda, "seen": found,
                  "name": torch.cuda.get_device_name() if found else ""}))
"""
_LINE = re.compile(r"^(?P<name>[A-Za-z0-9._-]+)\S*(?:\s*;[^#]*)?\s*#\s*(?P<parts>.+)$")


@dataclass(frozen=True)
class Environment:
    """`lacks`: need of a part -> why this machine does not have it. `facts`: what was found."""

    lacks: dict[str, str] = field(default_factory=dict)
    facts: dict[str, Any] = field(default_factory=dict)
    packages: dict[str, list[str]] = field(default_factory=dict)  # part -> packages that are not installed

    def reasons(self, part: Part, *, dry: bool) -> list[str]:
        """Why the part cannot run here, one reason for each need; empty where it can. A dry run needs none of them."""
        if dry:
            return []
        missing = self.packages.get(part.name, [])
        lacks = [self.lacks[need] for need in part.needs if need in self.lacks]
        return [*lacks, *([f"not installed: {', '.join(missing)}"] if missing else [])]

    def line(self, parts: Sequence[Part], *, dry: bool) -> str:
        """One line: what was found, what is missing, which parts are skipped for it."""
        here = ", ".join(str(value) for value in self.facts.values() if value)
        if dry:
            return f"dry run on the processor ({here}): toy sizes, no cell of the table"
        skipped = [part.name for part in parts if self.reasons(part, dry=dry)]
        missing = dict.fromkeys(text for part in parts for text in self.reasons(part, dry=dry))
        fewer = dict.fromkeys(
            self.lacks[want] for part in parts for want in part.wants if want in self.lacks and part.name not in skipped
        )
        texts = [f"found {here}"]
        texts += [f"missing: {'; '.join(missing)}; skipped: {', '.join(skipped)}"] if missing else []
        texts += [f"fewer rows: {'; '.join(fewer)}"] if fewer else []
        return "; ".join(texts if missing or fewer else [*texts, "nothing is missing"])


def check(*, data: Path | None, work: Path, trtexec: str = "", rtx_tool: str = "") -> Environment:
    """Look for driver, CUDA in torch and ONNX Runtime, TensorRT, NVIDIA's tools, data, packages and disk space."""
    lacks: dict[str, str] = {}
    facts: dict[str, Any] = {}
    from deploy.runtimes.cuda_driver import cuda

    try:
        device = cuda().gpu
        facts["gpu"] = f"{device.name} (driver {device.driver})"
    except (ValueError, AttributeError) as error:
        lacks["driver"] = " ".join(str(error).split())
    _torch(lacks, facts)
    _runtimes(lacks, facts)
    for need, tool, flag in (("trtexec", trtexec, "--trtexec"), ("tensorrt_rtx tool", rtx_tool, "--rtx-tool")):
        if not find_tool(tool or need.split()[0]):
            lacks[need] = f"{need} not found (give {flag} FILE)"
        else:
            facts[need] = need
    for name in ("acdc", "la2018"):
        if data is None or not (data / name / "train.txt").is_file():
            lacks[f"DATA/{name}"] = f"no {name}/train.txt in {data}" if data else f"no {name} (give --data DIR)"
    free = shutil.disk_usage(next(folder for folder in (work, *work.resolve().parents) if folder.is_dir())).free / 1e9
    facts["disk"] = f"{free:.0f} GB free"
    if free < DISK_GB:
        lacks["disk"] = f"{free:.1f} GB free of the {DISK_GB:.0f} GB that trainings take"
    return Environment(lacks, facts, missing_packages())


def _torch(lacks: dict[str, str], facts: dict[str, Any]) -> None:
    """In a process of its own, so that this one holds no memory of the device."""
    done = subprocess.run([sys.executable, "-c", _TORCH], capture_output=True, text=True, timeout=300, check=False)
    if done.returncode:
        lacks["torch on CUDA"] = f"torch cannot be imported ({(done.stderr.strip().splitlines() or ['?'])[-1]})"
        return
    found = json.loads(done.stdout.strip().splitlines()[-1])
    facts["torch"] = f"torch {found['torch']}"
    if not found["seen"]:
        built = f"built for CUDA {found['cuda']}" if found["cuda"] else "built without CUDA"
        lacks["torch on CUDA"] = f"torch sees no CUDA device ({built})"


def _runtimes(lacks: dict[str, str], facts: dict[str, Any]) -> None:
    try:
        import onnxruntime
    except ImportError as error:
        lacks["CUDA provider"] = f"onnxruntime cannot be imported ({error})"
    else:
        facts["onnxruntime"] = f"onnxruntime {onnxruntime.__version__}"
        if "CUDAExecutionProvider" not in onnxruntime.get_available_providers():
            lacks["CUDA provider"] = "onnxruntime has no CUDA provider (install onnxruntime-gpu in its place)"
    from deploy.hardware.machine import version
    from deploy.runtimes.registry import RUNTIMES

    for name in ("tensorrt", "tensorrt_rtx"):
        spec = RUNTIMES[name]
        if find_spec(spec.package) is None:
            lacks[name] = f"{name} not installed"
        else:
            found = next(filter(None, map(version, spec.distributions)), "")
            facts[name] = f"{name} {found}".strip()


def find_tool(tool: str) -> str:
    """Full path of a program by name or path; empty where there is none."""
    return shutil.which(os.path.expanduser(tool)) or ""


def wheels() -> dict[str, list[str]]:
    """Requirement of `wheels.txt` -> the parts that need it."""
    found = {}
    for number, line in enumerate(WHEELS.read_text(encoding="utf-8").splitlines(), 1):
        if not line.strip() or line.startswith("#"):
            continue
        match = _LINE.match(line)
        parts = match["parts"].split() if match else []
        unknown = [part for part in parts if part not in (*NAMES, "all")]
        if match is None or not parts or unknown:
            raise ValueError(f"{WHEELS}:{number}: REQUIREMENT  # PARTS expected, with parts of run.sh --list or all")
        found[line.split("#")[0].strip()] = list(NAMES) if "all" in parts else parts
    return found


def missing_packages() -> dict[str, list[str]]:
    """Part -> packages of `wheels.txt` that it needs and this Python does not have."""
    from deploy.hardware.machine import version

    found: dict[str, list[str]] = {}
    for requirement, parts in wheels().items():
        name = re.split(r"[^A-Za-z0-9._-]", requirement, maxsplit=1)[0]
        if version(name) is None and not (name == "onnxruntime-gpu" or "tensorrt" in name):  # found by import
            for part in parts:
                found.setdefault(part, []).append(name)
    return found
