"""Backwards: preimages, their absence, and the densities and gradients that go through them."""

import copy
import pickle

import pytest
import torch
from hypothesis import assume, given
from hypothesis import strategies as st
from torch.autograd import forward_ad
from torch.distributions import Independent, MultivariateNormal, Normal

from latentflow import FlowPosterior, FoldError
from tests import problems
from tests.problems import (
    Folding,
    Linear,
    Opaque,
    Reflection,
    Wave,
    gaussian,
    make_potential,
    potentials,
    rand,
    randn,
    seeds,
    symmetric,
)


def close(a, b, tolerance=1e-8):
    problems.close(a, b, tolerance)


@given(potentials(), seeds, st.integers(1, 2), st.sampled_from(["end", "start"]), st.booleans(), st.booleans())
def test_inverse_undoes_transport_where_nothing_folds(potential, seed, substeps, label, opaque, mixed):
    with torch.no_grad():
        potential.output_weight *= 0.4
    weights = rand(4, 3, potential.num, seed=seed)
    active = {"weights": weights} if mixed else {"k": potential.num - 1}
    flow = FlowPosterior(Opaque(potential) if opaque else potential, substeps=substeps, label=label)
    z0 = randn(4, potential.dim, seed=seed)
    z = flow.transport(z0, steps=3, **active)[0]
    # with |H| < 1 everywhere the map is a bijection, so that there is one preimage only
    bound = potential.num * largest_curvature(potential)
    assume(bound < 1)
    close(flow.inverse(z[:, -1], steps=3, **active), z0)


def largest_curvature(potential):
    """An upper bound on |H^k|: |tanh''| <= 0.77 and |tanh'| <= 1 layer by layer."""
    with torch.no_grad():
        a = torch.linalg.matrix_norm(potential.input_weight, 2)
        b = torch.linalg.matrix_norm(potential.hidden_weight, 2)
        w = potential.output_weight.norm(dim=1)
        slope = w * b * a
        return float(
            (0.77 * (potential.output_weight.abs().amax(1) * (b * a) ** 2 + slope * a) + 0.77 * slope**2).max()
        )


@given(st.integers(1, 5), seeds)
def test_affine_maps_are_inverted_as_matrices(dim, seed):
    potential = Linear(symmetric(dim, seed, 0.3)[None], randn(1, dim, seed=seed))
    matrix = torch.eye(dim) + potential.hessians[0]
    assume(torch.linalg.eigvalsh(matrix)[0] > 0.05)
    z_T = 3 * randn(6, dim, seed=seed)
    back = torch.linalg.inv(matrix)
    expected = ((z_T - potential.shifts) @ back - potential.shifts) @ back
    close(FlowPosterior(potential).inverse(z_T, 0, 2), expected)


@pytest.mark.parametrize("dtype", [torch.float32, torch.float64])
@pytest.mark.parametrize("dim", [1, 3])
def test_where_the_map_folds_the_preimage_lies_on_a_sound_branch(dim, dtype):
    """Every y has a preimage under z - 2 tanh z with I + H > 0; those between the folds have one without, too."""
    z_T = torch.linspace(-3, 3, 60, dtype=dtype)[:, None] * torch.linspace(1, 0.5, dim, dtype=dtype)
    flow = FlowPosterior(Folding(2.0))
    z0 = flow.inverse(z_T, 0, 1)
    close(z0 - 2 * z0.tanh(), z_T, 1e-5 if dtype == torch.float32 else 1e-10)
    assert (1 - 2 / z0.cosh().square() > 0).all()


