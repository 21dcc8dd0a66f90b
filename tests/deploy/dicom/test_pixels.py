"""DICOM pixels against closed forms, against GDCM (SimpleITK), and the same for `predict` and `stream`."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest

pydicom = pytest.importorskip("pydicom")
pytest.importorskip("highdicom")

from dicom_samples import SIZE, colour, dataset, filled, grey, half, jpeg, palette, rgb, save, smooth, ybr  # noqa: E402
from hypothesis import given, settings  # noqa: E402
from hypothesis import strategies as st  # noqa: E402
from pydicom import uid  # noqa: E402
from pydicom.encaps import encapsulate  # noqa: E402
from pydicom.sequence import Sequence  # noqa: E402

from deploy.dicom.header import read_header  # noqa: E402
from deploy.dicom.images import series_of  # noqa: E402
from deploy.dicom.pixels import DicomFile  # noqa: E402
from deploy.dicom.windows import Window  # noqa: E402
from deploy.pacs.receiver import RefusedError, parse  # noqa: E402
from deploy.stream.sources import open_source  # noqa: E402
from edgemt.convert.dicom_series import read_head  # noqa: E402
from edgemt.io import decode_limits  # noqa: E402
from edgemt.io.bit_depth import Depth  # noqa: E402
from edgemt.io.images import to_uint8  # noqa: E402

PICTURES = smooth()
GREY = PICTURES[..., 0]
DEEP = (GREY.astype(np.int64) * 16 + 7) % 4096  # twelve bits
pytestmark = pytest.mark.filterwarnings("ignore")


def both(path: Path) -> np.ndarray:
    """All frames, which `predict` and `stream` read alike."""
    (series,) = series_of([path])
    predicted = series.frames(series.files[0])
    source = open_source(str(path))
    source.open()
    streamed = []
    while (picture := source.read()) is not None:
        streamed.append(picture.pixels)
    source.close()
    assert np.array_equal(predicted, np.stack(streamed))
    return predicted


def near(got: np.ndarray, want: np.ndarray, *, by: float) -> None:
    assert got.shape == want.shape and got.dtype == np.uint8
    assert np.abs(got.astype(int) - want.astype(int)).max() <= by


KINDS: dict[str, tuple[Callable[[], Any], np.ndarray, float]] = {
    "grey 8": (lambda: grey(GREY), GREY, 0),
    "grey 8, the smallest is white": (lambda: grey(GREY, kind="MONOCHROME1"), 255 - GREY, 0),
    "grey 8 in 16": (lambda: grey(GREY, allocated=16), GREY, 0),
    "grey 8, window of all values": (lambda: grey(GREY, WindowCenter=128, WindowWidth=256), GREY, 0),
    "RGB": (lambda: colour(PICTURES), PICTURES, 0),
    "RGB by planes": (lambda: colour(PICTURES, planar=1), PICTURES, 0),
    "YBR_FULL": (lambda: colour(PICTURES, kind="YBR_FULL"), rgb(ybr(PICTURES)), 2),
    "YBR_FULL by planes": (lambda: colour(PICTURES, kind="YBR_FULL", planar=1), rgb(ybr(PICTURES)), 2),
    "YBR_FULL_422": (lambda: colour(PICTURES, kind="YBR_FULL_422"), PICTURES, 20),
    "implicit": (lambda: colour(PICTURES, syntax=uid.ImplicitVRLittleEndian), PICTURES, 0),
    "deflated": (lambda: colour(PICTURES, syntax=uid.DeflatedExplicitVRLittleEndian), PICTURES, 0),
    "JPEG grey": (lambda: jpeg(GREY, quality=95), GREY, 4),
    "JPEG colour": (lambda: jpeg(PICTURES, quality=95), PICTURES, 16),
    "JPEG 2000 grey": (lambda: jpeg(GREY, format="JPEG2000", syntax=uid.JPEG2000Lossless, no_jp2=True), GREY, 0),
    "JPEG 2000 colour": (
        lambda: jpeg(PICTURES, format="JPEG2000", syntax=uid.JPEG2000Lossless, no_jp2=True, mct=1), PICTURES, 0,
    ),
}  # fmt: skip


@pytest.mark.parametrize("kind", KINDS)
def test_a_file_gives_the_picture_it_stands_for(kind: str, tmp_path: Path) -> None:
    make, wanted, tolerance = KINDS[kind]
    near(both(save(make(), tmp_path / "a.dcm")), wanted, by=tolerance)


def test_a_small_deflated_file_that_would_fill_the_memory_is_refused_before_it_is_unpacked(
    tmp_path: Path, monkeypatch
) -> None:
    black = np.zeros((1, 2000, 2000), np.uint8)
    path = save(grey(black, syntax=uid.DeflatedExplicitVRLittleEndian), tmp_path / "a.dcm")
    assert path.stat().st_size < 20_000
    assert read_header(path).Rows == 2000
    monkeypatch.setattr(decode_limits, "BYTES", 5_000_000)
    monkeypatch.setattr(pydicom, "dcmread", lambda *_, **__: pytest.fail("the file was unpacked"))
    for read in (read_header, read_head):
        with pytest.raises(ValueError, match=r"a\.dcm: decodes to \d+ values.*cut it into parts"):
            read(path)
    with pytest.raises(RefusedError, match="unpacks to more than the memory holds"):
        parse(path.read_bytes())


@pytest.mark.parametrize("syntax", [uid.RLELossless, uid.JPEGLSLossless])
@pytest.mark.parametrize("pictures", [GREY, PICTURES], ids=["grey", "colour"])
def test_what_pydicom_compressed_without_loss_comes_back(syntax: str, pictures: np.ndarray, tmp_path: Path) -> None:
    if syntax == uid.JPEGLSLossless:
        pytest.importorskip("jpeg_ls")
    image = grey(pictures) if pictures.ndim == 3 else colour(pictures)
    image.compress(syntax, generate_instance_uid=False)
    assert np.array_equal(both(save(image, tmp_path / "a.dcm")), pictures)


@pytest.mark.parametrize(
    "kind", ["RGB", "YBR_FULL", "YBR_FULL_422", "PALETTE COLOR", "JPEG", "JPEG 2000", "big endian"]
)
def test_gdcm_gives_the_same_picture(kind: str, tmp_path: Path) -> None:
    sitk = pytest.importorskip("SimpleITK")
    table = np.stack([np.arange(256), 255 - np.arange(256), np.arange(256) // 2], -1)
    make: dict[str, Callable[[], Any]] = {
        "PALETTE COLOR": lambda: palette(GREY[:1], table),
        "JPEG": lambda: jpeg(PICTURES[:1], quality=90),
        "JPEG 2000": lambda: jpeg(PICTURES[:1], format="JPEG2000", syntax=uid.JPEG2000Lossless, no_jp2=True, mct=1),
        "big endian": lambda: grey(
            DEEP[:1], stored=12, syntax=uid.ExplicitVRBigEndian, RescaleSlope=2, RescaleIntercept=-9
        ),
    }  # fmt: skip
    path = save(make.get(kind, lambda: colour(PICTURES[:1], kind=kind))(), tmp_path / "a.dcm")
    theirs = sitk.GetArrayFromImage(sitk.ReadImage(str(path)))
    if kind == "big endian":
        assert np.array_equal(DicomFile(path).values(0), theirs[0])
    elif kind == "YBR_FULL_422":  # GDCM averages nothing either; its conversion is in whole numbers
        near(both(path)[0], theirs[0], by=3)
    else:
        near(both(path)[0], theirs[0], by=2)


def test_uncompressed_422_is_what_was_stored_in_every_frame(tmp_path: Path) -> None:
    stored = half(ybr(PICTURES))
    wide = np.empty((*PICTURES.shape[:3], 3), np.uint8)
    wide[..., 0] = stored[..., :2].reshape(PICTURES.shape[:3])
    wide[..., 1:] = np.repeat(stored[..., 2:], 2, axis=2)
    near(both(save(colour(PICTURES, kind="YBR_FULL_422"), tmp_path / "a.dcm")), rgb(wide), by=2)


@pytest.mark.parametrize("bits", [8, 16])
def test_palette_indices_become_their_colours(bits: int, tmp_path: Path) -> None:
    draw = np.random.default_rng(0)
    table = draw.integers(0, 256, (256, 3))
    path = save(palette(GREY, table * (257 if bits == 16 else 1), bits=bits), tmp_path / "a.dcm")
    assert np.array_equal(both(path), table[GREY].astype(np.uint8))


@settings(max_examples=40, deadline=None)
@given(
    stored=st.sampled_from([8, 10, 12, 16]), signed=st.booleans(), inverted=st.booleans(),
    slope=st.sampled_from([1.0, 2.0, 0.5]), zero=st.sampled_from([0.0, -1024.0]),
    centre=st.integers(-200, 2000), width=st.integers(2, 4000),
    function=st.sampled_from(["LINEAR", "LINEAR_EXACT", "SIGMOID", None]),
)  # fmt: skip
def test_a_window_is_applied_once_by_the_formula_of_the_standard(
    tmp_path_factory: pytest.TempPathFactory, stored: int, signed: bool, inverted: bool, slope: float, zero: float,
    centre: int, width: int, function: str | None,
) -> None:  # fmt: skip
    low, high = (-(1 << stored - 1), (1 << stored - 1) - 1) if signed else (0, (1 << stored) - 1)
    values = np.random.default_rng(stored).integers(low, high + 1, (2, *SIZE))
    more = {"RescaleSlope": slope, "RescaleIntercept": zero, "WindowCenter": centre, "WindowWidth": width}
    more |= {"VOILUTFunction": function} if function else {}
    image = grey(values, stored=stored, signed=signed, kind="MONOCHROME1" if inverted else "MONOCHROME2", **more)
    got = both(save(image, tmp_path_factory.mktemp("w") / "a.dcm"))
    from pydicom.pixels import apply_windowing  # the independent reader, in floating point

    seen = apply_windowing(values * slope + zero, image)
    limits = apply_windowing(np.array([-1e9, 1e9]), image)
    wanted = np.rint((seen - limits[0]) / (limits[1] - limits[0]) * 255)
    near(got, (255 - wanted if inverted else wanted).astype(np.uint8), by=1)


def test_a_narrow_window_of_eight_bits_counts_for_both(tmp_path: Path) -> None:
    wide = both(save(grey(GREY), tmp_path / "a.dcm"))
    narrow = both(save(grey(GREY, WindowCenter=100, WindowWidth=51), tmp_path / "b.dcm"))
    assert np.array_equal(narrow, np.clip(np.rint((wide - 74.5) * 255 / 50), 0, 255).astype(np.uint8))


def test_without_a_window_deep_values_are_spread_over_all_frames_together(tmp_path: Path) -> None:
    values = DEEP.copy()
    values[1] //= 4
    got = both(save(grey(values, stored=12), tmp_path / "a.dcm"))
    assert np.array_equal(got, to_uint8(values.astype(np.uint16)))


def test_a_voi_lut_is_read_through(tmp_path: Path) -> None:
    image = grey(DEEP, stored=12)
    table = (np.sqrt(np.arange(4096) / 4095) * 65535).astype("<u2")
    lut = pydicom.Dataset()
    lut.add_new("LUTDescriptor", "US", [4096, 0, 16])
    lut.add_new("LUTData", "OW", table.tobytes())
    image.VOILUTSequence = Sequence([lut])
    near(both(save(image, tmp_path / "a.dcm")), np.rint(table[DEEP] / 65535 * 255).astype(np.uint8), by=1)


def enhanced(windows: list[tuple[int, int]]) -> Any:
    """A volume in one file, whose frames have rescale and window of their own."""
    image, groups = grey(DEEP, stored=12, sop=uid.EnhancedMRImageStorage), []
    for k, (centre, width) in enumerate(windows):
        voi, value, group = pydicom.Dataset(), pydicom.Dataset(), pydicom.Dataset()
        voi.WindowCenter, voi.WindowWidth = centre, width
        value.RescaleSlope, value.RescaleIntercept, value.RescaleType = k + 1, 0, "US"
        group.FrameVOILUTSequence, group.PixelValueTransformationSequence = Sequence([voi]), Sequence([value])
        groups.append(group)
    image.PerFrameFunctionalGroupsSequence = Sequence(groups)
    return image


def test_functional_groups_rescale_frame_by_frame_and_are_seen_through_one_window(tmp_path: Path) -> None:
    values = DEEP * np.arange(1.0, 4.0)[:, None, None]
    same = both(save(enhanced([(3000, 5000)] * 3), tmp_path / "a.dcm"))
    assert np.array_equal(same, Window(3000, 5000).apply(values))
    differing = both(save(enhanced([(1000, 500), (2000, 500), (3000, 500)]), tmp_path / "b.dcm"))
    assert np.array_equal(differing, to_uint8(values))


def series(folder: Path, windows: list[tuple[int, int] | None]) -> list[np.ndarray]:
    folder.mkdir()
    same = {"SeriesInstanceUID": uid.generate_uid(), "FrameOfReferenceUID": uid.generate_uid()}
    volume = [(DEEP[0] // (k + 1)).astype(np.uint16) for k in range(len(windows))]
    for k, window in enumerate(windows):
        image = grey(volume[k][None], stored=12, sop=uid.MRImageStorage, InstanceNumber=k, **same)
        del image.NumberOfFrames
        if window is not None:
            image.WindowCenter, image.WindowWidth = window
        save(image, folder / f"{k}.dcm")
    return volume


@pytest.mark.parametrize("windows", [[None] * 3, [(300, 600), (200, 300), (100, 200)]], ids=["none", "differing"])
def test_a_series_is_seen_as_one_volume_as_in_training(windows: list[Any], tmp_path: Path) -> None:
    volume = series(tmp_path / "s", windows)
    (found,) = series_of([tmp_path / "s"])
    got = np.concatenate([found.frames(file) for file in found.files])
    assert np.array_equal(got, to_uint8(np.stack(volume)))
    assert "3 slices as one volume" in str(found.about())


def test_the_rule_of_training_comes_before_the_tags_of_a_file(tmp_path: Path) -> None:
    volume = np.stack(series(tmp_path / "s", [(1000, 800)] * 3))
    for depth, wanted in [
        (Depth("percentiles"), to_uint8(volume)),
        (Depth("window", (100.0, 2000.0)), to_uint8(volume, window=(100.0, 2000.0))),
        (Depth("stored"), Window(1000, 800).apply(volume)),
    ]:
        (found,) = series_of([tmp_path / "s"], depth=depth)
        assert np.array_equal(np.concatenate([found.frames(file) for file in found.files]), wanted)
    path = save(grey(DEEP, stored=12, WindowCenter=1000, WindowWidth=800), tmp_path / "cine.dcm")
    source = open_source(str(path), depth=Depth("percentiles"))
    source.open()
    picture = source.read()
    assert picture is not None and np.array_equal(picture.pixels, to_uint8(DEEP.astype(np.uint16))[0])


def test_a_series_with_one_window_is_seen_through_it(tmp_path: Path) -> None:
    volume = series(tmp_path / "s", [(1000, 800)] * 3)
    (found,) = series_of([tmp_path / "s"])
    got = np.concatenate([found.frames(file) for file in found.files])
    assert np.array_equal(got, Window(1000, 800).apply(np.stack(volume)))


def _text(name: str, value: str) -> Callable[[Any], None]:
    return lambda image: setattr(image, name, value)


REFUSED: dict[str, tuple[Callable[[], Any], str]] = {
    "YBR_PARTIAL_420": (lambda: filled(dataset(), bytes(2304), (1, *SIZE), 8, 8, "YBR_PARTIAL_420", SamplesPerPixel=3),
                        "YBR_PARTIAL_420 is not read"),
    "CMYK": (lambda: filled(dataset(), bytes(3072), (1, *SIZE), 8, 8, "CMYK", SamplesPerPixel=4), "CMYK is not read"),
    "colour with 16 bits": (lambda: filled(dataset(), bytes(4608), (1, *SIZE), 16, 16, "RGB", SamplesPerPixel=3,
                                           PlanarConfiguration=0), "colour with 16 bits"),
    "one bit": (lambda: filled(dataset(), bytes(96), (1, *SIZE), 1, 1, "MONOCHROME2"), "1 of 1 bits"),
    "values high in their bytes": (lambda: filled(dataset(), bytes(1536), (1, *SIZE), 12, 16, "MONOCHROME2",
                                                  HighBit=15), "12 of 16 bits"),
    "a supplemental palette": (lambda: grey(GREY[:1], PixelPresentation="COLOR"), "supplemental colour palette"),
    "an unknown syntax": (lambda: filled(dataset(syntax="1.2.840.10008.1.2.4.94"), encapsulate([bytes(8)]),
                                         (1, *SIZE), 8, 8, "MONOCHROME2"), "not read|be read|needs a decoder"),
    "cut short": (lambda: filled(dataset(), GREY[0].tobytes(), (3, *SIZE), 8, 8, "MONOCHROME2"), "frame 2 of 3"),
    "a report": (lambda: dataset(uid.BasicTextSRStorage), "holds no picture"),
}  # fmt: skip


@pytest.mark.parametrize("what", REFUSED)
def test_what_is_not_read_is_refused_in_one_line(what: str, tmp_path: Path) -> None:
    make, words = REFUSED[what]
    path = tmp_path / "a.dcm"
    make().save_as(path, enforce_file_format=True)
    with pytest.raises(ValueError, match=words) as refused:
        file = DicomFile(path)
        [file.view(k, file.shared_window()) for k in range(file.count)]
    assert str(refused.value).startswith(str(path)) and "\n" not in str(refused.value)


def test_the_video_inside_a_dicom_file_is_played(tmp_path: Path) -> None:
    av = pytest.importorskip("av")
    film = tmp_path / "film.mp4"
    pictures = smooth(6, size=(48, 64))
    with av.open(str(film), "w") as container:
        stream = container.add_stream("libx264", rate=25, options={"crf": "1"})
        stream.width, stream.height, stream.pix_fmt = 64, 48, "yuv420p"
        for picture in pictures:
            container.mux(stream.encode(av.VideoFrame.from_ndarray(picture, format="rgb24")))
        container.mux(stream.encode())
    image = filled(dataset(uid.VideoEndoscopicImageStorage, uid.MPEG4HP41), encapsulate([film.read_bytes()]),
                   (6, 48, 64), 8, 8, "YBR_PARTIAL_420", SamplesPerPixel=3, PlanarConfiguration=0)  # fmt: skip
    source = open_source(str(save(image, tmp_path / "a.dcm")))
    source.open()
    shown = []
    while (picture := source.read()) is not None:
        shown.append(picture.pixels)
    assert len(shown) == 6 and np.abs(np.stack(shown).astype(int) - pictures).mean() < 4
    with pytest.raises(ValueError, match=r"holds a video .*\.mp4"):
        series_of([tmp_path / "a.dcm"])
