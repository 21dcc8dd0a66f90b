"""Where segmentations are sent: a PACS by C-STORE, or a web server by STOW-RS."""

from __future__ import annotations

import re
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Protocol
from urllib.parse import urlsplit

from deploy.pacs.tls import TlsContexts, check_ca, why_no_association
from edgemt.io.plain_files import read_regular

_SEG_CLASSES = ("1.2.840.10008.5.1.4.1.1.66.4", "1.2.840.10008.5.1.4.1.1.66.7")  # SEG, and as a label map
_SYNTAXES = ["1.2.840.10008.1.2.1", "1.2.840.10008.1.2"]  # explicit and implicit little endian
_CONNECT_S, _ANSWER_S = 10.0, 60.0
_AGAIN = {408, 425, 429, 500, 502, 503, 504}  # HTTP: the server, not the object, is the cause
_TOKEN_BYTES = 1 << 16
_STATUS_TEXT = {0xA7: "is out of resources", 0xA9: "does not take this kind", 0xC0: "cannot read it"}
_DUPLICATE = 0x0111  # it has this instance already


class AwayError(Exception):
    """The destination cannot be reached, or takes nothing now: everything for it waits."""


class Destination(Protocol):
    """`name` is written to the spool's state, and printed."""

    @property
    def name(self) -> str: ...

    def send(self, files: Sequence[Path]) -> Iterator[str]:
        """For each file, in order, after it was sent: "" or why the destination did not take it.

        Raises AwayError where there is no point in trying the others.
        """
        ...


@dataclass(frozen=True)
class DicomDestination:
    """A PACS: AE title, host and port. `calling` is the AE title of this service."""

    title: str
    host: str
    port: int
    calling: str
    tls: TlsContexts | None = None  # None: no encryption

    @property
    def name(self) -> str:
        return f"{self.title}@{self.host}:{self.port}"

    def send(self, files: Sequence[Path]) -> Iterator[str]:
        """One association for all files."""
        import pydicom

        association = self._associated()
        try:
            for path in files:
                image = pydicom.dcmread(path)
                try:
                    status = association.send_c_store(image)
                except ValueError:  # no presentation context was accepted for it
                    yield "does not take DICOM segmentations"
                    continue
                except RuntimeError:
                    raise AwayError("the connection was lost") from None
                yield _refusal(status)
        finally:
            if association.is_established:
                association.release()

    def _associated(self) -> Any:
        from pynetdicom import AE

        entity = AE(ae_title=self.calling)
        entity.connection_timeout = _CONNECT_S
        entity.acse_timeout = entity.dimse_timeout = entity.network_timeout = _ANSWER_S
        entity.implementation_version_name = "EDGEMT"
        for kind in _SEG_CLASSES:
            entity.add_requested_context(kind, _SYNTAXES)
        secure = {} if self.tls is None else {"tls_args": (self.tls.client, self.host)}
        association = entity.associate(self.host, self.port, ae_title=self.title, **secure)  # type: ignore[arg-type]
        if association.is_established:
            return association
        if association.is_rejected:
            raise AwayError(f"it rejects the AE titles {self.calling} (ours) and {self.title} (its own); see its list")
        if association.acceptor.primitive is not None:
            raise AwayError("it takes no DICOM segmentations")
        why = self.tls and why_no_association(self.host, self.port, self.tls.client, timeout_s=_CONNECT_S)
        raise AwayError(why or "it cannot be reached")


def _refusal(status: Any) -> str:
    """Why a C-STORE failed; empty for success, also with a warning. Raises AwayError for what may pass by itself."""
    if "Status" not in status:
        raise AwayError("the connection was lost")
    code = int(status.Status)
    if code == 0 or code == _DUPLICATE or code >> 12 == 0xB:
        return ""
    text = _STATUS_TEXT.get(code >> 8, "did not store it")
    if code >> 8 == 0xA7:
        raise AwayError(f"it {text}")
    return f"{text} (status {code:04X}h)"


