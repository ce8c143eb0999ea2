"""Euler against the flow of the same field in continuous time, and every torchdiffeq method against exact flows."""

import itertools
import math
import sys

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from latentflow import FlowPosterior
from latentflow.ode import ADAPTIVE as ADAPTIVE_METHODS
from tests.problems import (
    Opaque,
    Reflection,
    Spread,
    Stretch,
    Wave,
    close,
    gaussian,
    make_potential,
    rand,
    randn,
    seeds,
    symmetric,
)

TIGHT = {"rtol": 1e-10, "atol": 1e-11}
FIXED = ("midpoint", "heun2", "heun3", "rk4", "explicit_adams", "implicit_adams")
ADAPTIVE = ("dopri5", "dopri8", "bosh3", "fehlberg2", "adaptive_heun")


def slope(errors):
    """Of log error against log step, each step half of the one before."""
    return [math.log2(a / b) for a, b in itertools.pairwise(errors)]


@pytest.mark.parametrize("potential", [make_potential(3, 2, strength=2.0), Wave(3, 2).double()])
@pytest.mark.parametrize("label", ["end", "start"])
def test_euler_converges_to_the_ode_with_slope_one(potential, label):
    z0, weights = randn(6, 3), 2 * rand(6, 2, 2)
    z, log_det = FlowPosterior(potential, solver="dopri5", solver_options=TIGHT).transport(z0, None, 2, weights=weights)
    errors = []
    for substeps in (8, 16, 32, 64):
        flow = FlowPosterior(potential, substeps=substeps, label=label)
        fine, fine_log_det = flow.transport(z0, None, 2, weights=weights)
        errors.append(((fine - z).norm().item(), (fine_log_det - log_det).norm().item()))
    for kind in zip(*errors, strict=True):
        assert kind[0] > 1e-4, "nothing moves: the test tests nothing"
        assert slope(kind)[-1] == pytest.approx(1, abs=0.06)


def test_fixed_steps_converge_with_their_order():
    potential, z0 = make_potential(3, strength=2.0), randn(6, 3)
    exact = FlowPosterior(potential, None, solver="dopri8", solver_options={"rtol": 1e-13, "atol": 1e-13})
    end = exact.transport(z0, 0, 1)[0]
    for method, order in (("midpoint", 2), ("heun2", 2), ("heun3", 3), ("rk4", 4)):
        errors = [
            (FlowPosterior(potential, None, solver=method, substeps=n).transport(z0, 0, 1)[0] - end).norm().item()
            for n in (2, 4, 8)
        ]
        assert slope(errors)[-1] == pytest.approx(order, abs=0.35), method


@settings(max_examples=4)
@given(st.integers(1, 4), seeds, st.sampled_from([1, 3]))
def test_continuous_time_moves_and_spreads_exact_solutions_exactly(dim, seed, steps):
    z0, root = randn(5, dim, seed=seed), symmetric(dim, seed, 1.0)
    stretch = Stretch(root @ root)
    for potential, growth in (
        (Spread(), torch.full((dim,), 1.0, dtype=z0.dtype)),
        (stretch, stretch.strengths),
    ):
        flow = FlowPosterior(potential, solver="dopri5", solver_options=TIGHT)
        z, log_det = flow.transport(z0, 0, steps)
        close(z, torch.stack([potential.end(z0, t) for t in range(steps + 1)], 1), 1e-8)
        # the map is z0 + t S_0 z0, so that the density thins by det(I + t S_0)
        total = torch.stack([(1 + t * growth).log().sum() for t in range(1, steps + 1)])
        close(log_det.cumsum(1), total.expand(5, -1), 1e-8)


