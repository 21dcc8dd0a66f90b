"""SAM of `transformers`, from a folder: loaded without a pickle, embedded once, and used by a whole training stage."""

from __future__ import annotations

import json
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
import torch
from PIL import Image

from edgemt.artefacts import stage_folder
from edgemt.artefacts.network_folder import load_promptable
from edgemt.inference.interactive import parse, predict_prompted
from edgemt.learning.prompts import prompts_from_prediction
from edgemt.pipeline import flow
from edgemt.recipes import RECIPES
from teachers.embeddings import CachedEncoderSam, EmbeddingStore, read
from teachers.sam import identity, load_sam

transformers = pytest.importorskip("transformers")


def save_sam(folder: Path, *, seed: int = 0) -> Path:
    """A SAM with the parts of the real one and random weights, as `save_pretrained` leaves it."""
    torch.manual_seed(seed)
    vision = {"image_size": 64, "patch_size": 16, "hidden_size": 16, "num_hidden_layers": 1, "num_attention_heads": 2}
    config = transformers.SamConfig(
        vision_config={
            **vision,
            "num_pos_feats": 8,
            "output_channels": 16,
            "mlp_dim": 16,
            "window_size": 2,
            "global_attn_indexes": [0],
        },
        prompt_encoder_config={
            "hidden_size": 16,
            "image_size": 64,
            "image_embedding_size": 4,
            "mask_input_channels": 4,
        },
        mask_decoder_config={
            **{"hidden_size": 16, "mlp_dim": 16, "num_hidden_layers": 1, "num_attention_heads": 2},
            **{"attention_downsample_rate": 1, "iou_head_depth": 2, "iou_head_hidden_dim": 16},
        },
    )
    model = transformers.SamModel(config)
    for weight in model.parameters():  # its own start is so small that every answer is 0
        torch.nn.init.normal_(weight, std=0.3)
    model.save_pretrained(folder)
    return folder


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return save_sam(tmp_path_factory.mktemp("sam"))


def asked(size: tuple[int, int] = (40, 50)):
    return prompts_from_prediction(torch.rand(2, 3, *size, generator=torch.Generator().manual_seed(0)).softmax(1))[0]


@pytest.mark.parametrize("left_out", [(), ("points",), ("masks",), ("boxes", "points"), ("boxes", "masks")])
@pytest.mark.parametrize("channels", [1, 3, 5])
def test_a_sam_from_a_folder_answers_every_kind_of_question(folder, left_out, channels):
    sam = load_sam(folder)
    said = sam(torch.randn(2, channels, 40, 50), *asked().without(*left_out))
    assert said.logits.shape == (2, 2, 40, 50) and said.quality.shape == (2, 2)
    assert torch.isfinite(said.logits).all()


def test_a_prompt_moves_the_answer_and_so_does_the_image(folder):
    sam, g = load_sam(folder), torch.Generator().manual_seed(0)
    image, prompts = torch.randn(2, 1, 40, 50, generator=g), asked()
    said = sam(image, *prompts).logits
    assert not torch.allclose(said, sam(image, *prompts._replace(boxes=prompts.boxes * 0.5)).logits)
    assert not torch.allclose(said, sam(image.flip(3), *prompts).logits)


