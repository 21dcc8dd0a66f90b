"""Shared by all tests: one thread, no telemetry, the order of the files, and one tiny run of the whole flow."""

from __future__ import annotations

import contextlib
import fcntl
import gc
import os
import signal
import sys
from collections import OrderedDict
from collections.abc import Generator
from functools import cache, partial
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest
from tiny_flags import TINY, TINY_VOLUMES

from deploy.measurement import variants
from edgemt.telemetry import switch_off

os.environ.setdefault("OMP_NUM_THREADS", "1")
if signal.getsignal(signal.SIGINT) is signal.SIG_IGN:  # of a background shell; those we start would be deaf
    signal.signal(signal.SIGINT, signal.default_int_handler)
if signal.getsignal(signal.SIGTERM) is signal.SIG_DFL:  # ends the tests, where a training in them would note it only

    def end(number: int, frame: object) -> None:
        signal.signal(number, signal.SIG_DFL)
        os.kill(os.getpid(), number)

    signal.signal(signal.SIGTERM, end)
switch_off()  # a test may import a runtime before anything of the package
variants.BUSY = float("inf")  # the processes of a test run disturb each other: each package would be timed three times
os.fsync = lambda handle: None  # no test cuts the power, and a flush waits for everybody else's writes
os.environ.pop("PYTHONDONTWRITEBYTECODE", None)  # each program that a test starts would compile the packages anew
sys.dont_write_bytecode = False
gc.disable()  # until everything is imported: a fifth of the time of the imports would be a search for garbage


@pytest.hookimpl(optionalhook=True, wrapper=True)
def pytest_xdist_auto_num_workers() -> Generator[None, int, int]:
    """One worker more than cores: a quarter of the time of a worker is for locks, clocks and other processes."""
    return (yield) + ("PYTEST_XDIST_AUTO_NUM_WORKERS" not in os.environ)


def pytest_configure(config: pytest.Config) -> None:
    if hasattr(config, "workerinput") or not config.getoption("numprocesses", None):
        for prepare in (prepare_torch, prepare_exporter, prepare_quantizer, prepare_tyro, prepare_openvino):
            with contextlib.suppress(ImportError, AttributeError):  # another version of a package, or none
                prepare()


def prepare_torch() -> None:
    """One thread; and seeding does not keep the whole call stack as text, for a device that may yet come."""
    import torch

    torch.set_num_threads(1)
    for device in (torch.cuda, torch.xpu, torch.mtia):
        if not device.is_available():
            device.manual_seed_all = lambda seed: None


def prepare_exporter() -> None:
    """For every graph the exporter reads the signatures of 500 operators anew, and for every batch norm their names.

    It compares every node with every rule of its optimizer, most of which are for another operator.
    """
    from onnxscript.rewriter._basics import MatchResult
    from onnxscript.rewriter._matcher import SimplePatternMatcher
    from torch._export import utils
    from torch.onnx._internal.exporter._registration import ONNXRegistry

    ONNXRegistry.from_torchlib = staticmethod(cache(ONNXRegistry.from_torchlib))
    utils._materialize_cpp_cia_ops = cache(utils._materialize_cpp_cia_ops)
    plain = SimplePatternMatcher.match

    def match(self: SimplePatternMatcher, model: Any, graph: Any, node: Any, **options: Any) -> MatchResult:
        wanted = self.pattern.output_nodes[0].op_identifier()
        if wanted is not None and wanted[:2] != (node.domain, node.op_type):
            return MatchResult().fail("another operator")
        return plain(self, model, graph, node, **options)

    SimplePatternMatcher.match = match


def prepare_quantizer() -> None:
    from deploy.quantization import int8

    def quantized(*args: Any, **options: Any) -> Any:
        with contextlib.suppress(ImportError, AttributeError):
            prepare_patterns()
        return plain(*args, **options)

    plain, int8._quantized = int8._quantized, quantized