@pytest.mark.parametrize("dtype", [torch.float32, torch.float64])
@pytest.mark.parametrize("method", FIXED + ADAPTIVE)
def test_every_method_moves_back_and_forth_and_passes_gradients(method, dtype):
    potential, z0 = make_potential(3, 2, strength=1.5, dtype=dtype), randn(4, 3, dtype=dtype)
    substeps = 8 if method in FIXED else 1
    truth = FlowPosterior(potential.double(), solver="dopri8", solver_options=TIGHT).transport(z0.double(), 1, 2)
    potential.to(dtype)
    # the default tolerances would cost methods of low order thousands of steps
    loose = {"rtol": 1e-5, "atol": 1e-6} if method in ("bosh3", "fehlberg2", "adaptive_heun") else {}
    flow = FlowPosterior(potential, solver=method, substeps=substeps, solver_options=loose)
    z, log_det = flow.transport(z0, 1, 2)
    assert z.dtype == log_det.dtype == dtype
    tolerance = 2e-3 if method in ("midpoint", "heun2", "heun3") else 1e-3 if loose or dtype == torch.float32 else 2e-5
    close(z.double(), truth[0], tolerance)
    close(log_det.double(), truth[1], tolerance)
    close(flow.inverse(z[:, -1], 1, 2), z0, 1e-3 if loose or dtype == torch.float32 else 1e-5)
    q0 = gaussian(4, 3, dtype=dtype)
    path = flow(q0, 1, steps=2)
    close(path.log_q[:, -1], flow.log_prob(path.z[:, -1], q0, 1, 2), 1e-3)
    assert path.folds is None if method in FIXED else not path.folds.any()  # a step too long may fold unseen
    loss = path.log_q.sum() + path.z.square().sum()
    for name, parameter in potential.named_parameters():
        (gradient,) = torch.autograd.grad(loss, parameter, retain_graph=True)
        assert gradient.isfinite().all(), name
        assert gradient[1].abs().max() > 0, name
        assert gradient[0].abs().max() == 0, f"{name}: the other potential does not act"


def test_switching_happens_between_the_steps():
    """Each step integrates its own potential, over its own unit of time."""
    potential, z0 = make_potential(3, 3, strength=2.0), randn(4, 3)
    labels = torch.tensor([[0, 2, 1], [1, 1, 1], [2, 0, 0], [0, 1, 2]])
    flow = FlowPosterior(Opaque(potential), solver="rk4", substeps=4)
    z, log_det = flow.transport(z0, labels, 3)
    for b in range(4):
        for t in range(3):

            def field(s, x, k=int(labels[b, t])):
                return potential.gradients(x, s)[k]

            y, h = z[b, t].detach(), 0.25
            for n in range(4):  # torchdiffeq's rk4 is the 3/8 rule
                s = t + n * h
                k1 = field(s, y)
                k2 = field(s + h / 3, y + h * k1 / 3)
                k3 = field(s + 2 * h / 3, y + h * (k2 - k1 / 3))
                k4 = field(s + h, y + h * (k1 - k2 + k3))
                y = y + h * (k1 + 3 * k2 + 3 * k3 + k4) / 8
            close(z[b, t + 1], y, 1e-12)
    alone = FlowPosterior(potential, solver="rk4", substeps=4)
    close(alone.transport(z0[:1], labels[:1], 3)[1], log_det[:1], 1e-12)


def test_hutchinson_along_an_ode_is_the_trace_on_average():
    potential, z0, n = make_potential(3, strength=2.0), randn(1, 3), 2000
    exact = FlowPosterior(potential, solver="rk4", substeps=4).transport(z0, 0, 2)[1]
    generator = torch.Generator().manual_seed(0)
    flow = FlowPosterior(potential, "hutchinson", solver="rk4", substeps=4)
    _, estimates = flow.transport(z0.expand(n, -1), 0, 2, generator=generator)
    standard_error = estimates.std(0) / n**0.5
    assert (standard_error > 1e-6).all()
    assert ((estimates.mean(0) - exact[0]).abs() < 4 * standard_error).all()
    assert flow(gaussian(3, 3), 0, steps=1).folds is None


