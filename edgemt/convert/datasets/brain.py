"""Data sets of the brain and the spinal cord."""

from __future__ import annotations

from edgemt.convert.datasets.pictures import bright, pictures
from edgemt.convert.datasets.row import DataSet, Files
from edgemt.convert.datasets.volumes import numbered, volumes

_MRI = ("acdc_cpu",)
_TUMOUR = ("necrotic_core", "oedema", "enhancing_tumour")
_NNUNET = "https://github.com/MIC-DKFZ/nnUNet (nnunetv2/dataset_conversion)"
_MEDLAB = "https://github.com/openmedlab/Awesome-Medical-Dataset"
_ORDER = ("T1", "T1ce", "T2", "FLAIR")


def _brats(year: str, case: str, content: str, home: str, test: str, labels: tuple[str, ...] = ()) -> DataSet:
    first = rf"(?P<name>{case})/(?P=name)_t1\.(?P<end>nii(?:\.gz)?)"
    others = tuple(f"{{name}}/{{name}}_{kind}.{{end}}" for kind in ("t1ce", "t2", "flair"))
    return DataSet(
        name=f"brats{year}",
        title=f"BraTS {year}",
        task="parts of gliomas",
        modality="MRI, four sequences",
        content=content,
        terms="registration; terms of the challenge",
        home=home,
        sources=(_NNUNET, f"{_MEDLAB} (resources/BraTS2021.md)"),
        needs="CASE/CASE_t1.nii.gz with CASE_t1ce, CASE_t2, CASE_flair and CASE_seg",
        classes=_TUMOUR,
        files=(
            Files(test.replace("FIRST", first), channels=_under("folder", others), part="test", optional=True),
            Files(first, channels=others, labels=("{name}/{name}_seg.{end}", *labels)),
        ),
        load=volumes({0: 0, 1: 1, 2: 2, 4: 3}),
        layout="volumes",
        split="training folder train, validation folder test (no labels)",
        channels=_ORDER,
        recipe=_MRI,
    )


def _under(group: str, templates: tuple[str, ...]) -> tuple[str, ...]:
    return tuple(f"{{{group}}}{template}" for template in templates)


