"""The arithmetic of the authors' released scripts, judged by the assertions of latentflow.testing.

Each error of the list in the docs (Mathematics, "What the released scripts compute") is given to the assertion it concerns, and
so is the library's own arithmetic. The sign in the likelihood and the range of hues concern no assertion. Printed is what the
assertion says. Needs the extra `testing`.
"""

from __future__ import annotations

import argparse
import copy
import math
import sys
from collections.abc import Callable
from dataclasses import dataclass
from functools import partial
from typing import Any

import torch
from data.factors import Factors
from torch import Tensor, nn
from torch.distributions import Independent, Normal
from torch.nn import functional as F

from latentflow import DiffusionPrior, FlowPosterior, HJConstraint, LatentPath, NegativeForce, Potential
from latentflow.testing import (
    Linear,
    LinearGaussian,
    assert_categorical_kl,
    assert_equivariance_error,
    assert_hessian,
    assert_initial,
    assert_kl,
    assert_log_det,
    assert_one_factor,
    assert_penalty,
    assert_residual,
    assert_state,
    assert_time_derivative,
)

B, T, K, DIM = 4, 5, 3, 2
RANDOM = torch.Generator().manual_seed(0)
torch.manual_seed(0)
potential, force = Potential(DIM, K, dtype=torch.float64), NegativeForce(DIM, K, dtype=torch.float64)
z = torch.randn(B, DIM, dtype=torch.float64, generator=RANDOM)
targets = torch.randn(K, B, T + 1, DIM, dtype=torch.float64, generator=RANDOM)  # "images": their decoder is tanh
standard = Independent(Normal(torch.zeros_like(z), torch.ones_like(z)), 1)
drawn = FlowPosterior(potential)(standard, 0, steps=T, generator=RANDOM)
saddle = Linear(torch.tensor([[[0.0, 0.5], [0.5, 0.0]]]), torch.zeros(1, 2)).double()
saddle_points = torch.zeros(1, 2, dtype=torch.float64)
triple = Linear(2 * torch.eye(2)[None], torch.zeros(1, 2)).double()
gaussian = LinearGaussian(triple, torch.zeros(2).double(), torch.eye(2).double(), steps=1)
factors = Factors(("light", "camera", "object"), (3, 5, 4))
start = torch.tensor([[0, 2, 1]])


def summed_time_derivative(z: Tensor, t: Tensor) -> Tensor:
    """One time for the whole batch, and the derivative of the sum over it."""
    time = t[0].clone().requires_grad_()
    u = potential(z, time)
    rates = [torch.autograd.grad(u[:, k].sum(), time, retain_graph=True)[0] for k in range(K)]
    return torch.stack(rates).expand(len(z), K)


def averaged_square(z: Tensor, t: Tensor) -> Tensor:
    """||grad u||^2 as the mean over batch and dimensions."""
    rates, gradients = potential.first_derivatives(z, t)
    return rates + 0.5 * gradients.square().mean((0, 2))


def row_sums(z: Tensor, t: Tensor) -> Tensor:
    """The gradient of the sum of grad u: a vector where the Laplacian is a number."""
    return saddle.hessian(z, t, 0).sum(-1)


def log_of_row_sums(z: Tensor, t: Tensor) -> Tensor:
    return (1 + row_sums(z, t)).abs().log().sum(-1)


def summed_over_time(path: LatentPath) -> Tensor:
    """The residual's part of the penalty is T times as large."""
    hj = HJConstraint(potential)
    squares = hj.residual(path.z[:, :-1], path.times[1:].expand(B, T)).square()
    return (path.weights * squares).sum((1, 2)) + (path.weights[:, 0] * hj.initial(path.z[:, 0])).sum(1)


class ConstantDiffusion(nn.Module):
    """D is 1, and in no state dict."""

    diffusion = torch.ones(K)


def softmax_kl(path: LatentPath, prior: DiffusionPrior) -> Tensor:
    """At each step a softmax over latent dimensions of both densities, and the KL the other way round."""
    assert path.log_det is not None
    log_p = -0.5 * (path.z.square() + math.log(2 * math.pi))
    moved = torch.cat((torch.zeros_like(path.log_det[:, :1]), path.log_det.cumsum(1)), 1)
    log_q = -0.5 * (path.z[:, :1].square() + math.log(2 * math.pi)) - moved[..., None] / path.z.shape[-1]
    return F.kl_div(log_q.exp().log_softmax(-1), log_p.exp().softmax(-1), reduction="none").sum((1, 2))


def initial_term_with_force(z: Tensor) -> Tensor:
    """The mean squared force is added."""
    return HJConstraint(potential).initial(z) + force(z, 0.0).square().mean()


def last_initial_term(z: Tensor) -> Tensor:
    """A loop over k that assigns where it should add."""
    _, gradients = potential.first_derivatives(z, 0.0)
    terms = torch.zeros(len(z), K, dtype=z.dtype)
    for k in range(K):
        terms = torch.zeros_like(terms)
        terms[:, k] = gradients[:, k].square().sum(-1)
    return terms


