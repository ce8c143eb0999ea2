r"""First and second derivatives of the stacked networks of `Potential`, written out.

With :math:`h_1 = \tanh(Az + a)`, :math:`h_2 = \tanh(B (h_1 + \tau(t)) + b)`, :math:`s_i = 1 - h_i^2`,
:math:`v = w \cdot h_2`, :math:`q = B^\top(w \circ s_2)` and :math:`p = q \circ s_1`,

.. math:: \nabla v = A^\top p, \quad \partial_t v = q \cdot \tau'(t), \quad
          H = -2\,[C^\top \mathrm{diag}(w \circ h_2 \circ s_2)\, C + A^\top \mathrm{diag}(q \circ h_1 \circ s_1)\, A],
          \quad C = B\,\mathrm{diag}(s_1)\,A.

The potential u is v, or tanh(v + bias) where it is bounded. Activations have the layout (G, N, hidden): G networks, N rows
each, so that every layer is one batched product.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any, NamedTuple

import torch
from torch import Tensor

from latentflow.contexts import transformed
from latentflow.curvature import Curvature, many
from latentflow.hessian_product import coefficient_of_product
from latentflow.precision import apart_from_autocast
from latentflow.product import plus_product, times_vectors
from latentflow.tanh import slope_and_bend, slope_of, through_tanh
from latentflow.written_out import differentiably


class Networks(NamedTuple):
    """The parameters of G networks behind one another."""

    input_weight: Tensor  # A, (G, h, d)
    input_bias: Tensor  # a, (G, h)
    hidden_weight: Tensor  # B, (G, h, h)
    hidden_bias: Tensor  # b, (G, h)
    read_out: Tensor  # w, (G, h)
    output_bias: Tensor | None  # (G,), of the output tanh; None without it

    def weighted(self) -> Tensor:
        """B with its rows times w, (G, h, h): q is s_2 times it."""
        return self.hidden_weight * self.read_out[:, :, None]


class Matrices(NamedTuple):
    """What the second derivatives of G networks come from."""

    input_weight: Tensor  # A, (G, h, d)
    hidden_weight: Tensor  # B, (G, h, h)
    weighted: Tensor  # wB, (G, h, h)

    @classmethod
    def of(cls, networks: Networks) -> Matrices:
        return cls(networks.input_weight, networks.hidden_weight, networks.weighted())


@dataclass(frozen=True, eq=False)
class Local:
    """What the networks say of their rows: enough for the value and all first and second derivatives."""

    networks: Networks
    first: Tensor  # h_1, (G, N, h)
    second: Tensor  # h_2, (G, N, h)
    back: Tensor  # q, (G, N, h)
    coefficient: Tensor  # p, (G, N, h)
    slope: Tensor | None  # u' of the output tanh, (G, N, 1): grad u = u' grad v; None without it
    bend: Tensor | None  # u'' likewise: H_u = u' H_v + u'' (grad v)(grad v)^T

    @classmethod
    def of(
        cls,
        networks: Networks,
        first: Tensor,
        second: Tensor,
        back: Tensor,
        coefficient: Tensor,
        value: Tensor | None,
    ) -> Local:
        """With what the output tanh adds to the activations, from its value u, (G, N, 1)."""
        slope, bend = (None, None) if value is None else slope_and_bend(value)
        return cls(networks, first, second, back, coefficient, slope, bend)

    def rows(self, rows: slice) -> Local:
        """What they say of some of the rows."""
        first, second, back, coefficient = (x[:, rows] for x in (self.first, self.second, self.back, self.coefficient))
        slope, bend = (None if x is None else x[:, rows] for x in (self.slope, self.bend))
        return Local(self.networks, first, second, back, coefficient, slope, bend)

    def hessian_bytes(self, together: bool) -> int:
        """What the Hessian of one row takes on the way there and back, at most; `together` if all are added up."""
        num, hidden, dim = self.networks.input_weight.shape
        size = min(self._spanned(together), dim)
        numbers = num * 2 * hidden * (hidden + size) + (1 if together else num) * 8 * size * size
        return self.first.element_size() * numbers

    def gradient_coefficient(self) -> Tensor:
        """The p with grad u = A^T p, (G, N, h)."""
        return self.coefficient if self.slope is None else self.slope * self.coefficient

    def gradients(self) -> Tensor:
        """grad u of every network, (G, N, d)."""
        return torch.bmm(self.gradient_coefficient(), self.networks.input_weight)

    def time_derivative(self, rate: Tensor) -> Tensor:
        """du/dt, (G, N), for tau'(t), (G, S, h), each of the N / S rows behind one another having the same t."""
        derivative = time_derivative(self.back, rate)
        return derivative if self.slope is None else self.slope.squeeze(-1) * derivative

    def curvature(self, weights: Tensor | None, *, reduced: bool, substeps: int = 1) -> Curvature:
        """H / n of each network by itself, R = G, or with weights (G, N, 1) the mixture's, R = 1."""
        basis = self._basis(reduced, weights is not None)
        inner, outer = self._curvatures()
        slope, bend = self.slope, self.bend
        scale = weights if slope is None else slope if weights is None else slope * weights
        if substeps > 1:
            scale = self.first.new_full((), 1 / substeps) if scale is None else scale / substeps
        if scale is not None:
            inner, outer = inner * scale, outer * scale
        layers = self._layers(basis)
        if bend is not None:  # the outer product of grad v is one more layer
            bend = (bend if weights is None else bend * weights) / substeps
            layers = torch.cat((layers, (self.coefficient @ basis)[:, :, None]), 2)
            outer = torch.cat((outer, bend), 2)
        if weights is None or len(basis) == 1:
            return Curvature(layers, outer, basis, inner)
        # The networks of a mixture are one network with all their layers.
        layers, outer, inner = (x.transpose(0, 1).flatten(1, 2)[None] for x in (layers, outer, inner))
        return Curvature(layers, outer, basis.flatten(0, 1)[None], inner)

    def log_det(self, weights: Tensor | None, substeps: int = 1) -> tuple[Tensor, Tensor]:
        """log |det(I + H / n)| and the folds, (R, N) each, for the H of `curvature`."""
        smaller = self._spanned(weights is not None) < self.networks.input_weight.shape[-1]
        reduced = smaller and not transformed()
        value, folds = self.curvature(weights, reduced=reduced, substeps=substeps).log_det()
        if reduced and torch.is_grad_enabled() and not torch.compiler.is_compiling():
            inputs = weights, substeps, *self.networks, *self._activations()
            value = _Reduced.apply(value, *inputs)  # type: ignore[no-untyped-call]
        return value, folds

    def product_coefficient(self, along: Tensor) -> Tensor:
        """The c with H v = A^T c, (G, N, h), for A v, (G, N, h)."""
        local = self.first, self.second, self.coefficient
        coefficient, _ = coefficient_of_product(along, *local, self.networks.hidden_weight, self.networks.weighted())
        slope, bend = self.slope, self.bend
        if slope is None or bend is None:
            return coefficient
        return slope * coefficient + bend * (self.coefficient * along).sum(-1, keepdim=True) * self.coefficient

    def laplacian(self) -> Tensor:
        """tr H, (G, N)."""
        weight = self.networks.input_weight
        inner, outer = self._curvatures()
        trace = (outer * self._layers(weight).square().sum(-1)).sum(-1)
        trace = trace + times_vectors(inner, weight.square().sum(-1))
        slope, bend = self.slope, self.bend
        if slope is None or bend is None:
            return trace
        return slope.squeeze(-1) * trace + bend.squeeze(-1) * (self.coefficient @ weight).square().sum(-1)

    def _curvatures(self) -> tuple[Tensor, Tensor]:
        """-2 q h_1 s_1 and -2 w h_2 s_2, (G, N, h)."""
        outer = through_tanh(self.second, self.second) * (-2 * self.networks.read_out[:, None])
        return -2 * self.first * self.coefficient, outer

    def _layers(self, basis: Tensor) -> Tensor:
        """C in the columns of `basis` (G, h, r), as (G, N, h, r)."""
        slopes, middle = slope_of(self.first), self.networks.hidden_weight
        if many(slopes):
            # B_ij A_jr of all pairs are no more memory than C, and then s_1 (N, h) is all that the product has on its left.
            pairs = (middle.mT[..., None] * basis[:, :, None]).flatten(2)
            return torch.bmm(slopes, pairs).view(*slopes.shape, basis.shape[-1])
        scaled = middle[:, None] * slopes[:, :, None]
        return torch.bmm(scaled.flatten(1, 2), basis).view(*scaled.shape[:3], basis.shape[-1])

    def _activations(self) -> tuple[Tensor, Tensor, Tensor, Tensor, Tensor | None, Tensor | None]:
        return self.first, self.second, self.back, self.coefficient, self.slope, self.bend

    def _spanned(self, together: bool) -> int:
        """How many rows of A span where a Hessian is not zero: those of all networks where their Hessians are added up."""
        num, hidden, _ = self.networks.input_weight.shape
        return num * hidden if together else hidden

    def _basis(self, reduced: bool, together: bool) -> Tensor:
        """A, or A in an orthonormal basis of the span of its rows where that is smaller, (G, h, r)."""
        weight = self.networks.input_weight
        if not reduced or self._spanned(together) >= weight.shape[-1]:
            return weight
        # Q need not be differentiated: A (I - Q Q^T) = 0 takes every such term out of the first derivatives, not of the second.
        rows = weight.flatten(0, 1) if together else weight
        orthonormal: Tensor = torch.linalg.qr(rows.detach().mT).Q
        return weight @ orthonormal


