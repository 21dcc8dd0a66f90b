"""`edgemt serve-labels`: the requests of Label Studio and CVAT, as their sources send them, and who is let in."""

from __future__ import annotations

import base64
import http.client
import io
import json
import threading
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from PIL import Image

from deploy.promptable.runner import Prompt, PromptedMask
from edgemt import cli
from edgemt.convert.polygons import corners_of, rasterise
from edgemt.convert.rle import decode_label_studio
from edgemt.inference.one_image import PromptedImage, mask_of_image
from edgemt.label_server.protocols import LabelBackend
from edgemt.label_server.server import LabelServer
from edgemt.model_card import ModelCard

CLASSES = ("background", "polyp", "snare")
SIZE = (30, 41)
CONFIG = """<View><Image name="image" value="$image"/>
<BrushLabels name="tag" toName="image"><Label value="polyp" background="#ff0000"/><Label value="scar"/></BrushLabels>
<PolygonLabels name="outline" toName="image"><Label value="snare"/></PolygonLabels></View>"""
# The fields of label_studio/ml/api_connector.py and of cvat/apps/lambda_manager/views.py.
SETUP = {"project": "1.1732800000", "schema": CONFIG, "hostname": "http://localhost:8080", "access_token": "x"}
PREDICT = {
    "tasks": [{"id": 7, "data": {"image": "/data/local-files/?d=frame_0.png"}, "annotations": [], "predictions": []}],
    "model_version": None,
    "project": "1.1732800000",
    "label_config": CONFIG,
    "params": {"login": None, "password": None, "context": None},
}
NUCLIO = {"x-nuclio-project-name": "cvat", "x-nuclio-function-name": "edgemt", "x-nuclio-path": "/"}


LINES: list[str] = []  # what the server logs


def truth() -> np.ndarray:
    rough = np.random.default_rng(3).integers(0, 3, (6, 7)).astype(np.uint8)
    return np.kron(rough, np.ones((5, 6), np.uint8))[: SIZE[0], : SIZE[1]]


def picture() -> np.ndarray:
    return np.array(((90, 90, 90), (250, 10, 10), (10, 250, 10)), np.uint8)[truth()]


def by_colour(frames: np.ndarray) -> np.ndarray:
    return ((frames[..., 0] > 200) + 2 * (frames[..., 1] > 200)).astype(np.uint8)


class BoxOrDisc:
    """A prompt input whose object is the box, or the pixels of each click, without those of the background."""

    def __init__(self) -> None:
        self.embedded = 0

    def embed(self, pixels: np.ndarray) -> np.ndarray:
        self.embedded += 1
        return pixels

    def segment(self, embedding: np.ndarray, prompt: Prompt) -> PromptedMask:
        logits = np.full((60, 82), -1.0, np.float32)  # twice the picture
        if prompt.box is not None:
            x0, y0, x1, y1 = (round(v * n) for v, n in zip(prompt.box, (82, 60, 82, 60), strict=True))
            logits[y0:y1, x0:x1] = 1
        for x, y, on in prompt.points:
            row, column = int(y * 60) // 2 * 2, int(x * 82) // 2 * 2
            logits[row : row + 2, column : column + 2] = 1 if on else -1
        return PromptedMask(logits, 0.9)


@pytest.fixture
def server(tmp_path: Path, request: pytest.FixtureRequest) -> Iterator[LabelServer]:
    (tmp_path / "frames").mkdir()
    Image.fromarray(picture()).save(tmp_path / "frames" / "frame_0.png")
    card = ModelCard(classes=CLASSES, size=SIZE, channels=3)
    runner = getattr(request, "param", None)
    backend = LabelBackend(
        lambda path: mask_of_image(path, card, by_colour), CLASSES, name="tiny", images=tmp_path / "frames",
        prompted=None if runner is None else PromptedImage(runner, card),
    )  # fmt: skip
    with LabelServer(backend, log=LINES.append) as made:
        thread = threading.Thread(target=made.serve_forever, args=(0.01,), daemon=True)
        thread.start()
        yield made
        made.shutdown()
        thread.join(5)


