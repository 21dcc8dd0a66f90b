"""How much the teachers of a finished run disagree on each image, from its bank of soft labels; no network is run.

    score = mean over pixels of v,   v the variance between the teachers summed over classes (`edgemt.data.soft_labels`)

of a volume over all of its slices. It is the part of the uncertainty that labels can remove (disagreement of a deep
ensemble: Lakshminarayanan et al., NeurIPS 2017, arXiv 1612.01474).
"""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path

import numpy as np

from edgemt.artefacts import reuse, stage_folder
from edgemt.artefacts.fingerprints import Content, digests_of, entries, load_content
from edgemt.contract import Case
from edgemt.data.soft_labels import has_bank, mean_variance
from edgemt.data_report.listing import Item

_SEVERAL = "ensemble"  # the room of a teacher of several networks or views


def bank_variance(items: Sequence[Item], run: Path, *, root: Path, skip: int = 0) -> np.ndarray:
    """Float [n], 0 to 1: the mean variance of each image; the first `skip` are 0.

    run: a run folder whose student learned from a bank with the variance. Raises ValueError in one line for a run
    without such a bank, one with a single teacher, one that is older than the teacher, and where an item is not the
    image, by content, that the teachers saw.
    """
    bank = _bank_of(run)
    known = _content(run, bank)
    wanted = items[skip:]
    seen = {entry.name: entry.image for entry in (*known.labelled, *known.unlabelled)}
    for item in wanted:
        if item.name not in seen:
            raise ValueError(
                f"{bank}: is a bank of other images, {item.image} is not among its {len(seen)}; run edgemt distil with "
                "this folder, or leave out --by"
            )
    cases = [Case(item.name, item.patient, item.image, channels=item.channels) for item in wanted]
    digests = digests_of((path for case in cases for path in case.files), root=root)
    for case in cases:
        (entry,) = entries([case], digests=digests, root=root)
        if entry.image != seen[case.name]:
            raise ValueError(
                f"{bank}: is a bank of other images, {case.image} is another image than the {case.name!r} that its "
                "teachers saw; run edgemt distil with this folder, or leave out --by"
            )
    scores = mean_variance(bank, [item.name for item in wanted])
    if not max(scores, default=0.0) > 0:
        raise ValueError(f"{bank}: its teachers agree on every pixel of these images; leave out --by")
    return np.array([0.0] * skip + scores)


def _bank_of(run: Path) -> Path:
    """The bank of a run. Raises ValueError for none, for one without variance, and for one of an earlier teacher."""
    bank, teacher = run / "bank", run / "teacher"
    if not has_bank(bank):
        raise ValueError(
            f"{run}: has no bank (bank/bank.json); name a run whose student learned from one "
            "(--student.method.teacher-source bank), or leave out --by"
        )
    card = stage_folder.read_card(teacher)
    if card.network.get("room") != _SEVERAL:
        raise ValueError(
            f"{bank}: is of one teacher, and variance needs several; train with --teacher.members 3 or "
            "--teacher.flips 4, or leave out --by for the entropy"
        )
    if not has_bank(bank, variance=True):
        raise ValueError(
            f"{bank}: has the mean of its teachers alone; edgemt distil with --student.method.uncertainty 1 adds their "
            "variance, or leave out --by for the entropy"
        )
    if (reuse.recorded(bank) or {}).get("teacher") != stage_folder.identity(teacher):
        raise ValueError(f"{bank}: is not of the teacher of this run; run edgemt distil again, which fills it anew")
    return bank


def _content(run: Path, bank: Path) -> Content:
    key = str((reuse.recorded(bank) or {}).get("training data", ""))
    found = load_content(run / ".lists" / f"{key}.json")
    if found is None:
        raise ValueError(f"{bank}: nothing records which images it is of (.lists); run edgemt distil again")
    return found
