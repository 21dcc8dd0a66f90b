"""A synthetic view into an abdomen, with labels: the data that is always there.

A liver, a gallbladder under its edge and an instrument, among fat, bowel and blood that look like them and
are background. Each seed is another patient: colours, shapes, light and camera all change. Numpy and Pillow
alone; the same seed gives the same frame.

Shapes: H W size. Scene coordinates: y from -1 (top) to 1, x likewise times W / H.
"""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass
from functools import lru_cache

import numpy as np
from PIL import Image

from edgemt.io.class_regions import from_regions

CLASSES = ("background", "liver", "gallbladder", "instrument")
FPS = 25.0  # frames a second that `video` moves at
PERIOD = 64  # of the tissue texture, texels
Array = np.ndarray


@dataclass(frozen=True)
class _Blob:
    """A soft organ: an ellipse with a wavy rim."""

    centre: tuple[float, float]
    axes: tuple[float, float]
    angle: float
    waves: tuple[tuple[float, float], ...]  # (amplitude, phase) of rim harmonics 2, 3, ...
    colour: Array  # RGB, 0 to 1
    height: float
    vein: float  # how much of the texture shows
    label: int
    breath: float = 0.0  # how far it moves with the breathing


@dataclass(frozen=True)
class _Tool:
    entry: tuple[float, float]
    tip: tuple[float, float]
    width: float
    opening: float  # of the jaws, radians
    colour: Array
    phase: float


@dataclass(frozen=True)
class _Scene:
    blobs: tuple[_Blob, ...]  # from back to front
    tools: tuple[_Tool, ...]
    texture: Array  # [PERIOD * PERIOD, 3], mean 0, deviation 1
    tissue: Array
    tint: Array
    light: tuple[float, float]
    falloff: float
    gain: float
    gamma: float
    haze: float
    noise: float
    gloss: float
    camera: tuple[float, float, float, float]  # x, y, angle, zoom
    phase: float


def frame(seed: int, *, size: tuple[int, int] = (128, 128), overlapping: bool = False) -> tuple[Array, Array]:
    """(image uint8 [H, W, 3], label uint8 [H, W]) of patient `seed`.

    `overlapping`: bits of the classes (`edgemt.io.class_regions`); an organ goes on under the instrument.
    """
    image, label = _frame(seed, (size[0], size[1]), overlapping)
    return image.copy(), label.copy()


@lru_cache(maxsize=256)
def _frame(seed: int, size: tuple[int, int], overlapping: bool) -> tuple[Array, Array]:
    """Each stage of a run reads the same frames, the image and the label of a frame one after the other."""
    noise = np.random.default_rng([seed, 1])
    return _render(_scene(seed), size=size, time=0.0, noise=noise, overlapping=overlapping)


def video(seed: int, *, count: int, size: tuple[int, int] = (128, 128)) -> Iterator[tuple[Array, Array]]:
    """Patient `seed` breathing, camera and tool moving, `FPS` to a second; begins with `frame(seed)`."""
    scene = _scene(seed)
    for i in range(count):
        yield _render(scene, size=size, time=i / FPS, noise=np.random.default_rng([seed, 1 + i]))


