"""Which images are for training, validation and testing, and where a sequence of each may start."""

from __future__ import annotations

from typing import Literal

import numpy as np
import torch
from torch import Tensor

from data.factors import Factors

Split = Literal["train", "validation", "test"]
SPLITS: tuple[Split, ...] = ("train", "validation", "test")


def parts(count: int, seed: int = 0) -> np.ndarray:
    """For each of so many images its place in `SPLITS` (count,): 90, 5 and 5 in a hundred.

    SplitMix64 of the image's index, written out, so that the split is the same on every machine and in all versions of the
    libraries, and that of an image does not depend on how many there are.
    """
    x = np.arange(1, count + 1, dtype=np.uint64) * np.uint64(0x9E3779B97F4A7C15) + np.uint64(seed)
    x = (x ^ (x >> np.uint64(30))) * np.uint64(0xBF58476D1CE4E5B9)
    x = (x ^ (x >> np.uint64(27))) * np.uint64(0x94D049BB133111EB)
    x = (x ^ (x >> np.uint64(31))) % np.uint64(20)
    return np.where(x < 18, 0, x - 17).astype(np.uint8)


def starts(factors: Factors, factor: int, states: int, split: Split, seed: int = 0) -> Tensor:
    """The images (N,), value 0 of `factor`, from which a sequence of that factor with so many states may start.

    All images of a training sequence are training images. A validation or test sequence starts at a validation or test image:
    that image is never seen in training, at any place of any sequence. What follows it may have been.
    """
    if split not in SPLITS:
        raise ValueError(f"split: got {split!r}, expected one of {', '.join(SPLITS)}")
    factors.check_run(factor, states)
    index = np.moveaxis(np.arange(len(factors)).reshape(factors.sizes), factor, 0)
    part = np.moveaxis(parts(len(factors), seed).reshape(factors.sizes), factor, 0)
    fits = (part[:states] == 0).all(0) if split == "train" else part[0] == SPLITS.index(split)
    return torch.from_numpy(index[0][fits])
