"""Pretrained encoder weights: where they come from, what is refused, and that a stage depends on them."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path

import pytest
import timm
import torch
from safetensors.torch import save_file

import students
from edgemt.artefacts import network_folder, stage_folder
from edgemt.io import encoder_weights, load_encoder
from edgemt.io.encoder_names import timm_names
from edgemt.io.encoder_weights import PACKAGES, find
from edgemt.io.load_encoder import adapt_first_conv, load, load_into, tensor_digest
from edgemt.pipeline import flow
from edgemt.pipeline.run_context import open_run
from edgemt.recipes import RECIPES, Recipe, StudentOptions, TeacherOptions
from edgemt.training.options import Schedule

TINY = "test_efficientnet"
LITE = "tf_efficientnet_lite0"
QUICK = Schedule(steps=2, labelled=2, unlabelled=2, validations=1, warmup=1)


@pytest.fixture(autouse=True)
def cache(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    monkeypatch.setenv("EDGEMT_CACHE", str(tmp_path / "cache"))
    monkeypatch.setattr("huggingface_hub.constants.HF_HUB_OFFLINE", True)
    return tmp_path / "cache"


def tiny_file(path: Path, *, seed: int = 0, prefix: str = "") -> Path:
    torch.manual_seed(seed)
    state = timm.create_model(TINY).state_dict()
    save_file({prefix + name: value.contiguous() for name, value in state.items()}, path)
    return path


@pytest.mark.parametrize("encoder", PACKAGES)
def test_a_package_gives_every_tensor_of_the_network_and_is_converted_once(encoder: str, cache: Path) -> None:
    weights = find(encoder)
    assert weights is not None and weights.source == "package" and weights.sha256 == PACKAGES[encoder].sha256
    state = load(weights)
    timm.create_model(encoder).load_state_dict(state, strict=True)
    assert tensor_digest(state) == PACKAGES[encoder].tensors
    (converted,) = (cache / "encoders").iterdir()
    assert converted.suffix == ".safetensors" and tensor_digest(load(weights)) == PACKAGES[encoder].tensors


def test_a_damaged_cache_is_made_again(cache: Path, caplog: pytest.LogCaptureFixture) -> None:
    weights = find(LITE)
    assert weights is not None
    right = tensor_digest(load(weights))
    (converted,) = (cache / "encoders").iterdir()
    raw = bytearray(converted.read_bytes())
    raw[-4] ^= 0x40  # one weight
    converted.write_bytes(raw)
    assert tensor_digest(load(weights)) == right
    assert "made again" in caplog.text
    converted.write_bytes(raw[: len(raw) // 2])
    assert tensor_digest(load(weights)) == right


def test_a_cache_that_cannot_be_written_is_one_line(cache: Path, caplog: pytest.LogCaptureFixture) -> None:
    cache.write_text("a file where the folder would be")
    weights = find(LITE)
    assert weights is not None and tensor_digest(load(weights)) == PACKAGES[LITE].tensors
    assert "not cached" in caplog.text


def test_a_package_file_that_is_not_the_pinned_one_is_refused(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    other = tmp_path / "other.pth"
    other.write_bytes(b"no weights")
    monkeypatch.setattr(encoder_weights, "_installed", lambda package: ("0.1.0", other))
    with pytest.raises(ValueError, match="not the pinned file.*force-reinstall"):
        find(LITE)


def test_a_missing_package_names_its_remedy(monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture) -> None:
    monkeypatch.setattr(encoder_weights, "_installed", lambda package: None)
    with pytest.raises(ValueError) as caught:
        find(LITE)
    for part in ("edgemt[imagenet]", "timm/tf_efficientnet_lite0", "model.safetensors", "HF_HUB_OFFLINE"):
        assert part in str(caught.value)
    assert "\n" not in str(caught.value)
    assert find(LITE, pretrained="if-available") is None
    assert "starts from scratch" in caplog.text
    assert find(LITE, pretrained="never") is None


@pytest.mark.parametrize("prefix", ["", "module.", "module.encoder."])
def test_a_file_comes_first_whatever_wraps_its_names(tmp_path: Path, prefix: str) -> None:
    file = tiny_file(tmp_path / "own.safetensors", prefix=prefix)
    weights = find(TINY, file=str(file), pretrained="never")
    assert weights is not None and weights.source == "file" and weights.origin == "own.safetensors"
    encoder = timm.create_model(TINY, features_only=True)
    load_into(encoder, weights, channels=3)
    torch.manual_seed(0)
    assert torch.equal(encoder.conv_stem.weight, timm.create_model(TINY).conv_stem.weight)


def test_a_state_dict_needs_the_hash_of_its_publisher(tmp_path: Path) -> None:
    file = tmp_path / "own.pth"
    torch.manual_seed(0)
    state = timm.create_model(TINY).state_dict()
    torch.save(state, file)
    with pytest.raises(ValueError, match="#sha256=HEX"):
        find(TINY, file=str(file))
    with pytest.raises(ValueError, match="copy the file again"):
        find(TINY, file=f"{file}#sha256={'0' * 64}")
    digest = encoder_weights.sha256(file)
    weights = find(TINY, file=f"{file}#sha256={digest}")
    assert weights is not None
    assert torch.equal(load(weights)["conv_stem.weight"], state["conv_stem.weight"])


def test_a_file_that_runs_code_is_refused(tmp_path: Path) -> None:
    class Evil:
        def __reduce__(self) -> tuple:
            return (Path(tmp_path / "ran").write_text, ("x",))

    file = tmp_path / "evil.pth"
    torch.save({"a": Evil()}, file)
    weights = find(TINY, file=f"{file}#sha256={encoder_weights.sha256(file)}")
    assert weights is not None
    with pytest.raises(ValueError, match="no plain state dict"):
        load(weights)
    assert not (tmp_path / "ran").exists()


def test_weights_of_another_architecture_name_the_file_and_a_tensor(tmp_path: Path) -> None:
    file = tiny_file(tmp_path / "tiny.safetensors")
    with pytest.raises(
        ValueError, match=r"tiny\.safetensors: not the weights of tf_efficientnet_lite0: \d+ of \d+ tensors"
    ):
        students.build("efficientnet_lite0", channels=3, classes=2, weights_file=str(file))


def test_a_damaged_or_missing_file_is_one_line(tmp_path: Path) -> None:
    with pytest.raises(ValueError, match="no such file of encoder weights"):
        find(TINY, file=str(tmp_path / "none.safetensors"))
    file = tiny_file(tmp_path / "cut.safetensors")
    file.write_bytes(file.read_bytes()[:1000])
    with pytest.raises(ValueError, match="damaged or no safetensors"):
        students.build(TINY, channels=3, classes=2, weights_file=str(file))


@pytest.mark.parametrize(
    ("channels", "mode"), [(1, "auto"), (3, "spread"), (3, "middle"), (5, "spread"), (5, "middle")]
)
def test_the_first_convolution_keeps_its_response_to_a_grey_image(channels: int, mode: str) -> None:
    weight = torch.randn(8, 3, 3, 3, generator=torch.Generator().manual_seed(0), dtype=torch.float64)
    grey = torch.randn(2, 1, 9, 9, generator=torch.Generator().manual_seed(1), dtype=torch.float64)
    wanted = torch.nn.functional.conv2d(grey.repeat(1, 3, 1, 1), weight)
    adapted = adapt_first_conv(weight, channels, mode=mode)
    assert adapted.shape == (8, channels, 3, 3)
    torch.testing.assert_close(torch.nn.functional.conv2d(grey.repeat(1, channels, 1, 1), adapted), wanted)
    assert torch.equal(adapt_first_conv(weight, 3), weight)


def test_reference_names_and_timm_names_are_the_same_tensors() -> None:
    weights = find(LITE)
    assert weights is not None
    published = load_encoder._read(weights.file, expected=weights.sha256)
    renamed = timm_names(published, LITE)
    assert "_conv_stem.weight" in published and len(renamed) == len(published) == 296
    assert torch.equal(renamed["blocks.0.0.conv_pw.weight"], published["_blocks.0._project_conv.weight"])
    assert torch.equal(renamed["blocks.1.0.conv_pwl.weight"], published["_blocks.1._project_conv.weight"])


@pytest.mark.parametrize("architecture", ["smp/Unet", "smp/FPN"])
def test_teachers_of_smp_take_the_same_weights(architecture: str) -> None:
    import teachers

    network = teachers.build(architecture, channels=1, classes=2, encoder="efficientnet_lite0", pretrained="always")
    weights = find(LITE)
    assert weights is not None
    stem = network.network.encoder.model.conv_stem.weight
    torch.testing.assert_close(stem, load(weights)["conv_stem.weight"].sum(1, keepdim=True))


def strided_convolutions(network: torch.nn.Module) -> set[tuple]:
    """Type, kernel, stride and padding of the convolutions that would be padded."""
    convolutions = (m for m in network.modules() if isinstance(m, torch.nn.Conv2d) and max(m.stride) > 1)
    return {(type(m), m.kernel_size, m.stride, m.padding) for m in convolutions}


def test_fixed_sizes_export_without_padding_nodes_in_the_encoder(tmp_path: Path) -> None:
    onnx = pytest.importorskip("onnx")
    from deploy.export import export_onnx
    from edgemt.model_card import Normalisation

    network = students.build("efficientnet_lite0", channels=3, classes=2).eval()
    export_onnx(network, tmp_path / "m.onnx", size=(64, 64), channels=3, normalise=Normalisation())
    pads = [node.name for node in onnx.load(tmp_path / "m.onnx").graph.node if node.op_type == "Pad"]
    assert len(pads) == 1  # the one of the mask's fixed upsampling
    for deeper in ("efficientnet_lite1", "efficientnet_lite2"):  # the same layers, only more and wider
        other = students.build(deeper, channels=3, classes=2)
        assert strided_convolutions(other) == strided_convolutions(network), deeper


def test_the_table_states_the_size_of_each_student() -> None:
    from deploy.pruning import prune

    for name in ("mobilenetv4_tiny", "efficientnet_lite0"):
        row = students.STUDENTS[name]
        params, macs = prune.count(students.build(name, channels=3, classes=2).eval(), torch.zeros(1, 3, 256, 256))
        assert (row.params, row.mmacs) == (round(params / 1e6, 2), round(macs / 1e6))


def tiny_recipe(**student: object) -> Recipe:
    base = RECIPES["phantom"]()
    return replace(
        base,
        data=replace(base.data, size=(32, 32), phantom=(3, 3, 1)),
        teacher=TeacherOptions(network=f"students/{TINY}", decoder="dense2", schedule=QUICK),
        student=StudentOptions(network=TINY, schedule=QUICK, **student),  # type: ignore[arg-type]
    )


def test_weights_that_appear_or_change_are_trained_from(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    """`if-available` without weights, with them, with others: three trainings; gone again: the last one stays."""
    file = tmp_path / "model.safetensors"
    here: list[str] = []
    monkeypatch.setattr(encoder_weights, "cached_weights", lambda repo, revision=None: here[0] if here else None)
    recipe, out = tiny_recipe(pretrained="if-available"), tmp_path / "run"

    def identity() -> str:
        flow.run(recipe, out, until="student")
        return stage_folder.identity(out / "student")

    scratch = identity()
    assert "encoder_weights" not in stage_folder.read_card(out / "student").network
    assert identity() == scratch
    here.append(str(tiny_file(file, seed=1)))
    first = identity()
    record = stage_folder.read_card(out / "student").network["encoder_weights"]
    assert first != scratch and record["sha256"] == encoder_weights.sha256(file) and record["source"] == "hub cache"
    assert "weights from hub cache" in capsys.readouterr().err
    assert identity() == first
    tiny_file(file, seed=2)
    second = identity()
    assert second not in (first, scratch)
    here.clear()
    assert identity() == second
    assert "student: stands" in capsys.readouterr().err


def test_a_students_network_can_be_the_teacher(tmp_path: Path) -> None:
    out = tmp_path / "run"
    recipe = tiny_recipe(pretrained="never")
    file = tiny_file(tmp_path / "own.safetensors")
    recipe = replace(recipe, teacher=replace(recipe.teacher, encoder_weights=str(file)))
    flow.run(recipe, out, until="teacher")
    card = stage_folder.read_card(out / "teacher")
    assert card.network["room"] == "students" and card.network["options"] == {
        "pretrained": "never",
        "decoder": "dense2",
    }
    assert card.network["encoder_weights"]["origin"] == "own.safetensors"
    network_folder.load_network(out / "teacher")
    with pytest.raises(ValueError, match="has no encoder that takes them"):
        flow.run(
            replace(recipe, teacher=TeacherOptions(network="unet", encoder_weights=str(file))), out, until="teacher"
        )


@pytest.mark.parametrize(
    ("wanted", "network", "pretrained", "mean"),
    [
        ("auto", "efficientnet_lite0", "if-available", (0.5, 0.5, 0.5)),
        ("auto", "mobilenetv4_small", "if-available", (0.485, 0.456, 0.406)),
        ("encoder", "efficientnet_lite0", "never", (0.5, 0.5, 0.5)),
    ],
)
def test_frames_are_normalised_as_the_pretrained_encoder_expects(
    tmp_path: Path, wanted: str, network: str, pretrained: str, mean: tuple[float, ...]
) -> None:
    recipe = tiny_recipe()
    recipe = replace(recipe, normalise=wanted, student=StudentOptions(network=network, pretrained=pretrained))  # type: ignore[arg-type]
    assert open_run(recipe, tmp_path).slices.normalise.mean == mean
    own = open_run(replace(recipe, normalise="data"), tmp_path).slices.normalise
    assert own.mean != mean and len(own.mean) == 3
    assert open_run(replace(recipe, normalise="auto", per_image=True), tmp_path).slices.normalise.per_image
