"""Videos become clips of frames: which are taken, resuming, and what is refused."""

from __future__ import annotations

import json
import shutil
from pathlib import Path

import numpy as np
import pytest
from label_samples import film

pytest.importorskip("av")

from PIL import Image  # noqa: E402

from edgemt.convert import importing, video  # noqa: E402
from edgemt.convert.contract import ImportOptions  # noqa: E402
from edgemt.convert.importing import import_source  # noqa: E402
from edgemt.convert.journal import Journal  # noqa: E402
from edgemt.convert.video_frames import decoded_frames  # noqa: E402
from edgemt.io.image_hashes import SeenHashes, difference_hash  # noqa: E402


def numbers(out: Path, clip: str = "film") -> list[int]:
    return sorted(int(p.stem) for p in (out / "images" / clip).glob("*.png"))


@pytest.fixture(scope="module")
def one(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return film(tmp_path_factory.mktemp("film") / "film.mp4")


@pytest.mark.parametrize(
    ("options", "expected"),
    [
        (ImportOptions(every=5), [0, 5, 10]),
        (ImportOptions(every=5, scene_changes=True), [0, 5, 6, 10]),
        (ImportOptions(every=100), [0]),
    ],
)
def test_every_nth_frame_and_the_first_of_each_scene(options, expected, one: Path, tmp_path: Path) -> None:
    import_source(one, tmp_path / "out", options=options)
    assert numbers(tmp_path / "out") == expected
    pixels = np.asarray(Image.open(tmp_path / "out" / "images" / "film" / "000005.png")) if 5 in expected else None
    if pixels is not None:
        frame = next(frame for frame in decoded_frames(one) if frame.number == 5)
        assert (pixels == frame.pixels()).all()


def test_frames_that_nearly_repeat_are_left_out(tmp_path: Path) -> None:
    import av

    path, noise = tmp_path / "film.mp4", np.random.default_rng(0)
    y, x = np.mgrid[0:48, 0:64]
    with av.open(str(path), "w") as container:
        stream = container.add_stream("mpeg4", rate=10)
        stream.width, stream.height, stream.pix_fmt = 64, 48, "yuv420p"
        for number in range(9):
            still = 120 + 90 * np.sin((x + 12 * (number // 3)) / 9) * np.cos(y / 7) + noise.normal(0, 2, x.shape)
            picture = np.repeat(still.clip(0, 255).astype(np.uint8)[..., None], 3, -1)
            container.mux(stream.encode(av.VideoFrame.from_ndarray(picture)))
        container.mux(stream.encode(None))
    import_source(path, tmp_path / "out", options=ImportOptions(duplicates=12))
    assert numbers(tmp_path / "out") == [0, 3, 6]
    import_source(path, tmp_path / "all", options=ImportOptions(duplicates=-1))
    assert len(numbers(tmp_path / "all")) == 9


def test_a_hash_ignores_noise_and_sees_another_picture() -> None:
    y, x = np.mgrid[0:90, 0:120]
    picture = (120 + 100 * np.sin(x / 20) * np.cos(y / 15)).astype(np.uint8)
    noisy = (picture + np.random.default_rng(0).normal(0, 1, picture.shape)).clip(0, 255).astype(np.uint8)
    seen = SeenHashes(tolerance=4)
    seen.add(difference_hash(picture))
    assert seen.holds_like(difference_hash(noisy)) and not seen.holds_like(difference_hash(picture[::-1]))
    assert not SeenHashes(tolerance=4).holds_like(difference_hash(picture))


def test_a_folder_of_videos_and_clips_of_one(one: Path, tmp_path: Path) -> None:
    for name in ("a/film.mp4", "b/film.mp4"):
        (tmp_path / "in" / name).parent.mkdir(parents=True)
        shutil.copyfile(one, tmp_path / "in" / name)
    manifest = import_source(tmp_path / "in", tmp_path / "out", options=ImportOptions(every=4, clip_frames=6))
    folders = sorted(p.name for p in (tmp_path / "out" / "images").iterdir())
    assert folders == ["a_film-000", "a_film-001", "b_film-000", "b_film-001"]
    assert list(manifest["sources"]) == ["a/film.mp4", "b/film.mp4"] and manifest["counts"]["images"] == 6


def test_a_killed_import_goes_on_and_decodes_no_finished_video_again(one: Path, tmp_path: Path, monkeypatch) -> None:
    (tmp_path / "in").mkdir()
    for name in ("a.mp4", "b.mp4"):
        shutil.copyfile(one, tmp_path / "in" / name)
    options, written = ImportOptions(every=4), []
    real = importing.write_sample

    def dies(folder, name, loaded, **more):
        if name == "b/000004":
            raise KeyboardInterrupt
        written.append(name)
        return real(folder, name, loaded, **more)

    monkeypatch.setattr(importing, "write_sample", dies)
    with pytest.raises(KeyboardInterrupt):
        import_source(tmp_path / "in", tmp_path / "out", options=options)
    assert not (tmp_path / "out").exists() and (tmp_path / "out.partial" / "images" / "b" / "000000.png").is_file()
    journal = tmp_path / "out.partial" / "import.jsonl"
    journal.write_text(journal.read_text() + '{"unit": "b.mp4", "sam')  # a line cut short by the kill
    decoded = []
    monkeypatch.setattr(video, "decoded_frames", lambda path: decoded.append(path.name) or decoded_frames(path))
    monkeypatch.setattr(importing, "write_sample", lambda f, n, x, **more: written.append(n) or real(f, n, x, **more))
    manifest = import_source(tmp_path / "in", tmp_path / "out", options=options)
    assert decoded == ["b.mp4"] and written[:4] == ["a/000000", "a/000004", "a/000008", "b/000000"]
    assert written.count("b/000000") == written.count("b/000004") == 1
    assert not (tmp_path / "out.partial").exists() and len(manifest["cases"]) == 6
    whole = import_source(tmp_path / "in", tmp_path / "whole", options=options)
    assert whole == manifest == json.loads((tmp_path / "out" / "manifest.json").read_text())
    lines: list[str] = []
    import_source(tmp_path / "in", tmp_path / "out", options=options, tell=lines.append)
    assert "complete; nothing to do" in lines[0]


def test_a_video_that_changed_is_read_again_and_one_that_went_is_removed(one: Path, tmp_path: Path) -> None:
    (tmp_path / "in").mkdir()
    shutil.copyfile(one, tmp_path / "in" / "a.mp4")
    film(tmp_path / "in" / "c.mp4", frames=3)
    broken = tmp_path / "in" / "b.mp4"
    shutil.copyfile(one, broken)
    data = bytearray(broken.read_bytes())
    begin = data.index(b"mdat")
    size = int.from_bytes(data[begin - 4 : begin], "big")
    data[begin + size // 4 : begin + size // 2] = bytes(size // 2 - size // 4)
    broken.write_bytes(data)
    with pytest.raises(ValueError, match=r"b\.mp4"):
        import_source(tmp_path / "in", tmp_path / "out", options=ImportOptions(every=4))
    assert not (tmp_path / "out").exists() and (tmp_path / "out.partial" / "images" / "a").is_dir()
    broken.unlink()
    manifest = import_source(tmp_path / "in", tmp_path / "out", options=ImportOptions(every=4))
    assert {case["name"] for case in manifest["cases"]} == {"a/000000", "a/000004", "a/000008", "c/000000"}
    assert {p.name for p in (tmp_path / "out" / "images").iterdir()} == {"a", "c"}


@pytest.mark.parametrize(
    ("damage", "why"),
    [
        (lambda p: p.write_bytes(p.read_bytes()[: p.stat().st_size // 2]), "(cannot be read as|holds no) "),
        (lambda p: p.write_bytes(b""), "cannot be read as a video"),
        (lambda p: p.write_text("no video"), "cannot be read as a video"),
    ],
)
def test_a_video_that_cannot_be_read_is_named_and_nothing_is_left(damage, why: str, one: Path, tmp_path: Path) -> None:
    path = tmp_path / "film.mp4"
    shutil.copyfile(one, path)
    damage(path)
    with pytest.raises(ValueError, match=rf"film\.mp4: {why}"):
        import_source(path, tmp_path / "out")
    assert [p.name for p in tmp_path.iterdir()] == ["film.mp4"]


def test_a_folder_in_the_way_is_not_touched(one: Path, tmp_path: Path) -> None:
    for name in ("out", "other.partial"):
        (tmp_path / name).mkdir()
        (tmp_path / name / "mine.txt").write_text("mine")
    holder = Journal(tmp_path / "third.partial", "key")
    for out, why in (
        ("out", "is not empty, and not this import"),
        ("other", "is not what an import left"),
        ("third", "another import writes there"),
    ):
        with pytest.raises(ValueError, match=why):
            import_source(one, tmp_path / out)
    holder.close()
    assert (tmp_path / "out" / "mine.txt").is_file() and (tmp_path / "other.partial" / "mine.txt").is_file()


@pytest.mark.parametrize("options", [ImportOptions(every=0), ImportOptions(clip_frames=-1)])
def test_numbers_that_mean_nothing_are_refused(options: ImportOptions, one: Path, tmp_path: Path) -> None:
    with pytest.raises(ValueError, match="no number of frames"):
        import_source(one, tmp_path / "out", options=options)


def test_a_matroska_file_cut_short_is_refused_by_its_length(tmp_path: Path) -> None:
    film(tmp_path / "a.mkv", frames=60, size=(96, 128))
    whole = import_source(tmp_path / "a.mkv", tmp_path / "whole", options=ImportOptions(duplicates=-1))
    assert whole["counts"]["images"] == 60
    data = (tmp_path / "a.mkv").read_bytes()
    (tmp_path / "a.mkv").write_bytes(data[: len(data) * 2 // 3])
    with pytest.raises(ValueError, match=r"a\.mkv: (ends after|cannot be decoded after).*copy the video again"):
        import_source(tmp_path / "a.mkv", tmp_path / "out")
