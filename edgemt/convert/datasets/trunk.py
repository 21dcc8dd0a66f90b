"""Data sets of the abdomen and the pelvis: liver, kidney, pancreas, prostate."""

from __future__ import annotations

from edgemt.convert.datasets.row import SKIPPED, DataSet, Files
from edgemt.convert.datasets.volumes import dicom_with_nifti, numbered, volumes

_MEDLAB = "https://github.com/openmedlab/Awesome-Medical-Dataset"


def _ct(low: int, high: int) -> tuple[str, ...]:
    return ("acdc_cpu", "--augment.preset", "ct", "--data.depth", "window", "--data.window", str(low), str(high))


LITS = DataSet(
    name="lits",
    title="LiTS",
    task="liver and liver tumours",
    modality="CT",
    content="131 patients for training, 70 for test, 512 x 512, slices 0.45 to 6 mm apart",
    terms="CC BY-NC-ND 4.0",
    home="https://competitions.codalab.org/competitions/17094",
    sources=(f"{_MEDLAB} (resources/LiTS.md)",),
    needs="volume-N.nii with segmentation-N.nii, and test-volume-N.nii",
    classes=("liver", "tumour"),
    files=(
        Files(r"(?P<name>test-volume-\d+)\.nii(?:\.gz)?", part="test", optional=True),
        Files(
            r"(?P<name>volume-(?P<number>\d+))\.(?P<end>nii(?:\.gz)?)",
            labels=("segmentation-{number}.{end}", "**/segmentation-{number}.{end}"),
        ),
    ),
    load=volumes(numbered(2)),
    layout="volumes",
    split="131 patients train, 70 test (no labels)",
    recipe=_ct(-160, 240),
)
KITS19 = DataSet(
    name="kits19",
    title="KiTS19",
    task="kidneys and kidney tumours",
    modality="CT",
    content="210 patients for training, 90 for test; the first axis of a volume is the one of the slices",
    terms="CC BY-NC-SA 4.0",
    home="https://github.com/neheller/kits19",
    sources=("https://github.com/neheller/kits19 (README.md)",),
    needs="case_NNNNN/imaging.nii.gz with case_NNNNN/segmentation.nii.gz",
    classes=("kidney", "tumour"),
    files=(
        Files(r"(?P<name>case_00(?:[01]\d\d|20\d))/imaging\.nii\.gz", labels=("{name}/segmentation.nii.gz",)),
        Files(r"(?P<name>case_00[23]\d\d)/imaging\.nii\.gz", part="test", optional=True),
    ),
    load=volumes(numbered(2)),
    layout="volumes",
    split="cases 0 to 209 train, 210 to 299 test (no labels)",
    recipe=(*_ct(-79, 304), "--data.slice-axis", "0"),
)
PANCREAS_CT = DataSet(
    name="pancreas-ct",
    aliases=("nih-pancreas",),
    title="NIH Pancreas-CT",
    task="pancreas",
    modality="CT, portal venous",
    content="82 patients in the first release, 80 in the second; 512 x 512, slices 0.5 to 1 mm apart",
    terms="CC BY 3.0",
    home="https://www.cancerimagingarchive.net/collection/pancreas-ct/",
    sources=(
        "https://github.com/twni2016/OrganSegRSTN_PyTorch (DATA2NPY: dicom2npy.py, nii2npy.py)",
        f"{_MEDLAB} (resources/Pancreas-CT.md)",
    ),
    needs="PANCREAS_NNNN/.../*.dcm, and labelNNNN.nii.gz of TCIA_pancreas_labels anywhere below the same folder",
    classes=("pancreas",),
    files=(
        Files(
            r"(?P<name>PANCREAS_(?P<number>\d{4}))/(?:[^/]+/)*[^/]+\.dcm",
            labels=("**/label{number}.nii.gz",),
            series=True,
        ),
    ),
    load=dicom_with_nifti,
    layout="volumes",
    notes=("voxel i, j, k of a label is column i, row j of slice k + 1 by the instance number, as in the papers",),
    recipe=_ct(-125, 275),
)
PROMISE12 = DataSet(
    name="promise12",
    title="PROMISE12",
    task="prostate",
    modality="T2 MRI",
    content="50 patients for training, 30 for test; 256 to 512 squared, slices 2.2 to 4 mm apart",
    terms="see the home page",
    home="https://zenodo.org/records/8026660",
    sources=(f"{_MEDLAB} (resources/PROMISE12.md)", "https://promise12.grand-challenge.org/Details/"),
    needs="CaseNN.mhd and CaseNN.raw with CaseNN_segmentation.mhd and .raw",
    classes=("prostate",),
    files=(
        Files(r"livechallenge[^/]*/Case\d\d\.mhd", part=SKIPPED),
        Files(r"test[^/]*/(?P<name>Case\d\d)\.mhd", part="test", optional=True),
        Files(r"(?P<name>Case\d\d)\.mhd", labels=("{name}_segmentation.mhd",)),
    ),
    load=volumes(numbered(1)),
    layout="volumes",
    split="50 patients train, 30 test (no labels)",
    recipe=("acdc_cpu",),
)
ROWS = (LITS, KITS19, PANCREAS_CT, PROMISE12)
