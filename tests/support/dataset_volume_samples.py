"""Tiny folders in the layout of each public data set of volumes; see dataset_samples."""

from __future__ import annotations

import json
from collections.abc import Callable
from pathlib import Path

import numpy as np
from dataset_samples import SHAPE, SPACING, Planted, photo, save, truth

from edgemt.convert.nrrd_file import write_nrrd

AFFINE = np.diag([*SPACING, 1.0])


def scan(seed: int, shape: tuple[int, ...] = SHAPE) -> np.ndarray:
    return np.random.default_rng(seed).integers(-900, 1500, shape).astype(np.int16)


def nifti(path: Path, array: np.ndarray) -> None:
    import nibabel

    path.parent.mkdir(parents=True, exist_ok=True)
    nibabel.save(nibabel.Nifti1Image(array, AFFINE), path)


def _pair(image: Path, label: Path | None, seed: int, classes: int, values: tuple[int, ...] = ()) -> np.ndarray | None:
    """An image, and a label whose class k is stored as values[k]."""
    expected = truth(seed, classes, SHAPE)
    nifti(image, scan(seed))
    if label is None:
        return None
    stored = expected if not values else np.array(values)[expected].astype(np.int16)
    nifti(label, stored)
    return expected


def acdc(root: Path) -> Planted:
    planted = Planted(patients=2)
    for folder, frames in (
        ("training/patient001", (1, 12)),
        ("training/patient100", (1,)),
        ("testing/patient101", (1,)),
    ):
        for frame in frames:
            patient = folder.rpartition("/")[2]
            base = root / "ACDC" / "database" / folder / f"{patient}_frame{frame:02d}"
            expected = _pair(Path(f"{base}.nii.gz"), Path(f"{base}_gt.nii.gz"), frame, 3)
            (planted.train if folder.startswith("training") else planted.test)[base.name] = expected
        nifti(base.with_name(f"{patient}_4d.nii.gz"), scan(0, (*SHAPE, 2)))
        (base.parent / "Info.cfg").write_text("ED: 1\nES: 12\n")
    return planted


def la2018(root: Path) -> Planted:
    planted = Planted()
    for k, (part, name) in enumerate(
        (("Training Set", "06SR5RBREL16DQ6M8LWS"), ("Testing Set", "4XALEMU2RB7B8K4TIZCO"))
    ):
        folder = root / part / name
        folder.mkdir(parents=True)
        write_nrrd(folder / "lgemri.nrrd", (scan(k) & 255).astype(np.uint8), np.diag([0.625, 0.625, 0.625, 1]), {})
        write_nrrd(folder / "laendo.nrrd", truth(k, 1, SHAPE) * 255, np.diag([0.625, 0.625, 0.625, 1]), {})
        (planted.test if part == "Testing Set" else planted.train)[name] = truth(k, 1, SHAPE)
    return planted


def la2018_h5(root: Path) -> Planted:
    import h5py

    planted = Planted()
    for k, name in enumerate(("06SR5RBREL16DQ6M8LWS", "0RZDK210BSMWAA6467LU")):
        folder = root / "2018LA_Seg_Training Set" / name
        folder.mkdir(parents=True)
        with h5py.File(folder / "mri_norm2.h5", "w") as file:
            file["image"], file["label"] = scan(k).astype(np.float32) / 300, truth(k, 1, SHAPE)
        (planted.test if k else planted.train)[name] = truth(k, 1, SHAPE)
    (root / "train.list").write_text("06SR5RBREL16DQ6M8LWS\n")
    (root / "test.list").write_text("0RZDK210BSMWAA6467LU\n")
    return planted


def _mm_whs(kind: str) -> Callable[[Path], Planted]:
    def make(root: Path) -> Planted:
        planted = Planted()
        values = (0, 205, 421 if kind == "mr" else 420, 500, 550, 600, 820, 850)
        for other in ("ct", "mr"):  # both lie in the archive
            base = root / "MM-WHS 2017 Dataset" / f"{other}_train" / f"{other}_train_1001"
            expected = _pair(Path(f"{base}_image.nii.gz"), Path(f"{base}_label.nii.gz"), 1, 7, values)
            nifti(root / "MM-WHS 2017 Dataset" / f"{other}_test" / f"{other}_test_2001_image.nii.gz", scan(2))
            if other == kind:
                planted.train[base.name], planted.test[f"{kind}_test_2001"] = expected, None
        return planted

    return make


def lits(root: Path) -> Planted:
    planted = Planted()
    for batch, number in ((1, 0), (2, 28)):
        base = root / f"Training Batch {batch}"
        planted.train[f"volume-{number}"] = _pair(
            base / f"volume-{number}.nii", base / f"segmentation-{number}.nii", number, 2
        )
    planted.test["test-volume-0"] = _pair(root / "LITS-Challenge-Test-Data" / "test-volume-0.nii", None, 5, 2)
    return planted


