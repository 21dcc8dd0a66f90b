"""Photographs of the skin and the eye: dermoscopy, fundus, OCT angiography."""

from __future__ import annotations

import numpy as np

from edgemt.convert.datasets.pictures import bright, by_folder, pictures, values
from edgemt.convert.datasets.row import DataSet, Files

_LESION = r"(?P<name>ISIC_\d{7})\.jpg"


def _isic(name: str, year: str, content: str, terms: str, parts: dict[str, tuple[str, str]], needs: str) -> DataSet:
    files = tuple(
        Files(rf"{images}/{_LESION}", labels=(f"{masks}/{{name}}_segmentation.png",), part=part, optional=bool(part))
        for part, (images, masks) in parts.items()
    )
    return DataSet(
        name=name,
        title=f"ISIC {year}, lesion segmentation",
        task="skin lesions",
        modality="dermoscopy",
        content=content,
        terms=terms,
        home=f"https://challenge.isic-archive.com/data/#{year}",
        sources=(
            "https://github.com/constantinpape/torch-em (torch_em/data/datasets/medical/isic.py)",
            "https://github.com/open-mmlab/mmsegmentation (projects/medical, isic2017_task1)",
        ),
        needs=needs,
        classes=("lesion",),
        files=files,
        load=pictures(bright()),
        split="train, validation, test, each in folders of its own",
        notes=("lesions of one patient are not marked",),
        recipe=("kvasir_cpu", "--augment.flip-vertical"),
    )


ISIC2017 = _isic(
    "isic2017",
    "2017",
    "2,000 images for training, 150 for validation, 600 for test",
    "CC0",
    {
        "": ("ISIC-2017_Training_Data", "ISIC-2017_Training_Part1_GroundTruth"),
        "val": ("ISIC-2017_Validation_Data", "ISIC-2017_Validation_Part1_GroundTruth"),
        "test": ("ISIC-2017_Test_v2_Data", "ISIC-2017_Test_v2_Part1_GroundTruth"),
    },
    "ISIC-2017_Training_Data/*.jpg, ISIC-2017_Training_Part1_GroundTruth/*_segmentation.png; Validation and Test_v2",
)
ISIC2018 = _isic(
    "isic2018",
    "2018",
    "2,594 images for training, 100 for validation, 1,000 for test",
    "CC BY-NC 4.0",
    {
        "": ("ISIC2018_Task1-2_Training_Input", "ISIC2018_Task1_Training_GroundTruth"),
        "val": ("ISIC2018_Task1-2_Validation_Input", "ISIC2018_Task1_Validation_GroundTruth"),
        "test": ("ISIC2018_Task1-2_Test_Input", "ISIC2018_Task1_Test_GroundTruth"),
    },
    "ISIC2018_Task1-2_Training_Input/*.jpg, ISIC2018_Task1_Training_GroundTruth/*_segmentation.png; Validation, Test",
)
REFUGE = DataSet(
    name="refuge",
    title="REFUGE",
    task="optic disc and cup",
    modality="fundus photography",
    content="400 images for training, 400 for validation, 400 for test",
    terms="registration; research only",
    home="https://refuge.grand-challenge.org/",
    sources=("https://github.com/open-mmlab/mmsegmentation (tools/dataset_converters/refuge.py)",),
    needs="Training400/{Glaucoma,Non-Glaucoma}/*.jpg and Annotation-Training400/Disc_Cup_Masks/*/*.bmp",
    classes=("optic_disc", "optic_cup"),
    files=(
        Files(
            r"Training400/(?P<kind>Glaucoma|Non-Glaucoma)/(?P<name>[gn]\d{4})\.jpg",
            labels=("**/Disc_Cup_Masks/{kind}/{name}.bmp",),
        ),
        Files(
            r"(?:REFUGE-)?Validation400/(?P<name>V\d{4})\.jpg",
            labels=("**/Disc_Cup_Masks/{name}.bmp",),
            part="val",
            optional=True,
        ),
        Files(
            r"(?:REFUGE-)?Test400/(?P<name>T\d{4})\.jpg",
            labels=tuple(f"**/Disc_Cup_Masks/{kind}{{name}}.bmp" for kind in ("", "G/", "N/")),
            part="test",
            optional=True,
        ),
    ),
    load=pictures(values({255: 0, 128: 1, 0: 2})),
    split="train, validation, test, 400 images each",
    notes=("the disc is the ring around the cup; the disc of the papers is both classes together",),
    recipe=("kvasir_cpu",),
)


def _vessel_or_faz(folder: str, mask: np.ndarray) -> np.ndarray:
    return (mask > 0).astype(np.uint8) * np.uint8(1 if folder == "GT_LargeVessel" else 2)


_GT = ("**/GT_LargeVessel/{name}.bmp", "**/GT_FAZ/{name}.bmp")
_TEST = r"1020[1-9]|102[1-9]\d|10300|1045[1-9]|104[6-9]\d|10500"
_VAL = r"1018[1-9]|1019\d|10200|1044[1-9]|10450"
_MAPS = r"Projection Maps/OCTA\(ILM_OPL\)/"
OCTA_500 = DataSet(
    name="octa-500",
    aliases=("octa500",),
    title="OCTA-500",
    task="large vessels and foveal avascular zone",
    modality="OCT angiography, projection ILM to OPL",
    content="300 images of 6 mm, 400 x 400, and 200 of 3 mm, 304 x 304",
    terms="see the home page",
    home="https://ieee-dataport.org/open-access/octa-500",
    sources=(
        "https://github.com/chaosallen/IPNV2_pytorch (options/base_options.py: the split of 6 mm)",
        "https://github.com/openmedlab/Awesome-Medical-Dataset (resources/OCTA-500.md)",
    ),
    needs="OCTA_6mm/'Projection Maps'/OCTA(ILM_OPL)/1NNNN.bmp, OCTA_3mm likewise, Label/GT_LargeVessel and GT_FAZ",
    classes=("vessel", "avascular_zone"),
    files=(
        Files(_MAPS + rf"(?P<name>{_TEST})\.bmp", together=_GT, part="test"),
        Files(_MAPS + rf"(?P<name>{_VAL})\.bmp", together=_GT, part="val"),
        Files(_MAPS + r"(?P<name>1\d{4})\.bmp", together=_GT),
    ),
    load=pictures(by_folder(_vessel_or_faz)),
    split="6 mm: 10001 to 10180 train, to 10200 validation, to 10300 test; 3 mm: 10301 to 10440, to 10450, to 10500",
    recipe=("kvasir_cpu", "--data.channels", "1"),
)
ROWS = (ISIC2017, ISIC2018, REFUGE, OCTA_500)