def test_sam_2_is_read_too(tmp_path):
    if not hasattr(transformers, "Sam2Model"):
        pytest.skip("this transformers has no Sam2Model")
    tiny = {"hidden_size": 8, "num_attention_heads": 1, "blocks_per_stage": [1, 1, 2, 1], "image_size": [64, 64]}
    wide = {"embed_dim_per_stage": [8, 16, 32, 64], "num_attention_heads_per_stage": [1, 1, 2, 2]}
    backbone = transformers.Sam2HieraDetConfig(**tiny, **wide, global_attention_blocks=[3])
    vision = transformers.Sam2VisionConfig(
        backbone_config=backbone,
        backbone_channel_list=[64, 32, 16, 8],
        backbone_feature_sizes=[[16, 16], [8, 8], [4, 4]],
        fpn_hidden_size=16,
    )
    config = transformers.Sam2Config(
        vision_config=vision,
        prompt_encoder_config={"hidden_size": 16, "image_size": 64, "patch_size": 16, "mask_input_channels": 4},
        mask_decoder_config={
            **{"hidden_size": 16, "mlp_dim": 16, "num_hidden_layers": 1, "num_attention_heads": 2},
            **{"attention_downsample_rate": 1, "iou_head_depth": 2, "iou_head_hidden_dim": 16},
        },
    )
    transformers.Sam2Model(config).save_pretrained(tmp_path)
    sam = load_sam(tmp_path)
    image = torch.randn(2, 1, 40, 50)
    said = sam(image, *asked())
    assert said.logits.shape == (2, 2, 40, 50) and len(sam.embed(image)) == 3
    kept = sam.drop_encoder().decode(load_sam(tmp_path).embed(image), (40, 50), *asked())
    torch.testing.assert_close(kept.logits, said.logits)


def test_no_pickle_is_opened(tmp_path):
    save_sam(tmp_path)
    (tmp_path / "model.safetensors").rename(tmp_path / "pytorch_model.bin")
    with pytest.raises(ValueError, match="safetensors"):
        load_sam(tmp_path)
    with pytest.raises(ValueError, match="safetensors"):
        identity(tmp_path)


def test_a_folder_of_another_model_is_refused_by_its_kind(tmp_path):
    (tmp_path / "config.json").write_text(json.dumps({"model_type": "bert", "auto_map": {"AutoModel": "evil.Model"}}))
    with pytest.raises(ValueError, match="'bert' is no SAM"):
        load_sam(tmp_path)


def test_a_name_that_is_not_to_be_had_is_one_line(monkeypatch):
    monkeypatch.setattr("huggingface_hub.constants.HF_HUB_OFFLINE", True)
    with pytest.raises(ValueError, match="nobody/sam-nowhere is no folder") as caught:
        load_sam("nobody/sam-nowhere")
    assert "\n" not in str(caught.value)


# --- embeddings on disk ---


def images(count: int = 3) -> list[torch.Tensor]:
    return list(
        torch.randint(0, 256, (count, 1, 40, 50), dtype=torch.uint8, generator=torch.Generator().manual_seed(1))
    )


def test_embeddings_are_made_once_in_half_precision_and_a_damaged_one_again(folder, tmp_path):
    store, sam, told = EmbeddingStore(tmp_path, identity(folder)), load_sam(folder), []
    files = store.fill(sam, images(), log=told.append)
    assert read(files[0])[0].dtype == torch.float16 and "s an image on cpu" in told[0]
    before = [file.stat().st_mtime_ns for file in files]
    files[1].write_bytes(files[1].read_bytes()[:-40])
    assert store.fill(sam, images()) == files
    changed = [file.stat().st_mtime_ns != old for file, old in zip(files, before, strict=True)]
    assert changed == [False, True, False] and read(files[1])


def test_another_model_finds_none_of_them(folder, tmp_path):
    other = save_sam(tmp_path / "other", seed=1)
    paths = [EmbeddingStore(tmp_path, identity(f)).file(images()[0]) for f in (folder, other)]
    assert paths[0] != paths[1] and identity(folder) != identity(other)


def test_a_sam_of_which_weights_are_missing_is_refused(tmp_path):
    from safetensors.torch import load_file, save_file

    file = save_sam(tmp_path) / "model.safetensors"
    kept = {k: v for k, v in load_file(file).items() if "mask_decoder" not in k}
    save_file(kept, file, metadata={"format": "pt"})
    with pytest.raises(ValueError, match="weights of a sam"):
        load_sam(tmp_path)


def test_more_than_allowed_is_refused_before_it_is_written(folder, tmp_path):
    with pytest.raises(ValueError, match="raise method.second.gigabytes"):
        EmbeddingStore(tmp_path, identity(folder), gigabytes=1e-6).fill(load_sam(folder), images())
    assert not list(tmp_path.rglob("*.safetensors"))


