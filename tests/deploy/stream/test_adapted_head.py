"""`edgemt stream --adapt`: the page teaches the head, the operator returns, nothing changes without a correction."""

from __future__ import annotations

import json
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from correction_page import NOT_TOOL, SIZE, Live, frame

from deploy.adaptation.fit import Example
from deploy.adaptation.head import shipped_head
from deploy.adaptation.limits import AdaptLimits, FitOptions
from deploy.adaptation.record import change_observer
from deploy.adaptation.session import PatientHead
from deploy.stream.state.display_state import DisplayState, FreshnessLimits
from deploy.stream.state.frames import InferenceResult
from deploy.stream.state.overlay import empty_overlay
from edgemt import cli


@pytest.fixture
def patient() -> PatientHead:
    head = shipped_head(np.ones((3, 2)), np.zeros(3), size=SIZE)
    return PatientHead(head, [Example(np.ones((2, 12, 16), np.float32), np.zeros(SIZE, np.uint8))])


@pytest.fixture
def live(patient: PatientHead) -> Iterator[Live]:
    made = Live(patient=patient)
    yield made
    made.close()


def test_learn_gives_the_corrected_mask_and_its_frame_to_the_head(live: Live, patient: PatientHead) -> None:
    picture = live.frozen()
    live.asked("hold", picture)
    answer = live.asked("learn", {"frame": 1, "steps": [NOT_TOOL]})[0]
    assert answer["patient"] == {"state": "shipped", "corrections": 1, "note": ""}
    given, mask = patient._confirmed[0]
    assert given.shape == (*SIZE, 3) and mask.shape == SIZE
    assert mask[36, 48] == 0 and (mask == 2).any()  # the click is at the tool, which the network still sees
    assert live.corrections is not None and live.corrections.about["adapt"]
    about = live.get("look")[1]
    message = json.loads(about[4 : 4 + int.from_bytes(about[:4], "big")])
    assert message["patient"]["corrections"] == 1 and message["record"]["adapted"] is False


def test_learn_without_a_click_confirms_the_mask_as_it_was_shown(live: Live, patient: PatientHead) -> None:
    shown = live.asked("hold", live.frozen())[2]
    live.asked("learn", {"frame": 1, "steps": []})
    assert shown is not None and np.array_equal(patient._confirmed[0][1], shown.reshape(SIZE))


def test_the_operator_returns_by_one_request(live: Live, patient: PatientHead) -> None:
    live.asked("hold", live.frozen())
    live.asked("learn", {"frame": 1, "steps": [NOT_TOOL]})
    assert live.asked("shipped", {})[0]["patient"]["corrections"] == 0
    assert patient.record()["results"]["changes"][-1]["event"] == "operator-return"


def test_without_adapt_the_page_cannot_teach() -> None:
    live = Live()
    try:
        live.asked("hold", live.frozen())
        for name, body in (("learn", {"frame": 1, "steps": []}), ("shipped", {})):
            assert live.refused(name, body) == (400, "the head is not adapted; start with --adapt\n")
        assert live.corrections is not None and not live.corrections.about["adapt"]
    finally:
        live.close()


def test_every_message_states_whether_the_mask_is_adapted() -> None:
    state = DisplayState(FreshnessLimits(60_000, 120_000), model="tiny@0")
    for number, adapted in ((1, True), (2, False)):
        new = frame(number)
        state.put_frame(new)
        mask = np.zeros(SIZE, np.uint8)
        state.put_result(InferenceResult(new, mask, empty_overlay(new.size), time.monotonic_ns(), adapted=adapted))
        assert state.snapshot().status.to_json()["adapted"] is adapted


def test_every_change_is_a_line_and_an_event_of_the_log() -> None:
    lines: list[str] = []
    events: list[tuple[str, Any]] = []
    observe = change_observer(lines.append, lambda name, fields: events.append((name, fields)))
    fields = {"reason": "uncertainty 0.4, limit 0.1", "corrections": 3}
    observe("refused", fields)
    assert events == [("adapt-refused", fields)] and lines == ["adapt: refused: uncertainty 0.4, limit 0.1"]
    change_observer(lines.append, None)("took-over", {})
    assert lines[1] == "adapt: the adapted head has taken over" and len(events) == 1


@pytest.fixture(scope="module")
def ship(tmp_path_factory: pytest.TempPathFactory) -> Path:
    pytest.importorskip("onnx")
    pytest.importorskip("onnxruntime")
    pytest.importorskip("openvino")
    from tiny_package import make_ship

    from deploy.adaptation.add_to_package import add_features
    from deploy.graph_tail import HEAD_WEIGHT

    folder = tmp_path_factory.mktemp("adapt") / "ship"
    make_ship(folder, weight_name=HEAD_WEIGHT)
    add_features(folder)
    return folder


def test_without_a_correction_300_masks_of_the_inference_thread_are_the_same_bits(ship: Path) -> None:
    from tiny_package import frame as tiny_frame

    from deploy.stream.inference.inference_thread import InferenceThread
    from deploy.stream.inference.load_model import load_stream_model
    from deploy.stream.inference.mask_checks import MaskPlausibility
    from deploy.stream.inference.mask_vote import MaskVote
    from deploy.stream.state.frames import Frame
    from deploy.stream.state.latest_queue import LatestQueue

    masks: list[list[bytes]] = []
    for adapt in (None, (AdaptLimits(), FitOptions())):
        opened = load_stream_model(ship, runtime="onnxruntime", file="fp32", adapt=adapt)
        assert (opened.model.patient is None) == (adapt is None)
        state = DisplayState(FreshnessLimits(60_000, 60_000), model="tiny@0")
        thread = InferenceThread(opened.model, state, LatestQueue(), hang_ms=60_000, runner=opened.runner)
        thread.stop()
        seen, plausibility, vote = [], MaskPlausibility(None), MaskVote(1, classes=3)
        for number in range(300):
            picture = Frame(number, tiny_frame(number), state.clock())
            result, _ = thread._result(opened.runner, picture, plausibility, vote)
            assert not result.adapted
            seen.append(result.mask.tobytes())
        masks.append(seen)
    assert masks[0] == masks[1] and len(set(masks[0])) > 30


@pytest.mark.parametrize(
    ("options", "reason"),
    [
        (["--adapt"], "adapt: masks are corrected in the page"),
        (["--adapt", "--output", "page", "--isolation", "process"], "isolation process"),
        (["--adapt", "--output", "page"], "adapt: .* has no prompt input"),
        (["--adapt", "--output", "page", "--adaptation.gain", "0"], "adaptation.gain: must be above 0"),
    ],
)
def test_what_does_not_fit_is_refused_before_the_stream(
    ship: Path, options: list[str], reason: str, capsys: pytest.CaptureFixture[str]
) -> None:
    import re

    with pytest.raises(SystemExit) as stop:
        cli.main(["stream", str(ship), "--frames", "3", "--hz", "0", *options])
    error = capsys.readouterr().err
    assert stop.value.code == 2 and re.search(reason, " ".join(error.split())), error


def test_without_opencv_it_is_refused_before_the_stream(
    ship: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setattr("edgemt.io.opencv.find_opencv", lambda: None)
    with pytest.raises(SystemExit) as stop:
        cli.main(["stream", str(ship), "--frames", "3", "--hz", "0", "--adapt", "--output", "page"])
    assert stop.value.code == 2 and "adapt: needs OpenCV; pip install" in capsys.readouterr().err
