"""Options of pruning."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Literal, get_args

from deploy.runtimes.registry import RUNTIMES

Target = Literal["macs", "params", "latency"]


# runtime -> channels that its kernels compute at once
ROUND = {name: spec.channel_block for name, spec in RUNTIMES.items() if spec.channel_block is not None}


@dataclass(frozen=True)
class PruneOptions:
    """How much to prune, by which cost and importance, and in how many steps."""

    share: float = 0.45  # fraction of the target to remove; 0 prunes nothing
    target: Target = "macs"  # "latency" is measured on this machine
    runtime: str = "openvino"  # runtime whose latency is measured and whose channel block is used
    precision: Literal["int8", "float"] = "int8"  # of the deployed file
    importance: Literal["taylor", "magnitude"] = (
        "taylor"  # |sum of weight x gradient| (arXiv 1906.10771), or |weight|^2
    )
    round_to: int = 0  # channel counts stay multiples of this; 0: 8, for latency the channel block of the runtime
    steps: int = 4  # number of times that gradients are computed
    rounds: int = 1  # number of times of pruning a part and fine-tuning
    max_ratio: float = 0.75  # largest fraction of its channels that a layer may lose
    plan: str = ""  # a plan.json to repeat on this network instead of a search

    def __post_init__(self) -> None:
        for name, kinds in (("target", Target), ("precision", Literal["int8", "float"])):
            if getattr(self, name) not in get_args(kinds):
                raise ValueError(f"prune.{name} = {getattr(self, name)!r}: choose {' or '.join(get_args(kinds))}")
        if self.runtime not in ROUND:
            raise ValueError(f"prune.runtime = {self.runtime!r}: choose one of {', '.join(ROUND)}")
        if not 0 <= self.share < 1:
            raise ValueError(f"prune.share = {self.share}: a share to remove, from 0 to below 1, such as 0.45")
        if self.importance not in ("taylor", "magnitude"):
            raise ValueError(f"prune.importance = {self.importance!r}: choose 'taylor' or 'magnitude'")
        if not 0 < self.max_ratio < 1:
            raise ValueError(f"prune.max_ratio = {self.max_ratio}: the share a layer may lose, between 0 and 1")
        if self.round_to < 0:
            raise ValueError(f"prune.round_to = {self.round_to}: must be 1 or more, or 0 for the runtime's own")
        if self.steps < 1 or self.rounds < 1:
            raise ValueError(f"prune.steps = {self.steps}, prune.rounds = {self.rounds}: both must be 1 or more")
        if self.plan and self.rounds > 1:
            raise ValueError(f"prune.plan = {self.plan!r}: is repeated in one go; leave prune.rounds at 1")

    @property
    def rounded_to(self) -> int:
        """The number that channel counts stay multiples of."""
        return self.round_to or (ROUND[self.runtime] if self.target == "latency" else 8)

    @property
    def wanted(self) -> bool:
        """True where these options prune anything."""
        return bool(self.share > 0 or self.plan)
