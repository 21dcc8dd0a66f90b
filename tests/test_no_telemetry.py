"""Nothing is told to the makers of the libraries that turn a network into a graph."""

from __future__ import annotations

import subprocess
import sys

OPENVINO = """
import deploy.export, openvino
from openvino.tools.ovc import telemetry_utils
print(telemetry_utils.tm.__name__)
"""
NNCF = """
import deploy.quantize, nncf
import sys
print(sys.modules["openvino_telemetry"])
"""


def said(program: str) -> str:
    done = subprocess.run([sys.executable, "-c", program], capture_output=True, text=True, check=True)
    return done.stdout.strip().splitlines()[-1]


def test_openvino_converts_with_its_stub() -> None:
    assert said(OPENVINO).endswith("telemetry_stub")


def test_nncf_quantizes_without_the_package_that_reports() -> None:
    assert said(NNCF) == "None"
