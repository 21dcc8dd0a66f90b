"""Progressive resizing: the first batches of a run are smaller, so that a step on a CPU costs a fraction.

Shapes: N batch, L labelled, K image channels, C classes, H W size.
"""

from __future__ import annotations

from dataclasses import replace

from torch import Tensor
from torch.nn import functional as F

from edgemt.contract import Batch

MULTIPLE = 32  # pixels: the deepest stride of the encoders


def first_size(size: tuple[int, int], fraction: float) -> tuple[int, int]:
    """`size` at `fraction` of its sides in steps of 32 pixels; unchanged where a side would become longer."""
    height, width = (max(MULTIPLE, round(side * fraction / MULTIPLE) * MULTIPLE) for side in size)
    return size if height > size[0] or width > size[1] else (height, width)


def resize_batch(batch: Batch, fraction: float) -> Batch:
    """The same 2-D batch at `fraction` of its sides, rounded to a multiple of 32 pixels; 1 returns it unchanged.

    Images and soft labels are resized bilinearly with antialiasing, labels by the nearest pixel. Raises ValueError for
    volumes.
    """
    if fraction >= 1.0:
        return batch
    height, width = batch.image.shape[2:4]
    if batch.image.ndim != 4:
        raise ValueError("schedule.start_size: only frames are resized; leave it at 1 for a 3-D network")
    size = first_size((height, width), fraction)
    if size == (height, width):
        return batch

    def smooth(x: Tensor) -> Tensor:
        return F.interpolate(x, size=size, mode="bilinear", align_corners=False, antialias=True)

    label = F.interpolate(batch.label[:, None].float(), size=size, mode="nearest-exact")[:, 0].long()
    return replace(
        batch,
        image=smooth(batch.image),
        label=label,
        strong=None if batch.strong is None else smooth(batch.strong),
        soft=None if batch.soft is None else smooth(batch.soft),
        deviation=None if batch.deviation is None else smooth(batch.deviation[:, None])[:, 0],
    )
