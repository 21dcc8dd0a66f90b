"""The command that gives masks of a ship to label tools."""

from __future__ import annotations

from contextlib import suppress
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING

from tyro.conf import Positional

from edgemt.commands.console import log

if TYPE_CHECKING:
    from edgemt.inference.one_image import PromptedImage


@dataclass(frozen=True)
class ServeLabels:
    """Masks of a ship for Label Studio and CVAT while people label: drawn ahead, to be corrected.

    Listens on 127.0.0.1 alone until Ctrl-C, and prints its address and a token. The token is the password of HTTP basic
    authentication, with any user name. Nothing is stored, and nothing is sent elsewhere. The reason of a rejected
    request is printed.

    Label Studio, started with USE_DEFAULT_BANNED_SUBNETS=false in its environment, Settings, Model, Connect Model: the
    address, basic authentication; --images names the folder of the images, since it sends names alone. CVAT: the host
    and port of Nuclio are those of this server (docs/serve-labels.md). A ship with a prompt input (edgemt export SHIP
    --with-prompt) also gives the object of a click or a box.
    """

    ship: Positional[Path]
    """The folder, a run folder, a stage with weights, or zoo/NAME."""
    port: int = 9090
    """0: a free one."""
    images: Path | None = None
    """Folder of the images of Label Studio's tasks; they are found by their names."""
    token: str = ""
    """A token of your own, of 16 letters or more; a random one if not given."""


def _prompted(folder: Path) -> PromptedImage | None:
    """The prompt input of a ship, or of the ship of a run folder; None without one."""
    from deploy.package.package import open_package
    from deploy.promptable.runner import has_prompt, open_prompt
    from edgemt.inference.evaluate_package import holds_network
    from edgemt.inference.one_image import PromptedImage

    run = (folder / "ship" / "card.json").is_file()
    if not run and ((folder / "teacher" / "card.json").is_file() or holds_network(folder)):
        return None
    package = open_package(folder / "ship" if run else folder)
    return PromptedImage(open_prompt(package), package.card) if has_prompt(package) else None


def serve_labels(command: ServeLabels) -> None:
    """Serve until Ctrl-C."""
    import numpy as np

    from edgemt.data_report.against import open_teacher
    from edgemt.inference.one_image import mask_of_image
    from edgemt.label_server.protocols import LabelBackend
    from edgemt.label_server.server import LabelServer

    if command.token and len(command.token) < 16:
        raise ValueError(f"token: has {len(command.token)} letters, fewer than 16; leave it out for a random one")
    if command.images is not None and not command.images.is_dir():
        raise ValueError(f"images: no such folder {str(command.images)!r}")
    model = open_teacher(command.ship)

    def masks(path: Path) -> np.ndarray:
        return mask_of_image(path, model.card, lambda frames: model.predict(frames)[0])

    prompted = _prompted(command.ship)
    name, classes = model.card.name or "edgemt", tuple(model.card.classes)
    backend = LabelBackend(masks, classes, name=name, images=command.images, prompted=prompted)
    server = LabelServer(backend, port=command.port, token=command.token, log=log)
    print(f"{server.address}  token {server.token}", flush=True)
    clicks = "clicks and boxes too" if prompted is not None else "no clicks or boxes (edgemt export SHIP --with-prompt)"
    log(f"masks of {model.name} ({', '.join(classes[1:])}); {clicks}; end with Ctrl-C")
    with server, suppress(KeyboardInterrupt):
        server.serve_forever()