def _scene(seed: int) -> _Scene:
    rng = np.random.default_rng([seed, 0])
    uniform = rng.uniform

    def waves(strength: float) -> tuple[tuple[float, float], ...]:
        return tuple((strength * rng.normal() / k, uniform(0, 6.283)) for k in range(2, 6))

    def colour(*rgb: float, spread: float = 0.12) -> Array:
        shared = np.exp(spread * rng.normal())
        return np.clip(np.array(rgb) * shared * np.exp(0.6 * spread * rng.normal(size=3)), 0.02, 1.0)

    side = 1.0 if rng.random() < 0.5 else -1.0
    middle = uniform(-0.35, 0.35)
    edge = uniform(-0.15, 0.2)  # where the liver ends, top to bottom
    liver = _Blob(
        (middle - 0.3 * side, edge - 0.75),
        (uniform(0.95, 1.35), uniform(0.65, 0.85)), side * uniform(-0.1, 0.4),
        waves(0.14), colour(0.42, 0.16, 0.13, spread=0.16), 0.55, uniform(0.04, 0.1), 1, 0.05,
    )  # fmt: skip
    # From the blue-green of the textbook to the fatty pink of an inflamed one: colour alone does not tell it.
    healthy, fatty = np.array([0.42, 0.50, 0.40]), np.array([0.66, 0.46, 0.32])
    share = uniform(0, 1)
    bladder = _Blob(
        (middle + uniform(-0.15, 0.3) * side, edge + uniform(0.0, 0.16)),
        (uniform(0.15, 0.23), uniform(0.27, 0.42)),
        side * uniform(-0.1, 0.8), waves(0.1), colour(*((1 - share) * healthy + share * fatty), spread=0.14),
        0.3, uniform(0.03, 0.08), 2, 0.04,
    )  # fmt: skip
    behind: list[_Blob] = []
    before: list[_Blob] = []
    for _ in range(rng.integers(2, 5)):  # bowel, fat and blood: background, whatever they look like
        kind = rng.choice(3, p=(0.4, 0.4, 0.2))
        rgb = ((0.70, 0.42, 0.36), (0.78, 0.58, 0.30), (0.36, 0.10, 0.08))[kind]
        axes = (uniform(0.14, 0.4), uniform(0.14, 0.3))
        shape = _Blob(
            (uniform(-1.0, 1.0), edge + uniform(0.25, 1.0)), axes, uniform(0, 3.1),
            waves((0.1, 0.2, 0.4)[kind]),
            colour(*rgb), (0.3, 0.2, 0.03)[kind], uniform(0.04, 0.1), 0, 0.02,
        )  # fmt: skip
        (before if kind == 1 and rng.random() < 0.5 else behind).append(shape)
    tools = []
    for _ in range(rng.choice(3, p=(0.06, 0.74, 0.2))):
        bearing = uniform(0.1, 3.04) if rng.random() < 0.8 else uniform(3.3, 6.1)
        shade = rng.choice(3, p=(0.5, 0.35, 0.15))
        tools.append(
            _Tool(
                (2.0 * np.cos(bearing), 2.0 * np.sin(bearing)), (uniform(-0.5, 0.5), uniform(-0.35, 0.5)),
                uniform(0.055, 0.11), uniform(0.1, 0.5),
                colour(*((0.62, 0.63, 0.66), (0.20, 0.20, 0.22), (0.45, 0.50, 0.60))[shade], spread=0.1),
                uniform(0, 6.283),
            )
        )  # fmt: skip
    tint = np.exp(0.10 * rng.normal(size=3))
    return _Scene(
        blobs=(*behind, liver, bladder, *before), tools=tuple(tools), texture=_texture(rng),
        tissue=colour(0.62, 0.36, 0.30, spread=0.16), tint=tint / tint.mean(),
        light=(uniform(-0.5, 0.5), uniform(-0.4, 0.3)), falloff=uniform(0.25, 0.65), gain=uniform(0.85, 1.3),
        gamma=uniform(0.8, 1.25), haze=max(0.0, uniform(-0.15, 0.22)), noise=uniform(0.008, 0.035),
        gloss=uniform(0.25, 0.9), phase=uniform(0, 6.283),
        camera=(uniform(-0.12, 0.12), uniform(-0.1, 0.1), uniform(-0.25, 0.25), uniform(0.85, 1.2)),
    )  # fmt: skip


@lru_cache(maxsize=1)
def _fall() -> Array:
    """Power falls with frequency, as tissue's does, and ends early enough to be drawn without steps."""
    fy, fx = np.fft.fftfreq(PERIOD)[:, None] * PERIOD, np.fft.rfftfreq(PERIOD)[None] * PERIOD
    rate = np.hypot(fy, fx)
    fall = np.exp(-((rate / (0.22 * PERIOD)) ** 2)) / (1.5 + rate) ** 1.2
    fall[0, 0] = 0.0
    return fall.astype(np.float32)


