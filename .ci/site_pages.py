"""Pages of the documentation site that are not files in docs/: README and others, and the API reference.

mkdocs calls `on_files` (mkdocs.yml, hooks) and `on_page_markdown`. Nothing of the project is imported: the public names
are read from `edgemt/__init__.py` with `ast`, and mkdocstrings reads sources.
"""

from __future__ import annotations

import ast
import posixpath
import re
from pathlib import Path
from typing import Any

from mkdocs.structure.files import File, Files

ROOT = Path(__file__).resolve().parents[1]
OUTSIDE = {  # page of the site -> file of the repository
    "index.md": "README.md",
    "contributing.md": "CONTRIBUTING.md",
    "security.md": "SECURITY.md",
    "changelog.md": "CHANGELOG.md",
    "deploy.md": "deploy/README.md",
    "teachers.md": "teachers/README.md",
    "students.md": "students/README.md",
    "zoo.md": "students/zoo/README.md",
}
REFERENCE: dict[str, tuple[str, tuple[str, ...]]] = {  # page -> title, folders or files whose public names it shows
    "learning": ("Losses, roles, targets", ("edgemt/learning",)),
    "metrics": ("Metrics", ("edgemt/metrics",)),
    "methods": ("Methods", ("edgemt/methods",)),
    "data": ("Data", ("edgemt/data", "edgemt/io")),
    "networks": ("Networks", ("teachers", "students")),
    "pipeline": ("Pipeline", ("edgemt/recipes", "edgemt/pipeline", "edgemt/artefacts")),
    "deploy": (
        "Package and runtimes",
        ("deploy/package", "deploy/runtimes", "deploy/export.py", "deploy/stream/api.py"),
    ),
}
_LINK = re.compile(r"(?<=\]\()(?!#|https?:)([^)\s#]+)(#[^)\s]*)?(?=\))")


def on_files(files: Files, config: Any) -> Files:
    for page, source in OUTSIDE.items():
        files.append(File.generated(config, page, content=(ROOT / source).read_text(encoding="utf-8")))
    files.append(File.generated(config, "reference/public.md", content=public_names()))
    for name, (title, places) in REFERENCE.items():
        files.append(File.generated(config, f"reference/{name}.md", content=reference(title, places)))
    return files


def on_page_markdown(markdown: str, page: Any, config: Any, files: Files) -> str:
    """Links between files of the repository become links between pages; what is no page becomes its name."""
    uri = page.file.src_uri
    source = OUTSIDE.get(uri, f"docs/{uri}")
    pages = {name: page for page, name in OUTSIDE.items()}

    def link(match: re.Match[str]) -> str:
        target = posixpath.normpath(posixpath.join(posixpath.dirname(source), match[1]))
        inside = pages.get(target, target.removeprefix("docs/"))
        if files.get_file_from_path(inside) is None:
            return "#"
        return posixpath.relpath(inside, posixpath.dirname(uri) or ".") + (match[2] or "")

    return re.sub(r"\[([^\]]*)\]\(#\)", r"\1", _LINK.sub(link, markdown))


def public_names() -> str:
    """The names that `import edgemt` offers, each with the module that holds it."""
    tree = ast.parse((ROOT / "edgemt" / "__init__.py").read_text(encoding="utf-8"))
    table: dict[str, str] = next(
        ast.literal_eval(node.value)
        for node in tree.body
        if isinstance(node, ast.Assign) and getattr(node.targets[0], "id", "") == "_PUBLIC"
    )
    lines = ["# Public names", "", "`import edgemt` loads no torch; each of these is loaded when it is first used.", ""]
    for name, home in table.items():
        module, _, other = home.partition(":")  # MODULE, or MODULE:NAME if its name there differs
        lines += [f"## edgemt.{name}", "", f"::: {module}.{other or name}", "    options: {heading_level: 3}", ""]
    return "\n".join(lines)


def reference(title: str, places: tuple[str, ...]) -> str:
    lines = [f"# {title}", ""]
    for place in places:
        found = sorted((ROOT / place).rglob("*.py")) if (ROOT / place).is_dir() else [ROOT / place]
        for path in found:
            if path.name == "__main__.py":
                continue
            parts = path.relative_to(ROOT).with_suffix("").parts
            lines += [f"::: {'.'.join(parts[:-1] if parts[-1] == '__init__' else parts)}", ""]
    return "\n".join(lines)
