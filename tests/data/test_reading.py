"""Files of every kind are read right or refused in one line that names file and remedy."""

from __future__ import annotations

import unicodedata
from pathlib import Path

import numpy as np
import pytest
from mask_samples import (
    ALPHA,
    BIT,
    GREY,
    INDEX,
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
from edgemt.data.cohort import DatasetSplit, split_dataset
from edgemt.data.options import DataOptions
from edgemt.data.reading import Reading, decide_reading, smallest_size
from edgemt.io import mask_files, masks
from edgemt.io.bit_depth import Depth
from edgemt.io.images import fit_label, image_header, read_image
from edgemt.io.volumes import is_deep

HALF = TRUTH.copy()
HALF[6:16, 8:13] = 2
SOFT = Image.fromarray(np.kron(TRUTH, np.ones((8, 8), np.uint8)) * 255).resize(
    (32 * 4, 24 * 4), Image.Resampling.BICUBIC
)


@pytest.mark.parametrize("threshold", [None, 128])
@pytest.mark.parametrize(
    "images",
    [
        (GREY,),
        (BIT,),
        (GREY, BIT),
        (GREY.convert("RGB"), GREY),
        (GREY.convert("LA"),),
        (GREY.convert("CMYK"),),
        (ALPHA,),
        (colour_image((0, 0, 0), (255, 0, 0)),),
        (palette_image(TRUTH, (0, 0, 0), (255, 255, 255)),),
        (palette_image(1 - TRUTH, (255, 255, 255), (0, 0, 0)), GREY),
        (Image.fromarray(TRUTH.astype(np.uint16) * 65535),),
        (GREY, Image.new("L", (32, 24))),
    ],
    ids=["grey", "bit", "mixed", "rgb", "la", "cmyk", "alpha", "red", "palette", "turned palette", "16 bit", "empty"],
)
def test_masks_of_one_object_are_read_alike_with_and_without_a_threshold(
    tmp_path: Path, images: tuple[Image.Image, ...], threshold: int | None
) -> None:
    suffix = "tif" if images[0].mode == "CMYK" else "png"
    found = read_masks(tmp_path, *images, suffix=suffix, threshold=threshold)
    assert all(f.dtype == np.uint8 for f in found) and (found[0] == TRUTH).all()


@pytest.mark.parametrize("quality", [60, 95])
def test_the_noise_of_jpeg_is_no_object(tmp_path: Path, quality: int) -> None:
    for threshold in (None, 128):
        GREY.save(tmp_path / "a.jpg", quality=quality)
        file = mask_files.read_mask(tmp_path / "a.jpg")
        rule = masks.decide([file.evidence], classes=TWO, threshold=threshold)
        assert (rule.indices(file) != TRUTH).mean() < 0.01 and "JPEG" in rule.text


def test_soft_edges_are_cut_at_the_middle(tmp_path: Path) -> None:
    (found,) = read_masks(tmp_path, SOFT)
    assert (found == (np.asarray(SOFT) >= 128)).all() and 0 < found.mean() < 1


def test_indices_and_palettes_of_several_classes_are_read_as_they_are(tmp_path: Path) -> None:
    three = ("background", "a", "b")
    voc = palette_image(HALF, (0, 0, 0), (128, 0, 0), (0, 128, 0))
    reordered = palette_image((HALF + 1) % 3, (2, 2, 2), (0, 0, 0), (1, 1, 1))  # grey values hidden behind a palette
    for images in ((Image.fromarray(HALF),), (voc, voc), (reordered, Image.fromarray(HALF))):
        assert (read_masks(tmp_path, *images, classes=three)[0] == HALF).all()
    (whole,) = read_masks(tmp_path, Image.fromarray(HALF), threshold=1)
    assert (whole == TRUTH).all()


def _ignored() -> Image.Image:
    rim = TRUTH.copy()
    rim[4:18, 6:22] = np.where(TRUTH[4:18, 6:22] > 0, 1, 255)
    return Image.fromarray(rim)


@pytest.mark.parametrize(
    ("images", "options", "says"),
    [
        ((INDEX,), {"threshold": 128}, r"m0\.png: mask holds 0, 1, all below data\.mask_threshold 128.*threshold None"),
        ((GREY, INDEX), {"threshold": 128}, r"m1\.png: mask holds 0, 1, all below"),
        ((GREY, INDEX), {}, r"m0\.png: mask holds 0, 255.*m1\.png holds 0, 1; use the same values in all masks"),
        ((_ignored(),), {}, r"m0\.png: mask holds 0, 1, 255.*often means ignore"),
        ((_ignored(),), {"threshold": 128}, r"m0\.png: mask holds 0, 1, 255.*often means ignore"),
        ((_ignored(),), {"classes": ("b", "p", "q")}, r"mask holds 255, the 3 classes are 0 to 2; 255 often"),
        ((Image.fromarray(HALF * 127),), {"threshold": 100}, r"127 is no edge but an area; --data\.mask-threshold 1"),
        ((Image.fromarray(np.array([0, 128, 255], np.uint8)[HALF]),), {}, r"128"),
        ((Image.fromarray(HALF * 2),), {"classes": ("b", "p", "q", "r")}, r"mask holds 4, .*renumber|without a gap"),
        ((colour_image((0, 0, 0), (255, 0, 0)), colour_image((0, 0, 0), (0, 255, 0))), {},
         r"m0\.png: a colour mask, it holds \(255,0,0\), .*m1\.png \(0,255,0\); --data\.mask-threshold 128"),
        ((colour_image((255, 255, 255), (255, 0, 0)),), {"threshold": 128}, r"a colour mask without black"),
        ((colour_image((0, 0, 0), (99, 0, 0)),), {"threshold": 128}, r"all below data\.mask_threshold"),
        ((colour_image((0, 0, 0), (255, 0, 0)),), {"classes": ("b", "p", "q")}, r"write class indices 0 to 2"),
        ((palette_image(TRUTH, (255, 0, 0), (0, 0, 0)),), {}, r"palette index 0 is \(255,0,0\) and black is index 1"),
        ((palette_image(HALF, (0, 0, 0), (9, 0, 0), (0, 9, 0)), palette_image(HALF, (0, 0, 0), (0, 9, 0), (9, 0, 0))),
         {"classes": ("b", "p", "q")}, r"m1\.png: its palette gives colour \(0,9,0\) to index 1"),
        ((Image.fromarray(TRUTH * np.float32(0.5)),), {}, r"whole numbers, this one holds 0\.5"),
        ((Image.fromarray(TRUTH.astype(np.int32) * -1),), {}, r"mask holds -1, 0; write class indices"),
    ],
)  # fmt: skip
def test_masks_that_cannot_be_told_are_refused_by_name(
    tmp_path: Path, images: tuple[Image.Image, ...], options: dict, says: str
) -> None:
    suffix = "tif" if images[0].mode in "FI" else "png"
    with pytest.raises(ValueError, match=says) as error:
        read_masks(tmp_path, *images, suffix=suffix, **options)
    assert "\n" not in str(error.value)


def test_several_colours_are_one_object_under_a_threshold(tmp_path: Path) -> None:
    found = read_masks(
        tmp_path, colour_image((0, 0, 0), (0, 128, 255)), colour_image((0, 0, 0), (255, 0, 0)), threshold=128
    )
    assert all((f == TRUTH).all() for f in found)


def test_a_label_within_a_thousandth_is_whole_and_others_show_their_digits(tmp_path: Path) -> None:
    save_tiff(tmp_path / "a.tif", (TRUTH * np.float32(0.99999994)))
    assert (mask_files.read_mask(tmp_path / "a.tif").array == TRUTH).all()
    save_tiff(tmp_path / "b.tif", TRUTH * np.float32(0.998))
    with pytest.raises(ValueError, match=r"this one holds 0\.998"):
        mask_files.read_mask(tmp_path / "b.tif")


@pytest.mark.parametrize("kind", ["u2", "i2", "u4", "i4", "f4", "i1", "u1"])
def test_every_depth_of_tiff_has_its_values(tmp_path: Path, kind: str) -> None:
    values = RAMP // 3 if kind[1] == "1" else RAMP * 40
    values = values - (100 if kind[0] == "i" else 0) + (3_000_000_000 if kind == "u4" else 0)
    array = values.astype(kind)
    save_tiff(tmp_path / "a.tif", array)
    assert (read_image(tmp_path / "a.tif").astype(np.float64) == array.astype(np.float64)).all()
    assert is_deep(tmp_path / "a.tif") == (kind != "u1")
    eight = Depth("percentiles")(read_image(tmp_path / "a.tif"))
    assert eight.min() == 0 and eight.max() == 255 and len(np.unique(eight)) > 100


def test_sixteen_bits_a_colour_are_kept_and_white_can_be_the_smallest(tmp_path: Path) -> None:
    cv2 = pytest.importorskip("cv2")
    deep = np.stack([RAMP * 80, RAMP * 40, RAMP * 20 + 7], -1).astype(np.uint16)
    for suffix in ("png", "tif"):
        cv2.imwrite(str(tmp_path / f"c.{suffix}"), deep[..., ::-1])
        assert (read_image(tmp_path / f"c.{suffix}") == deep).all() and image_header(tmp_path / f"c.{suffix}").deep
    save_tiff(tmp_path / "w.tif", (RAMP * 80).astype(np.uint16), photometric=0)
    assert (read_image(tmp_path / "w.tif") == 65535 - RAMP * 80).all()


def test_a_stack_is_refused_and_a_preview_is_no_page(tmp_path: Path) -> None:
    page = Image.fromarray((RAMP % 251).astype(np.uint8))
    page.save(tmp_path / "s.tif", save_all=True, append_images=[page, page])
    with pytest.raises(ValueError, match=r"s\.tif: holds 3 pages"):
        read_image(tmp_path / "s.tif")
    page.save(tmp_path / "a.webp", save_all=True, append_images=[GREY], lossless=True)
    with pytest.raises(ValueError, match=r"a\.webp: holds 2 pages"):
        read_image(tmp_path / "a.webp")
    page.convert("RGB").save(tmp_path / "m.jpg", format="MPO", save_all=True, append_images=[page.convert("RGB")])
    assert read_image(tmp_path / "m.jpg").shape == (24, 32, 3)  # a phone's second picture is no page


@pytest.mark.parametrize("orientation", range(1, 9))
@pytest.mark.parametrize("suffix", ["jpg", "png", "tif", "webp"])
def test_pictures_are_upright_as_pillow_turns_them(tmp_path: Path, orientation: int, suffix: str) -> None:
    from PIL import ImageOps

    exif = Image.Exif()
    exif[0x0112] = orientation
    noise = np.random.default_rng(0).integers(0, 255, (6, 9, 3), dtype=np.uint8)
    Image.fromarray(noise).save(tmp_path / f"a.{suffix}", exif=exif)
    with Image.open(tmp_path / f"a.{suffix}") as image:
        want = np.asarray(ImageOps.exif_transpose(image).convert("RGB"))
    assert (read_image(tmp_path / f"a.{suffix}") == want).all()


def _decided(options: DataOptions) -> tuple[DatasetSplit, Reading]:
    cohort = split_dataset(options)
    cases = (*cohort.labelled, *cohort.unlabelled, *cohort.val)
    return cohort, decide_reading(cases, classes=options.classes, mask_threshold=options.mask_threshold)


@pytest.mark.parametrize(("orientation", "stored"), [(3, False), (6, False), (6, True)])
def test_masks_lie_on_their_upright_pictures(tmp_path: Path, orientation: int, stored: bool) -> None:
    from edgemt.data.decode import CaseReader
    from edgemt.data.slice_dataset import frame_spec

    options = frame_folder(tmp_path, orientation=orientation, stored_masks=stored)
    cohort, reading = _decided(options)
    assert reading.masks_as_stored is stored and "EXIF: 6 images turned upright" in reading.notes[0]
    assert ("turned with them" in reading.notes[0]) is stored
    decoder = CaseReader(frame_spec(options), reading)
    for case in cohort.labelled:
        frame, label = decoder.frame(case), decoder.label(case)
        assert frame[label > 0].mean() > 170 and frame[label == 0].mean() < 40


def test_masks_drawn_both_ways_are_refused(tmp_path: Path) -> None:
    options = frame_folder(tmp_path, orientation=6)
    (tmp_path / "train" / "masks" / "a.png").unlink()
    Image.fromarray(TRUTH * 255).transpose(Image.Transpose.ROTATE_90).save(tmp_path / "train" / "masks" / "a.png")
    with pytest.raises(ValueError, match=r"a\.png: fits its image as stored, .*b\.png fits its image turned by EXIF"):
        _decided(options)


def test_one_depth_rule_holds_for_the_set(tmp_path: Path) -> None:
    options = frame_folder(tmp_path)
    assert _decided(options)[1].depth == Depth("stored")
    Image.fromarray((RAMP * 80).astype(np.uint16)).save(tmp_path / "train" / "images" / "d.png")
    cohort, reading = _decided(options)
    assert reading.depth == Depth("percentiles") and "8 bits, the others more" in reading.notes[-1]
    window = Depth("window", (0, 510))
    assert window(np.array([[0, 255, 510]])).tolist() == [[0, 128, 255]]
    assert window(np.array([[0, 255]], np.uint8)).tolist() == [[0, 128]]
    with pytest.raises(ValueError, match=r"data\.window: must be LOW HIGH"):
        DataOptions(window=(3, 3))
    assert "more than 8 bits" in str(Depth("stored").unlike(RAMP))


def test_a_constant_picture_is_refused_as_a_constant_volume_is(tmp_path: Path) -> None:
    from edgemt.data.slice_dataset import load_slices

    options = frame_folder(tmp_path)
    Image.new("RGB", (32, 24), (9, 9, 9)).save(tmp_path / "train" / "images" / "a.jpg")
    with pytest.raises(ValueError, match=r"a\.jpg: holds one value everywhere"):
        load_slices(split_dataset(options).labelled, options)


def test_objects_that_vanish_are_named_with_a_size_that_keeps_them(tmp_path: Path) -> None:
    from edgemt.data.slice_dataset import load_slices

    options = frame_folder(tmp_path)
    spot = np.zeros((384, 512), np.uint8)
    spot[101:103, 201:203] = 255
    noise = np.random.default_rng(0).integers(0, 255, (384, 512), dtype=np.uint8)
    for name in "abc":
        Image.fromarray(spot).save(tmp_path / "train" / "masks" / f"{name}.png")
        Image.fromarray(noise).save(tmp_path / "train" / "images" / f"{name}.jpg")
    with pytest.raises(
        ValueError, match=r"'polyp' vanishes from 3 masks at data\.size 24 32, .*--data\.size 192 256 keeps"
    ):
        load_slices(split_dataset(options).labelled, options)
    for side in range(1, 9):
        truth = np.zeros((90, 120), np.uint8)
        truth[31 : 31 + side, 57 : 57 + side] = 1
        size = smallest_size(truth, 1, size=(24, 32))
        for move in range(12):
            assert fit_label(np.roll(truth, move, (0, 1)), size=size).any()


def test_a_large_mask_stays_small_in_memory(tmp_path: Path) -> None:
    large = np.zeros((1024, 1024), np.uint8)
    large[10:40] = 255
    Image.fromarray(large).save(tmp_path / "a.png")
    file = mask_files.read_mask(tmp_path / "a.png")
    found = masks.decide([file.evidence], classes=TWO).indices(file)
    assert file.array.nbytes == found.nbytes == large.nbytes


@pytest.mark.parametrize(
    ("image", "mask"),
    [
        ("{}", "{}_mask"),
        ("{}_image", "{}_label"),
        ("{}", "{}_Segmentation"),
        ("img_{}", "IMG_{}_MASK"),
        ("{}_0000", "{}"),
    ],
)
def test_names_are_compared_without_what_tools_add(tmp_path: Path, image: str, mask: str) -> None:
    options = frame_folder(tmp_path)
    for part in ("train", "val"):
        for name in "abc":
            (tmp_path / part / "images" / f"{name}.jpg").rename(
                tmp_path / part / "images" / f"{image.format(name)}.jpg"
            )
            (tmp_path / part / "masks" / f"{name}.png").rename(tmp_path / part / "masks" / f"{mask.format(name)}.PNG")
    cohort = split_dataset(options)
    assert len(cohort.labelled) == len(cohort.val) == 3 and not cohort.notes
    paired = {(Path(case.image).stem, Path(str(case.label)).stem) for case in cohort.labelled}
    assert paired == {(image.format(name), mask.format(name)) for name in "abc"}


def test_masks_and_images_without_each_other_are_named(tmp_path: Path) -> None:
    options = frame_folder(tmp_path)
    (tmp_path / "train" / "masks" / "a.png").rename(tmp_path / "train" / "masks" / "z.png")
    notes = split_dataset(options).notes
    assert "1 of 3 images have no mask" in notes[0] and "1 of 3 masks fit no image" in notes[1] and "z.png" in notes[1]
    for name in "bc":
        (tmp_path / "train" / "masks" / f"{name}.png").rename(tmp_path / "train" / "masks" / f"q{name}.png")
    with pytest.raises(ValueError, match=r"fits no image of .* nor does any other mask"):
        split_dataset(options)


def test_a_mask_among_the_images_is_named(tmp_path: Path) -> None:
    options = frame_folder(tmp_path)
    GREY.save(tmp_path / "train" / "images" / "a_mask.png")
    with pytest.raises(ValueError, match=r"a_mask\.png: is named like a mask of a\.jpg"):
        split_dataset(options)


def test_a_patient_that_validates_trains_by_no_door(tmp_path: Path) -> None:
    options = frame_folder(tmp_path, names="abc")
    for part, names in (("train", ("p1_frame01", "p1_frame02", "p2_frame01")), ("val", ("p3_frame01", "p4", "7"))):
        for old, new in zip("abc", names, strict=True):
            for folder, suffix in (("images", "jpg"), ("masks", "png")):
                (tmp_path / part / folder / f"{old}.{suffix}").rename(tmp_path / part / folder / f"{new}.{suffix}")
    more = tmp_path / "more"
    more.mkdir()
    noise = Image.fromarray(np.random.default_rng(1).integers(0, 255, (24, 32, 3), dtype=np.uint8))
    for path in (tmp_path / "train" / "images" / "p3_frame09.jpg", more / "p4_frame02.jpg", more / "7.jpg"):
        noise.save(path)
    (more / "linked.jpg").symlink_to(tmp_path / "val" / "images" / "p4.jpg")
    options = DataOptions(root=tmp_path, unlabelled="more")
    cohort = split_dataset(options)
    names = {Path(case.image).name for case in cohort.unlabelled}
    assert names == {"7.jpg"}  # another folder's 7 is another picture
    assert "2 unlabelled images of 2 validating patients do not train" in " ".join(cohort.notes)
    for folder, suffix in (("images", "jpg"), ("masks", "png")):
        path = tmp_path / "train" / folder / f"p2_frame01.{suffix}"
        path.rename(path.with_name(f"p4_frame05.{suffix}"))
    with pytest.raises(ValueError, match="share 1 patients, first 'p4'"):
        split_dataset(options)


def test_lists_are_read_in_any_form_of_unicode(tmp_path: Path) -> None:
    frame_folder(tmp_path)
    name = unicodedata.normalize("NFD", "Müller")
    for folder, suffix in (("images", "jpg"), ("masks", "png")):
        (tmp_path / "train" / folder / f"a.{suffix}").rename(tmp_path / "train" / folder / f"{name}.{suffix}")
    listed = unicodedata.normalize("NFC", name)
    for encoding in ("utf-8", "utf-8-sig", "utf-16"):
        (tmp_path / "few.txt").write_bytes(f"{listed}.jpg\r\nimages/b\r\n".encode(encoding))
        cohort = split_dataset(DataOptions(root=tmp_path, labelled="few.txt"))
        assert {case.name for case in cohort.labelled} == {listed, "b"}
    (tmp_path / "few.txt").write_bytes("b\n".encode("utf-16-le"))
    with pytest.raises(ValueError, match="UTF-16 without a byte order mark"):
        split_dataset(DataOptions(root=tmp_path, labelled="few.txt"))


def test_what_systems_leave_behind_is_passed_over(tmp_path: Path) -> None:
    options = frame_folder(tmp_path)
    for folder in (tmp_path / "train" / "images", tmp_path / "train" / "masks"):
        (folder / "._a.jpg").write_bytes(b"\0\5\x16\7")
        (folder / "Thumbs.db").write_bytes(b"x")
        for inside in ("__MACOSX", ".ipynb_checkpoints"):
            (folder / inside).mkdir()
            (folder / inside / "a.png").write_bytes(b"x")
    cohort = split_dataset(options)
    assert len(cohort.labelled) == 3 and not cohort.unlabelled and not cohort.notes


@pytest.mark.parametrize("suffix", [".nrrd", ".mha", ".mgz", ".gif", ".dcm"])
def test_other_kinds_are_named_with_a_way_to_convert_them(tmp_path: Path, suffix: str) -> None:
    for folder in ("images", "labels"):
        (tmp_path / folder).mkdir()
        (tmp_path / folder / f"a{suffix}").write_bytes(b"x")
    for layout in ("pairs", "volumes"):
        with pytest.raises(ValueError, match=rf"a\{suffix}: \{suffix} is not read; convert it"):
            split_dataset(DataOptions(root=tmp_path, layout=layout, val="0.5"))  # type: ignore[arg-type]


def test_a_case_of_one_set_is_read_without_its_cohort(tmp_path: Path) -> None:
    frame_folder(tmp_path)
    case = Case("a", "a", str(tmp_path / "train/images/a.jpg"), str(tmp_path / "train/masks/a.png"))
    reading = decide_reading([case], classes=TWO)
    assert reading.masks.text == "masks: 0/255, threshold 128; 1 files"
    assert (reading.masks.indices(reading.mask(case)) == TRUTH).all()
