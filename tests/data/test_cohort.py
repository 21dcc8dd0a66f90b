"""Who is labelled, who is not, who validates."""

from __future__ import annotations

import dataclasses
import json
from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest
from PIL import Image

from edgemt.data.cohort import all_cases, split_dataset
from edgemt.data.options import DataOptions
from edgemt.data.slice_dataset import load_slices
from edgemt.io.volumes import read_label_volume, read_volume

nibabel = pytest.importorskip("nibabel")


def _pairs(base: Path, names: list[str], *, masks: bool = True, size: tuple[int, int] = (20, 16)) -> None:
    (base / "images").mkdir(parents=True, exist_ok=True)
    (base / "masks").mkdir(exist_ok=True)
    for i, name in enumerate(names):
        image = np.full((*size, 3), 10 + i, np.uint8)
        image[:5] += 60
        Image.fromarray(image).save(base / "images" / f"{name}.png")
        if masks:
            mask = np.zeros(size, np.uint8)
            mask[:5] = 1
            Image.fromarray(mask).save(base / "masks" / f"{name}.png")


def _volumes(root: Path, patients: int, *, depth: int = 3) -> list[str]:
    names = [f"patient{p:03d}_frame{f:02d}" for p in range(patients) for f in (1, 2)]
    for folder in ("images", "labels"):
        (root / folder).mkdir(parents=True, exist_ok=True)
    for i, name in enumerate(names):
        image = np.full((12, 10, depth), i, np.uint8)
        label = np.zeros((12, 10, depth), np.uint8)
        label[:4], label[4:6] = 1, 2
        nibabel.save(nibabel.Nifti1Image(image, np.eye(4)), root / "images" / f"{name}.nii.gz")
        nibabel.save(nibabel.Nifti1Image(label, np.eye(4)), root / "labels" / f"{name}.nii.gz")
    return names


def _h5(path: Path, *, shape: tuple[int, ...] = (12, 10, 3), label: bool = True) -> None:
    h5py = pytest.importorskip("h5py")
    path.parent.mkdir(parents=True, exist_ok=True)
    truth = np.zeros(shape, np.uint8)
    truth[:4], truth[4:6] = 1, 2
    with h5py.File(path, "w") as file:
        file["image"] = np.random.default_rng(len(path.name)).normal(size=shape).astype(np.float32)
        if label:
            file["label"] = truth


def _decathlon(root: Path, patients: int = 4, **changes: object) -> None:
    names = _volumes(root, patients)
    (root / "images").rename(root / "imagesTr")
    (root / "labels").rename(root / "labelsTr")
    (root / "imagesTs").mkdir()
    for name in names[-2:]:
        (root / "imagesTr" / f"{name}.nii.gz").rename(root / "imagesTs" / f"{name}.nii.gz")
        (root / "labelsTr" / f"{name}.nii.gz").unlink()
    entries = [{"image": f"./imagesTr/{n}.nii.gz", "label": f"./labelsTr/{n}.nii.gz"} for n in names[:-2]]
    said = {
        "modality": {"0": "MRI"},
        "labels": {"0": "background", "1": "RV", "2": "LV"},
        "numTraining": len(entries),
        "training": entries,
        "test": [f"./imagesTs/{n}.nii.gz" for n in names[-2:]],
    }
    (root / "dataset.json").write_text(json.dumps({**said, **changes}))


def _nnunet(root: Path, patients: int = 4, **changes: object) -> None:
    """The second form: no lists, and images that carry the number of their only channel."""
    _decathlon(root, patients)
    for folder in ("imagesTr", "imagesTs"):
        for path in (root / folder).iterdir():
            path.rename(path.with_name(path.name.replace(".nii.gz", "_0000.nii.gz")))
    said = {
        "channel_names": {"0": "MRI"},
        "labels": {"background": 0, "RV": 1, "LV": 2},
        "numTraining": 2 * patients - 2,
        "file_ending": ".nii.gz",
    }
    (root / "dataset.json").write_text(json.dumps({**said, **changes}))


def _heart(root: Path, **changes: object) -> DataOptions:
    return DataOptions.from_dict(
        {"classes": ("background", "rv", "lv"), "channels": 1, "size": (16, 16)}, root=root, **changes
    )  # type: ignore[arg-type]


