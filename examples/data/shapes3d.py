"""Shapes3D: 480,000 images of 64x64 in one HDF5 file, of which one batch needs a few."""

from __future__ import annotations

import hashlib
from pathlib import Path

import h5py
import numpy as np
import torch
from torch import Tensor

from data.factors import SHAPES3D, Factors
from data.files import DataError, data_folder
from data.store import Store

FILE = "3dshapes.h5"
# md5 of the file that has these factors, where one is published.
HASHES = {SHAPES3D: "099a2078d58cec4daad0702c55d06868"}
_OWN_FILTERS = (*range(256), h5py.h5z.FILTER_LZF)  # others are code, which HDF5 looks for in folders of plugins
_SIGNATURE = b"\x89HDF\r\n\x1a\n"


class Shapes3D:
    """Images by the values of their factors, from `folder`, by default the data folder or ``shapes3d`` in it.

    The file is checked when it is opened, by its md5 first: HDF5 sees no other file than the one that was published. Of other
    factors, whose files have no known hash, layout and labels are checked, and that nothing lies outside of the file.

    Its chunks may span thousands of images, which is slow to read from at random: decoded images are kept in the folder
    `store`, by default beside the file.

    Raises:
        DataError: the file is not there, or damaged, or another; it is named. Damage to images of a file without a known hash
            is found when they are read, if at all.
        OSError: the system does not let it be read.
    """

    side = 64

    def __init__(self, folder: Path | None = None, factors: Factors = SHAPES3D, store: Path | None = None) -> None:
        folders = (data_folder() / "shapes3d", data_folder()) if folder is None else (folder,)
        found = next((place / FILE for place in folders if (place / FILE).is_file()), None)
        if found is None:
            raise DataError(
                f"Shapes3D: got no {FILE} in {' or '.join(map(str, folders))}, expected it there; download it from "
                "https://storage.googleapis.com/3d-shapes/3dshapes.h5 or set LATENTFLOW_DATA"
            )
        self.path, self.factors = found, factors
        self._rows = self._check()
        told = self.path.stat()
        self._store = Store(
            (store or self.path.parent) / "3dshapes.decoded",
            len(factors),
            (self.side, self.side, 3),
            self._rows,
            self._read,
            {"file": FILE, "bytes": told.st_size, "modified": told.st_mtime_ns},
        )

    def images(self, values: Tensor) -> Tensor:
        """The images (N, 3, 64, 64), uint8, channels last in memory, of these values (N, F)."""
        images = self._store(self.factors.index(values).numpy())
        return torch.from_numpy(images).permute(0, 3, 1, 2)

    def _read(self, number: int) -> np.ndarray:
        try:
            with h5py.File(self.path, "r") as file:  # opened anew, as an open file does not survive a fork
                return file["images"][number * self._rows : (number + 1) * self._rows]
        except Exception as error:
            raise DataError(f"{self.path}: got {error}, expected whole images; download it again") from error

    def _check(self) -> int:
        """How many images share chunks, if all is as it should be."""
        with self.path.open("rb") as file:
            signature = file.read(len(_SIGNATURE))
        if signature != _SIGNATURE:
            raise DataError(
                f"{self.path}: got signature {signature.hex() or 'nothing'}, expected {_SIGNATURE.hex()}; this is no HDF5 file"
            )
        self._check_hash()
        try:
            with h5py.File(self.path, "r") as file:
                rows = self._check_layout(file, "images", (len(self.factors), self.side, self.side, 3), np.uint8)
                self._check_layout(file, "labels", (len(self.factors), len(self.factors.sizes)), np.float64)
                labels = file["labels"][:]
        except DataError:
            raise
        except Exception as error:
            raise DataError(f"{self.path}: got {error}, expected a whole HDF5 file; download it again") from error
        self._check_labels(labels)
        return rows

    def _check_hash(self) -> None:
        expected = HASHES.get(self.factors)
        if expected is None:
            return
        with self.path.open("rb") as file:
            found = hashlib.file_digest(file, "md5").hexdigest()
        if found != expected:
            raise DataError(
                f"{self.path}: got {self.path.stat().st_size} bytes with md5 {found}, expected those of Shapes3D's "
                f"{len(self.factors)} images, {expected}; download it again"
            )

    def _check_layout(self, file: h5py.File, name: str, shape: tuple[int, ...], dtype: type[np.generic]) -> int:
        found = file.get(name)
        if not isinstance(found, h5py.Dataset):
            raise DataError(
                f"{self.path}: got {', '.join(file) or 'nothing'}, expected images and labels; download it again"
            )
        if found.shape != shape or found.dtype != dtype:
            raise DataError(
                f"{self.path}: got {name} {found.shape} of {found.dtype}, expected {shape} of {np.dtype(dtype)}; "
                "this is not Shapes3D"
            )
        elsewhere = found.external or found.is_virtual or not isinstance(file.get(name, getlink=True), h5py.HardLink)
        made = found.id.get_create_plist()
        filters = [made.get_filter(i)[0] for i in range(made.get_nfilters())]
        if elsewhere or any(code not in _OWN_FILTERS for code in filters):
            raise DataError(
                f"{self.path}: got {name} that lies in another file or behind filters {filters}, expected it in this file; "
                "this is not Shapes3D"
            )
        return found.chunks[0] if found.chunks else 1

    def _check_labels(self, labels: np.ndarray) -> None:
        """Each column must take one number for each value of its factor, rising or falling, whatever the other factors are."""
        for name, base, size, column in zip(
            self.factors.names, self.factors.bases, self.factors.sizes, labels.T, strict=True
        ):
            table = column[: base * size : base]
            steps = np.diff(table)
            value = np.arange(len(labels)) // base % size
            if not ((steps > 0).all() or (steps < 0).all()) or not np.array_equal(column, table[value]):
                raise DataError(
                    f"{self.path}: got labels of {name} in another order, expected {size} values of which each lasts {base} "
                    "images; this is another version of Shapes3D"
                )
