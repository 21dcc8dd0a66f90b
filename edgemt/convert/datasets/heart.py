"""Data sets of the heart: cine and late-enhancement MRI, CT."""

from __future__ import annotations

from edgemt.convert.datasets.row import DataSet, Files
from edgemt.convert.datasets.volumes import hdf5, numbered, volumes

_VOLUMES = ("acdc_cpu",)
_SAT_DS = "https://github.com/zhaoziheng/SAT-DS (processor.py)"
ACDC = DataSet(
    name="acdc",
    title="ACDC",
    task="ventricles and myocardium",
    modality="cine MRI, short axis",
    content="100 patients for training, 50 for test, two frames each; slices 5 to 10 mm apart",
    terms="CC BY-NC-SA 4.0",
    home="https://humanheart-project.creatis.insa-lyon.fr/database/",
    sources=("https://github.com/constantinpape/torch-em (torch_em/data/datasets/medical/acdc.py)", _SAT_DS),
    needs="training/patientNNN/patientNNN_frameNN.nii.gz with patientNNN_frameNN_gt.nii.gz; testing likewise",
    classes=("right_ventricle", "myocardium", "left_ventricle"),
    files=(
        Files(
            r"(?P<patient>patient1(?:0[1-9]|[1-5]\d))/(?P<name>(?P=patient)_frame\d\d)\.nii\.gz",
            labels=("{patient}/{name}_gt.nii.gz",),
            part="test",
            optional=True,
        ),
        Files(
            r"(?P<patient>patient\d{3})/(?P<name>(?P=patient)_frame\d\d)\.nii\.gz",
            labels=("{patient}/{name}_gt.nii.gz",),
        ),
    ),
    load=volumes(numbered(3)),
    layout="volumes",
    split="patients 1 to 100 train, 101 to 150 test",
    recipe=_VOLUMES,
)
_LA_HOME = "https://www.cardiacatlas.org/atriaseg2018-challenge/"
LA2018 = DataSet(
    name="la2018",
    aliases=("la", "atriaseg2018"),
    title="2018 Atrial Segmentation Challenge",
    task="left atrium",
    modality="late gadolinium enhancement MRI",
    content="100 patients for training, 54 for test, 0.625 mm isotropic, 576 or 640 squared by 88",
    terms="registration; cite the challenge",
    home=_LA_HOME,
    sources=("https://github.com/yulequan/UA-MT (code/dataloaders/la_heart_processing.py)",),
    needs="'Training Set'/ID/lgemri.nrrd with laendo.nrrd; 'Testing Set' likewise",
    classes=("left_atrium",),
    files=(
        Files(
            r"Testing Set/(?P<name>\w+)/lgemri\.nrrd",
            labels=("Testing Set/{name}/laendo.nrrd",),
            part="test",
            optional=True,
        ),
        Files(r"(?P<name>\w+)/lgemri\.nrrd", labels=("{name}/laendo.nrrd",)),
    ),
    load=volumes({0: 0, 255: 1, 1: 1}),
    layout="volumes",
    split="100 patients train, 54 test",
    notes=("the whole volumes; the mean-teacher papers use the crops of la2018-h5",),
    recipe=("la_cpu",),
)
LA2018_H5 = DataSet(
    name="la2018-h5",
    aliases=("la-h5",),
    title="2018 Atrial Segmentation Challenge, crops of the mean-teacher papers",
    task="left atrium",
    modality="late gadolinium enhancement MRI",
    content="100 crops around the true atrium, 0.625 mm isotropic, standardised",
    terms="registration; cite the challenge",
    home="https://github.com/yulequan/UA-MT",
    sources=("https://github.com/yulequan/UA-MT (data, code/dataloaders/la_heart.py)",),
    needs="'2018LA_Seg_Training Set'/ID/mri_norm2.h5, with train.list and test.list beside that folder",
    classes=("left_atrium",),
    files=(Files(r"(?P<name>\w+)/mri_norm2\.h5", labels=("{name}/mri_norm2.h5",)),),
    lists=(("test", "**/test.list"),),
    load=hdf5(spacing_mm=0.625),
    layout="volumes",
    split="80 train, 20 test, by test.list",
    notes=("crops around the true atrium: Dice is higher than on whole volumes, as in all papers that use them",),
    recipe=("la_cpu",),
)
_WHS = {0: 0, 205: 1, 420: 2, 421: 2, 500: 3, 550: 4, 600: 5, 820: 6, 850: 7}


def _mm_whs(kind: str, modality: str) -> DataSet:
    return DataSet(
        name=f"mm-whs-{kind}",
        title=f"MM-WHS {kind.upper()}",
        task="seven parts of the heart",
        modality=modality,
        content="20 patients for training, 40 for test",
        terms="registration; research only",
        home="https://www.sdspeople.fudan.edu.cn/zhuangxiahai/0/mmwhs/",
        sources=("https://github.com/openmedlab/Awesome-Medical-Dataset (resources/MM-WHS.md)", _SAT_DS),
        needs=f"{kind}_train/{kind}_train_NNNN_image.nii.gz with {kind}_train_NNNN_label.nii.gz",
        classes=(
            "myocardium", "left_atrium", "left_ventricle", "right_atrium", "right_ventricle", "ascending_aorta",
            "pulmonary_artery",
        ),
        files=(
            Files(
                rf"(?P<name>{kind}_train_\d+)_image\.(?P<end>nii(?:\.gz)?)",
                labels=("{name}_label.{end}",),
            ),
            Files(rf"(?P<name>{kind}_test_\d+)_image\.nii(?:\.gz)?", part="test", optional=True),
        ),
        load=volumes(_WHS),
        layout="volumes",
        split="20 patients train, 40 test (no labels)",
        notes=("the value 421 of one volume is read as 420, left atrium",),
        recipe=_VOLUMES,
    )  # fmt: skip


ROWS = (ACDC, LA2018, LA2018_H5, _mm_whs("ct", "CT angiography"), _mm_whs("mr", "MRI"))
