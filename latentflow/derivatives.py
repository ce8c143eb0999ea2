"""Derivatives of any potential: closed forms where it is ours, `torch.func` where it is the user's.

A user's module sees latents as rows, z (N, dim) with t (N,), and returns (N, K). Rows must not look at each other (no batch
normalisation in training mode): the derivatives of one sample are read off a sum over all of them.

Everywhere `active` says which potentials act: an index, labels (...), or weights (..., K). Uncompiled and outside of vmap,
those of our own potentials that a label leaves out are not evaluated: they cost nothing, and their overflow cannot reach the
result. A user's module is asked for all its columns.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import TypeGuard

import torch
from torch import Tensor, nn
from torch.nn.modules.batchnorm import _BatchNorm
from torch.nn.modules.dropout import _DropoutNd

from latentflow import logdet
from latentflow.force import NegativeForce
from latentflow.potential import Potential
from latentflow.validate import (
    active_rows,
    as_times,
    broadcasts,
    may_read,
    require,
    require_floating,
    require_shape,
)

SEVERAL = 8  # latents that a potential is asked about, to see whether it answers at random


def first_derivatives(
    potential: nn.Module, z: Tensor, t: Tensor | float, k: int | Tensor | None = None
) -> tuple[Tensor, Tensor]:
    """du/dt (..., K) and grad u (..., K, dim) of every potential, or of the labelled one alone with K = 1."""
    if has_closed_form(potential):
        return potential.first_derivatives(z, t, k)
    u, pull_back = torch.func.vjp(lambda a, b: _evaluate(potential, a, b), *rows(z, t))[:2]
    unit = torch.eye(u.shape[-1], dtype=u.dtype, device=u.device)
    if k is None:
        pulled = [pull_back(row.expand_as(u)) for row in unit]
    else:
        pulled = [pull_back(unit[k].reshape(-1, u.shape[-1]).expand_as(u))]
    gradients = torch.stack([gradient for gradient, _ in pulled], 1)
    time_derivatives = torch.stack([rate for _, rate in pulled], 1)
    lead = z.shape[:-1]
    return time_derivatives.reshape(*lead, len(pulled)), gradients.reshape(*lead, len(pulled), z.shape[-1])


def gradient(potential: nn.Module, z: Tensor, t: Tensor | float, active: int | Tensor) -> Tensor:
    """sum_k w^k grad u^k, (..., dim)."""
    if has_closed_form(potential):
        return potential.gradient(z, t, active)
    at, times = rows(z, t)
    return _gradient_of_rows(potential, times, active, z.shape[:-1])(at).reshape(z.shape)


def hessian(potential: nn.Module, z: Tensor, t: Tensor | float, active: int | Tensor) -> Tensor:
    """sum_k w^k grad grad^T u^k, (..., dim, dim)."""
    if has_closed_form(potential):
        return potential.hessian(z, t, active)
    at, times = rows(z, t)
    dim = z.shape[-1]
    pull_back = torch.func.vjp(_gradient_of_rows(potential, times, active, z.shape[:-1]), at)[1]
    directions = torch.eye(dim, dtype=z.dtype, device=z.device)[:, None].expand(dim, *at.shape)
    (columns,) = torch.func.vmap(pull_back)(directions)  # (dim, N, dim)
    matrix: Tensor = columns.transpose(0, 1)
    return (0.5 * (matrix + matrix.mT)).reshape(*z.shape, dim)


def log_det(
    potential: nn.Module, z: Tensor, t: Tensor | float, active: int | Tensor, *, substeps: int = 1
) -> tuple[Tensor, Tensor]:
    """log |det(I + H / substeps)| and the folds, (...) each, for the H that `hessian` gives."""
    if has_closed_form(potential):
        return potential.log_det(z, t, active, substeps=substeps)
    return logdet.exact(hessian(potential, z, t, active) / substeps)


def hessian_product(potential: nn.Module, z: Tensor, t: Tensor | float, active: int | Tensor, v: Tensor) -> Tensor:
    """sum_k w^k H^k v, (..., dim)."""
    if has_closed_form(potential):
        return potential.hessian_product(z, t, active, v)
    at, times = rows(z, t)
    require_shape("v", v, z.shape, "give each latent one direction")
    pull_back = torch.func.vjp(_gradient_of_rows(potential, times, active, z.shape[:-1]), at)[1]
    product: Tensor = pull_back(v.reshape(at.shape))[0]
    return product.reshape(z.shape)


def laplacian(potential: nn.Module, z: Tensor, t: Tensor | float, active: int | Tensor) -> Tensor:
    """sum_k w^k tr H^k, (...)."""
    if has_closed_form(potential):
        return potential.laplacian(z, t, active)
    return hessian(potential, z, t, active).diagonal(dim1=-2, dim2=-1).sum(-1)


def values(module: nn.Module, z: Tensor, t: Tensor | float, name: str = "potential") -> Tensor:
    """u^k(z, t), or the forces, (..., K)."""
    if has_closed_form(module) or is_negative_square(module):
        found: Tensor = module(z, t)
        return found
    u = _evaluate(module, *rows(z, t), name)
    return u.reshape(*z.shape[:-1], u.shape[-1])


def labelled(x: Tensor, k: int | Tensor | None) -> Tensor:
    """The columns of x (..., K) that act: all, or the labelled one with K = 1."""
    if k is None:
        return x
    return x.gather(-1, k[..., None]) if isinstance(k, Tensor) else x[..., k : k + 1]


def mixture(potential: nn.Module, z: Tensor, t: Tensor | float, active: int | Tensor) -> Tensor:
    """sum_k w^k u^k, (...)."""
    return _mix(_evaluate(potential, *rows(z, t)), active, z.shape[:-1]).reshape(z.shape[:-1])


def require_potential(potential: object) -> None:
    """Raise unless `potential` can be one."""
    if not isinstance(potential, nn.Module):
        if isinstance(potential, type):
            raise TypeError(f"potential: got the class {potential.__name__}, expected a module; make one of it")
        raise TypeError(f"potential: got {type(potential).__name__}, expected an nn.Module; wrap functions in a module")
    if isinstance(potential, NegativeForce):
        raise TypeError(
            "potential: got NegativeForce, expected a potential; a force belongs into HJConstraint(potential, force)"
        )
    if hasattr(potential, "transport") and hasattr(potential, "potential"):
        got = type(potential).__name__
        raise TypeError(f"potential: got {got}, expected the potential that it follows; pass flow.potential")


def number_of_potentials(potential: nn.Module, z: Tensor) -> int:
    """K: known of our own potentials, else found by evaluating one latent, and several; a user's module need not say it.

    Raises:
        ValueError: a user's module normalises its batch, or drops out, or has as many columns as there are latents, or gives
            the same latent another answer each time.
    """
    if has_closed_form(potential):
        return potential.num
    for module in potential.modules():
        normalises = isinstance(module, _BatchNorm) and (module.training or module.running_mean is None)
        if normalises or (isinstance(module, _DropoutNd) and module.training and module.p > 0):
            state = "in training mode" if module.training else "without running statistics"
            raise ValueError(
                f"potential: got {type(module).__name__} {state}, expected rows that do not look at each other and the same "
                "answer each time; call .eval() on it, or leave it out"
            )
    with torch.no_grad():
        one = rows(z.detach(), 0.0)[0][:1]
        several = one.repeat(SEVERAL, 1)
        try:
            of_one, before = (_evaluate(potential, *rows(x, 0.0)) for x in (one, several))
            after = _evaluate(potential, *rows(several, 0.0)) if may_read(z) else before
        except (RuntimeError, IndexError, TypeError) as error:
            if not str(error).startswith("potential(z, t)"):  # which says it all
                error.add_note(
                    f"potential(z, t): forward takes both, z (N, {z.shape[-1]}) and t (N,), a time for each latent: write "
                    "t[:, None] where t meets columns, and torch.where for an if"
                )
            raise
    if of_one.shape[1] != before.shape[1]:
        raise ValueError(
            f"potential(z, t): got {of_one.shape[1]} columns for one latent and {before.shape[1]} for {SEVERAL}, expected "
            "(N, K) with one K; t is (N,): write t[:, None] where it meets columns"
        )
    differ = (before - after).abs() > 1e-4 * after.abs() + 1e-6
    require(
        ~differ,
        lambda: (
            f"potential(z, t): got {before[differ][0]:.6g} and then {after[differ][0]:.6g} for the same latent, expected the "
            "same answer each time; call .eval() on what drops out or normalises by a power iteration, or leave it out"
        ),
    )
    return of_one.shape[1]


def dimension(potential: nn.Module) -> int | None:
    """The size of a latent where it is known: a user's module may call something else `dim`."""
    return potential.dim if isinstance(potential, Potential) else None


