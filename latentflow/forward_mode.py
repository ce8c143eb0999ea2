"""Forward-mode derivatives have no rule in our own autograd functions, whose callers then take PyTorch's way."""

from __future__ import annotations

import torch
from torch.autograd import forward_ad


def at_work() -> bool:
    """Whether derivatives are carried forwards at all: a tensor does not tell what lies below an inner transform."""
    return not torch.compiler.is_compiling() and forward_ad._current_level >= 0
