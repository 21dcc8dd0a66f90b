"""The folder for a program in C++, and the reference loop in it: built, and compared bit for bit with the runner."""

from __future__ import annotations

import os
import shutil
import subprocess
from dataclasses import replace
from pathlib import Path

import numpy as np
import onnx
import PIL
import pytest
from tiny_package import CHANNELS, CLASSES, SIZE, expected, frame, make_ship

from deploy.package.package import Package, open_package
from deploy.runtimes.load import runner
from deploy.serving.cpp_loop import SOURCES, netpbm, write_cpp
from edgemt import cli
from edgemt.io.images import fit_frame, fit_label

HEADER = "EDGEMT_ONNXRUNTIME_INCLUDE"  # folder of onnxruntime_c_api.h, which the Python package does not hold
SIZES = ((32, 40), (31, 57), (200, 300), (64, 17), (7, 9), (33, 641), (480, 39), (508, 223))  # of images: rows, columns
MODELS = {
    "rgb": {},
    "grey": {"channels": 1},
    "five": {"channels": 5, "channel_order": "slices"},
    "uncertain": {"uncertainty": True},
}


def fitted_alike(shape: tuple[int, ...], size: tuple[int, ...]) -> bool:
    """Whether this Pillow takes rows and columns in the order of the loop, which is that of Pillow 13."""
    down, across = shape[0] - size[0], shape[1] - size[1]
    return int(PIL.__version__.split(".")[0]) >= 13 or not (down > 0 and down > 2 * across)


def read_pgm(path: Path) -> np.ndarray:
    magic, size, most, pixels = path.read_bytes().split(b"\n", 3)
    assert (magic, most) == (b"P5", b"255")
    columns, rows = map(int, size.split())
    return np.frombuffer(pixels, np.uint8).reshape(rows, columns)