def _texture(rng: np.random.Generator) -> Array:
    """Periodic noise, mean 0, deviation 1: [PERIOD * PERIOD, 3]."""
    fall = _fall()
    real, imaginary = rng.standard_normal((2, 3, *fall.shape), dtype=np.float32)
    noise = np.fft.irfft2(fall * (real + 1j * imaginary), s=(PERIOD, PERIOD), axes=(1, 2))
    noise[1:] = 0.75 * noise[0] + 0.66 * noise[1:]  # light and dark more than red and green
    noise /= noise.std(axis=(1, 2), keepdims=True)
    return np.ascontiguousarray(noise.transpose(1, 2, 0).reshape(-1, 3), dtype=np.float32)


def _grain(texture: Array, x: Array, y: Array, *, texels: float) -> Array:
    """Nearest look-up of the periodic texture, `texels` to a unit of the scene: [H, W, 3]."""
    left, top = (np.floor(v * np.float32(texels)).astype(np.int32) % PERIOD for v in (x, y))
    return texture[top * PERIOD + left]


def _sample(texture: Array, x: Array, y: Array, *, texels: float) -> Array:
    """Bilinear look-up: [H, W, 3]."""
    x, y = x * np.float32(texels), y * np.float32(texels)
    left, top = np.floor(x).astype(np.int32), np.floor(y).astype(np.int32)
    across, down = (x - left)[..., None], (y - top)[..., None]
    x0, x1 = left % PERIOD, (left + 1) % PERIOD
    y0, y1 = top % PERIOD * PERIOD, (top + 1) % PERIOD * PERIOD
    above = texture[y0 + x0] * (1 - across) + texture[y0 + x1] * across
    below = texture[y1 + x0] * (1 - across) + texture[y1 + x1] * across
    return above * (1 - down) + below * down


def _grid(size: tuple[int, int]) -> tuple[Array, Array]:
    """Screen coordinates of the pixel centres, [H, W] each."""
    height, width = size
    sy = (np.arange(height, dtype=np.float32) + 0.5) * (2 / height) - 1
    sx = ((np.arange(width, dtype=np.float32) + 0.5) * (2 / width) - 1) * (width / height)
    sx, sy = np.meshgrid(sx, sy)
    return sx, sy


def _render(
    scene: _Scene, *, size: tuple[int, int], time: float, noise: np.random.Generator, overlapping: bool = False
) -> tuple[Array, Array]:
    pixel = 2.0 / size[0]
    sx, sy = _grid(size)
    x, y = _camera(scene, sx, sy, time=time)
    fine = _grain(scene.texture, x, y, texels=40.0)
    coarse = _coarse(scene, size, time=time)

    colour = scene.tissue.astype(np.float32) * (1 + 0.10 * coarse + 0.04 * fine)
    vessels = np.exp(-((coarse[..., 2] / np.float32(0.10)) ** 2))[..., None]
    colour *= 1 - vessels * np.array((0.10, 0.24, 0.20), np.float32)
    relief = 0.04 * coarse[..., 0]
    gloss = np.full(size, 0.25, np.float32)
    label = np.zeros(size, np.uint8)
    breath = float(np.sin(1.6 * time + scene.phase))
    for blob in scene.blobs:
        box = _window(blob, x, y)
        if box is None:
            continue
        warp = coarse[box]
        inside = _inside(blob, x[box] + 0.02 * warp[..., 1], y[box] + 0.02 * warp[..., 2], lift=blob.breath * breath)
        cover = np.clip(0.5 + inside * np.float32(min(blob.axes) / (2 * pixel)), 0, 1)  # one soft pixel at the rim
        skin = blob.colour.astype(np.float32) * (1 + np.float32(blob.vein) * (warp + 0.7 * fine[box]))
        shadow = np.clip(1 + 3 * inside, 0.0, 1.0) * (1 - cover) * np.float32(0.45)  # where it rests on the tissue
        part = colour[box] * (1 - shadow)[..., None]
        colour[box] = part + cover[..., None] * (skin - part)
        bulge = np.clip(inside, 0, 1)
        dome = blob.height * bulge * (2 - bulge) + 0.014 * warp[..., 0]
        relief[box] += cover * (dome - relief[box] * np.clip(4 * inside, 0, 1))  # no step at the rim
        gloss[box] += cover * (1 - gloss[box])
        label[box][cover > 0.5] = blob.label

    lit, gleam = _light(scene, relief, sx, sy, pixel=pixel)
    colour = colour * lit[..., None] + (gleam * gloss)[..., None]
    organs = label.copy()
    for tool in scene.tools:
        _draw(tool, scene, colour, label, sx, sy, time=time, pixel=pixel)
    if overlapping:
        label = from_regions([organs == 1, organs == 2, label == CLASSES.index("instrument")])
    return _develop(scene, colour, coarse, noise=noise), label


