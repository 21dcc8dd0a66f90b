"""The ten tasks of the Medical Segmentation Decathlon, http://medicaldecathlon.com.

Folder, modality, classes in the order of their values and numbers of images as in the dataset.json of each task:
https://arxiv.org/abs/1902.09063; names of the files as in https://github.com/Project-MONAI/tutorials and torch-em.
"""

from __future__ import annotations

from edgemt.convert.datasets.row import DataSet, Files
from edgemt.convert.datasets.volumes import several_images

_CT = ("acdc_cpu", "--augment.preset", "ct")
_MRI = ("acdc_cpu",)


def _task(
    number: int,
    folder: str,
    cases: str,
    modality: str,
    content: str,
    classes: tuple[str, ...],
    channels: tuple[str, ...] = (),
) -> DataSet:
    return DataSet(
        name=f"msd-{folder.lower()}",
        aliases=(f"msd{number:02d}",),
        title=f"Medical Segmentation Decathlon, Task{number:02d}_{folder}",
        task=", ".join(classes).replace("_", " "),
        modality=modality,
        content=content,
        terms="CC BY-SA 4.0",
        home="http://medicaldecathlon.com",
        sources=(
            "https://github.com/constantinpape/torch-em (torch_em/data/datasets/medical/msd.py)",
            "https://arxiv.org/abs/1902.09063",
        ),
        needs=f"Task{number:02d}_{folder}/imagesTr/{cases}_N.nii.gz, labelsTr/{cases}_N.nii.gz and imagesTs",
        classes=classes,
        files=(
            Files(rf"imagesTr/(?P<name>{cases}_\d+)\.nii\.gz", labels=("labelsTr/{name}.nii.gz",)),
            Files(rf"imagesTs/(?P<name>{cases}_\d+)\.nii\.gz", part="test", optional=True),
        ),
        load=several_images(len(classes)),
        layout="volumes",
        split="imagesTr train, imagesTs test (no labels)",
        notes=(_as_it_is(channels),),
        channels=channels,
        recipe=_CT if modality == "CT" else _MRI,
    )


def _as_it_is(channels: tuple[str, ...]) -> str:
    """How training reads the folder without an import; channels are those of the fourth axis of its files."""
    names = f" --data.channel-names {' '.join(channels)}" if channels else ""
    return f"training also reads the folder as it is: --data.layout decathlon{names}"


ROWS = (
    _task(
        1, "BrainTumour", "BRATS", "MRI, four sequences", "484 patients for training, 266 for test",
        ("edema", "non_enhancing_tumour", "enhancing_tumour"), ("FLAIR", "T1w", "T1gd", "T2w"),
    ),
    _task(2, "Heart", "la", "MRI", "20 patients for training, 10 for test", ("left_atrium",)),
    _task(3, "Liver", "liver", "CT", "131 patients for training, 70 for test", ("liver", "cancer")),
    _task(4, "Hippocampus", "hippocampus", "MRI", "260 volumes for training, 130 for test", ("anterior", "posterior")),
    _task(
        5, "Prostate", "prostate", "MRI, T2 and ADC", "32 patients for training, 16 for test",
        ("peripheral_zone", "transition_zone"), ("T2", "ADC"),
    ),
    _task(6, "Lung", "lung", "CT", "63 patients for training, 32 for test", ("cancer",)),
    _task(7, "Pancreas", "pancreas", "CT", "281 patients for training, 139 for test", ("pancreas", "cancer")),
    _task(8, "HepaticVessel", "hepaticvessel", "CT", "303 patients for training, 140 for test", ("vessel", "tumour")),
    _task(9, "Spleen", "spleen", "CT", "41 patients for training, 20 for test", ("spleen",)),
    _task(10, "Colon", "colon", "CT", "126 patients for training, 64 for test", ("colon_cancer",)),
)  # fmt: skip
