"""The commands and snippets of the README and the guides run as they are written."""

from __future__ import annotations

import ast
import re
import shlex
import shutil
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np
import pages
import pytest
import tomllib
import volume_samples
from checkout import ROOT
from dataset_samples import kvasir_seg
from label_samples import colonoscopy
from PIL import Image
from tiny_flags import TINY, TINY_VOLUMES

from edgemt import cli, recipes
from edgemt.artefacts import stage_folder
from edgemt.convert.nrrd_file import write_nrrd
from edgemt.data import phantom2d
from edgemt.io import zoo_paths
from edgemt.pipeline.pack_student import pack

README = ROOT / "README.md"
GUIDES = sorted((ROOT / "docs" / "guides").glob("*.md"))
PAGES = [README, *GUIDES]  # their commands run in this order, in one folder
TEXT = "\n".join(page.read_text(encoding="utf-8") for page in PAGES)
BLOCKS = re.findall(r"```(\w*)\n(.*?)```", TEXT, re.S)
COMMANDS = list(dict.fromkeys(line for kind, block in BLOCKS if kind == "sh" for line in block.strip().splitlines()))
SNIPPETS = [block for kind, block in BLOCKS if kind == "python"]
FEW = ["--teacher.schedule.steps=2", "--student.schedule.steps=2", "--slim.schedule.steps=2"]
SMALL = [*(arg for arg in TINY if not arg.startswith("--data.phantom") and arg not in ("6", "12", "4")), *FEW]
PLAIN = [
    "--student.pretrained=never",
    "--teacher.pretrained=never",
    "--teacher.members=1",
    "--slim.prune.target=macs",
]
OWN = {
    "kvasir_cpu": [*SMALL, *PLAIN, "--teacher.schedule.unlabelled=0"],
    "acdc_cpu": [*SMALL, *PLAIN],
    "phantom": TINY,
    "phantom_volumes": TINY_VOLUMES,
    "la_vnet_cpu": [*TINY_VOLUMES[3:], "--volume.scale=1"],
}


def frames(root: Path, classes: int) -> None:
    """The folder that the README describes, with phantom frames in it; 0/255 masks."""
    for part, seeds in (("train", range(8)), ("val", range(20, 24))):
        for kind in ("images", "masks"):
            (root / part / kind).mkdir(parents=True)
        for seed in seeds:
            image, label = phantom2d.frame(seed, size=(64, 64))
            Image.fromarray(image).save(root / part / "images" / f"{seed}.png")
            Image.fromarray(((label == 1) * 255).astype(np.uint8)).save(root / part / "masks" / f"{seed}.png")
    (root / "labelled.txt").write_text("".join(f"{seed}.png\n" for seed in range(4)))


def volumes(root: Path) -> None:
    import nibabel

    for kind in ("images", "labels"):
        (root / kind).mkdir(parents=True)
    names = [f"patient{p:03d}_frame01" for p in range(4)]
    for p, name in enumerate(names):
        pairs = [phantom2d.frame(100 * p + z, size=(64, 64)) for z in range(4)]
        image = np.stack([frame.mean(-1).astype(np.uint8) for frame, _ in pairs], -1)
        label = np.stack([label for _, label in pairs], -1)
        for kind, array in (("images", image), ("labels", label)):
            nibabel.save(nibabel.Nifti1Image(array, np.eye(4)), root / kind / f"{name}.nii.gz")
    (root / "train.txt").write_text("\n".join(names[:3]))
    (root / "val.txt").write_text(names[3])
    (root / "labelled.txt").write_text("\n".join(names[:2]))


def atria(root: Path) -> None:
    import nibabel

    from edgemt.data.phantom3d import volume

    for kind in ("images", "labels"):
        (root / kind).mkdir(parents=True)
    for seed in range(5):
        image, label = volume(seed, (32, 32, 16))
        for kind, array in (("images", image), ("labels", (label == 1).astype(np.uint8))):
            nibabel.save(nibabel.Nifti1Image(array, np.eye(4)), root / kind / f"atrium{seed}.nii.gz")
    (root / "train.txt").write_text("atrium0\natrium1\natrium2\natrium3\natrium4")
    (root / "val.txt").write_text("atrium4")
    (root / "labelled.txt").write_text("atrium0\natrium1")


