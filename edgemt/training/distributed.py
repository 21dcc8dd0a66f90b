"""Several processes that train one network: initialisation, collectives, and errors that stop all of them.

`torchrun`, `srun` or a Fabric of the calling script starts the processes; lightning.fabric joins them. Every exchange
begins with an all-reduce of a status over gloo (on the CPU, while a GPU works), so that an error in one process stops
all of them at their next exchange; rank 0 reports it. With one process every function returns at once. torch is
imported only where it is needed.

The collectives of Fabric are not used: they carry no status, so an error in one process leaves the others waiting;
`Fabric.broadcast` sends pickles; and its barrier and broadcast work on the group of the GPUs, where a wait of hours
exceeds the time limit of NCCL.
"""

from __future__ import annotations

import json
import logging
import os
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from datetime import timedelta
from functools import cache
from typing import TYPE_CHECKING, Any, NoReturn, TypeVar

from edgemt.io.process_rank import is_main_process, process_group, rank, world_size

if TYPE_CHECKING:
    from torch import Tensor

Result = TypeVar("Result")
_OK, _REJECTED, _FAILED = 0, 1, 2
_TIMEOUT = timedelta(days=7)  # rank 0 prunes, quantizes and measures alone while the other ranks wait
_inside = False


class RemoteProcessError(ValueError):
    """An error of another process, raised in rank 0."""


@contextmanager
def distributed_run() -> Iterator[None]:
    """Context manager and decorator around code that all processes run.

    A ValueError or OSError in one process is raised in rank 0 and ends the other processes with status 2. Nested uses
    have no effect.
    """
    global _inside
    init()
    if _inside or world_size() == 1:
        yield
        return
    _inside = True
    try:
        yield
        barrier()
    except RemoteProcessError:
        raise
    except (ValueError, OSError) as error:
        _all_reduce_status(_FAILED, error)
    finally:
        _inside = False


def init() -> None:
    """Join the processes that `torchrun` or `srun` started. Raises ValueError where there are too few GPUs for them."""
    if process_group() is not None:
        return
    here, nodes = _launched_processes()
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
    silence_lightning()
    try:
        Fabric(accelerator="cuda" if cuda else "cpu", devices=here, num_nodes=nodes, strategy="ddp").launch()
    except RuntimeError as error:
        raise ValueError(f"several processes: they cannot join ({error})") from None


def silence_lightning() -> None:
    """Set the loggers of lightning to WARNING: they print precision and rank for every Fabric."""
    for name in ("lightning.fabric", "lightning.pytorch", "lightning.pytorch.utilities.rank_zero"):
        logging.getLogger(name).setLevel(logging.WARNING)


def barrier() -> None:
    """Wait until every process has reached this line."""
    if world_size() > 1:
        _all_reduce_status(_OK)


def all_agree(ok: bool) -> bool:
    """Whether `ok` is true in every process."""
    return ok if world_size() == 1 else _all_reduce_status(_OK if ok else _REJECTED) == _OK


def run_on_main(function: Callable[[], Result]) -> Result:
    """The result of `function`, which rank 0 alone calls. The other ranks wait and get the result through JSON."""
    if world_size() == 1:
        return function()
    result = function() if is_main_process() else None
    barrier()
    text = _broadcast_text(json.dumps(result) if is_main_process() else "", source=0)
    return result if is_main_process() else json.loads(text)  # type: ignore[return-value]


def all_reduce_mean_(tensors: Sequence[Tensor]) -> None:
    """Replace each tensor, in place, by its mean over the processes.

    All tensors go in one message of a fixed layout, so that a resumed run gets the same bits.
    """
    if world_size() == 1 or not tensors:
        return
    import torch

    with torch.no_grad():
        flat = torch.cat([x.reshape(-1) for x in tensors])
        _collective(lambda: torch.distributed.all_reduce(flat))
        flat /= world_size()
        pieces = flat.split([x.numel() for x in tensors])
        torch._foreach_copy_(list(tensors), [p.view(x.shape) for p, x in zip(pieces, tensors, strict=True)])