def pull_to_its_own_argmax(logits: Tensor) -> Tensor:
    """Cross-entropy of each choice with the one that the batch likes best."""
    return F.cross_entropy(logits, logits.mean(0).argmax().expand(len(logits)), reduction="none")


class Evaluation:
    """The error of one transformation after another, with the parts that the scripts have differently."""

    def __init__(self, *, steps: int = T, resets: bool = True, moves: bool = True) -> None:
        self.steps, self.resets, self.moves = steps, resets, moves
        self.total, self.count = 0.0, 0

    def __call__(self, z0: Tensor, k: int, target: Tensor) -> float:
        if self.resets:
            self.total, self.count = 0.0, 0
        path = FlowPosterior(potential).transport(z0, k, T)[0].detach()
        if not self.moves:
            path = z0[:, None].expand_as(path)
        steps = slice(1, self.steps + 1)
        self.total += float((target - path.tanh())[:, steps].abs().sum())
        self.count += len(z0)
        return self.total / self.count


def carrying_sequence() -> Tensor:
    """An index whose factor is not at 0, plus t times the base of the factor."""
    moving = 2
    return factors.values(factors.index(start)[:, None] + torch.arange(factors.sizes[moving]) * factors.bases[moving])


@dataclass(frozen=True)
class Case:
    """An error, the assertion that it concerns, and what both sides give it; None is the library's own arithmetic."""

    error: str
    judge: Callable[[Any], None]
    released: Any
    ours: Any = None

    def verdict(self, arithmetic: Any) -> str | None:
        """What the assertion says, or None if it has nothing to say."""
        try:
            self.judge(copy.deepcopy(arithmetic))  # one of them remembers what it was asked before
        except AssertionError as error:
            return str(error)
        return None


evaluate = partial(assert_equivariance_error, potential, torch.tanh, z, targets)

CASES = (
    Case(
        "u_t is summed over the batch",
        lambda f: assert_time_derivative(potential, z, 1.0, time_derivative=f),
        summed_time_derivative,
    ),
    Case(
        "||grad u||^2 is a mean over batch and dimensions",
        lambda f: assert_residual(potential, z, 1.0, residual=f),
        averaged_square,
    ),
    Case(
        "the Laplacian is the vector of the Hessian's row sums",
        lambda f: assert_hessian(saddle, saddle_points, 1.0, laplacian=f),
        row_sums,
    ),
    Case(
        "the log-determinant is sum_j log|1 + (H 1)_j|",
        lambda f: assert_log_det(saddle, saddle_points, 1.0, log_det=f),
        log_of_row_sums,
    ),
    Case(
        "the Hamilton-Jacobi penalty sums over time",
        lambda f: assert_penalty(potential, drawn, penalty=f),
        summed_over_time,
    ),
    Case(
        "D is a constant in no state dict",
        lambda prior: assert_state(prior, call=lambda p: p.diffusion),
        ConstantDiffusion(),
        DiffusionPrior(K),
    ),
    Case(
        "the KL compares softmaxes over dimensions, reversed",
        lambda f: assert_kl(gaussian, DiffusionPrior(dtype=torch.float64), kl=f),
        softmax_kl,
    ),
    Case(
        "the initial term adds the mean squared force",
        lambda f: assert_initial(potential, z, initial=f),
        initial_term_with_force,
    ),
    Case(
        "the initial term keeps the last k only",
        lambda f: assert_initial(potential, z, initial=f),
        last_initial_term,
    ),
    Case(
        "the KL of the index pulls to its own argmax",
        lambda f: assert_categorical_kl(torch.tensor([[2.0, 0.0, 0.0], [0.0, 1.0, 0.0]]), kl=f),
        pull_to_its_own_argmax,
    ),
    Case("the error sums T-1 of T steps", lambda f: evaluate(evaluate=f), Evaluation(steps=T - 1)),
    Case("the running mean is never reset", lambda f: evaluate(evaluate=f), Evaluation(resets=False)),
    Case("the latent never moves", lambda f: evaluate(evaluate=f), Evaluation(moves=False)),
    Case(
        "sequences carry into other factors",
        lambda frames: assert_one_factor(frames, 2, sizes=factors.sizes),
        carrying_sequence(),
        factors.sequences(start, 2, factors.sizes[2]),
    ),
)


def main() -> int:
    """Print what is found; return how many verdicts are wrong."""
    wrong = 0
    for case in CASES:
        released, ours = case.verdict(case.released), case.verdict(case.ours)
        wrong += (released is None) + (ours is not None)
        print(f"{'not found' if released is None else 'found    '} {case.error}")
        if released is not None:
            print(f"          {released.splitlines()[0]}")
        if ours is not None:
            print(f"          but so it says of the library: {ours}")
    print(
        f"{len(CASES)} errors of the scripts found, none in the library" if not wrong else f"{wrong} verdicts are wrong"
    )
    return wrong


if __name__ == "__main__":
    argparse.ArgumentParser("released_arithmetic.py", description=__doc__).parse_args()
    sys.exit(main())
