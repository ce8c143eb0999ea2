r"""What the time adds to the first layer of the networks, its backward pass written out.

With :math:`e(t)` the sinusoidal embedding and :math:`\Phi, \varphi` the normal distribution and its density,

.. math:: x = W_1 e + b_1, \quad \tau = W_2\, x \Phi(x) + b_2, \quad
          \tau' = W_2\,[g \circ W_1 e'], \quad g = \Phi(x) + x\,\varphi(x).

Values and rates pass through the layers together, as the rows of one product each. With :math:`r = x / \sqrt 2`, which the
first product gives where e is scaled, the error function needs no more operations around it:

.. math:: \sqrt 2\, x \Phi(x) = r + r\,\mathrm{erf}(r), \quad 2 g = 1 + \mathrm{erf}(r) + \gamma r e^{-r^2}, \quad
          (2g)' = 2 \gamma\, (1 - r^2)\, e^{-r^2}, \quad \gamma = \tfrac{2}{\sqrt\pi}.
"""

from __future__ import annotations

import math
from typing import Any, NamedTuple

import torch
from torch import Tensor

from latentflow.contexts import unrecorded
from latentflow.written_out import with_backward


class Layers(NamedTuple):
    """Of G networks."""

    weight_in: Tensor  # W_1, (G, h, width)
    bias_in: Tensor  # b_1, (G, h)
    weight_out: Tensor  # W_2, (G, h, h)
    bias_out: Tensor  # b_2, (G, h)


class Parts(NamedTuple):
    """What tau of S times and tau' of the last R of them come from."""

    rows: Tensor  # those of the embedding, (S + R, width)
    inner: Tensor  # r + r erf(r) and then g W_1 e', (G, S + R, h)
    turned: Tensor  # W_1 e' / 2, (G, R, h)
    excess: Tensor  # 2 g - 1, (G, S, h)
    bend: Tensor | None  # (1 - r^2) exp(-r^2) of the last R times, (G, R, h), if there are any


