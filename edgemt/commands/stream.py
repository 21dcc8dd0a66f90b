"""The command that shows live masks, and the one flag that measures them instead."""

from __future__ import annotations

import signal
import sys
from dataclasses import dataclass, field
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any, Literal

from tyro.conf import Positional, UseAppendAction

from deploy.stream.limits import TimeLimits
from edgemt.commands.console import log, write_json

if TYPE_CHECKING:
    from deploy.stream.correction.session import Correcting
    from deploy.stream.inference.load_model import Opened
    from deploy.stream.session import Session
    from deploy.stream.sources import Source


_TURN_S = 0.0005  # the thread that shows gets its turn among Python's threads within half a millisecond, not five


@dataclass(frozen=True)
class Stream:
    """Live masks that say how old they are, from a camera, a video, RTSP, images, a DICOM cine or a synthetic video.
    Nothing is written unless asked for."""

    ship: Positional[Path]
    """A ship folder, or zoo/NAME: a trained student that travels with the package (edgemt list zoo)."""
    source: str = "synthetic"
    """synthetic, camera:0, camera:0:1920x1080, rtsp://..., igtl://HOST/DEVICE, or a video, a .dcm file, a folder of
    images."""
    hz: float | None = None
    """Pace of a source that is not live; 0 plays it as fast as it can be read."""
    frames: int | None = None
    """Stop after so many."""
    output: Annotated[tuple[tuple[str, ...], ...], UseAppendAction] = ()
    """Who else gets the masks: page (a browser on this machine), igtl (3D Slicer), video:FILE.mp4, lines (JSON)."""
    runtime: str = "auto"
    file: str | None = None
    """int8, fp16, fp32, or a file on the card."""
    threads: int | None = None
    isolation: Literal["thread", "process"] = "thread"
    """process: inference apart from the video, so that a driver that crashes takes no picture with it."""
    limits: TimeLimits = field(default_factory=TimeLimits)
    collect: Path | None = None
    """Corrections made in the page can be saved in this folder as labelled cases, images/ and masks/; the page says
    Recording all the while. Nothing is saved if not given."""
    evidence: Path | None = None
    """Measure both delays at 30 and 60 Hz (or at --hz), with and without masks; write report and raw times there."""
    json: Path | None = None

    @property
    def outputs(self) -> tuple[str, ...]:
        """Whether they stood after one flag or each after its own."""
        return tuple(name for names in self.output for name in names)


def stream(command: Stream) -> None:
    from deploy.stream.inference.inference_thread import close
    from deploy.stream.inference.load_model import budget_warning, open_model
    from deploy.stream.session import refuse_nothing_shown
    from deploy.stream.sources import open_source
    from edgemt.io.bit_depth import of_card
    from edgemt.io.contours import class_colours

    _refuse(command)
    opened = open_model(
        command.ship,
        runtime=command.runtime,
        file=command.file,
        threads=command.threads,
        isolation=command.isolation,
        hang_ms=command.limits.hang_ms,
        colours=class_colours,
    )
    sys.setswitchinterval(_TURN_S)
    warning = budget_warning(opened, command.limits.budget_ms)
    if warning is not None:
        log(f"warning: {warning}")
    try:
        if command.evidence is not None:
            return _measure(command, opened, command.evidence)
        depth = of_card(opened.ship.card.data, source=opened.ship.folder / "card.json")
        source = open_source(command.source, hz=command.hz, depth=depth)
        record = _watched(_session(command, opened, source), command, opened, source)
    finally:
        close(opened.first)
    log(_summary(record))
    write_json(command.json, record)
    refuse_nothing_shown(record)
    if record["frames"] == 0:
        raise ValueError(f"source {command.source}: not one frame came; look at it with another program")


def _session(command: Stream, opened: Opened, source: Source) -> Session:
    from dataclasses import asdict

    from deploy.stream.session import Session, StreamOptions

    options = StreamOptions(**asdict(command.limits), frames=command.frames)
    return Session(source, opened.model, first=opened.first, options=options, watch=opened.watch)


