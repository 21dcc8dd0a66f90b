"""Frames of videos as training data: a clip is a patient, and a long clip does not swamp a batch."""

from __future__ import annotations

from collections import Counter
from pathlib import Path

import numpy as np
import pytest
from PIL import Image

from edgemt.data.cohort import split_dataset
from edgemt.data.options import DataOptions
from edgemt.data.sampling import grouped_indices
from edgemt.data.slice_dataset import TwoStreamBatches, load_slices

SIZE = (32, 32)


def write(root: Path, clips: dict[str, tuple[int, int]]) -> Path:
    """clips: name -> number of frames, and of masks, of its first frames."""
    for number, (clip, (frames, masks)) in enumerate(clips.items()):
        for t in range(frames):
            picture = np.random.default_rng(100 * number + t).integers(0, 255, (*SIZE, 3), dtype=np.uint8)
            path = root / "images" / clip / f"{t}.png"
            path.parent.mkdir(parents=True, exist_ok=True)
            Image.fromarray(picture).save(path)
            if t < masks:
                path = root / "masks" / clip / f"{t}.png"
                path.parent.mkdir(parents=True, exist_ok=True)
                Image.fromarray((picture[..., 0] > 128).astype(np.uint8) * 255).save(path)
    return root


def options(root: Path, **changes: str) -> DataOptions:
    return DataOptions(root=root, layout="clips", size=SIZE, **changes)  # type: ignore[arg-type]


def test_frames_of_a_clip_stay_in_one_part_of_the_split(tmp_path: Path) -> None:
    write(tmp_path / "train", {"a": (12, 2), "b": (3, 3), "c": (4, 0)})
    write(tmp_path / "val", {"d": (2, 2)})
    split = split_dataset(options(tmp_path, labelled="1"))
    assert {case.patient for case in split.labelled} in ({"a"}, {"b"})
    assert {case.patient for case in split.val} == {"d"}
    assert len(split.labelled) + len(split.unlabelled) == 19
    assert [case.name for case in split_dataset(options(tmp_path)).unlabelled if case.patient == "a"][-1] == "a/11"


def test_a_counted_validation_takes_whole_clips_and_their_frames_do_not_train(tmp_path: Path) -> None:
    write(tmp_path, {"a": (4, 4), "b": (4, 2), "c": (4, 4)})
    for seed in range(4):
        split = split_dataset(DataOptions(root=tmp_path, layout="clips", size=SIZE, val="1", seed=seed))
        trained = {case.patient for case in (*split.labelled, *split.unlabelled)}
        assert len({case.patient for case in split.val}) == 1 and not trained & {case.patient for case in split.val}


def test_a_long_clip_is_drawn_no_more_often_than_a_short_one(tmp_path: Path) -> None:
    write(tmp_path / "train", {"long": (40, 0), "short": (2, 0), "other": (5, 0), "labelled": (2, 2)})
    write(tmp_path / "val", {"d": (1, 1)})
    split = split_dataset(options(tmp_path))
    unlabelled = load_slices(split.unlabelled, options(tmp_path))
    batches = TwoStreamBatches(load_slices(split.labelled, options(tmp_path)), unlabelled, batch_size=(2, 3))
    for index in range(4):
        indices = batches.batch(index).index
        assert indices is not None
        patients = [split.unlabelled[int(i) - 2].patient for i in indices[2:]]
        assert sorted(patients) == ["long", "other", "short"]


def test_every_frame_of_a_clip_is_drawn_before_one_is_drawn_again() -> None:
    groups = [0] * 5 + [1] * 2 + [2]
    rows = grouped_indices(3, 1, groups=groups, first=0, length=3 * 10).tolist()
    assert sorted(Counter(rows).values()) == [2, 2, 2, 2, 2, 5, 5, 10]
    assert all(sorted(groups[row] for row in rows[at : at + 3]) == [0, 1, 2] for at in range(0, 30, 3))
    assert rows[7:13] == grouped_indices(3, 1, groups=groups, first=7, length=6).tolist()
    assert rows != grouped_indices(4, 1, groups=groups, first=0, length=30).tolist()


@pytest.mark.parametrize("layout", ["clips", "auto"])
def test_a_video_file_is_refused_with_the_command_that_extracts_its_frames(tmp_path: Path, layout: str) -> None:
    if layout == "clips":
        write(tmp_path, {"a": (2, 2)})
    (tmp_path / "images").mkdir(exist_ok=True)
    (tmp_path / "images" / "film.MP4").write_bytes(b"video")
    with pytest.raises(ValueError, match=r"film.MP4: training reads frames.*ffmpeg -i .*film.MP4 .*film/%06d.png"):
        split_dataset(DataOptions(root=tmp_path, layout=layout, size=SIZE, val="1"))  # type: ignore[arg-type]


def test_a_folder_without_clips_is_refused(tmp_path: Path) -> None:
    (tmp_path / "images").mkdir()
    with pytest.raises(ValueError, match="holds no folder of frames"):
        split_dataset(options(tmp_path))