def has_closed_form(potential: nn.Module) -> TypeGuard[Potential]:
    """Whether `potential` computes exactly what `Potential` does, so that its closed forms are its derivatives."""
    return isinstance(potential, Potential) and _is_bare(potential, Potential)


def is_negative_square(force: nn.Module) -> TypeGuard[NegativeForce]:
    """Whether `force` computes exactly what `NegativeForce` does, with closed forms of its root."""
    return isinstance(force, NegativeForce) and _is_bare(force, NegativeForce) and has_closed_form(force.root)


def _is_bare(module: nn.Module, kind: type[nn.Module]) -> bool:
    """Whether to call the module is to call the forward of its kind, and nothing else."""
    return (
        (type(module) is kind or not _changes(type(module), kind))
        and "forward" not in vars(module)
        and not module._forward_hooks
        and not module._forward_pre_hooks
    )


def _changes(kind: type[nn.Module], base: type[nn.Module]) -> bool:
    """Whether a subclass may compute something else: it has replaced what is not about how it is made and shown."""
    names = vars(base).keys() - {"__init__", "reset_parameters", "extra_repr"}
    return any(getattr(kind, name) is not getattr(base, name) for name in names if callable(getattr(base, name)))


def rows(z: Tensor, t: Tensor | float) -> tuple[Tensor, Tensor]:
    """z (..., dim) as (N, dim), and t, which broadcasts to (...), as (N,), of z's dtype and device."""
    require_floating("z", z, "pass latents")
    times = as_times(t, z)
    lead = z.shape[:-1]
    if z.ndim < 1 or not broadcasts(times.shape, lead):
        raise ValueError(
            f"z, t: got shapes {tuple(z.shape)} and {tuple(times.shape)}, expected (..., dim) and a scalar or (...); "
            "put the latent on the last axis and give each latent one time"
        )
    return z.reshape(-1, z.shape[-1]), times.expand(lead).reshape(-1)


