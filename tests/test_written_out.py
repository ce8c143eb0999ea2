"""Every backward pass that is written out is that of autograd, and all higher and forward derivatives are right."""

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from latentflow.closed_form import Networks
from latentflow.hamilton_jacobi import left_hand_side
from latentflow.hutchinson import hutchinson
from latentflow.time_branch import Embedding, Layers, tau, tau_and_rate
from latentflow.trajectory import Trajectory, follow
from latentflow.values import values
from tests.problems import make_potential, rand, randn, seeds

STEPS, ROWS, DIM = 2, 3, 3


def of_networks(num, bounded, seed):
    """The parameters of G networks, and what puts them together again."""
    potential = make_potential(DIM, num, 4, bounded=bounded, seed=seed)
    parameters = [x.detach() for x in potential.networks() if x is not None]
    return parameters, lambda found: Networks(*found, *[None] * (6 - len(found)))


def trajectory(num, shared, weighted, bounded, seed, substeps=1):
    parameters, networks = of_networks(num, bounded, seed)
    rows, times = randn(1 if shared else num, ROWS, DIM, seed=seed), randn(num, STEPS + 1, 4, seed=seed + 1)
    weights = [rand(num, STEPS, ROWS, 1, seed=seed + 2)] if weighted else []

    def function(rows, times, *others):
        acts = others[-1] if weighted else None
        found = follow(networks(others[: len(parameters)]), rows, times, acts, substeps)
        return tuple(x for x in found if x is not None)

    return function, [rows, times, *parameters, *weights]


def estimate(num, shared, weighted, bounded, seed, substeps=1):
    parameters, networks = of_networks(num, bounded, seed)
    along = [randn(num, STEPS * ROWS, 4, seed=seed + n) for n in range(3)]
    value = [randn(num, STEPS * ROWS, 1, seed=seed + 3)] if bounded else []
    weights = [rand(num, STEPS * ROWS, 1, seed=seed + 4)] if weighted else []
    probe = randn(1 if shared else num, STEPS * ROWS, DIM, seed=seed + 5).sign()

    def function(y_1, y_2, coefficient, *others):
        first, second = y_1.tanh(), y_2.tanh()
        value = others[len(parameters)].tanh() if bounded else None
        of = networks(others[: len(parameters)])
        found = Trajectory(first, first, second, second, coefficient, value, None, first, of.weighted())
        return hutchinson(probe.to(y_1), found, of, others[-1] if weighted else None, substeps)

    return function, [*along, *parameters, *value, *weights]


def left(num, shared, weighted, bounded, seed, substeps=1):
    gradients, back = randn(num, STEPS * ROWS, DIM, seed=seed), randn(num, STEPS * ROWS, 4, seed=seed + 1)
    rate, value = randn(num, STEPS, 4, seed=seed + 2), randn(num, STEPS * ROWS, 1, seed=seed + 3)

    def function(gradients, back, rate, *value):
        return left_hand_side(gradients, back, value[0].tanh() if bounded else None, rate)

    return function, [gradients, back, rate, *([value] if bounded else [])]


def of_values(num, shared, weighted, bounded, seed, substeps=1):
    parameters, networks = of_networks(num, bounded, seed)
    rows, times = randn(1 if shared else num, STEPS * ROWS, DIM, seed=seed), randn(num, STEPS, 4, seed=seed + 1)

    def function(rows, times, *others):
        return values(networks(others), rows, times)

    return function, [rows, times, *parameters]


def branch(num, shared, weighted, bounded, seed, substeps=1):
    potential = make_potential(DIM, num, 4, seed=seed)
    layers = [x.detach() for x in potential.time_layers()]

    def function(times, *layers):
        return tau_and_rate(Embedding.of(times, 4), Layers(*layers))

    return function, [rand(STEPS, seed=seed), *layers]


def branch_alone(num, shared, weighted, bounded, seed, substeps=1):
    _, inputs = branch(num, shared, weighted, bounded, seed)
    return lambda times, *layers: tau(Embedding.of(times, 4), Layers(*layers)), inputs


CASES = [trajectory, estimate, left, of_values, branch, branch_alone]
KINDS = [(1, True, False), (1, True, True), (2, True, True), (2, False, False)]  # networks, shared rows, weighted


