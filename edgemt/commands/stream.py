"""`edgemt stream`: live masks, or with --evidence a measurement of their latency."""

from __future__ import annotations

import signal
import sys
from dataclasses import dataclass, field
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any, Literal

from tyro.conf import Positional, UseAppendAction

from deploy.adaptation.limits import AdaptLimits, FitOptions
from deploy.stream.limits import StreamLimits
from edgemt.commands.console import log, write_json
from edgemt.commands.stream_summary import stream_summary
from edgemt.io.opencv import require_opencv

if TYPE_CHECKING:
    from deploy.site_statistics.collect import SessionStatisticsWriter
    from deploy.stream.correction.session import CorrectionSession
    from deploy.stream.inference.load_model import LoadedStreamModel
    from deploy.stream.session import Session
    from deploy.stream.session_events import SessionEvents
    from deploy.stream.sources.base import Source


_SWITCH_INTERVAL_S = 0.0005  # of Python's threads, default 0.005; it bounds the delay of the display thread


@dataclass(frozen=True)
class Stream:
    """Show live masks with their age, from a camera, a video, RTSP, images, a DICOM cine or a synthetic video.

    No file is written without an option for it.
    """

    ship: Positional[Path]
    """A ship folder, or zoo/NAME: a trained student that is part of the installation (edgemt list zoo)."""
    source: str = "synthetic"
    """synthetic, camera:0, camera:0:1920x1080, rtsp://..., igtl://HOST/DEVICE, or a video, a .dcm file, a folder of
    images."""
    hz: float | None = None
    """Frame rate of a source that is not live; 0 plays it as fast as it can be read."""
    frames: int | None = None
    """Stop after this many frames."""
    output: Annotated[tuple[tuple[str, ...], ...], UseAppendAction] = ()
    """Outputs for the masks: page (a browser on this machine), igtl (3D Slicer), video:FILE.mp4, lines (JSON)."""
    runtime: str = "auto"
    file: str | None = None
    """int8, fp16, fp32, or a file on the card."""
    cpu_fallback: bool = True
    """--no-cpu-fallback: status 2 where ONNX Runtime leaves nodes to the processor, else a warning."""
    threads: int | None = None
    isolation: Literal["thread", "process"] = "thread"
    """process: run inference in a separate process, so that a crash of a driver does not stop the video."""
    vote: int = 1
    """Show the majority of the last 3 (or 5) masks, against flicker: a change is shown 1 (or 2) masks later, which the
    page and the record state. 1: every mask as it is."""
    uncertain_above: float = 0.2
    """Pixels whose class is wrong with this probability or more are hatched, if the file has an output `uncertainty`
    (edgemt run --uncertainty softmax); 1: none are."""
    limits: StreamLimits = field(default_factory=StreamLimits)
    collect: Path | None = None
    """Folder in which corrections made in the page can be saved as labelled cases, images/ and masks/. Meanwhile the
    page shows Recording. Without it, nothing is saved."""
    adapt: bool = False
    """Fit the last layer to this session: in the page, correct a frozen picture and press Learn, three times or more.
    The new head must gain on corrections that its fit has not seen and lose little on the ship's golden frames. It runs
    unseen at first; on a frame that fails a test the shipped mask is back, and the key R returns to the shipped head.
    Nothing of it is stored. The ship needs edgemt export SHIP --with-features, and --with-prompt RUN/promptable."""
    adaptation: AdaptLimits = field(default_factory=AdaptLimits)
    adaptation_fit: FitOptions = field(default_factory=FitOptions)
    evidence: Path | None = None
    """Measure both delays at 30 and 60 Hz (or at --hz), with and without masks; write report and raw times to this
    folder."""
    log: Path | None = None
    """Append the events of this stream to FILE, each chained to the one before by its hash: start with model and
    versions, states, faults, a summary each minute, end. No pixels and no identifiers. edgemt log verify checks it."""
    statistics: Path | None = None
    """Write histograms of this stream (brightness, colour, likeness, areas, age of the masks) to a file in this folder,
    for edgemt site report. No pixels and no identifiers."""
    json: Path | None = None

    @property
    def outputs(self) -> tuple[str, ...]:
        """All outputs, whether they were given after one --output or after several."""
        return tuple(name for names in self.output for name in names)


def stream(command: Stream) -> None:
    """Show masks until the source ends or the user stops; with --evidence, run the latency experiment instead."""
    _check_arguments(command)
    events = _open_event_log(command)
    try:
        _stream(command, events)
    finally:
        if events is not None:
            events.release()


