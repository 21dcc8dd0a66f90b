"""Destinations of segmentations: their names, STOW-RS as a server reads it, and the errors of the command line."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest

pydicom = pytest.importorskip("pydicom")
pytest.importorskip("pynetdicom")
pytest.importorskip("dicomweb_client")

from dicom_samples import save  # noqa: E402
from pacs_samples import slices  # noqa: E402
from stow_server import stow  # noqa: E402
from tiny_package import make_ship  # noqa: E402

from deploy.package import policy  # noqa: E402
from deploy.pacs.backoff import Backoff, RetryOptions  # noqa: E402
from deploy.pacs.destinations import (  # noqa: E402
    AwayError,
    DicomDestination,
    WebDestination,
    parse_destination,
    parse_web_destination,
)
from deploy.pacs.spool import open_spool  # noqa: E402
from edgemt import cli  # noqa: E402


def test_stow_rs_sends_each_file_and_its_token(tmp_path: Path) -> None:
    files = [save(image, tmp_path / f"{k}.dcm") for k, image in enumerate(slices(2))]
    (tmp_path / "token").write_text("s3cret\n")
    with stow() as server:
        to = parse_web_destination(server.url + "/", token=tmp_path / "token")
        assert list(to.send(files)) == ["", ""] and "s3cret" not in to.name
    assert [(path, header) for path, header, _ in server.stored] == [("/dicom-web/studies", "Bearer s3cret")] * 2
    sent = [image.SOPInstanceUID for *_, image in server.stored]
    assert sent == [pydicom.dcmread(path).SOPInstanceUID for path in files]


@pytest.mark.parametrize(
    ("status", "body", "result"),
    [
        (503, "", "it answers 503"),
        (401, "", "it answers 401"),
        (400, "", ["did not take it (HTTP 400)"]),
        (409, "<Value>00081197</Value><Value>273</Value>", [""]),
        (409, "<Value>1</Value>", ["did not take it (HTTP 409)"]),
        (
            202,
            '<NativeDicomModel><DicomAttribute tag="00081198" vr="SQ" keyword="FailedSOPSequence"><Item number="1">'
            '<DicomAttribute tag="00081197" vr="US" keyword="FailureReason"><Value number="1">272</Value>'
            "</DicomAttribute>"
            "</Item></DicomAttribute></NativeDicomModel>",
            ["did not store it"],
        ),
    ],
)
def test_what_a_web_server_answers(status: int, body: str, result: Any, tmp_path: Path) -> None:
    """Away: it is tried again as a whole. A refusal: the others go on. There already: it counts as sent."""
    file = save(slices(1)[0], tmp_path / "a.dcm")
    with stow() as server:
        server.status, server.body = status, body
        try:
            found: Any = list(WebDestination(server.url).send([file]))
        except AwayError as error:
            found = str(error)
    assert found == result


def test_a_server_that_is_not_there_is_away(tmp_path: Path) -> None:
    file = save(slices(1)[0], tmp_path / "a.dcm")
    for to in (WebDestination("http://127.0.0.1:9/x"), DicomDestination("A", "127.0.0.1", 9, "EDGEMT")):
        with pytest.raises(AwayError, match="cannot be reached"):
            list(to.send([file]))


def test_waits_grow_to_the_longest_one_and_begin_anew_after_success() -> None:
    now = [0.0]
    retry = Backoff(RetryOptions(first_s=2, most_s=10), clock=lambda: now[0])
    waits = []
    for _ in range(5):
        assert retry.due("a")
        waits.append(retry.failed("a"))
        assert not retry.due("a") and retry.due("b")
        now[0] += waits[-1]
    assert all(0.8 * top <= wait <= top for wait, top in zip(waits, (2, 4, 8, 10, 10), strict=True))
    assert retry.succeeded("a") and retry.due("a") and not retry.succeeded("a")


def test_names_of_destinations_are_read_in_one_form() -> None:
    assert parse_destination("MY PACS@10.0.0.7:104", calling="E").name == "MY PACS@10.0.0.7:104"
    assert parse_destination("A@[::1]:104", calling="E").host == "::1"
    for wrong in ("ORTHANC", "A@host", "@host:1", "A@host:0", "A@host:70000", "A" * 17 + "@host:1", "A\\B@host:1"):
        with pytest.raises(ValueError, match="must be AET@HOST:PORT"):
            parse_destination(wrong, calling="E")
    for wrong in ("host/dicom-web", "ftp://host/x", "http://host/x?a=1"):
        with pytest.raises(ValueError, match="must be http"):
            parse_web_destination(wrong)
    with pytest.raises(ValueError, match="--web-token") as refused:
        parse_web_destination("http://user:pass@host/x")
    assert "pass@" not in str(refused.value)


@pytest.mark.parametrize(
    ("words", "message"),
    [
        (["SHIP"], "to: name where"),
        (["--to", "A@h:1"], "ship: name the ship"),
        (["SHIP", "--to", "A"], "AET@HOST:PORT"),
        (["SHIP", "--to", "A@h:1", "A@h:1"], "twice"),
        (["SHIP", "--to", "A@h:1", "--aet", "B" * 17], "aet"),
        (["SHIP", "--to", "A@h:1", "--quiet-s", "0"], "quiet-s"),
        (["SHIP", "--to", "A@h:1", "--port", "70000"], "port"),
        (["SHIP", "--to", "A@h:1", "--allow", ""], "allow"),
        (["nowhere", "--to", "A@h:1"], "no such ship folder"),
        (["SHIP", "--to-web", "http://h/x", "--web-token", "none"], "web-token"),
        (["--list"], "is no spool"),
    ],
)
def test_a_wrong_argument_is_one_line(
    words: list[str], message: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.chdir(tmp_path)
    ship = make_ship(tmp_path / "ship").folder
    with pytest.raises(SystemExit) as left:
        cli.main(["pacs", *(str(ship) if word == "SHIP" else word for word in words)])
    errors = capsys.readouterr().err.strip().splitlines()
    assert left.value.code == 2 and len(errors) == 1 and message in errors[0]


def test_a_device_that_runs_signed_ships_alone_serves_no_other(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    pytest.importorskip("cryptography")
    from deploy.package.signing import keygen

    ship, (_, public) = make_ship(tmp_path / "ship").folder, keygen(tmp_path / "k.pem")
    file = tmp_path / "policy.json"
    file.write_text(f'{{"signed_only": true, "trusted_key": "{public}"}}')
    file.chmod(0o644)
    monkeypatch.setattr(policy, "POLICY", file)
    with pytest.raises(SystemExit):
        cli.main(["pacs", str(ship), "--to", "A@127.0.0.1:9", "--port", "0", "--spool", str(tmp_path / "spool")])
    assert "not signed" in capsys.readouterr().err


def test_the_list_of_the_spool_names_no_patient(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    with open_spool(tmp_path / "spool") as spool:
        name = spool.store(("Secret^Name", "1.2", "1.2.3"), "1.2.3.4", b"image").name
        cli.main(["pacs", "--list", "--spool", str(tmp_path / "spool")])
    head, row = capsys.readouterr().out.splitlines()
    assert head.split()[:3] == ["series", "state", "images"] and row.split()[:4] == [name, "received", "1", "0"]
