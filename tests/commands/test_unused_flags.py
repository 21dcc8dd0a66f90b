"""A flag that a mode of a command does not read is refused in one line, and no flag is passed over."""

from __future__ import annotations

from pathlib import Path

import pytest

pytest.importorskip("onnx")
pytest.importorskip("onnxruntime")

from PIL import Image  # noqa: E402
from tiny_package import expected, frame, make_ship  # noqa: E402

from deploy.serving.model_repository import ServeOptions  # noqa: E402
from edgemt import cli  # noqa: E402
from edgemt.data.options import DataOptions  # noqa: E402


@pytest.fixture(scope="module")
def place(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A folder with a `ship`, a `stage` that has weights alone, and images and masks in `test`."""
    folder = tmp_path_factory.mktemp("place")
    data = DataOptions(layout="pairs", classes=("background", "organ", "tool"), size=(32, 40)).to_dict()
    make_ship(folder / "ship", data=data)
    (folder / "stage").mkdir()
    (folder / "stage" / "weights.safetensors").write_bytes(b"")
    for kind in ("images", "masks"):
        (folder / "test" / kind).mkdir(parents=True)
    for seed in range(2):
        Image.fromarray(frame(seed)).save(folder / "test" / "images" / f"{seed}.png")
        Image.fromarray(expected(frame(seed))).save(folder / "test" / "masks" / f"{seed}.png")
    return folder


WEIGHTS = ("eval", "stage", "--data.root", "test")
CORRUPT = ("eval", "ship", "--data.root", "test", "--corrupt", "noise")
PROMPT = ("predict", "stage", "test/images/0.png", "--prompt", "point=4,4")
DICOM = ("predict", "ship", "test/images/0.png", "--format", "dicom-seg")
COMPARED = ("bench", "--compare", "a.json", "b.json")
TABLE = ("compare", "--table-only")


@pytest.mark.parametrize(
    ("words", "says"),
    [
        ((*WEIGHTS, "--runtime", "openvino"), "--runtime: has no effect, weights are measured in torch"),
        ((*WEIGHTS, "--file", "int8"), "--file: has no effect"),
        ((*WEIGHTS, "--no-cpu-fallback"), "--no-cpu-fallback: has no effect"),
        (("eval", "ship", "--video", "v.mp4", "--through-plane", "3"), "--through-plane: has no effect, --video"),
        (("eval", "ship", "--video", "v.mp4", "--data.by", "centres.csv"), "--data.by: has no effect, --video"),
        (("eval", "ship", "--video", "v.mp4", "--corrupt"), "--corrupt: has no effect, --video"),
        ((*CORRUPT, "--data.by", "centres.csv"), "--data.by: has no effect, --corrupt"),
        ((*CORRUPT, "--contours", "True"), "--contours: has no effect, --corrupt"),
        (("eval", "ship", "--data.root", "test", "--through-plane", "3"), "through_plane: slices of a volume vote"),
        (("predict", "ship", "test/images", "--through-plane", "3"), "through_plane: slices of a volume vote"),
        ((*PROMPT, "--uncertainty"), "--uncertainty: has no effect, --prompt"),
        ((*PROMPT, "--file", "int8"), "--file: has no effect, --prompt"),
        ((*DICOM, "--uncertainty"), "--uncertainty: has no effect, --format dicom-seg"),
        ((*DICOM, "--through-plane", "3"), "--through-plane: has no effect, --format dicom-seg"),
        (("bench", "ship", "--size", "64", "64"), "--size: has no effect, they are of a recipe"),
        (("bench", "ship", "--out", "run"), "--out: has no effect"),
        (("bench", "phantom", "--no-cpu-fallback"), "--no-cpu-fallback: has no effect"),
        ((*COMPARED, "--html", "page.html"), "--html: has no effect, --compare"),
        (("bench", "ship", *COMPARED[1:]), "TARGET: has no effect, --compare"),
        (("export", "phantom", "--serve-file", "int8"), "--serve-file: has no effect, --serve names no server"),
        (("export", "ship", "--with-prompt", "p", "--with-features"), "--with-features: has no effect, --with-prompt"),
        (("export", "ship", "--with-features", "--overwrite"), "--overwrite: has no effect, --with-features"),
        (("select", "test", "--budget", "1", "--method", "typical", "--model", "ship"), "--model: has no effect"),
        (
            ("select", "test", "--budget", "1", "--ignore-masks", "--data.labelled", "1"),
            "--data.labelled: has no effect, --ignore-masks",
        ),
        (("select", "test", "--budget", "1", "--data.ignore", "255"), "--ignore: has no effect, no mask is opened"),
        ((*TABLE, "--seeds", "3"), "--seeds: has no effect, --table-only"),
        ((*TABLE, "--draw-labelled", "3"), "--draw-labelled: has no effect, --table-only"),
        (("compare", "cps", "--recipe", "phantom", "--seed", "1", "--seeds", "3"), "--seeds: has no effect, --seed"),
        (
            ("compare", "cps", "--recipe", "phantom", "--teacher.method.ramp.top", "1"),
            "leave out --teacher.method.ramp",
        ),
        (("compare", "cps", "--recipe", "phantom", "--data.root", "test"), "data.root: has no effect here"),
        (
            ("compare", "cps", "--recipe", "phantom", "--data.phantom", "4", "0", "1"),
            "compare: cps learns from unlabelled",
        ),
    ],
    ids=lambda value: " ".join(value) if type(value) is tuple else "",
)
def test_a_flag_that_would_be_passed_over_is_one_line(words, says, place: Path, monkeypatch, capsys) -> None:
    monkeypatch.chdir(place)
    with pytest.raises(SystemExit) as left:
        cli.main(list(words))
    said = capsys.readouterr().err
    assert left.value.code == 2 and says in said and "Traceback" not in said


def test_a_comparison_names_the_flags_of_stages_that_it_has_not(capsys) -> None:
    from edgemt import recipes
    from edgemt.comparison.unused_flags import check_compared_flags
    from edgemt.pipeline.overrides import override

    flags = ["--student.schedule.steps=4", "--tolerance=1", "--teacher.schedule.steps=4", "--student.pretrained=never"]
    check_compared_flags(override(recipes.load("phantom"), [*flags], prog="edgemt compare"), flags)
    assert capsys.readouterr().err.endswith("without effect: student.schedule.steps, tolerance\n")
    check_compared_flags(override(recipes.load("la"), ["--augment.rotation=9"], prog=""), ["--augment.rotation=9"])
    assert capsys.readouterr().err.endswith("without effect: augment.rotation\n")
    flags = ["--teacher.schedule.learning-rate=0.1", "--teacher.schedule.steps=4"]
    check_compared_flags(override(recipes.load("phantom"), [*flags], prog=""), flags, published=True)
    assert "published replaces teacher.schedule.learning_rate where" in capsys.readouterr().err


def test_a_server_that_has_no_instances_and_no_choice_of_a_graph_refuses_both() -> None:
    for server in ("monai", "cpp"):
        with pytest.raises(ValueError, match=r"serve.instances = 2: "):
            ServeOptions(server, instances=2)  # type: ignore[arg-type]
    with pytest.raises(ValueError, match=r"serve.file = int8: "):
        ServeOptions("monai", file="int8")


def test_the_fallback_to_the_processor_is_refused_under_corruption_and_on_videos_too(monkeypatch) -> None:
    from deploy.runtimes.load import runner
    from edgemt.inference import evaluate_corrupted, evaluate_video

    class Asked(Exception):
        pass

    def asked(*args: object, cpu_fallback: bool, **options: object) -> None:
        raise Asked(cpu_fallback)

    assert callable(runner)
    for module in (evaluate_corrupted, evaluate_video):
        monkeypatch.setattr(module, "runner", asked)
        monkeypatch.setattr(module, "open_package", lambda folder: _Ship())
    monkeypatch.setattr(evaluate_corrupted, "modality_of_package", lambda ship: ("endoscopy", ""))
    with pytest.raises(Asked, match="False"):
        evaluate_corrupted.evaluate_corrupted(Path("ship"), names=["noise"], cpu_fallback=False)
    with pytest.raises(Asked, match="False"):
        evaluate_video.evaluate_video(Path("ship"), [], cpu_fallback=False)


class _Ship:
    """A ship of which nothing but the card is looked at."""

    def __init__(self) -> None:
        from edgemt.model_card import ModelCard

        self.card = ModelCard(classes=("background", "organ"), channel_order="RGB", channels=3)
