"""Everything in the precision of its inputs, and in no less than float32, whatever autocast says."""

from __future__ import annotations

import functools
from collections.abc import Callable
from contextlib import AbstractContextManager, nullcontext
from typing import Any, ParamSpec, TypeVar

import torch
from torch import Tensor
from torch.distributions import Distribution

Inputs = ParamSpec("Inputs")
Found = TypeVar("Found")


def autocast_off(device: str) -> AbstractContextManager[object]:
    """Inside, everything is computed in the precision of its inputs."""
    looked_at = not torch.compiler.is_compiling()
    if looked_at and not (torch.amp.is_autocast_available(device) and torch.is_autocast_enabled(device)):
        return nullcontext()  # to enter autocast takes as long as two small operations
    return torch.autocast(device, enabled=False)


def without_autocast(x: object) -> AbstractContextManager[object]:
    """Inside, everything is computed in the precision of its inputs; x, a tensor or a distribution, says on which device."""
    return autocast_off(_device_type(x))


def in_own_precision(method: Callable[Inputs, Found]) -> Callable[Inputs, Found]:
    """The method of a module, of tensors, in the precision of these, whatever autocast says."""

    @functools.wraps(method)
    def inner(*inputs: Inputs.args, **options: Inputs.kwargs) -> Found:
        given = (x for x in (*inputs, *options.values()) if isinstance(x, Tensor))
        with without_autocast(next(given, None)):
            return method(*inputs, **options)

    return inner


def apart_from_autocast(backward: Callable[..., tuple[Tensor | None, ...]]) -> Callable[..., tuple[Tensor | None, ...]]:
    """The backward pass in the precision of the way there, though it should be called for inside of autocast."""

    @functools.wraps(backward)
    def inner(ctx: Any, *by_outputs: Tensor | None) -> tuple[Tensor | None, ...]:
        with autocast_off(next(x.device.type for x in by_outputs if x is not None)):
            return backward(ctx, *by_outputs)

    return inner


def in_full_precision(z: Tensor) -> Tensor:
    """Half-precision tensors as float32, others as they are."""
    return z.float() if is_half(z) else z


def is_half(x: Tensor) -> bool:
    return x.dtype.itemsize == 2 and x.is_floating_point()


def _device_type(x: object) -> str:
    if isinstance(x, Distribution):
        try:
            x = x.mean
        except NotImplementedError:  # a transformed distribution does not know its mean
            return _device_type(getattr(x, "base_dist", None))
    return x.device.type if isinstance(x, Tensor) else "cpu"
