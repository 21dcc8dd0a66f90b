"""Who made a ship: what is not signed by a trusted key is not opened where a key is trusted."""

from __future__ import annotations

import shutil
import stat
import sys
from pathlib import Path

import pytest

pytest.importorskip("cryptography")
pytest.importorskip("onnx")

from tiny_package import make_ship  # noqa: E402

from deploy.package.package import Package, finalize, open_package  # noqa: E402
from deploy.package.signing import PASSPHRASE, SIGNATURE, TRUSTED, keygen, sign  # noqa: E402
from edgemt import cli  # noqa: E402


@pytest.fixture
def ship(tmp_path: Path) -> Package:
    return make_ship(tmp_path / "ship")


@pytest.fixture
def keys(tmp_path: Path) -> tuple[Path, Path]:
    return keygen(tmp_path / "keys" / "maker.pem")


def refused(folder: Path, *words: str, trusted: Path) -> None:
    with pytest.raises(ValueError) as error:
        open_package(folder, trusted=trusted)
    assert "\n" not in str(error.value)
    for part in words:
        assert part in str(error.value), error.value


def test_a_signed_ship_opens_with_its_makers_key(ship: Package, keys: tuple[Path, Path]) -> None:
    sign(ship.folder / "card.json", key=keys[0])
    assert open_package(ship.folder, trusted=keys[1]).card == ship.card


def test_an_unsigned_ship_is_refused_where_a_key_is_trusted(ship: Package, keys: tuple[Path, Path]) -> None:
    refused(ship.folder, "not signed", "maker.pub.pem", trusted=keys[1])
    assert open_package(ship.folder).card == ship.card


def test_another_makers_signature_is_refused(ship: Package, keys: tuple[Path, Path], tmp_path: Path) -> None:
    other, _ = keygen(tmp_path / "other.pem")
    sign(ship.folder / "card.json", key=other)
    refused(ship.folder, SIGNATURE, "refuse", trusted=keys[1])


def test_weights_swapped_together_with_their_hash_are_refused(ship: Package, keys: tuple[Path, Path]) -> None:
    """The hashes alone would let this pass: the card was rewritten to fit."""
    sign(ship.folder / "card.json", key=keys[0])
    signature = (ship.folder / SIGNATURE).read_bytes()
    shutil.copy(ship.folder / "model.int8.onnx", ship.folder / "model.onnx")
    finalize(ship.folder, ship.card)
    assert not (ship.folder / SIGNATURE).exists(), "a signature must not outlive its card"
    (ship.folder / SIGNATURE).write_bytes(signature)
    assert open_package(ship.folder)
    refused(ship.folder, SIGNATURE, trusted=keys[1])


