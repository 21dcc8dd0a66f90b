"""The device of a training: its precision, memory layout and optimisers."""

from __future__ import annotations

from collections.abc import Callable

import torch
from lightning.fabric import Fabric
from lightning.fabric.plugins.environments import LightningEnvironment
from torch import Tensor, nn

from edgemt.io import process_rank
from edgemt.learning.roles import Trainable
from edgemt.training import distributed
from edgemt.training.options import Precision, Schedule


def resolve_precision(precision: Precision, device: torch.device, *, learns_volumes: bool = False) -> str:
    """`auto` is bf16 where the device has bf16 arithmetic, fp16 on older GPUs, fp32 elsewhere.

    Networks that learn from volumes on a CPU get fp32: with torch 2.15 the bf16 backward pass of a V-Net reads memory
    that nobody wrote, so that its gradients differ from run to run and are sometimes NaN.
    """
    if precision != "auto":
        return precision
    if device.type == "cuda":
        return "bf16-mixed" if torch.cuda.is_bf16_supported() else "16-mixed"
    if learns_volumes:
        return "32-true"
    return "bf16-mixed" if torch.cpu._is_avx512_bf16_supported() else "32-true"


def make_fabric(kind: str, device: torch.device) -> Fabric:
    distributed.silence_lightning()
    devices = [torch.cuda.current_device()] if device.type == "cuda" and process_rank.world_size() > 1 else 1
    alone = LightningEnvironment()  # whatever a cluster says: `ranks` has joined the processes by now
    return Fabric(accelerator=device.type, devices=devices, precision=kind, plugins=alone)  # type: ignore[arg-type]


def enable_tf32(device: torch.device) -> None:
    """What CUDA may do for speed: choose convolutions by trial, as patches keep their size, and TF32 in fp32."""
    if device.type == "cuda":
        torch.backends.cudnn.benchmark = True
        torch.backends.cudnn.allow_tf32 = True
        torch.set_float32_matmul_precision("high")


def to_channels_last(player: nn.Module, device: torch.device) -> None:
    """Channels last: everywhere in two axes, in three on CPUs, where it was measured to be quicker (1.2 times)."""
    ndims = {p.ndim for p in player.parameters()}
    if 4 in ndims:
        player.to(memory_format=torch.channels_last)
    if 5 in ndims and device.type == "cpu":
        player.to(memory_format=torch.channels_last_3d)


def async_bool(flag: Tensor) -> Callable[[], bool]:
    """Reads `flag` when called. What was queued on a GPU in between goes on: only what made the flag is waited for."""
    if not flag.is_cuda:
        return lambda: bool(flag)
    host = flag.to("cpu", non_blocking=True)
    ready = torch.cuda.Event()
    ready.record()

    def read() -> bool:
        ready.synchronize()
        return bool(host)

    return read


def make_optimiser(player: nn.Module, role: Trainable, schedule: Schedule) -> torch.optim.Optimizer:
    kind = role.optimiser or schedule.optimiser
    rate = learning_rate(role, schedule, 0)
    if kind == "sgd":
        return torch.optim.SGD(player.parameters(), rate, momentum=0.9, weight_decay=schedule.weight_decay)
    if kind == "adamw":
        return torch.optim.AdamW(player.parameters(), rate, weight_decay=schedule.weight_decay)
    if kind == "adam":
        return torch.optim.Adam(player.parameters(), rate, betas=role.betas)
    raise ValueError(f"optimiser: unknown {kind!r}; one of adamw, adam, sgd")


def learning_rate(role: Trainable, schedule: Schedule, index: int) -> float:
    return schedule.rate(index) if role.rate is None else role.rate
