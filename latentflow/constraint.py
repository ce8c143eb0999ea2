r"""The generalised Hamilton-Jacobi equation, which makes the flow of each potential an optimal transport."""

from __future__ import annotations

import math

import torch
from torch import Tensor, nn

from latentflow import derivatives
from latentflow.acting import Acting
from latentflow.contexts import watched
from latentflow.derivatives import is_negative_square
from latentflow.finite import require_finite_derivatives
from latentflow.force import NegativeForce
from latentflow.path import LatentPath, check_path
from latentflow.potential import Potential
from latentflow.precision import in_full_precision, without_autocast
from latentflow.times import LABELS
from latentflow.validate import number, one_of, require, require_finite, require_floating, require_generator


class HJConstraint(nn.Module):
    r"""Penalty on :math:`r^k = \partial_t u^k + \frac12 \|\nabla u^k\|^2 - f^k` along a path.

    .. math:: L(\text{path}) = \frac1T \sum_{t=1}^T \sum_k w_t^k\, r^k(z_{t-1}, t)^2 + \sum_k w_1^k \|\nabla u^k(z_0, 0)\|^2

    for each sample by itself. Each potential is held to the equation by itself and weighted by w: the equation is
    quadratic, so the residual of a mixture is not the mixture of the residuals.

    Args:
        potential: `Potential` or any module with ``forward(z, t) -> (..., K)``; the one that the flow uses.
        force: f, usually `NegativeForce`; None is the ordinary Hamilton-Jacobi equation, f = 0.
        force_penalty: price on the size of the force; adds ``force_penalty * (1/T) sum_t sum_k w abs(f)``. A free force
            (price 0, as in the paper) can absorb any residual.
        initial_weight: factor of the initial term, which holds the motion at time 0 to nothing. 0 leaves it out.
        times: "grid" evaluates at the integers t = 1, ..., T as the paper; "uniform" draws one t from each (t-1, t], because
            a residual that is small on the integers need not be small in between.
        label: the flow's own `label`: "end" evaluates r at :math:`(z_{t-1}, t)`, "start" at :math:`(z_{t-1}, t-1)`.

    Shapes:
        ``hj(path)`` -> (B,); ``hj.residual(z, t)`` and ``hj.initial(z)``: z (..., dim) -> (..., K).

    Raises:
        TypeError: potential or force is no such module, path is no `LatentPath`, latents are not floating, a price is no
            number, or `generator` is something else than a torch.Generator.
        ValueError: force and potential disagree on K, a force is above 0, latents or the result are not finite, or an option
            is unknown.

    Example:
        This potential of an optimal transport has residual 0:

        >>> import torch
        >>> from latentflow import HJConstraint
        >>> class Spread(torch.nn.Module):
        ...     def forward(self, z, t):
        ...         return (z.square().sum(-1) / (2 * (t + 1)))[..., None]
        >>> residual = HJConstraint(Spread()).residual(torch.randn(5, 3), 2.0)
        >>> bool(residual.abs().max() < 1e-6)
        True

    Source: Song et al. 2023, eqs. 13 and 14; Benamou and Brenier 2000.
    """

    def __init__(
        self,
        potential: nn.Module,
        force: nn.Module | None = None,
        *,
        force_penalty: float = 0.0,
        initial_weight: float = 1.0,
        times: str = "grid",
        label: str = "end",
    ) -> None:
        super().__init__()
        derivatives.require_potential(potential)
        if force is not None and (not isinstance(force, nn.Module) or isinstance(force, Potential)):
            kind = f"the class {force.__name__}" if isinstance(force, type) else type(force).__name__
            fix = "swap them" if isinstance(force, Potential) else "make one, NegativeForce(dim, num)"
            raise TypeError(f"force: got {kind}, expected a NegativeForce or another module that gives f <= 0; {fix}")
        if isinstance(potential, Potential) and isinstance(force, NegativeForce):
            got, expected = (force.dim, force.num), (potential.dim, potential.num)
            if got != expected:
                raise ValueError(
                    f"force: got dim={got[0]}, num={got[1]}, expected dim={expected[0]}, num={expected[1]} like the potential; "
                    "make them alike"
                )
        for name, price in (("force_penalty", force_penalty), ("initial_weight", initial_weight)):
            if not 0 <= number(name, price) < math.inf:
                raise ValueError(
                    f"{name}: got {price}, expected a finite number of at least 0; it multiplies a penalty"
                )
        if force_penalty > 0 and force is None:
            raise ValueError(
                f"force_penalty: got {force_penalty} without a force, expected 0; pass force=NegativeForce(...)"
            )
        one_of("times", times, ("grid", "uniform"))
        one_of("label", label, LABELS)
        self.potential, self.force = potential, force
        self.force_penalty, self.initial_weight = float(force_penalty), float(initial_weight)
        self.times, self.label = times, label

    def extra_repr(self) -> str:
        return (
            f"force_penalty={self.force_penalty}, initial_weight={self.initial_weight}, "
            f"times={self.times!r}, label={self.label!r}"
        )

    def residual(self, z: Tensor, t: Tensor | float) -> Tensor:
        r"""The residual :math:`r^k(z, t)` of every potential: z (..., dim), t a number or (...), to (..., K).

        Raises:
            TypeError: z is not floating, or has another dtype than the potential.
            ValueError: shapes do not fit, a force is above 0, or z or the residual is not finite.

        Example:
            >>> import torch
            >>> from latentflow import HJConstraint, Potential
            >>> potential, z = Potential(dim=4, num=3), torch.randn(8, 4)
            >>> rates, slopes = potential.first_derivatives(z, 1.0)
            >>> truth = rates + slopes.square().sum(-1) / 2
            >>> torch.allclose(HJConstraint(potential).residual(z, 1.0), truth, atol=1e-5)
            True

        Source: Song et al. 2023, eq. 13.
        """
        with without_autocast(z):
            return require_finite_derivatives("residual", self._residual_and_force(self._checked(z), t, None, None)[0])

    def initial(self, z: Tensor) -> Tensor:
        r"""The initial term :math:`\|\nabla u^k(z, 0)\|^2` of every potential: z (..., dim) to (..., K).

        Raises:
            TypeError: z is not floating, or has another dtype than the potential.
            ValueError: z has another last axis than the potential, or z or the term is not finite.

        Example:
            >>> import torch
            >>> from latentflow import HJConstraint, Potential
            >>> potential, z = Potential(dim=4, num=3), torch.randn(8, 4)
            >>> truth = potential.gradients(z, 0.0).square().sum(-1)
            >>> torch.allclose(HJConstraint(potential).initial(z), truth, atol=1e-5)
            True

        Source: Song et al. 2023, eq. 14.
        """
        with without_autocast(z):
            return require_finite_derivatives("initial", self._initial(self._checked(z), None))

    def forward(self, path: LatentPath, *, generator: torch.Generator | None = None) -> Tensor:
        """The penalty of each sample, (B,); `generator` draws the times where they are uniform."""
        check_path(path)
        require_generator(generator)
        shared = path.rollout if self._may_share(path) else None
        if shared is not None and self.times == "grid":
            force = self.force
            if force is None or (is_negative_square(force) and force.num == shared.potential.num):
                return shared.penalty(force, path.times[1:], self.force_penalty, self.initial_weight)
        with without_autocast(path.z):
            z = path.z[:, :-1]
            z = _latents(z) if shared is None else z  # the flow has looked at its own
            num = derivatives.number_of_potentials(self.potential, z)
            if path.weights.shape[-1] != num:
                raise ValueError(
                    f"path.weights: got {path.weights.shape[-1]} potentials, expected {num} like the constraint's; "
                    "give flow and constraint the same potential"
                )
            total = self._of_path(path, z, generator)
            return require_finite_derivatives("HJConstraint", total, by_sample=True)

    def _checked(self, z: Tensor) -> Tensor:
        z = _latents(z)
        # Raises for what normalises batches or drops out, and where columns depend on the number of rows.
        derivatives.number_of_potentials(self.potential, z)
        return z

    def _of_path(self, path: LatentPath, z: Tensor, generator: torch.Generator | None) -> Tensor:
        """The penalty of each sample, (B,), at the latents z (B, T, dim) that the steps start from."""
        # A label spares the potentials that do not act; weights that replace the path's own speak for themselves.
        what = _acting(path)
        k = None if what is None else what.k
        k = k.expand(z.shape[:2]) if isinstance(k, Tensor) else k  # all latents may share the labels of one sample
        weights = path.weights if k is None else None
        t = path.times[1:] if self.label == "end" else path.times[:-1]
        if self.times == "uniform":
            cell = torch.rand(z.shape[:2], generator=generator, dtype=z.dtype, device=z.device)
            t = path.times[1:] - cell  # in (t-1, t]
        penalty = self._penalty(*self._residual_and_force(z, t, k, path.weights.shape[-1]))
        total = penalty.mean((1, 2)) if weights is None else (weights * penalty).sum((1, 2)) / z.shape[1]
        if self.initial_weight > 0:
            initial = self._initial(z[:, 0], k[:, 0] if isinstance(k, Tensor) else k)
            initial = initial if weights is None else weights[:, 0] * initial
            total = torch.add(total, initial.sum(-1), alpha=self.initial_weight)
        return total

    def _penalty(self, residual: Tensor, force: Tensor | None) -> Tensor:
        penalty = residual.square()
        if force is None or self.force_penalty == 0:
            return penalty
        return torch.sub(penalty, force, alpha=self.force_penalty)

    def _may_share(self, path: LatentPath) -> bool:
        """Whether the path has evaluated our very potential where we want it."""
        return (
            self.label == "end"
            and path.rollout is not None
            and _acting(path) is not None
            and not watched(path.z)  # what a rollout shares does not pass through there
            and path.rollout.is_of(self.potential, path.z)
        )

    def _residual_and_force(
        self, z: Tensor, t: Tensor | float, k: int | Tensor | None, num: int | None
    ) -> tuple[Tensor, Tensor | None]:
        """(..., K) of every potential, or (..., 1) of the labelled one of `num`."""
        rate, gradients = derivatives.first_derivatives(self.potential, z, t, k)
        left = rate + 0.5 * gradients.square().sum(-1)
        if self.force is None:
            return left, None
        num = left.shape[-1] if k is None else num
        force = derivatives.values(self.force, z, t, "force")
        require(
            ~(force > 0),
            lambda: (
                f"force(z, t): got values up to {force.max().item():.3g}, expected none above 0; return minus a square"
            ),
        )
        if force.shape != (*z.shape[:-1], num):
            raise ValueError(
                f"force(z, t): got shape {tuple(force.shape)}, expected {(*z.shape[:-1], num)} like the potential; "
                "give both the same num"
            )
        force = derivatives.labelled(force, k)
        return left - force, force

    def _initial(self, z: Tensor, k: int | Tensor | None) -> Tensor:
        return derivatives.first_derivatives(self.potential, z, 0.0, k)[1].square().sum(-1)


def _acting(path: LatentPath) -> Acting | None:
    """What acted, if weights and times are still those by which the flow has moved."""
    what = path.acting
    return what if what is not None and what.is_of(path.weights, path.times) else None


def _latents(z: Tensor) -> Tensor:
    z = require_floating("z", z, "pass latents")
    z = in_full_precision(z)
    require_finite("z", z, "look for exploding potentials or a bad encoder")
    return z