def _stream(command: Stream, events: SessionEvents | None) -> None:
    from deploy.stream.inference.inference_thread import close_runner
    from deploy.stream.inference.load_model import budget_warning, load_stream_model
    from deploy.stream.session import raise_if_nothing_shown
    from deploy.stream.sources import open_source
    from edgemt.io.bit_depth import of_card
    from edgemt.io.contours import class_colours

    opened = load_stream_model(
        command.ship,
        runtime=command.runtime,
        file=command.file,
        threads=command.threads,
        isolation=command.isolation,
        hang_ms=command.limits.hang_ms,
        colours=class_colours,
        uncertain_above=command.uncertain_above,
        adapt=(command.adaptation, command.adaptation_fit) if command.adapt else None,
        cpu_fallback=command.cpu_fallback,
    )
    sys.setswitchinterval(_SWITCH_INTERVAL_S)
    warning = budget_warning(opened, command.limits.budget_ms)
    if warning is not None:
        log(f"warning: {warning}")
    try:
        if command.evidence is not None:
            return _run_experiment(command, opened, command.evidence)
        depth = of_card(opened.package.card.data, source=opened.package.folder / "card.json")
        source = open_source(command.source, hz=command.hz, depth=depth)
        record = _run_with_outputs(_make_session(command, opened, source, events), command, opened, source, events)
    finally:
        close_runner(opened.runner)
    log(stream_summary(record))
    if opened.model.patient is not None:
        record["adaptation"] = opened.model.patient.record()
    if events is not None:
        record["event_log"] = events.record()
        log("event log: {events} events, head {head}".format(**record["event_log"]))
    write_json(command.json, record)
    raise_if_nothing_shown(record)
    if record["frames"] == 0:
        raise ValueError(f"source {command.source}: it gave no frame; check it with another program")


def _open_event_log(command: Stream) -> SessionEvents | None:
    """Open the event log before anything else, so that a file that cannot be written stops the start."""
    if command.log is None:
        return None
    from deploy.event_log.log_file import EventLogFile
    from deploy.stream.session_events import SessionEvents

    return SessionEvents(EventLogFile(command.log), log=log)


def _open_statistics(command: Stream, opened: LoadedStreamModel) -> SessionStatisticsWriter | None:
    """The statistics of this stream; raises ValueError for a folder that cannot be made."""
    if command.statistics is None:
        return None
    from deploy.event_log.device import device_id
    from deploy.package.package import card_hash
    from deploy.site_statistics.collect import SessionStatisticsWriter

    card = opened.package.card
    return SessionStatisticsWriter(
        command.statistics,
        classes=card.classes,
        overlapping=card.overlapping,
        device=device_id(),
        model=opened.model.id,
        card=card_hash(card),
        log=log,
    )


def _start_fields(command: Stream, opened: LoadedStreamModel, source: Source) -> dict[str, Any]:
    """The start event: what runs, from which package, under which limits. Of the source the kind alone."""
    import platform
    from dataclasses import asdict

    from deploy.event_log.device import device_id
    from deploy.hardware.machine import version
    from deploy.package.package import card_hash
    from deploy.runtimes.registry import DISTRIBUTIONS
    from edgemt import __version__

    return {
        "device": device_id(),
        "model": opened.model.id,
        "card": card_hash(opened.package.card),
        "signed": opened.package.signed,
        "versions": {
            "edgemt": __version__,
            "python": platform.python_version(),
            **{name: number for name in DISTRIBUTIONS if (number := version(name))},
        },
        "source": type(source).__name__,
        "outputs": [name.partition(":")[0] for name in command.outputs],
        "limits": asdict(command.limits),
        "vote": command.vote,
        "adapt": command.adapt,
        "mask_ms": round(opened.mask_ms, 2),
    }


def _make_session(command: Stream, opened: LoadedStreamModel, source: Source, events: SessionEvents | None) -> Session:
    from dataclasses import asdict

    from deploy.stream.session import Session, StreamOptions

    options = StreamOptions(**asdict(command.limits), frames=command.frames, vote=command.vote)
    session = Session(source, opened.model, runner=opened.runner, options=options, watcher=opened.watcher)
    if events is not None:
        session.add_observer(events.observe)
    return session


