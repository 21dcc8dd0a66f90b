"""Nothing is reported to the makers of the libraries: no name is resolved, no connection opened, no queue file left."""

from __future__ import annotations

import os
import platform
import subprocess
import sys
import time
from pathlib import Path

import pytest
from checkout import ROOT
from tiny_flags import TINY

pytest.importorskip("onnx")
pytest.importorskip("onnxruntime")

from tiny_package import make_ship  # noqa: E402

LINUX = sys.platform == "linux" and platform.machine() in ("x86_64", "aarch64")
# After this no thread and no child can open an IPv4 or IPv6 socket, with which every name look-up begins: the kernel
# ends the process with SIGSYS. No packet leaves, so it does not matter whether the machine has a network.
NO_SOCKETS = """
import ctypes, platform, struct
audit, call = {"x86_64": (0xC000003E, 41), "aarch64": (0xC00000B7, 198)}[platform.machine()]
step = lambda code, yes, no, value: struct.pack("HBBI", code, yes, no, value)
program = b"".join([
    step(0x20, 0, 0, 4), step(0x15, 0, 6, audit), step(0x20, 0, 0, 0), step(0x15, 0, 4, call),
    step(0x20, 0, 0, 16), step(0x15, 1, 0, 2), step(0x15, 0, 1, 10),
    step(6, 0, 0, 0x80000000), step(6, 0, 0, 0x7FFF0000),
])
steps = ctypes.create_string_buffer(program)
libc = ctypes.CDLL(None, use_errno=True)
assert libc.prctl(38, 1, 0, 0, 0) == 0
wanted = struct.pack("HxxxxxxQ", len(program) // 8, ctypes.addressof(steps))
assert libc.prctl(22, 2, ctypes.c_char_p(wanted), 0, 0) == 0, ctypes.get_errno()
"""
SIGSYS = -31
ASK = "import socket; socket.getaddrinfo('edgemt.invalid', 80)"
RUN = """
import sys, time
from deploy.runtimes.load import runner
made = runner(sys.argv[1], runtime={runtime!r})
import numpy as np
made(np.zeros(made.shape, np.uint8))
time.sleep({wait})
"""
OPENVINO = """
import deploy.export, openvino
from openvino.tools.ovc import telemetry_utils
assert telemetry_utils.tm.__name__.endswith("telemetry_stub")
"""
NO_FILES = """
from pathlib import Path
assert not [path for path in Path.home().rglob("*") if path.is_file()]
"""
NNCF = """
import deploy.quantization.int8, nncf, sys
assert sys.modules["openvino_telemetry"] is None
"""
LIBRARIES = """
import edgemt, importlib.util as util
models = ("timm", "transformers", "monai", "segmentation_models_pytorch")
for name in ("onnxruntime", "huggingface_hub", "lightning", *models):
    if util.find_spec(name) is not None:
        __import__(name)
if util.find_spec("huggingface_hub") is not None:
    from huggingface_hub import constants
    from huggingface_hub.utils import build_hf_headers
    assert constants.HF_HUB_DISABLE_TELEMETRY
    assert "torch/" not in build_hf_headers()["user-agent"], build_hf_headers()
"""
TRAIN = "import sys; from edgemt import cli; cli.main(sys.argv[1:])"


def in_a_home(tmp_path: Path, code: str, *words: str, watched: bool = True, **more: str) -> tuple[int, str, list[str]]:
    """Exit status, stderr, and the files in the home folder of a process that begins with nothing switched off."""
    home = tmp_path / "home"
    home.mkdir(exist_ok=True)
    hidden = (
        "CI",
        "ORT_DISABLE_TELEMETRY",
        "HF_HUB_DISABLE_TELEMETRY",
        "DO_NOT_TRACK",
        "XDG_CACHE_HOME",
        "EDGEMT_CACHE",
    )
    plain = {name: value for name, value in os.environ.items() if name not in hidden}
    done = subprocess.run(
        [sys.executable, "-c", (NO_SOCKETS if watched and LINUX else "") + code, *words],
        env={**plain, "HOME": str(home), "PYTHONPATH": str(ROOT), **more},
        cwd=tmp_path,
        capture_output=True,
        text=True,
        timeout=550,
    )
    files = sorted(path.relative_to(home).as_posix() for path in home.rglob("*") if path.is_file())
    return done.returncode, done.stderr, files


