"""Modules that are made wrongly, that do not fit each other, or that are given something of the wrong kind."""

import math
from types import SimpleNamespace

import numpy as np
import pytest
import torch

import latentflow
from latentflow import (
    DiffusionPrior,
    FlowPosterior,
    GumbelSelector,
    HJConstraint,
    NegativeForce,
    Potential,
    flow_kl,
    metrics,
)
from tests.problems import Wave, check_message, gaussian, make_potential, rand, randn

P, WAVE = make_potential(3, 2), Wave(3, 2).double()
FLOW, Z, Q = FlowPosterior(P), randn(4, 3), gaussian(4, 3)
PATH, PRIOR = FLOW(Q, 0, steps=2), DiffusionPrior(2, dtype=torch.float64)


class Returns(torch.nn.Module):
    """A potential, or a force, that returns what a function does."""

    def __init__(self, of):
        super().__init__()
        self.of = of

    def forward(self, z, t):
        return self.of(z, t)


class Says(torch.nn.Module):
    """A module whose attribute and output may disagree."""

    def __init__(self, num, columns):
        super().__init__()
        self.num, self.columns = num, columns

    def forward(self, z, t):
        return z[:, :1].expand(-1, self.columns)


def forgets_an_axis(z, t):
    return z.square().sum(-1, keepdim=True) * t  # (N, 1) times (N,)