def _run_with_outputs(
    session: Session, command: Stream, opened: LoadedStreamModel, source: Source, events: SessionEvents | None
) -> dict[str, Any]:
    """Run a session with its outputs and status lines on stderr until its end or Ctrl-C. Returns its record."""
    from deploy.adaptation.record import change_observer
    from deploy.runtimes.onnxruntime_placement import placement_record
    from deploy.stream.correction.session import CorrectableOutputContext
    from deploy.stream.outputs import open_output
    from deploy.stream.outputs.base import OutputThread
    from deploy.stream.status_line import StatusLine
    from deploy.stream.watchdog import stream_watchdog

    corrections = _open_corrections(command, opened)
    context = CorrectableOutputContext(
        session.display_state, opened.package.card, opened.model.colours, source, corrections
    )
    patient, output_threads = opened.model.patient, list[OutputThread]()
    if patient is not None:
        patient.observe = change_observer(log, None if events is None else events.event)
    statistics = _open_statistics(command, opened)
    status_line = StatusLine(session, log=log)
    # a service is stopped by SIGTERM: end like with Ctrl-C, so that a recording is closed properly
    previous_handler = signal.signal(signal.SIGTERM, signal.default_int_handler)
    ended_by = "error"
    try:
        if events is not None:
            saved = (lambda: corrections.saved_cases) if corrections is not None else (lambda: 0)
            events.start(session, _start_fields(command, opened, source), saved_cases=saved)
            events.event("placement", placement_record(opened.runner))
        if statistics is not None:
            statistics.start()
            session.add_observer(statistics.observe)
        for name in command.outputs:
            output_threads.append(OutputThread(open_output(name, context), session.display_state, name=name))
        log(f"{opened.model.id}; one mask takes {opened.mask_ms:.1f} ms; Ctrl-C ends it")
        with stream_watchdog(session):
            record = session.run()
        ended_by = "source"
        return record
    except KeyboardInterrupt:
        ended_by = "operator"
        return session.record()
    finally:
        status_line.close()
        for output_thread in output_threads:
            output_thread.close()
        if patient is not None:
            patient.close()
        if corrections is not None:
            corrections.close()
        if statistics is not None:
            statistics.close()
        if events is not None:
            events.close(ended_by=ended_by)
        signal.signal(signal.SIGTERM, previous_handler or signal.SIG_DFL)


def _check_arguments(command: Stream) -> None:
    """Raises ValueError for arguments that would otherwise fail late or without a message."""
    if () in command.output:
        raise ValueError("output: name one or several, as in --output page lines")
    if command.json is not None and command.json.is_dir():
        raise ValueError(f"json {command.json}: is a folder; name a file")
    if command.evidence is not None:
        folder = command.evidence.absolute()
        if not next(path for path in (folder, *folder.parents) if path.exists()).is_dir():
            raise ValueError(f"evidence {command.evidence}: a file is in its way; name another folder")
    if command.log is not None and command.evidence is not None:
        raise ValueError(f"log {command.log}: a latency experiment has no event log; leave --log or --evidence out")
    if command.statistics is not None and command.evidence is not None:
        raise ValueError(
            f"statistics {command.statistics}: a latency experiment has none; leave --statistics or --evidence out"
        )
    if command.adapt and (command.evidence is not None or not _has_page(command)):
        raise ValueError("adapt: masks are corrected in the page; add --output page, no --evidence")
    if command.adapt:
        require_opencv("adapt")  # now, not at the first correction
    if command.collect is not None and (command.evidence is not None or not _has_page(command)):
        raise ValueError(
            f"collect {command.collect}: masks are corrected in the page; add --output page, no --evidence"
        )


def _has_page(command: Stream) -> bool:
    return any(name.partition(":")[0] == "page" for name in command.outputs)


def _open_corrections(command: Stream, opened: LoadedStreamModel) -> CorrectionSession | None:
    """The correction session; None without a page, or without a promptable model."""
    if not _has_page(command):
        return None
    from deploy.stream.correction.session import open_correction_session

    runtime = getattr(opened.runner, "runtime", "auto")
    return open_correction_session(
        opened.package, model=opened.model.id, runtime=runtime, collect=command.collect, patient=opened.model.patient
    )


def _run_experiment(command: Stream, opened: LoadedStreamModel, folder: Path) -> None:
    from dataclasses import asdict

    from deploy.stream.latency_experiment import measure_latency, without_raw, write_evidence
    from deploy.stream.session import StreamOptions

    rates = (30.0, 60.0) if command.hz is None else (command.hz,)
    options = StreamOptions(**asdict(command.limits), frames=command.frames or 1500, vote=command.vote)
    try:
        evidence = measure_latency(opened, command.source, rates=rates, options=options, log=log)
    except KeyboardInterrupt:
        log("interrupted; no evidence was written")
        raise SystemExit(130) from None
    print(write_evidence(evidence, folder))
    write_json(command.json, without_raw(evidence))
