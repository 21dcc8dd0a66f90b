"""Several students: initial weights, and DDL with two students."""

from __future__ import annotations

from dataclasses import replace

import torch

from edgemt.methods import METHODS
from edgemt.testing.tiny_training import TinyTrainer, random_batch


def test_students_start_from_different_weights():
    for name in ("cds", "dsst", "ddl", "pmt", "hybrid_mt"):
        nets = TinyTrainer(METHODS[name]).nets
        peer = "peer1" if name == "ddl" else "peer"
        assert not torch.equal(nets.student.head.weight, nets[peer].head.weight), name


def test_ddl_with_two_students_equals_cps():
    two = TinyTrainer(replace(METHODS["ddl"], students=2), total=1, index=1)
    cps = TinyTrainer(METHODS["cps"], total=1, index=1)
    (_, got), (_, want) = next(two.optimiser_steps(random_batch())), next(cps.optimiser_steps(random_batch()))
    for mine, theirs in (("pseudo_student", "pseudo_student"), ("pseudo_peer1", "pseudo_peer")):
        torch.testing.assert_close(got[mine], want[theirs])