def test_a_signature_that_nothing_checks_is_never_passed_over_silently(
    ship: Package, keys: tuple[Path, Path], monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    """A good one and a stale one are alike where there is no key; with one the stale one is refused."""
    monkeypatch.delenv(TRUSTED, raising=False)
    assert open_package(ship.folder) and not caplog.text
    sign(ship.folder / "card.json", key=keys[0])
    for change in ("good", "stale"):
        caplog.clear()
        if change == "stale":
            text = (ship.folder / "card.json").read_text()
            (ship.folder / "card.json").write_text(text.replace('"name": "tiny"', '"name": "other"'))
        assert not open_package(ship.folder).signed
        (record,) = caplog.records
        assert "was not checked" in record.getMessage() and TRUSTED in record.getMessage()
    caplog.clear()
    assert open_package(ship.folder) and not caplog.text, "once for each card"
    refused(ship.folder, SIGNATURE, trusted=keys[1])


def test_the_policy_holds_for_a_bare_graph_from_python(
    ship: Package, keys: tuple[Path, Path], monkeypatch: pytest.MonkeyPatch
) -> None:
    pytest.importorskip("onnxruntime")
    from edgemt import runner

    sign(ship.folder / "card.json", key=keys[0])
    assert runner(ship.folder / "model.onnx", runtime="onnxruntime")
    monkeypatch.setenv(TRUSTED, str(keys[1]))
    for file in (ship.folder / "model.onnx", str(ship.folder / "model.int8.onnx")):
        with pytest.raises(ValueError, match=rf"model.*: was not opened with a trusted key, and {TRUSTED} requires"):
            runner(file, runtime="onnxruntime")
    assert runner(ship.folder, runtime="onnxruntime")
    assert open_package(ship.folder).signed
    with pytest.raises(ValueError, match="was not opened with a trusted key"):
        runner(Package(ship.folder, ship.card), runtime="onnxruntime")


def test_a_cold_start_of_a_signed_ship_is_measured_under_the_policy(
    ship: Package, keys: tuple[Path, Path], monkeypatch: pytest.MonkeyPatch
) -> None:
    pytest.importorskip("onnxruntime")
    import numpy as np

    from deploy.benchmark.cold_start import cold_start

    sign(ship.folder / "card.json", key=keys[0])
    monkeypatch.setenv(TRUSTED, str(keys[1]))
    frame = np.zeros((1, *ship.card.size, ship.card.channels), np.uint8)
    requested = {"runtime": "onnxruntime", "threads": 1, "file": "model.onnx"}
    assert cold_start(ship.folder, requested, frame=frame)
    assert cold_start(ship.folder / "model.onnx", requested, frame=frame) is None


@pytest.mark.parametrize("signature", [b"", b"x" * 64, b"x" * 10_000])
def test_a_signature_that_is_none_is_refused(ship: Package, keys: tuple[Path, Path], signature: bytes) -> None:
    (ship.folder / SIGNATURE).write_bytes(signature)
    refused(ship.folder, SIGNATURE, trusted=keys[1])


def test_the_environment_names_the_trusted_key_for_every_command(
    ship: Package, keys: tuple[Path, Path], monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setenv(TRUSTED, str(keys[1]))
    for command in (["eval", str(ship.folder)], ["predict", str(ship.folder), "x.png"], ["bench", str(ship.folder)]):
        with pytest.raises(SystemExit) as stopped:
            cli.main(command)
        assert stopped.value.code == 2
        assert "not signed" in capsys.readouterr().err
    cli.main(["sign", str(ship.folder), "--key", str(keys[0])])
    assert capsys.readouterr().out.strip() == str(ship.folder / SIGNATURE)
    assert open_package(ship.folder).card == ship.card


def test_one_file_may_hold_the_keys_of_several_makers(ship: Package, keys: tuple[Path, Path], tmp_path: Path) -> None:
    _, old = keygen(tmp_path / "old.pem")
    both = tmp_path / "both.pem"
    both.write_bytes(old.read_bytes() + keys[1].read_bytes())
    sign(ship.folder / "card.json", key=keys[0])
    assert open_package(ship.folder, trusted=both)


def test_a_damaged_ship_is_not_signed(
    ship: Package, keys: tuple[Path, Path], capsys: pytest.CaptureFixture[str]
) -> None:
    (ship.folder / "model.onnx").write_bytes(b"x")
    with pytest.raises(SystemExit):
        cli.main(["sign", str(ship.folder), "--key", str(keys[0])])
    assert "model.onnx" in capsys.readouterr().err
    assert not (ship.folder / SIGNATURE).exists()


@pytest.mark.skipif(sys.platform == "win32", reason="no modes there")
def test_the_private_key_is_for_its_owner_alone(ship: Package, keys: tuple[Path, Path]) -> None:
    assert stat.S_IMODE(keys[0].stat().st_mode) == 0o600
    keys[0].chmod(0o644)
    with pytest.raises(ValueError, match=r"maker\.pem: others can read .* chmod 600"):
        sign(ship.folder / "card.json", key=keys[0])


def test_a_key_is_never_overwritten(keys: tuple[Path, Path]) -> None:
    before = keys[0].read_bytes(), keys[1].read_bytes()
    with pytest.raises(ValueError, match=r"maker\.pem: is there already"):
        keygen(keys[0])
    keys[0].unlink()
    with pytest.raises(ValueError, match=r"maker\.pub\.pem: is there already"):
        keygen(keys[0])
    assert keys[1].read_bytes() == before[1]


def test_a_passphrase_locks_the_key(ship: Package, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv(PASSPHRASE, "sesame")
    private, public = keygen(tmp_path / "locked.pem")
    assert b"ENCRYPTED" in private.read_bytes()
    sign(ship.folder / "card.json", key=private)
    assert open_package(ship.folder, trusted=public)
    monkeypatch.setenv(PASSPHRASE, "sesam")
    with pytest.raises(ValueError, match="passphrase"):
        sign(ship.folder / "card.json", key=private)
    monkeypatch.delenv(PASSPHRASE)
    with pytest.raises(ValueError, match=PASSPHRASE):
        sign(ship.folder / "card.json", key=private)


def test_a_file_that_is_no_key_is_named(ship: Package, keys: tuple[Path, Path], tmp_path: Path) -> None:
    nonsense = tmp_path / "notes.txt"
    nonsense.write_text("hello")
    nonsense.chmod(0o600)
    for key, words in ((nonsense, "notes.txt: no private key"), (tmp_path / "gone.pem", "gone.pem: this private key")):
        with pytest.raises(ValueError, match=words):
            sign(ship.folder / "card.json", key=key)
    refused(ship.folder, "notes.txt", "no Ed25519 public key", trusted=nonsense)
    refused(ship.folder, "maker.pem", "no Ed25519 public key", trusted=keys[0])
    refused(ship.folder, "gone.pem", "cannot be read", trusted=tmp_path / "gone.pem")


def test_a_key_of_another_kind_is_named(ship: Package, tmp_path: Path) -> None:
    from cryptography.hazmat.primitives import serialization as form
    from cryptography.hazmat.primitives.asymmetric import ec

    key = ec.generate_private_key(ec.SECP256R1())
    private, public = tmp_path / "ec.pem", tmp_path / "ec.pub.pem"
    private.write_bytes(key.private_bytes(form.Encoding.PEM, form.PrivateFormat.PKCS8, form.NoEncryption()))
    private.chmod(0o600)
    public.write_bytes(key.public_key().public_bytes(form.Encoding.PEM, form.PublicFormat.SubjectPublicKeyInfo))
    with pytest.raises(ValueError, match=r"ec\.pem: is a key of another kind"):
        sign(ship.folder / "card.json", key=private)
    refused(ship.folder, "ec.pub.pem", "no Ed25519 public key", trusted=public)


def test_without_cryptography_a_trusted_key_is_no_excuse(
    ship: Package, keys: tuple[Path, Path], monkeypatch: pytest.MonkeyPatch
) -> None:
    sign(ship.folder / "card.json", key=keys[0])
    monkeypatch.setitem(sys.modules, "cryptography.hazmat.primitives.serialization", None)
    assert open_package(ship.folder), "ships are read without it where no signature is asked for"
    refused(ship.folder, "cryptography", "edgemt[sign]", trusted=keys[1])
