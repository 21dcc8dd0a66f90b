"""Images that are unlike all others of their folder, by features of a pretrained encoder.

    d(x)  = 1 - cosine between f(x) and its k-th nearest feature of other patients, k = max(5, 0.03 n)
    x is unlike the others where (d(x) - median(d)) / (1.4826 median(|d - median(d)|)) > `FAR`

The distance to the k-th nearest feature finds data of another kind: Sun et al., 2022, arXiv 2204.06507. With k = 0.03 n
a group of fewer images that resemble each other is found, too; frames of the same patient are left out, so that a clip
of another organ is found, however long it is.

Shapes: n images, d features.
"""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np

from edgemt.data_report.checks import example
from edgemt.data_report.finding import Finding, finding
from edgemt.data_report.scan import FileScan

FAR = 6.0  # docs/data-report.md: nothing among 900 frames of Kvasir, all planted images of another kind
NEIGHBOURS, SHARE = 5, 0.03  # k, at least, and as a share of the images
_LEAST = 20  # images, below which no spread can be estimated
_ROWS = 1024  # images whose cosines to all others are in memory at once


def neighbour_distances(features: np.ndarray, patients: Sequence[str]) -> np.ndarray:
    """float64 [n] of d(x) from features [n, d] of length 1; NaN where there are too few images of other patients."""
    names = np.unique(np.asarray(patients), return_inverse=True)[1]
    found = np.full(len(features), np.nan)
    k = max(NEIGHBOURS, round(SHARE * len(features)))
    if len(features) <= k:
        return found
    for start in range(0, len(features), _ROWS):
        rows = slice(start, start + _ROWS)
        cosines = (features[rows] @ features.T).astype(np.float64)
        cosines[names[rows, None] == names[None]] = -np.inf
        kth = np.partition(cosines, -k, axis=1)[:, -k]
        found[rows] = np.where(np.isfinite(kth), 1 - kth, np.nan)
    return found


def feature_outliers(scans: Sequence[FileScan], features: np.ndarray) -> list[Finding]:
    """A note on the images whose features are far from those of all others; none for fewer than 20 images.

    `features`: float [n, d] of the scans in their order, each of length 1.
    """
    distances = neighbour_distances(features, [scan.item.patient for scan in scans])
    known = distances[np.isfinite(distances)]
    if len(known) < _LEAST:
        return []
    middle = float(np.median(known))
    spread = max(1.4826 * float(np.median(np.abs(known - middle))), 1e-3)
    far = np.nan_to_num((distances - middle) / spread, nan=-np.inf)
    listed = [example(scans[i], f"{far[i]:.0f} robust deviations") for i in np.argsort(-far) if far[i] > FAR]
    return finding(
        "unlike_the_others", "note", listed, one="an image is unlike all others, by features of a pretrained encoder:",
        several="{n} images are unlike all others, by features of a pretrained encoder",
        remedy="look at it; an image of another organ, device or processing does not belong into the set",
    )  # fmt: skip
