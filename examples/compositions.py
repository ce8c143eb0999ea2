"""Switching and superposing of transformations that were only ever learned one at a time.

The truth is drawn: the second transformation applied on top of the frame at T/2, or both applied to the first frame. When the
flow switches, the second potential can be told that time goes on (T/2 + 1, ...), as the paper has it, or that it starts again
(1, ...), as it was trained.
"""

from __future__ import annotations

from itertools import combinations, permutations

import torch
from data.transformations import TRANSFORMATIONS, levels_of, render, switching_levels
from models import FlowVAE
from torch import Tensor

from latentflow.metrics import equivariance_error, identity_error

SWITCHING = tuple(permutations(range(len(TRANSFORMATIONS)), 2))
SUPERPOSING = tuple(combinations(range(len(TRANSFORMATIONS)), 2))


@torch.no_grad()
def compose(model: FlowVAE, digits: Tensor, steps: int, index: list[int]) -> dict[str, dict[str, dict[str, float]]]:
    """Errors and their floors, on digits (N, H, W), by kind and name; index is the potential of each transformation."""
    results: dict[str, dict[str, dict[str, float]]] = {"restarted": {}, "running": {}, "superposing": {}}
    for first, second in SWITCHING:
        x = switched(digits, first, second, steps)
        for time in ("restarted", "running"):
            z = switch(model, x[:, 0], index[first], index[second], steps, restart=time == "restarted")
            results[time][name_of(first, second, switching=True)] = _errors(model, z, x)
    for first, second in SUPERPOSING:
        x = superposed(digits, first, second, steps)
        z = superpose(model, x[:, 0], index[first], index[second], steps)
        results["superposing"][name_of(first, second, switching=False)] = _errors(model, z, x)
    return results


def name_of(first: int, second: int, *, switching: bool) -> str:
    """For example "scaling, then rotation" or "scaling with rotation"."""
    joint = ", then " if switching else " with "
    return f"{TRANSFORMATIONS[first]}{joint}{TRANSFORMATIONS[second]}"


def switched(digits: Tensor, first: int, second: int, steps: int) -> Tensor:
    """True frames (N, T+1, 3, H, W): the first transformation up to T/2, then the second on top of it."""
    a, b = (torch.full((len(digits),), k, device=digits.device) for k in (first, second))
    return render(digits, switching_levels(a, b, steps))


def superposed(digits: Tensor, first: int, second: int, steps: int) -> Tensor:
    """True frames (N, T+1, 3, H, W): both transformations at every level."""
    a, b = (torch.full((len(digits),), k, device=digits.device) for k in (first, second))
    return render(digits, levels_of(a, steps) + levels_of(b, steps))


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


def superpose(model: FlowVAE, images: Tensor, first: int, second: int, steps: int) -> Tensor:
    """Latents (N, T+1, dim) of the posterior mean of images (N, C, H, W), moved by the sum of two potentials."""
    z0 = model.posterior(images).mean
    weights = torch.zeros(len(z0), len(TRANSFORMATIONS), device=z0.device)
    weights[:, [first, second]] = 1
    return model.flow.transport(z0, weights=weights, steps=steps)[0]


def _errors(model: FlowVAE, z: Tensor, x: Tensor) -> dict[str, float]:
    error = equivariance_error(model.decode(z).sigmoid(), x).mean().item()
    return {"error": error, "identity": identity_error(x).mean().item()}
