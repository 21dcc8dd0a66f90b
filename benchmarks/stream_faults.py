"""How soon a live stream says that something is wrong, and how many frames after its end masks are back.

    python benchmarks/stream_faults.py --hz 30

Plays each fault three times with the sources of tests/support/faulty_source.py and the limits that `edgemt stream` has:
`told` is from the fault to the picture that shows it, `back` counts frames from the end of the fault to the first that
has a mask.
"""

from __future__ import annotations

import argparse
import os
import signal
import statistics
import sys
import tempfile
import time
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

import numpy as np

sys.path.insert(0, str(Path(__file__).parent.parent / "tests" / "support"))

from faulty_source import FaultScenario, model, picture, threshold  # noqa: E402
from tiny_package import make_ship  # noqa: E402

from deploy.stream.inference.load_model import load_stream_model  # noqa: E402
from deploy.stream.session import StreamOptions  # noqa: E402
from deploy.stream.sources.base import CorruptFrameError, SourceFrame, SourceLostError  # noqa: E402

TIMES = 3


def pulled_out() -> FaultScenario:
    def pull(k: int) -> SourceFrame:
        raise SourceLostError("pulled out")

    def opens() -> None:
        raise ValueError("not there")

    return _played(FaultScenario(pull, expected="no-signal", live=True, opens=opens))


def silent() -> FaultScenario:
    def block(k: int) -> SourceFrame:
        while scenario.act == 1:
            time.sleep(0.002)
        return SourceFrame(picture(k))

    scenario = FaultScenario(block, expected="no-signal")
    return _played(scenario)


def damaged() -> FaultScenario:
    def damage(k: int) -> SourceFrame:
        raise CorruptFrameError("half a frame")

    return _played(FaultScenario(damage, expected="no-signal"))


def black() -> FaultScenario:
    return _played(FaultScenario(lambda k: SourceFrame(np.zeros((60, 80, 3), np.uint8)), expected="no-signal"))


def frozen() -> FaultScenario:
    return _played(FaultScenario(lambda k: SourceFrame(picture(0)), expected="stale"))


def another_size() -> FaultScenario:
    def after(k: int) -> np.ndarray:
        return picture(k, size=(90, 120))

    return _played(FaultScenario(lambda k: SourceFrame(after(k)), expected="stale", after=after))


def too_slow() -> FaultScenario:
    return _inference(lambda: time.sleep(0.3), expected="stale")


def hanging() -> FaultScenario:
    calls: list[int] = []
    return _inference(lambda: None if calls else (calls.append(1), time.sleep(5)), expected="invalid")


def raising() -> FaultScenario:
    def fail() -> None:
        raise RuntimeError("device lost")

    return _inference(fail, expected="invalid")


def killed(folder: Path) -> FaultScenario:
    opened = load_stream_model(folder, isolation="process")
    first: Any = opened.runner
    waiting, dead, spawn_standby = [], [], first.spawn_standby
    first.spawn_standby = lambda: waiting.append(spawn_standby()) or waiting[-1]

    def kill(k: int) -> SourceFrame:
        if not dead and waiting and waiting[0].loaded:
            dead.append(k)
            scenario._since = time.monotonic()
            os.kill(first.process.pid, signal.SIGKILL)
        return SourceFrame(picture(k))

    scenario = FaultScenario(kill, expected="invalid")
    try:
        return _played(scenario, opened.model, runner=first)
    finally:
        first.close()


def edited(folder: Path) -> FaultScenario:
    opened = load_stream_model(folder)
    weights = folder / "model.onnx"
    good = weights.read_bytes()

    def edit(k: int) -> SourceFrame:
        if weights.read_bytes() == good:
            weights.write_bytes(good[:-1] + bytes([good[-1] ^ 1]))
        return SourceFrame(picture(k))

    def mend(k: int) -> np.ndarray:
        if weights.read_bytes() != good:
            weights.write_bytes(good)
        return picture(k)

    return _played(
        FaultScenario(edit, expected="invalid", after=mend), opened.model, runner=opened.runner, watcher=opened.watcher
    )


def _inference(act: Callable[[], Any], *, expected: Any) -> FaultScenario:
    def infer(frames: np.ndarray) -> np.ndarray:
        if scenario.act == 1:
            act()
        return threshold(frames)

    scenario = FaultScenario(expected=expected)
    return _played(scenario, model(lambda: infer))


_hz = [30.0]


def _played(scenario: FaultScenario, *made: Any, **fields: Any) -> FaultScenario:
    scenario.hz = _hz[0]
    scenario.run(*made, options=StreamOptions(), **fields)
    return scenario


def main(argv: Sequence[str] | None = None) -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--hz", type=float, default=30.0)
    _hz[0] = parser.parse_args(argv).hz
    with tempfile.TemporaryDirectory() as temporary:
        ship = make_ship(Path(temporary) / "ship").folder
        plain = (pulled_out, silent, damaged, black, frozen, another_size, too_slow, hanging, raising)
        faults: dict[str, Callable[[], FaultScenario]] = {play.__name__: play for play in plain}
        faults |= {"killed": lambda: killed(ship), "edited": lambda: edited(ship)}
        print("| fault | says | told after ms | back after frames |\n|---|---|---|---|")
        for name, play in faults.items():
            dramas = [play() for _ in range(TIMES)]
            delay_ms = statistics.median(scenario.detected_s for scenario in dramas) * 1e3
            back = sorted(scenario.recovered_after for scenario in dramas)
            print(
                f"| {name} | {dramas[0].why} | {delay_ms:.0f} | {back[len(back) // 2]} (most {back[-1]}) |", flush=True
            )


if __name__ == "__main__":
    main()
