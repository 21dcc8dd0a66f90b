"""Where frames come from: files that are whole, files that are not, cameras that come and go."""

from __future__ import annotations

import itertools
from collections import deque
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from faulty_source import picture
from PIL import Image

from deploy.stream.sources import SOURCES, base, open_source
from deploy.stream.sources import camera as source_camera
from deploy.stream.sources.base import CorruptFrameError, SourceFrame, SourceLostError
from deploy.stream.sources.camera import CameraSource
from deploy.stream.sources.frame_checks import FreezeDetector, to_frame_pixels
from deploy.stream.sources.iterable import IterableSource
from deploy.stream.sources.synthetic import SyntheticSource, frame_number_of


def played(source: Any) -> list[SourceFrame]:
    source.open()
    found = []
    while (picture := source.read()) is not None:
        found.append(picture)
    source.close()
    return found


# --- the synthetic video ---


def test_synthetic_video_is_deterministic_and_numbered() -> None:
    a, b = SyntheticSource("synthetic:400x128", frames=4), SyntheticSource("synthetic:400x128", frames=4)
    first, again = played(a), played(b)
    assert [frame_number_of(p.pixels) for p in first] == [0, 1, 2, 3]
    assert all(np.array_equal(x.pixels, y.pixels) for x, y in zip(first, again, strict=True))
    assert first[1].source_ns == int(1e9 / 30)
    assert not np.array_equal(first[0].pixels[20:], first[1].pixels[20:])
    assert len(played(a)) == 4  # and once more


def test_synthetic_labels_match_pixels() -> None:
    video = SyntheticSource("synthetic:400x240")
    pixels, label = video.frame(7), video.label(7)
    assert set(np.unique(label)) == {0, 1, 2} and label.shape == pixels.shape[:2]
    pixels, label = pixels[10:].astype(int), label[10:]
    assert (pixels[label == 2] == (176, 178, 186)).all()
    assert pixels[label == 1].mean() < 0.7 * pixels[label == 0].mean()


# --- files ---


def test_image_folder_is_sorted_by_number_and_reports_corrupt_files(tmp_path: Path) -> None:
    for k in (1, 2, 10):
        Image.fromarray(np.full((20, 20), 10 * k, np.uint8)).save(tmp_path / f"f{k}.png")
    (tmp_path / "f3.png").write_bytes(b"no picture")
    source = open_source(str(tmp_path), hz=5)
    source.open()
    assert source.hz == 5 and not source.live
    levels: list[int | str] = []
    while True:
        try:
            shown = source.read()
        except CorruptFrameError as error:
            levels.append("f3" if "f3.png" in str(error) else str(error))
            continue
        if shown is None:
            break
        levels.append(int(shown.pixels[0, 0]))
    assert levels == [10, 20, "f3", 100]


@pytest.fixture
def film(tmp_path: Path) -> Path:
    av = pytest.importorskip("av")
    path = tmp_path / "film.mp4"
    with av.open(str(path), "w") as container:
        stream = container.add_stream("mpeg4", rate=20)
        stream.width, stream.height, stream.pix_fmt = 96, 64, "yuv420p"
        for k in range(12):
            container.mux(stream.encode(av.VideoFrame.from_ndarray(np.full((64, 96, 3), 20 * k, np.uint8))))
        container.mux(stream.encode(None))
    return path