@dataclass(frozen=True)
class WebDestination:
    """A DICOMweb server: the URL in front of /studies. `token`: sent as Authorization: Bearer.

    `ca`: a PEM file of the CA that signed the certificate of an https server; None: those that requests trusts.
    """

    url: str
    token: str = ""
    ca: Path | None = None

    @property
    def name(self) -> str:
        return self.url

    def send(self, files: Sequence[Path]) -> Iterator[str]:
        """One request for each file."""
        import pydicom
        import requests
        from dicomweb_client import DICOMwebClient

        headers = {"Authorization": f"Bearer {self.token}"} if self.token else None
        session = requests.Session()
        if self.ca is not None:
            session.merge_environment_settings = _verified_by(self.ca, session.merge_environment_settings)  # type: ignore[method-assign]
        client = DICOMwebClient(self.url, session, headers=headers, timeout=(_CONNECT_S, _ANSWER_S))
        client.set_http_retry_params(retry=False)  # the queue waits and tries again
        for path in files:
            try:
                answer = client.store_instances([pydicom.dcmread(path)])
            except requests.HTTPError as error:
                code = error.response.status_code if error.response is not None else 0
                if code in _AGAIN or code in (401, 403):
                    raise AwayError(f"it answers {code}") from None
                yield "" if code == 409 and _is_there(error.response) else f"did not take it (HTTP {code})"
                continue
            except requests.exceptions.SSLError:
                raise AwayError("its TLS certificate is not accepted; name its CA with --web-ca") from None
            except requests.RequestException:
                raise AwayError("it cannot be reached") from None
            failed = answer.get("FailedSOPSequence") if answer is not None else None
            yield "did not store it" if failed else ""


def _verified_by(ca: Path, settings: Callable[..., Any]) -> Callable[..., Any]:
    """The settings of a request with this CA alone: requests prefers a variable of the environment to its session."""
    return lambda *args, **options: {**settings(*args, **options), "verify": str(ca)}


def _is_there(response: Any) -> bool:
    """Whether a conflict is that the server has this instance already (failure reason 0111h)."""
    return bool(re.search(r"0*273\b", response.text[:100_000])) and "00081197" in response.text


def parse_destination(text: str, *, calling: str, tls: TlsContexts | None = None) -> DicomDestination:
    """`AET@HOST:PORT`. Raises ValueError for anything else."""
    match = re.fullmatch(r"([^@\\\s][^@\\]{0,15})@(\[[0-9a-fA-F:]+\]|[^:\s@\[\]]+):(\d{1,5})", text)
    if match is None or not 0 < int(match[3]) < 65536:
        raise ValueError(f"to {text!r}: must be AET@HOST:PORT, as in ORTHANC@127.0.0.1:4242")
    return DicomDestination(match[1].strip(), match[2].strip("[]"), int(match[3]), calling, tls)


def parse_web_destination(url: str, *, token: Path | None = None, ca: Path | None = None) -> WebDestination:
    """`http://HOST:PORT/PATH`. Raises ValueError for another form, and for a password in it, which would be printed."""
    parts = urlsplit(url)
    if parts.scheme not in ("http", "https") or not parts.hostname or parts.query or parts.fragment:
        raise ValueError(f"to-web {url!r}: must be http://HOST:PORT/PATH or https://, the part in front of /studies")
    if parts.username is not None or parts.password is not None:
        raise ValueError("to-web: has a user or a password; put a token into a file and name it with --web-token")
    if ca is not None:
        if parts.scheme != "https":
            raise ValueError(f"web-ca: {url} is not https://, so there is no certificate to check")
        check_ca("web-ca", ca)
    secret = ""
    if token is not None:
        try:
            secret = read_regular(token, limit=_TOKEN_BYTES).decode("ascii").strip()
        except (OSError, UnicodeDecodeError, ValueError):
            raise ValueError(f"web-token {token}: cannot be read as a line of plain text") from None
        if not secret or len(secret.split()) != 1:
            raise ValueError(f"web-token {token}: must hold one token, without spaces")
    return WebDestination(url.rstrip("/"), secret, ca)


def check_title(title: str, *, what: str) -> str:
    """An AE title: 1 to 16 plain characters. Raises ValueError, naming `what`."""
    if not re.fullmatch(r"[\x20-\x5b\x5d-\x7e]{1,16}", title) or not title.strip():
        raise ValueError(f"{what} {title!r}: an AE title has 1 to 16 plain characters, without backslash")
    return title.strip()
