"""Contours with a guarantee and the uncertainty of overlapping classes, from a graph to files and the stream."""

from __future__ import annotations

import math
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from PIL import Image

onnx = pytest.importorskip("onnx")
pytest.importorskip("onnxruntime")
pytest.importorskip("scipy")
torch = pytest.importorskip("torch")

from deploy.export import DeployableModel, export_onnx  # noqa: E402
from deploy.package.package import finalize, open_package  # noqa: E402
from deploy.runtimes.load import runner  # noqa: E402
from deploy.stream.inference.contours import stream_contours  # noqa: E402
from deploy.stream.state.band_lines import with_band_lines  # noqa: E402
from deploy.stream.state.overlay import outline  # noqa: E402
from edgemt import cli  # noqa: E402
from edgemt.artefacts.network_folder import build_network  # noqa: E402
from edgemt.convert import exporting  # noqa: E402
from edgemt.data.options import DataOptions  # noqa: E402
from edgemt.inference import evaluate_package  # noqa: E402
from edgemt.inference.contours import score_masks  # noqa: E402
from edgemt.inference.evaluate import EvalSet  # noqa: E402
from edgemt.inference.evaluate_uncertainty import entropy_record, uncertainty_record  # noqa: E402
from edgemt.io.class_regions import from_regions, in_class  # noqa: E402
from edgemt.io.contour_bands import bands, dilated, eroded  # noqa: E402
from edgemt.io.contours import class_colours  # noqa: E402
from edgemt.model_card import ModelCard, Normalisation  # noqa: E402

SIZE = (32, 32)
CLASSES = ("background", "organ", "tool")
NETWORK = {"room": "students", "name": "test_efficientnet", "channels": 3, "heads": [], "overlapping": True,
           "classes": 2, "options": {"pretrained": "never"}}  # fmt: skip
RUN: dict[str, Any] = {"runtime": "onnxruntime", "file": "model.onnx"}
PLAIN = Normalisation((0.5,), (0.25,))


def picture(seed: int) -> np.ndarray:
    """uint8 [H, W, 3] of smooth blobs."""
    coarse = np.random.default_rng(seed).integers(0, 255, (6, 6, 3), np.uint8)
    return np.asarray(Image.fromarray(coarse).resize(SIZE[::-1], Image.Resampling.BICUBIC))


def overlapping_student() -> Any:
    """A network of random weights whose classes are both somewhere, and together."""
    torch.manual_seed(3)
    network = build_network(dict(NETWORK)).eval()
    frames = torch.from_numpy(np.stack([picture(seed) for seed in range(8)]))
    whole = DeployableModel(network, normalise=PLAIN, channels=3)
    with torch.inference_mode():
        logits = network(whole.normalised(frames)).logits
        network.head.weight *= (3 / logits.std((0, 2, 3))).view(-1, 1, 1, 1)
        network.head.bias *= 3 / logits.std((0, 2, 3))
        network.head.bias -= network(whole.normalised(frames)).logits.mean((0, 2, 3)) + 0.5
    return network


@pytest.fixture(scope="module")
def shipped(tmp_path_factory: pytest.TempPathFactory) -> tuple[Any, Path]:
    folder = tmp_path_factory.mktemp("ship") / "ship"
    folder.mkdir()
    network = overlapping_student()
    export_onnx(network, folder / "model.onnx", size=SIZE, channels=3, normalise=PLAIN, uncertainty="softmax")
    data = DataOptions(layout="pairs", classes=CLASSES, size=SIZE, overlapping=True).to_dict()
    card = ModelCard(
        name="toy", classes=CLASSES, size=SIZE, channels=3, channel_order="RGB", normalise=PLAIN, data=data,
        overlapping=True, stage="ship",
    )  # fmt: skip
    finalize(folder, card)
    return network, folder


def masks_of(folder: Path, seeds: range) -> np.ndarray:
    frames = np.stack([picture(seed) for seed in seeds])
    made = runner(open_package(folder), **RUN)
    return np.concatenate([made(frame[None]) for frame in frames])


