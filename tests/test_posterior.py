"""The path: its definition, its fields, the distributions it starts from, and that samples do not see each other."""

import dataclasses
import math

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from torch.distributions import (
    Categorical,
    Independent,
    LowRankMultivariateNormal,
    MixtureSameFamily,
    MultivariateNormal,
    Normal,
    StudentT,
    TransformedDistribution,
)
from torch.distributions.transforms import AffineTransform

from latentflow import DiffusionPrior, FlowPosterior, GumbelSelector, HJConstraint, NegativeForce, Potential, flow_kl
from tests.problems import Opaque, Wave, close, gaussian, make_potential, potentials, rand, randn, reference_path, seeds


@given(potentials(), seeds, st.integers(1, 4), st.integers(1, 3), st.sampled_from(["end", "start"]))
def test_path_is_its_definition(potential, seed, steps, substeps, label):
    z0, weights = randn(3, potential.dim, seed=seed), 2 * rand(3, steps, potential.num, seed=seed)
    for module in (potential, Opaque(potential)):
        z, _ = FlowPosterior(module, None, substeps=substeps, label=label).transport(z0, steps=steps, weights=weights)
        close(z, reference_path(potential, z0, weights, substeps, label)[0])


def test_fields_have_the_documented_shapes():
    q0, weights = gaussian(5, 3), rand(5, 2)
    path = FlowPosterior(make_potential(3, 2))(q0, weights=weights, steps=4)
    assert path.z.shape == (5, 5, 3)
    assert path.log_q.shape == (5, 5)
    assert path.log_det.shape == (5, 4)
    assert path.folds.shape == (5, 4)
    assert path.folds.dtype == torch.bool
    assert torch.equal(path.weights, weights[:, None].expand(5, 4, 2))
    assert path.times.tolist() == [0, 1, 2, 3, 4]
    assert path.q0 is q0
    assert path.acting.k is None
    with pytest.raises(dataclasses.FrozenInstanceError):
        path.z = None


@pytest.mark.parametrize("dtype", [torch.float32, torch.float64])
@pytest.mark.parametrize("user", [False, True])
@pytest.mark.parametrize(("batch", "dim", "num", "steps"), [(1, 1, 1, 1), (2, 5, 3, 1), (0, 3, 2, 2), (3, 1, 2, 3)])
def test_small_and_empty_batches(dtype, user, batch, dim, num, steps):
    potential = Wave(dim, num).to(dtype) if user else make_potential(dim, num, dtype=dtype)
    prior, hj = DiffusionPrior(num, 0.1, dtype=dtype), HJConstraint(potential)
    q0 = gaussian(batch, dim, dtype=dtype)
    for options in ({}, {"solver": "rk4"}, {"solver": "dopri5"}, {"log_det": "hutchinson"}, {"log_det": "laplacian"}):
        flow = FlowPosterior(potential, **options)
        path = flow(q0, num - 1, steps=steps)
        assert path.z.shape == (batch, steps + 1, dim)
        for value in (path.log_q, path.log_det, prior.log_prob(path)):
            assert value.dtype == dtype
            assert value.isfinite().all()
        for value in (hj(path), flow_kl(path, prior), flow_kl(path, prior, bound="initial")):
            assert value.shape == (batch,)
            assert value.dtype == dtype
    labels = torch.zeros(batch, steps, dtype=torch.int64)
    z = flow.transport(path.z[:, 0], labels, steps)[0][:, -1]
    start = FlowPosterior(potential).inverse(z.detach(), labels, steps)
    assert start.shape == (batch, dim)
    there = flow.transport(start, labels, steps)[0][:, -1]
    within = 1e-5 if dtype == torch.float32 else 1e-10
    torch.testing.assert_close(there, z, rtol=within, atol=within)
    assert flow.log_prob(z.detach(), q0, labels, steps).shape == (batch,)


@given(potentials(), seeds, st.booleans(), st.sampled_from(["exact", "laplacian"]))
def test_samples_do_not_see_their_batch_mates(potential, seed, opaque, log_det):
    flow = FlowPosterior(Opaque(potential) if opaque else potential, log_det)
    z0, weights = randn(7, potential.dim, seed=seed), rand(7, 3, potential.num, seed=seed)
    z, value = flow.transport(z0, steps=3, weights=weights)
    order = torch.randperm(7, generator=torch.Generator().manual_seed(seed))
    for rows in (order, order[:1], order[:4]):
        part, part_value = flow.transport(z0[rows], steps=3, weights=weights[rows])
        close(part, z[rows], 1e-12)
        close(part_value, value[rows], 1e-9)
    # an extreme sample is nobody else's concern
    z0[0] *= 1e6
    close(flow.transport(z0, steps=3, weights=weights)[1][1:], value[1:], 1e-9)


