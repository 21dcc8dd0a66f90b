"""Data sets of colonoscopy and laparoscopy: polyps, instruments, scenes."""

from __future__ import annotations

from collections.abc import Callable, Mapping

import numpy as np

from edgemt.convert.datasets.pictures import bright, by_folder, colours, pictures, values
from edgemt.convert.datasets.row import DataSet, Files

_SIMULA = "research and education only"
_POLYPS = ("kvasir_cpu",)
_SCENE = ("kvasir_cpu", "--augment.preset", "endoscopy")

# The last frame of each of the 29 sequences of CVC-ClinicDB, whose frames are numbered through.
_CLINIC_ENDS = (
    25, 50, 67, 78, 103, 126, 151, 177, 199, 205, 227, 252, 277, 297, 317, 342, 363, 383, 408, 428, 447, 466, 478, 503,
    528, 546, 571, 591, 612,
)  # fmt: skip


def _clinic_name(groups: Mapping[str, str]) -> str:
    number = int(groups["frame"])
    sequence = next((k for k, last in enumerate(_CLINIC_ENDS, 1) if number <= last), None)
    if sequence is None or number < 1:
        raise ValueError(f"frame {number}: CVC-ClinicDB has frames 1 to 612; is it the right folder?")
    return f"sequence{sequence:02d}/{number:03d}"


KVASIR_SEG = DataSet(
    name="kvasir-seg",
    aliases=("kvasir",),
    title="Kvasir-SEG",
    task="polyps",
    modality="colonoscopy",
    content="1,000 frames, 332 x 487 to 1920 x 1072",
    terms=_SIMULA,
    home="https://datasets.simula.no/kvasir-seg/",
    sources=(
        "https://github.com/DebeshJha/2020-MediaEval-Medico-polyp-segmentation",
        "https://github.com/constantinpape/torch-em (torch_em/data/datasets/medical/kvasir.py)",
    ),
    needs="images/*.jpg and masks/*.jpg",
    classes=("polyp",),
    files=(Files(r"images/(?P<name>[^/]+)\.jpg", labels=("masks/{name}.jpg",)),),
    lists=(("val", "val.txt"),),
    split="880 and 120 frames by the lists of MediaEval 2020, if their val.txt is put beside images/; else none",
    load=pictures(bright()),
    recipe=_POLYPS,
)
CVC_CLINICDB = DataSet(
    name="cvc-clinicdb",
    aliases=("clinicdb", "cvc-612"),
    title="CVC-ClinicDB",
    task="polyps",
    modality="colonoscopy",
    content="612 frames of 29 sequences, 384 x 288",
    terms="research and education only, no commercial use",
    home="https://polyp.grand-challenge.org/CVCClinicDB/",
    sources=("https://github.com/dataset-ninja/cvc-612", "https://datasetninja.com/cvc-612 (frames of the sequences)"),
    needs="Original/*.tif and 'Ground Truth'/*.tif",
    classes=("polyp",),
    files=(
        Files(
            r"Original/(?P<frame>\d+)\.(?P<end>tif|tiff|png)",
            labels=("Ground Truth/{frame}.{end}", "GroundTruth/{frame}.{end}"),
            name=_clinic_name,
        ),
    ),
    load=pictures(bright()),
    layout="clips",
    notes=("a sequence is a clip and stays on one side of a split",),
    recipe=_POLYPS,
)
CVC_COLONDB = DataSet(
    name="cvc-colondb",
    aliases=("colondb",),
    title="CVC-ColonDB",
    task="polyps",
    modality="colonoscopy",
    content="380 frames of 15 videos, 574 x 500",
    terms="research only",
    home="http://mv.cvc.uab.es/projects/colon-qa/cvccolondb",
    sources=("https://github.com/DengPingFan/PraNet (README: the TestDataset, which later loaders read)",),
    needs="CVC-ColonDB/images/*.png and CVC-ColonDB/masks/*.png, as PraNet distributes it",
    classes=("polyp",),
    files=(Files(r"images/(?P<name>\d+)\.(?P<end>png|tif|tiff)", labels=("masks/{name}.{end}",)),),
    load=pictures(bright()),
    notes=("which frames are of one video is not published: drawn splits mix them, and Dice is measured too high",),
    recipe=_POLYPS,
)
_SUN = r"Frame/(?P<case>case\d+)_(?P<clip>\d+)/(?P<frame>[^/]+)\.jpg"
SUN_SEG = DataSet(
    name="sun-seg",
    title="SUN-SEG",
    task="polyps in videos",
    modality="colonoscopy",
    content="49,136 frames of 285 clips of 100 polyps",
    terms="research and education only; the frames are given on request (SUN database)",
    home="https://github.com/GewelsJI/VPS",
    sources=("https://github.com/GewelsJI/VPS (docs/DATA_PREPARATION.md, docs/DATA_DESCRIPTION.md)",),
    needs="TrainDataset/Frame/caseN_M/*.jpg with TrainDataset/GT/caseN_M/*.png, after step 4 of its preparation",
    classes=("polyp",),
    files=(
        Files(
            rf"(?P<set>Test(?:Easy|Hard)Dataset/(?:Seen|Unseen)/){_SUN}",
            labels=("{set}GT/{case}_{clip}/{frame}.png",),
            name="{case}_t{clip}/{frame}",
            part="test",
        ),
        Files(
            rf"TrainDataset/{_SUN}",
            labels=("TrainDataset/GT/{case}_{clip}/{frame}.png",),
            name="{case}_t{clip}/{frame}",
        ),
    ),
    load=pictures(bright()),
    layout="clips",
    split="train; test: easy and hard, seen and unseen",
    notes=("a case is a patient, its clips are named caseN_tM; negative clips are not read",),
    recipe=_POLYPS,
)
KVASIR_INSTRUMENT = DataSet(
    name="kvasir-instrument",
    title="Kvasir-Instrument",
    task="instruments",
    modality="gastroscopy and colonoscopy",
    content="590 frames, 720 x 576 to 1280 x 1024",
    terms=_SIMULA,
    home="https://datasets.simula.no/kvasir-instrument/",
    sources=("https://arxiv.org/abs/2011.08065", "https://datasets.simula.no/kvasir-instrument/ (its archives)"),
    needs="images/*.jpg, masks/*.png, train.txt and test.txt",
    classes=("instrument",),
    files=(Files(r"images/(?P<name>[^/]+)\.jpg", labels=("**/masks/{name}.png", "**/masks/{name}.jpg")),),
    lists=(("test", "**/test.txt"),),
    split="472 frames in train.txt, 118 in test.txt",
    load=pictures(bright()),
    recipe=_SCENE,
)

