"""The table of methods: idea, target, networks, citation, deviations from the release, and cost of a step.

The text comes from the docstrings of the methods: the first line is the idea; the paragraphs `Target:` and `Differs:`
are the target of the unlabelled images and the deviations from the released code. If a value has another target rule or
selector than the default of its class, the docstring of that rule is used. `costs.json` has the measurements of
`benchmarks/method_steps.py`.

    python -m edgemt.methods.catalogue      writes the table into docs/methods.md
"""

from __future__ import annotations

import json
from collections.abc import Iterable, Mapping
from dataclasses import MISSING, dataclass, field, fields, is_dataclass
from functools import cache
from inspect import cleandoc
from pathlib import Path
from textwrap import fill
from typing import Any

from edgemt.learning.ema import Ema
from edgemt.learning.method import Method
from edgemt.learning.roles import Frozen, Memory
from edgemt.methods import METHODS, get

COSTS = Path(__file__).with_name("costs.json")
PAGE = Path("docs/methods.md")  # of a checkout; the command runs in its root
NAMED = ("Target:", "Differs:")
BEGIN, END = "<!-- methods: written by python -m edgemt.methods.catalogue -->", "<!-- end of methods -->"


@dataclass(frozen=True)
class Row:
    """Description of one method. `cost` is the time of a step relative to a supervised one: {"2d": 1.4, "3d": 1.6}."""

    name: str
    family: str
    idea: str
    target: str
    players: str
    heads: tuple[str, ...]
    citation: str
    differs: str
    inspired: bool
    cost: Mapping[str, float] = field(default_factory=dict)

    @property
    def times(self) -> str:
        """The cost as text; empty if it was not measured."""
        return ", ".join(f"{self.cost[kind]:.1f} x in {kind[0]}-D" for kind in ("2d", "3d") if kind in self.cost)


def row(name: str, method: Method) -> Row:
    """The row of a method; paragraphs that its docstring lacks are empty, and so is a cost that was not measured."""
    documented = _documented_object(method)
    paragraphs = _paragraphs(documented)
    idea = [paragraphs[0] if paragraphs else "", method.variant_note()]
    return Row(
        name=name,
        family=method.family or type(method).__module__.rpartition(".")[2].replace("_", " "),
        idea=" ".join(text for text in idea if text),
        target=_paragraph(documented, "Target:") or _paragraph(method, "Target:"),
        players=_players(method),
        heads=method.heads,
        citation=getattr(documented, "citation", "") or method.citation,
        differs=_paragraph(documented, "Differs:"),
        inspired=method.inspired or getattr(documented, "inspired", False),
        cost=costs().get("relative", {}).get(name, {}),
    )


def rows(methods: Mapping[str, Method] | None = None) -> list[Row]:
    """One row a method, of the built-in table by default, sorted by family."""
    methods = METHODS if methods is None else methods
    described = [row(name, method) for name, method in methods.items()]
    families = list(dict.fromkeys(one.family for one in described))
    return sorted(described, key=lambda one: families.index(one.family))


def about(name: str, method: Method) -> str:
    """One line for a list: the idea, and the cost of a step if it was measured."""
    one = row(name, method)
    return f"{one.idea} [{one.times}]" if one.times else one.idea


@cache
def costs() -> dict[str, Any]:
    """The record that `benchmarks/method_steps.py` wrote; empty without one."""
    return json.loads(COSTS.read_text(encoding="utf-8")) if COSTS.exists() else {}


def explain(name: str) -> str:
    """Description of a method for `edgemt explain`: idea, roles, target, fields, cost and citations."""
    method = get(name)
    one, documented = row(name, method), _documented_object(method)
    lines = [f"{name} = {type(method).__name__} ({one.family})", "", one.idea, ""]
    for part in dict.fromkeys((method, documented)):
        # Without the first line of the documented object, which is the idea above.
        texts = _paragraphs(part)[part is documented :]
        lines += [f"{_wrapped(text)}\n" for text in texts if not text.startswith(NAMED)]
    lines += ["roles", *(f"  {player:<14}{_show(role)}" for player, role in method.roles().items())]
    lines += [f"  delivers      {method.delivers}", f"  extra heads   {', '.join(method.heads) or 'none'}", ""]
    rule = getattr(method, "target", None)
    lines += ["target", *([] if rule is None else [f"  {type(rule).__name__}"]), _wrapped(one.target, "  "), ""]
    lines += ["differs from the released code", _wrapped(one.differs, "  "), ""]
    release = method.published()
    shown = ["  not known", ""] if release is None else [f"  {release.line()}", _wrapped(release.source, "  "), ""]
    lines += ["published settings (edgemt compare --settings published)", *shown]
    lines += ["fields", *_tree(method), ""]
    lines += ["cost of a step (1: a supervised step at the same labelled rows)", f"  {one.times or 'not measured'}"]
    cited = [text for part in (method, rule, documented) if (text := getattr(part, "citation", ""))]
    return "\n".join([*lines, "", "citation", *(f"  {text}" for text in dict.fromkeys(cited))]) + "\n"


