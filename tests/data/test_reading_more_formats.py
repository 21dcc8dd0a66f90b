"""Files beside the cases of test_reading.py: deep colour masks, JPEG colours, slice folders, TIFF orientation."""

from __future__ import annotations

import shutil
import struct
import zlib
from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest
from mask_samples import (
    ALPHA,
    BIT,
    GREY,
    RAMP,
    TRUTH,
    TWO,
    colour_image,
    frame_folder,
    palette_image,
    read_masks,
    save_tiff,
)
from PIL import Image

from edgemt.contract import Case
from edgemt.data.cohort import split_dataset
from edgemt.data.options import DataOptions
from edgemt.data.reading import decide_reading
from edgemt.data.slice_masks import read_slice_masks
from edgemt.data.summary import reading_of, summary
from edgemt.io import mask_files, masks
from edgemt.io.images import image_header, read_image


def _png16(path: Path, array: np.ndarray) -> None:
    """[H, W, C] of uint16: two channels are grey and alpha, three RGB, four RGBA."""
    h, w, c = array.shape
    rows = array.astype(">u2").reshape(h, -1).view(np.uint8)
    data = b"".join(b"\0" + row.tobytes() for row in rows)
    head = struct.pack(">IIBBBBB", w, h, 16, {2: 4, 3: 2, 4: 6}[c], 0, 0, 0)
    chunks = [(b"IHDR", head), (b"IDAT", zlib.compress(data)), (b"IEND", b"")]
    body = b"".join(struct.pack(">I", len(d)) + n + d + struct.pack(">I", zlib.crc32(n + d)) for n, d in chunks)
    path.write_bytes(b"\x89PNG\r\n\x1a\n" + body)


@pytest.mark.parametrize("channels", [2, 3, 4])
@pytest.mark.parametrize("value", [1, 65535])
def test_masks_of_16_bits_a_channel_have_their_low_byte(tmp_path: Path, channels: int, value: int) -> None:
    pytest.importorskip("cv2")
    array = np.stack([TRUTH.astype(np.uint16) * value] * channels, -1)
    if channels != 3:
        array[..., -1] = 65535
    _png16(tmp_path / "m.png", array)
    file = mask_files.read_mask(tmp_path / "m.png")
    assert file.evidence.kind == "grey" and set(file.evidence.levels) == {0, value}
    assert (masks.decide([file.evidence], classes=TWO).indices(file) == TRUTH).all()


def test_a_mask_whose_smallest_value_is_white_and_one_of_signed_bytes(tmp_path: Path) -> None:
    save_tiff(tmp_path / "w.tif", np.where(TRUTH > 0, 0, 65535).astype(np.uint16), photometric=0)
    file = mask_files.read_mask(tmp_path / "w.tif")
    assert (masks.decide([file.evidence], classes=TWO).indices(file) == TRUTH).all()
    save_tiff(tmp_path / "s.tif", -TRUTH.astype(np.int8))
    with pytest.raises(ValueError, match=r"s\.tif: mask holds -1, 0"):
        masks.decide([mask_files.read_mask(tmp_path / "s.tif").evidence], classes=TWO)


DISC = (np.add.outer((np.arange(96) - 44) ** 2, (np.arange(96) - 50) ** 2) < 20**2).astype(np.uint8)


def _jpeg(path: Path, *colours: tuple[int, int, int], at: np.ndarray = DISC) -> mask_files.MaskFile:
    Image.fromarray(np.array([(0, 0, 0), *colours], np.uint8)[at]).save(path, quality=85)
    return mask_files.read_mask(path)


