"""One real sequence for each factor of Falcor3D and Isaac3D, as their authors show them."""

from __future__ import annotations

from pathlib import Path
from typing import Literal

import numpy as np
import torch
from torch import Tensor

from data.factors import FALCOR3D, ISAAC3D
from data.files import DataError, data_folder
from data.numbered import read_png

_FACTORS = {"falcor3d": FALCOR3D, "isaac3d": ISAAC3D}


def samples(name: Literal["falcor3d", "isaac3d"], folder: Path | None = None) -> dict[str, Tensor]:
    """For each factor, in order, its sequence (states, 3, 128, 128), uint8; all others are the same in all its frames.

    The folder, by default ``falcor3d_samples`` or ``isaac3d_samples`` in the data folder, has the files ``<j>_<name>/<t>.png``,
    value t of the j-th factor.

    Raises:
        DataError: a file or a folder is not there, or too many, or damaged; it is named.
        OSError: the system does not let one be read.
    """
    if name not in _FACTORS:
        raise ValueError(f"name: got {name!r}, expected one of {', '.join(_FACTORS)}")
    factors = _FACTORS[name]
    folder = data_folder() / f"{name}_samples" if folder is None else folder
    expected = [f"{j}_{factor}" for j, factor in enumerate(factors.names)]
    found = _names(folder)
    if found != set(expected):
        raise DataError(
            f"{folder}: got {', '.join(sorted(found)) or 'nothing'}, expected the folders {', '.join(expected)}; "
            "unpack the samples again"
        )
    return {
        factor: _sequence(folder / place, size)
        for factor, place, size in zip(factors.names, expected, factors.sizes, strict=True)
    }


def _sequence(folder: Path, states: int) -> Tensor:
    found = _names(folder)
    expected = {f"{t}.png" for t in range(states)}
    if found != expected:
        raise DataError(
            f"{folder}: got {', '.join(sorted(found)) or 'nothing'}, expected 0.png to {states - 1}.png, one for each value"
        )
    frames = np.stack([read_png(folder / f"{t}.png") for t in range(states)])
    return torch.from_numpy(frames).permute(0, 3, 1, 2)


def _names(folder: Path) -> set[str]:
    if not folder.is_dir():
        raise DataError(
            f"{folder}: got no such folder, expected one with sample sequences; set LATENTFLOW_DATA to "
            "where they are, docs/datasets.md says where they come from"
        )
    return {path.name for path in folder.iterdir() if not path.name.startswith(".")}
