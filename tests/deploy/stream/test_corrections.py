"""Corrections in the live page: who may make them, that they stay on their picture, and what is saved of them."""

from __future__ import annotations

import json
from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path
from typing import Any

import headless_chromium
import numpy as np
import pytest
from correction_page import (
    CLASSES,
    NOT_TOOL,
    ON_ORGAN,
    ORGAN,
    PICTURE,
    SIZE,
    TOOL,
    Live,
    bright_objects,
    frame,
    mask,
    show,
)

from deploy.stream.correction.case_writer import CorrectedCaseWriter
from deploy.stream.correction.session import (
    MAX_FROZEN,
    MAX_OFFERED,
    MAX_STEPS,
    CorrectionSession,
    CorrectionStep,
    FrameNotFrozenError,
)
from deploy.stream.outputs.base import is_recording
from deploy.stream.state.display_state import DisplayState, FreshnessLimits
from deploy.stream.web.corrections import MAX_BYTES
from edgemt.model_card import ModelCard


@pytest.fixture
def live() -> Iterator[Live]:
    made = Live()
    yield made
    made.close()


@pytest.fixture
def collecting(tmp_path: Path) -> Iterator[Live]:
    made = Live(tmp_path / "cases")
    yield made
    made.close()


def test_positive_click_adds_structure_to_frozen_mask(live: Live) -> None:
    live.asked("hold", live.frozen())
    said, _, mended = live.asked("ask", {"frame": 1, "steps": [ON_ORGAN]})
    whole = np.zeros(SIZE, np.uint8)
    whole[ORGAN], whole[TOOL] = 1, 2
    assert (said["frame"], said["followed"]) == (1, True)
    assert np.array_equal(mended, whole)


def test_negative_click_removes_structure_and_box_adds_it_again(live: Live) -> None:
    live.asked("hold", live.frozen())
    said, _, without = live.asked("ask", {"frame": 1, "steps": [NOT_TOOL]})
    assert not said["followed"]  # the network sees a bright tool there: a hand overrules it, where it is put
    assert without[36, 48] == 0
    box = {"class": 2, "box": [0.6, 0.55, 0.99, 0.9]}
    _, _, again = live.asked("ask", {"frame": 1, "steps": [NOT_TOOL, box]})
    assert (again[TOOL] == 2).all()
    assert np.array_equal(again == 1, mask(1) == 1)


def test_second_box_adds_to_first_box(live: Live) -> None:
    live.asked("hold", live.frozen())
    first, second = {"class": 1, "box": [0.6, 0.55, 0.99, 0.9]}, {"class": 1, "box": [0.05, 0.15, 0.5, 0.7]}
    _, _, one = live.asked("ask", {"frame": 1, "steps": [first]})
    _, _, both = live.asked("ask", {"frame": 1, "steps": [first, second]})
    assert (one[TOOL] == 1).all() and not (one[ORGAN] == 1).any()
    assert (both[TOOL] == 1).all() and (both[ORGAN] == 1).all()
    empty_overlay = {"class": 1, "box": [0.9, 0.02, 0.98, 0.1]}
    said, _, same = live.asked("ask", {"frame": 1, "steps": [first, empty_overlay]})
    assert not said["followed"]
    assert np.array_equal(same, one)


def test_fewer_steps_undo_a_correction(live: Live) -> None:
    live.asked("hold", live.frozen())
    _, _, one = live.asked("ask", {"frame": 1, "steps": [ON_ORGAN]})
    _, _, two = live.asked("ask", {"frame": 1, "steps": [ON_ORGAN, NOT_TOOL]})
    _, _, back = live.asked("ask", {"frame": 1, "steps": [ON_ORGAN]})
    _, _, none = live.asked("ask", {"frame": 1, "steps": []})
    assert not np.array_equal(one, two)
    assert np.array_equal(one, back)
    assert np.array_equal(none, mask(1))


def test_frozen_frame_is_the_one_of_its_mask(live: Live) -> None:
    show(live.display_state, 3)
    live.get("look")
    show(live.display_state, 5, masked=False)
    live.get("look")
    said, jpeg, begun = live.asked("hold", {"frame": 5, "mask": 3})
    assert said["frame"] == 3
    assert jpeg  # the page has drawn another one since
    assert np.array_equal(begun, mask(3))
    assert live.refused("ask", {"frame": 5, "steps": [ON_ORGAN]})[0] == 410


