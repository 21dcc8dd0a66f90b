from __future__ import annotations

import json
from dataclasses import replace
from pathlib import Path
from typing import Any

import channel_samples as samples
import numpy as np
import pytest
from PIL import Image

torch = pytest.importorskip("torch")

from edgemt.artefacts.fingerprints import digests_of, entries  # noqa: E402
from edgemt.artefacts.stage_folder import plain  # noqa: E402
from edgemt.contract import Case  # noqa: E402
from edgemt.data.augment2d import augment_intensity_2d, normalised  # noqa: E402
from edgemt.data.augment_options import NO_AUGMENT, AugmentOptions  # noqa: E402
from edgemt.data.cohort import split_dataset  # noqa: E402
from edgemt.data.decode import decode_pairs  # noqa: E402
from edgemt.data.options import DataOptions  # noqa: E402
from edgemt.data.slice_dataset import (  # noqa: E402
    SliceDataset,
    TwoStreamBatches,
    frame_spec,
    load_slices,
    slice_statistics,
)
from edgemt.data.summary import on_card, reading_of, summary  # noqa: E402
from edgemt.data_report.inspect_folder import inspect_folder  # noqa: E402
from edgemt.recipes import RECIPES  # noqa: E402
from edgemt.recipes.auto import build  # noqa: E402


def options(root: Path, **fields: Any) -> DataOptions:
    base: dict[str, Any] = {"classes": samples.CLASSES, "size": (32, 32), "channel_names": samples.NAMES}
    return DataOptions(root=root, **{**base, "labelled": "3", **fields})


@pytest.mark.parametrize("form", ["_{name}", "-{name}", "_{number:04d}", "folders"])
def test_every_way_to_name_channels_gives_the_same_frames(tmp_path: Path, form: str) -> None:
    split = split_dataset(options(samples.write(tmp_path, form=form)))
    assert [case.name for case in split.val] == ["case100", "case101", "case102", "case103"]
    assert (len(split.labelled), len(split.unlabelled)) == (3, 3)
    frames = list(decode_pairs(split.val, frame_spec(options(tmp_path, size=(samples.SIDE, samples.SIDE)))))
    for seed, (frame, label) in enumerate(frames, 100):
        planes, mask = samples.case(seed)
        assert np.array_equal(frame, planes) and np.array_equal(label, mask)


def nnunet(root: Path, names: dict[str, str], count: int = 4) -> Path:
    """PNG files in nnU-Net's layout with dataset.json."""
    for folder in ("imagesTr", "labelsTr"):
        (root / folder).mkdir(parents=True)
    for seed in range(count):
        planes, mask = samples.case(seed)
        for number in range(len(names)):
            Image.fromarray(planes[..., number % 2]).save(root / "imagesTr" / f"p{seed}_{number:04d}.png")
        Image.fromarray(mask).save(root / "labelsTr" / f"p{seed}.png")
    raw = {"channel_names": names, "labels": {"background": 0, "disc": 1}, "file_ending": ".png", "numTraining": count}
    (root / "dataset.json").write_text(json.dumps(raw))
    return root


def test_nnunet_numbers_are_the_channels_of_its_dataset_json(tmp_path: Path) -> None:
    root = nnunet(tmp_path / "set", {"0": "t1", "1": "t2"})
    split = split_dataset(options(root, val="1", labelled="2"))
    assert [Path(path).name for path in split.val[0].channels] == [f"{split.val[0].name}_000{k}.png" for k in (0, 1)]
    with pytest.raises(ValueError, match=r"dataset.json: its channels are t1 t2, data.channel_names are t2 t1"):
        split_dataset(options(root, val="1", channel_names=("t2", "t1")))
    with pytest.raises(ValueError, match="dataset.json: images have 2 channels; --data.channel-names t1 t2 reads all"):
        split_dataset(options(root, val="1", channel_names=()))
    (root / "imagesTr" / "p1_0002.png").write_bytes((root / "imagesTr" / "p1_0001.png").read_bytes())
    with pytest.raises(ValueError, match=r"p1_0002.png: a further channel, dataset.json names 2"):
        split_dataset(options(root, val="1"))


def test_the_data_report_suggests_the_channels_of_a_dataset_json(tmp_path: Path) -> None:
    root = nnunet(tmp_path / "set", {"0": "t1", "1": "t2"})
    found = inspect_folder(DataOptions(root=root), given=frozenset(), images=False)
    suggestion = found.suggestion()
    assert (suggestion.data["channel_names"], suggestion.data["slices"]) == (["t1", "t2"], 1)
    assert build(suggestion, RECIPES, root=root).data.planes == (1, 1)


