"""Run lengths of masks: COCO (column by column, plain or as text), CVAT (row by row in a box), Label Studio (bits).

Shapes: H W size of a mask. Every decoder checks the sum of its runs against the size before it fills an array, so a
count of billions costs nothing. ValueErrors name no file; the formats add it.
"""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np

_LS_RUN_BITS = (3, 4, 8, 16)  # sizes of a run that the encoder may choose from
_LS_WORD = 8


def runs_of(flat: np.ndarray) -> np.ndarray:
    """int64 lengths of the runs of a flat mask; the first run is of zeros, and may be empty."""
    values = np.concatenate([[0], (flat != 0).astype(np.int8), [-1]])
    edges = np.flatnonzero(np.diff(values))
    return np.diff(np.concatenate([[0], edges]))


def fill_runs(runs: Sequence[int] | np.ndarray, length: int) -> np.ndarray:
    """Bool [length] from run lengths, zeros first. Raises ValueError where they are negative or do not add up."""
    try:
        counts = np.asarray(runs, np.int64)
    except (OverflowError, TypeError, ValueError):
        raise ValueError("run lengths must be whole numbers") from None
    if counts.ndim != 1 or (counts < 0).any() or (counts > length).any():
        raise ValueError(f"a run length is negative or longer than the mask of {length} pixels")
    if counts.sum() != length:
        raise ValueError(f"the run lengths add up to {counts.sum()}, the mask has {length} pixels")
    return np.repeat(np.arange(len(counts)) % 2 == 1, counts)


def decode_coco(counts: Sequence[int] | str | bytes, size: tuple[int, int]) -> np.ndarray:
    """Bool [H, W] of a COCO mask: run lengths down the columns, as numbers or in COCO's text form."""
    runs = _coco_text(counts) if isinstance(counts, (str, bytes)) else counts
    return fill_runs(runs, size[0] * size[1]).reshape(size[1], size[0]).T


def encode_coco(mask: np.ndarray) -> str:
    """The text form of COCO's run lengths: groups of five bits, differences to the run two places before."""
    runs, out = runs_of(mask.T.reshape(-1)).tolist(), bytearray()
    for index, run in enumerate(runs):
        value = run - runs[index - 2] if index > 2 else run
        more = True
        while more:
            bits = value & 0x1F
            value >>= 5
            more = value != (-1 if bits & 0x10 else 0)
            out.append(48 + (bits | 0x20 if more else bits))
    return out.decode("ascii")


def _coco_text(text: str | bytes) -> list[int]:
    try:
        codes = text.encode("ascii") if isinstance(text, str) else bytes(text)
    except UnicodeEncodeError:
        raise ValueError("the text of run lengths holds characters that COCO does not use") from None
    runs: list[int] = []
    value = shift = 0
    for code in codes:
        bits = code - 48
        if not 0 <= bits < 64 or shift > 60:
            raise ValueError("the text of run lengths holds characters that COCO does not use")
        value |= (bits & 0x1F) << shift
        shift += 5
        if bits & 0x20:
            continue
        if bits & 0x10:
            value -= 1 << shift
        runs.append(value + runs[-2] if len(runs) > 2 else value)
        value = shift = 0
    if shift:
        raise ValueError("the text of run lengths is cut short")
    return runs


class _Bits:
    """Reads numbers of so many bits, the highest first."""

    def __init__(self, data: bytes) -> None:
        self.bits = np.unpackbits(np.frombuffer(data, np.uint8))
        self.at = 0

    def read(self, count: int) -> int:
        part = self.bits[self.at : self.at + count]
        if len(part) < count:
            raise ValueError("the brush mask is cut short")
        self.at += count
        return int("".join(map(str, part.tolist())), 2)

    def words(self, number: int, size: int) -> np.ndarray:
        """[number] values of `size` bits, at most 8."""
        part = self.bits[self.at : self.at + number * size]
        if len(part) < number * size:
            raise ValueError("the brush mask is cut short")
        self.at += number * size
        return part.reshape(number, size) @ (1 << np.arange(size - 1, -1, -1))


def decode_label_studio(data: Sequence[int], size: tuple[int, int]) -> np.ndarray:
    """Bool [H, W] of a brush mask of Label Studio: @thi.ng/rle-pack over RGBA, where alpha above 0 is the mask.

    32 bits number of values, 5 bits element width less 1, four times 4 bits sizes of a run less 1; then groups: 1 bit
    run or literal, 2 bits which size, the length less 1, and one word (a run) or that many.
    """
    try:
        bits = _Bits(bytes(data))
    except (TypeError, ValueError):
        raise ValueError("a brush mask must be a list of bytes, 0 to 255") from None
    number, word_bits = bits.read(32), bits.read(5) + 1
    if number != size[0] * size[1] * 4 or word_bits > 8:
        raise ValueError(f"the brush mask has {number} values, the image has {size[1]} x {size[0]} pixels of 4")
    sizes = [bits.read(4) + 1 for _ in range(4)]
    values = np.zeros(number, np.uint8)
    at = 0
    while at < number:
        run = bits.read(1)
        length = 1 + bits.read(sizes[bits.read(2)])
        if at + length > number:
            raise ValueError("a run of the brush mask is longer than the image")
        values[at : at + length] = bits.read(word_bits) if run else bits.words(length, word_bits)
        at += length
    return values.reshape(*size, 4)[..., 3] > 0


def encode_label_studio(mask: np.ndarray) -> list[int]:
    """The bytes of a brush mask for Label Studio, runs alone."""
    runs = runs_of(np.repeat(mask.reshape(-1) != 0, 4)).tolist()
    parts = [f"{mask.size * 4:032b}{_LS_WORD - 1:05b}", *(f"{bits - 1:04b}" for bits in _LS_RUN_BITS)]
    for index, run in enumerate(runs):
        while run:
            step = min(run, 1 << _LS_RUN_BITS[-1])
            which = next(k for k, bits in enumerate(_LS_RUN_BITS) if step <= 1 << bits)
            parts.append(f"1{which:02b}{step - 1:0{_LS_RUN_BITS[which]}b}{255 * (index % 2):08b}")
            run -= step
    text = "".join(parts)
    text += "0" * (-len(text) % 8)
    return list(int(text, 2).to_bytes(len(text) // 8, "big"))
