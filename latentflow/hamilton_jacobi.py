r"""The left-hand side of the Hamilton-Jacobi equation along a trajectory, and the adjoint of it.

With the names of `closed_form`, :math:`\partial_t u + \frac12 \|\nabla u\|^2 = u'\, q \cdot \tau'(t) + \frac12 \|\nabla u\|^2`.
"""

from __future__ import annotations

import torch
from torch import Tensor

from latentflow.closed_form import by_step, time_derivative
from latentflow.product import over_rows
from latentflow.tanh import slope_of


def left_hand_side(squared: Tensor, back: Tensor, value: Tensor | None, rate: Tensor) -> Tensor:
    """Of S steps of M rows, (G, S M).

    Args:
        squared: |grad u|^2 where each step starts, (G, S M).
        back: q, (G, S M, h).
        value: u, (G, S M, 1), of bounded potentials, else None.
        rate: tau'(t), (G, S, h).
    """
    derivative = time_derivative(back, rate)
    if value is not None:
        derivative = derivative * slope_of(value).squeeze(-1)
    return torch.add(derivative, squared, alpha=0.5)


def adjoint(back: Tensor, value: Tensor | None, rate: Tensor, by_left: Tensor) -> tuple[Tensor, Tensor | None, Tensor]:
    """The gradients of q, u and tau', for that of the left-hand side, (G, S M), which is also that of |grad u|^2 / 2."""
    by_left = by_left[..., None]
    by_derivative, by_value = by_left, None
    if value is not None:
        by_derivative = by_left * slope_of(value)
        by_value = (-2 * value * time_derivative(back, rate)[..., None]).mul_(by_left)
    by_steps = by_step(by_derivative, rate)
    by_rate = over_rows(by_steps * by_step(back, rate))  # which is faster than products of few rows
    return (by_steps * rate[:, :, None]).view_as(back), by_value, by_rate
