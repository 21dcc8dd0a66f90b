from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from PIL import Image

from edgemt.model_card import FileMetrics

pytest.importorskip("onnx")
pytest.importorskip("onnxruntime")

from tiny_package import SIZE, expected, frame, make_ship  # noqa: E402

from deploy.benchmark.bench import BenchOptions  # noqa: E402
from deploy.benchmark.package_bench import bench_package  # noqa: E402
from deploy.package.golden import golden_pairs  # noqa: E402
from deploy.package.input_drift import write_inputs  # noqa: E402
from deploy.package.package import Package, finalize  # noqa: E402
from deploy.runtimes.load import runner  # noqa: E402
from deploy.runtimes.runner import ModelRunner  # noqa: E402
from edgemt.data.options import DataOptions  # noqa: E402
from edgemt.inference import evaluate_package  # noqa: E402
from edgemt.inference.evaluate_uncertainty import uncertainty_record  # noqa: E402
from edgemt.inference.predict import write_png  # noqa: E402
from edgemt.io.images import read_label
from edgemt.io.uncertain_region import uncertain_region  # noqa: E402
from edgemt.io.volumes import read_label_volume, read_volume  # noqa: E402

RUN: dict[str, Any] = {"runtime": "onnxruntime"}
DATA = DataOptions(layout="pairs", classes=("background", "organ", "tool"), size=SIZE).to_dict()


@pytest.fixture
def ship(tmp_path: Path) -> Package:
    return make_ship(tmp_path / "ship", data=DATA, measured={"model.onnx": FileMetrics(dice=0.75)})


def pairs(folder: Path, count: int = 3, *, big: int = 1) -> Path:
    """images and masks of `count` phantoms, `big` times the network's size."""
    for kind in ("images", "masks"):
        (folder / kind).mkdir(parents=True, exist_ok=True)
    for seed in range(count):
        picture = frame(seed).repeat(big, axis=0).repeat(big, axis=1)
        Image.fromarray(picture).save(folder / "images" / f"case{seed}.png")
        Image.fromarray(expected(picture)).save(folder / "masks" / f"case{seed}.png")
    return folder


def test_a_folder_of_images_and_masks_is_measured_whole(ship: Package, tmp_path: Path) -> None:
    record = evaluate_package.evaluate_ship(ship.folder, data_root=pairs(tmp_path / "test"), **RUN)
    assert record["counted"] == 3
    assert record["dice"] == 1.0
    assert set(record["per_class"]) == {"organ", "tool"}
    assert (record["runtime"], record["file"], record["card_dice"]) == ("onnxruntime", "model.onnx", 0.75)
    json.dumps(record)


