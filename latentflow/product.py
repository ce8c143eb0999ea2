"""Products of stacks of matrices, scaled or added to something.

PyTorch does that in one operation, which copies what is added to first. A compiler does better with two: it scales and adds
on the way to whatever comes next.
"""

from __future__ import annotations

import functools

import torch
from torch import Tensor


def plus_product(x: Tensor, left: Tensor, right: Tensor) -> Tensor:
    """The sum x + left right, for x that may broadcast."""
    if torch.compiler.is_compiling():
        return x + torch.bmm(left, right)
    return torch.baddbmm(x, left, right)


def add_product(x: Tensor, left: Tensor, right: Tensor) -> Tensor:
    """The same, for x that nobody needs any more: it is written to, where PyTorch does so in one go."""
    if torch.compiler.is_compiling() or not x.is_contiguous():
        return plus_product(x, left, right)
    return x.baddbmm_(left, right)


def times_vectors(matrices: Tensor, vectors: Tensor) -> Tensor:
    """Products of matrices (G, N, h) with a vector each, (G, h): (G, N).

    The vectors as rows: with columns, the products of a stack of matrices take much longer.
    """
    return torch.bmm(vectors[:, None], matrices.mT).squeeze(1)


def over_rows(x: Tensor) -> Tensor:
    """The sum over the M rows of each step, (G, S, n), for x (G, S, M, n).

    A few are added one to another: along so short an axis, torch's sum takes longer.
    """
    return functools.reduce(torch.add, x.unbind(2)) if few(x.shape[2]) else x.sum(2)


def few(rows: int) -> bool:
    """Whether each step has so few rows, as labels have them, that what is done once for each step costs as much."""
    return not torch.compiler.is_compiling() and 0 < rows <= 3


def twice_negative(left: Tensor, right: Tensor) -> Tensor:
    """-2 left right."""
    if torch.compiler.is_compiling():
        return -2 * torch.bmm(left, right)
    return torch.baddbmm(left.new_zeros(()), left, right, beta=0, alpha=-2)


def divided(x: Tensor, substeps: int) -> Tensor:
    """The share of one substep, at no cost for the usual 1."""
    return x if substeps == 1 else x / substeps
