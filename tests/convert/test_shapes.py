"""Run lengths and polygons give back the mask that they were made from, and refuse what does not fit."""

from __future__ import annotations

import numpy as np
import pytest

from edgemt.convert.outlines import outlines
from edgemt.convert.polygons import corners_of, rasterise
from edgemt.convert.rle import decode_coco, decode_label_studio, encode_coco, encode_label_studio, fill_runs, runs_of

DRAW = np.random.default_rng(0)
MASKS = [DRAW.random(tuple(DRAW.integers(1, 24, 2))) < share for share in np.linspace(0, 1, 40)]


@pytest.mark.parametrize("coding", ["coco", "label-studio", "runs", "outlines"])
def test_every_coding_gives_back_the_mask(coding: str) -> None:
    for mask in MASKS:
        if coding == "coco":
            again = decode_coco(encode_coco(mask), mask.shape)
        elif coding == "label-studio":
            again = decode_label_studio(encode_label_studio(mask), mask.shape)
        elif coding == "runs":
            again = fill_runs(runs_of(mask.reshape(-1)), mask.size).reshape(mask.shape)
        else:
            drawn = [rasterise([corners], mask.shape).astype(int) for corners in outlines(mask)]
            again = sum(drawn, np.zeros(mask.shape, int))  # no pixel twice
        assert (again == mask).all()


def test_coco_text_as_its_own_tools_write_it() -> None:
    """Columns first, zeros first: runs of 6, 4 and 2; each later run as its difference to the run two before."""
    mask = np.array([[0, 0, 1, 1], [0, 0, 1, 0], [0, 0, 1, 0]], bool)
    assert encode_coco(mask) == "642" and (decode_coco([6, 4, 2], (3, 4)) == mask).all()
    assert (decode_coco("642", (3, 4)) == mask).all() and encode_coco(np.ones((4, 4))) == "0`0"


def test_a_brush_mask_of_literals_and_runs_is_read() -> None:
    """2 pixels of RGBA: a literal of 5 bytes with the first alpha, then a run of 3 bytes of 255."""
    bits = f"{8:032b}" + "00111" + "".join(f"{n - 1:04b}" for n in (3, 4, 8, 16))
    bits += "0" + "00" + "100" + "".join(f"{v:08b}" for v in (9, 9, 9, 0, 255)) + "1" + "00" + "010" + "11111111"
    data = int(bits.ljust(-(-len(bits) // 8) * 8, "0"), 2).to_bytes(-(-len(bits) // 8), "big")
    assert decode_label_studio(list(data), (1, 2)).tolist() == [[False, True]]


def test_a_pixel_belongs_to_a_polygon_when_its_centre_does() -> None:
    square = np.array([[0.5, 0.5], [2.5, 0.5], [2.5, 1.6], [0.5, 1.6]])
    assert rasterise([square], (3, 4)).astype(int).tolist() == [[1, 1, 0, 0], [1, 1, 0, 0], [0, 0, 0, 0]]


def test_polygons_that_share_an_edge_share_no_pixel() -> None:
    a, b, c, d = (0.0, 0.0), (9.0, 1.5), (10.0, 10.0), (0.5, 9.5)
    parts = [rasterise([np.array(t)], (10, 10)).astype(int) for t in ((a, b, c), (a, c, d))]
    assert (parts[0] + parts[1] == rasterise([np.array([a, b, c, d])], (10, 10))).all()


def test_what_lies_outside_the_image_is_cut() -> None:
    assert rasterise([np.array([[-1e9, -5], [1e9, -5], [1e9, 2], [-1e9, 2.0]])], (4, 3)).sum() == 6


def test_simplified_outlines_lose_little() -> None:
    y, x = np.mgrid[0:60, 0:60]
    disc = (y - 30) ** 2 + (x - 28) ** 2 < 20**2
    short, whole = outlines(disc, simplify=1.0)[0], outlines(disc)[0]
    drawn = rasterise([short], disc.shape)
    assert len(short) < len(whole) / 3 and 2 * (drawn & disc).sum() / (drawn.sum() + disc.sum()) > 0.98


@pytest.mark.parametrize(
    ("counts", "why"),
    [
        ([10**18, 2], "longer than the mask"), ([10**30], "whole numbers"), ([6, -4, 10], "negative"), ([6, 4], "10"),
        ("64", "add up"), ("6\x00", "not use"), ("6é", "not use"), ("o" * 40, "not use"), ("6o", "cut short"),
    ],
)  # fmt: skip
def test_run_lengths_that_do_not_fit_are_refused(counts: list[int] | str, why: str) -> None:
    with pytest.raises(ValueError, match=why):
        decode_coco(counts, (3, 4))


@pytest.mark.parametrize(
    ("change", "why"),
    [(lambda d: d[:6], "cut short"), (lambda d: d[:12], "cut short"), (lambda d: [255] * 4 + d[4:], "values"),
     (lambda d: ["a"], "list of bytes"), (lambda d: [300], "list of bytes"), (lambda d: [], "cut short")],
)  # fmt: skip
def test_brush_masks_that_do_not_fit_are_refused(change, why: str) -> None:
    with pytest.raises(ValueError, match=why):
        decode_label_studio(change(encode_label_studio(np.eye(9, 13))), (9, 13))


@pytest.mark.parametrize("corners", [[1, 2, 3], [[0, 0], [1, 1]], [["a", "b"]] * 3, [[0, float("nan")]] * 3, None])
def test_corners_that_are_none_are_refused(corners) -> None:
    with pytest.raises(ValueError, match="polygon"):
        corners_of(corners)
