"""What a device has: a new environment with this package and one inference runtime, nothing of the training side.

Each environment is made with pip from a copy of the checkout and thrown away, so the index must be in reach.
"""

from __future__ import annotations

import json
import os
import shutil
import subprocess
import sys
import time
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import pytest
from checkout import ROOT
from PIL import Image

pytest.importorskip("onnx")
pytest.importorskip("openvino")

from tiny_package import SIZE, expected, frame, make_ship  # noqa: E402

from edgemt.data.options import DataOptions  # noqa: E402

pytestmark = pytest.mark.slow

RUNTIMES = ("onnxruntime", "openvino")
FOREIGN = (
    "h5py", "lightning", "matplotlib", "monai", "nibabel", "nncf", "onnx", "onnxscript", "safetensors", "scipy",
    "segmentation-models-pytorch", "tensorboard", "tensorrt", "timm", "torch", "torch-pruning", "torchvision",
)  # fmt: skip
MODULES = 600  # about 450 today, most of them of numpy, tyro and rich; torch alone brings over a thousand
WORDS = {
    "doctor": "doctor ship",
    "predict": "predict ship test/images --out masks",
    "eval": "eval ship --data.root test --json eval.json",
    "bench": "bench ship --seconds 0.05 --hz 60 --json bench.json",
    "predict a volume": "predict ship volume.nii.gz --out masks",
}
STARTUP = """
import json, sys, time

runtime, began, *words = sys.argv[1:]
seen = {}

class Watch:
    def find_spec(self, name, path=None, target=None):
        if name == runtime and not seen:
            seen.update(modules=sorted(sys.modules), asked=time.time() - float(began))

sys.meta_path.insert(0, Watch())
from dataclasses import replace
from deploy.runtimes.registry import RUNTIMES

def load(path, choice, load=RUNTIMES[runtime].load):
    seen.setdefault("loads", time.time() - float(began))
    return load(path, choice)

RUNTIMES[runtime] = replace(RUNTIMES[runtime], load=load)
from edgemt import cli

cli.main(words)
print(json.dumps(seen))
"""


@dataclass(frozen=True)
class Device:
    """A folder with a ship, three labelled frames and an environment that has one runtime."""

    folder: Path
    runtime: str

    @property
    def other(self) -> str:
        return next(name for name in RUNTIMES if name != self.runtime)

    def python(self, *words: str) -> str:
        return self._done(self.folder / "env" / "bin" / "python", *words)

    def pip(self, *words: str | Path) -> None:
        self.python("-m", "pip", "install", "--quiet", "--disable-pip-version-check", *map(str, words))

    def edgemt(self, command: str) -> str:
        return self._done(self.folder / "env" / "bin" / "edgemt", *WORDS[command].split())

    def installed(self) -> dict[str, str]:
        listed = self.python("-m", "pip", "list", "--format=json", "--disable-pip-version-check")
        return {entry["name"].lower().replace("_", "-"): entry["version"] for entry in json.loads(listed)}

    def _done(self, program: Path, *words: str) -> str:
        environment = {k: v for k, v in os.environ.items() if k not in ("PYTHONPATH", "VIRTUAL_ENV", "PYTHONHOME")}
        done = subprocess.run(
            [program, *words], cwd=self.folder, env=environment, capture_output=True, text=True, timeout=600
        )
        assert done.returncode == 0, f"{program.name} {' '.join(words)[:200]}\n{done.stdout}\n{done.stderr}"
        return done.stdout


@pytest.fixture(scope="module", params=RUNTIMES)
def device(request: pytest.FixtureRequest, tmp_path_factory: pytest.TempPathFactory) -> Device:
    made = Device(tmp_path_factory.mktemp(request.param), request.param)
    data = DataOptions(layout="pairs", classes=("background", "organ", "tool"), size=SIZE).to_dict()
    make_ship(made.folder / "ship", openvino=True, data=data)
    for kind, picture in (("images", frame), ("masks", lambda seed: expected(frame(seed)))):
        (made.folder / "test" / kind).mkdir(parents=True)
        for seed in range(3):
            Image.fromarray(picture(seed)).save(made.folder / "test" / kind / f"{seed}.png")
    _copy_of_the_checkout(made.folder / "checkout")
    subprocess.run([sys.executable, "-m", "venv", made.folder / "env"], check=True)
    made.pip(made.folder / "checkout", made.runtime)
    return made


