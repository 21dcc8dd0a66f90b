"""What a cache holds runs only if this user's programs wrote it."""

from __future__ import annotations

import hashlib
import json
import os
import stat
import sys
from pathlib import Path

import numpy as np
import pytest

pytest.importorskip("onnx")

from tiny_package import expected, frame, make_ship  # noqa: E402

from deploy.package.package import Package  # noqa: E402
from deploy.runtimes import (
    cache_seal,
    onnxruntime_backend,  # noqa: E402
)
from deploy.runtimes.cache_seal import KEY_FILE, mac, private_folder, read_sealed, write_sealed  # noqa: E402
from deploy.runtimes.load import runner  # noqa: E402
from deploy.runtimes.runner import RuntimeOptions  # noqa: E402
from deploy.runtimes.tensorrt_engine_cache import (  # noqa: E402
    EngineKey,
    EngineNotBuiltError,
    cache_folder,
    find_engine,
    open_engine,
    write_engine,
)

FRAME = frame(5)[None]
POSIX = pytest.mark.skipif(sys.platform == "win32", reason="no modes there")


@pytest.fixture
def key(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    file = tmp_path / "config" / "cache.key"
    monkeypatch.setenv(KEY_FILE, str(file))
    return file


@pytest.fixture
def ship(tmp_path: Path) -> Package:
    pytest.importorskip("openvino")
    return make_ship(tmp_path / "ship", openvino=True)


def test_a_sealed_file_comes_back_in_its_own_place_alone(tmp_path: Path, key: Path) -> None:
    write_sealed(tmp_path / "a", "blob of x", b"content")
    assert read_sealed(tmp_path / "a", "blob of x") == b"content"
    assert read_sealed(tmp_path / "a", "blob of y") is None
    assert read_sealed(tmp_path / "missing", "blob of x") is None
    data = bytearray((tmp_path / "a").read_bytes())
    for at in (0, 31, 32, len(data) - 1):
        bad = data.copy()
        bad[at] ^= 1
        (tmp_path / "a").write_bytes(bad)
        assert read_sealed(tmp_path / "a", "blob of x") is None, at
    (tmp_path / "a").write_bytes(data[:20])
    assert read_sealed(tmp_path / "a", "blob of x") is None


@POSIX
def test_the_key_is_made_once_for_its_owner_alone(key: Path) -> None:
    first = mac("a", b"b")
    assert stat.S_IMODE(key.stat().st_mode) == 0o600
    assert mac("a", b"b") == first != mac("a", b"c")
    key.chmod(0o644)
    with pytest.raises(ValueError, match=r"cache\.key: others may write or read it; chmod 600"):
        mac("a", b"b")
    key.chmod(0o600)
    key.write_bytes(b"short")
    with pytest.raises(ValueError, match=r"cache\.key: holds 5 bytes"):
        mac("a", b"b")


@POSIX
def test_a_cache_that_others_may_write_is_refused(tmp_path: Path, key: Path, ship: Package) -> None:
    folder = tmp_path / "cache"
    assert stat.S_IMODE(private_folder(folder).stat().st_mode) == 0o700
    folder.chmod(0o777)
    with pytest.raises(ValueError, match="others may write or read it; chmod go-w"):
        runner(ship, runtime="openvino", threads=1, cache=folder)
    with pytest.raises(ValueError, match="chmod go-w"):
        find_engine(folder, ship.path("model.onnx"), KEY)
    if os.geteuid() == 0:
        folder.chmod(0o700)
        os.chown(folder, 12345, 12345)
        with pytest.raises(ValueError, match="belongs to another user"):
            private_folder(folder)


def test_a_foreign_openvino_blob_is_compiled_anew(ship: Package, tmp_path: Path, key: Path) -> None:
    """A blob of another graph under the right name, made by OpenVINO itself: it would run without a seal."""
    import openvino as ov

    cache = tmp_path / "cache"
    requested = {"runtime": "openvino", "threads": 1, "cache": cache, "file": "openvino/model.xml"}
    assert not runner(ship, **requested).details["from_cache"]
    assert runner(ship, **requested).details["from_cache"]
    (blob,) = cache.iterdir()
    core = ov.Core()
    x = ov.opset13.parameter([1, 32, 40, 3], np.uint8)
    ones = ov.opset13.constant(np.ones((1, 32, 40), np.uint8))
    forged = core.compile_model(ov.Model([ones], [x]), "CPU").export_model()
    forged = forged if isinstance(forged, bytes) else forged.getvalue()
    for content in (forged, mac("forged", forged) + forged, b"x" * 32 + forged, b""):
        blob.write_bytes(content)
        made = runner(ship, **requested)
        assert not made.details["from_cache"]
        assert np.array_equal(made(FRAME)[0], expected(FRAME[0]))
        assert runner(ship, **requested).details["from_cache"], "the foreign one was replaced"


def test_a_blob_of_another_users_key_is_not_used(ship: Package, tmp_path: Path, key: Path) -> None:
    requested = {"runtime": "openvino", "threads": 1, "cache": tmp_path / "cache"}
    runner(ship, **requested)
    key.unlink()
    assert not runner(ship, **requested).details["from_cache"]


KEY = EngineKey("a" * 64, "tensorrt", "10.3.0", options={"precision": "tf32"})


def test_a_forged_engine_with_a_fitting_record_is_refused(tmp_path: Path, key: Path) -> None:
    folder = tmp_path / "cache"
    engine = write_engine(folder, tmp_path / "model.onnx", key=KEY, data=b"engine", facts={})
    assert find_engine(folder, tmp_path / "model.onnx", KEY).read() == b"engine"
    record = json.loads(engine.path.with_suffix(".json").read_text())
    forged = {**record, "engine_sha256": hashlib.sha256(b"forged").hexdigest(), "bytes": 6}
    engine.path.write_bytes(b"forged")
    for bad in (forged, {k: v for k, v in forged.items() if k != "mac"}, {**forged, "mac": 7}, {**forged, "mac": "zz"}):
        engine.path.with_suffix(".json").write_text(json.dumps(bad))
        with pytest.raises(ValueError, match="was not written with this user's key"):
            open_engine(engine.path, KEY)
        with pytest.raises(EngineNotBuiltError, match=r"its engine is not used: .*run: edgemt build"):
            find_engine(folder, tmp_path / "model.onnx", KEY)


def test_an_engine_runs_where_its_builders_key_is(tmp_path: Path, key: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    engine = write_engine(tmp_path / "cache", tmp_path / "model.onnx", key=KEY, data=b"engine", facts={})
    copied = tmp_path / "copied.key"
    copied.write_bytes(key.read_bytes())
    copied.chmod(0o600)
    monkeypatch.setenv(KEY_FILE, str(tmp_path / "another.key"))
    with pytest.raises(ValueError, match="copy that key"):
        open_engine(engine.path, KEY)
    monkeypatch.setenv(KEY_FILE, str(copied))
    assert open_engine(engine.path, KEY).read() == b"engine"


def test_engines_that_onnxruntime_caches_are_not_used_for_a_signed_ship(tmp_path: Path) -> None:
    class Ort:
        @staticmethod
        def get_available_providers() -> list[str]:
            return list(onnxruntime_backend.PROVIDERS.values())

    cache = tmp_path / "cache"
    for signed in (False, True):
        choice = RuntimeOptions(threads=1, cache=cache, signed=signed)
        ((_, settings),) = onnxruntime_backend._providers(Ort, "TENSORRT", choice, quantized=True)
        assert ("trt_engine_cache_path" in settings) is not signed


def test_without_a_home_folder_nothing_is_stored_and_the_remedy_is_named(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    for name in (KEY_FILE, "EDGEMT_CACHE", "XDG_CACHE_HOME", "XDG_CONFIG_HOME"):
        monkeypatch.delenv(name, raising=False)

    def no_home() -> Path:
        raise RuntimeError("Could not determine home directory.")

    monkeypatch.setattr(Path, "home", no_home)
    with pytest.raises(ValueError, match="set EDGEMT_CACHE to a folder"):
        cache_folder()
    with pytest.raises(ValueError, match=f"set {KEY_FILE} to a file"):
        mac("a", b"b")


def test_a_key_that_cannot_be_written_names_the_remedy(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    (tmp_path / "file").write_text("")
    monkeypatch.setenv(KEY_FILE, str(tmp_path / "file" / "cache.key"))
    with pytest.raises(ValueError, match=rf"cache\.key: no key .*set {KEY_FILE}"):
        mac("a", b"b")
    assert cache_seal.key_file() == tmp_path / "file" / "cache.key"
