r"""The learned scalar potentials u^k(z, t), the force f^k(z, t) <= 0, and the derivatives of u in closed form.

All K networks are stacked along a first axis and evaluated together. With :math:`h_1 = \tanh(Az + a)`,
:math:`h_2 = \tanh(B(h_1 + \tau(t)) + b)`, :math:`s_i = 1 - h_i^2`, :math:`u = w \cdot h_2`,
:math:`q = B^\top(w \circ s_2)` and :math:`p = q \circ s_1`,

.. math:: \nabla u = A^\top p, \quad \partial_t u = q \cdot \tau'(t), \quad
          H = -2\,[C^\top \mathrm{diag}(w \circ h_2 \circ s_2)\, C + A^\top \mathrm{diag}(q \circ h_1 \circ s_1)\, A],
          \quad C = B\,\mathrm{diag}(s_1)\,A.

Activations have the layout (K, N, hidden), N being all samples in a row, so that each layer is one batched product.
"""

from __future__ import annotations

import math
from typing import NamedTuple

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from latentflow.validate import positive_integer, require_floating


class _Local(NamedTuple):
    """What the first and second derivatives of the chosen networks at N points are made of; layout (K, N, ...)."""

    value: Tensor  # (K, N), u
    slope_1: Tensor  # (K, N, h), s_1
    time_coefficient: Tensor  # (K, N, h), q
    gradient_coefficient: Tensor  # (K, N, h), p
    inner_curvature: Tensor  # (K, N, h), -2 q h_1 s_1
    outer_curvature: Tensor  # (K, N, h), -2 w h_2 s_2
    bend: Tensor | None  # (K, N, 1), u'' of the output tanh, which multiplies (grad v)(grad v)^T; None without it
    unbent: Tensor | None  # (K, N, h), p of v, the argument of the output tanh; None without it


