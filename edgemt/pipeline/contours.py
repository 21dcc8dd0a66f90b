"""Margins of the contours in the package stage: fitted for every file of the ship, as it runs."""

from __future__ import annotations

from collections.abc import Mapping
from typing import TYPE_CHECKING, Any

from deploy.package.package import Package
from deploy.runtimes.load import runner
from edgemt.contour_margins import ContourMargins
from edgemt.inference.contours import bound_to, calibrate, list_digest, patients_of
from edgemt.inference.evaluate import frame_masks
from edgemt.metrics.conformal import quantile_rank
from edgemt.pipeline.log import log

if TYPE_CHECKING:
    from edgemt.pipeline.run_context import RunContext


def calibration_inputs(context: RunContext) -> dict[str, Any]:
    """What the margins depend on, for the key of the stage; empty without calibration cases."""
    cases = context.slices.cohort.calibration
    return {"contours": context.recipe.contours, "calibration list": list_digest(cases)} if cases else {}


def fit_contours(context: RunContext, ship: Package, files: Mapping[str, str]) -> dict[str, ContourMargins]:
    """The margins of each of `files` (name -> runtime) of an opened ship, from the calibration list.

    Empty without calibration cases, and, with a line in the log, where their patients are too few for alpha.
    """
    cases, options = context.slices.cohort.calibration, context.recipe.contours
    if not cases:
        return {}
    patients, digest = patients_of(cases), list_digest(cases)
    try:
        quantile_rank(len(set(patients)), options.alpha)
    except ValueError as error:
        log(f"ship: {error}")
        return {}
    prepared = context.slices.calibration
    found = {}
    for file, runtime in files.items():
        masks = frame_masks(runner(ship, runtime=runtime, file=file), prepared)
        margins = calibrate(
            masks, prepared, patients=patients, digest=digest, alpha=options.alpha, tolerance=options.tolerance
        )
        found[file] = bound_to(margins, file, ship.card.files, runtime=runtime)
    if found:
        first = next(iter(found.values()))
        log(f"ship: contours: {first.claim()}")
    return found