@pytest.mark.skipif(not LINUX, reason="the kernel's filter of calls is Linux's")
def test_the_watch_sees_a_name_looked_up(tmp_path: Path) -> None:
    assert in_a_home(tmp_path, ASK)[0] == SIGSYS


def test_onnxruntime_leaves_a_queue_where_nothing_switches_it_off(tmp_path: Path) -> None:
    """Else the tests below would pass whatever the package does."""
    import onnxruntime

    if tuple(int(n) for n in onnxruntime.__version__.split(".")[:2]) < (1, 29) or sys.platform != "linux":
        pytest.skip("this version does not report")
    status, errors, files = in_a_home(tmp_path, "import onnxruntime", watched=False)
    assert status == 0, errors
    assert any(".onnxruntime" in name for name in files), files


@pytest.mark.parametrize("runtime", ["onnxruntime", "openvino"])
def test_a_ship_runs_without_a_name_looked_up_or_a_file_left(tmp_path: Path, runtime: str) -> None:
    pytest.importorskip(runtime)
    make_ship(tmp_path / "ship", openvino=runtime == "openvino")
    status, errors, files = in_a_home(tmp_path, RUN.format(runtime=runtime, wait=0), str(tmp_path / "ship"))
    assert (status, files) == (0, []), errors


@pytest.mark.slow
@pytest.mark.parametrize("runtime", ["onnxruntime", "openvino"])
def test_a_ship_that_stays_open_looks_no_name_up(tmp_path: Path, runtime: str) -> None:
    """What is queued is sent after some seconds."""
    pytest.importorskip(runtime)
    make_ship(tmp_path / "ship", openvino=runtime == "openvino")
    status, errors, files = in_a_home(tmp_path, RUN.format(runtime=runtime, wait=25), str(tmp_path / "ship"))
    assert (status, files) == (0, []), errors


@pytest.mark.parametrize(
    "first", ["import edgemt", "import deploy", "import edgemt.contract", "import deploy.package.package"]
)
def test_the_switch_is_set_by_whatever_is_imported_first(tmp_path: Path, first: str) -> None:
    code = f"{first}; import onnxruntime, os; assert os.environ['ORT_DISABLE_TELEMETRY'] == '1'"
    status, errors, files = in_a_home(tmp_path, code, ORT_DISABLE_TELEMETRY="0")
    assert (status, files) == (0, []), errors
    assert "Warning" not in errors


def test_an_import_too_early_is_reported(tmp_path: Path) -> None:
    status, errors, _ = in_a_home(tmp_path, "import onnxruntime, edgemt", watched=False)
    assert status == 0
    assert "onnxruntime was imported before edgemt" in errors


def test_openvino_converts_with_its_stub_and_nncf_quantizes_without_the_package_that_reports(tmp_path: Path) -> None:
    """One process, as both import torch. OpenVINO comes first and leaves no file; NNCF may leave some."""
    pytest.importorskip("nncf")
    status, errors, _ = in_a_home(tmp_path, OPENVINO + NO_FILES + NNCF)
    assert status == 0, errors


@pytest.mark.slow
def test_no_library_of_training_looks_a_name_up_when_it_is_imported(tmp_path: Path) -> None:
    pytest.importorskip("timm")
    status, errors, files = in_a_home(tmp_path, LIBRARIES)
    assert status == 0, errors
    assert not [name for name in files if "icrosoft" in name or "telemetry" in name.lower()], files


@pytest.mark.slow
def test_a_whole_run_looks_no_name_up(tmp_path: Path) -> None:
    """From training to a page with every runtime timed, in processes of their own as well."""
    pytest.importorskip("torch")
    begun = time.time()
    words = ["run", "phantom", "--out", str(tmp_path / "run"), "--student.pretrained", "never", *TINY]
    status, errors, files = in_a_home(tmp_path, TRAIN, *words)
    assert status == 0, (time.time() - begun, errors[-2000:])
    assert not [name for name in files if "icrosoft" in name or "telemetry" in name.lower()], files