@pytest.mark.parametrize("opaque", [False, True])
def test_in_one_dimension_every_probe_tells_the_trace_of_what_acts(opaque):
    """Potentials change from step to step and from sample to sample; v^2 = 1, so one probe knows all of H."""
    potential, z0, labels = make_potential(1, 3, strength=2.0), randn(6, 1), torch.randint(3, (6, 4))
    potential = Opaque(potential) if opaque else potential
    exact, estimated = (FlowPosterior(potential, kind, solver="rk4", substeps=2) for kind in ("exact", "hutchinson"))
    close(estimated.transport(z0, labels, 4)[1], exact.transport(z0, labels, 4)[1], 1e-12)


def test_folds_are_ruled_out_where_the_solver_controls_its_error_and_the_trace_is_exact():
    fixed = sys.modules["torchdiffeq._impl.solvers"].FixedGridODESolver
    methods = sys.modules["torchdiffeq._impl.odeint"].SOLVERS
    assert set(ADAPTIVE_METHODS) == {name for name, solver in methods.items() if not issubclass(solver, fixed)}
    for solver, log_det, known in (("dopri5", "exact", True), ("dopri5", "hutchinson", False), ("rk4", "exact", False)):
        path = FlowPosterior(make_potential(3), log_det, solver=solver)(gaussian(4, 3), 0, steps=2)
        assert (path.folds is not None) == known
        assert not known or (path.folds.shape == (4, 2) and not path.folds.any())


def test_no_densities_along_an_ode_on_request():
    path = FlowPosterior(make_potential(3), None, solver="rk4")(gaussian(4, 3), 0, steps=2)
    assert path.log_q is path.log_det is path.folds is None


@pytest.mark.parametrize("method", ["rk4", "dopri5"])
def test_inverse_of_an_ode_has_the_gradient_of_the_inverse(method):
    potential, z_T = make_potential(2, strength=1.5), randn(3, 2).requires_grad_()
    options = TIGHT if method == "dopri5" else {"step_size": 0.05}
    flow = FlowPosterior(potential, solver=method, solver_options=options)
    assert torch.autograd.gradcheck(lambda y: flow.inverse(y, 0, 1), z_T, atol=1e-5, rtol=1e-5)


def test_a_coarse_solver_is_still_inverted():
    """One midpoint step backwards is not the inverse of one forwards, so the library has to mend it."""
    potential, z0 = make_potential(3, strength=2.0), randn(5, 3)
    flow = FlowPosterior(potential, None, solver="midpoint")
    z_T = flow.transport(z0, 0, 2)[0][:, -1]
    unmended = FlowPosterior(potential, None, solver="dopri5", solver_options=TIGHT).inverse(z_T, 0, 2)
    assert (unmended - z0).norm() > 1e-3, "the solver is not coarse: the test tests nothing"
    close(flow.inverse(z_T, 0, 2), z0, 1e-10)


def test_an_ode_solver_that_cannot_retrace_says_so():
    with pytest.raises(ValueError, match=r"inverse: got latents .* step 1 .*'midpoint' does not retrace") as error:
        FlowPosterior(Reflection(), None, solver="midpoint").inverse(1 + rand(3, 2), 0, 1)
    assert error.value.step == 1
    assert error.value.samples == [0, 1, 2]


class Cliff(torch.nn.Module):
    """A field that blows up within one unit of time."""

    def forward(self, z, t):
        return (z.abs().pow(3).sum(-1) * 5).unsqueeze(-1)


def test_a_field_that_explodes_names_the_solver_and_the_time():
    flow = FlowPosterior(Cliff(), None, solver="dopri5")
    with pytest.raises(ValueError, match=r"solver: got .* between t = 0 and 1, expected a smooth field; loosen"):
        flow.transport(torch.full((2, 2), 4.0), 0, 1)


@pytest.mark.parametrize("method", ADAPTIVE)
def test_batch_mates_that_hardly_move_do_not_excuse_a_sample(method):
    """A mean over the batch would allow one of 2,000 samples some 45 times the error."""
    potential, z0 = make_potential(2, strength=4.0), randn(1, 2)
    resting = torch.full((1999, 2), 30.0, dtype=z0.dtype)
    exact = FlowPosterior(potential, solver="dopri8", solver_options=TIGHT).transport(z0, 0, 2)
    flow = FlowPosterior(potential, solver=method, solver_options={"rtol": 1e-3, "atol": 1e-3})
    alone, among = flow.transport(z0, 0, 2), flow.transport(torch.cat((z0, resting)), 0, 2)
    for truth, x, y in zip(exact, alone, among, strict=True):
        error = (x - truth).abs().max()
        assert 1e-9 < error < 0.1
        assert (y[:1] - truth).abs().max() < 1.5 * error


