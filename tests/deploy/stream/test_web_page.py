"""The live page: who may see it, what it is sent, and, in a browser, that nothing old is ever drawn as fresh."""

from __future__ import annotations

import contextlib
import http.client
import io
import json
import shutil
import socket
import subprocess
import threading
import time
from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path
from typing import Any

import headless_chromium
import numpy as np
import pytest
from checkout import ROOT
from PIL import Image

from deploy.stream.outputs.base import OutputContext, is_recording, recording
from deploy.stream.state.band_lines import DeferredMarks
from deploy.stream.state.display_state import DisplayState, FreshnessLimits
from deploy.stream.state.frames import Frame, InferenceResult
from deploy.stream.state.overlay import empty_overlay, outline
from deploy.stream.web.page import _FILES, Page, open_page, source_label
from deploy.stream.web.updates import _encode_with_pillow, jpeg_encoder
from edgemt.model_card import ModelCard

COLOURS = ((128, 128, 128), (64, 240, 200), (255, 210, 63))
BUDGET_MS = 400.0


def context(**limits: float) -> OutputContext:
    limits = {"budget_ms": 60_000, "no_signal_ms": 120_000, **limits}
    return OutputContext(
        DisplayState(FreshnessLimits(**limits), model="tiny@0"),
        ModelCard(name="tiny", classes=("background", "organ", "tool")),
        COLOURS,
    )


def frame(number: int, *, size: tuple[int, int] = (90, 160), epoch: int = 0) -> Frame:
    pixels = np.full((*size, 3), 40, np.uint8)
    pixels[:, : 8 * (number % 16)] = 90
    return Frame(number, pixels, time.monotonic_ns(), None, epoch)


def result(of: Frame) -> InferenceResult:
    mask = np.zeros((45, 80), np.uint8)
    mask[10:30, 20:50] = 1
    return InferenceResult(of, mask, empty_overlay(of.size), time.monotonic_ns(), agreement=0.9)


def show(on: DisplayState, number: int) -> Frame:
    new = frame(number)
    on.put_frame(new)
    on.put_result(result(new))
    return new


@pytest.fixture
def live() -> Iterator[tuple[DisplayState, Page]]:
    on = context()
    page = Page(on)
    yield on.display_state, page
    page.close()


class Reply:
    def __init__(self, page: Page, path: str, *, method: str = "GET", **headers: str) -> None:
        link = http.client.HTTPConnection("127.0.0.1", page.port, timeout=10)
        link.putrequest(method, path, skip_host="Host" in headers)
        for name, value in headers.items():
            link.putheader(name.replace("_", "-"), value)
        link.endheaders()
        answer = link.getresponse()
        self.status, self.headers, self.body = answer.status, answer.headers, answer.read()
        link.close()

    def look(self) -> tuple[dict[str, Any], bytes, bytes]:
        length = int.from_bytes(self.body[:4], "big")
        said = json.loads(self.body[4 : 4 + length])
        jpeg, mask = np.split(np.frombuffer(self.body[4 + length :], np.uint8), [said["jpeg_bytes"]])
        assert len(mask) == said["mask_bytes"]
        return said, jpeg.tobytes(), mask.tobytes()


PATHS = [*_FILES, "about.json", "look"]


@pytest.mark.parametrize("path", PATHS)
def test_request_without_token_is_rejected(path: str, live: tuple[DisplayState, Page]) -> None:
    _, page = live
    wrong = "x" * len(page.token)
    for before in ("/", f"/{wrong}/", f"/{page.token[:-1]}/", f"/{page.token}x/"):
        reply = Reply(page, before + path)
        assert reply.status == 403
        assert reply.body == b"no token\n"


@pytest.mark.parametrize("path", PATHS)
def test_request_with_other_host_is_rejected(path: str, live: tuple[DisplayState, Page]) -> None:
    _, page = live
    for host in (
        "evil.example",
        f"evil.example:{page.port}",
        "127.0.0.1",
        "127.0.0.1:1",
        f"127.0.0.1.evil:{page.port}",
        "",
    ):
        assert Reply(page, f"/{page.token}/{path}", Host=host).status == 421


