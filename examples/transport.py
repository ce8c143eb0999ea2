"""Are the learned paths those of an optimal transport? Their cost against the best one, and the Hamilton-Jacobi residual."""

from __future__ import annotations

from typing import Any

import ot
import torch
from models import FlowVAE
from torch import Tensor


@torch.no_grad()
def transport_cost(z: Tensor) -> dict[str, float]:
    r"""Squared costs of moving samples z (N, T+1, dim) from z_0 to z_T in unit time, per sample.

    ``path``: T sum_t |z_t - z_{t-1}|², the action of the path. ``straight``: |z_T - z_0|², the same pairs in a straight line.
    ``optimal``: the squared Wasserstein distance between the two sets of samples, the best pairs. Each is at least the next.
    """
    steps = z.shape[1] - 1
    ends = z[:, [0, -1]].cpu().double()
    cost = torch.cdist(ends[:, 0], ends[:, 1]).square().numpy()
    return {
        "path": steps * z.diff(dim=1).square().sum((1, 2)).mean().item(),
        "straight": (z[:, -1] - z[:, 0]).square().sum(-1).mean().item(),
        "optimal": float(ot.emd2([], [], cost, numItermax=1_000_000)),
    }


@torch.no_grad()
def residual(model: FlowVAE, z: Tensor, potential: int, generator: torch.Generator) -> dict[str, Any]:
    """Root mean squares along paths z (N, T+1, dim): of the residual at the times that the flow is told, at random times
    within the steps, and of the force.
    """
    steps = z.shape[1] - 1
    ends = torch.arange(1, steps + 1, device=z.device, dtype=z.dtype).expand(len(z), -1)
    told = ends - 1 if model.hj.label == "start" else ends
    within = ends - torch.rand(ends.shape, generator=generator, device=z.device)
    force = model.hj.force

    def size(values: Tensor) -> float:
        return values[..., potential].square().mean().sqrt().item()

    return {
        "grid": size(model.hj.residual(z[:, :-1], told)),
        "between": size(model.hj.residual(z[:, :-1], within)),
        "force": 0.0 if force is None else size(force(z[:, :-1], told)),
    }