class _Reduced(torch.autograd.Function):
    """A log-determinant in a reduced basis is right to its first derivatives; those of its gradient come from the full one."""

    @staticmethod
    def forward(ctx: Any, value: Tensor, weights: Tensor | None, substeps: int, *parts: Tensor | None) -> Tensor:
        ctx.substeps = substeps
        ctx.save_for_backward(weights, *parts)
        return value.clone()  # a view would allow nobody to write to it

    @staticmethod
    @apart_from_autocast
    def backward(ctx: Any, by_value: Tensor) -> tuple[Tensor | None, ...]:
        if not torch.is_grad_enabled():
            return by_value, *[None] * (len(ctx.needs_input_grad) - 1)
        weights, *parts = ctx.saved_tensors
        return None, *differentiably(_log_det_in_full, (weights, ctx.substeps, *parts), (by_value,))


def _log_det_in_full(weights: Tensor | None, substeps: int, *parts: Any) -> tuple[Tensor]:
    networks = len(Networks._fields)
    local = Local(Networks(*parts[:networks]), *parts[networks:])
    return (local.curvature(weights, reduced=False, substeps=substeps).log_det()[0],)


def activate(networks: Networks, rows: Tensor, tau: Tensor) -> Local:
    """Evaluate the networks at rows (G or 1, N, d), shared by all or its own; tau(t), (G, S, h), is that of N / S rows."""
    first = torch.tanh(first_layer(networks, rows))
    pre_2 = plus_product(networks.hidden_bias[:, None], at_times(first, tau), networks.hidden_weight.mT)
    second = torch.tanh(pre_2)
    back = torch.bmm(slope_of(second), networks.weighted())
    coefficient = through_tanh(back, first)
    value = None if networks.output_bias is None else value_of(networks, second)[..., None]
    return Local.of(networks, first, second, back, coefficient, value)


