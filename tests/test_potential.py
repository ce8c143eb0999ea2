"""The network itself and its closed-form derivatives, against a network written out by hand and against autograd."""

import math

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from torch.nn import functional as F

from latentflow import DiffusionPrior, NegativeForce, Potential
from tests.problems import close, make_potential, potentials, rand, randn, seeds


def by_hand(potential, k, z, t):
    """u^k at one latent and one time, layer by layer, as the supplement of the paper describes it."""
    half = potential.time_in_weight.shape[-1] // 2
    frequencies = torch.tensor([10000.0 ** (-i / (half - 1)) for i in range(half)], dtype=z.dtype)
    embedding = torch.cat(((t * frequencies).sin(), (t * frequencies).cos()))
    hidden = F.gelu(F.linear(embedding, potential.time_in_weight[k], potential.time_in_bias[k]))
    tau = F.linear(hidden, potential.time_out_weight[k], potential.time_out_bias[k])
    first = F.linear(z, potential.input_weight[k], potential.input_bias[k]).tanh()
    second = F.linear(first + tau, potential.hidden_weight[k], potential.hidden_bias[k]).tanh()
    u = potential.output_weight[k] @ second
    return (u + potential.output_bias[k]).tanh() if potential.bounded else u


@given(potentials(), seeds, st.floats(0, 20))
def test_forward_is_the_network_of_the_paper(potential, seed, t):
    z = randn(potential.dim, seed=seed)
    t = torch.tensor(t, dtype=z.dtype)
    expected = torch.stack([by_hand(potential, k, z, t) for k in range(potential.num)])
    close(potential(z, t), expected)


@given(potentials(), seeds, st.floats(0, 20))
def test_first_derivatives_are_autograds(potential, seed, time):
    z = randn(4, potential.dim, seed=seed).requires_grad_()
    t = torch.full((4,), time, dtype=z.dtype, requires_grad=True)
    rates, gradients = potential.first_derivatives(z, t)
    assert rates.shape == (4, potential.num)
    assert gradients.shape == (4, potential.num, potential.dim)
    for k in range(potential.num):
        gradient, rate = torch.autograd.grad(potential(z, t)[:, k].sum(), (z, t))
        close(gradients[:, k], gradient)
        close(rates[:, k], rate)
        only = potential.first_derivatives(z, t, k)
        close(only[0][:, 0], rate)
        close(only[1][:, 0], gradient)
    close(potential.gradients(z, t), gradients, 0)


@given(potentials(), seeds, st.floats(0, 20), st.booleans())
def test_second_derivatives_are_autograds(potential, seed, time, mixed):
    z, v = randn(3, potential.dim, seed=seed), randn(3, potential.dim, seed=seed + 1)
    t = 0.3 * torch.arange(3, dtype=z.dtype) + time
    weights = 2 * rand(3, potential.num, seed=seed) if mixed else torch.eye(potential.num, dtype=z.dtype)[[-1] * 3]
    active = weights if mixed else potential.num - 1
    hessian = torch.stack(
        [
            torch.autograd.functional.hessian(lambda x, b=b: (weights[b] * potential(x, t[b])).sum(), z[b])
            for b in range(3)
        ]
    )
    close(potential.hessian(z, t, active), hessian)
    close(potential.hessian_product(z, t, active, v), (hessian @ v[..., None]).squeeze(-1))
    close(potential.laplacian(z, t, active), hessian.diagonal(dim1=-2, dim2=-1).sum(-1))
    slopes = torch.stack([torch.func.jacrev(potential)(z[b], t[b]) for b in range(3)])  # (3, K, dim)
    close(potential.gradient(z, t, active), torch.einsum("bk,bkd->bd", weights, slopes))


@given(potentials(), seeds, st.sampled_from([(), (4,), (3, 4)]))
def test_labels_take_what_acts_and_nothing_of_what_does_not(potential, seed, shape):
    """However uneven they are, at times of their own as at one: not even an overflow."""
    z, t, v = randn(3, 4, potential.dim, seed=seed), rand(*shape, seed=seed), randn(3, 4, potential.dim, seed=seed + 1)
    labels = torch.from_numpy(np.random.default_rng(seed).integers(potential.num, size=(3, 4)))
    weights = torch.nn.functional.one_hot(labels, potential.num).double()
    weighed = [
        potential.gradient(z, t, weights),
        potential.hessian(z, t, weights),
        potential.laplacian(z, t, weights),
        potential.hessian_product(z, t, weights, v),
        *potential.log_det(z, t, weights),
        (potential.first_derivatives(z, t)[0] * weights).sum(-1),
        (potential.first_derivatives(z, t)[1] * weights[..., None]).sum(-2),
    ]
    with torch.no_grad():
        for parameter in potential.parameters():
            parameter[[k for k in range(potential.num) if k not in labels]] = 1e200
    rates, slopes = potential.first_derivatives(z, t, labels)
    labelled = [
        potential.gradient(z, t, labels),
        potential.hessian(z, t, labels),
        potential.laplacian(z, t, labels),
        potential.hessian_product(z, t, labels, v),
        *potential.log_det(z, t, labels),
        rates.squeeze(-1),
        slopes.squeeze(-2),
    ]
    for ours, truth in zip(labelled, weighed, strict=True):
        close(ours.double(), truth.double())


