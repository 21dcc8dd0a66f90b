"""What a step exchanges between the processes of a run: gradients, running statistics and feature memories.

The gradients of a step are averaged in one message after `backward`, without DistributedDataParallel: a method may call
a network several times a step, also in the optimiser step of another network, and may leave heads out of its losses;
and a message of fixed layout gives the same bits after a resume. Norm layers normalise over the rows of their own
process; their running statistics are averaged. SyncBatchNorm is not used: it exists on GPUs only, would change the
layers that are pruned and exported, and would exchange data in each layer of each forward pass of a teacher.

With one process nothing is done.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence

import torch
from torch.nn.modules.batchnorm import _NormBase

from edgemt.io import process_rank
from edgemt.learning.ema import Ema
from edgemt.learning.roles import Memory, Networks, Role, Trainable
from edgemt.training import distributed


def average_gradients(players: Networks, names: Sequence[str]) -> None:
    """Average the gradients of the named networks over the processes; a weight without a gradient gets 0."""
    if process_rank.world_size() == 1:
        return
    weights = [p for name in names for p in players[name].parameters() if p.requires_grad]
    for weight in weights:
        if weight.grad is None:
            weight.grad = torch.zeros_like(weight)
    distributed.all_reduce_mean_([weight.grad for weight in weights if weight.grad is not None])


def synchronise_buffers(players: Networks, roles: Mapping[str, Role]) -> None:
    """Average the running statistics over the processes, and copy the feature memories of rank 0 to all."""
    if process_rank.world_size() == 1:
        return
    for name, role in roles.items():
        if isinstance(role, Trainable) or (isinstance(role, Ema) and role.buffers == "own"):
            norms = [m for m in players[name].modules() if isinstance(m, _NormBase)]
            distributed.all_reduce_mean_([b for m in norms for b in (m.running_mean, m.running_var) if b is not None])
        if isinstance(role, Memory):
            distributed.broadcast_(list(players[name].buffers()))