def test_folder_holds_what_the_loop_must_know(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    make_ship(tmp_path / "ship")
    cli.main(["export", str(tmp_path / "ship"), "--serve", "cpp", "--out", str(tmp_path / "out")])
    folder = Path(capsys.readouterr().out.strip())
    lines = (folder / "model.txt").read_text().splitlines()
    assert lines[:5] == ["edgemt-model 1", "name tiny int8", "graph model.onnx", "size 32 40", f"channels {CHANNELS}"]
    assert [line.partition(" ")[2] for line in lines if line.startswith("class ")] == list(CLASSES)
    assert lines[-2:] == ["golden 0 0.9500", "golden 1 0.9500"]
    assert (folder / "model.onnx").read_bytes() == (tmp_path / "ship" / "model.int8.onnx").read_bytes()
    assert np.array_equal(read_pgm(folder / "golden" / "1.mask.pgm"), expected(frame(1)))
    assert (folder / "golden" / "1.ppm").read_bytes() == b"P6\n40 32\n255\n" + frame(1).tobytes()
    for source in SOURCES:
        assert (folder / source).read_bytes() == (Path(__file__).parents[3] / "deploy" / "cpp" / source).read_bytes()


def overlapping(ship: Package) -> Package:
    return replace(ship, card=replace(ship.card, overlapping=True))


def test_bits_of_overlapping_classes_are_stated(tmp_path: Path) -> None:
    ship = make_ship(tmp_path / "ship")
    assert "overlapping" not in (write_cpp(ship, tmp_path / "a", name="x") / "model.txt").read_text()
    text = (write_cpp(overlapping(ship), tmp_path / "b", name="x") / "model.txt").read_text()
    assert "\noverlapping 1\n" in text


def test_graph_that_the_ship_lacks_is_named(tmp_path: Path) -> None:
    with pytest.raises(ValueError, match="model.fp16.onnx"):
        write_cpp(make_ship(tmp_path / "ship"), tmp_path / "out", name="x", kind="fp16")


@pytest.fixture(scope="module")
def program(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The loop, built with OpenVINO's package and, where its header is named, for ONNX Runtime."""
    utils = pytest.importorskip("openvino.utils")
    if shutil.which("cmake") is None or shutil.which("c++") is None:
        pytest.skip("cmake and a C++ compiler build the loop")
    build = tmp_path_factory.mktemp("build")
    source = Path(__file__).parents[3] / "deploy" / "cpp"
    header = [f"-DONNXRUNTIME_INCLUDE_DIR={os.environ[HEADER]}"] if HEADER in os.environ else []
    for command in (
        ["cmake", "-S", source, "-B", build, f"-DOpenVINO_DIR={utils.get_cmake_path()}", *header],
        ["cmake", "--build", build],
    ):
        done = subprocess.run(command, capture_output=True, text=True, timeout=600)
        assert done.returncode == 0, done.stdout + done.stderr
        assert "warning" not in done.stderr
    return build / "edgemt_run"


def library() -> list[str]:
    import onnxruntime

    (found,) = (Path(onnxruntime.__file__).parent / "capi").glob("libonnxruntime.so*")
    return ["--library", str(found)]


def call(program: Path, *arguments: object) -> subprocess.CompletedProcess[str]:
    return subprocess.run([program, *map(str, arguments)], capture_output=True, text=True, timeout=120)


def check_same_masks(program: Path, runtime: str, model: Path, planes: int, work: Path) -> None:
    """Random images of SIZES: each mask of the loop has the bits of the runner's, in the size of the image."""
    if runtime == "onnxruntime" and HEADER not in os.environ:
        pytest.skip(f"{HEADER} names the folder of onnxruntime_c_api.h")
    draw = np.random.default_rng(0)
    images: list[np.ndarray] = []
    made = runner(model / "model.onnx", runtime=runtime, threads=1)
    for rows, columns in (shape for shape in SIZES if fitted_alike(shape, made.shape[1:3])):
        small = draw.integers(0, 256, (rows // 4 + 2, columns // 4 + 2, planes), dtype=np.uint8)
        images.append(np.kron(small, np.ones((4, 4, 1), np.uint8))[:rows, :columns])
        write_planes(work / f"{len(images) - 1}.pnm", images[-1])
    if planes == 3:  # a grey image for a model of colour; and the other way round
        images.append(images[2][..., 0])
    elif planes == 1:
        images.append(np.concatenate([images[2], images[2][::-1], images[2][:, ::-1]], axis=2))
    if planes in (1, 3):
        (work / f"{len(images) - 1}.pnm").write_bytes(netpbm(images[-1]))
    files = [work / f"{i}.pnm" for i in range(len(images))]
    options = ["--runtime", runtime, *(library() if runtime == "onnxruntime" else [])]
    done = call(program, model, *options, "--out", work / "masks", *files)
    assert done.returncode == 0, done.stderr
    for file, image in zip(files, images, strict=True):
        array = image[..., 0] if image.ndim == 3 and image.shape[2] == 1 else image
        given = made(fit_frame(array, size=made.shape[1:3], channels=planes)[None])[0]
        mask = read_pgm(work / "masks" / f"{file.stem}.mask.pgm")
        np.testing.assert_array_equal(mask, fit_label(given, size=image.shape[:2]), err_msg=str(image.shape))


def write_planes(path: Path, image: np.ndarray) -> None:
    """[H, W, K] as a PPM, or as a PGM with the planes side by side."""
    flat = image if image.shape[2] == 3 else image.swapaxes(1, 2).reshape(len(image), -1)
    path.write_bytes(netpbm(flat))


@pytest.mark.slow
@pytest.mark.parametrize("runtime", ["openvino", "onnxruntime"])
@pytest.mark.parametrize("kind", MODELS)
def test_loop_gives_the_bits_of_the_runner(kind: str, runtime: str, program: Path, tmp_path: Path) -> None:
    ship = make_ship(tmp_path / "ship", **MODELS[kind])  # type: ignore[arg-type]
    model = write_cpp(ship, tmp_path / "model", name=kind, kind="fp32")
    check_same_masks(program, runtime, model, ship.card.channels, tmp_path)


@pytest.mark.slow
@pytest.mark.parametrize("runtime", ["openvino", "onnxruntime"])
@pytest.mark.parametrize("entry", ["zoo/polyp_quick", "zoo/atrium"])
def test_loop_gives_the_bits_of_the_runner_for_a_trained_student(
    entry: str, runtime: str, program: Path, tmp_path: Path
) -> None:
    ship = open_package(entry)
    model = write_cpp(ship, tmp_path / "model", name="student")
    check_same_masks(program, runtime, model, ship.card.channels, tmp_path)


@pytest.mark.slow
@pytest.mark.parametrize("planes", [1, 3])
def test_loop_fits_frames_to_the_last_bit(planes: int, program: Path, tmp_path: Path) -> None:
    """A graph that gives its frame back, one channel of it, shows what a network would read."""
    size, draw = (40, 24), np.random.default_rng(planes)
    starts, ends = (np.array(value, np.int64) for value in ([0, 0, 0, planes - 1], [1, *size, planes]))
    constants = [onnx.numpy_helper.from_array(value, name) for name, value in (("a", starts), ("b", ends))]
    constants.append(onnx.numpy_helper.from_array(np.array([1, *size], np.int64), "flat"))
    nodes = [
        onnx.helper.make_node("Slice", ["frame", "a", "b"], ["last"]),
        onnx.helper.make_node("Reshape", ["last", "flat"], ["mask"]),
    ]
    takes = onnx.helper.make_tensor_value_info("frame", onnx.TensorProto.UINT8, [1, *size, planes])
    gives = onnx.helper.make_tensor_value_info("mask", onnx.TensorProto.UINT8, [1, *size])
    graph = onnx.helper.make_graph(nodes, "echo", [takes], [gives], constants)
    onnx.save(
        onnx.helper.make_model(graph, opset_imports=[onnx.helper.make_opsetid("", 20)], ir_version=10),
        tmp_path / "model.onnx",
    )
    text = f"edgemt-model 1\nname echo\ngraph model.onnx\nsize {size[0]} {size[1]}\nchannels {planes}\n"
    (tmp_path / "model.txt").write_text(text)
    shapes = [*SIZES, *draw.integers(1, 400, (20, 2)).tolist()]
    shapes = [shape for shape in shapes if fitted_alike(shape, size)]
    images = [draw.integers(0, 256, (*shape, planes), dtype=np.uint8) for shape in shapes]
    for number, image in enumerate(images):
        write_planes(tmp_path / f"{number}.pnm", image)
    done = call(program, tmp_path, "--out", tmp_path / "out", *(tmp_path / f"{k}.pnm" for k in range(len(images))))
    assert done.returncode == 0, done.stderr
    for number, image in enumerate(images):
        fitted = fit_frame(image[..., 0] if planes == 1 else image, size=size, channels=planes)[..., -1]
        wanted = fit_label(fitted, size=image.shape[:2])
        np.testing.assert_array_equal(read_pgm(tmp_path / "out" / f"{number}.mask.pgm"), wanted, str(image.shape))


@pytest.mark.slow
def test_the_loop_prints_what_the_values_of_a_mask_mean(program: Path, tmp_path: Path) -> None:
    ship = make_ship(tmp_path / "ship")
    names = CLASSES[1:]
    assert len(names) >= 2
    done = call(program, write_cpp(ship, tmp_path / "a", name="tiny"))
    values = ", ".join(f"{k} {name}" for k, name in enumerate(names, 1))
    assert done.stdout.strip().endswith(f"; masks: {values}, 0 background")
    done = call(program, write_cpp(overlapping(ship), tmp_path / "b", name="tiny"))
    values = ", ".join(f"{2**k} {name}" for k, name in enumerate(names))
    assert done.stdout.strip().endswith(f"; masks: {values}, bits that may be set together")


@pytest.mark.slow
def test_whatever_is_wrong_is_one_line_and_status_2(program: Path, tmp_path: Path) -> None:
    model = write_cpp(make_ship(tmp_path / "ship"), tmp_path / "model", name="tiny")
    whole = netpbm(frame())
    for name, content, message in (
        ("cut.ppm", whole[:-7], "cut short"),
        ("deep.ppm", whole.replace(b"255", b"65535"), "8 bits"),
        ("text.ppm", b"P3\n1 1\n255\n0 0 0", "no binary PGM or PPM"),
    ):
        (tmp_path / name).write_bytes(content)
        check_refused(call(program, model, tmp_path / name, "--out", tmp_path / "out"), name, message)
    check_refused(call(program, model, tmp_path / "gone.ppm", "--out", tmp_path / "out"), "gone.ppm", "no such image")
    check_refused(call(program, tmp_path), "model.txt", "--serve cpp")
    check_refused(call(program, model, "--runtime", "tflite"), "tflite", "not built")
    check_refused(call(program, model, "--threads", "0"), "--threads", "1 or more")
    (model / "golden" / "0.mask.pgm").write_bytes(netpbm(np.zeros(SIZE, np.uint8)))
    check_refused(call(program, model), "golden frame 0", "do not use this graph")


def check_refused(done: subprocess.CompletedProcess[str], *words: str) -> None:
    assert done.returncode == 2
    assert done.stderr.count("\n") == 1 and all(word in done.stderr for word in words), done.stderr
