"""A stream in Python: `for frame, mask in edgemt.stream(ship, source)`."""

from __future__ import annotations

import threading
from collections.abc import Iterable, Iterator
from pathlib import Path
from typing import Any

from deploy.stream.inference.inference_thread import Infer, close
from deploy.stream.inference.load_model import Isolation, open_model
from deploy.stream.session import Session, StreamOptions, refuse_nothing_shown
from deploy.stream.sources import Source, open_source
from deploy.stream.sources.iterable import IterableSource
from deploy.stream.state.frames import Frame, MaskRecord
from edgemt.io.bit_depth import Depth, of_card


def stream(
    ship: str | Path,
    source: str | Path | Source | Iterable[Any],
    *,
    runtime: str = "auto",
    file: str | None = None,
    threads: int | None = None,
    isolation: Isolation = "thread",
    hz: float | None = None,
    options: StreamOptions | None = None,
) -> Iterator[tuple[Frame, MaskRecord]]:
    """Pairs of a frame and its mask, the newest each time: frames are left out when masks or the caller are slower.

    With `mask.state == "fresh"`, `mask.mask` is uint8 [h, w] of classes at the model's size and was made from this
    very frame; else it is None, `mask.reason` says why, and the frame is the newest. `source` is what --source takes,
    or an iterable of uint8 [H, W, 3] arrays. `hz` sets the pace of files and iterables. Leave the loop to stop.
    Raises ValueError in one line for a ship or a source that cannot be used.
    """
    options = options or StreamOptions()
    opened = open_model(ship, runtime=runtime, file=file, threads=threads, isolation=isolation, hang_ms=options.hang_ms)
    depth = of_card(opened.ship.card.data, source=opened.ship.folder / "card.json")
    session = Session(_source(source, hz, depth), opened.model, first=opened.first, options=options, watch=opened.watch)
    return pairs(session, opened.first)


def pairs(session: Session, first: Infer | None = None) -> Iterator[tuple[Frame, MaskRecord]]:
    """Run the session beside the caller, who looks at its board; closes `first` afterwards."""
    failed: list[BaseException] = []

    def run() -> None:
        try:
            refuse_nothing_shown(session.run())
        except BaseException as error:
            failed.append(error)

    thread = threading.Thread(target=run, name="edgemt-stream", daemon=True)
    thread.start()
    seen = -1
    last: tuple[int, str, str] = (-2, "", "")
    try:
        while True:
            over = session.finished.is_set() or not thread.is_alive()
            seen = session.board.wait(seen, 0.0 if over else 0.05)
            shown = session.board.look()
            frame = shown.result.frame if shown.result is not None else shown.frame
            key = (frame.id if frame else -1, shown.record.state, shown.record.reason)
            if frame is not None and key != last:
                last = key
                yield frame, shown.record
            elif over:
                break
    finally:
        session.stop()
        thread.join(5.0)
        close(first)
    if failed:
        raise failed[0]


def _source(source: Any, hz: float | None, depth: Depth) -> Source:
    if isinstance(source, (str, Path)):
        return open_source(str(source), hz=hz, depth=depth)
    if all(hasattr(source, name) for name in ("open", "read", "close", "live")):
        return source  # type: ignore[no-any-return]
    try:
        return IterableSource(source, hz=hz)
    except TypeError:
        raise ValueError(f"source: a name, a Source or an iterable of frames, not {type(source).__name__}") from None
