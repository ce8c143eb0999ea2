"""The part of a training loss that latentflow computes, in any size: what `scaling` and `memory` measure."""

from __future__ import annotations

from collections.abc import Callable

import torch
from torch import nn
from torch.distributions import Independent, Normal

from latentflow import DiffusionPrior, FlowPosterior, HJConstraint, NegativeForce, Potential, flow_kl

TYPICAL = {"batch": 128, "dim": 32, "num": 3, "steps": 8}


def forward_and_backward(
    log_det: str | None,
    *,
    batch: int,
    dim: int,
    num: int,
    steps: int,
    hidden: int | None = None,
    memory: int | None = None,
) -> Callable[[], None]:
    """A function that makes the loss of a batch, labels mixed over all potentials, and the gradients of all parameters.

    Gradients are made anew each time, as after `zero_grad`, so that every call allocates the same.
    """
    torch.manual_seed(0)
    potential = Potential(dim, num, hidden)
    flow, prior = FlowPosterior(potential, log_det, memory=memory), DiffusionPrior(num)
    hj = HJConstraint(potential, NegativeForce(dim, num, hidden))
    modules = nn.ModuleList([flow, hj, prior])
    mean, k = 0.5 * torch.randn(batch, dim), torch.arange(batch) % num
    bound = "initial" if log_det is None else "marginal"

    def step() -> None:
        modules.zero_grad()
        path = flow(Independent(Normal(mean, torch.ones_like(mean)), 1), k, steps=steps)
        (hj(path) + flow_kl(path, prior, bound=bound)).mean().backward()

    return step
