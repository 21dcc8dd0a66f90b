"""The commands that make a key and sign a ship with it."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path

from tyro.conf import Positional

from edgemt.commands.console import log


@dataclass(frozen=True)
class Keygen:
    """A new Ed25519 key to sign ships with: KEY.pem, which stays with you, and KEY.pub.pem for the devices."""

    key: Positional[Path]
    """The private key's file; EDGEMT_KEY_PASSPHRASE locks it, if set."""


def make_key(command: Keygen) -> None:
    """Write a new pair of keys and print the paths of both files, the private key first."""
    from deploy.package.signing import TRUSTED, keygen

    private, public = keygen(command.key)
    print(f"{private}\n{public}")
    log(f"keep {private} to yourself; copy {public} to the devices and set {TRUSTED} to its path there")


@dataclass(frozen=True)
class Sign:
    """Sign a ship once every hash is checked. Where EDGEMT_TRUSTED_KEY names the public key, no other is opened."""

    ship: Positional[Path]
    key: Path
    """The private key, as edgemt keygen wrote it."""
    version: int | None = None
    """A number that grows with every release of this model (by the name on its card). A device that has run a newer
    one refuses this ship. The card keeps its version if none is given."""
    expires: str | None = None
    """YYYY-MM-DD: the last day on which devices open this ship; "" for no end."""


def sign_ship(command: Sign) -> None:
    """Verify a ship, write version and expiry to its card, sign it and print the path of the signature."""
    from dataclasses import replace

    from deploy.package.files import CARD
    from deploy.package.package import open_package
    from deploy.package.signing import SIGNATURE, load_private_key, sign
    from edgemt.io.atomic import write_text

    _check_release(command)
    load_private_key(command.key)  # before the card is changed
    package = open_package(command.ship, trusted="", any_version=True)
    path, card = package.folder / CARD, package.card
    released = replace(
        card,
        version=card.version if command.version is None else command.version,
        expires=card.expires if command.expires is None else command.expires,
    )
    if released != card:
        (package.folder / SIGNATURE).unlink(missing_ok=True)
        write_text(path, released.to_json())
    print(sign(path, key=command.key))
    until = f", expires {released.expires}" if released.expires else ""
    log(f"{released.name}: {f'version {released.version}' if released.version else 'no version'}{until}")


def _check_release(command: Sign) -> None:
    """Raises ValueError for a version that is not positive, and for a day that is none."""
    from datetime import date

    if command.version is not None and command.version < 1:
        raise ValueError(f"version: must be 1 or more, not {command.version}")
    if command.expires:
        try:
            fine = date.fromisoformat(command.expires).isoformat() == command.expires
        except ValueError:
            fine = False
        if not fine:
            raise ValueError(f"expires: {command.expires!r} is no day; write it as 2028-01-31")
