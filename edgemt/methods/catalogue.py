"""The table of methods: what each is, where it comes from, what differs here, and what a step of it costs.

All of it is read from the methods themselves. The first line of a docstring is the idea; its paragraphs `Target:` and
`Differs:` say what unlabelled images are compared with, and what is not as in the released code. A method whose target
rule or selector is not its class's own is told by the docstring of that. `costs.json` is what
`benchmarks/method_steps.py` measured.

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
PAGE = Path(__file__).parents[2] / "docs" / "methods.md"
NAMED = ("Target:", "Differs:")
BEGIN, END = "<!-- methods: written by python -m edgemt.methods.catalogue -->", "<!-- end of methods -->"


@dataclass(frozen=True)
class Row:
    """One method, in words. `cost` is a step's time over that of a supervised step: {"2d": 1.4, "3d": 1.6}."""

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
        """The cost as text, the empty text where it was not measured."""
        return ", ".join(f"{self.cost[kind]:.1f} x in {kind[0]}-D" for kind in ("2d", "3d") if kind in self.cost)


def row(name: str, method: Method) -> Row:
    """What is known of a method; paragraphs that its docstring lacks are empty, as is the cost of a new one."""
    speaker = _speaker(method)
    told = _paragraphs(speaker)
    also = [told[0] if told else "", method.variant_note()]
    return Row(
        name=name,
        family=method.family or type(method).__module__.rpartition(".")[2].replace("_", " "),
        idea=" ".join(text for text in also if text),
        target=_named(speaker, "Target:") or _named(method, "Target:"),
        players=_players(method),
        heads=method.heads,
        citation=getattr(speaker, "citation", "") or method.citation,
        differs=_named(speaker, "Differs:"),
        inspired=method.inspired or getattr(speaker, "inspired", False),
        cost=costs().get("relative", {}).get(name, {}),
    )


def rows(methods: Mapping[str, Method] | None = None) -> list[Row]:
    """A row a method (all of the built-in table if none are given), families kept together."""
    methods = METHODS if methods is None else methods
    found = [row(name, method) for name, method in methods.items()]
    families = list(dict.fromkeys(one.family for one in found))
    return sorted(found, key=lambda one: families.index(one.family))


def about(name: str, method: Method) -> str:
    """A line for a list: the idea, and what a step costs where that was measured."""
    one = row(name, method)
    return f"{one.idea} [{one.times}]" if one.times else one.idea


@cache
def costs() -> dict[str, Any]:
    """What `benchmarks/method_steps.py` wrote, empty where it never ran."""
    return json.loads(COSTS.read_text(encoding="utf-8")) if COSTS.exists() else {}


def explain(name: str) -> str:
    """What a method is: idea, players, target, fields, cost and citations, as text of one screen."""
    method = get(name)
    one, speaker = row(name, method), _speaker(method)
    lines = [f"{name} = {type(method).__name__} ({one.family})", "", one.idea, ""]
    for part in dict.fromkeys((method, speaker)):
        # The idea has been said: the first line of whoever speaks is left out.
        lines += [f"{_wrapped(text)}\n" for text in _paragraphs(part)[part is speaker :] if not text.startswith(NAMED)]
    lines += ["roles", *(f"  {who:<14}{_show(role)}" for who, role in method.roles().items())]
    lines += [f"  delivers      {method.delivers}", f"  extra heads   {', '.join(method.heads) or 'none'}", ""]
    rule = getattr(method, "target", None)
    lines += ["target", *([] if rule is None else [f"  {type(rule).__name__}"]), _wrapped(one.target, "  "), ""]
    lines += ["differs from the released code", _wrapped(one.differs, "  "), ""]
    release = method.published()
    shown = ["  not known", ""] if release is None else [f"  {release.line()}", _wrapped(release.source, "  "), ""]
    lines += ["published settings (edgemt compare --settings published)", *shown]
    lines += ["fields", *_tree(method), ""]
    lines += ["cost of a step (1: a supervised step at the same labelled rows)", f"  {one.times or 'not measured'}"]
    cited = [text for part in (method, rule, speaker) if (text := getattr(part, "citation", ""))]
    return "\n".join([*lines, "", "citation", *(f"  {text}" for text in dict.fromkeys(cited))]) + "\n"


