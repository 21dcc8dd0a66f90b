"""`edgemt eval --video`: which clips a path holds, their flicker and area jitter, Dice where there are masks."""

from __future__ import annotations

import json
from pathlib import Path

import numpy as np
import pytest
from PIL import Image

pytest.importorskip("onnx")
pytest.importorskip("onnxruntime")
pytest.importorskip("cv2")

from tiny_package import SIZE, expected, frame, make_ship  # noqa: E402

from edgemt import cli  # noqa: E402
from edgemt.data.options import DataOptions  # noqa: E402
from edgemt.inference.evaluate_video import evaluate_video, find_clips, video_table  # noqa: E402

DATA = DataOptions(layout="pairs", classes=("background", "organ", "tool"), size=SIZE).to_dict()


@pytest.fixture(scope="module")
def ship(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return make_ship(tmp_path_factory.mktemp("ships") / "ship", data=DATA).folder


def picture(seed: int) -> np.ndarray:
    """An organ and a tool; with seed 0 neither."""
    return frame(seed) if seed else np.minimum(frame(1), 60)


def write_clip(folder: Path, *, seeds: tuple[int, ...], masks: Path | None = None) -> Path:
    for path in filter(None, (folder, masks)):
        path.mkdir(parents=True, exist_ok=True)
    for t, seed in enumerate(seeds):
        Image.fromarray(picture(seed)).save(folder / f"frame{t}.png")
        if masks is not None:
            Image.fromarray(expected(picture(seed))).save(masks / f"frame{t}.png")
    return folder


def test_a_still_clip_does_not_flicker_and_a_jumping_one_does(ship: Path, tmp_path: Path) -> None:
    write_clip(tmp_path / "clips" / "still", seeds=(1, 1, 1, 1))
    write_clip(tmp_path / "clips" / "jumps", seeds=(1, 0, 1, 1))
    record = evaluate_video(ship, [tmp_path / "clips"], runtime="onnxruntime")
    jumps, still = record["clips"]
    assert (jumps["name"], still["name"]) == ("jumps", "still")
    assert still["flicker"] == still["area_jitter"] == 0.0 and still["matched"] > 0.9
    assert jumps["per_class"]["organ"] == {
        "flicker": pytest.approx(2 / 3),
        "area_jitter": pytest.approx(0.889, abs=0.01),
        "pairs": 3,
    }
    assert record["mean"]["clips"] == 2 and record["mean"]["frames"] == 8 and "dice" not in record["mean"]
    json.dumps(record)
    assert "mean of 2" in video_table(record)


def test_labels_beside_the_frames_give_the_dice(ship: Path, tmp_path: Path) -> None:
    for clip in ("a", "b"):
        write_clip(tmp_path / "set" / "images" / clip, seeds=(1, 1, 2), masks=tmp_path / "set" / "masks" / clip)
    record = evaluate_video(ship, [tmp_path / "set"], runtime="onnxruntime")
    assert [one["dice"] for one in record["clips"]] == [1.0, 1.0] and record["mean"]["dice"] == 1.0
    (tmp_path / "set" / "masks" / "b" / "frame1.png").unlink()
    with pytest.raises(ValueError, match="has no mask named frame1"):
        evaluate_video(ship, [tmp_path / "set"], runtime="onnxruntime")


def test_video_files_are_clips(ship: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    av = pytest.importorskip("av")
    film = tmp_path / "film.mkv"
    with av.open(str(film), "w") as container:
        stream = container.add_stream("ffv1", rate=25)
        stream.height, stream.width, stream.pix_fmt = *SIZE, "bgr0"
        for _ in range(3):
            container.mux(stream.encode(av.VideoFrame.from_ndarray(np.ascontiguousarray(frame(1)), format="rgb24")))
        container.mux(stream.encode())
    out = tmp_path / "record.json"
    cli.main(["eval", str(ship), "--video", str(film), "--runtime", "onnxruntime", "--json", str(out)])
    record = json.loads(out.read_text())
    assert record["clips"][0]["frames"] == 3 and record["clips"][0]["flicker"] == 0.0
    assert "film" in capsys.readouterr().out


def test_paths_without_a_clip_and_clips_of_one_frame_are_refused(ship: Path, tmp_path: Path) -> None:
    (tmp_path / "empty").mkdir()
    with pytest.raises(ValueError, match="holds no frames and no video"):
        find_clips(tmp_path / "empty")
    with pytest.raises(ValueError, match="no such file"):
        find_clips(tmp_path / "missing")
    with pytest.raises(ValueError, match="needs at least 2"):
        evaluate_video(ship, [write_clip(tmp_path / "one", seeds=(1,))], runtime="onnxruntime")
