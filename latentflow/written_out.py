"""Where the backward passes that we write out stand in for autograd, and how they are differentiated themselves.

Autograd records small operations one by one and runs about twice as many backwards. A written-out pass takes what it needs
from the way there, adds gradients up inside of its products and keeps no graph. It knows ordinary first derivatives only.
For all else, higher derivatives, `torch.func` and forward mode, there is the plain function, of operations that PyTorch knows.
"""

from __future__ import annotations

import functools
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


def hidden(function: Callable[..., Any]) -> Callable[[], bool]:
    """Make what is to be called before `function`, so that the frontend of torch.compile takes that for one operation.

    Its backend looks inside all the same. The frontend would have every name in there looked up again in each call of the
    compiled code, which takes long after other work has taken the caches. To mark the function without being asked would
    import the frontend, which takes long too.
    """

    def mark() -> bool:
        if torch.compiler.is_compiling():
            torch.compiler.allow_in_graph(function)  # type: ignore[no-untyped-call]
        return True

    mark._dynamo_marked_constant = True  # type: ignore[attr-defined]  # run, not traced; see torch.compiler.assume_constant_result
    return mark


def room(like: Tensor, num: int) -> tuple[Tensor | None, Sequence[Any]]:
    """An array (G, N, ...) with its blocks along N, for an adjoint to write to, which costs less than to join them.

    Nothing, and Nones, where it is compiled: a compiler finds the place for each block, and does so better without.
    """
    if torch.compiler.is_compiling():
        return None, [None] * num
    array = torch.empty_like(like)
    return array, array.chunk(num, 1)


def autocast_off(device: str) -> AbstractContextManager[object]:
    """Inside, everything is computed in the precision of its inputs."""
    if not torch.compiler.is_compiling() and not torch.is_autocast_enabled(device):
        return nullcontext()  # to enter autocast takes as long as two small operations
    return torch.autocast(device, enabled=False)


def apart_from_autocast(backward: Callable[..., tuple[Tensor | None, ...]]) -> Callable[..., tuple[Tensor | None, ...]]:
    """The backward pass in the precision of the way there, though it should be called for inside of autocast."""

    @functools.wraps(backward)
    def inner(ctx: Any, *by_outputs: Tensor | None) -> tuple[Tensor | None, ...]:
        with autocast_off(next(x.device.type for x in by_outputs if x is not None)):
            return backward(ctx, *by_outputs)

    return inner


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