def film(path: Path) -> None:
    import av

    with av.open(str(path), "w") as container:
        video = container.add_stream("mpeg4", rate=20)
        video.width, video.height, video.pix_fmt = 96, 64, "yuv420p"
        for seed in range(20):
            container.mux(video.encode(av.VideoFrame.from_ndarray(phantom2d.frame(seed, size=(64, 96))[0])))
        container.mux(video.encode(None))


def archives(slicer: Path, archive: Path) -> None:
    """Volumes of 3D Slicer with segmentations, and DICOM series with RT-STRUCTs, of three patients."""
    slicer.mkdir()
    for seed in range(3):
        write_nrrd(slicer / f"case{seed}.nrrd", volume_samples.image(seed), volume_samples.affine(), {})
        label = (volume_samples.label(seed) > 0).astype(np.uint8)
        segments = volume_samples.segments(["organ"])
        write_nrrd(slicer / f"case{seed}.seg.nrrd", label, volume_samples.affine(), segments)
        paths = volume_samples.dicom_series(archive / str(seed), seed, patient=f"Patient{seed}")
        ring = [(1.5, 1.5), (7.5, 1.5), (7.5, 6.5), (1.5, 6.5)]
        contours = {"organ": [(k, ring) for k in range(1, 5)], "skin": [(2, ring)]}
        volume_samples.structures(paths, contours, archive / str(seed) / "rt.dcm")


@pytest.fixture(scope="module")
def reader(tmp_path_factory: pytest.TempPathFactory, tiny_run: Path, tiny_volume_run: Path) -> Path:
    """A folder where a reader stands: data as described, and the two runs without data of one's own already made."""
    here = tmp_path_factory.mktemp("reader")
    frames(here / "frames", 2)
    volumes(here / "volumes")
    atria(here / "atria")
    shutil.copytree(tiny_run, here / "runs" / "phantom")
    shutil.copytree(tiny_volume_run, here / "runs" / "chamber")
    film(here / "film.mp4")
    colonoscopy(here / "colonoscopy")
    archives(here / "slicer", here / "archive")
    kvasir_seg(here)
    return here


