"""Every backward pass that is written out is that of autograd, and all higher and forward derivatives are right."""

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from torch.utils.checkpoint import checkpoint

from latentflow.closed_form import Networks
from latentflow.heat import log_density
from latentflow.layout import Layout
from latentflow.penalty import penalty
from latentflow.sweep import Inputs, Start, sweep
from latentflow.time_branch import Embedding, Layers, tau, tau_and_rate
from latentflow.values import values
from tests.problems import make_potential, rand, randn, seeds

STEPS, ROWS, DIM = 2, 3, 3
STACK = {  # how many networks there are, and which of them act, for each kind of case
    "one of 3": (3, 1),
    "one mixed": (1, None),
    "2 mixed": (2, None),
    "groups of 2": (2, torch.tensor([1, 0, 1])),
    "padded groups of 2": (2, torch.tensor([1, 0, 1])),
}
SAMPLES = {  # which of them lie in the rows of each group
    "groups of 2": torch.tensor([[4, 0, 7], [1, 2, 8], [6, 3, 5]]),
    "padded groups of 2": torch.tensor([[4, 0, 0], [1, 2, 3], [5, 5, 5]]),
}


def of_stack(kind, bounded, seed):
    """The parameters of all networks, what puts them together again, which of them act, and how many these are."""
    num, k = STACK[kind]
    potential = make_potential(DIM, num, 4, bounded=bounded, seed=seed)
    parameters = [x.detach() for x in potential.tensors() if x is not None]

    def together(found):
        return Layers(*found[:4]), Networks(*found[4:], *[None] * (10 - len(found)))

    return parameters, together, k, len(k) if isinstance(k, torch.Tensor) else 1 if k is not None else num


def what_moves(kind, bounded, seed):
    """The same, with latents, the weights of a mixture, and a function that makes a layout of these."""
    parameters, together, k, num = of_stack(kind, bounded, seed)
    weights = [rand(num, STEPS, ROWS, 1, seed=seed + 2)] if "mixed" in kind else []
    rows, place = SAMPLES.get(kind), None
    if rows is not None:
        place = torch.stack([(rows.flatten() == sample).nonzero()[0, 0] for sample in rows.unique()])
    latents = randn(ROWS if place is None else len(place), DIM, seed=seed)

    def layout(*weights):
        return Layout(k, rows, place, weights[0] if weights else None)

    return latents, weights, parameters, together, layout, num


def swept(kind, bounded, seed, substeps=1, estimated=False):
    latents, weights, parameters, together, layout, num = what_moves(kind, bounded, seed)
    probe = randn(1 if weights else num, STEPS * ROWS, DIM, seed=seed + 5).sign() if estimated else None
    at = Embedding.of(rand(STEPS + 1, seed=seed), 4)

    def function(latents, *others):
        where, signs = layout(*others[len(parameters) :]), None if probe is None else probe.to(latents)
        embedding = at.sinusoid.to(latents), at.rate[1:].to(latents)
        start = Start(latents, where.rows, where.place, where.weights, signs, *embedding)
        found = sweep(Inputs(start, *together(others[: len(parameters)]), where.k, 1, substeps))
        return tuple(x for x in found if x is not None)

    return function, [latents, *parameters, *weights]


def swept_and_estimated(kind, bounded, seed, substeps=1):
    return swept(kind, bounded, seed, substeps, estimated=True)


def moved_alone(kind, bounded, seed, substeps=1):
    """Without the Hamilton-Jacobi equation."""
    latents, weights, parameters, together, layout, _ = what_moves(kind, bounded, seed)
    at = Embedding.of(rand(STEPS + 1, seed=seed), 4)

    def function(latents, *others):
        where, sinusoid = layout(*others[len(parameters) :]), at.sinusoid.to(latents)
        start = Start(latents, where.rows, where.place, where.weights, None, sinusoid, sinusoid[:0])
        found = sweep(Inputs(start, *together(others[: len(parameters)]), where.k, 1, substeps))
        return tuple(x for x in found if x is not None)

    return function, [latents, *parameters, *weights]


def penalised(kind, bounded, seed, substeps=1):
    _, weights, parameters, together, layout, num = what_moves(kind, bounded, seed)
    left, at_0 = randn(num, STEPS * ROWS, seed=seed + 3), rand(num, ROWS, seed=seed + 4)
    starts = randn(1 if weights else num, STEPS, ROWS, DIM, seed=seed + 5)
    bias = randn(STACK[kind][0], seed=seed + 6)
    price, sinusoid = 0.3 * (seed % 2), Embedding.of(rand(STEPS, seed=seed), 4).sinusoid

    def function(left, at_0, starts, bias, *others):
        layers, networks = together(others[: len(parameters)])
        force = sinusoid.to(left), *layers, *networks, bias
        return penalty(layout(*others[len(parameters) :]), left, at_0, starts, force, price, 0.7)

    return function, [left, at_0, starts, bias, *parameters, *weights]


