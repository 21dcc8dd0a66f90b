"""OpenIGTLink: what is sent is what others read, and no client can damage or delay it."""

from __future__ import annotations

import json
import socket
import struct
import time
from collections.abc import Iterator

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from igtl_samples import Client, display_state, frame, read_status, read_string, result, show, until

from deploy.stream.igtl import protocol
from deploy.stream.igtl.crc64 import POLYNOMIAL, crc64
from deploy.stream.outputs.base import OutputContext
from deploy.stream.outputs.igtl_messages import MASK, STATE, STATUS, MessageBuilder
from deploy.stream.outputs.igtl_options import IgtlOptions
from deploy.stream.outputs.igtl_server import IgtlServer, open_igtl
from deploy.stream.sources.base import CorruptFrameError, SourceLostError
from deploy.stream.sources.igtl import IgtlSource
from deploy.stream.state.display_state import DisplayState
from deploy.stream.state.frames import Frame
from edgemt.model_card import ModelCard

PLACE = (0.25, 0.0, 0.0, 0.0, 0.5, 0.0, 0.0, 0.0, 1.0, 10.0, -20.0, 30.5)
STAMP = (1_700_000_000 << 32) | 0x89ABCDEF


@pytest.fixture
def live() -> Iterator[tuple[DisplayState, IgtlServer]]:
    on = display_state()
    server = IgtlServer(on, options=IgtlOptions(port=0, stall_s=0.3))
    yield on, server
    server.close()


def slow_crc(data: bytes) -> int:
    out = 0
    for byte in data:
        out ^= byte << 56
        for _ in range(8):
            out = ((out << 1) & (2**64 - 1)) ^ (POLYNOMIAL if out >> 63 else 0)
    return out


def test_crc64_of_standard_check_text() -> None:
    assert crc64(b"123456789") == 0x6C40DF5F0B497347


@pytest.mark.parametrize("count", [0, 1, 7, 8, 9, 63, 64, 200])
def test_crc64_equals_bitwise_definition(count: int) -> None:
    data = np.random.default_rng(count).integers(0, 256, count, dtype=np.uint8).tobytes()
    assert crc64(data) == slow_crc(data)


@pytest.mark.parametrize("count", [32_767, 32_768, 32_769, 100_001])
def test_crc64_of_long_message_is_linear(count: int) -> None:
    data = np.random.default_rng(count).integers(0, 256, count, dtype=np.uint8).tobytes()
    head, tail = data[:1000], data[1000:]
    alone = crc64(head + bytes(len(tail)))  # a CRC is linear: a text is the sum of its parts at their places
    assert crc64(data) == alone ^ crc64(tail)
    assert crc64(data) != crc64(data[:-1] + bytes([data[-1] ^ 1]))


@pytest.mark.parametrize("kind", ["u1", "i1", "u2", "i4", "f4", "f8"])
@pytest.mark.parametrize("shape", [(5, 7), (5, 7, 3)])
def test_image_round_trip(kind: str, shape: tuple[int, ...]) -> None:
    pixels = np.random.default_rng(0).integers(0, 100, shape).astype(kind)
    image = protocol.read_image(protocol.pack_image(protocol.Image(pixels, PLACE, 2)))
    assert np.array_equal(image.pixels, pixels)
    assert (image.pixels.dtype, image.ijk_to_world, image.coordinates) == (pixels.dtype, PLACE, 2)


def test_resized_image_covers_same_area() -> None:
    image = protocol.Image(np.zeros((100, 200), np.uint8), PLACE)
    half = image.resized(np.zeros((50, 100), np.uint8))
    assert half.ijk_to_world == (0.5, 0.0, 0.0, 0.0, 1.0, 0.0, *PLACE[6:])
    assert image.resized(np.ones((100, 200), np.uint8)).ijk_to_world == PLACE


def test_string_and_status_are_written_as_the_protocol_says() -> None:
    assert read_string(protocol.pack_string("Größe 3 µm")) == "Größe 3 µm"
    assert read_status(protocol.pack_status(protocol.Status(7, "stale", "too old"))) == protocol.Status(
        7, "stale", "too old"
    )