def test_frame_without_mask_can_be_corrected(live: Live) -> None:
    show(live.display_state, 2, masked=False)
    live.get("look")
    said, jpeg, begun = live.asked("hold", {"frame": 2, "mask": -1})
    assert (said["frame"], jpeg) == (2, b"")
    assert not begun.any()
    _, _, made = live.asked("ask", {"frame": 2, "steps": [{"class": 1, "box": [0.05, 0.15, 0.5, 0.7]}]})
    assert (made[ORGAN] == 1).all()


def test_correction_does_not_change_live_masks(live: Live) -> None:
    live.asked("hold", live.frozen(1))
    live.asked("ask", {"frame": 1, "steps": [ON_ORGAN]})
    for number in (1, 2):
        show(live.display_state, number)
        said, _, grid = unpacked_look(live.get("look")[1])
        assert said["record"]["frame_id"] == number
        assert np.array_equal(grid.reshape(SIZE), mask(number))
        assert np.array_equal(live.display_state.snapshot().status.mask, mask(number))


def unpacked_look(data: bytes) -> tuple[dict[str, Any], bytes, np.ndarray]:
    length = int.from_bytes(data[:4], "big")
    said, rest = json.loads(data[4 : 4 + length]), data[4 + length :]
    return said, rest[: said["jpeg_bytes"]], np.frombuffer(rest[said["jpeg_bytes"] :], np.uint8)


def test_evicted_frame_is_rejected_with_message(live: Live) -> None:
    for number in range(MAX_OFFERED + 1):
        live.frozen(number)
    status, words = live.refused("hold", {"frame": 0, "mask": 0})
    assert (status, words) == (
        410,
        "picture 0 is not stored any more; unfreeze, freeze again, and correct the new picture\n",
    )
    for number in range(1, MAX_FROZEN + 2):
        live.asked("hold", {"frame": number, "mask": number})
    assert live.refused("ask", {"frame": 1, "steps": [ON_ORGAN]})[0] == 410
    live.asked("ask", {"frame": MAX_FROZEN + 1, "steps": [ON_ORGAN]})


def test_only_frames_sent_to_a_page_can_be_frozen(live: Live) -> None:
    show(live.display_state, 1)
    assert live.refused("hold", {"frame": 1, "mask": 1})[0] == 410


def test_about_lists_corrections_only_with_promptable_model(live: Live) -> None:
    assert json.loads(live.get("about.json")[1])["correct"] == {"steps": MAX_STEPS, "collect": False, "adapt": False}
    bare = Live(prompt=False)
    try:
        assert json.loads(bare.get("about.json")[1])["correct"] is None
        show(bare.display_state, 1)
        bare.get("look")
        assert bare.refused("hold", {"frame": 1, "mask": 1}) == (501, "nothing can be sent here\n")
    finally:
        bare.close()


@pytest.mark.parametrize(
    ("changed", "status"),
    [
        ({"token": "x" * 32}, 403),
        ({"Host": "evil.example"}, 421),
        ({"Sec_Fetch_Site": "cross-site"}, 403),
        ({"Origin": "http://evil.example"}, 403),
        ({"Content_Type": "text/plain"}, 415),
        ({"Content_Length": None}, 413),
        ({"Content_Length": str(MAX_BYTES + 1)}, 413),
        ({"Content_Length": "-1"}, 413),
        ({"Content_Length": "9" * 30}, 413),
    ],
)
def test_post_requires_token_host_origin_and_length(changed: dict[str, Any], status: int, live: Live) -> None:
    asked = live.frozen()
    assert live.send("hold", asked, **changed)[0] == status
    assert live.send("hold", asked, Origin=f"http://127.0.0.1:{live.page.port}")[0] == 200


def test_post_to_unknown_endpoint_is_rejected(live: Live) -> None:
    assert live.refused("look", {})[0] == 501
    assert live.refused("hold/x", {})[0] == 501
    assert live.get("hold")[0] == 404


STEP_FAULTS = {
    "not a list": ({}, "a list of at most"),
    "too many": ([ON_ORGAN] * (MAX_STEPS + 1), f"a list of at most {MAX_STEPS}"),
    "no class": ([{"click": [0.5, 0.5, 1]}], "class None: must be a number from 1 to 2"),
    "background": ([{"class": 0, "click": [0.5, 0.5, 1]}], "class 0: must be"),
    "unknown class": ([{"class": 3, "click": [0.5, 0.5, 1]}], "class 3: must be"),
    "truth": ([{"class": True, "click": [0.5, 0.5, 1]}], "class True: must be"),
    "two numbers": ([{"class": 1, "click": [0.5, 0.5]}], "a click of three numbers or a box of four"),
    "words": ([{"class": 1, "click": ["a", "b", "c"]}], "a click of three numbers"),
    "both": ([{"class": 1, "click": [0.5, 0.5, 1], "box": [0, 0, 1, 1]}], "a click of three numbers"),
    "outside": ([{"class": 1, "click": [1.5, 0.5, 1]}], "outside of the picture"),
    "not a number": ([{"class": 1, "click": [float("nan"), 0.5, 1]}], "outside of the picture"),
    "empty box": ([{"class": 1, "box": [0.5, 0.5, 0.5, 0.9]}], "the box is empty"),
    "too many of one": ([ON_ORGAN] * 17, "17 clicks on one structure, at most 16"),
}