@pytest.mark.parametrize(
    ("dtype", "factor", "reach"),
    [
        (torch.float32, 0.9999, 2e-5),
        (torch.float32, 0.99999, 2e-5),
        (torch.float32, 1.0, 2e-5),
        (torch.float64, 1 - 1e-9, 1e-8),
        (torch.float64, 1.001, 1e-8),
    ],
)
def test_next_to_a_fold_a_preimage_is_one_too(dtype, factor, reach):
    """There a residual of rounding alone leads far away, by the inverse of a curvature that is nearly 0."""
    z_T = torch.linspace(-reach, reach, 40, dtype=dtype)[:, None]
    flow = FlowPosterior(Folding(factor))
    kept = []
    for y in z_T.split(1):
        try:
            kept.append((y, flow.inverse(y, 0, 1)))
        except FoldError:
            assert factor >= 1 or dtype == torch.float32  # where it is none to this precision
    assert len(kept) > 30
    y, z0 = (torch.cat(each) for each in zip(*kept, strict=True))
    assert ((z0 - factor * z0.tanh() - y).abs() <= 4 * torch.finfo(dtype).eps ** 0.75 * (1 + y.abs())).all()
    assert (1 - factor / z0.cosh().square() > -4 * torch.finfo(dtype).eps).all()
    if factor == 1.001:
        assert (z0.abs() > 0.01).all(), "the middle branch is folded"


def test_inverse_starting_on_a_saddle_leaves_it():
    """At y = 0 the middle branch z = 0 solves z - 2 tanh z = y, but I + H = -1 there."""
    z0 = FlowPosterior(Folding(2.0)).inverse(torch.zeros(2, 3, dtype=torch.float64), 0, 1)
    close(z0 - 2 * z0.tanh(), torch.zeros_like(z0))
    assert (z0.abs() > 1).all()


@pytest.mark.parametrize(
    ("potential", "z_T", "most"),
    [
        (make_potential(3, strength=4.0), randn(20, 3), 12),
        (Folding(2.0), torch.linspace(-3, 3, 60, dtype=torch.float64)[:, None].expand(-1, 3), 14),
        (Folding(2.0), torch.zeros(2, 3, dtype=torch.float64), 25),  # a saddle, left along one axis after the other
    ],
)
def test_the_search_takes_few_steps_even_among_folds(potential, z_T, most, monkeypatch):
    """Newton's method doubles the digits in each step; a descent that is only sound takes many more."""
    factorise, taken = torch.linalg.cholesky_ex, []
    monkeypatch.setattr(torch.linalg, "cholesky_ex", lambda x: taken.append(x) or factorise(x))
    with torch.no_grad():
        FlowPosterior(potential).inverse(z_T, 0, 1)
    assert 1 < len(taken) <= most


@pytest.mark.parametrize("dtype", [torch.float32, torch.float64])
def test_no_preimage_is_an_error_that_names_step_and_samples(dtype):
    flow = FlowPosterior(Reflection())
    with pytest.raises(
        FoldError, match=r"inverse: got latents \[0, 1, 2, 3\] .* step 3 .*, expected .*; check"
    ) as error:
        flow.inverse(randn(4, 2, dtype=dtype), 0, 3)
    assert isinstance(error.value, ValueError)
    assert (error.value.step, error.value.samples) == (3, [0, 1, 2, 3])


class Ring(torch.nn.Module):
    """Latents left of 0 are reflected, those right of 0 stay: half of the line has no preimage."""

    def forward(self, z, t):
        return -z.clamp_max(0).square().sum(-1, keepdim=True) * (t == 2).unsqueeze(-1)


def test_only_the_samples_and_the_step_concerned_are_named():
    z_T = torch.tensor([[1.0], [-1.0], [2.0], [-3.0]], dtype=torch.float64)
    with pytest.raises(FoldError) as error:
        FlowPosterior(Ring()).inverse(z_T, 0, 3)
    assert (error.value.step, error.value.samples) == (2, [1, 3])
    close(FlowPosterior(Ring()).inverse(z_T[::2], 0, 3), z_T[::2])


def test_fold_errors_are_short_and_survive_pickling():
    """Worker processes hand their errors over as pickles."""
    error = FoldError(2, list(range(100)), "because")
    assert len(str(error)) < 300
    assert "latents [0, 1, 2, 3, 4, 5, 6, 7, ...] without" in str(error).replace("'", "")
    assert "latents [0, 1] without" in str(FoldError(2, [0, 1], "because"))
    for other in (pickle.loads(pickle.dumps(error)), copy.deepcopy(error)):
        assert (other.step, other.samples, str(other)) == (2, list(range(100)), str(error))


