"""The formulas of the image corruptions of `edgemt.data.corruptions`: what each imitates, and by which formula.

Every function takes an image x, float32 [H, W, K] in [0, 1] (K 1, or 3 for RGB), its parameter and the random numbers
of the image, and returns an array of the same shape, which the caller clips to [0, 1]. Lengths are fractions of the
side s = sqrt(H W), so that a corruption is the same at every resolution. The pattern (where smoke, spots, blood or a
shadow lie) is drawn independently of the parameter: a higher severity is the same pattern, stronger.

Shapes: H W size, K channels.
"""

from __future__ import annotations

import math
from dataclasses import dataclass

import numpy as np

from edgemt.io.opencv import require_opencv

GAMMA = 2.2  # of a display: x^2.2 is proportional to light
BLACK = 0.07  # brightest channel of a pixel in the mask around the picture of an endoscope, with the noise of JPEG ...
MASK_MEAN = 0.02  # ... and the mean over the mask; dark tissue at the edge of a frame is brighter
JITTER = 0.04  # of the centre of a black rim, fraction of the side


@dataclass(frozen=True)
class Draws:
    """Random numbers of an image: those of `case` are equal for all slices of a volume, those of `slice` are not."""

    case: np.random.Generator
    slice: np.random.Generator

    def normal(self, shape: tuple[int, ...]) -> np.ndarray:
        return self.slice.standard_normal(shape, dtype=np.float32)


def smoke(x: np.ndarray, density: float, draws: Draws) -> np.ndarray:
    """Smoke of electrocautery or vapour in front of the lens.

    x' = blur(x) (1 - a) + a v, a = density (0.5 + 0.5 m): the scattering model of haze (Koschmieder) with a grey veil v
    and a fractal map m in [0, 1], as the fog of ImageNet-C (arXiv 1903.12261); light that the smoke scatters also
    softens the picture by a Gaussian of 0.004 s at density 1. Smoke as a surgical corruption: SegSTRONG-C, arXiv
    2407.11906.

    density, severities 1 to 5: 0.25, 0.4, 0.55, 0.7, 0.82.
    """
    veil = np.array([0.77, 0.78, 0.80], np.float32) + np.float32(draws.case.uniform(-0.05, 0.05))
    opacity = np.float32(density) * (0.5 + 0.5 * _fractal(x.shape, draws, low=1, high=24, power=1.8))
    soft = _gaussian(x, 0.004 * density * _side(x))
    return _inside(x, _blend(soft, np.broadcast_to(veil, x.shape), opacity))


def specular(x: np.ndarray, area: float, draws: Draws) -> np.ndarray:
    """Specular highlights: the lamp mirrored by wet tissue.

    The fraction `area` of the frame where m + 0.5 c + 0.8 l is largest becomes white, x' = 1 - (1 - x)(1 - h)(1 - g): m
    is a fractal map with a fine grain, c one with a coarse grain (spots lie in groups), l the luminance relative to its
    surroundings (highlights lie on tissue that faces the lamp), h the spots with a soft rim, g = 0.3 blur(h) glare.
    Specularity is one of the artefacts of the endoscopy artefact detection challenge (EAD 2019, arXiv 1905.03209).

    area, severities 1 to 5: 0.005, 0.012, 0.025, 0.045, 0.075.
    """
    side = _side(x)
    light = _gaussian(_luminance(x), 0.01 * side)
    light = light / (_gaussian(light, 0.12 * side) + 0.1)
    light /= max(float(light.max()), 1e-3)
    grain = _fractal(x.shape, draws, low=6, high=45, power=1.1)
    patches = _fractal(x.shape, draws, low=1, high=6, power=1)
    spots = _above(grain + 0.5 * patches + 0.8 * light, area, width=0.09)
    glare = 0.3 * _gaussian(spots, 0.012 * side)
    return _inside(x, _blend(x, np.ones_like(x), 1 - (1 - spots) * (1 - glare)))


