"""Where the backward passes that we write out stand in for autograd, and how they are differentiated themselves.

Autograd records small operations one by one and runs about twice as many backwards. A written-out pass takes what it needs
from the way there, adds gradients up inside of its products and keeps no graph. It knows ordinary first derivatives only.
For all else, higher derivatives, `torch.func` and forward mode, there is the plain function, of operations that PyTorch knows.

Throughout, `by_x` is the gradient of the loss by x, its adjoint: a function `adjoint` turns those of outputs into those of
inputs.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator, Sequence
from itertools import islice
from typing import Any

import torch
from torch import Tensor

from latentflow.contexts import func_transforms, many_at_once, past_autograd, transformed
from latentflow.precision import apart_from_autocast


def serves() -> bool:
    """Whether autograd will call a backward pass that we have written out, if gradients are asked for at all."""
    if not torch.is_grad_enabled() or torch.compiler.is_compiling():
        return torch.is_grad_enabled()
    return not transformed()


def room(block: Tensor, num: int) -> tuple[Tensor | None, Sequence[Any]]:
    """An array for so many blocks like this one, (G, M, h), and these blocks: to write to them costs less than to join them.

    Nothing, and Nones, where it is compiled: a compiler finds the place for each block, and does so better without.
    """
    if torch.compiler.is_compiling():
        return None, [None] * num
    array = block.new_empty(block.shape[0], num * block.shape[1], block.shape[2])
    return array, array.chunk(num, 1)


def more_is_asked(by_outputs: Iterable[Tensor | None]) -> bool:
    """Whether a backward pass is to be differentiated itself, or sends many gradients back at once, as vmap does."""
    if torch.is_grad_enabled() or torch.compiler.is_compiling():
        return torch.is_grad_enabled()
    return func_transforms() or any(x is not None and many_at_once(x) for x in by_outputs)


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
    """The next of what was saved, as a named tuple of this kind."""
    return kind(*islice(saved, len(kind._fields)))


def with_backward(
    forward: Callable[..., tuple[tuple[Any, ...], Iterable[Tensor | None]]],
    backward: Callable[..., tuple[Tensor | None, ...]],
    constants: int = 0,
) -> Callable[..., Any]:
    """The function whose outputs `forward` gives, with its backward pass where that serves.

    Args:
        forward: from inputs to outputs, a tuple, and what is to be kept for `backward`.
        backward: from inputs, what was kept, the gradients of the outputs, and which inputs ask for theirs, to these.
        constants: how many of the inputs, the last ones, get no gradient and need not be tensors.
    """

    def plain(*inputs: Any) -> tuple[Any, ...]:
        with past_autograd():
            return forward(*inputs)[0]

    class Function(torch.autograd.Function):
        @staticmethod
        def forward(ctx: Any, *inputs: Any) -> tuple[Any, ...]:
            with past_autograd():
                outputs, kept = forward(*inputs)
            count = len(inputs) - constants
            ctx.constants = inputs[count:]
            ctx.save_for_backward(*inputs[:count], *kept)
            return outputs

        @staticmethod
        @apart_from_autocast
        def backward(ctx: Any, *by_outputs: Tensor | None) -> tuple[Tensor | None, ...]:
            saved, count = ctx.saved_tensors, len(ctx.needs_input_grad) - constants  # read once: hooks unpack each time
            inputs = *saved[:count], *ctx.constants
            if more_is_asked(by_outputs):
                return differentiably(plain, inputs, by_outputs)
            with past_autograd():
                return backward(inputs, saved[count:], by_outputs, ctx.needs_input_grad)

    def call(*inputs: Any) -> tuple[Any, ...]:
        found: tuple[Any, ...] = Function.apply(*inputs) if serves() else plain(*inputs)  # type: ignore[no-untyped-call]
        return found

    return call
