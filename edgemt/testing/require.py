"""The error of a failed check, and small functions that the checks share."""

from __future__ import annotations

from dataclasses import replace

import torch
from torch import Tensor, nn

from edgemt.learning.method import Method
from edgemt.learning.targets import ConfidenceThresholded
from edgemt.methods.mean_teacher import MeanTeacher


class MethodCheckError(AssertionError):
    """A check that a method fails; the text states what was measured."""


def require(condition: bool, message: str) -> None:
    """Raises MethodCheckError with `message` if `condition` is false. An `assert` is removed by `python -O`."""
    if not condition:
        raise MethodCheckError(message)


def with_low_confidence(method: Method) -> Method:
    """The same method with confidence threshold 0.3, which an untrained teacher passes too."""
    if isinstance(method, MeanTeacher) and isinstance(method.target, ConfidenceThresholded):
        return replace(method, target=replace(method.target, confidence=0.3))
    if hasattr(method, "confidence"):
        return replace(method, confidence=0.3)  # type: ignore[call-arg]
    return method


def same_state(network: nn.Module, state: dict[str, Tensor]) -> bool:
    """True if the network's state dict has the same bits as `state`."""
    return all(torch.equal(value, state[key]) for key, value in network.state_dict().items())


def not_none(value: Tensor | None) -> Tensor:
    """`value`, narrowed for the type checker."""
    assert value is not None
    return value
