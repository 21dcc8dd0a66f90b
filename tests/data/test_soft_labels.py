"""A teacher is asked once a volume; what it said is kept, found again, and made again when it is damaged."""

from __future__ import annotations

import json
import shutil
from collections.abc import Callable
from pathlib import Path
from types import SimpleNamespace

import numpy as np
import pytest

pytest.importorskip("safetensors")

from edgemt.contract import Case  # noqa: E402
from edgemt.data import soft_labels  # noqa: E402
from edgemt.data.phantom3d import SHAPE  # noqa: E402

CLASSES = ("background", "chamber", "wall")
SIZE = (8, 12)
DEPTH = SHAPE[2]


def volumes(count: int, *, first: int = 0) -> list[Case]:
    return [Case(f"phantom3d:{i}", str(i), f"phantom3d:{i}") for i in range(first, first + count)]


def slices_of(case: Case) -> list[Case]:
    return [Case(f"{case.name}/{k:03d}", case.patient, case.image, slice=k) for k in range(DEPTH)]


class Teacher:
    """Says something of its own of each volume, and remembers what it was asked."""

    def __init__(self, *, fails_at: str = "") -> None:
        self.asked: list[str] = []
        self.fails_at = fails_at

    def __call__(self, case: Case) -> np.ndarray:
        if case.name == self.fails_at:
            raise KeyboardInterrupt
        self.asked.append(case.name)
        return said(case)


def said(case: Case) -> np.ndarray:
    draw = np.random.default_rng(int(case.patient)).normal(size=(DEPTH, len(CLASSES), *SIZE)) * 3
    p = np.exp(draw)
    return (p / p.sum(1, keepdims=True)).astype(np.float32)


def filled(
    folder: Path, cases: list[Case], teacher: Callable[[Case], np.ndarray], **changes: object
) -> soft_labels.BankSummary:
    given = {"predict": teacher, "classes": CLASSES, "size": SIZE, "key": "k", **changes}
    return soft_labels.write_bank(folder, cases, **given)  # type: ignore[arg-type]


def test_what_the_teacher_said_is_read_back_slice_by_slice_in_any_order(tmp_path: Path) -> None:
    cases = volumes(3)
    filled(tmp_path / "bank", cases, Teacher())
    wanted = [case for volume in reversed(cases) for case in slices_of(volume)][::3]
    soft = soft_labels.read_bank(tmp_path / "bank", wanted)
    assert soft.dtype == np.float16
    assert soft.shape == (len(wanted), len(CLASSES) - 1, *SIZE)
    truth = np.stack([said(case)[case.slice, 1:] for case in wanted])
    assert np.abs(soft - truth).max() < 5e-4


def test_a_second_filling_asks_nothing_and_changes_no_file(tmp_path: Path) -> None:
    cases, teacher = volumes(2), Teacher()
    first = filled(tmp_path, cases, teacher)
    before = {path: path.stat().st_mtime_ns for path in tmp_path.iterdir()}
    second = filled(tmp_path, cases, teacher)
    assert teacher.asked == ["phantom3d:0", "phantom3d:1"]
    assert (first.num_computed, second.num_computed) == (2, 0)
    assert {path: path.stat().st_mtime_ns for path in tmp_path.iterdir()} == before


def test_a_filling_that_was_cut_goes_on_where_it_stood(tmp_path: Path) -> None:
    with pytest.raises(KeyboardInterrupt):
        filled(tmp_path, volumes(4), Teacher(fails_at="phantom3d:2"))
    teacher = Teacher()
    filled(tmp_path, volumes(4), teacher)
    assert teacher.asked == ["phantom3d:2", "phantom3d:3"]
    assert (
        len(soft_labels.read_bank(tmp_path, [case for volume in volumes(4) for case in slices_of(volume)])) == 4 * DEPTH
    )


@pytest.mark.parametrize("change", [{"key": "other"}, {"size": (4, 6)}, {"classes": ("background", "heart")}])
def test_another_teacher_size_or_list_of_classes_starts_over(tmp_path: Path, change: dict) -> None:
    filled(tmp_path, volumes(2), Teacher())
    size, classes = change.get("size", SIZE), change.get("classes", CLASSES)
    asked: list[str] = []

    def teacher(case: Case) -> np.ndarray:
        asked.append(case.name)
        return np.full((DEPTH, len(classes), *size), 1 / len(classes), np.float32)

    filled(tmp_path, volumes(1), teacher, **change)
    assert asked == ["phantom3d:0"]
    assert [path.name for path in tmp_path.glob("*.safetensors")] == ["phantom3d_0.safetensors"]


