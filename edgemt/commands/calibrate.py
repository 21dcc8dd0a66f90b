"""The command that fits the margins of the two contours for a shipped folder, on a machine without torch too."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path
from typing import Annotated

from tyro.conf import Positional, arg

from edgemt.commands.console import log


@dataclass(frozen=True)
class Calibrate:
    """Contours with a guarantee: fit how far the true edge may lie outside and inside the masks of a shipped folder.

    The margins go on its card, for each file its own; eval measures them, predict --contours and stream draw them. The
    outer line encloses the true area in 1 - alpha of patients, the inner line lies within it in 1 - alpha, if these
    patients and new ones are drawn in the same way and took no part in training or validation. alpha 0.1 needs 9
    patients, 0.05 needs 19.
    """

    ship: Positional[Path]
    """The folder; for zoo/NAME give --out as well."""
    root: Annotated[Path | None, arg(name="data.root")] = None
    """Folder of labelled images, laid out as in training, or with images and masks alone, which are all taken."""
    val: Annotated[str, arg(name="data.val")] = ""
    """List of the cases to calibrate on."""
    alpha: float = 0.1
    """Share of patients in which each line may fail; 0.05 for a pair that holds in 90 of 100."""
    tolerance: float = 0.01
    """Share of the true area that may lie outside the outer line, and of false area inside the inner one, in a patient
    that counts as covered. 0: not a pixel."""
    runtime: str = "auto"
    file: str | None = None
    """int8, fp16, fp32, or a file on the card; every file that runs here if not given."""
    out: Path | None = None
    """Write a copy of the folder with margins here; without it the card is replaced, and its signature removed."""


def fit(command: Calibrate) -> None:
    """Fit the margins, write the card and print a line for each file."""
    from edgemt.inference.calibrate_package import calibrate_package

    ship, found, notes = calibrate_package(
        command.ship,
        data_root=command.root,
        val=command.val,
        alpha=command.alpha,
        tolerance=command.tolerance,
        runtime=command.runtime,
        file=command.file,
        out=command.out,
    )
    for note in notes:
        log(note)
    for file, margins in found.items():
        shown = ", ".join(
            f"{name} outer {_margin(margins.outer[name], margins.unit)} inner {_margin(inner, margins.unit)}"
            for name, inner in margins.inner.items()
        )
        print(f"{file}: {shown}")
    print(f"{ship.folder}: {next(iter(found.values())).claim()}")


def _margin(value: float | None, unit: str) -> str:
    return "no finite margin" if value is None else f"{value:.1f} {unit}"
