"""Programs (.pte) on ExecuTorch, with the XNNPACK kernels of the processor.

A program is bound to the version of ExecuTorch that wrote it: another one is refused. The Python runtime of ExecuTorch
imports torch; a program in C++, as on a phone, does not need it.

Shapes: H W size in pixels, K channels.
"""

from __future__ import annotations

import os
import sys
import tempfile
import warnings
from collections.abc import Iterator
from contextlib import contextmanager, redirect_stderr
from importlib import import_module
from importlib.metadata import PackageNotFoundError, version
from importlib.util import find_spec
from io import StringIO
from typing import Any

import numpy as np

from deploy.package.model_bytes import ModelBytes
from deploy.runtimes.runner import LoadedModel, RuntimeOptions, import_runtime

INSTALL = "'edgemt[executorch]'"
VERSION, PRECISION = "edgemt_executorch", "edgemt_precision"  # constant methods of a program
_ELEMENTS = {0: "uint8", 1: "int8", 3: "int32", 4: "int64", 6: "f32"}  # of ExecuTorch's ScalarType


def executorch_version() -> str:
    """The version of ExecuTorch that is installed. Raises ValueError, naming what to install."""
    import_runtime("executorch", "executorch", pip=INSTALL)
    try:
        return version("executorch")
    except PackageNotFoundError:
        raise ValueError(f"runtime 'executorch': its version is unknown; pip install {INSTALL}") from None


def missing() -> str | None:
    """What its Python runtime needs besides the package."""
    return None if find_spec("torch") is not None else "torch is not, which its Python runtime loads; pip install torch"


def load(model: ModelBytes, options: RuntimeOptions) -> LoadedModel:
    """Load a program on the processor. Raises ValueError for another device and another version of ExecuTorch."""
    if options.device not in (None, "CPU"):
        raise ValueError(f"device {options.device!r}: executorch takes CPU")
    here = executorch_version()
    with _without_stderr():  # the library writes there what it finds out about the processor
        torch, library = import_module("torch"), import_module("executorch.extension.pybindings.portable_lib")
        data = model.data
        module = library._load_for_executorch_from_buffer(data)
        made, precision = _constant(module, VERSION), _constant(module, PRECISION)
        check_version(made, here)
        library._unsafe_reset_threadpool(options.threads)
        meta = module.method_meta("forward")
        taken, given = _spec(meta.input_tensor_meta(0)), _spec(meta.output_tensor_meta(0))
        module.forward((torch.zeros(taken[0], dtype=getattr(torch, taken[1])),))  # packs the weights

    def call(frame: np.ndarray) -> np.ndarray:
        assert data  # the module reads its weights from these bytes, and does not keep them
        (mask,) = module.forward((torch.from_numpy(np.require(frame, requirements=("C", "W"))),))
        return np.array(mask.numpy())

    return LoadedModel(
        call=call,
        input_spec=taken,
        output_spec=given,
        precision=precision,
        threads=options.threads,
        details={"provider": "XNNPACK", "made_by": f"executorch {made}", "program": model.sha256},
    )


def check_version(made: str, here: str) -> None:
    """Raises ValueError, with the remedy, unless a program was written by the version that is to run it."""
    if not made:
        raise ValueError("is no program of EdgeMT; write it with edgemt export --format executorch")
    if made != here:
        raise ValueError(
            f"was written by executorch {made}, which alone runs it; here is {here}: pip install executorch=={made}, "
            "or write it again with edgemt export --format executorch"
        )


def _constant(module: Any, name: str) -> str:
    return str(module.run_method(name, ())[0]) if name in module.method_names() else ""


def _spec(meta: Any) -> tuple[tuple[int, ...], str]:
    return tuple(meta.sizes()), _ELEMENTS.get(meta.dtype(), str(meta.dtype()))


@contextmanager
def _without_stderr() -> Iterator[None]:
    """What the library writes to stderr is left out; after an error its last line is part of the message.

    Its C++ code writes to Python's stream in some places, to file descriptor 2 in others.
    """
    sys.stderr.flush()
    before, text = os.dup(2), StringIO()
    with tempfile.TemporaryFile() as lines, redirect_stderr(text), warnings.catch_warnings():
        warnings.simplefilter("ignore")  # that its interface is experimental
        os.dup2(lines.fileno(), 2)
        try:
            yield
        except RuntimeError as error:
            lines.seek(0)
            written = (lines.read().decode(errors="replace") + text.getvalue()).strip().splitlines()
            raise RuntimeError(f"{error}{': ' + written[-1] if written else ''}") from error
        finally:
            os.dup2(before, 2)
            os.close(before)
