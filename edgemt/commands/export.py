"""edgemt export: the folder to copy to the device, and model repositories for servers."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path
from typing import Literal

from edgemt.commands.console import log, refuse_flags, show_help
from edgemt.commands.pipeline import RecipeCommand, run_until


@dataclass(frozen=True)
class Export(RecipeCommand):
    """The folder to copy to the device: graphs, card, golden frames.

    Of zoo/NAME in RECIPE's place at once, in --out, with the entry's INT8, or INT8 calibrated anew where --data.root is
    given; with --uncertainty softmax each graph has that second output, which takes no data. With --serve also, from
    RECIPE or a ship folder in its place, a model repository for a server, in serve/ beside the ship; of a ship folder
    --out names it. With --with-prompt a ship folder gets a prompt input: clicks and boxes in the live page then correct
    its masks. With --with-features the graphs of a ship folder get an output that edgemt stream --adapt fits a head to.
    """

    format: Literal["executorch"] | None = None
    """Also a program for ExecuTorch, model.int8.pte, in the ship: XNNPACK in INT8, calibrated and judged on the data of
    the recipe; of zoo/NAME add --data.root DIR. It runs on the installed version of executorch alone."""
    serve: Literal["triton", "ovms", "monai", "cpp"] | None = None
    """NVIDIA Triton, OpenVINO Model Server, a MONAI bundle's description, or a folder for a program in C++: the
    reference loop, the graph and golden frames."""
    serve_file: Literal["int8", "fp16", "fp32"] | None = None
    """The graph to serve; INT8 where it runs on OpenVINO, else float, if not given."""
    serve_device: Literal["cpu", "gpu", "npu"] = "cpu"
    serve_instances: int = 1
    """Frames that are worked on at the same time."""
    serve_name: str = ""
    """Name of the served model; the ship's own if not given."""
    with_prompt: Path | None = None
    """RUN/promptable: the small promptable network that a run with sam_handover or s_acmt has trained."""
    with_features: bool = False
    """Of a ship folder: add the decoder's last features as an output of each graph, for edgemt stream --adapt. Masks
    stay as they were (each file is compared on the golden frames), a signature and latencies are removed."""


def export(command: Export, rest: list[str]) -> None:
    """A recipe up to its ship, an entry of the zoo, or a model repository of a ship that stands."""
    if command.serve is None:
        of_serve = ("serve_file", "serve_device", "serve_instances", "serve_name")
        refuse_flags(command, *of_serve, why="--serve names no server")
    if command.format is not None:
        _add_program(command, rest)
    elif command.with_prompt is not None:
        _add_prompt(command, command.with_prompt, rest)
    elif command.with_features:
        _add_features(command, rest)
    elif _names_an_entry(command.recipe):
        _export_entry(command, rest)
    elif command.serve or _is_ship(command.recipe):
        _serve(command, rest)
    else:
        run_until(command, rest, until="ship")


def _names_an_entry(target: str) -> bool:
    from edgemt.zoo.entry import is_entry

    return is_entry(target)


def _is_ship(target: str) -> bool:
    return Path(target, "card.json").exists()


def _export_entry(command: Export, rest: list[str]) -> None:
    from deploy.quantization.accuracy_gate import GateError
    from edgemt.pipeline.export_student import export as export_student
    from edgemt.pipeline.export_student import has_frames, recipe_for

    if "--help" in rest:
        return show_help(Export)
    if command.serve is not None:
        raise ValueError(f"{command.recipe}: export it first, then give --serve with the folder it became")
    recipe = recipe_for(command.recipe, rest)
    try:
        print(export_student(command.recipe, out=command.out, recipe=recipe, say=log))
    except GateError as error:
        if recipe is None or not has_frames(recipe):
            raise
        raise ValueError(
            f"{error}; an entry has no teacher, which the further INT8 candidates need: leave the --data flags "
            f"away for float alone, or edgemt run RECIPE --student.weights {command.recipe} for all of them"
        ) from error


