"""Where nodes run is read from ONNX Runtime; what a provider leaves to the processor is one line, or a refusal."""

from __future__ import annotations

import logging
import tempfile
from pathlib import Path
from typing import Any

import numpy as np
import pytest

ort = pytest.importorskip("onnxruntime")
onnx = pytest.importorskip("onnx")

from onnx import helper  # noqa: E402
from tiny_package import expected, frame, graph, make_ship  # noqa: E402

from deploy.package.package import Package, finalize, open_package  # noqa: E402
from deploy.runtimes import onnxruntime_backend, onnxruntime_plugins, registry  # noqa: E402
from deploy.runtimes.load import runner  # noqa: E402
from deploy.runtimes.onnxruntime_placement import (  # noqa: E402
    CPU,
    PlacedNode,
    assigned,
    counted,
    fallback,
    profiled,
    record_placement,
)
from edgemt import cli  # noqa: E402

IDLE = "AzureExecutionProvider"  # part of the packages for Linux; takes no node of any graph here
needs_idle = pytest.mark.skipif(IDLE not in ort.get_available_providers(), reason="no provider that takes nothing")


@pytest.fixture(scope="module")
def ship(tmp_path_factory: pytest.TempPathFactory) -> Package:
    return make_ship(tmp_path_factory.mktemp("placed") / "ship")


@pytest.fixture
def idle(monkeypatch: pytest.MonkeyPatch) -> str:
    """A runtime whose provider starts and takes nothing: what a driver without support for a graph looks like."""
    monkeypatch.setitem(onnxruntime_backend.PROVIDERS, "IDLE", IDLE)
    monkeypatch.setitem(onnxruntime_backend._PRECISIONS, "IDLE", ())
    onnxruntime_backend._warn_once.cache_clear()
    return "onnxruntime:IDLE"


def session_with(*, profile: Path | None = None) -> Any:
    options = ort.SessionOptions()
    options.log_severity_level = 3
    if profile is None:
        record_placement(ort, options, provider=IDLE, operators=())
    else:
        options.enable_profiling, options.profile_file_prefix = True, str(profile / "call")
    return ort.InferenceSession(graph().SerializeToString(), options, providers=[CPU])


def test_assignment_and_profile_name_the_same_provider_and_the_convolution(tmp_path: Path) -> None:
    if not hasattr(ort, "OrtEpAssignedNode"):
        pytest.skip("this onnxruntime records no assignment")
    folder = tempfile.TemporaryDirectory(dir=tmp_path)
    found = profiled(session_with(profile=Path(folder.name)), folder=folder)
    recorded = assigned(session_with())
    assert {node.provider for node in found} == {node.provider for node in recorded} == {CPU}
    for placement in (found, recorded):
        assert sum("Conv" in node.operator for node in placement) == 1
    assert not list(tmp_path.iterdir())