def test_masks_and_uncertainty_are_measured_in_one_pass(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    ship, root, seen = make_ship(tmp_path / "both", golden=0, data=DATA, uncertainty=True), pairs(tmp_path / "test"), []
    Image.fromarray(np.zeros(SIZE, np.uint8)).save(root / "masks" / "case1.png")
    call = ModelRunner.__call__
    monkeypatch.setattr(ModelRunner, "__call__", lambda self, frames: seen.append(len(frames)) or call(self, frames))
    record = evaluate_package.evaluate_ship(ship.folder, data_root=root, **RUN)
    assert sum(seen) == record["counted"] == 3
    assert record["dice"] == pytest.approx(2 / 3)
    with_maps = runner(ship, **RUN)
    frames = np.stack([frame(seed) for seed in range(3)])
    truths = [expected(frames[0]), np.zeros(SIZE, np.uint8), expected(frames[2])]
    assert record["uncertainty"] == uncertainty_record(with_maps.with_uncertainty, frames, truths)
    assert 0 < record["uncertainty"]["wrong"] < 0.5


def test_an_overlay_is_hatched_where_the_class_is_uncertain(tmp_path: Path) -> None:
    ship, root = make_ship(tmp_path / "both", data=DATA, uncertainty=True), pairs(tmp_path / "in", 1, big=4)
    plain, unsure = (
        {path.name: np.asarray(Image.open(path)) for path in evaluate_package.predict(
            ship.folder, [root / "images"], out=tmp_path / str(on), uncertainty=on, **RUN)}
        for on in (False, True)
    )  # fmt: skip
    assert plain.keys() | {"case0.uncertainty.png"} == unsure.keys()
    hatched = (plain["case0.overlay.png"] != unsure["case0.overlay.png"]).any(-1)
    inside = np.repeat(
        np.repeat(uncertain_region(runner(ship, **RUN).with_uncertainty(frame(0)[None])[1][0]), 4, 0), 4, 1
    )
    assert 0.1 * inside.sum() < hatched.sum() < 0.3 * inside.sum()
    assert not (hatched & ~inside).any()
    assert np.array_equal(plain["case0.mask.png"], unsure["case0.mask.png"])


def test_masks_are_scored_at_their_own_size(ship: Package, tmp_path: Path) -> None:
    record = evaluate_package.evaluate_ship(ship.folder, data_root=pairs(tmp_path / "test", big=3), **RUN)
    assert 0.9 < record["dice"] <= 1.0


def test_a_wrong_mask_costs_what_it_should(ship: Package, tmp_path: Path) -> None:
    root = pairs(tmp_path / "test")
    Image.fromarray(np.zeros(SIZE, np.uint8)).save(root / "masks" / "case1.png")
    record = evaluate_package.evaluate_ship(ship.folder, data_root=root, **RUN)
    assert record["dice"] == pytest.approx(2 / 3)
    assert record["per_class"]["organ"]["invented"] == 1


def test_only_the_val_folder_of_a_training_layout_is_measured(ship: Package, tmp_path: Path) -> None:
    pairs(tmp_path / "data" / "train", 4)
    pairs(tmp_path / "data" / "val", 2)
    assert evaluate_package.evaluate_ship(ship.folder, data_root=tmp_path / "data", **RUN)["counted"] == 2


def test_a_list_names_the_cases(ship: Package, tmp_path: Path) -> None:
    root = pairs(tmp_path / "test", 4)
    (root / "mine.txt").write_text("case2\n")
    record = evaluate_package.evaluate_ship(ship.folder, data_root=root, val="mine.txt", **RUN)
    assert [case["name"] for case in record["cases"]] == ["case2"]


def test_an_image_without_a_mask_is_not_left_out_silently(ship: Package, tmp_path: Path) -> None:
    root = pairs(tmp_path / "test")
    (root / "masks" / "case1.png").unlink()
    with pytest.raises(ValueError, match="case1"):
        evaluate_package.evaluate_ship(ship.folder, data_root=root, **RUN)


def test_eval_without_data_says_what_to_give(tmp_path: Path) -> None:
    with pytest.raises(ValueError, match="data.root"):
        evaluate_package.evaluate_ship(make_ship(tmp_path / "ship").folder, **RUN)
    strange = make_ship(tmp_path / "strange", data={**DATA, "colour": 1})
    with pytest.raises(ValueError, match="colour"):
        evaluate_package.evaluate_ship(strange.folder, **RUN)


def test_the_table_has_a_row_a_class_and_the_dice_of_the_card(ship: Package, tmp_path: Path) -> None:
    text = evaluate_package.metrics_table(
        evaluate_package.evaluate_ship(ship.folder, data_root=pairs(tmp_path / "test"), **RUN)
    )
    assert "organ" in text
    assert "tool" in text
    assert "on the card 0.7500" in text
    assert "nan" not in text.lower()


def test_a_mask_has_the_size_of_its_image_and_holds_class_indices(ship: Package, tmp_path: Path) -> None:
    root = pairs(tmp_path / "in", 2, big=2)
    written = list(evaluate_package.predict(ship.folder, [root / "images"], out=tmp_path / "out", **RUN))
    assert [path.name for path in written] == [
        "case0.mask.png", "case0.overlay.png", "case1.mask.png", "case1.overlay.png",
    ]  # fmt: skip
    mask = read_label(written[0])
    truth = expected(frame(0)).repeat(2, axis=0).repeat(2, axis=1)
    assert mask.shape == truth.shape
    assert (mask == truth).mean() > 0.99
    overlay = np.asarray(Image.open(written[1]))
    assert overlay.shape == (*truth.shape, 3)


def test_grey_and_deep_images_are_taken_too(ship: Package, tmp_path: Path) -> None:
    Image.fromarray(frame(0)[..., 0]).save(tmp_path / "grey.png")
    Image.fromarray(frame(0)[..., 0].astype(np.uint16) * 257).save(tmp_path / "deep.tif")
    written = list(
        evaluate_package.predict(
            ship.folder, [tmp_path / "grey.png", tmp_path / "deep.tif"], out=tmp_path / "out", **RUN
        )
    )
    assert len(written) == 4
    assert np.array_equal(read_label(written[0]), expected(frame(0)))


def test_a_folder_predicted_into_itself_reads_only_the_inputs(ship: Package, tmp_path: Path) -> None:
    root = pairs(tmp_path / "in", 2) / "images"
    first = list(evaluate_package.predict(ship.folder, [root], out=root, **RUN))
    assert list(evaluate_package.predict(ship.folder, [root], out=root, **RUN)) == first


def test_without_overlay_only_masks_are_written(ship: Package, tmp_path: Path) -> None:
    root = pairs(tmp_path / "in", 1)
    written = list(evaluate_package.predict(ship.folder, [root / "images"], out=tmp_path / "out", overlay=False, **RUN))
    assert [path.name for path in written] == ["case0.mask.png"]


def test_a_volume_keeps_its_shape_and_its_place_in_space(ship: Package, tmp_path: Path) -> None:
    nibabel = pytest.importorskip("nibabel")
    slices = np.stack([frame(seed)[..., 0] for seed in range(3)], axis=-1)
    affine = np.diag([1.25, 1.25, 8.0, 1.0])
    affine[:3, 3] = (-4, 5, 6)
    nibabel.save(nibabel.Nifti1Image(slices, affine), tmp_path / "heart.nii.gz")
    written = list(evaluate_package.predict(ship.folder, [tmp_path / "heart.nii.gz"], out=tmp_path / "out", **RUN))
    assert written[0].name == "heart.mask.nii.gz"
    mask = read_volume(written[0])
    assert np.array_equal(mask.array, np.stack([expected(frame(seed)) for seed in range(3)], axis=-1))
    assert np.allclose(mask.affine, affine)
    assert mask.spacing_mm == pytest.approx((1.25, 1.25, 8.0))
    assert written[1].name.endswith(".overlay.png")


@pytest.mark.parametrize("codes", ["RAS", "LPS", "PIR", "SRA"])
def test_a_volume_reaches_the_network_in_the_order_of_training(tmp_path: Path, codes: str) -> None:
    nibabel = pytest.importorskip("nibabel")
    ship = make_ship(tmp_path / "ship", data=DATA | {"axes": "RAS", "depth": "stored"})
    array = np.stack([frame(seed)[..., 0] for seed in range(3)], axis=-1)
    image = nibabel.Nifti1Image(array, np.diag([1.25, 1.25, 8.0, 1.0]))
    turn = nibabel.orientations.ornt_transform(
        nibabel.io_orientation(image.affine), nibabel.orientations.axcodes2ornt(codes)
    )
    nibabel.save(image.as_reoriented(turn), tmp_path / "heart.nii.gz")
    (written,) = evaluate_package.predict(
        ship.folder, [tmp_path / "heart.nii.gz"], out=tmp_path / "out", overlay=False, **RUN
    )
    mask = nibabel.load(written)
    assert nibabel.aff2axcodes(mask.affine) == tuple(codes)
    upright = np.asarray(nibabel.as_closest_canonical(mask).dataobj)
    assert np.array_equal(upright, np.stack([expected(frame(seed)) for seed in range(3)], axis=-1))


def test_a_turned_picture_is_upright_for_the_network_and_in_its_mask(ship: Package, tmp_path: Path) -> None:
    exif = Image.Exif()
    exif[0x0112] = 6
    Image.fromarray(frame(0)).transpose(Image.Transpose.ROTATE_90).save(tmp_path / "a.png", exif=exif)
    (written,) = evaluate_package.predict(ship.folder, [tmp_path / "a.png"], out=tmp_path / "out", overlay=False, **RUN)
    assert np.array_equal(read_label(written), expected(frame(0)))


def test_the_window_of_training_holds_on_the_device(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    deep = frame(0)[..., 0].astype(np.uint16) * 16
    Image.fromarray(deep).save(tmp_path / "a.png")
    for k, data in enumerate((DATA | {"depth": "window", "window": [0, 255 * 16]}, DATA | {"depth": "stored"})):
        ship = make_ship(tmp_path / f"ship{k}", data=data)
        (written,) = evaluate_package.predict(
            ship.folder, [tmp_path / "a.png"], out=tmp_path / f"o{k}", overlay=False, **RUN
        )
        same = np.array_equal(read_label(written), expected(np.stack([frame(0)[..., 0]] * 3, -1)))
        assert same or k
        assert ("more than 8 bits" in capsys.readouterr().err) == bool(k)
    ship = make_ship(tmp_path / "odd", data=DATA | {"axes": "R" * 3})
    with pytest.raises(ValueError, match="no order of three axes"):
        heart(tmp_path / "v.nii.gz")
        list(evaluate_package.predict(ship.folder, [tmp_path / "v.nii.gz"], out=tmp_path / "out", **RUN))


SLICED = {"channels": 5, "channel_order": "slices"}


def heart(path: Path) -> np.ndarray:
    """A volume [H, W, 7] at `path`, and beside it the mask that the tiny graph gives with five slices at a time."""
    nibabel = pytest.importorskip("nibabel")
    array = np.stack([frame(seed)[..., 0] for seed in range(7)], axis=-1)
    path.parent.mkdir(parents=True, exist_ok=True)
    nibabel.save(nibabel.Nifti1Image(array, np.diag([1.25, 1.25, 8.0, 1.0])), path)
    seen = np.pad(array, ((0, 0), (0, 0), (2, 2)), mode="edge")
    return np.stack([expected(seen[..., k : k + 5]) for k in range(7)], axis=-1)


def test_a_model_of_five_slices_sees_the_neighbours_and_repeats_the_ends(tmp_path: Path) -> None:
    ship = make_ship(tmp_path / "ship", **SLICED)  # type: ignore[arg-type]
    want = heart(tmp_path / "heart.nii.gz")
    written = list(evaluate_package.predict(ship.folder, [tmp_path / "heart.nii.gz"], out=tmp_path / "out", **RUN))
    mask = read_volume(written[0])
    assert np.array_equal(mask.array, want)
    assert np.allclose(mask.affine, np.diag([1.25, 1.25, 8.0, 1.0]))
    alone = np.stack([expected(frame(seed)) for seed in range(7)], axis=-1)
    assert not np.array_equal(want, alone), "this volume does not tell neighbours from none"


def test_evaluation_makes_the_frames_that_prediction_makes(tmp_path: Path) -> None:
    nibabel = pytest.importorskip("nibabel")
    data = DataOptions(layout="volumes", classes=("background", "organ", "tool"), size=SIZE, channels=1, slices=5)
    ship = make_ship(tmp_path / "ship", data=data.to_dict(), **SLICED)  # type: ignore[arg-type]
    truth = heart(tmp_path / "test" / "images" / "heart.nii.gz")
    (tmp_path / "test" / "labels").mkdir()
    nibabel.save(nibabel.Nifti1Image(truth, np.eye(4)), tmp_path / "test" / "labels" / "heart.nii.gz")
    record = evaluate_package.evaluate_ship(ship.folder, data_root=tmp_path / "test", **RUN)
    assert (record["counted"], record["dice"]) == (1, 1.0)


def test_a_model_of_slices_takes_no_single_image(tmp_path: Path) -> None:
    ship = make_ship(tmp_path / "ship", **SLICED)  # type: ignore[arg-type]
    root = pairs(tmp_path / "in", 1) / "images"
    heart(root / "heart.nii.gz")
    for given in (root, root / "case0.png"):
        with pytest.raises(ValueError, match="case0.png: is one image, this model reads 5 slices"):
            evaluate_package.predict(ship.folder, [given], out=tmp_path / "out", **RUN)
    assert not (tmp_path / "out").exists()


def test_a_folder_of_slice_images_is_a_volume_to_a_model_of_slices(tmp_path: Path) -> None:
    """In the order of their numbers; masks that lie among them are not taken for slices."""
    ship = make_ship(tmp_path / "ship", **SLICED)  # type: ignore[arg-type]
    want, root = heart(tmp_path / "heart.nii.gz"), tmp_path / "in"
    root.mkdir()
    for k in range(7):
        Image.fromarray(frame(k)[..., 0]).save(root / f"slice{k + 5}.png")  # slice9 comes before slice10
    written = list(evaluate_package.predict(ship.folder, [root], out=tmp_path / "out", **RUN))
    assert written[0].name == "in.mask.nii.gz"
    assert np.array_equal(read_label_volume(written[0]), want)
    Image.fromarray(frame(0)).save(root / "slice5.overlay.png")
    with pytest.raises(ValueError, match="masks lie among the slices"):
        evaluate_package.predict(ship.folder, [root], out=tmp_path / "out", **RUN)


def test_golden_frames_of_five_slices_are_what_they_were(tmp_path: Path) -> None:
    ship = make_ship(tmp_path / "ship", **SLICED)  # type: ignore[arg-type]
    pair = golden_pairs(ship)[0]
    assert np.array_equal(pair.frame[0], np.stack([frame(k)[..., 0] for k in range(5)], axis=-1))
    healthy, lines = evaluate_package.doctor(ship.folder)
    assert healthy, lines
    with pytest.raises(ValueError, match="channels 5"):
        make_ship(tmp_path / "colour", channels=5)


def test_a_model_of_slices_is_timed_like_any_other(tmp_path: Path) -> None:
    ship = make_ship(tmp_path / "ship", **SLICED)  # type: ignore[arg-type]
    quick = BenchOptions(warmup=1, iterations=5, rounds=1, block_ms=2, seconds=0.05, paced_seconds=0.05, cold=False)
    record = bench_package(ship.folder, runtimes=("onnxruntime",), threads=1, options=quick)
    assert record["calls"][0]["file"] == "model.onnx"


@pytest.mark.parametrize(
    ("name", "words"),
    [
        ("clip.mp4", "videos"),
        ("notes.txt", "neither"),
        ("gone.png", "no such"),
        ("broken.png", "decoded"),
        ("none", "holds no"),
    ],
)
def test_a_bad_input_is_one_clear_line(ship: Package, tmp_path: Path, name: str, words: str) -> None:
    if name == "none":
        (tmp_path / name).mkdir()
    elif name != "gone.png":
        (tmp_path / name).write_bytes(b"not an image")
    with pytest.raises(ValueError) as error:
        list(evaluate_package.predict(ship.folder, [tmp_path / name], out=tmp_path / "out", **RUN))
    assert name in str(error.value)
    assert words in str(error.value)
    assert "\n" not in str(error.value)
    assert not (tmp_path / "out").exists()


def test_two_inputs_of_one_name_do_not_overwrite_each_other(ship: Package, tmp_path: Path) -> None:
    for folder in ("a", "b"):
        pairs(tmp_path / folder, 1)
    with pytest.raises(ValueError, match="same mask"):
        evaluate_package.predict(
            ship.folder, [tmp_path / "a" / "images", tmp_path / "b" / "images"], out=tmp_path / "out", **RUN
        )


def test_the_doctor_finds_a_sound_ship_sound(ship: Package) -> None:
    healthy, lines = evaluate_package.doctor(ship.folder)
    text = "\n".join(lines)
    assert healthy, text
    assert "onnxruntime" in text
    assert "golden" in text


def test_the_doctor_finds_a_changed_file(ship: Package) -> None:
    (ship.folder / "model.onnx").write_bytes(b"")
    healthy, lines = evaluate_package.doctor(ship.folder)
    assert not healthy
    assert "model.onnx" in lines[-1]


def test_the_doctor_without_a_ship_looks_at_the_machine() -> None:
    healthy, lines = evaluate_package.doctor()
    assert healthy
    assert any(line.startswith("python") for line in lines)


def test_the_doctor_says_when_the_masks_are_not_the_golden_ones(tmp_path: Path) -> None:
    from deploy.package.golden import write_golden
    from deploy.package.package import finalize

    ship = make_ship(tmp_path / "ship")
    write_golden(ship.folder, "frame0", frame=frame(0), mask=expected(frame(5)))
    finalize(ship.folder, ship.card)
    healthy, lines = evaluate_package.doctor(ship.folder)
    assert not healthy
    assert any("do not use" in line for line in lines)


def test_frames_of_another_kind_are_said_once_in_words(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    ship = make_ship(tmp_path / "ship")
    write_inputs(ship.folder, np.stack([frame(seed) for seed in range(20)]))
    finalize(ship.folder, ship.card)
    root = pairs(tmp_path / "in", 3)
    list(evaluate_package.predict(ship.folder, [root / "images"], out=tmp_path / "out", **RUN))
    assert "warning" not in capsys.readouterr().err
    for path in (root / "images").iterdir():
        Image.fromarray(255 - np.asarray(Image.open(path))).save(path)
    assert len(list(evaluate_package.predict(ship.folder, [root / "images"], out=tmp_path / "out2", **RUN))) == 6
    assert capsys.readouterr().err.count("unlike those of training") == 1


def test_one_damaged_file_leaves_the_others_done_and_is_named_at_the_end(
    ship: Package, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    folder = tmp_path / "frames"
    folder.mkdir()
    for k in range(5):
        write_png(folder / f"f{k}", ".png", np.random.default_rng(k).integers(0, 255, (40, 50, 3), dtype=np.uint8))
    for k in (1, 3):
        (folder / f"f{k}.png").write_bytes((folder / f"f{k}.png").read_bytes()[:900])
    out = tmp_path / "out"
    with pytest.raises(ValueError, match=r"2 inputs were left out, .* done: .*f1\.png, .*f3\.png") as refused:
        list(evaluate_package.predict(ship.folder, [folder], out=out, overlay=False, **RUN))
    assert "\n" not in str(refused.value)
    assert sorted(path.name for path in out.iterdir()) == ["f0.mask.png", "f2.mask.png", "f4.mask.png"]
    assert capsys.readouterr().err.count("left out: ") == 2


def test_a_mask_of_another_input_is_never_replaced(ship: Package, tmp_path: Path) -> None:
    draw = np.random.default_rng(0)
    for name in ("x/a", "y/a"):
        (tmp_path / name).parent.mkdir()
        write_png(tmp_path / name, ".png", draw.integers(0, 255, (40, 50, 3), dtype=np.uint8))
        Image.open(tmp_path / f"{name}.png").save(tmp_path / f"{name}.jpg")
    out, run = tmp_path / "out", {"overlay": False, **RUN}
    inputs = [tmp_path / name for name in ("x/a.png", "y/a.png", "x/a.jpg", "y/a.jpg")]
    made = [next(iter(evaluate_package.predict(ship.folder, [path], out=out, **run))) for path in inputs]
    assert len(set(made)) == 4 and made[0].name == "a.mask.png"
    before = [path.read_bytes() for path in made]
    again = [next(iter(evaluate_package.predict(ship.folder, [path], out=out, **run))) for path in inputs]
    assert again == made and [path.read_bytes() for path in made] == before and len(list(out.iterdir())) == 4
    both = list(evaluate_package.predict(ship.folder, [tmp_path / "x"], out=tmp_path / "both", **run))
    assert sorted(path.name for path in both) == ["a.jpg.mask.png", "a.png.mask.png"]
    (out / "b.mask.png").write_bytes(b"of somebody else")
    Image.open(inputs[0]).save(tmp_path / "b.png")
    (mask,) = evaluate_package.predict(ship.folder, [tmp_path / "b.png"], out=out, **run)
    assert mask.name != "b.mask.png" and (out / "b.mask.png").read_bytes() == b"of somebody else"


def test_a_volume_of_another_input_is_never_replaced(tmp_path: Path) -> None:
    nibabel = pytest.importorskip("nibabel")
    ship = make_ship(tmp_path / "ship")
    voxels = np.random.default_rng(0).integers(0, 255, (12, 10, 3)).astype(np.uint8)
    for folder in ("x", "y"):
        (tmp_path / folder).mkdir()
        nibabel.save(nibabel.Nifti1Image(voxels, np.eye(4)), tmp_path / folder / "v.nii.gz")
    run = {"out": tmp_path / "o", "overlay": False, **RUN}
    paths = [
        next(iter(evaluate_package.predict(ship.folder, [tmp_path / f / "v.nii.gz"], **run))) for f in ("x", "y", "x")
    ]
    assert paths[0] == paths[2] != paths[1] and len(list((tmp_path / "o").iterdir())) == 2
