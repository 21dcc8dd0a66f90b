"""TLS of DICOM associations (PS3.15 B.9 and following): the certificate of this node, and whom it trusts.

With a certificate the node listens in TLS alone and opens its own associations in TLS, 1.2 or later. With a CA the
other side must show a certificate that it signed, in both directions.
"""

from __future__ import annotations

import socket
import ssl
from dataclasses import dataclass
from pathlib import Path

_NEED = "--tls-cert FILE --tls-key FILE, and --tls-ca FILE to check the other side"


@dataclass(frozen=True)
class TlsContexts:
    """`server` for associations that are accepted, `client` for those that are opened; `mutual`: both are checked."""

    server: ssl.SSLContext
    client: ssl.SSLContext
    mutual: bool


def read_tls(cert: Path | None, key: Path | None, ca: Path | None, *, check_host: bool = False) -> TlsContexts | None:
    """The contexts of PEM files, or None without files. Raises ValueError, in one line that names the file.

    `check_host`: the certificate of a node that is called must name its host; else any certificate of the CA will do.
    """
    if check_host and ca is None:
        raise ValueError("tls-check-host: needs --tls-ca FILE, which signed the certificates that name the hosts")
    if cert is None and key is None and ca is None:
        return None
    if cert is None or key is None:
        raise ValueError(f"tls-{'cert' if cert is None else 'key'}: is missing; give {_NEED}")
    for name, path in (("tls-cert", cert), ("tls-key", key)):
        _check_readable(name, path)
    if ca is not None:
        check_ca("tls-ca", ca)
    server, client = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER), ssl.SSLContext(ssl.PROTOCOL_TLS_CLIENT)
    for context in (server, client):
        context.minimum_version = ssl.TLSVersion.TLSv1_2
        _load_pair(context, cert, key)
        if ca is not None:
            context.load_verify_locations(ca)
    client.check_hostname = check_host  # certificates of DICOM nodes seldom name a host
    server.verify_mode = client.verify_mode = ssl.CERT_NONE if ca is None else ssl.CERT_REQUIRED
    return TlsContexts(server, client, mutual=ca is not None)


def check_ca(name: str, path: Path) -> None:
    """Raises ValueError, in one line that begins with `name`, unless the file holds certificates in PEM form."""
    _check_readable(name, path)
    if not _holds_certificate(path):
        raise ValueError(f"{name} {path}: holds no certificate in PEM form; see openssl x509")


def _check_readable(name: str, path: Path) -> None:
    try:
        with path.open("rb") as file:
            file.read(1)
    except FileNotFoundError:
        raise ValueError(f"{name} {path}: no such file; name a PEM file") from None
    except OSError as error:
        raise ValueError(f"{name} {path}: cannot be read ({error.strerror}); name a PEM file") from None


def _load_pair(context: ssl.SSLContext, cert: Path, key: Path) -> None:
    def refuse() -> str:
        raise ValueError(f"tls-key {key}: is encrypted; write it without a passphrase, readable for this user alone")

    try:
        context.load_cert_chain(cert, key, password=refuse)
    except ssl.SSLError as error:
        if error.reason == "KEY_VALUES_MISMATCH":
            raise ValueError(f"tls-key {key}: is not the key of the certificate {cert}; name the pair") from None
        wrong = f"tls-key {key}: holds no private key" if _holds_certificate(cert) else f"tls-cert {cert}: holds none"
        raise ValueError(f"{wrong} in PEM form; see openssl pkey and openssl x509") from None


def _holds_certificate(path: Path) -> bool:
    try:
        ssl.SSLContext(ssl.PROTOCOL_TLS_CLIENT).load_verify_locations(path)
    except (ssl.SSLError, OSError):
        return False
    return True


def accept(tls: TlsContexts, connection: socket.socket, *, timeout_s: float) -> ssl.SSLSocket:
    """The connection after its handshake. Raises ValueError, with the reason, where there is none within the time."""
    connection.settimeout(timeout_s)
    try:
        secure = tls.server.wrap_socket(connection, server_side=True)
    except TimeoutError:
        raise ValueError(f"it began no TLS within {timeout_s:g} s") from None
    except ssl.SSLError as error:
        raise ValueError(_refused_by_us(error)) from None
    except OSError:
        raise ValueError("it closed the connection before TLS began") from None
    secure.settimeout(None)
    return secure


def _refused_by_us(error: ssl.SSLError) -> str:
    reason = str(error.reason or "")
    if isinstance(error, ssl.SSLCertVerificationError):
        return f"its certificate is not accepted ({error.verify_message}); see --tls-ca"
    if "DID_NOT_RETURN_A_CERTIFICATE" in reason:
        return "it shows no certificate, which --tls-ca requires"
    if "ALERT" in reason:
        return f"it refuses our certificate or TLS ({_plain(reason)})"
    if reason in ("UNSUPPORTED_PROTOCOL", "NO_SHARED_CIPHER", "VERSION_TOO_LOW"):
        return f"it has no TLS 1.2 or later ({_plain(reason)})"
    return "it does not use TLS, which this port requires"


def _plain(reason: str) -> str:
    return reason.lower().replace("_", " ")


def why_no_association(host: str, port: int, context: ssl.SSLContext, *, timeout_s: float) -> str:
    """Why a peer that was called in TLS gave no association; empty where its handshake succeeds.

    pynetdicom reports no more than that the association failed, so the handshake is tried once more.
    """
    try:
        with (
            socket.create_connection((host, port), timeout=timeout_s) as plain,
            context.wrap_socket(plain, server_hostname=host) as secure,
        ):
            secure.settimeout(min(timeout_s, 1.0))
            if secure.version() == "TLSv1.3":
                secure.recv(1)  # where the peer refuses our certificate, which in 1.3 comes after our handshake
    except ssl.SSLCertVerificationError as error:
        return f"its certificate is not accepted ({error.verify_message})"
    except TimeoutError as error:
        return "" if str(error).startswith("The read") else "it cannot be reached"
    except ssl.SSLError as error:
        return _handshake_text(str(error.reason or ""))
    except OSError as error:
        return "it closes the connection; does it speak TLS?" if isinstance(error, ConnectionResetError) else ""
    return ""


def _handshake_text(reason: str) -> str:
    if "ALERT" in reason or "CERTIFICATE_REQUIRED" in reason:
        return f"it refuses our certificate or TLS ({_plain(reason)})"
    return "it does not use TLS; leave the --tls options away, or name its TLS port"
