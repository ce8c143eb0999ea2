r"""The diffusion prior over z_1, ..., z_T: a Gaussian that widens as the heat equation says."""

from __future__ import annotations

import numpy as np
import torch
from torch import Tensor, nn

from latentflow import heat
from latentflow.compiler import one_operation
from latentflow.contexts import transformed
from latentflow.path import LatentPath, check_path
from latentflow.precision import autocast_off, in_own_precision
from latentflow.validate import (
    number,
    one_of,
    positive_integer,
    require,
    require_finite,
    require_floating,
    require_floating_dtype,
    sum_is_finite,
)


class DiffusionPrior(nn.Module):
    r"""Prior :math:`p_t = N(0, s_t I)` with :math:`s_t = 1 + 2 \sum_{\tau \le t} \sum_k w_\tau^k D_k`.

    :math:`D_k \ge 0` is learned for each k. This is the exact solution of :math:`\partial_t p = D_k \nabla^2 p` from a standard
    Gaussian, one unit of time per step.

    Args:
        num: number K of transformations.
        init: D at the start, one number for all or K of them, each at least 0. At exactly 0 (the paper's choice) D still
            receives its gradient.
        form: "heat", or "particle" for the paper's discrete step :math:`z_t = z_{t-1} + D z_{t-1} / s_{t-1}`, whose variance
            is :math:`s_t = s_{t-1} (1 + D / s_{t-1})^2`.
        device, dtype: of the parameter.

    Shapes:
        ``prior.log_prob(path)`` -> (B, T+1), in nats; ``prior.diffusion`` -> (K,).

    Raises:
        TypeError: num is no int, init no number or tensor, the dtype is not floating, or path is no `LatentPath`.
        ValueError: init is negative or of the wrong length, the form is unknown, or the path has another number of potentials.

    Example:
        >>> from latentflow import DiffusionPrior
        >>> DiffusionPrior(num=2, init=0.5).diffusion.tolist()
        [0.5, 0.5]

    Source: Song et al. 2023, eqs. 2 and 3.
    """

    def __init__(
        self,
        num: int = 1,
        init: float | Tensor = 0.0,
        *,
        form: str = "heat",
        device: torch.device | str | None = None,
        dtype: torch.dtype | None = None,
    ) -> None:
        super().__init__()
        self.num = positive_integer("num", num)
        one_of("form", form, ("heat", "particle"))
        self.form = form
        if isinstance(init, (list, tuple, np.ndarray)):
            raise TypeError(f"init: got {init!r}, expected a number or a tensor ({num},); use torch.as_tensor(init)")
        init = init if isinstance(init, Tensor) else number("init", init)
        require_floating_dtype(dtype, "D is learned")
        start = torch.as_tensor(init, dtype=dtype or torch.get_default_dtype(), device=device)
        if start.shape not in ((), (num,)):
            raise ValueError(
                f"init: got shape {tuple(start.shape)}, expected a number or ({num},); give one D for each k"
            )
        require(
            (start >= 0) & start.isfinite(),
            lambda: f"init: got {start.tolist()}, expected finite numbers of at least 0; diffusion only widens",
        )
        self.raw = nn.Parameter(start.expand(num).clone())

    @property
    def diffusion(self) -> Tensor:
        """D, (K,), at least 0, in squared latent units per step.

        Example:
            >>> from latentflow import DiffusionPrior
            >>> DiffusionPrior(num=3).diffusion.tolist()
            [0.0, 0.0, 0.0]
        """
        return heat.projected(self.raw)

    def extra_repr(self) -> str:
        return f"num={self.num}, form={self.form!r}"

    @in_own_precision
    def variance(self, weights: Tensor) -> Tensor:
        r"""Variances :math:`s_0, \ldots, s_T`, (B, T+1), for weights (B, T, K), in squared latent units.

        Raises:
            TypeError: weights are not floating.
            ValueError: they are not (B, T, K) with the K of the prior, or negative.

        Example:
            >>> import torch
            >>> from latentflow import DiffusionPrior
            >>> DiffusionPrior(init=0.5).variance(torch.ones(1, 3, 1)).tolist()
            [[1.0, 2.0, 3.0, 4.0]]
        """
        require_floating("weights", weights, "convert with .to(torch.float32)")
        self._check("weights", weights)
        fix = "no time runs backwards in a diffusion"
        require(weights >= 0, lambda: f"weights: got values from {weights.min():.3g}, expected at least 0; {fix}")
        if self.form == "heat":
            found = heat.variance(*_acted(weights), self.diffusion.to(weights.dtype))
            return found.expand(weights.shape[0], -1)
        return _of_particles(weights, self.diffusion.to(weights.dtype))

    def log_prob(self, path: LatentPath) -> Tensor:
        r""":math:`\log p_t(z_t)` at the latents of the path, t = 0, ..., T: (B, T+1), in nats.

        Raises:
            TypeError: path is no `LatentPath`.
            ValueError: its weights are not (B, T, K) with the K of the prior, or latents or the result are not finite.

        Example:
            >>> import torch
            >>> from torch.distributions import Independent, Normal
            >>> from latentflow import DiffusionPrior, FlowPosterior, Potential
            >>> standard = Independent(Normal(torch.zeros(8, 4), torch.ones(8, 4)), 1)
            >>> path = FlowPosterior(Potential(4))(standard, 0, steps=5)
            >>> torch.allclose(DiffusionPrior().log_prob(path)[:, 5], standard.log_prob(path.z[:, 5]), atol=1e-4)
            True
        """
        check_path(path)
        self._check("path.weights", path.weights)
        return _log_prob(self.form, path.z, path.weights, self.raw)

    def _check(self, name: str, weights: Tensor) -> None:
        if weights.ndim != 3 or weights.shape[-1] != self.num:
            fix = f"make the prior with num={weights.shape[-1]}" if weights.ndim == 3 else "weigh each sample and step"
            raise ValueError(f"{name}: got shape {tuple(weights.shape)}, expected (B, T, {self.num}); {fix}")