def test_a_threshold_within_the_noise_of_a_jpeg_is_refused(tmp_path: Path) -> None:
    for colour in ((255, 0, 0), (0, 0, 255), (255, 255, 255)):
        file = _jpeg(tmp_path / "a.jpg", colour)
        found = masks.decide([file.evidence], classes=TWO, threshold=128).indices(file)
        assert (found != DISC).mean() < 0.01
    for colour in ((128, 0, 0), (140, 60, 0), (90, 90, 90)):
        file = _jpeg(tmp_path / "b.jpg", colour)
        with pytest.raises(
            ValueError, match=r"b\.jpg: (compressed with loss, and its areas of|mask holds .* all below)"
        ):
            masks.decide([file.evidence], classes=TWO, threshold=128)
    file = _jpeg(tmp_path / "b.jpg", (128, 0, 0))
    half = masks.decide([file.evidence], classes=TWO, threshold=63).indices(file)
    assert (half != DISC).mean() < 0.02
    both = _jpeg(tmp_path / "c.jpg", (255, 0, 0), (0, 90, 0), at=DISC + 2 * np.roll(DISC, 30, 0) * (DISC == 0))
    with pytest.raises(ValueError, match=r"c\.jpg: compressed with loss, and its areas of about \d+ lie below"):
        masks.decide([both.evidence], classes=TWO, threshold=128)
    with pytest.raises(ValueError, match=r"data\.mask_threshold 1 counts its noise"):
        masks.decide([_jpeg(tmp_path / "a.jpg", (255, 255, 255)).evidence], classes=TWO, threshold=1)


@pytest.mark.parametrize("threshold", [None, 128])
def test_two_kinds_of_white_are_named(tmp_path: Path, threshold: int | None) -> None:
    with pytest.raises(ValueError, match=r"m1\.png: mask holds 65535 for white, .*m0\.png holds 255"):
        read_masks(tmp_path, GREY, Image.fromarray(TRUTH.astype(np.uint16) * 65535), threshold=threshold)


def test_an_empty_mask_among_those_drawn_in_alpha_is_empty(tmp_path: Path) -> None:
    white = [Image.new("L", (32, 24), 255)] * 3
    drawn, empty = (Image.merge("RGBA", [*white, alpha]) for alpha in (GREY, Image.new("L", (32, 24))))
    found = read_masks(tmp_path, drawn, empty)
    assert (found[0] == TRUTH).all() and not found[1].any()


def test_deep_colour_in_separate_planes_is_refused(tmp_path: Path) -> None:
    pytest.importorskip("cv2")
    planes = np.stack([RAMP * 80, RAMP * 40, RAMP * 20]).astype("<u2")
    h, w = RAMP.shape
    data, at = planes.tobytes(), 8 + planes.nbytes
    one = len(data) // 3
    tail = at + 2 + 12 * 10 + 4
    rows = [(256, 4, 1, w), (257, 4, 1, h), (258, 3, 3, tail), (259, 3, 1, 1), (262, 3, 1, 2), (273, 4, 3, tail + 6)]
    rows += [(277, 3, 1, 3), (278, 4, 1, h), (279, 4, 3, tail + 18), (284, 3, 1, 2)]
    ends = struct.pack("<3H", 16, 16, 16) + struct.pack("<6I", 8, 8 + one, 8 + 2 * one, one, one, one)
    entries = b"".join(struct.pack("<HHII", *row) for row in rows)
    (tmp_path / "p.tif").write_bytes(
        b"II*\0" + struct.pack("<I", at) + data + struct.pack("<H", len(rows)) + entries + bytes(4) + ends
    )
    with pytest.raises(ValueError, match=r"p\.tif: colour with 16 bits in separate planes"):
        read_image(tmp_path / "p.tif")


@pytest.mark.parametrize("orientation", [3, 5, 6])
@pytest.mark.parametrize("kind", ["u1", "u2", "f4", "bool"])
def test_a_grey_tiff_is_turned_by_its_orientation(tmp_path: Path, kind: str, orientation: int) -> None:
    """Pillow 13 maps such files into memory with the sides of the turned picture."""
    exif = Image.Exif()
    exif[0x0112] = orientation
    array = (RAMP % 251).astype(kind)
    Image.fromarray(array).save(tmp_path / "o.tif", exif=exif)
    header = image_header(tmp_path / "o.tif")
    assert header.orientation == orientation and header.size == RAMP.shape
    want = {3: array[::-1, ::-1], 5: array.T, 6: np.rot90(array, -1)}[orientation]
    assert np.array_equal(read_image(tmp_path / "o.tif"), want * 255 if kind == "bool" else want)
    if kind == "u1":
        assert np.array_equal(mask_files.read_mask(tmp_path / "o.tif").array, want)