def markdown(found: Iterable[Row]) -> str:
    """Two tables: what each method does and costs, and where it comes from and how it differs."""
    found, measured = list(found), costs()
    lines = [_measured_how(measured), ""] if measured else []
    lines += ["| family | name | idea | target | players | heads | 2-D | 3-D |", "| --- " * 8 + "|"]
    last = ""
    for one in found:
        times = [f"{one.cost[kind]:.1f}" if kind in one.cost else "" for kind in ("2d", "3d")]
        heads = ", ".join(f"`{head}`" for head in one.heads)
        cells = [one.family if one.family != last else "", f"`{one.name}`", one.idea, one.target, one.players, heads]
        lines.append(_line(*cells, *times))
        last = one.family
    lines += ["", "| name | published | what differs from the released code |", "| --- " * 3 + "|"]
    lines += [_line(f"`{one.name}`", one.citation, one.differs) for one in found]
    return "\n".join(lines) + "\n"


def write(page: Path = PAGE) -> None:
    """Puts the table between the marks of a page. Raises ValueError where the page has none."""
    text = page.read_text(encoding="utf-8")
    if BEGIN not in text or END not in text:
        raise ValueError(f"{page}: has no place for the table; put the lines {BEGIN} and {END} into it")
    before, _, rest = text.partition(BEGIN)
    page.write_text(f"{before}{BEGIN}\n{markdown(rows())}{END}{rest.partition(END)[2]}", encoding="utf-8")


def _speaker(method: Method) -> object:
    """Whose docstring tells of this value: a target or selector that is not its class's own, or the method's."""
    for f in fields(method):
        part = getattr(method, f.name)
        if f.name in ("target", "select") and is_dataclass(part):
            usual = f.default if f.default_factory is MISSING else f.default_factory()
            if type(part) is not type(usual):
                return part
    return method


def _paragraphs(thing: object) -> list[str]:
    text = cleandoc(type(thing).__doc__ or "")
    return [" ".join(part.split()) for part in text.split("\n\n") if part.strip()]


def _named(thing: object, name: str) -> str:
    return next((part.removeprefix(name).strip() for part in _paragraphs(thing) if part.startswith(name)), "")


def _players(method: Method) -> str:
    """`student, teacher (average, kept)`: who plays, and what each is unless it learns."""
    words = {Ema: "average", Frozen: "frozen", Memory: "memory"}
    found = []
    for name, role in method.roles().items():
        word = next((word for kind, word in words.items() if isinstance(role, kind) and word != name), "")
        told = ", ".join(text for text in (word, "kept" if name == method.delivers else "") if text)
        found.append(f"{name} ({told})" if told else name)
    return ", ".join(found)


def _measured_how(measured: Mapping[str, Any]) -> str:
    how = "; ".join(
        f"{kind[0]}-D: {at['network']}, {at['labelled']} + {at['unlabelled']} rows of "
        f"{' x '.join(str(side) for side in at['size'])}, {at['precision']}, a supervised step takes {at['ms']:.0f} ms"
        for kind, at in measured["settings"].items()
    )
    return (
        "The last two columns are the time of a step over that of a supervised step at the same labelled rows, through "
        "the engine's own step, midway in a run; medians of steps in turns. How far `supervised` is from 1.0 is the "
        f"noise. {how}. {measured['date']}, {measured['device']}, torch {measured['torch']}: `{measured['command']}`."
    )


def _line(*cells: str) -> str:
    return "| " + " | ".join(cell.replace("|", "\\|") for cell in cells) + " |"


def _wrapped(text: str, indent: str = "") -> str:
    return fill(text or "not told", 118, initial_indent=indent, subsequent_indent=indent, break_on_hyphens=False)


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
