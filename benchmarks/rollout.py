"""A whole rollout, forward and backward, against nested `torch.autograd.grad` written the usual way.

    python benchmarks/rollout.py [--compiled] [--out benchmarks/results/rollout.json]

Both sides move the latents, take the time derivative, the force, the Hamilton-Jacobi residual and one Hessian product per step;
ours adds the initial term, the diffusion prior and the KL. Repeats are interleaved and medians compared: only ratios of one
run mean anything, as absolute times depend on the machine and on what else it does.
"""

from __future__ import annotations

import argparse
import json
import platform
import statistics
import time
from collections.abc import Callable
from pathlib import Path

import torch
from torch import Tensor, nn
from torch.distributions import Independent, Normal

from latentflow import DiffusionPrior, FlowPosterior, HJConstraint, NegativeForce, Potential, flow_kl

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


def nested(potentials: nn.ModuleList, forces: nn.ModuleList, z: Tensor, weights: Tensor | None, steps: int) -> Tensor:
    """The usual arrangement: per step and potential, derivatives of derivatives by autograd."""
    loss = z.new_zeros(())
    probe = torch.randint(0, 2, z.shape).to(z) * 2 - 1
    z.requires_grad_()
    for step in range(steps):
        t = torch.full((len(z),), step + 1.0, requires_grad=True)
        move, product = torch.zeros_like(z), torch.zeros_like(z)
        for k in range(1 if weights is None else len(potentials)):
            w = torch.ones(len(z)) if weights is None else weights[:, step, k]
            u = potentials[k](z, t)
            gradient, rate = torch.autograd.grad(u.sum(), (z, t), create_graph=True)
            (along,) = torch.autograd.grad((gradient * probe).sum(), z, create_graph=True)
            residual = rate + 0.5 * gradient.square().sum(-1) + forces[k](z, t).square()
            loss = loss + (w * residual.square()).mean() / steps
            move, product = move + w[:, None] * gradient, product + w[:, None] * along
        loss = loss + ((probe * product).sum(-1) - 0.5 * product.square().sum(-1)).mean()
        z = z + move
    return loss + z.square().sum(-1).mean()


def contestants(batch: int, dim: int, num: int, steps: int, acts: str, compiled: bool) -> dict[str, Callable[[], None]]:
    """Functions that do one forward and backward each."""
    torch.manual_seed(0)
    mean = 0.5 * torch.randn(batch, dim)
    weights = torch.rand(batch, steps, num) if acts == "mixed" else None
    usual = nn.ModuleList(Network(dim) for _ in range(num)), nn.ModuleList(Network(dim) for _ in range(num))
    potential, prior = Potential(dim, num), DiffusionPrior(num)
    flow, hj = FlowPosterior(potential, "hutchinson"), HJConstraint(potential, NegativeForce(dim, num))

    def loss(mean: Tensor) -> Tensor:
        q0 = Independent(Normal(mean, torch.ones_like(mean)), 1)
        path = flow(q0, 0 if weights is None else None, weights=weights, steps=steps)
        return path.z[:, -1].square().sum(-1).mean() + (hj(path) + flow_kl(path, prior)).mean()

    found = {
        "nested autograd": lambda: nested(*usual, mean.clone(), weights, steps).backward(),
        "latentflow": lambda: loss(mean).backward(),
    }
    if compiled:
        fast = torch.compile(loss, fullgraph=True)
        found["latentflow, compiled"] = lambda: fast(mean).backward()
    return found


def medians(functions: dict[str, Callable[[], None]], repeats: int) -> dict[str, float]:
    """Milliseconds, the functions taking turns."""
    for function in functions.values():
        function()
        function()
    times: dict[str, list[float]] = {name: [] for name in functions}
    for _ in range(repeats):
        for name, function in functions.items():
            start = time.perf_counter()
            function()
            times[name].append(1000 * (time.perf_counter() - start))
    return {name: statistics.median(values) for name, values in times.items()}


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--compiled", action="store_true", help="torch.compile our side as well")
    parser.add_argument("--repeats", type=int, default=25)
    parser.add_argument("--threads", type=int, default=2)
    parser.add_argument("--out", type=Path, help="write the figures as JSON")
    arguments = parser.parse_args()
    torch.set_num_threads(arguments.threads)
    results = {}
    for name, case in CASES.items():
        torch._dynamo.reset()
        found = medians(contestants(*case, arguments.compiled), arguments.repeats)
        usual = found["nested autograd"]
        results[name] = {"milliseconds": found, "ratio": {who: ms / usual for who, ms in found.items()}}
        print(name, "  ".join(f"{who} {ms:.1f} ms ({ms / usual:.3f})" for who, ms in found.items()), flush=True)
    if arguments.out:
        hardware = {"machine": platform.machine(), "threads": arguments.threads, "torch": torch.__version__}
        arguments.out.parent.mkdir(parents=True, exist_ok=True)
        arguments.out.write_text(json.dumps({"hardware": hardware, "cases": results}, indent=2) + "\n")


if __name__ == "__main__":
    main()
