"""Stage folders: the weights of a stage and the card that describes them, written completely or not at all.

A stage works in `NAME.partial`; when it is done the folder takes its name, and the card carries the key of
everything the stage depended on, so that the same command again skips what stands.
"""

from __future__ import annotations

import hashlib
import json
import os
import shutil
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import MISSING, Field, fields, is_dataclass, replace
from pathlib import Path
from typing import Any

from deploy.package.files import CARD
from deploy.package.package import finalize
from edgemt.contract import ADDED_LATER
from edgemt.io.atomic import fsync_folder, fsync_tree, make_folder, set_aside, sha256, write_text
from edgemt.io.plain_files import TEXT_LIMIT, read_regular
from edgemt.model_card import ModelCard
from edgemt.renamed_fields import current_names, old_names_of
from edgemt.training import checkpoint

WEIGHTS = "weights.safetensors"
CURVES = "curves.json"
_FINISHED = ".finished."  # before the name of a checkpoint whose stage has its card, but not yet its name


# class of a recipe's value -> its name in keys and records; an old name stays, so that a finished stage still fits
KEY_NAMES: dict[str, str] = {
    "Normalisation": "Normalise",
    "Int8Stage": "Int8",
    "PruneStage": "Slim",
    "StudentOptions": "Student",
    "TeacherOptions": "Teacher",
    "ACMT": "Ambiguous",
    "ACMTByPrototype": "AmbiguousByPrototype",
    "ADMT": "AlternateDiverse",
    "AffineConsistent": "AffineView",
    "AlternatingEma": "Alternating",
    "AlternationSchedule": "Turns",
    "AttentionDrop": "FeatureDrop",
    "AuxiliaryNetwork": "Auxiliary",
    "BCP": "CopyPaste",
    "CCT": "CrossConsistency",
    "CDS": "Competitive",
    "CMMTNet": "CrossHead",
    "COPLENet": "NoiseRobust",
    "CPS": "CrossPseudo",
    "ConfidenceThresholded": "Confident",
    "ConfidentLearningErrors": "Mislabelled",
    "CutMixBox": "Box",
    "DAN": "Adversarial",
    "DSST": "SharedTeacher",
    "DTC": "DualTask",
    "DUWM": "DoubleUncertainty",
    "DyCON": "UncertaintyContrast",
    "EntropyThreshold": "Doubtful",
    "FRCNet": "FrequencyRegion",
    "FUSSNet": "HeadsAgree",
    "FeatureAggregation": "Aggregation",
    "GaussianNoise": "Noise",
    "HybridDualMeanTeacher": "HybridDual",
    "ICT": "Interpolation",
    "IntensityJitter": "Jitter",
    "LGERMT": "StructureAware",
    "LossGatedEma": "Wary",
    "MCNet": "MutualDecoders",
    "MCNetPlus": "MutualThreeDecoders",
    "MSMT": "MultiScale",
    "McUncertainty": "Unstable",
    "PMT": "Progressive",
    "PatchGrid": "Cells",
    "PromptableSupervised": "Lessons",
    "PromptableTeacherOptions": "SecondTeacher",
    "PrototypeDisagreement": "FarFromPrototype",
    "RDMT": "ResidualDriven",
    "ResidualEma": "Residual",
    "RowwiseChannelDropout": "DropChannels",
    "SACMT": "SamAssisted",
    "SASSNet": "ShapeAdversarial",
    "SCOSSL": "ShadowAugmentation",
    "SSNet": "SmoothSeparate",
    "SigmoidRampUp": "Ramp",
    "SoftTarget": "Soft",
    "SwitchingEma": "InTurn",
    "TopKEntropy": "MostDoubtful",
    "TriUMT": "TripledUncertainty",
    "UGMCL": "MutualTasks",
    "URPC": "PyramidConsistency",
    "VAT": "VirtualAdversarial",
}


_CURRENT_NAMES = {old: new for new, old in KEY_NAMES.items()}


def plain(value: Any) -> Any:
    """Dataclasses, tuples and paths as JSON; "is" names the class of a dataclass (`KEY_NAMES`).

    A renamed field has its old name (`edgemt.renamed_fields`).
    Fields that were added later (`edgemt.contract.ADDED_LATER`) are left out while they have their default.
    """
    if is_dataclass(value) and not isinstance(value, type):
        old = old_names_of(type(value))
        own = {
            old.get(f.name, f.name): plain(getattr(value, f.name))
            for f in fields(value)
            if not _as_before(f, getattr(value, f.name))
        }
        kind = type(value).__name__
        return {"is": KEY_NAMES.get(kind, kind), **own}
    if isinstance(value, dict):
        return {str(k): plain(v) for k, v in value.items()}
    if isinstance(value, (list, tuple)):
        return [plain(v) for v in value]
    return str(value) if isinstance(value, Path) else value