def call(
    server: LabelServer, method: str, path: str, body: Any = None, *, password: str | None = None, **headers: str
) -> tuple[int, Any]:
    connection = http.client.HTTPConnection("127.0.0.1", server.port, timeout=10)
    login = base64.b64encode(f"anyone:{server.token if password is None else password}".encode()).decode()
    sent = {"Authorization": f"Basic {login}", "Content-Type": "application/json", **headers}
    data = None if body is None else body if isinstance(body, bytes) else json.dumps(body).encode()
    connection.request(method, path, data, {key.replace("_", "-"): value for key, value in sent.items()})
    answer = connection.getresponse()
    text = answer.read()
    connection.close()
    return answer.status, json.loads(text) if answer.status == 200 else text.decode()


def test_conversation_of_label_studio(server: LabelServer) -> None:
    assert call(server, "GET", "/health") == (200, {"status": "UP", "model_class": "EdgeMT"})
    assert call(server, "POST", "/setup", SETUP) == (200, {"model_version": "tiny"})
    status, found = call(server, "POST", "/predict", PREDICT)
    assert status == 200 and list(found) == ["results"] and len(found["results"]) == 1
    prediction = found["results"][0]
    assert prediction["model_version"] == "tiny"
    drawn = np.zeros(SIZE, np.uint8)
    for result in prediction["result"]:
        value = result["value"]
        assert (result["original_height"], result["original_width"], result["to_name"]) == (*SIZE, "image")
        if result["type"] == "brushlabels":
            assert result["from_name"] == "tag" and value["brushlabels"] == ["polyp"]
            drawn[decode_label_studio(value["rle"], SIZE)] = 1
        else:
            assert (result["from_name"], result["type"]) == ("outline", "polygonlabels")
            drawn[rasterise([corners_of(value["points"]) * (SIZE[1] / 100, SIZE[0] / 100)], SIZE)] = 2
    assert (drawn == truth()).all()


@pytest.mark.parametrize("server", [BoxOrDisc()], indirect=True)
def test_recorded_conversation_of_label_studio(server: LabelServer) -> None:
    recorded = json.loads((Path(__file__).parent / "label_studio_1.23.2.json").read_text())["requests"]
    answers = [call(server, one["method"], one["path"], one["body"]) for one in recorded]
    assert [status for status, _ in answers] == [200] * 5
    health, setup, predicted, clicked, boxed = (answer for _, answer in answers)
    assert health["status"] == "UP" and setup == {"model_version": "tiny"}
    assert len(predicted["results"]) == 2, "of the upload and of the file of local storage"
    for prediction in predicted["results"]:
        brush, *_ = (r for r in prediction["result"] if r["type"] == "brushlabels")
        assert (decode_label_studio(brush["value"]["rle"], SIZE) == (truth() == 1)).all()
    (point,), (box,) = (found["results"][0]["result"] for found in (clicked, boxed))
    click = decode_label_studio(point["value"]["rle"], SIZE)
    assert np.argwhere(click).tolist() == [[15, 20]], "50 % of 30 rows and of 41 columns"
    inside = decode_label_studio(box["value"]["rle"], SIZE)
    rows, columns = np.flatnonzero(inside.any(1)), np.flatnonzero(inside.any(0))
    assert (rows[0], rows[-1], columns[0], columns[-1]) == (6, 17, 10, 30) and inside[6:18, 10:31].all()


def test_conversation_of_cvat(server: LabelServer) -> None:
    status, functions = call(server, "GET", "/api/functions")
    assert status == 200 and call(server, "GET", "/api/functions/edgemt") == (200, functions["edgemt"])
    function = functions["edgemt"]
    spec = json.loads(function["metadata"]["annotations"]["spec"])
    assert function["metadata"]["name"] == "edgemt" and function["metadata"]["annotations"]["type"] == "detector"
    assert [(label["name"], label["type"]) for label in spec] == [("polyp", "mask"), ("snare", "mask")]
    assert function["status"]["state"] == "ready" and "description" in function["spec"]
    buffer = io.BytesIO()
    Image.fromarray(picture()).save(buffer, "PNG")
    request = {"image": base64.b64encode(buffer.getvalue()).decode()}
    status, shapes = call(server, "POST", "/api/function_invocations", request, **NUCLIO)
    assert (status, shapes) == call(server, "POST", "/", request)  # as CVAT calls a function directly
    drawn = np.zeros(SIZE, np.uint8)
    for shape in shapes:
        *pixels, left, top, right, bottom = shape["mask"]
        area = np.array(pixels, bool).reshape(bottom - top + 1, right - left + 1)
        drawn[top : bottom + 1, left : right + 1][area] = CLASSES.index(shape["label"])
        assert shape["type"] == "mask" and len(shape["points"]) >= 6
    assert status == 200 and (drawn == truth()).all()


