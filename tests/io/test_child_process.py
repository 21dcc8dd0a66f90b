"""What a process that we start may import and build: nothing of the current folder, nothing that a card names."""

from __future__ import annotations

import json
import os
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest
from checkout import ROOT

from edgemt.io import child_process

PLANTED = ("json", "struct", "platform", "edgemt_plugin", "numpy", "sitecustomize")


@pytest.fixture
def planted(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """A current folder with Python files named as modules that every program imports."""
    folder = tmp_path / "here"
    folder.mkdir()
    for name in PLANTED:
        (folder / f"{name}.py").write_text(f"open({str(tmp_path / 'ran')!r}, 'a').write({name!r})\n")
    monkeypatch.chdir(folder)
    return tmp_path / "ran"


def cold(ship: Path) -> None:
    from deploy.benchmark.cold_start import cold_start

    frame = np.zeros((1, 32, 40, 3), np.uint8)
    assert cold_start(ship, {"runtime": "onnxruntime", "threads": 1, "file": "fp32"}, frame=frame)


def streamed(ship: Path) -> None:
    from deploy.stream.inference.worker_process import WorkerProcess

    made = WorkerProcess(ship, hang_ms=20_000, runtime="onnxruntime", threads=1)
    made(np.zeros((1, 32, 40, 3), np.uint8))
    made.close()


@pytest.mark.parametrize("start", [cold, streamed])
def test_no_file_of_the_current_folder_runs_in_a_child(
    start: Callable[[Path], None], planted: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    pytest.importorskip("onnx")
    pytest.importorskip("onnxruntime")
    from tiny_package import make_ship

    ship = make_ship(planted.parent / "ship").folder
    monkeypatch.setattr(sys, "path", ["", *sys.path])
    monkeypatch.setenv("PYTHONPATH", os.pathsep.join(["", str(ROOT), ""]))
    start(ship)
    assert not planted.exists(), planted.read_text()


@pytest.mark.parametrize("old", [False, True])
def test_the_command_runs_a_module_without_the_current_folder(
    planted: Path, monkeypatch: pytest.MonkeyPatch, old: bool
) -> None:
    """`old`: the form for Python 3.10, which has no -P."""
    monkeypatch.delenv("COVERAGE_PROCESS_CONFIG", raising=False)  # pytest --cov would import json before the command
    monkeypatch.setattr(sys, "path", ["", str(planted.parent / "here"), *sys.path])
    if old:
        monkeypatch.setattr(sys, "version_info", (3, 10))
    command, env = child_process.python_module("edgemt.cli", "--version"), child_process.environment()
    if old:
        env.pop("PYTHONSAFEPATH")
    done = subprocess.run(command, env=env, capture_output=True, text=True)
    assert done.stdout.startswith("edgemt "), done.stderr
    assert not planted.exists(), planted.read_text()
    plain = subprocess.run([sys.executable, "-c", "import struct, json"], env={**env, "PYTHONSAFEPATH": ""})
    assert plain.returncode == 0 and planted.exists(), "the plain form runs them, so this test can fail"


def test_the_environment_has_absolute_folders_and_switches_reports_off(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(sys, "path", ["", "relative", *sys.path])
    env = child_process.environment()
    assert env["ORT_DISABLE_TELEMETRY"] == env["PYTHONSAFEPATH"] == "1"
    assert all(os.path.isabs(p) for p in env["PYTHONPATH"].split(os.pathsep))


REFUSED = {
    "checkpoint_path": "FILE",
    "pretrained_cfg": {"file": "FILE"},
    "pretrained_cfg_overlay": {"file": "FILE"},
    "cache_dir": "FILE",
    "pretrained_filter_fn": "os.system",
    "encoder_weights": "imagenet",
    "scriptable": True,
}


@pytest.mark.parametrize("option", REFUSED)
@pytest.mark.parametrize("name", ["test_efficientnet", "smp/Unet"])
def test_a_card_cannot_have_a_file_loaded(name: str, option: str, tmp_path: Path) -> None:
    """A FIFO in its place would be waited for, were it opened."""
    pytest.importorskip("timm")
    from edgemt.artefacts.network_folder import build_network

    file = tmp_path / "evil.pth"
    value = json.loads(json.dumps(REFUSED[option]).replace("FILE", str(file)))
    room = "teachers" if "/" in name else "students"
    encoder = {"encoder": "tu-test_efficientnet"} if room == "teachers" else {}
    asked = {"room": room, "name": name, "channels": 3, "classes": 2, "heads": []}
    with pytest.raises(ValueError, match=f"{option}.*"):
        build_network({**asked, "options": {**encoder, option: value}})


@pytest.mark.parametrize("encoder", ["hf-hub:someone/model", "local-dir:/tmp", "../x", "timm/resnet18"])
def test_a_card_cannot_name_a_place_as_encoder(encoder: str) -> None:
    pytest.importorskip("timm")
    import students
    import teachers

    with pytest.raises(ValueError, match="no name of a table"):
        students.build(encoder, channels=3, classes=2)
    with pytest.raises(ValueError, match="no name of a table"):
        teachers.build("smp/Unet", channels=3, classes=2, encoder=f"tu-{encoder}")


def test_options_of_the_allow_list_still_reach_the_builders() -> None:
    pytest.importorskip("timm")
    import students
    import teachers

    assert students.build("test_efficientnet", channels=3, classes=2, drop_path_rate=0.1)
    assert teachers.build("smp/Unet", channels=3, classes=2, encoder="resnet18", decoder_attention_type="scse")
    assert teachers.build("monai/BasicUNet", channels=1, classes=2, dropout=0.1)
    with pytest.raises(ValueError, match="drop_path_rat"):
        students.build("test_efficientnet", channels=3, classes=2, drop_path_rat=0.1)


@pytest.mark.parametrize(
    "network", [{}, {"room": "os"}, {"room": "students", "name": 3, "options": 4}, {"room": "students", "options": {}}]
)
def test_a_network_that_is_none_is_one_line(network: dict[str, object]) -> None:
    pytest.importorskip("timm")
    from edgemt.artefacts.network_folder import build_network

    with pytest.raises(ValueError) as error:
        build_network(network)
    assert "\n" not in str(error.value)
