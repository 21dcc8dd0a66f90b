"""The folder that goes to the device. It is checked whole before any runtime sees a file of it.

    ship/  model.onnx  model.fp16.onnx  model.int8.onnx
           openvino/model.xml|.bin  model.fp16.xml|.bin  model.int8.xml|.bin
           card.json   golden/NAME.png  golden/NAME.mask.png    card.json.sig, if it was signed

Shapes: N batch, H W size in pixels, K channels.
"""

from __future__ import annotations

import hashlib
import logging
import os
from dataclasses import dataclass, replace
from datetime import datetime, timezone
from functools import cache
from pathlib import Path, PurePosixPath

from deploy.package.files import CARD, GOLDEN
from deploy.package.model_bytes import ModelBytes
from deploy.package.onnx_inspect import refuse_unsafe
from deploy.package.signing import SIGNATURE, TRUSTED, verify
from edgemt.io.atomic import write_text
from edgemt.io.plain_files import TEXT_LIMIT, read_regular
from edgemt.io.zoo_paths import located
from edgemt.model_card import ModelCard

log = logging.getLogger("edgemt.deploy")


@dataclass(frozen=True)
class Ship:
    """A folder whose every listed file had the hash that its card says."""

    folder: Path
    card: ModelCard
    signed: bool = False  # by a trusted key, which was checked

    def path(self, file: str) -> Path:
        """Raises ValueError for a file the card does not list: what is not listed was not checked."""
        if file not in self.card.files:
            held = ", ".join(sorted(f for f in self.card.files if not f.startswith(f"{GOLDEN}/")))
            raise ValueError(f"{self.folder}: no file {file!r} on the card; it lists {held}")
        return self.folder / file

    def read(self, file: str) -> bytes:
        """The bytes of a listed file, read once and with the hash that the card lists.

        Raises ValueError, naming the file, for one that changed since `open_ship` and for an unsafe graph.
        """
        return _verified(self.folder, self.path(file).relative_to(self.folder).as_posix(), self.card.files[file])

    def model(self, file: str) -> ModelBytes:
        """A listed graph for a runtime, with its .bin where it is an .xml. Raises ValueError as `read` does."""
        weights = self.read(f"{file.removesuffix('.xml')}.bin") if file.endswith(".xml") else None
        return ModelBytes(self.folder / file, self.read(file), weights)


def seal(folder: str | Path, card: ModelCard) -> ModelCard:
    """Write the card with the sha256 of every file in `folder`, last. Returns what was written.

    A signature of the card before is removed: it would not fit.
    """
    folder = Path(folder)
    if not folder.is_dir():
        raise ValueError(f"{folder}: no such folder to seal")
    files = {}
    for path in sorted(folder.rglob("*")):
        name = path.relative_to(folder).as_posix()
        if path.is_dir() or name in (CARD, SIGNATURE) or path.name.startswith("."):
            continue
        _stays_inside(folder, name)
        data = read_regular(path)
        if path.suffix == ".onnx":
            refuse_unsafe(path, data)
        files[name] = hashlib.sha256(data).hexdigest()
    if not files:
        raise ValueError(f"{folder}: nothing to seal; export a model into it first")
    created = card.created or datetime.now(timezone.utc).isoformat(timespec="seconds")
    sealed = replace(card, files=files, created=created)
    (folder / SIGNATURE).unlink(missing_ok=True)
    write_text(folder / CARD, sealed.to_json())
    return sealed


def open_ship(folder: str | Path, *, trusted: str | Path | None = None) -> Ship:
    """Check the whole folder, or that of `zoo/NAME`. Raises ValueError, one line that names the file, for what is off.

    `trusted` is a PEM file with the public key, or keys, of which one must have signed the card; None takes the file
    that EDGEMT_TRUSTED_KEY names, if it is set; "" asks for no signature. Where there is one and no key to check it
    with, a warning is logged.
    """
    folder = located(folder)
    if not folder.is_dir():
        raise ValueError(f"{folder}: no such ship folder")
    try:
        signed = read_regular(folder / CARD, limit=TEXT_LIMIT)
        text = signed.decode("utf-8")
    except FileNotFoundError:
        raise ValueError(f"{folder}: no {CARD}, so this is no ship; name the folder that `edgemt run` wrote") from None
    except (OSError, UnicodeDecodeError) as error:
        raise ValueError(f"{folder / CARD}: cannot be read ({error}); copy the folder again") from None
    key = os.environ.get(TRUSTED, "") if trusted is None else trusted
    if str(key):
        verify(signed, folder / SIGNATURE, trusted=key)
    elif trusted is None and (folder / SIGNATURE).exists():
        _unchecked(str(folder.resolve()), hashlib.sha256(signed).hexdigest())
    card = ModelCard.from_json(text, source=folder / CARD)
    _check_card(folder / CARD, card)
    for name, digest in card.files.items():
        _verified(folder, name, digest)
    return Ship(folder, card, signed=bool(str(key)))


@cache
def _unchecked(folder: str, card: str) -> None:
    """Once for each card: whether the signature fits, or is one of an earlier card, cannot be told without a key."""
    log.warning(
        "%s: has a signature that was not checked, it may be of another card; set %s to the maker's .pub.pem",
        folder,
        TRUSTED,
    )


def card_hash(card: ModelCard) -> str:
    """What a child artefact writes into its `parents`."""
    return hashlib.sha256(card.to_json().encode()).hexdigest()


def _check_card(path: Path, card: ModelCard) -> None:
    whole = len(card.size) == 2 and all(isinstance(n, int) and n > 0 for n in card.size)
    for field, fine in (
        ("size", whole),
        ("channels", card.channels in ((3, 5) if card.channel_order == "slices" else (1, 3))),
        ("classes", len(card.classes) >= 2),
        ("files", bool(card.files) and all(isinstance(v, str) for v in card.files.values())),
    ):
        if not fine:
            raise ValueError(f"{path}: {field} {getattr(card, field)!r} makes no sense; export the model again")
    for name in card.files:
        if name.endswith(".xml") and name.removesuffix(".xml") + ".bin" not in card.files:
            raise ValueError(f"{path}: lists {name} without its .bin; export the model again")


def _verified(folder: Path, name: str, digest: str) -> bytes:
    """Read once: the bytes that are hashed and walked are the ones returned."""
    path = _stays_inside(folder, name)
    if not path.is_file():
        raise ValueError(f"{path}: missing, though {CARD} lists it; copy the folder again")
    try:
        data = read_regular(path)
    except OSError as error:
        raise ValueError(f"{path}: cannot be read ({error.strerror}); copy the folder again") from None
    if hashlib.sha256(data).hexdigest() != digest:
        raise ValueError(f"{path}: changed since the card was written (sha256 differs); copy the folder again")
    if path.suffix == ".onnx":
        refuse_unsafe(path, data)
    return data


def _stays_inside(folder: Path, name: str) -> Path:
    """Links and `..` could make a listed name point at anything: only paths below the folder are opened."""
    pure = PurePosixPath(name)
    path = folder / name
    if pure.is_absolute() or ".." in pure.parts or "\\" in name or not name:
        raise ValueError(f"{folder}: {name!r} points outside the folder; refuse this ship")
    if not path.resolve().is_relative_to(folder.resolve()):
        raise ValueError(f"{path}: is a link that leaves the folder; copy the file itself")
    return path
