"""`edgemt pacs`: masks for DICOM images that a PACS or a modality sends."""

from __future__ import annotations

import signal
import threading
from dataclasses import dataclass, field
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any, Literal

from tyro.conf import Positional, arg

from deploy.pacs.backoff import RetryOptions
from edgemt.commands.console import log

if TYPE_CHECKING:
    from deploy.event_log.log_file import EventLogFile
    from deploy.pacs.destinations import Destination
    from deploy.pacs.predictor import ServiceModel
    from deploy.pacs.reports import Reports
    from deploy.pacs.spool import Spool


@dataclass(frozen=True)
class Pacs:
    """Receive DICOM images by C-STORE, and send a DICOM segmentation of each series to a PACS.

    For example, with Orthanc on this machine (its AE title ORTHANC, its DICOM port 4242):

        edgemt pacs zoo/heart --to ORTHANC@127.0.0.1:4242
        storescu -aec EDGEMT +sd 127.0.0.1 11112 FOLDER

    A series is predicted when no image of it came for --quiet-s seconds; if more come later, the whole series is
    predicted again and a second segmentation is sent. What was answered with success is in the spool folder, with the
    state of each series, and survives the end of the program: start it again with the same command. While the PACS is
    away, segmentations wait in the spool. Listens on this machine alone unless --host is given; lines and the event
    log name series by a short code, never by what identifies a patient.
    """

    ship: Positional[Path | None] = None
    """A ship of a model of single frames, or zoo/NAME; leave it out with --list."""
    to: tuple[str, ...] = ()
    """PACS that get the segmentations by C-STORE: AET@HOST:PORT, one or several."""
    to_web: tuple[str, ...] = ()
    """DICOMweb servers that get them by STOW-RS: http://HOST:PORT/PATH, the part in front of /studies."""
    web_token: Path | None = None
    """A file with a token, sent to the DICOMweb servers as Authorization: Bearer."""
    web_ca: Path | None = None
    """The CA of https:// DICOMweb servers, PEM, where the system does not trust it."""
    port: int = 11112
    """0: a free one."""
    host: str = "127.0.0.1"
    """The address to listen on; 0.0.0.0 for all networks. DICOM has no password, and no encryption without --tls-cert:
    use a network of its own, and --allow."""
    tls_cert: Path | None = None
    """The certificate of this node, PEM: it then listens in TLS alone, and calls --to in TLS; 1.2 or later."""
    tls_key: Path | None = None
    """Its private key, PEM, without a passphrase."""
    tls_ca: Path | None = None
    """The CA of the other nodes, PEM: who shows no certificate that it signed is refused, in both directions."""
    tls_check_host: bool = False
    """The certificate of each --to must also name its HOST, where any certificate of the CA would do."""
    aet: str = "EDGEMT"
    """AE title of this service; associations that call another one are rejected."""
    allow: tuple[str, ...] = ()
    """AE titles of the senders; without it every one may send."""
    modality: tuple[str, ...] = ()
    """Modalities that are taken, such as MR; without it all that are pictures."""
    spool: Path = Path("spool")
    """The folder of received images and segmentations; they hold what identifies patients. One for each service."""
    quiet_s: float = 10.0
    """A series is complete when no image of it came for so many seconds."""
    keep_hours: float = 24.0
    """A series is removed from the spool so long after all of it was sent; what could not be sent stays."""
    min_free_mib: int = 500
    """With less room on the disk, images are refused; their senders keep them."""
    retry: RetryOptions = field(default_factory=RetryOptions)
    kind: Literal["BINARY", "LABELMAP"] = "BINARY"
    """BINARY: read by every viewer. LABELMAP: all classes in one image, loads faster."""
    runtime: str = "auto"
    file: str | None = None
    """int8, fp16, fp32, or a file on the card."""
    threads: int | None = None
    log: Path | None = None
    """Append what happened to this event log: states, counts and reasons (edgemt log verify FILE)."""
    retry_failed: bool = False
    """Predict the series again that failed before."""
    list_: Annotated[bool, arg(name="list")] = False
    """Print the series in the spool with their states, and end."""


def serve_pacs(command: Pacs) -> None:
    """Serve until Ctrl-C or SIGTERM; with --list, print the spool."""
    if command.list_:
        return _print_spool(command.spool)
    destinations = _destinations(command)
    from deploy.pacs.reports import Reports, silence_libraries
    from deploy.pacs.spool import open_spool

    silence_libraries()
    file = _open_log(command.log)
    try:
        with open_spool(command.spool) as spool:
            if command.retry_failed:
                _retry_failed(spool)
            _serve(command, spool, destinations, Reports(log, file))
    finally:
        if file is not None:
            file.close()


