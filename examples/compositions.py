"""Switching and superposing of transformations that were only ever learned one at a time.

The truth is drawn: the second transformation applied on top of the frame at T/2, or both applied to the first frame. When the
flow switches, the second potential can be told that time goes on (T/2 + 1, ...), as the paper has it, or that it starts again
(1, ...), as it was trained.
"""

from __future__ import annotations

from itertools import combinations, permutations

import torch
from data.transformations import Transformations
from models import FlowVAE
from torch import Tensor

from latentflow.metrics import equivariance_error, identity_error


@torch.no_grad()
def compose(
    model: FlowVAE, bases: Tensor, truth: Transformations, steps: int, index: list[int]
) -> dict[str, dict[str, dict[str, float]]]:
    """Errors and their floors, on bases (N, ...), by kind and name; index is the potential of each transformation."""
    results: dict[str, dict[str, dict[str, float]]] = {"restarted": {}, "running": {}, "superposing": {}}
    for first, second in permutations(range(len(index)), 2):
        x = truth.switched(bases, first, second, steps)
        for time in ("restarted", "running"):
            z = switch(model, x[:, 0], index[first], index[second], steps, restart=time == "restarted")
            results[time][f"{truth.names[first]}, then {truth.names[second]}"] = _errors(model, z, x)
    for first, second in combinations(range(len(index)), 2):
        x = truth.superposed(bases, first, second, steps)
        z = superpose(model, x[:, 0], index[first], index[second], steps, len(index))
        results["superposing"][f"{truth.names[first]} with {truth.names[second]}"] = _errors(model, z, x)
    return results


def switch(model: FlowVAE, images: Tensor, first: int, second: int, steps: int, *, restart: bool) -> Tensor:
    """Latents (N, T+1, dim) of the posterior mean of images (N, C, H, W), moved by one potential and then another."""
    z0, half = model.posterior(images).mean, steps // 2
    if restart:
        before, _ = model.flow.transport(z0, first, steps=half)
        after, _ = model.flow.transport(before[:, -1], second, steps=steps - half)
        return torch.cat((before, after[:, 1:]), 1)
    labels = torch.full((len(z0), steps), second, device=z0.device)
    labels[:, :half] = first
    return model.flow.transport(z0, labels, steps=steps)[0]


def superpose(model: FlowVAE, images: Tensor, first: int, second: int, steps: int, num: int) -> Tensor:
    """Latents (N, T+1, dim) of the posterior mean of images (N, C, H, W), moved by the sum of two of num potentials."""
    z0 = model.posterior(images).mean
    weights = torch.zeros(len(z0), num, device=z0.device)
    weights[:, [first, second]] = 1
    return model.flow.transport(z0, weights=weights, steps=steps)[0]


def _errors(model: FlowVAE, z: Tensor, x: Tensor) -> dict[str, float]:
    error = equivariance_error(model.images(z), x).mean().item()
    return {"error": error, "identity": identity_error(x).mean().item()}