def penalised_without_a_force(kind, bounded, seed, substeps=1):
    _, weights, _, _, layout, num = what_moves(kind, bounded, seed)
    left, at_0 = randn(num, STEPS * ROWS, seed=seed + 3), rand(num, ROWS, seed=seed + 4)
    starts = randn(1 if weights else num, STEPS, ROWS, DIM, seed=seed + 5)

    def function(left, at_0, *weights):
        return penalty(layout(*weights), left, at_0, starts.to(left), None, 0.0, 0.7)

    return function, [left, at_0, *weights]


def widened(kind, bounded, seed, substeps=1):
    z, raw = randn(4, STEPS + 1, DIM, seed=seed), rand(3, seed=seed)
    acted = rand(1 if bounded else 4, 1 if "mixed" in kind else STEPS + 1, 3, seed=seed)

    def function(z, acted, raw):
        return log_density(z, acted, torch.arange(STEPS + 1).to(z), raw)

    return function, [z, acted, raw]


def of_values(kind, bounded, seed, substeps=1):
    latents, _, parameters, together, _, _ = what_moves("2 mixed" if "mixed" in kind else "one mixed", bounded, seed)
    times = randn(2 if "mixed" in kind else 1, STEPS, 4, seed=seed + 1)
    rows = latents.repeat(1, STEPS, 1)

    def function(rows, times, *others):
        return values(together((*parameters[:4], *others))[1], rows, times)

    return function, [rows, times, *parameters[4:]]


def branch(kind, bounded, seed, substeps=1):
    parameters, *_ = of_stack(kind, False, seed)

    def function(times, *layers):
        return tau_and_rate(Embedding.of(times, 4), Layers(*layers))

    return function, [rand(STEPS, seed=seed), *parameters[:4]]


def branch_alone(kind, bounded, seed, substeps=1):
    _, inputs = branch(kind, bounded, seed)
    return lambda times, *layers: tau(Embedding.of(times, 4), Layers(*layers)), inputs


CASES = [
    swept,
    swept_and_estimated,
    moved_alone,
    penalised,
    penalised_without_a_force,
    widened,
    of_values,
    branch,
    branch_alone,
]


def differentiated(function, inputs, seed, dtype=torch.float64):
    """What the function gives, and what random gradients of that send back."""
    inputs = [x.clone().requires_grad_() for x in inputs]
    found = function(*inputs)
    found = found if isinstance(found, tuple) else (found,)
    by_found = [randn(*x.shape, seed=seed + n).to(dtype) for n, x in enumerate(found)]
    return *found, *torch.autograd.grad(found, inputs, by_found, materialize_grads=True)


@pytest.mark.parametrize("case", CASES)
@settings(max_examples=15)
@given(kind=st.sampled_from(list(STACK)), bounded=st.booleans(), substeps=st.sampled_from([1, 3]), seed=seeds)
def test_gradients_are_those_of_autograd(case, kind, bounded, substeps, seed):
    function, inputs = case(kind, bounded, seed, substeps)
    ours = differentiated(function, inputs, seed)
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr("latentflow.written_out.serves", lambda: False)
        plain = differentiated(function, inputs, seed)
    for x, truth in zip(ours, plain, strict=True):
        assert (x - truth).abs().max() < 1e-10 * (1 + truth.abs().max())


@pytest.mark.parametrize("case", CASES)
@pytest.mark.parametrize("kind", STACK)
@pytest.mark.parametrize("bounded", [False, True])
def test_gradients_are_right_to_second_order_and_forwards(case, kind, bounded):
    function, inputs = case(kind, bounded, 0, 3)
    inputs = [x.requires_grad_() for x in inputs]
    assert torch.autograd.gradcheck(function, inputs, check_forward_ad=True, fast_mode=True)
    assert torch.autograd.gradgradcheck(function, inputs, fast_mode=True)


@pytest.mark.parametrize("case", CASES)
def test_torch_func_sees_what_autograd_sees(case):
    function, inputs = case("groups of 2", True, 0)

    def loss(*inputs):
        found = function(*inputs)
        return sum(x.square().sum() for x in (found if isinstance(found, tuple) else (found,)))

    ours = torch.func.grad(loss, tuple(range(len(inputs))))(*inputs)
    inputs = [x.requires_grad_() for x in inputs]
    for x, truth in zip(ours, torch.autograd.grad(loss(*inputs), inputs, materialize_grads=True), strict=True):
        torch.testing.assert_close(x, truth, rtol=1e-12, atol=1e-12)


