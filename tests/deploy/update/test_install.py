"""A ship is put in use whole or not at all, and the one before is one command away."""

from __future__ import annotations

import json
import os
import shutil
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
from PIL import Image

pytest.importorskip("cryptography")
pytest.importorskip("onnxruntime")

from tiny_package import frame, make_ship  # noqa: E402

from deploy.event_log.verify import verify_log  # noqa: E402
from deploy.package.package import finalize, open_package  # noqa: E402
from deploy.package.signing import TRUSTED, keygen  # noqa: E402
from deploy.update import install as module  # noqa: E402
from deploy.update.install import back, in_use, install  # noqa: E402
from edgemt.cli import main  # noqa: E402
from edgemt.io.zoo_paths import located  # noqa: E402


@pytest.fixture(scope="module")
def releases(tmp_path_factory: pytest.TempPathFactory) -> tuple[Path, Path, Path]:
    """Two signed releases of one model, and the public key."""
    root = tmp_path_factory.mktemp("releases")
    key, public = keygen(root / "maker.pem")
    first = make_ship(root / "v1").folder
    shutil.copytree(first, root / "v2")
    for number in (1, 2):
        main(["sign", str(root / f"v{number}"), "--key", str(key), "--version", str(number)])
    return root / "v1", root / "v2", public


@pytest.fixture(autouse=True)
def device(tmp_path: Path, monkeypatch: pytest.MonkeyPatch, releases: tuple[Path, Path, Path]) -> Path:
    monkeypatch.setenv("XDG_STATE_HOME", str(tmp_path / "state"))
    monkeypatch.setenv(TRUSTED, str(releases[2]))
    return tmp_path / "models"


def version_in_use(to: Path) -> int:
    return open_package(to / "current").card.version


