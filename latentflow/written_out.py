"""Where the backward passes that we write out stand in for autograd, and how they are differentiated themselves.

Autograd records small operations one by one and runs about twice as many backwards. A written-out pass takes what it needs
from the way there, adds gradients up inside of its products and keeps no graph. It knows ordinary first derivatives only.
For all else, higher derivatives, `torch.func` and forward mode, there is the plain function, of operations that PyTorch knows.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator, Sequence
from contextlib import AbstractContextManager, nullcontext
from itertools import islice
from typing import Any

import torch
from torch import Tensor
from torch.autograd import forward_ad


def serves() -> bool:
    """Whether a written-out backward pass is what autograd will ask for, if for anything."""
    if not torch.is_grad_enabled() or torch.compiler.is_compiling():
        return torch.is_grad_enabled()
    return not transformed()


def unrecorded() -> bool:
    """Whether nothing looks at single operations, so that they may write in place."""
    if torch.is_grad_enabled() or torch.compiler.is_compiling() or transformed():
        return False
    return torch._C._len_torch_dispatch_stack() == 0  # of modes, as that by which make_fx traces


def past_autograd() -> AbstractContextManager[object]:
    """Inside, operations go past autograd, where nothing looks at single ones.

    With gradients disabled it still looks at each operation, and at each view, only to find nothing to record.
    """
    return torch._C._AutoDispatchBelowADInplaceOrView() if unrecorded() else nullcontext()


def transformed() -> bool:
    """Whether `torch.func` or forward mode is at work."""
    return forward_ad._current_level >= 0 or torch._C._are_functorch_transforms_active()


def room(like: Tensor, num: int) -> tuple[Tensor | None, Sequence[Any]]:
    """An array (G, N, ...) with its blocks along N, for an adjoint to write to, which costs less than to join them.

    Nothing, and Nones, where it is compiled: a compiler finds the place for each block, and does so better without.
    """
    if torch.compiler.is_compiling():
        return None, [None] * num
    array = torch.empty_like(like)
    return array, array.chunk(num, 1)


def more_is_asked(by_outputs: Iterable[Tensor | None]) -> bool:
    """Whether a backward pass is to be differentiated itself, or sends many gradients back at once, as vmap does."""
    if torch.is_grad_enabled() or torch.compiler.is_compiling():
        return torch.is_grad_enabled()
    if torch._C._are_functorch_transforms_active():
        return True
    return any(x is not None and torch._C._functorch.is_legacy_batchedtensor(x) for x in by_outputs)


def differentiably(
    function: Callable[..., tuple[Any, ...]], inputs: tuple[Any, ...], by_outputs: tuple[Tensor | None, ...]
) -> tuple[Tensor | None, ...]:
    """The gradients of `inputs` that the plain function sends back for those of its outputs, with a graph if one is kept."""
    kept = torch.is_grad_enabled()
    with torch.enable_grad():
        # Of aliases: an input that is made of another one would send its gradient on to that.
        aliases = [x.view_as(x) if isinstance(x, Tensor) else x for x in inputs]
        given = zip(function(*aliases), by_outputs, strict=True)
        pairs = [(y, by) for y, by in given if y is not None and y.requires_grad and by is not None]
        outputs, by = zip(*pairs, strict=True)
        asked = [x for x in aliases if isinstance(x, Tensor) and x.requires_grad]
        found = iter(torch.autograd.grad(outputs, asked, by, create_graph=kept, allow_unused=True))
        return tuple(next(found) if isinstance(x, Tensor) and x.requires_grad else None for x in aliases)


def take(saved: Iterator[Any], kind: Any) -> Any:
    """The next of what was saved, as a named tuple of this kind. To be read but once: hooks may unpack it each time."""
    return kind(*islice(saved, len(kind._fields)))
