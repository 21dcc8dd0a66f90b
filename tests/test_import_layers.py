"""Imports go down the layers, no import circle exists, and `import edgemt` loads nothing heavy."""

from __future__ import annotations

import ast
import subprocess
import sys
from collections.abc import Iterator, Mapping
from functools import cache
from pathlib import Path

import pytest
from checkout import ROOT

TOPS = ("edgemt", "deploy", "teachers", "students")

# A folder imports folders of lower layers, and of its own layer where no circle arises.
LAYERS = {
    "edgemt": (
        {
            "edgemt",
            "edgemt.contour_margins",
            "edgemt.contract",
            "edgemt.errors",
            "edgemt.model_card",
            "edgemt.renamed_fields",
            "edgemt.telemetry",
        },
        {"edgemt.io"},
        {"edgemt.metrics", "edgemt.learning", "edgemt.learning.perturbations"},
        {"edgemt.data", "edgemt.data.layouts", "edgemt.methods"},
        {"edgemt.convert"},
        {"edgemt.convert.datasets"},
        {"edgemt.training"},
        {"edgemt.artefacts", "edgemt.report", "edgemt.testing"},
        {"edgemt.inference", "edgemt.zoo"},
        {"edgemt.data_report", "edgemt.dossier"},
        {"edgemt.selection", "edgemt.label_server"},
        {"edgemt.pipeline"},
        {"edgemt.recipes"},
        {"edgemt.comparison"},
        {"edgemt.commands"},
        {"edgemt.cli", "edgemt.__main__"},
    ),
}
GROUND = {*LAYERS["edgemt"][0], *LAYERS["edgemt"][1]}  # all that deploy, teachers and students import of edgemt


def module_of(path: Path, root: Path = ROOT) -> str:
    return ".".join(path.relative_to(root).with_suffix("").parts).removesuffix(".__init__")


FILES = {module_of(path): path for top in TOPS for path in sorted((ROOT / top).rglob("*.py"))}


def folder_of(module: str) -> str:
    """The package of a module; a file that lies loose in one of the four packages counts as a folder of its own."""
    if FILES[module].name == "__init__.py":
        return module
    parent = module.rpartition(".")[0]
    return module if parent in TOPS else parent


def statements(block: ast.AST) -> Iterator[ast.stmt]:
    """The statements of a module, function or branch at any depth, but not those for type checkers alone."""
    for name in ("body", "handlers", "orelse", "finalbody", "cases"):
        if name == "body" and isinstance(block, ast.If) and "TYPE_CHECKING" in ast.dump(block.test):
            continue
        for node in getattr(block, name, ()):
            if isinstance(node, ast.stmt):
                yield node
            yield from statements(node)


def imported_by(path: Path, known: Mapping[str, Path]) -> Iterator[str]:
    """Modules of this repository that a file imports anywhere in it, except for type checkers alone."""
    for node in statements(ast.parse(path.read_text(encoding="utf-8"))):
        names: list[str] = []
        if isinstance(node, ast.Import):
            names = [alias.name for alias in node.names]
        elif isinstance(node, ast.ImportFrom) and node.module and not node.level:
            names = [f"{node.module}.{alias.name}" for alias in node.names]
            names = [name if name in known else node.module for name in names]
        yield from (name for name in names if name in known)


def circles(graph: Mapping[str, set[str]]) -> list[list[str]]:
    """Strongly connected parts with more than one node (Tarjan)."""
    index: dict[str, int] = {}
    low: dict[str, int] = {}
    stack: list[str] = []
    found: list[list[str]] = []

    def visit(node: str) -> None:
        index[node] = low[node] = len(index)
        stack.append(node)
        for other in graph.get(node, ()):
            if other not in index:
                visit(other)
                low[node] = min(low[node], low[other])
            elif other in stack:
                low[node] = min(low[node], index[other])
        if low[node] == index[node]:
            part = stack[stack.index(node) :]
            del stack[stack.index(node) :]
            if len(part) > 1:
                found.append(sorted(part))

    for node in list(graph):
        if node not in index:
            visit(node)
    return found


@cache
def file_graph() -> dict[str, set[str]]:
    return {module: {other for other in imported_by(path, FILES) if other != module} for module, path in FILES.items()}


def folder_graph() -> dict[str, set[str]]:
    graph: dict[str, set[str]] = {}
    for module, others in file_graph().items():
        own = folder_of(module)
        graph.setdefault(own, set()).update(folder_of(other) for other in others if folder_of(other) != own)
    return graph


def test_no_circle_of_files() -> None:
    assert circles(file_graph()) == []


def test_no_circle_of_folders() -> None:
    assert circles(folder_graph()) == []


def test_a_circle_is_found() -> None:
    assert circles({"a": {"b"}, "b": {"c"}, "c": {"a"}, "d": {"a"}}) == [["a", "b", "c"]]


def test_imports_of_edgemt_go_down() -> None:
    layer = {folder: number for number, folders in enumerate(LAYERS["edgemt"]) for folder in folders}
    graph = folder_graph()
    missing = {folder for folder in graph if folder.split(".")[0] == "edgemt"} - set(layer)
    assert not missing, f"no layer yet: {sorted(missing)}; add them to LAYERS"
    up = [
        f"{folder} -> {other}"
        for folder, others in graph.items()
        for other in others
        if folder in layer and other in layer and layer[other] > layer[folder]
    ]
    assert not up


@pytest.mark.parametrize("top", ["deploy", "teachers", "students"])
def test_other_packages_import_only_the_ground_of_edgemt(top: str) -> None:
    above = {
        f"{module} -> {other}"
        for module, others in file_graph().items()
        for other in others
        if module.split(".")[0] == top and other.split(".")[0] == "edgemt" and folder_of(other) not in GROUND
    }
    assert not above


def test_the_architecture_page_and_its_drawing_name_every_folder() -> None:
    """After a new folder: `python .ci/draw_layers.py`, and a row in docs/architecture.md."""
    parts = [folder.split(".") for folder in folder_graph()]
    names = {part[1] for part in parts if part[0] in ("edgemt", "deploy") and part[1:]} - {"__main__"}
    drawing = (ROOT / "docs" / "layers.svg").read_text(encoding="utf-8")
    page = (ROOT / "docs" / "architecture.md").read_text(encoding="utf-8")
    assert not {name for name in names if f">{name}<" not in drawing}
    assert not {name for name in names if f"`{name}/`" not in page and f"`{name}.py`" not in page}


def loaded_after(code: str) -> set[str]:
    said = subprocess.run(
        [sys.executable, "-c", f"{code}\nimport sys; print(' '.join(sys.modules))"],
        capture_output=True, text=True, check=True, cwd=ROOT,
    )  # fmt: skip
    return set(said.stdout.split())


@pytest.mark.parametrize(
    "code", ["import edgemt", "import edgemt.cli\ntry: edgemt.cli.main(['--help'])\nexcept SystemExit: pass"]
)
def test_the_front_door_loads_nothing_heavy(code: str) -> None:
    heavy = {
        "torch",
        "scipy",
        "onnxruntime",
        "openvino",
        "nibabel",
        "matplotlib",
        "timm",
        "monai",
        "lightning",
    }
    assert not heavy & loaded_after(code)