@one_operation
def _log_prob(form: str, z: Tensor, weights: Tensor, raw: Tensor) -> Tensor:
    with autocast_off(z.device.type):
        weights, raw = weights.to(z.dtype), raw.to(z.dtype)
        if form == "heat":
            value = heat.log_density(z, *_acted(weights), raw)
        else:
            value = heat.log_normal(z, _of_particles(weights, heat.projected(raw)))
        if sum_is_finite(value) is False:
            require_finite("path.z", z, "look for exploding potentials")
            fix = "look for exploding latents or a huge prior.diffusion, or use float64"
            require_finite("prior.log_prob", value, fix)
        return value


def _of_particles(weights: Tensor, diffusion: Tensor) -> Tensor:
    """The variances of the paper's particle step."""
    added = torch.matmul(weights, diffusion)  # (B, T)
    variances = [torch.ones_like(added[:, 0])]
    for step in added.unbind(1):
        variances.append(variances[-1] * (1 + step / variances[-1]).square())
    return torch.stack(variances, 1)


def _acted(weights: Tensor) -> tuple[Tensor, Tensor]:
    """How long each k has acted at step 0, ..., T, (B or 1, T+1 or 1, K), and factors of that, (T+1,)."""
    # Else each weight wants its own gradient, as it may of an outer transform without the inner one knowing.
    steps, may_share = weights.shape[1], not (weights.requires_grad or transformed())
    if may_share and weights.stride(0) == 0:  # the same acts in all samples
        weights = weights[:1]
    if may_share and weights.stride(1) == 0:  # the same acts in all steps
        return weights[:, :1], torch.arange(steps + 1, dtype=weights.dtype, device=weights.device)
    acted = torch.cat((torch.zeros_like(weights[:, :1]), weights.cumsum(1)), 1)
    return acted, weights.new_ones(steps + 1)
