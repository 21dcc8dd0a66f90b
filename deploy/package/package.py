"""The package: the folder that is copied to a device. Every file is verified before a runtime loads any of them.

    ship/  model.onnx  model.fp16.onnx  model.int8.onnx
           openvino/model.xml|.bin  model.fp16.xml|.bin  model.int8.xml|.bin
           card.json   golden/NAME.png  golden/NAME.mask.png    card.json.sig, if it was signed

Shapes: N batch, H W size in pixels, K channels.
"""

from __future__ import annotations

import hashlib
import logging
import os
import shutil
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass, replace
from datetime import datetime, timezone
from functools import cache
from pathlib import Path, PurePosixPath

from deploy.package.files import CARD, GOLDEN
from deploy.package.model_bytes import ModelBytes
from deploy.package.onnx_inspect import check_safe
from deploy.package.policy import read_policy
from deploy.package.signing import SIGNATURE, TRUSTED, verify
from deploy.package.versions import check_version
from edgemt.io import channels
from edgemt.io.atomic import write_text
from edgemt.io.class_regions import MAX_OVERLAPPING
from edgemt.io.plain_files import TEXT_LIMIT, read_regular
from edgemt.io.zoo_paths import located
from edgemt.model_card import ModelCard

log = logging.getLogger("edgemt.deploy")


@dataclass(frozen=True)
class Package:
    """A package folder in which every file listed on the card had its listed hash."""

    folder: Path
    card: ModelCard
    signed: bool = False  # by a trusted key, and the signature was checked

    def path(self, file: str) -> Path:
        """Path of a listed file. Raises ValueError for a file that the card does not list: it was not verified."""
        if file not in self.card.files:
            listed = ", ".join(sorted(f for f in self.card.files if not f.startswith(f"{GOLDEN}/")))
            raise ValueError(f"{self.folder}: no file {file!r} on the card; it lists {listed}")
        return self.folder / file

    def read(self, file: str) -> bytes:
        """The bytes of a listed file, read once and verified against the hash of the card.

        Raises ValueError, naming the file, for one that changed since `open_ship` and for an unsafe graph.
        """
        return _verified(self.folder, self.path(file).relative_to(self.folder).as_posix(), self.card.files[file])

    def model(self, file: str) -> ModelBytes:
        """A listed graph for a runtime, with its .bin where it is an .xml. Raises ValueError as `read` does."""
        weights = self.read(f"{file.removesuffix('.xml')}.bin") if file.endswith(".xml") else None
        return ModelBytes(self.folder / file, self.read(file), weights)


def finalize(folder: str | Path, card: ModelCard) -> ModelCard:
    """Write the card, with the sha256 of every file in `folder`, as the last file. Returns the card as written.

    An existing signature is removed, as it belongs to the previous card.
    """
    folder = Path(folder)
    if not folder.is_dir():
        raise ValueError(f"{folder}: no such folder")
    files = {}
    for path in sorted(folder.rglob("*")):
        name = path.relative_to(folder).as_posix()
        if path.is_dir() or name in (CARD, SIGNATURE) or path.name.startswith("."):
            continue
        _stays_inside(folder, name)
        data = read_regular(path)
        if path.suffix == ".onnx":
            check_safe(path, data)
        files[name] = hashlib.sha256(data).hexdigest()
    if not files:
        raise ValueError(f"{folder}: empty; export a model into it first")
    created = card.created or datetime.now(timezone.utc).isoformat(timespec="seconds")
    sealed = replace(card, files=files, created=created)
    (folder / SIGNATURE).unlink(missing_ok=True)
    write_text(folder / CARD, sealed.to_json())
    return sealed


