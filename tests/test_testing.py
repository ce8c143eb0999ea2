"""The kit turned on the library: what is right passes, for every public component under the properties that apply to it."""

import pytest
import torch
from hypothesis import Phase, given, settings
from hypothesis import find as find_by
from hypothesis import strategies as st
from torch import nn

from latentflow import (
    DiffusionPrior,
    FlowPosterior,
    GumbelSelector,
    HJConstraint,
    NegativeForce,
    Potential,
    categorical_kl,
    metrics,
)
from latentflow import testing as kit
from tests.problems import Opaque, Wave, gaussian, make_potential, rand, randn

Z, T = randn(6, 3), 8 * rand(6, seed=1)


@given(kit.potentials(), st.data())
def test_derivatives_and_steps_of_our_potential(potential, data):
    z, t = data.draw(kit.points(potential.dim))
    kit.assert_gradient(potential, z, t)
    kit.assert_time_derivative(potential, z, t)
    active = data.draw(st.sampled_from([0, torch.zeros(len(z), dtype=torch.int64), rand(len(z), potential.num)]))
    for module in (potential, Opaque(potential)):
        kit.assert_hessian(module, z, t, active)
        kit.assert_log_det(module, z, t, active)
    kit.assert_smooth(potential, z, t, active)


class Steep(nn.Module):
    """Smooth, and bends within a small part of a segment."""

    def __init__(self, activation, scale):
        super().__init__()
        self.first, self.last, self.activation, self.scale = nn.Linear(4, 16), nn.Linear(16, 2), activation, scale

    def forward(self, z, t):
        return self.last(self.activation(self.scale * self.first(torch.cat((z, t[:, None]), -1))))


@pytest.mark.parametrize("activation", [nn.Tanh(), nn.GELU(), nn.Softplus(beta=20)])
@given(seed=st.integers(0, 99), scale=st.sampled_from([1.0, 5.0, 20.0]))
def test_steep_is_smooth(activation, seed, scale):
    torch.manual_seed(seed)
    kit.assert_smooth(Steep(activation, scale).double(), 3 * Z[:, :3], T)


@given(
    kit.potentials(max_dim=4), st.data(), st.sampled_from([{}, {"substeps": 3}, {"label": "start"}, {"log_det": None}])
)
def test_paths_of_every_form_of_k(potential, data, options):
    z0 = data.draw(kit.latents(potential.dim))
    flow = FlowPosterior(potential, **options)
    kit.assert_transport(flow, z0, steps=3, **data.draw(kit.acting(len(z0), potential.num, 3)))


@given(kit.seeded(lambda: Wave(3, 2)), kit.points(3, dtype=torch.float32), st.booleans())
def test_a_users_network_in_single_precision(potential, point, ours):
    potential = make_potential(3, 2, dtype=torch.float32) if ours else potential
    kit.assert_gradient(potential, *point)
    kit.assert_time_derivative(potential, *point)
    kit.assert_residual(potential, *point, force=NegativeForce(3, 2))
    for k in range(2):
        kit.assert_hessian(potential, *point, k)
        kit.assert_log_det(potential, *point, k)
        kit.assert_smooth(potential, *point, k)
    kit.assert_transport(potential, point[0], 1, steps=2)


@pytest.mark.parametrize("potential", [Potential(3, 2), Potential(3, bounded=True), Wave(3, 2), kit.Spread()])
def test_check_potential_passes(potential):
    kit.check_potential(potential, 3, examples=4)


def test_check_potential_knows_the_size_of_ours_and_takes_a_force():
    kit.check_potential(Potential(2, 2), force=NegativeForce(2, 2), examples=2)
    with pytest.raises(ValueError, match="dim: got None, expected the size of a latent; pass dim="):
        kit.check_potential(Wave(2))


def test_check_potential_changes_nothing():
    potential = Wave(2)
    before, state = {name: x.clone() for name, x in potential.state_dict().items()}, torch.get_rng_state()
    kit.check_potential(potential, 2, examples=1)
    assert all(torch.equal(x, before[name]) for name, x in potential.state_dict().items())
    assert all(p.grad is None for p in potential.parameters())
    assert torch.equal(torch.get_rng_state(), state)


