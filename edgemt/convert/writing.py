"""Files of an import: images, label maps, volumes. Each is written under a temporary name and renamed.

Shapes: H W size of an image in pixels, X Y Z voxels of a volume.
"""

from __future__ import annotations

import os
import shutil
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
from PIL import Image

from edgemt.convert.contract import Loaded, Volume
from edgemt.io.atomic import NoSpaceError, make_folder, no_space
from edgemt.io.images import opened_image
from edgemt.io.opencv import find_opencv

_COMPRESSION = 1  # of PNG: level 6 takes six times as long for a tenth of the size


def voc_palette() -> list[int]:
    """256 colours of Pascal VOC as flat RGB: bit k of the index, three at a time, from the highest bit of a colour."""
    index = np.arange(256)[:, None]
    colours = sum((((index >> (3 * k + np.arange(3))) & 1) << (7 - k) for k in range(8)), np.zeros((256, 3), int))
    return colours.reshape(-1).tolist()


_PALETTE = voc_palette()


def write_sample(folder: Path, name: str, loaded: Loaded, *, source: Path) -> list[Path]:
    """Write image and mask below `folder`; returns their paths. Raises ValueError, naming `source`, for two sizes."""
    image, mask = loaded.image, loaded.mask
    if isinstance(image, (Volume, tuple)):
        return _write_volumes(folder, name, (image,) if isinstance(image, Volume) else image, mask, source)
    if isinstance(image, Path):
        size = _decoded_size(image)
        files = [_written(folder / "images" / f"{name}{image.suffix.lower()}", lambda p: shutil.copyfile(image, p))]
    else:
        size = image.shape[:2]
        files = [_written(folder / "images" / f"{name}.png", lambda p: write_png(p, image))]
    if mask is not None:
        if mask.shape != size:
            files[0].unlink()
            raise ValueError(f"{source}: {mask.shape} rows and columns, its image has {size}; export it again")
        files.append(_written(folder / "masks" / f"{name}.png", lambda p: write_label_map(p, mask)))
    return files


def _write_volumes(
    folder: Path, name: str, images: tuple[Volume, ...], mask: np.ndarray | None, source: Path
) -> list[Path]:
    shape, affine = images[0].array.shape, images[0].affine
    if mask is not None and mask.shape != shape:
        raise ValueError(f"{source}: {mask.shape} voxels, its image has {shape}; export it again")
    ends = [""] if len(images) == 1 else [f"_{channel:04d}" for channel in range(len(images))]
    files = [
        _nifti(folder / "images" / f"{name}{end}.nii.gz", image.array, image.affine)
        for end, image in zip(ends, images, strict=True)
    ]
    if mask is not None:
        files.append(_nifti(folder / "labels" / f"{name}.nii.gz", mask, affine))
    return files


def write_png(path: Path, image: np.ndarray) -> None:
    """A uint8 image [H, W] or [H, W, 3] as PNG, with OpenCV where it is installed.

    OpenCV's own choice (runs of filtered bytes alone) takes less than half the time of level 1, for 10 % more bytes.
    """
    cv2 = find_opencv()
    if cv2 is None:
        Image.fromarray(image).save(path, "PNG", compress_level=_COMPRESSION)
        return
    done, data = cv2.imencode(".png", np.ascontiguousarray(image[..., ::-1]) if image.ndim == 3 else image)
    assert done
    path.write_bytes(data.tobytes())


def write_label_map(path: Path, mask: np.ndarray) -> None:
    """uint8 [H, W] of class indices as PNG with the palette of Pascal VOC, so that any viewer shows the classes."""
    picture = Image.fromarray(mask)
    picture.putpalette(_PALETTE)
    picture.save(path, "PNG", compress_level=_COMPRESSION)


def _decoded_size(path: Path) -> tuple[int, int]:
    """Rows and columns, upright, of an image that is decoded to find out whether it is whole."""
    with opened_image(path) as (image, turn):
        return (image.width, image.height) if turn > 4 else (image.height, image.width)


def _nifti(path: Path, array: np.ndarray, affine: np.ndarray) -> Path:
    return _written(path, lambda part: write_nifti(part, array, affine))


def write_nifti(path: Path, array: np.ndarray, affine: np.ndarray) -> None:
    """A volume with its affine (RAS, mm) as sform, and as qform where the axes are at right angles; float32 there."""
    import nibabel

    kind = array.dtype.newbyteorder("=")
    image: Any = nibabel.Nifti1Image(np.asfortranarray(array, kind), affine, dtype=kind)
    image.header.set_xyzt_units("mm")
    image.set_sform(affine, code="scanner")
    directions = affine[:3, :3] / np.linalg.norm(affine[:3, :3], axis=0)
    straight = np.allclose(directions.T @ directions, np.eye(3), atol=1e-4)
    image.set_qform(affine if straight else None, code="scanner" if straight else 0)
    nibabel.save(image, path)


def _written(path: Path, write: Callable[[Path], object]) -> Path:
    make_folder(path.parent)
    suffix = ".part.nii.gz" if path.name.endswith(".nii.gz") else f".part{path.suffix}"
    part = path.with_name(f".{path.name.split('.')[0]}{suffix}")
    try:
        write(part)
        os.replace(part, path)
    except BaseException as error:
        part.unlink(missing_ok=True)
        if no_space(error):
            raise NoSpaceError(
                f"{path}: no space left on the disk; free some and run the same command again"
            ) from error
        raise
    return path