def test_inverse_does_not_depend_on_batch_mates():
    """One sample needs many iterations, the others must not drift meanwhile."""
    flow, z_T = FlowPosterior(Folding(1.9)), torch.linspace(-2, 2, 9, dtype=torch.float64)[:, None]
    together = flow.inverse(z_T, 0, 2)
    for b in range(9):
        close(flow.inverse(z_T[b : b + 1], 0, 2), together[b : b + 1], 1e-13)


@pytest.mark.parametrize("potential", [make_potential(2, 2, strength=1.5), Wave(2, 2).double(), Folding(1.5)])
def test_gradient_through_inverse_and_log_prob(potential):
    flow = FlowPosterior(potential, substeps=2)
    weights = {"weights": 0.5 * rand(3, 2, 2)} if not isinstance(potential, Folding) else {"k": 0}
    z_T = (2 + randn(3, 2)).requires_grad_()
    mean, std = randn(3, 2, seed=1).requires_grad_(), (0.5 + rand(3, 2, seed=2)).requires_grad_()

    def both(z, mean, std, *_):
        q0 = Independent(Normal(mean, std), 1)
        return flow.inverse(z, steps=2, **weights), flow.log_prob(z, q0, steps=2, **weights)

    assert torch.autograd.gradcheck(both, (z_T, mean, std), atol=1e-6, rtol=1e-5)


@pytest.mark.parametrize("opaque", [False, True])
def test_gradient_of_log_prob_in_the_parameters(opaque):
    potential = make_potential(2, strength=1.5)
    flow, z_T, q0 = FlowPosterior(Opaque(potential) if opaque else potential), randn(3, 2), gaussian(3, 2)
    parameter = potential.hidden_weight
    (gradient,) = torch.autograd.grad(flow.log_prob(z_T, q0, 0, 2).sum(), parameter)
    direction = randn(*parameter.shape, seed=5)
    with torch.no_grad():
        values = []
        for sign in (1, -1):
            parameter += sign * 1e-5 * direction
            values.append(flow.log_prob(z_T, q0, 0, 2).sum())
            parameter -= sign * 1e-5 * direction
    close((gradient * direction).sum(), (values[0] - values[1]) / 2e-5, 1e-6)


@given(st.integers(1, 4), st.integers(1, 3), seeds)
def test_log_prob_of_affine_maps_is_a_gaussian(dim, steps, seed):
    potential = Linear(symmetric(dim, seed, 0.2)[None], randn(1, dim, seed=seed))
    matrix = torch.eye(dim) + potential.hessians[0].detach()
    assume(torch.linalg.eigvalsh(matrix)[0] > 0.05)
    q0, z_T = gaussian(5, dim, seed), randn(5, dim, seed=seed)
    mean, covariance = q0.mean, torch.diag_embed(q0.variance)
    for _ in range(steps):
        mean, covariance = mean @ matrix + potential.shifts.detach(), matrix @ covariance @ matrix
    expected = MultivariateNormal(mean, covariance).log_prob(z_T)
    close(FlowPosterior(potential, None).log_prob(z_T, q0, 0, steps), expected)


@given(potentials(max_dim=4), seeds)
def test_log_prob_agrees_with_the_path(potential, seed):
    with torch.no_grad():
        potential.output_weight *= 0.3
    assume(potential.num * largest_curvature(potential) < 1)
    q0, weights = gaussian(4, potential.dim, seed), rand(4, 2, potential.num, seed=seed)
    path = FlowPosterior(potential)(q0, weights=weights, steps=2)
    assert not path.folds.any()
    for log_det in ("hutchinson", "laplacian", None):  # log_prob is exact whatever the flow estimates
        flow = FlowPosterior(potential, log_det)
        close(flow.log_prob(path.z[:, -1], q0, weights=weights, steps=2), path.log_q[:, -1])


@given(seeds)
def test_without_gradients_single_precision_is_all_that_is_lost(seed):
    potential = make_potential(4, 2, seed=seed)
    with torch.no_grad():
        potential.output_weight *= min(1, 0.7 / largest_curvature(potential))
    z0 = 3 * randn(200, 4, seed=seed)
    z = FlowPosterior(potential).transport(z0, 0, steps=4)[0][:, -1].detach()
    with torch.no_grad():
        ours = FlowPosterior(potential.float()).inverse(z.float(), 0, steps=4)
    close(ours.double(), z0, 5e-6)


