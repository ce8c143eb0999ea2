"""What is passed where a module is made, or beside its data, and is of the wrong kind."""

import math

import pytest
import torch

import latentflow
from latentflow import DiffusionPrior, FlowPosterior, GumbelSelector, HJConstraint, Potential, flow_kl, metrics
from tests.problems import Wave, check_message, gaussian, make_potential, randn

P, WAVE = make_potential(3, 2), Wave(3, 2).double()
FLOW, Z = FlowPosterior(P), randn(4, 3)
PATH = FLOW(gaussian(4, 3), 0, steps=2)


class Returns(torch.nn.Module):
    """A potential, or a force, that returns what a function does."""

    def __init__(self, of):
        super().__init__()
        self.of = of

    def forward(self, z, t):
        return self.of(z, t)


def forgets_an_axis(z, t):
    return z.square().sum(-1, keepdim=True) * t  # (N, 1) times (N,)


FORGETFUL, WHOLE = Returns(forgets_an_axis), Returns(lambda z, t: z.long())
RISING = Returns(lambda z, t: torch.ones_like(z[..., :2]))
SELECTOR = GumbelSelector(torch.nn.Identity(), 3)
MISTAKES = {
    "times without an axis, in a flow": (
        lambda: FlowPosterior(FORGETFUL).transport(Z, 0, 2),
        ValueError,
        "potential(z, t): got 1 columns for one latent and 2 for two, expected (N, K) with one K; t is (N,)",
    ),
    "times without an axis, in a residual": (
        lambda: HJConstraint(FORGETFUL).residual(Z, 1.0),
        ValueError,
        "got 1 columns for one latent and 2 for two",
    ),
    "potential of integers": (
        lambda: FlowPosterior(WHOLE).transport(Z, 0, 2),
        TypeError,
        "potential(z, t): got torch.int64, expected torch.float64 like z",
    ),
    "potential without columns": (
        lambda: HJConstraint(Returns(lambda z, t: z[:, :0])).residual(Z, 1.0),
        ValueError,
        "potential(z, t): got (1, 0) .* expected (1, K)",
    ),
    "normalised batch in a residual": (
        lambda: HJConstraint(torch.nn.Sequential(torch.nn.BatchNorm1d(3))).residual(Z, 1.0),
        ValueError,
        "potential: got BatchNorm1d in training mode",
    ),
    "force that pushes up": (
        lambda: HJConstraint(WAVE, RISING, force_penalty=1.0)(PATH),
        ValueError,
        "force(z, t): got values up to 1, expected none above 0",
    ),
    "price in words": (lambda: HJConstraint(P, RISING, force_penalty="a"), TypeError, "force_penalty: got 'a'"),
    "no weight of the initial term": (
        lambda: HJConstraint(P, initial_weight=None),
        TypeError,
        "initial_weight: got None",
    ),
    "flow of a flow": (lambda: FlowPosterior(FLOW), TypeError, "potential: got FlowPosterior, expected the potential"),
    "options that are none": (
        lambda: FlowPosterior(P, solver="rk4", solver_options=3),
        TypeError,
        "solver_options: got 3, expected a dict",
    ),
    "no time": (lambda: P(Z, None), TypeError, "t: got None, expected a number or a tensor"),
    "a time in words": (lambda: HJConstraint(WAVE).residual(Z, "a"), TypeError, "t: got 'a', expected a number"),
    "a complex time": (lambda: P(Z, 1j), TypeError, "t: got 1j, expected a number"),
    "times of truth": (lambda: P(Z, torch.ones(4) > 0), TypeError, "t: got torch.bool, expected real numbers"),
    "diffusion in words": (lambda: DiffusionPrior(2, init="a"), TypeError, "init: got 'a', expected a number"),
    "diffusion in integers": (
        lambda: DiffusionPrior(2, dtype=torch.int32),
        TypeError,
        "dtype: got torch.int32, expected a floating dtype",
    ),
    "classifier that is a function": (
        lambda: GumbelSelector(torch.nn.functional.relu, 3),
        TypeError,
        "classifier: got function, expected a module",
    ),
    "rate in words": (lambda: GumbelSelector(SELECTOR, 3, rate="a"), TypeError, "rate: got 'a', expected a number"),
    "iteration that is no number": (
        lambda: SELECTOR.anneal(math.nan),
        TypeError,
        "iteration: got nan (float), expected an int",
    ),
    **{
        f"seed for a generator, {what}": (make, TypeError, "generator: got int, expected a torch.Generator; torch.Gen")
        for what, make in {
            "flow": lambda: FLOW(gaussian(4, 3), 0, steps=2, generator=3),
            "transport": lambda: FLOW.transport(Z, 0, 2, generator=3),
            "constraint": lambda: HJConstraint(P)(PATH, generator=3),
            "selector": lambda: SELECTOR(Z, generator=3),
            "estimate": lambda: metrics.conditional_log_likelihood(
                torch.sum, P, gaussian(4, 3), 0, steps=2, generator=3
            ),
        }.items()
    },
    "prior of single latents": (
        lambda: flow_kl(PATH, FLOW),
        TypeError,
        "prior: got FlowPosterior, expected a DiffusionPrior; make one",
    ),
    "prior that is not made yet": (
        lambda: flow_kl(PATH, DiffusionPrior),
        TypeError,
        "prior: got the class DiffusionPrior, expected a DiffusionPrior; make one, DiffusionPrior(num)",
    ),
    "pixels that are no number of them": (
        lambda: metrics.gaussian_constant(2.5),
        TypeError,
        "pixels: got 2.5 (float), expected an int",
    ),
    "target without frames": (
        lambda: metrics.identity_error(torch.rand(4)),
        ValueError,
        "target: got shape (4,), expected (B, T+1, ...)",
    ),
    "pixels of a byte": (
        lambda: metrics.bernoulli_log_likelihood(torch.zeros(1, 2, 1), torch.full((1, 2, 1), 255.0)),
        ValueError,
        "target: got values from 255 to 255, expected [0, 1]; divide images by 255",
    ),
    "nothing to foresee with": (
        lambda: metrics.conditional_log_likelihood(None, P, gaussian(4, 3), 0, steps=2),
        TypeError,
        "log_likelihood: got NoneType, expected a function",
    ),
    "no likelihood": (
        lambda: metrics.importance_weighted_bound(None, P, gaussian(4, 3), 0, steps=2),
        TypeError,
        "log_likelihood: got NoneType, expected a function",
    ),
    "checks neither on nor off": (
        lambda: latentflow.validate_values(None),
        TypeError,
        "enabled: got None, expected True",
    ),
}


@pytest.mark.parametrize("name", MISTAKES)
def test_mistakes_say_got_expected_and_the_fix(name):
    check_message(*MISTAKES[name])


def test_a_number_that_is_no_float_is_one():
    assert HJConstraint(Potential(2), initial_weight=torch.tensor(2.0).item()).initial_weight == 2.0