@pytest.mark.parametrize("damage", ["cut", "changed", "gone"])
def test_a_damaged_file_is_refused_by_name_and_made_again(tmp_path: Path, damage: str) -> None:
    filled(tmp_path, volumes(2), Teacher())
    path = tmp_path / "phantom3d_1.safetensors"
    data = bytearray(path.read_bytes())
    data[-5] ^= 1
    path.unlink() if damage == "gone" else path.write_bytes(data[:-100] if damage == "cut" else data)
    with pytest.raises(ValueError, match="phantom3d_1.safetensors.*fill"):
        soft_labels.read_bank(tmp_path, slices_of(volumes(2)[1]))
    assert len(soft_labels.read_bank(tmp_path, slices_of(volumes(2)[0]))) == DEPTH
    teacher = Teacher()
    assert filled(tmp_path, volumes(2), teacher).num_computed == 1
    assert teacher.asked == ["phantom3d:1"]
    assert len(soft_labels.read_bank(tmp_path, slices_of(volumes(2)[1]))) == DEPTH


def test_an_index_that_cannot_be_read_is_a_bank_begun_anew(tmp_path: Path) -> None:
    filled(tmp_path, volumes(1), Teacher())
    (tmp_path / soft_labels.INDEX).write_text("{")
    with pytest.raises(ValueError, match="holds no bank"):
        soft_labels.read_bank(tmp_path, slices_of(volumes(1)[0]))
    assert filled(tmp_path, volumes(1), Teacher()).num_computed == 1


def test_the_summary_and_the_first_line_say_what_it_takes(tmp_path: Path) -> None:
    lines: list[str] = []
    summary = filled(tmp_path, volumes(3), Teacher(), log=lines.append)
    on_disk = sum(path.stat().st_size for path in tmp_path.glob("*.safetensors")) / 1e6
    assert summary.volumes == 3
    assert summary.megabytes == pytest.approx(on_disk, rel=0.02)
    assert summary.megabytes_per_volume == pytest.approx(on_disk / 3, rel=0.02)
    assert len(lines) == 1
    assert "3 files of 0.0 MB" in lines[0]