def test_install_update_and_back(
    releases: tuple[Path, Path, Path], device: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    log, record = tmp_path / "device.log", tmp_path / "record.json"
    first, second, _ = releases
    main(["install", "--to", str(device), str(first), "--log", str(log)])
    assert capsys.readouterr().out.startswith("tiny-v1-") and version_in_use(device) == 1
    frames = tmp_path / "frames"
    frames.mkdir()
    for seed in range(3):
        Image.fromarray(np.kron(frame(seed), np.ones((2, 2, 1), np.uint8))).save(frames / f"{seed}.png")
    shadow = ["--frames", str(frames), "--min-agreement", "0.99"]
    main(["install", "--to", str(device), str(second), *shadow, "--log", str(log), "--json", str(record)])
    assert "3 frames beside the model in use: foreground Dice between both 1.000" in capsys.readouterr().err
    assert version_in_use(device) == 2
    done = json.loads(record.read_text())
    assert done["before"].startswith("tiny-v1-") and done["signed"] and done["shadow"]["frames"] == 3
    with pytest.raises(SystemExit) as error:
        main(["install", "--to", str(device), str(first), "--log", str(log)])
    assert error.value.code == 2 and "this device has run version 2" in capsys.readouterr().err
    main(["install", "--to", str(device), "--back", "--log", str(log)])
    assert version_in_use(device) == 1 and "in use again" in capsys.readouterr().out
    main(["install", "--to", str(device), "--back"])
    assert version_in_use(device) == 2
    rows = [json.loads(line) for line in log.read_bytes().splitlines()]
    assert [row["event"] for row in rows] == ["installed", "installed", "install-refused", "went-back"]
    assert verify_log(log).error == ""


def test_an_older_version_is_installed_only_if_it_is_allowed_and_the_log_says_so(
    releases: tuple[Path, Path, Path], device: Path, tmp_path: Path
) -> None:
    log = tmp_path / "device.log"
    main(["install", "--to", str(device), str(releases[1])])
    main(["install", "--to", str(device), str(releases[0]), "--allow-older", "--log", str(log)])
    assert version_in_use(device) == 1
    assert json.loads(log.read_text())["allowed_older"] is True


def test_a_stream_of_the_ship_in_use_notes_its_version(releases: tuple[Path, Path, Path], device: Path) -> None:
    main(["install", "--to", str(device), str(releases[0])])
    main(["stream", str(device / "current"), "--frames", "3"])
    main(["stream", str(releases[1]), "--frames", "3"])
    with pytest.raises(ValueError, match="this device has run version 2"):
        open_package(device / "current")


class Cut(BaseException):
    """The power goes."""


STEPS = ("shutil.copyfile", "_flush", "part.rename", "_verified_copy", "runner", "self_test", "_link", "os.replace")


@pytest.mark.parametrize("step", STEPS)
@pytest.mark.parametrize("call", [0, 1])
def test_an_update_that_is_cut_at_any_step_leaves_the_old_model_and_can_be_done_again(
    releases: tuple[Path, Path, Path], device: Path, monkeypatch: pytest.MonkeyPatch, step: str, call: int
) -> None:
    first, second, _ = releases
    install(first, device)
    owner, name = {
        "shutil.copyfile": (module.shutil, "copyfile"), "os.replace": (module.os, "replace"),
        "part.rename": (Path, "rename"),
    }.get(step, (module, step))  # fmt: skip
    original, calls = getattr(owner, name), []

    def cut(*args: object, **options: object) -> object:
        calls.append(1)
        if len(calls) == call + 1:
            raise Cut
        return original(*args, **options)

    with monkeypatch.context() as patch:
        patch.setattr(owner, name, cut)
        try:
            install(second, device)
            assert len(calls) <= call  # the step happens only once
        except Cut:
            assert version_in_use(device) == 1
    install(second, device)
    assert version_in_use(device) == 2
    assert back(device)[0].name.startswith("tiny-v1-") and version_in_use(device) == 1
    assert sorted(path.name[:7] for path in (device / "ships").iterdir()) == ["tiny-v1", "tiny-v2"]


def test_a_ship_that_fails_its_golden_frames_or_disagrees_leaves_the_old_one(
    releases: tuple[Path, Path, Path], device: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    first, second, _ = releases
    install(first, device)
    with monkeypatch.context() as patch:
        patch.setattr(module, "self_test", lambda *_: module_self_test_failed())
        with pytest.raises(ValueError, match="broken; tiny-v1-.* stays in use"):
            install(second, device)
    dark = iter([np.full((32, 40, 3), 60, np.uint8)])

    class Inverted:
        """A runner with the opposite masks."""

        def __init__(self, package: object) -> None:
            self.wrapped = original(package)

        def __call__(self, frames: np.ndarray) -> np.ndarray:
            return 1 - np.minimum(self.wrapped(frames), 1)

    original = module.runner
    calls: list[object] = []

    def second_is_inverted(package: object) -> object:
        calls.append(package)
        return Inverted(package) if len(calls) == 2 else original(package)

    monkeypatch.setattr(module, "runner", second_is_inverted)
    with pytest.raises(ValueError, match=r"agree with those in use by 0\.000 .* 0\.9 are required; tiny-v1-"):
        install(second, device, frames=dark, min_agreement=0.9)
    current = in_use(device)
    assert current is not None and current.name.startswith("tiny-v1-")


def module_self_test_failed() -> object:
    from deploy.package.golden import SelfTest

    return SelfTest(1, 0.0, 0.0, False, "broken")


@pytest.mark.parametrize("name", ["heart", "atrium"])
def test_grey_frames_and_slices_run_beside_the_model_in_use(
    name: str, device: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.delenv(TRUSTED)
    new = tmp_path / "new"
    shutil.copytree(located(f"zoo/{name}"), new)
    finalize(new, replace(open_package(new).card, version=2))
    install(Path(f"zoo/{name}"), device)
    shadow = install(new, device, min_agreement=0.99).shadow
    assert shadow is not None and shadow.frames >= 1 and shadow.mean_dice == 1.0


def test_an_agreement_that_cannot_be_measured_is_no_agreement(
    releases: tuple[Path, Path, Path], device: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.delenv(TRUSTED)
    install(releases[0], device)
    lines: list[str] = []
    with pytest.raises(ValueError, match=r"other classes .* an agreement of 0\.5 is required; tiny-v1-.* stays in use"):
        install(Path("zoo/heart"), device, min_agreement=0.5)
    assert version_in_use(device) == 1
    install(Path("zoo/heart"), device, log=lines.append)
    assert "nothing is compared: the ship in use has other classes" in lines[-1]


def test_a_tampered_ship_is_not_installed(releases: tuple[Path, Path, Path], device: Path, tmp_path: Path) -> None:
    bad = tmp_path / "bad"
    shutil.copytree(releases[1], bad)
    with (bad / "model.onnx").open("ab") as file:
        file.write(b"x")
    install(releases[0], device)
    with pytest.raises(ValueError, match="changed since the card was written"):
        install(bad, device)
    assert version_in_use(device) == 1


@pytest.mark.parametrize(
    ("args", "why"),
    [([], "name the new ship, or give --back without one"), (["{ship}", "--back"], "or give --back without one"),
     (["--back"], "no previous ship to go back to"), (["{ship}", "--frames", "none"], "no such folder"),
     (["{ship}", "--min-agreement", "2"], "must be between 0 and 1")],
)  # fmt: skip
def test_bad_arguments_are_one_line(
    releases: tuple[Path, Path, Path], device: Path, capsys: pytest.CaptureFixture[str], args: list[str], why: str
) -> None:
    install(releases[1], device)
    with pytest.raises(SystemExit) as error:
        main(["install", "--to", str(device), *(arg.format(ship=releases[1]) for arg in args)])
    assert error.value.code == 2 and why in capsys.readouterr().err


def test_a_folder_in_the_place_of_the_link_is_left_as_it_is(releases: tuple[Path, Path, Path], device: Path) -> None:
    (device / "current").mkdir(parents=True)
    with pytest.raises(ValueError, match="is no link that edgemt install made"):
        install(releases[0], device)
    assert os.listdir(device / "current") == []
