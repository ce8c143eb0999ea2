"""What holds of the Hamilton-Jacobi residual, its exact solutions, and the penalty made of it."""

from __future__ import annotations

from collections.abc import Callable

import torch
from torch import Tensor, nn

from latentflow import derivatives
from latentflow.constraint import HJConstraint
from latentflow.path import LatentPath
from latentflow.testing.comparison import allowance, compare
from latentflow.testing.potentials import DIFFERENCES, Function
from latentflow.testing.reference import Estimate, difference_gradients, difference_rates, rows


def assert_residual(
    potential: nn.Module,
    z: Tensor,
    t: Tensor | float,
    *,
    force: nn.Module | None = None,
    residual: Function | None = None,
    tolerance: float | None = None,
) -> None:
    r"""Assert that :math:`r^k = \partial_t u^k + \frac12 \|\nabla u^k\|^2 - f^k`, by finite differences, sample by sample.

    Args:
        potential: any module with ``forward(z, t) -> (..., K)``.
        z, t: latents (..., dim) and times that broadcast to (...).
        force: f, likewise; None is 0.
        residual: your own arithmetic, judged instead of `HJConstraint.residual`: z (N, dim), t (N,) to (N, K).
        tolerance: relative to one more than the largest number of the sample; by default what finite differences err by.

    Raises:
        AssertionError: saying which number, at which latent and time, and what was expected.

    Example:
        >>> import torch
        >>> from latentflow import NegativeForce, Potential
        >>> from latentflow.testing import assert_residual
        >>> potential, force = Potential(2, num=3).double(), NegativeForce(2, num=3).double()
        >>> assert_residual(potential, torch.ones(1, 2, dtype=torch.float64), 1.0, force=force)
    """
    z, t = rows(z, t)
    truth = _residual(potential, z, t, force)
    got = HJConstraint(potential, force).residual(z, t) if residual is None else residual(z, t)
    name = "Hamilton-Jacobi residual" if residual is None else "your Hamilton-Jacobi residual"
    compare(
        name, got, truth.value, DIFFERENCES,
        allowed=truth.error, tolerance=tolerance, axes=("k",), at={"latent": z, "time": t},
    )  # fmt: skip


def assert_solution(
    potential: nn.Module,
    z: Tensor,
    t: Tensor | float,
    *,
    force: nn.Module | None = None,
    tolerance: float | None = None,
) -> None:
    r"""Assert that the potential solves :math:`\partial_t u + \frac12 \|\nabla u\|^2 = f`: the residual is 0 within rounding.

    Args:
        potential, z, t, force: as in `assert_residual`.
        tolerance: by default :math:`16\,\epsilon^{3/4}`, relative to one more than the size of the terms, (...).

    Raises:
        AssertionError: as `assert_residual`.

    Example:
        >>> import torch
        >>> from latentflow.testing import Spread, assert_solution
        >>> assert_solution(Spread(), torch.ones(1, 2, dtype=torch.float64), 1.0)
    """
    z, t = rows(z, t)
    rates, gradients = derivatives.first_derivatives(potential, z, t)
    size = rates.abs() + 0.5 * gradients.square().sum(-1)
    residual = HJConstraint(potential, force).residual(z, t)
    compare(
        "Hamilton-Jacobi residual of a solution", residual, torch.zeros_like(residual), "of an exact solution",
        allowed=allowance(size, tolerance), axes=("k",), at={"latent": z, "time": t},
    )  # fmt: skip


