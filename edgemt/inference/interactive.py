"""Interactive segmentation: masks of a promptable network for a box or points that a user gives.

Runs torch, for annotation on a workstation. The network of a package is another one and takes no prompts here.

Shapes: H W the input's size, X Y Z a volume's, K channels.
"""

from __future__ import annotations

import sys
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import torch
from torch import Tensor, nn

from edgemt.artefacts import stage_folder
from edgemt.artefacts.network_folder import load_promptable
from edgemt.data.augment2d import normalised
from edgemt.inference.predict import axes_of, eight_bits, free_target, input_mark, write_png, write_volume
from edgemt.io.array_values import check_not_constant
from edgemt.io.atomic import Failures, NoSpaceError
from edgemt.io.channels import no_channels
from edgemt.io.contours import class_colours, contours
from edgemt.io.file_types import is_image, is_volume, stem_of
from edgemt.io.geometry import moves
from edgemt.io.images import fit_frame, read_image, to_uint8
from edgemt.io.volumes import read_volume
from edgemt.learning.prompts import Prompts, prompts_from_prediction
from edgemt.model_card import ModelCard

PROMPT_SYNTAX = "box=X0,Y0,X1,Y1, point=X,Y, not=X,Y or slice=K"


@dataclass(frozen=True)
class UserPrompt:
    """Box, points and slice that a user gives for every input, in its pixels: x, y from the top left corner."""

    box: tuple[float, float, float, float] | None = None
    points: tuple[tuple[float, float], ...] = ()  # on the object
    background_points: tuple[tuple[float, float], ...] = ()  # beside it
    slice: int | None = None  # of a volume


def parse(prompts: Sequence[str]) -> UserPrompt:
    """`box=10,20,80,90` and the like. Raises ValueError, naming the prompt, for anything else."""
    box, index = None, None
    points: dict[str, list[tuple[float, float]]] = {"point": [], "not": []}
    for prompt in prompts:
        kind, _, text = prompt.partition("=")
        try:
            numbers = [float(part) for part in text.split(",")]
            if not np.isfinite(numbers).all():
                raise ValueError
        except ValueError:
            raise ValueError(f"prompt: {prompt!r} is not understood; write {PROMPT_SYNTAX}") from None
        if kind == "box" and len(numbers) == 4 and numbers[0] < numbers[2] and numbers[1] < numbers[3]:
            box = (numbers[0], numbers[1], numbers[2], numbers[3])
        elif kind in points and len(numbers) == 2:
            points[kind].append((numbers[0], numbers[1]))
        elif kind == "slice" and len(numbers) == 1 and numbers[0] == int(numbers[0]) >= 0:
            index = int(numbers[0])
        else:
            raise ValueError(f"prompt: {prompt!r} is not understood; write {PROMPT_SYNTAX}")
    if box is None and not points["point"]:
        raise ValueError(f"prompt: neither a box nor a point on the object is given; write {PROMPT_SYNTAX}")
    return UserPrompt(box, tuple(points["point"]), tuple(points["not"]), index)


def predict_prompted(
    model: str | Path, inputs: Sequence[Path], *, prompts: Sequence[str], out: Path, overlay: bool = True
) -> Iterator[Path]:
    """Write `NAME.mask.png` or `NAME.mask.nii.gz`, 1 on the object that `prompts` name, for each image or volume.

    `model` is the `promptable` folder of a run, or a SAM (folder or hub name). Of a volume the prompts are about
    `slice=K`; in both directions the mask of a slice is the prompt for the next one, until it is empty.
    Images become eight bits by the rule of the model's training. A mask of another input is never replaced, and inputs
    that cannot be read are named at the end. Yields each file when it is written. Raises ValueError in one line for
    whatever cannot be read or understood.
    """
    prompt = parse(prompts)
    paths = [Path(path) for path in inputs]
    for path in paths:
        if not path.is_file() or not (is_image(path) or is_volume(path)):
            raise ValueError(f"{path}: neither an image nor a volume; prompts are about single files, name those")
        if is_volume(path) and prompt.slice is None:
            raise ValueError(f"{path}: is a volume; say which slice the prompts are about, slice=K, counted from 0")
    return _all(load_predictor(model), paths, prompt, Path(out), overlay)


@dataclass(frozen=True)
class InteractivePredictor:
    """A promptable network and how its images are made; `card` is None for a SAM, which stretches them itself."""

    network: nn.Module
    card: ModelCard | None

    @property
    def axes(self) -> str:
        """The axis order of training; empty for a SAM, which has none."""
        return axes_of(self.card) if self.card is not None else ""

    def eight_bits(self, array: np.ndarray, path: Path) -> np.ndarray:
        """uint8 of the same shape, by the rule of training; for a SAM by the file's own percentiles."""
        return to_uint8(array) if self.card is None else eight_bits(array, self.card, path)

    def image(self, picture: np.ndarray) -> Tensor:
        """uint8 [H, W] or [H, W, 3] -> float [1, K, h, w]."""
        if self.card is None:
            frame = picture if picture.ndim == 3 else picture[..., None]
            return torch.from_numpy(frame.copy()).permute(2, 0, 1)[None].float()
        frame = fit_frame(picture, size=self.card.size, channels=self.card.channels)
        return normalised(torch.from_numpy(frame.copy()).permute(2, 0, 1)[None].float() / 255, self.card.normalise)

    @torch.inference_mode()
    def probability(self, picture: np.ndarray, prompts: Prompts) -> Tensor:
        """[1, 2, H, W] of the picture's own size."""
        x = self.image(picture)
        logits = self.network(x, *prompts).logits
        logits = nn.functional.interpolate(logits, size=picture.shape[:2], mode="bilinear", align_corners=False)
        inside = logits[:, :1].sigmoid()
        return torch.cat([1 - inside, inside], 1)


