"""The command that gives masks of a ship to label tools."""

from __future__ import annotations

from contextlib import suppress
from dataclasses import dataclass
from pathlib import Path

from tyro.conf import Positional

from edgemt.commands.console import log


@dataclass(frozen=True)
class ServeLabels:
    """Masks of a ship for Label Studio and CVAT while people label: drawn ahead, to be corrected.

    Listens on 127.0.0.1 alone until Ctrl-C, and prints its address and a token. The token is the password of HTTP basic
    authentication, with any user name. Nothing is stored, and nothing is sent elsewhere.

    Label Studio, Settings, Model, Connect Model: the address, basic authentication; --images names the folder of the
    images, since it sends names alone. CVAT: NUCLIO_HOST and NUCLIO_PORT of this server (docs/serve-labels.md).
    """

    ship: Positional[Path]
    """The folder, a run folder, a stage with weights, or zoo/NAME."""
    port: int = 9090
    """0: a free one."""
    images: Path | None = None
    """Folder of the images of Label Studio's tasks; they are found by their names."""
    token: str = ""
    """A token of your own, of 16 letters or more; a random one if not given."""


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

    backend = LabelBackend(masks, tuple(model.card.classes), name=model.card.name or "edgemt", images=command.images)
    server = LabelServer(backend, port=command.port, token=command.token)
    print(f"{server.address}  token {server.token}", flush=True)
    log(f"masks of {model.name} ({', '.join(model.card.classes[1:])}); end with Ctrl-C")
    with server, suppress(KeyboardInterrupt):
        server.serve_forever()