class Embedding(NamedTuple):
    """Of S times."""

    sinusoid: Tensor  # e / sqrt(2), (S, width)
    rate: Tensor  # e' / 2, (S, width)

    @classmethod
    def of(cls, t: Tensor, width: int) -> Embedding:
        """For times (S,)."""
        frequencies = torch.logspace(0, -4, width // 2, dtype=t.dtype, device=t.device)
        phase = t[:, None] * frequencies
        sin, cos, halves = phase.sin(), phase.cos(), frequencies * 0.5
        return cls(torch.cat((sin, cos), -1) * math.sqrt(0.5), torch.cat((halves * cos, -halves * sin), -1))


def tau_and_rate(embedding: Embedding, layers: Layers) -> tuple[Tensor, Tensor]:
    """tau(t) and tau'(t), (G, S, h) each."""
    tau, rate = _branch(*embedding, *layers)
    return tau, rate


def tau(embedding: Embedding, layers: Layers) -> Tensor:
    """Without the rate, (G, S, h)."""
    tau: Tensor = _branch(embedding.sinusoid, embedding.rate[:0], *layers)[0]
    return tau


def evaluate(sinusoid: Tensor, sinusoid_rate: Tensor, layers: Layers) -> tuple[Tensor, Tensor, Parts]:
    """tau of S times, tau' of the last R of them, and what `adjoint` takes, for their embedding, (S, width) and (R, width)."""
    count, rated = sinusoid.shape[0], sinusoid_rate.shape[0]
    rows = torch.cat((sinusoid, sinusoid_rate)) if rated else sinusoid
    along = torch.bmm(rows.expand(layers.weight_in.shape[0], -1, -1), layers.weight_in.mT)
    # Literals, for 1 / sqrt(2) and 2 / sqrt(pi): within an autograd function torch.compile takes no names of numbers.
    pre = torch.add(along[:, :count], layers.bias_in[:, None], alpha=0.7071067811865476)
    turned = along[:, count:]
    # What GELU and its slope share is made once. For so few numbers torch's own takes longer to be called than to work.
    error, square = torch.erf(pre), pre.square()
    decay = square.neg().exp()
    excess = torch.addcmul(error, pre, decay, value=1.1283791670955126)
    inner = _stretched(pre, error, turned, excess)
    found = torch.bmm(inner, layers.weight_out.mT)
    bend = None
    if rated:
        decay = decay[:, count - rated :]
        bend = torch.addcmul(decay, decay, square[:, count - rated :], value=-1)
    parts = Parts(rows, inner, turned, excess, bend)
    tau = torch.add(layers.bias_out[:, None], found[:, :count], alpha=0.7071067811865476)
    return tau, found[:, count:], parts


def adjoint(
    layers: Layers, parts: Parts, by_tau: Tensor, by_rate: Tensor | None, embedding_too: bool = False
) -> tuple[tuple[Tensor, Tensor] | None, Layers]:
    """The gradients of the embedding, (S, width) and (R, width), where `embedding_too` asks for them, and of the layers."""
    rows, inner, turned, excess, bend = parts
    num, count, rated = excess.shape[0], excess.shape[1], turned.shape[1]
    by_found = by_tau * 0.7071067811865476
    by_found = by_found if by_rate is None else torch.cat((by_found, by_rate), 1)
    by_inner = torch.bmm(by_found, layers.weight_out)
    by_product = by_inner[:, count:]
    by_slope = None if bend is None else by_product * turned
    by_along = _stretched(by_inner[:, :count], excess, by_product, excess, by_inner)
    by_pre = by_along[:, :count]
    if by_slope is not None and bend is not None:
        by_pre[:, count - rated :].addcmul_(by_slope, bend, value=2.256758334191025)  # 4 / sqrt(pi)
    by_layers = Layers(
        torch.bmm(by_along.mT, rows.expand(num, -1, -1)),
        by_pre.sum(1) * 0.7071067811865476,
        torch.bmm(by_found.mT, inner),
        by_tau.sum(1),
    )
    if not embedding_too:
        return None, by_layers
    found = torch.bmm(by_along, layers.weight_in).sum(0)
    return (found[:count], found[count:]), by_layers


def _stretched(values: Tensor, stretch: Tensor, rates: Tensor, excess: Tensor, both: Tensor | None = None) -> Tensor:
    """Values (G, S, h) times 1 + `stretch`, and behind them rates (G, R, h) times 1 + `excess`, of which the last R rows.

    They may be written to where they lie, `both`, if nobody needs them any more.
    """
    rated = rates.shape[1]
    if rated == 0:
        return torch.addcmul(values, values, stretch)
    excess = excess[:, excess.shape[1] - rated :]
    if not unrecorded():
        return torch.cat((torch.addcmul(values, values, stretch), torch.addcmul(rates, rates, excess)), 1)
    num, count, hidden = values.shape  # written to its place, which costs less than to join what would lie elsewhere
    both = values.new_empty(num, count + rated, hidden) if both is None else both
    torch.addcmul(values, values, stretch, out=both[:, :count])
    torch.addcmul(rates, rates, excess, out=both[:, count:])
    return both


def _forward(sinusoid: Tensor, sinusoid_rate: Tensor, *layers: Tensor) -> Any:
    tau, rate, parts = evaluate(sinusoid, sinusoid_rate, Layers(*layers))
    return (tau, rate), parts


def _backward(inputs: Any, kept: Any, by: Any, asked: Any) -> Any:
    by_tau, by_rate = by
    by_embedding, by_layers = adjoint(Layers(*inputs[2:]), Parts(*kept), by_tau, by_rate, asked[0] or asked[1])
    return *((None, None) if by_embedding is None else by_embedding), *by_layers


_branch = with_backward(_forward, _backward)