@pytest.fixture(scope="module")
def packed(reader: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A zoo with one entry, `small`: the phantom run as it was before any command of a page."""
    folder = tmp_path_factory.mktemp("zoo")
    pack(reader / "runs" / "phantom" / "ship", "small", into=folder)
    return folder


@pytest.fixture
def zoo(packed: Path, tmp_path: Path) -> Path:
    return shutil.copytree(packed, tmp_path / "zoo")


# kvasir_cpu and phantom_volumes are run to the end; here the same stages would be run with other data
TO_THE_STUDENT = ("edgemt run acdc_cpu", "edgemt run la_vnet_cpu", "edgemt run kvasir_cpu --data.root colon")


def commands() -> Iterator[Any]:
    """Every command, in the order of the pages; of `TO_THE_STUDENT` the later stages are in the slow suite."""
    for command in COMMANDS:
        if command.startswith(TO_THE_STUDENT):
            yield pytest.param(command, marks=pytest.mark.slow)
            yield command.replace("edgemt run", "edgemt distil", 1)
        elif not command.startswith("pip"):
            yield command


@pytest.mark.parametrize("command", [*commands()])
def test_every_command_of_the_readme_runs(command: str, reader: Path, request, monkeypatch, capsys) -> None:
    monkeypatch.chdir(reader)
    program, *args = shlex.split(command)
    assert program == "edgemt"
    if "zoo/NAME" in args:
        monkeypatch.setattr(zoo_paths, "HOME", request.getfixturevalue("zoo"))
        args[args.index("zoo/NAME")] = "zoo/small"
    if args[0] == "stream":
        args += ["--frames", "20"]
    if args[0] == "bench":
        args += ["--file", "int8", "--hz", "0"]  # a camera's clock is slow, for every file it would take a minute
    if args[0] == "compare":
        args += SMALL
    if args[0] in ("run", "distil"):
        args += OWN.get(args[1], SMALL)
    if "atrium/ship" in command and not (reader / "runs" / "atrium" / "ship").exists():
        shutil.copytree(reader / "runs" / "chamber" / "ship", reader / "runs" / "atrium" / "ship")
    if "polyps/ship" in command and not (reader / "runs" / "polyps").exists():
        pytest.fail("runs/polyps is used before a command makes it")
    root = args[args.index("--data.root") + 1] if "--data.root" in args else ""
    if root and not Path(root).exists():  # the slow tests alone: the command that imports it is a fast one
        cli.main(shlex.split(next(c for c in COMMANDS if c.startswith("edgemt import") and c.endswith(f" {root}")))[1:])
        capsys.readouterr()
    cli.main(args)
    said = capsys.readouterr()
    assert (said.err if args[0] == "stream" else said.out).strip()


def test_the_resolution_of_a_recipe_reaches_the_ship(reader: Path, monkeypatch) -> None:
    monkeypatch.chdir(reader)
    if not Path("runs/polyps/ship").exists():  # when this test runs alone; otherwise a command of the README made it
        data = ["--data.root=frames", "--data.labelled=labelled.txt"]
        cli.main(["export", "kvasir_cpu", *data, "--out=runs/polyps", *OWN["kvasir_cpu"]])
    cards = [stage_folder.read_card(Path("runs/polyps") / stage) for stage in ("student", "slim", "ship")]
    assert recipes.load("kvasir_cpu").student.resolution == 0.75
    assert all(card.network["options"]["resolution"] == 0.75 and card.size == (64, 64) for card in cards)


def test_the_two_install_commands_name_extras_that_exist() -> None:
    installs = [c for c in COMMANDS if c.startswith("pip")]
    extras = tomllib.loads((ROOT / "pyproject.toml").read_text())["project"]["optional-dependencies"]
    assert [c.split("&&")[1].strip() for c in installs] == ["edgemt run phantom", "pytest"]
    for command in installs:
        named = re.search(r"\[([\w,]+)\]", command)
        assert named and set(named.group(1).split(",")) <= set(extras)
    for named in re.findall(r"edgemt\[(\w+)\]", TEXT):
        assert named in extras


@pytest.mark.parametrize("snippet", [s for s in SNIPPETS if "def " in s])
def test_every_recipe_of_the_readme_loads(snippet: str, tmp_path: Path) -> None:
    file = tmp_path / "polyps.py"
    file.write_text(snippet)
    names = [node.name for node in ast.parse(snippet).body if isinstance(node, ast.FunctionDef)]
    assert recipes.load(f"{file}:{names[0]}").name == names[0]


@pytest.mark.parametrize("snippet", [s for s in SNIPPETS if "def " not in s])
def test_every_other_snippet_of_the_readme_runs(snippet: str, reader: Path, monkeypatch, capsys) -> None:
    monkeypatch.chdir(reader)
    exec(compile(snippet, "README.md", "exec"), {})
    assert capsys.readouterr().out.strip()


def test_every_number_in_the_readme_has_a_date_and_a_command() -> None:
    """The tables are in docs/results.md: every section with a table has both."""
    text = (ROOT / "docs" / "results.md").read_text(encoding="utf-8")
    measured = [section for section in re.split(r"\n##+ ", text) if "\n| " in section]
    assert len(measured) > 4 and "edgemt run acdc_cpu" in text
    for section in measured:
        assert re.search(r"20\d\d-\d\d-\d\d", section) and re.search(r"^    edgemt \w+", section, re.M), section[:60]


by_name = pytest.mark.parametrize("page", pages.PAGES, ids=lambda p: p.relative_to(ROOT).as_posix())


@by_name
def test_every_link_between_pages_leads_somewhere(page: Path) -> None:
    for target in re.findall(r"\]\((?!https?:)([^)\s]+)\)", page.read_text(encoding="utf-8")):
        file, _, heading = target.partition("#")
        other = page.parent / file if file else page
        assert other.exists(), f"{page}: {target}"
        assert not heading or other.suffix != ".md" or heading in pages.anchors(other), f"{page}: {target}"


@by_name
def test_every_path_named_in_a_page_exists(page: Path) -> None:
    text = page.read_text(encoding="utf-8")
    paths = re.findall(r"`((?:edgemt|deploy|teachers|students|tests|benchmarks|docs|\.ci)/[\w./-]*)`", text)
    assert paths or page.name not in ("CONTRIBUTING.md", "SECURITY.md", "architecture.md")
    assert not [path for path in paths if "NAME" not in path and not (ROOT / path).exists()]


def test_the_readme_is_short() -> None:
    assert len(README.read_text(encoding="utf-8").splitlines()) < 150
