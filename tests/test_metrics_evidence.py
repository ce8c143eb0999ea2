"""Evidence bounds and estimates against models in which all is known."""

import math
from dataclasses import dataclass

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from torch.distributions import Independent, MultivariateNormal, Normal, kl_divergence

from latentflow import DiffusionPrior, FlowPosterior
from latentflow.curvature import Curvature
from latentflow.metrics import (
    conditional_log_likelihood,
    evidence_bound,
    gaussian_constant,
    gaussian_log_likelihood,
    importance_weighted_bound,
    marginal_log_likelihood,
)
from tests import problems
from tests.problems import Given, Linear, gaussian, make_potential, randn, seeds, sigma_points, symmetric

DIM, STEPS, PIXELS, NOISE = 2, 3, 3, 0.7
STILL = Linear(torch.zeros(1, DIM, DIM).double(), torch.zeros(1, DIM).double())
STANDARD = DiffusionPrior(dtype=torch.float64)


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


@pytest.mark.parametrize("samples", [1, 4])
def test_evidence_of_frames_is_exact_where_the_flow_is_their_posterior(samples):
    """z_t ~ N(0, s_t I) a priori: log p_t(x_t) is Gaussian. q_0 is the posterior of z_0; nothing moves, and nothing widens."""
    x, c, replicates = model(2).x[:1], model(2).decoder, 4
    this = Model(STILL, c, x)
    precision = eye(DIM) + c.mT @ c / NOISE**2
    q0 = MultivariateNormal(
        torch.linalg.solve(precision, c.mT @ x[0] / NOISE**2).expand(replicates, -1), precision.inverse()
    )
    truth = MultivariateNormal(torch.zeros(PIXELS).double(), c @ c.mT + NOISE**2 * eye(PIXELS)).log_prob(x)
    for estimator in ("iwae", "elbo"):
        value = marginal_log_likelihood(
            this.log_likelihood, STILL, q0, STANDARD, 0, steps=STEPS, samples=samples, estimator=estimator
        )
        close(value, truth.expand(replicates, STEPS + 1))


def test_evidence_of_frames_lies_between_the_bound_and_the_truth():
    replicates, prior = 400, DiffusionPrior(init=0.4, dtype=torch.float64)
    slow = Linear(symmetric(DIM, 1, 0.1)[None], 0.1 * randn(1, DIM))
    this = Model(slow, randn(PIXELS, DIM, seed=3), randn(STEPS + 1, PIXELS, seed=4))
    q0 = Independent(Normal(torch.zeros(replicates, DIM).double(), 2 * torch.ones(replicates, DIM).double()), 1)
    found, c = {}, this.decoder
    for estimator, samples in (("elbo", 1), ("iwae", 1), ("iwae", 200), ("authors", 1)):
        found[estimator, samples] = marginal_log_likelihood(
            this.log_likelihood, this.potential, q0, prior, 0, steps=STEPS, samples=samples, estimator=estimator,
            generator=torch.Generator().manual_seed(0),
        )  # fmt: skip
    close(found["elbo", 1], found["iwae", 1])
    path = FlowPosterior(this.potential)(q0, 0, steps=STEPS, generator=torch.Generator().manual_seed(0))
    likely = this.log_likelihood(path.z)
    close(found["elbo", 1].sum(1), evidence_bound(likely, path, prior))
    close(found["authors", 1], 2 * likely - found["elbo", 1])  # the KL's sample with the other sign
    for t in range(STEPS + 1):
        spread = (1 + 2 * 0.4 * t) * c @ c.mT + NOISE**2 * eye(PIXELS)
        truth = MultivariateNormal(torch.zeros(PIXELS).double(), spread).log_prob(this.x[t])
        ratio = (found["iwae", 200][:, t] - truth).exp()
        assert abs(ratio.mean() - 1) < 4 * ratio.std() / replicates**0.5
        assert found["elbo", 1][:, t].mean() < truth


def test_what_the_authors_report_exceeds_what_any_model_reaches():
    """A perfect decoder and a narrow posterior suffice."""
    x = torch.zeros(3, 2, DIM, dtype=torch.float64)
    q0 = Independent(Normal(x[:, 0], torch.full_like(x[:, 0], 0.1)), 1)
    values = [
        marginal_log_likelihood(
            lambda z: gaussian_log_likelihood(z, x), STILL, q0, STANDARD, 0, steps=1, estimator=estimator
        )
        for estimator in ("iwae", "authors")
    ]
    assert (values[0] < gaussian_constant(DIM)).all()
    assert (values[1] > gaussian_constant(DIM) + 1).all()


def frames_of(flow, estimator, q0, log_likelihood, samples=2):
    generator = torch.Generator().manual_seed(0)
    return marginal_log_likelihood(
        log_likelihood, flow, q0, STANDARD, 0, steps=STEPS, samples=samples, estimator=estimator, generator=generator
    )


def test_bounds_of_frames_take_exact_densities_whatever_the_flow_was_made_with():
    """Noise in log-determinants would inflate the bounds, and what eq. 10 prints is no density. "authors" is as it is given."""
    this, q0 = model(0), gaussian(3, DIM)
    for estimator in ("iwae", "elbo"):
        exact = frames_of(this.potential, estimator, q0, this.log_likelihood)
        for log_det in ("exact", "laplacian", None):
            flow = FlowPosterior(this.potential, log_det)
            close(frames_of(flow, estimator, q0, this.log_likelihood), exact)
            assert flow.log_det == log_det
    exact, printed = (
        frames_of(FlowPosterior(this.potential, log_det), "authors", q0, this.log_likelihood)
        for log_det in ("exact", "laplacian")
    )
    assert (exact - printed)[:, 1:].abs().max() > 1e-3
    assert torch.equal(frames_of(this.potential, "authors", q0, this.log_likelihood), exact), "a potential by itself"


def test_noise_in_log_determinants_lifts_no_bound_above_the_truth():
    """With Hutchinson's the weights of many samples exceeded the evidence by far."""
    dim, replicates = 32, 300
    A = symmetric(dim, 0, 0.3)
    flow = FlowPosterior(Linear(A[None], torch.zeros(1, dim).double()), "hutchinson")
    x = torch.zeros(replicates, STEPS + 1, dim).double()
    q0 = Independent(Normal(x[:, 0], torch.full_like(x[:, 0], 0.5**0.5)), 1)  # the posterior of the first frame
    value = frames_of(flow, "iwae", q0, lambda z: gaussian_log_likelihood(z, x), samples=30)
    truth = -0.5 * dim * math.log(4 * math.pi)
    assert (value.mean(0) < truth + 4 * value.std(0) / replicates**0.5 + 1e-9).all()


def test_evidence_of_frames_refuses_what_is_no_density():
    this, q0 = model(0), gaussian(3, DIM)
    for make, error, said in (
        (
            lambda: frames_of(FlowPosterior(this.potential, None), "authors", q0, this.log_likelihood),
            ValueError,
            "path.l",
        ),
        (lambda: frames_of(this.potential, "best", q0, this.log_likelihood), ValueError, "estimator: got 'best'"),
        (
            lambda: marginal_log_likelihood(this.log_likelihood, this.potential, q0, q0, 0, steps=1),
            TypeError,
            "prior: got Independent, expected a DiffusionPrior",
        ),
    ):
        with pytest.raises(error, match=said):
            make()


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
