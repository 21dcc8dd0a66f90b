"""Seeds of an ensemble: its first member is the run with that seed alone, and no two runs share another."""

from __future__ import annotations

from edgemt.training.seeds import member_seed


def test_runs_share_no_member_whatever_their_seeds() -> None:
    runs = [*range(100), *range(1000, 20_000, 1000)]
    seeds = [member_seed(run, number) for run in runs for number in range(5)]

    assert len(set(seeds)) == len(seeds)
    assert [member_seed(run, 0) for run in runs] == runs
    assert all(0 <= seed < 2**31 for seed in seeds)