def broadcast_(tensors: Sequence[Tensor]) -> None:
    """Replace each tensor, in place, by that of rank 0. Types may differ; all tensors are on one device."""
    if world_size() == 1 or not tensors:
        return
    import torch

    with torch.no_grad():
        parts = [x.detach().contiguous().reshape(-1).view(torch.uint8) for x in tensors]
        flat = torch.cat(parts)
        _collective(lambda: torch.distributed.broadcast(flat, 0))
        for x, piece in zip(tensors, flat.split([len(p) for p in parts]), strict=True):
            x.copy_(piece.clone().view(x.dtype).view(x.shape))


def _all_reduce_status(status: int, error: Exception | None = None) -> int:
    """Maximum of `status` over the processes. Where it is _FAILED, no process returns (`_abort_all`)."""
    import torch

    highest = torch.tensor([status])
    _collective(lambda: torch.distributed.all_reduce(highest, torch.distributed.ReduceOp.MAX, group=_gloo_group()))
    if int(highest) == _FAILED:
        _abort_all(error)
    return int(highest)


def _abort_all(error: Exception | None) -> NoReturn:
    """End all processes with the error of the lowest rank that failed: rank 0 raises it, the others exit with 2."""
    import torch

    lowest = torch.tensor([world_size() if error is None else rank()])
    _collective(lambda: torch.distributed.all_reduce(lowest, torch.distributed.ReduceOp.MIN, group=_gloo_group()))
    failed = int(lowest)
    text = _broadcast_text(str(error), source=failed)
    if not is_main_process():
        raise SystemExit(2)
    if failed == 0 and error is not None:
        raise error
    raise RemoteProcessError(f"process {failed} of {world_size()}: {text}")


def _broadcast_text(text: str, *, source: int) -> str:
    """Send the text of rank `source` to all processes."""
    import torch

    raw = bytearray(text.encode() or b" ")
    size = torch.tensor([len(raw)])
    _collective(lambda: torch.distributed.broadcast(size, source, group=_gloo_group()))
    data = torch.frombuffer(raw, dtype=torch.uint8) if rank() == source else torch.empty(int(size), dtype=torch.uint8)
    _collective(lambda: torch.distributed.broadcast(data, source, group=_gloo_group()))
    return bytes(data.tolist()).decode()


def _collective(exchange: Callable[[], Any]) -> None:
    """Run one collective. Where it breaks, another process crashed and has printed its own error: exit."""
    try:
        exchange()
    except RuntimeError as error:
        reason = " ".join(str(error).split())[:200]
        raise SystemExit(
            f"edgemt: another process of this run ended, or cannot be reached ({reason})" if is_main_process() else 1
        ) from None


@cache
def _gloo_group() -> Any:
    """Process group over TCP: a wait of hours occupies no GPU and exceeds no NCCL time limit."""
    from torch import distributed

    return distributed.new_group(backend="gloo", timeout=_TIMEOUT)


def _launched_processes() -> tuple[int, int]:
    """(processes on this node, nodes), from the environment of `torchrun` or `srun`; (1, 1) without them."""
    env = os.environ
    if "TORCHELASTIC_RUN_ID" in env:
        count, here = int(env["WORLD_SIZE"]), int(env["LOCAL_WORLD_SIZE"])
    elif env.get("SLURM_JOB_NAME") not in ("bash", "interactive"):  # an interactive shell of a job runs one process
        count = int(env.get("SLURM_STEP_NUM_TASKS", "1"))
        here = max(1, count // int(env.get("SLURM_STEP_NUM_NODES", "1")))
    else:
        return 1, 1
    if count % here:
        raise ValueError(f"{count} processes, {here} of them on this node: start the same number on every node")
    return here, count // here
