"""TLS of DICOM associations and of DICOMweb: who is let in, who is not, and what is said of it."""

from __future__ import annotations

import datetime
import socket
import ssl
import subprocess
from pathlib import Path
from typing import Any, NamedTuple

import pytest

pytest.importorskip("pydicom")
pytest.importorskip("pynetdicom")
pytest.importorskip("cryptography")

from cryptography import x509  # noqa: E402
from cryptography.hazmat.primitives import hashes, serialization  # noqa: E402
from cryptography.hazmat.primitives.asymmetric import rsa  # noqa: E402
from dicom_samples import save  # noqa: E402
from pacs_samples import SEG, fake_pacs, sent, service, slices, tiny_model, until  # noqa: E402
from pydicom import uid  # noqa: E402
from pynetdicom import AE, evt  # noqa: E402
from real_pacs import PacsProcess, closing, dcmtk, free_port, store  # noqa: E402
from stow_server import stow  # noqa: E402
from tiny_package import make_ship  # noqa: E402

from deploy.pacs.destinations import AwayError, DicomDestination, WebDestination, parse_web_destination  # noqa: E402
from deploy.pacs.predictor import ServiceModel  # noqa: E402
from deploy.pacs.reports import silence_libraries  # noqa: E402
from deploy.pacs.tls import TlsContexts, read_tls  # noqa: E402
from edgemt import cli  # noqa: E402

pytestmark = pytest.mark.filterwarnings("ignore")


class Pair(NamedTuple):
    """PEM files of a certificate and its key."""

    cert: Path
    key: Path


class Authority:
    """A CA and the certificates that it signs, in `folder`."""

    def __init__(self, folder: Path, name: str) -> None:
        self.folder, self._key = folder, rsa.generate_private_key(65537, 2048)
        self._name = x509.Name([x509.NameAttribute(x509.NameOID.COMMON_NAME, name)])
        self.ca = folder / f"{name}.pem"
        self._certificate = self._signed(self._name, self._key, ca=True)
        self.ca.write_bytes(self._certificate.public_bytes(serialization.Encoding.PEM))

    def pair(self, name: str) -> Pair:
        """A certificate of 127.0.0.1."""
        key = rsa.generate_private_key(65537, 2048)
        subject = x509.Name([x509.NameAttribute(x509.NameOID.COMMON_NAME, name)])
        made = Pair(self.folder / f"{name}.cert.pem", self.folder / f"{name}.key.pem")
        made.cert.write_bytes(self._signed(subject, key, ca=False).public_bytes(serialization.Encoding.PEM))
        made.key.write_bytes(private(key, serialization.NoEncryption()))
        return made

    def _signed(self, subject: x509.Name, key: rsa.RSAPrivateKey, *, ca: bool) -> x509.Certificate:
        import ipaddress

        now = datetime.datetime.now(datetime.timezone.utc)
        day = datetime.timedelta(days=1)
        builder = x509.CertificateBuilder().subject_name(subject).issuer_name(self._name)
        builder = builder.public_key(key.public_key()).serial_number(x509.random_serial_number())
        builder = builder.not_valid_before(now - day).not_valid_after(now + day)
        builder = builder.add_extension(x509.BasicConstraints(ca=ca, path_length=None), critical=True)
        address = x509.IPAddress(ipaddress.ip_address("127.0.0.1"))
        builder = builder.add_extension(x509.SubjectAlternativeName([address]), critical=False)
        return builder.sign(self._key, hashes.SHA256())


def private(key: rsa.RSAPrivateKey, encryption: serialization.KeySerializationEncryption) -> bytes:
    return key.private_bytes(serialization.Encoding.PEM, serialization.PrivateFormat.PKCS8, encryption)


class Certificates(NamedTuple):
    """Ours, the PACS', and one of somebody else's CA."""

    authority: Authority
    node: Pair
    pacs: Pair
    stranger: Pair

    def tls(self, pair: Pair | None = None, *, checked: bool = True) -> TlsContexts:
        pair = pair or self.node
        found = read_tls(pair.cert, pair.key, self.authority.ca if checked else None)
        assert found is not None
        return found


@pytest.fixture(scope="module")
def certificates(tmp_path_factory: pytest.TempPathFactory) -> Certificates:
    folder = tmp_path_factory.mktemp("tls")
    authority, other = Authority(folder, "hospital"), Authority(folder, "other")
    return Certificates(authority, authority.pair("node"), authority.pair("pacs"), other.pair("stranger"))


@pytest.fixture(scope="module")
def model(tmp_path_factory: pytest.TempPathFactory) -> ServiceModel:
    silence_libraries()
    return tiny_model(make_ship(tmp_path_factory.mktemp("pacs") / "ship"))


def secure_pacs(context: ssl.SSLContext) -> tuple[AE, int, list[Any]]:
    """A PACS that listens in TLS; what it got is in the list."""
    got: list[Any] = []
    entity = AE(ae_title="PACS")
    entity.add_supported_context(SEG)
    handlers: Any = [(evt.EVT_C_STORE, lambda event: got.append(event.dataset) or 0)]
    server: Any = entity.start_server(("127.0.0.1", 0), block=False, evt_handlers=handlers, ssl_context=context)
    server.handle_error = lambda request, address: None
    return entity, int(server.server_address[1]), got