class Potential(nn.Module):
    r"""K scalar potentials :math:`u^k(z, t)` whose gradients move the latents.

    The network is the one of *Flow Factorized Representation Learning* (supplement): a tanh layer on z, a sinusoidal
    embedding of t through a small GELU network, a tanh layer on their sum and a linear read-out. The potential counts
    only up to a function of t alone, so the read-out has no bias; `bounded=True` adds the paper's output tanh with its
    bias, which keeps u between -1 and 1.

    Args:
        dim: size d of a latent, at least 1.
        num: number K of potentials.
        hidden: width of the hidden layers; default ``max(dim, 16)``. A width below dim makes exact log-determinants
            cheaper, because the Hessian then has rank at most `hidden`.
        bounded: end in a tanh, as the paper does.
        device, dtype: where and as what the parameters are made.

    Shapes:
        ``potential(z, t)``: z (..., dim), t a number, a scalar tensor or anything that broadcasts to (...) -> (..., K).

    Raises:
        TypeError: z is not floating or has another dtype than the parameters.
        ValueError: the last axis of z is not dim, or t does not broadcast to z's leading axes.

    Example:
        >>> import torch
        >>> from latentflow import Potential
        >>> potential = Potential(dim=4, num=3)
        >>> potential(torch.randn(8, 4), 1.0).shape
        torch.Size([8, 3])
        >>> potential.gradients(torch.randn(8, 4), 1.0).shape
        torch.Size([8, 3, 4])

    Source: Song et al. 2023, section 4 and supplement; the sinusoid is that of Vaswani et al. 2017.
    """

    def __init__(
        self,
        dim: int,
        num: int = 1,
        hidden: int | None = None,
        *,
        bounded: bool = False,
        device: torch.device | str | None = None,
        dtype: torch.dtype | None = None,
    ) -> None:
        super().__init__()
        self.dim = positive_integer("dim", dim)
        self.num = positive_integer("num", num)
        self.hidden = max(dim, 16) if hidden is None else positive_integer("hidden", hidden)
        self.bounded = bool(bounded)
        width = max(4, self.hidden + self.hidden % 2)  # of the time embedding: even, and two frequencies at least
        if dtype is not None and not dtype.is_floating_point:
            raise TypeError(f"dtype: got {dtype}, expected a floating dtype; use torch.float32 or torch.float64")

        def stacked(*shape: int) -> nn.Parameter:
            return nn.Parameter(torch.empty(self.num, *shape, device=device, dtype=dtype))

        self.input_weight, self.input_bias = stacked(self.hidden, dim), stacked(self.hidden)
        self.time_in_weight, self.time_in_bias = stacked(self.hidden, width), stacked(self.hidden)
        self.time_out_weight, self.time_out_bias = stacked(self.hidden, self.hidden), stacked(self.hidden)
        self.hidden_weight, self.hidden_bias = stacked(self.hidden, self.hidden), stacked(self.hidden)
        self.output_weight = stacked(self.hidden)
        self.output_bias = stacked() if self.bounded else None
        self.reset_parameters()

    def reset_parameters(self) -> None:
        """Draw the parameters as `torch.nn.Linear` does: uniform in +-1/sqrt(fan in)."""
        layers = (
            (self.dim, self.input_weight, self.input_bias),
            (self.time_in_weight.shape[-1], self.time_in_weight, self.time_in_bias),
            (self.hidden, self.time_out_weight, self.time_out_bias),
            (self.hidden, self.hidden_weight, self.hidden_bias),
            (self.hidden, self.output_weight, self.output_bias),
        )
        for fan_in, *parameters in layers:
            for parameter in parameters:
                if parameter is not None:
                    nn.init.uniform_(parameter, -1 / math.sqrt(fan_in), 1 / math.sqrt(fan_in))

    def extra_repr(self) -> str:
        return f"dim={self.dim}, num={self.num}, hidden={self.hidden}, bounded={self.bounded}"

    def forward(self, z: Tensor, t: Tensor | float) -> Tensor:
        """u(z, t) of all potentials, (..., K)."""
        return self._local(z, t).value.T.reshape(*z.shape[:-1], self.num)

    def gradients(self, z: Tensor, t: Tensor | float) -> Tensor:
        r""":math:`\nabla u^k(z, t)` of each potential, (..., K, dim)."""
        return self.first_derivatives(z, t)[1]

    def first_derivatives(self, z: Tensor, t: Tensor | float, k: int | None = None) -> tuple[Tensor, Tensor]:
        r""":math:`\partial_t u` (..., K) and :math:`\nabla u` (..., K, dim) of all potentials.

        With `k`, of that one alone: (..., 1) and (..., 1, dim).
        """
        k = None if k is None else self._in_range(k)
        local = self._local(z, t, k)
        rate = self._time_branch(z, t, k, derivative=True)
        time_derivative = (local.time_coefficient * rate).sum(-1)
        gradients = local.gradient_coefficient @ _chosen(self.input_weight, k)
        lead = z.shape[:-1]
        num = gradients.shape[0]
        return time_derivative.T.reshape(*lead, num), gradients.transpose(0, 1).reshape(*lead, num, self.dim)

    def gradient(self, z: Tensor, t: Tensor | float, active: int | Tensor) -> Tensor:
        r""":math:`\sum_k w^k \nabla u^k`, (..., dim); `active` is one index, or weights (..., K)."""
        k, weights = self._split(active)
        coefficient = _weighted(self._local(z, t, k).gradient_coefficient, weights)
        return self._back_to_latent(coefficient, k).reshape(z.shape)

    def hessian(self, z: Tensor, t: Tensor | float, active: int | Tensor, *, reduced: bool = False) -> Tensor:
        r""":math:`H = \sum_k w^k \nabla\nabla^\top u^k`, (..., r, r); `active` is one index, or weights (..., K).

        r is dim; or, with `reduced` and K hidden < dim, the size K hidden of an orthonormal basis of the rows of the
        input layers. H is zero outside of their span, so det(I + H) and whether I + H > 0 are the same in that basis.
        """
        k, weights = self._split(active)
        local = self._local(z, t, k)
        basis = _chosen(self.input_weight, k)
        if reduced and basis.shape[0] * basis.shape[1] < self.dim:
            # Q need not be differentiated: A (I - Q Q^T) = 0 takes every such term out of the first derivatives.
            basis = basis @ torch.linalg.qr(basis.detach().flatten(0, 1).mT).Q
        size = basis.shape[-1]
        pairs = (basis[..., :, None] * basis[..., None, :]).flatten(0, 1).flatten(1)  # (K h, r r)
        inner = _weighted(local.inner_curvature, weights).transpose(0, 1).flatten(1)  # (N, K h)
        hessian = (inner @ pairs).view(-1, size, size)
        layers = self._second_layer_jacobian(local, basis, k)  # C, (K, N, h, r)
        outer = _weighted(local.outer_curvature, weights)
        hessian = hessian + ((layers * outer[..., None]).mT @ layers).sum(0)
        if local.bend is not None and local.unbent is not None:
            slopes = local.unbent @ basis  # grad v, (K, N, r)
            hessian = hessian + torch.einsum("kni,knj->nij", slopes * _weighted(local.bend, weights), slopes)
        return hessian.reshape(*z.shape[:-1], size, size)

    def hessian_product(self, z: Tensor, t: Tensor | float, active: int | Tensor, v: Tensor) -> Tensor:
        r""":math:`\sum_k w^k H^k v`, (..., dim), for v (..., dim), without forming H."""
        k, weights = self._split(active)
        local = self._local(z, t, k)
        weight, middle = _chosen(self.input_weight, k), _chosen(self.hidden_weight, k)
        along = v.reshape(-1, self.dim) @ weight.mT  # A v, (K, N, h)
        through = local.outer_curvature * torch.bmm(local.slope_1 * along, middle.mT)
        coefficient = local.slope_1 * torch.bmm(through, middle) + local.inner_curvature * along
        if local.bend is not None and local.unbent is not None:
            slope_along = (local.unbent * along).sum(-1, keepdim=True)
            coefficient = coefficient + local.bend * slope_along * local.unbent
        return self._back_to_latent(_weighted(coefficient, weights), k).reshape(z.shape)

    def laplacian(self, z: Tensor, t: Tensor | float, active: int | Tensor) -> Tensor:
        r""":math:`\sum_k w^k \mathrm{tr}\, H^k`, (...)."""
        k, weights = self._split(active)
        local = self._local(z, t, k)
        weight = _chosen(self.input_weight, k)
        layers = self._second_layer_jacobian(local, weight, k)
        trace = (local.outer_curvature * layers.square().sum(-1)).sum(-1, keepdim=True)
        trace = trace + (local.inner_curvature * weight.square().sum(-1)[:, None]).sum(-1, keepdim=True)
        if local.bend is not None and local.unbent is not None:
            trace = trace + local.bend * (local.unbent @ weight).square().sum(-1, keepdim=True)
        return _weighted(trace, weights).sum((0, 2)).reshape(z.shape[:-1])

    def _local(self, z: Tensor, t: Tensor | float, k: int | None = None) -> _Local:
        z, t = self._checked(z, t)
        middle, read_out = _chosen(self.hidden_weight, k), _chosen(self.output_weight, k)[:, None]
        pre_1 = z.reshape(-1, self.dim) @ _chosen(self.input_weight, k).mT + _chosen(self.input_bias, k)[:, None]
        first = torch.tanh(pre_1)
        shifted = first + self._time_branch(z, t, k)
        second = torch.tanh(torch.baddbmm(_chosen(self.hidden_bias, k)[:, None], shifted, middle.mT))
        slope_1, slope_2 = 1 - first.square(), 1 - second.square()
        value = (second * read_out).sum(-1)
        gate = read_out * slope_2
        back = torch.bmm(gate, middle)
        coefficient = back * slope_1
        inner, outer = -2 * first * coefficient, -2 * second * gate
        if self.output_bias is None:
            return _Local(value, slope_1, back, coefficient, inner, outer, None, None)
        # u = tanh(v): grad u = u' grad v and H_u = u' H_v + u'' (grad v)(grad v)^T with u' = 1 - u^2, u'' = -2 u u'.
        value = torch.tanh(value + _chosen(self.output_bias, k)[:, None])
        slope = (1 - value.square())[..., None]
        bend = -2 * value[..., None] * slope
        return _Local(
            value, slope_1, slope * back, slope * coefficient, slope * inner, slope * outer, bend, coefficient
        )

    def _time_branch(self, z: Tensor, t: Tensor | float, k: int | None, *, derivative: bool = False) -> Tensor:
        """tau(t), or tau'(t), as (K, N, hidden); (K, 1, hidden) where all latents share one time."""
        t = torch.as_tensor(t, dtype=z.dtype, device=z.device)
        half = self.time_in_weight.shape[-1] // 2
        exponents = torch.arange(half, dtype=z.dtype, device=z.device) / (half - 1)
        frequencies = torch.exp(-math.log(10000.0) * exponents)
        phase = t.reshape(-1, 1) * frequencies  # each distinct entry of t is embedded once
        embedding = torch.cat((phase.sin(), phase.cos()), -1)
        weight_in, weight_out = _chosen(self.time_in_weight, k).mT, _chosen(self.time_out_weight, k).mT
        pre = embedding @ weight_in + _chosen(self.time_in_bias, k)[:, None]
        if derivative:
            rate = torch.cat((phase.cos() * frequencies, -phase.sin() * frequencies), -1)
            normal = torch.exp(-0.5 * pre.square()) / math.sqrt(2 * math.pi)
            gelu_slope = 0.5 * (1 + torch.erf(pre / math.sqrt(2))) + pre * normal
            branch = torch.bmm(gelu_slope * (rate @ weight_in), weight_out)
        else:
            branch = torch.baddbmm(_chosen(self.time_out_bias, k)[:, None], F.gelu(pre), weight_out)
        if t.numel() == 1:
            return branch
        lead = z.shape[:-1]
        branch = branch.view(branch.shape[0], *(1,) * (len(lead) - t.ndim), *t.shape, self.hidden)
        return branch.expand(-1, *lead, -1).flatten(1, -2)

    def _second_layer_jacobian(self, local: _Local, basis: Tensor, k: int | None) -> Tensor:
        """C = B diag(s_1) A in the columns of `basis` (K, h, r), as (K, N, h, r)."""
        scaled = _chosen(self.hidden_weight, k)[:, None] * local.slope_1[:, :, None]
        return torch.bmm(scaled.flatten(1, 2), basis).view(*scaled.shape[:3], basis.shape[-1])

    def _back_to_latent(self, coefficient: Tensor, k: int | None) -> Tensor:
        """sum_k A_k^T coefficient_k, (N, dim), as one product over all K hidden layers."""
        return coefficient.transpose(0, 1).flatten(1) @ _chosen(self.input_weight, k).flatten(0, 1)

    def _split(self, active: int | Tensor) -> tuple[int | None, Tensor | None]:
        """(index, None) for one potential; (None, weights (K, N, 1)) for a mixture or labels."""
        if not isinstance(active, Tensor):
            return self._in_range(active), None
        weights = active if active.is_floating_point() else F.one_hot(active, self.num).to(self.input_weight.dtype)
        return None, weights.reshape(-1, self.num).T[..., None]

    def _in_range(self, k: int) -> int:
        if not 0 <= k < self.num:
            raise ValueError(f"k: got {k}, expected 0, ..., {self.num - 1}; the potential has num={self.num}")
        return k

    def _checked(self, z: Tensor, t: Tensor | float) -> tuple[Tensor, Tensor]:
        require_floating("z", z, "pass latents")
        if z.dtype != self.input_weight.dtype:
            raise TypeError(
                f"z: got dtype {z.dtype}, expected {self.input_weight.dtype} like the potential's parameters; "
                "convert one of them with .to(dtype); half-precision latents flow in float32, so keep the potential in float32"
            )
        if z.ndim < 1 or z.shape[-1] != self.dim:
            raise ValueError(
                f"z: got shape {tuple(z.shape)}, expected (..., {self.dim}); put the latent on the last axis"
            )
        t = torch.as_tensor(t, dtype=z.dtype, device=z.device)
        lead = z.shape[:-1]
        if t.ndim > len(lead) or any(n not in (1, m) for n, m in zip(t.shape[::-1], lead[::-1], strict=False)):
            raise ValueError(
                f"t: got shape {tuple(t.shape)}, expected a scalar or {tuple(lead)}; give each latent one time"
            )
        return z, t


