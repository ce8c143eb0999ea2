"""The way back: where the latents came from, a step of either kind at a time, verified.

Of several preimages that one is meant where I + H is positive definite. A field is that of `solvers`.
"""

from __future__ import annotations

import math
from collections.abc import Callable
from typing import Any

import torch
from torch import Tensor

from latentflow.solvers import ADAPTIVE, Field, one_step, with_tolerances
from latentflow.written_out import forward_mode


class FoldError(ValueError):
    """No preimage with I + H positive definite was found. A `ValueError`.

    Attributes:
        step: the step of the path (1, ..., T) that could not be inverted.
        samples: indices into the batch of the latents concerned.

    Example:
        >>> import torch
        >>> from latentflow import FlowPosterior, FoldError
        >>> class Mirror(torch.nn.Module):  # z + grad u = -z
        ...     def forward(self, z, t):
        ...         return -z.square().sum(-1, keepdim=True)
        >>> try:
        ...     FlowPosterior(Mirror()).inverse(torch.ones(2, 3), 0, steps=1)
        ... except FoldError as error:
        ...     print(error.step, error.samples)
        1 [0, 1]
    """

    def __init__(self, step: int, samples: list[int], reason: str) -> None:
        self.step, self.samples, self._reason = step, samples, reason
        shown = samples if len(samples) <= 8 else [*samples[:8], "..."]
        super().__init__(
            f"inverse: got latents {shown} without a preimage at step {step} ({reason}), expected I + H positive definite "
            "there; check path.folds, use more substeps, or constrain the potential more"
        )

    def __reduce__(self) -> tuple[type[FoldError], tuple[int, list[int], str]]:
        return type(self), (self.step, self.samples, self._reason)  # an exception's default pickles the message alone


def integrate_back(field: Field, z: Tensor, step: int, method: str, options: dict[str, Any]) -> Tensor:
    """The latent that the solver carries to z in this step, its residual verified."""

    def back(y: Tensor) -> Tensor:
        return one_step(field, None, y, step, step + 1, step, method, options)[0]

    try:
        start = back(z)
    except ValueError as error:  # for some samples the solution may not reach back that far
        guilty = [i for i in range(len(z)) if not _succeeds(back, z[i : i + 1])]
        raise FoldError(step + 1, guilty, f"{method!r} cannot go back along the path") from error
    refined, worst = start.detach(), math.inf
    with torch.no_grad():
        wanted = accepted = _tolerance(z.dtype)
        if method in ADAPTIVE:
            # They repeat themselves only to within their tolerances, and that of their interpolation.
            asked = with_tolerances(options, z.dtype)
            wanted = max(wanted, 10 * asked["rtol"])
            accepted = max(wanted, 10 * asked["atol"], 1e-9)
        for _ in range(20):  # the solver's own error makes back() an inexact inverse, which this fixed point mends
            landed = one_step(field, None, refined, step, step, step + 1, method, options)[0]
            off = (landed - z).norm(dim=1) / (1 + z.norm(dim=1))
            missed, nearer = ~(off <= accepted), bool((off < worst).all())
            if bool((off <= wanted).all()) or not (nearer or bool(missed.any())):
                break
            worst = min(worst, off.max().item())
            refined = refined + start - back(landed)
        if bool(missed.any()):
            raise FoldError(step + 1, missed.nonzero().flatten().tolist(), f"{method!r} does not retrace its path")
    return start + (refined - start).detach()  # the value of the one, the gradient of the other


def _succeeds(back: Callable[[Tensor], Tensor], z: Tensor) -> bool:
    try:
        return bool(back(z).isfinite().all())
    except ValueError:
        return False


def invert_euler(
    gradient: Callable[[Tensor], Tensor],
    hessian: Callable[[Tensor], Tensor],
    value: Callable[[Tensor], Tensor],
    y: Tensor,
    step: int,
) -> Tensor:
    r"""Solve x + grad phi(x) = y with I + H positive definite, phi being the substep's potential.

    Such an x is a local minimum of :math:`\frac12 |x|^2 + \phi(x) - x \cdot y`, found by Newton's method with a line search;
    where I + H is not positive definite on the way, by the absolute values of its eigenvalues, so that no other
    stationary point attracts. Two further steps move nothing: they carry the derivatives of the implicit function.
    """
    with torch.no_grad():
        x, factor = (found.detach() for found in _minimise(gradient, hessian, value, y, step))  # from tangents as well
    if not (torch.is_grad_enabled() or forward_mode()):
        return x
    found = x
    for _ in range(2):  # two, so that second derivatives are right as well although the factor is held fixed
        x = x - torch.cholesky_solve((x + gradient(x) - y)[..., None], factor).squeeze(-1)
        x = found + (x - x.detach())
    return x


