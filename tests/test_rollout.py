"""The shared evaluation of a path agrees with the plain one in everything, and is used only while it is true."""

import copy
import dataclasses
import pickle

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from torch.distributions import Independent, Normal

from benchmarks.memory import peak_bytes
from latentflow import (
    DiffusionPrior,
    FlowPosterior,
    HJConstraint,
    LatentPath,
    NegativeForce,
    flow_kl,
    groups,
    validate_values,
)
from latentflow.layout import Layout
from latentflow.penalty import penalty
from latentflow.rollout import Rollout
from tests.problems import Opaque, gaussian, make_potential, potentials, rand, seeds


def what_acts(kind, batch, steps, num, seed):
    generator = torch.Generator().manual_seed(seed)
    if kind == "weights":
        return {"weights": rand(batch, steps, num, seed=seed)}
    shape = {"int": (), "labels": (batch,), "switching": (batch, steps)}[kind]
    k = torch.randint(num, shape, generator=generator)
    return {"k": int(k) if kind == "int" else k}


groups_cost = st.sampled_from([0, 1, groups.GROUP])  # the less a group costs, the more of them there are


def plain(path):
    """The same path without what the flow has evaluated on the way."""
    return dataclasses.replace(path, rollout=None)


@settings(max_examples=60)
@given(
    potential=potentials(),
    kind=st.sampled_from(["int", "labels", "switching", "weights"]),
    log_det=st.sampled_from(["exact", "hutchinson", "laplacian", None]),
    substeps=st.sampled_from([1, 3]),
    batch=st.integers(1, 6),
    group=groups_cost,
    seed=seeds,
)
def test_every_number_and_gradient_is_that_of_the_plain_route(potential, kind, log_det, substeps, batch, group, seed):
    force = NegativeForce(potential.dim, potential.num, dtype=torch.float64)
    act = what_acts(kind, batch, 3, potential.num, seed)
    q0, parameters = gaussian(batch, potential.dim), [*potential.parameters(), *force.parameters()]
    results = []
    for module in (potential, Opaque(potential)):
        generator = torch.Generator().manual_seed(seed)
        with pytest.MonkeyPatch.context() as patch:
            patch.setattr(groups, "GROUP", group)
            path = FlowPosterior(module, log_det, substeps=substeps)(q0, steps=3, generator=generator, **act)
        assert (path.rollout is not None) == (module is potential and substeps == 1)
        penalty = HJConstraint(module, force)(path)
        kl = flow_kl(path, DiffusionPrior(potential.num).double(), bound="marginal" if log_det else "initial")
        gradients = torch.autograd.grad((penalty + kl).sum() + path.z.square().sum(), parameters, allow_unused=True)
        results.append((path.z, penalty, kl, *(torch.zeros(()) if g is None else g for g in gradients)))
    for ours, truth in zip(*results, strict=True):
        scale = 1 + truth.abs().max()
        assert (ours - truth).abs().max() < 1e-10 * scale


@pytest.mark.parametrize("kind", ["int", "labels", "switching", "weights"])
def test_sharing_spares_work_and_changes_nothing(kind, monkeypatch):
    potential = make_potential(4, 3)
    path = FlowPosterior(potential)(gaussian(5, 4), steps=3, **what_acts(kind, 5, 3, 3, 0))
    hj = HJConstraint(potential, NegativeForce(4, 3).double())
    truth = hj(plain(path))
    monkeypatch.setattr(type(potential), "first_derivatives", None)  # the plain route would call it
    torch.testing.assert_close(hj(path), truth, rtol=1e-12, atol=1e-12)


def stale_potential(path, potential):
    with torch.no_grad():
        potential.input_weight += 0.1
    return path


def stale_latents(path, potential):
    return dataclasses.replace(path, z=path.z.detach() + 0.1)


def latents_written_to(path, potential):
    with torch.no_grad():
        path.z.add_(0.1)
    return path


def stale_weights(path, potential):
    return dataclasses.replace(path, weights=rand(5, 3, 3))