def secure_sent(port: int, images: list[Any], context: ssl.SSLContext) -> list[int]:
    entity = AE(ae_title="SCANNER")
    entity.add_requested_context(str(images[0].SOPClassUID), uid.ExplicitVRLittleEndian)
    association = entity.associate("127.0.0.1", port, ae_title="EDGEMT", tls_args=(context, None))  # type: ignore[arg-type]
    if not association.is_established:
        return [-1] * len(images)
    statuses = [int(association.send_c_store(image).Status) for image in images]
    association.release()
    return statuses


def test_a_series_comes_and_goes_in_tls(model: ServiceModel, certificates: Certificates, tmp_path: Path) -> None:
    entity, port, got = secure_pacs(certificates.tls(certificates.pacs).server)
    lines, tls, images = list[str](), certificates.tls(), slices(2)
    to = [DicomDestination("PACS", "127.0.0.1", port, "EDGEMT", tls)]
    try:
        with service(tmp_path / "spool", model, 0, lines=lines, destinations=to, tls=tls) as running:
            assert secure_sent(running.receiver.port, images, certificates.tls(certificates.pacs).client) == [0, 0]
            until(lambda: got)
    finally:
        entity.shutdown()
    assert got[0].PatientID == images[0].PatientID


def test_who_is_not_of_the_ca_or_speaks_no_tls_is_refused_in_one_line(
    model: ServiceModel, certificates: Certificates, tmp_path: Path
) -> None:
    lines, image = list[str](), slices(1)
    without = ssl.SSLContext(ssl.PROTOCOL_TLS_CLIENT)
    without.check_hostname, without.verify_mode = False, ssl.CERT_NONE
    old = certificates.tls().client
    with fake_pacs() as pacs, service(
        tmp_path / "spool", model, pacs.port, lines=lines, tls=certificates.tls()
    ) as running:  # fmt: skip
        port = running.receiver.port
        with socket.create_connection(("127.0.0.1", port)):  # says nothing, and delays no other
            for context, text in (
                (certificates.tls(certificates.stranger, checked=False).client, "certificate is not accepted"),
                (without, "it shows no certificate, which --tls-ca requires"),
            ):
                assert secure_sent(port, image, context) == [-1]
                until(lambda text=text: any(text in line for line in lines))  # type: ignore[misc]
            assert sent(port, image) == [-1]
            until(lambda: any("refused a connection from 127.0.0.1: it does not use TLS" in line for line in lines))
            old.minimum_version, old.maximum_version = ssl.TLSVersion.TLSv1_1, ssl.TLSVersion.TLSv1_1
            old.set_ciphers("ALL:@SECLEVEL=0")
            assert secure_sent(port, image, old) == [-1]
            assert secure_sent(port, image, certificates.tls(certificates.pacs).client) == [0]


def test_a_pacs_that_fits_not_says_why_it_waits(certificates: Certificates, tmp_path: Path) -> None:
    file = save(slices(1)[0], tmp_path / "a.dcm")

    def refusal(port: int, tls: TlsContexts) -> str:
        with pytest.raises(AwayError) as away:
            list(DicomDestination("PACS", "127.0.0.1", port, "EDGEMT", tls).send([file]))
        return str(away.value)

    with fake_pacs() as plain:
        assert "TLS" in refusal(plain.port, certificates.tls())
    entity, port, _ = secure_pacs(certificates.tls(certificates.stranger, checked=False).server)
    try:
        assert "its certificate is not accepted" in refusal(port, certificates.tls())
    finally:
        entity.shutdown()
    entity, port, _ = secure_pacs(certificates.tls(certificates.pacs).server)
    try:
        assert "refuses our certificate" in refusal(port, certificates.tls(certificates.stranger, checked=False))
    finally:
        entity.shutdown()
    assert refusal(9, certificates.tls()) == "it cannot be reached"


def test_a_certificate_of_another_host_is_refused_where_hosts_are_checked(
    certificates: Certificates, tmp_path: Path
) -> None:
    """The certificate of this PACS names 127.0.0.1, and not localhost."""
    image = slices(1)[0]
    image.SOPClassUID = image.file_meta.MediaStorageSOPClassUID = SEG
    file = save(image, tmp_path / "a.dcm")
    any_host = certificates.tls()
    same_host = read_tls(certificates.node.cert, certificates.node.key, certificates.authority.ca, check_host=True)
    entity, port, got = secure_pacs(certificates.tls(certificates.pacs).server)
    try:
        with pytest.raises(AwayError, match=r"certificate is not accepted \(Hostname mismatch"):
            list(DicomDestination("PACS", "localhost", port, "EDGEMT", same_host).send([file]))
        assert not got
        assert list(DicomDestination("PACS", "localhost", port, "EDGEMT", any_host).send([file])) == [""]
        assert list(DicomDestination("PACS", "127.0.0.1", port, "EDGEMT", same_host).send([file])) == [""]
    finally:
        entity.shutdown()
    assert len(got) == 2


