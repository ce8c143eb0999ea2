"""Forward-mode derivatives have no rule in our own autograd functions, whose callers then take PyTorch's way."""

from __future__ import annotations

import torch
from torch import Tensor
from torch.autograd.forward_ad import unpack_dual


def carries_tangent(*inputs: object) -> bool:
    """Whether any of the inputs is a tensor that carries a derivative forwards."""
    if torch.compiler.is_compiling():
        return False
    return any(isinstance(x, Tensor) and unpack_dual(x).tangent is not None for x in inputs)  # type: ignore[no-untyped-call]