@pytest.mark.parametrize("fault", STEP_FAULTS)
def test_invalid_steps_are_rejected_with_message(fault: str, live: Live) -> None:
    steps, words = STEP_FAULTS[fault]
    live.asked("hold", live.frozen())
    status, said = live.refused("ask", {"frame": 1, "steps": steps})
    assert status == 400
    assert words in said
    assert "\n" not in said.strip()


@pytest.mark.parametrize("body", [b"", b"{", b"[" * 5000, b"null", b'{"frame": 1}', b'{"frame": "1", "mask": 1}'])
def test_invalid_json_is_rejected_and_server_continues(body: bytes, live: Live) -> None:
    asked = live.frozen()
    assert live.send("hold", body)[0] == 400
    live.asked("hold", asked)


def test_saved_correction_is_a_labelled_case_for_training(collecting: Live, tmp_path: Path) -> None:
    from edgemt.data.cohort import split_dataset
    from edgemt.data.decode import FrameSpec, decode_pairs
    from edgemt.data.options import DataOptions

    for number in (1, 2):
        collecting.asked("hold", collecting.frozen(number))
        said, _, _ = collecting.asked("keep", {"frame": number, "steps": [ON_ORGAN]})
        assert said["case"].endswith(f"_frame{number:06d}")
    options = DataOptions(root=tmp_path / "cases", classes=CLASSES, size=SIZE, val_in_training=False)
    from edgemt.data.layouts.detect import list_cases

    items = list_cases(tmp_path / "cases", layout="pairs", pattern=options.patient_pattern, classes=CLASSES).cases
    assert len({item.patient for item in items}) == 1  # a session is never torn apart by a split
    other = tmp_path / "cases" / "images"
    for item in items:  # a second patient, so that there is somebody to validate on
        for kind in ("images", "masks"):
            source = other.parent / kind / f"{item.name}.png"
            (other.parent / kind / f"other-{item.name}.png").write_bytes(source.read_bytes())
    cohort = split_dataset(replace(options, val="1"))
    cases = [case for case in (*cohort.labelled, *cohort.val) if not case.name.startswith("other")]
    pairs = list(decode_pairs(cases, FrameSpec(SIZE, 3, CLASSES)))
    assert len(pairs) == 2
    for (_, label), number in zip(pairs, (1, 2), strict=True):
        _, _, meant = collecting.asked("ask", {"frame": number, "steps": [ON_ORGAN]})
        assert label.shape == PICTURE
        assert np.array_equal(label, np.kron(meant, np.ones((2, 2), np.uint8)))


def test_saved_image_equals_captured_pixels(collecting: Live, tmp_path: Path) -> None:
    from edgemt.io.images import read_image

    collecting.asked("hold", collecting.frozen(7))
    collecting.asked("keep", {"frame": 7, "steps": [ON_ORGAN]})
    (image,) = (tmp_path / "cases" / "images").iterdir()
    assert np.array_equal(read_image(image), frame(7).pixels)
    about = json.loads((tmp_path / "cases" / "cases.jsonl").read_text())
    assert (about["picture"], about["model"], about["classes"]) == (7, "tiny@0", list(CLASSES))
    assert about["steps"] == [{"value": 1, "click": [0.3, 0.5, True]}]


def test_page_shows_recording_while_case_writer_is_open(tmp_path: Path) -> None:
    made = Live(tmp_path / "cases")
    show(made.display_state, 1)
    assert unpacked_look(made.get("look")[1])[0]["recording"] is True
    made.close()
    assert not is_recording()


