"""The 1,797 handwritten digits (8x8, 17 grey levels) that scikit-learn carries: nothing to download."""

from __future__ import annotations

import numpy as np
import torch
from sklearn.datasets import load_digits
from torch import Tensor
from torch.nn import functional as F

HELD_OUT = 360


def digits(side: int = 16) -> tuple[Tensor, Tensor]:
    """Training (1437, side, side) and held-out (360, side, side) digits in [0, 1].

    The last 360 of a permutation drawn with seed 0 are held out.
    """
    images = torch.tensor(load_digits().images / 16.0, dtype=torch.float32)
    images = F.interpolate(images[:, None], (side, side), mode="bilinear", align_corners=False)[:, 0]
    images = images[torch.from_numpy(np.random.default_rng(0).permutation(len(images)))]
    return images[:-HELD_OUT], images[-HELD_OUT:]