def test_image_folder_uses_bit_depth_of_training(tmp_path: Path) -> None:
    from edgemt.io.bit_depth import Depth

    deep = np.arange(64, dtype=np.uint16).reshape(8, 8) * 100
    Image.fromarray(deep).save(tmp_path / "a.png")
    (tmp_path / "._b.png").write_bytes(b"x")
    (picture,) = played(open_source(str(tmp_path), depth=Depth("window", (0, 25500))))
    assert np.array_equal(picture.pixels, deep // 100)


def test_video_plays_all_frames_at_its_rate(film: Path) -> None:
    source = open_source(str(film))
    frames = played(source)
    assert source.hz == 20 and not source.live
    assert [abs(int(p.pixels.mean()) - 20 * k) < 6 for k, p in enumerate(frames)] == [True] * 12
    assert frames[3].source_ns == 150_000_000
    fast = open_source(str(film), hz=100)
    fast.open()
    assert fast.hz == 100
    fastest = open_source(str(film), hz=0)
    fastest.open()
    assert fastest.hz == 0  # as they come, not at the film's own rate


def test_damaged_video_plays_its_valid_frames(film: Path) -> None:
    data = bytearray(film.read_bytes())
    start = data.find(b"mdat")
    for at in range(start + 200, start + 400):
        data[at] ^= 0x5A
    film.write_bytes(bytes(data))
    source = open_source(str(film))
    source.open()
    good = 0
    for _ in range(40):
        try:
            if (shown := source.read()) is None:
                break
            to_frame_pixels(shown.pixels)
            good += 1
        except (CorruptFrameError, SourceLostError):
            continue
    assert 0 < good <= 12


@pytest.mark.parametrize(
    ("name", "content", "said"),
    [
        ("notes.mp4", b"these are only words", "cannot be played"),
        ("notes.dcm", b"these are only words", "cannot be read as DICOM"),
        ("notes.txt", b"words", "this type of file cannot be played"),
    ],
)
def test_unreadable_file_is_one_line_error(tmp_path: Path, name: str, content: bytes, said: str) -> None:
    pytest.importorskip("av")
    pytest.importorskip("pydicom")
    (tmp_path / name).write_bytes(content)
    with pytest.raises(ValueError, match=said) as error:
        open_source(str(tmp_path / name)).open()
    assert name in str(error.value) and "\n" not in str(error.value)


def _cine(path: Path, frames: np.ndarray, **fields: Any) -> Path:
    pydicom = pytest.importorskip("pydicom")
    from pydicom.dataset import FileDataset, FileMetaDataset

    meta = FileMetaDataset()
    meta.TransferSyntaxUID = pydicom.uid.ExplicitVRLittleEndian
    meta.MediaStorageSOPClassUID = "1.2.840.10008.5.1.4.1.1.3.1"
    meta.MediaStorageSOPInstanceUID = pydicom.uid.generate_uid()
    data = FileDataset(str(path), {}, file_meta=meta, preamble=b"\0" * 128)
    bits = 8 * frames.dtype.itemsize
    colour = frames.ndim == 4
    data.update({}) if not fields else None
    data.PatientName, data.NumberOfFrames = "Somebody^Secret", len(frames)
    data.Rows, data.Columns = frames.shape[1:3]
    data.SamplesPerPixel, data.PhotometricInterpretation = (3, "RGB") if colour else (1, "MONOCHROME2")
    if colour:
        data.PlanarConfiguration = 0
    data.BitsAllocated = data.BitsStored = bits
    data.HighBit, data.PixelRepresentation = bits - 1, 0
    for name, value in fields.items():
        setattr(data, name, value)
    data.PixelData = frames.tobytes()
    data.save_as(path, enforce_file_format=True)
    return path


def test_colour_cine_plays_at_its_rate(tmp_path: Path) -> None:
    frames = np.stack([picture(k) for k in range(5)])
    source = open_source(str(_cine(tmp_path / "a.dcm", frames, FrameTime="40")))
    shown = played(source)
    assert source.hz == 25 and all(np.array_equal(p.pixels, f) for p, f in zip(shown, frames, strict=True))
    assert [p.source_ns for p in shown[:3]] == [0, 40_000_000, 80_000_000]


def test_deep_grey_cine_uses_one_window(tmp_path: Path) -> None:
    frames = np.stack([np.arange(400, dtype=np.uint16).reshape(20, 20) * (k + 1) for k in range(3)])
    windowed = played(open_source(str(_cine(tmp_path / "w.dcm", frames, WindowCenter="200", WindowWidth="400"))))
    assert windowed[0].pixels[-1, -1] >= 253 and windowed[1].pixels[10, 0] == 255
    first, second, _ = played(open_source(str(_cine(tmp_path / "n.dcm", frames))))
    assert int(second.pixels[5, 0]) - 2 * int(first.pixels[5, 0]) in (-1, 0, 1, 2)


def test_monochrome1_cine_is_inverted(tmp_path: Path) -> None:
    frames = np.full((2, 20, 20), 30, np.uint8)
    (first, _) = played(open_source(str(_cine(tmp_path / "i.dcm", frames, PhotometricInterpretation="MONOCHROME1"))))
    assert (first.pixels == 225).all()


# --- cameras ---


class _Cv2:
    """As much of OpenCV as a camera needs; it gives two frames each time it is plugged in."""

    CAP_V4L2 = CAP_ANY = CAP_PROP_BUFFERSIZE = CAP_PROP_FOURCC = CAP_PROP_FRAME_WIDTH = CAP_PROP_FRAME_HEIGHT = 1
    CAP_PROP_POS_MSEC = COLOR_BGR2RGB = 0

    def __init__(self) -> None:
        self.plugged, self.left, self.released = True, 2, 0
        outer = self

        class VideoCapture:
            def __init__(self, at: Any, api: int) -> None:
                outer.left = 2

            def isOpened(self) -> bool:  # noqa: N802
                return outer.plugged

            def set(self, key: int, value: float) -> None: ...

            def get(self, key: int) -> float:
                return 5.0

            def grab(self) -> bool:
                outer.left -= 1
                return outer.left >= 0

            def retrieve(self) -> tuple[bool, np.ndarray | None]:
                return True, picture(1)[..., ::-1]

            def release(self) -> None:
                outer.released += 1

        self.VideoCapture = VideoCapture

    @staticmethod
    def cvtColor(frame: np.ndarray, code: int) -> np.ndarray:  # noqa: N802
        return frame[..., ::-1]


def test_camera_gives_rgb_and_reports_lost_when_unplugged(monkeypatch: pytest.MonkeyPatch) -> None:
    cv2 = _Cv2()
    monkeypatch.setattr(source_camera, "import_library", lambda *args, **kw: cv2)
    camera = CameraSource("camera:0", clock=itertools.count(step=10_000_000).__next__)  # every frame is waited for
    assert camera.live
    camera.open()
    shown = camera.read()
    assert shown is not None and np.array_equal(shown.pixels, picture(1)) and shown.source_ns == 5_000_000
    camera.read()
    cv2.plugged = False
    with pytest.raises(SourceLostError, match="no frame"):
        camera.read()
    camera.close()
    with pytest.raises(ValueError, match="no camera there"):
        camera.open()
    cv2.plugged = True
    camera.open()
    assert camera.read() is not None and cv2.released == 1


class _Driver(_Cv2):
    """A camera at 100 Hz whose driver keeps the first four frames that nobody took, on a clock of its own."""

    def __init__(self) -> None:
        super().__init__()
        self.now_ns, self.kept, self.next_ns = 0, deque[int](), 0
        outer = self

        class VideoCapture(self.VideoCapture):  # type: ignore[name-defined,misc]
            def grab(self) -> bool:
                outer.pass_to(outer.now_ns)
                if not outer.kept:
                    outer.pass_to(outer.next_ns)
                self.born_ns = outer.kept.popleft()
                return True

            def retrieve(self) -> tuple[bool, np.ndarray | None]:
                return True, np.full((20, 20, 3), self.born_ns // 10_000_000 % 256, np.uint8)

            def get(self, key: int) -> float:
                return 0.0  # many drivers give no times

        self.VideoCapture = VideoCapture

    def pass_to(self, ns: int) -> None:
        self.now_ns = max(self.now_ns, ns)
        while self.next_ns <= self.now_ns:
            if len(self.kept) < 4:
                self.kept.append(self.next_ns)
            self.next_ns += 10_000_000


@pytest.mark.parametrize("stall_ms", [0, 3, 12, 35, 400, 5000])
def test_camera_discards_buffered_frames(stall_ms: int, monkeypatch: pytest.MonkeyPatch) -> None:
    driver = _Driver()
    monkeypatch.setattr(source_camera, "import_library", lambda *args, **kw: driver)
    camera = CameraSource("camera:0", clock=lambda: driver.now_ns)
    camera.open()
    driver.now_ns = 5_000_000_000  # opening takes its time, and the driver is at work already
    for _ in range(6):
        shown = camera.read()
        assert shown is not None
        assert driver.now_ns - camera._camera.born_ns <= 20_000_000
        driver.now_ns += stall_ms * 1_000_000


def test_camera_gives_every_frame_to_fast_reader(monkeypatch: pytest.MonkeyPatch) -> None:
    driver = _Driver()
    monkeypatch.setattr(source_camera, "import_library", lambda *args, **kw: driver)
    camera = CameraSource("camera:0", clock=lambda: driver.now_ns)
    camera.open()
    numbers = []
    for _ in range(20):
        shown = camera.read()
        assert shown is not None
        numbers.append(int(shown.pixels[0, 0, 0]))
        driver.now_ns += 4_000_000
    assert np.diff(numbers).tolist() == [1] * 19


@pytest.mark.parametrize(
    ("text", "at", "size"),
    [
        ("camera", 0, None),
        ("camera:2", 2, None),
        ("/dev/video1", "/dev/video1", None),
        ("camera:0:1920x1080", 0, (1920, 1080)),
    ],
)
def test_camera_name_is_parsed(text: str, at: Any, size: Any) -> None:
    camera = CameraSource(text)
    assert (camera._at, camera._size) == (at, size)


def test_missing_camera_and_rtsp_are_one_line_errors(
    capfd: pytest.CaptureFixture[str],
) -> None:
    pytest.importorskip("cv2")
    pytest.importorskip("av")
    with pytest.raises(ValueError, match="no camera there"):
        open_source("camera:91").open()
    assert not capfd.readouterr().err  # OpenCV's own lines are not for users
    with pytest.raises(ValueError, match="rtsp://127.0.0.1:9/x: cannot be played.*check its address"):
        open_source("rtsp://127.0.0.1:9/x").open()
    with pytest.raises(ValueError, match="write camera:0"):
        open_source("camera:left")


def test_missing_library_is_named_with_install_command(monkeypatch: pytest.MonkeyPatch) -> None:
    def missing(name: str) -> Any:
        raise ImportError(name)

    monkeypatch.setattr(base, "import_module", missing)
    with pytest.raises(ValueError, match="film.mp4: needs av; pip install av"):
        base.import_library("av", pip="av", source="film.mp4")


# --- Python, and what may be a picture ---


def test_iterable_source_accepts_time_stamps() -> None:
    given = [picture(0), (picture(1), 77)]
    assert [p.source_ns for p in played(IterableSource(given))] == [None, 77]


@pytest.mark.parametrize(
    ("array", "why"),
    [
        (None, "NoneType"),
        (np.zeros((64, 64, 3), np.float32), "float32"),
        (np.zeros((64, 64, 2), np.uint8), "shape"),
        (np.zeros((3, 64, 64, 3), np.uint8), "shape"),
        (np.zeros((8, 64, 3), np.uint8), "64 x 8 pixels"),
    ],
)
def test_invalid_array_is_corrupt_frame(array: Any, why: str) -> None:
    with pytest.raises(CorruptFrameError, match=why):
        to_frame_pixels(array)


def test_frame_pixels_become_grey_or_rgb() -> None:
    assert to_frame_pixels(np.zeros((20, 20, 1), np.uint8)).shape == (20, 20)
    assert to_frame_pixels(np.zeros((20, 20, 4), np.uint8)).shape == (20, 20, 3)
    assert to_frame_pixels(picture(0)[:, ::-1]).flags.c_contiguous


def test_freeze_detector_reports_after_limit() -> None:
    freeze, still, ms = FreezeDetector(100), picture(0), 1_000_000
    assert [freeze.check(still, t * ms) is None for t in (0, 50, 99, 100, 150)] == [True, True, True, False, False]
    assert freeze.check(picture(1), 160 * ms) is None and freeze.check(still, 170 * ms) is None
    assert all(FreezeDetector(0).check(still, t * ms) is None for t in (0, 10**6))


def test_uniform_frame_is_no_signal() -> None:
    for level in (0, 128, 255):
        assert FreezeDetector(100).check(np.full((60, 80, 3), level, np.uint8), 0) is not None
    blue = np.zeros((60, 80, 3), np.uint8)
    blue[..., 2] = 200
    assert FreezeDetector(100).check(blue, 0) is not None


def test_sources_have_description_and_factory() -> None:
    assert all(kind.description and ":" in kind.factory for kind in SOURCES.values())


def _film(
    path: Path, *, sar: Any = None, turn: tuple[int, bool, bool] | None = None, cover: bool = False
) -> np.ndarray:
    """Three frames with a bright corner; returns one of them as it is stored."""
    av = pytest.importorskip("av")
    stored = np.full((48, 64, 3), 30, np.uint8)
    stored[:12, :16] = 220
    with av.open(str(path), "w") as container:
        if cover:
            art = container.add_stream("mjpeg", rate=1)
            art.width, art.height, art.pix_fmt = 32, 32, "yuvj420p"
            art.disposition = av.stream.Disposition.attached_pic
            art_frame = av.VideoFrame.from_ndarray(np.full((32, 32, 3), 200, np.uint8), format="rgb24")
        stream = container.add_stream("libx264", rate=25, options={"crf": "5"})
        stream.width, stream.height, stream.pix_fmt = 64, 48, "yuv420p"
        if sar is not None:
            stream.codec_context.sample_aspect_ratio = sar
        if turn is not None:
            stream.set_display_rotation(turn[0], hflip=turn[1], vflip=turn[2])
        if cover:
            container.mux([*art.encode(art_frame), *art.encode()])
        for _ in range(3):
            container.mux(stream.encode(av.VideoFrame.from_ndarray(stored, format="rgb24")))
        container.mux(stream.encode())
    return stored


def _first(path: Path) -> np.ndarray:
    source = open_source(str(path))
    source.open()
    picture = source.read()
    source.close()
    assert picture is not None
    return picture.pixels


@pytest.mark.parametrize("degrees", [0, 90, 180, 270])
@pytest.mark.parametrize(("across", "down"), [(False, False), (True, False), (False, True)])
def test_video_is_rotated_by_display_matrix(degrees: int, across: bool, down: bool, tmp_path: Path) -> None:
    stored = _film(tmp_path / "film.mp4", turn=(degrees, across, down))
    wanted = np.rot90(stored, degrees // 90)
    wanted = wanted[:: -1 if down else 1, :: -1 if across else 1]
    got = _first(tmp_path / "film.mp4")
    assert got.shape == wanted.shape and np.abs(got.astype(int) - wanted).mean() < 4


def test_video_with_other_rotation_is_rejected(tmp_path: Path) -> None:
    _film(tmp_path / "film.mp4", turn=(30, False, False))
    with pytest.raises(ValueError, match=r"film\.mp4: its display matrix rotates by -?30\.0 degrees"):
        _first(tmp_path / "film.mp4")


@pytest.mark.parametrize(
    ("sar", "size"), [((2, 1), (48, 128)), ((1, 2), (96, 64)), ((1, 1), (48, 64)), ((0, 1), (48, 64))]
)
def test_video_is_resampled_to_square_pixels(sar: tuple[int, int], size: tuple[int, int], tmp_path: Path) -> None:
    from fractions import Fraction

    _film(tmp_path / "film.mp4", sar=Fraction(*sar))
    got = _first(tmp_path / "film.mp4")
    assert got.shape[:2] == size
    bright = got[..., 0] > 125
    assert bright[: size[0] // 4 - 2, : size[1] // 4 - 2].all() and bright.mean() == pytest.approx(1 / 16, abs=0.01)


def test_video_ignores_cover_art(tmp_path: Path) -> None:
    _film(tmp_path / "film.mp4", cover=True)
    assert _first(tmp_path / "film.mp4").shape == (48, 64, 3)


@pytest.mark.parametrize("name", ["film.recorder", "film", "film.MXF", "film.3gp"])
def test_video_is_recognised_by_content(name: str, tmp_path: Path) -> None:
    _film(tmp_path / "film.mkv")
    (tmp_path / "film.mkv").rename(tmp_path / name)
    assert _first(tmp_path / name).shape == (48, 64, 3)
    (tmp_path / "notes.txt").write_text("only text " * 100)
    with pytest.raises(ValueError, match="this type of file cannot be played"):
        open_source(str(tmp_path / "notes.txt"))


def test_freeze_detector_checks_all_rows_when_suspicious() -> None:
    from deploy.stream.sources.frame_checks import FreezeDetector

    freeze, still = FreezeDetector(100), np.random.default_rng(0).integers(40, 200, (96, 128, 3), dtype=np.uint8)
    for k in range(20):
        moving = still.copy()
        moving[33:40, k : k + 9] = 255  # rows 32 and 48 are looked at
        assert freeze.check(moving, k * 40_000_000) is None
    assert freeze.check(moving, 21 * 40_000_000) is None and freeze.check(moving, 25 * 40_000_000) is not None
    dark = np.zeros((96, 128), np.uint8)
    assert FreezeDetector(0).check(dark, 0) is not None
    dark[33:47, 33:47] = 200
    assert FreezeDetector(0).check(dark, 0) is None
