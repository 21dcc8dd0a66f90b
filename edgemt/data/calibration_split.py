"""The calibration cases of a data set: patients that neither train nor validate, for margins with a guarantee."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path

from edgemt.data.layouts.case_files import CaseFiles, read_list
from edgemt.data.options import DataOptions
from edgemt.data.splits import find_list, patients_of, same_patient, sample_patients, select_listed

Items = list[CaseFiles]


def take_calibration(
    options: DataOptions, root: Path, *, val: Items, listed_from: Sequence[CaseFiles]
) -> tuple[Items, Items]:
    """(calibration cases, validation cases): the named list, or the share of the validation patients that is taken.

    Raises ValueError for a list that shares a patient with the validation cases, and for a case without a mask.
    """
    if options.calibration:
        path = find_list(options.calibration, root=root, field="calibration")
        found = select_listed(listed_from, read_list(path), source=path)
        check_apart(found, val, "val", "; take a part of them with --data.calibration-share, or name both lists")
        for item in found:
            if item.label is None:
                raise ValueError(f"{path}: {item.image} has no mask of that name; add the mask or take it off the list")
        return found, val
    if not options.calibration_share:
        return [], val
    found = sample_patients(val, amount=options.calibration_share, seed=options.seed, field="calibration_share")
    taken = {id(item) for item in found}
    rest = [item for item in val if id(item) not in taken]
    if not rest:
        raise ValueError(
            f"data.calibration_share: {options.calibration_share:g} of the validation patients leaves none to validate "
            "on; take a smaller share"
        )
    return found, rest


def check_apart(calibration: Sequence[CaseFiles], other: Sequence[CaseFiles], field: str, remedy: str = "") -> None:
    """Raises ValueError where a calibration patient is also in `other`, the cases of data.`field`."""
    known, always = _known(calibration, other)
    shared = sorted({item.patient for item in calibration if same_patient(item, known, always=always)})
    if shared:
        raise ValueError(
            f"data.calibration and data.{field} share {len(shared)} patients, first {shared[0]!r}; keep each on "
            f"one{remedy}"
        )


def without_patients(items: Sequence[CaseFiles], calibration: Sequence[CaseFiles]) -> tuple[Items, str]:
    """(the items of other patients than the calibration's, a note on the others; empty for none)."""
    if not calibration:
        return list(items), ""
    known = _known(calibration, calibration)[0]
    folders = {item.image.parent for item in calibration}
    rest = [item for item in items if not _same(item, known, always=item.image.parent in folders)]
    excluded = len(items) - len(rest)
    return rest, f"{excluded} unlabelled images of calibration patients do not train" if excluded else ""


def _known(calibration: Sequence[CaseFiles], other: Sequence[CaseFiles]) -> tuple[dict[str, bool], bool]:
    """Equal names in two folders may be other patients: then only names with more than the patient count."""
    always = bool({item.image.parent for item in calibration} & {item.image.parent for item in other})
    return patients_of(other, always=always), always


def _same(item: CaseFiles, known: dict[str, bool], *, always: bool) -> bool:
    if not always:
        return item.patient != item.name and item.patient.casefold() in known
    return item.patient.casefold() in known