def differentiated(function, inputs, seed, dtype=torch.float64):
    """What the function gives, and what random gradients of that send back."""
    inputs = [x.clone().requires_grad_() for x in inputs]
    found = function(*inputs)
    found = found if isinstance(found, tuple) else (found,)
    by_found = [randn(*x.shape, seed=seed + n).to(dtype) for n, x in enumerate(found)]
    return *found, *torch.autograd.grad(found, inputs, by_found, materialize_grads=True)


@pytest.mark.parametrize("case", CASES)
@settings(max_examples=15)
@given(kind=st.sampled_from(KINDS), bounded=st.booleans(), substeps=st.sampled_from([1, 3]), seed=seeds)
def test_gradients_are_those_of_autograd(case, kind, bounded, substeps, seed):
    function, inputs = case(*kind, bounded, seed, substeps)
    ours = differentiated(function, inputs, seed)
    with pytest.MonkeyPatch.context() as patch:
        for module in ("trajectory", "hutchinson", "hamilton_jacobi", "values", "time_branch"):
            patch.setattr(f"latentflow.{module}.serves", lambda: False)
        plain = differentiated(function, inputs, seed)
    for x, truth in zip(ours, plain, strict=True):
        assert (x - truth).abs().max() < 1e-10 * (1 + truth.abs().max())


@pytest.mark.parametrize("case", CASES)
@pytest.mark.parametrize("kind", KINDS)
@pytest.mark.parametrize("bounded", [False, True])
def test_gradients_are_right_to_second_order_and_forwards(case, kind, bounded):
    function, inputs = case(*kind, bounded, 0, 3)
    inputs = [x.requires_grad_() for x in inputs]
    assert torch.autograd.gradcheck(function, inputs, check_forward_ad=True, fast_mode=True)
    assert torch.autograd.gradgradcheck(function, inputs, fast_mode=True)


@pytest.mark.parametrize("case", CASES)
def test_torch_func_sees_what_autograd_sees(case):
    function, inputs = case(2, False, False, True, 0)

    def loss(*inputs):
        found = function(*inputs)
        return sum(x.square().sum() for x in (found if isinstance(found, tuple) else (found,)))

    ours = torch.func.grad(loss, tuple(range(len(inputs))))(*inputs)
    inputs = [x.requires_grad_() for x in inputs]
    for x, truth in zip(ours, torch.autograd.grad(loss(*inputs), inputs, materialize_grads=True), strict=True):
        torch.testing.assert_close(x, truth, rtol=1e-12, atol=1e-12)


@pytest.mark.parametrize("frozen", range(3))
def test_what_is_frozen_gets_no_gradient_and_spoils_none(frozen):
    function, inputs = trajectory(2, False, False, True, 0)
    inputs = [x.requires_grad_(n % 3 != frozen) for n, x in enumerate(inputs)]
    sum(x.square().sum() for x in function(*inputs)).backward()
    for n, x in enumerate(inputs):
        assert (x.grad is None) == (n % 3 == frozen)


def test_gradients_of_gradients_do_not_pass_through_inputs_made_of_others():
    function, inputs = of_values(1, True, False, False, 0)
    rows, times, weight, bias, middle, middle_bias, read_out = (x.requires_grad_() for x in inputs)
    derived = function(
        rows, times, weight, bias, middle, middle_bias, read_out + middle[:, 0]
    )  # the read-out hangs on B
    (by_middle,) = torch.autograd.grad(derived.sum(), middle, create_graph=True)
    (plain,) = torch.autograd.grad(derived.sum(), middle)
    torch.testing.assert_close(by_middle, plain, rtol=1e-12, atol=1e-12)


@pytest.mark.parametrize("case", CASES)
def test_gradients_asked_for_inside_of_autocast_are_as_precise_as_outside(case):
    function, inputs = case(1, True, False, True, 0)
    inputs = [x.float() for x in inputs]
    outside = differentiated(function, inputs, 0, torch.float32)
    leaves = [x.clone().requires_grad_() for x in inputs]
    found = function(*leaves)
    found = found if isinstance(found, tuple) else (found,)
    by_found = [randn(*x.shape, seed=n).float() for n, x in enumerate(found)]
    with torch.autocast("cpu", torch.bfloat16):
        inside = torch.autograd.grad(found, leaves, by_found, materialize_grads=True)
    for x, truth in zip((*found, *inside), outside, strict=True):
        torch.testing.assert_close(x, truth, rtol=0, atol=0)
