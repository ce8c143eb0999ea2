"""What holds of the KL terms of the evidence bounds."""

from __future__ import annotations

import math
from collections.abc import Callable

import torch
from torch import Tensor
from torch.distributions import MultivariateNormal, kl_divergence

from latentflow.objective import flow_kl
from latentflow.path import LatentPath
from latentflow.prior import DiffusionPrior
from latentflow.selector import categorical_kl
from latentflow.testing.comparison import compare
from latentflow.testing.gaussians import LinearGaussian


def assert_kl(
    case: LinearGaussian,
    prior: DiffusionPrior,
    *,
    bound: str = "marginal",
    kl: Callable[[LatentPath, DiffusionPrior], Tensor] | None = None,
    tolerance: float | None = None,
) -> None:
    r"""Assert that the expectation of a KL term is :math:`\sum_{t=0}^T \mathrm{KL}(q_t \| p_t)`, known for these Gaussians.

    Bound "initial" expects the first of these terms alone, to N(0, I). The expectation over sigma points is exact for
    one-sample estimates.

    Args:
        case: a `LinearGaussian`, for example from the strategy `linear_gaussians`.
        prior: a `DiffusionPrior` with num=1 and the dtype of the case.
        bound: "marginal" or "initial", as in `flow_kl`.
        kl: your own arithmetic, judged instead of `flow_kl`: a path and the prior to (B,).
        tolerance: relative to one more than the truth; by default :math:`16\,\epsilon^{3/4}`.

    Raises:
        AssertionError: saying what it got and what was expected.

    Example:
        >>> import torch
        >>> from latentflow import DiffusionPrior
        >>> from latentflow.testing import Linear, LinearGaussian, assert_kl
        >>> triple = Linear(2 * torch.eye(2)[None], torch.zeros(1, 2))
        >>> case = LinearGaussian(triple, torch.zeros(2), torch.eye(2), steps=1)
        >>> assert_kl(case, DiffusionPrior())
        >>> assert_kl(case, DiffusionPrior(), kl=lambda path, prior: -path.log_q.sum(1))
        Traceback (most recent call last):
        ...
        AssertionError: your KL: got 7.87..., expected 5.80278 in closed form; off by 2.1, allowed 0.0007 in float32
          steps    1
    """
    path = case.path()
    variances = prior.variance(path.weights)[0].detach()
    terms = []
    for (mean, covariance), variance in zip(case.moments(), variances, strict=True):
        p = MultivariateNormal(torch.zeros_like(mean), variance * torch.eye(len(mean), dtype=mean.dtype))
        terms.append(kl_divergence(MultivariateNormal(mean, covariance), p))
    truth = torch.stack(terms).sum() if bound == "marginal" else terms[0]
    each = flow_kl(path, prior, bound=bound) if kl is None else kl(path, prior)
    compare(
        "KL" if kl is None else "your KL",
        each.mean(),
        truth,
        "in closed form",
        tolerance=tolerance,
        at={"steps": case.steps},
    )


def assert_categorical_kl(
    logits: Tensor, *, kl: Callable[[Tensor], Tensor] | None = None, tolerance: float | None = None
) -> None:
    r"""Assert that the KL of the index to the uniform prior is :math:`\sum_k p_k \log(K p_k)`, row by row.

    Args:
        logits: (B, K).
        kl: your own arithmetic, judged instead of `categorical_kl`: (B, K) to (B,).
        tolerance: relative to one more than the truth; by default :math:`16\,\epsilon^{3/4}`.

    Raises:
        AssertionError: saying at which logits, and what was expected.

    Example:
        >>> import torch
        >>> from latentflow.testing import assert_categorical_kl
        >>> assert_categorical_kl(torch.tensor([[2.0, 0.0, 0.0]]))
    """
    truth = torch.tensor([_kl_to_uniform(row) for row in logits.tolist()], dtype=logits.dtype, device=logits.device)
    got = categorical_kl(logits) if kl is None else kl(logits)
    name = "KL of the index" if kl is None else "your KL of the index"
    compare(name, got, truth, "by the sum over k", tolerance=tolerance, at={"logits": logits})


def _kl_to_uniform(logits: list[float]) -> float:
    largest = max(logits)
    masses = [math.exp(x - largest) for x in logits]
    total = sum(masses)
    return sum(m / total * math.log(len(logits) * m / total) for m in masses if m > 0)
