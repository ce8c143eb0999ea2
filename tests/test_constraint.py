"""The Hamilton-Jacobi residual on exact solutions, the penalty against its definition, and what it must not depend on."""

import dataclasses
import math

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from scipy.optimize import linear_sum_assignment

from latentflow import DiffusionPrior, FlowPosterior, HJConstraint, NegativeForce
from tests.problems import (
    Drift,
    Opaque,
    Spread,
    Stretch,
    Swing,
    SwingForce,
    Wave,
    close,
    gaussian,
    make_potential,
    potentials,
    rand,
    randn,
    seeds,
    symmetric,
)


def solutions(dim, seed):
    """Every exact solution of the ordinary equation that we know; the stretches only compress mildly, so S(t) exists."""
    root = symmetric(dim, seed, 1.0)
    return (Spread(0.5 + seed % 3), Drift(randn(dim, seed=seed)), Stretch(root @ root - 0.02 * torch.eye(dim)))


@given(st.integers(1, 6), seeds, st.floats(0, 10))
def test_exact_solutions_have_residual_zero(dim, seed, t):
    z = 2 * randn(7, dim, seed=seed)
    for potential in solutions(dim, seed):
        residual = HJConstraint(potential).residual(z, t)
        assert residual.shape == (7, 1)
        close(residual, torch.zeros_like(residual))


@given(st.integers(1, 6), seeds)
def test_with_its_force_a_moving_solution_has_residual_zero(dim, seed):
    """And initial term zero: a free force makes the constraint vacuous, which users must know."""
    z, t = 2 * randn(3, 5, dim, seed=seed), 8 * rand(3, 5, seed=seed)
    hj = HJConstraint(Swing(), SwingForce())
    close(hj.residual(z, t), torch.zeros(3, 5, 1, dtype=z.dtype))
    close(hj.initial(z), torch.zeros(3, 5, 1, dtype=z.dtype))
    # without the force the residual is the force itself
    close(HJConstraint(Swing()).residual(z, t), SwingForce()(z, t))
    assert (SwingForce()(z, t) <= -1 + 1e-9).all()


@given(st.integers(1, 6), seeds)
def test_label_start_moves_solutions_exactly(dim, seed):
    z0 = randn(5, dim, seed=seed)
    for potential in solutions(dim, seed):
        z, _ = FlowPosterior(potential, None, label="start").transport(z0, 0, steps=8)
        close(z, torch.stack([potential.end(z0, t) for t in range(9)], 1))


@given(st.integers(1, 6), seeds)
def test_labels_at_either_end_of_a_step(dim, seed):
    z0 = randn(5, dim, seed=seed)
    for label, factor in (("start", 9), ("end", 5)):
        z, log_det = FlowPosterior(Spread(), label=label).transport(z0, 0, steps=8)
        close(z[:, -1], factor * z0)
        close(log_det.sum(1), torch.full((5,), dim * math.log(factor), dtype=z.dtype))


def test_a_hamilton_jacobi_flow_is_an_optimal_transport():
    """No reassignment of where the samples end makes the way shorter."""
    z0 = randn(60, 3)
    for potential in solutions(3, 4):
        z = FlowPosterior(potential, None, label="start").transport(z0, 0, steps=4)[0][:, -1].detach()
        _, best = linear_sum_assignment(torch.cdist(z0, z).square().numpy())
        assert best.tolist() == list(range(60))


@given(potentials(), seeds, st.booleans(), st.booleans())
def test_residual_is_its_definition(potential, seed, opaque, forced):
    force = NegativeForce(potential.dim, potential.num, dtype=torch.float64) if forced else None
    module = Opaque(potential) if opaque else potential
    z = randn(4, potential.dim, seed=seed).requires_grad_()
    t = (8 * rand(4, seed=seed)).requires_grad_()
    hj = HJConstraint(module, force)
    for k in range(potential.num):
        slope, rate = torch.autograd.grad(potential(z, t)[:, k].sum(), (z, t))
        expected = rate + 0.5 * slope.square().sum(1) - (force(z, t)[:, k] if forced else 0)
        close(hj.residual(z, t)[:, k], expected)
        initial = torch.autograd.grad(potential(z, 0.0)[:, k].sum(), z)[0].square().sum(1)
        close(hj.initial(z)[:, k], initial)


