r"""How what networks say moves latents, and with them the inputs of each network's first tanh.

With what network k says, :math:`p_k`, latents move by :math:`\frac1n \sum_k p_k A_k`, and so these inputs, :math:`A_j z + a_j`,
by :math:`\frac1n\, C(p)_j` with :math:`C(p)_j = \sum_k p_k A_k A_j^\top`. Networks with rows of their own move only these: the
sum is then k = j alone.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import NamedTuple

import torch
from torch import Tensor

from latentflow.product import divided


class Coupling(NamedTuple):
    """C / n, which is its own adjoint."""

    weight: Tensor  # A, (G, h, d)
    square: Tensor | None  # A A^T / n, (G, h, h), of networks that move rows of their own
    substeps: int

    @classmethod
    def of(cls, weight: Tensor, rows: Tensor, substeps: int) -> Coupling:
        own = rows.shape[0] == weight.shape[0]
        return cls(weight, divided(torch.bmm(weight, weight.mT), substeps) if own else None, substeps)

    @property
    def own(self) -> bool:
        """Whether each network moves rows of its own."""
        return self.square is not None

    def added(self, y: Tensor, p: Tensor, plus: Callable[[Tensor, Tensor, Tensor], Tensor]) -> Tensor:
        """The sum y + C(p) / n, (G, N, h); `plus` is `plus_product`, or `add_product` where nobody needs y any more."""
        if self.square is not None:
            return plus(y, p, self.square)
        moved = self.motion(torch.bmm(p, self.weight))
        return plus(y, moved.expand(y.shape[0], -1, -1), self.weight.mT)

    def motion(self, each: Tensor) -> Tensor:
        """How far what the networks say, (G, N, d), moves latents, (1 or G, N, d)."""
        return divided(each if self.own else each.sum(0, keepdim=True), self.substeps)
