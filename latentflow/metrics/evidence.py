"""Bounds and estimates of the evidence of sequences and of their frames."""

from __future__ import annotations

import math
from collections.abc import Callable, Iterator

import torch
from torch import Tensor, nn
from torch.distributions import Distribution

from latentflow import heat
from latentflow.initial import log_prob
from latentflow.objective import PathPrior, check_prior, excess_of_frames, flow_kl
from latentflow.path import LatentPath
from latentflow.posterior import FlowPosterior
from latentflow.validate import one_of, positive_integer, require_floating, require_no_nan, require_shape


def evidence_bound(log_likelihood: Tensor, path: LatentPath, prior: PathPrior, *, bound: str = "marginal") -> Tensor:
    r"""Lower bound on the evidence of each sequence, (B,), in nats.

    Args:
        log_likelihood: (B, T+1), :math:`\log p(x_t | z_t)` at the latents of the path.
        path, prior: as in `flow_kl`.
        bound: "marginal", (A), bounds :math:`\sum_t \log p_t(x_t)`; "initial", (B), bounds
            :math:`\log p(x_0, ..., x_T | k)`.

    Raises:
        TypeError: log_likelihood is not floating; and as `flow_kl`.
        ValueError: log_likelihood is not (B, T+1) or nan, or the marginal bound is asked for a path without densities.

    Example:
        >>> import torch
        >>> from torch.distributions import Independent, Normal
        >>> from latentflow import DiffusionPrior, FlowPosterior, Potential
        >>> from latentflow.metrics import evidence_bound, gaussian_log_likelihood
        >>> q0 = Independent(Normal(torch.zeros(5, 2), torch.ones(5, 2)), 1)
        >>> path = FlowPosterior(Potential(2))(q0, 0, steps=3)
        >>> log_likelihood = gaussian_log_likelihood(path.z, torch.zeros(5, 4, 2))
        >>> evidence_bound(log_likelihood, path, DiffusionPrior()).shape
        torch.Size([5])

    Source: Song et al. 2023, eq. 6.
    """
    return _of_frames(log_likelihood, path).sum(1) - flow_kl(path, prior, bound=bound)


@torch.no_grad()
def importance_weighted_bound(
    log_likelihood: Callable[[Tensor], Tensor],
    flow: nn.Module,
    q0: Distribution,
    k: int | Tensor | None = None,
    *,
    weights: Tensor | None = None,
    steps: int,
    samples: int = 100,
    generator: torch.Generator | None = None,
) -> Tensor:
    r"""Importance-weighted bound on :math:`\log p(x_0, ..., x_T | k)` with S samples of z_0, (B,), in nats.

    :math:`\log \frac{1}{S} \sum_s \frac{p(z_0^s)}{q(z_0^s)} \prod_t p(x_t | z_t^s)`, the flow being shared by prior and
    posterior. It grows with S towards the evidence and needs no determinant, as both densities ride the same flow.

    Args:
        log_likelihood: maps a path (B, T+1, dim) to :math:`\log p(x_t | z_t)`, (B, T+1).
        flow: a potential, or a `FlowPosterior`, which then decides about solver and label. Its log-determinants are left out.
        q0, k, weights, steps, generator: as in `FlowPosterior`.
        samples: S, at least 1.

    Raises:
        TypeError, ValueError: as `FlowPosterior`, samples is not a positive int, or log_likelihood gives anything but (B, T+1).

    Example:
        >>> import torch
        >>> from torch.distributions import Independent, Normal
        >>> from latentflow import Potential
        >>> from latentflow.metrics import gaussian_log_likelihood, importance_weighted_bound
        >>> q0 = Independent(Normal(torch.zeros(5, 2), torch.ones(5, 2)), 1)
        >>> images = torch.zeros(5, 4, 2)
        >>> def log_likelihood(z):
        ...     return gaussian_log_likelihood(z, images)  # z stands for the decoded frames
        >>> importance_weighted_bound(log_likelihood, Potential(2), q0, 0, steps=3, samples=10).shape
        torch.Size([5])

    Source: Burda et al. 2016; the mathematics page of the docs, bound (B).
    """
    log_weights, flow = [], _as_flow(flow).with_log_det(None)
    for path, of_frames in _sampled(log_likelihood, flow, q0, k, weights, steps, samples, generator):
        z0 = path.z[:, 0]
        log_prior = heat.log_normal(z0, torch.ones_like(z0[:, 0]))
        log_weights.append(of_frames.sum(1) + log_prior - log_prob(path.q0, z0))
    return _log_of_mean(log_weights)


@torch.no_grad()
def conditional_log_likelihood(
    log_likelihood: Callable[[Tensor], Tensor],
    flow: nn.Module,
    q0: Distribution,
    k: int | Tensor | None = None,
    *,
    weights: Tensor | None = None,
    steps: int,
    samples: int = 100,
    generator: torch.Generator | None = None,
) -> Tensor:
    r"""Estimate of :math:`\log p(x_t | x_0, k)`, how well the flow foresees each frame, (B, T+1), in nats.

    :math:`\log \frac{1}{S} \sum_s p(x_t | z_t^s)` with S samples of z_0 from q(z_0 | x_0), carried along the flow. Its
    exponential is unbiased.

    Args:
        log_likelihood, flow, q0, k, weights, steps, samples, generator: as in `importance_weighted_bound`.

    Raises:
        TypeError, ValueError: as `importance_weighted_bound`.

    Example:
        >>> import torch
        >>> from torch.distributions import Independent, Normal
        >>> from latentflow import Potential
        >>> from latentflow.metrics import conditional_log_likelihood, gaussian_log_likelihood
        >>> q0 = Independent(Normal(torch.zeros(5, 2), torch.ones(5, 2)), 1)
        >>> images = torch.zeros(5, 4, 2)
        >>> def log_likelihood(z):
        ...     return gaussian_log_likelihood(z, images)  # z stands for the decoded frames
        >>> conditional_log_likelihood(log_likelihood, Potential(2), q0, 0, steps=3, samples=10).shape
        torch.Size([5, 4])

    Source: Song et al. 2023, eq. 1 with its q(z_0 | x_0); the estimate is ours.
    """
    flow = _as_flow(flow).with_log_det(None)
    found = [of_frames for _, of_frames in _sampled(log_likelihood, flow, q0, k, weights, steps, samples, generator)]
    return _log_of_mean(found)


