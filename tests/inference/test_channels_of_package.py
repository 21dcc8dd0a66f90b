from __future__ import annotations

from dataclasses import replace
from pathlib import Path

import channel_samples as samples
import numpy as np
import pytest
import stacked_samples as stacked

pytest.importorskip("onnxruntime")
torch = pytest.importorskip("torch")

from tiny_package import make_ship  # noqa: E402

from deploy.export import export_onnx  # noqa: E402
from deploy.package.package import finalize, open_package  # noqa: E402
from deploy.stream.inference.load_model import load_stream_model  # noqa: E402
from edgemt.artefacts import network_folder  # noqa: E402
from edgemt.data.options import DataOptions  # noqa: E402
from edgemt.inference.evaluate import predict_masks  # noqa: E402
from edgemt.inference.evaluate_package import evaluate_ship, predict  # noqa: E402
from edgemt.io.images import read_label  # noqa: E402
from edgemt.methods import METHODS  # noqa: E402
from edgemt.pipeline.run_context import RunContext  # noqa: E402
from edgemt.pipeline.train import train_stage  # noqa: E402
from edgemt.recipes import RECIPES  # noqa: E402
from edgemt.training.options import Schedule  # noqa: E402

SIZE = (32, 32)


def test_two_channels_from_training_to_masks(tmp_path: Path) -> None:
    """Files -> training with channel drop-out -> graph -> predict: the masks are those of torch on the same frames."""
    root, base = samples.write(tmp_path / "data"), RECIPES["phantom"]()
    data = DataOptions(root=root, classes=samples.CLASSES, size=SIZE, channel_names=samples.NAMES, labelled="3")
    recipe = replace(
        base,
        data=data,
        augment=replace(base.augment, drop_channel=0.3),
        teacher=replace(
            base.teacher,
            widths=(4, 8, 8, 8, 8),
            method=METHODS["supervised"],
            schedule=Schedule(steps=25, labelled=3, unlabelled=0, learning_rate=0.02, validations=1),
        ),
    )
    context = RunContext(recipe, tmp_path / "run")
    stage = train_stage(context, "teacher", recipe.teacher, recipe.teacher.method)
    network, card = network_folder.load_network(stage), context.slices.card()
    assert (card.channels, card.channel_order, card.data["channel_names"]) == (2, "channels", ("t1", "t2"))
    assert len(card.normalise.mean) == 2
    folder = tmp_path / "ship"
    folder.mkdir()
    export_onnx(network, folder / "model.onnx", size=SIZE, channels=2, normalise=card.normalise)
    finalize(folder, replace(card, stage="ship"))
    expected = predict_masks(context.slices.predict(network), context.slices.val)
    assert 0 < np.mean([mask.mean() for mask in expected]) < 1
    written = list(predict(folder, [root / "val/images"], out=tmp_path / "masks", overlay=False))
    for path, mask in zip(written, expected, strict=True):
        assert (read_label(path) == mask).mean() > 0.995  # two runtimes round a few pixels of the rim otherwise
    record = evaluate_ship(folder, data_root=root)
    assert record["dice"] == pytest.approx(context.slices.dice(network), abs=0.01)
    assert evaluate_ship(folder, data_root=root, without_channel="t2")["dice"] != record["dice"]
    with pytest.raises(ValueError, match=r"without_channel: 'flair' is none of the model's channels \(t1, t2\)"):
        evaluate_ship(folder, data_root=root, without_channel="flair")