def test_a_list_of_names_decides_who_is_labelled(tmp_path: Path) -> None:
    _pairs(tmp_path / "train", ["1", "2", "3", "4"])
    _pairs(tmp_path / "val", ["9"])
    (tmp_path / "splits").mkdir()
    (tmp_path / "splits" / "few.txt").write_text("2.png\n# a remark\n4\n")
    cohort = split_dataset(DataOptions(root=tmp_path, labelled="few.txt"))
    assert [case.name for case in cohort.labelled] == ["2", "4"]
    assert [case.name for case in cohort.unlabelled] == ["1", "3"]
    assert [case.name for case in cohort.val] == ["9"]


def test_unlabelled_cases_carry_no_label_and_garbage_masks_beside_them_change_nothing(tmp_path: Path) -> None:
    _pairs(tmp_path / "train", ["1", "2", "3", "4"])
    _pairs(tmp_path / "val", ["9"])
    (tmp_path / "few.txt").write_text("1\n")
    options = DataOptions(root=tmp_path, labelled="few.txt", size=(16, 16))
    clean = load_slices(split_dataset(options).unlabelled, options).image
    for name in "234":
        (tmp_path / "train" / "masks" / f"{name}.png").write_bytes(b"never read")
    cohort = split_dataset(options)
    assert all(case.label is None for case in cohort.unlabelled)
    stack = load_slices(cohort.unlabelled, options)
    assert stack.label is None and (stack.image == clean).all()
    assert load_slices(cohort.labelled, options).label is not None


def test_a_count_is_drawn_by_seed_and_does_not_depend_on_file_order(tmp_path: Path) -> None:
    _pairs(tmp_path / "train", [str(i) for i in range(20)])
    _pairs(tmp_path / "val", ["50"])
    drawn = [split_dataset(DataOptions(root=tmp_path, labelled="5", seed=seed)).labelled for seed in (0, 0, 1)]
    assert len(drawn[0]) == 5 and drawn[0] == drawn[1] and drawn[0] != drawn[2]
    assert len(split_dataset(DataOptions(root=tmp_path, labelled="0.25")).labelled) == 5


def test_an_empty_labelled_field_takes_every_image_with_a_mask(tmp_path: Path) -> None:
    _pairs(tmp_path / "train", ["1", "2"])
    _pairs(tmp_path / "train", ["3"], masks=False)
    _pairs(tmp_path / "val", ["9"])
    cohort = split_dataset(DataOptions(root=tmp_path))
    assert [case.name for case in cohort.labelled] == ["1", "2"]
    assert [case.name for case in cohort.unlabelled] == ["3"]


def test_one_folder_is_split_by_share_without_overlap(tmp_path: Path) -> None:
    _pairs(tmp_path, [str(i) for i in range(10)])
    cohort = split_dataset(DataOptions(root=tmp_path, labelled="3", val="0.2"))
    names = [{case.name for case in part} for part in (cohort.labelled, cohort.unlabelled, cohort.val)]
    assert [len(part) for part in names] == [3, 5, 2]
    assert len(set.union(*names)) == 10


def test_a_further_folder_adds_unlabelled_images(tmp_path: Path) -> None:
    _pairs(tmp_path / "train", ["1", "2"])
    _pairs(tmp_path / "val", ["9"])
    _pairs(tmp_path / "more", ["a", "b"], masks=False)
    cohort = split_dataset(DataOptions(root=tmp_path, unlabelled="more/images"))
    assert [case.name for case in cohort.unlabelled] == ["a", "b"]


def test_volumes_become_slices_and_a_patient_is_never_torn_apart(tmp_path: Path) -> None:
    _volumes(tmp_path, 8)
    for seed in range(5):
        cohort = split_dataset(_heart(tmp_path, labelled="2", val="0.25", seed=seed))
        groups = [{case.patient for case in part} for part in (cohort.labelled, cohort.unlabelled, cohort.val)]
        assert [len(part) for part in groups] == [2, 4, 2]
        assert not groups[0] & groups[1] and not groups[0] & groups[2] and not groups[1] & groups[2]
        assert len(cohort.labelled) == 2 * 2 * 3
        assert [case.slice for case in cohort.labelled[:3]] == [0, 1, 2]


