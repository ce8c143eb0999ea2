"""Derivatives of any module: the generic route against closed forms and against autograd, row by row."""

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st

from latentflow import FlowPosterior, NegativeForce, Potential, derivatives
from tests.problems import Drift, Linear, Opaque, Wave, close, make_potential, potentials, rand, randn, seeds


@given(potentials(), seeds, st.booleans())
def test_generic_route_agrees_with_the_closed_form(potential, seed, mixed):
    user = Opaque(potential)
    assert derivatives.has_closed_form(potential)
    assert not derivatives.has_closed_form(user)
    z, v, t = randn(5, potential.dim, seed=seed), randn(5, potential.dim, seed=seed + 1), 8 * rand(5, seed=seed)
    active = 2 * rand(5, potential.num, seed=seed) if mixed else potential.num - 1
    for k in (None, 0):
        for a, b in zip(
            derivatives.first_derivatives(user, z, t, k), derivatives.first_derivatives(potential, z, t, k), strict=True
        ):
            close(a, b)
    close(derivatives.values(user, z, t), potential(z, t))
    close(derivatives.gradient(user, z, t, active), potential.gradient(z, t, active))
    close(derivatives.hessian(user, z, t, active), potential.hessian(z, t, active))
    close(derivatives.hessian_product(user, z, t, active, v), potential.hessian_product(z, t, active, v))
    close(derivatives.laplacian(user, z, t, active), potential.laplacian(z, t, active))
    for a, b in zip(
        derivatives.log_det(user, z, t, active, substeps=2), potential.log_det(z, t, active, substeps=2), strict=True
    ):
        close(a, b)


@given(st.integers(1, 5), st.integers(1, 3), seeds)
def test_a_users_network_is_differentiated_as_autograd_does(dim, num, seed):
    torch.manual_seed(seed)
    potential = Wave(dim, num).double()
    z, t, weights = randn(4, dim, seed=seed), 8 * rand(4, seed=seed), rand(4, num, seed=seed)
    rates, gradients = derivatives.first_derivatives(potential, z, t)
    hessian = derivatives.hessian(potential, z, t, weights)
    for b in range(4):

        def u(x, s, b=b):
            return potential(x[None], s[None])[0]

        slopes, rate = torch.autograd.functional.jacobian(u, (z[b], t[b]))
        close(gradients[b], slopes)
        close(rates[b], rate)
        close(
            hessian[b],
            torch.autograd.functional.hessian(lambda x, b=b, u=u: weights[b] @ u(x, t[b]), z[b]),
        )
    mixture = torch.stack([weights[b] @ potential(z[b : b + 1], t[b : b + 1])[0] for b in range(4)])
    close(derivatives.mixture(potential, z, t, weights), mixture)


@pytest.mark.parametrize("lead", [(), (3,), (2, 3), (0,), (1, 1)])
@pytest.mark.parametrize("closed", [True, False])
def test_leading_axes_are_kept(lead, closed):
    potential = make_potential(3, 2)
    module = potential if closed else Opaque(potential)
    z, weights = randn(*lead, 3), rand(*lead, 2)
    rates, gradients = derivatives.first_derivatives(module, z, 0.5)
    assert rates.shape == (*lead, 2)
    assert gradients.shape == (*lead, 2, 3)
    assert derivatives.first_derivatives(module, z, 0.5, 1)[1].shape == (*lead, 1, 3)
    for active in (1, weights):
        assert derivatives.gradient(module, z, 0.5, active).shape == (*lead, 3)
        assert derivatives.hessian(module, z, 0.5, active).shape == (*lead, 3, 3)
        assert derivatives.hessian_product(module, z, 0.5, active, z).shape == (*lead, 3)
        assert derivatives.laplacian(module, z, 0.5, active).shape == lead
    assert derivatives.values(module, z, 0.5).shape == (*lead, 2)


def test_straight_potentials_have_zero_curvature_and_still_unpack():
    z = randn(4, 3)
    drift = Drift(randn(3, seed=1))
    close(derivatives.hessian(drift, z, 1.0, 0), torch.zeros(4, 3, 3, dtype=z.dtype), 0)
    close(derivatives.hessian_product(drift, z, 1.0, 0, z), torch.zeros_like(z), 0)
    rate, gradients = derivatives.first_derivatives(drift, z, 1.0)
    close(gradients[:, 0], drift.a.expand(4, 3), 1e-15)
    close(rate[:, 0], -0.5 * drift.a.square().sum().expand(4), 1e-15)
    timeless = Linear(torch.zeros(1, 3, 3, dtype=z.dtype), randn(1, 3))
    close(derivatives.first_derivatives(timeless, z, 1.0)[0], torch.zeros(4, 1, dtype=z.dtype), 0)