def _as_before(field: Field[Any], value: Any) -> bool:
    """Whether a field that was added later has its default."""
    if not ADDED_LATER.items() <= field.metadata.items():
        return False
    return bool(value == (field.default if field.default_factory is MISSING else field.default_factory()))


def flat(value: Any, prefix: str = "") -> dict[str, Any]:
    """A recipe as `field.sub` -> plain value, for the report; classes and fields have their current names."""
    rows: dict[str, Any] = {}
    record = value if isinstance(value, dict) else plain(value)
    kind = record.get("is")
    current = current_names(_CURRENT_NAMES.get(kind, kind)) if isinstance(kind, str) else {}
    for old, inner in record.items():
        key = current.get(old, old)
        if isinstance(inner, dict):
            rows |= flat(inner, f"{prefix}{key}.")
        else:
            rows[f"{prefix}{key}"] = _CURRENT_NAMES.get(inner, inner) if key == "is" else inner
    return rows


def to_json(value: Any) -> str:
    """A value as indented JSON, converted by `plain`, with a final line break."""
    return json.dumps(plain(value), indent=2) + "\n"


def key_of(*parts: Any) -> str:
    """A hash of everything a stage depends on."""
    return hashlib.sha256(json.dumps([plain(p) for p in parts], sort_keys=True).encode()).hexdigest()


def read_card(folder: Path) -> ModelCard:
    """The card of an artefact folder. Raises ValueError, naming the folder or file, if it is missing or invalid."""
    file = folder / "card.json"
    try:
        text = read_regular(file, limit=TEXT_LIMIT).decode("utf-8")
    except (FileNotFoundError, NotADirectoryError):
        raise ValueError(f"{folder}: holds no card.json; is it an artefact folder?") from None
    except (OSError, UnicodeDecodeError) as error:
        raise ValueError(f"{file}: cannot be read ({error}); copy the folder again") from None
    return ModelCard.from_json(text, source=file)


def stands(folder: Path, *, key: str) -> bool:
    """Whether the stage is done: its card carries this key and every file it names is there, unchanged."""
    if not (folder / "card.json").exists():
        return False
    card = read_card(folder)
    if card.recipe_hash != key:
        return False
    for name, digest in card.files.items():
        file = folder / name
        if not file.exists() or sha256(file) != digest:
            raise ValueError(f"{file}: missing or changed since it was written; remove {folder} to make it again")
    return True


def identity(folder: Path) -> str:
    """What a child depends on: its parent's files, not the moment they were written."""
    return key_of({name: digest for name, digest in read_card(folder).files.items() if name != CURVES})


@contextmanager
def staged(folder: Path, *, overwrite: bool = False) -> Iterator[Path]:
    """A working folder that outlives an interruption, and becomes `folder` when the block ends well.

    A folder that is there is set aside as `folder.previous-1` (the count goes up), or replaced with `overwrite`.
    """
    working = folder.with_name(folder.name + ".partial")
    make_folder(working)
    for finished in working.glob(f"{_FINISHED}*"):  # the last run ended between the card and the name
        (working / CARD).unlink(missing_ok=True)
        os.replace(finished, working / finished.name.removeprefix(_FINISHED))
    yield working
    fsync_tree(working)
    old = folder.with_name(folder.name + ".old")
    if folder.exists() and overwrite:
        shutil.rmtree(old, ignore_errors=True)
        os.replace(folder, old)
    elif folder.exists():
        set_aside(folder)
    os.replace(working, folder)
    fsync_folder(folder.parent)
    for finished in folder.glob(f"{_FINISHED}*"):
        finished.unlink()
    shutil.rmtree(old, ignore_errors=True)


def write_card(folder: Path, card: ModelCard) -> ModelCard:
    """Seal the folder: the card, written last, carries the hash of every file beside it.

    A checkpoint is renamed, so that the card does not list it; `staged` removes it when the folder has its name.
    """
    for file in (checkpoint.CHECKPOINT, checkpoint.previous_checkpoint(Path(checkpoint.CHECKPOINT)).name):
        if (folder / file).exists():
            os.replace(folder / file, folder / f"{_FINISHED}{file}")
    return finalize(folder, replace(card, created=""))


def rewrite_card(folder: Path, card: ModelCard) -> None:
    """Replace the card of a finished stage; its files are as they were."""
    write_text(folder / CARD, card.to_json())


def replace_file(folder: Path, name: str, text: str) -> None:
    """Replace a text file of a finished stage, and its hash on the card.

    The card is written twice: without the file first, so that a run that is cut in between leaves a card that fits.
    """
    card = read_card(folder)
    rewrite_card(folder, replace(card, files={file: h for file, h in card.files.items() if file != name}))
    write_text(folder / name, text)
    rewrite_card(folder, replace(card, files={**card.files, name: sha256(folder / name)}))