def load_predictor(model: str | Path) -> InteractivePredictor:
    """Raises ValueError for what is neither the `promptable` folder of a run nor a SAM."""
    if not (Path(model) / "card.json").is_file():
        from teachers.sam import load_sam

        return InteractivePredictor(load_sam(model), None)
    card = stage_folder.read_card(Path(model))
    if card.channel_order == "slices" or card.patch is not None:
        raise ValueError(
            f"{model}: learnt from slices with neighbours or from patches; prompts want one of single frames"
        )
    no_channels(card, where=model, what="prompts want one image")
    return InteractivePredictor(load_promptable(Path(model)), card)


def _all(
    predictor: InteractivePredictor, paths: list[Path], prompt: UserPrompt, out: Path, overlay: bool
) -> Iterator[Path]:
    """Raises ValueError at the end for the inputs that could not be read; the others are done."""
    failures = Failures(total=len(paths))
    for path in paths:
        suffix = ".mask.png" if is_image(path) else ".mask.nii.gz"
        target = free_target(out, stem_of(path), suffix, path)
        try:
            if is_image(path):
                yield from _image(predictor, path, prompt, target, overlay)
            else:
                yield _volume(predictor, path, prompt, target)
        except NoSpaceError:
            raise
        except ValueError as error:
            failures.add(path, error)
    failures.raise_if_any()


def _image(
    predictor: InteractivePredictor, path: Path, prompt: UserPrompt, target: Path, overlay: bool
) -> Iterator[Path]:
    picture = predictor.eight_bits(check_not_constant(read_image(path), path), path)
    mask = _mask(predictor.probability(picture, _prompts(prompt, picture.shape[:2], path)))
    yield write_png(target, ".mask.png", mask, colours=2, mark=input_mark(path))
    if overlay:
        yield write_png(target, ".overlay.png", contours(picture, mask, colours=class_colours(2)))


def _volume(predictor: InteractivePredictor, path: Path, prompt: UserPrompt, target: Path) -> Path:
    """Prompts and slices count in the axis order of training; the mask has the file's own."""
    axes = predictor.axes
    volume = read_volume(path, axes=axes)
    if moves(volume.codes, axes) is not None:
        text = f"{path}: turned from {volume.codes or 'its order'} to {axes}, as in training; prompts count there"
        print(f"edgemt: {text}", file=sys.stderr, flush=True)
    array, mask = predictor.eight_bits(volume.array, path), np.zeros(volume.array.shape, np.uint8)
    depth, first = array.shape[2], int(prompt.slice or 0)
    if first >= depth:
        raise ValueError(f"prompt: slice={first}, but {path} has slices 0 to {depth - 1}")
    first_probs = predictor.probability(
        np.ascontiguousarray(array[..., first]), _prompts(prompt, array.shape[:2], path)
    )
    mask[..., first] = _mask(first_probs)
    for order in (range(first + 1, depth), range(first - 1, -1, -1)):
        probs = first_probs
        for k in order:
            prompts, present = prompts_from_prediction(probs)
            if not present.any():
                break
            probs = predictor.probability(np.ascontiguousarray(array[..., k]), prompts)
            mask[..., k] = _mask(probs)
    name = target.with_name(f"{target.name}.mask.nii.gz")
    return write_volume(name, mask, volume, axes=axes, mark=input_mark(path))


def _mask(p: Tensor) -> np.ndarray:
    return p.argmax(1)[0].to(torch.uint8).numpy()


def _prompts(prompt: UserPrompt, size: tuple[int, ...], path: Path) -> Prompts:
    """Pixels as shares of a frame of `size`. Raises ValueError for a prompt that lies beyond it."""
    height, width = size[:2]
    corners = [] if prompt.box is None else [prompt.box[:2], prompt.box[2:]]
    for x, y in (*prompt.points, *prompt.background_points, *corners):
        if not (0 <= x <= width and 0 <= y <= height):
            raise ValueError(f"prompt: ({x:g}, {y:g}) lies outside of {path}, which is {width} x {height} pixels")
    scale = torch.tensor([width, height], dtype=torch.float32)
    box = None if prompt.box is None else (torch.tensor(prompt.box).view(1, 1, 2, 2) / scale).view(1, 1, 4)
    at = (*prompt.points, *prompt.background_points)
    points = (torch.tensor(at).view(1, 1, -1, 2) / scale) if at else None
    signs = torch.tensor([1] * len(prompt.points) + [0] * len(prompt.background_points)).view(1, 1, -1) if at else None
    return Prompts(box, points, signs, None)