def test_gradients_reach_a_users_parameters_through_every_derivative():
    potential, z = Wave(3, 2).double(), randn(4, 3)

    def everything(*values):
        state = dict(zip([name for name, _ in potential.named_parameters()], values, strict=True))
        probe = Functional(potential, state)
        return (
            *derivatives.first_derivatives(probe, z, 0.3),
            derivatives.hessian(probe, z, 0.3, 1),
            derivatives.hessian_product(probe, z, 0.3, 0, z),
        )

    assert torch.autograd.gradcheck(everything, tuple(potential.parameters()), fast_mode=True)


class Functional(torch.nn.Module):
    def __init__(self, module, state):
        super().__init__()
        self.call = lambda z, t: torch.func.functional_call(module, state, (z, t))

    def forward(self, z, t):
        return self.call(z, t)


def test_derivatives_work_where_no_gradient_is_recorded():
    potential, z = Wave(3, 2).double(), randn(4, 3)
    recorded = derivatives.hessian(potential, z, 1.0, 0)
    with torch.no_grad():
        close(derivatives.hessian(potential, z, 1.0, 0), recorded, 0)


class Shifted(Potential):
    def forward(self, z, t):
        return super().forward(z, t) + z.square().sum(-1, keepdim=True)


def test_a_potential_that_computes_something_else_loses_its_closed_form():
    """Otherwise a subclass, a hook or a patched forward would move latents by derivatives of another function."""
    z = randn(4, 3)
    torch.manual_seed(1)
    shifted, plain = Shifted(3, dtype=torch.float64), Potential(3, dtype=torch.float64)
    plain.load_state_dict(shifted.state_dict())
    difference = derivatives.gradient(shifted, z, 1.0, 0) - derivatives.gradient(plain, z, 1.0, 0)
    close(difference, 2 * z)

    before = derivatives.gradient(plain, z, 1.0, 0)
    handle = plain.register_forward_hook(lambda module, inputs, output: 3 * output)
    close(derivatives.gradient(plain, z, 1.0, 0), 3 * before)
    close(derivatives.values(plain, z, 1.0), plain(z, 1.0))
    handle.remove()
    at_twice_z = plain.gradients(2 * z, 1.0)[:, 0]
    with plain.register_forward_pre_hook(lambda module, inputs: (2 * inputs[0], inputs[1])):
        close(derivatives.gradient(plain, z, 1.0, 0), 2 * at_twice_z)
    forward = plain.forward
    plain.forward = lambda z, t: -forward(z, t)
    close(derivatives.gradient(plain, z, 1.0, 0), -before)


class Sharper(Potential):
    def stacked(self, k=None):
        layers, networks = super().stacked(k)
        return layers, networks._replace(read_out=networks.read_out.exp())


class Later(Potential):
    def embedding(self, t):
        return super().embedding(t + 1)


@pytest.mark.parametrize("kind", [Sharper, Later])
def test_a_potential_whose_parts_are_replaced_moves_as_it_says(kind):
    torch.manual_seed(1)
    potential, z = kind(3, 2, dtype=torch.float64), randn(4, 3).requires_grad_()
    (slopes,) = torch.autograd.grad(potential(z, 1.0)[:, 1].sum(), z)
    close(potential.gradients(z, 1.0)[:, 1], slopes)
    moved = FlowPosterior(potential).transport(z, 1, 1)[0][:, 1]
    close(moved - z, slopes)
    close(FlowPosterior(potential).inverse(moved, 1, 1), z, 1e-8)


def test_a_subclass_that_is_only_made_otherwise_keeps_its_closed_form():
    class Tame(Potential):
        def reset_parameters(self):
            super().reset_parameters()
            torch.nn.init.zeros_(self.output_weight)

    assert derivatives.has_closed_form(Tame(3))


def test_number_of_potentials_is_read_or_found_out():
    z = randn(4, 3)
    assert derivatives.number_of_potentials(make_potential(3, 5), z) == 5
    assert derivatives.number_of_potentials(NegativeForce(3, 4).double(), z) == 4
    assert derivatives.number_of_potentials(Wave(3, 2).double(), z) == 2
    misleading = Wave(3, 2).double()
    misleading.num = 7  # a user's attribute of that name may mean anything
    assert derivatives.number_of_potentials(misleading, z) == 2


class Recorder(torch.nn.Module):
    def forward(self, z, t):
        self.seen = (tuple(z.shape), tuple(t.shape), t.dtype)
        return z[..., :1] * t[..., None]


@pytest.mark.parametrize("dtype", [torch.float32, torch.float64])
@pytest.mark.parametrize("t", [2, 2.0, torch.tensor(2), torch.full((3,), 2.0)])
def test_users_get_time_as_a_tensor_of_the_latents_dtype(dtype, t):
    recorder, z = Recorder(), randn(2, 3, 4, dtype=dtype)
    derivatives.gradient(recorder, z, t, 0)
    assert recorder.seen == ((6, 4), (6,), dtype)


