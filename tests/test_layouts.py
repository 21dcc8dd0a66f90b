"""Who is labelled, who is not, who validates."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest
from PIL import Image

from edgemt.data.layouts import DataOptions, find
from edgemt.data.stream import load

nibabel = pytest.importorskip("nibabel")


def _pairs(base: Path, names: list[str], *, masks: bool = True, size: tuple[int, int] = (20, 16)) -> None:
    (base / "images").mkdir(parents=True, exist_ok=True)
    (base / "masks").mkdir(exist_ok=True)
    for i, name in enumerate(names):
        Image.fromarray(np.full((*size, 3), 10 + i, np.uint8)).save(base / "images" / f"{name}.png")
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


def _heart(root: Path, **changes: object) -> DataOptions:
    return DataOptions.from_dict(
        {"classes": ("background", "rv", "lv"), "channels": 1, "size": (16, 16)}, root=root, **changes
    )  # type: ignore[arg-type]


def test_a_list_of_names_decides_who_is_labelled(tmp_path: Path) -> None:
    _pairs(tmp_path / "train", ["1", "2", "3", "4"])
    _pairs(tmp_path / "val", ["9"])
    (tmp_path / "splits").mkdir()
    (tmp_path / "splits" / "few.txt").write_text("2.png\n# a remark\n4\n")
    cohort = find(DataOptions(root=tmp_path, labelled="few.txt"))
    assert [case.name for case in cohort.labelled] == ["2", "4"]
    assert [case.name for case in cohort.unlabelled] == ["1", "3"]
    assert [case.name for case in cohort.val] == ["9"]


def test_unlabelled_cases_carry_no_label_and_garbage_masks_beside_them_change_nothing(tmp_path: Path) -> None:
    _pairs(tmp_path / "train", ["1", "2", "3", "4"])
    _pairs(tmp_path / "val", ["9"])
    (tmp_path / "few.txt").write_text("1\n")
    options = DataOptions(root=tmp_path, labelled="few.txt", size=(16, 16))
    clean = load(find(options).unlabelled, options).image
    for name in "234":
        (tmp_path / "train" / "masks" / f"{name}.png").write_bytes(b"never read")
    cohort = find(options)
    assert all(case.label is None for case in cohort.unlabelled)
    stack = load(cohort.unlabelled, options)
    assert stack.label is None and (stack.image == clean).all()
    assert load(cohort.labelled, options).label is not None


def test_a_count_is_drawn_by_seed_and_does_not_depend_on_file_order(tmp_path: Path) -> None:
    _pairs(tmp_path / "train", [str(i) for i in range(20)])
    _pairs(tmp_path / "val", ["50"])
    drawn = [find(DataOptions(root=tmp_path, labelled="5", seed=seed)).labelled for seed in (0, 0, 1)]
    assert len(drawn[0]) == 5 and drawn[0] == drawn[1] and drawn[0] != drawn[2]
    assert len(find(DataOptions(root=tmp_path, labelled="0.25")).labelled) == 5


def test_an_empty_labelled_field_takes_every_image_with_a_mask(tmp_path: Path) -> None:
    _pairs(tmp_path / "train", ["1", "2"])
    _pairs(tmp_path / "train", ["3"], masks=False)
    _pairs(tmp_path / "val", ["9"])
    cohort = find(DataOptions(root=tmp_path))
    assert [case.name for case in cohort.labelled] == ["1", "2"]
    assert [case.name for case in cohort.unlabelled] == ["3"]


def test_one_folder_is_split_by_share_without_overlap(tmp_path: Path) -> None:
    _pairs(tmp_path, [str(i) for i in range(10)])
    cohort = find(DataOptions(root=tmp_path, labelled="3", val="0.2"))
    names = [{case.name for case in part} for part in (cohort.labelled, cohort.unlabelled, cohort.val)]
    assert [len(part) for part in names] == [3, 5, 2]
    assert len(set.union(*names)) == 10


def test_a_further_folder_adds_unlabelled_images(tmp_path: Path) -> None:
    _pairs(tmp_path / "train", ["1", "2"])
    _pairs(tmp_path / "val", ["9"])
    _pairs(tmp_path / "more", ["a", "b"], masks=False)
    cohort = find(DataOptions(root=tmp_path, unlabelled="more/images"))
    assert [case.name for case in cohort.unlabelled] == ["a", "b"]


def test_volumes_become_slices_and_a_patient_is_never_torn_apart(tmp_path: Path) -> None:
    _volumes(tmp_path, 8)
    for seed in range(5):
        cohort = find(_heart(tmp_path, labelled="2", val="0.25", seed=seed))
        groups = [{case.group for case in part} for part in (cohort.labelled, cohort.unlabelled, cohort.val)]
        assert [len(part) for part in groups] == [2, 4, 2]
        assert not groups[0] & groups[1] and not groups[0] & groups[2] and not groups[1] & groups[2]
        assert len(cohort.labelled) == 2 * 2 * 3
        assert [case.slice for case in cohort.labelled[:3]] == [0, 1, 2]


def test_train_and_val_lists_of_a_volume_folder_are_followed(tmp_path: Path) -> None:
    names = _volumes(tmp_path, 4)
    (tmp_path / "train.txt").write_text("\n".join(names[:4]))
    (tmp_path / "val.txt").write_text("\n".join(names[4:6]))
    (tmp_path / "one.txt").write_text("\n".join(names[:2]))
    cohort = find(_heart(tmp_path, labelled="one.txt"))
    volumes = [{case.name.split("/")[0] for case in part} for part in (cohort.labelled, cohort.unlabelled, cohort.val)]
    assert volumes == [set(names[:2]), set(names[2:4]), set(names[4:6])]


def test_a_validation_list_takes_its_patients_out_of_training(tmp_path: Path) -> None:
    names = _volumes(tmp_path, 4)
    (tmp_path / "held.txt").write_text(names[6])  # one of the patient's two volumes
    cohort = find(_heart(tmp_path, labelled="1", val="held.txt"))
    assert "patient003" not in {case.group for case in cohort.labelled + cohort.unlabelled}


def test_a_patient_on_both_lists_is_refused(tmp_path: Path) -> None:
    names = _volumes(tmp_path, 3)
    (tmp_path / "train.txt").write_text("\n".join(names[:4]))
    (tmp_path / "val.txt").write_text(names[1])
    (tmp_path / "few.txt").write_text(names[0])
    with pytest.raises(ValueError, match="share 1 patients.*patient000"):
        find(_heart(tmp_path, labelled="few.txt"))


def test_nnunet_folders_are_read_without_the_channel_number(tmp_path: Path) -> None:
    names = _volumes(tmp_path, 2)
    (tmp_path / "images").rename(tmp_path / "imagesTr")
    (tmp_path / "labels").rename(tmp_path / "labelsTr")
    for name in names:
        path = tmp_path / "imagesTr" / f"{name}.nii.gz"
        path.rename(path.with_name(f"{name}_0000.nii.gz"))
    cohort = find(_heart(tmp_path, labelled="1", val="0.5"))
    assert {case.group for case in cohort.labelled + cohort.val} == {"patient000", "patient001"}


def test_the_phantom_needs_no_files_and_validates_on_the_same_frames_for_every_seed() -> None:
    one, two = (find(DataOptions(layout="phantom", phantom=(3, 4, 2), seed=seed)) for seed in (0, 1))
    assert [len(part) for part in (one.labelled, one.unlabelled, one.val)] == [3, 4, 2]
    assert one.val == two.val and one.labelled != two.labelled
    images = [case.image for case in one.labelled + one.unlabelled + one.val]
    assert len(set(images)) == 9 and all(case.label is None for case in one.unlabelled)
    ceiling = find(DataOptions(layout="phantom", phantom=(7, 0, 2)))
    assert [case.image for case in ceiling.labelled] == images[:7]


def test_options_survive_json(tmp_path: Path) -> None:
    import json

    options = DataOptions(root=tmp_path, classes=("background", "a", "b"), size=(32, 48), channels=1)
    assert DataOptions.from_dict(json.loads(json.dumps(options.to_dict()))) == options
    with pytest.raises(ValueError, match="unknown field 'rot'"):
        DataOptions.from_dict({"rot": 1})
