"""One run in several processes: real ones, over the loopback."""

from __future__ import annotations

import json
import os
import socket
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest
import several_processes as within
import torch
from checkout import ROOT
from tiny_flags import TINY

from edgemt import cli
from edgemt.artefacts import network_folder
from edgemt.io import process_rank
from edgemt.methods import METHODS
from edgemt.training import distributed, engine

WORLD = 2


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Two processes went through every scenario of several_processes.py."""
    folder = tmp_path_factory.mktemp("processes")
    torch.multiprocessing.get_context("forkserver").set_forkserver_preload(["edgemt.training.engine", "edgemt.methods"])
    torch.multiprocessing.start_processes(  # of a server that imported all that once: most of what a process costs
        within.process, args=(WORLD, str(folder)), nprocs=WORLD, start_method="forkserver"
    )
    return folder


@pytest.fixture(scope="module")
def said(folder: Path) -> list[dict[str, Any]]:
    return [json.loads((folder / f"{rank}.json").read_text()) for rank in range(WORLD)]


@pytest.mark.parametrize("name", [*within.NAMES, "remembering"])
def test_every_process_holds_the_same_players(name: str, said: list[dict[str, Any]]) -> None:
    one, other = (found["every_player_is_the_same"][name] for found in said)
    assert one == other
    assert one["student"] != within.digest(within.build("student", 0)), "nothing was learnt"


def test_two_processes_take_the_step_that_one_takes_on_both_batches(said: list[dict[str, Any]]) -> None:
    alone = within.after(within.ByRows(), 4, draw=within.draw_two, build=within.build_plain)
    weights = torch.cat([p.detach().flatten() for p in alone.output_network.parameters()])
    for found in said:
        assert torch.allclose(torch.tensor(found["weights_of_two_halves"]), weights, atol=1e-6)


def test_every_process_has_dropout_draws_and_rows_of_its_own(said: list[dict[str, Any]]) -> None:
    drawn = [value for found in said for value in found["chance"]]
    assert len(set(drawn)) == len(drawn) == 2 * 2 * 3


def test_a_nan_in_one_process_is_skipped_in_all(said: list[dict[str, Any]]) -> None:
    for found in said:
        assert found["nan_in_one"]["skipped"] and found["nan_in_one"]["kept"] and found["nan_in_one"]["goes_on"]
    assert said[0]["nan_in_one"]["after"] == said[1]["nan_in_one"]["after"]


@pytest.mark.parametrize("name", ["dan", "cutmix_mt"])
def test_processes_that_were_cut_end_with_the_same_bits(name: str, said: list[dict[str, Any]]) -> None:
    found = [rank["cut_and_resumed"][name] for rank in said]
    assert found[0]["resumed"] == found[0]["whole"] == found[1]["resumed"] == found[1]["whole"]


def test_the_first_process_measures(said: list[dict[str, Any]]) -> None:
    assert [found["cut_and_resumed"]["measured_by"] for found in said] == [[0], []]


def test_one_process_takes_up_what_two_began(folder: Path, said: object, capsys: pytest.CaptureFixture[str]) -> None:
    given: dict[str, Any] = {"build": within.build, "schedule": within.FAST, "key": "k"}
    done = engine.train(METHODS["dan"], draw=within.draw, folder=folder / "one", **given)
    assert "begun by 2 process(es), resumed by 1: a step sees 1 times" in capsys.readouterr().err
    assert all(torch.isfinite(p).all() for p in done.network.parameters())


def test_a_failure_in_one_process_is_said_by_the_first_and_ends_all(said: list[dict[str, Any]]) -> None:
    assert [found["failing_in_one"] for found in said] == [
        "RemoteProcessError: process 1 of 2: scan7.nii.gz: is cut short; copy it again",
        "SystemExit: 2",
    ]


def test_a_failure_of_the_first_process_keeps_its_kind(said: list[dict[str, Any]]) -> None:
    first, other = (found["failing_alone_where_the_others_wait"] for found in said)
    assert first.startswith("PermissionError:") and other == "SystemExit: 2"


def test_alone_nothing_is_exchanged_and_nothing_changes() -> None:
    assert (process_rank.rank(), process_rank.world_size(), process_rank.is_main_process()) == (0, 1, True)
    x = torch.ones(2)
    distributed.all_reduce_mean_([x])
    distributed.broadcast_([x])
    assert torch.equal(x, torch.ones(2)) and distributed.all_agree(True) and not distributed.all_agree(False)
    assert distributed.run_on_main(lambda: (1, 2)) == (1, 2)


@pytest.mark.parametrize(
    ("said", "started"),
    [
        ({"TORCHELASTIC_RUN_ID": "x", "WORLD_SIZE": "8", "LOCAL_WORLD_SIZE": "4"}, (4, 2)),
        ({"TORCHELASTIC_RUN_ID": "x", "WORLD_SIZE": "1", "LOCAL_WORLD_SIZE": "1"}, (1, 1)),
        ({"SLURM_NTASKS": "8", "SLURM_STEP_NUM_TASKS": "8", "SLURM_STEP_NUM_NODES": "2"}, (4, 2)),
        ({"SLURM_NTASKS": "8"}, (1, 1)),  # a batch script without srun: one process, whatever was reserved
        ({"SLURM_STEP_NUM_TASKS": "8", "SLURM_JOB_NAME": "bash"}, (1, 1)),
    ],
)
def test_the_launchers_word_is_taken(
    said: dict[str, str], started: tuple[int, int], monkeypatch: pytest.MonkeyPatch
) -> None:
    for name in ("TORCHELASTIC_RUN_ID", *(name for name in os.environ if name.startswith("SLURM_"))):
        monkeypatch.delenv(name, raising=False)
    for name, value in said.items():
        monkeypatch.setenv(name, value)
    assert distributed._launched_processes() == started


def environment(**more: str) -> dict[str, str]:
    return {**os.environ, "PYTHONPATH": str(ROOT), "OMP_NUM_THREADS": "1", "CUDA_VISIBLE_DEVICES": "", **more}


@pytest.mark.slow
def test_torchrun_makes_the_stages_once_and_one_process_goes_on_from_there(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    few = ("--teacher.schedule.steps=4", "--student.schedule.steps=4", "--slim.schedule.steps=2")
    args = ["prune", "phantom", "--out", str(tmp_path), *TINY, *few]
    launcher = [sys.executable, "-m", "torch.distributed.run", "--standalone", "--nproc-per-node", str(WORLD)]
    done = subprocess.run(
        [*launcher, "-m", "edgemt.cli", *args], env=environment(), capture_output=True, text=True, timeout=300
    )
    assert done.returncode == 0, done.stderr
    assert done.stderr.count("2 processes: a step sees 2 times the rows") == 1
    for stage in ("teacher", "student", "slim"):
        assert done.stderr.count(f"{stage}: Dice") == 1
    assert not list(tmp_path.glob("*.partial"))
    cli.main(args)
    assert capsys.readouterr().err.count("stands") == 3
    assert network_folder.load_network(tmp_path / "slim") is not None


@pytest.mark.slow
def test_srun_joins_too_and_bad_input_is_one_line_with_status_2(tmp_path: Path) -> None:
    with socket.socket() as free:
        free.bind(("127.0.0.1", 0))
        port = str(free.getsockname()[1])
    job = {
        **{"SLURM_NTASKS": "2", "SLURM_NTASKS_PER_NODE": "2", "SLURM_STEP_NUM_TASKS": "2", "SLURM_STEP_NUM_NODES": "1"},
        **{"SLURM_NODEID": "0", "SLURM_JOB_NAME": "edgemt", "MASTER_ADDR": "127.0.0.1", "MASTER_PORT": port},
    }
    args = [sys.executable, "-m", "edgemt.cli", "train", "phantom", "--out", str(tmp_path), *TINY]
    tasks = [
        subprocess.Popen(
            [*args, "--teacher.network=vnet"],
            env=environment(**job, SLURM_PROCID=str(rank), SLURM_LOCALID=str(rank)),
            stdout=subprocess.PIPE,
            stderr=subprocess.PIPE,
            text=True,
        )
        for rank in range(WORLD)
    ]
    heard = [task.communicate(timeout=120) for task in tasks]
    assert [task.returncode for task in tasks] == [2, 2], heard
    assert heard[0][1].count("error:") == 1 and "error:" not in heard[1][1]
    assert "Traceback" not in heard[0][1] + heard[1][1]