_TOOLS = {  # words in the name of a label folder -> class of the challenge's type task
    "Bipolar_Forceps": 1, "Prograsp_Forceps": 2, "Large_Needle_Driver": 3, "Vessel_Sealer": 4,
    "Grasping_Retractor": 5, "Monopolar_Curved_Scissors": 6, "Other": 7,
}  # fmt: skip
_PARTS = {0: 0, 10: 1, 20: 2, 30: 3}


_Draw = Callable[[str, np.ndarray], "np.ndarray | None"]


def _tool(folder: str, mask: np.ndarray) -> np.ndarray | None:
    kind = next((index for words, index in _TOOLS.items() if words in folder), None)
    return None if kind is None else (mask > 0).astype(np.uint8) * np.uint8(kind)


def _known_tool(folder: str) -> bool:
    return any(words in folder for words in _TOOLS)


def _no_tool(folder: str) -> bool:
    return "Other" in folder


def _binary(folder: str, mask: np.ndarray) -> np.ndarray | None:
    if not _known_tool(folder):
        return None
    return np.zeros(mask.shape, np.uint8) if _no_tool(folder) else (mask > 0).astype(np.uint8)


def _part(folder: str, mask: np.ndarray) -> np.ndarray | None:
    if not _known_tool(folder) or not (_no_tool(folder) or set(np.unique(mask).tolist()) <= set(_PARTS)):
        return None
    out = np.zeros(mask.shape, np.uint8)
    for value, index in _PARTS.items():
        out[(mask == value) & (not _no_tool(folder))] = index
    return out


def _endovis2017(name: str, task: str, classes: tuple[str, ...], draw: _Draw, alias: tuple[str, ...] = ()) -> DataSet:
    return DataSet(
        name=name,
        aliases=alias,
        title="EndoVis 2017 robotic instruments",
        task=task,
        modality="laparoscopy (da Vinci, porcine)",
        content="1,800 frames of 8 sequences, 1920 x 1080 with black borders",
        terms="registration; research only",
        home="https://endovissub2017-roboticinstrumentsegmentation.grand-challenge.org/",
        sources=(
            "https://github.com/ternaus/robot-surgery-segmentation (prepare_data.py)",
            "https://github.com/openmedlab/Awesome-Medical-Dataset (resources/Robotic_Instrument_Segmentation.md)",
        ),
        needs="instrument_dataset_N/left_frames/frame*.png with ground_truth/TOOL_labels/frame*.png beside left_frames",
        classes=classes,
        files=(
            Files(
                r"instrument_\d_\d+_testing/(?P<clip>instrument_dataset_\d+)/left_frames/(?P<frame>frame\d+)\.png",
                name="{clip}/{frame}",
                part="test",
                optional=True,
            ),
            Files(
                r"(?P<folder>(?P<clip>instrument_dataset_\d+)/)left_frames/(?P<frame>frame\d+)\.png",
                each=r"<folder>ground_truth/[^/]+/<frame>\.png",
                name="{clip}/{frame}",
            ),
        ),
        load=pictures(by_folder(draw)),
        layout="clips",
        split="frames 0 to 224 of 8 sequences train, frames 225 to 299 test (their labels are not in the release)",
        recipe=_SCENE,
    )