@given(st.data(), st.integers(1, 4))
def test_exact_solutions(data, dim):
    z, t = data.draw(kit.points(dim))
    solution = data.draw(kit.solutions(dim))
    kit.assert_solution(solution, z, t)
    kit.assert_residual(solution, z, t)
    kit.assert_gradient(solution, z, t)
    kit.assert_time_derivative(solution, z, t)
    kit.assert_hessian(solution, z, t)
    moved, _ = FlowPosterior(solution, label="start").transport(z, 0, steps=3)
    torch.testing.assert_close(moved[:, -1], solution.end(z, 3.0), rtol=1e-10, atol=1e-10)


@given(st.data(), st.integers(1, 4))
def test_potentials_with_known_derivatives(data, dim):
    z, t = data.draw(kit.points(dim))
    potential = data.draw(kit.known_potentials(dim))
    kit.assert_gradient(potential, z, t)
    kit.assert_time_derivative(potential, z, t)
    num = len(potential.shifts) if isinstance(potential, kit.Linear) else 1
    for active in (num - 1, rand(len(z), num), torch.zeros(len(z), dtype=torch.int64)):
        kit.assert_hessian(potential, z, t, active)
    kit.assert_solution(kit.Swing(), z, t, force=kit.SwingForce())


@given(kit.potentials(max_dim=3), st.data(), st.booleans())
def test_residual_and_penalty(potential, data, forced):
    z, t = data.draw(kit.points(potential.dim))
    force = NegativeForce(potential.dim, potential.num, dtype=z.dtype) if forced else None
    kit.assert_residual(potential, z, t, force=force)
    kit.assert_initial(potential, z)
    active = data.draw(kit.acting(len(z), potential.num, 2))
    path = FlowPosterior(potential, log_det=None)(gaussian(len(z), potential.dim), steps=2, **active)
    kit.assert_penalty(potential, path, force=force)


@pytest.mark.parametrize("dim", [1, 2])
@pytest.mark.parametrize("options", [{}, {"substeps": 2}, {"solver": "rk4", "substeps": 2}])
def test_density_of_a_flow(dim, options):
    flow = FlowPosterior(make_potential(dim, 2, 5, strength=1.8), **options)
    kit.assert_density(flow, torch.tensor([0, 1, 1]), 3, dim=dim)
    kit.assert_density(flow, steps=2, dim=dim, weights=torch.tensor([[0.5, 0.5], [0.0, 1.0]]).double())
    kit.assert_density(flow.potential, steps=1, dim=dim, weights=torch.tensor([0.5, 0.5]).double())


def test_injectivity():
    region = ([-4.0, -4.0], [4.0, 4.0])
    kit.assert_injective(make_potential(2, 2, 5, strength=1.0), region, 1.0, torch.tensor([0.5, 0.5]))
    kit.assert_injective(kit.Folding(2.0), region, 1.0, substeps=3)
    kit.assert_injective(kit.Folding(0.5), ([-1.0, 0.0], [1.0, 0.0]), 1.0)  # a line
    kit.assert_injective(Potential(2), region, 1.0)  # float32


@given(kit.linear_gaussians(), st.sampled_from(["marginal", "initial"]), st.sampled_from(["heat", "particle"]))
def test_kl_of_the_flow(case, bound, form):
    kit.assert_kl(case, DiffusionPrior(init=0.3, form=form, dtype=torch.float64), bound=bound)


@given(kit.latents(st.integers(1, 5), low=-40.0, high=40.0), st.sampled_from([torch.float32, torch.float64]))
def test_kl_of_the_index(logits, dtype):
    kit.assert_categorical_kl(logits.to(dtype))


CALLS = {
    "force": (NegativeForce(3, 2), None, (Z, T)),
    "bounded force": (NegativeForce(3, 2, bounded=True), None, (Z, T)),
    "residual": (HJConstraint(Potential(3, 2), NegativeForce(3, 2)), lambda hj, z, t: hj.residual(z, t), (Z, T)),
    "transport": (FlowPosterior(Potential(3, 2)), lambda flow, z: flow.transport(z, 1, steps=3), (Z,)),
    "selector": (GumbelSelector(nn.Linear(3, 2), 2).eval(), lambda selector, x: selector(x)[1], (Z,)),
    "prior": (DiffusionPrior(2), lambda prior, w: prior.variance(w), (rand(6, 3, 2),)),
}


