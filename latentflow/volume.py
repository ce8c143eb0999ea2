"""How the flow of any potential changes volume: the log-determinants of Euler's steps, and the divergence of an ODE."""

from __future__ import annotations

import torch
from torch import Tensor, nn

from latentflow import derivatives, logdet
from latentflow.acting import Acting
from latentflow.product import divided
from latentflow.solvers import Divergence


def log_det_of_steps(
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
    return logdet.laplacian(derivatives.laplacian(*here) / substeps), None


def divergence(
    potential: nn.Module, log_det: str | None, what: Acting, z0: Tensor, generator: torch.Generator | None
) -> Divergence | None:
    """The Laplacian along an ODE, whose integral is the log-determinant: exact, or Hutchinson's estimate; None for none."""
    if log_det is None:
        return None
    if log_det == "exact":
        return lambda z, t, step: derivatives.laplacian(potential, z, t, what.at(step))
    probe = logdet.rademacher(z0, generator)  # one for the whole path: the integrand must be smooth in time

    def estimate(z: Tensor, t: Tensor, step: int) -> Tensor:
        return (probe * derivatives.hessian_product(potential, z, t, what.at(step), probe)).sum(-1)

    return estimate
