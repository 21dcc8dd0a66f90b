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

Listed = Literal["recipes", "methods", "teachers", "students", "runtimes", "datasets", "zoo"]
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
    """The folder to copy to the device: graphs, card, golden frames; of zoo/NAME in RECIPE's place at once, in --out,
    with INT8 where --data.root is given. With --serve also, from RECIPE or a ship folder in
    its place, a model repository for a server, in serve/ beside the ship; of a ship folder --out names it."""

    serve: Literal["triton", "ovms", "monai"] | None = None
    """NVIDIA Triton, OpenVINO Model Server, or a MONAI bundle's description."""
    serve_file: Literal["int8", "fp16", "fp32"] | None = None
    """The graph to serve; INT8 where it runs on OpenVINO, else float, if not given."""
    serve_device: Literal["cpu", "gpu", "npu"] = "cpu"
    serve_instances: int = 1
    """Frames that are worked on at the same time."""
    serve_name: str = ""
    """Name of the served model; the ship's own if not given."""


@dataclass(frozen=True)
class Bench:
    """Latency of a shipped folder, or of every stage of a RECIPE's run; or --compare two records. Exit status 3 when
    --budget-ms is not kept."""

    target: Positional[str | None] = None
    """A ship folder, or a recipe."""
    runtime: tuple[str, ...] = ()
    """openvino, onnxruntime, openvino:GPU ...; every one that works here if not given."""
    file: str | None = None
    """Of a ship: int8, fp32, or a file on the card; every one if not given."""
    json: Path | None = None
    """Write the record, raw times included."""
    html: Path | None = None
    """Write a page: distributions, time lines, the accuracy-latency front."""
    seconds: float | None = None
    """Timed seconds for each runtime."""
    hz: float | None = None
    """Camera rate of the paced measurement."""
    streams: tuple[int, ...] | None = None
    """So many cameras at once, each on a runner of its own: --streams 2 4."""
    soak: Annotated[float | None, arg(metavar="MINUTES")] = None
    """Go on for so many minutes: percentiles over time, memory drift, throttling."""
    budget_ms: float | None = None
    """What p99 of the quickest call may be at most; later than that is exit status 3."""
    compare: tuple[Path, Path] | None = None
    """Two records of --json: the second over the first, with a 95 % interval."""
    root: Annotated[Path | None, arg(name="data.root")] = None
    """Measure accuracy anew, on this folder, by each file as it runs here; of a RECIPE where its data is."""
    val: Annotated[str, arg(name="data.val")] = ""
    """Another list of cases to measure."""
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
    through_plane: int = 1
    """Of volumes: so many neighbouring slices vote on each voxel (3 or 5; 1 leaves the masks as they are)."""
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
    through_plane: int = 1
    """Of volumes: so many neighbouring slices vote on each voxel (3 or 5; 1 leaves the masks as they are)."""


@dataclass(frozen=True)
class Build:
    """TensorRT engines for this device's GPU from a shipped folder, each tried on the golden frames and kept with its
    key in the user's cache folder ($EDGEMT_CACHE). Without a GPU, TensorRT for RTX builds ahead of time."""

    ship: Positional[Path]
    runtime: str = "auto"
    """tensorrt or tensorrt_rtx."""
    file: str | None = None
    """int8, fp16, fp32, or an .onnx file on the card; all of them if not given."""
    out: Path | None = None
    """Another folder for the engines. Their .engine files can be named in place of a ship."""
    precision: Literal["tf32", "f32"] = "tf32"
    """How float layers are computed; half precision and INT8 are in the file."""
    workspace_mib: int | None = None
    """Scratch memory for a layer; give less on a board with little memory."""
    portable: bool = False
    """One engine for more than one kind of GPU, at some cost in speed."""


@dataclass(frozen=True)
class Keygen:
    """A new Ed25519 key to sign ships with: KEY.pem, which stays with you, and KEY.pub.pem for the devices."""

    key: Positional[Path]
    """The private key's file; EDGEMT_KEY_PASSPHRASE locks it, if set."""


@dataclass(frozen=True)
class Sign:
    """Sign a ship once every hash is checked. Where EDGEMT_TRUSTED_KEY names the public key, no other is opened."""

    ship: Positional[Path]
    key: Path
    """The private key, as edgemt keygen wrote it."""


@dataclass(frozen=True)
class Pack:
    """A trained student as an entry of the zoo: half-precision weights and a card, to export or to start from."""

    stage: Positional[Path]
    """RUN/slim or RUN/student."""
    name: Positional[str]
    out: Path | None = None
    """Folder that gets NAME; the package's own zoo if not given."""
    note: str = ""
    """A line for its card."""