def _copy_of_the_checkout(folder: Path) -> None:
    """A build writes beside the sources: never into the checkout itself."""
    folder.mkdir()
    for name in ("pyproject.toml", "README.md", "LICENSE"):
        shutil.copy(ROOT / name, folder)
    for name in ("edgemt", "teachers", "students", "deploy"):
        shutil.copytree(ROOT / name, folder / name, ignore=shutil.ignore_patterns("__pycache__"))


def test_the_base_install_and_one_runtime_bring_nothing_of_the_training_side(device: Device) -> None:
    there = device.installed()
    assert {"edgemt", "numpy", "pillow", "rich", "tyro", device.runtime} <= set(there)
    assert not {*FOREIGN, device.other} & set(there)


def test_doctor_finds_the_one_runtime_and_a_sound_ship(device: Device) -> None:
    lines = device.edgemt("doctor").splitlines()
    verdict = {line.split()[1]: line for line in lines if line.startswith(("ok", "--"))}
    assert verdict["ship"].startswith("ok")
    assert verdict[device.runtime].startswith("ok")
    assert verdict[device.other].startswith("--") and f"pip install {device.other}" in verdict[device.other]
    tested = [line for line in lines if " runs in " in line]
    assert len(tested) == 2 and all(line.startswith(f"ok  {device.runtime}") for line in tested)


def test_predict_writes_the_golden_masks(device: Device) -> None:
    written = [Path(line).name for line in device.edgemt("predict").splitlines()]
    assert [name for name in written if name.endswith(".mask.png")] == ["0.mask.png", "1.mask.png", "2.mask.png"]
    for seed in range(3):
        mask = np.asarray(Image.open(device.folder / "masks" / f"{seed}.mask.png"))
        assert np.array_equal(mask, expected(frame(seed)))


def test_eval_measures_and_says_what_it_leaves_out(device: Device) -> None:
    assert "pip install scipy" in device.edgemt("eval")
    record = json.loads((device.folder / "eval.json").read_text())
    assert (record["runtime"], record["dice"], record["distances"]) == (device.runtime, 1.0, False)


def test_bench_times_every_file_on_the_one_runtime(device: Device) -> None:
    device.edgemt("bench")
    record = json.loads((device.folder / "bench.json").read_text())
    assert {call["runtime"] for call in record["calls"]} == {device.runtime}
    assert {Path(call["file"]).stem for call in record["calls"]} == {"model", "model.int8"}
    assert all(call["n"] > 0 and call["cold"]["first_mask_ms"] > 0 for call in record["calls"])


@pytest.mark.parametrize("command", ["doctor", "predict", "eval", "bench"])
def test_no_command_imports_much_before_it_asks_for_the_runtime(device: Device, command: str) -> None:
    said = device.python("-c", STARTUP, device.runtime, str(time.time()), *WORDS[command].split())
    seen = json.loads(said.splitlines()[-1])
    heavy = {name.split(".")[0].replace("_", "-") for name in seen["modules"]} & {*FOREIGN, *RUNTIMES}
    assert not heavy
    assert len(seen["modules"]) < MODULES
    print(
        f"{device.runtime} {command}: {len(seen['modules'])} modules, {seen['asked']:.2f} s until the runtime is "
        f"imported, {seen['loads']:.2f} s until the model is loaded"
    )


def test_the_extra_adds_distances_and_volumes_and_still_no_torch(device: Device) -> None:
    """The last of the file: it changes the environment."""
    device.pip(f"{device.folder / 'checkout'}[{device.runtime}]")
    there = device.installed()
    assert {"scipy", "nibabel"} <= set(there)
    assert not {"torch", "monai", "timm", "onnx", device.other} & set(there)
    device.edgemt("eval")
    assert json.loads((device.folder / "eval.json").read_text())["distances"] is True
    volume = "nibabel.Nifti1Image(numpy.arange(2560, dtype='int16').reshape(32, 40, 2), numpy.eye(4))"
    device.python("-c", f"import nibabel, numpy; {volume}.to_filename('volume.nii.gz')")
    assert device.edgemt("predict a volume").splitlines()[0].endswith("volume.mask.nii.gz")
