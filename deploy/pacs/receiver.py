"""C-STORE and C-ECHO from modalities and a PACS. An image is answered with success when it is on the disk.

What is refused is refused in the answer, so the sender keeps it: an object that is no picture, pixels in a form that is
not read, another modality, a data set that is cut short, anything while the disk is full.
"""

from __future__ import annotations

import re
import threading
from collections import Counter
from collections.abc import Callable
from dataclasses import dataclass
from functools import partial
from io import BytesIO
from pathlib import Path
from typing import Any, cast

from deploy.dicom.header import check_inflated, check_readable, readable_syntaxes
from deploy.dicom.pixels import frame_bytes
from deploy.pacs.offers import refused_offers
from deploy.pacs.reports import Reports, shown_title
from deploy.pacs.spool import Spool
from deploy.pacs.tls import TlsContexts, accept
from edgemt.io.atomic import NoSpaceError
from edgemt.io.decode_errors import Refused
from edgemt.io.decode_limits import check_bytes

SUCCESS, NO_RESOURCES, OTHER_CLASS, NOT_UNDERSTOOD = 0x0000, 0xA700, 0xA900, 0xC000  # PS3.4 B.2.3
_TIMEOUT_S = 60.0  # without a message of a sender, until its association is ended
_FIRST_TIMEOUT_S = 10.0  # until a connection must have become an association
_STEP = 64 << 20  # bytes of one image between two checks of the free memory


@dataclass(frozen=True)
class ReceiverOptions:
    """Where the receiver listens, and what it takes."""

    host: str = "127.0.0.1"
    port: int = 11112
    title: str = "EDGEMT"
    allowed: tuple[str, ...] = ()  # calling AE titles; none: every one
    modalities: tuple[str, ...] = ()  # none: every one
    least_free_mib: int = 500
    associations: int = 8  # at a time
    tls: TlsContexts | None = None  # None: no encryption


class RefusedError(ValueError):
    """An object that is not taken; `status` and the text are the answer to its sender."""

    def __init__(self, status: int, text: str) -> None:
        super().__init__(text)
        self.status = status


