"""The command that chooses which images to label next."""

from __future__ import annotations

from dataclasses import dataclass, field
from pathlib import Path
from typing import Literal

from tyro.conf import Positional

from edgemt.commands.console import log, pass_progress
from edgemt.commands.data import Fields


@dataclass(frozen=True)
class Select:
    """Choose the images of a folder that deserve a label next: a list, and a contact sheet that opens offline.

    Before any model is trained: --method typical (the default; one typical image from each cluster) or k-centre, on
    features of an encoder pretrained on ImageNet. After: --model RUN, the uncertainty of its teacher times the distance
    to what is labelled. Images with a mask count as labelled, masks are not opened, validation images are not chosen,
    and no two copies of one image are. The same call gives the same list; features are cached in OUT/features.npz.
    """

    root: Positional[Path]
    """A folder in a layout of `edgemt list layouts`; masks may be missing altogether."""
    budget: int
    """Number of images, or volumes, to label."""
    data: Fields = field(default_factory=Fields)
    method: Literal["auto", "typical", "k-centre", "uncertain"] = "auto"
    """auto: uncertain with a --model, else typical."""
    model: Path | None = None
    """A run folder or a stage with weights: entropy of its probabilities."""
    per_patient: int = 0
    """At most so many images of a patient, labelled ones counted; 0: any number."""
    ignore_masks: bool = False
    """Take every training image for unlabelled, whatever masks are there."""
    encoder: str = "tf_efficientnet_lite0"
    """A timm encoder whose pretrained weights are on this machine (edgemt list encoders)."""
    out: Path | None = None
    """Folder for selected.txt, labelled.txt (for --data.labelled), selected.html; selection/NAME if not given."""
    pictures: bool = True
    """Show the images in the contact sheet."""


def select_images(command: Select) -> None:
    """Write the lists and the sheet, print the chosen names and the path of the sheet."""
    from edgemt.data.options import DataOptions
    from edgemt.data_report.against import open_teacher
    from edgemt.selection.features import encoder
    from edgemt.selection.select import select, write_selection

    teacher = open_teacher(command.model) if command.model is not None else None
    method = command.method if command.method != "auto" else "uncertain" if teacher is not None else "typical"
    out = command.out or Path("selection") / command.root.resolve().name
    options = DataOptions(root=command.root, **command.data.given())
    extract, identity = encoder(command.encoder)
    found = select(
        options,
        budget=command.budget,
        method=method,
        extract=extract,
        identity=identity,
        cache=out / "features.npz",
        per_patient=command.per_patient,
        ignore_masks=command.ignore_masks,
        teacher=teacher if method == "uncertain" else None,
        progress=pass_progress("features"),
    )
    paths = write_selection(found, out, root=command.root, pictures=command.pictures)
    for item in found.chosen:
        print(item.name)
    if len(found.chosen) < command.budget:
        log(f"{len(found.chosen)} of {command.budget} chosen: the others are copies, or of patients with enough images")
    print(paths[2])