def test_train_and_val_lists_of_a_volume_folder_are_followed(tmp_path: Path) -> None:
    names = _volumes(tmp_path, 4)
    (tmp_path / "train.txt").write_text("\n".join(names[:4]))
    (tmp_path / "val.txt").write_text("\n".join(names[4:6]))
    (tmp_path / "one.txt").write_text("\n".join(names[:2]))
    cohort = split_dataset(_heart(tmp_path, labelled="one.txt"))
    volumes = [{case.name.split("/")[0] for case in part} for part in (cohort.labelled, cohort.unlabelled, cohort.val)]
    assert volumes == [set(names[:2]), set(names[2:4]), set(names[4:6])]


def test_a_validation_list_takes_its_patients_out_of_training(tmp_path: Path) -> None:
    names = _volumes(tmp_path, 4)
    (tmp_path / "held.txt").write_text(names[6])  # one of the patient's two volumes
    cohort = split_dataset(_heart(tmp_path, labelled="1", val="held.txt"))
    assert "patient003" not in {case.patient for case in cohort.labelled + cohort.unlabelled}


def test_a_patient_on_both_lists_is_refused(tmp_path: Path) -> None:
    names = _volumes(tmp_path, 3)
    (tmp_path / "train.txt").write_text("\n".join(names[:4]))
    (tmp_path / "val.txt").write_text(names[1])
    (tmp_path / "few.txt").write_text(names[0])
    with pytest.raises(ValueError, match="share 1 patients.*patient000"):
        split_dataset(_heart(tmp_path, labelled="few.txt"))


def test_nnunet_folders_are_read_without_the_channel_number(tmp_path: Path) -> None:
    names = _volumes(tmp_path, 2)
    (tmp_path / "images").rename(tmp_path / "imagesTr")
    (tmp_path / "labels").rename(tmp_path / "labelsTr")
    for name in names:
        path = tmp_path / "imagesTr" / f"{name}.nii.gz"
        path.rename(path.with_name(f"{name}_0000.nii.gz"))
    cohort = split_dataset(_heart(tmp_path, labelled="1", val="0.5"))
    assert {case.patient for case in cohort.labelled + cohort.val} == {"patient000", "patient001"}


def test_the_phantom_needs_no_files_and_validates_on_the_same_frames_for_every_seed() -> None:
    one, two = (split_dataset(DataOptions(layout="phantom", phantom=(3, 4, 2), seed=seed)) for seed in (0, 1))
    assert [len(part) for part in (one.labelled, one.unlabelled, one.val)] == [3, 4, 2]
    assert one.val == two.val and one.labelled != two.labelled
    images = [case.image for case in one.labelled + one.unlabelled + one.val]
    assert len(set(images)) == 9 and all(case.label is None for case in one.unlabelled)
    ceiling = split_dataset(DataOptions(layout="phantom", phantom=(7, 0, 2)))
    assert [case.image for case in ceiling.labelled] == images[:7]


def test_whole_volumes_are_one_case_each_and_split_as_their_slices_are(tmp_path: Path) -> None:
    _volumes(tmp_path, 6)
    options = _heart(tmp_path, labelled="2", val="0.2", seed=3)
    slices, volumes = split_dataset(options), split_dataset(options, whole_volumes=True)
    for some, whole in zip(
        (slices.labelled, slices.unlabelled, slices.val),
        (volumes.labelled, volumes.unlabelled, volumes.val),
        strict=True,
    ):
        assert [case.name for case in whole] == list(dict.fromkeys(case.name.split("/")[0] for case in some))
        assert all(case.slice is None for case in whole) and len(some) == 3 * len(whole)
    assert all(case.label is None for case in volumes.unlabelled)
    assert all(case.label is not None for case in volumes.labelled + volumes.val)