def first_layer(networks: Networks, rows: Tensor) -> Tensor:
    """The inputs A z + a of the first tanh, (G, N, h)."""
    weight = networks.input_weight
    return plus_product(networks.input_bias[:, None], rows.expand(weight.shape[0], -1, -1), weight.mT)


def along_inputs(networks: Networks, rows: Tensor) -> Tensor:
    """A v, (G, N, h), for v (G or 1, N, d)."""
    weight = networks.input_weight
    return torch.bmm(rows.expand(weight.shape[0], -1, -1), weight.mT)


def to_latents(networks: Networks, coefficient: Tensor, weights: Tensor | None) -> Tensor:
    """A^T c of each row, (G, N, d), for c (G, N, h); with weights (G, N, 1) the weighted sum over networks, (1, N, d)."""
    if weights is None:
        return torch.bmm(coefficient, networks.input_weight)
    return torch.bmm(coefficient * weights, networks.input_weight).sum(0, keepdim=True)


def value_of(networks: Networks, second: Tensor) -> Tensor:
    """u, (G, N), from h_2, (G, N, h)."""
    value = times_vectors(second, networks.read_out)
    return value if networks.output_bias is None else torch.tanh(value + networks.output_bias[:, None])


def time_derivative(back: Tensor, rate: Tensor) -> Tensor:
    """dv/dt = q . tau'(t), (G, S M), for q, (G, S M, h), and tau'(t), (G, S, h)."""
    return times_vectors(by_step(back, rate).flatten(0, 1), rate.flatten(0, 1)).view(back.shape[:2])


def by_step(x: Tensor, rate: Tensor) -> Tensor:
    """x (G, S M, n) as (G, S, M, n), for as many steps as there are rates, (G, S, h)."""
    return x.reshape(*rate.shape[:2], x.shape[1] // max(1, rate.shape[1]), x.shape[2])


def at_times(first: Tensor, tau: Tensor) -> Tensor:
    """h_1 + tau(t), (G, N, h), tau(t), (G, S, h), being that of N / S rows behind one another."""
    if tau.shape[1] in (1, first.shape[1]):
        return first + tau
    num, rows, hidden = first.shape
    return (first.view(num, tau.shape[1], rows // max(1, tau.shape[1]), hidden) + tau[:, :, None]).view_as(first)