def kits19(root: Path) -> Planted:
    planted = Planted()
    for name in ("case_00000", "case_00209"):
        base = root / "kits19" / "data" / name
        planted.train[name] = _pair(base / "imaging.nii.gz", base / "segmentation.nii.gz", int(name[5:]), 2)
    planted.test["case_00210"] = _pair(root / "kits19" / "data" / "case_00210" / "imaging.nii.gz", None, 3, 2)
    (root / "kits19" / "data" / "kits.json").write_text(json.dumps([]))
    return planted


def pancreas_ct(root: Path) -> Planted:
    """Instance 1 is the highest slice; voxel i, j, k of a label is column i, row j of instance k + 1."""
    from dicom_samples import grey
    from pydicom import uid

    planted = Planted()
    for number in (1, 2):
        values, series = scan(number, (5, 6, 4)), uid.generate_uid()  # rows, columns, instances
        folder = root / "Pancreas-CT" / f"PANCREAS_{number:04d}" / "11-24-2015-1" / "Pancreas-18957"
        folder.mkdir(parents=True)
        for instance in range(4):
            image = grey(values[None, :, :, instance], stored=16, signed=True, sop=uid.CTImageStorage)
            image.Modality, image.SeriesInstanceUID, image.InstanceNumber = "CT", series, instance + 1
            image.PatientID = f"PANCREAS_{number:04d}"
            image.ImagePositionPatient, image.ImageOrientationPatient = [0, 0, -2.0 * instance], [1, 0, 0, 0, 1, 0]
            image.PixelSpacing, image.RescaleSlope, image.RescaleIntercept = [0.8, 0.7], 1, 0
            image.save_as(folder / f"1-{instance + 1:03d}.dcm", enforce_file_format=True)
        label = truth(number, 1, (6, 5, 4))  # columns, rows, instances
        nifti(root / "TCIA_pancreas_labels-02-05-2017" / f"label{number:04d}.nii.gz", label)
        planted.train[f"PANCREAS_{number:04d}"] = label[:, :, ::-1]  # the volume begins with the lowest slice
    return planted


def metaimage(path: Path, array: np.ndarray) -> None:
    path.parent.mkdir(parents=True, exist_ok=True)
    kind = {"int16": "MET_SHORT", "int8": "MET_CHAR", "uint8": "MET_UCHAR"}[array.dtype.name]
    path.with_suffix(".raw").write_bytes(array.tobytes(order="F"))
    path.write_text(
        "ObjectType = Image\nNDims = 3\nBinaryData = True\nBinaryDataByteOrderMSB = False\nCompressedData = False\n"
        "TransformMatrix = 1 0 0 0 1 0 0 0 1\nOffset = 1 2 3\nCenterOfRotation = 0 0 0\n"
        f"AnatomicalOrientation = RAI\nElementSpacing = 0.625 0.625 3.6\nDimSize = {' '.join(map(str, array.shape))}\n"
        f"ElementType = {kind}\nElementDataFile = {path.with_suffix('.raw').name}\n"
    )


def promise12(root: Path) -> Planted:
    planted = Planted()
    for k, (folder, name) in enumerate(
        (("training_data", "Case00"), ("training_data", "Case49"), ("test_data", "Case00"))
    ):
        metaimage(root / folder / f"{name}.mhd", scan(k))
        if folder == "training_data":
            metaimage(root / folder / f"{name}_segmentation.mhd", truth(k, 1, SHAPE).astype(np.int8))
            planted.train[name] = truth(k, 1, SHAPE)
        else:
            planted.test[name] = None
    metaimage(root / "livechallenge_test_data" / "Case00.mhd", scan(7))
    return planted


def _brats(names: dict[str, str], first: str, ends: tuple[str, ...], seg: str, top: int, suffix: str) -> Callable:
    """Folder of a case -> name of the written case; the first is labelled."""

    def make(root: Path) -> Planted:
        planted = Planted(channels=4)
        for k, (folder, written) in enumerate(names.items()):
            case = folder.rpartition("/")[2]
            for number, end in enumerate((first, *ends)):
                nifti(root / folder / f"{case}{end}{suffix}", scan(10 * k + number))
            if "alid" in folder:
                planted.test[written] = None
                continue
            expected = truth(k, 3, SHAPE)
            file = seg if case.endswith("355") else f"{case}{seg if seg[0] in '_-' else '_seg'}"
            nifti(root / folder / f"{file}{suffix}", np.array((0, 1, 2, top), np.int16)[expected])
            planted.train[written] = expected
        return planted

    return make


def feta(root: Path) -> Planted:
    planted = Planted(patients=2)
    for k, (subject, method) in enumerate((("sub-001", "mial"), ("sub-041", "irtk"))):
        base = root / "feta_2.3" / subject / "anat" / f"{subject}_rec-{method}"
        planted.train[subject] = _pair(Path(f"{base}_T2w.nii.gz"), Path(f"{base}_dseg.nii.gz"), k, 7)
    return planted