@pytest.mark.parametrize("path", PATHS)
def test_valid_request_gets_security_headers(path: str, live: tuple[DisplayState, Page]) -> None:
    _, page = live
    for host in (f"127.0.0.1:{page.port}", f"localhost:{page.port}"):
        reply = Reply(page, f"/{page.token}/{path}", Host=host)
        assert reply.status == 200
        assert "default-src 'none'" in reply.headers["Content-Security-Policy"]
        assert "unsafe" not in reply.headers["Content-Security-Policy"]
        assert reply.headers["Cache-Control"] == "no-store"
        assert reply.headers["Referrer-Policy"] == "no-referrer"
        assert "Access-Control-Allow-Origin" not in reply.headers


def test_cross_site_request_is_rejected(live: tuple[DisplayState, Page]) -> None:
    _, page = live
    assert Reply(page, f"/{page.token}/look", Sec_Fetch_Site="cross-site").status == 403


@pytest.mark.parametrize("path", ["nothing", "../page.py", "web/page.html", "page.css/x", "%2e%2e/page.py"])
def test_other_files_are_not_served(path: str, live: tuple[DisplayState, Page]) -> None:
    _, page = live
    assert Reply(page, f"/{page.token}/{path}").status == 404


@pytest.mark.parametrize("method", ["POST", "PUT", "DELETE", "OPTIONS"])
def test_other_methods_are_rejected(method: str, live: tuple[DisplayState, Page]) -> None:
    _, page = live
    assert Reply(page, f"/{page.token}/look", method=method).status == 501


def test_page_loads_nothing_from_other_hosts() -> None:
    web = ROOT / "deploy" / "stream" / "web"
    pages = [file for file in web.iterdir() if file.suffix in (".html", ".css", ".js")]
    assert len(pages) > 5
    for file in pages:
        assert "//" not in file.read_text().replace("// ", "").replace("//\n", ""), file.name


def test_two_pages_have_different_tokens(live: tuple[DisplayState, Page]) -> None:
    other = Page(context())
    assert other.token != live[1].token
    assert len(other.token) >= 32
    other.close()


def test_update_has_picture_mask_and_age(live: tuple[DisplayState, Page]) -> None:
    display_state, page = live
    shown = show(display_state, 3)
    said, jpeg, mask = Reply(page, f"/{page.token}/look?seen=-1&frame=-1&mask=-1").look()
    assert said["record"]["state"] == "fresh"
    assert said["record"]["frame_id"] == said["picture"]["id"] == 3
    assert 0 <= said["record"]["age_ms"] <= 60_000
    assert np.array_equal(np.frombuffer(mask, np.uint8).reshape(said["record"]["mask_size"]), result(shown).mask)
    decoded = np.asarray(Image.open(io.BytesIO(jpeg)))
    assert np.abs(decoded.astype(int) - shown.pixels).mean() < 3


def test_update_omits_known_picture_and_mask(live: tuple[DisplayState, Page]) -> None:
    display_state, page = live
    show(display_state, 3)
    said, jpeg, mask = Reply(page, f"/{page.token}/look?seen=-1&frame=3&mask=3").look()
    assert (jpeg, mask) == (b"", b"")
    assert said["record"]["mask_size"] == [45, 80]
    display_state.put_frame(frame(4))
    said, jpeg, mask = Reply(page, f"/{page.token}/look?seen=-1&frame=3&mask=3").look()
    assert (said["picture"]["id"], said["record"]["frame_id"]) == (4, 3)
    assert jpeg and not mask


def test_update_waits_for_new_state(live: tuple[DisplayState, Page]) -> None:
    display_state, page = live
    show(display_state, 1)
    seen = Reply(page, f"/{page.token}/look").look()[0]["seen"]
    later = threading.Timer(0.2, show, (display_state, 2))
    later.start()
    said, _, _ = Reply(page, f"/{page.token}/look?seen={seen}&frame=1&mask=1").look()
    later.join()
    assert said["picture"]["id"] == 2
    assert said["waited_ms"] >= 40


