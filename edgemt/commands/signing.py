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


def sign_ship(command: Sign) -> None:
    """Verify a ship, sign its card and print the path of the signature."""
    from deploy.package.files import CARD
    from deploy.package.package import open_package
    from deploy.package.signing import sign

    print(sign(open_package(command.ship, trusted="").folder / CARD, key=command.key))
