"""From a trained student to a folder that runs on the device: prune, quantize, export; ship, run, bench."""

import sys

# OpenVINO and NNCF report conversions to their maker by this package, consent assumed; without it they use a stub.
sys.modules.setdefault("openvino_telemetry", None)  # type: ignore[arg-type]