def stale_times(path, potential):
    return dataclasses.replace(path, times=0.5 * path.times)


def times_written_to(path, potential):
    path.times.mul_(0.5)
    return path


def other_numbers(path, potential):
    potential.input_weight.data = 2 * potential.input_weight.data
    return path


def other_parameters(path, potential):
    state = {name: 2 * parameter for name, parameter in potential.state_dict().items()}
    potential.load_state_dict(state, assign=True)
    return path


def hooked(path, potential):
    potential.register_forward_hook(lambda module, inputs, u: 2 * u)
    return path


def patched(path, potential):
    forward = potential.forward
    potential.forward = lambda z, t: 2 * forward(z, t)
    return path


CHANGES = [
    stale_potential, stale_latents, latents_written_to, stale_weights, stale_times, times_written_to, other_numbers,
    other_parameters, hooked, patched,
]  # fmt: skip


@pytest.mark.parametrize("change", CHANGES)
def test_what_has_changed_since_is_evaluated_anew(change):
    potential = make_potential(4, 3)
    path = FlowPosterior(potential)(gaussian(5, 4), 1, steps=3)
    hj = HJConstraint(potential, NegativeForce(4, 3).double())
    before = hj(path)
    changed = change(path, potential)
    torch.testing.assert_close(hj(changed), hj(plain(changed)), rtol=1e-12, atol=1e-12)
    assert not torch.allclose(hj(changed), before)


@pytest.mark.parametrize("kind", ["labels", "switching", "weights"])
def test_what_acts_may_be_written_to_after_the_flow(kind):
    """What a path says of it holds, whether it is the user's own tensor or not."""
    potential, what = make_potential(4, 3), what_acts(kind, 5, 3, 3, 0)
    path = FlowPosterior(potential)(gaussian(5, 4), steps=3, **what)
    for x in what.values():
        x.copy_(x.flip(0))
    hj = HJConstraint(potential, NegativeForce(4, 3).double())
    torch.testing.assert_close(hj(path), hj(dataclasses.replace(path, acting=None)), rtol=1e-12, atol=1e-12)


@pytest.mark.parametrize("mode", [torch.no_grad, torch.inference_mode])
@pytest.mark.parametrize("copied", [copy.copy, copy.deepcopy, lambda path: pickle.loads(pickle.dumps(path))])
@pytest.mark.parametrize("kind", ["labels", "switching", "weights"])
def test_what_acts_may_be_written_to_before_a_path_is_copied(kind, copied, mode):
    potential, what = make_potential(4, 3), what_acts(kind, 5, 3, 3, 0)
    with mode():
        path = FlowPosterior(potential)(gaussian(5, 4), steps=3, **what)
        hj = HJConstraint(potential, NegativeForce(4, 3).double())
        for x in what.values():
            x.copy_(x.flip(0))
        if kind != "labels":  # whose weights repeat a row
            path.weights[:, 1:] = 0
        found, truth = hj(copied(path)), hj(dataclasses.replace(path, acting=None))
    torch.testing.assert_close(found, truth, rtol=1e-12, atol=1e-12)


def test_labels_made_for_inference_alone_may_be_used_again():
    """Nobody counts what is written to them: the path has its own."""
    potential = make_potential(4, 3)
    with torch.inference_mode():
        labels = torch.tensor([0, 1, 2, 1, 0])
        path, hj = FlowPosterior(potential)(gaussian(5, 4), labels, steps=3), HJConstraint(potential)
        before = hj(path)
        labels.fill_(2)
        torch.testing.assert_close(hj(path), before)


