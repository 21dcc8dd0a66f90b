"""The command that reports on a data folder before anything is trained."""

from __future__ import annotations

import time
from dataclasses import dataclass, field, fields, replace
from pathlib import Path
from typing import TYPE_CHECKING, Any, Literal

from tyro.conf import Positional

from edgemt.commands.console import log, pass_progress, write_json
from edgemt.data.options import DataOptions, Layout
from edgemt.io.bit_depth import Rule

if TYPE_CHECKING:
    from edgemt.data_report.finding import Finding
    from edgemt.data_report.inspect_folder import Inspection


@dataclass(frozen=True)
class Fields:
    """As in training; what is not given is found out from the files."""

    layout: Layout | None = None
    labelled: str | None = None
    """A list file, a count or a share; masks of other images are not opened. Default: labelled.txt in DIR, or every
    image with a mask."""
    unlabelled: str | None = None
    """A further folder of images without masks."""
    val: str | None = None
    """A list file, a count or a share. Default: the val folder, val.txt, or 0.2 of the patients."""
    classes: tuple[str, ...] | None = None
    """Names, the background first. Default: numbered by the values of the masks."""
    channels: Literal[1, 3] | None = None
    channel_names: tuple[str, ...] | None = None
    """Of cases of several files; of a dataset.json they are read there."""
    channel_depth: tuple[Rule, ...] | None = None
    missing_channels: Literal["refuse", "mean"] | None = None
    size: tuple[int, int] | None = None
    """Height and width of a frame: objects that vanish there are reported."""
    mask_threshold: int | None = None
    label_map: tuple[str, ...] | None = None
    """VALUE=CLASS for the values of masks, such as 1=edema 2=core 4=core, or CLASS=VALUE,VALUE where classes overlap;
    without --data.classes the classes are those that it names."""
    ignore: int | None = None
    """Pixels of this value count nowhere. Default: 255 where masks hold it beside class indices, which is printed."""
    overlapping: bool = False
    """Classes may overlap. Folders masks/CLASS/NAME.png are found without it; a label map of several classes a value
    needs it."""
    depth: Rule | None = None
    window: tuple[float, float] | None = None
    axes: str | None = None
    slice_axis: Literal[0, 1, 2] | None = None
    affines: Literal["compare", "ignore"] | None = None
    patient_pattern: str | None = None
    """Regular expression whose first group is the patient in a file name."""
    seed: int | None = None

    def given(self) -> dict[str, Any]:
        """The fields that were set."""
        values = {f.name: getattr(self, f.name) for f in fields(self)}
        return {name: value for name, value in values.items() if value is not None and value is not False}

    def options(self, root: Path, **others: Any) -> DataOptions:
        """The options of reading `root`, `others` among them; without `classes` those that a label map names.

        Class weights are left out: their number is that of the classes, which the files may decide.
        """
        from edgemt.data_report.assumed import classes_of_map

        given = {name: value for name, value in (others | self.given()).items() if name != "class_weights"}
        named = classes_of_map(self.label_map or ())
        return DataOptions(**{"root": root, **({"classes": named} if len(named) > 1 else {}), **given})


@dataclass(frozen=True)
class ReportFields(Fields):
    """The same, and what recipe.json passes on to the training."""

    class_weights: tuple[float, ...] | None = None
    """A weight for each class in the losses; the report does not use it, recipe.json has it."""
    folds: int | None = None
    fold_file: str | None = None
    """As in training; the report does not use it, recipe.json has it."""


@dataclass(frozen=True)
class Data:
    """Report on a folder of images and masks: what is in it, what is wrong with it, and which recipe fits it.

    Writes data.html and data.json (parts, patients, sizes, classes, brightness; copies within and across the parts,
    patients in two parts, masks that do not fit, objects that vanish at the size of training, outliers), and
    recipe.json, which edgemt run takes: edgemt run auto --data.root DIR makes the same recipe. Nothing is trained, no
    file of DIR is changed. Exit status 2 for a folder that cannot be listed; findings alone are exit status 0.
    """

    root: Positional[Path]
    """A folder in a layout of `edgemt list layouts`."""
    data: ReportFields = field(default_factory=ReportFields)
    against: Path | None = None
    """A run folder, a stage with weights or a ship of these classes: masks that it contradicts are listed as probable
    label errors, with pictures. A model that learned a mask rarely contradicts it: best one that did not."""
    outliers: bool = False
    """List images that are unlike all others, by features of an encoder pretrained on ImageNet: images of another
    organ, of a screen, of another device. Takes about 40 ms an image on one core; needs edgemt[train] and the weights
    (edgemt list encoders). The folder of the report stores the features."""
    out: Path | None = None
    """Folder for the three files; data-report/NAME of DIR if not given."""
    json: Path | None = None
    """Write the record to this file, too."""
    pictures: bool = True
    """Show the images of findings in the page. --no-pictures leaves images of patients out of it."""
    workers: int = 0
    """Threads that read files; 0: one for each core."""
    strict: bool = False
    """Exit status 2 if there is a finding of severity error."""


def _outliers(found: Inspection, out: Path) -> list[Finding]:
    from edgemt.data_report.encoder_features import encoder, features_of
    from edgemt.data_report.outliers import feature_outliers

    extract, identity = encoder()
    scans = [scan for scan in found.scans if scan.image.shape]
    features = features_of(
        [scan.item for scan in scans], found.options.depth, extract,
        identity=identity, cache=out / "features.npz", progress=pass_progress("features"),
    )  # fmt: skip
    return feature_outliers(scans, features)


def report(command: Data) -> None:
    """Scan the folder, write the report, print each finding in a line and the path of the page."""
    from edgemt.data_report.against import label_errors, open_teacher
    from edgemt.data_report.build import all_findings, build_record
    from edgemt.data_report.inspect_folder import inspect_folder
    from edgemt.data_report.write import write_report

    given = set(command.data.given())
    teacher = open_teacher(command.against) if command.against is not None else None
    others = {} if teacher is None else {"classes": teacher.card.classes}
    given |= set(others)
    options = command.data.options(command.root, **others)
    began = time.monotonic()
    found = inspect_folder(options, given=frozenset(given), workers=command.workers, progress=pass_progress("files"))
    if command.data.class_weights is not None:
        weighted = replace(found.listing.options, class_weights=command.data.class_weights)
        found = replace(found, listing=replace(found.listing, options=weighted))
    more = label_errors(found, teacher, progress=pass_progress("masks")) if teacher is not None else []
    out = command.out or Path("data-report") / command.root.resolve().name
    if command.outliers:
        more = [*more, *_outliers(found, out)]
    findings = all_findings(found, more)
    record = build_record(found, findings, seconds=time.monotonic() - began)
    page, *_ = write_report(out, record, found, findings, pictures=command.pictures)
    write_json(command.json, record)
    for one in findings:
        print(f"{one.severity:8} {one.line}")
    counts = record["counts"]
    log(
        f"{len(record['files'])} files in {record['seconds']:.0f} s: "
        + ", ".join(f"{n} {k}" for k, n in counts.items())
    )
    log(f"classes {' '.join(found.meaning.classes)}; {record['masks']}")
    print(page)
    if command.strict and counts["error"]:
        raise ValueError(f"{command.root}: {counts['error']} errors, listed above; mend them or leave out --strict")
