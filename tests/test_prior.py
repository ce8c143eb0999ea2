"""The diffusion prior against the heat equation, and a diffusion coefficient that starts at zero and learns."""

import math

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from torch.distributions import Independent, Normal

from latentflow import DiffusionPrior, FlowPosterior, LatentPath, Potential, flow_kl
from tests.problems import gaussian, rand, randn, seeds


def path_of(z, weights):
    times = torch.arange(z.shape[1], dtype=z.dtype)
    return LatentPath(z, None, None, None, weights, times, q0=None)


def normal(variance):
    return Normal(torch.zeros((), dtype=torch.float64), torch.as_tensor(variance, dtype=torch.float64).sqrt())


@given(st.integers(1, 4), st.integers(1, 5), seeds)
def test_log_prob_is_that_of_the_widened_gaussian(dim, steps, seed):
    diffusion, weights = rand(3, seed=seed), 2 * rand(4, steps, 3, seed=seed)
    z = 2 * randn(4, steps + 1, dim, seed=seed)
    log_p = DiffusionPrior(3, diffusion, dtype=torch.float64).log_prob(path_of(z, weights))
    for b in range(4):
        variance = 1.0
        for t in range(steps + 1):
            expected = normal(variance).log_prob(z[b, t]).sum()
            torch.testing.assert_close(log_p[b, t], expected, rtol=1e-12, atol=1e-12)
            if t < steps:
                variance += 2 * float(weights[b, t] @ diffusion)


def test_each_step_convolves_with_the_heat_kernel():
    """p_t(z) = int G(z - y; D) p_{t-1}(y) dy with Green's function of dp/dt = D p'', switching D on the way."""
    prior = DiffusionPrior(2, torch.tensor([0.3, 1.1]), dtype=torch.float64)
    y = torch.linspace(-30, 30, 6001, dtype=torch.float64)
    labels = [0, 1, 1, 0]
    weights = torch.nn.functional.one_hot(torch.tensor(labels), 2).double()[None].expand(6001, -1, -1)
    log_p = prior.log_prob(path_of(y[:, None, None].expand(-1, 5, 1), weights))
    points = torch.tensor([-4.0, -1.0, 0.0, 0.5, 3.0], dtype=torch.float64)
    for t, k in enumerate(labels, 1):
        diffusion = (0.3, 1.1)[k]
        kernel = (-(points[:, None] - y).square() / (4 * diffusion)).exp() / math.sqrt(4 * math.pi * diffusion)
        convolved = torch.trapezoid(kernel * log_p[:, t - 1].exp(), y)
        here = log_p[(100 * (points + 30)).round().long(), t].exp()
        torch.testing.assert_close(here, convolved, rtol=1e-6, atol=1e-9)


def test_heat_equation_holds_pointwise():
    """dp/dt = D d2p/dz2, with t moved through a fractional weight of one step."""
    prior = DiffusionPrior(1, 0.4, dtype=torch.float64)

    def density(z, t):
        return prior.log_prob(path_of(torch.stack((z, z))[None, :, None], t[None, None, None]))[0, 1].exp()

    for z, t in ((0.3, 0.5), (-1.7, 2.0), (2.5, 6.0)):
        z, t = torch.tensor(z, dtype=torch.float64), torch.tensor(t, dtype=torch.float64)
        rate = torch.func.grad(density, 1)(z, t)
        curvature = torch.func.grad(torch.func.grad(density))(z, t)
        torch.testing.assert_close(rate, 0.4 * curvature, rtol=1e-9, atol=1e-12)


@given(st.integers(1, 3), st.integers(1, 5), st.floats(0, 3), seeds)
def test_particle_form_pushes_its_particles(dim, steps, diffusion, seed):
    """z_t = z_{t-1} (1 + D / s_{t-1}) and log p_t = log p_{t-1} - d log(1 + D / s_{t-1})."""
    prior = DiffusionPrior(1, diffusion, form="particle", dtype=torch.float64)
    z, s = [randn(5, dim, seed=seed)], 1.0
    expected = [Independent(Normal(torch.zeros_like(z[0]), 1), 1).log_prob(z[0])]
    for _ in range(steps):
        z.append(z[-1] * (1 + diffusion / s))
        expected.append(expected[-1] - dim * math.log(1 + diffusion / s))
        s = s + 2 * diffusion + diffusion**2 / s
    log_p = prior.log_prob(path_of(torch.stack(z, 1), torch.ones(5, steps, 1, dtype=torch.float64)))
    torch.testing.assert_close(log_p, torch.stack(expected, 1), rtol=1e-10, atol=1e-10)