def _coarse(scene: _Scene, size: tuple[int, int], *, time: float) -> Array:
    """The slow part of the texture, drawn small and brought up smoothly: [H, W, 3]."""
    rows = min(40, size[0])
    x, y = _camera(scene, *_grid((rows, max(2, round(rows * size[1] / size[0])))), time=time)
    slow = _sample(scene.texture, x + 7.3, y + 3.1, texels=9.0)
    whole = (size[1], size[0])
    planes = (Image.fromarray(slow[..., k]).resize(whole, Image.Resampling.BICUBIC) for k in range(3))
    return np.stack([np.asarray(plane) for plane in planes], axis=-1)


def _window(blob: _Blob, x: Array, y: Array) -> tuple[slice, slice] | None:
    """The part of the frame that a blob and its shadow may touch."""
    reach = 1.25 * max(blob.axes) * (1 + sum(abs(a) for a, _ in blob.waves)) + 0.1
    near = (np.abs(x - np.float32(blob.centre[0])) < reach) & (np.abs(y - np.float32(blob.centre[1])) < reach)
    rows, columns = np.flatnonzero(near.any(axis=1)), np.flatnonzero(near.any(axis=0))
    if not len(rows):
        return None
    return slice(int(rows[0]), int(rows[-1]) + 1), slice(int(columns[0]), int(columns[-1]) + 1)


def _camera(scene: _Scene, sx: Array, sy: Array, *, time: float) -> tuple[Array, Array]:
    """Screen to scene. Hand-held: a slow sway about where the camera was at time 0."""
    x, y, angle, zoom = scene.camera
    sway = [np.sin(rate * time + scene.phase + k) - np.sin(scene.phase + k) for k, rate in enumerate((0.7, 0.9, 0.5))]
    x, y, angle = x + 0.05 * sway[0], y + 0.05 * sway[1], angle + 0.04 * sway[2]
    cos, sin = np.float32(np.cos(angle) / zoom), np.float32(np.sin(angle) / zoom)
    return cos * sx - sin * sy + np.float32(x), sin * sx + cos * sy + np.float32(y)


def _inside(blob: _Blob, x: Array, y: Array, *, lift: float) -> Array:
    """1 at the centre, 0 on the rim, negative outside."""
    dx, dy = x - np.float32(blob.centre[0]), y - np.float32(blob.centre[1] + lift)
    cos, sin = np.float32(np.cos(blob.angle)), np.float32(np.sin(blob.angle))
    u, v = (cos * dx + sin * dy) / blob.axes[0], (cos * dy - sin * dx) / blob.axes[1]
    square = u * u + v * v
    length = np.sqrt(square) + np.float32(1e-6)
    c1, s1 = u / length, v / length
    c, s, rim = c1, s1, np.ones_like(c1)
    for amplitude, phase in blob.waves:  # cos(k turn + phase), k = 2, 3, ..., by recurrence
        c, s = c * c1 - s * s1, s * c1 + c * s1
        rim = rim + c * np.float32(amplitude * np.cos(phase)) - s * np.float32(amplitude * np.sin(phase))
    return 1 - square / np.maximum(rim, np.float32(0.3)) ** 2


