"""Potentials whose answers are known: exact solutions of the Hamilton-Jacobi equation, affine maps, and a map that folds.

Each has its derivatives written out, in the form of `Potential`: `first_derivatives(z, t)` and `hessian(z, t, active)`.
They see latents as rows z (N, dim) with times t (N,), as the library gives them to any module.
"""

from __future__ import annotations

import math

import torch
from torch import Tensor, nn
from torch.nn import functional as F

Derivatives = tuple[Tensor, Tensor]  # du/dt (N, K) and grad u (N, K, dim)


class Spread(nn.Module):
    r"""Everything moves away from the origin on straight lines: :math:`u = \|z\|^2 / (2 (t + c))`, residual 0.

    Args:
        c: positive.

    Shapes:
        ``potential(z, t)``: z (N, dim), t (N,) -> (N, 1). ``end(z0, time)``: where latents (N, dim) of time 0 are at `time`.

    Example:
        >>> import torch
        >>> from latentflow.testing import Spread
        >>> Spread().end(torch.ones(1, 2), 8.0)
        tensor([[9., 9.]])
    """

    def __init__(self, c: float = 1.0) -> None:
        super().__init__()
        self.c = c

    def extra_repr(self) -> str:
        return f"c={self.c}"

    def forward(self, z: Tensor, t: Tensor) -> Tensor:
        return (z.square().sum(-1) / (2 * (t + self.c))).unsqueeze(-1)

    def first_derivatives(self, z: Tensor, t: Tensor) -> Derivatives:
        slope = z / (t + self.c)[:, None]
        return -0.5 * slope.square().sum(-1, keepdim=True), slope[:, None]

    def hessian(self, z: Tensor, t: Tensor, active: int | Tensor) -> Tensor:
        return mixed(_identity(z) / (t + self.c)[:, None, None, None], active)

    def end(self, z0: Tensor, time: float) -> Tensor:
        return z0 * (time + self.c) / self.c


class Drift(nn.Module):
    r"""Everything moves along a: :math:`u = a \cdot z - \|a\|^2 t / 2`, residual 0.

    Args:
        a: (dim,), the velocity.

    Shapes:
        as `Spread`: z (N, dim), t (N,) -> (N, 1).

    Example:
        >>> import torch
        >>> from latentflow.testing import Drift
        >>> Drift(torch.tensor([1.0, 0.0])).end(torch.zeros(1, 2), 3.0).tolist()
        [[3.0, 0.0]]
    """

    def __init__(self, a: Tensor) -> None:
        super().__init__()
        self.a = nn.Parameter(a)

    def extra_repr(self) -> str:
        return f"a={self.a.tolist()}"

    def forward(self, z: Tensor, t: Tensor) -> Tensor:
        return (z @ self.a - 0.5 * self.a.square().sum() * t).unsqueeze(-1)

    def first_derivatives(self, z: Tensor, t: Tensor) -> Derivatives:
        return (-0.5 * self.a.square().sum()).expand(len(z), 1), self.a.expand(len(z), 1, -1)

    def hessian(self, z: Tensor, t: Tensor, active: int | Tensor) -> Tensor:
        return mixed(torch.zeros_like(_identity(z)), active)

    def end(self, z0: Tensor, time: float) -> Tensor:
        return z0 + self.a * time


class Stretch(nn.Module):
    r"""Each axis of S by itself: :math:`u = \frac12 z^\top S(t)\, z` with :math:`S(t) = S (I + tS)^{-1}`, residual 0.

    Args:
        start: S, (dim, dim), symmetric, with eigenvalues above -1/t for all t that matter.

    Shapes:
        as `Spread`: z (N, dim), t (N,) -> (N, 1).

    Example:
        >>> import torch
        >>> from latentflow.testing import Stretch
        >>> Stretch(torch.diag(torch.tensor([1.0, 0.0]))).end(torch.ones(1, 2), 2.0)
        tensor([[3., 1.]])
    """

    start: Tensor
    strengths: Tensor
    axes: Tensor

    def __init__(self, start: Tensor) -> None:
        super().__init__()
        strengths, axes = torch.linalg.eigh(start)
        for name, value in (("start", start), ("strengths", strengths), ("axes", axes)):
            self.register_buffer(name, value)

    def extra_repr(self) -> str:
        return f"start={self.start.tolist()}"

    def _now(self, t: Tensor) -> Tensor:
        return self.strengths / (1 + t.unsqueeze(-1) * self.strengths)

    def forward(self, z: Tensor, t: Tensor) -> Tensor:
        return (0.5 * ((z @ self.axes).square() * self._now(t)).sum(-1)).unsqueeze(-1)

    def first_derivatives(self, z: Tensor, t: Tensor) -> Derivatives:
        slope = ((z @ self.axes) * self._now(t)) @ self.axes.mT
        return -0.5 * slope.square().sum(-1, keepdim=True), slope[:, None]

    def hessian(self, z: Tensor, t: Tensor, active: int | Tensor) -> Tensor:
        return mixed((self.axes * self._now(t)[:, None] @ self.axes.mT)[:, None], active)

    def end(self, z0: Tensor, time: float) -> Tensor:
        return z0 + time * z0 @ self.start


