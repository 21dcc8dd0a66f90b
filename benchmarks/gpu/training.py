"""A recipe from the teacher to the report, over as many calls as it takes.

A call ends by SIGTERM: the step in progress goes into a checkpoint, and the next call goes on from there. The run
folder is WORK/runs/RECIPE; `edgemt run RECIPE --data.root DATA/... --out WORK/runs/RECIPE` would go on with it as well.
Rows hold Dice and HD95 of every finished stage on the validation list, and the time of a step by stage.

A dry run makes every stage of the same recipe on random volumes with a few steps of small networks.
"""

from __future__ import annotations

import json
import statistics
from pathlib import Path
from typing import Any

from gpu import record

FOLDERS = {"acdc_slices": "acdc", "la": "la2018"}
CONTROLS = ("teacher_supervised", "student_supervised")
STAGES = ("teacher", "student", "slim")
TITLES = {"teacher": "teacher", "student": "student, distilled", "slim": "student, pruned"}
DRY = (
    "--data.size 32 32 --student.network test_efficientnet --student.pretrained never --student.decoder auto "
    "--teacher.schedule.steps 4 --teacher.schedule.labelled 2 --teacher.schedule.unlabelled 2 "
    "--student.schedule.steps 4 --student.schedule.labelled 2 --student.schedule.unlabelled 2 "
    "--slim.schedule.steps 2 --slim.schedule.labelled 2 --slim.schedule.unlabelled 2 --slim.batches 1 "
    "--int8.images 4 --tolerance 1.0 --threads 1 --bench.iterations 2 --bench.rounds 1 --bench.block-ms 1 "
    "--bench.warmup 1 --bench.paced-seconds 0.02 --bench.no-cold --bench.streams-seconds 0 --bench.stage-calls 2 "
    "--bench.energy-seconds 0"
)
DRY_OF = {
    "acdc_slices": "--teacher.widths 4 8 8 8 8",
    "la": "--teacher.filters 2 --volume.patch 16 16 16 --volume.stride 16 16 16 --volume.report-stride 16 16 16",
}


def main() -> None:
    parser = record.options(__doc__)
    parser.add_argument("--recipe", choices=tuple(FOLDERS), required=True)
    parser.add_argument("--controls", action="store_true", help=f"train {' and '.join(CONTROLS)} as well")
    given = parser.parse_args()
    with record.recorded(given) as (found, work):
        data = data_of(given.data, work, dry=given.dry)
        recipe = the_recipe(given.recipe, data, controls=given.controls, dry=given.dry)
        folder = work / "runs" / given.recipe
        try:
            from edgemt.pipeline import flow

            flow.run(recipe, folder, until="report")
        finally:
            found.steps = steps_of(folder, recipe)
            fill(found, folder, recipe)


def data_of(data: Path | None, work: Path, *, dry: bool) -> Path:
    """The folder with acdc/ and la2018/. Raises ValueError where a real run was given none."""
    if dry:
        from gpu.dry_data import write_data

        return write_data(work / "data")
    if data is None:
        raise ValueError("--data: name the folder with acdc/ and la2018/")
    return data.resolve()


def the_recipe(name: str, data: Path, *, controls: bool, dry: bool) -> Any:
    """The recipe on its data; small in a dry run."""
    from edgemt import recipes
    from edgemt.pipeline.overrides import override

    flags = ["--data.root", str(data / FOLDERS[name])]
    flags += ["--controls", *CONTROLS] if controls else []
    flags += [*DRY.split(), *DRY_OF[name].split()] if dry else []
    return override(recipes.load(name, flags), flags, prog=f"training --recipe {name}")


def steps_of(folder: Path, recipe: Any) -> dict[str, list[int]]:
    """Stage -> [steps done, steps in all], from finished stages and checkpoints."""
    totals = {"teacher": recipe.teacher, "student": recipe.student, "slim": recipe.slim}
    totals |= {f"controls/{name}": totals[name.partition("_")[0]] for name in recipe.controls}
    found = {}
    for stage, of in totals.items():
        total = of.schedule.steps
        found[stage] = [total if (folder / stage / "card.json").exists() else checkpoint_step(folder, stage), total]
    return found


def checkpoint_step(folder: Path, stage: str) -> int:
    """The step of the furthest checkpoint of a stage that is not finished; 0 without one."""
    from edgemt.training import checkpoint

    steps = [0]
    for working in (folder / f"{stage}.partial", folder / f"{stage}.tries"):
        for file in working.rglob(checkpoint.CHECKPOINT):
            steps.append(int(checkpoint.read_state(file)["index"]))
    return max(steps)


def fill(found: record.Record, folder: Path, recipe: Any) -> None:
    """The rows of the finished stages."""
    found.rows = []
    stages = {**TITLES, **{f"controls/{name}": name.replace("_", ", ") for name in recipe.controls}}
    for stage, title in stages.items():
        if (folder / stage / "card.json").exists():
            _accuracy(found, title, json.loads((folder / stage / "card.json").read_text())["measured"])
            _encoder(found, title, json.loads((folder / stage / "card.json").read_text())["network"])
    ship = folder / "ship" / "card.json"
    if ship.exists():
        for file, metrics in json.loads(ship.read_text())["measured"].items():
            _accuracy(found, f"ship, {file}", {file: metrics})
    for stage in stages:
        seconds = step_seconds(folder / "log" / stage)
        if seconds is not None:
            found.row(f"a step of {stage}", seconds * 1e3, "ms", "median between lines of the log, with its data")
    import torch

    if torch.cuda.is_available():
        found.row("device memory of a call, peak", torch.cuda.max_memory_allocated() / 2**30, "GiB")


def _accuracy(found: record.Record, title: str, measured: dict[str, Any]) -> None:
    metrics = next(iter(measured.values()))
    if metrics.get("dice") is None:
        return
    cases = f"{len(metrics['cases'])} validation volumes" if metrics.get("cases") else "validation list"
    found.row(f"{title}, Dice", metrics["dice"], "", f"mean of the classes, {cases}, one seed")
    distances = [value["hd95"] for value in metrics.get("per_class", {}).values() if value.get("hd95") is not None]
    if distances:
        found.row(f"{title}, HD95", statistics.mean(distances), metrics.get("unit", ""), "mean of the classes")


def _encoder(found: record.Record, title: str, network: dict[str, Any]) -> None:
    if network.get("room") == "students" and title == TITLES["student"]:
        weights = network.get("encoder_weights") or {}
        found.row(f"{title}, encoder begins with", str(weights.get("origin", "no pretrained weights")))


def step_seconds(log: Path) -> float | None:
    """Median seconds of a step, from the TensorBoard events of a stage; None without them."""
    if not log.is_dir():
        return None
    try:
        from tensorboard.backend.event_processing.event_accumulator import EventAccumulator
    except ImportError:
        return None
    events = EventAccumulator(str(log), size_guidance={"scalars": 0}).Reload()
    names = [name for name in events.Tags()["scalars"] if name.startswith("loss/")]
    points = events.Scalars(names[0]) if names else []
    pairs = zip(points, points[1:], strict=False)
    times = [(b.wall_time - a.wall_time) / (b.step - a.step) for a, b in pairs if b.step > a.step]
    return statistics.median(times) if times else None


if __name__ == "__main__":
    main()
