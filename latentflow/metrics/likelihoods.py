"""How likely frames are, given what was decoded for them."""

from __future__ import annotations

import math

from torch import Tensor
from torch.nn import functional as F

from latentflow.metrics.checks import require_pixels, sequences
from latentflow.validate import require_integer


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
    decoded, target = sequences("decoded", decoded, "target", target)
    pixels = target.shape[2:].numel()
    return gaussian_constant(pixels) - 0.5 * (target - decoded).square().flatten(2).sum(2)


def bernoulli_log_likelihood(logits: Tensor, target: Tensor) -> Tensor:
    r""":math:`\sum_{pixels} x \log p + (1 - x) \log (1 - p)` of each frame, (B, T+1), in nats, with p = sigmoid(logits).

    What a decoder is trained for by binary cross-entropy. It is a density for binary pixels only.

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
    logits, target = sequences("logits", logits, "target", target)
    require_pixels("target", target)
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
