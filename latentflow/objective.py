"""The Kullback-Leibler terms of the evidence bounds."""

from __future__ import annotations

from typing import Protocol

import torch
from torch import Tensor
from torch.distributions import (
    Distribution,
    Independent,
    LowRankMultivariateNormal,
    MultivariateNormal,
    Normal,
    kl_divergence,
)

from latentflow.compiler import one_operation
from latentflow.contexts import uncompiled
from latentflow.initial import gaussian
from latentflow.path import LatentPath, check_path
from latentflow.posterior import FlowPosterior
from latentflow.precision import without_autocast
from latentflow.prior import DiffusionPrior
from latentflow.validate import one_of, require_finite, require_floating, require_no_nan, require_shape

_NO_DENSITIES = "path.log_q: got None, expected densities; make FlowPosterior with log_det='exact'"


class PathPrior(Protocol):
    """What `flow_kl` takes for its prior: `DiffusionPrior`, or a module of yours that has a log density of paths.

    Shapes:
        ``prior.log_prob(path)``: log p_t(z_t) of a `LatentPath`, (B, T+1), in nats.

    Raises:
        TypeError: `PathPrior` itself is instantiated; write a class with this method.

    Example:
        >>> import torch
        >>> from torch.distributions import Independent, Normal
        >>> from latentflow import FlowPosterior, PathPrior, Potential, flow_kl
        >>> class Standard(torch.nn.Module):  # the same at all times
        ...     def log_prob(self, path):
        ...         return Independent(Normal(torch.zeros_like(path.z), torch.ones_like(path.z)), 1).log_prob(path.z)
        >>> prior: PathPrior = Standard()
        >>> q0 = Independent(Normal(torch.zeros(8, 4), torch.ones(8, 4)), 1)
        >>> flow_kl(FlowPosterior(Potential(dim=4))(q0, 0, steps=5), prior).shape
        torch.Size([8])

    Source: Song et al. 2023, eq. 6, whose p_t(z_t) it is.
    """

    def log_prob(self, path: LatentPath) -> Tensor:
        """log p_t(z_t) of a path, (B, T+1), in nats."""
        ...


def flow_kl(path: LatentPath, prior: PathPrior, *, bound: str = "marginal") -> Tensor:
    r"""The part of the negative evidence bound that does not see the images, in nats.

    * ``bound="marginal"``, bound (A), eq. 6: the one-sample estimate :math:`\sum_{t=0}^T \log q_t(z_t) - \log p_t(z_t)`. With
      the reconstruction terms it bounds :math:`\sum_t \log p_t(x_t)`, the sum of the marginals.
    * ``bound="initial"``, bound (B): :math:`\mathrm{KL}(q_0 \| N(0, I))`, in closed form where torch knows one, else from
      the sample z_0. With the deterministic flow shared by prior and posterior it bounds the evidence of the sequence,
      :math:`\log p(x_0, ..., x_T | k)`. It needs no densities along the flow, hence works with ``log_det=None``.

    Args:
        path: what `FlowPosterior` returned.
        prior: `DiffusionPrior`, or any module with ``log_prob(path)`` -> (B, T+1), the log densities p_t of the path's latents.
            Bound (B) is that of a prior that starts at N(0, I), and asks it nothing.
        bound: "marginal" or "initial".

    Returns:
        (B,), one number per sequence.

    Raises:
        TypeError: path is no `LatentPath`, or prior has no log density of paths.
        ValueError: the bound is unknown, the marginal one is asked for a path without densities, the prior's answer is not
            (B, T+1), or the result is not finite.

    Example:
        >>> import torch
        >>> from torch.distributions import Independent, Normal
        >>> from latentflow import DiffusionPrior, FlowPosterior, Potential, flow_kl
        >>> q0 = Independent(Normal(torch.zeros(5, 2), torch.ones(5, 2)), 1)
        >>> path = FlowPosterior(Potential(2))(q0, 0, steps=3)
        >>> flow_kl(path, DiffusionPrior(), bound="initial").tolist()
        [0.0, 0.0, 0.0, 0.0, 0.0]

    Source: Song et al. 2023, eq. 6; the mathematics page of the docs derives both.
    """
    one_of("bound", bound, ("marginal", "initial"))
    check_path(path)
    check_prior(prior)
    if bound == "marginal":
        if path.log_q is None:
            raise ValueError(_NO_DENSITIES + ", or use bound='initial'")
        return _marginal(path.log_q, log_prior(path, prior))
    with without_autocast(path.z):
        kl = _finite(_kl_to_standard_normal(path))
        require_shape("path.q0", kl, path.z.shape[:1], "cut or replace it together with path.z")
        return kl


def excess_of_frames(path: LatentPath, prior: PathPrior) -> Tensor:
    """log q_t(z_t) - log p_t(z_t), (B, T+1), of a path with densities."""
    if path.log_q is None:
        raise ValueError(_NO_DENSITIES)
    return path.log_q - log_prior(path, prior)


def log_prior(path: LatentPath, prior: PathPrior) -> Tensor:
    """log p_t(z_t), (B, T+1), of a prior that `check_prior` has seen."""
    log_p = require_floating("prior.log_prob(path)", prior.log_prob(path), "return log densities")
    require_shape("prior.log_prob(path)", log_p, path.z.shape[:2], "sum over dimensions, not over frames")
    if not isinstance(prior, DiffusionPrior):  # which has looked itself
        require_no_nan("prior.log_prob(path)", log_p, "look at its parameters")
    return log_p


def check_prior(prior: object) -> None:
    """Raise unless `prior` has a log density of paths."""
    other = isinstance(uncompiled(prior), (Distribution, FlowPosterior, type))  # which have one of something else
    if other or not callable(getattr(prior, "log_prob", None)):
        got = f"the class {prior.__name__}" if isinstance(prior, type) else type(prior).__name__
        raise TypeError(
            f"prior: got {got}, expected a DiffusionPrior; make one, DiffusionPrior(num), or a module with "
            "log_prob(path) -> (B, T+1), and pass it there"
        )


@one_operation
def _marginal(log_q: Tensor, log_p: Tensor) -> Tensor:
    return _finite((log_q - log_p).sum(1))


def _finite(kl: Tensor) -> Tensor:
    fix = "clamp the log-variance of the encoder, or look for exploding latents"
    require_finite("flow_kl", kl, fix, by_sample=True)
    return kl


def _kl_to_standard_normal(path: LatentPath) -> Tensor:
    if normal := gaussian(path.q0):
        # Of the logarithm of the scale, whose square may be 0. And torch finds the function for two distributions in a way that
        # it cannot compile, unless they have met before.
        return torch.add(normal.loc.square() + normal.scale.square() - 1, normal.scale.log(), alpha=-2).sum(-1) / 2
    start = path.z[:, 0]
    if start.shape[0] == 0:  # torch's `Independent` fails on an empty batch
        return start.new_zeros(0)
    # Not validated: that would wait for the device.
    standard = Independent(Normal(torch.zeros_like(start), torch.ones_like(start), validate_args=False), 1)
    if isinstance(path.q0, (MultivariateNormal, LowRankMultivariateNormal)):
        identity = torch.eye(start.shape[1], dtype=start.dtype, device=start.device)
        return kl_divergence(path.q0, MultivariateNormal(torch.zeros_like(start), identity, validate_args=False))
    try:
        return kl_divergence(path.q0, standard)
    except NotImplementedError:
        log_q0: Tensor = path.q0.log_prob(start)
        log_p0: Tensor = standard.log_prob(start)  # type: ignore[no-untyped-call]
        return log_q0 - log_p0