def _serve(command: Pacs, spool: Spool, destinations: list[Destination], reports: Reports) -> None:
    from deploy.pacs.predictor import load_service_model
    from deploy.pacs.receiver import ReceiverOptions
    from deploy.pacs.service import PacsService, ServiceOptions
    from deploy.pacs.tls import read_tls
    from deploy.service.notify import Watchdog

    receiver = ReceiverOptions(
        command.host, command.port, command.aet.strip(), command.allow, command.modality, command.min_free_mib,
        tls=read_tls(command.tls_cert, command.tls_key, command.tls_ca, check_host=command.tls_check_host),
    )  # fmt: skip
    options = ServiceOptions(receiver, command.retry, command.quiet_s, command.keep_hours, command.kind)
    assert command.ship is not None
    choice: Any = {"runtime": command.runtime, "file": command.file, "threads": command.threads}
    model = load_service_model(command.ship, kind=command.kind, **choice)
    stop = threading.Event()
    previous = {name: signal.signal(name, lambda *_: stop.set()) for name in (signal.SIGTERM, signal.SIGINT)}
    try:
        service = PacsService(spool, model, destinations, options, reports=reports)
        reports.event("start", **_start_fields(model, destinations, spool))
        _announce(command, service.receiver.port, model.id, spool, reports)
        watchdog = Watchdog(service.answering)
        stop.wait()
        watchdog.close()
        log("ending: the series at work is finished first")
        service.close()
        reports.event("end", ended_by="operator", **_counts(spool))
    finally:
        for name, handler in previous.items():
            signal.signal(name, handler)
    log(f"ended; in the spool: {_in_words(_counts(spool))}")
    if reports.head:
        log(f"event log: head {reports.head}")


def _announce(command: Pacs, port: int, model: str, spool: Spool, reports: Reports) -> None:
    print(f"{command.aet}@{command.host}:{port}", flush=True)
    log(f"{model}; Ctrl-C ends it")
    if command.tls_cert is not None and command.tls_ca is None:
        log("warning: TLS without --tls-ca encrypts, and does not check who the other side is")
    if command.host not in ("127.0.0.1", "localhost", "::1") and not command.allow:
        log("warning: everyone who reaches this port may send images; name the senders with --allow")
    counts = _counts(spool)
    if any(counts.values()):
        reports.line(f"in the spool: {_in_words(counts)}")


def _counts(spool: Spool) -> dict[str, int]:
    return {phase: len(spool.names(phase)) for phase in ("received", "predicted", "sent", "failed")}


def _in_words(counts: dict[str, int]) -> str:
    texts = {"received": "to predict", "predicted": "to send", "sent": "sent", "failed": "failed"}
    return ", ".join(f"{number} {texts[phase]}" for phase, number in counts.items() if number) or "nothing"


def _start_fields(model: ServiceModel, destinations: list[Destination], spool: Spool) -> dict[str, Any]:
    """What runs; of the destinations the number alone."""
    import platform

    from deploy.event_log.device import device_id
    from deploy.hardware.machine import version
    from deploy.package.package import card_hash
    from deploy.runtimes.registry import DISTRIBUTIONS
    from edgemt import __version__

    names = (*DISTRIBUTIONS, "pydicom", "pynetdicom", "highdicom")
    return {
        "device": device_id(),
        "model": model.id,
        "card": card_hash(model.package.card),
        "signed": model.package.signed,
        "service": "pacs",
        "destinations": len(destinations),
        "spool": _counts(spool),
        "versions": {
            "edgemt": __version__,
            "python": platform.python_version(),
            **{name: number for name in names if (number := version(name))},
        },
    }


def _destinations(command: Pacs) -> list[Destination]:
    """Raises ValueError for arguments that do not fit, before anything is opened."""
    try:
        from deploy.pacs.destinations import check_title, parse_destination, parse_web_destination
        from deploy.pacs.tls import read_tls

        check_title(command.aet, what="aet")
        for title in command.allow:
            check_title(title, what="allow")
        if command.ship is None:
            raise ValueError("ship: name the ship that predicts, as in edgemt pacs zoo/heart --to AET@HOST:PORT")
        if not command.to and not command.to_web:
            raise ValueError("to: name where segmentations are sent, --to AET@HOST:PORT or --to-web http://HOST/PATH")
        if not 0 <= command.port <= 65535:
            raise ValueError(f"port: must lie in 0 to 65535, is {command.port}")
        tls = read_tls(command.tls_cert, command.tls_key, command.tls_ca, check_host=command.tls_check_host)
        calling = command.aet.strip()
        named: list[Destination] = [parse_destination(text, calling=calling, tls=tls) for text in command.to]
        named += [parse_web_destination(url, token=command.web_token, ca=command.web_ca) for url in command.to_web]
        import highdicom  # noqa: F401
        import pynetdicom  # noqa: F401

        if command.to_web:
            import dicomweb_client  # noqa: F401
    except ModuleNotFoundError as error:
        raise ValueError(f"edgemt pacs needs {error.name}; pip install 'edgemt[pacs]'") from None
    if len({destination.name for destination in named}) < len(named):
        raise ValueError("to: names a destination twice; leave one out")
    return named


def _open_log(path: Path | None) -> EventLogFile | None:
    if path is None:
        return None
    from deploy.event_log.log_file import EventLogFile

    return EventLogFile(path)


def _retry_failed(spool: Spool) -> None:
    from dataclasses import replace

    for name in spool.names("failed"):
        spool.update(name, lambda state: replace(state, failed="", attempts=0, covered=()))


def _print_spool(folder: Path) -> None:
    """A line for each series: its short name, state, numbers, and why it waits."""
    from deploy.pacs.spool import list_spool

    rows = list_spool(folder)
    print(f"{'series':12} {'state':9} {'images':>6} {'segs':>4} {'sent':>4} {'hours':>6}  note")
    for row in rows:
        sent = sum(set(row.state.destinations) <= set(seg.sent) for seg in row.state.segs)
        note = row.state.failed or (f"{row.state.unreadable} images not decoded" if row.state.unreadable else "")
        numbers = f"{row.images:6} {len(row.state.segs):4} {sent:4} {row.age_h:6.1f}"
        print(f"{row.name:12} {row.phase:9} {numbers}  {note}".rstrip())