@dataclass(frozen=True)
class List:
    """What can be named: recipes, methods, teachers, students, runtimes, datasets, trained students of the zoo."""

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
_COMMANDS = (
    Run,
    Train,
    Distil,
    Prune,
    Quantize,
    Export,
    Bench,
    Eval,
    Predict,
    Build,
    Keygen,
    Sign,
    Pack,
    List,
    Explain,
    Doctor,
)
_Command: Any = Union[tuple(Annotated[kind, subcommand(kind.__name__.lower())] for kind in _COMMANDS)]  # noqa: UP007


def main(argv: Sequence[str] | None = None) -> None:
    """Exit status: 0 done, 2 what the user can mend, 3 a latency budget not kept, 130 Ctrl-C, 1 our own failure."""
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
    if isinstance(command, Bench) and command.compare is None and _names_a_recipe(command.target):
        return _bench_recipe(command, [*rest, *(["--help"] if wants_fields else [])])
    if isinstance(command, Export) and _names_an_entry(command.recipe):
        return _export_entry(command, [*rest, *(["--help"] if wants_fields else [])])
    if isinstance(command, Export) and (command.serve or Path(command.recipe, "card.json").exists()):
        return _serve(command, [*rest, *(["--help"] if wants_fields else [])])
    if isinstance(command, tuple(_UNTIL)):
        return _run(command, [*rest, *(["--help"] if wants_fields else [])], until=_UNTIL[type(command)])
    if wants_fields:
        return _dispatch([args[0], "--help"])
    if rest:
        raise ValueError(f"unknown argument {rest[0]!r}; see edgemt {args[0]} --help")
    _LIGHT[type(command)](command)


def _about() -> str:
    return (
        "From a few labelled and many unlabelled medical images to a segmentation model that runs in real time. "
        "Start with: edgemt run phantom"
    )


def _run(command: Any, rest: list[str], *, until: str) -> None:
    from edgemt import flow, ranks, recipes
    from edgemt.overrides import override

    recipe = override(
        recipes.load(command.recipe), rest, prog=f"edgemt {type(command).__name__.lower()} {command.recipe}"
    )
    folder = flow.run(recipe, command.out or Path("runs") / recipe.name, until=until)
    if ranks.first():
        print(folder / "report.html" if until == "report" else folder)


def _names_an_entry(target: str) -> bool:
    from edgemt.zoo.shelf import is_entry

    return is_entry(target)


def _export_entry(command: Export, rest: list[str]) -> None:
    from edgemt import zoo
    from edgemt.zoo.exporting import recipe_for

    if "--help" in rest:
        return _dispatch(["export", "--help"])
    if command.serve is not None:
        raise ValueError(f"{command.recipe}: export it first, then give --serve with the folder it became")
    recipe = recipe_for(command.recipe, rest)
    print(zoo.export(command.recipe, out=command.out, recipe=recipe, say=_say))


def _serve(command: Export, rest: list[str]) -> None:
    from deploy.serve import ServeOptions, serve
    from deploy.ship import open_ship

    if Path(command.recipe, "card.json").exists() and "--help" in rest:
        return _dispatch(["export", "--help"])
    if command.serve is None:
        raise ValueError(f"{command.recipe}: is exported already; add --serve triton, ovms or monai")
    options = ServeOptions(
        command.serve, command.serve_file, command.serve_device, command.serve_instances, command.serve_name
    )
    if Path(command.recipe, "card.json").exists():
        if rest:
            raise ValueError(f"unknown argument {rest[0]!r}; see edgemt export --help")
        folder, out = Path(command.recipe), command.out
    else:
        from edgemt import flow, recipes
        from edgemt.overrides import override

        recipe = override(recipes.load(command.recipe), rest, prog=f"edgemt export {command.recipe}")
        folder, out = flow.run(recipe, command.out or Path("runs") / recipe.name, until="ship"), None
    print(serve(open_ship(folder), out or folder.resolve().parent / "serve" / command.serve, options))


def _keygen(command: Keygen) -> None:
    from deploy.sign import TRUSTED, keygen

    private, public = keygen(command.key)
    print(f"{private}\n{public}")
    _say(f"keep {private} to yourself; copy {public} to the devices and set {TRUSTED} to its path there")


def _sign(command: Sign) -> None:
    from deploy.ship import CARD, open_ship
    from deploy.sign import sign

    print(sign(open_ship(command.ship, trusted="").folder / CARD, key=command.key))