def test_update_returns_after_timeout_without_change(live: tuple[DisplayState, Page]) -> None:
    display_state, page = live
    show(display_state, 1)
    seen = Reply(page, f"/{page.token}/look").look()[0]["seen"]
    said, _, _ = Reply(page, f"/{page.token}/look?seen={seen}&frame=1&mask=1").look()
    assert (said["seen"], said["picture"]["id"]) == (seen, 1)


STATES = {
    "stale": lambda display_state: display_state.put_frame(frame(2, epoch=1)),
    "invalid": lambda display_state: display_state.set_fault("inference", "it gave NaN"),
    "no-signal": lambda display_state: display_state.source_lost("unplugged"),
}


@pytest.mark.parametrize("state", STATES)
def test_mask_that_is_not_fresh_is_not_sent(state: str, live: tuple[DisplayState, Page]) -> None:
    display_state, page = live
    show(display_state, 1)
    STATES[state](display_state)
    said, _, mask = Reply(page, f"/{page.token}/look").look()
    assert said["record"]["state"] == state
    assert said["record"]["reason"]
    assert (mask, said["mask_bytes"], said["record"]["age_ms"]) == (b"", 0, None)
    assert "mask_size" not in said["record"]


def test_mask_that_expires_during_compression_is_not_sent() -> None:
    now = [10**9]
    display_state = DisplayState(
        FreshnessLimits(budget_ms=100, no_signal_ms=10_000), model="tiny", clock=lambda: now[0]
    )

    def slow(pixels: np.ndarray) -> bytes:
        now[0] += 200_000_000
        return _encode_with_pillow(pixels)

    page = Page(OutputContext(display_state, ModelCard(classes=("background", "organ")), COLOURS), encode=slow)
    try:
        new = Frame(1, frame(1).pixels, now[0])
        display_state.put_frame(new)
        display_state.put_result(result(new))
        said, jpeg, mask = Reply(page, f"/{page.token}/look").look()
        assert jpeg and not mask
        assert (said["record"]["state"], said["picture"]["age_ms"]) == ("stale", 200.0)
    finally:
        page.close()


@pytest.mark.parametrize("encode", [_encode_with_pillow, jpeg_encoder()], ids=["pillow", "the one that is used"])
@pytest.mark.parametrize("shape", [(54, 96), (54, 96, 3), (2160, 3840, 3)])
def test_jpeg_encoder_preserves_colour_and_limits_size(encode: Any, shape: tuple[int, ...]) -> None:
    pixels = np.zeros(shape, np.uint8)
    pixels[..., :1] = 200
    decoded = np.asarray(Image.open(io.BytesIO(encode(pixels))))
    assert decoded.ndim == len(shape)
    assert max(decoded.shape) <= 1920
    assert np.abs(decoded[5, 5].astype(int) - pixels[5, 5]).max() < 6


@pytest.mark.skipif(shutil.which("node") is None, reason="runs the page's script in node")
def test_page_draws_the_contour_of_each_overlapping_class() -> None:
    script = """
        globalThis.Path2D = class { constructor() { this.at = []; } moveTo(x, y) { this.at.push(x, y); } lineTo() {} };
        const { contours } = await import("data:text/javascript," + encodeURIComponent(process.argv[1]));
        const grid = Uint8Array.from({ length: 100 }, (_, i) => {
          const [y, x] = [Math.floor(i / 10), i % 10];
          return (y > 0 && y < 9 && x > 0 && x < 9 ? 1 : 0) | (y > 3 && y < 6 && x > 3 && x < 6 ? 4 : 0);
        });
        const ends = (path) => [Math.min(...path.at), Math.max(...path.at)].map(Math.round);
        console.log(JSON.stringify([...contours(grid, 10, 10, true)].map(([k, path]) => [k, ...ends(path)])));
        console.log(JSON.stringify([...contours(grid, 10, 10)].map(([k]) => k)));
    """
    source = (ROOT / "deploy/stream/web/contour.js").read_text(encoding="utf-8")
    found = subprocess.run(
        ["node", "--input-type=module", "-e", script, source], capture_output=True, text=True, check=True
    ).stdout.splitlines()
    assert json.loads(found[0]) == [[1, 1, 9], [3, 4, 6]]  # class, least and largest coordinate of its line
    assert json.loads(found[1]) == [1, 5]