def _minimise(
    gradient: Callable[[Tensor], Tensor],
    hessian: Callable[[Tensor], Tensor],
    value: Callable[[Tensor], Tensor],
    y: Tensor,
    step: int,
) -> tuple[Tensor, Tensor]:
    tolerance = _tolerance(y.dtype) * (1 + y.norm(dim=1))
    identity = y.new_ones(y.shape[1]).diag()

    def merit(x: Tensor) -> Tensor:
        return value(x) + (x * (0.5 * x - y)).sum(1)

    x = y - gradient(y)
    x = torch.where((merit(x) < merit(y))[:, None], x, y)  # the guess may overshoot by far
    for _ in range(100):
        residual = x + gradient(x) - y
        matrix = hessian(x) + identity
        lost = ~(residual.isfinite().all(1) & matrix.isfinite().flatten(1).all(1))
        matrix = torch.where(lost[:, None, None], identity, matrix)
        factor, info = torch.linalg.cholesky_ex(matrix)
        folded, wrong = info != 0, ~(residual.norm(dim=1) <= tolerance)
        unfinished = folded | wrong
        if not bool(unfinished.any()):
            return _to_within_rounding(gradient, hessian, y, x, residual, factor)
        if bool((lost | ~unfinished).all()):
            break
        direction = -torch.cholesky_solve(residual[..., None], factor).squeeze(-1)
        if bool(folded.any()):
            direction[folded] = _descent_where_folded(matrix[folded], residual[folded], wrong[folded])
        # Samples that are done stay put, so that no sample's answer depends on how long its batch-mates take.
        direction = torch.where((unfinished & ~lost)[:, None], direction, torch.zeros_like(direction))
        x = x + _line_search(merit, x, residual, direction)[:, None] * direction
    reason = "I + H is not positive definite" if bool(folded.any()) else "Newton's method does not reach it"
    raise FoldError(step + 1, unfinished.nonzero().flatten().tolist(), reason)


def _to_within_rounding(
    gradient: Callable[[Tensor], Tensor],
    hessian: Callable[[Tensor], Tensor],
    y: Tensor,
    x: Tensor,
    residual: Tensor,
    factor: Tensor,
) -> tuple[Tensor, Tensor]:
    """One more of Newton's steps, and the factor there, for the samples that come nearer by it: at a fold it may lead away."""
    nearer = x - torch.cholesky_solve(residual[..., None], factor).squeeze(-1)
    matrix = hessian(nearer) + y.new_ones(y.shape[1]).diag()
    sound = matrix.isfinite().flatten(1).all(1)
    there, info = torch.linalg.cholesky_ex(torch.where(sound[:, None, None], matrix, torch.zeros_like(matrix)))
    taken = (info == 0) & ((nearer + gradient(nearer) - y).norm(dim=1) <= residual.norm(dim=1))
    return torch.where(taken[:, None], nearer, x), torch.where(taken[:, None, None], there, factor)


def _descent_where_folded(matrix: Tensor, residual: Tensor, wrong: Tensor) -> Tensor:
    eigenvalues, vectors = torch.linalg.eigh(matrix)
    strength = eigenvalues.abs().clamp_min(1e-3)
    along = (vectors.mT @ residual[..., None]).squeeze(-1) / strength
    direction = -(vectors @ along[..., None]).squeeze(-1)
    # At a saddle the residual vanishes: leave along the most negative curvature.
    return torch.where(wrong[:, None], direction, vectors[..., 0])


def _line_search(merit: Callable[[Tensor], Tensor], x: Tensor, residual: Tensor, direction: Tensor) -> Tensor:
    """Halve the step of each sample until the merit falls (Armijo), rounding aside."""
    start, slope = merit(x), (residual * direction).sum(1).clamp_max(0)
    slack = 8 * torch.finfo(x.dtype).eps * (1 + start.abs())
    length = torch.ones_like(start)
    for _ in range(40):
        rises = ~(merit(x + length[:, None] * direction) <= start + 1e-4 * length * slope + slack)
        if not bool(rises.any()):
            break
        length = torch.where(rises, 0.5 * length, length)
    return length


def _tolerance(dtype: torch.dtype) -> float:
    return float(4 * torch.finfo(dtype).eps ** 0.75)