@pytest.mark.parametrize("case", CASES)
@pytest.mark.parametrize("kind", STACK)
def test_many_gradients_at_once_are_those_of_one_after_the_other(case, kind):
    function, inputs = case(kind, True, 0)
    inputs = [x.requires_grad_() for x in inputs]
    found = function(*inputs)
    found = found if isinstance(found, tuple) else (found,)
    by_found = [randn(3, *x.shape, seed=n) for n, x in enumerate(found)]
    options = {"retain_graph": True, "materialize_grads": True}
    together = torch.autograd.grad(found, inputs, by_found, is_grads_batched=True, **options)
    for n, by in enumerate(zip(*by_found, strict=True)):
        for x, truth in zip(together, torch.autograd.grad(found, inputs, by, **options), strict=True):
            torch.testing.assert_close(x[n], truth, rtol=1e-12, atol=1e-12)


@pytest.mark.parametrize("case", CASES)
def test_a_checkpoint_makes_the_same_gradients_and_unpacks_what_was_saved_once(case):
    function, inputs = case("groups of 2", True, 0)
    inputs = [x.requires_grad_() for x in inputs]

    def loss(*inputs):
        found = function(*inputs)
        return sum(x.square().sum() for x in (found if isinstance(found, tuple) else (found,)))

    truth = torch.autograd.grad(loss(*inputs), inputs, materialize_grads=True)
    again = checkpoint(loss, *inputs, use_reentrant=False)
    for x, true in zip(torch.autograd.grad(again, inputs, materialize_grads=True), truth, strict=True):
        assert torch.equal(x, true)


@pytest.mark.parametrize("case", CASES)
def test_a_graph_of_gradients_can_be_kept_whatever_is_trainable(case):
    function, inputs = case("groups of 2", True, 0)
    for trainable in inputs:
        trainable.requires_grad_()
        found = function(*inputs)
        found = [x for x in (found if isinstance(found, tuple) else (found,)) if x.requires_grad]
        loss = sum(x.square().sum() for x in found)
        options = {"retain_graph": True, "materialize_grads": True}
        (kept,) = torch.autograd.grad(loss, trainable, create_graph=True, **options)
        (truth,) = torch.autograd.grad(loss, trainable, **options)
        torch.testing.assert_close(kept, truth, rtol=1e-12, atol=1e-12)
        trainable.requires_grad_(False)


@pytest.mark.parametrize("case", CASES)
@pytest.mark.parametrize("kind", STACK)
@pytest.mark.parametrize("bounded", [False, True])
def test_what_others_hold_is_not_written_to(case, kind, bounded):
    function, inputs = case(kind, bounded, 0)
    inputs = [x.requires_grad_() for x in inputs]
    found = function(*inputs)
    found = found if isinstance(found, tuple) else (found,)
    held = *inputs, *found, *(by_found := [randn(*x.shape, seed=n) for n, x in enumerate(found)])
    before = [x.detach().clone() for x in held]
    options = {"retain_graph": True, "materialize_grads": True}
    once, again = (torch.autograd.grad(found, inputs, by_found, **options) for _ in range(2))
    for x, y in zip((*held, *once), (*before, *again), strict=True):
        assert torch.equal(x, y)


@pytest.mark.parametrize("case", [swept, swept_and_estimated, moved_alone, penalised, widened, of_values])
@pytest.mark.parametrize("kind", STACK)
def test_what_is_written_to_before_the_way_back_is_noticed(case, kind):
    function, inputs = case(kind, False, 0)
    inputs = [x.requires_grad_() for x in inputs]
    for changed in inputs:
        found = function(*inputs)
        loss = sum(x.sum() for x in (found if isinstance(found, tuple) else (found,)))
        with torch.no_grad():
            changed += 1
        with pytest.raises(RuntimeError, match="modified by an inplace operation"):
            loss.backward()


@pytest.mark.parametrize("frozen", range(3))
def test_what_is_frozen_gets_no_gradient_and_spoils_none(frozen):
    function, inputs = swept("groups of 2", True, 0)
    inputs = [x.requires_grad_(n % 3 != frozen) for n, x in enumerate(inputs)]
    sum(x.square().sum() for x in function(*inputs)).backward()
    for n, x in enumerate(inputs):
        assert (x.grad is None) == (n % 3 == frozen)


def test_gradients_of_gradients_do_not_pass_through_inputs_made_of_others():
    function, inputs = of_values("one of 3", False, 0)
    rows, times, weight, bias, middle, middle_bias, read_out = (x.requires_grad_() for x in inputs)
    derived = function(
        rows, times, weight, bias, middle, middle_bias, read_out + middle[:, 0]
    )  # the read-out hangs on B
    (by_middle,) = torch.autograd.grad(derived.sum(), middle, create_graph=True)
    (plain,) = torch.autograd.grad(derived.sum(), middle)
    torch.testing.assert_close(by_middle, plain, rtol=1e-12, atol=1e-12)


@pytest.mark.parametrize("case", CASES)
def test_gradients_asked_for_inside_of_autocast_are_as_precise_as_outside(case):
    function, inputs = case("one of 3", True, 0)
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
