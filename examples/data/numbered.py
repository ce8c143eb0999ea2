"""Falcor3D and Isaac3D: a folder of numbered PNG files, and a NumPy array that says which factors each was rendered with."""

from __future__ import annotations

import os
from functools import partial
from io import BytesIO
from pathlib import Path

import numpy as np
import torch
from PIL import Image
from torch import Tensor

from data.factors import FALCOR3D, ISAAC3D, Factors
from data.files import DataError, data_folder
from data.store import Store

SIDE = 128
_LABELS = {"Falcor3D": "train-rec.labels", "Isaac3D": "labels.npy"}
_COLUMNS = {len(FALCOR3D.sizes): "Falcor3D", len(ISAAC3D.sizes): "Isaac3D"}
_TOLERANCE = 1e-3  # of labels: far above what float32 rounds away, far below the step of any factor


class Numbered:
    """Images by the values of their factors, from `folder`, by default the first of `folders` in the data folder.

    Names and number of the images and all labels are checked when it is opened, and each image when it is read. Decoded images
    are kept in the folder `store`, by default beside the images. No pickle is opened.

    Raises:
        DataError: a file is not there, or damaged, or another; it is named. A PNG file has checksums, labels are known.
        OSError: the system does not let a file or a folder be read.
    """

    side = SIDE

    def __init__(
        self,
        folder: Path | None = None,
        *,
        name: str,
        folders: tuple[str, ...],
        factors: Factors,
        store: Path | None = None,
    ) -> None:
        places = [data_folder() / place for place in folders] if folder is None else [folder]
        found = next((place for place in places if (place / "images").is_dir()), None)
        if found is None:
            raise DataError(
                f"{name}: got no folder images in {' or '.join(map(str, places))}, expected {folders[-1]} as its archive of "
                "128x128 images unpacks; put it there or set LATENTFLOW_DATA"
            )
        self.folder, self.factors = found, factors
        labels = found / _LABELS[name]
        _check_labels(labels, name, factors)
        _check_names(found / "images", len(factors))
        for number in (0, len(factors) // 2, len(factors) - 1):
            self._read(number)
        told = labels.stat()
        self._store = Store(
            (store or found) / f"{name.lower()}.decoded",
            len(factors),
            (SIDE, SIDE, 3),
            1,
            self._read,
            {
                "labels": labels.name,
                "bytes": told.st_size,
                "modified": told.st_mtime_ns,
                # Changes when a file comes, goes or is replaced.
                "images modified": (found / "images").stat().st_mtime_ns,
            },
        )

    def images(self, values: Tensor) -> Tensor:
        """The images (N, 3, 128, 128), uint8, channels last in memory, of these values (N, F)."""
        images = self._store(self.factors.index(values).numpy())
        return torch.from_numpy(images).permute(0, 3, 1, 2)

    def _read(self, number: int) -> np.ndarray:
        return read_png(self.folder / "images" / f"{number:06d}.png")[None]


Falcor3D = partial(Numbered, name="Falcor3D", folders=("falcor3d", "Falcor3D_down128"), factors=FALCOR3D)
Isaac3D = partial(Numbered, name="Isaac3D", folders=("isaac3d", "Isaac3D_down128"), factors=ISAAC3D)


def read_png(path: Path) -> np.ndarray:
    """The image (128, 128, 3) in a PNG file, in colour whatever the file has."""
    try:
        content = BytesIO(path.read_bytes())
        with Image.open(content, formats=("PNG",)) as image:
            image.verify()  # compares checksums, which decoding does not, in a twentieth of its time
        with Image.open(content, formats=("PNG",)) as image:
            width, height = image.size
            pixels = np.array(image.convert("RGB")) if width == height == SIDE else None  # others may be huge
    except Exception as error:
        raise DataError(
            f"{path}: got {error or type(error).__name__}, expected a whole PNG file; unpack it again"
        ) from error
    if pixels is None:
        raise DataError(
            f"{path}: got {width}x{height}, expected {SIDE}x{SIDE}; use the data set's archive of 128x128 images"
        )
    return pixels


def _check_names(folder: Path, count: int) -> None:
    with os.scandir(folder) as entries:
        names = {entry.name for entry in entries if entry.name.endswith(".png")}
    for number in range(count):
        if f"{number:06d}.png" not in names:
            raise DataError(
                f"{folder}: got no {number:06d}.png among {len(names)} PNG files, expected 000000.png to {count - 1:06d}.png; "
                "unpack the archive again"
            )
    if len(names) > count:
        other = min(names - {f"{number:06d}.png" for number in range(count)})
        raise DataError(
            f"{folder}: got {len(names)} PNG files with {other}, expected {count}, 000000.png to {count - 1:06d}.png; "
            "this is another data set, or something was put beside it"
        )


def _check_labels(path: Path, name: str, factors: Factors) -> None:
    if not path.is_file():
        other = next((other for other, file in _LABELS.items() if (path.parent / file).is_file()), None)
        advice = f"this is a folder of {other}" if other else "unpack the archive again"
        raise DataError(f"{path.parent}: got no {path.name}, expected the labels of {name}; {advice}")
    try:
        labels = np.load(path, allow_pickle=False)  # by its content: the extension does not matter
    except Exception as error:
        raise DataError(f"{path}: got {error}, expected a whole .npy file of numbers; unpack it again") from error
    expected = (len(factors), len(factors.sizes))
    if not isinstance(labels, np.ndarray):
        raise DataError(f"{path}: got several arrays, expected one; is this the folder of {name}?")
    if labels.dtype.kind != "f" or labels.shape != expected:
        other = _COLUMNS.get(labels.shape[-1], name) if labels.ndim == 2 else name
        advice = f"these are the labels of {other}, not of {name}" if other != name else "unpack it again"
        raise DataError(f"{path}: got {labels.shape} of {labels.dtype}, expected {expected} of floats; {advice}")
    for j, (base, size, factor) in enumerate(zip(factors.bases, factors.sizes, factors.names, strict=True)):
        expected_labels = np.arange(len(labels)) // base % size / max(size - 1, 1)
        wrong = np.flatnonzero(~(np.abs(labels[:, j] - expected_labels) <= _TOLERANCE))  # not a number is wrong too
        if len(wrong):
            row = wrong[0]
            raise DataError(
                f"{path}: got {labels[row, j]} for {factor} of image {row}, expected {expected_labels[row]:.4f}; "
                f"these are not the labels of {name}"
            )
