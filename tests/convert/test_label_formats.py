"""Masks go to every label tool and come back; what cannot be read is one line, and nothing is left behind."""

from __future__ import annotations

import base64
import io
import json
import re
from collections.abc import Callable
from pathlib import Path
from typing import get_args

import numpy as np
import pytest
from label_samples import CLASSES, SIZE, colonoscopy, film, folder, imported, masks
from PIL import Image

from edgemt import cli
from edgemt.commands.convert import ExportFormat, ImportFormat
from edgemt.convert.contract import ExportOptions, ImportOptions
from edgemt.convert.exporting import export_labels
from edgemt.convert.importing import import_source
from edgemt.convert.registry import FORMATS
from edgemt.data.cohort import split_dataset
from edgemt.data.options import DataOptions

TARGETS = {"coco": "labels.json", "cvat": "annotations.xml", "label-studio": "tasks.json"}
WRITTEN = [name for name, row in FORMATS.items() if row.write is not None]


def exported(root: Path, name: str, *, shapes: str = "auto", simplify: float = 0.0) -> Path:
    """The folder that holds the labels of `root` in a format, beside its images."""
    out = root / TARGETS.get(name, "made")
    options = ExportOptions(shapes, simplify)  # type: ignore[arg-type]
    export_labels(root / "masks", out, format=name, images=root / "images", classes=CLASSES, options=options)
    if name == "label-studio":  # its files are addressed from the folder of the images
        out.write_text(out.read_text().replace("?d=", "?d=images/"))
    return out


@pytest.mark.parametrize("shapes", ["auto", "polygon"])
@pytest.mark.parametrize("name", WRITTEN)
def test_masks_come_back_bit_for_bit(name: str, shapes: str, tmp_path: Path) -> None:
    root = folder(tmp_path / "data")
    if shapes != "auto" and shapes not in FORMATS[name].shapes:
        with pytest.raises(ValueError, match="shapes: voc has pixels alone"):
            exported(root, name, shapes=shapes)
        return
    options = ImportOptions(images=root / "images", classes=CLASSES[1:])
    source = exported(root, name, shapes=shapes)
    found = imported(source, tmp_path / "out", options=options)
    assert list(found) == ["case_0", "case_1", "case_2"]
    assert all((found[f"case_{k}"] == mask).all() for k, mask in enumerate(masks()))
    manifest = json.loads((tmp_path / "out" / "manifest.json").read_text())
    assert manifest["classes"] == list(CLASSES) and manifest["counts"]["labelled"] == 3
    assert all(len(one["sha256"]) == 64 for files in manifest["sources"].values() for one in files)
    assert str(tmp_path) not in (tmp_path / "out" / "manifest.json").read_text()


def test_simplified_polygons_state_their_loss(tmp_path: Path) -> None:
    root, lines = folder(tmp_path / "data"), []
    options = ExportOptions("polygon", 1.5)
    export_labels(
        root / "masks", tmp_path / "l.json", format="coco", classes=CLASSES, options=options, tell=lines.append
    )
    assert "simplified outlines change" in lines[-1] and " 0 pixels" not in lines[-1]


def test_the_folder_of_an_import_is_one_that_training_reads(tmp_path: Path) -> None:
    root = folder(tmp_path / "data", 6)
    export_labels(root / "masks", root / "l.json", format="coco", images=root / "images", classes=CLASSES)
    import_source(root / "l.json", tmp_path / "out", options=ImportOptions(images=root / "images"))
    split = split_dataset(DataOptions(root=str(tmp_path / "out"), classes=CLASSES, val="0.3"))
    assert len(split.labelled) + len(split.val) == 6


def test_the_names_of_the_formats_are_those_of_the_commands() -> None:
    assert get_args(ImportFormat) == ("auto", *FORMATS)
    assert get_args(ExportFormat) == (*WRITTEN, "nrrd")


# One small file of each format, with one shape of the class polyp on a.png, and how it is found -----------------------


def picture(path: Path, size: tuple[int, int] = SIZE) -> None:
    path.parent.mkdir(parents=True, exist_ok=True)
    Image.fromarray(np.random.default_rng(3).integers(0, 255, (*size, 3)).astype(np.uint8)).save(path)


def write_json(path: Path, record: object) -> None:
    path.write_text(json.dumps(record))


TRIANGLE = [1.0, 1.0, 20.0, 2.0, 9.0, 15.0]


