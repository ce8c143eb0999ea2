r"""The second derivatives of the networks along a direction.

With the names of `closed_form` and :math:`a = Av`, the coefficient c with :math:`Hv = A^\top c` is

.. math:: x = a \circ s_1, \quad y = Bx, \quad b = y \circ h_2 \circ s_2, \quad k = -2\, (wB)^\top b, \quad
          c = k \circ s_1 - 2\, h_1 \circ p \circ a,

wB being B with its rows times w.
"""

from __future__ import annotations

from typing import NamedTuple

import torch
from torch import Tensor

from latentflow.product import twice_negative
from latentflow.tanh import through_tanh


class Parts(NamedTuple):
    """What the coefficient c of v, the potential without its output tanh, comes from; (G, N, h) each."""

    inner: Tensor  # x
    bent: Tensor  # y
    gate: Tensor  # h_2 s_2
    curved: Tensor  # b
    back: Tensor  # k
    bend: Tensor  # h_1 p


def coefficient_of_product(
    along: Tensor, first: Tensor, second: Tensor, coefficient: Tensor, hidden_weight: Tensor, weighted: Tensor
) -> tuple[Tensor, Parts]:
    """The c with H v = A^T c, for a, h_1, h_2 and p, (G, N, h) each, and B and w B, (G, h, h) each; and its parts."""
    inner = through_tanh(along, first)
    bent = torch.bmm(inner, hidden_weight.mT)
    gate = through_tanh(second, second)
    curved = bent * gate
    back = twice_negative(curved, weighted)
    bend = first * coefficient
    found = torch.addcmul(through_tanh(back, first), bend, along, value=-2)
    return found, Parts(inner, bent, gate, curved, back, bend)