class Reversed(torch.nn.Module):
    """Any user's module, told the batch size it sees, must see rows only."""

    def forward(self, z, t):
        assert z.ndim == 2
        assert t.shape == z.shape[:1]
        return (z.square().sum(-1) * t.cos()).unsqueeze(-1)


def test_users_modules_see_rows():
    path = FlowPosterior(Reversed())(gaussian(4, 3), 0, steps=2)
    close(path.z[:, 1], path.z[:, 0] * (1 + 2 * math.cos(1)))
    hj = HJConstraint(Reversed())
    close(hj.residual(path.z, path.times)[:, 1], hj.residual(path.z[:, 1], 1.0))


def lower(dim):
    return torch.eye(dim, dtype=torch.float64) + 0.2 * torch.ones(dim, dim, dtype=torch.float64).tril()


POSTERIORS = {
    "normal": lambda: gaussian(200, 3),
    "full": lambda: MultivariateNormal(randn(200, 3), scale_tril=lower(3)),
    "low rank": lambda: LowRankMultivariateNormal(randn(200, 3), randn(200, 3, 1), torch.ones(200, 3).double()),
    "heavy": lambda: Independent(StudentT(4 + rand(200, 3), randn(200, 3)), 1),
    "transformed": lambda: TransformedDistribution(
        gaussian(200, 3), AffineTransform(randn(3), 1 + rand(3), event_dim=1)
    ),
}


@pytest.mark.parametrize("name", POSTERIORS)
def test_any_reparameterised_distribution_is_a_start(name):
    """Drawn from it, reproducible with a generator, leaving the global random state alone."""
    q0, flow = POSTERIORS[name](), FlowPosterior(make_potential(3))
    torch.manual_seed(3)
    expected = q0.rsample()
    torch.manual_seed(3)
    path = flow(q0, 0, steps=2)
    close(path.z[:, 0], expected, 1e-14)
    close(path.log_q[:, 0], q0.log_prob(path.z[:, 0]))
    before = torch.get_rng_state()
    one, two, other = (flow(q0, 0, steps=2, generator=torch.Generator().manual_seed(s)).z for s in (1, 1, 2))
    assert torch.equal(torch.get_rng_state(), before)
    assert torch.equal(one, two)
    assert not torch.equal(one, other)
    generator = torch.Generator().manual_seed(1)
    flow(q0, 0, steps=2, generator=generator)
    assert not torch.equal(flow(q0, 0, steps=2, generator=generator).z, one), "the generator does not advance"
    assert flow_kl(path, DiffusionPrior(dtype=torch.float64), bound="initial").isfinite().all()


def test_generators_differ_wherever_their_seeds_do():
    """Of 100 seeds no two draw the same, though torch's own generator is seeded on the way."""
    q0, flow = POSTERIORS["full"](), FlowPosterior(make_potential(3), None)
    drawn = {flow(q0, 0, steps=1, generator=torch.Generator().manual_seed(s)).z[0, 0, 0].item() for s in range(100)}
    assert len(drawn) == 100


def test_a_start_without_a_density_has_a_path_without_densities():
    class Sampler(MultivariateNormal):
        def log_prob(self, value):
            raise NotImplementedError("it only draws")

    q0 = Sampler(randn(5, 3), scale_tril=lower(3))
    assert FlowPosterior(make_potential(3), None)(q0, 0, steps=2).log_q is None


def test_generator_draws_from_q0():
    """The route through the generator has the mean and the scale of q0: 20,000 samples, four standard errors."""
    mean, std = torch.tensor([1.0, -2.0]), torch.tensor([0.5, 3.0])
    q0 = Independent(Normal(mean.expand(20_000, 2), std.expand(20_000, 2)), 1)
    full = MultivariateNormal(mean.expand(20_000, 2), torch.diag(std.square()))
    for start in (q0, full):
        path = FlowPosterior(make_potential(2, dtype=torch.float32), None)
        z0 = path(start, 0, steps=1, generator=torch.Generator().manual_seed(0)).z[:, 0]
        assert ((z0.mean(0) - mean).abs() < 4 * std / 20_000**0.5).all()
        assert ((z0.std(0) / std - 1).abs() < 4 / 40_000**0.5).all()