def coco() -> dict:
    return {
        "images": [{"id": 7, "file_name": "a.png", "height": SIZE[0], "width": SIZE[1]}],
        "categories": [{"id": 5, "name": "polyp"}],
        "annotations": [{"id": 1, "image_id": 7, "category_id": 5, "segmentation": [TRIANGLE]}],
    }


def labelme() -> dict:
    shape = {"label": "polyp", "points": np.reshape(TRIANGLE, (-1, 2)).tolist(), "shape_type": "polygon"}
    return {"version": "5.5.0", "shapes": [shape], "imagePath": "a.png", "imageHeight": SIZE[0], "imageWidth": SIZE[1]}


def task() -> list:
    points = (np.reshape(TRIANGLE, (-1, 2)) * (100 / SIZE[1], 100 / SIZE[0])).tolist()
    result = {"type": "polygonlabels", "original_height": SIZE[0], "original_width": SIZE[1],
              "value": {"points": points, "polygonlabels": ["polyp"]}}  # fmt: skip
    data = {"image": "/data/upload/3/0123abcd-a.png"}
    return [{"id": 1, "data": data, "annotations": [{"result": [result]}]}]


CVAT = """<?xml version="1.0" encoding="utf-8"?>
<annotations><version>1.1</version><meta><task><labels><label><name>polyp</name></label></labels></task></meta>
<image id="0" name="a.png" width="31" height="23">
<polygon label="polyp" points="1.00,1.00;20.00,2.00;9.00,15.00" z_order="0"/></image></annotations>"""


def sample(name: str, root: Path) -> Path:
    """The label file of a format below `root`, with its image."""
    root.mkdir(exist_ok=True)
    if name == "yolo":
        picture(root / "images" / "a.png")
        (root / "labels").mkdir()
        (root / "data.yaml").write_text("# data\nnames:\n  0: polyp\n  1: tool\n")
        fractions = (np.reshape(TRIANGLE, (-1, 2)) / (SIZE[1], SIZE[0])).reshape(-1)
        path = root / "labels" / "a.txt"
        path.write_text(" ".join(["0", *map(str, fractions)]) + "\n")
        return path
    if name == "voc":
        picture(root / "JPEGImages" / "a.png")
        (root / "SegmentationClass").mkdir()
        (root / "labelmap.txt").write_text("background:0,0,0::\npolyp:128,0,0::\n")
        mask = Image.fromarray((np.arange(SIZE[0] * SIZE[1]).reshape(SIZE) % 5 == 0).astype(np.uint8))
        mask.putpalette([0, 0, 0, 128, 0, 0])
        mask.save(root / "SegmentationClass" / "a.png")
        return root / "SegmentationClass" / "a.png"
    picture(root / "a.png")
    path = root / {"cvat": "annotations.xml"}.get(name, "labels.json")
    if name == "cvat":
        path.write_text(CVAT)
    else:
        write_json(path, {"coco": coco, "labelme": labelme, "label-studio": task}[name]())
    return path


@pytest.mark.parametrize("name", WRITTEN)
def test_auto_finds_the_format_and_all_tools_mean_the_same_pixels(name: str, tmp_path: Path) -> None:
    sample(name, tmp_path / "in")
    found = imported(tmp_path / "in", tmp_path / "out")["a"]
    if name != "voc":
        assert found.sum() == imported(sample("coco", tmp_path / "c").parent, tmp_path / "c-out")["a"].sum() > 50
    assert set(np.unique(found)) == {0, 1}


# What is refused ------------------------------------------------------------------------------------------------------


def replaced(old: str, new: str) -> Callable[[Path], None]:
    def change(path: Path) -> None:
        text = path.read_text()
        assert old in text
        path.write_text(text.replace(old, new))

    return change


