"""The truth that modules are held to: finite differences, plain autograd, and paths by their definition.

Nothing here shares a derivative with the library. Latents come as rows z (N, dim) with times t (N,).
"""

from __future__ import annotations

import math
from collections.abc import Callable
from typing import NamedTuple

import torch
from torch import Tensor, nn

from latentflow import derivatives
from latentflow.validate import active_rows


class Estimate(NamedTuple):
    """A number and how far it may be off, of one shape."""

    value: Tensor
    error: Tensor


def rows(z: Tensor, t: Tensor | float) -> tuple[Tensor, Tensor]:
    """Latents (N, dim) and times (N,) as a user's module gets them, of z (..., dim) and what broadcasts to (...)."""
    flat, times = derivatives.rows(z, t)
    if flat.numel() == 0:
        raise ValueError(
            f"z: got shape {tuple(z.shape)}, expected at least one latent; a check of nothing says nothing"
        )
    return flat.detach(), times.detach()


def acting_rows(
    potential: nn.Module, z: Tensor, t: Tensor | float, active: int | Tensor
) -> tuple[Tensor, Tensor, int | Tensor]:
    """The same, and which potentials act: an index as it is, labels as (N,), weights as (N, K)."""
    flat, times = rows(z, t)
    return flat, times, active_rows(active, z.shape[:-1], derivatives.number_of_potentials(potential, flat))


def differentiate(function: Callable[[Tensor], Tensor], x: Tensor, size: Tensor | float = 0.0) -> Estimate:
    r"""The derivative of a function of one number at 0, by central differences with steps h and 2h (Richardson).

    With h = eps^(1/5), about 1e-3 in float64. The error is what the functions round, 64 eps (1 + abs f) / h, and what the
    differences by h and 2h disagree about, which is more than their extrapolation errs by.

    Args:
        function: of a number; its values may be of any shape.
        x: gives dtype and device.
        size: of the numbers to which the step is added, which round too.
    """
    eps = torch.finfo(x.dtype).eps
    step = 2.0 ** round(math.log2(eps**0.2))  # a power of two, so that the steps are exact
    with torch.no_grad():
        forth, back, far, behind = (function(x.new_full((), s * step)) for s in (1, -1, 2, -2))
        near, wide = (forth - back) / (2 * step), (far - behind) / (4 * step)
        value = (4 * near - wide) / 3
        scale = 1 + torch.maximum(forth.abs(), back.abs()) + value.abs() * size
        return Estimate(value, 64 * eps * scale / step + (near - value).abs())


def along_axes(function: Callable[[Tensor], Tensor], z: Tensor) -> Estimate:
    """The derivative of a function (..., N, dim) -> (..., N, *) by each entry of its row, (N, *, dim), for rows z (N, dim)."""
    axes = torch.eye(z.shape[1], dtype=z.dtype, device=z.device)[:, None]
    value, error = differentiate(lambda s: function(z + s * axes), z, float(z.abs().max()))
    return Estimate(value.movedim(0, -1), error.movedim(0, -1))


def difference_gradients(potential: nn.Module, z: Tensor, t: Tensor) -> Estimate:
    """grad u of every potential by finite differences of forward alone, (N, K, dim)."""
    return along_axes(lambda rows: derivatives.values(potential, rows, t), z)


def difference_rates(potential: nn.Module, z: Tensor, t: Tensor) -> Estimate:
    """du/dt of every potential by finite differences of forward alone, (N, K)."""
    return differentiate(lambda s: derivatives.values(potential, z, t + s), z, float(t.abs().max()))


def autograd_derivatives(potential: nn.Module, z: Tensor, t: Tensor) -> tuple[Tensor, Tensor]:
    """du/dt (N, K) and grad u (N, K, dim) by plain `torch.autograd`, one potential after the other."""
    with torch.enable_grad():
        z, t = z.detach().requires_grad_(), t.detach().requires_grad_()
        u = derivatives.values(potential, z, t)
        rates, gradients = zip(*(_grad(column.sum(), (t, z), graph=True) for column in u.unbind(-1)), strict=True)
    return torch.stack(rates, -1).detach(), torch.stack(gradients, -2).detach()