def test_a_disk_that_is_too_small_is_found_before_the_teacher_is_asked(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(shutil, "disk_usage", lambda path: SimpleNamespace(free=(64 << 20) + 1000))
    teacher = Teacher()
    with pytest.raises(ValueError, match="soft labels need 2 files of 0.0 MB, 0 MB in all, 0 MB are free") as error:
        filled(tmp_path, volumes(2), teacher)
    assert not teacher.asked
    assert "\n" not in str(error.value)


def test_progress_counts_what_stands_too(tmp_path: Path) -> None:
    filled(tmp_path, volumes(1), Teacher())
    seen: list[tuple[int, int]] = []
    filled(tmp_path, volumes(3), Teacher(), progress=lambda done, total: seen.append((done, total)))
    assert seen == [(1, 3), (2, 3), (3, 3)]


@pytest.mark.parametrize(
    ("soft", "says"),
    [
        (np.zeros((DEPTH, 2, *SIZE), np.float32), "soft labels have shape"),
        (np.full((DEPTH, 3, *SIZE), 2.0, np.float32), "no probabilities"),
        (np.full((DEPTH, 3, *SIZE), np.nan, np.float32), "no probabilities"),
    ],
)
def test_what_is_no_probability_is_not_kept(tmp_path: Path, soft: np.ndarray, says: str) -> None:
    with pytest.raises(ValueError, match=f"phantom3d:0: .*{says}"):
        filled(tmp_path, volumes(1), lambda case: soft)
    assert not list(tmp_path.glob("*.safetensors"))


def test_two_volumes_of_one_name_are_not_written_over_each_other(tmp_path: Path) -> None:
    twins = [Case("heart", "a", "a/heart.nii.gz"), Case("heart", "b", "b/heart.nii.gz")]
    with pytest.raises(ValueError, match="same name as a/heart.nii.gz"):
        filled(tmp_path, twins, Teacher())


def test_a_bank_is_filled_from_volumes_and_read_by_slices(tmp_path: Path) -> None:
    with pytest.raises(ValueError, match="is one slice"):
        filled(tmp_path, slices_of(volumes(1)[0]), Teacher())
    filled(tmp_path, volumes(1), Teacher())
    with pytest.raises(ValueError, match="phantom3d_7.safetensors.*fill it again"):
        soft_labels.read_bank(tmp_path, slices_of(volumes(1, first=7)[0]))
    with pytest.raises(ValueError, match=f"has {DEPTH} slices here"):
        soft_labels.read_bank(tmp_path, [Case("phantom3d:0/099", "0", "phantom3d:0", slice=99)])


def test_the_index_is_plain_and_lists_every_file_with_its_hash(tmp_path: Path) -> None:
    filled(tmp_path, volumes(2), Teacher())
    index = json.loads((tmp_path / soft_labels.INDEX).read_text())
    assert (index["key"], index["classes"], index["size"]) == ("k", list(CLASSES), list(SIZE))
    assert {entry["depth"] for entry in index["volumes"].values()} == {DEPTH}
    assert all(len(entry["sha256"]) == 64 for entry in index["volumes"].values())


def several(case: Case) -> np.ndarray:
    """[K, S, C, H, W] of three teachers."""
    return np.stack([said(Case(case.name, str(int(case.patient) + 100 * k), case.image)) for k in range(3)])


def test_the_variance_between_teachers_is_summed_over_classes_and_read_back_as_a_deviation(tmp_path: Path) -> None:
    cases = volumes(2)
    between = {case.name: several(case).var(0).sum(1) for case in cases}

    def teachers(case: Case) -> soft_labels.TeacherPrediction:
        return soft_labels.TeacherPrediction(several(case).mean(0), between[case.name])

    summary = filled(tmp_path, cases, teachers, variance=True)
    deviation = soft_labels.read_variance(tmp_path, slices_of(cases[1])[::-1])
    assert deviation.dtype == np.uint8
    assert np.abs(deviation / 255 - np.sqrt(between[cases[1].name][::-1])).max() <= 0.5 / 255 + 1e-6
    on_disk = sum(path.stat().st_size for path in tmp_path.rglob("*.safetensors")) / 1e6
    assert summary.megabytes == pytest.approx(on_disk, rel=0.02)


def test_a_bank_without_variance_stays_as_it_is_and_gets_the_variance_alone(tmp_path: Path) -> None:
    filled(tmp_path, volumes(3), Teacher())
    before = soft_labels.bank_fingerprint(tmp_path)
    written = {path: path.stat().st_mtime_ns for path in tmp_path.glob("*.safetensors")}
    with pytest.raises(ValueError, match="variance: holds no bank"):
        soft_labels.read_variance(tmp_path, slices_of(volumes(1)[0]))
    lines: list[str] = []

    def teachers(case: Case) -> soft_labels.TeacherPrediction:
        if case.name == "phantom3d:2" and not lines[1:]:
            lines.append("cut")
            raise KeyboardInterrupt
        return soft_labels.TeacherPrediction(said(case), np.full((DEPTH, *SIZE), 0.25, np.float32))

    with pytest.raises(KeyboardInterrupt):
        filled(tmp_path, volumes(3), teachers, variance=True, log=lines.append)
    assert "variance between the teachers (soft labels are complete): 3 files" in lines[0]
    assert filled(tmp_path, volumes(3), teachers, variance=True).num_computed == 1
    assert (soft_labels.read_variance(tmp_path, slices_of(volumes(3)[2])) == 128).all()
    assert soft_labels.bank_fingerprint(tmp_path) == before != soft_labels.variance_fingerprint(tmp_path)
    assert {path: path.stat().st_mtime_ns for path in tmp_path.glob("*.safetensors")} == written


def test_one_teacher_has_no_variance_and_a_variance_out_of_range_is_refused(tmp_path: Path) -> None:
    with pytest.raises(ValueError, match=r"phantom3d:0: one teacher has no variance; set teacher.members"):
        filled(tmp_path, volumes(1), Teacher(), variance=True)
    wrong = np.full((DEPTH, *SIZE), 2.0, np.float32)
    with pytest.raises(ValueError, match="not between 0 and 1"):
        filled(tmp_path, volumes(1), lambda case: soft_labels.TeacherPrediction(said(case), wrong), variance=True)