def class_folders(root: Path, folder: Path, seeds: range, *, largest: int = 3) -> Path:
    """Frames with a mask for each class: what the model predicts, the organ moved by 0 to `largest` pixels."""
    for seed, mask in zip(seeds, masks_of(folder, seeds), strict=True):
        for name, index, shift in (("organ", 1, seed % (largest + 1)), ("tool", 2, 0)):
            target = root / "masks" / name / f"c{seed}.png"
            target.parent.mkdir(parents=True, exist_ok=True)
            region = np.roll(in_class(mask, index, overlapping=True), shift, axis=1)
            Image.fromarray(region.astype(np.uint8)).save(target)
        (root / "images").mkdir(exist_ok=True)
        Image.fromarray(picture(seed)).save(root / "images" / f"c{seed}.png")
    return root


def brute_force_scores(mask: np.ndarray, truth: np.ndarray, tolerance: float) -> tuple[float, float]:
    """Outer and inner score of two regions by their definition: every pair of pixels, every radius that occurs."""
    pixels = np.stack(np.meshgrid(*map(np.arange, mask.shape), indexing="ij"), -1).reshape(-1, 2).astype(float)

    def distance_to(region: np.ndarray) -> np.ndarray:
        others = pixels[region.reshape(-1)]
        squared = ((pixels[:, None] - others[None]) ** 2).sum(-1)
        return np.sqrt(squared.min(1)).reshape(region.shape) if len(others) else np.full(region.shape, np.inf)

    def smallest(fails: Callable[[float], bool], radii: np.ndarray) -> float:
        return next((float(r) for r in sorted({0.0, *radii.reshape(-1).tolist()}) if not fails(r)), np.inf)

    outside, depth = distance_to(mask), distance_to(~mask)
    outer = smallest(lambda r: (truth & (outside > r)).sum() > tolerance * truth.sum(), outside)
    inner = smallest(lambda r: (mask & (depth > r) & ~truth).sum() > tolerance * mask.sum(), depth)
    return outer, inner


@pytest.mark.parametrize("tolerance", [0.0, 0.05])
def test_scores_of_overlapping_classes_are_those_of_every_pair_of_pixels(tolerance: float) -> None:
    rng = np.random.default_rng(0)
    y, x = np.mgrid[:20, :24]

    def disc(bits: int) -> np.ndarray:
        return (y - rng.integers(6, 14)) ** 2 + (x - rng.integers(6, 18)) ** 2 < rng.integers(4, 7) ** 2

    masks, truths = ([from_regions([disc(k) for k in range(3)]) for _ in range(4)] for _ in range(2))
    assert any((mask == 3).any() or (mask == 7).any() for mask in masks)
    frames = np.zeros((4, 20, 24, 1), np.uint8)
    rows = tuple(slice(i, i + 1) for i in range(4))
    cases = EvalSet(tuple("abcd"), frames, rows, tuple(truths), ("background", *"xyz"), (None,) * 4, overlapping=True)
    found = score_masks(masks, cases, tolerance=tolerance)
    for case, (mask, truth) in enumerate(zip(masks, truths, strict=True)):
        for k in range(3):
            regions = (in_class(part, k + 1, overlapping=True) for part in (mask, truth))
            assert found[case, k] == pytest.approx(brute_force_scores(*regions, tolerance), abs=1e-6)


