"""Data sets of cells and tissue under the microscope."""

from __future__ import annotations

from edgemt.convert.datasets.pictures import aperio_regions, objects, pictures, united_or_runs
from edgemt.convert.datasets.row import DataSet, Files

_NAME = r"(?P<name>TCGA-[^/]+)\.tif"
_RECIPE = ("kvasir_cpu", "--augment.rot90")
MONUSEG = DataSet(
    name="monuseg",
    aliases=("monuseg2018",),
    title="MoNuSeg 2018",
    task="nuclei",
    modality="histology, H&E, 40x",
    content="30 tiles for training, 14 for test, 1000 x 1000",
    terms="CC BY-NC-SA 4.0",
    home="https://monuseg.grand-challenge.org/Data/",
    sources=("https://github.com/constantinpape/torch-em (torch_em/data/datasets/histopathology/monuseg.py, util.py)",),
    needs="'MoNuSeg 2018 Training Data/Tissue Images'/*.tif with Annotations/*.xml; MoNuSegTestData/*.tif and *.xml",
    classes=("nucleus",),
    files=(
        Files(rf"MoNuSegTestData/{_NAME}", labels=("MoNuSegTestData/{name}.xml",), part="test"),
        Files(rf"Tissue Images/{_NAME}", labels=("Annotations/{name}.xml", "**/{name}.xml")),
    ),
    load=pictures(aperio_regions),
    split="30 tiles train, 14 test",
    notes=("nuclei that touch become one area: masks have classes, not objects",),
    recipe=_RECIPE,
)
_ID = r"(?P<name>[0-9a-f]{4,})"
DSB2018 = DataSet(
    name="dsb2018",
    aliases=("bbbc038",),
    title="Data Science Bowl 2018",
    task="nuclei",
    modality="microscopy of several kinds",
    content="670 images for training, 65 for test, 256 x 256 to 1388 x 1040",
    terms="CC0",
    home="https://bbbc.broadinstitute.org/BBBC038",
    sources=(
        "https://github.com/constantinpape/torch-em (torch_em/data/datasets/light_microscopy/dsb.py)",
        "https://www.kaggle.com/c/data-science-bowl-2018/data (run lengths)",
    ),
    needs="stage1_train/ID/images/ID.png and stage1_train/ID/masks/*.png; stage1_test and stage1_solution.csv",
    classes=("nucleus",),
    files=(
        Files(rf"stage1_train/{_ID}/images/(?P=name)\.png", each=r"stage1_train/<name>/masks/[^/]+\.png"),
        Files(
            rf"stage1_test/{_ID}/images/(?P=name)\.png",
            labels=("**/stage1_solution.csv",),
            part="test",
            optional=True,
        ),
    ),
    load=pictures(united_or_runs),
    split="670 images train, 65 test (labels: stage1_solution.csv)",
    notes=("nuclei that touch become one area: masks have classes, not objects",),
    recipe=_RECIPE,
)
CRAG = DataSet(
    name="crag",
    aliases=("crai",),
    title="CRAG",
    task="glands of colorectal adenocarcinoma",
    modality="histology, H&E, 20x",
    content="173 tiles for training, 40 for test, about 1512 x 1516",
    terms="research; cite MILD-Net",
    home="https://warwick.ac.uk/fac/cross_fac/tia/data/mildnet/",
    sources=(
        "https://github.com/openmedlab/Awesome-Medical-Dataset (resources/CRAG.md)",
        "https://github.com/XiaoyuZHK/CRAG-Dataset_Aug_ToCOCO",
    ),
    needs="train/Images/train_N.png with train/Annotation/train_N.png; valid/Images/test_N.png likewise",
    classes=("gland",),
    files=(
        Files(r"train/Images/(?P<name>train_\d+)\.png", labels=("train/Annotation/{name}.png",)),
        Files(r"valid/Images/(?P<name>test_\d+)\.png", labels=("valid/Annotation/{name}.png",), part="test"),
    ),
    load=pictures(objects),
    split="173 tiles train, 40 test (its folder valid)",
    notes=("glands that touch become one area: masks have classes, not objects",),
    recipe=_RECIPE,
)
ROWS = (MONUSEG, DSB2018, CRAG)
