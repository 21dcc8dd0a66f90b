"""Version, expiry and policy of a device: what opens, and what is refused."""

from __future__ import annotations

import json
import os
from dataclasses import replace
from pathlib import Path

import pytest

pytest.importorskip("cryptography")
pytest.importorskip("onnx")

from tiny_package import make_ship  # noqa: E402

from deploy.package import policy, signing, versions  # noqa: E402
from deploy.package.package import Package, open_package  # noqa: E402
from deploy.package.policy import Policy, read_policy  # noqa: E402
from deploy.package.signing import TRUSTED, keygen, require_signed  # noqa: E402
from deploy.package.versions import allow_version, check_version, note_version, read_record, record_path  # noqa: E402
from edgemt import cli  # noqa: E402
from edgemt.model_card import ModelCard  # noqa: E402

CARD = ModelCard(name="polyps", classes=("background", "polyp"), version=7, expires="2028-01-31")


@pytest.fixture(autouse=True)
def state(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    monkeypatch.setenv("XDG_STATE_HOME", str(tmp_path / "state"))
    return tmp_path / "state" / "edgemt" / "versions.json"


def refusal(card: ModelCard, *, today: str = "2027-01-01") -> str:
    try:
        check_version(card, source=Path("ship"), today=today)
    except ValueError as error:
        return str(error)
    return ""


def test_an_older_version_is_refused_once_a_newer_one_ran(state: Path) -> None:
    older = replace(CARD, version=6)
    assert refusal(CARD) == refusal(older) == "" and not state.exists()  # checking notes nothing
    note_version(CARD, today="2027-01-01")
    assert refusal(CARD) == "" and refusal(replace(CARD, version=8)) == ""
    assert "version 6 of polyps, this device has run version 7" in refusal(older)
    assert refusal(replace(older, classes=("background", "tool"))) == ""  # another model of the same recipe
    allow_version(older)
    assert refusal(older) == "" and "version 5" in refusal(replace(CARD, version=5))
    note_version(older, today="2027-01-02")
    assert read_record(state).models["polyps: polyp"].highest == 7


def test_an_expired_ship_stays_expired_when_the_clock_is_set_back() -> None:
    assert refusal(CARD, today="2028-01-31") == ""
    assert "expired on 2028-01-31, the latest day seen here is 2028-02-01" in refusal(CARD, today="2028-02-01")
    note_version(replace(CARD, name="another"), today="2028-02-01")
    assert "expired on 2028-01-31" in refusal(CARD, today="2020-01-01")
    allow_version(CARD)
    assert refusal(CARD, today="2028-02-01") == ""


def test_a_card_without_version_and_expiry_needs_no_record(state: Path) -> None:
    plain = replace(CARD, version=0, expires="")
    note_version(plain)
    assert refusal(plain) == "" and not state.exists()
    assert '"version"' not in plain.to_json() and '"expires"' not in plain.to_json()
    assert ModelCard.from_json(CARD.to_json()) == CARD


def test_a_damaged_record_opens_nothing_and_names_the_file(state: Path) -> None:
    state.parent.mkdir(parents=True)
    for text in ("{", "[]", '{"models": {"a": 3}, "latest_day": ""}'):
        state.write_text(text)
        assert str(state) in refusal(CARD) and "damaged" in refusal(CARD)


def test_a_record_that_cannot_be_written_is_one_warning(state: Path, caplog: pytest.LogCaptureFixture) -> None:
    state.parent.parent.mkdir(parents=True)
    state.parent.write_text("a file is in the way")
    for _ in range(2):
        with pytest.raises(ValueError, match="damaged"):
            read_record(state)  # ENOTDIR
    state.parent.unlink()
    state.parent.mkdir()
    versions._warned.clear()
    original = versions.write_text
    try:
        versions.write_text = _no_space  # type: ignore[assignment]
        note_version(CARD, today="2027-01-01")
        note_version(CARD, today="2027-01-01")
    finally:
        versions.write_text = original  # type: ignore[assignment]
    assert len(caplog.records) == 1 and "an older ship would not be noticed" in caplog.text


def _no_space(*_: object) -> None:
    raise OSError(28, "No space left on device")


@pytest.fixture
def ship(tmp_path: Path) -> Package:
    return make_ship(tmp_path / "ship")


@pytest.fixture
def keys(tmp_path: Path) -> tuple[Path, Path]:
    return keygen(tmp_path / "keys" / "maker.pem")


def test_sign_writes_version_and_expiry_which_a_device_checks(
    ship: Package, keys: tuple[Path, Path], capsys: pytest.CaptureFixture[str]
) -> None:
    sign = ["sign", str(ship.folder), "--key", str(keys[0])]
    cli.main([*sign, "--version", "7", "--expires", "2999-12-31"])
    assert "version 7, expires 2999-12-31" in capsys.readouterr().err
    new = open_package(ship.folder, trusted=keys[1])
    assert (new.card.version, new.card.expires, new.signed) == (7, "2999-12-31", True)
    note_version(new.card)
    cli.main([*sign, "--version", "6"])
    with pytest.raises(ValueError, match="this device has run version 7; install a newer ship"):
        open_package(ship.folder, trusted=keys[1])
    assert open_package(ship.folder, trusted=keys[1], any_version=True).card.version == 6
    assert open_package(ship.folder).card.version == 6  # without a key nothing is claimed of it
    cli.main([*sign, "--version", "8", "--expires", "2020-01-01"])
    with pytest.raises(ValueError, match="expired on 2020-01-01"):
        open_package(ship.folder, trusted=keys[1])


@pytest.mark.parametrize(
    ("args", "why"),
    [(["--version", "0"], "must be 1 or more"), (["--expires", "soon"], "'soon' is no day"),
     (["--expires", "20280131"], "is no day; write it as 2028-01-31")],
)  # fmt: skip
def test_a_version_or_day_that_is_none_leaves_card_and_signature(
    ship: Package, keys: tuple[Path, Path], capsys: pytest.CaptureFixture[str], args: list[str], why: str
) -> None:
    cli.main(["sign", str(ship.folder), "--key", str(keys[0])])
    before = {path: path.read_bytes() for path in ship.folder.iterdir() if path.is_file()}
    with pytest.raises(SystemExit) as error:
        cli.main(["sign", str(ship.folder), "--key", str(keys[0]), *args])
    assert error.value.code == 2 and why in capsys.readouterr().err
    assert {path: path.read_bytes() for path in ship.folder.iterdir() if path.is_file()} == before


def test_a_policy_is_lifted_by_no_variable_and_no_argument(
    ship: Package, keys: tuple[Path, Path], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    path = tmp_path / "policy.json"
    path.write_text(json.dumps({"signed_only": True, "trusted_key": str(keys[1]), "state": str(tmp_path / "lib")}))
    monkeypatch.setattr(policy, "POLICY", path)
    monkeypatch.setattr(signing, "POLICY", path)
    monkeypatch.setenv(TRUSTED, "")
    for trusted in (None, ""):
        with pytest.raises(ValueError, match="not signed"):
            open_package(ship.folder, trusted=trusted)
    with pytest.raises(ValueError, match=r"policy\.json requires one"):
        require_signed("model.onnx", signed=False)
    signing.sign(ship.folder / "card.json", key=keys[0])
    assert open_package(ship.folder, trusted="").signed
    assert record_path() == tmp_path / "lib" / "versions.json"


@pytest.mark.parametrize(
    ("text", "why"),
    [("{", "no policy"), ("[]", "no object"), ('{"signed": true}', "the fields are"),
     ('{"signed_only": "yes"}', "'signed_only': 'yes'"), ('{"signed_only": true}', "needs trusted_key")],
)  # fmt: skip
def test_a_damaged_policy_opens_nothing(
    ship: Package, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, text: str, why: str
) -> None:
    path = tmp_path / "policy.json"
    path.write_text(text)
    monkeypatch.setattr(policy, "POLICY", path)
    with pytest.raises(ValueError, match="policy") as error:
        open_package(ship.folder, trusted="")
    assert why in str(error.value)


@pytest.mark.skipif(os.name != "posix", reason="modes of POSIX")
def test_a_policy_that_others_may_change_opens_nothing(tmp_path: Path) -> None:
    path = tmp_path / "policy.json"
    path.write_text("{}")
    path.chmod(0o666)
    with pytest.raises(ValueError, match="others may change this policy"):
        read_policy(path)
    path.chmod(0o644)
    assert read_policy(path) == Policy() == read_policy(tmp_path / "none.json")