def _add_program(command: Export, rest: list[str]) -> None:
    if command.serve is not None or command.with_prompt is not None or command.with_features:
        raise ValueError("--format: takes no --serve, --with-prompt or --with-features; give them in a further call")
    if _is_ship(command.recipe) and not _names_an_entry(command.recipe):
        raise ValueError(
            f"{command.recipe}: a ship holds no weights to make a program of; name its recipe, with "
            "--out RUN, or zoo/NAME"
        )
    if "--help" in rest:
        return show_help(Export)
    from deploy.runtimes.executorch_backend import executorch_version

    executorch_version()  # before a run that may take hours
    from deploy.package.signing import SIGNATURE
    from edgemt.pipeline import executorch_program as program

    if _names_an_entry(command.recipe):
        from edgemt.pipeline.export_student import export as export_student
        from edgemt.pipeline.export_student import has_frames, recipe_for

        recipe = recipe_for(command.recipe, rest)
        if recipe is None or not has_frames(recipe):
            raise ValueError(f"{command.recipe}: --format executorch takes frames to calibrate it; add --data.root DIR")
        ship = export_student(command.recipe, out=command.out, recipe=recipe, say=log)
        source = program.of_entry(command.recipe, recipe, ship)
    else:
        from edgemt import recipes
        from edgemt.pipeline import flow
        from edgemt.pipeline.overrides import override
        from edgemt.pipeline.unused_options import check_flags

        recipe = override(recipes.load(command.recipe, rest), rest, prog=f"edgemt export {command.recipe}")
        check_flags(recipe, rest)
        out = command.out or Path("runs") / recipe.name
        ship = flow.run(recipe, out, until="ship", overwrite=command.overwrite)
        source = program.of_run(recipe, out)
    if (ship / SIGNATURE).exists():
        log("the ship's signature is removed, its card changes; sign it again")
    print(program.add_program(ship, source, say=log).folder)


def _add_prompt(command: Export, promptable: Path, rest: list[str]) -> None:
    refuse_flags(command, "with_features", "overwrite", why="--with-prompt changes the ship in place")
    if not _is_ship(command.recipe) or command.serve is not None or command.out is not None or rest:
        raise ValueError(f"{command.recipe}: --with-prompt takes a ship folder in RECIPE's place, and nothing else")
    from deploy.package.signing import SIGNATURE
    from deploy.promptable.add_to_package import add_prompt
    from edgemt.artefacts import stage_folder
    from edgemt.artefacts.network_folder import load_promptable

    signed = Path(command.recipe, SIGNATURE).exists()
    ship = add_prompt(command.recipe, load_promptable(promptable), stage_folder.read_card(promptable))
    if signed:
        log("the ship's signature is gone, its card has changed; sign it again")
    print(ship.folder)


def _add_features(command: Export, rest: list[str]) -> None:
    refuse_flags(command, "overwrite", why="--with-features changes the ship in place")
    if not _is_ship(command.recipe) or command.serve is not None or command.out is not None or rest:
        raise ValueError(f"{command.recipe}: --with-features takes a ship folder in RECIPE's place, and nothing else")
    from deploy.adaptation.add_to_package import add_features
    from deploy.package.signing import SIGNATURE

    signed = Path(command.recipe, SIGNATURE).exists()
    ship = add_features(command.recipe)
    if signed:
        log("the ship's signature is gone, its card has changed; sign it again")
    print(ship.folder)


def _serve(command: Export, rest: list[str]) -> None:
    from deploy.package.package import open_package
    from deploy.serving.model_repository import ServeOptions, export_to_server

    if _is_ship(command.recipe) and "--help" in rest:
        return show_help(Export)
    if command.serve is None:
        raise ValueError(f"{command.recipe}: is exported already; add --serve triton, ovms, monai or cpp")
    options = ServeOptions(
        command.serve, command.serve_file, command.serve_device, command.serve_instances, command.serve_name
    )
    if _is_ship(command.recipe):
        if rest:
            raise ValueError(f"unknown argument {rest[0]!r}; see edgemt export --help")
        folder, out = Path(command.recipe), command.out
    else:
        from edgemt import recipes
        from edgemt.pipeline import flow
        from edgemt.pipeline.overrides import override
        from edgemt.pipeline.unused_options import check_flags

        recipe = override(recipes.load(command.recipe, rest), rest, prog=f"edgemt export {command.recipe}")
        check_flags(recipe, rest)
        run = command.out or Path("runs") / recipe.name
        folder, out = flow.run(recipe, run, until="ship", overwrite=command.overwrite), None
    print(export_to_server(open_package(folder), out or folder.resolve().parent / "serve" / command.serve, options))
