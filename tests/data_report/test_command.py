"""`edgemt data`: its files, its exit status, and that the page needs no network."""

from __future__ import annotations

import html
import json
import re
import shlex
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
from PIL import Image

from edgemt import cli, recipes
from edgemt.data import phantom2d


@pytest.fixture
def root(tmp_path: Path) -> Path:
    """Four frames with a copy across the parts, in a folder with a name that HTML would read as a tag."""
    folder = tmp_path / "<b>set"
    for part, seeds in (("train", (0, 1)), ("val", (1, 2))):
        for seed in seeds:
            image, label = phantom2d.frame(seed, size=(48, 48))
            for kind, array in (("images", image), ("masks", (label > 0).astype(np.uint8) * 255)):
                path = folder / part / kind / f"{part}{seed}.png"
                path.parent.mkdir(parents=True, exist_ok=True)
                Image.fromarray(array).save(path)
    return folder


def test_data_writes_page_record_and_recipe(root: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    out = tmp_path / "out"
    cli.main(["data", str(root), "--out", str(out), "--json", str(tmp_path / "more.json")])
    printed = capsys.readouterr().out.splitlines()
    assert printed[-1] == str(out / "data.html")
    assert printed[0].startswith("error    a training image is a copy of a validation image: train/images/train1.png")
    record = json.loads((out / "data.json").read_text())
    assert record == json.loads((tmp_path / "more.json").read_text())
    assert record["counts"]["error"] == 1
    assert record["findings"][0]["files"][0]["file"] == "train/images/train1.png"
    assert json.loads((out / "recipe.json").read_text()) == record["suggestion"]


def test_page_is_one_file_without_scripts_and_references(root: Path, tmp_path: Path) -> None:
    cli.main(["data", str(root), "--out", str(tmp_path / "out")])
    page = (tmp_path / "out" / "data.html").read_text()
    assert "default-src 'none'" in page
    assert "<script" not in page and "<b>set" not in page and "&lt;b&gt;set" in page
    assert not re.findall(r'(?:src|href)="(?!data:|#)', page)
    assert page.count("data:image/jpeg;base64,") == 1
    assert "edgemt run auto --data.root" in page


def test_the_command_on_the_page_has_the_options_of_the_report_and_gives_its_recipe(root: Path, tmp_path: Path) -> None:
    out = tmp_path / "out"
    cli.main(["data", str(root), "--data.labelled", "1", "--data.size", "32", "64", "--out", str(out)])
    shown = re.findall(r"<pre>(.*?)</pre>", (out / "data.html").read_text())[-1]
    words = shlex.split(html.unescape(shown))
    assert words[:3] == ["edgemt", "run", "auto"] and words[5:] == ["--data.labelled", "1", "--data.size", "32", "64"]
    assert recipes.load("auto", words[3:]) == replace(recipes.load(str(out / "recipe.json")), name="auto")


def test_no_pictures_leaves_images_out(root: Path, tmp_path: Path) -> None:
    cli.main(["data", str(root), "--out", str(tmp_path / "out"), "--no-pictures"])
    assert "image/jpeg" not in (tmp_path / "out" / "data.html").read_text()


@pytest.mark.parametrize("name", ["missing", "empty", "file.txt"])
def test_folder_that_cannot_be_listed_is_status_2(
    name: str, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    (tmp_path / "empty").mkdir()
    (tmp_path / "file.txt").write_text("x")
    with pytest.raises(SystemExit) as stop:
        cli.main(["data", str(tmp_path / name), "--out", str(tmp_path / "out")])
    assert stop.value.code == 2
    assert name in capsys.readouterr().err
    assert not (tmp_path / "out").exists()


def test_strict_is_status_2_for_errors_after_the_report_is_written(root: Path, tmp_path: Path) -> None:
    with pytest.raises(SystemExit) as stop:
        cli.main(["data", str(root), "--out", str(tmp_path / "out"), "--strict"])
    assert stop.value.code == 2
    assert (tmp_path / "out" / "data.html").exists()