def open_package(folder: str | Path, *, trusted: str | Path | None = None, any_version: bool = False) -> Package:
    """Verify a package folder, or the package `zoo/NAME`, and return it.

    `trusted` is a PEM file with one or several public keys, one of which must have signed the card; None takes the file
    of EDGEMT_TRUSTED_KEY, where it is set; "" requires no signature. The policy of the device goes before all of them.
    A signature without a key to check it logs a warning. With a key, a version older than one that has run on this
    device, or one that has expired, is refused, unless `any_version`.
    Raises ValueError, in one line that names the file, for anything that does not fit.
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
    key = read_policy().trusted_key or (os.environ.get(TRUSTED, "") if trusted is None else trusted)
    if str(key):
        verify(signed, folder / SIGNATURE, trusted=key)
    elif trusted is None and (folder / SIGNATURE).exists():
        _unchecked(str(folder.resolve()), hashlib.sha256(signed).hexdigest())
    card = ModelCard.from_json(text, source=folder / CARD)
    _check_card(folder / CARD, card)
    for name, digest in card.files.items():
        _verified(folder, name, digest)
    if str(key) and not any_version:
        check_version(card, source=folder)
    return Package(folder, card, signed=bool(str(key)))


@contextmanager
def changed_package(folder: str | Path, *, what: str) -> Iterator[tuple[Package, Path]]:
    """The package in `folder`, and a copy to change and to `finalize`; `what` is part of the names of hidden folders.

    The copy takes the place of the package when the block ends; after an error the package is as it was.
    """
    folder = Path(folder)
    package = open_package(folder)
    working, old = (folder.with_name(f".{folder.name}.{suffix}") for suffix in (what, f"before-{what}"))
    shutil.rmtree(working, ignore_errors=True)
    try:
        shutil.copytree(folder, working)
        yield package, working
        shutil.rmtree(old, ignore_errors=True)
        os.replace(folder, old)
        os.replace(working, folder)
    finally:
        shutil.rmtree(working, ignore_errors=True)
        if not folder.exists() and old.exists():
            os.replace(old, folder)
    shutil.rmtree(old, ignore_errors=True)


@cache
def _unchecked(folder: str, card: str) -> None:
    """Warn once for each card: without a key it is unknown if the signature belongs to this card."""
    log.warning(
        "%s: has a signature that was not checked, it may be of another card; set %s to the maker's .pub.pem",
        folder,
        TRUSTED,
    )


def card_hash(card: ModelCard) -> str:
    """SHA-256 of a card, which an artefact made from it lists in its `parents`."""
    return hashlib.sha256(card.to_json().encode()).hexdigest()


def _check_card(path: Path, card: ModelCard) -> None:
    sides = card.size if card.patch is None else card.patch  # a 3-D network of a run has no frame size
    whole = len(sides) == 3 - (card.patch is None) and all(isinstance(n, int) and n > 0 for n in sides)
    for field, fine in (
        ("size" if card.patch is None else "patch", whole),
        ("channels", _channels_fit(card)),
        ("classes", len(card.classes) >= 2),
        ("overlapping", not card.overlapping or len(card.classes) <= MAX_OVERLAPPING + 1),
        ("files", bool(card.files) and all(isinstance(v, str) for v in card.files.values())),
    ):
        if not fine:
            raise ValueError(f"{path}: {field} {getattr(card, field)!r} is not valid; export the model again")
    for name in card.files:
        if name.endswith(".xml") and name.removesuffix(".xml") + ".bin" not in card.files:
            raise ValueError(f"{path}: lists {name} without its .bin; export the model again")


def _channels_fit(card: ModelCard) -> bool:
    if card.channel_order == channels.ORDER:
        return channels.check_card(card)
    return card.channels in ((3, 5) if card.channel_order == "slices" else (1, 3))


def _verified(folder: Path, name: str, digest: str) -> bytes:
    """The bytes of a listed file, read once: the returned bytes are those that were hashed and inspected."""
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
        check_safe(path, data)
    return data


def _stays_inside(folder: Path, name: str) -> Path:
    """The path of a listed file. Raises ValueError where `..` or a link leads out of the folder."""
    pure = PurePosixPath(name)
    path = folder / name
    if pure.is_absolute() or ".." in pure.parts or "\\" in name or not name:
        raise ValueError(f"{folder}: {name!r} points outside the folder; refuse this ship")
    if not path.resolve().is_relative_to(folder.resolve()):
        raise ValueError(f"{path}: is a link that leaves the folder; copy the file itself")
    return path
