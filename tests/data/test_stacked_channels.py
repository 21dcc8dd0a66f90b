"""Channels along the fourth axis of one NIfTI file, as the Medical Segmentation Decathlon has them."""

from __future__ import annotations

import shutil
from pathlib import Path
from typing import Any

import channel_samples as samples
import numpy as np
import pytest
import stacked_samples as stacked

nibabel = pytest.importorskip("nibabel")
pytest.importorskip("torch")

from edgemt.contract import Case  # noqa: E402
from edgemt.data.augment_options import VolumeOptions  # noqa: E402
from edgemt.data.cohort import split_dataset  # noqa: E402
from edgemt.data.decode import decode_pairs, read_channels  # noqa: E402
from edgemt.data.options import DataOptions  # noqa: E402
from edgemt.data.slice_dataset import frame_spec  # noqa: E402
from edgemt.data.summary import reading_of, summary  # noqa: E402
from edgemt.data.volume_dataset import load_volumes  # noqa: E402
from edgemt.data_report.inspect_folder import inspect_folder  # noqa: E402
from edgemt.io.bit_depth import Depth  # noqa: E402
from edgemt.io.volumes import geometry_of, read_label_volume, read_volume  # noqa: E402
from edgemt.recipes import RECIPES  # noqa: E402
from edgemt.recipes.auto import build  # noqa: E402

SIZE = (samples.SIDE, samples.SIDE)


def options(root: Path, **fields: Any) -> DataOptions:
    base: dict[str, Any] = {"classes": samples.CLASSES, "size": SIZE, "channel_names": stacked.NAMES}
    return DataOptions(root=root, **{**base, "val": "1", "labelled": "1.0", **fields})


def as_plain_folder(root: Path, out: Path) -> Path:
    """The same cases as images/NAME.nii.gz and labels/NAME.nii.gz, without a dataset.json."""
    for source, folder in (("imagesTr", "images"), ("labelsTr", "labels")):
        shutil.copytree(root / source, out / folder)
    return out


def all_frames(chosen: DataOptions) -> dict[str, tuple[np.ndarray, np.ndarray]]:
    split = split_dataset(chosen)
    cases = (*split.labelled, *split.val)
    pairs = decode_pairs(cases, frame_spec(chosen))
    return {case.name: pair for case, pair in zip(cases, pairs, strict=True)}


@pytest.mark.parametrize("plain", [False, True])
def test_a_fourth_axis_gives_the_channels_in_its_order(tmp_path: Path, plain: bool) -> None:
    root = stacked.write(tmp_path / "set")
    chosen = options(as_plain_folder(root, tmp_path / "plain") if plain else root)
    split = split_dataset(chosen)
    frames = all_frames(chosen)
    assert len(frames) == 4 * stacked.DEPTH and len(split.unlabelled) == (0 if plain else stacked.DEPTH)
    for name, (frame, label) in frames.items():
        case, _, k = name.rpartition("/")
        image, mask = stacked.arrays(int(case[-2:]))
        assert np.array_equal(frame, image[:, :, int(k)]) and np.array_equal(label, mask[:, :, int(k)])
    text = "\n".join(summary(split, chosen, reading_of(split, chosen)))
    total = 4 if plain else 5
    assert f"channels: 2 in this order: T2 8 bits as stored; ADC 8 bits as stored; {total} of {total} files" in text


def test_one_file_and_one_file_a_channel_give_the_same_frames(tmp_path: Path) -> None:
    root = as_plain_folder(stacked.write(tmp_path / "set"), tmp_path / "plain")
    for seed in range(4):
        image, _ = stacked.arrays(seed)
        for k, name in enumerate(stacked.NAMES):
            stacked.save(tmp_path / f"parts/images/prostate_{seed:02d}_{name}.nii.gz", image[..., k])
        stacked.save(tmp_path / f"parts/labels/prostate_{seed:02d}.nii.gz", stacked.arrays(seed)[1])
    one, several = all_frames(options(root)), all_frames(options(tmp_path / "parts"))
    assert one.keys() == several.keys()
    assert all(np.array_equal(one[name][0], several[name][0]) for name in one)


def test_each_channel_has_percentiles_of_its_own_and_may_be_left_out(tmp_path: Path) -> None:
    image = stacked.arrays(0)[0].astype(np.float32) * np.float32([1.0, 100.0])
    path = str(stacked.save(tmp_path / "a.nii.gz", image))
    case = Case("a", "a", path, channels=(path, path))
    found = read_channels(case, stacked.NAMES, (Depth("percentiles"),) * 2)
    assert found.shape == (*SIZE, 2, stacked.DEPTH)
    for k in range(2):
        assert np.array_equal(found[:, :, k], Depth("percentiles")(image[..., k]))
    fill = np.array([7, 9], np.uint8)
    without = read_channels(
        Case("a", "a", path, channels=("", path)), stacked.NAMES, (Depth("percentiles"),) * 2, fill=fill
    )
    assert (without[:, :, 0] == 7).all() and np.array_equal(without[:, :, 1], found[:, :, 1])