def blood(x: np.ndarray, area: float, draws: Draws) -> np.ndarray:
    """Blood that covers a part of the tissue, thin at its edges.

    x'_c = x_c exp(-k_c t) + b_c l (1 - exp(-2 t)), the Beer-Lambert law with a layer of thickness t (0 to 1, above a
    threshold of a fractal map) over the fraction `area` of the frame; k = (0.9, 3.6, 3.6) absorbs green and blue, b =
    (0.3, 0.02, 0.02) is the colour of thick blood, l the luminance of the smoothed frame. Bleeding as a surgical
    corruption: SegSTRONG-C, arXiv 2407.11906. RGB only.

    area, severities 1 to 5: 0.08, 0.16, 0.26, 0.38, 0.5.
    """
    layer = _above(_fractal(x.shape, draws, low=1, high=24, power=2), area, width=0.14)
    thick = (0.3 + 0.7 * _gaussian(_luminance(x), 0.02 * _side(x))) * (1 - np.exp(-2 * layer))
    red, other = np.exp(-0.9 * layer), np.exp(-3.6 * layer)
    channels = [x[..., 0] * red + 0.3 * thick, x[..., 1] * other + 0.02 * thick, x[..., 2] * other + 0.02 * thick]
    return _inside(x, np.stack(channels, axis=-1))


def defocus(x: np.ndarray, radius: float, draws: Draws) -> np.ndarray:
    """A camera that is out of focus, or a fogged lens.

    Convolution with a disk of radius `radius` s. ImageNet-C (arXiv 1903.12261): 3, 4, 6, 8 and 10 of 224 pixels.

    radius, severities 1 to 5: 0.0134, 0.0179, 0.0268, 0.0357, 0.0446.
    """
    reach = max(radius * _side(x), 0.6)
    middle = math.ceil(reach)
    grid = np.arange(-middle, middle + 1, dtype=np.float32)
    disk = np.clip(reach + 0.5 - np.hypot(grid[:, None], grid), 0, 1)  # antialiased
    return _inside(x, _filtered(x, disk / disk.sum()))


def motion_blur(x: np.ndarray, length: float, draws: Draws) -> np.ndarray:
    """A camera, tool or organ that moves while the shutter is open.

    Convolution with a straight line of length `length` s in a random direction. In ImageNet-C (arXiv 1903.12261) the
    same kind, there with a one-sided Gaussian along the line.

    length, severities 1 to 5: 0.03, 0.05, 0.075, 0.105, 0.14.
    """
    angle, reach = draws.case.uniform(0, math.pi), max(length * _side(x) / 2, 0.5)
    middle = math.ceil(reach) + 1
    at = np.linspace(-reach, reach, 4 * middle + 1)
    line = np.zeros((2 * middle + 1, 2 * middle + 1), np.float32)
    columns, rows = middle + at * math.cos(angle), middle + at * math.sin(angle)
    for dy in (0, 1):  # each sample is shared between its four neighbours
        for dx in (0, 1):
            row, column = np.floor(rows).astype(int) + dy, np.floor(columns).astype(int) + dx
            np.add.at(line, (row, column), (1 - np.abs(rows - row)) * (1 - np.abs(columns - column)))
    return _inside(x, _filtered(x, line / line.sum()))


def jpeg(x: np.ndarray, quality: float, draws: Draws) -> np.ndarray:
    """Compression of a recorder or a network camera.

    Written as JPEG of the given quality and read again; the qualities are those of ImageNet-C (arXiv 1903.12261).

    quality, severities 1 to 5: 25, 18, 15, 10, 7.
    """
    cv2 = require_opencv("corruptions")
    pixels = np.rint(x * 255).astype(np.uint8)
    pixels = cv2.cvtColor(pixels, cv2.COLOR_RGB2BGR) if x.shape[2] == 3 else pixels[..., 0]
    data = cv2.imencode(".jpg", pixels, [cv2.IMWRITE_JPEG_QUALITY, int(quality)])[1]
    found = cv2.imdecode(data, cv2.IMREAD_UNCHANGED)
    found = cv2.cvtColor(found, cv2.COLOR_BGR2RGB) if x.shape[2] == 3 else found[..., None]
    return found.astype(np.float32) / 255