def test_only_tls_1_2_and_later_and_a_ca_requires_certificates(certificates: Certificates) -> None:
    tls, open_to_all = certificates.tls(), certificates.tls(checked=False)
    for context in (tls.server, tls.client, open_to_all.server, open_to_all.client):
        assert context.minimum_version == ssl.TLSVersion.TLSv1_2
    assert tls.server.verify_mode == tls.client.verify_mode == ssl.CERT_REQUIRED and tls.mutual
    assert open_to_all.server.verify_mode == ssl.CERT_NONE and not open_to_all.mutual
    assert read_tls(None, None, None) is None


@pytest.mark.parametrize(
    ("words", "message"),
    [
        (["--tls-cert", "CERT"], "tls-key: is missing"),
        (["--tls-key", "KEY"], "tls-cert: is missing"),
        (["--tls-ca", "CA"], "tls-cert: is missing"),
        (["--tls-cert", "none.pem", "--tls-key", "KEY"], "tls-cert none.pem: no such file"),
        (["--tls-cert", "CERT", "--tls-key", "FOLDER"], "cannot be read"),
        (["--tls-cert", "CERT", "--tls-key", "OTHER"], "is not the key of the certificate"),
        (["--tls-cert", "KEY", "--tls-key", "KEY"], "tls-cert"),
        (["--tls-cert", "CERT", "--tls-key", "CERT"], "holds no private key"),
        (["--tls-cert", "CERT", "--tls-key", "LOCKED"], "is encrypted"),
        (["--tls-cert", "CERT", "--tls-key", "KEY", "--tls-ca", "KEY"], "tls-ca"),
        (["--tls-cert", "CERT", "--tls-key", "KEY", "--tls-check-host"], "tls-check-host: needs --tls-ca"),
        (["--to-web", "http://h/x", "--web-ca", "CA"], "is not https://"),
        (["--to-web", "https://h/x", "--web-ca", "none.pem"], "web-ca none.pem: no such file"),
    ],
)
def test_a_file_that_does_not_fit_is_one_line(
    words: list[str], message: str, certificates: Certificates, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    locked = tmp_path / "locked.pem"
    key = serialization.load_pem_private_key(certificates.node.key.read_bytes(), None)
    assert isinstance(key, rsa.RSAPrivateKey)
    locked.write_bytes(private(key, serialization.BestAvailableEncryption(b"word")))
    names = {
        "CERT": certificates.node.cert, "KEY": certificates.node.key, "CA": certificates.authority.ca,
        "OTHER": certificates.pacs.key, "FOLDER": tmp_path, "LOCKED": locked,
    }  # fmt: skip
    with pytest.raises(SystemExit) as left:
        cli.main(["pacs", "anywhere", "--to", "A@h:1", *(str(names.get(word, word)) for word in words)])
    (line,) = capsys.readouterr().err.strip().splitlines()
    assert left.value.code == 2 and message in line


def test_stow_rs_over_https_takes_the_ca_it_was_given(
    certificates: Certificates, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    pytest.importorskip("dicomweb_client")
    file = save(slices(1)[0], tmp_path / "a.dcm")
    context = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
    context.load_cert_chain(*certificates.pacs)
    monkeypatch.setenv("REQUESTS_CA_BUNDLE", str(certificates.stranger.cert))  # goes not before the one that is named
    with stow(context) as server:
        to = parse_web_destination(server.url, ca=certificates.authority.ca)
        assert list(to.send([file])) == [""] and len(server.stored) == 1
        with pytest.raises(AwayError, match="--web-ca"):
            list(WebDestination(server.url).send([file]))
        assert len(server.stored) == 1


@pytest.mark.slow
def test_dcmtk_sends_and_receives_in_tls(certificates: Certificates, tmp_path: Path) -> None:
    ship = make_ship(tmp_path / "ship").folder
    image, port, out = save(slices(1)[0], tmp_path / "a.dcm"), free_port(), tmp_path / "received"
    out.mkdir()
    ours, theirs, ca = certificates.node, certificates.pacs, str(certificates.authority.ca)
    secure = ("+tls", str(theirs.key), str(theirs.cert), "+cf", ca)
    words = ("--tls-cert", str(ours.cert), "--tls-key", str(ours.key), "--tls-ca", ca)
    receiver = subprocess.Popen([dcmtk("storescp"), *secure, "-aet", "STORESCP", "-od", str(out), str(port)])
    try:
        with closing(PacsProcess(ship, tmp_path / "spool", "--to", f"STORESCP@127.0.0.1:{port}", *words)) as process:
            assert store(process.port, image).returncode != 0  # without TLS
            assert store(process.port, image, options=secure).returncode == 0
            until(lambda: list(out.iterdir()))
            until(lambda: "1 segmentation sent" in process.text)
            assert "it does not use TLS" in process.text
    finally:
        receiver.kill()
        receiver.wait()
