"""Tiny folders in the layout of each public data set: names, formats, colour codes and spacings of the real one.

A function of SAMPLES makes the folder and returns what the import must write. Values and colours are written out here,
not taken from the rows.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass, field
from pathlib import Path

import numpy as np
from PIL import Image

SIZE = (16, 24)
SHAPE = (6, 5, 4)
SPACING = (0.7, 0.8, 5.0)


@dataclass
class Planted:
    """Case -> class indices, of training and of test; None: without a label. `patients` of the training part."""

    train: dict[str, np.ndarray | None] = field(default_factory=dict)
    test: dict[str, np.ndarray | None] = field(default_factory=dict)
    val: set[str] = field(default_factory=set)
    patients: int | None = None
    channels: int = 1


def truth(seed: int, classes: int, shape: tuple[int, ...] = SIZE) -> np.ndarray:
    """uint8 class indices in blocks of 8 x 8 pixels, each class at least once where blocks are enough."""
    if len(shape) == 3:
        return ((np.arange(np.prod(shape)) * 7 + seed) % (classes + 1)).reshape(shape).astype(np.uint8)
    rough = ((np.arange(6) + seed) % (classes + 1)).reshape(2, 3).astype(np.uint8)
    return np.kron(rough, np.ones((8, 8), np.uint8))


def save(path: Path, array: np.ndarray, **options: object) -> None:
    path.parent.mkdir(parents=True, exist_ok=True)
    Image.fromarray(array).save(path, **options)


def photo(path: Path, seed: int = 0) -> None:
    values = np.random.default_rng(seed).integers(0, 256, (*SIZE, 3)).astype(np.uint8)
    save(path, values, **({"quality": 95} if path.suffix == ".jpg" else {}))


def rgb(mask: np.ndarray) -> np.ndarray:
    return np.repeat(mask[..., None], 3, -1)


def coded(mask: np.ndarray, values: tuple[int, ...]) -> np.ndarray:
    return np.array(values)[mask].astype(np.uint8)


# endoscopy ------------------------------------------------------------------------------------------------------------


def kvasir_seg(root: Path) -> Planted:
    planted = Planted()
    for k, name in enumerate(("cju0qkwl35piu0993l0dewei2", "cju0qoxqj9q6s0835b43399p4", "cju0rx1idathl0835detmsp84")):
        planted.train[name] = truth(k, 1)
        photo(root / "Kvasir-SEG" / "images" / f"{name}.jpg", k)
        save(root / "Kvasir-SEG" / "masks" / f"{name}.jpg", rgb(truth(k, 1) * 255), quality=90)
    (root / "Kvasir-SEG" / "kavsir_bboxes.json").write_text("{}")
    (root / "Kvasir-SEG" / "val.txt").write_text("cju0rx1idathl0835detmsp84\n")
    planted.val = {"cju0rx1idathl0835detmsp84"}
    return planted


def cvc_clinicdb(root: Path) -> Planted:
    planted = Planted(patients=3)
    for k, (frame, clip) in enumerate(((1, "sequence01/001"), (25, "sequence01/025"), (26, "sequence02/026"),
                                       (612, "sequence29/612"))):  # fmt: skip
        planted.train[clip] = truth(k, 1)
        photo(root / "Original" / f"{frame}.tif", k)
        save(root / "Ground Truth" / f"{frame}.tif", truth(k, 1) * 255)
    return planted


def cvc_colondb(root: Path) -> Planted:
    planted = Planted()
    for name in ("1", "380"):
        planted.train[name] = truth(int(name), 1)
        photo(root / "TestDataset" / "CVC-ColonDB" / "images" / f"{name}.png", int(name))
        save(root / "TestDataset" / "CVC-ColonDB" / "masks" / f"{name}.png", truth(int(name), 1) * 255)
    return planted


def sun_seg(root: Path) -> Planted:
    planted, base = Planted(patients=2), root / "SUN-SEG"
    cases = {
        "TrainDataset": ("case1_1", "case1_3", "case12_2"),
        "TestEasyDataset/Seen": ("case2_3",),
        "TestHardDataset/Unseen": ("case10_1",),
    }
    for part, clips in cases.items():
        for k, clip in enumerate(clips):
            frame = f"case_M_20181001100941_0U62372100109341_1_005_001-1_a2_ayy_image{k:04d}"
            photo(base / part / "Frame" / clip / f"{frame}.jpg", k)
            save(base / part / "GT" / clip / f"{frame}.png", truth(k, 1) * 255)
            where = planted.train if part == "TrainDataset" else planted.test
            where[f"{clip.replace('_', '_t')}/{frame}"] = truth(k, 1)
    return planted


def kvasir_instrument(root: Path) -> Planted:
    planted = Planted()
    for k, name in enumerate(("ckcu8ty6z00003b5yzfaezbs5", "ckcu94p3u00023b5yj6o5sgqz")):
        photo(root / "images" / f"{name}.jpg", k)
        save(root / "masks" / f"{name}.png", rgb(truth(k, 1) * 255))
        (planted.test if k else planted.train)[name] = truth(k, 1)
    (root / "train.txt").write_text("ckcu8ty6z00003b5yzfaezbs5\n")
    (root / "test.txt").write_text("ckcu94p3u00023b5yj6o5sgqz\n")
    return planted


_TOOLS = {
    "Maryland_Bipolar_Forceps_labels": 1, "Left_Prograsp_Forceps_labels": 2, "Large_Needle_Driver_Right_labels": 3,
    "Other_labels": 7,
}  # fmt: skip


def _endovis2017(expected: Callable[[np.ndarray, np.ndarray], np.ndarray]) -> Callable[[Path], Planted]:
    def make(root: Path) -> Planted:
        planted = Planted(patients=2)
        for number in (1, 2):
            base = root / "instrument_1_4_training" / f"instrument_dataset_{number}"
            photo(base / "left_frames" / "frame000.png", number)
            tools, parts = np.zeros(SIZE, np.uint8), np.zeros(SIZE, np.uint8)
            for k, (folder, kind) in enumerate(_TOOLS.items()):
                mask = np.zeros(SIZE, np.uint8)
                columns = slice(6 * k, 6 * k + 4)
                mask[:, columns] = (np.arange(16)[:, None] // 4) * 10 if kind != 7 else 40
                save(base / "ground_truth" / folder / "frame000.png", mask)
                tools[mask > 0] = kind
                parts[:, columns] = mask[:, columns] // 10 * (kind != 7)
            planted.train[f"instrument_dataset_{number}/frame000"] = expected(tools, parts)
        photo(root / "instrument_1_4_testing" / "instrument_dataset_1" / "left_frames" / "frame225.png", 5)
        planted.test["instrument_dataset_1/frame225"] = None
        return planted

    return make


def endovis2018(root: Path) -> Planted:
    colours = np.array([
        (0, 0, 0), (0, 255, 0), (0, 255, 255), (125, 255, 12), (255, 55, 0), (24, 55, 125), (187, 155, 25),
        (0, 255, 125), (255, 255, 125), (123, 15, 175), (124, 155, 5), (12, 255, 141),
    ], np.uint8)  # fmt: skip
    planted = Planted(patients=2)
    for k, release, clip in (
        (0, "miccai_challenge_2018_release_1", "seq_1"),
        (6, "miccai_challenge_release_2", "seq_5"),
    ):
        photo(root / release / clip / "left_frames" / "frame042.png", k)
        save(root / release / clip / "labels" / "frame042.png", colours[truth(k, 11)])
        planted.train[f"{clip}/frame042"] = truth(k, 11)
    save(root / "repairs" / "seq_1_frame042.png", colours[truth(3, 11)])
    planted.train["seq_1/frame042"] = truth(3, 11)
    photo(root / "test_data" / "seq_1" / "left_frames" / "frame000.png", 9)
    alpha = np.full((*SIZE, 1), 128, np.uint8)
    save(root / "test_data" / "seq_1" / "labels" / "frame000.png", np.concatenate([colours[truth(1, 11)], alpha], -1))
    planted.test["seq_1/frame000"] = truth(1, 11)
    return planted


def cholecseg8k(root: Path) -> Planted:
    values = (50, 11, 21, 13, 12, 31, 23, 24, 25, 32, 22, 33, 5)
    planted = Planted(patients=2)
    for k, (video, clip) in enumerate((("video01", "00080"), ("video01", "00160"), ("video55", "00508"))):
        base = root / video / f"{video}_{clip}"
        frame = f"frame_{int(clip)}"
        photo(base / f"{frame}_endo.png", k)
        mask = coded(truth(4 * k, 12), values)
        mask[0, :2], mask[0, 2:4] = 255, 0
        expected = truth(4 * k, 12)
        expected[0, :4] = 0
        save(base / f"{frame}_endo_watershed_mask.png", rgb(mask))
        save(base / f"{frame}_endo_mask.png", rgb(mask))
        save(base / f"{frame}_endo_color_mask.png", rgb(mask))
        planted.train[f"{video}_t{clip}/{frame}"] = expected
    return planted


# microscopy -----------------------------------------------------------------------------------------------------------


def monuseg(root: Path) -> Planted:
    mask = np.zeros(SIZE, np.uint8)
    mask[2:6, 3:9] = mask[8:14, 10:20] = 1
    regions = "".join(
        "<Region><Vertices>" + "".join(f'<Vertex X="{x}" Y="{y}" Z="0"/>' for x, y in corners) + "</Vertices></Region>"
        for corners in (((3, 2), (9, 2), (9, 6), (3, 6)), ((10, 8), (20, 8), (20, 14), (10, 14)), ((1, 1), (2, 2)))
    )
    xml = f'<Annotations MicronsPerPixel="0.252"><Annotation><Regions>{regions}</Regions></Annotation></Annotations>'
    train, test = root / "MoNuSeg 2018 Training Data", root / "MoNuSegTestData"
    for name, image, label in (
        ("TCGA-A7-A13E-01Z-00-DX1", train / "Tissue Images", train / "Annotations"),
        ("TCGA-2Z-A9J9-01A-01-TS1", test, test),
    ):
        photo(image / f"{name}.tif")
        label.mkdir(parents=True, exist_ok=True)
        (label / f"{name}.xml").write_text(xml)
    return Planted(train={"TCGA-A7-A13E-01Z-00-DX1": mask}, test={"TCGA-2Z-A9J9-01A-01-TS1": mask})


def dsb2018(root: Path) -> Planted:
    names = ("00ae65c1c6631ae6f2be1a449902976e6eb8483bf6b0740d00530220832c6d3e",
             "0114f484a16c152baa2d82fdd43740880a762c93f436c8988ac461c5c9dbe7d5")  # fmt: skip
    mask = np.zeros(SIZE, np.uint8)
    for k, area in enumerate(((slice(0, 4), slice(2, 5)), (slice(9, 12), slice(20, 24)))):
        one = np.zeros(SIZE, np.uint8)
        one[area] = 255
        mask[area] = 1
        save(root / "stage1_train" / names[0] / "masks" / f"{k:064x}.png", one)
    photo(root / "stage1_train" / names[0] / "images" / f"{names[0]}.png")
    photo(root / "stage1_test" / names[1] / "images" / f"{names[1]}.png", 1)
    runs = "\n".join(f"{names[1]},{start} {n},16,24,Public" for start, n in ((2 * 16 + 1, 4), (23 * 16 + 10, 3)))
    (root / "stage1_solution.csv").write_text(f"ImageId,EncodedPixels,Height,Width,Usage\n{runs}\n")
    test = np.zeros(SIZE, np.uint8)
    test[0:4, 2] = test[9:12, 23] = 1
    return Planted(train={names[0]: mask}, test={names[1]: test})


def crag(root: Path) -> Planted:
    planted = Planted()
    for k, (part, name) in enumerate((("train", "train_1"), ("train", "train_37"), ("valid", "test_1"))):
        base = root / "CRAG_v2" / "CRAG" / part
        for folder in ("Images", "Overlay"):
            photo(base / folder / f"{name}.png", k)
        save(base / "Annotation" / f"{name}.png", truth(k, 3))
        (planted.train if part == "train" else planted.test)[name] = (truth(k, 3) > 0).astype(np.uint8)
    return planted


# skin and eye ---------------------------------------------------------------------------------------------------------


def _isic(folders: dict[str, tuple[str, str]]) -> Callable[[Path], Planted]:
    def make(root: Path) -> Planted:
        planted = Planted()
        for k, (part, (images, masks)) in enumerate(folders.items()):
            name = f"ISIC_{k:07d}"
            photo(root / images / f"{name}.jpg", k)
            if "2017" in images:
                save(root / images / f"{name}_superpixels.png", rgb(truth(k, 1)))
            save(root / masks / f"{name}_segmentation.png", truth(k, 1) * 255)
            (planted.test if part == "test" else planted.train)[name] = truth(k, 1)
            planted.val |= {name} if part == "val" else set()
        return planted

    return make


def refuge(root: Path) -> Planted:
    planted, gt = Planted(val={"V0001"}), {}
    for k, (image, label, part) in enumerate((
        ("REFUGE-Training400/Training400/Glaucoma/g0001.jpg",
         "Annotation-Training400/Annotation-Training400/Disc_Cup_Masks/Glaucoma/g0001.bmp", "train"),
        ("REFUGE-Training400/Training400/Non-Glaucoma/n0001.jpg",
         "Annotation-Training400/Annotation-Training400/Disc_Cup_Masks/Non-Glaucoma/n0001.bmp", "train"),
        ("REFUGE-Validation400/V0001.jpg", "REFUGE-Validation400-GT/Disc_Cup_Masks/V0001.bmp", "train"),
        ("REFUGE-Test400/Test400/T0001.jpg", "REFUGE-Test-GT/Disc_Cup_Masks/G/T0001.bmp", "test"),
    )):  # fmt: skip
        photo(root / image, k)
        save(root / label, coded(truth(k, 2), (255, 128, 0)))
        gt = planted.train if part == "train" else planted.test
        gt[Path(image).stem] = truth(k, 2)
    return planted


def octa_500(root: Path) -> Planted:
    planted = Planted(val={"10441"})
    for k, (folder, name) in enumerate((
        ("OCTA_6mm_part8/OCTA_6mm", "10001"), ("OCTA_3mm_part3/OCTA_3mm", "10301"),
        ("OCTA_3mm_part3/OCTA_3mm", "10441"), ("OCTA_6mm_part8/OCTA_6mm", "10300"),
    )):  # fmt: skip
        expected = truth(k, 2)
        for projection in ("OCTA(FULL)", "OCTA(ILM_OPL)", "OCTA(OPL_BM)"):
            save(root / folder / "Projection Maps" / projection / f"{name}.bmp", truth(k, 9) * 20)
        save(root / "Label" / "GT_LargeVessel" / f"{name}.bmp", (expected == 1).astype(np.uint8) * 255)
        save(root / "Label" / "GT_FAZ" / f"{name}.bmp", (expected == 2).astype(np.uint8) * 255)
        save(root / "Label" / "GT_Capillary" / f"{name}.bmp", np.full(SIZE, 255, np.uint8))
        (planted.test if name == "10300" else planted.train)[name] = expected
    return planted


SAMPLES: dict[str, Callable[[Path], Planted]] = {
    "kvasir-seg": kvasir_seg,
    "cvc-clinicdb": cvc_clinicdb,
    "cvc-colondb": cvc_colondb,
    "sun-seg": sun_seg,
    "kvasir-instrument": kvasir_instrument,
    "endovis2017": _endovis2017(lambda tools, parts: tools),
    "endovis2017-parts": _endovis2017(lambda tools, parts: parts),
    "endovis2017-binary": _endovis2017(lambda tools, parts: ((tools > 0) & (tools != 7)).astype(np.uint8)),
    "endovis2018": endovis2018,
    "cholecseg8k": cholecseg8k,
    "monuseg": monuseg,
    "dsb2018": dsb2018,
    "crag": crag,
    "isic2017": _isic({
        "train": ("ISIC-2017_Training_Data", "ISIC-2017_Training_Part1_GroundTruth"),
        "val": ("ISIC-2017_Validation_Data", "ISIC-2017_Validation_Part1_GroundTruth"),
        "test": ("ISIC-2017_Test_v2_Data", "ISIC-2017_Test_v2_Part1_GroundTruth"),
    }),
    "isic2018": _isic({
        "train": ("ISIC2018_Task1-2_Training_Input", "ISIC2018_Task1_Training_GroundTruth"),
        "val": ("ISIC2018_Task1-2_Validation_Input", "ISIC2018_Task1_Validation_GroundTruth"),
        "test": ("ISIC2018_Task1-2_Test_Input", "ISIC2018_Task1_Test_GroundTruth"),
    }),
    "refuge": refuge,
    "octa-500": octa_500,
}  # fmt: skip
