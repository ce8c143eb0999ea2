"""Both evidence bounds against the closed-form evidence of a linear-Gaussian model, where every expectation is exact."""

import math
from dataclasses import dataclass

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from torch.distributions import Independent, MultivariateNormal, Normal, kl_divergence

from latentflow import DiffusionPrior, FlowPosterior, flow_kl
from latentflow.curvature import Curvature
from latentflow.metrics import conditional_log_likelihood, evidence_bound, importance_weighted_bound
from tests import problems
from tests.problems import Given, Linear, gaussian, make_potential, rand, randn, seeds, sigma_points, symmetric

DIM, STEPS, PIXELS, NOISE = 2, 3, 3, 0.7


def eye(n):
    return torch.eye(n, dtype=torch.float64)


@dataclass
class Model:
    """z_0 ~ N(0, I), z_t affine in z_{t-1}, x_t = C z_t + noise: everything is Gaussian, so all is known."""

    potential: Linear
    decoder: torch.Tensor  # (pixels, dim)
    x: torch.Tensor  # (T+1, pixels)

    def maps(self):
        """z_t = M_t z_0 + m_t."""
        matrix, mean = eye(DIM), torch.zeros(DIM, dtype=torch.float64)
        step = eye(DIM) + self.potential.hessians[0].detach()
        yield matrix, mean
        for _ in range(STEPS):
            matrix, mean = step @ matrix, step @ mean + self.potential.shifts[0].detach()
            yield matrix, mean

    def stacked(self):
        design = torch.cat([self.decoder @ matrix for matrix, _ in self.maps()])
        offset = torch.cat([self.decoder @ mean for _, mean in self.maps()])
        return design, offset

    def log_evidence(self):
        """log p(x_0, ..., x_T)."""
        design, offset = self.stacked()
        covariance = design @ design.mT + NOISE**2 * eye(len(offset))
        return MultivariateNormal(offset, covariance).log_prob(self.x.flatten())

    def posterior(self):
        """p(z_0 | x_0, ..., x_T), mean and covariance."""
        design, offset = self.stacked()
        covariance = torch.linalg.inv(eye(DIM) + design.mT @ design / NOISE**2)
        return covariance @ design.mT @ (self.x.flatten() - offset) / NOISE**2, covariance

    def log_likelihood(self, z):
        """(B, T+1, dim) -> (B, T+1)."""
        density = Normal(z @ self.decoder.mT, torch.full((), NOISE, dtype=z.dtype))
        return density.log_prob(self.x).sum(-1)


def model(seed):
    potential = Linear(symmetric(DIM, seed, 0.5)[None], 0.5 * randn(1, DIM, seed=seed + 1))
    return Model(potential, randn(PIXELS, DIM, seed=seed + 2), 2 * randn(STEPS + 1, PIXELS, seed=seed + 3))


def any_gaussian(seed):
    root = 0.5 * eye(DIM) + 0.3 * randn(DIM, DIM, seed=seed)
    return randn(DIM, seed=seed + 1), root @ root.mT + 0.05 * eye(DIM)


def bounds(model, mean, covariance, prior, bound):
    """The exact expectation over q0: all integrands are quadratic, and sigma points integrate these without error."""
    q0 = Given(sigma_points(mean, covariance), mean[None], covariance)
    path = FlowPosterior(model.potential)(q0, 0, steps=STEPS)
    return evidence_bound(model.log_likelihood(path.z), path, prior, bound=bound).mean()


def close(a, b, tolerance=1e-8):
    problems.close(a, b, tolerance)


@given(seeds)
def test_initial_bound_misses_the_evidence_by_the_kl_to_the_true_posterior(seed):
    """log p(x) - (B) = KL(q0 || p(z_0 | x)) >= 0, for any Gaussian q0."""
    this, prior = model(seed), DiffusionPrior(dtype=torch.float64)
    mean, covariance = any_gaussian(seed)
    gap = kl_divergence(MultivariateNormal(mean, covariance), MultivariateNormal(*this.posterior()))
    value = bounds(this, mean, covariance, prior, "initial")
    assert value < this.log_evidence()
    close(value, this.log_evidence() - gap)


@given(seeds)
def test_initial_bound_is_tight_at_the_exact_posterior(seed):
    this = model(seed)
    close(bounds(this, *this.posterior(), DiffusionPrior(dtype=torch.float64), "initial"), this.log_evidence())


@given(seeds, st.floats(0, 2))
def test_marginal_bound_misses_the_sum_of_marginals_by_one_kl_for_each_frame(seed, diffusion):
    """sum_t log p_t(x_t) - (A) = sum_t KL(q_t || p_t(z | x_t)) >= 0, with p_t the heat kernel."""
    this, prior = model(seed), DiffusionPrior(1, diffusion, dtype=torch.float64)
    mean, covariance = any_gaussian(seed)
    marginals, gaps = torch.zeros((), dtype=torch.float64), torch.zeros((), dtype=torch.float64)
    for t, (matrix, shift) in enumerate(this.maps()):
        variance = 1 + 2 * diffusion * t
        x, c = this.x[t], this.decoder
        marginals += MultivariateNormal(
            torch.zeros(PIXELS, dtype=x.dtype), variance * c @ c.mT + NOISE**2 * eye(PIXELS)
        ).log_prob(x)
        spread = torch.linalg.inv(eye(DIM) / variance + c.mT @ c / NOISE**2)
        true = MultivariateNormal(spread @ c.mT @ x / NOISE**2, spread)
        gaps += kl_divergence(MultivariateNormal(matrix @ mean + shift, matrix @ covariance @ matrix.mT), true)
    value = bounds(this, mean, covariance, prior, "marginal")
    assert value <= marginals
    close(value, marginals - gaps)