def overexposure(x: np.ndarray, stops: float, draws: Draws) -> np.ndarray:
    """A lamp too close, or an automatic gain that is late: light tissue becomes white.

    x' = min(1, 2^stops x^2.2)^(1 / 2.2): so many stops more light, then the sensor saturates.

    stops, severities 1 to 5: 0.5, 1, 1.5, 2, 2.5.
    """
    return np.minimum(x * np.float32(2 ** (stops / GAMMA)), 1)


def underexposure(x: np.ndarray, stops: float, draws: Draws) -> np.ndarray:
    """Too little light: a far wall, a lamp that fails.

    x' = (2^-stops x^2.2)^(1 / 2.2) + n, n ~ N(0, 0.004 stops): so many stops less light, and the noise of the sensor.
    Low brightness is one of the corruptions of SegSTRONG-C (arXiv 2407.11906).

    stops, severities 1 to 5: 1, 2, 3, 4, 5.
    """
    return x * np.float32(2 ** (-stops / GAMMA)) + draws.normal(x.shape) * np.float32(0.004 * stops)


def black_rim(x: np.ndarray, radius: float, draws: Draws) -> np.ndarray:
    """The round stop of an endoscope: black outside a circle.

    Black beyond `radius` s / 2 of a centre that lies up to 0.04 s beside that of the frame, with a soft edge of 0.01 s.
    The label stays as it is, although the rim hides what lies under it; `hidden_by_rim` gives these pixels to an
    evaluation.

    radius, severities 1 to 5: 1.1, 1, 0.9, 0.8, 0.7.
    """
    return x * _open_circle(x.shape, radius, draws)[..., None]


def hidden_by_rim(shape: tuple[int, ...], radius: float, draws: Draws) -> np.ndarray:
    """The pixels, bool [H, W], that `black_rim` of the same parameters makes darker by half or more."""
    return _open_circle(shape, radius, draws) < 0.5


def noise(x: np.ndarray, sigma: float, draws: Draws) -> np.ndarray:
    """Noise of a sensor with high gain, or of X-ray quanta after reconstruction.

    x' = x + n, n ~ N(0, sigma). Gaussian noise of ImageNet-C (arXiv 1903.12261) has 0.08 to 0.38, more than
    medical devices deliver.

    sigma, severities 1 to 5: 0.02, 0.04, 0.07, 0.11, 0.16.
    """
    return _inside(x, x + draws.normal(x.shape) * np.float32(sigma))


def rician_noise(x: np.ndarray, sigma: float, draws: Draws) -> np.ndarray:
    """Noise of a magnitude image of MRI, which lifts dark regions.

    x' = sqrt((x + n1)^2 + n2^2), n1, n2 ~ N(0, sigma) (Gudbjartsson and Patz, 1995).

    sigma, severities 1 to 5: 0.015, 0.03, 0.05, 0.075, 0.1.
    """
    real = x + draws.normal(x.shape) * np.float32(sigma)
    return np.hypot(real, draws.normal(x.shape) * np.float32(sigma))


def speckle(x: np.ndarray, sigma: float, draws: Draws) -> np.ndarray:
    """Speckle of ultrasound: multiplicative, wider across the beam than along it.

    x' = x (1 + sigma n), n smooth noise of deviation 1 with a grain of 0.006 s across and 0.002 s along the beam.

    sigma, severities 1 to 5: 0.15, 0.25, 0.38, 0.54, 0.75.
    """
    side = _side(x)
    grain = require_opencv("corruptions").GaussianBlur(
        draws.normal(x.shape[:2]), (0, 0), max(0.006 * side, 0.3), None, 0.002 * side + 0.2
    )
    return x * (1 + np.float32(sigma / max(float(grain.std()), 1e-6)) * grain)[..., None]