@pytest.mark.parametrize(("diffusion", "nats"), [(0.1, 0.03), (1.0, 0.88)])
def test_particle_form_is_near_the_heat_kernel(diffusion, nats):
    """KL(particle || heat) at T = 8 in 324 dimensions, from the two variances."""
    weights = torch.ones(1, 8, 1, dtype=torch.float64)
    particle, heat = (
        DiffusionPrior(1, diffusion, form=form, dtype=torch.float64).variance(weights)[0, -1]
        for form in ("particle", "heat")
    )
    assert heat.item() == pytest.approx(1 + 16 * diffusion)
    kl = 324 * 0.5 * (particle / heat - 1 - (particle / heat).log())
    assert kl.item() == pytest.approx(nats, abs=0.005)


def test_diffusion_starts_at_zero_and_still_learns():
    prior = DiffusionPrior(2)
    assert prior.diffusion.tolist() == [0, 0]
    z, weights = 1.2 * randn(500, 4, 3, dtype=torch.float32), torch.zeros(500, 3, 2)
    weights[:250, :, 0] = weights[250:, :, 1] = 1
    z[250:, 1:] *= torch.tensor([1.5, 2.0, 2.5])[:, None]  # the second transformation spreads more
    loss = -prior.log_prob(path_of(z, weights)).sum(1).mean()
    (gradient,) = torch.autograd.grad(loss, prior.raw)
    assert (gradient < 0).all()
    optimiser = torch.optim.Adam(prior.parameters(), 0.05)
    for _ in range(400):
        optimiser.zero_grad()
        (-prior.log_prob(path_of(z, weights)).sum(1).mean()).backward()
        optimiser.step()
    (slope,) = torch.autograd.grad(-prior.log_prob(path_of(z, weights)).sum(1).mean(), prior.raw)
    assert slope.abs().max() < 0.02, "not at the optimum"
    assert prior.diffusion[1] > 2 * prior.diffusion[0] > 0


@pytest.mark.parametrize("optimiser", [torch.optim.SGD, torch.optim.Adam])
def test_pushed_below_zero_it_stays_zero_and_comes_back(optimiser):
    """A clamp would stop for good here, and a square would never have started."""
    prior = DiffusionPrior(1)
    step = optimiser(prior.parameters(), 0.05)
    narrow, wide = torch.zeros(50, 3, 2), 3 * randn(50, 3, 2, dtype=torch.float32)
    weights = torch.ones(50, 2, 1)
    for z, learns in ((narrow, False), (wide, True)):
        for _ in range(60):
            step.zero_grad()
            (-prior.log_prob(path_of(z, weights)).mean()).backward()
            step.step()
            assert prior.diffusion.min() >= 0
        assert prior.raw.item() < 0 or learns, "the data want D < 0: the test must get there"
        assert (prior.diffusion.item() > 0.1) == learns


@given(st.lists(st.floats(-5, 5, width=32), min_size=1, max_size=5))
def test_diffusion_is_never_negative(raw):
    prior = DiffusionPrior(len(raw))
    with torch.no_grad():
        prior.raw.copy_(torch.tensor(raw))
    assert torch.equal(prior.diffusion, prior.raw.clamp_min(0))


def test_projected_gradient_at_below_and_above_zero():
    prior = DiffusionPrior(6)
    with torch.no_grad():
        prior.raw.copy_(torch.tensor([0.0, 0.0, -1.0, -1.0, 1.0, 1.0]))
    prior.diffusion.backward(torch.tensor([1.0, -1.0, 1.0, -1.0, 1.0, -1.0]))
    # below 0 only the way back up is open
    assert prior.raw.grad.tolist() == [1, -1, 0, -1, 1, -1]


def test_projection_works_under_vmap_and_func_grad():
    prior = DiffusionPrior(3, torch.tensor([0.0, 0.5, 1.0]))
    z, weights = randn(4, 3, 2, dtype=torch.float32), rand(4, 2, 3, dtype=torch.float32)

    def loss(raw, z, weights):
        return torch.func.functional_call(Log(prior), {"prior.raw": raw}, (z[None], weights[None])).sum()

    each = torch.func.vmap(torch.func.grad(loss), (None, 0, 0))(prior.raw.detach(), z, weights)
    (total,) = torch.autograd.grad(prior.log_prob(path_of(z, weights)).sum(), prior.raw)
    torch.testing.assert_close(each.sum(0), total)


class Log(torch.nn.Module):
    def __init__(self, prior):
        super().__init__()
        self.prior = prior

    def forward(self, z, weights):
        return self.prior.log_prob(path_of(z, weights))


def test_prior_of_a_flows_path():
    path = FlowPosterior(Potential(3, 2))(gaussian(5, 3, dtype=torch.float32), torch.tensor([0, 1, 1, 0, 1]), steps=4)
    prior = DiffusionPrior(2, torch.tensor([0.0, 0.5]))
    log_p = prior.log_prob(path)
    for b, k in enumerate((0, 1, 1, 0, 1)):
        for t in range(5):
            expected = normal(1.0 + t * k).log_prob(path.z[b, t].double()).sum().float()
            torch.testing.assert_close(log_p[b, t], expected)
    assert prior.double().log_prob(path).dtype == path.z.dtype