@given(potentials(), seeds, st.integers(1, 4), st.sampled_from(["end", "start"]), st.booleans(), st.booleans())
def test_penalty_is_its_definition(potential, seed, steps, label, forced, one):
    num, dim = potential.num, potential.dim
    force = NegativeForce(dim, num, dtype=torch.float64) if forced else None
    options = {"force_penalty": 0.7 if forced else 0.0, "initial_weight": 0.3, "label": label}
    hj, flow, q0 = HJConstraint(potential, force, **options), FlowPosterior(potential, None), gaussian(5, dim, seed)
    path = flow(q0, num - 1, steps=steps) if one else flow(q0, weights=2 * rand(5, steps, num, seed=seed), steps=steps)
    expected = torch.zeros(5, dtype=torch.float64)
    for b in range(5):
        for k in range(num):
            for t in range(1, steps + 1):
                z, time = path.z[b, t - 1], float(t if label == "end" else t - 1)
                term = hj.residual(z, time)[k].square()
                if forced:
                    term = term + 0.7 * force(z, time)[k].abs()
                expected[b] += (path.weights[b, t - 1, k] * term / steps).item()
            expected[b] += (0.3 * path.weights[b, 0, k] * hj.initial(path.z[b, 0])[k]).item()
    close(hj(path), expected)


def test_no_initial_term_on_request():
    potential = make_potential(3, 2)
    path = FlowPosterior(potential, None)(gaussian(4, 3), 1, steps=2)
    with_initial, without = HJConstraint(potential), HJConstraint(potential, initial_weight=0.0)
    close(with_initial(path) - without(path), with_initial.initial(path.z[:, 0])[:, 1])


def test_uniform_times_lie_in_each_step_and_are_reproducible():
    class Clock(torch.nn.Module):
        def forward(self, z, t):
            self.seen = t
            return t.unsqueeze(-1) + 0 * z[..., :1]

    clock = Clock()
    path = FlowPosterior(clock, None)(gaussian(300, 2), 0, steps=3)
    hj = HJConstraint(clock, times="uniform", initial_weight=0.0)
    first = hj(path, generator=torch.Generator().manual_seed(1))
    times = clock.seen.view(300, 3)
    assert (times > torch.arange(3)).all()
    assert (times <= torch.arange(1, 4)).all()
    # 300 uniform draws: mean 1/2, standard error 0.017
    assert ((times - torch.arange(3)).mean(0) - 0.5).abs().max() < 4 * 0.017
    assert len(times.unique()) == 900
    close(first, torch.ones(300, dtype=torch.float64))
    hj(path, generator=torch.Generator().manual_seed(1))
    assert torch.equal(clock.seen.view(300, 3), times)


def test_a_force_of_another_number_is_refused_even_if_it_comes_later():
    potential = make_potential(3, 2)
    hj = HJConstraint(potential, NegativeForce(3, 2, dtype=torch.float64))
    hj.force = NegativeForce(3, 4, dtype=torch.float64)
    with pytest.raises(ValueError, match=r"force\(z, t\): got shape .* give both the same num"):
        hj(FlowPosterior(potential)(gaussian(4, 3), 0, steps=2))


def test_uniform_times_see_what_the_grid_hides():
    """u = sin^2(2 pi t) (z_1 + ... + z_d) vanishes on the integers together with half of its residual."""

    class Hidden(torch.nn.Module):
        def forward(self, z, t):
            return ((2 * math.pi * t).sin().square() * z.sum(-1)).unsqueeze(-1)

    path = FlowPosterior(Hidden(), None)(gaussian(50, 2), 0, steps=4)
    assert HJConstraint(Hidden())(path).max() < 1e-20
    assert HJConstraint(Hidden(), times="uniform")(path).mean() > 1