def assert_initial(
    potential: nn.Module,
    z: Tensor,
    *,
    initial: Callable[[Tensor], Tensor] | None = None,
    tolerance: float | None = None,
) -> None:
    r"""Assert that the initial term is :math:`\|\nabla u^k(z, 0)\|^2` of every potential, by finite differences.

    Args:
        potential, z, tolerance: as in `assert_residual`.
        initial: your own arithmetic, judged instead of `HJConstraint.initial`: z (N, dim) to (N, K).

    Raises:
        AssertionError: as `assert_residual`.

    Example:
        >>> import torch
        >>> from latentflow import Potential
        >>> from latentflow.testing import assert_initial
        >>> assert_initial(Potential(2, num=3).double(), torch.ones(1, 2, dtype=torch.float64))
    """
    z, _ = rows(z, 0.0)
    truth = _initial(potential, z)
    got = HJConstraint(potential).initial(z) if initial is None else initial(z)
    name = "initial term" if initial is None else "your initial term"
    compare(
        name, got, truth.value, DIFFERENCES, allowed=truth.error, tolerance=tolerance, axes=("k",), at={"latent": z}
    )


def assert_penalty(
    potential: nn.Module,
    path: LatentPath,
    *,
    force: nn.Module | None = None,
    penalty: Callable[[LatentPath], Tensor] | None = None,
    tolerance: float | None = None,
) -> None:
    r"""Assert that the penalty is :math:`\frac1T \sum_{t,k} w_t^k\, r^k(z_{t-1}, t)^2 + \sum_k w_1^k \|\nabla u^k(z_0, 0)\|^2`.

    By finite differences, sample by sample, every potential held to the equation by itself.

    Args:
        potential, force, tolerance: as in `assert_residual`.
        path: what a `FlowPosterior` returned, with latents (B, T+1, dim).
        penalty: your own arithmetic, judged instead of `HJConstraint`: a path to (B,).

    Raises:
        AssertionError: saying which sample, what it got and what was expected.

    Example:
        >>> import torch
        >>> from torch.distributions import Independent, Normal
        >>> from latentflow import FlowPosterior, Potential
        >>> from latentflow.testing import assert_penalty
        >>> potential = Potential(2).double()
        >>> zeros = torch.zeros(3, 2, dtype=torch.float64)
        >>> path = FlowPosterior(potential)(Independent(Normal(zeros, zeros + 1), 1), 0, steps=2)
        >>> assert_penalty(potential, path)
    """
    weights = path.weights.detach()
    batch, steps = weights.shape[:2]
    z, t = rows(path.z[:, :-1], path.times[1:].expand(batch, steps))
    residual, initial = _residual(potential, z, t, force), _initial(potential, path.z[:, 0].detach())
    squares, errors = (x.view_as(weights) for x in _square(residual))
    value = (weights * squares).sum((1, 2)) / steps + (weights[:, 0] * initial.value).sum(1)
    error = (weights * errors).sum((1, 2)) / steps + (weights[:, 0] * initial.error).sum(1)
    got = HJConstraint(potential, force)(path) if penalty is None else penalty(path)
    name = "Hamilton-Jacobi penalty" if penalty is None else "your Hamilton-Jacobi penalty"
    compare(
        name,
        got,
        value,
        DIFFERENCES,
        allowed=error,
        tolerance=tolerance,
        at={"latents": path.z, "weights": path.weights},
    )


def _residual(potential: nn.Module, z: Tensor, t: Tensor, force: nn.Module | None) -> Estimate:
    rates, kinetic = difference_rates(potential, z, t), _squared_norm(difference_gradients(potential, z, t))
    value, error = rates.value + 0.5 * kinetic.value, rates.error + 0.5 * kinetic.error
    if force is None:
        return Estimate(value, error)
    external = derivatives.values(force, z, t).detach()
    return Estimate(value - external, error + allowance(external))


def _initial(potential: nn.Module, z: Tensor) -> Estimate:
    return _squared_norm(difference_gradients(potential, z, z.new_zeros(len(z))))


def _squared_norm(gradients: Estimate) -> Estimate:
    return Estimate(*(x.sum(-1) for x in _square(gradients)))


def _square(x: Estimate) -> Estimate:
    return Estimate(x.value.square(), (2 * x.value.abs() + x.error) * x.error)