def autograd_gradient(potential: nn.Module, z: Tensor, t: Tensor, active: int | Tensor) -> Tensor:
    """sum_k w^k grad u^k (..., N, dim) by plain autograd, itself differentiable."""
    with torch.enable_grad():
        z = z if z.requires_grad else z.detach().requires_grad_()
        return _grad(_mixed(derivatives.values(potential, z, t), active).sum(), (z,), graph=True)[0]


def autograd_product(potential: nn.Module, z: Tensor, t: Tensor, active: int | Tensor, v: Tensor) -> Tensor:
    """sum_k w^k H^k v, (..., N, dim), by differentiating the gradient."""
    with torch.enable_grad():
        z = z.detach().requires_grad_()
        slope = (autograd_gradient(potential, z, t, active) * v).sum()
        return _grad(slope, (z,), graph=False)[0]


def autograd_hessian(potential: nn.Module, z: Tensor, t: Tensor, active: int | Tensor) -> Tensor:
    """sum_k w^k grad grad^T u^k, (N, dim, dim), by one product for each dimension."""
    along = torch.eye(z.shape[1], dtype=z.dtype, device=z.device)[:, None].expand(-1, *z.shape)
    return autograd_product(potential, z.expand_as(along), t, active, along).movedim(0, -1)


def difference_hessian(potential: nn.Module, z: Tensor, t: Tensor, active: int | Tensor) -> Estimate:
    """The Jacobian of the gradient that autograd takes, by finite differences, (N, dim, dim)."""
    return along_axes(lambda rows: autograd_gradient(potential, rows, t, active).detach(), z)


def log_abs_det(jacobian: Estimate) -> Estimate:
    """log |det J| (...) from the singular values, and its error, sum_ij |J^-1|_ji error_ij."""
    value = torch.linalg.svdvals(jacobian.value).log().sum(-1)
    error = (torch.linalg.pinv(jacobian.value).mT.abs() * jacobian.error).sum((-2, -1))
    return Estimate(value, error)


def step_map(potential: nn.Module, t: float, weights: Tensor, substeps: int = 1) -> Callable[[Tensor], Tensor]:
    """The step z + sum_k w^k grad u^k(z, t) / substeps of rows z (B, dim) with weights (B, K), by plain autograd."""
    return lambda z: z + autograd_gradient(potential, z, z.new_full((len(z),), t), weights) / substeps


def reference_path(
    potential: nn.Module, z0: Tensor, weights: Tensor, substeps: int = 1, label: str = "end"
) -> tuple[Tensor, Tensor]:
    """The path (B, T+1, dim) by the definition for weights (B, T, K), and the Jacobian of every substep.

    The Jacobians are (B, T, substeps, dim, dim).
    """
    z, path, jacobians = z0.detach(), [z0.detach()], []
    identity = torch.eye(z.shape[1], dtype=z.dtype, device=z.device)
    for step, now in enumerate(weights.unbind(1)):
        for substep in range(substeps):
            t = step + (substep + (label == "end")) / substeps
            jacobians.append(identity + autograd_hessian(potential, z, z.new_full((len(z),), t), now) / substeps)
            z = step_map(potential, t, now, substeps)(z).detach()
        path.append(z)
    return torch.stack(path, 1), torch.stack(jacobians, 1).view(len(z), -1, substeps, *identity.shape)


def _mixed(u: Tensor, active: int | Tensor) -> Tensor:
    """(..., N, K) -> (..., N) for an index, labels (N,) or weights (N, K)."""
    if not isinstance(active, Tensor):
        return u[..., active]
    if active.is_floating_point():
        return (u * active).sum(-1)
    return u.gather(-1, active.expand(u.shape[:-1])[..., None]).squeeze(-1)


def _grad(total: Tensor, inputs: tuple[Tensor, ...], *, graph: bool) -> tuple[Tensor, ...]:
    """`torch.autograd.grad`, with zeros where nothing depends on an input."""
    if not total.requires_grad:
        return tuple(torch.zeros_like(x) for x in inputs)
    return torch.autograd.grad(total, inputs, create_graph=graph, allow_unused=True, materialize_grads=True)