@pytest.mark.parametrize("stored", [False, True])
def test_turned_tiff_pictures_are_told_of_and_masks_follow(tmp_path: Path, stored: bool) -> None:
    options = frame_folder(tmp_path, orientation=6, stored_masks=stored)
    for path in tmp_path.rglob("*.jpg"):
        with Image.open(path) as image:
            image.save(path.with_suffix(".tif"), exif=image.getexif())
        path.unlink()
    cohort = split_dataset(options)
    reading = reading_of(cohort, options)
    assert reading.masks_as_stored is stored and "EXIF: 6 images turned upright" in reading.notes[0]
    for case in cohort.labelled:
        grey = read_image(case.image)[..., 0]
        truth = reading.masks.indices(reading.mask(case))
        assert grey[truth > 0].mean() > 170 and grey[truth == 0].mean() < 40


Save = Callable[[Path, np.ndarray], None]


def _slices(root: Path, save: Save, *, suffix: str = "png") -> Case:
    """Three slices, the object in the last two."""
    volume = np.stack([TRUTH * 0, TRUTH, np.roll(TRUTH, 3, 1)], -1)
    for folder in ("images", "labels"):
        shutil.rmtree(root / folder, ignore_errors=True)
        (root / folder).mkdir(parents=True)
    for k in range(3):
        Image.fromarray(30 + 150 * volume[..., k]).save(root / "images" / f"s{k}.png")
        save(root / "labels" / f"s{k}.{suffix}", volume[..., k])
    return Case("v", "v", str(root / "images"), str(root / "labels"), slice=0)


def _of(image: Callable[[np.ndarray], Image.Image]) -> Save:
    return lambda path, truth: image(truth).save(path)


SLICES: dict[str, tuple[Save, str]] = {
    "grey": (_of(lambda t: Image.fromarray(t * 255)), "png"),
    "bit": (_of(lambda t: Image.fromarray(t > 0)), "png"),
    "index": (_of(Image.fromarray), "png"),
    "grey and bit": (
        lambda p, t: Image.fromarray(t > 0).save(p) if p.stem == "s1" else Image.fromarray(t * 255).save(p), "png"
    ),
    "jpeg": (_of(lambda t: Image.fromarray(t * 255)), "jpg"),
    "alpha": (_of(lambda t: Image.merge("RGBA", [Image.new("L", (32, 24))] * 3 + [Image.fromarray(t * 255)])), "png"),
    "black and white palette": (_of(lambda t: palette_image(1 - t, (255, 255, 255), (0, 0, 0))), "png"),
    "coloured palette": (_of(lambda t: palette_image(t, (0, 0, 0), (255, 0, 0))), "png"),
    "smallest is white": (
        lambda p, t: save_tiff(p, np.where(t > 0, 0, 65535).astype(np.uint16), photometric=0), "tif"
    ),
}  # fmt: skip


@pytest.mark.parametrize("kind", SLICES)
def test_masks_in_slice_folders_are_read_as_masks_of_frames_are(tmp_path: Path, kind: str) -> None:
    save, suffix = SLICES[kind]
    case = _slices(tmp_path, save, suffix=suffix)
    reading = decide_reading([case], classes=TWO)
    found = reading.masks.indices(reading.mask(case))
    want = np.stack([TRUTH * 0, TRUTH, np.roll(TRUTH, 3, 1)], -1)
    assert (found != want).mean() < (0.01 if kind == "jpeg" else 1e-9)


def test_slice_masks_that_cannot_be_told_are_refused_by_name(tmp_path: Path) -> None:
    _slices(tmp_path, _of(lambda t: colour_image((0, 0, 0), (255, 0, 0), at=t)))
    with pytest.raises(ValueError, match=r"s1\.png: is a colour mask"):
        read_slice_masks(tmp_path / "labels")
    _slices(tmp_path, _of(lambda t: palette_image(t, (255, 0, 0), (0, 0, 0))))
    with pytest.raises(ValueError, match=r"s1\.png: its palette gives colour \(0, 0, 0\) to index 1"):
        read_slice_masks(tmp_path / "labels")
    _slices(tmp_path, _of(Image.fromarray))
    (tmp_path / "labels" / "s0.png").rename(tmp_path / "labels" / "s3.png")
    with pytest.raises(ValueError, match=r"s3\.png: fits no slice of .*images by its name"):
        read_slice_masks(tmp_path / "labels", image=tmp_path / "images")
    (tmp_path / "labels" / "s3.png").unlink()
    with pytest.raises(ValueError, match=r"s0\.png: this slice has no mask in .*labels"):
        read_slice_masks(tmp_path / "labels", image=tmp_path / "images")


