"""Networks chosen from a stack of K, and gradients that go back to the whole stack."""

from __future__ import annotations

from collections.abc import Iterable
from typing import Any

import torch
from torch import Tensor

Choice = int | Tensor | None  # the one network, or that of each of G groups, (G,); None are all of them


def chosen(parameter: Tensor, k: Choice) -> Tensor:
    """Of a parameter (K, ...), the k-th network's slice with its first axis kept, those of the networks listed, or all."""
    if isinstance(k, Tensor):
        return parameter.index_select(0, k)
    return parameter if k is None else parameter[k : k + 1]


def all_chosen(parameters: Iterable[Tensor | None], k: Choice) -> list[Any]:
    """`chosen` of each of them that there is."""
    return [None if parameter is None else chosen(parameter, k) for parameter in parameters]


def in_parts(networks: Iterable[Tensor | None], num: int) -> list[Any]:
    """One network for each of `num` parts of its rows, (num, ...) of (1, ...); more networks as they are."""
    return [x if x is None or num == 1 or x.shape[0] > 1 else x.expand(num, *x.shape[1:]) for x in networks]


def of_parts(gradients: Iterable[Tensor | None], num: int) -> list[Any]:
    """The gradients of what was put `in_parts`, for `num` networks."""
    return [x if x is None or x.shape[0] == num else x.sum(0, keepdim=True) for x in gradients]


def to_all(gradient: Tensor, k: Choice, num: int) -> Tensor:
    """The gradient of a whole parameter, (K, ...), for that of what was `chosen` of it."""
    if k is None or (not isinstance(k, Tensor) and num == 1):  # all of them, or the one of a stack of one
        return gradient
    if isinstance(k, Tensor):
        return gradient.new_zeros(num, *gradient.shape[1:]).index_add_(0, k, gradient)
    return torch.constant_pad_nd(gradient, (*(0, 0) * (gradient.ndim - 1), k, num - k - 1))


def each_to_all(gradients: Iterable[Tensor | None], k: Choice, num: int) -> list[Tensor | None]:
    """`to_all` of each of them that there is."""
    return [None if gradient is None else to_all(gradient, k, num) for gradient in gradients]