def test_answers_from_disk_are_those_of_the_whole_network(folder, tmp_path):
    sam = load_sam(folder)
    files = EmbeddingStore(tmp_path, identity(folder)).fill(sam, images())
    kept = CachedEncoderSam(load_sam(folder).drop_encoder(), [[files[0]], [files[1], files[2]]])
    image = torch.stack([images()[0], images()[2]]).float() / 255
    said = kept(image, *asked(), case=torch.tensor([0, 1]), depth=torch.tensor([0.0, 0.75]))
    torch.testing.assert_close(said.logits, sam(image, *asked()).logits, rtol=0.02, atol=0.02)


# --- a whole teacher stage ---


def phantom(model: str, *, volumes: bool = False, **second):
    recipe = RECIPES["phantom_volumes" if volumes else "phantom"]()
    method = flow.METHODS["s_acmt"]
    method = replace(
        method,
        second=replace(method.second, **{"model": model, "pretrain_steps": 3, "min_predicted_iou": 0.0, **second}),
    )
    quick = replace(recipe.teacher.schedule, steps=3, labelled=2, unlabelled=2, validations=0, precision="32-true")
    shrunk = {"filters": 2} if volumes else {"widths": (4, 8, 8, 8, 8)}
    recipe = replace(recipe, threads=1, teacher=replace(recipe.teacher, method=method, schedule=quick, **shrunk))
    if not volumes:
        return replace(recipe, data=replace(recipe.data, size=(32, 32), phantom=(3, 4, 2)))
    patch = replace(recipe.volume, patch=(16, 16, 16), stride=(16, 16, 16), report_stride=(16, 16, 16))
    return replace(recipe, volume=patch, data=replace(recipe.data, phantom=(2, 1, 1)))


@pytest.mark.parametrize("volumes", [False, True])
def test_a_teacher_learns_beside_a_small_promptable_network_that_the_run_trains(tmp_path, volumes, capsys):
    recipe = phantom("small", volumes=volumes)
    flow.run(recipe, tmp_path, until="teacher")
    card = stage_folder.read_card(tmp_path / "promptable")
    assert card.network["name"] == "promptable" and card.params > 0
    load_promptable(tmp_path / "promptable")
    assert not list(tmp_path.glob("*.partial"))
    flow.run(recipe, tmp_path, until="teacher")
    assert "teacher: stands" in capsys.readouterr().err


def test_another_second_teacher_makes_the_teacher_anew(promptable):
    weights = stage_folder.identity(promptable.parent / "teacher")
    flow.run(phantom("small", pretrain_steps=4), promptable.parent, until="teacher")
    assert stage_folder.identity(promptable.parent / "teacher") != weights


@pytest.mark.parametrize("volumes", [False, True])
def test_a_teacher_learns_beside_a_sam_whose_embeddings_lie_on_disk(tmp_path, folder, volumes, capsys):
    flow.run(phantom(str(folder), volumes=volumes), tmp_path, until="teacher")
    files = list((tmp_path / "embeddings").rglob("*.safetensors"))
    assert len(files) >= (3 if volumes else 7)
    assert "s an image" in capsys.readouterr().err
    assert not (tmp_path / "promptable").exists()
    named = {key for key in stage_folder.read_card(tmp_path / "teacher").network}
    assert "sam" not in named  # what is delivered is the teacher alone: SAM never runs at inference


def test_masks_of_unlabelled_images_are_never_opened(tmp_path):
    """With every mask outside of the labelled list spoilt, not a bit of either network changes."""
    told = []
    for spoilt in (False, True):
        root = pairs(tmp_path / f"data{spoilt}", spoilt=spoilt)
        recipe = phantom("small")
        data = replace(
            recipe.data, layout="pairs", root=root, labelled="labelled.txt", mask_threshold=128, classes=("rest", "it")
        )
        out = tmp_path / f"run{spoilt}"
        flow.run(replace(recipe, data=data), out, until="teacher")
        told.append({stage: stage_folder.read_card(out / stage).files["weights.safetensors"] for stage in STAGES})
    assert told[0] == told[1]


