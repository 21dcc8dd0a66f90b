"""The limits of a patient head and of its fit. This module imports no numpy: the command line loads it at start."""

from __future__ import annotations

from dataclasses import dataclass


@dataclass(frozen=True)
class FitOptions:
    """How far a fit may go. Raises ValueError for a value out of range."""

    pull: float = 0.01
    """Weight of the squared distance to the shipped head against the cross entropy; larger: smaller changes."""
    replay: float = 1.0
    """Weight of the golden frames with their own masks against all corrections together; 0: none."""
    steps: int = 50

    def __post_init__(self) -> None:
        for name, valid in (("pull", self.pull > 0), ("replay", self.replay >= 0), ("steps", self.steps >= 1)):
            if not valid:
                raise ValueError(f"adaptation.fit.{name}: {getattr(self, name):g} is out of range")


@dataclass(frozen=True)
class AdaptLimits:
    """The tests that a head must pass before and while it runs. Raises ValueError for a value out of range."""

    least: int = 3
    """Least number of confirmed masks with a structure; fewer never change the head."""
    golden_loss: float = 0.05
    """Most foreground Dice that the candidate may lose on the golden frames against the shipped head."""
    gain: float = 0.01
    """Least mean Dice that it must gain on corrections that were left out of the fit."""
    worst: float = -0.05
    """Least gain on each of them; below 0: so much may be lost on one, as on a good mask that was confirmed."""
    shadow: int = 30
    """Frames in a row on which a candidate runs unseen before it may take over."""
    disagreement: float = 0.5
    """Most 1 - Dice between the masks of the two heads on a frame; less where both are small (`FrameGuard`)."""
    unsure: float = 2.0
    """Most uncertainty (mean 1 - max softmax) on a frame, as a multiple of the shipped head's; 0.01 is added."""
    unlike: float = 4.0
    """Most distance of a frame to the nearest corrected frame, in standard deviations of the golden frames."""
    fall_backs: int = 3
    """After so many failed frames, without `shadow` good ones in a row, a head is dropped until the next correction."""

    def __post_init__(self) -> None:
        for name in ("gain", "disagreement", "unsure", "unlike"):
            if not getattr(self, name) > 0:
                raise ValueError(f"adaptation.{name}: must be above 0, not {getattr(self, name):g}")
        for name, least in (("least", 2), ("golden_loss", 0), ("shadow", 1), ("fall_backs", 1)):
            if not getattr(self, name) >= least:
                raise ValueError(f"adaptation.{name}: must be {least} or more, not {getattr(self, name):g}")