@pytest.mark.parametrize(
    ("change", "message"),
    [
        (
            {"channel_names": ("T2", "ADC", "DWI")},
            r"has 2 images along its fourth axis .*the channels are 3 \(T2, ADC, ",
        ),
        (
            {"channel_names": ()},
            r"a volume must have 3 axes, this one has shape \(40, 40, 3, 2\); if the 2 are channels of a case",
        ),
    ],
)
def test_another_number_of_names_is_refused(tmp_path: Path, change: dict[str, Any], message: str) -> None:
    root = as_plain_folder(stacked.write(tmp_path / "set"), tmp_path / "plain")
    with pytest.raises(ValueError, match=r"prostate_\d\d\.nii\.gz: " + message):
        split_dataset(options(root, **change))
    with pytest.raises(ValueError, match="2 images along its fourth axis|must have 3 axes"):
        inspect_folder(options(root, **change), given=frozenset({"classes"}), images=False)


def test_the_remedy_of_a_decathlon_folder_names_its_channels(tmp_path: Path) -> None:
    root = stacked.write(tmp_path / "set")
    with pytest.raises(ValueError, match="images have 2 channels; --data.channel-names T2 ADC reads all of them"):
        split_dataset(options(root, channel_names=()))
    found = inspect_folder(DataOptions(root=root), given=frozenset(), images=True)
    assert any("files with a fourth axis have them all along it" in one.text for one in found.listing.findings)
    assert not [scan.image.error for scan in found.scans if scan.image.error]
    recipe = build(found.suggestion(), RECIPES, root=root)
    assert recipe.data.channel_names == stacked.NAMES and len(split_dataset(recipe.data).val) == stacked.DEPTH


def test_what_may_be_a_time_series_is_refused(tmp_path: Path) -> None:
    root = as_plain_folder(stacked.write(tmp_path / "set"), tmp_path / "plain")
    file, image = root / "images/prostate_00.nii.gz", stacked.arrays(0)[0]
    stacked.save(file, image, step=35.5)
    with pytest.raises(
        ValueError, match=r"prostate_00.nii.gz: its 2 images may be moments .* states a step of 35.5 sec"
    ):
        split_dataset(options(root))
    series = nibabel.load(stacked.save(file, image))
    series.header["intent_code"] = 2001
    nibabel.save(series, tmp_path / "again.nii.gz")
    (tmp_path / "again.nii.gz").replace(file)
    with pytest.raises(ValueError, match="its header calls it a time series"):
        split_dataset(options(root))
    stacked.save(file, image)
    for folder in ("images", "labels"):
        (root / folder / "prostate_00.nii.gz").rename(root / folder / "patient001_4d.nii.gz")
    with pytest.raises(ValueError, match=r"patient001_4d.nii.gz: .*\(its name has '4d'\), not the channels T2, ADC"):
        split_dataset(options(root))


def test_a_fourth_axis_where_one_image_belongs_is_refused(tmp_path: Path) -> None:
    root = as_plain_folder(stacked.write(tmp_path / "set"), tmp_path / "plain")
    image, label = stacked.arrays(0)
    called = stacked.save(root / "images/prostate_00_ADC.nii.gz", image)
    with pytest.raises(ValueError, match=r"prostate_00_ADC.nii.gz: is one channel by its name and has 2 images along"):
        split_dataset(options(root))
    called.unlink()
    for name, array in (("t2", image), ("adc", image[..., 1])):
        stacked.save(tmp_path / f"folders/images/{name}/a.nii.gz", array)
        stacked.save(tmp_path / f"folders/images/{name}/b.nii.gz", image[..., 0])
    for name in "ab":
        stacked.save(tmp_path / f"folders/labels/{name}.nii.gz", label)
    chosen = options(tmp_path / "folders")
    with pytest.raises(ValueError, match=r"t2/a.nii.gz: a volume must have 3 axes"):
        reading_of(split_dataset(chosen), chosen)
    stacked.save(root / "labels/prostate_00.nii.gz", np.stack([label, label], axis=-1))
    with pytest.raises(ValueError, match=r"labels/prostate_00.nii.gz: a label must have 3 axes"):
        read_label_volume(root / "labels/prostate_00.nii.gz")
    path = root / "images/prostate_00.nii.gz"
    assert geometry_of(path).channels == 2
    with pytest.raises(ValueError, match="a volume must have 3 axes"):
        read_volume(path)


def test_a_constant_channel_is_refused_by_name_by_2d_and_3d_readers(tmp_path: Path) -> None:
    root = stacked.write(tmp_path / "set")
    image = stacked.arrays(0)[0].copy()
    image[..., 1] = 3
    path = str(stacked.save(root / "imagesTr/prostate_00.nii.gz", image))
    with pytest.raises(ValueError, match=r"prostate_00.nii.gz: channel ADC: holds one value everywhere"):
        read_channels(Case("a", "a", path, channels=(path, path)), stacked.NAMES, (Depth("stored"),) * 2)
    split = split_dataset(options(root), whole_volumes=True)
    with pytest.raises(ValueError, match=r"prostate_00.nii.gz: channel ADC: holds one value everywhere"):
        load_volumes(split.labelled + split.val, options(root), VolumeOptions())
