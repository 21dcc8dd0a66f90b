"""Fit the margins of the two contours for the files of a ship on labelled cases, and write them to its card. No torch.

The cases must be neither trained nor validated on; `edgemt.metrics.conformal` states formula and guarantee.
"""

from __future__ import annotations

import shutil
from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path

from deploy.package.package import Package, finalize, open_package
from deploy.package.signing import SIGNATURE
from deploy.runtimes.load import runner
from deploy.runtimes.registry import RUNTIMES, can_run_packages
from edgemt.contour_margins import ContourMargins
from edgemt.contract import Case
from edgemt.data.cohort import split_dataset
from edgemt.data.options import DataOptions
from edgemt.inference.contours import bound_to, calibrate, list_digest, patients_of
from edgemt.inference.evaluate import frame_masks
from edgemt.inference.evaluate_package import find_cases, read_cases
from edgemt.io import zoo_paths
from edgemt.metrics.conformal import quantile_rank


def calibrate_package(
    folder: Path,
    *,
    data_root: Path | None = None,
    val: str = "",
    alpha: float = 0.1,
    tolerance: float = 0.01,
    runtime: str = "auto",
    file: str | None = None,
    threads: int | None = None,
    out: Path | None = None,
) -> tuple[Package, dict[str, ContourMargins], list[str]]:
    """(the ship with margins on its card, the margins by file, notes for the user).

    Without `file` each file that runs here is fitted. `out`: a new folder for a copy of the ship; without it the card
    is replaced and a signature removed, as it belongs to the previous card. Margins of other files stay.
    Raises ValueError in one line, with the ship unchanged, for too few patients, for patients whose masks the model was
    trained on, and for whatever is wrong with ship, data or runtime.
    """
    if not 0 <= tolerance < 1:
        raise ValueError(f"tolerance: must lie in 0 to 1, is {tolerance}; 0.01 tolerates one part in a hundred")
    if zoo_paths.is_name(folder) and out is None:
        raise ValueError(f"{folder}: belongs to the installed package; give --out FOLDER for a copy with margins")
    if out is not None and Path(out).exists():
        raise ValueError(f"out {out}: is there already; name a new folder")
    ship = open_package(folder)
    chosen = _chosen(ship, runtime, file)
    options, cases = find_cases(ship, data_root, val)
    patients = patients_of(cases)
    quantile_rank(len(set(patients)), alpha)
    notes = _overlap(ship.card.data, options, cases)
    prepared, digest = read_cases(ship.card, options, cases), list_digest(cases)
    found = {}
    for name, on in chosen.items():
        made = runner(ship, runtime=on, file=name, threads=threads)
        margins = calibrate(
            frame_masks(made, prepared), prepared, patients=patients, digest=digest, alpha=alpha, tolerance=tolerance
        )
        found[name] = bound_to(margins, name, ship.card.files, runtime=made.runtime)
    target = ship.folder
    if out is not None:
        shutil.copytree(ship.folder, out)
        target = Path(out)
    if (target / SIGNATURE).exists():
        notes.append("the signature was removed, it belongs to the card without these margins; edgemt sign signs it")
    card = finalize(target, replace(ship.card, contours={**ship.card.contours, **found}, created=""))
    return Package(target, card), found, notes


def _chosen(ship: Package, runtime: str, file: str | None) -> dict[str, str]:
    """File -> the runtime that runs it in calibration."""
    if file is not None or runtime != "auto":
        made = runner(ship, runtime=runtime, file=file)
        return {made.file: made.runtime}
    found: dict[str, str] = {}
    for name in ("openvino", "onnxruntime", *RUNTIMES):  # .onnx by ONNX Runtime, where it is installed
        if can_run_packages(name):
            files = [listed for kind in RUNTIMES[name].files.values() for listed in kind if listed in ship.card.files]
            found |= {listed: name for listed in files if listed not in found or name == "onnxruntime"}
    if not found:
        raise ValueError(f"{ship.folder}: no runtime here runs a file of it; pip install openvino or onnxruntime")
    return found


def _overlap(trained: dict[str, object], options: DataOptions, cases: Sequence[Case]) -> list[str]:
    """Notes on calibration patients of the training's own folder; ValueError for those with a labelled image there."""
    root = options.root
    own = trained.get("root")
    if root is None or not own or not Path(str(own)).is_dir() or not Path(root).samefile(str(own)):
        return []
    split = split_dataset(DataOptions.from_dict(dict(trained)))
    patients = {case.patient for case in cases}
    labelled, unlabelled, val = (
        sorted(patients & {case.patient for case in part if _same_folder(case, cases)})
        for part in (split.labelled, split.unlabelled, split.val)
    )
    if labelled:
        raise ValueError(
            f"calibration: the model was trained on the masks of {len(labelled)} of these patients, first "
            f"{labelled[0]!r}; name a list of patients that took no part in training"
        )
    notes = []
    if unlabelled:
        notes.append(
            f"warning: {len(unlabelled)} of these patients were unlabelled training images, first {unlabelled[0]!r}; "
            "the coverage of new patients may be lower than stated"
        )
    if val:
        notes.append(
            f"warning: {len(val)} of these patients are on the validation list, which chose the model, first "
            f"{val[0]!r}; the coverage of new patients may be lower than stated"
        )
    return notes


def _same_folder(case: Case, cases: Sequence[Case]) -> bool:
    """Equal names in another folder may be other patients."""
    return Path(case.image).parent in {Path(other.image).parent for other in cases}