def test_update_reports_recording(live: tuple[DisplayState, Page]) -> None:
    _, page = live
    with recording("cases"):
        assert Reply(page, f"/{page.token}/look").look()[0]["recording"] is True
    assert Reply(page, f"/{page.token}/look").look()[0]["recording"] is False
    assert not is_recording()


def test_idle_connections_do_not_block_requests(live: tuple[DisplayState, Page]) -> None:
    display_state, page = live
    show(display_state, 1)
    peers = [socket.create_connection(("127.0.0.1", page.port)) for _ in range(4)]
    peers[0].sendall(b"GET /")
    assert Reply(page, f"/{page.token}/look").status == 200
    for peer in peers:
        peer.close()


def test_query_accepts_numbers_only(live: tuple[DisplayState, Page]) -> None:
    _, page = live
    assert Reply(page, f"/{page.token}/look?seen=abc").status == 400


def test_a_port_in_use_is_one_clear_line(live: tuple[DisplayState, Page]) -> None:
    with pytest.raises(ValueError, match=rf"127.0.0.1:{live[1].port}: cannot listen .*in use.*another port"):
        open_page(str(live[1].port), context())


@pytest.mark.parametrize(
    ("argument", "words"), [("0.0.0.0:80", "every network"), ("door:80", "no address"), ("here", "page:PORT")]
)
def test_invalid_page_address_is_rejected(argument: str, words: str) -> None:
    with pytest.raises(ValueError, match=words):
        open_page(argument, context())


def test_address_is_printed_once_and_requests_are_not_logged(capfd: pytest.CaptureFixture[str]) -> None:
    page = open_page("", context())
    Reply(page, f"/{page.token}/about.json")
    Reply(page, "/wrong")
    page.close()
    said = capfd.readouterr()
    assert said.err == f"edgemt: page: {page.address}\n"
    assert said.out == ""


@pytest.mark.parametrize("sent", [b"", b"GET /", b"GET / HTTP/1.1\r\nHost: x\r\nX: "])
def test_connections_without_token_do_not_block_a_page(sent: bytes, live: tuple[DisplayState, Page]) -> None:
    display_state, page = live
    show(display_state, 1)
    slow = [socket.create_connection(("127.0.0.1", page.port), timeout=10) for _ in range(40)]
    try:
        for link in slow:
            with contextlib.suppress(OSError):  # it had to give way already
                link.sendall(sent)
        began = time.monotonic()
        assert Reply(page, f"/{page.token}/look").look()[0]["record"]["state"] == "fresh"
        assert time.monotonic() - began < 3
    finally:
        for link in slow:
            link.close()


def test_slow_request_is_dropped(live: tuple[DisplayState, Page], monkeypatch: pytest.MonkeyPatch) -> None:
    _, page = live
    monkeypatch.setattr("deploy.stream.web.server._REQUEST_TIMEOUT_S", 0.4)
    link = socket.create_connection(("127.0.0.1", page.port), timeout=10)
    ends = time.monotonic() + 10
    with pytest.raises(OSError), link:
        while time.monotonic() < ends:
            link.sendall(b"G")
            time.sleep(0.05)
    assert time.monotonic() < ends


def test_connections_with_token_are_not_dropped(live: tuple[DisplayState, Page]) -> None:
    display_state, page = live
    show(display_state, 1)
    keeping = [http.client.HTTPConnection("127.0.0.1", page.port, timeout=10) for _ in range(15)]
    strangers: list[socket.socket] = []
    try:
        for round_ in range(2):
            for link in keeping:
                link.request("GET", f"/{page.token}/about.json")
                assert link.getresponse().read()
            if not round_:
                strangers = [socket.create_connection(("127.0.0.1", page.port), timeout=10) for _ in range(10)]
        assert Reply(page, f"/{page.token}/about.json").status == 200
    finally:
        for link in (*keeping, *strangers):
            link.close()