def lgg(root: Path) -> Planted:
    planted = Planted(patients=2)
    for patient in ("TCGA_CS_4941_19960909", "TCGA_HT_A61A_20000127"):
        for number in (1, 2):
            photo(root / "kaggle_3m" / patient / f"{patient}_{number}.tif", number)
            save(root / "kaggle_3m" / patient / f"{patient}_{number}_mask.tif", truth(number, 1) * 255)
            planted.train[f"{patient}/slice_{number}"] = truth(number, 1)
    (root / "kaggle_3m" / "data.csv").write_text("Patient\n")
    return planted


def scgm(root: Path) -> Planted:
    planted = Planted()
    for k, name in enumerate(("site1-sc01", "site4-sc10")):
        base = root / "training-data-gm-sc-challenge-ismrm16-v20160302b" / name
        planted.train[name] = _pair(Path(f"{base}-image.nii.gz"), Path(f"{base}-mask-r1.nii.gz"), k, 2)
        nifti(Path(f"{base}-mask-r2.nii.gz"), truth(k + 5, 2, SHAPE))
        Path(f"{base}-levels.txt").write_text("1,C3\n")
    base = root / "test-data-gm-sc-challenge-ismrm16-v20160401" / "site1-sc11-image.nii.gz"
    planted.test["site1-sc11"] = _pair(base, None, 9, 2)
    return planted


def _decathlon(folder: str, cases: str, classes: int, channels: int = 1) -> Callable[[Path], Planted]:
    def make(root: Path) -> Planted:
        planted, base = Planted(channels=channels), root / folder
        shape = SHAPE if channels == 1 else (*SHAPE, channels)
        for k, name in enumerate((f"{cases}_001", f"{cases}_014", f"{cases}_020")):
            nifti(base / ("imagesTs" if k == 2 else "imagesTr") / f"{name}.nii.gz", scan(k, shape))
            (base / "imagesTr" / f"._{name}.nii.gz").write_bytes(b"\0\5\x16\7")  # of macOS, as in the archives
            if k < 2:
                planted.train[name] = truth(k, classes, SHAPE)
                nifti(base / "labelsTr" / f"{name}.nii.gz", planted.train[name])
            else:
                planted.test[name] = None
        (base / "dataset.json").write_text("{}")
        return planted

    return make


VOLUME_SAMPLES: dict[str, Callable[[Path], Planted]] = {
    "acdc": acdc,
    "la2018": la2018,
    "la2018-h5": la2018_h5,
    "mm-whs-ct": _mm_whs("ct"),
    "mm-whs-mr": _mm_whs("mr"),
    "lits": lits,
    "kits19": kits19,
    "pancreas-ct": pancreas_ct,
    "promise12": promise12,
    "brats2020": _brats(
        {
            "MICCAI_BraTS2020_TrainingData/BraTS20_Training_001": "BraTS20_Training_001",
            "MICCAI_BraTS2020_TrainingData/BraTS20_Training_355": "BraTS20_Training_355",
            "MICCAI_BraTS2020_ValidationData/BraTS20_Validation_001": "BraTS20_Validation_001",
        },
        "_t1", ("_t1ce", "_t2", "_flair"), "W39_1998.09.19_Segm", 4, ".nii",
    ),
    "brats2021": _brats(
        {
            "RSNA_ASNR_MICCAI_BraTS2021_TrainingData/BraTS2021_00000": "BraTS2021_00000",
            "RSNA_ASNR_MICCAI_BraTS2021_ValidationData/BraTS2021_00001": "BraTS2021_00001",
        },
        "_t1", ("_t1ce", "_t2", "_flair"), "_seg", 4, ".nii.gz",
    ),
    "brats2023-gli": _brats(
        {
            "ASNR-MICCAI-BraTS2023-GLI-Challenge-TrainingData/BraTS-GLI-00000-000": "BraTS-GLI-00000_t000",
            "ASNR-MICCAI-BraTS2023-GLI-Challenge-TrainingData/BraTS-GLI-00000-001": "BraTS-GLI-00000_t001",
            "ASNR-MICCAI-BraTS2023-GLI-Challenge-ValidationData/BraTS-GLI-00001-000": "BraTS-GLI-00001_t000",
        },
        "-t1n", ("-t1c", "-t2w", "-t2f"), "-seg", 3, ".nii.gz",
    ),
    "feta": feta,
    "lgg": lgg,
    "scgm": scgm,
    "msd-braintumour": _decathlon("Task01_BrainTumour", "BRATS", 3, 4),
    "msd-heart": _decathlon("Task02_Heart", "la", 1),
    "msd-liver": _decathlon("Task03_Liver", "liver", 2),
    "msd-hippocampus": _decathlon("Task04_Hippocampus", "hippocampus", 2),
    "msd-prostate": _decathlon("Task05_Prostate", "prostate", 2, 2),
    "msd-lung": _decathlon("Task06_Lung", "lung", 1),
    "msd-pancreas": _decathlon("Task07_Pancreas", "pancreas", 2),
    "msd-hepaticvessel": _decathlon("Task08_HepaticVessel", "hepaticvessel", 2),
    "msd-spleen": _decathlon("Task09_Spleen", "spleen", 1),
    "msd-colon": _decathlon("Task10_Colon", "colon", 1),
}  # fmt: skip
