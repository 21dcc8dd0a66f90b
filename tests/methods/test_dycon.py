"""DyCON: its schedule."""

from __future__ import annotations

from edgemt.methods import METHODS
from edgemt.testing.tiny_training import TinyTrainer, random_batch


def test_dycon_beta_falls_over_the_run():
    costs = []
    for index in (0, 100):
        stage = TinyTrainer(METHODS["dycon"], index=index, total=100)
        _, terms = next(stage.optimiser_steps(random_batch()))
        costs.append(float(terms["uncertainty"].detach()))
    assert costs[0] > 5 * costs[1]  # beta falls from 5 to 0.5