def test_lists_under_splits_are_found_and_validation_volumes_train_only_on_request(tmp_path: Path) -> None:
    names = _volumes(tmp_path, 5)
    (tmp_path / "train.txt").write_text("\n".join(names))
    (tmp_path / "splits").mkdir()
    (tmp_path / "splits" / "val.txt").write_text("\n".join(names[6:8]))
    (tmp_path / "splits" / "few.txt").write_text("\n".join(names[:2]))
    for val in ("", "val.txt", "splits/val.txt"):
        cohort = split_dataset(_heart(tmp_path, labelled="splits/few.txt", val=val), whole_volumes=True)
        assert [len(part) for part in (cohort.labelled, cohort.unlabelled, cohort.val)] == [2, 6, 2]
        assert not {c.name for c in cohort.unlabelled} & {c.name for c in cohort.val}
    everyone = split_dataset(_heart(tmp_path, labelled="few.txt", val_in_training=True), whole_volumes=True)
    assert sorted(c.name for c in everyone.labelled + everyone.unlabelled) == names
    assert everyone.val == cohort.val and all(c.label is None for c in everyone.unlabelled)


def test_validation_volumes_never_teach_with_their_mask(tmp_path: Path) -> None:
    names = _volumes(tmp_path, 3)
    (tmp_path / "val.txt").write_text("\n".join(names[4:]))
    (tmp_path / "all.txt").write_text("\n".join(names))
    cohort = split_dataset(_heart(tmp_path, val_in_training=True), whole_volumes=True)
    assert not {c.name for c in cohort.labelled} & {c.name for c in cohort.val}
    with pytest.raises(ValueError, match="share 1 patients"):
        split_dataset(_heart(tmp_path, val_in_training=True, labelled="all.txt"), whole_volumes=True)


@pytest.mark.parametrize("make", [_decathlon, _nnunet])
def test_a_decathlon_folder_is_known_by_its_dataset_json(tmp_path: Path, make: Callable[..., None]) -> None:
    make(tmp_path)
    options = _heart(tmp_path, labelled="1", val="0.34", seed=1)
    cohort = split_dataset(options, whole_volumes=True)
    assert [len(part) for part in (cohort.labelled, cohort.unlabelled, cohort.val)] == [2, 4, 2]
    assert {case.name for case in cohort.unlabelled} >= {"patient003_frame01", "patient003_frame02"}
    for case in cohort.labelled:
        assert "imagesTr" in case.image and case.name in str(case.label) and case.name in case.image
    assert len(split_dataset(options).labelled) == 2 * 3
    assert len(all_cases(options, whole_volumes=True)) == 6


@pytest.mark.parametrize(
    ("make", "changes", "says"),
    [
        (_decathlon, {"labels": {"0": "background", "1": "RV"}}, r"data\.classes: background rv lv are not those of"),
        (_nnunet, {"labels": {"background": 0, "left atrium": 1, "LV": 2}}, r"background 'left atrium' LV"),
        (_nnunet, {"labels": {"background": 0, "whole": [1, 2], "LV": 2}}, r"are regions, classes of several"),
        (_nnunet, {"labels": {"background": 0, "rv": 1, "ignore": 2}}, r"data.ignore: is not set, .* ignores 2; set -"),
        (_decathlon, {"modality": {"0": "T1", "1": "T2"}}, r"images have 2 channels; --data.channel-names T1 T2 reads"),
        (_nnunet, {"numTraining": 9}, r"numTraining is 9, 6 images are there"),
        (_nnunet, {"file_ending": ".mha"}, r"labelsTr: holds no \*\.mha"),
        (_decathlon, {"training": [{"image": "imagesTr/x.nii.gz", "label": "labelsTr/x.nii.gz"}]}, r"names 'labels"),
        (_decathlon, {"training": ["imagesTr/x.nii.gz"]}, r"training entry 'imagesTr/x\.nii\.gz' is not"),
    ],
)  # fmt: skip
def test_a_decathlon_that_cannot_be_used_says_why(
    tmp_path: Path, make: Callable[..., None], changes: dict, says: str
) -> None:
    make(tmp_path, **changes)
    with pytest.raises(ValueError, match=says) as caught:
        split_dataset(_heart(tmp_path, labelled="1", val="0.34"), whole_volumes=True)
    assert "\n" not in str(caught.value)


