"""What one file can make a reader do: no other file is opened, no bomb decoded, no folder left."""

from __future__ import annotations

import json
import os
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest

from edgemt.io import decode_limits
from edgemt.io.child_process import environment
from edgemt.io.decode_limits import check_bytes, check_pixels, free_memory
from edgemt.io.plain_files import parse_json, read_regular

POSIX = pytest.mark.skipif(sys.platform == "win32", reason="no FIFO there")


def one_line(error: pytest.ExceptionInfo[ValueError], *parts: str) -> None:
    assert "\n" not in str(error.value)
    for part in parts:
        assert part in str(error.value), error.value


def test_a_picture_of_too_many_pixels_is_refused() -> None:
    check_pixels("a.png", 8192, 8192)
    with pytest.raises(ValueError) as error:
        check_pixels("a.png", 30_000, 30_000)
    one_line(error, "a.png", "30000 x 30000", "resize")


def test_a_volume_that_does_not_fit_is_refused_before_it_is_read(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(decode_limits, "free_memory", lambda: 4 << 30)
    check_bytes("a.nii.gz", (512, 512, 1000), 8)
    with pytest.raises(ValueError) as error:
        check_bytes("a.nii.gz", (2048, 2048, 900), 1)
    one_line(error, "a.nii.gz", "2048 x 2048 x 900", "3.5 GiB", "2.8 GiB")
    monkeypatch.setattr(decode_limits, "free_memory", lambda: None)
    with pytest.raises(ValueError, match="8.0 GiB may be used"):
        check_bytes("a.dcm", (2**20, 2**20), 1)


@pytest.mark.skipif(sys.platform != "linux", reason="ulimit -v is Linux's")
def test_a_limit_of_the_process_counts() -> None:
    code = (
        "import resource; resource.setrlimit(resource.RLIMIT_AS, (1 << 30, 1 << 30))\n"
        "from edgemt.io.decode_limits import check_bytes, free_memory\n"
        "assert free_memory() < 1 << 30\n"
        "try: check_bytes('a.nii.gz', (1000, 1000, 1000), 1)\n"
        "except ValueError as error: print(error)"
    )
    done = subprocess.run([sys.executable, "-c", code], env=environment(), capture_output=True, text=True, check=True)
    assert done.stdout.startswith("a.nii.gz: decodes to")
    free = free_memory()
    assert free is None or free > 0


@POSIX
def test_only_regular_files_are_read(tmp_path: Path) -> None:
    os.mkfifo(tmp_path / "fifo")
    (tmp_path / "big").write_bytes(b"x" * 100)
    for name, part in (("fifo", "no regular file"), ("", "no regular file"), ("big", "at most 10")):
        with pytest.raises(ValueError) as error:
            read_regular(tmp_path / name, limit=10)
        one_line(error, name, part)
    with pytest.raises(ValueError, match="no regular file"):
        read_regular("/dev/zero")
    with pytest.raises(FileNotFoundError):
        read_regular(tmp_path / "gone")
    assert read_regular(tmp_path / "big") == b"x" * 100


def test_json_nested_too_deeply_is_a_value_error() -> None:
    assert parse_json("[1]") == [1]
    with pytest.raises(ValueError, match="nested too deeply"):
        parse_json("[" * 100_000 + "]" * 100_000)


@pytest.fixture
def decathlon(tmp_path: Path) -> Path:
    root = tmp_path / "set"
    for folder in ("imagesTr", "labelsTr"):
        (root / folder).mkdir(parents=True)
        (root / folder / "a.nii.gz").write_bytes(b"x")
    (tmp_path / "secret.nii.gz").write_bytes(b"x")
    return root


def listed(root: Path, **changes: object) -> object:
    from edgemt.data.layouts.nnunet import list_nnunet

    training = [{"image": "./imagesTr/a.nii.gz", "label": "./labelsTr/a.nii.gz"}]
    raw = {"labels": {"0": "background", "1": "organ"}, "training": training, **changes}
    (root / "dataset.json").write_text(json.dumps(raw))
    return list_nnunet(root, pattern="(.*)", classes=("background", "organ"))


PLACES = ["../secret.nii.gz", "SECRET", "imagesTr/../../secret.nii.gz", 7, None, ["a"]]


@pytest.mark.parametrize("name", PLACES)
@pytest.mark.parametrize("field", ["image", "label", "test"])
def test_a_dataset_json_names_files_of_its_own_folder_alone(decathlon: Path, field: str, name: object) -> None:
    secret = decathlon.parent / "secret.nii.gz"
    if name == "SECRET":
        name = str(secret)
    assert listed(decathlon)
    entry = {"image": "./imagesTr/a.nii.gz", "label": "./labelsTr/a.nii.gz"}
    changes = {"test": [name]} if field == "test" else {"training": [{**entry, field: name}]}
    with pytest.raises(ValueError) as error:
        listed(decathlon, **changes)
    one_line(error, "dataset.json")


@pytest.mark.parametrize("raw", [{"file_ending": "/../../*"}, {"file_ending": 3}, {"test": 7}, {"labels": {"0": []}}])
def test_a_dataset_json_that_makes_no_sense_is_one_line(decathlon: Path, raw: dict[str, object]) -> None:
    with pytest.raises(ValueError) as error:
        listed(decathlon, **{"training": None, **raw})
    one_line(error, "dataset.json")


def test_links_out_of_an_h5_file_are_not_followed(tmp_path: Path) -> None:
    h5py = pytest.importorskip("h5py")
    from edgemt.io.hdf5 import local_dataset

    with h5py.File(tmp_path / "secret.h5", "w") as file:
        file["image"] = np.ones((4, 4))
    (tmp_path / "raw.bin").write_bytes(b"secret.." * 16)
    with h5py.File(tmp_path / "a.h5", "w") as file:
        file["plain"] = np.zeros((2, 2))
        file["soft"] = h5py.SoftLink("/plain")
        file["group/relative"] = h5py.SoftLink("own")
        file["group/own"] = np.zeros(3)
        file["image"] = h5py.ExternalLink(str(tmp_path / "secret.h5"), "/image")
        file["through"] = h5py.SoftLink("/image")
        file["far"] = h5py.ExternalLink(str(tmp_path / "secret.h5"), "/")
        file["behind"] = h5py.SoftLink("/far/image")
        file.create_dataset("stored", (16,), "f8", external=[(str(tmp_path / "raw.bin"), 0, 128)])
        layout = h5py.VirtualLayout((4, 4), "f8")
        layout[:] = h5py.VirtualSource(str(tmp_path / "secret.h5"), "image", (4, 4))
        file.create_virtual_dataset("virtual", layout)
        file["round"] = h5py.SoftLink("/about")
        file["about"] = h5py.SoftLink("/round")
    with h5py.File(tmp_path / "a.h5") as file:
        for name, shape in (("plain", (2, 2)), ("soft", (2, 2)), ("group/relative", (3,))):
            assert local_dataset(file, name, path="a.h5").shape == shape
        for name in ("image", "through", "behind", "stored", "virtual", "round", "group", "gone", "far"):
            with pytest.raises(ValueError) as error:
                local_dataset(file, name, path="a.h5")
            one_line(error, "a.h5", name)


def test_bombs_are_refused_by_the_readers_before_they_are_decoded(tmp_path: Path) -> None:
    """A PNG of 20 kB with 144 million pixels, a .nii.gz of 100 bytes and an .h5 file of 64 GiB."""
    pytest.importorskip("nibabel")
    h5py = pytest.importorskip("h5py")
    import gzip

    import nibabel
    from PIL import Image

    from edgemt.io.images import read_image, read_label
    from edgemt.io.volumes import read_volume

    Image.new("1", (12_000, 12_000)).save(tmp_path / "a.png")
    header = nibabel.Nifti1Header()
    header.set_data_shape((4096, 4096, 2048))
    header.set_data_dtype(np.int16)
    header["vox_offset"] = 352
    header["magic"] = b"n+1"
    (tmp_path / "a.nii.gz").write_bytes(gzip.compress(header.binaryblock + b"\0" * 8))
    with h5py.File(tmp_path / "a.h5", "w") as file:
        file.create_dataset("image", (2048, 4096, 8192), "u1", chunks=(64, 64, 64), compression="gzip")
    for name, read in (("a.png", read_image), ("a.png", read_label), ("a.nii.gz", read_volume), ("a.h5", read_volume)):
        with pytest.raises(ValueError) as error:
            read(tmp_path / name)
        one_line(error, name, "12000 x 12000" if name == "a.png" else "GiB may be used")


def test_a_volume_behind_a_link_is_not_read(tmp_path: Path) -> None:
    h5py = pytest.importorskip("h5py")
    from edgemt.io.volumes import read_volume, volume_shape

    with h5py.File(tmp_path / "secret.h5", "w") as file:
        file["image"] = np.random.default_rng(0).random((4, 4, 4))
    with h5py.File(tmp_path / "a.h5", "w") as file:
        file["image"] = h5py.ExternalLink(str(tmp_path / "secret.h5"), "/image")
    for read in (read_volume, volume_shape):
        with pytest.raises(ValueError) as error:
            read(tmp_path / "a.h5")
        one_line(error, "a.h5", "in another file")
