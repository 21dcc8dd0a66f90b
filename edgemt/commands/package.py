"""The commands that look at a shipped folder, on a machine without torch too."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Annotated, Any, Literal

from tyro.conf import Positional, arg

from edgemt.commands.console import refuse_flags, write_json


@dataclass(frozen=True)
class Eval:
    """Measure a shipped folder on labelled images, or its flicker on videos: a table, and JSON with --json FILE."""

    ship: Positional[Path]
    """The folder, or zoo/NAME: a trained student that travels with the package (edgemt list zoo).
    RUN/student or RUN/slim: the float network of a run, in torch, with the figures of its softmax entropy."""
    root: Annotated[Path | None, arg(name="data.root")] = None
    """Folder laid out as in training; its validation list is measured."""
    val: Annotated[str, arg(name="data.val")] = ""
    """Another list of cases to measure."""
    by: Annotated[Path | None, arg(name="data.by")] = None
    """A CSV file with a row for each case or patient and its centre, device or subgroup (case,centre): a table of Dice
    with a bootstrap interval over patients for each group."""
    runtime: str = "auto"
    file: str | None = None
    """int8, fp32, or a file on the card."""
    cpu_fallback: bool = True
    """--no-cpu-fallback: exit status 2 where ONNX Runtime lets the processor compute nodes that --runtime's provider
    does not take, which is otherwise printed as a warning."""
    through_plane: int = 1
    """Of volumes: so many neighbouring slices vote on each voxel (3 or 5; 1 leaves the masks as they are)."""
    contours: bool | None = None
    """Coverage and width of the outer and inner contour too; by default where the card has margins of the file."""
    video: tuple[Path, ...] = ()
    """Video files, folders of frames, or folders of such clips: flicker of the masks between neighbouring frames and
    jitter of their area; with masks/ beside images/, Dice too. Nothing else is measured then."""
    corrupt: tuple[str, ...] | None = None
    """Measure on corrupted images, of a ship or a run folder: kinds (smoke, blood, ...), modalities (endoscopy,
    mri, ct, ultrasound) or all; without a name those of this model's modality. See edgemt list corruptions."""
    severities: tuple[int, ...] = (1, 2, 3, 4, 5)
    """Of --corrupt: 1 is mild, 5 severe."""
    corrupt_out: Path | None = None
    """Of --corrupt: folder for corruptions.svg (Dice against severity) and sheet.png (one frame under each kind)."""
    without_channel: str = ""
    """Of a model of several channels: measure it with this one missing in every case, replaced by its mean."""
    json: Path | None = None


_NOT_OF_VIDEOS = ("by", "through_plane", "contours", "corrupt", "severities", "corrupt_out", "without_channel")


def evaluate(command: Eval) -> None:
    """Measure a ship, print the table of its metrics and write them as JSON where a file is given."""
    from edgemt.inference import evaluate_package

    if command.video:
        refuse_flags(command, *_NOT_OF_VIDEOS, why="--video measures flicker, and Dice against masks, alone")
        return _evaluate_video(command)
    if command.corrupt is not None:
        return _evaluate_corrupted(command, command.corrupt)
    if command.corrupt_out is not None or command.severities != Eval.severities:
        raise ValueError("corrupt_out and severities: belong to --corrupt, which is not given; add it")
    where: dict[str, Any] = {"data_root": command.root, "val": command.val, "through_plane": command.through_plane}
    where |= {"without_channel": command.without_channel, "groups": command.by}
    if evaluate_package.holds_network(command.ship):
        from edgemt.inference.evaluate_network import evaluate_network

        if command.contours:
            raise ValueError("contours: margins belong to the files of a ship; name RUN/ship")
        refuse_flags(command, "runtime", "file", "cpu_fallback", why="weights are measured in torch")
        record = evaluate_network(command.ship, **where)
    else:
        record = evaluate_package.evaluate_ship(
            command.ship,
            runtime=command.runtime,
            file=command.file,
            contours=command.contours,
            cpu_fallback=command.cpu_fallback,
            **where,
        )
    print(evaluate_package.metrics_table(record))
    write_json(command.json, record)