def test_the_summary_shows_how_much_of_the_masks_is_the_object(tmp_path: Path) -> None:
    options = frame_folder(tmp_path)
    cohort = split_dataset(options)
    text = "\n".join(summary(cohort, options, reading_of(cohort, options)))
    assert f"; polyp {100 * TRUTH.mean():.2g} % of the pixels" in text
    for path in tmp_path.rglob("masks/*.png"):
        Image.open(path).point(lambda v: 255 - v).save(path)
    assert reading_of(cohort, options).shares[1] == pytest.approx(1 - TRUTH.mean())
    mixed = [palette_image(TRUTH, (0, 0, 0), (255, 255, 255)), BIT, ALPHA]
    for i, image in enumerate(mixed):
        image.save(tmp_path / f"m{i}.png")
    evidence = [mask_files.read_mask(tmp_path / f"m{i}.png").evidence for i in range(3)]
    assert masks.decide(evidence, classes=TWO).shares(evidence)[1] == pytest.approx(TRUTH.mean())


def test_patients_in_other_letters_and_copies_under_other_names_are_found(tmp_path: Path) -> None:
    frame_folder(tmp_path)
    more = tmp_path / "more"
    more.mkdir()
    shutil.copy(tmp_path / "val" / "images" / "b.jpg", more / "x7.jpg")
    notes = " ".join(split_dataset(DataOptions(root=tmp_path, unlabelled="more")).notes)
    assert "1 training images are copies of validation images, first" in notes and "x7.jpg" in notes
    for part, name in (("train", "P1_frame01"), ("val", "p1_frame02")):
        for folder, suffix in (("images", "jpg"), ("masks", "png")):
            path = tmp_path / part / folder / f"a.{suffix}"
            path.rename(path.with_name(f"{name}.{suffix}"))
    with pytest.raises(ValueError, match="share 1 patients, first 'P1'"):
        split_dataset(DataOptions(root=tmp_path))
    for folder, suffix in (("images", "jpg"), ("masks", "png")):
        path = tmp_path / "train" / folder / f"P1_frame01.{suffix}"
        path.rename(more / path.name) if folder == "images" else path.unlink()
    cohort = split_dataset(DataOptions(root=tmp_path, unlabelled="more"))
    assert not any("P1" in case.image for case in cohort.unlabelled)


def test_names_of_patients_that_the_pattern_does_not_tell_are_named(tmp_path: Path) -> None:
    names = [("a", "pat01_0001", "pat03_0001"), ("b", "pat01_0002", "pat01_0009"), ("c", "pat02_0001", "pat04_0001")]
    frame_folder(tmp_path)
    for old, *new in names:
        for part, name in zip(("train", "val"), new, strict=True):
            for folder, suffix in (("images", "jpg"), ("masks", "png")):
                path = tmp_path / part / folder / f"{old}.{suffix}"
                path.rename(path.with_name(f"{name}.{suffix}"))
    (note,) = split_dataset(DataOptions(root=tmp_path)).notes
    assert note.startswith("2 training images begin as validation images do, first 'pat01'")
    pattern = note.partition("--data.patient-pattern '")[2].rstrip("'")
    with pytest.raises(ValueError, match="share 1 patients, first 'pat01'"):
        split_dataset(DataOptions(root=tmp_path, patient_pattern=pattern))
    shutil.rmtree(tmp_path / "train")
    shutil.rmtree(tmp_path / "val")
    frame_folder(tmp_path, names="abc")
    for part in ("train", "val"):
        for k, name in enumerate("abc"):
            for folder, suffix in (("images", "jpg"), ("masks", "png")):
                path = tmp_path / part / folder / f"{name}.{suffix}"
                path.rename(path.with_name(f"KiTS19_{k + (part == 'val') * 50:05d}.{suffix}"))
    assert not split_dataset(DataOptions(root=tmp_path)).notes