def test_calibrate_eval_predict_and_stream_take_each_class_by_itself(
    shipped: tuple[Any, Path], tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    _, folder = shipped
    seeds = range(20)
    masks = masks_of(folder, seeds)
    assert {1, 2, 3} <= set(np.unique(masks).tolist())  # classes alone and together
    root = class_folders(tmp_path / "calibration", folder, seeds)
    cli.main(["calibrate", str(folder), "--data.root", str(root), "--out", str(tmp_path / "ship"), "--tolerance", "0",
              "--runtime", "onnxruntime", "--file", "model.onnx"])  # fmt: skip
    ship = open_package(tmp_path / "ship")
    margins = ship.card.contours["model.onnx"]
    rank = math.ceil(21 * 0.9 - 1e-9)  # of 20 patients, alpha 0.1
    for k, name in enumerate(CLASSES[1:], 1):
        scores = [
            brute_force_scores(
                in_class(mask, k, overlapping=True),
                np.asarray(Image.open(root / f"masks/{name}/c{seed}.png")) > 0,
                0.0,
            )
            for seed, mask in zip(seeds, masks, strict=True)
        ]
        for part, own in enumerate((margins.outer, margins.inner)):
            assert own[name] == pytest.approx(sorted(score[part] for score in scores)[rank - 1], abs=2e-4)
    assert margins.outer["organ"] and margins.outer["tool"] == margins.inner["tool"] == 0

    other = class_folders(tmp_path / "test", folder, range(40, 48))
    record = evaluate_package.evaluate_ship(ship.folder, data_root=other, **RUN)["contours"]
    assert record["per_class"]["tool"]["both"] == 1 and record["per_class"]["organ"]["outer_area"] > 1
    assert "organ: outer" in evaluate_package.metrics_table(evaluate_package.evaluate_ship(
        ship.folder, data_root=other, **RUN))  # fmt: skip

    image = root / "images/c3.png"
    written = list(evaluate_package.predict(ship.folder, [image], out=tmp_path / "out", contours=True,
                                            uncertainty=True, **RUN))  # fmt: skip
    assert [path.name for path in written] == [
        "c3.organ.mask.png", "c3.tool.mask.png", "c3.uncertainty.png", "c3.outer.organ.mask.png",
        "c3.inner.organ.mask.png", "c3.outer.tool.mask.png", "c3.inner.tool.mask.png", "c3.overlay.png",
    ]  # fmt: skip
    regions = {path.name: np.asarray(Image.open(path)) for path in written[:-1]}
    for k, name in enumerate(CLASSES[1:], 1):
        own = in_class(masks[3], k, overlapping=True)
        assert np.array_equal(regions[f"c3.{name}.mask.png"], own)
        assert np.array_equal(regions[f"c3.outer.{name}.mask.png"], dilated(own, float(margins.outer[name] or 0)))
        assert np.array_equal(regions[f"c3.inner.{name}.mask.png"], eroded(own, float(margins.inner[name] or 0)))
    assert sorted(exporting._mask_files(tmp_path / "out")) == ["c3.organ", "c3.tool"]  # regions are no labels
    again = list(evaluate_package.predict(ship.folder, [root / "images"], out=root / "images", contours=True, **RUN))
    assert len(again) == 20 * 7  # masks, regions and overlays beside the images are no inputs
    assert len(list(evaluate_package.predict(ship.folder, [root / "images"], out=tmp_path / "x", **RUN))) == 20 * 3

    live = stream_contours(ship.card, file="model.onnx")
    drawn = live.of(masks[3])
    assert [band.value for band in drawn] == [1, 2] and live.claim
    for band, own in zip(drawn, bands(masks[3], margins, classes=CLASSES, overlapping=True), strict=True):
        assert np.array_equal(band.outer, own.outer) and np.array_equal(band.inner, own.inner)
    colours = class_colours(3)
    plain = outline(masks[3], size=(128, 128), colours=colours, overlapping=True)
    assert len(with_band_lines(plain, drawn, colours=colours).index) > len(plain.index)


def test_the_softmax_like_uncertainty_is_that_of_the_least_certain_class(
    shipped: tuple[Any, Path], tmp_path: Path
) -> None:
    network, folder = shipped
    ship = open_package(folder)
    frames = np.stack([picture(seed) for seed in range(3)])
    whole = DeployableModel(network, normalise=PLAIN, channels=3)
    with torch.inference_mode():
        q = network(whole.normalised(torch.from_numpy(frames))).logits.sigmoid().numpy()
    p = np.max([1 - np.maximum(q[:, k], 1 - q[:, k]) for k in range(2)], axis=0)
    bits = from_regions(list(np.moveaxis(q > 0.5, 1, 0)))
    found = [runner(ship, **RUN).with_uncertainty(frame[None]) for frame in frames]
    masks, maps = (np.concatenate(parts) for parts in zip(*found, strict=True))
    assert np.abs(maps.astype(int) - np.rint(255 * np.sqrt(p))).max() <= 1 and maps.max() > 150
    assert (masks == bits).mean() > 0.999

    class Bare(torch.nn.Module):
        """The same logits without the student's own way to the mask, as other networks give them."""

        overlapping = True

        def forward(self, x: Any) -> Any:
            return network(x)

    other = DeployableModel(Bare(), normalise=PLAIN, channels=3, uncertainty="softmax")
    with torch.inference_mode():
        mask, second = other(torch.from_numpy(frames))
    assert np.array_equal(mask.numpy(), bits) and np.abs(second.numpy() - np.rint(255 * np.sqrt(p))).max() <= 1


def test_an_int8_graph_has_the_bits_and_the_uncertainty_of_its_float_parent(
    shipped: tuple[Any, Path], tmp_path: Path
) -> None:
    pytest.importorskip("nncf")
    from deploy.quantization.int8 import nodes_of_uncertainty, quantize

    folder = tmp_path / "ship"
    folder.mkdir()
    source = shipped[1] / "model.onnx"
    quantize(source, folder / "model.int8.onnx", calibration=[picture(seed)[None] for seed in range(8)])
    (folder / "model.onnx").write_bytes(source.read_bytes())
    finalize(folder, open_package(shipped[1]).card)
    ship, frames = open_package(folder), [picture(seed)[None] for seed in range(20, 26)]
    exact, rounded = (
        [runner(ship, runtime="onnxruntime", file=file).with_uncertainty(frame) for frame in frames]
        for file in ("model.onnx", "model.int8.onnx")
    )
    masks, maps = (np.stack([[pair[k] for pair in found] for found in (exact, rounded)]) for k in (0, 1))
    assert (masks[0] == masks[1]).mean() > 0.9
    assert np.corrcoef(maps[0].reshape(-1), maps[1].reshape(-1))[0, 1] > 0.9
    after = nodes_of_uncertainty(onnx.load(folder / "model.int8.onnx"))
    kinds = {node.op_type for node in onnx.load(folder / "model.int8.onnx").graph.node if node.name in after}
    assert {"Abs", "Sigmoid", "Sqrt"} <= kinds and not kinds & {"QuantizeLinear", "DequantizeLinear"}


def test_wrong_pixels_are_those_of_which_any_class_is_wrong() -> None:
    q = np.array([[0.9, 0.6], [0.2, 0.45], [0.1, 0.3]])  # [pixels, classes]
    p = q.T.reshape(1, 2, 1, 3)
    truths = [np.array([[3, 0, 1]], np.uint8)]  # decided: 3, 0, 0
    frames = np.zeros((1, 1, 3, 1), np.uint8)
    record = entropy_record(lambda _: p, frames, truths, overlapping=True)
    least = np.minimum(q, 1 - q).max(1)
    assert record["wrong"] == pytest.approx(1 / 3) and record["mean_probability"] == pytest.approx(least.mean())
    assert record["brier"] == pytest.approx(((least - [0, 0, 1]) ** 2).mean())
    entropy = -(q * np.log(q) + (1 - q) * np.log(1 - q)).sum(1)
    assert record["auroc"] == pytest.approx((entropy[2] > entropy[:2]).mean())
    maps = np.rint(255 * np.sqrt(least)).astype(np.uint8).reshape(1, 1, 3)
    same = uncertainty_record(lambda _: (np.array([[[3, 0, 0]]], np.uint8), maps), frames, truths)
    assert same["wrong"] == record["wrong"] and same["brier"] == pytest.approx(record["brier"], abs=0.01)
