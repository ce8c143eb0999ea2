r"""Hessians as sums of outer products, and the log-determinant of I + H made of the factors.

.. math:: H = L^\top \mathrm{diag}(o)\, L + \sum_i c_i\, a_i a_i^\top,

where the rows of L differ from latent to latent and those of a do not. With :math:`M = (I + H)^{-1}`, the log-determinant
has the derivatives :math:`2\,\mathrm{diag}(o)\, L M` in L, :math:`l_i^\top M l_i` in :math:`o_i`, :math:`a_i^\top M a_i` in
:math:`c_i`, and :math:`2 c_i M a_i` in :math:`a_i`. So one product with M gives most of them, and H needs no gradient.
"""

from __future__ import annotations

from typing import Any, NamedTuple

import torch
from torch import Tensor

from latentflow import logdet
from latentflow.contexts import forward_mode, unrecorded
from latentflow.precision import apart_from_autocast
from latentflow.product import add_product, plus_product
from latentflow.validate import holds, may_read
from latentflow.written_out import more_is_asked


class Curvature(NamedTuple):
    """R sets of N Hessians (r, r)."""

    layers: Tensor  # L, (R, N, m, r)
    outer: Tensor  # o, (R, N, m)
    basis: Tensor  # a, (R, n, r)
    inner: Tensor  # c, (R, N, n)

    def hessian(self) -> Tensor:
        """H, (R, N, r, r)."""
        return self._added_to(torch.zeros_like(self.basis[0, 0]).diag())

    def jacobian(self) -> Tensor:
        """I + H, without a pass over all of H for I."""
        return self._added_to(torch.ones_like(self.basis[0, 0]).diag())

    def log_det(self) -> tuple[Tensor, Tensor]:
        """`logdet.exact`: log |det(I + H)| and the folds, (R, N) each."""
        differentiable = torch.is_grad_enabled() and any(x.requires_grad for x in self) and not forward_mode()
        if differentiable and may_read(self.inner):  # else nobody could tell whether there are folds
            with torch.no_grad():
                matrix = self.jacobian().mT  # the same, as LAPACK wants it in memory
                in_place = unrecorded()  # memory of this size takes longer to come by than to fill
                to = (matrix, matrix.new_empty(0, dtype=torch.int32)) if in_place else None
                factor, info = torch.linalg.cholesky_ex(matrix, out=to)
                unfolded = holds(info == 0)
                if unfolded:
                    diagonal = factor.diagonal(dim1=-2, dim2=-1).clone()
                    inverse = torch.cholesky_inverse(factor, out=factor) if in_place else torch.cholesky_inverse(factor)
            if unfolded:
                return _LogDetOfFactors.apply(*self, diagonal, inverse.mT), info != 0  # type: ignore[no-untyped-call]
        return logdet.of_jacobian(self.jacobian())

    def _added_to(self, matrix: Tensor) -> Tensor:
        size = self.basis.shape[-1]
        if many(self.inner):
            start = plus_product(matrix.flatten(), self.inner, _pairs(self.basis)).view(-1, size, size)
        else:
            basis = self.basis[:, None]
            start = (matrix + (basis * self.inner[..., None]).mT @ basis).flatten(0, 1)
        bent = (self.layers * self.outer[..., None]).flatten(0, 1).mT
        total = (add_product if unrecorded() else plus_product)(start, bent, self.layers.flatten(0, 1))
        return total.view(*self.outer.shape[:2], size, size)


class _LogDetOfFactors(torch.autograd.Function):
    """Of a positive definite I + H, given the diagonal of its Cholesky factor, and M; differentiable twice."""

    generate_vmap_rule = True

    @staticmethod
    def forward(
        layers: Tensor, outer: Tensor, basis: Tensor, inner: Tensor, diagonal: Tensor, inverse: Tensor
    ) -> Tensor:
        return 2 * diagonal.log().sum(-1)

    @staticmethod
    def setup_context(ctx: Any, inputs: tuple[Tensor, ...], output: Tensor) -> None:
        *given, _, inverse = inputs
        ctx.save_for_backward(*given, inverse)

    @staticmethod
    @apart_from_autocast
    def backward(ctx: Any, grad: Tensor) -> tuple[Tensor | None, ...]:
        *given, inverse = ctx.saved_tensors
        curvature = Curvature(*given)
        layers, outer, basis, inner = curvature
        if torch.is_grad_enabled():  # for second derivatives the inverse must remember what it is the inverse of
            inverse = logdet.inverse_of(torch.linalg.cholesky_ex(curvature.jacobian()).L)
        spread = torch.matmul(layers, inverse)
        grad = grad[..., None]
        if many(inner):
            flat = inverse.flatten(2)
            weighted = torch.bmm((grad * inner).mT, flat).view(*basis.shape, -1)  # sum over N of c M, (R, n, r, r)
            by_basis = 2 * torch.matmul(weighted, basis[..., None]).squeeze(-1)
            by_inner = grad * torch.bmm(flat, _pairs(basis).mT)
        else:
            turned = torch.matmul(basis[:, None], inverse)  # M a, (R, N, n, r)
            by_basis = 2 * (turned * (grad * inner)[..., None]).sum(1)
            by_inner = grad * (turned * basis[:, None]).sum(-1)
        by_outer, scale = grad * (spread * layers).sum(-1), (2 * grad * outer)[..., None]
        in_place = unrecorded() and not more_is_asked((grad[..., 0],))
        by_layers = spread.mul_(scale) if in_place else spread * scale
        return by_layers, by_outer, by_basis, by_inner, None, None


def many(rows: Tensor) -> bool:
    """Whether rows (R, N, n) are so many that the products of all pairs of n are worth their memory.

    A graph must not depend on it.
    """
    return torch.compiler.is_compiling() or rows.shape[1] >= rows.shape[2]


def _pairs(basis: Tensor) -> Tensor:
    """The products a a^T, (R, n, r r)."""
    return (basis[..., :, None] * basis[..., None, :]).flatten(2)
