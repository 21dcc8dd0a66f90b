"""Every method steps in the engine, with the networks of the house, in the precision of a run, midway in it."""

from __future__ import annotations

import importlib.util
import json
import math
import sys
from dataclasses import replace
from pathlib import Path

import pytest
import torch
from checkout import ROOT

from edgemt.methods import METHODS


def benchmark():
    spec = importlib.util.spec_from_file_location("method_steps", ROOT / "benchmarks" / "method_steps.py")
    module = importlib.util.module_from_spec(spec)
    sys.modules[spec.name] = module
    spec.loader.exec_module(module)
    return module


method_steps = benchmark()
SMALL = {
    "2d": replace(method_steps.WORLDS["2d"], size=(16, 16), options={"widths": (4, 4, 8), "dropout": (0.1,) * 3}),
    "3d": replace(method_steps.WORLDS["3d"], size=(16, 16, 16), options={"filters": 2}),
}


def steps(name: str, kind: str) -> None:
    world, device = SMALL[kind], torch.device("cpu")
    run = world.run(METHODS[name])
    batch = world.batch(device)
    for _ in range(2):
        terms = run.step(lambda index, device: batch)
        assert terms and all(math.isfinite(float(value)) for value in terms.values())


@pytest.mark.parametrize("name", METHODS)
def test_it_steps_on_slices_in_the_engine(name: str) -> None:
    steps(name, "2d")


@pytest.mark.slow
@pytest.mark.parametrize("name", METHODS)
def test_it_steps_on_volumes_in_the_engine(name: str) -> None:
    steps(name, "3d")


def test_the_costs_of_some_methods_are_renewed_and_the_others_kept(tmp_path: Path, monkeypatch) -> None:
    out = tmp_path / "costs.json"
    out.write_text(json.dumps({"date": "then", "relative": {"ua_mt": {"2d": 9.0}, "cps": {"2d": 7.0}}}))
    monkeypatch.setattr(method_steps, "WORLDS", SMALL)
    monkeypatch.setattr(
        sys, "argv", ["method_steps.py", "--methods", "ua_mt", "--worlds", "2d", "--rounds", "1", "--out", str(out)]
    )
    method_steps.main()
    record = json.loads(out.read_text())
    assert record["date"] == "then" and record["relative"]["cps"] == {"2d": 7.0}
    assert record["relative"]["ua_mt"]["2d"] not in (0.0, 9.0)


def test_a_method_with_an_unknown_player_is_passed_over(monkeypatch, capsys, tmp_path: Path) -> None:
    from edgemt.learning.roles import Frozen, Trainable

    class Stranger(type(METHODS["supervised"])):
        def roles(self):
            return {"student": Trainable(), "average": self.ema, "guest": Frozen("guest")}

    monkeypatch.setattr(method_steps, "WORLDS", SMALL)
    monkeypatch.setitem(METHODS, "stranger", Stranger())
    out = tmp_path / "costs.json"
    monkeypatch.setattr(sys, "argv", ["method_steps.py", "--methods", "stranger", "--worlds", "2d", "--out", str(out)])
    method_steps.main()
    assert "no network to play 'guest'" in capsys.readouterr().err
    assert json.loads(out.read_text())["relative"] == {}
