"""Authenticated cache files: compiled graphs, engines and kernels that the same user's programs wrote.

A cached file holds compiled code, and no card lists its hash. So each one carries an HMAC-SHA256 under a secret key of
the user: a random file of mode 0600, `cache.key` in the user's configuration folder, or the file $EDGEMT_CACHE_KEY.
Engines built on one machine run on another that has the same key file.

    32 bytes   HMAC-SHA256(key, context, 0, content)
    the rest   content
"""

from __future__ import annotations

import hashlib
import hmac
import os
import secrets
import stat
from contextlib import suppress
from pathlib import Path

from edgemt.io.atomic import write_bytes
from edgemt.io.plain_files import read_regular

KEY_FILE = "EDGEMT_CACHE_KEY"
_SIZE = 32  # bytes, of a key and of a MAC


def mac(context: str, content: bytes) -> bytes:
    """HMAC-SHA256 of `content`. `context` names what the content is, so that no cached file can replace another.

    Raises ValueError, naming the key file, where there is no key and none can be written.
    """
    return hmac.new(_key(), context.encode() + b"\0" + content, hashlib.sha256).digest()


def genuine(context: str, content: bytes, seal: bytes) -> bool:
    """True where `seal` is the MAC of `content`. Raises ValueError as `mac` does."""
    return hmac.compare_digest(mac(context, content), seal)


def write_sealed(path: Path, context: str, content: bytes) -> None:
    """Write `content` with its MAC before it. Raises ValueError as `mac` does."""
    write_bytes(path, mac(context, content) + content)


def read_sealed(path: Path, context: str) -> bytes | None:
    """The content of a file of `write_sealed`; None where the file is missing or its MAC does not match."""
    try:
        data = read_regular(path)
    except OSError:
        return None
    content = data[_SIZE:]
    return content if genuine(context, content, data[:_SIZE]) else None


def private_folder(folder: Path) -> Path:
    """Make a cache folder for this user alone. Raises ValueError for one of another owner, or that others may write."""
    try:
        folder.mkdir(parents=True, exist_ok=True, mode=0o700)
        found = folder.stat()
    except OSError as error:
        raise ValueError(f"{folder}: no cache can be written there ({error.strerror}); set EDGEMT_CACHE") from None
    _only_ours(folder, found, 0o022, "chmod go-w")
    return folder


def key_file() -> Path:
    """$EDGEMT_CACHE_KEY, else edgemt/cache.key in the user's configuration folder."""
    if os.environ.get(KEY_FILE):
        return Path(os.environ[KEY_FILE])
    if os.environ.get("XDG_CONFIG_HOME"):
        return Path(os.environ["XDG_CONFIG_HOME"]) / "edgemt" / "cache.key"
    try:
        return Path.home() / ".config" / "edgemt" / "cache.key"
    except RuntimeError:
        raise ValueError(f"no home folder here for the key of the cache; set {KEY_FILE} to a file") from None


def _key() -> bytes:
    path = key_file()
    try:
        with suppress(FileNotFoundError):
            return _checked(path)
        path.parent.mkdir(parents=True, exist_ok=True, mode=0o700)
        part = path.with_name(f".{path.name}.{secrets.token_hex(8)}.part")
        with os.fdopen(os.open(part, os.O_WRONLY | os.O_CREAT | os.O_EXCL, 0o600), "wb") as file:
            file.write(secrets.token_bytes(_SIZE))
        with suppress(FileExistsError):  # another process wrote it first
            os.link(part, path)
        part.unlink()
        return _checked(path)
    except OSError as error:
        raise ValueError(f"{path}: no key of the cache can be written ({error.strerror}); set {KEY_FILE}") from None


def _checked(path: Path) -> bytes:
    key = read_regular(path, limit=4096)
    _only_ours(path, path.stat(), 0o077, "chmod 600")
    if len(key) < _SIZE:
        raise ValueError(f"{path}: holds {len(key)} bytes, a key of the cache has {_SIZE}; remove it to get a new one")
    return key


def _only_ours(path: Path, found: os.stat_result, others: int, remedy: str) -> None:
    if os.name != "posix":
        return
    if found.st_uid not in (os.geteuid(), 0):
        raise ValueError(f"{path}: belongs to another user ({found.st_uid}); choose a place of your own: EDGEMT_CACHE")
    if stat.S_IMODE(found.st_mode) & others:
        raise ValueError(f"{path}: others may write or read it; {remedy} {path}")
