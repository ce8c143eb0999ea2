r"""The second derivatives of the networks along a direction, their backward pass written out.

With the names of `closed_form` and :math:`a = Av`, the coefficient c with :math:`Hv = A^\top c` is

.. math:: x = a \circ s_1, \quad y = Bx, \quad b = y \circ h_2 \circ s_2, \quad k = -2\, (wB)^\top b, \quad
          c = k \circ s_1 - 2\, h_1 \circ p \circ a,

wB being B with its rows times w. The map from a to c is symmetric, so the adjoint runs the same products. Autograd would take
three times as many operations for it: it does not know that all these factors are polynomials of h_1 and h_2 that share parts.
"""

from __future__ import annotations

from typing import Any, NamedTuple

import torch
from torch import Tensor

from latentflow.forward_mode import carries_tangent
from latentflow.tanh import through_tanh


class _Parts(NamedTuple):
    """What the product comes from, (G, N, h) each."""

    inner: Tensor  # x
    bent: Tensor  # y
    gate: Tensor  # h_2 s_2
    curved: Tensor  # b
    back: Tensor  # k
    bend: Tensor  # h_1 p


def coefficient_of_product(
    along: Tensor, first: Tensor, second: Tensor, coefficient: Tensor, hidden_weight: Tensor, weighted: Tensor
) -> Tensor:
    """The c with H v = A^T c, for a, h_1, h_2 and p, (G, N, h) each, and B and w B, (G, h, h) each."""
    inputs = along, first, second, coefficient, hidden_weight, weighted
    if not torch.is_grad_enabled() or carries_tangent(*inputs):
        return _product(*inputs)[0]
    return _Product.apply(*inputs)[0]  # type: ignore[no-any-return, no-untyped-call]


def _product(
    along: Tensor, first: Tensor, second: Tensor, coefficient: Tensor, hidden_weight: Tensor, weighted: Tensor
) -> tuple[Tensor, _Parts]:
    inner = through_tanh(along, first)
    bent = torch.bmm(inner, hidden_weight.mT)
    gate = through_tanh(second, second)
    curved = bent * gate
    back = _twice_negative(curved, weighted)
    bend = first * coefficient
    product = torch.addcmul(through_tanh(back, first), bend, along, value=-2)
    return product, _Parts(inner, bent, gate, curved, back, bend)


class _Product(torch.autograd.Function):
    """`_product`, with a backward pass made of differentiable operations."""

    generate_vmap_rule = True

    @staticmethod
    def forward(*inputs: Any) -> tuple[Tensor, ...]:
        product, parts = _product(*inputs)
        return product, *parts

    @staticmethod
    def setup_context(ctx: Any, inputs: tuple[Any, ...], output: tuple[Tensor, ...]) -> None:
        parts = output[1:]
        ctx.mark_non_differentiable(*parts)
        ctx.set_materialize_grads(False)
        ctx.save_for_backward(*inputs, *parts)

    @staticmethod
    def backward(ctx: Any, grad: Tensor | None, *_: None) -> tuple[Tensor | None, ...]:
        along, first, second, coefficient, weight, weighted, *found = ctx.saved_tensors
        if grad is None:
            return (None,) * 6
        parts = _Parts(*found)
        if torch.is_grad_enabled():  # for second derivatives the parts must remember what they are made of
            parts = _product(along, first, second, coefficient, weight, weighted)[1]
        by_back = through_tanh(grad, first)
        by_curved = _twice_negative(by_back, weighted.mT)
        by_bent = by_curved * parts.gate
        by_inner = torch.bmm(by_bent, weight)
        by_along = torch.addcmul(through_tanh(by_inner, first), parts.bend, grad, value=-2)
        # s_1 is in x and in c, and changes by -2 h_1.
        by_slope = torch.addcmul(along * by_inner, parts.back, grad)
        by_bend = (along * grad).mul_(-2)
        by_first = torch.addcmul(by_bend * coefficient, first, by_slope, value=-2)
        # h_2 s_2 changes by 1 - 3 h_2^2 = 3 s_2 - 2.
        by_gate = by_curved * parts.bent
        by_second = by_gate.lerp(through_tanh(by_gate, second), 3)
        by_weight = torch.bmm(by_bent.mT, parts.inner)
        by_weighted = _twice_negative(parts.curved.mT, by_back)
        return by_along, by_first, by_second, by_bend * first, by_weight, by_weighted


def _twice_negative(left: Tensor, right: Tensor) -> Tensor:
    """-2 times the product, in one kernel."""
    return torch.baddbmm(left.new_zeros(()), left, right, beta=0, alpha=-2)