def cut(path: Path) -> None:
    path.write_bytes(path.read_bytes()[: path.stat().st_size * 2 // 3])


def latin(path: Path) -> None:
    path.write_bytes(path.read_text().replace("polyp", "poly\u00e9").encode("latin-1"))


def changed(function: Callable) -> Callable[[Path], None]:
    def change(path: Path) -> None:
        record = json.loads(path.read_text())
        function(record)
        write_json(path, record)

    return change


def shape_of(record: dict) -> dict:
    return record["shapes"][0]


def result_of(record: list) -> dict:
    return record[0]["annotations"][0]["result"][0]


def runs(size: list[int], counts: list[int]) -> Callable[[Path], None]:
    return changed(lambda r: r["annotations"][0].update(segmentation={"size": size, "counts": counts}))


REFUSED = [
    *((name, cut, "whole|corners|decoded|box") for name in WRITTEN),
    *((name, latin, "UTF-8") for name in ("coco", "labelme", "cvat", "label-studio")),
    *(
        (name, replaced("a.png", bad), "leads out of the folder")
        for name in ("coco", "labelme", "cvat")
        for bad in ("../../x.png", "/etc/x.png", "C:/x.png")
    ),
    ("label-studio", replaced("/data/upload/3/0123abcd-a.png", "/data/local-files/?d=../x.png"), "leads out"),
    *((name, replaced("a.png", "b.png"), "not below .*--images")
      for name in ("coco", "labelme", "cvat", "label-studio")),
    *((name, lambda p: picture(p.parent / "a.png", (24, 31)), "is 31 x 23 there, the image is 31 x 24")
      for name in ("coco", "labelme", "cvat", "label-studio")),
    *((name, lambda p: (p.parent / "a.png").write_bytes((p.parent / "a.png").read_bytes()[:900]), "cannot be decoded")
      for name in ("coco", "labelme", "cvat", "label-studio")),
    ("coco", changed(lambda r: r["annotations"][0].update(segmentation=[])), "box without a segmentation"),
    ("coco", runs(list(SIZE), [10**15]), "longer"),
    ("coco", runs([9, 9], [81]), "has the size"),
    ("coco", changed(lambda r: r["annotations"][0].update(category_id=9)), "category_id 9, which is not listed"),
    ("coco", changed(lambda r: r["annotations"][0].update(image_id=1.5)), "image_id is 1.5, no whole number"),
    ("coco", changed(lambda r: r["images"].append(r["images"][0])), "twice"),
    ("coco", changed(lambda r: r.update(images={})), "no list 'images'"),
    ("coco", changed(lambda r: r["images"][0].update(width=10**9, height=10**9)), "the image is 31 x 23"),
    ("coco", changed(lambda r: r["images"].append({**r["images"][0], "file_name": "b.png"})),
     "image id 7 is listed twice"),
    ("coco", changed(lambda r: r["annotations"][0].update(segmentation=[[v / 40 for v in TRIANGLE]])), "fractions of"),
    ("coco", changed(lambda r: r["annotations"][0].update(segmentation=[[v + 40 for v in TRIANGLE]])), "lies beyond"),
    ("labelme", changed(lambda r: shape_of(r).update(points=[[-9, -9], [-2, -9], [-2, -1]])), "lies beyond"),
    ("cvat", replaced("1.00,1.00;20.00,2.00;9.00,15.00", "1,91;20,92;9,99"), "lies beyond"),
    ("label-studio", changed(lambda r: result_of(r)["value"].update(points=[[9, 9], [300, 9], [9, 90]])), "per cent"),
    ("labelme", changed(lambda r: shape_of(r).update(shape_type="circle")), "is a circle, no outline"),
    ("labelme", changed(lambda r: shape_of(r).update(shape_type="mask", mask="AAAA")), "no whole PNG"),
    ("labelme", changed(lambda r: shape_of(r).update(label=None)), "has no label"),
    ("labelme", replaced('"shapes": [', '"shapes": [3, '), "has no label"),
    ("cvat", replaced("<version>1.1", "<version>2.0"), "version 1.1"),
    ("cvat", replaced("<polygon", '<box label="polyp" xtl="0"/><polygon'), "holds a box, no outline"),
    ("cvat", replaced("<annotations>", "<!DOCTYPE a [<!ENTITY b 'c'>]><annotations>"), "document type"),
    ("cvat", replaced("1.00,1.00;", ""), "2 corners"),
    ("cvat", replaced('<polygon label="polyp" points="1.00,1.00;20.00,2.00;9.00,15.00"',
                      '<mask label="polyp" rle="0, 99999999999999" left="0" top="0" width="9" height="9"'), "longer"),
    ("cvat", replaced('<polygon label="polyp" points="1.00,1.00;20.00,2.00;9.00,15.00"',
                      '<mask label="polyp" rle="0, 81" left="30" top="0" width="9" height="9"'), "reaches beyond"),
    ("label-studio", changed(lambda r: r[0]["annotations"].append(r[0]["annotations"][0])), "has 2 annotations"),
    ("label-studio", changed(lambda r: result_of(r).update(type="rectanglelabels")), "rectanglelabels, no outline"),
    ("label-studio", changed(lambda r: r[0].pop("data")), "not 'JSON-MIN'"),
    ("label-studio", changed(lambda r: result_of(r).update(
        type="brushlabels", value={"format": "rle", "rle": [255] * 20, "brushlabels": ["polyp"]})), "4294967295"),
    ("yolo", replaced("0 ", "7 "), "class '7', there are 2 names"),
    ("yolo", lambda p: p.write_text("0 0.5 0.5 0.1 0.1\n"), "is a box"),
    ("yolo", lambda p: p.write_text("0 1 1 500 2 9 9\n"), "fractions"),
    ("yolo", lambda p: (p.parents[1] / "data.yaml").write_text("names:\n"), "list of names"),
    ("yolo", lambda p: (p.parents[1] / "data.yaml").write_text("names:\n  1: polyp\n  2: tool\n"), "numbered"),
    ("yolo", lambda p: (p.parents[1] / "data.yaml").write_text("kpt_shape: [3, 2]\nnames: [polyp]\n"), "key points"),
    ("voc", lambda p: (p.parents[1] / "labelmap.txt").write_text("background:0,0,0::\na:9,9,9::\nb:9,9,9::\n"),
     "one colour"),
    ("voc", lambda p: (p.parents[1] / "labelmap.txt").write_text("background:0,0,0::\nx:9,9,9::\n"), "does not name"),
    ("voc", lambda p: (p.parents[1] / "labelmap.txt").write_text("polyp=1\n"), "no name:r,g,b"),
    ("voc", lambda p: Image.fromarray(np.full(SIZE, 255, np.uint8)).save(p), "pixels of void"),
    ("voc", lambda p: Image.fromarray(np.zeros((9, 9), np.uint8)).save(p), "rows and columns"),
]  # fmt: skip


@pytest.mark.parametrize(("name", "damage", "why"), REFUSED, ids=lambda v: v if isinstance(v, str) else "")
def test_what_cannot_be_read_is_one_line_and_leaves_nothing(name, damage, why, tmp_path: Path, capsys) -> None:
    damage(sample(name, tmp_path / "in"))
    with pytest.raises(SystemExit) as stopped:
        cli.main(["import", str(tmp_path / "in"), "--format", name, "--out", str(tmp_path / "out")])
    line = capsys.readouterr().err.strip().splitlines()[-1]
    assert stopped.value.code == 2
    assert line.startswith("edgemt: error: ") and str(tmp_path) in line, line
    assert re.search(why, line), line
    assert sorted(p.name for p in tmp_path.iterdir()) == ["in"]


@pytest.mark.parametrize(
    ("make", "why"),
    [
        (lambda p: (p / "labels.zip").write_bytes(b"PK"), "archives are not opened; unpack it"),
        (lambda p: None, "fits no format"),
        (lambda p: (sample("coco", p), (p / "b.xml").write_text(CVAT)), "fits coco and cvat; choose one"),
    ],
)
def test_a_source_that_is_unclear_is_refused(make, why: str, tmp_path: Path) -> None:
    (tmp_path / "in").mkdir()
    make(tmp_path / "in")
    files = list((tmp_path / "in").iterdir())
    source = files[0] if len(files) == 1 else tmp_path / "in"
    with pytest.raises(ValueError, match=why):
        import_source(source, tmp_path / "out")


@pytest.mark.parametrize("names", ["{1: tool, 0: polyp}", "\n  1: tool\n  0: polyp", "[polyp, tool]"])
def test_names_of_yolo_are_ordered_by_their_numbers(names: str, tmp_path: Path) -> None:
    path = sample("yolo", tmp_path / "in")
    (tmp_path / "in" / "data.yaml").write_text(f"names: {names}\n")
    path.write_text(path.read_text().replace("0 ", "1 ", 1))
    import_source(tmp_path / "in", tmp_path / "out")
    manifest = json.loads((tmp_path / "out" / "manifest.json").read_text())
    assert manifest["classes"] == list(CLASSES) and manifest["counts"]["images_with_class"] == {"polyp": 0, "tool": 1}


# Choices --------------------------------------------------------------------------------------------------------------


def test_an_image_without_a_shape_is_unlabelled_or_background(tmp_path: Path) -> None:
    path = sample("coco", tmp_path / "in")
    changed(lambda r: r["images"].append({"id": 8, "file_name": "b.png", "height": SIZE[0], "width": SIZE[1]}))(path)
    picture(tmp_path / "in" / "b.png")
    picture(tmp_path / "in" / "c.png")
    assert list(imported(path, tmp_path / "one")) == ["a"]
    found = imported(path, tmp_path / "two", options=ImportOptions(empty="background"))
    assert list(found) == ["a", "b"] and not found["b"].any()
    assert len(list((tmp_path / "two" / "images").iterdir())) == 3


def test_the_later_shape_is_on_top_and_the_overlap_is_counted(tmp_path: Path) -> None:
    path = sample("cvat", tmp_path / "in")
    square = '<polygon label="tool" points="0,0;10,0;10,10;0,10" z_order="{}"/>'
    replaced("<polygon", square.format(-1) + "<polygon")(path)
    below = imported(path, tmp_path / "one", options=ImportOptions(classes=("polyp", "tool")))["a"]
    replaced('z_order="-1"', 'z_order="1"')(path)
    above = imported(path, tmp_path / "two", options=ImportOptions(classes=("polyp", "tool")))["a"]
    counted = json.loads((tmp_path / "two" / "manifest.json").read_text())["counts"]
    assert (above == 2).sum() == 100 and counted["overlapping_pixels"] == ((above == 2) & (below == 1)).sum() > 0


def test_void_becomes_what_is_chosen(tmp_path: Path) -> None:
    path = sample("voc", tmp_path / "in")
    Image.fromarray(np.full(SIZE, 255, np.uint8)).save(path)
    found = imported(tmp_path / "in", tmp_path / "out", options=ImportOptions(void="polyp"))
    assert (found["a"] == 1).all()


@pytest.mark.parametrize(("orientation", "stated", "why"), [(6, SIZE, ""), (6, SIZE[::-1], ""), (3, SIZE, "EXIF")])
def test_labels_of_turned_images(orientation: int, stated: tuple[int, int], why: str, tmp_path: Path) -> None:
    """A tool shows the image as stored, or as its EXIF tag turns it; the size that it states tells which."""
    path = sample("coco", tmp_path / "in")
    changed(lambda r: r["images"][0].update(height=stated[0], width=stated[1]))(path)
    image, exif = Image.open(tmp_path / "in" / "a.png"), Image.Exif()
    exif[0x0112] = orientation
    image.save(tmp_path / "in" / "a.jpg", exif=exif)
    (tmp_path / "in" / "a.png").unlink()
    if why:
        with pytest.raises(ValueError, match=why):
            imported(path, tmp_path / "out")
        return
    mask = imported(path, tmp_path / "out")["a"]
    assert mask.shape == SIZE[::-1] and mask.any()


def test_two_images_of_one_name_are_told_apart_by_their_folders(tmp_path: Path) -> None:
    path = sample("coco", tmp_path / "in")
    for part in ("x", "y"):
        picture(tmp_path / "in" / part / "a.png")
    changed(lambda r: r["images"][0].update(file_name="x/a.png"))(path)
    assert list(imported(path, tmp_path / "out")) == ["x_a"]
    assert {p.stem for p in (tmp_path / "out" / "images").iterdir()} == {"a", "x_a", "y_a"}


def test_validation_files_make_a_validation_list(tmp_path: Path) -> None:
    root = tmp_path / "in"
    write_json(sample("coco", root).with_name("train.json"), coco())
    (root / "labels.json").unlink()
    record = coco()
    record["images"][0].update(file_name="b.png")
    picture(root / "b.png")
    write_json(root / "val.json", record)
    imported(root, tmp_path / "out")
    assert (tmp_path / "out" / "val.txt").read_text() == "b\n"


@pytest.mark.parametrize("tracks", [False, True])
def test_cvat_labels_of_a_video_are_masks_of_its_frames(tracks: bool, tmp_path: Path) -> None:
    (tmp_path / "in").mkdir()
    film(tmp_path / "in" / "film.mp4")
    points = 'points="0,0;9,0;9,9;0,9"'
    if tracks:
        body = f'<polygon frame="3" outside="0" keyframe="1" {points}/><polygon frame="4" outside="1" {points}/>'
        shapes = f'<track id="0" label="polyp">{body}</track>'
    else:
        shapes = f'<image id="1" name="frame_000003" width="64" height="48"><polygon label="polyp" {points}/></image>'
    text = f"<annotations><version>1.1</version><meta><source>film.mp4</source></meta>{shapes}</annotations>"
    (tmp_path / "in" / "annotations.xml").write_text(text)
    found = imported(tmp_path / "in", tmp_path / "out", options=ImportOptions(every=5))
    assert list(found) == ["film/000003"] and found["film/000003"].sum() == 81
    assert {p.stem for p in (tmp_path / "out" / "images" / "film").iterdir()} == {
        "000000",
        "000003",
        "000005",
        "000010",
    }
    (tmp_path / "in" / "annotations.xml").write_text(text.replace("000003", "000099").replace('"3"', '"99"'))
    with pytest.raises(ValueError, match="has no frame 99 that the labels name"):
        imported(tmp_path / "in", tmp_path / "other")


def test_corrected_labels_of_clips_stay_clips(tmp_path: Path) -> None:
    """Frames of a video go to a label tool and come back: they must not become patients of their own."""
    colonoscopy(tmp_path / "in")
    options = ImportOptions(clip_frames=20)
    first = imported(tmp_path / "in", tmp_path / "out", options=options)
    images = tmp_path / "out" / "images"
    export_labels(tmp_path / "out" / "masks", tmp_path / "l.json", format="coco", images=images)
    again = imported(tmp_path / "l.json", tmp_path / "again", options=ImportOptions(images=images))
    assert list(again) == list(first) and all((again[name] == first[name]).all() for name in first)
    manifest = json.loads((tmp_path / "again" / "manifest.json").read_text())
    assert manifest["layout"] == "clips" and manifest["counts"]["patients"] == 2


def test_an_image_that_is_missing_is_no_frame_of_a_video_beside_it(tmp_path: Path) -> None:
    path = sample("coco", tmp_path / "in")
    replaced("a.png", "IMG_0003.png")(path)
    film(tmp_path / "in" / "film.mp4")
    with pytest.raises(ValueError, match="IMG_0003.png, which is not below"):
        imported(path, tmp_path / "out")
    replaced("IMG_0003.png", "film_0003.png")(path)
    changed(lambda r: r["images"][0].update(height=48, width=64))(path)
    (tmp_path / "in" / "a.png").unlink()
    assert list(imported(path, tmp_path / "out", options=ImportOptions(every=99))) == ["film/000003"]


def test_a_mask_of_labelme_is_a_picture_in_its_box(tmp_path: Path) -> None:
    path = sample("labelme", tmp_path / "in")
    data = io.BytesIO()
    Image.fromarray(np.eye(4, dtype=bool)).save(data, "PNG")
    text = base64.b64encode(data.getvalue()).decode()
    changed(lambda r: shape_of(r).update(shape_type="mask", points=[[5, 6], [8, 9]], mask=text))(path)
    assert (imported(path, tmp_path / "out")["a"][6:10, 5:9] == np.eye(4)).all()


@pytest.mark.parametrize("other", [True, False])
def test_a_labelme_file_beside_an_image_that_names_another_one_is_printed(other: bool, tmp_path: Path) -> None:
    path = sample("labelme", tmp_path / "in")
    path.rename(path.with_name("b.json" if other else "a.json"))
    picture(tmp_path / "in" / "b.png")
    lines: list[str] = []
    found = imported(tmp_path / "in", tmp_path / "out", tell=lines.append)
    assert list(found) == ["a"]
    assert any("1 label files name another image" in line and "b.json: a.png counts" in line for line in lines) == other


def test_export_says_what_does_not_fit(tmp_path: Path) -> None:
    root = folder(tmp_path / "data")
    for options, why in (
        ({"format": "nonsense"}, "unknown format"),
        ({"format": "coco", "options": ExportOptions("auto", 2.0)}, "add --shapes polygon"),
        ({"format": "coco", "images": tmp_path}, "has no image named case_0"),
        ({"format": "coco", "classes": ("polyp",)}, "2"),
    ):
        with pytest.raises(ValueError, match=why):
            export_labels(root / "masks", tmp_path / "l.json", **options)  # type: ignore[arg-type]
    with pytest.raises(ValueError, match="must end in .xml"):
        export_labels(root / "masks", tmp_path / "l.json", format="cvat", classes=CLASSES)
    assert not (tmp_path / "l.json").exists()
