r"""What one probe tells of the log-determinants along a trajectory, and the adjoint of that.

The probe v gives :math:`v^\top Hv - \frac12 |Hv|^2`, see `logdet.hutchinson`, with :math:`Hv = A^\top c` as in
`hessian_product`; the output tanh makes the coefficient :math:`u' c + u'' (p \cdot a)\, p`. The map from a to c is symmetric,
so the adjoint runs the same products. Autograd would take three times as many operations: it does not know that all factors
are polynomials of h_1 and h_2 that share parts.
"""

from __future__ import annotations

from typing import NamedTuple

import torch
from torch import Tensor

from latentflow import logdet
from latentflow.closed_form import Matrices
from latentflow.hessian_product import Parts, coefficient_of_product
from latentflow.product import add_product, divided, twice_negative
from latentflow.tanh import slope_and_bend, through_tanh


class Activations(NamedTuple):
    """Where the steps start, (G, N, ...) each."""

    first: Tensor  # h_1
    second: Tensor  # h_2
    coefficient: Tensor  # p
    value: Tensor | None  # u, of bounded potentials


class Others(NamedTuple):
    """What is on the way to the estimate, but for the parts of the product."""

    along: Tensor  # a
    unbounded: Tensor  # c of v
    tilt: Tensor | None  # p . a, of bounded potentials
    coefficient: Tensor  # c of u
    product: Tensor  # H v, (1 or G, N, d)


class Way(NamedTuple):
    """From the probe to the estimate."""

    parts: Parts
    others: Others


def estimate(
    probe: Tensor, activations: Activations, weights: Tensor | None, matrices: Matrices, substeps: int
) -> tuple[Tensor, Way]:
    """`logdet.hutchinson` of H / substeps of what acts where the steps start, (1 or G, N), and what `adjoint` takes.

    Args:
        probe: v, (1 or G, N, d).
        activations: of G networks.
        weights: (G, N, 1) of a mixture, which shares its rows, else None.
        matrices: of these networks.
        substeps: n.
    """
    first, second, coefficient, value = activations
    input_weight, hidden_weight, weighted = matrices
    along = torch.bmm(probe.expand(input_weight.shape[0], -1, -1), input_weight.mT)
    unbounded, parts = coefficient_of_product(along, first, second, coefficient, hidden_weight, weighted)
    found, tilt = unbounded, None
    if value is not None:
        slope, bend = slope_and_bend(value)
        tilt = (coefficient * along).sum(-1, keepdim=True)
        found = torch.addcmul(slope * unbounded, bend * tilt, coefficient)
    product = torch.bmm(found if weights is None else found * weights, input_weight)
    product = divided(product if weights is None else product.sum(0, keepdim=True), substeps)
    return logdet.hutchinson(product, probe), Way(parts, Others(along, unbounded, tilt, found, product))


def adjoint(
    probe: Tensor,
    activations: Activations,
    weights: Tensor | None,
    matrices: Matrices,
    substeps: int,
    way: Way,
    by_estimate: Tensor,
    weights_too: bool,
) -> tuple[Activations, Tensor | None, Matrices]:
    """The gradients of activations, weights (where `weights_too` asks for them) and matrices, for that of the estimate."""
    first, second, coefficient, value = activations
    input_weight, hidden_weight, weighted = matrices
    parts, (along, unbounded, tilt, found, product) = way
    by_product = divided(by_estimate[..., None] * (probe - product), substeps)
    by_each = by_product.expand(input_weight.shape[0], -1, -1)
    by_found, by_weights = torch.bmm(by_each, input_weight.mT), None
    weighed = found
    if weights is not None:
        weighed = found * weights
        by_weights = (by_found * found).sum(-1, keepdim=True) if weights_too else None
        by_found = by_found * weights
    by_weight = torch.bmm(weighed.mT, by_each)
    by_unbounded, by_tilt, by_value, bend = by_found, None, None, None
    if value is not None and tilt is not None:
        slope, bend = slope_and_bend(value)
        turned = (by_found * coefficient).sum(-1, keepdim=True)
        by_unbounded, by_tilt = slope * by_found, bend * turned
        # u' changes by -2 u and u'' by 6 u^2 - 2.
        by_value = (6 * value.square() - 2) * turned * tilt
        by_value = torch.addcmul(by_value, value, (by_found * unbounded).sum(-1, keepdim=True), value=-2)
    by_back = through_tanh(by_unbounded, first)
    by_curved = twice_negative(by_back, weighted.mT)
    by_gate = by_curved * parts.bent
    by_bent = by_curved.mul_(parts.gate)
    by_inner = torch.bmm(by_bent, hidden_weight)
    by_along = through_tanh(by_inner, first).addcmul_(parts.bend, by_unbounded, value=-2)
    # s_1 is in x and in c, and changes by -2 h_1.
    by_slope = by_inner.mul_(along).addcmul_(parts.back, by_unbounded)
    by_bend = (along * by_unbounded).mul_(-2)
    by_first = (by_bend * coefficient).addcmul_(first, by_slope, value=-2)
    by_coefficient = by_bend.mul_(first)
    if by_tilt is not None and bend is not None and tilt is not None:
        by_along.addcmul_(by_tilt, coefficient)
        by_coefficient.addcmul_(by_tilt, along).addcmul_(bend * tilt, by_found)
    # h_2 s_2 changes by 1 - 3 h_2^2 = 3 s_2 - 2.
    by_second = by_gate.lerp_(through_tanh(by_gate, second), 3)
    return (
        Activations(by_first, by_second, by_coefficient, by_value),
        by_weights,
        Matrices(
            add_product(by_weight, by_along.mT, probe.expand(by_along.shape[0], -1, -1)),
            torch.bmm(by_bent.mT, parts.inner),
            twice_negative(parts.curved.mT, by_back),
        ),
    )
