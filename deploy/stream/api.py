"""A stream in Python: `for frame, mask in edgemt.stream(ship, source)`."""

from __future__ import annotations

import threading
from collections.abc import Iterable, Iterator
from pathlib import Path
from typing import Any

from deploy.stream.inference.inference_thread import InferFn, close_runner
from deploy.stream.inference.load_model import Isolation, load_stream_model
from deploy.stream.session import Session, StreamOptions, raise_if_nothing_shown
from deploy.stream.sources import open_source
from deploy.stream.sources.base import Source
from deploy.stream.sources.iterable import IterableSource
from deploy.stream.state.frames import Frame, MaskStatus
from edgemt.io.bit_depth import Depth, of_card


def stream(
    ship: str | Path,
    source: str | Path | Source | Iterable[Any],
    *,
    runtime: str = "auto",
    file: str | None = None,
    threads: int | None = None,
    isolation: Isolation = "thread",
    cpu_fallback: bool = True,
    hz: float | None = None,
    options: StreamOptions | None = None,
) -> Iterator[tuple[Frame, MaskStatus]]:
    """Iterate over pairs of a frame and its mask. Frames are skipped if inference or the caller is slower.

    If `mask.state == "fresh"`, `mask.mask` is uint8 [h, w] of class indices at the model's size, computed from exactly
    this frame. Otherwise `mask.mask` is None, `mask.reason` gives the reason, and the frame is the newest one.
    `source` is a value of --source, a `Source`, or an iterable of uint8 [H, W, 3] arrays. `hz` is the rate of files and
    iterables. The stream stops when the caller leaves the loop.
    Raises ValueError in one line for a package or a source that cannot be used.
    """
    options = options or StreamOptions()
    opened = load_stream_model(
        ship,
        runtime=runtime,
        file=file,
        threads=threads,
        isolation=isolation,
        hang_ms=options.hang_ms,
        cpu_fallback=cpu_fallback,
    )
    depth = of_card(opened.package.card.data, source=opened.package.folder / "card.json")
    session = Session(
        _to_source(source, hz, depth), opened.model, runner=opened.runner, options=options, watcher=opened.watcher
    )
    return _frame_mask_pairs(session, opened.runner)


def _frame_mask_pairs(session: Session, runner: InferFn | None = None) -> Iterator[tuple[Frame, MaskStatus]]:
    """Run the session in a thread of its own and yield its new snapshots; closes `runner` at the end."""
    errors: list[BaseException] = []

    def run() -> None:
        try:
            raise_if_nothing_shown(session.run())
        except BaseException as error:
            errors.append(error)

    thread = threading.Thread(target=run, name="edgemt-stream", daemon=True)
    thread.start()
    version = -1
    last: tuple[int, str, str] = (-2, "", "")
    try:
        while True:
            ended = session.finished.is_set() or not thread.is_alive()
            version = session.display_state.wait(version, 0.0 if ended else 0.05)
            snapshot = session.display_state.snapshot()
            frame = snapshot.result.frame if snapshot.result is not None else snapshot.frame
            key = (frame.id if frame else -1, snapshot.status.state, snapshot.status.reason)
            if frame is not None and key != last:
                last = key
                yield frame, snapshot.status
            elif ended:
                break
    finally:
        session.stop()
        thread.join(5.0)
        close_runner(runner)
    if errors:
        raise errors[0]


def _to_source(source: Any, hz: float | None, depth: Depth) -> Source:
    if isinstance(source, (str, Path)):
        return open_source(str(source), hz=hz, depth=depth)
    if all(hasattr(source, name) for name in ("open", "read", "close", "live")):
        return source  # type: ignore[no-any-return]
    try:
        return IterableSource(source, hz=hz)
    except TypeError:
        raise ValueError(f"source: a name, a Source or an iterable of frames, not {type(source).__name__}") from None