@pytest.mark.parametrize("transform", [torch.func.vmap, torch.func.jacrev, torch.func.jacfwd])
@pytest.mark.parametrize("kind", ["int", "switching"])
def test_transforms_notice_what_is_written_to(transform, kind):
    potential, what = make_potential(4, 3), what_acts(kind, 5, 3, 3, 0)
    hj = HJConstraint(potential, NegativeForce(4, 3).double())

    def penalties(mean):
        path = FlowPosterior(potential, None)(Independent(Normal(mean, torch.ones_like(mean)), 1), steps=3, **what)
        if kind == "int":
            path.z.mul_(2)
        else:
            path.weights[:, 1:] = 0
        return hj(path), hj(plain(path))

    means = rand(2, 5, 4, seed=1)
    options = {} if transform is torch.func.jacrev else {"randomness": "same"}
    found, truth = transform(penalties, **options)(means if transform is torch.func.vmap else means[0])
    assert found.abs().max() > 0
    torch.testing.assert_close(found, truth, rtol=1e-10, atol=1e-12)


@pytest.mark.parametrize("watch", [lambda z: z.retain_grad(), lambda z: z.register_hook(lambda by_z: 3 * by_z)])
def test_who_watches_the_latents_sees_what_the_constraint_asks_of_them(watch):
    potential, gradients = make_potential(4, 3), []
    hj = HJConstraint(potential, NegativeForce(4, 3).double())
    for made in (lambda path: path, plain):
        torch.manual_seed(0)
        start = rand(5, 4, seed=2).requires_grad_()
        path = made(FlowPosterior(potential)(Independent(Normal(start, torch.ones_like(start)), 1), 1, steps=3))
        watch(path.z)
        hj(path).sum().backward()
        gradients.append((start.grad, path.z.grad) if path.z.retains_grad else (start.grad,))
    for ours, truth in zip(*gradients, strict=True):
        torch.testing.assert_close(ours, truth, rtol=1e-10, atol=1e-12)


def test_a_log_determinant_may_be_written_to():
    for what in ({"k": 0}, {"k": torch.tensor([0, 1, 2, 0, 1])}, {"weights": rand(5, 3)}):
        path = FlowPosterior(make_potential(4, 3, hidden=2))(gaussian(5, 4), steps=3, **what)
        before = path.log_det.detach().clone()
        torch.testing.assert_close(path.log_det.mul_(2).detach(), 2 * before)


def test_a_constraint_called_with_other_parameters_evaluates_these():
    potential = copy.deepcopy(make_potential(4, 3))
    path, hj = FlowPosterior(potential)(gaussian(5, 4), 1, steps=3), HJConstraint(potential)
    path = dataclasses.replace(path, z=path.z.detach())

    def penalty(parameters, path):
        return torch.func.functional_call(hj, parameters, (path,)).sum()

    given = {name: (2 * parameter).detach() for name, parameter in hj.named_parameters()}
    for found in (penalty(given, path), torch.func.grad(penalty)(given, path)["potential.input_weight"]):
        assert found.abs().sum() > 0
    torch.testing.assert_close(penalty(given, path), penalty(given, plain(path)), rtol=1e-12, atol=1e-12)


def test_a_potential_frozen_for_the_flow_may_learn_from_the_constraint():
    potential = make_potential(4, 3).requires_grad_(False)
    path, hj = FlowPosterior(potential)(gaussian(5, 4), 1, steps=3), HJConstraint(potential)
    potential.requires_grad_(True)
    found, truth = (torch.autograd.grad(hj(p).sum(), potential.input_weight)[0] for p in (path, plain(path)))
    torch.testing.assert_close(found, truth, rtol=1e-10, atol=1e-12)


def changed_by_a_hook(force):
    force.register_forward_hook(lambda module, inputs, f: 2 * f)


def changed_before(force):
    force.register_forward_pre_hook(lambda module, inputs: (2 * inputs[0], inputs[1]))


def changed_by_a_patch(force):
    forward = force.forward
    force.forward = lambda z, t: 2 * forward(z, t)


