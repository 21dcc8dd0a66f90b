"""The runs of a comparison: a folder a method and seed, trained here one after the other."""

from __future__ import annotations

from collections.abc import Generator, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from statistics import median
from typing import ClassVar, Literal

from edgemt.artefacts.run_lock import FolderInUseError
from edgemt.artefacts.stage_folder import WEIGHTS, read_card
from edgemt.io.atomic import NoSpaceError, write_text
from edgemt.learning.ema import Ema
from edgemt.methods import Method, get
from edgemt.methods.supervised import Supervised
from edgemt.model_card import ModelCard
from edgemt.pipeline import flow
from edgemt.pipeline.recipe import Recipe
from edgemt.recipes.acdc import LIGHT

FAILED = "failed.txt"

Finished = Generator[tuple["TrainingRun", str], None, None]  # a run that has ended, and why it failed


@dataclass(frozen=True)
class SupervisedStudent(Supervised):
    """Labelled images only, and the student is delivered as it is: the control of methods that do the same.

    Its training is that of `supervised`, bit for bit; only the average is not delivered.
    """

    delivers: ClassVar[str] = "student"


EMA_CONTROL, STUDENT_CONTROL = "supervised", "supervised_student"  # names of the two control methods
Settings = Literal["common", "published"]


@dataclass(frozen=True)
class TrainingRun:
    """A method with a seed, and the run folder of the two."""

    method: str
    seed: int
    folder: Path
    settings: Settings = "common"
    draw: int = 0  # patients or images that the seed draws as the labelled ones; 0: as the recipe has it

    @property
    def stage(self) -> Path:
        return self.folder / "teacher"

    @property
    def card(self) -> ModelCard:
        return read_card(self.stage)


def method_of(name: str) -> Method:
    """By name, the controls of a comparison among them. Raises ValueError with the nearest name."""
    return SupervisedStudent() if name == STUDENT_CONTROL else get(name)


def control_of(name: str) -> str:
    """The control of a method: supervised training that delivers the same network as the method."""
    method = method_of(name)
    return EMA_CONTROL if isinstance(method.roles().get(method.delivers), Ema) else STUDENT_CONTROL


def plan_runs(
    methods: Sequence[str], *, seeds: Sequence[int], out: Path, settings: Settings = "common", draw: int = 0
) -> list[TrainingRun]:
    """Every run, controls first, one seed of everything before the next.

    Controls have the recipe's settings, and so have methods whose release has none that are known.
    """
    needed = {EMA_CONTROL, *map(control_of, methods)}
    names = [control for control in (EMA_CONTROL, STUDENT_CONTROL) if control in needed]
    rows: list[tuple[str, Settings]] = [(name, "common") for name in names]
    for name in methods:
        rows.append((name, settings if method_of(name).published() is not None else "common"))
    rows = list(dict.fromkeys(rows))
    return [
        TrainingRun(name, seed, out / f"{name}{'' if of == 'common' else f'-{of}'}-{seed}", of, draw)
        for seed in seeds
        for name, of in rows
    ]


def recipe_of(run: TrainingRun, recipe: Recipe) -> Recipe:
    """The recipe with method, seed, labelled patients and settings of a run."""
    method, data = method_of(run.method), recipe.data
    if run.draw:
        data = replace(data, labelled=str(run.draw), labelled_seed=run.seed)
    recipe = replace(recipe, seed=run.seed, data=data, teacher=replace(recipe.teacher, method=method))
    return as_published(recipe) if run.settings == "published" else recipe


def as_published(recipe: Recipe) -> Recipe:
    """The recipe with optimiser and augmentation of its teacher's method's release; unchanged where it has none."""
    of = recipe.teacher.method.published()
    if of is None:
        return recipe
    schedule = replace(
        recipe.teacher.schedule,
        optimiser=of.optimiser,
        learning_rate=of.learning_rate,
        weight_decay=of.weight_decay,
        power=of.power,
        warmup=of.warmup,
        clip=of.clip,
    )
    return replace(
        recipe,
        teacher=replace(recipe.teacher, schedule=schedule),
        augment=LIGHT if of.augment == "light" else recipe.augment,
        per_image=recipe.per_image if of.per_image is None else of.per_image,
    )


def train(run: TrainingRun, recipe: Recipe) -> str:
    """Train the teacher's stage unless it is complete. Returns why it failed, in one line; empty if it did not."""
    (run.folder / FAILED).unlink(missing_ok=True)
    try:
        flow.run(recipe_of(run, recipe), run.folder, until="teacher")
    except (OSError, MemoryError, NoSpaceError, FolderInUseError):
        raise  # the disk or the machine, not the method
    except Exception as error:  # a method that fails is a row of the table, not the end of it
        kind = "" if isinstance(error, ValueError) else f"{type(error).__name__}: "
        text = kind + " ".join(str(error).split())
        write_text(run.folder / FAILED, text + "\n")
        return text
    return ""


def dice_of_cases(card: ModelCard) -> dict[str, list[float]]:
    """Case name -> Dice of each foreground class, NaN where it is not defined."""
    cases = card.measured[WEIGHTS].cases
    nan = float("nan")
    found = {case["name"]: [case[name].get("dice") for name in card.classes[1:]] for case in cases}
    return {case: [nan if value is None else float(value) for value in values] for case, values in found.items()}


def step_seconds(run: TrainingRun) -> float | None:
    """Median time of a training step by the run's own events, without validations and pauses; None without any."""
    try:
        from tensorboard.backend.event_processing.event_accumulator import EventAccumulator
    except ImportError:
        return None
    events = EventAccumulator(str(run.folder / "log" / "teacher")).Reload()
    losses = [tag for tag in events.Tags()["scalars"] if tag.startswith("loss/")]
    if not losses:
        return None
    marks = [(event.step, event.wall_time) for event in events.Scalars(losses[0])]
    pairs = zip(marks, marks[1:], strict=False)
    took = [(later - then) / (to - at) for (at, then), (to, later) in pairs if to > at and later > then]
    return median(took) if took else None