@pytest.mark.parametrize(
    ("name", "label"),
    [
        ("/home/me/films/case 7.mp4", "case 7.mp4"),
        ("rtsp://user:pass@10.0.0.7:554/live?key=secret", "rtsp://10.0.0.7:554/live"),
        ("igtl://localhost:18945/Probe", "igtl://localhost:18945/Probe"),
        ("camera:0", "camera:0"),
        ("/dev/video0", "/dev/video0"),
    ],
)
def test_source_label_has_no_path_or_password(name: str, label: str) -> None:
    assert source_label(name) == label
    on = replace(context(), source=type("Source", (), {"name": name}))
    page = Page(on)
    try:
        assert json.loads(Reply(page, f"/{page.token}/about.json").body)["source"] == label
    finally:
        page.close()


def test_page_receives_end_of_stream_before_server_stops(live: tuple[DisplayState, Page]) -> None:
    display_state, page = live
    show(display_state, 1)
    link = http.client.HTTPConnection("127.0.0.1", page.port, timeout=10)

    def look() -> dict[str, Any]:
        link.request("GET", f"/{page.token}/look")
        body = link.getresponse().read()
        return json.loads(body[4 : 4 + int.from_bytes(body[:4], "big")])

    assert look()["ended"] is False
    display_state.close()
    closing = threading.Thread(target=page.close)
    closing.start()
    ends = time.monotonic() + 5
    while not look()["ended"]:
        assert time.monotonic() < ends
    closing.join(5)
    assert not closing.is_alive()


def test_update_has_rejection_reason_without_signal(live: tuple[DisplayState, Page]) -> None:
    display_state, page = live
    display_state.frame_rejected("a damaged frame")
    said, _, _ = Reply(page, f"/{page.token}/look").look()
    assert (said["record"]["reason"], said["record"]["refused"]) == ("no frame yet", "a damaged frame")


@pytest.mark.slow
@pytest.mark.skipif(headless_chromium.BINARY is None, reason="no Chromium here")
@pytest.mark.parametrize("size", [(1280, 720), (540, 760)])
def test_browser_shows_drift_warning_layout_and_end(size: tuple[int, int], tmp_path: Path) -> None:
    on = context(budget_ms=10_000, no_signal_ms=20_000)
    on.display_state.uncertain_above = 0.2
    page, stop, likeness = Page(on), threading.Event(), [0.9]
    unsure = np.zeros((45, 80), bool)
    unsure[5:15, 30:60] = True

    def feed() -> None:
        number = 0
        while not stop.wait(0.2):
            number += 1
            on.display_state.put_frame(new := frame(number))
            marks = DeferredMarks(colours=COLOURS, uncertain=lambda: unsure)
            on.display_state.put_result(replace(result(new), likeness=likeness[0], marks=marks))

    feeding = threading.Thread(target=feed)
    feeding.start()
    text = "document.getElementById('{}').textContent"
    inside = "(() => { const b = document.getElementById('{}').getBoundingClientRect();"
    white_pixels = """(([x, y, w, h]) => { const c = document.getElementById('overlay');
        const d = c.getContext('2d').getImageData(x * c.width, y * c.height, w * c.width, h * c.height).data;
        let n = 0;
        for (let i = 0; i < d.length; i += 4) n += Math.min(d[i], d[i + 1], d[i + 2], d[i + 3]) > 230;
        return n; })([%s])"""
    inside += "return b.width > 0 && b.top >= 0 && b.bottom <= innerHeight; })()"
    try:
        with headless_chromium.tab(tmp_path / "profile", size=size) as tab:
            tab.open(page.address)
            tab.until("document.body && document.body.dataset.state === 'fresh'")
            assert tab.value(text.format("strip-word")) == "Fresh" and tab.value(text.format("size")) == "160 × 90"
            assert all(tab.value(inside.replace("{}", name)) for name in ("freeze", "snapshot", "masks", "full"))
            assert "Hatched: uncertain" in tab.value(text.format("uncertain")) and "20 %" in tab.value(
                text.format("uncertain")
            )
            white = {part: tab.value(white_pixels % part) for part in ("0.4, 0.12, 0.3, 0.2", "0.05, 0.7, 0.3, 0.2")}
            assert list(white.values())[0] > 100 and list(white.values())[1] == 0
            likeness[0] = 0.1
            tab.until("document.body.classList.contains('unlike')")
            assert tab.value(text.format("strip-word")) == "Unlike training"
            plain, warned = "rgb(67, 217, 184)", "rgb(255, 194, 71)"
            colour = tab.value("getComputedStyle(document.getElementById('strip')).backgroundColor")
            assert colour == warned and tab.value("getComputedStyle(document.getElementById('word')).color") != plain
            tab.press("f")
            tab.until("document.fullscreenElement !== null")
            assert tab.value(text.format("legend")).endswith("uncertain")
            assert tab.until(f"({inside.replace('{}', 'legend')}) && ({inside.replace('{}', 'strip-age')})")
            likeness[0] = 0.9
            tab.until("!document.body.classList.contains('unlike')")
            on.display_state.close()
            page.close()
            tab.until("document.body.dataset.state === 'ended'")
            assert "ended" in tab.value(text.format("strip-text"))
    finally:
        stop.set()
        feeding.join()


