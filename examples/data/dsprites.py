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
from data.files import DAMAGES, DataError, data_folder

FILE = "dsprites_ndarray_co1sh3sc6or40x32y32_64x64.npz"
_AT_ONCE = 4096  # images unpacked in one piece


class DSprites:
    """Images by the values of their factors, from `folder`, by default ``dsprites`` in the data folder.

    All images are in memory, eight pixels to a byte: 377 MB instead of 3 GB. Only the images and the numbers of their factors
    are read: the file's metadata is a pickle, which could run code.
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
                    self._check_classes(np.lib.format.read_array(file, allow_pickle=False))
                with archive.open("imgs.npy") as file:
                    self._bits = self._packed(file)
        except DataError:
            raise
        except DAMAGES as error:
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
        version = np.lib.format.read_magic(file)
        read_header = np.lib.format.read_array_header_1_0 if version == (1, 0) else np.lib.format.read_array_header_2_0
        shape, by_column, dtype = read_header(file)
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

    def _check_classes(self, classes: np.ndarray) -> None:
        """The first column is the one colour."""
        truth = self.factors.values(torch.arange(len(self.factors))).numpy()
        if classes.shape != (len(truth), truth.shape[1] + 1) or not np.array_equal(classes[:, 1:], truth):
            raise DataError(
                f"{self.path}: got latents_classes {classes.shape} in another order, expected {len(truth)} rows of "
                f"color, {', '.join(self.factors.names)}, the last running fastest; download it again"
            )

    def _other(self, found: str) -> DataError:
        return DataError(
            f"{self.path}: got {found}, expected ({len(self.factors)}, {self.side}, {self.side}) of uint8 in (0, 1); "
            "download it again"
        )


def dsprites(count: int, side: int, seed: int = 0, folder: Path | None = None) -> Tensor | None:
    """Images (count, side, side) in [0, 1], chosen at random, of shapes that no digit has; None where the file is not there."""
    folder = data_folder() / "dsprites" if folder is None else folder
    if not (folder / FILE).is_file():
        return None
    sprites = DSprites(folder)
    chosen = np.random.default_rng(seed).integers(len(sprites.factors), size=count)
    images = sprites.images(sprites.factors.values(torch.from_numpy(chosen)))[:, :1].float() / 255
    return F.interpolate(images, (side, side), mode="area")[:, 0]
