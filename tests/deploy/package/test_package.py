from __future__ import annotations

import json
import shutil
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest

from edgemt.model_card import FileMetrics

onnx = pytest.importorskip("onnx")

from google.protobuf.message import DecodeError  # noqa: E402
from tiny_package import SIZE, expected, frame, graph, make_ship  # noqa: E402

from deploy.package.golden import golden_pairs, self_test, write_golden  # noqa: E402
from deploy.package.onnx_inspect import parse_graph, read_graph_file  # noqa: E402
from deploy.package.package import Package, card_hash, finalize, open_package  # noqa: E402
from edgemt.model_card import ModelCard  # noqa: E402


@pytest.fixture
def ship(tmp_path: Path) -> Package:
    return make_ship(tmp_path / "ship")


class Pretend:
    """A runner that always gives one answer."""

    runtime, file, threads = "pretend", "model.onnx", 1

    def __init__(self, *, precision: str = "f32", wrong: float = 0.0, background: bool = False) -> None:
        self.precision, self.wrong, self.background = precision, wrong, background

    def __call__(self, frames: np.ndarray) -> np.ndarray:
        mask = expected(frames[0])[None]
        mask.reshape(-1)[: int(self.wrong * mask.size)] = 2
        return mask * (not self.background)


def one_line(error: pytest.ExceptionInfo[ValueError], *words: str) -> None:
    text = str(error.value)
    assert "\n" not in text
    for part in words:
        assert part in text, text


def rewrite_card(ship: Package, **changes: object) -> None:
    raw = json.loads((ship.folder / "card.json").read_text())
    (ship.folder / "card.json").write_text(json.dumps({**raw, **changes}))


def test_a_sealed_ship_opens_with_the_same_card(ship: Package) -> None:
    again = open_package(ship.folder)
    assert again.card == ship.card
    assert {"model.onnx", "model.int8.onnx", "golden/frame0.png", "golden/frame0.mask.png"} <= set(again.card.files)
    assert ship.path("model.onnx").is_file()


def test_a_copied_ship_opens(ship: Package, tmp_path: Path) -> None:
    shutil.copytree(ship.folder, tmp_path / "device")
    assert open_package(tmp_path / "device").card == ship.card