@pytest.mark.slow
@pytest.mark.skipif(headless_chromium.BINARY is None, reason="no Chromium here")
def test_browser_never_draws_expired_mask(tmp_path: Path) -> None:
    on = context(budget_ms=BUDGET_MS, no_signal_ms=3000)
    page, stop, fed = Page(on), threading.Event(), {"frames": True, "masks": True, "likeness": 0.9}

    def feed() -> None:
        number = 0
        while not stop.wait(0.05):
            number += 1
            new = frame(number)
            if fed["frames"]:
                on.display_state.put_frame(new)
            if fed["masks"] and fed["frames"]:
                on.display_state.put_result(replace(result(new), likeness=fed["likeness"]))

    feeding = threading.Thread(target=feed)
    feeding.start()
    drawn = (
        "(() => { const o = document.getElementById('overlay');"
        "return o.getContext('2d').getImageData(0, 0, o.width, o.height).data.some((v) => v > 0); })()"
    )
    state = "document.body && document.body.dataset.state"
    text = "document.getElementById('{}').textContent"
    try:
        with headless_chromium.tab(tmp_path / "profile", size=(1280, 720)) as tab:
            tab.open(page.address)
            tab.until(f"{state} === 'fresh' && {drawn}")
            assert 0 <= int(tab.until(text.format("age-value"))) <= BUDGET_MS
            assert tab.screenshot(tmp_path / "fresh.png")
            inks = np.asarray(Image.open(tmp_path / "fresh.png").convert("RGB")).reshape(-1, 3).astype(int)
            assert (np.abs(inks - COLOURS[1]).max(axis=1) < 12).sum() > 100  # the organ's own colour

            coloured = "document.getElementById('likeness').classList.contains('unlike')"
            assert tab.until(text.format("likeness")) == "0.90" and not tab.value(coloured)
            fed["likeness"] = 0.2
            tab.until(coloured)

            fed["masks"] = False
            tab.until(f"{state} === 'stale' && !{drawn}")
            assert "No mask" in tab.value(text.format("strip-word"))

            fed["masks"] = True
            tab.until(f"{state} === 'fresh' && {drawn}")
            on.display_state.set_fault("inference", "it gave NaN")
            tab.until(f"{state} === 'invalid' && !{drawn}")
            assert "it gave NaN" in tab.value(text.format("strip-text"))
            on.display_state.set_fault("inference", None)

            tab.until(f"{state} === 'fresh' && {drawn}")
            tab.press(" ")
            tab.until("document.body.classList.contains('frozen')")
            first = tab.value("document.getElementById('video').toDataURL()")
            assert "Frozen" in tab.value(text.format("strip-word"))
            time.sleep(0.3)
            assert tab.value("document.getElementById('video').toDataURL()") == first
            tab.press(" ")
            tab.until(f"!document.body.classList.contains('frozen') && {state} === 'fresh' && {drawn}")
            tab.press("1")
            tab.until(f"!{drawn}")
            tab.press("1")
            tab.until(drawn)

            page.close()
            tab.until(f"{state} === 'no-signal' && !{drawn}")
            assert "does not answer" in tab.value(text.format("notice-text"))
    finally:
        stop.set()
        feeding.join()


