"""A synthetic heart in 3-D, with labels, for demonstrations and tests without data.

A bright chamber in a darker wall, and a vessel that leaves the chamber and is equally bright: only its position
distinguishes it. Fat, lungs and further vessels around them are background. Each seed is
another patient: shapes, pose, contrast, bias field and noise change. Numpy alone; the same seed gives the
same volume.

Shapes: X Y Z voxels, Z the thick-sliced axis. Body coordinates: each axis from -1 to 1.
"""

from __future__ import annotations

from functools import lru_cache

import numpy as np

CLASSES = ("background", "chamber", "wall", "vessel")
SHAPE = (64, 64, 32)
SPACING_MM = (1.25, 1.25, 2.5)  # of a volume of SHAPE: slices are twice as thick as a pixel is wide
PREFIX = "phantom3d:"
Array = np.ndarray


def volume(seed: int, shape: tuple[int, int, int] = SHAPE) -> tuple[Array, Array]:
    """(image uint8 [X, Y, Z], label uint8 [X, Y, Z]) of patient `seed`; the anatomy is the same at any shape."""
    image, label = _volume(seed, tuple(shape))
    return image.copy(), label.copy()


@lru_cache(maxsize=16)
def _volume(seed: int, shape: tuple[int, int, int]) -> tuple[Array, Array]:
    """Each stage of a run reads the same volumes, the image and the label of a volume one after the other."""
    rng = np.random.default_rng([seed, 3])
    x, y, z = _body(shape)
    # The random numbers of the anatomy are drawn before those whose count depends on the requested shape.
    image, label = _background(rng, x, y, z), np.zeros(shape, np.uint8)
    _heart(rng, image, label, x, y, z)
    bias = np.exp(0.25 * sum(rng.normal() * axis for axis in (x, y, z)) + 0.12 * rng.normal() * x * y)
    grain = _texture(rng, shape, smooth=0.12) * 0.03 + _texture(rng, shape, smooth=0.5) * rng.uniform(0.01, 0.03)
    low, high = rng.uniform(0.02, 0.08), rng.uniform(0.8, 1.0)
    image = np.clip(low + (image + grain) * bias * (high - low), 0, 1)
    return np.rint(image * 255).astype(np.uint8), label


def seed_of(path: str) -> int:
    """Of `phantom3d:SEED`."""
    return int(path.removeprefix(PREFIX))


def spacing_mm(shape: tuple[int, ...]) -> tuple[float, ...]:
    """Voxel size of a volume of any shape: the body stays as large as it is."""
    return tuple(mm * n / m for mm, n, m in zip(SPACING_MM, SHAPE, shape, strict=True))


def _body(shape: tuple[int, int, int]) -> tuple[Array, Array, Array]:
    axes = [((np.arange(n, dtype=np.float32) + 0.5) * (2 / n) - 1) for n in shape]
    x, y, z = np.meshgrid(*axes, indexing="ij", sparse=True)
    return x, y, z


def _background(rng: np.random.Generator, x: Array, y: Array, z: Array) -> Array:
    """Soft tissue with a rim of fat, two dark lungs, and bright round things that are no part of the heart."""
    body = (x / 0.95) ** 2 + (y / 0.85) ** 2 + 0 * z
    image = np.where(body < 1, rng.uniform(0.32, 0.42), 0.02)
    image = np.where((body > 0.78) & (body < 1), rng.uniform(0.6, 0.75), image)
    for side in (-1, 1):
        lung = _ellipsoid(
            x, y, z,
            centre=(side * rng.uniform(0.6, 0.7), rng.uniform(-0.15, 0.1), 0),
            axes=(rng.uniform(0.16, 0.22), rng.uniform(0.35, 0.45), 1.6),
        )  # fmt: skip
        image = np.where(lung < 1, rng.uniform(0.06, 0.12), image)
    for _ in range(5):  # as bright as blood
        ball = _ellipsoid(
            x, y, z,
            centre=(rng.uniform(-0.6, 0.6), rng.choice((-1.0, 1.0)) * rng.uniform(0.52, 0.68), rng.uniform(-0.8, 0.8)),
            axes=tuple(rng.uniform((0.05, 0.05, 0.1), (0.12, 0.12, 0.4))),
        )  # fmt: skip
        image = np.where(ball < 1, rng.uniform(0.62, 0.85), image)
    return image.astype(np.float32)


def _heart(rng: np.random.Generator, image: Array, label: Array, x: Array, y: Array, z: Array) -> None:
    centre = rng.uniform((-0.1, -0.1, -0.35), (0.1, 0.1, -0.1))
    axes = rng.uniform((0.24, 0.24, 0.5), (0.36, 0.34, 0.7))
    tilt = rng.uniform(-0.35, 0.35, size=2)  # how far the long axis leans for each step along z
    thick = rng.uniform(0.07, 0.12)
    phase, wave = rng.uniform(0, 6.283, size=2), rng.uniform(0.04, 0.12, size=2)
    blood, muscle = rng.uniform(0.62, 0.85), rng.uniform(0.16, 0.26)
    dx, dy = x - centre[0] - tilt[0] * (z - centre[2]), y - centre[1] - tilt[1] * (z - centre[2])
    turn = np.arctan2(dy, dx)
    rim = 1 + wave[0] * np.cos(2 * turn + phase[0]) + wave[1] * np.cos(3 * turn + phase[1] + 2 * z)
    along = ((z - centre[2]) / axes[2]) ** 2
    inner = (dx / axes[0]) ** 2 + (dy / axes[1]) ** 2
    outer = (dx / (axes[0] + thick)) ** 2 + (dy / (axes[1] + thick)) ** 2
    # It leaves through the top and bends to one side, as an aorta does.
    side, root = rng.choice((-1.0, 1.0)), centre[2] + 0.5 * axes[2]
    rise = np.clip((z - root) / (1 - root), 0, 1)
    bent = side * rng.uniform(0.25, 0.45) * rise**2
    width = rng.uniform(0.14, 0.19)
    tube = ((dx - bent) ** 2 + (dy + 0.3 * bent) ** 2) / width**2
    for inside, value, name in (
        (outer < rim**2 * (1 - along / (1 + thick) ** 4), muscle, "wall"),
        ((tube < 1) & (z > root), blood, "vessel"),
        (inner < rim**2 * (1 - along), blood, "chamber"),
    ):
        inside = np.broadcast_to(inside, label.shape)
        image[inside], label[inside] = value, CLASSES.index(name)


def _ellipsoid(x: Array, y: Array, z: Array, *, centre: tuple[float, ...], axes: tuple[float, ...]) -> Array:
    """Below 1 inside."""
    return sum(((v - c) / a) ** 2 for v, c, a in zip((x, y, z), centre, axes, strict=True))  # type: ignore[return-value]


def _texture(rng: np.random.Generator, shape: tuple[int, int, int], *, smooth: float) -> Array:
    """Noise without frequencies above `smooth` of what the grid holds; mean 0, deviation 1."""
    rate = np.sqrt(sum(f**2 for f in np.meshgrid(*map(np.fft.fftfreq, shape), indexing="ij", sparse=True)))
    noise = np.fft.fftn(rng.standard_normal(shape, dtype=np.float32)) * np.exp(-((rate / (smooth / 2)) ** 2))
    noise = np.fft.ifftn(noise).real.astype(np.float32)
    return (noise - noise.mean()) / max(float(noise.std()), 1e-6)