STAGES = ("promptable", "teacher")


def pairs(root: Path, *, spoilt: bool) -> Path:
    random = np.random.default_rng(0)
    for part, count in (("train", 5), ("val", 2)):
        for i in range(count):
            label = np.zeros((32, 32), np.uint8)
            label[8 + i : 20 + i, 6:22] = 255
            frame = np.stack([label // 2] * 3, 2) + random.integers(0, 60, (32, 32, 3), dtype=np.uint8)
            for kind, array in (("images", frame), ("masks", label)):
                file = root / part / kind / f"{i}.png"
                file.parent.mkdir(parents=True, exist_ok=True)
                Image.fromarray(array).save(file)
                if spoilt and part == "train" and kind == "masks" and i >= 2:
                    file.write_bytes(b"not a picture")
    (root / "labelled.txt").write_text("0\n1\n")
    return root


# --- a user's own prompts ---


@pytest.fixture(scope="module")
def promptable(tmp_path_factory: pytest.TempPathFactory) -> Path:
    out = tmp_path_factory.mktemp("prompted")
    flow.run(phantom("small"), out, until="teacher")
    return out / "promptable"


@pytest.fixture
def picture(tmp_path: Path) -> Path:
    file = tmp_path / "frame.png"
    Image.fromarray(np.random.default_rng(0).integers(0, 256, (48, 60, 3), dtype=np.uint8)).save(file)
    return file


def test_a_box_on_an_image_gives_a_mask_of_its_size(promptable, folder, picture, tmp_path):
    for model in (promptable, folder):
        files = list(predict_prompted(model, [picture], prompts=["box=10,5,40,30", "not=12,6"], out=tmp_path / "out"))
        assert [file.name for file in files] == ["frame.mask.png", "frame.overlay.png"]
        mask = np.array(Image.open(files[0]))
        assert mask.shape == (48, 60) and set(np.unique(mask)) <= {0, 1}


def test_a_prompt_on_one_slice_gives_a_mask_of_the_volume(folder, tmp_path):
    nibabel = pytest.importorskip("nibabel")
    array = np.random.default_rng(0).integers(0, 200, (32, 40, 5)).astype(np.int16)
    nibabel.save(nibabel.Nifti1Image(array, np.diag([2.0, 2.0, 5.0, 1.0])), tmp_path / "mri.nii.gz")
    asked = ["point=20,16", "box=8,6,30,25", "slice=2"]
    (file,) = predict_prompted(folder, [tmp_path / "mri.nii.gz"], prompts=asked, out=tmp_path / "out")
    written = nibabel.load(file)
    assert written.shape == (32, 40, 5) and np.allclose(written.affine, np.diag([2.0, 2.0, 5.0, 1.0]))


@pytest.mark.parametrize(
    "prompt", ["box=1,2,3", "box=9,9,1,1", "circle=3,4", "box", "point=a,b", "point=nan,1", "slice=1"]
)
def test_a_prompt_that_is_not_understood_is_refused_with_the_forms_there_are(prompt):
    with pytest.raises(ValueError, match="box=X0,Y0,X1,Y1"):
        parse([prompt])


def test_a_prompt_beyond_the_image_and_a_volume_without_a_slice_are_refused(promptable, picture, tmp_path):
    with pytest.raises(ValueError, match="60 x 48 pixels"):
        list(predict_prompted(promptable, [picture], prompts=["point=70,3"], out=tmp_path))
    volume = tmp_path / "mri.nii.gz"
    volume.write_bytes(b"")
    with pytest.raises(ValueError, match="slice=K"):
        list(predict_prompted(promptable, [volume], prompts=["point=7,3"], out=tmp_path))