def test_one_flipped_bit_is_refused_and_the_file_is_named(ship: Package) -> None:
    file = ship.folder / "model.onnx"
    data = bytearray(file.read_bytes())
    data[len(data) // 2] ^= 1
    file.write_bytes(data)
    with pytest.raises(ValueError) as error:
        open_package(ship.folder)
    one_line(error, "model.onnx", "sha256")


def test_a_changed_golden_mask_is_refused(ship: Package) -> None:
    write_golden(ship.folder, "frame0", frame=frame(0), mask=np.zeros(SIZE, np.uint8))
    with pytest.raises(ValueError) as error:
        open_package(ship.folder)
    one_line(error, "frame0.mask.png")


def test_a_truncated_file_is_named_in_one_line(ship: Package) -> None:
    file = ship.folder / "model.int8.onnx"
    file.write_bytes(file.read_bytes()[:-20])
    with pytest.raises(ValueError) as error:
        open_package(ship.folder)
    one_line(error, "model.int8.onnx")


def test_a_missing_file_is_named_in_one_line(ship: Package) -> None:
    (ship.folder / "model.onnx").unlink()
    with pytest.raises(ValueError) as error:
        open_package(ship.folder)
    one_line(error, "model.onnx", "missing")


def test_a_folder_without_a_card_is_no_ship(ship: Package, tmp_path: Path) -> None:
    (ship.folder / "card.json").unlink()
    with pytest.raises(ValueError) as error:
        open_package(ship.folder)
    one_line(error, "card.json")
    with pytest.raises(ValueError, match="no such ship folder"):
        open_package(tmp_path / "nowhere")


@pytest.mark.parametrize(
    "text",
    ["", "{", "[]", "null", '{"format": 99}', '{"format": 1, "surprise": 1}', '{"format": 1, "files": 3}'],
)
def test_a_card_that_is_no_card_is_refused(ship: Package, text: str) -> None:
    (ship.folder / "card.json").write_text(text)
    with pytest.raises(ValueError) as error:
        open_package(ship.folder)
    one_line(error, "card.json")


@pytest.mark.parametrize(
    "changes",
    [
        {"size": [0, 3]},
        {"size": ["a", "b"]},
        {"channels": 2},
        {"classes": ["x"]},
        {"files": {}},
        {"files": {"model.onnx": 7}},
    ],
)
def test_a_card_that_makes_no_sense_names_the_field(ship: Package, changes: dict[str, object]) -> None:
    rewrite_card(ship, **changes)
    with pytest.raises(ValueError) as error:
        open_package(ship.folder)
    one_line(error, "card.json", next(iter(changes)))


@pytest.mark.parametrize("name", ["../outside.onnx", "/etc/hostname", "golden/../../outside.onnx", "a\\b"])
def test_a_card_cannot_point_outside_its_folder(ship: Package, name: str) -> None:
    (ship.folder.parent / "outside.onnx").write_bytes(b"x")
    rewrite_card(ship, files={name: "0" * 64})
    with pytest.raises(ValueError) as error:
        open_package(ship.folder)
    one_line(error, "outside")


def test_a_link_that_leaves_the_folder_is_refused(ship: Package) -> None:
    outside = ship.folder.parent / "outside.onnx"
    shutil.move(ship.folder / "model.onnx", outside)
    (ship.folder / "model.onnx").symlink_to(outside)
    with pytest.raises(ValueError) as error:
        open_package(ship.folder)
    one_line(error, "model.onnx", "link")


@pytest.mark.parametrize("where", ["initializer", "attribute"])
def test_external_data_is_refused_even_with_the_right_hash(ship: Package, where: str) -> None:
    model = graph()
    tensor = model.graph.initializer[1]
    if where == "attribute":
        model.graph.node.append(onnx.helper.make_node("Constant", [], ["spare"], value=tensor))
        tensor = model.graph.node[-1].attribute[0].t
    tensor.ClearField("raw_data")
    tensor.data_location = onnx.TensorProto.EXTERNAL
    tensor.external_data.add(key="location", value="../secrets.bin")
    (ship.folder / "model.onnx").write_bytes(model.SerializeToString())
    with pytest.raises(ValueError, match="another file"):
        finalize(ship.folder, ship.card)
    from edgemt.io.atomic import sha256

    rewrite_card(ship, files={**ship.card.files, "model.onnx": sha256(ship.folder / "model.onnx")})
    with pytest.raises(ValueError) as error:
        open_package(ship.folder)
    one_line(error, "model.onnx", "another file")


def test_an_ir_without_its_weights_is_refused(ship: Package) -> None:
    (ship.folder / "model.xml").write_text("<net/>")
    finalize(ship.folder, ship.card)
    with pytest.raises(ValueError) as error:
        open_package(ship.folder)
    one_line(error, "model.xml", ".bin")


def test_a_file_that_is_not_on_the_card_is_not_handed_out(ship: Package) -> None:
    (ship.folder / "extra.onnx").write_bytes(b"x")
    with pytest.raises(ValueError) as error:
        open_package(ship.folder).path("extra.onnx")
    one_line(error, "extra.onnx", "model.int8.onnx")


def test_sealing_nothing_is_refused(tmp_path: Path) -> None:
    with pytest.raises(ValueError, match="empty; export"):
        finalize(tmp_path, ModelCard())
    with pytest.raises(ValueError, match="no such folder"):
        finalize(tmp_path / "nowhere", ModelCard())


def test_the_card_hash_follows_the_card(ship: Package) -> None:
    assert card_hash(ship.card) == card_hash(open_package(ship.folder).card)
    assert card_hash(replace(ship.card, name="other")) != card_hash(ship.card)


def test_golden_frames_come_back_as_they_went(ship: Package) -> None:
    pairs = golden_pairs(ship)
    assert [pair.name for pair in pairs] == ["frame0", "frame1"]
    assert np.array_equal(pairs[1].frame[0], frame(1))
    assert np.array_equal(pairs[1].mask, expected(frame(1)))


def test_a_grey_golden_frame_keeps_its_channel_axis(tmp_path: Path) -> None:
    write_golden(tmp_path / "ship", "grey", frame=frame()[..., :1], mask=expected(frame()))
    finalize(tmp_path / "ship", ModelCard(classes=("a", "b", "c"), size=SIZE, channels=1))
    assert golden_pairs(open_package(tmp_path / "ship"))[0].frame.shape == (1, *SIZE, 1)


def test_a_golden_pair_of_different_sizes_is_refused(tmp_path: Path) -> None:
    with pytest.raises(ValueError, match="golden x"):
        write_golden(tmp_path, "x", frame=frame(), mask=expected(frame())[:-1])


@pytest.mark.parametrize(
    ("runner", "ok"),
    [
        (Pretend(), True),
        (Pretend(wrong=0.02), False),
        (Pretend(wrong=0.02, precision="int8"), True),
        (Pretend(background=True, precision="int8"), False),
    ],
)
def test_the_self_test_is_strict_with_float_and_lenient_with_int8(ship: Package, runner: Pretend, ok: bool) -> None:
    result = self_test(ship, runner)
    assert result.ok is ok
    assert result.frames == 2
    assert ok or "model.onnx" in result.message


def test_the_self_test_asks_of_int8_what_it_reached_where_the_ship_was_made(tmp_path: Path) -> None:
    ship = make_ship(tmp_path / "ship")
    poor = Pretend(wrong=0.08, precision="int8")
    assert not self_test(ship, poor).ok
    reached = {poor.file: FileMetrics(golden_pixels=0.93, golden_dice=0.75)}
    assert self_test(Package(ship.folder, replace(ship.card, measured=reached)), poor).ok
    assert not self_test(ship, Pretend(background=True, precision="int8")).ok


def test_a_ship_without_golden_frames_does_not_pass_its_self_test(tmp_path: Path) -> None:
    result = self_test(make_ship(tmp_path / "ship", golden=0), Pretend())
    assert not result.ok
    assert "no golden" in result.message


def test_operators_are_counted_without_the_onnx_package(ship: Package) -> None:
    found = read_graph_file(ship.folder / "model.int8.onnx")
    assert found.ops["QuantizeLinear"] == 3
    assert found.ops["Conv"] == 1
    assert not found.external


@pytest.mark.parametrize("keep", [0.0, 0.1, 0.5, 0.99])
def test_every_truncation_of_a_graph_is_a_value_error(ship: Package, tmp_path: Path, keep: float) -> None:
    data = (ship.folder / "model.onnx").read_bytes()
    (tmp_path / "cut.onnx").write_bytes(data[: int(keep * len(data))])
    with pytest.raises(ValueError) as error:
        read_graph_file(tmp_path / "cut.onnx")
    one_line(error, "cut.onnx")


def test_random_bytes_never_escape_as_another_error(tmp_path: Path) -> None:
    draw = np.random.default_rng(0)
    for i in range(200):
        file = tmp_path / "noise.onnx"
        file.write_bytes(draw.bytes(int(draw.integers(0, 200))))
        try:
            read_graph_file(file)
        except ValueError as error:
            assert "noise.onnx" in str(error), i


def test_a_stray_pixel_on_empty_frames_is_forgiven(tmp_path: Path) -> None:
    write_golden(tmp_path / "ship", "dark", frame=np.zeros((*SIZE, 3), np.uint8), mask=np.zeros(SIZE, np.uint8))
    finalize(tmp_path / "ship", ModelCard(classes=("a", "b", "c"), size=SIZE))
    dark = open_package(tmp_path / "ship")
    assert self_test(dark, Pretend()).ok
    assert not self_test(dark, Pretend(wrong=0.5, precision="int8")).ok


def varint(value: int, *, length: int = 0) -> bytes:
    """Of `length` bytes, more than the number needs, if given."""
    out = bytearray()
    while value > 127 or len(out) + 1 < length:
        out.append(value & 127 | 128)
        value >>= 7
    return bytes([*out, value])


def inside(number: int, data: bytes) -> bytes:
    return varint(number << 3 | 2) + varint(len(data)) + data


def whole_model(tensor: bytes) -> bytes:
    model = graph()
    body = model.graph.SerializeToString() + inside(5, tensor)
    model.ClearField("graph")
    return model.SerializeToString() + inside(7, body)


NAN = np.array([np.nan], "<f4").tobytes()
DIMS = b"\x08\x01"  # one number
HIDDEN = {
    "external data behind a tag of five bytes": DIMS
    + b"\x10\x01"
    + varint(13 << 3 | 2, length=5)
    + varint(2)
    + b"\x0a\x00",
    "a data type of 64 bits": DIMS + varint(2 << 3) + varint((1 << 32) + 1) + inside(9, NAN),
    "a data type below zero": DIMS + varint(2 << 3) + varint((1 << 64) - 1) + inside(9, NAN),
    "a tag beyond 32 bits": DIMS + b"\x10\x01" + varint((1 << 35) + (9 << 3 | 2)) + varint(4) + NAN,
    "a length of more bytes than it needs": DIMS + b"\x10\x01" + varint(9 << 3 | 2) + varint(4, length=3) + NAN,
    "two data types": DIMS + b"\x10\x01" + b"\x10\x03" + inside(9, NAN),
    "NaN before an empty field of the same kind": DIMS + b"\x10\x01" + inside(9, NAN) + inside(9, b""),
    "NaN packed in two pieces": DIMS + b"\x10\x01" + inside(4, NAN) + inside(4, b""),
    "NaN that is not packed": DIMS + b"\x10\x01" + varint(4 << 3 | 5) + NAN,
    "NaN in double precision that is not packed": DIMS
    + b"\x10\x0b"
    + varint(10 << 3 | 1)
    + np.array([np.nan]).tobytes(),
    "NaN in half precision among the integers": DIMS + b"\x10\x0a" + inside(5, varint(0x7E00)),
    "NaN in bfloat16, one integer": DIMS + b"\x10\x10" + varint(5 << 3) + varint(0x7FC0),
    "NaN in float8": DIMS + b"\x10\x11" + inside(9, b"\x7f"),
    "NaN in a complex number": DIMS + b"\x10\x0e" + inside(9, NAN * 2),
    "a location that is none": DIMS + b"\x10\x01" + inside(9, b"\0" * 4) + varint(14 << 3) + varint((1 << 32) + 1),
}


@pytest.mark.parametrize("what", HIDDEN)
def test_no_form_of_a_weight_hides_what_it_holds(ship: Package, what: str) -> None:
    (ship.folder / "model.onnx").write_bytes(whole_model(HIDDEN[what]))
    with pytest.raises(ValueError) as error:
        finalize(ship.folder, ship.card)
    one_line(error, "model.onnx")


def test_a_plain_weight_more_is_fine(ship: Package) -> None:
    (ship.folder / "model.onnx").write_bytes(
        whole_model(DIMS + b"\x10\x01" + inside(9, b"\0" * 4) + inside(8, b"spare"))
    )
    assert onnx.load(ship.folder / "model.onnx").graph.initializer[-1].name == "spare"
    assert finalize(ship.folder, ship.card)


def test_a_graph_in_two_pieces_is_refused(ship: Package) -> None:
    """protobuf merges them, a reader that takes the last one does not."""
    data = graph().SerializeToString()
    (ship.folder / "model.onnx").write_bytes(data + inside(7, b""))
    assert onnx.load(ship.folder / "model.onnx").graph.node
    with pytest.raises(ValueError, match=r"model\.onnx: .*field 7 of a model occurs twice"):
        finalize(ship.folder, ship.card)


@pytest.mark.parametrize("where", ["function", "training"])
def test_weights_outside_the_graph_are_looked_at_too(ship: Package, where: str) -> None:
    model = graph()
    tensor = onnx.helper.make_tensor("far", onnx.TensorProto.FLOAT, [1], [0.0])
    tensor.ClearField("float_data")
    tensor.data_location = onnx.TensorProto.EXTERNAL
    tensor.external_data.add(key="location", value="secrets.bin")
    if where == "function":
        model.functions.add(name="f", domain="").attribute_proto.add(
            name="a", type=onnx.AttributeProto.TENSOR, t=tensor
        )
    else:
        model.training_info.add().algorithm.initializer.append(tensor)
    (ship.folder / "model.onnx").write_bytes(model.SerializeToString())
    with pytest.raises(ValueError, match="another file"):
        finalize(ship.folder, ship.card)


def test_the_walker_and_the_official_parser_agree_on_damaged_files(tmp_path: Path) -> None:
    """What both read has the same operators, and every weight that the official one takes for external is refused."""
    model = graph(quantized=True)
    tensor = model.graph.initializer[1]
    tensor.data_location = onnx.TensorProto.EXTERNAL
    tensor.external_data.add(key="location", value="w.bin")
    data, draw, both = model.SerializeToString(), np.random.default_rng(3), 0
    for _ in range(1500):
        raw = bytearray(data)
        for at in draw.integers(0, len(raw), draw.integers(1, 4)):
            raw[at] = draw.integers(0, 256)
        try:
            ours = parse_graph(bytes(raw), source="m.onnx")
            theirs = onnx.load_model_from_string(bytes(raw))
        except (ValueError, DecodeError):
            continue
        both += 1
        assert sum(ours.ops.values()) == len(theirs.graph.node)
        external = any(t.external_data or t.data_location == 1 for t in theirs.graph.initializer)
        assert ours.external >= external
    assert both > 300