class NegativeForce(nn.Module):
    r"""K external forces :math:`f^k(z, t) = -m^k(z, t)^2 \le 0`, m having the architecture of `Potential`.

    The force is what is left of the positivity constraint in the optimality conditions of dynamic optimal transport. A
    free force makes the Hamilton-Jacobi constraint vacuous (see the mathematics page of the docs), so `HJConstraint` can
    put a price on it.

    Args:
        dim, num, hidden, bounded, device, dtype: as in `Potential`; `bounded=True` keeps f above -1.

    Shapes:
        ``force(z, t)``: z (..., dim), t as in `Potential` -> (..., K), all at most 0.

    Raises:
        TypeError, ValueError: as `Potential`.

    Example:
        >>> import torch
        >>> from latentflow import NegativeForce
        >>> force = NegativeForce(dim=4, num=3)
        >>> bool((force(torch.randn(8, 4), 1.0) <= 0).all())
        True

    Source: Song et al. 2023, eq. 13.
    """

    def __init__(
        self,
        dim: int,
        num: int = 1,
        hidden: int | None = None,
        *,
        bounded: bool = False,
        device: torch.device | str | None = None,
        dtype: torch.dtype | None = None,
    ) -> None:
        super().__init__()
        self.root = Potential(dim, num, hidden, bounded=bounded, device=device, dtype=dtype)
        # Unlike a potential, a force is not defined up to a constant: without the output tanh it needs its own bias.
        self.bias = None if bounded else nn.Parameter(torch.zeros(num, device=device, dtype=dtype))
        self.dim, self.num = self.root.dim, self.root.num

    def forward(self, z: Tensor, t: Tensor | float) -> Tensor:
        """f(z, t) of all K, (..., K)."""
        root: Tensor = self.root(z, t)
        return -(root if self.bias is None else root + self.bias).square()


def _chosen(parameter: Tensor, k: int | None) -> Tensor:
    """The k-th network's slice with its first axis kept, or all of them."""
    return parameter if k is None else parameter[k : k + 1]


def _weighted(x: Tensor, weights: Tensor | None) -> Tensor:
    return x if weights is None else x * weights