BRATS2020 = _brats(
    "2020",
    r"BraTS20_(?:Training|Validation)_\d{3}",
    "369 patients for training, 125 for validation, 240 x 240 x 155, 1 mm",
    "https://www.med.upenn.edu/cbica/brats2020/data.html",
    r"(?P<folder>(?:[^/]*ValidationData/)?(?=BraTS20_Validation))FIRST",
    ("{name}/W39_1998.09.19_Segm.{end}",),  # of case 355 in the released archive
)
BRATS2021 = _brats(
    "2021",
    r"BraTS2021_\d{5}",
    "1,251 patients for training, 219 for validation, 240 x 240 x 155, 1 mm",
    "https://www.synapse.org/#!Synapse:syn25829067",
    r"(?P<folder>[^/]*Validation[^/]*/)FIRST",
)
_GLI = r"(?P<patient>BraTS-GLI-\d{5})-(?P<visit>\d{3})"
_GLI_CASE = "{patient}-{visit}/{patient}-{visit}"
_GLI_OTHERS = tuple(f"{_GLI_CASE}-{kind}.nii.gz" for kind in ("t1c", "t2w", "t2f"))
_GLI_FIRST = rf"{_GLI}/(?P=patient)-(?P=visit)-t1n\.nii\.gz"
BRATS2023 = DataSet(
    name="brats2023-gli",
    title="BraTS 2023 glioma",
    task="parts of gliomas",
    modality="MRI, four sequences",
    content="1,251 visits for training, 219 for validation, 240 x 240 x 155, 1 mm",
    terms="registration; terms of the challenge",
    home="https://www.synapse.org/#!Synapse:syn51514105",
    sources=("https://github.com/zhaoziheng/SAT-DS (processor.py)",),
    needs="CASE/CASE-t1n.nii.gz with CASE-t1c, CASE-t2w, CASE-t2f and CASE-seg",
    classes=_TUMOUR,
    files=(
        Files(
            rf"(?P<folder>[^/]*Validation[^/]*/){_GLI_FIRST}",
            channels=_under("folder", _GLI_OTHERS),
            name="{patient}_t{visit}",
            part="test",
            optional=True,
        ),
        Files(_GLI_FIRST, channels=_GLI_OTHERS, labels=(f"{_GLI_CASE}-seg.nii.gz",), name="{patient}_t{visit}"),
    ),
    load=volumes(numbered(3)),
    layout="volumes",
    split="training folder train, validation folder test (no labels)",
    channels=_ORDER,
    recipe=_MRI,
)
FETA = DataSet(
    name="feta",
    aliases=("feta2022", "feta2024"),
    title="FeTA",
    task="seven tissues of the fetal brain",
    modality="T2 MRI, reconstructed",
    content="80 subjects in feta_2.1 to 2.3, 40 more of Vienna, 256 x 256 x 256",
    terms="agreement with the challenge; research only",
    home="https://feta.grand-challenge.org/data-download/",
    sources=(
        "https://github.com/constantinpape/torch-em (torch_em/data/datasets/medical/feta24.py)",
        f"{_MEDLAB} (resources/FeTA.md)",
    ),
    needs="sub-NNN/anat/sub-NNN_rec-METHOD_T2w.nii.gz with sub-NNN_rec-METHOD_dseg.nii.gz",
    classes=(
        "external_csf", "grey_matter", "white_matter", "ventricles", "cerebellum", "deep_grey_matter", "brainstem",
    ),
    files=(
        Files(
            r"(?P<name>sub-\w+)/anat/(?P=name)_rec-(?P<method>\w+)_T2w\.nii\.gz",
            labels=("{name}/anat/{name}_rec-{method}_dseg.nii.gz",),
        ),
    ),
    load=volumes(numbered(7)),
    layout="volumes",
    recipe=_MRI,
)  # fmt: skip
LGG = DataSet(
    name="lgg",
    aliases=("lgg-mri",),
    title="LGG MRI segmentation (TCGA, Buda)",
    task="FLAIR abnormality of low-grade gliomas",
    modality="MRI slices: before contrast, FLAIR, after contrast as RGB",
    content="3,929 slices of 110 patients, 256 x 256",
    terms="CC BY-NC-SA 4.0",
    home="https://www.kaggle.com/datasets/mateuszbuda/lgg-mri-segmentation",
    sources=("https://github.com/constantinpape/torch-em (torch_em/data/datasets/medical/lgg_mri.py)",),
    needs="kaggle_3m/TCGA_*/TCGA_*_N.tif with TCGA_*_N_mask.tif (the archive has kaggle_3m twice: name one)",
    classes=("abnormality",),
    files=(
        Files(
            r"(?P<patient>TCGA_[^/]+)/(?P<image>(?P=patient)_(?P<slice>\d+))\.tif",
            labels=("{patient}/{image}_mask.tif",),
            name="{patient}/slice_{slice}",
        ),
    ),
    load=pictures(bright()),
    layout="clips",
    notes=("the slices of a patient lie in a folder, as a clip",),
    recipe=("kvasir_cpu", "--augment.preset", "mri"),
)
SCGM = DataSet(
    name="scgm",
    aliases=("gm-challenge",),
    title="Spinal Cord Grey Matter Segmentation Challenge",
    task="grey and white matter of the cord",
    modality="T2* MRI of four sites",
    content="40 subjects for training, 40 for test, 0.25 to 0.5 mm in the slice, 2.5 to 5 mm between slices",
    terms="registration; research only",
    home="http://niftyweb.cs.ucl.ac.uk/challenge/index.php",
    sources=(
        "https://www.sciencedirect.com/science/article/pii/S1053811917302185",
        "https://github.com/perone/medicaltorch (tests: names of the files)",
    ),
    needs="siteN-scNN-image.nii.gz with siteN-scNN-mask-r1.nii.gz (to r4)",
    classes=("grey_matter", "white_matter"),
    files=(
        Files(r"(?P<name>site\d-sc(?:0\d|10))-image\.nii\.gz", labels=("{name}-mask-r1.nii.gz",)),
        Files(r"(?P<name>site\d-sc\d\d)-image\.nii\.gz", part="test", optional=True),
    ),
    load=volumes(numbered(2)),
    layout="volumes",
    split="10 subjects of each site train, 10 test (no labels)",
    notes=("labels of rater 1 of 4",),
    recipe=_MRI,
)
ROWS = (BRATS2020, BRATS2021, BRATS2023, FETA, LGG, SCGM)
