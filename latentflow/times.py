"""The times at which Euler's substeps evaluate the potentials."""

from __future__ import annotations

import torch
from torch import Tensor

from latentflow.product import divided

LABELS = ("end", "start")  # of its unit of time, at which a step's potential is evaluated


def euler_times(steps: int, substeps: int, label: str, like: Tensor) -> Tensor:
    """The time at which each substep evaluates the potential, (steps, substeps)."""
    offset = 1 if label == "end" else 0
    fine = torch.arange(offset, offset + steps * substeps, dtype=like.dtype, device=like.device)
    return divided(fine, substeps).view(steps, substeps)