@given(potentials(), seeds)
def test_reduced_hessian_has_the_same_spectrum(potential, seed):
    z, weights = randn(4, potential.dim, seed=seed), rand(4, potential.num, seed=seed)
    full, answers = potential.hessian(z, 1.0, weights), potential._answers(z, 1.0, weights)
    (reduced,) = answers.local.curvature(answers.weights, reduced=True).hessian()
    assert reduced.shape[-1] == min(potential.dim, potential.num * potential.hidden)
    zeros = torch.zeros(4, potential.dim - reduced.shape[-1], dtype=z.dtype)  # the directions left out do not bend
    spectrum = torch.cat((torch.linalg.eigvalsh(reduced), zeros), 1).sort(1).values
    close(spectrum, torch.linalg.eigvalsh(full))


@given(potentials(), seeds, st.sampled_from(["index", "labels", "weights"]), st.integers(1, 3))
def test_log_det_is_that_of_the_hessian(potential, seed, kind, substeps):
    z, weights = 3 * randn(4, potential.dim, seed=seed), 2 * rand(4, potential.num, seed=seed)
    active = {"index": potential.num - 1, "labels": weights.argmax(1), "weights": weights}[kind]
    value, folds = potential.log_det(z, 1.0, active, substeps=substeps)
    jacobian = torch.eye(potential.dim, dtype=z.dtype) + potential.hessian(z, 1.0, active) / substeps
    close(value, torch.linalg.slogdet(jacobian).logabsdet)
    assert torch.equal(folds, torch.linalg.eigvalsh(jacobian)[:, 0] <= 0)


class Derivatives(torch.nn.Module):
    """All closed forms in one module, so that `functional_call` can vary the parameters."""

    def __init__(self, potential):
        super().__init__()
        self.potential = potential

    def forward(self, z, v):
        return (
            *self.potential.first_derivatives(z, 0.7),
            self.potential.log_det(z, 0.7, 0)[0],
            self.potential.hessian(z, 0.7, 0),
            self.potential.hessian_product(z, 0.7, 0, v),
            self.potential.laplacian(z, 0.7, 0),
        )


@pytest.mark.parametrize("hidden", [2, 5])
@pytest.mark.parametrize("bounded", [False, True])
def test_closed_forms_are_differentiable_in_the_parameters(hidden, bounded):
    module = Derivatives(make_potential(4, 1, hidden, bounded=bounded, strength=1.5))
    z, v = randn(2, 4), randn(2, 4, seed=1)
    names, parameters = zip(*module.named_parameters(), strict=True)

    def everything(*values):
        return torch.func.functional_call(module, dict(zip(names, values, strict=True)), (z, v))

    assert torch.autograd.gradcheck(everything, parameters, fast_mode=True)


@pytest.mark.parametrize("shape", [(), (1,), (5,), (4, 1), (4, 5), (1, 1), (1, 5)])
@settings(max_examples=4)
@given(potential=potentials(max_dim=3), seed=seeds)
def test_time_broadcasts_to_the_leading_axes(potential, seed, shape):
    z, t = randn(4, 5, potential.dim, seed=seed), 9 * rand(*shape, seed=seed)
    full = t.expand(4, 5)
    one_by_one = torch.stack([potential(z[i, j], full[i, j]) for i in range(4) for j in range(5)])
    close(potential(z, t), one_by_one.view(4, 5, -1), 1e-12)
    rates = torch.stack([potential.first_derivatives(z[i, j], full[i, j])[0] for i in range(4) for j in range(5)])
    close(potential.first_derivatives(z, t)[0], rates.view(4, 5, -1), 1e-12)


def test_numbers_are_times():
    potential, z = make_potential(3, 2), randn(5, 3)
    close(potential(z, 2), potential(z, torch.full((5,), 2.0, dtype=z.dtype)), 1e-14)
    assert potential(z[0], 2).shape == (2,)
    assert potential(z[:0], 2).shape == (0, 2)


def test_width_follows_dim_but_is_never_too_small_to_embed_time():
    assert Potential(3).hidden == 16
    assert Potential(40).hidden == 40
    for hidden in (1, 2, 3, 5):
        width = Potential(3, hidden=hidden).time_in_weight.shape[-1]
        assert width >= 4
        assert width % 2 == 0