def shadow(x: np.ndarray, strength: float, draws: Draws) -> np.ndarray:
    """Acoustic shadows of ultrasound behind bone, gas or a bad contact; the probe is at the top.

    x' = x (1 - strength w): w is 1 in one or two sectors that begin at a depth of 0 to 0.3 H and open away from a point
    above the probe, with soft sides; a stronger shadow is wider too.

    strength, severities 1 to 5: 0.4, 0.55, 0.7, 0.83, 0.95.
    """
    height, width = x.shape[:2]
    rows = np.arange(height, dtype=np.float32)[:, None] / height
    columns = np.arange(width, dtype=np.float32) / width - 0.5
    angle = np.arctan2(columns, rows + 0.6)
    dark = np.zeros((height, width), np.float32)
    for _ in range(int(draws.case.integers(1, 3))):
        middle, half, depth = (float(draws.case.uniform(*span)) for span in ((-0.4, 0.4), (0.06, 0.13), (0, 0.3)))
        across = np.clip((half * (0.6 + 0.5 * strength) - np.abs(angle - middle)) / 0.04, 0, 1)
        dark = np.maximum(dark, across * np.clip((rows - depth) / 0.04, 0, 1))
    return x * (1 - np.float32(strength) * dark)[..., None]


def bias_field(x: np.ndarray, coefficient: float, draws: Draws) -> np.ndarray:
    """Inhomogeneous coil sensitivity and field of MRI: a smooth gain over the picture.

    x' = x f / mean(f), f = exp(p): p is a polynomial of order 3 in the coordinates (-1 to 1) whose coefficients are
    coefficient u, u ~ U(-1, 1) (Van Leemput et al., 1999; RandomBiasField of TorchIO, there 0.5). All slices of a
    volume have the same field. Division by the mean: readers scale the intensities of a scan.

    coefficient, severities 1 to 5: 0.2, 0.4, 0.6, 0.85, 1.1.
    """
    rows, columns = (np.linspace(-1, 1, n, dtype=np.float32) for n in x.shape[:2])
    order = [(i, j) for i in range(4) for j in range(4 - i) if i + j]
    factors = draws.case.uniform(-1, 1, len(order)).astype(np.float32)
    field = sum(u * rows[:, None] ** i * columns**j for u, (i, j) in zip(factors, order, strict=True))
    gain = np.exp(np.float32(coefficient) * np.asarray(field))
    return x * (gain / gain.mean())[..., None]


def ghosting(x: np.ndarray, intensity: float, draws: Draws) -> np.ndarray:
    """Ghosts of MRI: breathing or pulsation moves tissue between the lines of k-space.

    Every n-th line of the spectrum along the phase axis is multiplied by 1 - intensity, without the inner 2 %, and the
    magnitude is taken: n - 1 copies of the picture with intensity / n of its strength, shifted by multiples of 1 / n of
    the side. n is 2 to 5, the axis is drawn; after RandomGhosting of TorchIO (n 4 to 10, intensity 0.5 to 1).

    intensity, severities 1 to 5: 0.2, 0.35, 0.5, 0.7, 0.9.
    """
    every, axis = int(draws.case.integers(2, 6)), int(draws.case.integers(0, 2))
    lines = np.fft.fftfreq(x.shape[axis], 1 / x.shape[axis]).round().astype(int)  # 0 is the mean
    gain = np.where((lines % every == 0) & (np.abs(lines) > 0.01 * len(lines)), 1 - intensity, 1).astype(np.float32)
    spectrum = np.fft.fft(x, axis=axis) * np.expand_dims(gain, tuple(k for k in range(3) if k != axis))
    return np.abs(np.fft.ifft(spectrum, axis=axis)).astype(np.float32)


def _side(x: np.ndarray) -> float:
    return math.sqrt(x.shape[0] * x.shape[1])


def _luminance(x: np.ndarray) -> np.ndarray:
    total = x[..., 0] if x.shape[2] == 1 else x[..., 0] + x[..., 1] + x[..., 2]
    return total / np.float32(x.shape[2])


def _blend(x: np.ndarray, other: np.ndarray, weight: np.ndarray) -> np.ndarray:
    """The mixture x + weight (other - x), weight [H, W]; one channel at a time, as broadcasting over 3 is slow."""
    return np.stack([x[..., k] + weight * (other[..., k] - x[..., k]) for k in range(x.shape[2])], axis=-1)


