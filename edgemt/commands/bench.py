"""edgemt bench: latency, with the conditions that it was measured under."""

from __future__ import annotations

from dataclasses import dataclass, fields
from pathlib import Path
from typing import Annotated, Any

from tyro.conf import Positional, arg

from edgemt.commands.console import refuse_flags, show_help, without_extra_args, write_json
from edgemt.errors import unknown_name_message
from edgemt.io.zoo_paths import is_name


@dataclass(frozen=True)
class Bench:
    """Latency of a shipped folder, or of every stage of a RECIPE's run; or --compare two records.

    Exit status 3 when --budget-ms is exceeded.
    """

    target: Positional[str | None] = None
    """A ship folder, zoo/NAME, or a recipe."""
    runtime: tuple[str, ...] = ()
    """openvino, onnxruntime, openvino:GPU ... (edgemt list runtimes); every one that works here if not given."""
    file: str | None = None
    """Of a ship: int8, fp32, or a file on the card; every one if not given."""
    cpu_fallback: bool = True
    """--no-cpu-fallback: exit status 2 where ONNX Runtime lets the processor compute nodes that --runtime's provider
    does not take, which is otherwise printed as a warning."""
    json: Path | None = None
    """Write the record, raw times included."""
    html: Path | None = None
    """Write a page: distributions, time lines, the accuracy-latency front."""
    seconds: float | None = None
    """Timed seconds for each runtime."""
    hz: float | None = None
    """The one camera clock of the paced measurement, in place of 30 and 60 Hz; 0 leaves it out."""
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


def bench(command: Bench, rest: list[str]) -> None:
    """A ship, every stage of a recipe's run, or two records; `rest` are fields of the recipe."""
    if command.compare is None and _names_a_recipe(command.target):
        _bench_recipe(command, rest)
    elif "--help" in rest:
        show_help(Bench)
    else:
        without_extra_args(_bench_ship)(command, rest)


def _names_a_recipe(target: str | None) -> bool:
    if target is None:
        raise ValueError("bench: name a ship folder or a recipe, or give --compare A.json B.json")
    return not is_name(target) and not Path(target, "card.json").exists() and _is_recipe(target)


def _is_recipe(name: str) -> bool:
    if ".py:" in name:
        return True
    if Path(name).exists():
        return False
    from edgemt.recipes import RECIPES

    if name not in RECIPES:
        raise ValueError(
            f"{name}: neither a ship folder nor a recipe; " + unknown_name_message("recipe", name, RECIPES)
        )
    return True


def _bench_recipe(command: Bench, rest: list[str]) -> None:
    from edgemt import recipes
    from edgemt.pipeline import benchmark, flow, run_context
    from edgemt.pipeline.overrides import override
    from edgemt.pipeline.unused_options import check_flags

    for name, value in (("file", command.file), ("runtime", command.runtime)):
        if value:
            raise ValueError(f"--{name}: of a ship folder alone; run the recipe, then bench its ship folder")
    refuse_flags(command, "cpu_fallback", why="the ship of a recipe is timed on every runtime")
    data = [("--data.root", command.root), ("--data.val", command.val)]
    rest = [*rest, *(argument for flag, value in data if value for argument in (flag, str(value)))]
    recipe = override(recipes.load(str(command.target), rest), rest, prog=f"edgemt bench {command.target}")
    check_flags(recipe, rest)
    out = command.out or Path("runs") / recipe.name
    flow.run(recipe, out, until="ship")
    options = _bench_options(command, recipe.bench)
    record = benchmark.bench(
        run_context.open_run(recipe, out), size=command.size, threads=command.threads, options=options
    )
    _show_bench(record, command)


def _bench_ship(command: Bench) -> None:
    from deploy.benchmark.package_bench import bench_package
    from deploy.measurement.timing import BenchOptions
    from edgemt.inference import evaluate_package

    if command.compare is not None:
        others = [of.name for of in fields(command) if of.name not in ("compare", "json")]
        refuse_flags(command, *others, why="--compare reads two records and measures nothing")
        return _compare(command)
    refuse_flags(command, "size", "out", why="they are of a recipe, and a ship has its own size")
    folder = Path(str(command.target))

    def evaluate(runtime: str, file: str, precision: str | None) -> dict[str, Any]:
        return evaluate_package.evaluate_ship(
            folder,
            data_root=command.root,
            val=command.val,
            runtime=runtime,
            file=file,
            precision=precision,
            threads=command.threads,
        )

    record = bench_package(
        folder,
        runtimes=command.runtime,
        file=command.file,
        threads=command.threads,
        cpu_fallback=command.cpu_fallback,
        options=_bench_options(command, BenchOptions()),
        evaluate=evaluate if command.root or command.val else None,
    )
    _show_bench(record, command)


def _bench_options(command: Bench, options: Any) -> Any:
    if command.budget_ms is not None and not command.budget_ms > 0:  # 0 would pass anything, unmeasured
        raise ValueError(f"--budget-ms {command.budget_ms:g}: give milliseconds above 0, or leave it away")
    return options.with_overrides(
        seconds=command.seconds,
        hz=command.hz,
        streams=command.streams,
        soak_minutes=command.soak,
        budget_ms=command.budget_ms,
    )


def _compare(command: Bench) -> None:
    from deploy.benchmark.compare import compare, comparison_table, read_record

    assert command.compare is not None
    found = compare(*(read_record(file) for file in command.compare))
    print(comparison_table(found))
    write_json(command.json, found)


def _show_bench(record: dict[str, Any], command: Bench) -> None:
    from deploy.benchmark.bench import table

    print(table(record))
    write_json(command.json, record)
    if command.html is not None:
        from edgemt.io.atomic import write_text
        from edgemt.report.bench_page import bench_page

        write_text(command.html, bench_page(record))
    if record["budget"] and not record["budget"]["passed"]:
        raise SystemExit(3)