def test_three_names_without_further_files_are_the_colours_of_one_picture(tmp_path: Path) -> None:
    root = nnunet(tmp_path / "set", {"0": "R"})
    raw = json.loads((root / "dataset.json").read_text()) | {"channel_names": {"0": "R", "1": "G", "2": "B"}}
    (root / "dataset.json").write_text(json.dumps(raw))
    assert len(split_dataset(options(root, val="1", labelled="2", channel_names=())).unlabelled) == 1


def test_a_missing_channel_is_refused_or_becomes_the_mean(tmp_path: Path) -> None:
    root = samples.write(tmp_path)
    (root / "train/images/case1_t2.png").unlink()
    with pytest.raises(ValueError, match=r"case1_t1.png: 'case1' has no file of channel 't2' \(of t1, t2\); add it"):
        split_dataset(options(root))
    (root / "val/images/case101_t1.png").unlink()
    chosen = options(root, missing_channels="mean", labelled="")
    split = split_dataset(chosen)
    reading = reading_of(split, chosen)
    text = "\n".join(summary(split, chosen, reading))
    assert "channels: 2 in this order: t1 8 bits as stored, missing in 1 of 10; t2 8 bits as stored, miss" in text
    stack = load_slices(split.labelled, chosen, reading=reading)
    whole = [samples.case(seed)[0] for seed in (0, 2, 3, 4, 5)]
    found = slice_statistics(stack)
    assert found.mean[1] == pytest.approx(np.mean([planes[..., 1] for planes in whole]) / 255, abs=2e-3)
    none = load_slices((), chosen)
    stream = TwoStreamBatches(stack, none, (6, 0), NO_AUGMENT, found, planes=(1, 1))
    assert (stream.batch(0).image.abs().amax((2, 3)) == 0).sum().tolist() == 1  # of the one plane that is missing
    filled = normalised(stack.filled(found.mean).frames(torch.tensor([1]), "cpu"), found)
    assert filled[0, 1].abs().max() < 0.02 and filled[0, 0].std() > 0.5


def test_channels_of_other_sizes_and_strangers_are_refused(tmp_path: Path) -> None:
    root = samples.write(tmp_path)
    chosen, file = options(root), root / "train/images/case0_t2.png"
    whole = file.read_bytes()
    Image.open(file).resize((30, 40)).save(file)
    with pytest.raises(ValueError, match=r"case0_t2.png: is \(40, 30\), channel .*case0_t1.png of the same case is"):
        reading_of(split_dataset(chosen), chosen)
    file.write_bytes(whole)
    Image.fromarray(samples.case(1)[0][..., 0]).save(root / "train/images/case0_flair.png")
    with pytest.raises(ValueError, match=r"case0_flair.png: names no channel; its name must end with one of _t1, _t2"):
        split_dataset(chosen)
    with pytest.raises(ValueError, match="data.channel_names: t1 T1 names a channel twice"):
        options(root, channel_names=("t1", "T1"))


def test_volumes_of_another_place_are_refused_and_turned_ones_brought_along(tmp_path: Path) -> None:
    nibabel = pytest.importorskip("nibabel")
    rng = np.random.default_rng(0)
    first = rng.integers(0, 200, (12, 10, 4)).astype(np.uint8)
    second = 200 - first
    for folder in ("images", "labels"):
        (tmp_path / folder).mkdir()

    def save(array: np.ndarray, name: str, affine: np.ndarray) -> Path:
        image = nibabel.Nifti1Image(array, affine)
        image.set_sform(affine, 1)
        nibabel.save(image, tmp_path / name)
        return tmp_path / name

    place = np.diag([1.0, 1, 5, 1])
    flipped = np.diag([-1.0, 1, 5, 1])
    flipped[0, 3] = 11.0
    save(first, "images/a_t1.nii", place)
    save(second[::-1], "images/a_t2.nii", flipped)
    save((first > 100).astype(np.uint8), "labels/a.nii", place)
    save(first, "images/b_t1.nii", place)
    save(second, "images/b_t2.nii", place)
    save((first > 100).astype(np.uint8), "labels/b.nii", place)
    chosen = options(tmp_path, val="1", labelled="1", size=(12, 10), classes=("background", "organ"))
    split = split_dataset(chosen)
    cases = [case for case in split.labelled + split.val if case.name == "a/002"]
    frame, _ = next(decode_pairs(cases, frame_spec(chosen)))
    assert frame.shape == (12, 10, 2)
    assert np.array_equal(frame[..., 0], first[..., 2]) and np.array_equal(frame[..., 1], second[..., 2])
    place[0, 3] = 3.0
    save(second, "images/b_t2.nii", place)
    with pytest.raises(ValueError, match=r"b_t2.nii: lies elsewhere than its channel .*b_t1.nii"):
        reading_of(split, chosen)


