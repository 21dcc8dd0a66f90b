"""A ship with a prompt input: its graphs answer as the network does, are on the card, and run without torch."""

from __future__ import annotations

import json
import os
import shutil
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest
from checkout import ROOT

from edgemt.artefacts import network_folder

torch = pytest.importorskip("torch")
pytest.importorskip("onnx")
pytest.importorskip("onnxruntime")
pytest.importorskip("openvino")

from explicit_convolutions import incomplete_convolutions  # noqa: E402
from tiny_package import CHANNELS, CLASSES, SIZE, frame, make_ship  # noqa: E402

from deploy.package.package import open_package  # noqa: E402
from deploy.promptable.add_to_package import add_prompt, put_prompt  # noqa: E402
from deploy.promptable.export import export_prompt  # noqa: E402
from deploy.promptable.mask_edit import apply_box, apply_click, bounding_box, connected_to  # noqa: E402
from deploy.promptable.runner import DECODE, EMBED, POINTS, Prompt, has_prompt, open_prompt  # noqa: E402
from edgemt import cli  # noqa: E402
from edgemt.io.atomic import sha256  # noqa: E402
from edgemt.model_card import ModelCard, Normalisation  # noqa: E402
from teachers.promptable import Promptable  # noqa: E402

NORMALISE = Normalisation(mean=(0.4,), std=(0.3,))
CARD = ModelCard(
    stage="promptable", classes=CLASSES, size=SIZE, channels=CHANNELS, normalise=NORMALISE,
    network={"room": "teachers", "name": "promptable", "heads": [], "options": {}, "channels": 3, "classes": 3},
)  # fmt: skip


@pytest.fixture(scope="module")
def network() -> Promptable:
    torch.manual_seed(0)
    return Promptable(channels=CHANNELS).eval()


