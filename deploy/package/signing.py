"""Signatures: Ed25519 over the card of a package, which lists the hash of every other file.

`card.json.sig` is the bare signature, 64 bytes, of the bytes of `card.json`, so that other tools can check it too:
`openssl pkeyutl -verify -rawin -pubin -inkey PUBLIC.pem -sigfile card.json.sig -in card.json`.
Keys are PEM files. The package `cryptography` is needed only to sign and to verify a signature.
"""

from __future__ import annotations

import os
import re
import stat
from importlib import import_module
from pathlib import Path
from typing import Any

from deploy.package.policy import POLICY, read_policy
from edgemt.io.atomic import atomic_write, write_bytes

SIGNATURE = "card.json.sig"
TRUSTED = (
    "EDGEMT_TRUSTED_KEY"  # names the public key file; where it is set, only packages signed by that key are opened
)
PASSPHRASE = "EDGEMT_KEY_PASSPHRASE"  # passphrase of the private key, where it has one
_BLOCK = re.compile(rb"-----BEGIN PUBLIC KEY-----.*?-----END PUBLIC KEY-----", re.S)


def keygen(path: str | Path) -> tuple[Path, Path]:
    """Write a new private key to `path` (mode 0600) and its public half to `NAME.pub.pem` in the same folder.

    Raises ValueError rather than overwrite either file.
    """
    path = Path(path)
    public = path.with_name(f"{path.name.removesuffix('.pem')}.pub.pem")
    for file in (path, public):
        if file.exists():
            raise ValueError(f"{file}: is there already; a key is not overwritten, choose another name")
    serialization, ed25519 = _cryptography()
    key, secret = ed25519.Ed25519PrivateKey.generate(), os.environ.get(PASSPHRASE, "").encode()
    lock = serialization.BestAvailableEncryption(secret) if secret else serialization.NoEncryption()
    pem = key.private_bytes(serialization.Encoding.PEM, serialization.PrivateFormat.PKCS8, lock)
    with atomic_write(path) as part:
        part.touch(0o600, exist_ok=False)  # never readable by others, not even briefly
        part.write_bytes(pem)
    form = serialization.PublicFormat.SubjectPublicKeyInfo
    write_bytes(public, key.public_key().public_bytes(serialization.Encoding.PEM, form))
    return path, public


def load_private_key(key: str | Path) -> Any:
    """The Ed25519 private key of a PEM file.

    Raises ValueError, naming the file, for a file that is no private key, and for a key that others can read.
    """
    key = Path(key)
    serialization, ed25519 = _cryptography()
    pem = _pem(key, "private key")
    if os.name == "posix" and stat.S_IMODE(key.stat().st_mode) & 0o077:
        raise ValueError(f"{key}: others can read this private key; chmod 600 {key}")
    secret = os.environ.get(PASSPHRASE, "").encode() or None
    try:
        private = serialization.load_pem_private_key(pem, secret if b"ENCRYPTED" in pem else None)
    except TypeError:
        raise ValueError(f"{key}: has a passphrase; set {PASSPHRASE}") from None
    except ValueError as error:
        wrong = f"the passphrase in {PASSPHRASE} does not open it" if secret else f"{error}"
        raise ValueError(f"{key}: no private key in PEM form ({_one_line(wrong)}); edgemt keygen makes one") from None
    if not isinstance(private, ed25519.Ed25519PrivateKey):
        raise ValueError(f"{key}: is a key of another kind, not Ed25519; edgemt keygen makes one")
    return private


def sign(card: str | Path, *, key: str | Path) -> Path:
    """Sign the card file as it is; returns the signature file. Verify the package first: only the card is read here.

    Raises ValueError as `load_private_key` does.
    """
    card = Path(card)
    signature = card.with_name(SIGNATURE)
    write_bytes(signature, load_private_key(key).sign(card.read_bytes()))
    return signature


def verify(text: bytes, signature: str | Path, *, trusted: str | Path) -> None:
    """Raises ValueError unless `signature` is a signature of `text` by one of the keys in the PEM file `trusted`."""
    signature, trusted = Path(signature), Path(trusted)
    serialization, ed25519 = _cryptography()
    keys = []
    for block in _BLOCK.findall(_pem(trusted, "public key")):
        try:
            keys.append(serialization.load_pem_public_key(block))
        except ValueError as error:
            raise ValueError(f"{trusted}: a public key in it cannot be read ({_one_line(str(error))})") from None
    keys = [key for key in keys if isinstance(key, ed25519.Ed25519PublicKey)]
    if not keys:
        raise ValueError(f"{trusted}: holds no Ed25519 public key; give the .pub.pem that edgemt keygen wrote")
    try:
        raw_signature = signature.read_bytes()
    except OSError:
        raise ValueError(
            f"{signature.parent}: not signed ({signature.name} is missing), and {trusted.name} is required; "
            "refuse it, or have its maker sign it with edgemt sign"
        ) from None
    if not any(_fits(key, raw_signature, text) for key in keys):
        raise ValueError(
            f"{signature}: not by a key in {trusted.name}, or the card was changed since; refuse this ship"
        )


def require_signed(path: str | Path, *, signed: bool) -> None:
    """Raises ValueError where EDGEMT_TRUSTED_KEY is set or the policy requires it, and `path` was not verified.

    A single graph has no signature, and a Package that was built without `open_package`, or opened with trusted="", is
    not verified: the environment variable applies to both.
    """
    required_by = POLICY if read_policy().trusted_key else TRUSTED if os.environ.get(TRUSTED) else ""
    if required_by and not signed:
        raise ValueError(
            f"{path}: was not opened with a trusted key, and {required_by} requires one; open a signed ship with "
            "open_ship"
        )


def _fits(key: Any, raw_signature: bytes, text: bytes) -> bool:
    try:
        key.verify(raw_signature, text)
    except import_module("cryptography.exceptions").InvalidSignature:
        return False
    return True


def _pem(path: Path, what: str) -> bytes:
    try:
        return path.read_bytes()
    except OSError as error:
        raise ValueError(f"{path}: this {what} cannot be read ({error.strerror}); name the PEM file") from None


def _one_line(text: str) -> str:
    return " ".join(text.split())[:80]


def _cryptography() -> tuple[Any, Any]:
    try:
        serialization = import_module("cryptography.hazmat.primitives.serialization")
        return serialization, import_module("cryptography.hazmat.primitives.asymmetric.ed25519")
    except ImportError as error:
        raise ValueError(f"signatures need cryptography ({error}); pip install 'edgemt[sign]'") from None