ENDOVIS2017 = (
    _endovis2017(
        "endovis2017",
        "seven kinds of instruments",
        ("bipolar_forceps", "prograsp_forceps", "large_needle_driver", "vessel_sealer", "grasping_retractor",
         "monopolar_curved_scissors", "other_instrument"),
        _tool,
        ("endovis2017-type",),
    ),
    _endovis2017("endovis2017-parts", "parts of instruments", ("shaft", "wrist", "clasper"), _part),
    _endovis2017("endovis2017-binary", "instruments", ("instrument",), _binary),
)  # fmt: skip

_SCENE_2018 = {
    (0, 0, 0): 0, (0, 255, 0): 1, (0, 255, 255): 2, (125, 255, 12): 3, (255, 55, 0): 4, (24, 55, 125): 5,
    (187, 155, 25): 6, (0, 255, 125): 7, (255, 255, 125): 8, (123, 15, 175): 9, (124, 155, 5): 10, (12, 255, 141): 11,
}  # fmt: skip
_SEQUENCE = r"(?P<clip>seq_\d+)/left_frames/(?P<frame>frame\d+)\.png"
ENDOVIS2018 = DataSet(
    name="endovis2018",
    title="EndoVis 2018 robotic scenes",
    task="parts of instruments, kidney, intestine, material",
    modality="laparoscopy (da Vinci, porcine)",
    content="2,235 frames of 15 sequences for training, 1280 x 1024",
    terms="registration; research only",
    home="https://endovissub2018-roboticscenesegmentation.grand-challenge.org/",
    sources=(
        "https://github.com/IMSY-DKFZ/mml (plugins/tasks, endovis18_robotic_instrument.py)",
        "https://github.com/openmedlab/Awesome-Medical-Dataset (EndoVisSub2018-RoboticSceneSegmentation.md)",
    ),
    needs="seq_N/left_frames/frame*.png and seq_N/labels/frame*.png of the releases 1 to 4",
    classes=(
        "instrument_shaft", "instrument_clasper", "instrument_wrist", "kidney_parenchyma", "covered_kidney", "thread",
        "clamps", "suturing_needle", "suction_instrument", "small_intestine", "ultrasound_probe",
    ),
    files=(
        Files(
            rf"test_data/{_SEQUENCE}",
            labels=("test_data/{clip}/labels/{frame}.png",),
            name="{clip}/{frame}",
            part="test",
            optional=True,
        ),
        Files(
            rf"(?P<release>miccai_challenge_2018_release_1/){_SEQUENCE}",
            labels=("**/repairs/{clip}_{frame}.png", "{release}{clip}/labels/{frame}.png"),
            name="{clip}/{frame}",
        ),
        Files(_SEQUENCE, labels=("{clip}/labels/{frame}.png",), name="{clip}/{frame}"),
    ),
    load=pictures(colours(_SCENE_2018)),
    layout="clips",
    split="15 sequences train, 4 test",
    notes=("masks of repairs/ replace those of release 1",),
    recipe=_SCENE,
)  # fmt: skip

# Values of frame_N_endo_watershed_mask.png; 255 and 0 are rims of the picture that belong to no class.
_CHOLEC = {0: 0, 255: 0, 50: 0, 11: 1, 21: 2, 13: 3, 12: 4, 31: 5, 23: 6, 24: 7, 25: 8, 32: 9, 22: 10, 33: 11, 5: 12}
CHOLECSEG8K = DataSet(
    name="cholecseg8k",
    title="CholecSeg8k",
    task="organs and instruments",
    modality="laparoscopic cholecystectomy",
    content="8,080 frames of 17 videos, 854 x 480",
    terms="CC BY-NC-SA 4.0",
    home="https://www.kaggle.com/datasets/newslab/cholecseg8k",
    sources=(
        "https://github.com/constantinpape/torch-em (torch_em/data/datasets/medical/cholecseg8k.py)",
        "https://arxiv.org/abs/2012.12453",
    ),
    needs="videoNN/videoNN_NNNNN/frame_N_endo.png with frame_N_endo_watershed_mask.png",
    classes=(
        "abdominal_wall", "liver", "gastrointestinal_tract", "fat", "grasper", "connective_tissue", "blood",
        "cystic_duct", "l_hook_electrocautery", "gallbladder", "hepatic_vein", "liver_ligament",
    ),
    files=(
        Files(
            r"(?P<folder>(?P<video>video\d+)/video\d+_(?P<clip>\d+)/)frame_(?P<frame>\d+)_endo\.png",
            labels=("{folder}frame_{frame}_endo_watershed_mask.png",),
            name="{video}_t{clip}/frame_{frame}",
        ),
    ),
    load=pictures(values(_CHOLEC)),
    layout="clips",
    notes=(
        "a video is a patient, its clips are named videoNN_tNNNNN",
        "class 0 of the set (black background, value 50) and the values 0 and 255, which no class has, are background",
    ),
    recipe=_SCENE,
)  # fmt: skip

ROWS = (
    KVASIR_SEG, CVC_CLINICDB, CVC_COLONDB, SUN_SEG, KVASIR_INSTRUMENT, *ENDOVIS2017, ENDOVIS2018, CHOLECSEG8K,
)  # fmt: skip