def test_h5_volumes_are_called_after_their_folder_and_hide_the_label_inside(tmp_path: Path) -> None:
    h5py = pytest.importorskip("h5py")
    names = ["ABC", "DEF", "GHI", "JKL"]
    for name in names:
        _h5(tmp_path / "set" / name / "mri_norm2.h5")
    (tmp_path / "train.list").write_text("\n".join(names[:3]))
    (tmp_path / "val.list").write_text(names[3])
    (tmp_path / "few.list").write_text(names[0])
    options = _heart(tmp_path, labelled="few.list")
    cohort = split_dataset(options, whole_volumes=True)
    assert [[c.name for c in part] for part in (cohort.labelled, cohort.unlabelled, cohort.val)] == [
        ["ABC"], ["DEF", "GHI"], ["JKL"]
    ]  # fmt: skip
    assert cohort.labelled[0].label == cohort.labelled[0].image and cohort.unlabelled[0].label is None
    assert read_volume(cohort.val[0].image).array.shape == (12, 10, 3)
    assert read_label_volume(str(cohort.val[0].label)).max() == 2
    clean = load_slices(split_dataset(options).unlabelled, options).image
    for name in names[1:3]:
        with h5py.File(tmp_path / "set" / name / "mri_norm2.h5", "a") as file:
            del file["label"]
            file["label"] = "never read"
    assert (load_slices(split_dataset(options).unlabelled, options).image == clean).all()


def test_h5_slices_are_images_and_a_patient_keeps_all_of_them(tmp_path: Path) -> None:
    for patient in range(4):
        for k in range(3):
            _h5(tmp_path / f"patient{patient:03d}_frame01_slice_{k}.h5", shape=(12, 10))
    options = _heart(tmp_path, labelled="1", val="0.25")
    cohort = split_dataset(options)
    assert [len(part) for part in (cohort.labelled, cohort.unlabelled, cohort.val)] == [3, 6, 3]
    assert {case.patient for case in cohort.labelled + cohort.val} <= {f"patient{p:03d}" for p in range(4)}
    assert load_slices(cohort.labelled, options).image.shape == (3, 16, 16, 1)
    with pytest.raises(ValueError, match=r"slice_\d\.h5: is one 2-D image; a 3-D network needs volumes"):
        split_dataset(options, whole_volumes=True)


def test_h5_files_without_a_label_are_unlabelled(tmp_path: Path) -> None:
    for k in range(4):
        _h5(tmp_path / f"v{k}.h5", label=k < 2)
    cohort = split_dataset(_heart(tmp_path, val="0.5"), whole_volumes=True)
    assert [len(part) for part in (cohort.labelled, cohort.unlabelled, cohort.val)] == [1, 2, 1]


def test_a_folder_of_slice_images_is_a_volume_in_the_order_of_its_numbers(tmp_path: Path) -> None:
    for name in ("p1", "p2"):
        for folder in ("images", "labels"):
            (tmp_path / folder / name).mkdir(parents=True)
        for k in range(12):
            Image.fromarray(np.full((8, 6), k + 1, np.uint8)).save(tmp_path / "images" / name / f"slice_{k}.png")
            Image.fromarray(np.full((8, 6), k % 3, np.uint8)).save(tmp_path / "labels" / name / f"slice_{k}.png")
    cohort = split_dataset(_heart(tmp_path, val="0.5"), whole_volumes=True)
    case = cohort.labelled[0]
    assert case.name in ("p1", "p2") and case.label is not None
    assert read_volume(case.image).array[0, 0].tolist() == list(range(1, 13))
    assert read_label_volume(case.label)[0, 0].tolist() == [k % 3 for k in range(12)]
    assert len(split_dataset(_heart(tmp_path, val="0.5")).labelled) == 12


def test_an_image_is_no_volume_and_a_phantom_frame_neither(tmp_path: Path) -> None:
    _pairs(tmp_path / "train", ["1", "2"])
    _pairs(tmp_path / "val", ["9"])
    with pytest.raises(ValueError, match=r"1\.png: is one 2-D image; .* choose a 2-D teacher"):
        split_dataset(DataOptions(root=tmp_path), whole_volumes=True)
    with pytest.raises(ValueError, match="needs phantom_volumes"):
        split_dataset(DataOptions(layout="phantom"), whole_volumes=True)