@torch.no_grad()
def marginal_log_likelihood(
    log_likelihood: Callable[[Tensor], Tensor],
    flow: nn.Module,
    q0: Distribution,
    prior: PathPrior,
    k: int | Tensor | None = None,
    *,
    weights: Tensor | None = None,
    steps: int,
    samples: int = 100,
    estimator: str = "iwae",
    generator: torch.Generator | None = None,
) -> Tensor:
    r"""Estimate of :math:`\log p_t(x_t) = \log \int p(x_t | z_t)\, p_t(z_t)\, dz_t` of each frame, (B, T+1), in nats.

    With S samples of :math:`\log w = \log p(x_t | z_t) + \log p_t(z_t) - \log q_t(z_t)`, one of

    * ``"iwae"``: :math:`\log \frac{1}{S} \sum_s w_s`, a lower bound that grows with S towards the truth;
    * ``"elbo"``: the mean of log w, whose sum over frames is bound (A);
    * ``"authors"``: the mean of :math:`\log p(x_t | z_t) - \log p_t(z_t) + \log q_t(z_t)`, with the signs of the released
      evaluation; densities and prior are those that you pass. **No bound**: it adds what has to be subtracted, and can exceed
      what any model reaches. For comparison only.

    The first two take exact log-determinants, whatever the flow was made with: noise in them would inflate the bounds. They
    are bounds where no path folds. The third takes those of the flow.

    Args:
        log_likelihood, flow, q0, k, weights, steps, samples, generator: as in `importance_weighted_bound`.
        prior: of the marginals p_t; as in `flow_kl`.
        estimator: "iwae", "elbo" or "authors".

    Raises:
        TypeError: as `importance_weighted_bound`, or prior has no log density of paths.
        ValueError: as `importance_weighted_bound`, the estimator is unknown, or "authors" is asked for a flow that was made
            with ``log_det=None``.

    Example:
        >>> import torch
        >>> from torch.distributions import Independent, Normal
        >>> from latentflow import DiffusionPrior, Potential
        >>> from latentflow.metrics import gaussian_log_likelihood, marginal_log_likelihood
        >>> q0 = Independent(Normal(torch.zeros(5, 2), torch.ones(5, 2)), 1)
        >>> images = torch.zeros(5, 4, 2)
        >>> def log_likelihood(z):
        ...     return gaussian_log_likelihood(z, images)  # z stands for the decoded frames
        >>> marginal_log_likelihood(log_likelihood, Potential(2), q0, DiffusionPrior(), 0, steps=3, samples=10).shape
        torch.Size([5, 4])

    Source: Song et al. 2023, eq. 6, of single frames; Burda et al. 2016 for "iwae".
    """
    one_of("estimator", estimator, ("iwae", "elbo", "authors"))
    check_prior(prior)
    found = []
    flow = _as_flow(flow) if estimator == "authors" else _as_flow(flow).with_log_det("exact")
    for path, of_frames in _sampled(log_likelihood, flow, q0, k, weights, steps, samples, generator):
        excess = excess_of_frames(path, prior)
        found.append(of_frames + excess if estimator == "authors" else of_frames - excess)
    return _log_of_mean(found) if estimator == "iwae" else torch.stack(found).mean(0)


def _sampled(
    log_likelihood: Callable[[Tensor], Tensor],
    flow: FlowPosterior,
    q0: Distribution,
    k: int | Tensor | None,
    weights: Tensor | None,
    steps: int,
    samples: int,
    generator: torch.Generator | None,
) -> Iterator[tuple[LatentPath, Tensor]]:
    """Paths and the log-likelihoods of their frames, (B, T+1)."""
    positive_integer("samples", samples)
    if not callable(log_likelihood):
        raise TypeError(
            f"log_likelihood: got {type(log_likelihood).__name__}, expected a function; let it take z (B, T+1, dim) to (B, T+1)"
        )
    for _ in range(samples):
        path = flow(q0, k, weights=weights, steps=steps, generator=generator)
        yield path, _of_frames(log_likelihood(path.z), path)


def _as_flow(flow: nn.Module) -> FlowPosterior:
    """A flow, or that of a potential by itself."""
    return flow if isinstance(flow, FlowPosterior) else FlowPosterior(flow)


def _log_of_mean(samples: list[Tensor]) -> Tensor:
    return torch.stack(samples).logsumexp(0) - math.log(len(samples))


def _of_frames(log_likelihood: Tensor, path: LatentPath) -> Tensor:
    """The log-likelihoods of frames, (B, T+1), or an error."""
    require_floating("log_likelihood", log_likelihood, "sum log p(x_t | z_t) over pixels")
    fix = "sum over pixels and keep one number for each frame"
    require_shape("log_likelihood", log_likelihood, path.z.shape[:2], fix)
    require_no_nan("log_likelihood", log_likelihood, "look for exploding latents or a bad decoder")
    return log_likelihood