def test_kinds_of_tiff_that_are_not_read_are_named_as_such(tmp_path: Path) -> None:
    save_tiff(tmp_path / "d.tif", RAMP.astype(np.float64))
    (tmp_path / "x.png").write_text("no picture")
    for read in (read_image, image_header, mask_files.read_mask):
        with pytest.raises(
            ValueError, match=r"d\.tif: cannot be decoded \(a kind of TIFF .*float64\); save it with 16"
        ):
            read(tmp_path / "d.tif")
        with pytest.raises(ValueError, match=r"x\.png: cannot be decoded \(none of PNG, JPEG"):
            read(tmp_path / "x.png")


def test_the_colours_of_a_large_mask_are_counted_in_little_memory(tmp_path: Path) -> None:
    import tracemalloc

    large = np.zeros((1500, 1500, 3), np.uint8)
    large[100:400, :, 1] = 200
    Image.fromarray(large).save(tmp_path / "a.png", compress_level=1)
    tracemalloc.start()
    evidence = mask_files.read_mask(tmp_path / "a.png").evidence
    peak = tracemalloc.get_traced_memory()[1]
    tracemalloc.stop()
    assert evidence.colours == ((0, (0, 0, 0)), (0, (0, 200, 0))) and peak < 12 * large.size // 3


def test_masks_with_an_orientation_of_their_own_and_pictures_with_one_in_xmp_are_printed(tmp_path: Path) -> None:
    from PIL.PngImagePlugin import PngInfo

    xmp = PngInfo()
    description = '<rdf:Description xmlns:tiff="http://ns.adobe.com/tiff/1.0/" tiff:Orientation="3"/>'
    xmp.add_itxt("XML:com.adobe.xmp", f"<rdf:RDF>{description}</rdf:RDF>")
    exif = Image.Exif()
    exif[0x0112] = 3
    picture = np.arange(64, dtype=np.uint8).reshape(8, 8)
    Image.fromarray(picture).save(tmp_path / "a.png", pnginfo=xmp)
    Image.fromarray((picture > 40).astype(np.uint8) * 255).save(tmp_path / "m.png", exif=exif)
    case = Case("a", "a", str(tmp_path / "a.png"), str(tmp_path / "m.png"))
    reading = decide_reading([case], classes=("background", "polyp"))
    assert (read_image(case.image) == picture[::-1, ::-1]).all()
    assert (reading.class_indices(case) == (picture > 40)[::-1, ::-1]).all()
    assert any("EXIF: 1 images turned upright" in note for note in reading.notes)
    assert any("EXIF: 1 masks turned upright by their own orientation" in note for note in reading.notes)


def test_a_tiff_with_nan_is_one_line(tmp_path: Path) -> None:
    Image.fromarray(np.full((4, 4), np.nan, np.float32)).save(tmp_path / "a.tif")
    with pytest.raises(ValueError, match=r"^[^:]*a\.tif: holds NaN or infinite values; mend or remove the file$"):
        read_image(tmp_path / "a.tif")


def test_a_missing_slice_is_printed_and_one_stored_twice_refused(tmp_path: Path) -> None:
    for k in (1, 2, 4, 5):
        Image.fromarray(np.arange(64, dtype=np.uint8).reshape(8, 8)).save(tmp_path / f"p7_s{k}.png")
    case = Case("p7", "p7", str(tmp_path), slice=0)
    (note,) = decide_reading([case], classes=("background", "organ")).notes
    assert note == f"slices are missing by the numbers in their names in 1 volumes, first after {tmp_path}/p7_s2.png"
    shutil.copy(tmp_path / "p7_s4.png", tmp_path / "p7_s3.png")
    assert not decide_reading([case], classes=("background", "organ")).notes
    Image.open(tmp_path / "p7_s3.png").save(tmp_path / "p7_s3.tif")
    with pytest.raises(ValueError, match=r"p7_s3\.tif: a second slice named 'p7_s3', beside p7_s3\.png; remove one"):
        decide_reading([case], classes=("background", "organ"))
