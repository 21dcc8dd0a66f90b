"""A program in a process of its own that cannot import the packages that a test hides."""

from __future__ import annotations

import json
import os
import subprocess
import sys

from checkout import ROOT

TRAINING_PACKAGES = [
    "torch",
    "torchvision",
    "timm",
    "lightning",
    "monai",
    "nncf",
    "onnx",
    "onnxscript",
    "torch_pruning",
]

HOOK = """
import importlib.abc, json, sys

class Hide(importlib.abc.MetaPathFinder):
    def find_spec(self, name, path=None, target=None):
        if name.split(".")[0] in HIDDEN:
            raise ModuleNotFoundError(f"No module named {name!r}", name=name)

HIDDEN = set(json.loads(sys.argv[1]))
sys.meta_path.insert(0, Hide())
"""


def run_without(program: str, *, hide: list[str], arguments: list[str] | None = None) -> str:
    environment = {**os.environ, "PYTHONPATH": str(ROOT), "OMP_NUM_THREADS": "1"}
    done = subprocess.run(
        [sys.executable, "-c", HOOK + program, json.dumps(hide), *(arguments or [])],
        capture_output=True,
        text=True,
        env=environment,
        timeout=600,
    )
    assert done.returncode == 0, done.stderr
    return done.stdout
