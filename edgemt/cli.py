"""The commands. Nothing heavy is imported before a command needs it; bad input is one line and exit status 2."""

from __future__ import annotations

import os
import sys
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Annotated, Any, Literal, Union

import tyro
from tyro.conf import Positional, arg, subcommand

from edgemt.files import no_space
from edgemt.names import unknown

Listed = Literal["recipes", "methods", "teachers", "students", "runtimes", "datasets"]
_OUT = "Folder of the run; runs/RECIPE if not given. The same command again resumes it."


@dataclass(frozen=True)
class RecipeCommand:
    """RECIPE is a name (`edgemt list recipes`) or file.py:function. Every field of it is a flag:
    `edgemt run phantom --help` shows them."""

    recipe: Positional[str]
    out: Annotated[Path | None, arg(help=_OUT)] = None


@dataclass(frozen=True)
class Run(RecipeCommand):
    """Every stage: train, distil, prune, quantize, export, bench, report. Skips what is done, resumes what was cut."""


@dataclass(frozen=True)
class Train(RecipeCommand):
    """Train the full mean-teacher model."""


@dataclass(frozen=True)
class Distil(RecipeCommand):
    """Distil the teacher into the student (and train the teacher first, if it is not there)."""


@dataclass(frozen=True)
class Prune(RecipeCommand):
    """Prune the student to the MACs target and fine-tune it by distillation."""


@dataclass(frozen=True)
class Quantize(RecipeCommand):
    """INT8, calibrated on unlabelled images and judged on the validation list."""


@dataclass(frozen=True)
class Export(RecipeCommand):
    """The folder to copy to the device: graphs, card, golden frames."""


@dataclass(frozen=True)
class Bench:
    """Latency of a shipped folder, or of every stage of a RECIPE's run. Raw times with --json FILE."""

    target: Positional[str]
    """A ship folder, or a recipe."""
    runtime: tuple[str, ...] = ()
    """openvino, onnxruntime ...; every one that is installed if not given."""
    json: Path | None = None
    """Write the record, raw times included."""
    seconds: float | None = None
    """Timed seconds for each runtime."""
    hz: float | None = None
    """Camera rate of the paced measurement."""
    threads: int | None = None
    size: tuple[int, int] | None = None
    """Of a RECIPE: time at this height and width instead of the recipe's; times alone, no accuracy."""
    out: Path | None = None
    """Folder of the recipe's run."""


@dataclass(frozen=True)
class Eval:
    """Measure a shipped folder on labelled images: a table, and JSON with --json FILE."""

    ship: Positional[Path]
    root: Annotated[Path | None, arg(name="data.root")] = None
    """Folder laid out as in training; its validation list is measured."""
    val: Annotated[str, arg(name="data.val")] = ""
    """Another list of cases to measure."""
    runtime: str = "auto"
    file: str | None = None
    """int8, fp32, or a file on the card."""
    json: Path | None = None


@dataclass(frozen=True)
class Predict:
    """Masks for images, folders of images or NIfTI volumes."""

    ship: Positional[Path]
    inputs: Positional[tuple[Path, ...]]
    out: Path = Path("masks")
    overlay: bool = True
    """Draw the contours over each image as well."""
    runtime: str = "auto"
    file: str | None = None


@dataclass(frozen=True)
class List:
    """What can be named: recipes, methods, teachers, students, runtimes, datasets."""

    what: Positional[Listed]


@dataclass(frozen=True)
class Explain:
    """A method: its idea, roles, target, hyper-parameters and citation."""

    method: Positional[str]


@dataclass(frozen=True)
class Doctor:
    """What works on this machine, what does not, and why. With a ship folder, its self-test too."""

    ship: Positional[Path | None] = None


_UNTIL: dict[Any, str] = {
    Run: "report",
    Train: "teacher",
    Distil: "student",
    Prune: "slim",
    Quantize: "int8",
    Export: "ship",
}
_COMMANDS = (Run, Train, Distil, Prune, Quantize, Export, Bench, Eval, Predict, List, Explain, Doctor)
_Command: Any = Union[tuple(Annotated[kind, subcommand(kind.__name__.lower())] for kind in _COMMANDS)]  # noqa: UP007


def main(argv: Sequence[str] | None = None) -> None:
    """Exit status: 0 done, 2 what the user can mend, 130 Ctrl-C, 1 our own failure."""
    args = list(sys.argv[1:] if argv is None else argv)
    try:
        _dispatch(args)
    except KeyboardInterrupt:
        _say("interrupted; everything up to the last checkpoint is kept, the same command resumes")
        raise SystemExit(130) from None
    except BrokenPipeError:
        os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())
        raise SystemExit(1) from None
    except ValueError as error:
        if os.environ.get("EDGEMT_TRACEBACK"):
            raise
        _say(f"error: {' '.join(str(error).split())}")
        raise SystemExit(2) from None
    except OSError as error:
        if not no_space(error) and not isinstance(error, PermissionError):
            raise
        reason = "no space left on the disk" if no_space(error) else "permission denied"
        _say(f"error: {error.filename or 'writing'}: {reason}; mend it and run the same command again")
        raise SystemExit(2) from None