def _watched(session: Session, command: Stream, opened: Opened, source: Source) -> dict[str, Any]:
    """Run it with its outputs, a line a second on stderr, and Ctrl-C as the usual end."""
    from deploy.stream.correction.session import CorrectableStage
    from deploy.stream.outputs import Outlet, open_output
    from deploy.stream.status_line import Ticker

    correcting = _correcting(command, opened)
    stage = CorrectableStage(session.board, opened.ship.card, opened.model.colours, source, correcting)
    outlets: list[Outlet] = []
    ticker = Ticker(session, say=log)
    before = signal.signal(signal.SIGTERM, signal.default_int_handler)  # stopped as a service, its recording ends well
    try:
        for name in command.outputs:
            outlets.append(Outlet(open_output(name, stage), session.board, name=name))
        log(f"{opened.model.id}; one mask takes {opened.mask_ms:.1f} ms; Ctrl-C ends it")
        return session.run()
    except KeyboardInterrupt:
        return session.record()
    finally:
        ticker.close()
        for outlet in outlets:
            outlet.close()
        if correcting is not None:
            correcting.close()
        signal.signal(signal.SIGTERM, before or signal.SIG_DFL)


def _refuse(command: Stream) -> None:
    """What would come to light when the work is done, or never."""
    if () in command.output:
        raise ValueError("output: name one or several, as in --output page lines")
    if command.json is not None and command.json.is_dir():
        raise ValueError(f"json {command.json}: is a folder; name a file")
    if command.evidence is not None:
        folder = command.evidence.absolute()
        if not next(path for path in (folder, *folder.parents) if path.exists()).is_dir():
            raise ValueError(f"evidence {command.evidence}: a file is in its way; name another folder")
    if command.collect is not None and (command.evidence is not None or not _has_page(command)):
        raise ValueError(
            f"collect {command.collect}: masks are corrected in the page; add --output page, no --evidence"
        )


def _has_page(command: Stream) -> bool:
    return any(name.partition(":")[0] == "page" for name in command.outputs)


def _correcting(command: Stream, opened: Opened) -> Correcting | None:
    """Where there is a page to click on, and a model that takes clicks."""
    if not _has_page(command):
        return None
    from deploy.stream.correction.session import open_correcting

    runtime = getattr(opened.first, "runtime", "auto")
    return open_correcting(opened.ship, model=opened.model.id, runtime=runtime, collect=command.collect)


def _measure(command: Stream, opened: Opened, folder: Path) -> None:
    from dataclasses import asdict

    from deploy.stream.latency_experiment import measure
    from deploy.stream.latency_experiment_files import without_raw, write_evidence
    from deploy.stream.session import StreamOptions

    rates = (30.0, 60.0) if command.hz is None else (command.hz,)
    options = StreamOptions(**asdict(command.limits), frames=command.frames or 1500)
    try:
        evidence = measure(opened, command.source, rates=rates, options=options, say=log)
    except KeyboardInterrupt:
        log("interrupted; no evidence was written")
        raise SystemExit(130) from None
    print(write_evidence(evidence, folder))
    write_json(command.json, without_raw(evidence))


def _summary(record: dict[str, Any]) -> str:
    annotation = record["annotation"]
    age = f", masks shown after {annotation['p50_ms']:.1f} ms (p99 {annotation['p99_ms']:.1f})" if annotation else ""
    return f"{record['frames']} frames, {record['masks']} masks, {record['restarts']} restarts{age}{_drift(record)}"


def _drift(record: dict[str, Any]) -> str:
    """Of a long stream: what changed from its first third to its last."""
    drift = record["drift"]
    if drift is None or drift["p50_ratio"] is None or drift["resident_bytes"] is None:
        return ""
    first = next(point["resident_bytes"] for point in record["timeline"] if point["resident_bytes"])
    return (
        f"; last third against first: memory {drift['resident_bytes'] / first:+.1%}, "
        f"masks' age x{drift['p50_ratio']:.2f} (p99 x{drift['p99_ratio']:.2f})"
    )