@pytest.fixture(scope="module")
def ship(network: Promptable, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A ship that got its prompt input by the command line."""
    folder = tmp_path_factory.mktemp("prompted")
    make_ship(folder / "ship")
    (folder / "promptable").mkdir()
    network_folder.save_network(folder / "promptable", network, CARD)
    cli.main(["export", str(folder / "ship"), "--with-prompt", str(folder / "promptable")])
    return folder / "ship"


BOX = (0.2, 0.3, 0.6, 0.8)
CLICKS = ((0.4, 0.5, True), (0.75, 0.25, False), (0.5, 0.6, True))
QUESTIONS = [
    (Prompt(box, CLICKS[:count]), begun)
    for box in (None, BOX)
    for count in (0, 1, 3)
    for begun in (False, True)
    if box or count or begun
]


def test_convolutions_of_prompt_graphs_are_explicit(ship: Path) -> None:
    assert incomplete_convolutions(ship / "prompt") == []


@pytest.mark.parametrize("runtime", ["onnxruntime", "openvino"])
def test_every_kind_of_question_is_answered_as_the_network_answers_it(
    runtime: str, ship: Path, network: Promptable
) -> None:
    made, picture = open_prompt(open_package(ship), runtime=runtime), frame(3)
    stored = made.embed(picture)
    x = (torch.from_numpy(picture).permute(2, 0, 1)[None].float() / 255 - 0.4) / 0.3
    first = np.random.default_rng(0).normal(0, 3, SIZE).astype(np.float32)
    seen = []
    for question, begun in QUESTIONS:
        result = made.segment(stored, question, first=first if begun else None)
        box = None if question.box is None else torch.tensor(question.box).view(1, 1, 4)
        at = torch.tensor([p[:2] for p in question.points]).view(1, 1, -1, 2) if question.points else None
        signs = torch.tensor([int(p[2]) for p in question.points]).view(1, 1, -1) if question.points else None
        with torch.inference_mode():
            meant = network(x, box, at, signs, torch.from_numpy(first)[None, None] if begun else None)
        assert np.abs(result.logits - meant.logits[0, 0].numpy()).max() < 1e-3
        assert abs(result.quality - float(meant.quality)) < 1e-4
        seen.append(result.logits)
    differences = [np.abs(a - b).max() for i, a in enumerate(seen) for b in seen[:i]]
    assert min(differences) > 1e-2  # so that agreement says something


def test_frames_of_another_size_are_fitted_as_in_training(ship: Path) -> None:
    from edgemt.io.images import fit_frame

    made = open_prompt(open_package(ship))
    large = np.kron(frame(1), np.ones((3, 2, 1), np.uint8))
    small = fit_frame(large, size=SIZE, channels=CHANNELS)
    for a, b in zip(made.embed(large), made.embed(small), strict=True):
        assert np.array_equal(a, b)


def test_both_graphs_are_on_the_card_and_an_edited_one_is_refused(ship: Path, tmp_path: Path) -> None:
    card = open_package(ship).card
    assert has_prompt(open_package(ship))
    assert {name: card.files[name] for name in (EMBED, DECODE)} == {n: sha256(ship / n) for n in (EMBED, DECODE)}
    copy = shutil.copytree(ship, tmp_path / "ship")
    with open(copy / DECODE, "ab") as graph:
        graph.write(b"\0")
    with pytest.raises(ValueError, match=r"decode\.onnx: changed since the card was written"):
        open_package(copy)


def test_the_ship_is_the_one_it_was_but_for_the_prompt(ship: Path, tmp_path: Path) -> None:
    before, after = make_ship(tmp_path / "ship").card, open_package(ship).card
    assert {name: digest for name, digest in after.files.items() if not name.startswith("prompt/")} == before.files
    assert (after.classes, after.size, after.measured) == (before.classes, before.size, before.measured)
    assert sorted(path.name for path in ship.parent.iterdir()) == ["promptable", "ship"]


def test_a_ship_without_one_says_so(tmp_path: Path) -> None:
    plain = make_ship(tmp_path / "ship")
    assert not has_prompt(plain)
    with pytest.raises(ValueError, match="has no prompt input; add one with edgemt export SHIP --with-prompt"):
        open_prompt(plain)


@pytest.mark.parametrize(
    ("change", "words"),
    [
        ({"classes": ("background", "polyp")}, "has .*polyp.*, the ship .*organ"),
        ({"channel_order": "slices"}, "slices with neighbours"),
        ({"patch": (8, 8, 8)}, "on patches"),
    ],
)
def test_a_network_that_does_not_fit_is_refused_and_the_ship_left_alone(
    change: dict, words: str, network: Promptable, tmp_path: Path
) -> None:
    from dataclasses import replace

    card = make_ship(tmp_path / "ship").card
    with pytest.raises(ValueError, match=words):
        add_prompt(tmp_path / "ship", network, replace(CARD, **change))
    assert open_package(tmp_path / "ship").card == card
    assert [path.name for path in tmp_path.iterdir()] == ["ship"]


def test_another_kind_of_network_is_refused(tmp_path: Path) -> None:
    with pytest.raises(ValueError, match="Linear cannot be shipped as a prompt input"):
        export_prompt(torch.nn.Linear(1, 1), tmp_path, size=SIZE, channels=3, normalise=NORMALISE)


class TwoFaced(Promptable):
    """Another network when it is exported than when it is run."""

    def decode(self, *requested, **more):  # type: ignore[no-untyped-def]
        result = super().decode(*requested, **more)
        return result if torch.compiler.is_exporting() else result._replace(logits=-result.logits)


def test_a_graph_that_answers_otherwise_than_the_network_is_not_shipped(tmp_path: Path) -> None:
    with pytest.raises(ValueError, match="openvino and torch agree on .* wanted 99.9%"):
        put_prompt(tmp_path, TwoFaced(channels=3, features=16, layers=1), CARD, of=CARD, frames=[])


@pytest.mark.parametrize(
    ("requested", "words"),
    [
        ({"box": (0.5, 0.1, 0.4, 0.9)}, "the box is empty"),
        ({"box": (0.5, 0.1, 1.4, 0.9)}, "outside of the picture"),
        ({"points": ((0.5, float("nan"), True),)}, "outside of the picture"),
        ({"points": ((0.5, 0.5, True),) * (POINTS + 1)}, f"{POINTS + 1} clicks on one structure, at most {POINTS}"),
    ],
)
def test_a_question_without_sense_is_refused(requested: dict, words: str) -> None:
    with pytest.raises(ValueError, match=words):
        Prompt(**requested)


def test_nothing_asked_is_refused(ship: Path) -> None:
    made = open_prompt(open_package(ship))
    with pytest.raises(ValueError, match="it is empty"):
        made.segment(made.embed(frame(0)), Prompt())


@pytest.mark.parametrize("only", ["onnxruntime", "openvino"])
def test_it_runs_without_torch_on_one_runtime(only: str, ship: Path) -> None:
    hidden = ["torch", "onnx", {"onnxruntime": "openvino", "openvino": "onnxruntime"}[only]]
    program = """
import importlib.abc, json, sys
hidden = json.loads(sys.argv[1])
class Hide(importlib.abc.MetaPathFinder):
    def find_spec(self, name, path=None, target=None):
        if name.split(".")[0] in hidden:
            raise ModuleNotFoundError(name)
sys.meta_path.insert(0, Hide())
import numpy as np
import deploy.stream.web.page
from deploy.promptable.runner import Prompt, open_prompt
from deploy.package.package import open_package
made = open_prompt(open_package(sys.argv[2]), runtime=sys.argv[3])
kept = made.embed(np.zeros((50, 60), np.uint8))
print(json.dumps([made.runtime, list(made.segment(kept, Prompt(points=((0.5, 0.5, True),))).logits.shape)]))
"""
    done = subprocess.run(
        [sys.executable, "-c", program, json.dumps(hidden), str(ship), only],
        capture_output=True, text=True, cwd=ROOT, env={**os.environ, "OMP_NUM_THREADS": "1"},
    )  # fmt: skip
    assert done.returncode == 0, done.stderr
    assert json.loads(done.stdout) == [only, list(SIZE)]


def two_squares() -> np.ndarray:
    mask = np.zeros((40, 60), bool)
    mask[5:15, 5:15] = mask[20:35, 30:50] = True
    return mask


def test_a_click_takes_over_the_piece_that_holds_it_and_nothing_else() -> None:
    mask = two_squares()
    answer = np.zeros_like(mask)
    answer[5:15, 5:25] = True  # more of the first, and the second is gone
    now, followed = apply_click(mask, answer, at=(20 / 60, 10 / 40), on=True)
    assert followed
    assert np.array_equal(now, mask | answer)
    now, followed = apply_click(mask, answer, at=(40 / 60, 25 / 40), on=False)
    assert followed
    assert np.array_equal(now, mask & ~two_squares() | mask & answer)


def test_a_click_that_the_network_will_not_follow_is_obeyed_in_a_small_disc() -> None:
    mask, nothing = two_squares(), np.zeros((40, 60), bool)
    now, followed = apply_click(mask, nothing, at=(20.5 / 60, 30.5 / 40), on=True)
    assert not followed
    assert now[30, 20]
    assert 0 < (now ^ mask).sum() < 0.01 * mask.size
    now, followed = apply_click(mask, ~nothing, at=(40.5 / 60, 27.5 / 40), on=False)
    assert not followed
    assert not now[27, 40]
    assert np.array_equal(now | mask, mask)


def test_a_click_on_what_is_right_already_changes_nothing() -> None:
    mask = two_squares()
    now, followed = apply_click(mask, mask, at=(10 / 60, 10 / 40), on=True)
    assert followed
    assert np.array_equal(now, mask)


def test_the_first_box_says_where_the_object_is_and_another_one_keeps_the_other_pieces() -> None:
    mask = two_squares()
    answer = np.zeros_like(mask)
    answer[8:20, 8:12] = True
    now, found = apply_box(mask, answer, again=False)
    assert found
    assert np.array_equal(now, answer)
    now, found = apply_box(mask, answer, again=True)
    assert found
    assert np.array_equal(now[:, :25], answer[:, :25])
    assert np.array_equal(now[:, 25:], mask[:, 25:])


def test_a_box_in_which_nothing_is_found_changes_nothing() -> None:
    for again in (False, True):
        now, found = apply_box(two_squares(), np.zeros((40, 60), bool), again=again)
        assert not found
        assert np.array_equal(now, two_squares())


def test_the_box_of_a_mask_holds_it_and_the_clicks_on_it() -> None:
    mask = np.zeros((40, 60), bool)
    mask[10:20, 15:30] = True
    x0, y0, x1, y1 = bounding_box(mask, ((0.6, 0.4, True), (0.1, 0.9, False)))
    assert 0.2 < x0 < 15 / 60 and 0.2 < y0 < 10 / 40
    assert 0.7 < x1 < 0.75 and 20 / 40 < y1 < 0.6  # as far beyond the click as the click is beyond the mask
    assert bounding_box(np.zeros((4, 4), bool), ()) is None


def test_pieces_are_told_apart_as_far_as_they_wind() -> None:
    spiral = np.zeros((41, 41), bool)
    for k in range(0, 20, 4):
        spiral[k, k : 41 - k] = spiral[40 - k, k : 41 - k] = spiral[k : 41 - k, 40 - k] = True
        spiral[k + 4 if k else 0 : 41 - k, k] = True
    seed = np.zeros_like(spiral)
    seed[0, 0] = True
    scipy = pytest.importorskip("scipy.ndimage")
    pieces, _ = scipy.label(spiral, np.ones((3, 3)))
    assert np.array_equal(connected_to(seed, spiral), pieces == pieces[0, 0])
