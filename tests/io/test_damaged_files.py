"""Damaged files of every kind that is read: each one is read or refused with a ValueError of one line."""

from __future__ import annotations

import json
import signal
import warnings
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from edgemt.model_card import FileMetrics

pytest.importorskip("onnx")

from tiny_package import make_ship  # noqa: E402

from deploy.package.golden import golden_pairs  # noqa: E402
from deploy.package.input_drift import InputStatistics, measure  # noqa: E402
from deploy.package.onnx_inspect import read_graph_file  # noqa: E402
from deploy.package.package import finalize, open_package  # noqa: E402
from deploy.runtimes.tensorrt_engine_cache import EngineKey, open_engine, write_engine  # noqa: E402
from edgemt.model_card import ModelCard  # noqa: E402

pytestmark = pytest.mark.slow
ROUNDS = 400
PLAIN: list[Any] = [
    None,
    True,
    -1,
    0,
    10**400,
    1.5,
    float("nan"),
    "",
    "x" * 300,
    [],
    {},
    [[]],
    {"a": {}},
    "\ud800",
    "NaN",
]
LONGEST_S = 20


def damaged(data: bytes, draw: np.random.Generator) -> bytes:
    """A few bytes changed, cut out, repeated or put in, now and then the end missing."""
    raw = bytearray(data)
    for _ in range(draw.integers(1, 6)):
        at, many = int(draw.integers(0, len(raw) + 1)), int(draw.integers(1, 9))
        kind = draw.integers(0, 5)
        if kind == 0:
            raw[at : at + many] = draw.bytes(many)
        elif kind == 1:
            del raw[at : at + many]
        elif kind == 2:
            raw[at:at] = draw.choice(np.frombuffer(b"\x00\x01\x7f\x80\xff", np.uint8), many).tobytes()
        elif kind == 3 and at < len(raw):
            raw[at] ^= 1 << int(draw.integers(0, 8))
        elif draw.random() < 0.2:
            del raw[at:]
    return bytes(raw)


def changed(value: Any, draw: np.random.Generator) -> Any:
    """JSON with one value somewhere in it replaced, removed or renamed."""
    value = json.loads(json.dumps(value))
    at = value
    while True:
        keys = list(at) if isinstance(at, dict) else list(range(len(at)))
        if not keys:
            return value
        key = keys[int(draw.integers(0, len(keys)))]
        if isinstance(at[key], (dict, list)) and at[key] and draw.random() < 0.7:
            at = at[key]
            continue
        kind = draw.random()
        if kind < 0.75:
            at[key] = PLAIN[int(draw.integers(0, len(PLAIN)))]
        elif kind < 0.9:
            del at[key]
        elif isinstance(at, dict):
            at[f"{key}x"] = at.pop(key)
        return value


def one_line_or_read(read: Callable[[], object], failed: list[str], what: str) -> bool:
    """Whether it was read. What is neither is noted in `failed`."""

    def too_long(*_: object) -> None:
        raise TimeoutError(f"took more than {LONGEST_S} s")

    before = signal.signal(signal.SIGALRM, too_long)
    signal.alarm(LONGEST_S)
    try:
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")
            read()
        return True
    except ValueError as error:
        if "\n" in str(error) or type(error).__name__ == "UnicodeDecodeError":
            failed.append(f"{what}: {type(error).__name__}: {str(error)[:200]!r}")
    except BaseException as error:
        failed.append(f"{what}: {type(error).__name__}: {str(error)[:200]!r}")
    finally:
        signal.alarm(0)
        signal.signal(signal.SIGALRM, before)
    return False


def fuzz(
    good: bytes, file: Path, read: Callable[[Path], object], *, rounds: int, text: bool = False, whole: bool = True
) -> None:
    """`whole`: the undamaged file is read."""
    draw, failed, fine = np.random.default_rng(7), list[str](), 0
    file.write_bytes(good)
    assert one_line_or_read(lambda: read(file), failed, "unchanged") or not whole, failed
    for i in range(rounds):
        if text and draw.random() < 0.8:
            data = json.dumps(changed(json.loads(good), draw)).encode("utf-8", "surrogatepass")
        else:
            data = damaged(good, draw)
        file.write_bytes(data)
        fine += one_line_or_read(lambda: read(file), failed, f"round {i}")
    assert not failed, f"{len(failed)} of {rounds}:\n" + "\n".join(failed[:20])