@pytest.mark.parametrize("shape", [(), (1,), (3,), (1, 3), (2, 1), (2, 3)])
def test_times_broadcast_to_the_leading_axes_of_users_potentials(shape):
    potential, z, t = Wave(3, 2).double(), randn(2, 3, 3), 9 * rand(*shape)
    whole = derivatives.first_derivatives(potential, z, t.expand(2, 3))
    for ours, truth in zip(derivatives.first_derivatives(potential, z, t), whole, strict=True):
        close(ours, truth, 1e-14)


@pytest.mark.parametrize("shape", [(2,), (3, 1), (1, 1, 3), (2, 2, 3)])
def test_times_that_fit_no_latent_are_named(shape):
    with pytest.raises(ValueError, match=r"z, t: got shapes \(2, 3, 3\) and .*, expected .* a scalar or"):
        derivatives.gradient(Wave(3).double(), randn(2, 3, 3), torch.ones(shape), 0)


class Returns(torch.nn.Module):
    def __init__(self, what):
        super().__init__()
        self.what = what

    def forward(self, z, t):
        return self.what(z)


@pytest.mark.parametrize(
    "what", [lambda z: z.sum(-1), lambda z: z.sum(), lambda z: z[:1], lambda z: z[None], lambda z: None, lambda z: 1.0]
)
def test_users_shape_mistakes_are_named(what):
    with pytest.raises(ValueError, match=r"potential\(z, t\): got .*expected \(4, K\); return one column"):
        derivatives.gradient(Returns(what), randn(4, 3), 1.0, 0)


@pytest.mark.parametrize("closed", [True, False])
@pytest.mark.parametrize(
    ("active", "message"),
    [
        (torch.zeros(3, 2), r"active: got weights of shape \(3, 2\), expected \(2, 4, 3\); give each latent a weight"),
        (torch.zeros(2, 4, 1), r"active: got weights of shape \(2, 4, 1\), expected \(2, 4, 3\)"),
        (torch.zeros(4, 2, dtype=torch.int64), r"active: got labels of shape \(4, 2\), expected \(2, 4\)"),
        (torch.tensor([0, 1, 7, 0]), r"active: got labels from 0 to 7, expected 0, ..., 2; the potential has num=3"),
        (torch.tensor(1.0), r"active: got weights of shape \(\), expected \(2, 4, 3\)"),
        (torch.tensor(-1), "active: got labels from -1 to -1, expected 0, ..., 2"),
        (3, "k: got 3, expected 0, ..., 2"),
    ],
)
def test_what_cannot_act_is_an_error_whatever_is_asked(closed, active, message):
    potential = make_potential(5, 3)
    potential, z = potential if closed else Opaque(potential), randn(2, 4, 5)
    asked = {
        derivatives.gradient: (), derivatives.hessian: (), derivatives.laplacian: (), derivatives.log_det: (),
        derivatives.hessian_product: (z,), derivatives.mixture: (),
    }  # fmt: skip
    for derivative, others in asked.items():
        with pytest.raises(ValueError, match=message):
            derivative(potential, z, 1.0, active, *others)
    for nothing, message in ((None, "None"), ([0], r"\[0\]"), (1.0, "1.0"), (True, "True"), (1j * z, "a tensor of")):
        with pytest.raises(TypeError, match=f"active: got {message}.* expected an index, labels or weights"):
            derivatives.gradient(potential, z, 1.0, nothing)
    with pytest.raises(
        TypeError, match=r"active: got a tensor of torch\.bool, expected an index, labels or weights; use \.long"
    ):
        derivatives.gradient(potential, z, 1.0, torch.ones(2, 4, dtype=torch.bool))


@pytest.mark.parametrize("closed", [True, False])
def test_a_direction_for_each_latent_or_none(closed):
    potential = make_potential(5, 3)
    with pytest.raises(
        ValueError, match=r"v: got shape \(4, 2, 5\), expected \(2, 4, 5\); give each latent one direct"
    ):
        derivatives.hessian_product(potential if closed else Opaque(potential), randn(2, 4, 5), 1.0, 0, randn(4, 2, 5))


@pytest.mark.parametrize("closed", [True, False])
@pytest.mark.parametrize(
    ("active", "each"),
    [
        (torch.tensor([0.5, 2.0, 0.0]), torch.tensor([0.5, 2.0, 0.0]).expand(2, 4, 3)),
        (torch.tensor(2), torch.full((2, 4), 2)),
        (torch.tensor([2, 0, 1, 1]), torch.tensor([2, 0, 1, 1]).expand(2, 4)),
        (torch.tensor([2, 0, 1, 1], dtype=torch.uint8), torch.tensor([2, 0, 1, 1]).expand(2, 4)),
        (torch.tensor([[2], [1]], dtype=torch.int32), torch.tensor([[2], [1]]).expand(2, 4)),
    ],
)
def test_one_choice_may_stand_for_many_latents(closed, active, each):
    potential = make_potential(5, 3)
    potential, z = potential if closed else Opaque(potential), randn(2, 4, 5)
    for derivative in (derivatives.gradient, derivatives.hessian, derivatives.laplacian):
        close(derivative(potential, z, 1.0, active), derivative(potential, z, 1.0, each))