@pytest.mark.parametrize("change", [changed_by_a_hook, changed_before, changed_by_a_patch])
def test_a_force_is_what_it_says_when_it_is_called(change):
    potential, force = make_potential(4, 3), NegativeForce(4, 3).double()
    torch.nn.init.normal_(force.root.output_weight)
    path, hj = FlowPosterior(potential)(gaussian(5, 4), 1, steps=3), HJConstraint(potential, force)
    before = hj(path)
    change(force)
    torch.testing.assert_close(hj(path), hj(plain(path)), rtol=1e-12, atol=1e-12)
    assert not torch.allclose(hj(path), before)


def test_the_copy_of_a_potential_is_another_potential():
    potential = make_potential(4, 3)
    path = FlowPosterior(potential)(gaussian(5, 4), 1, steps=3)
    other = copy.deepcopy(potential)
    with torch.no_grad():
        other.output_weight *= 2
    torch.testing.assert_close(HJConstraint(other)(path), HJConstraint(other)(plain(path)), rtol=1e-12, atol=1e-12)
    assert not torch.allclose(HJConstraint(other)(path), HJConstraint(potential)(path))


def test_all_may_be_made_for_inference_alone():
    with torch.inference_mode():
        potential, q0 = make_potential(4, 3), gaussian(5, 4)
        path = FlowPosterior(potential)(q0, 1, steps=3)
        inside = HJConstraint(potential)(path)
    with torch.no_grad():
        outside = HJConstraint(make_potential(4, 3))(plain(path))
    torch.testing.assert_close(inside, outside, rtol=1e-12, atol=1e-12)


def test_without_gradients_nothing_is_kept_and_a_saved_path_leaves_its_activations_behind():
    flow, q0 = FlowPosterior(make_potential(4, 3)), gaussian(5, 4)
    with torch.no_grad():
        assert flow(q0, 1, steps=3).rollout is None
    path = flow(q0, 1, steps=3)
    assert isinstance(path.rollout, Rollout)
    loaded = pickle.loads(pickle.dumps(dataclasses.replace(path, z=path.z.detach(), log_q=None, log_det=None)))
    assert isinstance(loaded, LatentPath)
    assert loaded.rollout is None
    torch.testing.assert_close(loaded.z, path.z.detach())


@pytest.mark.parametrize("kind", ["int", "labels", "switching", "weights"])
@pytest.mark.parametrize("rows_at_once", [1, 4])
def test_exact_log_determinants_by_chunks_are_those_of_all_at_once(kind, rows_at_once):
    potential = make_potential(4, 3, strength=4.0)  # strong enough to fold
    act, z0 = what_acts(kind, 5, 3, 3, 0), rand(5, 4).requires_grad_()
    whole = FlowPosterior(potential)(gaussian(5, 4), steps=3, **act)
    assert whole.folds.any()
    results = []
    for memory in (None, rows_at_once * whole.rollout.local.hessian_bytes(kind in ("switching", "weights"))):
        z, log_det = FlowPosterior(potential, memory=memory).transport(z0, steps=3, **act)
        gradients = torch.autograd.grad(log_det.sum() + z.sum(), [z0, potential.input_weight, potential.hidden_weight])
        results.append((log_det, *gradients))
    for ours, truth in zip(*results, strict=True):
        torch.testing.assert_close(ours, truth, rtol=1e-9, atol=1e-9)


@pytest.mark.parametrize("read", [False, True])
def test_log_determinants_by_chunks_are_differentiated_as_they_were_made_whatever_is_checked_since(read):
    potential, gradients = make_potential(4, 3), []
    for memory in (None, 1):
        with validate_values(read):
            log_det = FlowPosterior(potential, memory=memory).transport(rand(5, 4), 0, 3)[1]
        with validate_values(not read):
            gradients.append(torch.autograd.grad(log_det.sum(), potential.hidden_weight)[0])
    torch.testing.assert_close(*gradients, rtol=1e-9, atol=1e-9)