def test_cards(tmp_path: Path) -> None:
    def read(file: Path) -> None:
        card = ModelCard.from_json(file.read_bytes().decode("utf-8", "replace"), source=file)
        card.to_json()

    ship = make_ship(tmp_path / "ship")
    fuzz((ship.folder / "card.json").read_bytes(), tmp_path / "card.json", read, rounds=ROUNDS, text=True)


def test_ships(tmp_path: Path) -> None:
    """A card that was changed and whose hashes still fit."""
    from deploy.measurement.variants import fastest

    ship = make_ship(tmp_path / "ship", measured={"model.onnx": FileMetrics(dice=0.9)})

    def read(file: Path) -> None:
        opened = open_package(file.parent)
        golden_pairs(opened)
        fastest(opened.card)

    card = ship.folder / "card.json"
    fuzz(card.read_bytes(), card, read, rounds=ROUNDS, text=True)


def test_networks_of_cards(tmp_path: Path) -> None:
    pytest.importorskip("timm")
    from edgemt.artefacts.network_folder import load_network, save_network
    from students import build

    network = {
        "room": "students",
        "name": "test_efficientnet",
        "channels": 3,
        "classes": 2,
        "heads": [],
        "options": {"pretrained": "never", "drop_path_rate": 0.1},
    }
    fresh = build("test_efficientnet", channels=3, classes=2)
    save_network(tmp_path, fresh, ModelCard(classes=("a", "b"), size=(32, 32), network=network))
    card = tmp_path / "card.json"
    raw = json.loads(card.read_text())
    only = {"format": 1, "network": raw["network"]}
    fuzz(json.dumps(only).encode(), card, lambda file: load_network(file.parent), rounds=120, text=True)


def test_graphs(tmp_path: Path) -> None:
    ship = make_ship(tmp_path / "ship")
    for name in ("model.onnx", "model.int8.onnx"):
        fuzz((ship.folder / name).read_bytes(), tmp_path / "m.onnx", read_graph_file, rounds=ROUNDS)


def test_graphs_that_runtimes_load(tmp_path: Path) -> None:
    """What the walker lets through is a whole file; a runtime refuses it in one line or runs it."""
    pytest.importorskip("onnxruntime")
    from deploy.runtimes.load import runner

    ship = make_ship(tmp_path / "ship")
    load = lambda file: runner(file, runtime="onnxruntime", threads=1)  # noqa: E731
    fuzz((ship.folder / "model.onnx").read_bytes(), tmp_path / "m.onnx", load, rounds=300)


def test_golden_pictures(tmp_path: Path) -> None:
    ship = make_ship(tmp_path / "ship")
    picture = ship.folder / "golden" / "frame0.png"

    def read(file: Path) -> None:
        finalize(ship.folder, ship.card)
        golden_pairs(open_package(ship.folder))

    fuzz(picture.read_bytes(), picture, read, rounds=200)


def test_statistics_of_inputs(tmp_path: Path) -> None:
    frames = np.random.default_rng(0).integers(0, 256, (30, 16, 16, 3), dtype=np.uint8)

    def parsed(file: Path) -> None:
        InputStatistics.from_json(file.read_bytes().decode("utf-8", "replace"), source=file)

    fuzz(measure(frames).to_json().encode(), tmp_path / "inputs.json", parsed, rounds=ROUNDS, text=True)


def test_engine_records(tmp_path: Path) -> None:
    key = EngineKey("a" * 64, "tensorrt", "10.3.0", options={"precision": "tf32"})
    engine = write_engine(tmp_path, tmp_path / "model.onnx", key=key, data=b"engine", facts={})
    record = engine.path.with_suffix(".json")
    fuzz(record.read_bytes(), record, lambda _: open_engine(engine.path, key).read(), rounds=ROUNDS, text=True)


def test_dataset_json(tmp_path: Path) -> None:
    from edgemt.data.layouts.nnunet import list_nnunet

    for folder in ("imagesTr", "labelsTr", "imagesTs"):
        (tmp_path / folder).mkdir()
        (tmp_path / folder / "a.nii.gz").write_bytes(b"x")
    entry = {"image": "./imagesTr/a.nii.gz", "label": "./labelsTr/a.nii.gz"}
    raw = {
        "name": "Set",
        "labels": {"0": "background", "1": "organ"},
        "modality": {"0": "MRI"},
        "numTraining": 1,
        "training": [entry],
        "test": ["./imagesTs/a.nii.gz"],
    }
    read = lambda file: list_nnunet(file.parent, pattern="(.*)", classes=("background", "organ"))  # noqa: E731
    fuzz(json.dumps(raw).encode(), tmp_path / "dataset.json", read, rounds=ROUNDS, text=True)
    new = {"labels": {"background": 0, "organ": 1}, "channel_names": {"0": "CT"}, "file_ending": ".nii.gz"}
    fuzz(json.dumps(new).encode(), tmp_path / "dataset.json", read, rounds=ROUNDS, text=True)


