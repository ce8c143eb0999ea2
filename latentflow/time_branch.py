r"""What the time adds to the first layer of the networks, its backward pass written out.

With :math:`e(t)` the sinusoidal embedding and :math:`\Phi, \varphi` the normal distribution and its density,

.. math:: x = W_1 e + b_1, \quad \tau = W_2\, x \Phi(x) + b_2, \quad
          \tau' = W_2\,[g \circ W_1 e'], \quad g = \Phi(x) + x\,\varphi(x).
"""

from __future__ import annotations

import math
from typing import Any, NamedTuple

import torch
from torch import Tensor

from latentflow.written_out import apart_from_autocast, differentiably, serves


class Layers(NamedTuple):
    """Of G networks."""

    weight_in: Tensor  # W_1, (G, h, width)
    bias_in: Tensor  # b_1, (G, h)
    weight_out: Tensor  # W_2, (G, h, h)
    bias_out: Tensor  # b_2, (G, h)


class _Parts(NamedTuple):
    """What tau comes from, (G, S, h) each."""

    pre: Tensor  # x
    below: Tensor  # Phi
    density: Tensor  # phi
    slope: Tensor  # g
    turned: Tensor | None  # W_1 e', where tau' is wanted


class Embedding(NamedTuple):
    """Of S times."""

    sinusoid: Tensor  # e, (S, width)
    rate: Tensor  # e', (S, width)

    @classmethod
    def of(cls, t: Tensor, width: int) -> Embedding:
        """For times (S,)."""
        frequencies = torch.logspace(0, -4, width // 2, dtype=t.dtype, device=t.device)
        phase = t[:, None] * frequencies
        sin, cos = phase.sin(), phase.cos()
        return cls(torch.cat((sin, cos), -1), torch.cat((frequencies * cos, -frequencies * sin), -1))

    def after_first(self) -> Embedding:
        """Of all times but the first."""
        return Embedding(self.sinusoid[1:], self.rate[1:])


def tau_and_rate(embedding: Embedding, layers: Layers) -> tuple[Tensor, Tensor]:
    """tau(t) and tau'(t), (G, S, h) each."""
    inputs = *embedding, *layers
    return _Branch.apply(*inputs) if serves() else _branch(*inputs)  # type: ignore[no-untyped-call, return-value]


def tau(embedding: Embedding, layers: Layers) -> Tensor:
    """Without the rate, (G, S, h)."""
    inputs = embedding.sinusoid, None, *layers
    found: Tensor = (_Branch.apply(*inputs) if serves() else _branch(*inputs))[0]  # type: ignore[no-untyped-call]
    return found


def _branch(embedded: Tensor, turned: Tensor | None, *layers: Tensor) -> tuple[Tensor, Tensor | None]:
    tau, rate, _ = _evaluate(embedded, turned, Layers(*layers))
    return tau, rate


def _evaluate(embedded: Tensor, turned: Tensor | None, layers: Layers) -> tuple[Tensor, Tensor | None, _Parts]:
    each_network = layers.weight_in.shape[0], -1, -1
    weight_in, weight_out = layers.weight_in.mT, layers.weight_out.mT
    pre = torch.baddbmm(layers.bias_in[:, None], embedded.expand(each_network), weight_in)
    # GELU is x times Phi, and for so few rows oneDNN, behind F.gelu, takes longer.
    below = 0.5 * torch.erfc(pre * -math.sqrt(0.5))
    tau = torch.baddbmm(layers.bias_out[:, None], pre * below, weight_out)
    # A literal, for 1 / sqrt(2 pi): within an autograd function torch.compile takes no names of numbers.
    density = torch.exp(-0.5 * pre.square()) * 0.3989422804014327
    slope = torch.addcmul(below, pre, density)
    if turned is None:
        return tau, None, _Parts(pre, below, density, slope, None)
    turned = torch.bmm(turned.expand(each_network), weight_in)
    return tau, torch.bmm(slope * turned, weight_out), _Parts(pre, below, density, slope, turned)


class _Branch(torch.autograd.Function):
    """`_branch`, with its backward pass."""

    @staticmethod
    def forward(ctx: Any, embedded: Tensor, turned: Tensor | None, *layers: Tensor) -> tuple[Tensor, Tensor | None]:
        tau, rate, parts = _evaluate(embedded, turned, Layers(*layers))
        ctx.save_for_backward(embedded, turned, *layers, *parts)
        return tau, rate

    @staticmethod
    @apart_from_autocast
    def backward(ctx: Any, by_tau: Tensor, by_rate: Tensor | None) -> tuple[Tensor | None, ...]:
        embedded, rotated, *rest = ctx.saved_tensors
        if torch.is_grad_enabled():
            return differentiably(_branch, (embedded, rotated, *rest[:4]), (by_tau, by_rate))
        layers, parts = Layers(*rest[:4]), _Parts(*rest[4:])
        pre, below, density, slope, turned = parts
        each_network = pre.shape[0], -1, -1
        by_pre = slope * torch.bmm(by_tau, layers.weight_out)
        by_weight_out = torch.bmm(by_tau.mT, pre * below)
        along, by_turned, by_rotated = embedded.expand(each_network), None, None
        if by_rate is not None and turned is not None:
            by_product = torch.bmm(by_rate, layers.weight_out)
            by_weight_out.baddbmm_(by_rate.mT, slope * turned)
            by_pre.addcmul_(by_product * turned, density * (2 - pre.square()))  # which is how g changes
            by_turned = by_product * slope
        by_weight_in = torch.bmm(by_pre.mT, along)
        if by_turned is not None:
            by_weight_in.baddbmm_(by_turned.mT, rotated.expand(each_network))
            by_rotated = torch.bmm(by_turned, layers.weight_in).sum(0) if ctx.needs_input_grad[1] else None
        return (
            torch.bmm(by_pre, layers.weight_in).sum(0) if ctx.needs_input_grad[0] else None,
            by_rotated,
            by_weight_in,
            by_pre.sum(1),
            by_weight_out,
            by_tau.sum(1),
        )