def test_chunks_are_differentiated_inside_of_transforms_as_well():
    potential, z0 = make_potential(4), rand(5, 4)
    whole, chunked = (FlowPosterior(potential, memory=memory) for memory in (None, 1))

    def total(flow):
        return lambda z0: flow.transport(z0, 0, 3)[1].sum()

    for derivative in (torch.func.grad, torch.func.hessian):
        found, expected = (derivative(total(flow))(z0) for flow in (chunked, whole))
        torch.testing.assert_close(found, expected, rtol=1e-9, atol=1e-9)


def test_labels_of_narrow_networks_factorise_matrices_of_one_hidden_layer():
    potential, labels = make_potential(12, 3, hidden=4), torch.arange(6) % 3
    path = FlowPosterior(potential)(gaussian(6, 12), labels, steps=2)
    assert path.rollout.local.curvature(None, reduced=True).hessian().shape[-2:] == (4, 4)
    truth = FlowPosterior(Opaque(potential)).transport(path.z[:, 0], labels, 2)[1]
    torch.testing.assert_close(path.log_det, truth, rtol=1e-10, atol=1e-10)


@pytest.mark.parametrize(("num", "dim", "hidden"), [(1, 24, 24), (1, 48, 16), (3, 16, 16), (1, 64, 64)])
def test_the_stated_memory_is_kept(num, dim, hidden):
    potential, memory = make_potential(dim, num, hidden), 2**20
    act = {"k": 0} if num == 1 else {"weights": rand(64, num)}
    z0 = rand(64, dim)

    def peak(**options):
        flow = FlowPosterior(potential, **options)
        return peak_bytes(lambda: flow.transport(z0, steps=8, **act)[-1].sum().backward())

    without = peak_bytes(lambda: FlowPosterior(potential, None).transport(z0, steps=8, **act)[0].sum().backward())
    whole = peak()
    assert whole > without + 2 * memory
    assert peak(memory=memory) < without + memory
    rows, stated = 64 * 8, roll_out_of(potential, act, z0).local.hessian_bytes(num > 1)
    assert (whole - without) / rows < stated < 4 * (whole - without) / rows, "an upper bound, and of the right size"


def roll_out_of(potential, act, z0):
    q0 = Independent(Normal(z0, torch.ones_like(z0)), 1)
    return FlowPosterior(potential)(q0, steps=8, **act).rollout


@pytest.mark.parametrize(
    ("potential", "options"),
    [
        (Opaque(make_potential(3)), {}),
        (make_potential(3), {"log_det": "hutchinson"}),
        (make_potential(3), {"solver": "rk4"}),
    ],
)
def test_memory_is_refused_where_it_could_not_be_kept(potential, options):
    with pytest.raises(ValueError, match=r"memory: got 1024 for .*, expected None; .*: use smaller batches"):
        FlowPosterior(potential, memory=1024, **options)


def test_a_parametrised_network_is_that_of_the_path():
    """A parametrisation may give another weight each time that it is asked."""
    potential = make_potential(3, 2)
    torch.nn.utils.parametrizations.spectral_norm(potential, "hidden_weight")
    z0 = gaussian(1, 3).mean
    flow = FlowPosterior(potential)

    def last(z):
        potential.parametrizations.hidden_weight[0].load_state_dict(state)
        return flow.transport(z[None], 1, 1)[0][0, -1]

    state = copy.deepcopy(potential.parametrizations.hidden_weight[0].state_dict())
    _, log_det = flow.transport(z0, 1, 1)
    jacobian = torch.autograd.functional.jacobian(last, z0[0])
    torch.testing.assert_close(log_det[0, 0], torch.linalg.slogdet(jacobian).logabsdet, rtol=1e-12, atol=1e-12)


@pytest.mark.parametrize("weights", [None, torch.ones(1, 2, 3, 1)])
def test_an_initial_term_that_is_left_out_may_overflow(weights):
    left, at_0, starts = torch.zeros(1, 6), torch.full((1, 3), torch.inf), torch.zeros(1, 2, 3, 2)
    layout = Layout(None, weights=weights)
    assert (penalty(layout, left, at_0, starts, None, price=0.0, factor=0.0) == 0).all()
