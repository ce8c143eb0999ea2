"""dSprites: 737,280 black and white images of 64x64 in one archive, kept as bits."""

from __future__ import annotations

import zipfile
from pathlib import Path
from typing import IO

import numpy as np
import torch
from torch import Tensor
from torch.nn import functional as F

from data.factors import DSPRITES, Factors
from data.files import DataError, data_folder

FILE = "dsprites_ndarray_co1sh3sc6or40x32y32_64x64.npz"
_AT_ONCE = 4096  # images unpacked in one piece


class DSprites:
    """Images by the values of their factors, from `folder`, by default ``dsprites`` in the data folder.

    All images are in memory, eight pixels to a byte: 377 MB instead of 3 GB. Only the images and the numbers of their factors
    are read: the file's metadata is a pickle, which could run code. Everything that is read has the archive's checksums.

    Raises:
        DataError: the file is not there, or damaged, or another; it is named.
        OSError: the system does not let it be read.
    """

    side = 64

    def __init__(self, folder: Path | None = None, factors: Factors = DSPRITES) -> None:
        self.path = (data_folder() / "dsprites" if folder is None else folder) / FILE
        self.factors = factors
        if not self.path.is_file():
            raise DataError(
                f"dSprites: got no {FILE} in {self.path.parent}, expected it there; download it from "
                "https://github.com/deepmind/dsprites-dataset or set LATENTFLOW_DATA"
            )
        try:
            with zipfile.ZipFile(self.path) as archive:
                with archive.open("latents_classes.npy") as file:
                    self._check_classes(file)
                with archive.open("imgs.npy") as file:
                    self._bits = self._packed(file)
        except DataError:
            raise
        except Exception as error:
            raise DataError(
                f"{self.path}: got {error or type(error).__name__}, expected dSprites with arrays imgs and latents_classes; "
                "download it again"
            ) from error

    def images(self, values: Tensor) -> Tensor:
        """The images (N, 3, 64, 64), uint8, 0 or 255 in all three channels, of these values (N, F)."""
        bits = self._bits[self.factors.index(values).numpy()]
        white = torch.from_numpy(255 * np.unpackbits(bits, axis=1))
        return white.view(-1, 1, self.side, self.side).repeat(1, 3, 1, 1)

    def _packed(self, file: IO[bytes]) -> np.ndarray:
        """The bits (count, 512) of the array in this member, a few thousand images at a time."""
        shape, by_column, dtype = _header(file)
        count, pixels = len(self.factors), self.side**2
        if shape != (count, self.side, self.side) or dtype != np.uint8 or by_column:
            raise self._other(f"imgs {shape} of {dtype}")
        packed = np.empty((count, pixels // 8), np.uint8)
        for first in range(0, count, _AT_ONCE):
            part = packed[first : first + _AT_ONCE]
            content = np.frombuffer(file.read(len(part) * pixels), np.uint8)
            if len(content) < len(part) * pixels:
                raise EOFError(f"images up to {first + len(content) // pixels} of {count}")
            if content.max() > 1:
                raise self._other(f"imgs up to {content.max()}")
            part[:] = np.packbits(content.reshape(len(part), pixels), axis=1)
        if file.read(1):  # which also has the archive's checksum compared
            raise self._other(f"more than {count} images")
        return packed

    def _check_classes(self, file: IO[bytes]) -> None:
        """The first column is the one colour."""
        truth = self.factors.values(torch.arange(len(self.factors))).numpy()
        expected = (len(truth), truth.shape[1] + 1)
        shape, by_column, dtype = _header(file)
        if shape == expected and dtype.kind in "iu":  # only then is anything of that size read
            content = np.frombuffer(file.read(len(truth) * expected[1] * dtype.itemsize), dtype)
            classes = content.reshape(expected, order="F" if by_column else "C")
            if np.array_equal(classes[:, 1:], truth):
                return
        raise DataError(
            f"{self.path}: got latents_classes {shape} of {dtype} in another order, expected {len(truth)} rows of integers for "
            f"color, {', '.join(self.factors.names)}, the last running fastest; download it again"
        )

    def _other(self, found: str) -> DataError:
        return DataError(
            f"{self.path}: got {found}, expected ({len(self.factors)}, {self.side}, {self.side}) of uint8 in (0, 1); "
            "download it again"
        )


def _header(file: IO[bytes]) -> tuple[tuple[int, ...], bool, np.dtype[np.generic]]:
    """Shape, whether it is stored by column, and dtype of the array in this member."""
    version = np.lib.format.read_magic(file)
    read_header = np.lib.format.read_array_header_1_0 if version == (1, 0) else np.lib.format.read_array_header_2_0
    return read_header(file)


def dsprites(count: int, side: int, seed: int = 0, folder: Path | None = None) -> Tensor | None:
    """Images (count, side, side) in [0, 1], chosen at random, of shapes that no digit has; None where the file is not there."""
    folder = data_folder() / "dsprites" if folder is None else folder
    if not (folder / FILE).is_file():
        return None
    sprites = DSprites(folder)
    chosen = np.random.default_rng(seed).integers(len(sprites.factors), size=count)
    images = sprites.images(sprites.factors.values(torch.from_numpy(chosen)))[:, :1].float() / 255
    return F.interpolate(images, (side, side), mode="area")[:, 0]