def test_version_2_carries_metadata() -> None:
    data = protocol.pack(
        "STRING", protocol.pack_string("x"), device="d", stamp=1, version=2, metadata={"model": "tiny", "µ": "ß"}
    )
    header = protocol.read_header(data[:58], max_bytes=1000)
    content, metadata = protocol.read_content(header, data[58:])
    assert read_string(content) == "x"
    assert metadata == {"model": "tiny", "µ": "ß"}


@pytest.mark.parametrize("version", [1, 2])
def test_any_flipped_bit_in_body_is_detected(version: int) -> None:
    data = protocol.pack("STRING", protocol.pack_string("mask"), device="d", stamp=1, version=version)
    header = protocol.read_header(data[:58], max_bytes=1000)
    for bit in range(8 * header.size):
        damaged = bytearray(data[58:])
        damaged[bit // 8] ^= 1 << bit % 8
        with pytest.raises(protocol.WireError, match="damaged"):
            protocol.read_content(header, damaged)


def test_header_with_excessive_size_is_rejected() -> None:
    header = protocol.HEADER.pack(1, b"IMAGE", b"probe", 0, 2**63, 0)
    with pytest.raises(protocol.WireError, match="9223372036854775808 bytes follow"):
        protocol.read_header(header, max_bytes=1 << 20)


@settings(max_examples=200, deadline=None)
@given(
    body=st.binary(max_size=200),
    version=st.integers(1, 3),
)
def test_invalid_content_is_resumable_wire_error(body: bytes, version: int) -> None:
    try:
        content, _ = protocol.read_content(protocol.Header(version, "IMAGE", "d", 0, len(body), crc64(body)), body)
        protocol.read_image(content)
    except protocol.WireError as error:
        assert error.resumable


def test_client_receives_mask_state_and_status(live: tuple[DisplayState, IgtlServer]) -> None:
    on, server = live
    shown = show(on, 4)
    client = Client(server.port)
    header, content = client.until("IMAGE")
    image = protocol.read_image(content)
    assert header.device == MASK
    assert np.array_equal(image.pixels, result(shown).mask)
    assert image.ijk_to_world[0] == 2.0  # 16 columns of the frame are 8 of the mask
    header, content = client.until("STRING")
    said = json.loads(read_string(content))
    assert header.device == STATE
    assert (said["state"], said["frame_id"], said["model"]) == ("fresh", 4, "tiny")
    assert said["age_ms"] >= 0
    header, content = client.until("STATUS")
    assert (header.device, read_status(content).code) == (STATUS, protocol.OK)


def test_expired_mask_is_replaced_by_empty_mask() -> None:
    on = display_state(budget_ms=150)
    server = IgtlServer(on, options=IgtlOptions(port=0))
    try:
        show(on, 1)
        client = Client(server.port)
        client.until("IMAGE", lambda content: bool(protocol.read_image(content).pixels.any()))
        client.until("IMAGE", lambda content: not protocol.read_image(content).pixels.any())
        said = json.loads(read_string(client.until("STRING")[1]))
        assert (said["state"], said["age_ms"]) == ("stale", None)
        assert read_status(client.until("STATUS")[1]) == protocol.Status(protocol.TIMEOUT, "stale", "mask too old")
    finally:
        server.close()


def test_lost_source_sends_empty_mask_and_status(live: tuple[DisplayState, IgtlServer]) -> None:
    on, server = live
    show(on, 1)
    client = Client(server.port)
    client.until("STATUS", lambda content: read_status(content).code == protocol.OK)
    on.source_lost("unplugged")
    header, content = client.until("IMAGE")
    assert not protocol.read_image(content).pixels.any()
    assert read_status(client.until("STATUS")[1]) == protocol.Status(protocol.NOT_PRESENT, "no-signal", "unplugged")


def test_mask_of_igtl_image_has_its_size_position_and_time_stamp() -> None:
    on = display_state()
    incoming = protocol.Image(np.zeros((12, 16), np.uint8), PLACE, 2)
    server = IgtlServer(on, options=IgtlOptions(port=0), origin=lambda frame: (incoming, STAMP))
    try:
        show(on, 1)
        header, content = Client(server.port).until("IMAGE")
        image = protocol.read_image(content)
        assert (header.stamp, image.ijk_to_world, image.coordinates, image.pixels.shape) == (STAMP, PLACE, 2, (12, 16))
        assert np.array_equal(image.pixels[::2, ::2], result(frame(1)).mask)
    finally:
        server.close()


GARBAGE = {
    "noise": bytes(range(256)) * 4,
    "a web request": b"GET / HTTP/1.1\r\nHost: localhost\r\n\r\n" + bytes(100),
    "a size of 2^63": protocol.HEADER.pack(1, b"IMAGE", b"probe", 0, 2**63, 0),
    "a header cut short": protocol.HEADER.pack(1, b"STATUS", b"x", 0, 100, 0)[:20],
    "a body cut short": protocol.HEADER.pack(1, b"STATUS", b"x", 0, 100, 0) + b"only this",
}


@pytest.mark.parametrize("what", GARBAGE)
def test_client_with_invalid_data_is_disconnected(what: str, live: tuple[DisplayState, IgtlServer]) -> None:
    on, server = live
    good, bad = Client(server.port), Client(server.port)
    show(on, 1)
    good.until("IMAGE")
    bad.link.sendall(GARBAGE[what])
    until(lambda: server.disconnect_reasons)
    show(on, 2)
    header, content = good.until("STRING", lambda text: json.loads(read_string(text))["frame_id"] == 2)
    assert server.num_clients == 1


def test_damaged_message_is_answered_and_next_is_read(live: tuple[DisplayState, IgtlServer]) -> None:
    _, server = live
    client = Client(server.port)
    message = bytearray(protocol.pack("STRING", protocol.pack_string("hello"), device="d", stamp=0))
    message[-1] ^= 1
    client.link.sendall(message)
    client.until("STATUS", lambda content: read_status(content).code == protocol.CHECKSUM)
    client.link.sendall(protocol.pack("GET_STATUS", b"", device="d", stamp=0))
    client.until("STATUS", lambda content: read_status(content).code != protocol.CHECKSUM)
    for _ in range(20):
        client.link.sendall(message)
    until(lambda: server.disconnect_reasons)


def test_client_that_does_not_read_is_disconnected_without_delay() -> None:
    on = display_state()
    server = IgtlServer(on, options=IgtlOptions(port=0, stall_s=0.5))
    try:
        dead = socket.socket()
        dead.setsockopt(socket.SOL_SOCKET, socket.SO_RCVBUF, 4096)
        dead.connect(("127.0.0.1", server.port))
        good = Client(server.port)
        for k in range(1, 40):
            new = frame(k)
            on.put_frame(new)
            on.put_result(result(new, size=(600, 600)))
            said = good.until("STRING", lambda text, k=k: json.loads(read_string(text))["frame_id"] == k)
            assert said
        until(lambda: server.disconnect_reasons)
        assert "stalled" in server.disconnect_reasons[0]
        assert server.num_clients == 1
    finally:
        server.close()


def test_clients_beyond_limit_are_rejected() -> None:
    server = IgtlServer(display_state(), options=IgtlOptions(port=0, max_clients=1))
    try:
        first = Client(server.port)
        first.until("STATUS")
        second = Client(server.port)
        assert second.link.recv(10) == b""
        until(lambda: server.disconnect_reasons == ["too many clients"])
    finally:
        server.close()


def test_a_port_in_use_is_one_clear_line(live: tuple[DisplayState, IgtlServer]) -> None:
    with pytest.raises(ValueError, match=rf"127.0.0.1:{live[1].port}: cannot listen .*in use.*another port"):
        IgtlServer(display_state(), options=IgtlOptions(port=live[1].port))


def test_server_listens_on_loopback_by_default() -> None:
    server = open_igtl("0", OutputContext(display_state(), ModelCard(), ()))
    assert server.address[0] == "127.0.0.1"
    server.close()
    with pytest.raises(ValueError, match="igtl:HOST:PORT"):
        open_igtl("everywhere", OutputContext(display_state(), ModelCard(), ()))


class Machine:
    """An ultrasound machine: it sends what it is told to whoever connects first."""

    def __init__(self) -> None:
        self.listener = socket.create_server(("127.0.0.1", 0))
        self.port = self.listener.getsockname()[1]

    def accept(self) -> socket.socket:
        return self.listener.accept()[0]


def picture(value: int, *, device: str = "probe", **kind: int) -> bytes:
    pixels = np.full((4, 6), value, np.uint8)
    return protocol.pack(
        "IMAGE", protocol.pack_image(protocol.Image(pixels, PLACE)), device=device, stamp=STAMP + value, **kind
    )


@pytest.fixture
def machine() -> Iterator[tuple[socket.socket, IgtlSource]]:
    made = Machine()
    source = IgtlSource(f"igtl://127.0.0.1:{made.port}")
    source.open()
    link = made.accept()
    yield link, source
    source.close()
    link.close()
    made.listener.close()


def test_igtl_source_gives_image_with_time_stamp(machine: tuple[socket.socket, IgtlSource]) -> None:
    link, source = machine
    link.sendall(protocol.pack("TRANSFORM", bytes(48), device="arm", stamp=0) + picture(7, version=2))
    got = source.read()
    assert got.pixels.shape == (4, 6) and (got.pixels == 7).all()
    assert got.source_ns == protocol.nanoseconds_of(STAMP + 7)
    came = source.origin(Frame(0, got.pixels, 0, got.source_ns, origin=got.origin))
    assert came is not None and (came[0].ijk_to_world, came[1]) == (PLACE, STAMP + 7)


@pytest.mark.parametrize("stamp", [0, STAMP])
def test_images_with_equal_time_stamps_have_own_positions(
    stamp: int, machine: tuple[socket.socket, IgtlSource]
) -> None:
    link, source = machine
    frames = []
    for k in range(4):
        image = protocol.Image(np.full((16, 16), k, np.uint8), (*PLACE[:9], 10.0 * k, 0.0, 0.0))
        link.sendall(protocol.pack("IMAGE", protocol.pack_image(image), device="probe", stamp=stamp))
        picture = source.read()
        frames.append(Frame(k, picture.pixels, 0, picture.source_ns, origin=picture.origin))
    builder = MessageBuilder(version=1, origin=source.origin)
    for one in (frames[1], frames[3], frames[0]):
        on = display_state()
        on.put_frame(Frame(**{**one.__dict__, "captured_ns": time.monotonic_ns()}))
        on.put_result(result(Frame(**{**one.__dict__, "captured_ns": time.monotonic_ns()}), size=(16, 16)))
        sent = builder.image_message(on.snapshot())
        content, _ = protocol.read_content(protocol.read_header(sent[:58], max_bytes=1 << 20), sent[58:])
        assert protocol.read_image(content).ijk_to_world[9] == 10.0 * one.id


def test_igtl_source_reports_corrupt_image_and_reads_next(machine: tuple[socket.socket, IgtlSource]) -> None:
    link, source = machine
    damaged = bytearray(picture(1))
    damaged[-1] ^= 255
    link.sendall(damaged)
    with pytest.raises(CorruptFrameError, match="damaged"):
        source.read()
    link.sendall(picture(2))
    assert source.read().pixels[0, 0] == 2


@pytest.mark.parametrize("data", [picture(1)[:70], b"HTTP/1.1 400 Bad Request" + bytes(60), GARBAGE["a size of 2^63"]])
def test_igtl_source_reports_lost_on_disconnect_or_bad_message(
    data: bytes, machine: tuple[socket.socket, IgtlSource]
) -> None:
    link, source = machine
    link.sendall(data)
    link.close()
    with pytest.raises(SourceLostError):
        source.read()


def test_igtl_source_selects_first_device(machine: tuple[socket.socket, IgtlSource]) -> None:
    link, source = machine
    link.sendall(picture(1))
    assert source.read().pixels[0, 0] == 1
    link.sendall(picture(2, device="other") + picture(3))
    assert source.read().pixels[0, 0] == 3


def test_igtl_source_skips_to_newest_image(
    machine: tuple[socket.socket, IgtlSource],
) -> None:
    link, source = machine
    waiting = b"".join(picture(value) for value in range(1, 6))
    other = protocol.pack("TRANSFORM", bytes(48), device="arm", stamp=0)
    link.sendall(waiting + other + picture(6)[:40])  # the last has only begun to arrive
    assert source.read().pixels[0, 0] == 5
    link.sendall(picture(6)[40:])
    assert source.read().pixels[0, 0] == 6


def test_igtl_source_reads_from_sender_without_pauses(
    machine: tuple[socket.socket, IgtlSource], monkeypatch: pytest.MonkeyPatch
) -> None:
    link, source = machine
    monkeypatch.setattr(IgtlSource, "_next_is_complete", lambda self: True)
    link.sendall(b"".join(picture(value % 251) for value in range(600)))
    assert [source.read().pixels[0, 0] for _ in range(2)] == [255 % 251, 511 % 251]


def test_igtl_source_rejects_16_bit_images(machine: tuple[socket.socket, IgtlSource]) -> None:
    link, source = machine
    deep = protocol.pack_image(protocol.Image(np.zeros((4, 4), np.uint16)))
    link.sendall(protocol.pack("IMAGE", deep, device="probe", stamp=0))
    with pytest.raises(ValueError, match="sends uint16.*8-bit"):
        source.read()


@pytest.mark.parametrize("text", ["igtl://", "igtl://host:0", "igtl://host:99999", "igtl:host"])
def test_igtl_source_rejects_invalid_address(text: str) -> None:
    with pytest.raises(ValueError, match="write igtl://HOST"):
        IgtlSource(text)


def test_igtl_source_without_server_is_one_line_error() -> None:
    closed = Machine()
    closed.listener.close()
    with pytest.raises(ValueError, match=f"nothing answers at 127.0.0.1, port {closed.port}"):
        IgtlSource(f"igtl://127.0.0.1:{closed.port}").open()


@pytest.mark.parametrize("version", [1, 2])
def test_pyigtl_reads_our_messages(version: int) -> None:
    pyigtl = pytest.importorskip("pyigtl")
    on = display_state()
    incoming = protocol.Image(np.zeros((12, 16), np.uint8), PLACE, 2)
    options = IgtlOptions(port=0, version=version)
    server = IgtlServer(on, options=options, origin=lambda frame: (incoming, STAMP))
    client = pyigtl.OpenIGTLinkClient("127.0.0.1", server.port)
    try:
        shown = show(on, 1)
        mask = client.wait_for_message(MASK, timeout=10)
        assert np.array_equal(mask.image[0, ::2, ::2], result(shown).mask)
        assert np.allclose(np.diag(mask.ijk_to_world_matrix)[:2], (0.25, 0.5))
        assert mask.timestamp == pytest.approx(1_700_000_000 + 0x89ABCDEF / 2**32)
        assert json.loads(client.wait_for_message(STATE, timeout=10).string)["state"] == "fresh"
    finally:
        client.stop()
        server.close()


@pytest.mark.parametrize("version", [1, 2])
def test_our_reader_reads_pyigtl_messages(version: int) -> None:
    messages = pytest.importorskip("pyigtl.messages")
    pixels = np.random.default_rng(0).integers(0, 256, (1, 5, 7, 3), dtype=np.uint8)
    sent = messages.ImageMessage(
        pixels, ijk_to_world_matrix=np.diag([0.5, 2, 1, 1]), timestamp=12.25, device_name="probe"
    )
    sent.header_version = version
    data = sent.pack()
    header = protocol.read_header(data[:58], max_bytes=1000)
    image = protocol.read_image(protocol.read_content(header, data[58:])[0])
    assert np.array_equal(image.pixels, pixels[0])
    assert (image.ijk_to_world[0], image.ijk_to_world[4], struct.unpack(">II", struct.pack(">Q", header.stamp))) == (
        0.5,
        2.0,
        (12, 2**30),
    )
