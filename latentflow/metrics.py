r"""What is reported of a trained model: equivariance errors with their floor, likelihoods, and evidence bounds."""

from __future__ import annotations

import copy
import math
from collections.abc import Callable, Iterator

import torch
from torch import Tensor, nn
from torch.distributions import Distribution
from torch.nn import functional as F

from latentflow.initial import log_prob
from latentflow.objective import flow_kl
from latentflow.path import LatentPath
from latentflow.posterior import FlowPosterior
from latentflow.prior import DiffusionPrior
from latentflow.validate import (
    positive_integer,
    require,
    require_floating,
    require_integer,
    require_no_nan,
    require_shape,
)


def equivariance_error(decoded: Tensor, target: Tensor) -> Tensor:
    r""":math:`E = \sum_{t=1}^T \sum_{pixels} |x_t - \mathrm{Dec}(z_t)|`, one number per sequence.

    The first frame is left out: there nothing has moved yet. Report the mean over sequences, beside `identity_error`.

    Args:
        decoded: (B, T+1, ...), the decoded latents, in the units of the images (values in [0, 1], not logits).
        target: the true sequences, of the same shape.

    Returns:
        (B,).

    Raises:
        TypeError: one of them is not floating.
        ValueError: the shapes differ, or there are fewer than two frames.

    Example:
        >>> import torch
        >>> from latentflow.metrics import equivariance_error
        >>> equivariance_error(torch.zeros(1, 3, 2, 2), torch.ones(1, 3, 2, 2))
        tensor([8.])

    Source: Song et al. 2023, section 4.1.
    """
    _check_sequences("decoded", decoded, "target", target)
    return (target - decoded)[:, 1:].abs().flatten(1).sum(1)


def identity_error(target: Tensor) -> Tensor:
    """The error of a perfect autoencoder whose latents never move, (B,): the floor that a flow has to beat.

    Args:
        target: (B, T+1, ...), the true sequences.

    Raises:
        TypeError: target is not floating.
        ValueError: there are fewer than two frames, or no axis for what is in them.

    Example:
        >>> import torch
        >>> from latentflow.metrics import identity_error
        >>> identity_error(torch.ones(2, 3, 5))
        tensor([0., 0.])

    Source: Song et al. 2023, section 4.1, whose vanilla VAE is set not to move; that its autoencoder be perfect is ours.
    """
    require_floating("target", target, "divide images by 255")
    if target.ndim < 2:
        raise ValueError(f"target: got shape {tuple(target.shape)}, expected (B, T+1, ...); add the missing axes")
    return equivariance_error(target[:, :1].expand_as(target), target)


def latent_equivariance_error(z: Tensor, encoded: Tensor) -> tuple[Tensor, Tensor]:
    r""":math:`\sum_{t=1}^T \|\mathrm{Enc}(x_t) - z_t\|_1` of each sequence, and the same divided by how far Enc(x_t) moves.

    The first depends on the scale of the latent space, the second does not: 0 is perfect, 1 is no better than standing still.

    Args:
        z: (B, T+1, dim), the path.
        encoded: (B, T+1, dim), posterior means of the true frames.

    Returns:
        (B,) absolute and (B,) relative errors; relative to 0 motion, the error is inf, or nan where it is 0 too.

    Raises:
        TypeError: one of them is not floating.
        ValueError: the shapes differ, or there are fewer than two frames.

    Example:
        >>> import torch
        >>> from latentflow.metrics import latent_equivariance_error
        >>> encoded = torch.tensor([[[0.0], [1.0], [2.0]]])
        >>> latent_equivariance_error(torch.tensor([[[0.0], [1.0], [1.5]]]), encoded)
        (tensor([0.5000]), tensor([0.1667]))

    Source: Song et al. 2023, section 4.1, for the absolute error.
    """
    _check_sequences("z", z, "encoded", encoded, "pass latents as they are")
    error = equivariance_error(z, encoded)
    return error, error / identity_error(encoded)