def _light(scene: _Scene, relief: Array, sx: Array, sy: Array, *, pixel: float) -> tuple[Array, Array]:
    """Diffuse light and wet gleam of a lamp beside the camera, [H, W] each."""
    down, across = np.gradient(relief, pixel)
    lx, ly = np.float32(scene.light[0]) - sx, np.float32(scene.light[1]) - sy
    lamp = 1.3
    far = np.sqrt(lx * lx + ly * ly + lamp * lamp)
    normal = np.sqrt(1 + across * across + down * down)
    facing = np.clip((lamp - across * lx - down * ly) / (far * normal), 0, 1)
    fall = 1 / (1 + scene.falloff * (lx * lx + ly * ly))
    half = (1 + lamp / far - across * lx / far - down * ly / far) / normal
    half /= np.sqrt((lx * lx + ly * ly) / (far * far) + (1 + lamp / far) ** 2)
    gleam = np.float32(1.6 * scene.gloss) * np.clip((half - 0.982) * 62, 0, 1) ** 2 * fall
    return (0.15 + 0.95 * facing) * fall * np.float32(1.15), gleam


def _draw(
    tool: _Tool,
    scene: _Scene,
    colour: Array,
    label: Array,
    sx: Array,
    sy: Array,
    *,
    time: float,
    pixel: float,
) -> None:
    """A shaft from beyond the rim, then two jaws, over what is there."""
    beat = tool.phase
    tip = (
        tool.tip[0] + 0.12 * (np.sin(1.3 * time + beat) - np.sin(beat)),
        tool.tip[1] + 0.09 * (np.sin(1.9 * time + 2 * beat) - np.sin(2 * beat)),
    )
    bearing = float(np.arctan2(tip[1] - tool.entry[1], tip[0] - tool.entry[0]))
    opening = tool.opening * (0.7 + 0.3 * np.cos(2.3 * time + beat))
    reach = 2.6 * tool.width
    parts = [(tip, bearing, 0.0, -4.0, tool.width, 0.0)]
    parts += [(tip, bearing + s * opening / 2, reach, 0.0, tool.width * 0.42, s) for s in (-1.0, 1.0)]
    for start, angle, end, begin, half_width, side in parts:
        cos, sin = np.float32(np.cos(angle)), np.float32(np.sin(angle))
        dx, dy = sx - np.float32(start[0]), sy - np.float32(start[1])
        along, across = cos * dx + sin * dy, cos * dy - sin * dx - np.float32(side * half_width * 0.8)
        near = np.nonzero((np.abs(across) < half_width + pixel) & (along > begin - pixel) & (along < end + pixel))
        if not len(near[0]):
            continue
        along, across = along[near], across[near]
        narrow = half_width * (1 - 0.55 * np.clip(along / end, 0, 1)) if side else np.full_like(along, half_width)
        limit = np.minimum(narrow - np.abs(across), np.minimum(along - begin, end - along))
        cover = np.clip(0.5 + limit / pixel, 0, 1)
        bend = np.clip(across / narrow, -1, 1)
        shine = 0.4 * np.exp(-((bend + 0.35) ** 2) / 0.03)
        bands = 0.88 + 0.12 * np.sign(np.sin(along * 60)) if side else 1 - 0.4 * (np.abs(along + 0.22) < 0.02)
        shade = (0.35 + 0.75 * np.sqrt(1 - bend * bend * 0.95)) * bands
        lx, ly = scene.light[0] - sx[near], scene.light[1] - sy[near]
        fall = 1.15 / (1 + 0.7 * scene.falloff * (lx * lx + ly * ly))
        metal = (tool.colour.astype(np.float32) * shade[:, None] + shine[:, None]) * fall[:, None]
        colour[near] += cover[:, None] * (metal - colour[near])
        label[near] = np.where(cover > 0.5, np.uint8(CLASSES.index("instrument")), label[near])


def _develop(scene: _Scene, colour: Array, coarse: Array, *, noise: np.random.Generator) -> Array:
    """Exposure, haze, white balance, gamma, speckle: uint8 [H, W, 3]."""
    smoke = np.float32(scene.haze) * np.clip(1 + 0.5 * coarse[..., :1], 0, 2)
    colour = colour * np.float32(scene.gain)
    colour += smoke * (np.float32(0.72) - colour)
    colour = np.clip(colour * scene.tint.astype(np.float32), 0, 1) ** np.float32(scene.gamma)
    grain = noise.standard_normal(colour.shape, dtype=np.float32) * np.float32(scene.noise)
    colour += grain * (0.5 + colour)
    return np.clip(colour * 255 + 0.5, 0, 255).astype(np.uint8)
