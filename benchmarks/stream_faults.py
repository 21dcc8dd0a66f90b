"""How soon a live stream says that something is wrong, and how many frames after its end masks are back.

    python benchmarks/stream_faults.py --hz 30

Plays each fault three times with the sources of tests/misbehaving.py and the limits that `edgemt stream` has: told is
from the fault to the picture that says so, back counts frames from the end of the fault to the first that has a mask.
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

sys.path.insert(0, str(Path(__file__).parent.parent / "tests"))

from misbehaving import Drama, model, picture, threshold  # noqa: E402
from tiny_ship import make_ship  # noqa: E402

from deploy.stream.inference.load_model import open_model  # noqa: E402
from deploy.stream.session import StreamOptions  # noqa: E402
from deploy.stream.sources import Corrupt, Lost, Picture  # noqa: E402

TIMES = 3


def pulled_out() -> Drama:
    def pull(k: int) -> Picture:
        raise Lost("pulled out")

    def opens() -> None:
        raise ValueError("not there")

    return _played(Drama(pull, sees="no-signal", live=True, opens=opens))


def silent() -> Drama:
    def block(k: int) -> Picture:
        while drama.act == 1:
            time.sleep(0.002)
        return Picture(picture(k))

    drama = Drama(block, sees="no-signal")
    return _played(drama)


def damaged() -> Drama:
    def damage(k: int) -> Picture:
        raise Corrupt("half a frame")

    return _played(Drama(damage, sees="no-signal"))


def black() -> Drama:
    return _played(Drama(lambda k: Picture(np.zeros((60, 80, 3), np.uint8)), sees="no-signal"))


def frozen() -> Drama:
    return _played(Drama(lambda k: Picture(picture(0)), sees="stale"))


def another_size() -> Drama:
    def after(k: int) -> np.ndarray:
        return picture(k, size=(90, 120))

    return _played(Drama(lambda k: Picture(after(k)), sees="stale", after=after))


def too_slow() -> Drama:
    return _inference(lambda: time.sleep(0.3), sees="stale")


def hanging() -> Drama:
    calls: list[int] = []
    return _inference(lambda: None if calls else (calls.append(1), time.sleep(5)), sees="invalid")


def raising() -> Drama:
    def fail() -> None:
        raise RuntimeError("device lost")

    return _inference(fail, sees="invalid")


def killed(folder: Path) -> Drama:
    opened = open_model(folder, isolation="process")
    first: Any = opened.first
    waiting, dead, another = [], [], first.another
    first.another = lambda: waiting.append(another()) or waiting[-1]

    def kill(k: int) -> Picture:
        if not dead and waiting and waiting[0].loaded:
            dead.append(k)
            drama._since = time.monotonic()
            os.kill(first.process.pid, signal.SIGKILL)
        return Picture(picture(k))

    drama = Drama(kill, sees="invalid")
    try:
        return _played(drama, opened.model, first=first)
    finally:
        first.close()


def edited(folder: Path) -> Drama:
    opened = open_model(folder)
    weights = folder / "model.onnx"
    good = weights.read_bytes()

    def edit(k: int) -> Picture:
        if weights.read_bytes() == good:
            weights.write_bytes(good[:-1] + bytes([good[-1] ^ 1]))
        return Picture(picture(k))

    def mend(k: int) -> np.ndarray:
        if weights.read_bytes() != good:
            weights.write_bytes(good)
        return picture(k)

    return _played(Drama(edit, sees="invalid", after=mend), opened.model, first=opened.first, watch=opened.watch)


def _inference(act: Callable[[], Any], *, sees: Any) -> Drama:
    def infer(frames: np.ndarray) -> np.ndarray:
        if drama.act == 1:
            act()
        return threshold(frames)

    drama = Drama(sees=sees)
    return _played(drama, model(lambda: infer))


_hz = [30.0]


def _played(drama: Drama, *made: Any, **fields: Any) -> Drama:
    drama.hz = _hz[0]
    drama.play(*made, options=StreamOptions(), **fields)
    return drama


def main(argv: Sequence[str] | None = None) -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--hz", type=float, default=30.0)
    _hz[0] = parser.parse_args(argv).hz
    with tempfile.TemporaryDirectory() as temporary:
        ship = make_ship(Path(temporary) / "ship").folder
        plain = (pulled_out, silent, damaged, black, frozen, another_size, too_slow, hanging, raising)
        faults: dict[str, Callable[[], Drama]] = {play.__name__: play for play in plain}
        faults |= {"killed": lambda: killed(ship), "edited": lambda: edited(ship)}
        print("| fault | says | told after ms | back after frames |\n|---|---|---|---|")
        for name, play in faults.items():
            dramas = [play() for _ in range(TIMES)]
            delay_ms = statistics.median(drama.told_s for drama in dramas) * 1e3
            back = sorted(drama.back_after for drama in dramas)
            print(
                f"| {name} | {dramas[0].why} | {delay_ms:.0f} | {back[len(back) // 2]} (most {back[-1]}) |", flush=True
            )


if __name__ == "__main__":
    main()