def _gaussian(x: np.ndarray, sigma: float) -> np.ndarray:
    if sigma < 0.2:
        return x
    out = require_opencv("corruptions").GaussianBlur(np.ascontiguousarray(x), (0, 0), sigma)
    return np.asarray(out).reshape(x.shape)


def _inside(x: np.ndarray, changed: np.ndarray) -> np.ndarray:
    """`changed`, but x where an RGB frame is black out to its edge: the mask that the endoscope's processor draws."""
    if x.shape[2] != 3:
        return changed
    cv2 = require_opencv("corruptions")
    brightest = np.maximum(np.maximum(x[..., 0], x[..., 1]), x[..., 2])
    labels, parts = cv2.connectedComponents((brightest < BLACK).astype(np.uint8), connectivity=4)
    if labels == 1:
        return changed
    rim = np.concatenate([parts[0], parts[-1], parts[:, 0], parts[:, -1]])
    counts = np.bincount(rim, minlength=labels)
    counts[0] = 0  # what is not black
    areas = np.bincount(parts.ravel(), minlength=labels)
    means = np.bincount(parts.ravel(), brightest.ravel(), labels) / np.maximum(areas, 1)
    outside = ((counts > 0.02 * len(rim)) & (means < MASK_MEAN))[parts].astype(np.float32)
    return _blend(changed, x, cv2.GaussianBlur(outside, (0, 0), 0.8))


def _filtered(x: np.ndarray, kernel: np.ndarray) -> np.ndarray:
    cv2 = require_opencv("corruptions")
    return np.asarray(cv2.filter2D(x, -1, kernel, borderType=cv2.BORDER_REFLECT_101)).reshape(x.shape)


def _fractal(shape: tuple[int, ...], draws: Draws, *, low: float, high: float, power: float) -> np.ndarray:
    """float32 [H, W] in 0..1: isotropic noise of `low` to `high` periods along a side, amplitude period^power."""
    height, width = shape[:2]
    side = math.sqrt(height * width)
    grid = max(8, round(height * 3 * high / side)), max(8, round(width * 3 * high / side))
    rows, columns = np.fft.fftfreq(grid[0], 1 / grid[0]) * side / height, np.fft.rfftfreq(grid[1], 1 / grid[1])
    periods = np.hypot(rows[:, None], columns * side / width)
    amplitude = np.where((periods >= low) & (periods <= high), np.maximum(periods, 1e-6) ** -power, 0)
    white = draws.case.standard_normal((*periods.shape, 2)).view(np.complex128)[..., 0]
    coarse = np.fft.irfft2(white * amplitude, s=grid).astype(np.float32)
    cv2 = require_opencv("corruptions")
    fine = cv2.resize(
        coarse, (width, height), interpolation=cv2.INTER_CUBIC if grid < (height, width) else cv2.INTER_AREA
    )
    fine -= fine.min()
    return np.asarray(fine) / max(float(fine.max()), 1e-6)


def _above(field: np.ndarray, area: float, *, width: float) -> np.ndarray:
    """float32 [H, W]: 0 below the threshold that the fraction `area` exceeds, rising to 1 over `width`, smoothly."""
    t = np.clip((field - np.quantile(field, 1 - area)) / width, 0, 1).astype(np.float32)
    return t * t * (3 - 2 * t)


def _open_circle(shape: tuple[int, ...], radius: float, draws: Draws) -> np.ndarray:
    """float32 [H, W]: 1 inside the circle of a black rim, 0 outside."""
    height, width = shape[:2]
    side = math.sqrt(height * width)
    dy, dx = draws.case.uniform(-JITTER, JITTER, 2) * side
    rows = np.arange(height, dtype=np.float32)[:, None] - np.float32((height - 1) / 2 + dy)
    columns = np.arange(width, dtype=np.float32) - np.float32((width - 1) / 2 + dx)
    return np.clip((radius * side / 2 - np.hypot(rows, columns)) / (0.01 * side) + 0.5, 0, 1)