@given(potentials(), seeds, st.booleans())
def test_samples_do_not_see_their_batch_mates(potential, seed, opaque):
    module = Opaque(potential) if opaque else potential
    hj, flow = HJConstraint(module), FlowPosterior(module, None)
    q0, weights = gaussian(6, potential.dim, seed), rand(6, 2, potential.num, seed=seed)
    path = flow(q0, weights=weights, steps=2)
    order = torch.randperm(6, generator=torch.Generator().manual_seed(seed))
    for rows in (order, order[:1], order[:3]):
        part = type(path)(
            path.z[rows], None, None, None, path.weights[rows], path.times, gaussian(len(rows), potential.dim)
        )
        close(hj(part), hj(path)[rows], 1e-12)
        close(hj.residual(path.z[rows], 2.0), hj.residual(path.z, 2.0)[rows], 1e-12)


@pytest.mark.parametrize("module", [Wave(3, 2), make_potential(3, 2, dtype=torch.float32)])
def test_half_precision_and_autocast_get_float32_residuals(module):
    z = randn(5, 3, dtype=torch.bfloat16)
    expected = HJConstraint(module).residual(z.float(), 1.0)
    with torch.autocast("cpu", dtype=torch.bfloat16):
        residual, initial = HJConstraint(module).residual(z, 1.0), HJConstraint(module).initial(z)
    assert residual.dtype == initial.dtype == torch.float32
    close(residual, expected, 1e-6)


def test_unbatched_latents():
    hj = HJConstraint(make_potential(3, 2))
    z = randn(3)
    close(hj.residual(z, 1), hj.residual(z[None], 1)[0], 1e-14)
    close(hj.initial(z), hj.initial(z[None])[0], 1e-14)


class Falling(torch.nn.Module):
    """u = -t: its residual is -1 everywhere, which a force can absorb."""

    def forward(self, z, t):
        return (0 * z.sum(-1) - t).unsqueeze(-1)


def test_a_free_force_absorbs_the_residual_and_a_price_keeps_it_away():
    path = FlowPosterior(Falling(), None)(gaussian(32, 2), 0, steps=3)
    sizes = []
    for price in (0.0, 10.0):
        force = NegativeForce(2, dtype=torch.float64)
        torch.nn.init.constant_(force.bias, 0.5)
        hj = HJConstraint(Falling(), force, force_penalty=price)
        optimiser = torch.optim.Adam(force.parameters(), 0.02)
        for _ in range(60):
            optimiser.zero_grad()
            hj(path).mean().backward()
            optimiser.step()
        sizes.append(force(path.z, 1.0).mean().item())
    assert sizes[0] == pytest.approx(-1, abs=0.1)
    assert sizes[1] == pytest.approx(0, abs=0.1)


@pytest.mark.parametrize(
    "cut", [{"z": (4, 3, 3)}, {"z": (4, 5, 3)}, {"weights": (4, 2, 2)}, {"times": (3,)}, {"z": (4, 3)}]
)
@pytest.mark.parametrize("of", [HJConstraint(make_potential(3, 2)), DiffusionPrior(2).double().log_prob])
def test_parts_of_other_lengths_are_refused(cut, of):
    path = FlowPosterior(make_potential(3, 2))(gaussian(4, 3), 0, steps=3)
    changed = {name: torch.zeros(shape, dtype=torch.float64) for name, shape in cut.items()}
    with pytest.raises(ValueError, match=r"path: got z .* expected \(B, T\+1, dim\), .* cut or replace them together"):
        of(dataclasses.replace(path, **changed))


@pytest.mark.parametrize("potential", [make_potential(3, 2), Wave(3, 2).double()])
@pytest.mark.parametrize("k", [1, torch.tensor([1]), torch.tensor([[0, 1, 1]])])
def test_all_latents_may_share_the_weights_of_one(potential, k):
    class Pull(torch.nn.Module):
        def forward(self, z, t):
            return -z.square().sum(-1, keepdim=True) * torch.tensor([1.0, 2.0], dtype=z.dtype)

    hj, path = HJConstraint(potential, Pull()), FlowPosterior(potential)(gaussian(1, 3), k, steps=3)
    path = dataclasses.replace(path, z=randn(4, 4, 3), log_q=None)
    alone = torch.cat([hj(dataclasses.replace(path, z=z[None])) for z in path.z])
    close(hj(path), alone)
    close(hj(dataclasses.replace(path, acting=None)), alone)