def _gradient_of_rows(
    potential: nn.Module, times: Tensor, active: int | Tensor, lead: tuple[int, ...]
) -> Callable[[Tensor], Tensor]:
    """Rows (N, dim) -> sum_k w^k grad u^k (N, dim); the sum over rows is harmless, as no row looks at another."""
    gradient: Callable[[Tensor], Tensor] = torch.func.grad(
        lambda at: _mix(_evaluate(potential, at, times), active, lead).sum()
    )
    return gradient


def _mix(u: Tensor, active: int | Tensor, lead: tuple[int, ...]) -> Tensor:
    """(N, K) -> (N,), for latents of shape `lead`."""
    active = active_rows(active, lead, u.shape[1])
    if not isinstance(active, Tensor):
        return u[:, active]
    if active.is_floating_point():
        return (u * active).sum(-1)
    return u.gather(1, active[:, None]).squeeze(1)


def _evaluate(potential: nn.Module, rows: Tensor, times: Tensor, name: str = "potential") -> Tensor:
    try:
        u = potential(rows, times)
    except RuntimeError as error:
        if "functorch" in str(error):
            error.add_note(
                f"{name}(z, t) is differentiated by torch.func: take derivatives inside of it with torch.func too, not with "
                "torch.autograd"
            )
        raise
    if not isinstance(u, Tensor) or u.ndim != 2 or u.shape[0] != rows.shape[0] or u.shape[1] == 0:
        got = tuple(u.shape) if isinstance(u, Tensor) else type(u).__name__
        raise ValueError(
            f"{name}(z, t): got {got} for z {tuple(rows.shape)} and t {tuple(times.shape)}, expected "
            f"({rows.shape[0]}, K); return one column for each potential, for example u.unsqueeze(-1)"
        )
    if u.dtype != rows.dtype:
        fix = "return u.to(z.dtype)" if u.is_floating_point() else "what has no slope moves nothing"
        raise TypeError(f"{name}(z, t): got {u.dtype}, expected {rows.dtype} like z; {fix}")
    return u