def test_one_posterior_serves_many_latents():
    """A posterior of batch 1 is read at a grid of latents."""
    potential, grid = make_potential(2, strength=1.5), randn(7, 2)
    q0 = gaussian(1, 2)
    values = FlowPosterior(potential).log_prob(grid, q0, 0, 2)
    for b in range(7):
        close(values[b : b + 1], FlowPosterior(potential).log_prob(grid[b : b + 1], q0, 0, 2))


@pytest.mark.parametrize(
    ("method", "rtol", "atol"), [("dopri5", 1e-9, 1e-9), ("dopri8", 1e-11, 1e-12), ("dopri5", 1e-9, 1e-3)]
)
def test_an_ode_is_undone_as_well_as_its_solver_repeats_itself(method, rtol, atol):
    """The second asks for nearly all that double precision has, the third for little, and gets much."""
    potential = make_potential(4, strength=2.0)
    flow = FlowPosterior(potential, None, solver=method, solver_options={"rtol": rtol, "atol": atol})
    z0 = randn(3, 4)
    back = flow.inverse(flow.transport(z0, 0, 1)[0][:, -1], 0, 1)
    assert (back - z0).norm(dim=1).max() < 1e-8


@pytest.mark.parametrize("options", [{}, {"substeps": 2, "label": "start"}, {"solver": "rk4", "substeps": 4}])
@pytest.mark.parametrize("with_gradients", [True, False])
def test_forward_mode_differentiates_what_reverse_mode_does(options, with_gradients):
    """In latents and in parameters; and `torch.func.hessian`, forward over reverse."""
    flow, z, along = FlowPosterior(make_potential(3, 2), **options), randn(4, 3), randn(4, 3, seed=1)
    q0 = Independent(Normal(torch.zeros(4, 3).double(), 1.0, validate_args=False), 1)
    parameters = dict(flow.named_parameters())
    changes = {name: randn(*parameter.shape, seed=2) for name, parameter in parameters.items()}

    def log_prob(parameters, z):
        return torch.func.functional_call(flow, parameters, (z, q0, 1, 2), {"how": "log_prob"})

    flow.forward = lambda z, q0, k, steps, how: FlowPosterior.log_prob(flow, z, q0, k, steps)
    by_parameters, by_z = (
        torch.autograd.functional.jacobian(
            lambda z, *values: log_prob(dict(zip(parameters, values, strict=True)), z), (z, *parameters.values())
        )[1:],
        torch.autograd.functional.jacobian(lambda z: log_prob(parameters, z), z),
    )
    expected = (by_z * along).sum((1, 2))
    for jacobian, change in zip(by_parameters, changes.values(), strict=True):
        expected = expected + (jacobian * change).flatten(1).sum(1)
    with torch.set_grad_enabled(with_gradients):
        _, found = torch.func.jvp(log_prob, ({**parameters}, z), (changes, along))
    close(found, expected)
    if "solver" not in options and with_gradients:

        def total(z):
            return log_prob(parameters, z).sum()

        close(torch.func.hessian(total)(z), torch.autograd.functional.hessian(total, z))


def test_a_solver_without_gradients_is_refused_where_they_are_wanted():
    flow, z = FlowPosterior(make_potential(3), solver="scipy_solver"), randn(4, 3)
    for call in (flow.transport, flow.inverse):
        with pytest.raises(ValueError, match=r"solver: got 'scipy_solver' where gradients are wanted, .*'dopri5'"):
            call(z, 0, 2)
        with torch.no_grad():
            call(z, 0, 2)
    end = flow.requires_grad_(False).transport(z, 0, 2)[0][:, -1]
    close(flow.inverse(end, 0, 2), z, 1e-5)
    weights = rand(4, 1).requires_grad_()
    with pytest.raises(ValueError, match="where gradients are wanted"):
        flow.transport(z, None, 2, weights=weights)
    with forward_ad.dual_level(), torch.no_grad(), pytest.raises(ValueError, match="where gradients are wanted"):
        flow.transport(forward_ad.make_dual(z, torch.ones_like(z)), 0, 2)