@given(seeds, st.floats(-80.0, 80.0))
def test_the_density_of_a_sample_holds_for_any_scale(seed, log_scale):
    """In single precision, where the square of the scale may be 0 or infinite, as in double precision."""
    std = (math.exp(log_scale) * (0.5 + rand(4, 3, seed=seed))).float()
    path = FlowPosterior(Potential(3))(Independent(Normal(torch.zeros(4, 3), std), 1), 0, steps=1)
    expected = Independent(Normal(torch.zeros(4, 3).double(), std.double()), 1).log_prob(path.z[:, 0].double())
    torch.testing.assert_close(path.log_q[:, 0].double(), expected, rtol=1e-5, atol=1e-5)


@given(seeds)
def test_the_gradient_of_the_density_is_that_of_the_distribution(seed):
    """With z_0 moved by mean and scale: nothing for the mean, -1 / scale for the scale."""
    mean, std = randn(4, 3, seed=seed).requires_grad_(), (0.5 + rand(4, 3, seed=seed)).requires_grad_()
    q0, flow = Independent(Normal(mean, std), 1), FlowPosterior(make_potential(3))
    torch.manual_seed(seed)
    found = flow(q0, 0, steps=1).log_q[:, 0]
    torch.manual_seed(seed)
    expected = q0.log_prob(q0.rsample())
    close(found, expected, 1e-12)
    by_mean, by_std = torch.autograd.grad(expected.sum(), (mean, std))
    assert by_mean.abs().max() < 1e-12
    close(torch.autograd.grad(found.sum(), std)[0], by_std, 1e-12)


def test_gradient_reaches_the_encoder_through_the_sample():
    """d/d mean of E|z_T|^2 by reparameterisation, against the same noise moved by hand."""
    mean, std = randn(4, 3).requires_grad_(), (0.5 + rand(4, 3)).requires_grad_()
    flow = FlowPosterior(make_potential(3, strength=1.5))

    def total(mean, std):
        path = flow(Independent(Normal(mean, std), 1), 0, steps=2, generator=torch.Generator().manual_seed(0))
        return path.z, path.log_q

    assert torch.autograd.gradcheck(total, (mean, std))


def test_a_start_without_rsample_is_for_evaluation_only():
    mixture = MixtureSameFamily(Categorical(torch.ones(4, 2)), Independent(Normal(randn(4, 2, 3), 1.0), 1))
    flow = FlowPosterior(make_potential(3))
    with pytest.raises(ValueError, match=r"q0: got MixtureSameFamily without rsample, expected .*; use one"):
        flow(mixture, 0, steps=2)
    with torch.no_grad():
        assert flow(mixture, 0, steps=2).log_q.isfinite().all()


@pytest.mark.parametrize("user", [False, True])
def test_autocast_and_half_precision_posteriors_give_float32_paths(user):
    potential = Wave(3, 2) if user else make_potential(3, 2, strength=1.5, dtype=torch.float32)
    flow, prior, hj = FlowPosterior(potential), DiffusionPrior(2, 0.1), HJConstraint(potential)
    half = Independent(Normal(randn(6, 3).bfloat16(), (0.2 + rand(6, 3)).bfloat16()), 1)
    full = Independent(Normal(half.base_dist.loc.float(), half.base_dist.scale.float()), 1)
    weights = rand(6, 2, dtype=torch.float32)
    expected = flow(full, weights=weights, steps=3, generator=torch.Generator().manual_seed(0))
    with torch.autocast("cpu", dtype=torch.bfloat16):
        path = flow(half, weights=weights, steps=3, generator=torch.Generator().manual_seed(0))
        values = (hj(path), flow_kl(path, prior), flow_kl(path, prior, bound="initial"))
        back = flow.inverse(path.z[:, -1], weights=weights, steps=3)
        density = flow.log_prob(path.z[:, -1], half, weights=weights, steps=3)
    for name in ("z", "log_q", "log_det"):
        assert getattr(path, name).dtype == torch.float32
        close(getattr(path, name), getattr(expected, name), 1e-5)
    close(values[0], hj(expected), 1e-5)
    close(values[1], flow_kl(expected, prior), 1e-4)
    close(values[2], flow_kl(expected, prior, bound="initial"), 1e-4)
    close(back, path.z[:, 0], 1e-4)
    close(density, path.log_q[:, -1], 1e-3)