@pytest.mark.parametrize("dtype", [torch.float32, torch.float64])
def test_factory_arguments(dtype):
    assert DiffusionPrior(2, dtype=dtype).raw.dtype == dtype
    assert DiffusionPrior(2, device="cpu").raw.device.type == "cpu"
    assert DiffusionPrior(2, 0.5).diffusion.tolist() == [0.5, 0.5]
    assert DiffusionPrior(2, torch.tensor([0.5, 1.5])).diffusion.tolist() == [0.5, 1.5]


@given(batch=st.integers(1, 4), steps=st.integers(1, 5), num=st.integers(1, 3), seed=seeds)
@pytest.mark.parametrize("form", ["heat", "particle"])
def test_what_acts_in_all_steps_is_summed_up_as_if_it_were_said_for_each(form, batch, steps, num, seed):
    prior = DiffusionPrior(num, rand(num, seed=seed), form=form, dtype=torch.float64)
    weights = rand(batch, num, seed=seed + 1)[:, None].expand(-1, steps, -1)
    found, truth = (prior.variance(x) for x in (weights, weights.contiguous()))
    torch.testing.assert_close(found, truth, rtol=1e-12, atol=1e-12)
    by_found, by_truth = (torch.autograd.grad(x.log().sum(), prior.raw)[0] for x in (found, truth))
    torch.testing.assert_close(by_found, by_truth, rtol=1e-12, atol=1e-12)


@pytest.mark.parametrize("form", ["heat", "particle"])
def test_each_sample_has_its_variance_though_all_share_the_weights(form):
    prior = DiffusionPrior(2, 0.3, form=form, dtype=torch.float64)
    shared = rand(2, seed=0).expand(5, 3, 2)
    assert torch.equal(prior.variance(shared), prior.variance(shared.clone()))


def test_shared_weights_have_a_gradient_each():
    prior, z, weights = DiffusionPrior(2, 0.3, dtype=torch.float64), randn(5, 4, 3, seed=0), rand(2, seed=1)
    found = []
    for shared in (weights.expand(5, 3, 2), weights.expand(5, 3, 2).clone()):
        shared.requires_grad_()
        found.append(torch.autograd.grad(prior.log_prob(path_of(z, shared)).sum(), shared)[0])
    torch.testing.assert_close(*found, rtol=1e-12, atol=1e-12)


@pytest.mark.parametrize("form", ["heat", "particle"])
def test_shared_weights_have_a_gradient_each_in_an_outer_transform_too(form):
    """An inner one says of them that they want none."""
    prior, z, weights = DiffusionPrior(2, 0.3, form=form, dtype=torch.float64), randn(5, 4, 3, seed=0), rand(2, seed=1)

    def total(weights):
        def inner(z):
            return prior.log_prob(path_of(z, weights)).sum()

        return torch.func.grad(inner)(z).square().sum()

    shared, apart = (torch.func.grad(total)(x) for x in (weights.expand(5, 3, 2), weights.expand(5, 3, 2).clone()))
    torch.testing.assert_close(shared, apart, rtol=1e-12, atol=1e-12)


@pytest.mark.parametrize("form", ["heat", "particle"])
def test_weights_of_other_samples_are_refused(form):
    with pytest.raises(ValueError, match=r"path: got z of 5 samples and weights of 4, expected as many"):
        DiffusionPrior(2, form=form).log_prob(path_of(randn(5, 4, 3), rand(4, 3, 2)))


def test_the_prior_is_differentiable_twice_and_forwards():
    z, weights = randn(5, 4, 3, seed=0), rand(5, 3, 2, seed=1)

    def log_prob(raw):
        prior = DiffusionPrior(2, dtype=torch.float64)
        return torch.func.functional_call(Summed(prior), {"prior.raw": raw}, (path_of(z, weights),))

    raw = rand(2, seed=2)
    truth = torch.autograd.functional.hessian(log_prob, raw)
    torch.testing.assert_close(torch.func.hessian(log_prob)(raw), truth, rtol=1e-10, atol=1e-10)


class Summed(torch.nn.Module):
    def __init__(self, prior):
        super().__init__()
        self.prior = prior

    def forward(self, path):
        return self.prior.log_prob(path).sum()


def test_a_prior_may_have_a_method_named_transport():
    class Own(DiffusionPrior):
        def transport(self):
            return None

    path = FlowPosterior(Potential(3, 2))(gaussian(5, 3, dtype=torch.float32), 0, steps=2)
    assert torch.equal(flow_kl(path, Own(2)), flow_kl(path, DiffusionPrior(2)))
    with pytest.raises(TypeError, match="prior: got OptimizedModule, expected a DiffusionPrior"):
        flow_kl(path, torch.compile(FlowPosterior(Potential(3, 2))))
