"""Precision, memory layout and optimisers of a training on its device."""

from __future__ import annotations

from collections.abc import Callable

import torch
from torch import Tensor, nn

from edgemt.learning.roles import Trainable
from edgemt.training.options import Precision, Schedule


def resolve_precision(precision: Precision, device: torch.device, *, learns_volumes: bool = False) -> str:
    """The precision of `MixedPrecision`: `auto` is bf16 where the device computes in it, fp16 on older GPUs, else fp32.

    With `learns_volumes` `auto` is fp32 on a CPU: the bf16 backward pass of a V-Net in torch 2.15 reads uninitialised
    memory, so that its gradients differ from run to run and are sometimes NaN.
    """
    if precision != "auto":
        return precision
    if device.type == "cuda":
        return "bf16-mixed" if torch.cuda.is_bf16_supported() else "16-mixed"
    if learns_volumes:
        return "32-true"
    return "bf16-mixed" if torch.cpu._is_avx512_bf16_supported() else "32-true"


def training_device() -> torch.device:
    """The GPU of this process where CUDA has one, else the CPU."""
    return torch.device("cuda", torch.cuda.current_device()) if torch.cuda.is_available() else torch.device("cpu")


def enable_tf32(device: torch.device) -> None:
    """On CUDA, allow TF32 in fp32 and let cuDNN choose convolutions by measurement (the input size is constant)."""
    if device.type == "cuda":
        torch.backends.cudnn.benchmark = True
        torch.backends.cudnn.allow_tf32 = True
        torch.set_float32_matmul_precision("high")


def to_channels_last(network: nn.Module, device: torch.device) -> None:
    """Set the memory format to channels last: 2-D networks everywhere, 3-D ones on CPUs alone (there 1.2 x faster)."""
    ndims = {p.ndim for p in network.parameters()}
    if 4 in ndims:
        network.to(memory_format=torch.channels_last)
    if 5 in ndims and device.type == "cpu":
        network.to(memory_format=torch.channels_last_3d)


def async_bool(flag: Tensor) -> Callable[[], bool]:
    """A function that returns `flag` [] as a bool. On a GPU it waits for the copy of the flag, not for later work."""
    if not flag.is_cuda:
        return lambda: bool(flag)
    host = flag.to("cpu", non_blocking=True)
    ready = torch.cuda.Event()
    ready.record()

    def read() -> bool:
        ready.synchronize()
        return bool(host)

    return read


def make_optimiser(network: nn.Module, role: Trainable, schedule: Schedule) -> torch.optim.Optimizer:
    """The optimiser of a trainable network, of the kind of its role or else of the schedule."""
    kind = role.optimiser or schedule.optimiser
    rate = learning_rate(role, schedule, 0)
    if kind == "sgd":
        return torch.optim.SGD(network.parameters(), rate, momentum=0.9, weight_decay=schedule.weight_decay)
    if kind == "adamw":
        return torch.optim.AdamW(network.parameters(), rate, weight_decay=schedule.weight_decay)
    if kind == "adam":
        return torch.optim.Adam(network.parameters(), rate, betas=role.betas)
    raise ValueError(f"optimiser: unknown {kind!r}; one of adamw, adam, sgd")


def learning_rate(role: Trainable, schedule: Schedule, index: int) -> float:
    """Learning rate at step `index`: that of the role, or else of the schedule."""
    return schedule.lr_at(index) if role.rate is None else role.rate