@pytest.mark.parametrize("method", ["dopri5", "dopri8"])
def test_an_adaptive_solver_is_as_exact_at_the_end_as_it_asks_of_its_steps(method):
    """Were it to step beyond and interpolate, dopri8 would be off by some 1e-8."""
    potential, z0 = make_potential(4, strength=2.0), randn(3, 4)
    flow = FlowPosterior(potential, solver=method, solver_options={"rtol": 1e-11, "atol": 1e-12})
    finer = FlowPosterior(potential, solver=method, solver_options={"rtol": 1e-13, "atol": 1e-14})
    for got, expected in zip(flow.transport(z0, 0, 2), finer.transport(z0, 0, 2), strict=True):
        assert (got - expected).abs().max() < 1e-10


@pytest.mark.parametrize("method", ADAPTIVE)
@pytest.mark.parametrize("resting", ["one by its weights", "all by their weights", "at the origin", "saturated"])
def test_samples_at_rest_have_finite_gradients(method, resting):
    potential, z0, weights = make_potential(3, 2, bounded=True), randn(4, 3), torch.ones(4, 2, dtype=torch.float64)
    if resting == "at the origin":
        z0[1] = 0
    elif resting == "saturated":
        z0[1] = 1e8
    else:
        weights[1 if resting.startswith("one") else slice(None)] = 0
    z0.requires_grad_()
    flow = FlowPosterior(potential, solver=method, solver_options={"rtol": 1e-4, "atol": 1e-5})
    z, log_det = flow.transport(z0, weights=weights, steps=2)
    back = flow.inverse(z[:, -1], weights=weights, steps=2)
    (z.square().sum() + log_det.sum() + back.sum()).backward()
    assert z0.grad.isfinite().all()
    assert all(parameter.grad.isfinite().all() for parameter in potential.parameters())


def test_gradients_of_an_adaptive_solver_are_those_of_its_flow():
    potential, z0 = make_potential(3, strength=2.0), randn(4, 3).requires_grad_()
    found = [
        torch.autograd.grad(flow.transport(z0, 0, 2)[0][:, -1].square().sum(), (z0, potential.hidden_weight))
        for flow in (
            FlowPosterior(potential, solver="dopri5", solver_options=TIGHT),
            FlowPosterior(potential, solver="rk4", substeps=200),
        )
    ]
    close(found[0][0], found[1][0], 1e-7)
    close(found[0][1], found[1][1], 1e-7)


@pytest.mark.parametrize("options", [{"step_t": [0.5]}, {"jump_t": torch.tensor([0.5, 1.0, 2.0])}, {"step_t": [1.0]}])
def test_where_the_user_has_a_solver_step_it_lands_on_the_end_as_well(options):
    potential, z0 = make_potential(4, strength=2.0), randn(3, 4)
    tight = {"rtol": 1e-11, "atol": 1e-12}
    flow, plain = (FlowPosterior(potential, solver="dopri8", solver_options=tight | o) for o in (options, {}))
    for got, expected in zip(flow.transport(z0, 0, 3), plain.transport(z0, 0, 3), strict=True):
        assert (got - expected).abs().max() < 1e-10
    close(flow.inverse(plain.transport(z0, 0, 3)[0][:, -1], 0, 3), z0, 1e-9)


def test_a_norm_of_the_users_is_the_one_that_counts():
    potential, z0, seen = make_potential(2), randn(3, 2), []

    def norm(state):
        seen.append([tuple(part.shape) for part in state])
        return state[0].abs().max()

    FlowPosterior(potential, solver="dopri5", solver_options={"options": {"norm": norm}}).transport(z0, 0, 1)
    assert [(3, 2), (3,)] in seen
