"""A whole rollout, forward and backward, against nested `torch.autograd.grad` written the usual way.

Both sides move the latents, take the time derivative, the force, the Hamilton-Jacobi residual and one Hessian product per step.
"latentflow" samples z_0 and adds the initial term, the diffusion prior and the KL as well; "the same terms" does not. Also:

* autograd's backward: latentflow without the backward passes that it writes out, so that autograd records each operation;
* torch.func: latentflow's modules with a potential that hides its closed forms, so that `torch.func` differentiates it;
* exact trace: gradient and exact Laplacian in closed form, step after step, as OT-Flow does, with autograd's backward pass;
* exact: latentflow with exact log-determinants.

Gradients are made anew each time, as after `zero_grad` in a training step, not added to those of the time before.
"""

from __future__ import annotations

import functools
from collections.abc import Callable
from typing import Any
from unittest import mock

import torch
from torch import Tensor, nn
from torch.distributions import Independent, Normal

from benchmarks.timing import medians
from latentflow import (
    DiffusionPrior,
    FlowPosterior,
    HJConstraint,
    LatentPath,
    NegativeForce,
    Potential,
    flow_kl,
    written_out,
)

CASES = {  # batch, dim, number of potentials, steps, what acts
    "one of 3, d = 32": (128, 32, 3, 8, "one"),
    "one of 3, d = 324": (128, 324, 3, 8, "one"),
    "8 mixed, d = 16": (512, 16, 8, 16, "mixed"),
}


