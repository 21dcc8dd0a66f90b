"""The command that chooses which images to label next."""

from __future__ import annotations

from dataclasses import dataclass, field
from pathlib import Path
from typing import TYPE_CHECKING, Literal

from tyro.conf import Positional

from edgemt.commands.console import log, pass_progress, refuse_flags
from edgemt.commands.data import Fields

if TYPE_CHECKING:
    from edgemt.data_report.against import Teacher


@dataclass(frozen=True)
class Select:
    """Choose the images of a folder that deserve a label next: a list, and a contact sheet that opens offline.

    Before any model is trained: --method typical (the default; one typical image from each cluster) or k-centre, on
    features of an encoder pretrained on ImageNet. After: --model RUN, the uncertainty of its teacher times the distance
    to what is labelled; with --by variance it is how much its several teachers disagree. Images with a mask count as
    labelled, masks are not opened, validation images are not chosen, and no two copies of one image are. The same call
    gives the same list; features are cached in OUT/features.npz.
    """

    root: Positional[Path]
    """A folder in a layout of `edgemt list layouts`; masks may be missing altogether."""
    budget: int
    """Number of images, or volumes, to label."""
    data: Fields = field(default_factory=Fields)
    method: Literal["auto", "typical", "k-centre", "uncertain"] = "auto"
    """auto: uncertain with a --model, else typical."""
    model: Path | None = None
    """A run folder or a stage with weights: entropy of its probabilities. With --by variance a run folder."""
    by: Literal["entropy", "variance"] = "entropy"
    """variance: that between the teachers of the run, as its bank has it for every training image (a run with several
    teachers and --student.method.uncertainty above 0). No network is run."""
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
    format: Literal["cvat", "label-studio"] | None = None
    """Also a task for a label tool, in OUT/cvat or OUT/label-studio: copies of the chosen images, and the file to
    upload. Import the corrected labels with edgemt import FILE --images OUT/cvat/images --out NEW."""
    draw: Path | None = None
    """Of --format: a ship, a run folder or a stage that draws masks into the task, to be corrected; --model, if not
    given. Without either the task is empty, and --data.classes names the labels."""
    shapes: Literal["auto", "polygon", "rle"] = "auto"
    """Of --format: masks pixel by pixel (auto, rle), or polygons."""


def select_images(command: Select) -> None:
    """Write the lists and the sheet, print the chosen names and the path of the sheet."""
    from edgemt.data_report.against import open_teacher
    from edgemt.data_report.encoder_features import encoder
    from edgemt.selection.label_task import check_task, write_task
    from edgemt.selection.select import select, write_selection

    drawing = _drawing_model(command)
    by_variance = command.by == "variance"
    if by_variance and (command.model is None or command.method not in ("auto", "uncertain")):
        raise ValueError("by: variance is that of a run's teachers; give --model RUN, and no --method but uncertain")
    if command.method in ("typical", "k-centre") and command.format is None:
        refuse_flags(command, "model", why=f"--method {command.method} compares features alone")
    refuse_flags(command.data, "mask_threshold", "ignore", why="no mask is opened")
    if command.ignore_masks and command.data.labelled is not None:
        raise ValueError(
            "--data.labelled: has no effect, --ignore-masks takes every image for unlabelled; leave it out"
        )
    teacher = open_teacher(command.model) if command.model is not None and not by_variance else None
    method = command.method if command.method != "auto" else "uncertain" if command.model is not None else "typical"
    out = command.out or Path("selection") / command.root.resolve().name
    if command.format is not None:
        check_task((), out, command.format)
    options = command.data.options(command.root)
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
        bank_of=command.model if by_variance else None,
        progress=pass_progress("features"),
    )
    if command.format is not None:
        check_task(found.chosen, out, command.format)
    paths = write_selection(found, out, root=command.root, pictures=command.pictures)
    if command.format is not None:
        task = write_task(
            found,
            out,
            format=command.format,
            classes=command.data.classes or (),
            teacher=drawing,
            shapes=command.shapes,
            progress=pass_progress("images of the task"),
        )
        log(f"{task}: upload {task.parent / 'images'}, then this file")
    for item in found.chosen:
        print(item.name)
    if len(found.chosen) < command.budget:
        log(f"{len(found.chosen)} of {command.budget} chosen: the others are copies, or of patients with enough images")
    print(paths[2])


def _drawing_model(command: Select) -> Teacher | None:
    """The model that draws masks into the task; None without one. Raises ValueError for flags without --format."""
    from edgemt.data_report.against import open_teacher

    folder = command.draw or command.model
    if command.format is None:
        if command.draw is not None or command.shapes != "auto":
            raise ValueError("draw and shapes: belong to --format cvat or label-studio, which is not given; add it")
        return None
    if folder is None:
        if not command.data.classes or len(command.data.classes) < 2:
            raise ValueError(
                "format: a task needs the names of its labels; give --data.classes background NAME, or --draw MODEL"
            )
        return None
    return open_teacher(folder)