def region(kind: str, value: dict[str, float], **more: Any) -> dict[str, Any]:
    """A region of a smart control of Label Studio, in percent of the image."""
    common = {"original_width": SIZE[1], "original_height": SIZE[0], "image_rotation": 0, "to_name": "image"}
    return {**common, "type": kind, "value": {**value, kind: ["polyp"]}, "from_name": "smart", **more}


def with_prompt(*regions: dict[str, Any]) -> dict[str, Any]:
    return {**PREDICT, "params": {"login": None, "password": None, "context": {"result": list(regions)}}}


def encoded() -> str:
    buffer = io.BytesIO()
    Image.fromarray(picture()).save(buffer, "PNG")
    return base64.b64encode(buffer.getvalue()).decode()


@pytest.mark.parametrize("server", [BoxOrDisc()], indirect=True)
def test_clicks_and_a_box_of_label_studio_give_the_object_that_they_name(server: LabelServer) -> None:
    box = region(
        "rectanglelabels", {"x": 100 * 4 / 41, "y": 100 * 3 / 30, "width": 100 * 10 / 41, "height": 100 * 6 / 30}
    )
    away = region("keypointlabels", {"x": 100 * 6.5 / 41, "y": 100 * 5.5 / 30, "width": 0.4}, is_positive=False)
    status, found = call(server, "POST", "/predict", with_prompt(box, away))
    wanted = np.zeros(SIZE, bool)
    wanted[3:9, 4:14] = True
    wanted[5, 6] = False
    (result,) = found["results"][0]["result"]
    assert status == 200 and result["value"]["brushlabels"] == ["polyp"]
    assert (decode_label_studio(result["value"]["rle"], SIZE) == wanted).all()
    status, found = call(server, "POST", "/predict", PREDICT)  # without a prompt as ever
    assert {r["type"] for r in found["results"][0]["result"]} == {"brushlabels", "polygonlabels"}


def test_clicks_of_cvat_go_to_an_interactor_and_an_image_is_embedded_once() -> None:
    runner = BoxOrDisc()
    card = ModelCard(classes=CLASSES, size=SIZE, channels=3)
    backend = LabelBackend(lambda path: truth(), CLASSES, name="tiny", prompted=PromptedImage(runner, card))  # type: ignore[arg-type]
    assert list(backend.functions()) == ["edgemt", "edgemt-prompt"]
    annotations = backend.interactor()["metadata"]["annotations"]
    assert (annotations["type"], annotations["min_pos_points"]) == ("interactor", "1")
    sent = {"image": encoded(), "pos_points": [[7.5, 2.2], [20, 11]], "neg_points": [], "obj_bbox": None}
    wanted = np.zeros(SIZE, int)
    wanted[2, 7] = wanted[11, 20] = 1
    assert backend.invoke(sent) == {"mask": wanted.tolist()}
    boxed = {**sent, "pos_points": [], "obj_bbox": [[14, 9], [4, 3]]}
    wanted[:] = 0
    wanted[3:9, 4:14] = 1
    assert backend.invoke(boxed) == {"mask": wanted.tolist()}
    assert runner.embedded == 1
    assert [shape["label"] for shape in backend.invoke({"image": encoded()})] == ["polyp", "snare"]


@pytest.mark.parametrize(
    ("request_", "message"),
    [
        (with_prompt(region("ellipselabels", {"x": 1, "y": 1})), "type ellipselabels is no prompt"),
        (with_prompt(region("rectanglelabels", {"x": 1, "y": 1, "width": 5, "height": 5, "rotation": 9})), "is turned"),
        (with_prompt(region("rectanglelabels", {"x": 1, "y": 1})), "has no type, label or place"),
        (with_prompt(region("keypointlabels", {"x": 500, "y": 1})), "lies outside of the picture"),
        (with_prompt({**region("keypointlabels", {"x": 5, "y": 1}), "value": {"x": 5, "y": 1}}), "no type, label"),
        (
            with_prompt({"type": "keypointlabels", "value": {"x": 5, "y": 1, "keypointlabels": ["scar"]}}),
            "is scar, none",
        ),
        ({"image": encoded(), "pos_points": [], "neg_points": [[1, 1]]}, "pos_points: is empty"),
        ({"image": encoded(), "pos_points": [[1]], "neg_points": []}, "are no lists of points"),
        ({"image": encoded(), "pos_points": [[1, 99]], "neg_points": []}, "lies outside of the picture"),
    ],
)
@pytest.mark.parametrize("server", [BoxOrDisc()], indirect=True)
def test_a_wrong_prompt_is_one_line(server: LabelServer, request_: dict[str, Any], message: str) -> None:
    status, text = call(server, "POST", "/predict" if "tasks" in request_ else "/", request_)
    assert status == 400 and message in text and text.count("\n") == 1


