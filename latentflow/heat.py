r"""The density of a standard Gaussian that has been widened as the heat equation says, its backward pass written out.

The variance at step t is :math:`s_t = 1 + 2\, \sum_k a_t^k D_k`, a being how long each k has acted and D = max(raw, 0).
"""

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor

from latentflow.written_out import with_backward


def log_density(z: Tensor, acted: Tensor, time: Tensor, raw: Tensor) -> Tensor:
    """In nats, (B, T+1).

    Args:
        z: (B, T+1, d).
        acted: a, (B, T+1, K); (1, ...) where it is that of all samples, and (..., 1, K) where it grows with the time.
        time: factors of a, (T+1,).
        raw: (K,).
    """
    found: Tensor = _log_density(z, acted, time, raw)[0]
    return found


def variance(acted: Tensor, time: Tensor, diffusion: Tensor) -> Tensor:
    """s, (B or 1, T+1), for D, (K,); 1 where the time is 0, however large D is."""
    return torch.addcmul(time.new_ones(()), torch.mv(acted.flatten(0, 1), diffusion).view(acted.shape[:2]), time + time)


def projected(raw: Tensor) -> Tensor:
    """max(raw, 0) with the gradient of a projected descent.

    The gradient passes wherever raw >= 0, exactly 0 included; below, it passes only if it leads back up. So D starts at
    exactly 0 and learns from there, rests there if the data want none, and is never stuck. (A square or an absolute value
    has no gradient at 0, and a clamp none below it.)
    """
    found: Tensor = _Projection.apply(raw)  # type: ignore[no-untyped-call]
    return found


class _Projection(torch.autograd.Function):
    generate_vmap_rule = True

    @staticmethod
    def forward(raw: Tensor) -> Tensor:
        return raw.clamp_min(0)

    @staticmethod
    def setup_context(ctx: Any, inputs: tuple[Tensor], output: Tensor) -> None:
        ctx.save_for_backward(inputs[0])
        ctx.save_for_forward(inputs[0])

    @staticmethod
    def jvp(ctx: Any, tangent: Tensor) -> Tensor:
        return torch.where(ctx.saved_tensors[0] >= 0, tangent, torch.zeros_like(tangent))

    @staticmethod
    def backward(ctx: Any, grad: Tensor) -> Tensor:
        return _through_projection(grad, ctx.saved_tensors[0])


def _through_projection(grad: Tensor, raw: Tensor) -> Tensor:
    return torch.where(raw < 0, grad.clamp_max(0), grad)


def log_normal(z: Tensor, variance: Tensor) -> Tensor:
    """The log density of N(0, s I), (...), in nats, for z (..., d) and s (...)."""
    return _of_ratio(z.square().sum(-1) / variance, variance, z.shape[-1])


def _of_ratio(ratio: Tensor, variance: Tensor, dim: int) -> Tensor:
    """The same for |z|^2 / s."""
    # A literal, for log(2 pi): within an autograd function torch.compile takes no names of numbers.
    return torch.add(ratio, variance.log() + 1.8378770664093453, alpha=dim) * -0.5


def _forward(z: Tensor, acted: Tensor, time: Tensor, raw: Tensor) -> Any:
    diffusion = projected(raw)
    widened = variance(acted, time, diffusion)
    ratio = z.square().sum(-1) / widened
    return (_of_ratio(ratio, widened, z.shape[-1]),), (diffusion, widened, ratio)


def _backward(inputs: Any, kept: Any, by: Any, asked: Any) -> Any:
    (z, acted, time, raw), (diffusion, widened, ratio) = inputs, kept
    share = by[0] / widened
    by_acting = (share * (ratio - z.shape[-1]) * time).sum_to_size(acted.shape[:2])
    by_raw = _through_projection(torch.mv(acted.flatten(0, 1).mT, by_acting.flatten()), raw)
    return z * -share[..., None], by_acting[..., None] * diffusion if asked[1] else None, None, by_raw


_log_density = with_backward(_forward, _backward)