@pytest.mark.parametrize("name", CALLS)
def test_modules(name):
    module, call, inputs = CALLS[name]
    single = [x.float() for x in inputs]
    kit.assert_batch_independent(lambda *x: (call or type(module).__call__)(module, *x), *single)
    kit.assert_dtype(module, *inputs, call=call)
    kit.assert_device(module, *single, call=call)
    kit.assert_state(module, *single, call=call)
    if name != "transport":  # through which the second potential alone receives a gradient
        kit.assert_gradients_reach(module, *single, call=call or (lambda module, *x: module(*x)))


def test_gradients_reach_through_the_straight_through_choice_and_the_prior_at_0():
    selector = GumbelSelector(nn.Linear(3, 2), 2)
    kit.assert_gradients_reach(
        selector, Z.float(), call=lambda s, x: s(x, generator=torch.Generator().manual_seed(0))[0]
    )
    kit.assert_gradients_reach(DiffusionPrior(2, init=0.0), call=lambda prior: prior.diffusion)


@pytest.mark.parametrize(
    "function",
    [
        categorical_kl,
        lambda x: metrics.equivariance_error(x.view(len(x), 3, 1), x.view(len(x), 3, 1).cos()),
        lambda x: metrics.identity_error(x.view(len(x), 3, 1)),
        lambda x: metrics.latent_equivariance_error(x.view(len(x), 3, 1), x.view(len(x), 3, 1).cos()),
        lambda x: metrics.gaussian_log_likelihood(x.view(len(x), 3, 1), x.view(len(x), 3, 1).cos()),
    ],
    ids=[
        "categorical_kl",
        "equivariance_error",
        "identity_error",
        "latent_equivariance_error",
        "gaussian_log_likelihood",
    ],
)
def test_a_sequence_is_measured_by_itself(function):
    kit.assert_batch_independent(function, Z)


def test_our_evaluation_adds_up_all_steps():
    potential = make_potential(3, 2)
    kit.assert_equivariance_error(potential, torch.tanh, Z, randn(2, 6, 4, 3))


def find(strategy, condition):
    """What the strategy shrinks to; also where failing examples are enough, as in mutation testing."""
    return find_by(strategy, condition, settings=settings(phases=tuple(Phase), max_examples=1000))


class TestStrategies:
    def test_shrink_to_one_small_latent(self):
        assert torch.equal(find(kit.latents(), lambda z: True), torch.zeros(1, 1, dtype=torch.float64))
        assert find(kit.latents(), lambda z: z.abs().max() > 0.5).tolist() == [[1.0]]
        z, t = find(kit.points(dim=2), lambda point: bool(point[0].sum() > 1.5))
        assert (z.tolist(), float(t)) == ([[0.0, 2.0]], 0.0)

    @pytest.mark.parametrize(
        ("name", "shape"), [("k", (3,)), ("k", (3, 4)), ("weights", (3, 2)), ("weights", (3, 4, 2))]
    )
    def test_what_acts_comes_in_every_form(self, name, shape):
        strategy = kit.acting(3, 2, 4)
        assert find(strategy, lambda active: True) == {"k": 0}
        found = find(strategy, lambda active: name in active and getattr(active[name], "shape", None) == shape)
        assert found[name].sum() == 0

    @pytest.mark.parametrize("form", ["number", "scalar", "each"])
    def test_times_come_in_every_form(self, form):
        forms = {"number": float, "scalar": lambda t: t.ndim == 0, "each": lambda t: t.shape == (2,)}
        found = find(
            kit.times(2), lambda t: isinstance(t, float) if form == "number" else torch.is_tensor(t) and forms[form](t)
        )
        assert torch.as_tensor(found).abs().sum() == 0

    def test_ranges_and_dtypes_are_kept(self):
        @given(kit.latents(2, 3, low=-1, high=0.5, dtype=torch.float32), kit.times(latest=2.0))
        def check(z, t):
            assert z.shape == (3, 2)
            assert z.dtype == torch.float32
            assert -1 <= z.min() <= z.max() <= 0.5
            assert 0 <= t <= 2
            assert torch.as_tensor(t).ndim == 0

        check()

    def test_modules_from_seeds_leave_the_random_state(self):
        before = torch.get_rng_state()
        found = []

        @given(kit.seeded(lambda: nn.Linear(1, 1)))
        def check(module):
            found.append(module.weight.item())

        check()
        assert len(set(found)) > 5
        assert torch.equal(torch.get_rng_state(), before)
