"""The output `features` of a ship: the masks stay, every runtime reads it, and the classifier fits it."""

from __future__ import annotations

import shutil
from pathlib import Path

import numpy as np
import pytest

pytest.importorskip("onnx")
pytest.importorskip("onnxruntime")
pytest.importorskip("openvino")

from explicit_convolutions import incomplete_convolutions  # noqa: E402
from tiny_package import SIZE, expected, frame, make_ship  # noqa: E402

from deploy.adaptation.head import HEAD_FILE, read_head  # noqa: E402
from deploy.graph_tail import HEAD_WEIGHT  # noqa: E402
from deploy.package.graph_outputs import output_names  # noqa: E402
from deploy.package.package import open_package  # noqa: E402
from deploy.runtimes.load import runner  # noqa: E402
from deploy.runtimes.runner import check_outputs  # noqa: E402
from edgemt import cli  # noqa: E402

FILES = ("model.onnx", "model.int8.onnx", "openvino/model.xml", "openvino/model.int8.xml")


@pytest.fixture(scope="module")
def ship(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A ship that got the output by the command line; its former self lies beside it."""
    folder = tmp_path_factory.mktemp("features")
    make_ship(folder / "before", openvino=True, uncertainty=True, weight_name=HEAD_WEIGHT)
    shutil.copytree(folder / "before", folder / "ship")
    cli.main(["export", str(folder / "ship"), "--with-features"])
    return folder / "ship"


@pytest.mark.parametrize("file", FILES)
def test_each_file_gives_the_former_mask_and_the_features_that_the_head_reads(ship: Path, file: str) -> None:
    before, after = open_package(ship.with_name("before")), open_package(ship)
    runtime = "openvino" if file.endswith(".xml") else "onnxruntime"
    old, new = (runner(package, runtime=runtime, file=file) for package in (before, after))
    assert new.has_features and new.has_uncertainty and not old.has_features
    picture, head = frame(5)[None], read_head(after)
    assert np.array_equal(new(picture), old(picture))
    features = new.features()
    assert features.dtype == np.float32 and features.shape == (3, *SIZE)
    assert np.abs(features - picture[0].transpose(2, 0, 1) / 255).max() < 0.01
    assert (head.mask(features) == expected(picture[0])).mean() > 0.99
    masks, maps = new.with_uncertainty(picture)
    assert np.array_equal(maps[0], picture[0].max(-1)) and np.array_equal(masks, new(picture))


def test_convolutions_of_graphs_with_features_are_explicit(ship: Path) -> None:
    assert incomplete_convolutions(ship.with_name("before")) and not incomplete_convolutions(ship)


def test_the_classifier_is_on_the_card_and_the_card_names_its_parent(ship: Path) -> None:
    before, after = open_package(ship.with_name("before")), open_package(ship)
    assert HEAD_FILE in after.card.files and after.card.classes == before.card.classes
    assert len(after.card.parents) == len(before.card.parents) + 1
    assert all("features" in output_names(after.read(file), source=file) for file in FILES)
    assert sorted(path.name for path in ship.parent.iterdir()) == ["before", "ship"]


def test_a_changed_classifier_is_refused(ship: Path, tmp_path: Path) -> None:
    damaged = shutil.copytree(ship, tmp_path / "ship")
    (damaged / HEAD_FILE).write_text("{}")
    with pytest.raises(ValueError, match=f"{HEAD_FILE}: changed"):
        open_package(damaged)


def test_a_second_time_and_a_network_without_a_classifier_are_refused_and_nothing_changes(
    ship: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    make_ship(tmp_path / "other")
    for folder, reason in ((ship, "has the output 'features' already"), (tmp_path / "other", "no 1x1 convolution")):
        card = (folder / "card.json").read_bytes()
        with pytest.raises(SystemExit) as stop:
            cli.main(["export", str(folder), "--with-features"])
        assert stop.value.code == 2 and reason in capsys.readouterr().err
        assert (folder / "card.json").read_bytes() == card


def test_a_ship_without_the_output_names_the_command(tmp_path: Path) -> None:
    package = make_ship(tmp_path / "ship")
    with pytest.raises(ValueError, match="edgemt export .* --with-features"):
        read_head(package)
    made = runner(package, runtime="onnxruntime")
    with pytest.raises(ValueError, match="no output 'features'"):
        made.features()


@pytest.mark.parametrize(
    ("names", "found"),
    [
        (["mask"], (0, None, None)),
        (["uncertainty", "mask"], (1, 0, None)),
        (["features", "mask"], (1, None, 0)),
        (["mask", "features", "uncertainty"], (0, 2, 1)),
        (["anything"], (0, None, None)),
    ],
)
def test_outputs_are_found_by_name(names: list[str], found: tuple[int | None, ...]) -> None:
    assert tuple(check_outputs(["frame"], names)) == found


@pytest.mark.parametrize("names", [[], ["mask", "other"], ["features", "uncertainty"], ["features", "features", "m"]])
def test_other_outputs_are_refused(names: list[str]) -> None:
    with pytest.raises(ValueError, match="outputs, wanted one of each"):
        check_outputs(["frame"], names)
