"""The run-time side on a machine that has no torch, nor anything else of the training side."""

from __future__ import annotations

import json
from pathlib import Path

import numpy as np
import pytest
from PIL import Image

pytest.importorskip("onnx")
pytest.importorskip("onnxruntime")

from checkout import ROOT  # noqa: E402
from hidden_packages import TRAINING_PACKAGES, run_without  # noqa: E402
from tiny_package import SIZE, expected, frame, make_ship  # noqa: E402

from edgemt.data.options import DataOptions  # noqa: E402

MODULES = [
    "edgemt", "edgemt.contract", "edgemt.model_card", "edgemt.io.images", "edgemt.io.hdf5",
    "edgemt.metrics.overlap", "edgemt.inference.evaluate",
    "edgemt.data.phantom2d", "edgemt.metrics.surface_distance", "edgemt.metrics.postprocess",
    "edgemt.io.volumes", "edgemt.data.phantom3d", "edgemt.data.cohort", "edgemt.data.splits",
    "edgemt.inference.evaluate_package", "edgemt.inference.evaluate_corrupted", "edgemt.cli",
    "edgemt.convert.importing", "edgemt.convert.exporting", "edgemt.convert.datasets.importing",
    "edgemt.label_server.server", "edgemt.inference.one_image",
    "edgemt.data_report.write", "edgemt.data_report.against",
    "edgemt.data.corruptions", "edgemt.report.corruption_charts", "edgemt.report", "edgemt.commands.list_rows",
    "edgemt.dossier.write",
    "deploy.runtimes.load", "deploy.runtimes.registry", "deploy.runtimes.choose_variant", "deploy.benchmark.bench",
    "deploy.benchmark.package_bench", "deploy.benchmark.cold_start", "deploy.measurement.variants",
    "deploy.package.package", "deploy.package.golden", "deploy.package.files",
    "deploy.quantization.accuracy_gate", "deploy.package.signing",
    "deploy.serving.model_repository", "deploy.package.input_drift", "deploy.runtimes.error_messages",
    "deploy.package.onnx_inspect", "deploy.stream.api", "deploy.stream.session",
    "deploy.stream.latency_experiment", "deploy.stream.web.page", "deploy.stream.outputs.igtl_server",
    "deploy.stream.outputs.video_file", "deploy.dicom.segmentation", "deploy.promptable.runner",
    "deploy.pacs.service", "deploy.pacs.destinations",
    "deploy.adaptation.session", "deploy.adaptation.add_to_package",
    "deploy.promptable.mask_edit", "deploy.stream.correction.session", "deploy.stream.correction.case_writer",
    *(f"deploy.stream.sources.{kind}" for kind in ("camera", "dicom", "igtl", "images", "synthetic", "video")),
]  # fmt: skip


def present(modules: list[str]) -> list[str]:
    return [
        name for name in modules if any((ROOT / name.replace(".", "/")).with_suffix(s).exists() for s in (".py", ""))
    ]


def test_the_hook_really_hides() -> None:
    assert "hidden" in run_without("try:\n import torch\nexcept ModuleNotFoundError:\n print('hidden')", hide=["torch"])


def test_the_run_time_modules_import_without_training_packages_and_load_no_runtime() -> None:
    lazy = ["onnxruntime", "openvino", "scipy", "nibabel", "matplotlib"]
    program = f"""
import importlib
for name in {present(MODULES)!r}:
    importlib.import_module(name)
assert not set({lazy!r}) & set(sys.modules), set({lazy!r}) & set(sys.modules)
print("done")
"""
    assert "done" in run_without(program, hide=TRAINING_PACKAGES)


@pytest.fixture(scope="module")
def there(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("device")
    data = DataOptions(layout="pairs", classes=("background", "organ", "tool"), size=SIZE).to_dict()
    make_ship(folder / "ship", data=data)
    for kind in ("images", "masks"):
        (folder / "test" / kind).mkdir(parents=True)
    for seed in range(3):
        Image.fromarray(frame(seed)).save(folder / "test" / "images" / f"{seed}.png")
        Image.fromarray(expected(frame(seed))).save(folder / "test" / "masks" / f"{seed}.png")
    return folder


def test_eval_predict_bench_and_doctor_run_without_torch(there: Path) -> None:
    program = """
from pathlib import Path
from deploy.benchmark.bench import BenchOptions
from deploy.benchmark.package_bench import bench_package
from edgemt.inference import evaluate_package as shipped

folder = Path(sys.argv[2])
quick = BenchOptions(warmup=1, iterations=5, seconds=0.1, rounds=1, paced_seconds=0.05, cold=False)
record = shipped.evaluate_ship(folder / "ship", data_root=folder / "test")
bench = bench_package(folder / "ship", options=quick)
written = list(shipped.predict(folder / "ship", [folder / "test" / "images"], out=folder / "out"))
healthy, lines = shipped.doctor(folder / "ship")
assert "torch" not in sys.modules
print(json.dumps([record["dice"], len(bench["calls"]), [p.name for p in written], healthy, lines]))
"""
    dice, timed, written, healthy, lines = json.loads(
        run_without(program, hide=TRAINING_PACKAGES, arguments=[str(there)])
    )
    assert dice == 1.0
    assert timed >= 2
    assert len(written) == 6
    assert healthy
    assert any("torch" in line and line.startswith("--") for line in lines)
    assert np.array_equal(np.asarray(Image.open(there / "out" / "0.mask.png")), expected(frame(0)))


@pytest.mark.parametrize("only", ["onnxruntime", "openvino"])
def test_one_runtime_is_enough(there: Path, only: str) -> None:
    pytest.importorskip(only)
    other = {"onnxruntime": "openvino", "openvino": "onnxruntime"}[only]
    program = """
from pathlib import Path
from edgemt.inference import evaluate_package as shipped

folder = Path(sys.argv[2])
record = shipped.evaluate_ship(folder / "ship", data_root=folder / "test")
print(json.dumps([record["runtime"], record["dice"], record["distances"]]))
"""
    said = json.loads(
        run_without(program, hide=[*TRAINING_PACKAGES, other, "scipy"], arguments=[str(there)]).splitlines()[-1]
    )
    assert said == [only, 1.0, False]


def test_without_any_runtime_the_doctor_says_what_to_install(there: Path) -> None:
    program = """
from edgemt.inference import evaluate_package as shipped
healthy, lines = shipped.doctor()
print(json.dumps([healthy, lines]))
"""
    healthy, lines = json.loads(run_without(program, hide=[*TRAINING_PACKAGES, "openvino", "onnxruntime"]))
    assert not healthy
    assert any("pip install" in line for line in lines)
