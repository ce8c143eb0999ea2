"""Euler's map, the paper's explicit step, there and back: z + grad u(z, t) / n, n being the substeps of a step."""

from __future__ import annotations

from collections.abc import Callable

import torch
from torch import Tensor, nn

from latentflow import derivatives, logdet
from latentflow.acting import Acting
from latentflow.contexts import forward_mode
from latentflow.derivatives import has_closed_form
from latentflow.finite import require_finite_log_det, require_finite_path
from latentflow.layout import layout_of
from latentflow.path import Carried
from latentflow.preimage import FoldError, tolerance
from latentflow.product import divided
from latentflow.rollout import roll_out
from latentflow.times import euler_times


def carry(
    potential: nn.Module,
    z0: Tensor,
    what: Acting,
    log_det: str | None,
    generator: torch.Generator | None,
    substeps: int,
    label: str,
    memory: int | None,
) -> Carried:
    """Follow all substeps, of which the path keeps the last of each step."""
    on_grid = substeps == 1 and label == "end" and torch.is_grad_enabled()
    rollout, estimated = None, log_det == "hutchinson"
    if has_closed_form(potential):
        layout, times = layout_of(what, z0.dtype, substeps), (what.steps, substeps, label)
        rollout = roll_out(potential, layout, z0, *times, estimated, generator, on_grid)
        fine = rollout.z
    else:
        fine = _follow(potential, z0, what, substeps, label)
        require_finite_path(fine, substeps)
    z, shared = fine if substeps == 1 else fine[:, ::substeps], rollout if on_grid else None
    if log_det is None:
        return Carried(z, None, None, shared)
    if rollout is not None:
        value, folds = rollout.log_det(log_det, substeps, memory)
    else:
        here = fine[:, :-1], euler_times(what.steps, substeps, label, fine).flatten(), what.fine(substeps)
        value, folds = _log_det(potential, log_det, *here, substeps, generator)
    if rollout is None or not estimated:  # its estimates it has looked at
        require_finite_log_det(value, substeps, folds)
    if substeps > 1:
        per_step = (-1, what.steps, substeps)
        value, folds = value.view(per_step).sum(2), None if folds is None else folds.view(per_step).any(2)
    return Carried(z, value, folds, shared)


def _follow(potential: nn.Module, z: Tensor, what: Acting, substeps: int, label: str) -> Tensor:
    """The latents of all substeps of any potential, (B, S + 1, dim)."""
    latents = [z]
    for substep, t in enumerate(euler_times(what.steps, substeps, label, z).flatten()):
        z = z + divided(derivatives.gradient(potential, z, t, what.at(substep // substeps)), substeps)
        latents.append(z)
    return torch.stack(latents, 1)


def _log_det(
    potential: nn.Module,
    log_det: str,
    z: Tensor,
    times: Tensor,
    active: int | Tensor,
    substeps: int,
    generator: torch.Generator | None,
) -> tuple[Tensor, Tensor | None]:
    """log |det(I + H / substeps)|, (B, S), where S steps start, z (B, S, dim), at `times` (S,); and the folds, if known.

    Args:
        log_det: "exact", "hutchinson" or "laplacian", as of `FlowPosterior`.
        active: what acts in each step, as in `derivatives`.
        generator: draws Hutchinson's probes.
    """
    here = potential, z, times, active
    if log_det == "exact":
        return derivatives.log_det(*here, substeps=substeps)
    if log_det == "hutchinson":
        probe = logdet.rademacher(z, generator)
        return logdet.hutchinson(divided(derivatives.hessian_product(*here, probe), substeps), probe), None
    return logdet.laplacian(divided(derivatives.laplacian(*here), substeps)), None


def back(potential: nn.Module, z: Tensor, what: Acting, substeps: int, label: str) -> Tensor:
    """Where the latents z (B, dim) came from, with I + H / n positive definite at every substep."""
    times = euler_times(what.steps, substeps, label, z)
    for step in reversed(range(what.steps)):
        for t in times[step].flip(0):
            z = _undo(potential, z, t, what.at(step), substeps, step)
    return z


def _undo(potential: nn.Module, y: Tensor, t: Tensor, active: int | Tensor, substeps: int, step: int) -> Tensor:
    r"""Solve x + grad phi(x) = y with I + H positive definite, phi being u / `substeps` of what acts at time t.

    Such an x is a local minimum of :math:`\frac12 |x|^2 + \phi(x) - x \cdot y`, found by Newton's method with a line search;
    where I + H is not positive definite on the way, by the absolute values of its eigenvalues, so that no other
    stationary point attracts. Two further steps move nothing: they carry the derivatives of the implicit function.
    """

    def gradient(x: Tensor) -> Tensor:
        return divided(derivatives.gradient(potential, x, t, active), substeps)

    def hessian(x: Tensor) -> Tensor:
        return divided(derivatives.hessian(potential, x, t, active), substeps)

    def value(x: Tensor) -> Tensor:
        return divided(derivatives.mixture(potential, x, t, active), substeps)

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
    allowed = tolerance(y.dtype) * (1 + y.norm(dim=1))
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
        folded, wrong = info != 0, ~(residual.norm(dim=1) <= allowed)
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
