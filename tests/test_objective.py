"""KL terms against closed forms, torch's own, and sums by hand."""

import math

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from torch.distributions import Categorical, Independent, MixtureSameFamily, MultivariateNormal, Normal

from latentflow import DiffusionPrior, FlowPosterior, flow_kl
from tests.problems import close, gaussian, make_potential, rand, randn, seeds


@pytest.mark.parametrize(
    "q0",
    [
        gaussian(5, 3),
        MultivariateNormal(randn(5, 3), torch.eye(3) + 0.3 * torch.ones(3, 3).double()),
        torch.distributions.LowRankMultivariateNormal(
            randn(5, 3), randn(5, 3, 1, seed=1), torch.ones(5, 3, dtype=torch.float64)
        ),
    ],
)
def test_initial_bound_is_the_kl_to_a_standard_gaussian(q0):
    path = FlowPosterior(make_potential(3), None)(q0, 0, steps=2)
    covariance = torch.diag_embed(q0.variance) if isinstance(q0, Independent) else q0.covariance_matrix
    expected = 0.5 * (
        covariance.diagonal(dim1=1, dim2=2).sum(1)
        + q0.mean.square().sum(1)
        - 3
        - torch.linalg.slogdet(covariance)[1]
    )  # fmt: skip
    close(flow_kl(path, DiffusionPrior(dtype=torch.float64), bound="initial"), expected, 1e-10)


@given(seeds, st.floats(-80.0, 40.0))
def test_initial_bound_holds_for_any_scale_of_a_gaussian(seed, log_scale):
    """In single precision, where the square of the scale may be 0, as in double precision, with the gradients."""
    mean, std = randn(4, 3, seed=seed), math.exp(log_scale) * (0.5 + rand(4, 3, seed=seed + 1))
    found = []
    for dtype in (torch.float32, torch.float64):
        inputs = [x.float().to(dtype).requires_grad_() for x in (mean, std)]
        path = FlowPosterior(make_potential(3, dtype=dtype), None)(Independent(Normal(*inputs), 1), 0, steps=1)
        kl = flow_kl(path, DiffusionPrior(), bound="initial")
        if dtype == torch.float64:
            close(kl, (0.5 * (inputs[0] ** 2 + inputs[1] ** 2 - 1) - inputs[1].log()).sum(1), 1e-10)
        found.append([kl, *torch.autograd.grad(kl.sum(), inputs)])
    for single, double in zip(*found, strict=True):
        torch.testing.assert_close(single.double(), double, rtol=1e-5, atol=1e-5)


def test_initial_bound_of_another_distribution_is_its_kl_where_torch_knows_it():
    mean, scale = randn(5, 3), 0.5 + rand(5, 3)
    path = FlowPosterior(make_potential(3), None)(Independent(torch.distributions.Laplace(mean, scale), 1), 0, steps=2)
    expected = 0.5 * (math.log(2 * math.pi) + mean**2 + 2 * scale**2) - 1 - (2 * scale).log()
    close(flow_kl(path, DiffusionPrior(dtype=torch.float64), bound="initial"), expected.sum(1), 1e-10)


def test_initial_bound_of_a_distribution_without_closed_form_is_one_sample():
    q0 = Independent(torch.distributions.StudentT(5.0 + 0 * randn(5, 3), randn(5, 3)), 1)
    path = FlowPosterior(make_potential(3), None)(q0, 0, steps=2)
    z0 = path.z[:, 0]
    expected = q0.log_prob(z0) + 0.5 * z0.square().sum(1) + 1.5 * math.log(2 * math.pi)
    close(flow_kl(path, DiffusionPrior(dtype=torch.float64), bound="initial"), expected, 1e-10)


@pytest.mark.parametrize("solver", ["euler", "rk4"])
def test_marginal_bound_is_the_sum_over_frames_with_the_start_included(solver):
    path = FlowPosterior(make_potential(3, 2), solver=solver)(gaussian(4, 3), 1, steps=3)
    prior = DiffusionPrior(2, 0.3, dtype=torch.float64)
    by_hand = sum(
        path.log_q[:, t]
        - Independent(Normal(torch.zeros_like(path.z[:, t]), math.sqrt(1 + 0.6 * t)), 1).log_prob(path.z[:, t])
        for t in range(4)
    )
    close(flow_kl(path, prior), by_hand, 1e-6)


class Mixture(torch.nn.Module):
    """A prior of one's own: the same Gaussians at all times."""

    def __init__(self, means):
        super().__init__()
        self.means = torch.nn.Parameter(means)

    def log_prob(self, path):
        parts = Independent(Normal(self.means, torch.ones_like(self.means)), 1)
        return MixtureSameFamily(Categorical(logits=torch.zeros_like(self.means[:, 0])), parts).log_prob(path.z)


def test_any_module_with_a_density_of_paths_is_a_prior():
    path = FlowPosterior(make_potential(3))(gaussian(4, 3), 0, steps=2)
    standing = DiffusionPrior(dtype=torch.float64)
    close(flow_kl(path, Mixture(torch.zeros(1, 3).double())), flow_kl(path, standing), 1e-10)
    mixture = Mixture(randn(2, 3))
    each = [(-0.5 * (path.z - mean).square() - 0.5 * math.log(2 * math.pi)).sum(-1) for mean in mixture.means]
    by_hand = path.log_q - torch.logaddexp(*each) + math.log(2)
    close(flow_kl(path, mixture), by_hand.sum(1), 1e-10)
    flow_kl(path, mixture).sum().backward()
    assert mixture.means.grad.abs().min() > 0