class Swing(nn.Module):
    r""":math:`u = \sin t \sum_i \cos z_i - ct`, moving, and yet without residual under the force of `SwingForce`.

    It shows that a free force makes the constraint vacuous.

    Shapes:
        as `Spread`: z (N, dim), t (N,) -> (N, 1).

    Example:
        >>> import torch
        >>> from latentflow import HJConstraint
        >>> from latentflow.testing import Swing, SwingForce
        >>> residual = HJConstraint(Swing(), SwingForce()).residual(torch.randn(5, 3), 2.0)
        >>> bool(residual.abs().max() < 1e-5)
        True
    """

    def forward(self, z: Tensor, t: Tensor) -> Tensor:
        return (t.sin() * z.cos().sum(-1) - (1.5 * z.shape[-1] + 1) * t).unsqueeze(-1)

    def first_derivatives(self, z: Tensor, t: Tensor) -> Derivatives:
        rate = t.cos() * z.cos().sum(-1) - (1.5 * z.shape[-1] + 1)
        return rate[:, None], (-t.sin()[:, None] * z.sin())[:, None]

    def hessian(self, z: Tensor, t: Tensor, active: int | Tensor) -> Tensor:
        return mixed(torch.diag_embed(-t.sin()[:, None] * z.cos())[:, None], active)


class SwingForce(nn.Module):
    r"""The force :math:`f = -g^2 \le -1` that absorbs all of `Swing`.

    Shapes:
        as `Spread`: z (N, dim), t (N,) -> (N, 1).

    Example:
        >>> import torch
        >>> from latentflow.testing import SwingForce
        >>> bool((SwingForce()(torch.randn(5, 3), torch.ones(5)) <= -0.99).all())
        True
    """

    def forward(self, z: Tensor, t: Tensor) -> Tensor:
        dim = z.shape[-1]
        g = (1.5 * dim + 1 - t.cos() * z.cos().sum(-1) - 0.5 * t.sin().square() * z.sin().square().sum(-1)).sqrt()
        return -g.square().unsqueeze(-1)


class Linear(nn.Module):
    r"""K potentials :math:`u^k = \frac12 z^\top H^k z + b^k \cdot z`, whose steps are the affine maps :math:`z + H^k z + b^k`.

    They carry Gaussians to Gaussians, so that densities and KL terms have closed forms; see `LinearGaussian`.

    Args:
        hessians: H, (K, dim, dim), symmetric.
        shifts: b, (K, dim).

    Shapes:
        z (N, dim), t (N,) -> (N, K).

    Example:
        >>> import torch
        >>> from latentflow import FlowPosterior
        >>> from latentflow.testing import Linear
        >>> triple = Linear(2 * torch.eye(2)[None], torch.zeros(1, 2))
        >>> FlowPosterior(triple).transport(torch.ones(1, 2), 0, steps=1)[0][:, -1].tolist()
        [[3.0, 3.0]]
    """

    def __init__(self, hessians: Tensor, shifts: Tensor) -> None:
        super().__init__()
        self.hessians, self.shifts = nn.Parameter(hessians), nn.Parameter(shifts)

    def extra_repr(self) -> str:
        return f"hessians={self.hessians.tolist()}, shifts={self.shifts.tolist()}"

    def forward(self, z: Tensor, t: Tensor) -> Tensor:
        return 0.5 * torch.einsum("...i,kij,...j->...k", z, self.hessians, z) + z @ self.shifts.mT

    def first_derivatives(self, z: Tensor, t: Tensor) -> Derivatives:
        slopes = torch.einsum("kij,nj->nki", self.hessians, z) + self.shifts
        return torch.zeros_like(slopes[..., 0]), slopes

    def hessian(self, z: Tensor, t: Tensor, active: int | Tensor) -> Tensor:
        return mixed(self.hessians.expand(len(z), -1, -1, -1), active)


class Folding(nn.Module):
    r""":math:`u = -s \sum_i \log\cosh z_i`: the step :math:`z - s \tanh z` folds where s > 1.

    Args:
        strength: s.

    Shapes:
        as `Spread`: z (N, dim), t (N,) -> (N, 1).

    Example:
        >>> import torch
        >>> from latentflow import FlowPosterior
        >>> from latentflow.testing import Folding
        >>> z, _ = FlowPosterior(Folding(2.0)).transport(torch.tensor([[0.5], [1.0]]), 0, steps=1)
        >>> bool(z[0, 1] > z[1, 1])  # they have changed places
        True
    """

    def __init__(self, strength: float = 2.0) -> None:
        super().__init__()
        self.strength = strength

    def extra_repr(self) -> str:
        return f"strength={self.strength}"

    def forward(self, z: Tensor, t: Tensor) -> Tensor:
        log_cosh = F.softplus(2 * z, threshold=60) - z - math.log(2)
        return (-self.strength * log_cosh.sum(-1)).unsqueeze(-1)

    def first_derivatives(self, z: Tensor, t: Tensor) -> Derivatives:
        return torch.zeros_like(z[:, :1]), (-self.strength * z.tanh())[:, None]

    def hessian(self, z: Tensor, t: Tensor, active: int | Tensor) -> Tensor:
        return mixed(torch.diag_embed(-self.strength * (1 - z.tanh().square()))[:, None], active)


def mixed(each: Tensor, active: int | Tensor) -> Tensor:
    """What acts of the Hessians of all potentials: (N, K, dim, dim) to (N, dim, dim)."""
    if not isinstance(active, Tensor):
        return each[:, active]
    weights = active if active.is_floating_point() else F.one_hot(active, each.shape[1]).to(each)
    return (weights[..., None, None] * each).sum(1)


def _identity(z: Tensor) -> Tensor:
    return torch.eye(z.shape[1], dtype=z.dtype, device=z.device).expand(len(z), 1, -1, -1)