class Network(nn.Module):
    """One potential, as one writes it with `nn.Linear`."""

    def __init__(self, dim: int) -> None:
        super().__init__()
        hidden = max(dim, 16)
        self.input, self.middle, self.output = nn.Linear(dim, hidden), nn.Linear(hidden, hidden), nn.Linear(hidden, 1)
        self.time = nn.Sequential(nn.Linear(hidden, hidden), nn.GELU(), nn.Linear(hidden, hidden))
        self.register_buffer("frequencies", torch.logspace(0, -4, hidden // 2))

    def forward(self, z: Tensor, t: Tensor) -> Tensor:
        phase = torch.outer(t, self.frequencies)
        shift = self.time(torch.cat((phase.sin(), phase.cos()), -1))
        return self.output(torch.tanh(self.middle(torch.tanh(self.input(z)) + shift))).squeeze(-1)


class Hidden(nn.Module):
    """A potential whose closed forms are out of sight."""

    def __init__(self, potential: Potential) -> None:
        super().__init__()
        self.potential = potential

    def forward(self, z: Tensor, t: Tensor) -> Tensor:
        return self.potential(z, t)


def nested(potentials: nn.ModuleList, forces: nn.ModuleList, z: Tensor, weights: Tensor | None, steps: int) -> Tensor:
    """The arrangement of the paper's released code: per step and potential, one call of autograd for each derivative."""
    loss = z.new_zeros(())
    probe = torch.randint(0, 2, z.shape).to(z) * 2 - 1
    z.requires_grad_()
    for step in range(steps):
        t = torch.full((len(z),), step + 1.0, requires_grad=True)
        move, product = torch.zeros_like(z), torch.zeros_like(z)
        for k in range(1 if weights is None else len(potentials)):
            w = torch.ones(len(z)) if weights is None else weights[:, step, k]
            u = potentials[k](z, t)
            (rate,) = torch.autograd.grad(u.sum(), t, create_graph=True)
            (gradient,) = torch.autograd.grad(u.sum(), z, create_graph=True)
            (along,) = torch.autograd.grad((gradient * probe).sum(), z, create_graph=True)
            residual = rate + 0.5 * gradient.square().sum(-1) + forces[k](z, t).square()
            loss = loss + (w * residual.square()).mean() / steps
            move, product = move + w[:, None] * gradient, product + w[:, None] * along
        loss = loss + ((probe * product).sum(-1) - 0.5 * product.square().sum(-1)).mean()
        z = z + move
    return loss + z.square().sum(-1).mean()


def exact_trace(potential: Potential, force: NegativeForce, z: Tensor, weights: Tensor, steps: int) -> Tensor:
    """Closed forms as in OT-Flow, evaluated step after step."""
    loss = z.new_zeros(())
    for step in range(steps):
        w, t = weights[:, step], step + 1.0
        rate, gradients = potential.first_derivatives(z, t)
        residual = rate + 0.5 * gradients.square().sum(-1) - force(z, t)
        loss = loss + (w * residual.square()).sum(-1).mean() / steps + potential.laplacian(z, t, w).mean()
        z = z + (w[..., None] * gradients).sum(1)
    return loss + z.square().sum(-1).mean()


def contestants(batch: int, dim: int, num: int, steps: int, acts: str) -> dict[str, Callable[[], None]]:
    """Functions that do one forward and backward each."""
    torch.manual_seed(0)
    mean = 0.5 * torch.randn(batch, dim)
    q0 = Independent(Normal(mean, torch.ones_like(mean)), 1)
    weights = torch.rand(batch, steps, num) if acts == "mixed" else None
    what: dict[str, Any] = {"k": 0} if weights is None else {"weights": weights}
    usual = nn.ModuleList(Network(dim) for _ in range(num)), nn.ModuleList(Network(dim) for _ in range(num))
    potential, prior, force = Potential(dim, num), DiffusionPrior(num), NegativeForce(dim, num)
    hidden = Hidden(potential)
    traced = weights if weights is not None else torch.eye(num)[0].expand(batch, steps, num)

    def whole(module: nn.Module, log_det: str) -> Callable[[], Tensor]:
        flow, hj = FlowPosterior(module, log_det), HJConstraint(module, force)

        def loss() -> Tensor:
            path = flow(q0, steps=steps, **what)
            return _end(path) + (hj(path) + flow_kl(path, prior)).mean()

        return loss

    flow, hj = FlowPosterior(potential, "hutchinson"), HJConstraint(potential, force, initial_weight=0)

    def same() -> Tensor:
        path = flow(q0, steps=steps, **what)
        return _end(path) + hj(path).mean() - path.log_q[:, -1].mean()

    losses = {
        "nested autograd": lambda: nested(*usual, mean.clone(), weights, steps),
        "torch.func": whole(hidden, "hutchinson"),
        "exact trace": lambda: exact_trace(potential, force, mean, traced, steps),
        "latentflow": whole(potential, "hutchinson"),
        "latentflow, the same terms": same,
        "latentflow, compiled": _compiled(whole(potential, "hutchinson")),
        "latentflow, the same terms, compiled": _compiled(same),
        "latentflow, autograd's backward": _recorded(whole(potential, "hutchinson")),
        "latentflow, exact": whole(potential, "exact"),
    }
    if dim > 100:  # half an hour of Hessians
        del losses["latentflow, exact"], losses["exact trace"]
    parameters = [*nn.ModuleList([*usual, potential, force, prior]).parameters()]
    return {name: _backwards(loss, parameters) for name, loss in losses.items()}


def labels(
    batch: int = 128, dim: int = 32, num: int = 64, steps: int = 8, *, compiled: bool = False
) -> dict[str, Callable[[], None]]:
    """64 labels in a batch against one; given as a number, and as it comes from a data loader."""
    potential, prior = Potential(dim, num), DiffusionPrior(num)
    flow, hj = FlowPosterior(potential, "hutchinson"), HJConstraint(potential, NegativeForce(dim, num))
    choices = {
        "one label": 0,
        "one label, in a tensor": torch.zeros(batch, dtype=torch.int64),
        "64 labels": torch.randperm(batch) % num,
        "64 labels, at random": torch.randint(num, (batch,)),
    }
    if compiled:  # which does not read labels
        del choices["one label, in a tensor"]
    return _with_labels(flow, hj, prior, dim, choices, steps, compiled=compiled)


def narrow(batch: int = 128, dim: int = 324, hidden: int = 64, steps: int = 8) -> dict[str, Callable[[], None]]:
    """Exact log-determinants against Hutchinson's where the hidden layer is narrower than the latent."""
    potential, prior = Potential(dim, 3, hidden), DiffusionPrior(3)
    hj = HJConstraint(potential, NegativeForce(dim, 3, hidden))
    found = {}
    for log_det in ("hutchinson", "exact"):
        found |= _with_labels(FlowPosterior(potential, log_det), hj, prior, dim, {log_det: 0}, steps, batch)
    return found


def _with_labels(
    flow: FlowPosterior,
    hj: HJConstraint,
    prior: DiffusionPrior,
    dim: int,
    choices: dict[str, int | Tensor],
    steps: int,
    batch: int = 128,
    compiled: bool = False,
) -> dict[str, Callable[[], None]]:
    mean = 0.5 * torch.randn(batch, dim)
    q0 = Independent(Normal(mean, torch.ones_like(mean)), 1)

    def loss(k: int | Tensor) -> Tensor:
        path = flow(q0, k, steps=steps)
        return _end(path) + (hj(path) + flow_kl(path, prior)).mean()

    parameters = [*nn.ModuleList([flow, hj, prior]).parameters()]
    losses = {name: functools.partial(loss, k) for name, k in choices.items()}
    if compiled:
        losses = {name: _compiled(one) for name, one in losses.items()}
    return {name: _backwards(one, parameters) for name, one in losses.items()}


def _compiled(loss: Callable[[], Tensor]) -> Callable[[], Tensor]:
    """As the docs advise on a CPU: a step is made of many small kernels, which Python would call one by one."""
    compiled: Callable[[], Tensor] = torch.compile(loss, fullgraph=True, options={"cpp_wrapper": True})
    return compiled


def _recorded(loss: Callable[[], Tensor]) -> Callable[[], Tensor]:
    """Without the backward passes that are written out."""

    def never() -> bool:
        return False

    def recorded() -> Tensor:
        with mock.patch.object(written_out, "serves", never):
            return loss()

    return recorded


def _end(path: LatentPath) -> Tensor:
    return path.z[:, -1].square().sum(-1).mean()


def _backwards(loss: Callable[[], Tensor], parameters: list[nn.Parameter]) -> Callable[[], None]:
    def step() -> None:
        for parameter in parameters:
            parameter.grad = None
        loss().backward()

    return step


def measure(repeats: int) -> dict[str, Any]:
    """Milliseconds, and ratios to the first contestant, of every case: after each other, and back to back."""
    cases = {name: contestants(*case) for name, case in CASES.items()}
    cases |= {"64 labels, d = 32": labels(), "64 labels, d = 32, compiled": labels(compiled=True)}
    cases |= {"exact at d = 324, hidden = 64": narrow()}
    results = {}
    for name, functions in cases.items():
        torch._dynamo.reset()
        results[name] = _to_the_first(medians(functions, repeats))
        results[name]["back to back"] = _to_the_first(medians(functions, repeats, calls=3))
        print(name)
        for who, ms in results[name]["milliseconds"].items():
            after, alone = results[name]["ratio"][who], results[name]["back to back"]["ratio"][who]
            print(f"  {who}: {ms:.1f} ms, {after:.3f}; back to back {alone:.3f}", flush=True)
    return results


def _to_the_first(milliseconds: dict[str, float]) -> dict[str, Any]:
    first = next(iter(milliseconds.values()))
    return {"milliseconds": milliseconds, "ratio": {who: ms / first for who, ms in milliseconds.items()}}
