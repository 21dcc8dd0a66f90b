"""ONNX Runtime, OpenVINO and TensorRT behind one runner."""
