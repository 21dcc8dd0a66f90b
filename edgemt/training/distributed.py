"""The processes of one run, when there are several: which of them this is, and what they do together.

`torchrun`, `srun` or a script's own Fabric starts them, lightning.fabric joins them. Whatever passes between them
begins with a vote, on the CPU while a GPU works, so that a process that failed is heard wherever the others are: all
stop with it, and the first one says why. Alone, every function here returns at once. Loads no torch by itself.
"""

from __future__ import annotations

import json
import logging
import os
import sys
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from datetime import timedelta
from functools import cache
from typing import TYPE_CHECKING, Any, NoReturn, TypeVar

if TYPE_CHECKING:
    from torch import Tensor

Made = TypeVar("Made")
_FINE, _NO, _FAILED = 0, 1, 2
_PATIENCE = timedelta(days=7)  # the others wait while the first one measures, prunes, quantizes and times
_inside = False


class FailedElsewhere(ValueError):
    """What the first process raises for another one."""


def world() -> int:
    """How many processes share the run."""
    joined = _joined()
    return joined.get_world_size() if joined else 1


def rank() -> int:
    """The number of this one, from 0."""
    joined = _joined()
    return joined.get_rank() if joined else 0


def first() -> bool:
    """Whether this process writes, prints and measures for all."""
    return rank() == 0


def speaks() -> bool:
    """The same, also before the processes of `torchrun` have joined."""
    apart = _joined() is None and "TORCHELASTIC_RUN_ID" in os.environ
    return os.environ.get("RANK", "0") == "0" if apart else first()


@contextmanager
def together() -> Iterator[None]:
    """What all processes run. A ValueError or OSError in one of them is raised in the first, and ends the others
    with status 2. Also a decorator; inside another one it does nothing."""
    global _inside
    join()
    if _inside or world() == 1:
        yield
        return
    _inside = True
    try:
        yield
        wait()
    except FailedElsewhere:
        raise
    except (ValueError, OSError) as error:
        _vote(_FAILED, error)
    finally:
        _inside = False


def join() -> None:
    """Join the other processes of `torchrun` or `srun`. Raises ValueError when they do not fit this machine."""
    if _joined() is not None:
        return
    here, nodes = _started()
    if here * nodes == 1:
        return
    import torch
    from lightning.fabric import Fabric

    cuda = torch.cuda.is_available()
    if cuda and torch.cuda.device_count() < here:
        raise ValueError(
            f"{here} processes on this node, each sees {torch.cuda.device_count()} GPU(s): start one process for each "
            "GPU; under SLURM give GPUs to the node (--gpus-per-node), not to tasks"
        )
    hush()
    try:
        Fabric(accelerator="cuda" if cuda else "cpu", devices=here, num_nodes=nodes, strategy="ddp").launch()
    except RuntimeError as error:
        raise ValueError(f"several processes: they cannot join ({error})") from None


def hush() -> None:
    """Lightning announces precision and processes each time."""
    for name in ("lightning.fabric", "lightning.pytorch", "lightning.pytorch.utilities.rank_zero"):
        logging.getLogger(name).setLevel(logging.WARNING)


def wait() -> None:
    """Until every process is here."""
    if world() > 1:
        _vote(_FINE)


def agree(fine: bool) -> bool:
    """Whether it is fine with every process."""
    return fine if world() == 1 else _vote(_FINE if fine else _NO) == _FINE


def by_first(make: Callable[[], Made]) -> Made:
    """What the first process makes, in all of them; the others wait, and get it as JSON gives it back."""
    if world() == 1:
        return make()
    made = make() if first() else None
    wait()
    told = _told(json.dumps(made) if first() else "", by=0)
    return made if first() else json.loads(told)  # type: ignore[return-value]


