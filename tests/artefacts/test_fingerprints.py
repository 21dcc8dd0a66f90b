"""Content of data: every change of an image, a mask or a list is found and named; unchanged files are hashed once."""

from __future__ import annotations

import json
import os
import time
from collections.abc import Callable
from dataclasses import asdict, replace
from pathlib import Path

import pytest

from edgemt.artefacts import fingerprints
from edgemt.artefacts.fingerprints import Content, changes, digests_of, entries, key_of_entries
from edgemt.contract import Case


@pytest.fixture(autouse=True)
def cache(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path / "cache"))
    monkeypatch.setattr(fingerprints, "_TICK_NS", -(10**12))  # as if every file had been settled for long
    return tmp_path / "cache"


@pytest.fixture
def root(tmp_path: Path) -> Path:
    root = tmp_path / "data"
    for name in "abc":
        for folder in ("images", "masks"):
            (root / folder).mkdir(parents=True, exist_ok=True)
            (root / folder / f"{name}.bmp").write_bytes(f"{folder} {name}".encode())
    return root


def read(root: Path) -> tuple[fingerprints.Entry, ...]:
    cases = [
        Case(path.stem, path.stem, str(path), str(root / "masks" / path.name))
        for path in sorted((root / "images").iterdir())
    ]
    digests = digests_of([p for case in cases for p in (case.image, case.label or "")], root=root)
    return entries(cases, digests=digests, root=root)


def in_place_with_its_times(root: Path) -> None:
    path = root / "masks" / "b.bmp"
    before = path.stat()
    with path.open("r+b") as file:
        file.write(b"MASKS b")
    os.utime(path, ns=(before.st_atime_ns, before.st_mtime_ns))
    after = path.stat()
    assert (after.st_size, after.st_mtime_ns, after.st_ino) == (before.st_size, before.st_mtime_ns, before.st_ino)


def two_change_places(root: Path) -> None:
    a, b, spare = (root / "masks" / f"{name}.bmp" for name in ("a", "b", "spare"))
    a.rename(spare)
    b.rename(a)
    spare.rename(b)


@pytest.mark.parametrize(
    ("change", "line"),
    [
        (in_place_with_its_times, "validation masks changed (1 of 3 files: masks/b.bmp)"),
        (two_change_places, "validation masks changed (2 of 3 files: masks/a.bmp, masks/b.bmp)"),
        (
            lambda root: (root / "images" / "c.bmp").write_bytes(b"another c"),
            "validation images changed (1 of 3 files: images/c.bmp)",
        ),
        (
            lambda root: (root / "images" / "a.bmp").unlink(),
            "validation list changed (1 removed: images/a.bmp)",
        ),
    ],
)
def test_a_change_is_found_and_named(change: Callable[[Path], object], line: str, root: Path) -> None:
    before = read(root)
    assert read(root) == before
    change(root)
    after = read(root)
    assert key_of_entries(after) != key_of_entries(before)
    assert changes(before, after, what="validation") == [line]


def test_another_order_of_the_same_files_is_a_change(root: Path) -> None:
    before = read(root)
    after = before[::-1]
    assert key_of_entries(after) != key_of_entries(before)
    assert changes(before, after, what="labelled") == ["labelled list changed (its order)"]


def test_the_same_files_elsewhere_have_the_same_key(root: Path, tmp_path: Path) -> None:
    before = read(root)
    moved = root.rename(tmp_path / "moved")
    assert key_of_entries(read(moved)) == key_of_entries(before)


def test_an_unchanged_file_is_not_hashed_again(root: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    before = read(root)
    hashed: list[str] = []
    real = fingerprints.sha256
    monkeypatch.setattr(fingerprints, "sha256", lambda file: hashed.append(str(file)) or real(file))
    assert read(root) == before and not hashed
    (root / "masks" / "a.bmp").write_bytes(b"new")
    read(root)
    assert hashed == [str(root / "masks" / "a.bmp")]


def test_a_file_that_has_just_changed_is_not_cached(root: Path, cache: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(fingerprints, "_TICK_NS", 10**12)
    read(root)
    (file,) = (cache / "edgemt" / "fingerprints").iterdir()
    assert json.loads(file.read_text())["files"] == {}


@pytest.mark.parametrize("text", ["", "{", "[]", '{"format": 1, "files": {"x": 3}}', '{"format": 1, "files": 3}'])
def test_a_damaged_cache_costs_time_alone(text: str, root: Path, cache: Path) -> None:
    before = read(root)
    (file,) = (cache / "edgemt" / "fingerprints").iterdir()
    file.write_text(text)
    assert read(root) == before


def test_without_a_cache_folder_everything_is_hashed(
    root: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    before = read(root)
    (tmp_path / "file").write_text("")
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path / "file"))
    assert read(root) == before


def test_a_folder_of_slices_is_known_by_names_and_contents(tmp_path: Path) -> None:
    folder = tmp_path / "volume"
    folder.mkdir()
    for number in range(3):
        (folder / f"{number}.png").write_bytes(bytes([number]))
    seen = {digests_of([str(folder)])[str(folder)]}
    (folder / "1.png").write_bytes(b"x")
    seen |= set(digests_of([str(folder)]).values())
    (folder / "2.png").rename(folder / "7.png")
    seen |= set(digests_of([str(folder)]).values())
    assert len(seen) == 3


def test_slices_of_a_volume_are_one_entry_and_phantoms_need_no_file() -> None:
    cases = [Case(f"phantom3d:7/{k:03d}", "7", "phantom3d:7", "phantom3d:7", slice=k) for k in range(5)]
    (entry,) = entries(cases, digests=digests_of(["phantom3d:7"]), root=None)
    assert (entry.name, entry.image, entry.label) == ("phantom3d:7", "phantom3d:7", "phantom3d:7")


def test_a_file_that_cannot_be_read_is_named(root: Path) -> None:
    (root / "masks" / "a.bmp").unlink()
    (root / "masks" / "a.bmp").symlink_to("nowhere")
    with pytest.raises(ValueError, match=r"masks/a\.bmp: cannot be read \(No such file"):
        read(root)


def test_content_survives_its_file(root: Path, tmp_path: Path) -> None:
    content = Content(read(root), (), read(root)[:1])
    fingerprints.save_content(tmp_path / "lists" / "k.json", content)
    assert fingerprints.load_content(tmp_path / "lists" / "k.json") == content
    (tmp_path / "lists" / "k.json").write_text(json.dumps({**asdict(content), "val": [{"odd": 1}]}))
    assert fingerprints.load_content(tmp_path / "lists" / "k.json") is None


def test_two_entries_of_one_name_are_distinguished(root: Path) -> None:
    one, two, three = (replace(entry, name="frame") for entry in read(root))
    changed = replace(two, label="0" * 64)
    assert changes((one, two, three), (one, changed, three), what="labelled") == [
        "labelled masks changed (1 of 3 files: masks/b.bmp)"
    ]


def test_files_that_are_cached_cost_a_tenth_of_a_millisecond_each(tmp_path: Path) -> None:
    root = tmp_path / "many"
    root.mkdir()
    paths = [str(root / f"{number}.png") for number in range(1000)]
    for path in paths:
        with open(path, "wb") as file:
            file.write(path.encode())
    first = digests_of(paths, root=root)
    began = time.process_time()
    assert digests_of(paths, root=root) == first
    assert time.process_time() - began < 0.1  # 10,000 files within a second
