"""Random seeds of the steps of a training, and of the networks of an ensemble."""

from __future__ import annotations


def step_seed(seed: int, index: int) -> int:
    """A 62-bit seed for each (seed, step) by splitmix64, so that successive steps get unrelated random streams."""
    z = (seed * 0x9E3779B97F4A7C15 + index * 0xD1B54A32D192ED03 + 0x9E3779B97F4A7C15) & (2**64 - 1)
    z = ((z ^ (z >> 30)) * 0xBF58476D1CE4E5B9) & (2**64 - 1)
    z = ((z ^ (z >> 27)) * 0x94D049BB133111EB) & (2**64 - 1)
    return (z ^ (z >> 31)) >> 2


def member_seed(seed: int, number: int) -> int:
    """The seed of the member `number` (0, 1, ...) of an ensemble: `seed` itself, then 31 bits of `step_seed`.

    So two runs with different seeds share no member, whatever their seeds are.
    """
    return seed if number == 0 else step_seed(seed, -number) % 2**31