def _is_recipe(name: str) -> bool:
    if ".py:" in name:
        return True
    if Path(name).exists():
        return False
    from edgemt.recipes import RECIPES

    if name not in RECIPES:
        raise ValueError(f"{name}: neither a ship folder nor a recipe; " + unknown("recipe", name, RECIPES))
    return True


def _names_a_recipe(target: str | None) -> bool:
    if target is None:
        raise ValueError("bench: name a ship folder or a recipe, or give --compare A.json B.json")
    return not Path(target, "card.json").exists() and _is_recipe(target)


def _bench_recipe(command: Bench, rest: list[str]) -> None:
    from edgemt import flow, recipes, reporting, workspace
    from edgemt.overrides import override

    for name, value in (("file", command.file), ("runtime", command.runtime)):
        if value:
            raise ValueError(f"--{name}: of a ship folder alone; run the recipe, then bench its ship folder")
    data = [("--data.root", command.root), ("--data.val", command.val)]
    rest = [*rest, *(word for flag, value in data if value for word in (flag, str(value)))]
    recipe = override(recipes.load(str(command.target)), rest, prog=f"edgemt bench {command.target}")
    out = command.out or Path("runs") / recipe.name
    flow.run(recipe, out, until="ship")
    options = _bench_options(command, recipe.bench)
    record = reporting.bench(workspace.start(recipe, out), size=command.size, threads=command.threads, options=options)
    _show_bench(record, command)


def _bench(command: Bench) -> None:
    from deploy.ship_bench import bench_ship
    from deploy.timing import BenchOptions
    from edgemt import shipped

    if command.compare is not None:
        return _compare(command)
    folder = Path(str(command.target))

    def evaluate(runtime: str, file: str, precision: str | None) -> dict[str, Any]:
        return shipped.evaluate_ship(
            folder,
            data_root=command.root,
            val=command.val,
            runtime=runtime,
            file=file,
            precision=precision,
            threads=command.threads,
        )

    record = bench_ship(
        folder,
        runtimes=command.runtime,
        file=command.file,
        threads=command.threads,
        options=_bench_options(command, BenchOptions()),
        evaluate=evaluate if command.root or command.val else None,
    )
    _show_bench(record, command)


def _bench_options(command: Bench, options: Any) -> Any:
    return options.asked(
        seconds=command.seconds,
        hz=command.hz,
        streams=command.streams,
        soak_minutes=command.soak,
        budget_ms=command.budget_ms,
    )


def _compare(command: Bench) -> None:
    from deploy.compare import compare, comparison_table, read_record

    assert command.compare is not None
    found = compare(*(read_record(file) for file in command.compare))
    print(comparison_table(found))
    _write_json(command.json, found)


def _show_bench(record: dict[str, Any], command: Bench) -> None:
    from deploy.bench import table

    print(table(record))
    _write_json(command.json, record)
    if command.html is not None:
        from edgemt.files import write_text
        from edgemt.report.bench_page import bench_page

        write_text(command.html, bench_page(record))
    if record["budget"] and not record["budget"]["passed"]:
        raise SystemExit(3)


def _eval(command: Eval) -> None:
    from edgemt import shipped

    record = shipped.evaluate_ship(
        command.ship,
        data_root=command.root,
        val=command.val,
        runtime=command.runtime,
        file=command.file,
        through_plane=command.through_plane,
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
        through_plane=command.through_plane,
    ):
        print(path)


def _build(command: Build) -> None:
    from deploy.ship import open_ship
    from deploy.tensorrt_build import BuildOptions, build_ship

    options = BuildOptions(command.precision, command.workspace_mib, command.portable)
    ship = open_ship(command.ship)
    for engine, became in build_ship(
        ship, runtime=command.runtime, file=command.file, options=options, folder=command.out
    ):
        print(f"{became}\n{engine.path}")


def _pack(command: Pack) -> None:
    from edgemt import zoo

    print(zoo.pack(command.stage, command.name, into=command.out, note=command.note))


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
    from edgemt import ranks

    if ranks.speaks():
        print(f"edgemt: {text}", file=sys.stderr, flush=True)


_LIGHT: dict[type, Any] = {
    Bench: _bench,
    Eval: _eval,
    Predict: _predict,
    Build: _build,
    Keygen: _keygen,
    Sign: _sign,
    Pack: _pack,
    List: _list,
    Explain: _explain,
    Doctor: _doctor,
}

if __name__ == "__main__":
    main()
