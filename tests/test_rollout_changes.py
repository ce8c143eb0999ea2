"""What a path has evaluated is used only while it is true: changes and writes since are noticed, wherever they happen."""

import copy
import dataclasses
import pickle

import pytest
import torch
from torch.distributions import Independent, Normal

from latentflow import DiffusionPrior, FlowPosterior, HJConstraint, NegativeForce
from tests.problems import gaussian, make_potential, plain, rand, what_acts


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


def optimised(path, potential):
    """PyTorch does not count what a fused optimiser writes."""
    optimiser = torch.optim.Adam(potential.parameters(), lr=0.1, fused=True)
    potential(path.z.detach(), 1.0).sum().backward()
    optimiser.step()
    return path


CHANGES = [
    stale_potential, stale_latents, latents_written_to, stale_weights, stale_times, times_written_to, other_numbers,
    other_parameters, hooked, patched, optimised,
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
    """A path keeps what it was made with: a buffer may be used for the next one."""
    potential, what = make_potential(4, 3), what_acts(kind, 5, 3, 3, 0)
    path = FlowPosterior(potential)(gaussian(5, 4), steps=3, **what)
    hj, prior = HJConstraint(potential, NegativeForce(4, 3).double()), DiffusionPrior(3, init=1.0)
    before = path.weights.clone(), hj(path), prior.log_prob(path)
    for x in what.values():
        x.copy_(x.flip(0))
    for kept in (path, dataclasses.replace(path, acting=None)):
        torch.testing.assert_close((kept.weights, hj(kept), prior.log_prob(kept)), before, rtol=1e-12, atol=1e-12)


def test_a_path_keeps_the_weights_that_a_fused_optimiser_has_since_written_to():
    potential, weights = make_potential(4, 3), torch.nn.Parameter(rand(5, 3, 3, seed=0))
    path, hj = FlowPosterior(potential)(gaussian(5, 4), steps=3, weights=weights), HJConstraint(potential)
    before, weights.grad = hj(path), -torch.ones_like(weights)
    torch.optim.SGD([weights], lr=0.5, fused=True).step()
    torch.testing.assert_close((hj(path), hj(plain(path))), (before, before), rtol=1e-12, atol=1e-12)


@pytest.mark.parametrize("acts", [{"k": torch.tensor([0, 1, 1])}, {"k": torch.tensor([[0], [1], [1]])}, {"k": 1}])
def test_weights_of_a_single_step_may_be_written_to_under_inference_mode(acts):
    """They repeat no row, so PyTorch lets it be; nor does it count."""
    potential, batch = make_potential(4, 2), 1 if isinstance(acts["k"], int) else 3
    with torch.inference_mode():
        path, hj = FlowPosterior(potential)(gaussian(batch, 4), steps=1, **acts), HJConstraint(potential)
        before = hj(path)
        path.weights.mul_(0.5)
        torch.testing.assert_close(hj(path), hj(dataclasses.replace(path, acting=None)), rtol=1e-12, atol=1e-12)
        assert not torch.allclose(hj(path), before)


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
        # Not validated: inside of vmap, torch 2.6 cannot.
        q0 = Independent(Normal(mean, torch.ones_like(mean), validate_args=False), 1, validate_args=False)
        path = FlowPosterior(potential, None)(q0, steps=3, **what)
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