class Receiver:
    """Listens until `close`. Raises ValueError, in one line, where it cannot.

    `arrived` is called with the name of a series after each image of it.
    """

    def __init__(
        self, spool: Spool, options: ReceiverOptions, *, reports: Reports, arrived: Callable[[str], None]
    ) -> None:
        from pynetdicom import AE, evt

        self._spool, self._options, self._reports, self._arrived = spool, options, reports, arrived
        self._counts: dict[Any, Counter[str]] = {}
        self._partly: dict[Any, tuple[str, ...]] = {}
        self._bytes: dict[Any, int] = {}  # that came since the last image was complete
        self._lock = threading.Lock()
        self._ae: Any = AE(ae_title=options.title)
        self._ae.require_called_aet = True
        self._ae.require_calling_aet = list(options.allowed)
        self._ae.maximum_associations = options.associations
        self._ae.network_timeout = self._ae.dimse_timeout = _TIMEOUT_S
        self._ae.acse_timeout = _FIRST_TIMEOUT_S
        self._ae.implementation_version_name = "EDGEMT"
        syntaxes = readable_syntaxes()
        self._ae.add_supported_context("1.2.840.10008.1.1")  # C-ECHO
        for kind in image_classes():
            self._ae.add_supported_context(kind, syntaxes)
        handlers: list[Any] = [
            (evt.EVT_C_STORE, self._on_store), (evt.EVT_C_ECHO, self._on_echo), (evt.EVT_REJECTED, self._on_rejected),
            (evt.EVT_ACCEPTED, self._on_accepted), (evt.EVT_RELEASED, self._on_end), (evt.EVT_ABORTED, self._on_end),
            (evt.EVT_CONN_CLOSE, self._on_end), (evt.EVT_DATA_RECV, self._on_data),
        ]  # fmt: skip
        address, before = (options.host, options.port), set(threading.enumerate())
        try:
            self._server: Any = self._ae.start_server(address, block=False, evt_handlers=handlers)
        except OSError as error:
            where = f"{options.host}:{options.port}"
            raise ValueError(f"port: cannot listen at {where} ({error.strerror}); name another port or host") from None
        self._threads = set(threading.enumerate()) - before
        server = cast(Any, self._server)
        server.handle_error = lambda request, address: None  # else a traceback on stderr
        if options.tls is not None:
            server.finish_request = partial(self._secured, options.tls, server.finish_request)

    @property
    def port(self) -> int:
        return int(self._server.server_address[1])

    @property
    def alive(self) -> bool:
        """Whether the thread that accepts connections runs."""
        return all(thread.is_alive() for thread in self._threads)

    def close(self) -> None:
        """End all associations; what was answered with success is on the disk."""
        self._ae.shutdown()

    def _secured(self, tls: TlsContexts, go_on: Callable[..., None], connection: Any, address: Any) -> None:
        """The handshake, in the thread of the connection: a silent one delays no other."""
        try:
            secure = accept(tls, connection, timeout_s=_FIRST_TIMEOUT_S)
        except ValueError as error:
            connection.close()
            self._reports.once(f"refused a connection from {address[0]}: {error}", event="refused", reason=str(error))
            return
        go_on(secure, address)

    def _on_store(self, event: Any) -> Any:
        sender = shown_title(event.assoc.requestor.ae_title)
        self._bytes[event.assoc] = 0
        try:
            known = self._store(event)
        except RefusedError as refused:
            self._count(event, "refused")
            self._reports.once(f"refused from {sender}: {refused}", event="refused", reason=str(refused))
            return answer(refused.status, str(refused))
        except (NoSpaceError, OSError) as error:
            reason = "the disk is full" if isinstance(error, NoSpaceError) else "the spool cannot be written"
            return self._out_of_resources(event, reason)
        except Exception as error:  # of a library, on data from the network: the sender keeps the image
            self._count(event, "refused")
            self._reports.once(f"refused from {sender}: it cannot be read ({type(error).__name__})")
            return answer(NOT_UNDERSTOOD, "cannot be read")
        self._count(event, "known" if known else "stored")
        return SUCCESS

    def _store(self, event: Any) -> bool:
        if self._spool.free_bytes() < self._options.least_free_mib << 20:
            raise NoSpaceError("disk")
        data = event.encoded_dataset()
        header = parse(data)
        if str(header.SOPInstanceUID) != str(event.request.AffectedSOPInstanceUID):
            raise RefusedError(OTHER_CLASS, "its UID is not that of the request")
        check_image(header, self._options.modalities)
        ids = (str(header.get("PatientID", "")), str(header.get("StudyInstanceUID", "")), str(header.SeriesInstanceUID))
        stored = self._spool.store(ids, str(header.SOPInstanceUID), data)
        if stored.replaced:
            self._reports.once(f"series {stored.name}: an image came again with another content; the newer one counts")
        if not stored.known or stored.replaced:
            self._arrived(stored.name)
        return stored.known and not stored.replaced

    def _out_of_resources(self, event: Any, reason: str) -> Any:
        self._count(event, "refused")
        text = f"warning: {reason}; images are refused until there is room, and their senders keep them"
        self._reports.once(text, event="refused", reason=reason)
        return answer(NO_RESOURCES, reason)

    def _on_data(self, event: Any) -> None:
        """An image is in memory until it is complete: one that would fill the memory ends its association."""
        before = self._bytes.get(event.assoc, 0)
        self._bytes[event.assoc] = now = before + len(event.data)
        if before // _STEP == now // _STEP:
            return
        try:
            check_bytes("image", (now,), 2)
        except Refused:
            sender = shown_title(event.assoc.requestor.ae_title)
            self._reports.once(f"refused from {sender}: an image that does not fit the memory", event="too-large")
            threading.Thread(target=event.assoc.abort, daemon=True).start()  # which waits for the thread that calls us

    def _on_echo(self, event: Any) -> int:
        return SUCCESS

    def _on_accepted(self, event: Any) -> None:
        """Name what of the offer is not taken."""
        sender, refused = shown_title(event.assoc.requestor.ae_title), refused_offers(event.assoc)
        if refused.others:
            self._reports.once(f"not taken from {sender}: {refused.others} kinds of objects that are no images")
        for line in refused.unread:
            self._reports.once(f"not taken from {sender}: {line}", event="refused", reason=line)
        with self._lock:
            self._partly[event.assoc] = refused.partly

    def _on_rejected(self, event: Any) -> None:
        title = shown_title(event.assoc.requestor.ae_title)
        self._reports.once(
            f"refused the association of {title}: its AE title, or the one that it calls, is not one of ours, or "
            f"{self._options.associations} are open"
        )

    def _on_end(self, event: Any) -> None:
        with self._lock:
            counts, partly = self._counts.pop(event.assoc, None), self._partly.pop(event.assoc, ())
        self._bytes.pop(event.assoc, None)
        sender = shown_title(event.assoc.requestor.ae_title)
        if not counts:
            for line in partly:  # nothing was sent in the syntaxes that are taken
                self._reports.once(f"not taken from {sender}: {line}", event="refused", reason=line)
            return
        further = [f"{counts[name]} {text}" for name, text in _FURTHER.items() if counts[name]]
        early = "" if event.event.name == "EVT_RELEASED" else "; the connection ended early"
        self._reports.line(", ".join([f"received {counts['stored']} images from {sender}", *further]) + early)

    def _count(self, event: Any, what: str) -> None:
        with self._lock:
            self._counts.setdefault(event.assoc, Counter())[what] += 1