def test_a_ship_without_a_prompt_input_names_the_command_that_adds_one(server: LabelServer) -> None:
    click = region("keypointlabels", {"x": 5, "y": 5}, is_positive=True)
    sent = {"image": encoded(), "pos_points": [[1, 1]], "neg_points": []}
    for path, body in (("/predict", with_prompt(click)), ("/", sent)):
        status, text = call(server, "POST", path, body)
        assert status == 400 and "edgemt export SHIP --with-prompt" in text
    assert list(call(server, "GET", "/api/functions")[1]) == ["edgemt"]
    assert call(server, "GET", "/api/functions/edgemt-prompt")[0] == 400


@pytest.mark.parametrize(
    ("path", "body", "status", "message"),
    [
        (
            "/predict",
            {**PREDICT, "label_config": "<View/>"},
            400,
            "has no BrushLabels or PolygonLabels with polyp, snare",
        ),
        ("/predict", {**PREDICT, "label_config": "<!DOCTYPE a><View/>"}, 400, "declares a document type"),
        ("/predict", {"tasks": "all"}, 400, "has no list 'tasks'"),
        ("/predict", {**PREDICT, "tasks": [{"data": {"image": "other.png"}}]}, 400, "names image other.png"),
        (
            "/predict",
            {**PREDICT, "tasks": [{"data": {"image": "../../etc/passwd.png"}}]},
            400,
            "leads out of the folder",
        ),
        ("/predict", b'{"tasks": [', 400, "is not whole JSON"),
        ("/predict", b"[]", 400, "is no JSON object"),
        ("/api/function_invocations", {"image": "%%"}, 400, "image: is no base64 text"),
        ("/api/function_invocations", {}, 400, "image: the request has none"),
        ("/api/function_invocations", {"image": "aGFsbG8="}, 400, "image: what was sent"),
        ("/train", {}, 404, "no such end point"),
    ],
)
def test_a_wrong_request_is_one_line(server: LabelServer, path: str, body: Any, status: int, message: str) -> None:
    found, text = call(server, "POST", path, body)
    assert found == status and message in text and text.count("\n") == 1
    assert LINES[-1] == f"rejected POST {path!r}: {text.strip()}"
    assert call(server, "GET", "/health")[0] == 200  # it goes on


def test_only_clients_with_the_token_and_this_host_are_answered(server: LabelServer) -> None:
    for path in ("/health", "/api/functions"):
        assert call(server, "GET", path, password="wrong")[0] == 401
        assert call(server, "GET", path, Authorization="")[0] == 401
        assert call(server, "GET", path, Authorization="Basic ???")[0] == 401
        assert call(server, "GET", path, Host="evil.example:80")[0] == 421
    assert call(server, "GET", "/health", Authorization=f"Bearer {server.token}")[0] == 200
    assert call(server, "POST", "/predict", PREDICT, password="wrong")[0] == 401
    assert call(server, "POST", "/predict", b"", Content_Length=str(1 << 40))[0] == 413
    assert server.server_address[0] == "127.0.0.1" and len(server.token) >= 32


def test_tasks_need_a_folder_of_images() -> None:
    backend = LabelBackend(lambda path: truth(), CLASSES, name="tiny")
    with pytest.raises(ValueError, match="start edgemt serve-labels with --images DIR"):
        backend.predict(PREDICT)


@pytest.mark.parametrize(
    ("more", "message"),
    [
        (["--token", "short"], "token: has 5 letters"),
        (["--images", "nowhere"], "images: no such folder 'nowhere'"),
        ([], "no such"),
    ],
)
def test_command_line_errors(more: list[str], message: str, capsys: pytest.CaptureFixture[str]) -> None:
    with pytest.raises(SystemExit) as stop:
        cli.main(["serve-labels", "nowhere", *more])
    assert stop.value.code == 2 and message in capsys.readouterr().err