def test_a_fourth_axis_from_training_to_masks(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    """One 4-D file a case -> training -> graph -> predict and eval, with masks in the geometry of the file."""
    nibabel = pytest.importorskip("nibabel")
    root, base = stacked.write(tmp_path / "data"), RECIPES["phantom"]()
    data = DataOptions(
        root=root, classes=samples.CLASSES, size=SIZE, channel_names=stacked.NAMES, labelled="1.0", val="2"
    )
    schedule = Schedule(steps=25, labelled=3, unlabelled=0, learning_rate=0.02, validations=1)
    teacher = replace(base.teacher, widths=(4, 8, 8, 8, 8), method=METHODS["supervised"], schedule=schedule)
    context = RunContext(replace(base, data=data, teacher=teacher), tmp_path / "run")
    network = network_folder.load_network(train_stage(context, "teacher", teacher, teacher.method))
    card, folder = context.slices.card(), tmp_path / "ship"
    folder.mkdir()
    export_onnx(network, folder / "model.onnx", size=SIZE, channels=2, normalise=card.normalise)
    finalize(folder, replace(card, stage="ship"))
    files = sorted((root / "imagesTr").iterdir())
    capsys.readouterr()
    written = list(predict(folder, [root / "imagesTr"], out=tmp_path / "masks", overlay=True))
    assert "4 of 4 files with a fourth axis have them all along it: T2, ADC" in capsys.readouterr().err
    masks = [path for path in written if path.name.endswith(".mask.nii.gz")]
    alone = list(predict(folder, [files[1]], out=tmp_path / "alone", overlay=False))
    for path, file in zip(masks, files, strict=True):
        mask, image = nibabel.load(path), nibabel.load(file)
        assert mask.shape == image.shape[:3] and np.array_equal(mask.affine, image.affine)
        assert 0.02 < np.asarray(mask.dataobj).mean() < 0.5
    assert np.array_equal(np.asarray(nibabel.load(alone[0]).dataobj), np.asarray(nibabel.load(masks[1]).dataobj))
    record = evaluate_ship(folder, data_root=root)
    assert record["dice"] > 0.5
    assert evaluate_ship(folder, data_root=root, without_channel="ADC")["dice"] != record["dice"]
    with pytest.raises(ValueError, match=r"three.nii.gz: has 3 images along its fourth axis .* the channels are 2"):
        list(predict(folder, [stacked.save(tmp_path / "three.nii.gz", np.zeros((8, 8, 2, 3), np.uint8))], out=tmp_path))


def test_files_of_a_case_are_checked_against_the_channels_of_training(tmp_path: Path) -> None:
    data = DataOptions(classes=samples.CLASSES, channel_names=samples.NAMES).to_dict()
    ship = make_ship(tmp_path / "ship", channels=2, channel_order="channels", data=data)
    images = samples.write(tmp_path / "data", (1, 0)) / "train/images"
    first, second = images / "case0_t1.png", images / "case0_t2.png"
    out = tmp_path / "out"
    written = list(predict(ship.folder, [Path(f"{first}+{second}")], out=out))
    assert [path.name for path in written] == ["case0.mask.png", "case0.overlay.png"]
    for given, message in (
        (f"{second}+{first}", r"case0_t2.png: is channel t2 by its name, given as t1; the order is t1\+t2"),
        (f"{first}", r"case0_t1.png: 1 file\(s\), this model reads 2 channels of a case; give them as t1\+t2"),
        (f"{first}+-", r"'case0' has no file of channel 't2'"),
        (f"{first}+{images / 'gone.png'}", "gone.png: no such file"),
    ):
        with pytest.raises(ValueError, match=message):
            list(predict(ship.folder, [Path(given)], out=out))
    alone = list(predict(ship.folder, [Path(f"{first}+-")], out=tmp_path / "alone", missing_channels=True))
    assert len(alone) == 2
    with pytest.raises(ValueError, match=r"reads 2 channels of a case \(t1, t2\), and a stream delivers one picture"):
        load_stream_model(ship.folder)


def test_a_card_whose_names_do_not_fit_its_input_is_refused(tmp_path: Path) -> None:
    data = DataOptions(classes=samples.CLASSES, channel_names=("rgb", "depth")).to_dict()
    with pytest.raises(ValueError, match="card.json: channels 2 is not valid"):
        make_ship(tmp_path / "ship", channels=2, channel_order="channels", data=data)
    four = make_ship(tmp_path / "four", channels=4, channel_order="channels", data=data)
    assert open_package(four.folder).card.channels == 4