def evidence_bound(
    log_likelihood: Tensor, path: LatentPath, prior: DiffusionPrior, *, bound: str = "marginal"
) -> Tensor:
    r"""Lower bound on the evidence of each sequence, (B,), in nats.

    Args:
        log_likelihood: (B, T+1), :math:`\log p(x_t | z_t)` at the latents of the path.
        path, prior, bound: as in `flow_kl`. "marginal", (A), bounds :math:`\sum_t \log p_t(x_t)`; "initial", (B), bounds
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
    log_weights = []
    for path, of_frames in _sampled(log_likelihood, flow, q0, k, weights, steps, samples, generator):
        z0 = path.z[:, 0]
        log_prior = -0.5 * (z0.square() + math.log(2 * math.pi)).sum(1)
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
    found = [of_frames for _, of_frames in _sampled(log_likelihood, flow, q0, k, weights, steps, samples, generator)]
    return _log_of_mean(found)


def gaussian_log_likelihood(decoded: Tensor, target: Tensor) -> Tensor:
    r""":math:`\log N(x_t; \mathrm{Dec}(z_t), I)` of each frame, (B, T+1), in nats: never above `gaussian_constant`.

    Args:
        decoded, target: (B, T+1, ...).

    Raises:
        TypeError: one of them is not floating.
        ValueError: the shapes differ, or there are fewer than two frames.

    Example:
        >>> import torch
        >>> from latentflow.metrics import gaussian_log_likelihood
        >>> gaussian_log_likelihood(torch.zeros(1, 2, 1), torch.zeros(1, 2, 1))
        tensor([[-0.9189, -0.9189]])

    Source: Song et al. 2023, eq. 1, where p(x_t | z_t) has Gaussian noise; its unit variance is ours, the paper gives none.
    """
    _check_sequences("decoded", decoded, "target", target)
    pixels = target.shape[2:].numel()
    return gaussian_constant(pixels) - 0.5 * (target - decoded).square().flatten(2).sum(2)


def bernoulli_log_likelihood(logits: Tensor, target: Tensor) -> Tensor:
    r""":math:`\sum_{pixels} x \log p + (1 - x) \log (1 - p)` of each frame, (B, T+1), in nats, with p = sigmoid(logits).

    What a decoder is trained for by binary cross-entropy. A density it is of binary pixels only.

    Args:
        logits: (B, T+1, ...), of the decoded frames.
        target: (B, T+1, ...), in [0, 1].

    Raises:
        TypeError: one of them is not floating.
        ValueError: the shapes differ, there are fewer than two frames, or target leaves [0, 1].

    Example:
        >>> import torch
        >>> from latentflow.metrics import bernoulli_log_likelihood
        >>> bernoulli_log_likelihood(torch.zeros(1, 2, 1), torch.ones(1, 2, 1))
        tensor([[-0.6931, -0.6931]])

    Source: Kingma and Welling 2014, appendix C.1.
    """
    _check_sequences("logits", logits, "target", target)
    require(
        (target >= 0) & (target <= 1),
        lambda: (
            f"target: got values from {target.min():.3g} to {target.max():.3g}, expected [0, 1]; divide images by 255"
        ),
    )
    return -F.binary_cross_entropy_with_logits(logits, target, reduction="none").flatten(2).sum(2)


def gaussian_constant(pixels: int) -> float:
    r""":math:`-\frac{n}{2} \log 2\pi` nats for n pixel values, which no model with a unit-variance Gaussian decoder exceeds.

    Print it beside such values.

    Args:
        pixels: n, all channels counted, an int.

    Raises:
        TypeError: pixels is no int.
        ValueError: pixels is negative.

    Example:
        >>> from latentflow.metrics import gaussian_constant
        >>> round(gaussian_constant(3 * 28 * 28), 2)
        -2161.34

    Source: the density of N(x; x, I); the mathematics page of the docs compares the paper's likelihoods with it.
    """
    require_integer("pixels", pixels, 0, "count those of all channels")
    return -0.5 * pixels * math.log(2 * math.pi)


def _sampled(
    log_likelihood: Callable[[Tensor], Tensor],
    flow: nn.Module,
    q0: Distribution,
    k: int | Tensor | None,
    weights: Tensor | None,
    steps: int,
    samples: int,
    generator: torch.Generator | None,
) -> Iterator[tuple[LatentPath, Tensor]]:
    """Paths without determinants, and the log-likelihoods of their frames, (B, T+1)."""
    positive_integer("samples", samples)
    if not callable(log_likelihood):
        raise TypeError(
            f"log_likelihood: got {type(log_likelihood).__name__}, expected a function; let it take z (B, T+1, dim) to (B, T+1)"
        )
    flow = copy.copy(flow) if isinstance(flow, FlowPosterior) else FlowPosterior(flow)
    flow.log_det = None
    for _ in range(samples):
        path = flow(q0, k, weights=weights, steps=steps, generator=generator)
        yield path, _of_frames(log_likelihood(path.z), path)


def _log_of_mean(samples: list[Tensor]) -> Tensor:
    return torch.stack(samples).logsumexp(0) - math.log(len(samples))


def _of_frames(log_likelihood: Tensor, path: LatentPath) -> Tensor:
    """The log-likelihoods of frames, (B, T+1), or an error."""
    require_floating("log_likelihood", log_likelihood, "sum log p(x_t | z_t) over pixels")
    fix = "sum over pixels and keep one number for each frame"
    require_shape("log_likelihood", log_likelihood, path.z.shape[:2], fix)
    require_no_nan("log_likelihood", log_likelihood, "look for exploding latents or a bad decoder")
    return log_likelihood


def _check_sequences(name: str, x: Tensor, other_name: str, other: Tensor, fix: str = "divide images by 255") -> None:
    require_floating(name, x, fix)
    require_floating(other_name, other, fix)
    if x.shape != other.shape or x.ndim < 3 or x.shape[1] < 2:
        raise ValueError(
            f"{name}, {other_name}: got shapes {tuple(x.shape)} and {tuple(other.shape)}, expected two equal (B, T+1, ...) "
            "with T >= 1; stack the frames on axis 1"
        )