_FURTHER = {"known": "that were here already", "refused": "refused"}


def image_classes() -> list[str]:
    """SOP classes of still images and cines; videos, reports, segmentations and others are not taken."""
    from pynetdicom import AllStoragePresentationContexts

    named: list[Any] = [context.abstract_syntax for context in AllStoragePresentationContexts]
    return [str(uid) for uid in named if "Image Storage" in uid.name and "Video" not in uid.name]


def parse(data: bytes) -> Any:
    """The data set. Raises RefusedError for one without the UIDs that every image has."""
    import pydicom

    try:
        check_inflated(BytesIO(data), "the data set")
        header = pydicom.dcmread(BytesIO(data))
        for tag in list(header.keys()):
            header[tag]  # elements are decoded lazily
    except Refused:
        raise RefusedError(NO_RESOURCES, "the data set unpacks to more than the memory holds") from None
    except Exception:  # the library raises many kinds, and puts values into the text
        raise RefusedError(NOT_UNDERSTOOD, "the data set is damaged or cut short") from None
    if not header.get("SOPInstanceUID") or not header.get("SeriesInstanceUID"):
        raise RefusedError(OTHER_CLASS, "has no instance UID or no series UID")
    return header


def check_image(header: Any, modalities: tuple[str, ...]) -> None:
    """Raises RefusedError for an object that holds no picture that is read, or one of another modality."""
    path = Path("image")
    try:
        check_readable(path, header)
    except ValueError as error:
        raise RefusedError(OTHER_CLASS, _plain(str(error).removeprefix(f"{path}: "))) from None
    modality = str(header.get("Modality") or "")
    if modalities and modality not in modalities:
        named = modality if re.fullmatch(r"[A-Z]{2,6}", modality) else "not stated"
        raise RefusedError(OTHER_CLASS, f"modality {named}, taken: {', '.join(modalities)}")
    if not header.file_meta.TransferSyntaxUID.is_encapsulated:
        frames = int(header.get("NumberOfFrames") or 1)
        if len(header.PixelData) < frame_bytes(header) * frames:
            raise RefusedError(NOT_UNDERSTOOD, "the pixels are cut short")


def _plain(text: str) -> str:
    """A reason without values of the header: before the first semicolon, and without what a file may hold as text."""
    kinds = r"photometric interpretation \S+(?: \S+)? is"
    return re.sub(kinds, "photometric interpretation is", text.partition(";")[0])


def answer(status: int, text: str) -> Any:
    """The status of an answer with a comment, which senders write to their logs."""
    from pydicom import Dataset

    made = Dataset()
    made.Status, made.ErrorComment = status, text[:64]
    return made