@cache
def prepare_patterns() -> None:
    """NNCF builds its patterns for every graph anew, and searches each as a view of one graph, three times as slow.

    It also searches for those with operators, or pairs of them, that the graph has not: nearly all.
    """
    import networkx
    from nncf.common import insertion_point_graph
    from nncf.common.graph import graph, graph_matching
    from nncf.common.graph.patterns import GraphPattern
    from nncf.common.graph.patterns.manager import PatternsManager

    kind, other = GraphPattern.METATYPE_ATTR, {GraphPattern.ANY_PATTERN_NODE_TYPE, GraphPattern.NON_PATTERN_NODE_TYPE}
    plain = graph_matching.find_subgraphs_matching_pattern

    def components(searched: networkx.MultiDiGraph, patterns: networkx.MultiDiGraph) -> list[networkx.MultiDiGraph]:
        there = {(data.get(kind), data.get(GraphPattern.NODE_TYPE_ATTR)) for data in searched.nodes.values()}
        of = {
            key: {k for k in there if other & {*data[kind]} or {*k} & {*data[kind]}}
            for key, data in patterns.nodes.items()
        }
        nodes = searched.nodes
        pairs = {
            tuple((nodes[k].get(kind), nodes[k].get(GraphPattern.NODE_TYPE_ATTR)) for k in edge[:2])
            for edge in searched.edges
        }

        def possible(edge: tuple[Any, ...]) -> bool:
            return any((a, b) in pairs for a in of[edge[0]] for b in of[edge[1]])

        parts = (patterns.subgraph(keys) for keys in networkx.weakly_connected_components(patterns))
        return [part.copy() for part in parts if all(of[key] for key in part) and all(map(possible, part.edges))]

    def find(searched: networkx.MultiDiGraph, patterns: GraphPattern, strict: bool = True) -> list[list[str]]:
        own = partial(components, searched, patterns.graph)
        return plain(searched, SimpleNamespace(graph=patterns.graph, get_weakly_connected_subgraphs=own), strict)

    PatternsManager.get_full_hw_pattern_graph = staticmethod(cache(PatternsManager.get_full_hw_pattern_graph))
    insertion_point_graph.find_subgraphs_matching_pattern = graph.find_subgraphs_matching_pattern = find


def prepare_tyro() -> None:
    """For every command it reads the sources of the dataclasses anew, and in a test a tenth of them twice."""
    from tyro import _docstrings

    tokenization = _docstrings._ClassTokenization
    tokenization.make = staticmethod(cache(tokenization.make.__wrapped__))
    for name in ("get_class_tokenization_with_field", "get_field_docstring", "get_callable_description"):
        setattr(_docstrings, name, cache(getattr(_docstrings, name).__wrapped__))


LONGEST = (  # begun first, so that no process of a test run ends alone with one of them
    "test_readme", "test_prune_stage", "test_flow_2d", "test_entry", "test_resolution", "test_contract",
    "test_every_teacher", "test_entry_as_package", "test_quantize_stage", "test_soft_label_bank", "test_flow_3d",
    "test_encoder_weights", "test_every_student", "test_int8", "test_prune", "test_sam", "test_export", "test_runner",
    "test_faults_end_to_end", "test_latency_search", "test_distributed", "test_float16",
)  # fmt: skip


def pytest_collection_modifyitems(items: list[pytest.Item]) -> None:
    items.sort(key=lambda item: LONGEST.index(item.path.stem) if item.path.stem in LONGEST else len(LONGEST))


@pytest.fixture(scope="session", autouse=True)
def key_of_the_cache(tmp_path_factory: pytest.TempPathFactory) -> None:
    """Not the user's own."""
    os.environ["EDGEMT_CACHE_KEY"] = str(tmp_path_factory.mktemp("key") / "cache.key")


def pytest_collection_finish() -> None:
    """What was imported until now stays to the end, so the garbage collector need not search it."""
    gc.freeze()
    gc.set_threshold(10_000, 20, 20)
    gc.enable()


def prepare_openvino() -> None:
    """A test run loads the same few graphs again and again; what was compiled is not changed by those that use it."""
    from deploy.runtimes import openvino_backend as backend

    made, plain = OrderedDict[Any, Any](), backend._compiled

    def compiled(ov: Any, model: Any, device: str, options: Any) -> tuple[Any, bool]:
        if options.cache is not None:
            return plain(ov, model, device, options)
        key = (backend.core(), backend.read, model.data, model.weights, device, repr(options))
        made[key] = found = made.pop(key, None) or plain(ov, model, device, options)
        while len(made) > 12:
            made.popitem(last=False)
        return found

    backend._compiled = compiled


def run_once(recipe: str, flags: list[str], tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The folder of a finished run, made by the first process of a test run that needs it."""
    from edgemt import cli

    here = tmp_path_factory.getbasetemp()
    shared = (here.parent if "PYTEST_XDIST_WORKER" in os.environ else here) / f"tiny_{recipe}"
    shared.mkdir(exist_ok=True)
    out, made = shared / "run", shared / "made"
    with (shared / "lock").open("w") as lock:
        fcntl.flock(lock, fcntl.LOCK_EX)  # the system opens it when its holder dies, and the run resumes
        if not made.exists():
            cli.main(["run", recipe, "--out", str(out), *flags])
            made.touch()
    return out


@pytest.fixture(scope="session")
def tiny_run(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A finished run of the phantom recipe, made small: the folder with every stage in it.

    Made once for all processes of a test run, so never change it: work on a copy.
    """
    return run_once("phantom", TINY, tmp_path_factory)


@pytest.fixture(scope="session")
def tiny_volume_run(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The same of volumes: a 3-D teacher, its bank, a student of slices. Work on a copy."""
    return run_once("phantom_volumes", TINY_VOLUMES, tmp_path_factory)