def _dispatch(args: list[str]) -> None:
    names = [kind.__name__.lower() for kind in _COMMANDS]
    if args == ["--version"]:
        from edgemt import __version__

        print(f"edgemt {__version__}")
        return
    if args and not args[0].startswith("-") and args[0] not in names:
        raise ValueError(unknown("command", args[0], names))
    takes_recipe = bool(args) and args[0] in [kind.__name__.lower() for kind in (*_UNTIL, Bench)]
    wants_fields = takes_recipe and len(args) > 1 and not args[1].startswith("-") and {"-h", "--help"} & set(args)
    outer = [a for a in args if a not in ("-h", "--help")] if wants_fields else args
    command, rest = tyro.cli(_Command, args=outer, prog="edgemt", description=_about(), return_unknown_args=True)  # type: ignore[call-overload]
    if isinstance(command, Bench) and not Path(command.target, "card.json").exists() and _is_recipe(command.target):
        return _bench_recipe(command, [*rest, *(["--help"] if wants_fields else [])])
    if isinstance(command, tuple(_UNTIL)):
        return _run(command, [*rest, *(["--help"] if wants_fields else [])], until=_UNTIL[type(command)])
    if rest:
        raise ValueError(f"unknown argument {rest[0]!r}; see edgemt {args[0]} --help")
    _LIGHT[type(command)](command)


def _about() -> str:
    return (
        "From a few labelled and many unlabelled medical images to a segmentation model that runs in real time. "
        "Start with: edgemt run phantom"
    )


def _run(command: Any, rest: list[str], *, until: str) -> None:
    from edgemt import flow, recipes
    from edgemt.overrides import override

    recipe = override(
        recipes.load(command.recipe), rest, prog=f"edgemt {type(command).__name__.lower()} {command.recipe}"
    )
    folder = flow.run(recipe, command.out or Path("runs") / recipe.name, until=until)
    print(folder / "report.html" if until == "report" else folder)


def _is_recipe(name: str) -> bool:
    if ".py:" in name:
        return True
    if Path(name).exists():
        return False
    from edgemt.recipes import RECIPES

    if name not in RECIPES:
        raise ValueError(f"{name}: neither a ship folder nor a recipe; " + unknown("recipe", name, RECIPES))
    return True


def _bench_recipe(command: Bench, rest: list[str]) -> None:
    from edgemt import flow, recipes, reporting, workspace
    from edgemt.overrides import override

    recipe = override(recipes.load(command.target), rest, prog=f"edgemt bench {command.target}")
    out = command.out or Path("runs") / recipe.name
    flow.run(recipe, out, until="ship")
    options = recipe.bench.with_times(seconds=command.seconds, hz=command.hz)
    record = reporting.bench(workspace.start(recipe, out), size=command.size, threads=command.threads, options=options)
    _show_bench(record, command.json)


def _bench(command: Bench) -> None:
    from edgemt import shipped

    record = shipped.bench_ship(
        Path(command.target), runtimes=command.runtime, seconds=command.seconds, hz=command.hz, threads=command.threads
    )
    _show_bench(record, command.json)


def _show_bench(record: dict[str, Any], file: Path | None) -> None:
    from deploy.bench import table

    print(table(record))
    _write_json(file, record)


def _eval(command: Eval) -> None:
    from edgemt import shipped

    record = shipped.evaluate_ship(
        command.ship, data_root=command.root, val=command.val, runtime=command.runtime, file=command.file
    )
    print(shipped.metrics_table(record))
    _write_json(command.json, record)


def _predict(command: Predict) -> None:
    from edgemt import shipped

    for path in shipped.predict(
        command.ship,
        command.inputs,
        out=command.out,
        overlay=command.overlay,
        runtime=command.runtime,
        file=command.file,
    ):
        print(path)


def _list(command: List) -> None:
    from edgemt import listing

    for name, about in listing.rows(command.what):
        print(f"{name:24} {about}")


def _explain(command: Explain) -> None:
    from edgemt.methods import explain

    print(explain(command.method))


def _doctor(command: Doctor) -> None:
    from edgemt import shipped

    healthy, lines = shipped.doctor(command.ship)
    print("\n".join(lines))
    if not healthy:
        raise SystemExit(2)


def _write_json(file: Path | None, record: dict[str, Any]) -> None:
    if file is not None:
        import json

        from edgemt.files import write_text

        write_text(file, json.dumps(record, indent=1) + "\n")


def _say(text: str) -> None:
    print(f"edgemt: {text}", file=sys.stderr, flush=True)


_LIGHT: dict[type, Any] = {
    Bench: _bench,
    Eval: _eval,
    Predict: _predict,
    List: _list,
    Explain: _explain,
    Doctor: _doctor,
}

if __name__ == "__main__":
    main()
