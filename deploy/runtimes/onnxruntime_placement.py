"""Placement as executed: on which execution provider of ONNX Runtime the nodes of a graph run.

ONNX Runtime gives every node that a provider does not take to the processor and reports nothing. From version 1.24 on
a session records the assignment; in older ones it is read from the profile of one call.
Source: https://onnxruntime.ai/docs/performance/tune-performance/profiling-tools.html
"""

from __future__ import annotations

import json
import tempfile
from collections import Counter
from collections.abc import Callable, Mapping, Sequence
from functools import partial
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np

CPU = "CPUExecutionProvider"
_RECORD = "session.record_ep_graph_assignment_info"
_SHOWN = 4  # operators that a message names


class PlacedNode(NamedTuple):
    """A node of a loaded graph: a fused one counts as its provider counts it."""

    provider: str
    operator: str


Placement = tuple[PlacedNode, ...]


def record_placement(ort: Any, options: Any, *, provider: str, operators: Sequence[str]) -> Callable[[Any], Placement]:
    """Make the session of these options record its placement; call the result once with the session.

    `operators`: those of the graph, which all run on the processor where that is the provider. The placement is empty
    where an older onnxruntime finds no folder to write a profile to.
    """
    if provider == CPU:
        nodes = tuple(PlacedNode(CPU, operator) for operator in operators)
        return lambda session: nodes
    if hasattr(ort, "OrtEpAssignedNode"):
        options.add_session_config_entry(_RECORD, "1")
        return assigned
    try:
        folder = tempfile.TemporaryDirectory(prefix="edgemt-placement-")
    except OSError:
        return lambda session: ()
    options.enable_profiling, options.profile_file_prefix = True, str(Path(folder.name) / "call")
    return partial(profiled, folder=folder)


def assigned(session: Any) -> Placement:
    """The placement that a session recorded when it was made."""
    graphs = session.get_provider_graph_assignment_info()
    return tuple(PlacedNode(graph.ep_name, node.op_type) for graph in graphs for node in graph.get_nodes())


def profiled(session: Any, *, folder: Any) -> Placement:
    """The placement in the profile of one call on zeros; it ends the profiling and removes the temporary folder."""
    with folder:
        feed = {given.name: np.zeros(given.shape, np.uint8) for given in session.get_inputs()}
        session.run(None, feed)
        events = json.loads(Path(session.end_profiling()).read_text(encoding="utf-8"))
    kernels = [event.get("args", {}) for event in events if event.get("cat") == "Node"]
    return tuple(PlacedNode(args["provider"], args["op_name"]) for args in kernels if args.get("provider"))


def counted(placement: Placement) -> dict[str, int]:
    """Provider, without its suffix -> number of nodes, the most first: {"OpenVINO": 412, "CPU": 3}."""
    return dict(Counter(short_name(node.provider) for node in placement).most_common())


def fallback(placement: Placement, provider: str) -> str | None:
    """One line for nodes that do not run on `provider`; None where all do."""
    elsewhere = Counter(node.operator for node in placement if node.provider != provider)
    if not elsewhere:
        return None
    own = len(placement) - elsewhere.total()
    names = ", ".join(f"{operator} {count}" for operator, count in elsewhere.most_common(_SHOWN))
    more = ", ..." if len(elsewhere) > _SHOWN else ""
    where = "/".join(short_name(name) for name in sorted({n.provider for n in placement} - {provider}))
    return f"{own} of {len(placement)} nodes run on {short_name(provider)}, the others on {where} ({names}{more})"


def placement_text(details: Mapping[str, Any]) -> str:
    """Details of a runner as text, "OpenVINO 409, CPU 3"; empty where every node runs on the processor anyway."""
    counts = details.get("placement") or {}
    return ", ".join(f"{name} {count}" for name, count in counts.items()) if set(counts) - {"CPU"} else ""


def placement_record(made: Any) -> dict[str, Any]:
    """Where a loaded runner runs, for an event log: file, runtime, device, provider, precision, threads, nodes.

    `nodes`: provider -> number of nodes, as executed; None for runtimes that do not report it.
    """
    details = made.details
    return {
        "file": made.file,
        "runtime": made.runtime,
        "device": made.device,
        "provider": details.get("provider"),
        "precision": made.precision,
        "threads": made.threads,
        "nodes": details.get("placement") or None,
    }


def short_name(provider: str) -> str:
    """`OpenVINOExecutionProvider` -> `OpenVINO`."""
    return provider.removesuffix("ExecutionProvider")