def test_without_collect_no_file_is_written(live: Live, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    live.asked("hold", live.frozen())
    assert unpacked_look(live.get("look")[1])[0]["recording"] is False
    live.asked("ask", {"frame": 1, "steps": [ON_ORGAN]})
    status, words = live.refused("keep", {"frame": 1, "steps": [ON_ORGAN]})
    assert (status, words) == (400, "nothing is collected; start with --collect DIR\n")
    assert not list(tmp_path.iterdir())


def test_save_requires_a_step_and_predict_writes_nothing(collecting: Live, tmp_path: Path) -> None:
    collecting.asked("hold", collecting.frozen())
    assert "nothing is corrected yet" in collecting.refused("keep", {"frame": 1, "steps": []})[1]
    collecting.asked("ask", {"frame": 1, "steps": [ON_ORGAN]})
    assert not list((tmp_path / "cases" / "images").iterdir())


def test_second_save_of_same_frame_replaces_case(collecting: Live, tmp_path: Path) -> None:
    from edgemt.io.images import read_label

    collecting.asked("hold", collecting.frozen())
    collecting.asked("keep", {"frame": 1, "steps": [ON_ORGAN]})
    collecting.asked("keep", {"frame": 1, "steps": [ON_ORGAN, NOT_TOOL]})
    (file,) = (tmp_path / "cases" / "masks").iterdir()
    _, _, meant = collecting.asked("ask", {"frame": 1, "steps": [ON_ORGAN, NOT_TOOL]})
    assert np.array_equal(read_label(file)[::2, ::2], meant)


@pytest.mark.skipif(not Path("/dev/full").exists(), reason="no /dev/full here")
@pytest.mark.parametrize("kind", ["images", "masks"])
def test_full_disk_is_reported_and_leaves_no_partial_case(kind: str, collecting: Live, tmp_path: Path) -> None:
    import os

    collecting.asked("hold", collecting.frozen())
    session = collecting.corrections._case_writer._session  # type: ignore[union-attr]
    part = tmp_path / "cases" / kind / f".{session}_frame000001.png.{os.getpid()}.part"
    part.symlink_to("/dev/full")
    status, words = collecting.refused("keep", {"frame": 1, "steps": [ON_ORGAN]})
    assert status == 400
    assert "was not saved (no space left on the disk)" in words
    assert not list((tmp_path / "cases").rglob("*.png"))
    show(collecting.display_state, 2)
    assert unpacked_look(collecting.get("look")[1])[0]["picture"]["id"] == 2
    collecting.asked("keep", {"frame": 1, "steps": [ON_ORGAN]})


def test_case_writer_rejects_folder_with_other_classes(tmp_path: Path) -> None:
    (tmp_path / "cases.jsonl").write_text(json.dumps({"classes": ["background", "polyp"]}) + "\n")
    with pytest.raises(ValueError, match=r"cases\.jsonl: line 1 has the classes background, polyp, this model .*tool"):
        CorrectedCaseWriter(tmp_path, classes=CLASSES, model="tiny")
    assert not is_recording()


def test_case_writer_rejects_unwritable_folder(tmp_path: Path) -> None:
    (tmp_path / "file").write_text("")
    with pytest.raises(ValueError, match=r"collect .*file: cannot be written .*another folder"):
        CorrectedCaseWriter(tmp_path / "file", classes=CLASSES, model="tiny")


def test_correction_results_are_cached_per_frame() -> None:
    corrections = CorrectionSession(bright_objects(), ModelCard(classes=CLASSES, size=SIZE))
    display_state = DisplayState(FreshnessLimits(60_000, 120_000), model="tiny")
    for number in (1, 2):
        show(display_state, number)
        corrections.offer(display_state.snapshot())
        corrections.freeze(frame=number, mask=number)
    steps = (CorrectionStep(1, click=(0.3, 0.5, True)), CorrectionStep(2, click=(0.75, 0.75, False)))
    one, two = (corrections.predict(number, steps).mask for number in (1, 2))
    fresh = CorrectionSession(bright_objects(), ModelCard(classes=CLASSES, size=SIZE))
    fresh.offer(display_state.snapshot())
    fresh.freeze(frame=2, mask=2)
    assert np.array_equal(fresh.predict(2, steps).mask, two)
    assert np.array_equal(corrections.predict(1, steps).mask, one)
    with pytest.raises(FrameNotFrozenError):
        fresh.predict(1, steps)


@pytest.mark.parametrize(
    "arguments",
    [["--collect", "cases"], ["--collect", "cases", "--output", "lines"], ["--collect", "c", "--evidence", "e"]],
)
def test_collect_without_page_is_rejected_early(
    arguments: list[str], tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    from edgemt import cli

    monkeypatch.chdir(tmp_path)
    with pytest.raises(SystemExit) as ended:
        cli.main(["stream", "no-ship", *arguments])
    assert ended.value.code == 2
    assert "masks are corrected in the page; add --output page" in capsys.readouterr().err
    assert not list(tmp_path.iterdir())


def test_collect_without_promptable_model_is_rejected(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    pytest.importorskip("onnx")
    pytest.importorskip("onnxruntime")
    from tiny_package import make_ship

    from edgemt import cli

    make_ship(tmp_path / "ship")
    with pytest.raises(SystemExit) as ended:
        cli.main(
            ["stream", str(tmp_path / "ship"), "--output", "page", "--collect", str(tmp_path / "cases"), "--frames=3"]
        )
    assert ended.value.code == 2
    said = capsys.readouterr().err
    assert "has no prompt input to correct masks with; add one with edgemt export SHIP --with-prompt" in said
    assert not (tmp_path / "cases").exists()


@pytest.mark.slow
@pytest.mark.skipif(headless_chromium.BINARY is None, reason="no Chromium here")
def test_browser_click_corrects_frozen_picture_and_unfreezing_discards_it(collecting: Live, tmp_path: Path) -> None:
    import threading

    stop = threading.Event()

    def feed() -> None:
        number = 0
        while not stop.wait(0.05):
            number += 1
            show(collecting.display_state, number)

    feeding = threading.Thread(target=feed)
    feeding.start()
    text = "document.getElementById('{}').textContent"
    corrected = f"{text.format('strip-word')}.startsWith('Corrected by hand, picture ')"
    try:
        with headless_chromium.tab(tmp_path / "profile", size=(1280, 720)) as tab:
            tab.open(collecting.page.address)
            tab.until("document.body && document.body.dataset.state === 'fresh'")
            hint = "document.getElementById('correct-hint').textContent"
            assert tab.value(hint) == "Freeze the picture first."
            assert tab.value("!document.getElementById('rec').hidden")
            x0, y0, width, height = tab.value(
                "(() => { const r = document.getElementById('video').getBoundingClientRect();"
                "return [r.left, r.top, r.width, r.height]; })()"
            )

            def mouse(kind: str, x: float, y: float, **more: Any) -> None:
                at = {"x": x0 + x * width, "y": y0 + y * height, "clickCount": 1, "button": "left", **more}
                tab.ask("Input.dispatchMouseEvent", type=kind, **at)

            def click(x: float, y: float, **more: Any) -> None:
                mouse("mousePressed", x, y, **more)
                mouse("mouseReleased", x, y, **more)

            click(0.3, 0.5)
            assert not tab.value(corrected)  # a live picture takes no clicks
            tab.press(" ")
            tab.until(f"{hint}.startsWith('Click what belongs')")
            click(0.3, 0.5)
            tab.until(corrected)
            organ = (
                "(() => { const o = document.getElementById('overlay');"
                "const d = o.getContext('2d').getImageData(0, 0, o.width, o.height).data; let n = 0;"
                "for (let i = 0; i < d.length; i += 4) n += d[i + 3] > 0 && d[i + 1] > 180 && d[i] < 120;"
                "return n; })()"
            )
            more = tab.value(organ)
            tab.press("Enter")
            tab.until(f"{hint}.startsWith('Saved as live-')")
            tab.screenshot(tmp_path / "corrected.png")
            tab.press("z")
            tab.until(f"!{corrected}")
            assert tab.value(organ) < 0.8 * more
            click(0.75, 0.75, button="right")
            tab.until(f"{hint} === 'The model disagrees; your click stands'")
            mouse("mousePressed", 0.6, 0.5)
            mouse("mouseMoved", 0.95, 0.9, buttons=1)
            mouse("mouseReleased", 0.95, 0.9)
            tab.until(corrected)
            tab.press(" ")
            tab.until(f"!{corrected} && document.body.dataset.state === 'fresh'")
            assert tab.value(hint) == "Freeze the picture first."
        (case,) = (tmp_path / "cases" / "images").iterdir()
        assert case.name.startswith("live-")
    finally:
        stop.set()
        feeding.join()


@pytest.mark.slow
@pytest.mark.skipif(headless_chromium.BINARY is None, reason="no Chromium here")
def test_browser_has_no_correction_panel_without_promptable_model(tmp_path: Path) -> None:
    bare = Live(prompt=False)
    show(bare.display_state, 1)
    try:
        with headless_chromium.tab(tmp_path / "profile", size=(1280, 720)) as tab:
            tab.open(bare.page.address)
            tab.until("document.body && document.body.dataset.state === 'fresh'")
            assert tab.value("document.getElementById('correct')") is None
            tab.press(" ")
            tab.until("document.body.classList.contains('frozen')")
            assert not tab.value("document.body.classList.contains('correcting')")
    finally:
        bare.close()
