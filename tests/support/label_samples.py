"""Tiny images with masks, and a folder as `edgemt import` makes it, to try label formats on."""

from __future__ import annotations

from pathlib import Path

import numpy as np
from PIL import Image

from edgemt.convert.importing import import_source
from edgemt.convert.writing import write_label_map

CLASSES = ("background", "polyp", "tool")
SIZE = (23, 31)


def masks(count: int = 3) -> list[np.ndarray]:
    """uint8 masks of three classes, with holes, areas that touch at a corner, and pixels at the rim."""
    draw = np.random.default_rng(0)
    found = []
    for _ in range(count):
        mask = np.kron(draw.integers(0, 3, (6, 8)), np.ones((4, 4), int))[: SIZE[0], : SIZE[1]].astype(np.uint8)
        mask[draw.random(SIZE) < 0.05] = 0
        found.append(mask)
    return found


def folder(root: Path, count: int = 3) -> Path:
    """root/images/*.png and root/masks/*.png."""
    draw = np.random.default_rng(1)
    for kind in ("images", "masks"):
        (root / kind).mkdir(parents=True)
    for number, mask in enumerate(masks(count)):
        picture = draw.integers(0, 255, (*SIZE, 3)).astype(np.uint8)
        Image.fromarray(picture).save(root / "images" / f"case_{number}.png")
        write_label_map(root / "masks" / f"case_{number}.png", mask)
    return root


def imported(source: Path, out: Path, **options: object) -> dict[str, np.ndarray]:
    """Name -> mask of an import."""
    import_source(source, out, **options)  # type: ignore[arg-type]
    files = sorted((out / "masks").rglob("*.png"))
    return {p.relative_to(out / "masks").with_suffix("").as_posix(): np.asarray(Image.open(p)) for p in files}


def colonoscopy(root: Path) -> Path:
    """A video of phantom frames, and the labels of every fifth one as CVAT exports them."""
    import av

    from edgemt.convert.outlines import outlines
    from edgemt.data import phantom2d

    root.mkdir(parents=True)
    nodes = []
    with av.open(str(root / "film.mp4"), "w") as container:
        stream = container.add_stream("mpeg4", rate=20)
        stream.width, stream.height, stream.pix_fmt = 96, 64, "yuv420p"
        for number in range(40):
            picture, mask = phantom2d.frame(number, size=(64, 96))
            container.mux(stream.encode(av.VideoFrame.from_ndarray(picture)))
            if number % 5 == 0:
                lines = (";".join(f"{x:g},{y:g}" for x, y in corners) for corners in outlines(mask == 1))
                shapes = "".join(f'<polygon label="polyp" points="{line}" z_order="0"/>' for line in lines)
                nodes.append(f'<image id="{number}" name="frame_{number:06d}" width="96" height="64">{shapes}</image>')
        container.mux(stream.encode(None))
    labels = "<task><labels><label><name>polyp</name></label></labels><source>film.mp4</source></task>"
    text = f"<annotations><version>1.1</version><meta>{labels}</meta>{''.join(nodes)}</annotations>"
    (root / "annotations.xml").write_text(text)
    return root


def film(path: Path, *, frames: int = 12, size: tuple[int, int] = (48, 64), scene: int = 6) -> Path:
    """A video whose frames all differ; another scene begins at frame `scene`."""
    import av

    y, x = np.mgrid[0 : size[0], 0 : size[1]]
    with av.open(str(path), "w") as container:
        stream = container.add_stream("mpeg4", rate=10)
        stream.width, stream.height, stream.pix_fmt = size[1], size[0], "yuv420p"
        for number in range(frames):
            wave = np.sin((x + number) / 9) * np.cos((y + number) / 11) * 100 + 120
            picture = wave if number < scene else 255 - wave / 3
            pixels = np.repeat(picture.clip(0, 255).astype(np.uint8)[..., None], 3, -1)
            container.mux(stream.encode(av.VideoFrame.from_ndarray(pixels)))
        container.mux(stream.encode(None))
    return path