def _evaluate_video(command: Eval) -> None:
    from edgemt.inference.evaluate_video import evaluate_video, video_table

    if command.root is not None or command.val:
        raise ValueError("video: takes no --data.root and no --data.val; measure images in a call of their own")
    record = evaluate_video(
        command.ship,
        command.video,
        runtime=command.runtime,
        file=command.file,
        cpu_fallback=command.cpu_fallback,
    )
    print(video_table(record))
    write_json(command.json, record)


def _evaluate_corrupted(command: Eval, names: tuple[str, ...]) -> None:
    from edgemt.commands.console import pass_progress
    from edgemt.data.corruptions import corrupt
    from edgemt.inference.evaluate_corrupted import corruption_table, evaluate_corrupted
    from edgemt.io.atomic import atomic_write, write_text
    from edgemt.report.corruption_charts import corruption_chart, corruption_sheet

    if command.through_plane != 1:
        raise ValueError("through_plane: --corrupt measures the masks as they are; leave it at 1")
    refuse_flags(command, "by", "contours", "without_channel", why="--corrupt measures Dice under corruptions alone")
    found = evaluate_corrupted(
        command.ship,
        names=names,
        severities=command.severities,
        data_root=command.root,
        val=command.val,
        runtime=command.runtime,
        file=command.file,
        cpu_fallback=command.cpu_fallback,
        progress=pass_progress("passes over the list"),
    )
    print(corruption_table(found.record))
    write_json(command.json, found.record)
    if command.corrupt_out is not None:
        chart, sheet = (command.corrupt_out / name for name in ("corruptions.svg", "sheet.png"))
        write_text(chart, corruption_chart(found.record))
        with atomic_write(sheet) as part:
            corruption_sheet(found.frame, list(found.record["corruptions"]), corrupt).save(part, "PNG")
        print(f"{chart}\n{sheet}")


@dataclass(frozen=True)
class Predict:
    """Masks for images, folders of images, NIfTI volumes or, with --format dicom-seg, DICOM.

    A model of several channels takes the files of a case with + between them, in the order of its training
    (t1.nii.gz+t2.nii.gz), or a folder with CASE_t1 and CASE_t2, CASE_0000 and CASE_0001, or t1/CASE and t2/CASE.

    With --prompt, SHIP is the `promptable` folder of a run, or a SAM, and the mask is of the object that the prompts
    name.
    """

    ship: Positional[Path]
    """A ship folder, or zoo/NAME: a trained student that travels with the package (edgemt list zoo)."""
    inputs: Positional[tuple[Path, ...]]
    out: Path = Path("masks")
    overlay: bool = True
    """Draw the contours over each image as well."""
    contours: bool = False
    """Also write the outer and the inner region of the margins on the card (edgemt calibrate), NAME.outer.mask.png and
    NAME.inner.mask.png, and draw their lines on the overlay: outer dashed, inner thin. None for an image that is unlike
    those of training."""
    runtime: str = "auto"
    file: str | None = None
    cpu_fallback: bool = True
    """--no-cpu-fallback: exit status 2 where ONNX Runtime lets the processor compute nodes that --runtime's provider
    does not take, which is otherwise printed as a warning."""
    through_plane: int = 1
    """Of volumes: so many neighbouring slices vote on each voxel (3 or 5; 1 leaves the masks as they are)."""
    uncertainty: bool = False
    """Write NAME.uncertainty.png as well, grey: (value / 255)^2 is the probability that the class is wrong. Overlays
    are hatched where it is 0.2 or more."""
    format: Literal["auto", "dicom-seg"] = "auto"
    """dicom-seg: DICOM images, series or cines in, a DICOM segmentation each out."""
    missing_channels: bool = False
    """Of a model of several channels: a case may lack some (t1.nii.gz+- for none of the second). Such a channel is the
    mean of training; what that costs is measured by edgemt eval --without-channel."""
    prompt: tuple[str, ...] = ()
    """box=x0,y0,x1,y1 point=x,y not=x,y (pixels), slice=K of a volume: interactive segmentation."""


