"""The names of the files of a package, in one place. Folders are relative to the package folder."""

from __future__ import annotations

CARD = "card.json"
GOLDEN = "golden"  # folder of the frames and masks of the self-test
ONNX_FP32, IR_FP32 = "model.onnx", "openvino/model.xml"
ONNX_FP16, IR_FP16 = "model.fp16.onnx", "openvino/model.fp16.xml"
ONNX_INT8, IR_INT8 = "model.int8.onnx", "openvino/model.int8.xml"
PTE_INT8 = "model.int8.pte"  # on demand: edgemt export --format executorch

ONNX = {"int8": ONNX_INT8, "fp16": ONNX_FP16, "fp32": ONNX_FP32}  # precision of the weights -> file
IR = {"int8": IR_INT8, "fp16": IR_FP16, "fp32": IR_FP32}