def test_h5_files(tmp_path: Path) -> None:
    h5py = pytest.importorskip("h5py")
    from edgemt.io.hdf5 import dataset_names
    from edgemt.io.volumes import read_label_volume, read_volume, volume_shape

    with h5py.File(tmp_path / "good.h5", "w") as file:
        file["image"] = np.random.default_rng(0).random((8, 8, 4), np.float32)
        file.create_dataset("label", data=np.eye(8, dtype=np.uint8)[..., None].repeat(4, 2), compression="gzip")

    def read(path: Path) -> None:
        dataset_names(path), volume_shape(path), read_volume(path), read_label_volume(path)

    fuzz((tmp_path / "good.h5").read_bytes(), tmp_path / "a.h5", read, rounds=ROUNDS)


@pytest.mark.parametrize("suffix", [".nii", ".nii.gz"])
def test_nifti_files(tmp_path: Path, suffix: str) -> None:
    nibabel = pytest.importorskip("nibabel")
    from edgemt.io.volumes import read_label_volume, read_volume, volume_shape

    array = np.random.default_rng(0).integers(0, 100, (8, 9, 10)).astype(np.int16)
    nibabel.save(nibabel.Nifti1Image(array, np.diag([1, 2, 3, 1])), tmp_path / f"good{suffix}")

    def read(path: Path) -> None:
        volume_shape(path), read_volume(path), read_label_volume(path)

    fuzz((tmp_path / f"good{suffix}").read_bytes(), tmp_path / f"a{suffix}", read, rounds=ROUNDS)


@pytest.mark.parametrize("suffix", [".png", ".jpg", ".bmp", ".tif", ".webp"])
def test_pictures(tmp_path: Path, suffix: str) -> None:
    from PIL import Image

    from edgemt.io.images import read_image, read_label

    Image.fromarray(np.random.default_rng(0).integers(0, 256, (20, 24, 3), dtype=np.uint8)).save(
        tmp_path / f"g{suffix}"
    )

    data, file = (tmp_path / f"g{suffix}").read_bytes(), tmp_path / f"a{suffix}"
    fuzz(data, file, read_image, rounds=ROUNDS)
    fuzz(data, file, read_label, rounds=ROUNDS, whole=False)


def test_dicom_files(tmp_path: Path) -> None:
    pydicom = pytest.importorskip("pydicom")
    pytest.importorskip("deploy.dicom.pixels")
    from deploy.dicom.images import series_of

    image = pydicom.Dataset()
    image.file_meta = pydicom.dataset.FileMetaDataset()
    image.file_meta.TransferSyntaxUID = pydicom.uid.ExplicitVRLittleEndian
    image.file_meta.MediaStorageSOPClassUID = image.SOPClassUID = "1.2.840.10008.5.1.4.1.1.7"
    image.file_meta.MediaStorageSOPInstanceUID = image.SOPInstanceUID = "1.2.3"
    image.SeriesInstanceUID, image.StudyInstanceUID, image.InstanceNumber = "1.2.4", "1.2.5", 1
    image.Rows, image.Columns, image.SamplesPerPixel, image.PixelRepresentation = 16, 16, 1, 0
    image.BitsAllocated, image.BitsStored, image.HighBit, image.PhotometricInterpretation = 16, 12, 11, "MONOCHROME2"
    image.WindowCenter, image.WindowWidth = 2000, 1000
    image.PixelData = np.random.default_rng(0).integers(0, 4096, (16, 16), dtype=np.uint16).tobytes()
    image.save_as(tmp_path / "good.dcm", enforce_file_format=True)

    def read(path: Path) -> None:
        for series in series_of([path]):
            for file in series.files:
                series.frames(file)

    fuzz((tmp_path / "good.dcm").read_bytes(), tmp_path / "a.dcm", read, rounds=ROUNDS)
