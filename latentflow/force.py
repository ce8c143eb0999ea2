"""The learned external forces f^k(z, t) <= 0: minus the squares of networks like those of the potentials."""

from __future__ import annotations

import torch
from torch import Tensor, nn

from latentflow.potential import Potential
from latentflow.precision import in_own_precision


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

    @in_own_precision
    def forward(self, z: Tensor, t: Tensor | float) -> Tensor:
        """f(z, t) of all K, (..., K)."""
        root: Tensor = self.root(z, t)
        return -(root if self.bias is None else root + self.bias).square()