@pytest.mark.parametrize("user", [False, True])
def test_every_parameter_gets_a_gradient(user):
    """In one loss of everything; D at exactly 0 and the classifier included."""
    torch.manual_seed(0)
    potential = Wave(3, 3) if user else make_potential(3, 3, bounded=True, strength=1.0, dtype=torch.float32)
    encoder, classifier = torch.nn.Linear(4, 6), torch.nn.Linear(4, 3)
    force = NegativeForce(3, 3)
    torch.nn.init.constant_(force.bias, 0.3)
    flow, hj = FlowPosterior(potential), HJConstraint(potential, force)
    prior, selector = DiffusionPrior(3), GumbelSelector(classifier, 3)
    x = torch.randn(64, 4)
    mean, log_var = encoder(x).chunk(2, -1)
    weights, _ = selector(x)
    path = flow(Independent(Normal(mean, (0.5 * log_var).exp()), 1), weights=weights, steps=3)
    (flow_kl(path, prior) + hj(path) + path.z.sin().sum((1, 2))).mean().backward()
    for module in (potential, encoder, force, prior, selector):
        for name, parameter in module.named_parameters():
            assert parameter.grad is not None, name
            assert parameter.grad.isfinite().all(), name
            per_network = parameter.grad.reshape(len(parameter.grad), -1).abs().amax(1)
            if module in (prior, force) or (module is potential and not user):
                assert (per_network > 0).all(), name  # each of the K networks
            else:
                assert per_network.max() > 0, name


@pytest.mark.parametrize("dim", [1, 3])
def test_transport_under_vmap(dim):
    potential, z0 = make_potential(dim, 2), randn(5, 4, dim)
    labels, weights = torch.arange(20).view(5, 4) % 2, rand(5, 4, 3, 2)
    flow = FlowPosterior(potential)
    for call in (
        (lambda z, k, w: flow.transport(z, 1, 3)),
        (lambda z, k, w: flow.transport(z, k, 3)),
        (lambda z, k, w: flow.transport(z, steps=3, weights=w)),
    ):
        z, log_det = torch.func.vmap(call)(z0, labels, weights)
        for i in range(5):
            expected = call(z0[i], labels[i], weights[i])
            close(z[i], expected[0])
            close(log_det[i], expected[1])


def test_gradients_of_the_whole_flow_under_func_transforms():
    flow, z0 = FlowPosterior(make_potential(2, strength=1.5)), randn(3, 2)

    def total(z):
        return flow.transport(z, 0, 2)[1].sum()

    expected = torch.autograd.functional.jacobian(total, z0)
    close(torch.func.grad(total)(z0), expected)
    close(torch.func.jacfwd(total)(z0), expected)


def test_another_kind_of_log_determinant_is_that_of_a_flow_made_with_it():
    potential, q0 = make_potential(3, 2, hidden=2), gaussian(4, 3)
    made = {"substeps": 2, "label": "start", "memory": 2**12}
    flow = FlowPosterior(potential, **made)
    for kind in ("laplacian", "hutchinson", "exact", None):
        other, truth = flow.with_log_det(kind), FlowPosterior(potential, kind, substeps=2, label="start")
        got, expected = (of(q0, 1, steps=3, generator=torch.Generator().manual_seed(1)) for of in (other, truth))
        for name in ("z", "log_q", "log_det"):
            x, y = getattr(got, name), getattr(expected, name)
            assert (x is None and y is None) or torch.equal(x, y), (kind, name)
        assert other.potential is potential
        assert other.memory == (2**12 if kind == "exact" else None)
    assert (flow.log_det, flow.memory) == ("exact", 2**12)
    other.potential = make_potential(2)
    other.register_forward_hook(lambda *_: 1 / 0)
    assert flow.potential is potential
    flow(q0, 1, steps=1)


def test_an_unknown_kind_of_log_determinant_is_never_taken_for_another():
    flow = FlowPosterior(make_potential(3, 2))
    with pytest.raises(ValueError, match="log_det: got 'cholesky', expected one of 'exact'"):
        flow.with_log_det("cholesky")
    with pytest.raises(ValueError, match="log_det: got 'laplacian' with solver='rk4'"):
        FlowPosterior(flow.potential, solver="rk4").with_log_det("laplacian")
    flow = FlowPosterior(flow.potential, solver="rk4")
    flow.log_det = "laplacian"
    with pytest.raises(ValueError, match="log_det: got 'laplacian' with solver='rk4'"):
        flow(gaussian(4, 3), 0, steps=1)
    for module in (flow.potential, Wave(3, 2).double()):
        flow = FlowPosterior(module)
        flow.log_det = "cholesky"
        with pytest.raises(ValueError, match="log_det: got 'cholesky'"):
            flow(gaussian(4, 3), 0, steps=1)
