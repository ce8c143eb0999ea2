"""What a flow returns: the latents of a batch of paths and their densities."""

from __future__ import annotations

from dataclasses import dataclass
from itertools import accumulate
from typing import Any, NamedTuple

import torch
from torch import Tensor
from torch.distributions import Distribution

from latentflow.acting import Acting
from latentflow.compiler import one_operation
from latentflow.rollout import Rollout
from latentflow.validate import require_shape


@dataclass(frozen=True, eq=False, repr=False)
class LatentPath:
    r"""A batch of latent paths and their densities. T is the number of steps, so there are T + 1 latents.

    Attributes:
        z: (B, T+1, dim), the latents.
        log_q: (B, T+1), :math:`\log q_t(z_t)` in nats; None without densities.
        log_det: (B, T), :math:`\log\lvert\det(I + H_t)\rvert` of each step, or the integral of the Laplacian along an ODE;
            None likewise.
        folds: (B, T) bool, where the smallest eigenvalue of I + H is not positive, so that the step is no transport map and
            the density is that of one branch; known with exact log-determinants of Euler's steps, none with adaptive ODE
            solvers, else None.
        weights: (B, T, K), how strongly each potential acted in each step.
        times: (T+1,), 0, ..., T.
        q0: the distribution of z_0.
        acting: where the weights come from, so that `HJConstraint` can spare the potentials that do not act; may be None.
        rollout: what the flow has evaluated on the way, so that `HJConstraint` need not do it again; may be None.

    Example:
        >>> import torch
        >>> from torch.distributions import Independent, Normal
        >>> from latentflow import FlowPosterior, Potential
        >>> q0 = Independent(Normal(torch.zeros(8, 4), torch.ones(8, 4)), 1)
        >>> path = FlowPosterior(Potential(dim=4))(q0, 0, steps=5)
        >>> path.z.shape, path.log_det.shape, int(path.folds.sum())
        (torch.Size([8, 6, 4]), torch.Size([8, 5]), 0)

    Source: Song et al. 2023, eq. 9, for `log_q` and `log_det`.
    """

    z: Tensor
    log_q: Tensor | None
    log_det: Tensor | None
    folds: Tensor | None
    weights: Tensor
    times: Tensor
    q0: Distribution
    acting: Acting | None = None
    rollout: Rollout | None = None

    def __getstate__(self) -> dict[str, Any]:
        """Saved without the activations."""
        return {**vars(self), "rollout": None}

    def __repr__(self) -> str:
        """Shapes only: the numbers would fill the screen."""
        tensors = ("z", "log_q", "log_det", "folds", "weights", "times")
        found = {name: getattr(self, name) for name in tensors}
        shown = [f"{name}={None if x is None else tuple(x.shape)}" for name, x in found.items()]
        return f"LatentPath({', '.join(shown)}, q0={type(self.q0).__name__})"


class Carried(NamedTuple):
    """What a solver makes of latents z_0."""

    z: Tensor  # (B, T+1, dim)
    log_det: Tensor | None  # (B, T)
    folds: Tensor | None  # (B, T)
    rollout: Rollout | None  # where `HJConstraint` can use it


def check_path(path: object) -> None:
    """Raise unless `path` is what a flow returns, with parts that belong together."""
    if not isinstance(path, LatentPath):
        raise TypeError(
            f"path: got {type(path).__name__}, expected the LatentPath that a FlowPosterior returns; pass it whole"
        )
    z, weights, times = path.z.shape, path.weights.shape, path.times.shape
    if (len(z), len(weights), len(times)) != (3, 3, 1) or not z[1] == weights[1] + 1 == times[0]:
        raise ValueError(
            f"path: got z {tuple(z)}, weights {tuple(weights)} and times {tuple(times)}, expected (B, T+1, dim), (B, T, K) and "
            "(T+1,) with one T; cut or replace them together"
        )
    if weights[0] not in (1, z[0]):
        raise ValueError(
            f"path: got z of {z[0]} samples and weights of {weights[0]}, expected as many; cut or replace them together"
        )
    if path.log_q is not None:
        require_shape("path.log_q", path.log_q, z[:2], "cut or replace it together with path.z")


@one_operation
def densities(start: Tensor, log_det: Tensor) -> Tensor:
    """log q_t(z_t), (B, T+1), for that of z_0, (B,), and log-determinants (B, T)."""
    if torch.compiler.is_compiling():  # inductor has no cumsum of its own, but joins sums to what is around them
        return torch.stack(list(accumulate((start, *log_det.unbind(1)), torch.sub)), 1)
    return torch.cat((start[:, None], -log_det), 1).cumsum(1)
