"""The lowest versions that the package asks for run it, and ran INT8 as INT8."""

from __future__ import annotations

import os
import re
import subprocess
import sys
from pathlib import Path

import pytest
from checkout import ROOT

pytest.importorskip("onnx")
tomllib = pytest.importorskip("tomllib")  # Python 3.11

from tiny_flags import TINY  # noqa: E402
from tiny_package import make_ship  # noqa: E402

from edgemt.io.child_process import environment  # noqa: E402

SMOKE = """
import sys
from deploy.runtimes.load import runner
from deploy.package.package import open_package
from deploy.package.signing import keygen, sign
key, public = keygen(sys.argv[2] + "/k.pem")
sign(sys.argv[1] + "/card.json", key=key)
ship = open_package(sys.argv[1], trusted=public)
for file in ("fp32", "int8"):
    print(runner(ship, runtime=sys.argv[3], file=file, threads=1).precision)
"""

READ = """
import h5py, nibabel, numpy as np
from edgemt.io.volumes import read_label_volume, read_volume
array = np.arange(60, dtype=np.int16).reshape(3, 4, 5)
nibabel.save(nibabel.Nifti1Image(array, np.diag([1.0, -1.0, 2.0, 1.0])), "v.nii.gz")
assert (read_volume("v.nii.gz", axes="RAS").array == array[:, ::-1]).all()
with h5py.File("v.h5", "w") as file:
    file["image"], file["label"] = array, array % 2
assert (read_label_volume("v.h5") == array % 2).all()
"""


def lowest(*extras: str) -> list[str]:
    """The direct requirements of the package and some of its extras, each at its lowest version."""
    project = tomllib.loads((ROOT / "pyproject.toml").read_text(encoding="utf-8"))["project"]
    wanted = [*project["dependencies"], *(one for extra in extras for one in project["optional-dependencies"][extra])]
    return sorted({re.sub(r">=\s*", "==", requirement.partition(";")[0].strip()) for requirement in wanted})


def lowest_python(home: Path, *extras: str) -> Path:
    """The Python of a new environment that holds the lowest versions."""
    subprocess.run([sys.executable, "-m", "venv", str(home)], check=True)
    python = next((home / place / "python") for place in ("bin", "Scripts") if (home / place).is_dir())
    made = subprocess.run([python, "-m", "pip", "install", "-q", *lowest(*extras)], capture_output=True, text=True)
    if made.returncode and "No matching distribution" not in made.stderr and "conflict" not in made.stderr:
        pytest.skip(f"no index in reach: {made.stderr[-200:]}")
    assert made.returncode == 0, made.stderr[-2000:]
    return python


@pytest.mark.slow
@pytest.mark.parametrize("runtime", ["onnxruntime", "openvino"])
def test_the_lowest_versions_run_a_signed_ship(tmp_path: Path, runtime: str) -> None:
    ship = make_ship(tmp_path / "ship", openvino=runtime == "openvino").folder
    python = lowest_python(tmp_path / "venv", runtime, "sign")
    env = {**environment(), "PYTHONPATH": str(ROOT)}
    done = subprocess.run(
        [python, "-c", SMOKE, str(ship), str(tmp_path), runtime], env=env, cwd=tmp_path, capture_output=True, text=True
    )
    assert done.returncode == 0, done.stderr
    first, second = done.stdout.split()[-2:]
    assert second == "int8" and first in ("f32", "bf16", "f16"), done.stdout


@pytest.mark.slow
@pytest.mark.skipif(sys.version_info >= (3, 13), reason="NumPy 1.26 and SciPy 1.11 have no wheels for later Pythons")
def test_the_lowest_versions_make_a_whole_run(tmp_path: Path) -> None:
    """From the teacher to the ship and its report, a few steps each, then a volume and an .h5 file are read."""
    python = lowest_python(tmp_path / "venv", "train", "export", "h5")
    env = {**environment(), "PYTHONPATH": str(ROOT), "OMP_NUM_THREADS": "1"}
    for args in (
        ["-m", "edgemt.cli", "run", "phantom", "--out", "run", *(part for one in TINY for part in one.split("=", 1))],
        ["-m", "edgemt.cli", "eval", "run/ship"],
        ["-c", READ],
    ):
        done = subprocess.run([python, *args], env=env, cwd=tmp_path, capture_output=True, text=True)
        assert done.returncode == 0, done.stdout[-1000:] + done.stderr[-3000:]
    assert (tmp_path / "run" / "report" / "report.html").is_file()


def test_known_weaknesses_lie_below_the_lowest_versions() -> None:
    """onnx: CVE-2025-51480 and those mended in 1.21; MONAI: CVE-2025-58755 to -58757 and unpickling before 1.6;
    cryptography before 44.0.1; timm's checkpoint_path before 1.0.26; ONNX Runtime ran INT8 as float before 1.22."""
    found = dict(re.findall(r'"([\w-]+)>=([\d.]+)', (ROOT / "pyproject.toml").read_text(encoding="utf-8")))
    floors = {"onnx": "1.21", "monai": "1.6", "cryptography": "44.0.1", "timm": "1.0.26", "onnxruntime": "1.22"}
    for name, floor in floors.items():
        assert tuple(map(int, found[name].split("."))) >= tuple(map(int, floor.split("."))), name


def test_every_package_of_the_extras_is_in_the_list_of_licences() -> None:
    table = (ROOT / "docs" / "licences.md").read_text(encoding="utf-8")
    project = tomllib.loads((ROOT / "pyproject.toml").read_text(encoding="utf-8"))["project"]
    extras = {name: rows for name, rows in project["optional-dependencies"].items() if name not in ("test", "all")}
    for requirement in [*project["dependencies"], *(one for rows in extras.values() for one in rows)]:
        name = re.split(r"[\[<>=;\s]", requirement)[0]
        assert os.linesep not in name
        assert f"| {name} |" in table, name