def test_importance_weights_are_constant_at_the_exact_posterior():
    """Then every single sample already gives the evidence."""
    this = model(3)
    mean, covariance = this.posterior()
    q0 = MultivariateNormal(mean.expand(5, -1), covariance.expand(5, -1, -1))
    for samples in (1, 7):
        value = importance_weighted_bound(this.log_likelihood, this.potential, q0, 0, steps=STEPS, samples=samples)
        close(value, this.log_evidence().expand(5))


def test_importance_weighting_climbs_from_the_initial_bound_to_the_evidence():
    this, replicates = model(0), 600
    mean, covariance = this.posterior()
    mean, covariance = mean + 0.6 * torch.linalg.cholesky(covariance).sum(1), 1.5 * covariance
    q0 = MultivariateNormal(mean.expand(replicates, -1), covariance.expand(replicates, -1, -1))
    generator, means, errors = torch.Generator().manual_seed(0), [], []
    for samples in (1, 4, 16, 64):
        value = importance_weighted_bound(
            this.log_likelihood, this.potential, q0, 0, steps=STEPS, samples=samples, generator=generator
        )
        means.append(value.mean().item())
        errors.append(value.std().item() / replicates**0.5)
    first = bounds(this, mean, covariance, DiffusionPrior(dtype=torch.float64), "initial").item()
    assert abs(means[0] - first) < 4 * errors[0]
    for i in range(3):
        assert means[i + 1] > means[i] - 3 * math.hypot(errors[i], errors[i + 1])
    evidence = this.log_evidence().item()
    assert evidence - first > 0.3, "the bound starts tight: the test tests nothing"
    assert -0.05 < means[-1] - evidence < 4 * errors[-1]


@pytest.mark.parametrize("samples", [1, 3])
def test_what_is_foreseen_is_the_likelihood_under_the_moved_posterior(samples):
    """E p(x_t | z_t) over a Gaussian z_t is a Gaussian density; its estimate is unbiased, its logarithm is not."""
    this, replicates = model(1), 20_000
    mean, covariance = this.posterior()
    q0 = MultivariateNormal(mean.expand(replicates, -1), covariance.expand(replicates, -1, -1))
    generator = torch.Generator().manual_seed(0)
    value = conditional_log_likelihood(
        this.log_likelihood, this.potential, q0, 0, steps=STEPS, samples=samples, generator=generator
    )
    assert value.shape == (replicates, STEPS + 1)
    c = this.decoder
    for t, (matrix, shift) in enumerate(this.maps()):
        moved = c @ matrix @ covariance @ matrix.mT @ c.mT + NOISE**2 * eye(PIXELS)
        truth = MultivariateNormal(c @ (matrix @ mean + shift), moved).log_prob(this.x[t])
        ratio = (value[:, t] - truth).exp()
        error = ratio.std() / replicates**0.5
        assert error < 0.05
        assert abs(ratio.mean() - 1) < 4 * error


def test_importance_weighting_follows_the_flow_it_is_given():
    """A FlowPosterior brings its own label and solver."""
    this, seen = model(0), []
    potential = make_potential(DIM)
    q0 = gaussian(3, DIM)
    for flow in (FlowPosterior(potential, label="start"), FlowPosterior(potential, solver="rk4"), potential):
        generator = torch.Generator().manual_seed(2)
        importance_weighted_bound(
            lambda z: seen.append(z) or this.log_likelihood(z), flow, q0, 0, steps=STEPS, samples=1, generator=generator
        )
    generator = torch.Generator().manual_seed(2)
    z0 = q0.mean + q0.stddev * torch.randn(3, DIM, generator=generator, dtype=torch.float64)
    for z, options in zip(seen, ({"label": "start"}, {"solver": "rk4"}, {}), strict=True):
        close(z, FlowPosterior(potential, None, **options).transport(z0, 0, STEPS)[0], 1e-12)


def test_importance_weighting_asks_for_no_determinant(monkeypatch):
    """And leaves the flow that it is given as it is."""
    this, flow = model(0), FlowPosterior(make_potential(DIM))
    monkeypatch.setattr(Curvature, "log_det", None)
    importance_weighted_bound(this.log_likelihood, flow, gaussian(3, DIM), 0, steps=STEPS, samples=2)
    assert flow.log_det == "exact"


@pytest.mark.parametrize(
    "q0",
    [
        gaussian(5, 3),
        MultivariateNormal(randn(5, 3), eye(3) + 0.3 * torch.ones(3, 3).double()),
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
