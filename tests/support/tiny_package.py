"""A ship of a few kilobytes, built without torch: bright pixels are class 1, very bright ones class 2."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import onnx
from onnx import TensorProto, helper, numpy_helper

from deploy.package.golden import write_golden
from deploy.package.package import Package, finalize, open_package
from edgemt.model_card import ModelCard

SIZE, CHANNELS, CLASSES = (32, 40), 3, ("background", "organ", "tool")
FACE = {"shape": [1, *SIZE, CHANNELS], "kind": TensorProto.UINT8}


def expected(frame: np.ndarray) -> np.ndarray:
    """uint8 [H, W, K] -> [H, W], what the graph below computes."""
    bright = frame.astype(np.float32).mean(axis=2) / 255
    return ((bright > 0.4).astype(np.uint8) + (bright > 0.7)).astype(np.uint8)


def frame(seed: int = 0) -> np.ndarray:
    """uint8 [H, W, K] with a grey organ and a white tool, no value near a threshold."""
    draw = np.random.default_rng(seed)
    picture = np.full((*SIZE, CHANNELS), 50, np.uint8)
    y, x = draw.integers(2, 10, 2)
    picture[y : y + 16, x : x + 16] = 140
    picture[y + 4 : y + 8, x + 4 : x + 14] = 220
    return picture + draw.integers(0, 12, picture.shape, dtype=np.uint8)


def graph(
    *,
    quantized: bool = False,
    kind: int = TensorProto.UINT8,
    size: tuple[int, int] = SIZE,
    channels: int = CHANNELS,
    uncertainty: bool = False,
    weight_name: str = "weight",
) -> onnx.ModelProto:
    """uint8 [1, H, W, K] -> uint8 [1, H, W]: a linear score a class, as a 1 x 1 convolution, then argmax.

    `uncertainty` adds the second output: the brightest channel. `weight_name` is that of the convolution's weight.
    """
    weight = np.repeat(np.array([0.0, 1.0, 2.0], np.float32)[:, None] / channels, channels, axis=1)[..., None, None]
    bias = np.array([1.1, 0.7, 0.0], np.float32)  # no score below zero: INT8 that NVIDIA takes has no zero point
    constants = [
        numpy_helper.from_array(np.array(255, np.float32), "full"),
        numpy_helper.from_array(weight, weight_name),
        numpy_helper.from_array(bias, "bias"),
    ]
    nodes = [
        helper.make_node("Cast", ["frame"], ["real"], to=TensorProto.FLOAT),
        helper.make_node("Transpose", ["real"], ["planes"], perm=[0, 3, 1, 2]),
        helper.make_node("Div", ["planes", "full"], ["scaled"]),
    ]
    if quantized:
        constants += [
            numpy_helper.from_array(np.array(1 / 255, np.float32), "step"),
            numpy_helper.from_array(np.array(0, np.uint8), "zero"),
            numpy_helper.from_array(np.array(2 / 127 / channels, np.float32), "weight_step"),
            numpy_helper.from_array(np.array(0, np.int8), "weight_zero"),
            numpy_helper.from_array(np.array(0.0125, np.float32), "score_step"),
            numpy_helper.from_array(np.array(0, np.uint8), "score_zero"),
        ]
        for name, step, zero in (("scaled", "step", "zero"), (weight_name, "weight_step", "weight_zero")):
            nodes.append(helper.make_node("QuantizeLinear", [name, step, zero], [f"{name}_q"]))
            nodes.append(helper.make_node("DequantizeLinear", [f"{name}_q", step, zero], [f"{name}_dq"]))
    inputs = ["scaled_dq", f"{weight_name}_dq"] if quantized else ["scaled", weight_name]
    nodes.append(helper.make_node("Conv", [*inputs, "bias"], ["logits"]))
    if quantized:
        nodes.append(helper.make_node("QuantizeLinear", ["logits", "score_step", "score_zero"], ["logits_q"]))
        nodes.append(helper.make_node("DequantizeLinear", ["logits_q", "score_step", "score_zero"], ["logits_dq"]))
    nodes += [
        helper.make_node("ArgMax", ["logits_dq" if quantized else "logits"], ["best"], axis=1, keepdims=0),
        helper.make_node("Cast", ["best"], ["mask"], to=kind),
    ]
    takes = helper.make_tensor_value_info("frame", TensorProto.UINT8, [1, *size, channels])
    gives = helper.make_tensor_value_info("mask", kind, [1, *size])
    outputs = [gives]
    if uncertainty:
        constants.append(numpy_helper.from_array(np.array([1], np.int64), "channel_axis"))
        nodes.append(helper.make_node("ReduceMax", ["planes", "channel_axis"], ["brightest"], keepdims=0))
        nodes.append(helper.make_node("Cast", ["brightest"], ["uncertainty"], to=kind))
        outputs.append(helper.make_tensor_value_info("uncertainty", kind, [1, *size]))
    body = helper.make_graph(nodes, "tiny", [takes], outputs, constants)
    model = helper.make_model(body, opset_imports=[helper.make_opsetid("", 20)], ir_version=10)
    onnx.checker.check_model(model, full_check=True)
    return model


def make_ship(
    folder: Path,
    *,
    golden: int = 2,
    openvino: bool = False,
    channels: int = CHANNELS,
    uncertainty: bool = False,
    weight_name: str = "weight",
    **fields: object,
) -> Package:
    """A sealed ship; `openvino` adds the IR files, `fields` go to its card."""
    folder.mkdir(parents=True)
    options = {"channels": channels, "uncertainty": uncertainty, "weight_name": weight_name}
    onnx.save(graph(**options), folder / "model.onnx")  # type: ignore[arg-type]
    onnx.save(graph(quantized=True, **options), folder / "model.int8.onnx")  # type: ignore[arg-type]
    if openvino:
        import openvino as ov

        for source, target in (("model.onnx", "model.xml"), ("model.int8.onnx", "model.int8.xml")):
            ov.save_model(ov.convert_model(folder / source), folder / "openvino" / target, compress_to_fp16=False)
    for seed in range(golden):
        picture = frame(seed)
        if channels != CHANNELS:
            picture = np.stack([frame(seed + k)[..., 0] for k in range(channels)], axis=-1)
        write_golden(folder, f"frame{seed}", frame=picture, mask=expected(picture))
    values = {"name": "tiny", "classes": CLASSES, "size": SIZE, "channels": channels, **fields}
    finalize(folder, ModelCard(**values))  # type: ignore[arg-type]
    return open_package(folder)
