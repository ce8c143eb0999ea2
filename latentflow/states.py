"""Whether tensors still are what they were."""

from __future__ import annotations

import torch
from torch import Tensor
from torch.nn import Parameter
from torch.optim.optimizer import register_optimizer_step_post_hook

from latentflow.contexts import times_written, transformed

State = tuple[tuple[int, int, int, bool, int], ...]

_optimised = 0  # steps of all optimisers


def _count(*_: object) -> None:
    """A fused optimiser does not tell PyTorch that it writes to parameters."""
    global _optimised
    _optimised += 1


register_optimizer_step_post_hook(_count)


def states(*tensors: object) -> State:
    """Which tensor each is, how often it has been written to, whether it learns, and where its numbers lie.

    The same answer later means the same tensors, for as long as somebody keeps them. What is written to `tensor.data` or to
    `tensor.detach().numpy()`, or to a tensor made under inference mode, nobody can tell. Inside of a compiled graph nothing
    comes in between; between two graphs it would not be noticed.
    """
    if torch.compiler.is_compiling():
        return ()
    wrapped = transformed()  # then they do not lie anywhere, as those of many subclasses do not
    return tuple(
        (
            id(x),
            times_written(x),
            _optimised if isinstance(x, Parameter) or (x.requires_grad and x.is_leaf) else 0,
            x.requires_grad,
            x.data_ptr() if not wrapped and type(x) in (Tensor, Parameter) else 0,
        )
        for x in tensors
        if isinstance(x, Tensor)
    )