@needs_idle
@pytest.mark.parametrize("recorded", [True, False])
def test_silent_fallback_is_one_warning_with_counts(
    recorded: bool, idle: str, ship: Package, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    if not recorded:  # as before version 1.24
        monkeypatch.delattr(ort, "OrtEpAssignedNode", raising=False)
    with caplog.at_level(logging.WARNING, "edgemt.deploy"):
        made = [runner(ship, runtime=idle, file="fp32", threads=1) for _ in range(2)][0]
    (line,) = [record.getMessage() for record in caplog.records]
    assert "model.onnx: 0 of" in line and "nodes run on Azure, the others on CPU (" in line and "\n" not in line
    assert set(made.details["placement"]) == {"CPU"}
    assert np.array_equal(made(frame()[None])[0], expected(frame()))


@needs_idle
def test_fallback_is_refused_on_request_with_status_2(
    idle: str, ship: Package, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    out = ["--json", str(tmp_path / "bench.json")]
    for command in (["bench", str(ship.folder), *out], ["stream", str(ship.folder), "--frames", "1"]):
        with pytest.raises(SystemExit) as status:
            cli.main([*command, "--runtime", idle, "--no-cpu-fallback"])
        assert status.value.code == 2
        assert "nodes run on Azure, the others on CPU" in capsys.readouterr().err.replace("\n", " ")
    assert not (tmp_path / "bench.json").exists()
    assert runner(ship, runtime="onnxruntime", cpu_fallback=False, threads=1).details["placement"].keys() == {"CPU"}


@needs_idle
def test_placement_that_cannot_be_read_is_refused_where_it_matters(
    idle: str, ship: Package, monkeypatch: pytest.MonkeyPatch
) -> None:
    def no_folder(*args: object, **options: object) -> None:
        raise OSError("read-only")

    monkeypatch.delattr(ort, "OrtEpAssignedNode", raising=False)
    monkeypatch.setattr(tempfile, "TemporaryDirectory", no_folder)
    assert runner(ship, runtime=idle, file="fp32", threads=1).details["placement"] == {}
    with pytest.raises(ValueError, match="does not report where nodes run"):
        runner(ship, runtime=idle, file="fp32", threads=1, cpu_fallback=False)


def test_line_names_the_most_frequent_operators() -> None:
    nodes = [PlacedNode("QNNExecutionProvider", "Conv")] * 40
    nodes += [PlacedNode(CPU, op) for op in ("Resize", "Resize", "ArgMax", "Cast", "Pad", "Mul", "Mul", "Mul")]
    assert counted(tuple(nodes)) == {"QNN": 40, "CPU": 8}
    assert fallback(tuple(nodes), "QNNExecutionProvider") == (
        "40 of 48 nodes run on QNN, the others on CPU (Mul 3, Resize 2, ArgMax 1, Cast 1, ...)"
    )
    assert fallback(tuple(nodes[:40]), "QNNExecutionProvider") is None


def test_plugin_that_is_not_installed_names_its_package() -> None:
    missing = [name for name, row in onnxruntime_plugins.PLUGINS.items() if registry.find_spec(row.package) is None]
    for name in missing:
        works, why = registry.available()[f"onnxruntime_{name}"]
        assert not works and why.endswith(f"pip install {onnxruntime_plugins.PLUGINS[name].pip}")
        assert not registry.can_run_packages(f"onnxruntime_{name}")


class TestOpenVinoPlugin:
    """On the processor, where onnxruntime-ep-openvino is installed."""

    RUNTIME = "onnxruntime_openvino"

    @pytest.fixture(autouse=True)
    def installed(self) -> None:
        pytest.importorskip("onnxruntime_ep_openvino")

    @pytest.mark.parametrize(("file", "precision"), [("fp32", "f32"), ("int8", "int8")])
    def test_masks_are_those_of_the_golden_frames(self, file: str, precision: str, ship: Package) -> None:
        made = runner(ship, runtime=self.RUNTIME, file=file, precision="f32", threads=1, cpu_fallback=False)
        assert (made.precision, made.device) == (precision, "CPU") and made.version[0].isdigit()
        assert set(made.details["placement"]) == {"OpenVINO"} and made.details["onnxruntime"] == ort.__version__
        for seed in range(4):
            assert (made(frame(seed)[None])[0] == expected(frame(seed))).mean() > 0.999

    def test_device_that_is_not_there_is_named(self, ship: Package) -> None:
        with pytest.raises(ValueError, match=r"device 'NPU': onnxruntime-ep-openvino finds CPU here"):
            runner(ship, runtime=f"{self.RUNTIME}:NPU")

    def test_node_that_it_does_not_take_is_named(
        self, ship: Package, tmp_path: Path, caplog: pytest.LogCaptureFixture
    ) -> None:
        model = graph()
        conv = next(node for node in model.graph.node if node.op_type == "Conv")
        conv.output[0] = "before"
        pool = helper.make_node("LpPool", ["before"], ["logits"], kernel_shape=[1, 1], p=1)  # the magnitude: no change
        model.graph.node.insert(list(model.graph.node).index(conv) + 1, pool)
        make_ship(tmp_path / "ship", golden=0)
        onnx.save(model, tmp_path / "ship" / "model.onnx")
        card = open_package(ship.folder).card
        finalize(tmp_path / "ship", card)
        onnxruntime_backend._warn_once.cache_clear()
        with caplog.at_level(logging.WARNING, "edgemt.deploy"):
            made = runner(tmp_path / "ship", runtime=self.RUNTIME, file="fp32", threads=1)
        assert "nodes run on OpenVINO, the others on CPU (LpPool 1)" in caplog.text
        assert made.details["placement"]["CPU"] == 1
        with pytest.raises(ValueError, match="LpPool 1"):
            runner(tmp_path / "ship", runtime=self.RUNTIME, file="fp32", threads=1, cpu_fallback=False)