def test_phantom_volumes_are_slices_or_whole() -> None:
    options = DataOptions(layout="phantom_volumes", channels=1, phantom=(2, 3, 1))
    slices, volumes = split_dataset(options), split_dataset(options, whole_volumes=True)
    assert [len(part) for part in (volumes.labelled, volumes.unlabelled, volumes.val)] == [2, 3, 1]
    assert volumes.val[0].image == "phantom3d:0" and volumes.val[0].slice is None
    assert len(slices.labelled) == 2 * 32 and slices.labelled[31].slice == 31
    assert {case.patient for case in slices.labelled} == {case.name for case in volumes.labelled}
    assert all(case.label is None for case in volumes.unlabelled)


def test_options_survive_json(tmp_path: Path) -> None:
    options = DataOptions(root=tmp_path, classes=("background", "a", "b"), size=(32, 48), channels=1)
    assert DataOptions.from_dict(json.loads(json.dumps(options.to_dict()))) == options
    with pytest.raises(ValueError, match="unknown field 'rot'"):
        DataOptions.from_dict({"rot": 1})


def _who(cases: tuple) -> set[str]:
    return {case.patient for case in cases}


@pytest.mark.parametrize("make", ["images", "volumes"])
def test_a_seeded_draw_changes_the_labelled_patients_and_never_the_validation_list(tmp_path: Path, make: str) -> None:
    """A counted validation list is drawn by `seed`, the labelled patients by `labelled_seed`."""
    if make == "images":
        _pairs(tmp_path, [f"image{i}" for i in range(9)])
        data = DataOptions(root=tmp_path, labelled="2", val="3")
    else:
        _volumes(tmp_path, 9)
        data = DataOptions(root=tmp_path, labelled="2", val="3", classes=("a", "b", "c"), channels=1)
    found = [split_dataset(dataclasses.replace(data, labelled_seed=seed)) for seed in range(6)]
    for cohort in found:
        assert len(_who(cohort.labelled)) == 2 and len(_who(cohort.unlabelled)) == 4
        assert not (_who(cohort.labelled) | _who(cohort.unlabelled)) & _who(cohort.val)
        assert not _who(cohort.labelled) & _who(cohort.unlabelled)
        assert all(case.label is None for case in cohort.unlabelled)
        assert cohort.val == found[0].val
        if make == "volumes":
            whole = split_dataset(dataclasses.replace(data, labelled_seed=found.index(cohort)), whole_volumes=True)
            assert _who(whole.labelled) == _who(cohort.labelled) and len(whole.labelled) == 4, "two phases each"
    assert len({tuple(sorted(_who(cohort.labelled))) for cohort in found}) > 2
    assert found[3] == split_dataset(dataclasses.replace(data, labelled_seed=3))


def test_a_patient_of_the_validation_folder_is_never_drawn(tmp_path: Path) -> None:
    names = [f"p{i}_frame1" for i in range(4)]
    _pairs(tmp_path / "train", names)
    _pairs(tmp_path / "val", [f"p{i}_frame2" for i in range(2)])
    for seed in range(8):
        cohort = split_dataset(DataOptions(root=tmp_path, labelled="2", labelled_seed=seed))
        assert _who(cohort.labelled) == {"p2", "p3"}
    with pytest.raises(ValueError, match="needs 3 patients"):
        split_dataset(DataOptions(root=tmp_path, labelled="3", labelled_seed=0))


@pytest.mark.parametrize("layout", ["phantom", "phantom_volumes"])
def test_phantoms_are_drawn_from_all_that_train(layout: str) -> None:
    data = DataOptions(layout=layout, phantom=(3, 4, 2), labelled="2", classes=("a", "b", "c"))  # type: ignore[arg-type]
    found = [split_dataset(dataclasses.replace(data, labelled_seed=seed)) for seed in range(5)]
    everyone = _who(found[0].labelled) | _who(found[0].unlabelled)
    assert len(everyone) == 7
    for cohort in found:
        assert len(_who(cohort.labelled)) == 2 and _who(cohort.labelled) | _who(cohort.unlabelled) == everyone
        assert cohort.val == found[0].val
    assert len({cohort.labelled for cohort in found}) > 2


def test_a_list_is_not_drawn_from(tmp_path: Path) -> None:
    _pairs(tmp_path, ["a", "b", "c"])
    (tmp_path / "labelled.txt").write_text("a\n")
    with pytest.raises(ValueError, match="labelled_seed: data.labelled is the list"):
        split_dataset(DataOptions(root=tmp_path, labelled="labelled.txt", val="1", labelled_seed=1))