FORGETFUL, WHOLE = Returns(forgets_an_axis), Returns(lambda z, t: z.long())
RISING = Returns(lambda z, t: torch.ones_like(z[..., :2]))
SELECTOR = GumbelSelector(torch.nn.Identity(), 3)
MISTAKES = {
    # modules
    "dim 0": (lambda: Potential(0), ValueError, "dim: got 0, expected at least 1"),
    "dim float": (lambda: Potential(3.0), TypeError, "dim: got 3.0 (float), expected an int"),
    "num 0": (lambda: NegativeForce(3, 0), ValueError, "num: got 0"),
    "hidden 0": (lambda: Potential(3, hidden=0), ValueError, "hidden: got 0"),
    "integer parameters": (
        lambda: Potential(3, dtype=torch.int64),
        TypeError,
        "dtype: got torch.int64, expected a floating",
    ),
    "a function as potential": (
        lambda: FlowPosterior(lambda z, t: z),
        TypeError,
        "potential: got function, expected an nn.Module",
    ),
    "a function in the constraint": (lambda: HJConstraint(lambda z, t: z), TypeError, "potential: got function"),
    "a function as force": (lambda: HJConstraint(P, lambda z, t: z), TypeError, "force: got function"),
    "unknown log_det": (
        lambda: FlowPosterior(P, "cholesky"),
        ValueError,
        "log_det: got 'cholesky', expected one of 'exact'",
    ),
    "unknown label": (
        lambda: FlowPosterior(P, label="middle"),
        ValueError,
        "label: got 'middle', expected one of 'end'",
    ),
    "unknown solver": (lambda: FlowPosterior(P, solver="leapfrog"), ValueError, "solver: got 'leapfrog'"),
    "substeps 0": (lambda: FlowPosterior(P, substeps=0), ValueError, "substeps: got 0"),
    "substeps float": (lambda: FlowPosterior(P, substeps=2.0), TypeError, "substeps: got 2.0"),
    "memory 0": (lambda: FlowPosterior(P, memory=0), ValueError, "memory: got 0, expected at least 1"),
    "unknown bound": (
        lambda: flow_kl(PATH, PRIOR, bound="tight"),
        ValueError,
        "bound: got 'tight', expected one of 'marginal'",
    ),
    "no densities": (
        lambda: flow_kl(FlowPosterior(P, None)(Q, 0, steps=2), PRIOR),
        ValueError,
        "path.log_q: got None, expected densities; .* bound='initial'",
    ),
    "unknown times": (lambda: HJConstraint(P, times="random"), ValueError, "times: got 'random'"),
    "unknown label of the constraint": (lambda: HJConstraint(P, label="x"), ValueError, "label: got 'x'"),
    "negative price": (
        lambda: HJConstraint(P, NegativeForce(3, 2), force_penalty=-1.0),
        ValueError,
        "force_penalty: got -1.0",
    ),
    "price of nothing": (
        lambda: HJConstraint(P, force_penalty=1.0),
        ValueError,
        "force_penalty: got 1.0 without a force",
    ),
    "nan weight": (lambda: HJConstraint(P, initial_weight=math.nan), ValueError, "initial_weight: got nan"),
    "unknown form": (lambda: DiffusionPrior(2, form="cold"), ValueError, "form: got 'cold'"),
    "negative diffusion": (lambda: DiffusionPrior(2, -0.1), ValueError, "init: got -0.1"),
    "nan diffusion": (lambda: DiffusionPrior(2, math.nan), ValueError, "init: got nan"),
    "diffusion of another K": (
        lambda: DiffusionPrior(2, torch.ones(3)),
        ValueError,
        "init: got shape (3,), expected a number or (2,)",
    ),
    # components that do not fit each other
    "prior of another K": (
        lambda: DiffusionPrior(3).log_prob(PATH),
        ValueError,
        "path.weights: got shape (4, 2, 2), expected (B, T, 3)",
    ),
    "variance of another K": (
        lambda: PRIOR.variance(torch.ones(4, 2, 3)),
        ValueError,
        "weights: got shape (4, 2, 3), expected (B, T, 2); make the prior with num=3",
    ),
    "variance without steps": (
        lambda: PRIOR.variance(torch.ones(4, 2)),
        ValueError,
        "weights: got shape (4, 2), expected (B, T, 2); weigh each sample and step",
    ),
    "variance that runs backwards": (
        lambda: PRIOR.variance(torch.full((1, 3, 2), -1.0)),
        ValueError,
        "weights: got values from -1, expected at least 0; no time",
    ),
    "variance of a number": (lambda: PRIOR.variance(torch.tensor(1.0)), ValueError, "weights: got shape ()"),
    "kl of another K": (lambda: flow_kl(PATH, DiffusionPrior(1)), ValueError, "path.weights: got shape"),
    "constraint of another K": (
        lambda: HJConstraint(make_potential(3, 1))(PATH),
        ValueError,
        "path.weights: got 2 potentials, expected 1",
    ),
    "user's constraint of another K": (
        lambda: HJConstraint(Wave(3, 3).double())(PATH),
        ValueError,
        "path.weights: got 2 .* expected 3",
    ),
    "force of another K": (
        lambda: HJConstraint(P, NegativeForce(3, 3, dtype=torch.float64)),
        ValueError,
        "force: got dim=3, num=3, expected dim=3, num=2 like the potential",
    ),
    "a force that forgets its columns": (
        lambda: HJConstraint(WAVE, Returns(lambda z, t: -z[:, 0].square()))(PATH),
        ValueError,
        "force(z, t): got (8,) for z (8, 3) and t (8,), expected (8, K)",
    ),
    "a list of diffusions": (
        lambda: DiffusionPrior(2, init=[0.1, 0.2]),
        TypeError,
        "init: got [0.1, 0.2], expected a number or a tensor (2,); use torch.as_tensor(init)",
    ),
    "an array of diffusions": (
        lambda: DiffusionPrior(2, init=np.array([0.1, 0.2])),
        TypeError,
        "init: got array([0.1, 0.2]), expected a number or a tensor (2,); use torch.as_tensor(init)",
    ),
    "a dtype by its name": (
        lambda: Potential(3, dtype="float32"),
        TypeError,
        "dtype: got float32, expected a floating dtype",
    ),
    "a force in another precision": (
        lambda: HJConstraint(P, NegativeForce(3, 2, dtype=torch.float32))(PATH),
        TypeError,
        "z: got dtype torch.float64, expected torch.float32",
    ),
    "a flow for its potential": (
        lambda: HJConstraint(FLOW),
        TypeError,
        "potential: got FlowPosterior, expected the potential that it follows; pass flow.potential",
    ),
    "a distribution for a prior": (
        lambda: flow_kl(PATH, Q),
        TypeError,
        "prior: got Independent, expected a DiffusionPrior",
    ),
    "a prior of one number for each path": (
        lambda: flow_kl(PATH, SimpleNamespace(log_prob=lambda path: path.z.sum((1, 2)))),
        ValueError,
        "prior.log_prob(path): got shape (4,), expected (4, 3)",
    ),
    "a prior that is not a number": (
        lambda: flow_kl(PATH, SimpleNamespace(log_prob=lambda path: path.z.sum(2) * math.nan)),
        ValueError,
        "prior.log_prob(path): got 12 nan in samples [0, 1, 2, 3], expected numbers",
    ),
    "a prior that says nothing": (
        lambda: flow_kl(PATH, SimpleNamespace(log_prob=lambda path: None)),
        TypeError,
        "prior.log_prob(path): got NoneType, expected a floating tensor",
    ),
    "no prior": (lambda: flow_kl(PATH, None), TypeError, "prior: got NoneType, expected a DiffusionPrior"),
    "no solver": (lambda: FlowPosterior(P, solver=None), TypeError, "solver: got None, expected 'euler' or the name"),
    "steps of an adaptive solver": (
        lambda: FlowPosterior(P, solver="dopri5", substeps=3),
        ValueError,
        "substeps: got 3 with solver='dopri5', expected 1",
    ),
    "less than no pixels": (lambda: metrics.gaussian_constant(-3), ValueError, "pixels: got -3, expected at least 0"),
    "force of another K than a user's potential": (
        lambda: HJConstraint(Wave(3, 2).double(), NegativeForce(3, 3, dtype=torch.float64))(PATH),
        ValueError,
        "force(z, t): got shape (4, 2, 3), expected (4, 2, 2)",
    ),
    "force of another K in the residual": (
        lambda: HJConstraint(Wave(3, 2).double(), NegativeForce(3, 1, dtype=torch.float64)).residual(Z, 1.0),
        ValueError,
        "force(z, t): got shape (4, 1), expected (4, 2)",
    ),
    "module whose num lies": (
        lambda: FlowPosterior(Says(3, 1))(Q, 2, steps=2),
        ValueError,
        "k: got 2, expected 0, ..., 0",
    ),
    "module whose num lies to weights": (
        lambda: FlowPosterior(Says(3, 1))(Q, weights=rand(4, 3), steps=2),
        ValueError,
        "weights: got shape (4, 3), expected (4, 1) or",
    ),
    "times without an axis, in a flow": (
        lambda: FlowPosterior(FORGETFUL).transport(Z, 0, 2),
        ValueError,
        "potential(z, t): got 1 columns for one latent and 8 for 8, expected (N, K) with one K; t is (N,)",
    ),
    "times without an axis, in a residual": (
        lambda: HJConstraint(FORGETFUL).residual(Z, 1.0),
        ValueError,
        "got 1 columns for one latent and 8 for 8",
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
            "flow": lambda: FLOW(Q, 0, steps=2, generator=3),
            "transport": lambda: FLOW.transport(Z, 0, 2, generator=3),
            "constraint": lambda: HJConstraint(P)(PATH, generator=3),
            "selector": lambda: SELECTOR(Z, generator=3),
            "estimate": lambda: metrics.conditional_log_likelihood(torch.sum, P, Q, 0, steps=2, generator=3),
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
        lambda: metrics.conditional_log_likelihood(None, P, Q, 0, steps=2),
        TypeError,
        "log_likelihood: got NoneType, expected a function",
    ),
    "no likelihood": (
        lambda: metrics.importance_weighted_bound(None, P, Q, 0, steps=2),
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
