"""Files in the real formats of the data sets, in which every image says which values it has, and what reads them."""

import struct
from collections.abc import Callable
from pathlib import Path
from typing import Any

import h5py
import numpy as np
import torch
from data import dsprites as dsprites_file
from data import shapes3d as shapes3d_file
from data.dsprites import DSprites
from data.factors import DSPRITES, FALCOR3D, ISAAC3D, SHAPES3D, Factors
from data.numbered import Falcor3D, Isaac3D
from data.shapes3d import Shapes3D
from PIL import Image

# The names of the real factors, in their order, with fewer values; neighbours differ in size, so that an exchange is seen.
FEW_SHAPES3D = Factors(SHAPES3D.names, (2, 3, 2, 4, 1, 3))
FEW_FALCOR3D = Factors(FALCOR3D.names, (2, 3, 2, 3, 2, 1, 3))
FEW_ISAAC3D = Factors(ISAAC3D.names, (2, 3, 2, 3, 1, 2, 3, 2, 1))
FEW_DSPRITES = Factors(DSPRITES.names, (3, 2, 5, 4, 3))


def drawn(values: np.ndarray, side: int) -> np.ndarray:
    """Images (N, side, side), 0 or 1: the j-th pair of rows has the bits of the j-th value, four pixels each."""
    images = np.zeros((len(values), side, side), np.uint8)
    for j in range(values.shape[1]):
        for bit in range(6):
            images[:, 2 * j : 2 * j + 2, 4 * bit : 4 * bit + 4] = (values[:, j] >> bit & 1)[:, None, None]
    return images


def coloured(values: np.ndarray, side: int) -> np.ndarray:
    """As much of each colour as tells the channels apart."""
    return drawn(values, side)[..., None] * np.array([255, 100, 50], np.uint8)


def said(images: torch.Tensor, factors: Factors) -> torch.Tensor:
    """The values (N, F) that images (N, 3, side, side) say they have."""
    assert images.dtype == torch.uint8
    bits = (images[:, 0, : 2 * len(factors.sizes) : 2, :24:4] == 255).long()
    return (bits << torch.arange(6)).sum(-1)


def every(factors: Factors) -> np.ndarray:
    return factors.values(torch.arange(len(factors))).numpy()


def write_shapes3d(folder: Path, factors: Factors = FEW_SHAPES3D, chunks: Any = (5, 8, 8, 1), **changes: Any) -> Path:
    values = every(factors)
    arrays = {
        "images": coloured(values, 64),
        "labels": values * [0.1, 0.1, 0.1, 0.07, 1, 4.3] - [0, 0, 0, -0.75, 0, 30],
    }
    folder.mkdir(parents=True, exist_ok=True)
    with h5py.File(folder / shapes3d_file.FILE, "w") as file:
        for name, array in (arrays | changes).items():
            if array is not None:
                packed = {"chunks": chunks, "compression": "gzip"} if name == "images" and chunks else {}
                file.create_dataset(name, data=array, **packed)
    return folder / shapes3d_file.FILE


def write_numbered(folder: Path, factors: Factors, labels: str, dtype: str = "<f8") -> Path:
    values = every(factors)
    (folder / "images").mkdir(parents=True)
    for number, image in enumerate(coloured(values, 128)):
        Image.fromarray(image).save(folder / "images" / f"{number:06d}.png", compress_level=1)
    write_array(folder / labels, (values / np.maximum(np.array(factors.sizes) - 1, 1)).astype(dtype))
    return folder


def write_array(path: Path, array: np.ndarray) -> None:
    with path.open("wb") as file:  # as `np.save` of a path would add its extension
        np.save(file, array)


def idx(*shape: int) -> bytes:
    """An IDX file of unsigned bytes."""
    content = np.random.default_rng(0).integers(256, size=shape, dtype=np.uint8)
    return bytes((0, 0, 8, len(shape))) + struct.pack(f">{len(shape)}I", *shape) + content.tobytes()


def write_dsprites(folder: Path, factors: Factors = FEW_DSPRITES, **changes: Any) -> Path:
    values = every(factors)
    classes = np.column_stack((np.zeros(len(values), np.int64), values))
    arrays = {"imgs": drawn(values, 64), "latents_classes": classes, "latents_values": classes / 7.0}
    folder.mkdir(parents=True, exist_ok=True)
    np.savez_compressed(folder / dsprites_file.FILE, **{k: v for k, v in (arrays | changes).items() if v is not None})
    return folder / dsprites_file.FILE


WRITTEN: dict[str, tuple[Callable[[Path], object], Callable[..., Any], Factors]] = {
    "shapes3d": (write_shapes3d, Shapes3D, FEW_SHAPES3D),
    "falcor3d": (lambda folder: write_numbered(folder, FEW_FALCOR3D, "train-rec.labels"), Falcor3D, FEW_FALCOR3D),
    "isaac3d": (lambda folder: write_numbered(folder, FEW_ISAAC3D, "labels.npy"), Isaac3D, FEW_ISAAC3D),
    "dsprites": (write_dsprites, DSprites, FEW_DSPRITES),
}