def test_video_file_has_pictures_at_capture_times(tmp_path: Path) -> None:
    av = pytest.importorskip("av")
    from deploy.stream.outputs.video_file import open_video

    now = [10**9]
    display_state = DisplayState(FreshnessLimits(budget_ms=1000), model="tiny", clock=lambda: now[0])
    output = open_video(str(tmp_path / "case.mp4"), context())
    assert is_recording()
    for k in range(6):
        now[0] += 40_000_000
        new = Frame(k, np.full((91, 161, 3), 40 * k, np.uint8), now[0])
        display_state.put_frame(new)
        mask = result(new).mask
        display_state.put_result(InferenceResult(new, mask, outline(mask, size=new.size, colours=COLOURS), now[0]))
        output.show(display_state.snapshot())
        output.show(display_state.snapshot())  # the same look is no second picture
    assert not (tmp_path / "case.mp4").exists()
    output.close()
    assert not is_recording()
    with av.open(str(tmp_path / "case.mp4")) as video:
        frames = list(video.decode(video=0))
    assert [round(1000 * (f.time - frames[0].time)) for f in frames] == [0, 40, 80, 120, 160, 200]
    last = frames[-1].to_ndarray(format="rgb24")
    assert last.shape == (90, 160, 3)
    assert abs(int(last[80, 150].mean()) - 200) < 12
    assert not list(tmp_path.glob(".*.part"))


def test_size_change_begins_new_video_file_without_overwriting(tmp_path: Path) -> None:
    pytest.importorskip("av")
    from deploy.stream.outputs.video_file import open_video

    display_state = context().display_state
    output = open_video(str(tmp_path / "case.mkv"), context())
    for k, size in enumerate([(64, 64), (64, 64), (80, 64)]):
        display_state.put_frame(frame(k, size=size))
        output.show(display_state.snapshot())
    output.close()
    assert sorted(p.name for p in tmp_path.iterdir()) == ["case.2.mkv", "case.mkv"]
    with pytest.raises(ValueError, match="is there already"):
        open_video(str(tmp_path / "case.mkv"), context())
    assert not is_recording()


@pytest.mark.parametrize(("argument", "words"), [("case.avi", "FILE.mp4"), ("gone/case.mp4", "no folder")])
def test_invalid_video_path_is_rejected(argument: str, words: str) -> None:
    from deploy.stream.outputs.video_file import open_video

    with pytest.raises(ValueError, match=words):
        open_video(argument, context())
    assert not is_recording()


@pytest.mark.skipif(not Path("/dev/full").exists(), reason="no /dev/full here")
def test_video_file_reports_full_disk(tmp_path: Path) -> None:
    pytest.importorskip("av")
    from deploy.stream.outputs.video_file import open_video

    (tmp_path / ".case.mp4.part").symlink_to("/dev/full")
    output, display_state, draw = (
        open_video(str(tmp_path / "case.mp4"), context()),
        context().display_state,
        np.random.default_rng(0),
    )
    with pytest.raises(ValueError, match="case.mp4: no space left on the disk"):
        for k in range(200):
            noise = draw.integers(0, 256, (128, 128, 3), dtype=np.uint8)
            display_state.put_frame(Frame(k, noise, time.monotonic_ns()))
            output.show(display_state.snapshot())
    output.close()
    assert not is_recording()