def test_bounded_potential_stays_below_one_and_finite_where_it_saturates():
    potential = make_potential(3, 2, bounded=True, strength=200.0, dtype=torch.float32)
    z = (10 * randn(64, 3, dtype=torch.float32)).requires_grad_()
    u = potential(z, 1.0)
    assert u.abs().max() <= 1
    assert (u.abs() == 1).any(), "nothing saturates: the test tests nothing"
    weights = torch.ones(64, 2)
    loss = (
        potential.hessian(z, 1.0, weights).square().sum()
        + potential.gradients(z, 1.0).square().sum()
        + potential.hessian_product(z, 1.0, weights, torch.ones_like(z)).sum()
    )
    for gradient in torch.autograd.grad(loss, (z, *potential.parameters())):
        assert gradient.isfinite().all()


def test_unbounded_potential_has_no_parameter_that_only_shifts_u():
    potential = Potential(3, num=2)
    moved = potential.gradients(torch.randn(8, 3), 1.0).square().sum()
    for name, gradient in zip(
        [name for name, _ in potential.named_parameters()],
        torch.autograd.grad(moved, tuple(potential.parameters()), allow_unused=True),
        strict=True,
    ):
        assert gradient is not None, name
        assert gradient.abs().max() > 0, name


@pytest.mark.parametrize("dtype", [torch.float32, torch.float64])
def test_factory_arguments_reach_every_tensor(dtype):
    for module in (Potential(3, 2, dtype=dtype), NegativeForce(3, 2, dtype=dtype)):
        assert {x.dtype for x in (*module.parameters(), *module.buffers())} == {dtype}
        assert module(torch.zeros(5, 3, dtype=dtype), 1.0).dtype == dtype
        on_meta = type(module)(3, 2, device="meta")
        assert {x.device.type for x in (*on_meta.parameters(), *on_meta.buffers())} == {"meta"}


def test_parameters_are_drawn_as_linear_layers_are():
    potential = Potential(100, num=20, hidden=50)
    for fan_in, parameter in ((100, potential.input_weight), (50, potential.hidden_weight)):
        # a uniform variable on +-1/sqrt(n) has variance 1/(3n)
        assert parameter.abs().max() <= 1 / math.sqrt(fan_in)
        assert abs(parameter.var().item() * 3 * fan_in - 1) < 0.05


@given(potentials(), seeds, st.booleans())
def test_force_is_minus_a_square(shape, seed, bounded):
    torch.manual_seed(seed)
    force = NegativeForce(shape.dim, shape.num, shape.hidden, bounded=bounded, dtype=torch.float64)
    z, t = 3 * randn(6, shape.dim, seed=seed), 8 * rand(6, seed=seed)
    if not bounded:
        with torch.no_grad():
            force.bias += 0.7
    f = force(z, t)
    assert f.shape == (6, shape.num)
    assert (f <= 0).all()
    torch.testing.assert_close(force(z[0], t[0]), f[0], rtol=1e-12, atol=1e-12)
    root = torch.stack([by_hand(force.root, k, z[0], t[0]) for k in range(shape.num)])
    torch.testing.assert_close(f[0], -((root if bounded else root + 0.7) ** 2), rtol=1e-10, atol=1e-10)
    if bounded:
        assert (f > -1).all()


def test_a_potential_of_buffers_alone_answers_too():
    potential, z = make_potential(3, 2), randn(5, 3)
    expected = potential(z, 1.0)
    for name, parameter in [*potential.named_parameters()]:
        delattr(potential, name)
        potential.register_buffer(name, parameter.detach())
    assert torch.equal(potential(z=z, t=1.0), expected)


def test_answers_asked_for_under_autocast_are_those_of_single_precision():
    potential, force = make_potential(3, 2, dtype=torch.float32), NegativeForce(3, 2)
    prior, z, weights = DiffusionPrior(2, init=0.3), randn(5, 3).float(), rand(5, 4, 2).float()
    along = randn(5, 3, seed=1).float()

    def answers():
        return (
            potential(z, 1.0),
            *potential.first_derivatives(z, 1.0),
            potential.gradients(z, 1.0),
            potential.gradient(z, 1.0, 1),
            potential.hessian(z, 1.0, 1),
            potential.log_det(z, 1.0, 1)[0],
            potential.hessian_product(z, 1.0, 1, along),
            potential.laplacian(z, 1.0, 1),
            force(z, 1.0),
            prior.variance(weights),
        )

    expected = answers()
    with torch.autocast("cpu", torch.bfloat16):
        found = answers()
    for got, wanted in zip(found, expected, strict=True):
        assert got.dtype == torch.float32
        assert torch.equal(got, wanted)