def test_colours_and_a_depth_image_make_four_planes(tmp_path: Path) -> None:
    picture = np.random.default_rng(0).integers(0, 255, (16, 16, 3), dtype=np.uint8)
    distance = np.arange(256, dtype=np.uint16).reshape(16, 16) * 200
    for name, array in (("images/rgb/a.png", picture), ("images/depth/a.png", distance)):
        (tmp_path / name).parent.mkdir(parents=True)
        Image.fromarray(array).save(tmp_path / name)
    chosen = options(tmp_path, channel_names=("rgb", "depth"), size=(16, 16))
    assert (chosen.planes, chosen.frame_channels, chosen.colour) == ((3, 1), 4, False)
    files = tuple(str(tmp_path / f"images/{name}/a.png") for name in ("rgb", "depth"))
    case = Case("a", "a", files[0], channels=files)
    reading = frame_spec(chosen).reading([case])
    assert [depth.rule for depth in reading.channel_depths] == ["stored", "percentiles"]
    frame = load_slices([case], chosen, reading=reading).image[0].numpy()
    assert np.array_equal(frame[..., :3], picture)
    assert frame[0, 0, 3] == 0 and frame[-1, -1, 3] == 255
    assert on_card(chosen, split_dataset(options(samples.write(tmp_path / "s"))), reading)["channel_depth"] == (
        "stored",
        "percentiles",
    )


def test_a_changed_second_channel_is_another_content(tmp_path: Path) -> None:
    root = samples.write(tmp_path)
    case = split_dataset(options(root)).val[0]
    before = entries([case], digests=digests_of(case.files), root=root)
    Image.fromarray(samples.case(7)[0][..., 1]).save(case.channels[1])
    assert entries([case], digests=digests_of(case.files), root=root)[0].image != before[0].image
    turned = replace(case, channels=case.channels[::-1])
    assert entries([turned], digests=digests_of(case.files), root=root)[0].image != before[0].image


def test_intensity_changes_each_channel_by_itself() -> None:
    image = torch.linspace(0.2, 0.8, 64).view(1, 1, 8, 8).repeat(16, 2, 1, 1)
    chosen = AugmentOptions(chance=1.0, contrast=(1, 1), gamma=(1, 1), blur=(1e-9, 1e-9), noise=0, cutout=0)
    out = augment_intensity_2d(
        image, options=chosen, generator=torch.Generator().manual_seed(0), cutout=True, planes=(1, 1)
    )
    factors = out[:, :, 0, 0] / 0.2
    assert (factors[:, 0] - factors[:, 1]).abs().min() > 1e-4


def test_dropped_channels_are_zero_as_often_as_wanted_and_never_all(tmp_path: Path) -> None:
    root = samples.write(tmp_path)
    chosen = options(root)
    split = split_dataset(chosen)
    stacks = [load_slices(cases, chosen) for cases in (split.labelled, split.unlabelled)]
    quiet = replace(NO_AUGMENT, strong=True, chance=0.0, blur=(1e-9, 1e-9), noise=0, cutout=0)
    common: dict[str, Any] = {"batch_size": (20, 20), "normalise": slice_statistics(*stacks), "planes": (1, 1)}
    plain_stream = TwoStreamBatches(*stacks, augment=quiet, **common)
    stream = TwoStreamBatches(*stacks, augment=replace(quiet, drop_channel=0.5), **common)
    dropped = []
    for index in range(10):
        batch, before = stream.batch(index), plain_stream.batch(index)
        assert batch.strong is not None and before.strong is not None
        assert torch.equal(batch.unlabelled, before.unlabelled)  # what an average predicts from has all channels
        for rows, full in ((batch.labelled, before.labelled), (batch.strong, before.strong)):
            off = rows.abs().amax((2, 3)) == 0
            assert not off.all(1).any()
            assert torch.equal(rows[~off], full[~off])
            dropped.append(off.any(1).float())
    assert torch.cat(dropped).mean() == pytest.approx(0.5, abs=0.12)
    with pytest.raises(ValueError, match=r"augment.drop_channel: the data have one channel"):
        TwoStreamBatches(*stacks, augment=replace(quiet, drop_channel=0.5), batch_size=(2, 2)).batch(0)


def test_statistics_leave_missing_planes_out() -> None:
    image = torch.zeros(2, 4, 4, 2, dtype=torch.uint8)
    image[0] = 100
    missing = torch.tensor([[False, False], [False, True]])
    found = slice_statistics(SliceDataset(image, None, missing=missing))
    assert found.mean == pytest.approx((50 / 255, 100 / 255), abs=1e-5)


def test_defaults_add_no_field_to_a_key() -> None:
    assert not [key for key in plain(DataOptions()) if "channel_" in key or key == "missing_channels"]
    assert "drop_channel" not in plain(AugmentOptions())