def markdown(described: Iterable[Row]) -> str:
    """Two Markdown tables: idea, target, networks and cost of each method; citation and deviations."""
    described, measured = list(described), costs()
    lines = [_measured_how(measured), ""] if measured else []
    lines += ["| family | name | idea | target | players | heads | 2-D | 3-D |", "| --- " * 8 + "|"]
    last = ""
    for one in described:
        times = [f"{one.cost[kind]:.1f}" if kind in one.cost else "" for kind in ("2d", "3d")]
        heads = ", ".join(f"`{head}`" for head in one.heads)
        cells = [one.family if one.family != last else "", f"`{one.name}`", one.idea, one.target, one.players, heads]
        lines.append(_line(*cells, *times))
        last = one.family
    lines += ["", "| name | published | what differs from the released code |", "| --- " * 3 + "|"]
    lines += [_line(f"`{one.name}`", one.citation, one.differs) for one in described]
    return "\n".join(lines) + "\n"


def write(page: Path = PAGE) -> None:
    """Writes the table between the two marks of a page. Raises ValueError if the page lacks them."""
    text = page.read_text(encoding="utf-8")
    if BEGIN not in text or END not in text:
        raise ValueError(f"{page}: has no place for the table; put the lines {BEGIN} and {END} into it")
    before, _, rest = text.partition(BEGIN)
    page.write_text(f"{before}{BEGIN}\n{markdown(rows())}{END}{rest.partition(END)[2]}", encoding="utf-8")


def _documented_object(method: Method) -> object:
    """The object whose docstring describes this value: a target or selector that is not the default, or the method."""
    for f in fields(method):
        rule = getattr(method, f.name)
        if f.name in ("target", "select") and is_dataclass(rule):
            default = f.default if f.default_factory is MISSING else f.default_factory()
            if type(rule) is not type(default):
                return rule
    return method


def _paragraphs(thing: object) -> list[str]:
    """The paragraphs of the docstring of a value's class, one line each."""
    text = cleandoc(type(thing).__doc__ or "")
    return [" ".join(lines.split()) for lines in text.split("\n\n") if lines.strip()]


def _paragraph(thing: object, name: str) -> str:
    """The paragraph of the docstring that begins with `name`, without it; empty if there is none."""
    return next((text.removeprefix(name).strip() for text in _paragraphs(thing) if text.startswith(name)), "")


def _players(method: Method) -> str:
    """`student, teacher (average, delivered)`: names of the networks, and the role of those that are not trained."""
    labels = {Ema: "average", Frozen: "frozen", Memory: "memory"}
    described = []
    for name, role in method.roles().items():
        label = next((text for kind, text in labels.items() if isinstance(role, kind) and text != name), "")
        notes = ", ".join(text for text in (label, "delivered" if name == method.delivers else "") if text)
        described.append(f"{name} ({notes})" if notes else name)
    return ", ".join(described)


def _measured_how(measured: Mapping[str, Any]) -> str:
    how = "; ".join(
        f"{kind[0]}-D: {at['network']}, {at['labelled']} + {at['unlabelled']} rows of "
        f"{' x '.join(str(side) for side in at['size'])}, {at['precision']}, a supervised step takes {at['ms']:.0f} ms"
        for kind, at in measured["settings"].items()
    )
    return (
        "The last two columns are the time of a step relative to that of a supervised step with the same labelled "
        "rows, measured with the engine in the middle of a run; medians of interleaved steps. The difference of "
        f"`supervised` from 1.0 is the noise. {how}. {measured['date']}, {measured['device']}, torch "
        f"{measured['torch']}: `{measured['command']}`."
    )


def _line(*cells: str) -> str:
    """One row of a Markdown table."""
    return "| " + " | ".join(cell.replace("|", "\\|") for cell in cells) + " |"


def _wrapped(text: str, indent: str = "") -> str:
    return fill(text or "not stated", 118, initial_indent=indent, subsequent_indent=indent, break_on_hyphens=False)


def _show(value: Any) -> str:
    inside = ", ".join(f"{f.name}={getattr(value, f.name)!r}" for f in fields(value))
    return f"{type(value).__name__}({inside})"


def _tree(value: Any, path: str = "") -> list[str]:
    lines = []
    for item in fields(value):
        inner = getattr(value, item.name)
        if is_dataclass(inner):
            lines += _tree(inner, f"{path}{item.name}.")
        else:
            lines.append(f"  {path + item.name:<28}{inner!r}")
    return lines


if __name__ == "__main__":
    write()