def average_(tensors: Sequence[Tensor]) -> None:
    """In place, the mean over the processes. One message of one layout: the same bits whenever it is sent again."""
    if world() == 1 or not tensors:
        return
    import torch

    with torch.no_grad():
        flat = torch.cat([x.reshape(-1) for x in tensors])
        _done(lambda: torch.distributed.all_reduce(flat))
        flat /= world()
        pieces = flat.split([x.numel() for x in tensors])
        torch._foreach_copy_(list(tensors), [p.view(x.shape) for p, x in zip(pieces, tensors, strict=True)])


def take_first_(tensors: Sequence[Tensor]) -> None:
    """In place, what the first process holds; any types on one device."""
    if world() == 1 or not tensors:
        return
    import torch

    with torch.no_grad():
        parts = [x.detach().contiguous().reshape(-1).view(torch.uint8) for x in tensors]
        flat = torch.cat(parts)
        _done(lambda: torch.distributed.broadcast(flat, 0))
        for x, piece in zip(tensors, flat.split([len(p) for p in parts]), strict=True):
            x.copy_(piece.clone().view(x.dtype).view(x.shape))


def _vote(status: int, error: Exception | None = None) -> int:
    """The highest status of all; where one failed, nobody comes back."""
    import torch

    word = torch.tensor([status])
    _done(lambda: torch.distributed.all_reduce(word, torch.distributed.ReduceOp.MAX, group=_quiet_group()))
    if int(word) == _FAILED:
        _part(error)
    return int(word)


def _part(error: Exception | None) -> NoReturn:
    """The lowest process that failed tells the first one why, and all leave."""
    import torch

    who = torch.tensor([world() if error is None else rank()])
    _done(lambda: torch.distributed.all_reduce(who, torch.distributed.ReduceOp.MIN, group=_quiet_group()))
    by = int(who)
    told = _told(str(error), by=by)
    if not first():
        raise SystemExit(2)
    if by == 0 and error is not None:
        raise error
    raise FailedElsewhere(f"process {by} of {world()}: {told}")


def _told(text: str, *, by: int) -> str:
    """The text of process `by`, in all."""
    import torch

    raw = bytearray(text.encode() or b" ")
    size = torch.tensor([len(raw)])
    _done(lambda: torch.distributed.broadcast(size, by, group=_quiet_group()))
    data = torch.frombuffer(raw, dtype=torch.uint8) if rank() == by else torch.empty(int(size), dtype=torch.uint8)
    _done(lambda: torch.distributed.broadcast(data, by, group=_quiet_group()))
    return bytes(data.tolist()).decode()


def _done(exchange: Callable[[], Any]) -> None:
    """An exchange breaks when another process crashed or was killed; its own words are the ones that count."""
    try:
        exchange()
    except RuntimeError as error:
        said = " ".join(str(error).split())[:200]
        raise SystemExit(
            f"edgemt: another process of this run ended, or cannot be reached ({said})" if first() else 1
        ) from None


@cache
def _quiet_group() -> Any:
    """All processes over TCP: waiting there for hours occupies no GPU and breaks no time limit of one."""
    from torch import distributed

    return distributed.new_group(backend="gloo", timeout=_PATIENCE)


def _joined() -> Any | None:
    distributed = sys.modules.get("torch.distributed")
    return distributed if distributed and distributed.is_available() and distributed.is_initialized() else None


def _started() -> tuple[int, int]:
    """Processes on this node, and nodes, as `torchrun` or `srun` says; (1, 1) without them."""
    said = os.environ
    if "TORCHELASTIC_RUN_ID" in said:
        count, here = int(said["WORLD_SIZE"]), int(said["LOCAL_WORLD_SIZE"])
    elif said.get("SLURM_JOB_NAME") not in ("bash", "interactive"):  # a shell inside a job starts nothing in parallel
        count = int(said.get("SLURM_STEP_NUM_TASKS", "1"))
        here = max(1, count // int(said.get("SLURM_STEP_NUM_NODES", "1")))
    else:
        return 1, 1
    if count % here:
        raise ValueError(f"{count} processes, {here} of them on this node: start the same number on every node")
    return here, count // here