def predict(command: Predict) -> None:
    """Write the masks and print the path of each file."""
    for path in _predicted(command):
        print(path)


def _predicted(command: Predict) -> Iterator[Path]:
    if command.contours and (command.prompt or command.format == "dicom-seg"):
        raise ValueError("contours: of masks from images and volumes alone; leave out --prompt and --format dicom-seg")
    if command.prompt:
        unused = ("runtime", "file", "cpu_fallback", "through_plane", "uncertainty", "format", "missing_channels")
        refuse_flags(command, *unused, why="--prompt runs a promptable network in torch")
        from edgemt.inference.interactive import predict_prompted

        return predict_prompted(
            str(command.ship), command.inputs, prompts=command.prompt, out=command.out, overlay=command.overlay
        )
    if command.format == "dicom-seg":
        rest = ("through_plane", "uncertainty", "missing_channels")
        refuse_flags(command, *rest, why="--format dicom-seg writes segmentations of the masks alone")
        from deploy.dicom.segmentation import predict_dicom_seg

        return predict_dicom_seg(
            command.ship,
            command.inputs,
            out=command.out,
            runtime=command.runtime,
            file=command.file,
            cpu_fallback=command.cpu_fallback,
        )
    from edgemt.inference import evaluate_package

    return evaluate_package.predict(
        command.ship,
        command.inputs,
        out=command.out,
        overlay=command.overlay,
        runtime=command.runtime,
        file=command.file,
        through_plane=command.through_plane,
        contours=command.contours,
        uncertainty=command.uncertainty,
        missing_channels=command.missing_channels,
        cpu_fallback=command.cpu_fallback,
    )


@dataclass(frozen=True)
class Build:
    """TensorRT engines for this device's GPU from a shipped folder, each tried on the golden frames.

    They are stored with their keys in the user's cache folder ($EDGEMT_CACHE). Without a GPU, TensorRT for RTX builds
    ahead of time.
    """

    ship: Positional[Path]
    runtime: str = "auto"
    """tensorrt or tensorrt_rtx."""
    file: str | None = None
    """int8, fp16, fp32, or an .onnx file on the card; all of them if not given."""
    out: Path | None = None
    """Another folder for the engines. Their .engine files can be named in place of a ship."""
    precision: Literal["tf32", "f32"] = "tf32"
    """How float layers are computed; half precision and INT8 are in the file."""
    workspace_mib: int | None = None
    """Scratch memory for a layer; give less on a board with little memory."""
    portable: bool = False
    """One engine for more than one kind of GPU, at some cost in speed."""


def build(command: Build) -> None:
    """Build the engines; prints for each one a line that describes it, and its path."""
    from deploy.package.package import open_package
    from deploy.runtimes.load import runner
    from deploy.runtimes.tensorrt_build import BuildOptions, build_package

    options = BuildOptions(command.precision, command.workspace_mib, command.portable)
    ship = open_package(command.ship)
    for engine, became in build_package(
        ship, runtime=command.runtime, file=command.file, options=options, folder=command.out, self_test=runner
    ):
        print(f"{became}\n{engine.path}")


@dataclass(frozen=True)
class Doctor:
    """What works on this machine, what does not, and why. With a ship folder or zoo/NAME, its self-test too."""

    ship: Positional[Path | None] = None
    cpu_fallback: bool = True
    """--no-cpu-fallback: a file fails where ONNX Runtime leaves nodes of its provider to the processor."""


def doctor(command: Doctor) -> None:
    """Print what works on this machine and what does not. Exit status 2 if something that is needed fails."""
    from edgemt.inference import evaluate_package

    healthy, lines = evaluate_package.doctor(command.ship, cpu_fallback=command.cpu_fallback)
    print("\n".join(lines))
    if not healthy:
        raise SystemExit(2)
