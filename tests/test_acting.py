"""What acts: an int, labels and one-hot weights say the same; switching and superposing are what they are defined to be."""

import dataclasses
import pickle

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from latentflow import DiffusionPrior, FlowPosterior, HJConstraint, flow_kl
from tests.problems import Opaque, Wave, close, gaussian, make_potential, one_hot, potentials, rand, randn, seeds


@settings(max_examples=12)
@given(potentials(), seeds, st.booleans(), st.sampled_from(["euler", "rk4"]))
def test_one_hot_weights_labels_and_an_int_say_the_same(potential, seed, opaque, solver):
    module, num, steps = Opaque(potential) if opaque else potential, potential.num, 3
    flow, hj = FlowPosterior(module, solver=solver), HJConstraint(module)
    prior = DiffusionPrior(num, 0.2, dtype=torch.float64)
    k = seed % num
    labels = torch.full((4,), k)
    ways = (
        {"k": k},
        {"k": torch.tensor(k)},
        {"k": labels},
        {"k": labels.to(torch.uint8)},
        {"k": labels[:, None].expand(4, steps)},
        {"weights": one_hot(labels, num)},
        {"weights": one_hot(labels, num, torch.float32)},
        {"weights": one_hot(labels, num)[:, None].expand(4, steps, num)},
    )
    results = []
    for way in ways:
        path = flow(gaussian(4, potential.dim, seed), steps=steps, generator=torch.Generator().manual_seed(seed), **way)
        results.append((path.z, path.log_q, path.weights, hj(path), flow_kl(path, prior)))
        z0 = path.z[:, 0].detach()
        z, log_det = flow.transport(z0, steps=steps, **way)
        close(z, path.z)
        close(log_det, path.log_det)
    for other in results[1:]:
        for a, b in zip(results[0], other, strict=True):
            close(a, b)
    assert torch.equal(results[0][2], one_hot(labels, num)[:, None].expand(4, steps, num))


@given(potentials(), seeds, st.booleans())
def test_each_sample_follows_its_own_label(potential, seed, opaque):
    flow = FlowPosterior(Opaque(potential) if opaque else potential)
    z0 = randn(5, potential.dim, seed=seed)
    labels = torch.randint(potential.num, (5,), generator=torch.Generator().manual_seed(seed))
    z, log_det = flow.transport(z0, labels, 3)
    for b in range(5):
        alone, alone_log_det = flow.transport(z0[b : b + 1], int(labels[b]), 3)
        close(z[b : b + 1], alone)
        close(log_det[b : b + 1], alone_log_det)


@given(potentials(), seeds, st.booleans())
def test_switching_follows_each_label_for_its_step(potential, seed, opaque):
    """By the gradients of the single potentials, at the time of the step."""
    flow = FlowPosterior(Opaque(potential) if opaque else potential)
    z0 = randn(5, potential.dim, seed=seed)
    labels = torch.randint(potential.num, (5, 4), generator=torch.Generator().manual_seed(seed))
    z, log_det = flow.transport(z0, labels, 4)
    for b in range(5):
        here = z0[b]
        for t in range(1, 5):
            k = int(labels[b, t - 1])
            hessian = potential.hessian(here, float(t), k)
            close(log_det[b, t - 1], torch.linalg.slogdet(torch.eye(len(here)) + hessian)[1], 1e-9)
            here = here + potential.gradients(here, float(t))[k]
            close(z[b, t], here)


@given(potentials(), seeds, st.booleans(), st.booleans())
def test_superposing_adds_the_weighted_gradients(potential, seed, by_step, opaque):
    flow = FlowPosterior(Opaque(potential) if opaque else potential)
    z0 = randn(5, potential.dim, seed=seed)
    weights = 2 * rand(5, *((3,) if by_step else ()), potential.num, seed=seed)
    z, log_det = flow.transport(z0, steps=3, weights=weights)
    here = z0
    for t in range(1, 4):
        w = weights[:, t - 1] if by_step else weights
        hessian = sum(w[:, k, None, None] * potential.hessian(here, float(t), k) for k in range(potential.num))
        close(log_det[:, t - 1], torch.linalg.slogdet(torch.eye(potential.dim) + hessian)[1], 1e-9)
        here = here + (w[..., None] * potential.gradients(here, float(t))).sum(1)
        close(z[:, t], here)


def test_no_weight_is_no_motion():
    flow, z0 = FlowPosterior(make_potential(3, 2)), randn(4, 3)
    z, log_det = flow.transport(z0, steps=3, weights=torch.zeros(4, 2))
    assert torch.equal(z, z0[:, None].expand(4, 4, 3))
    assert (log_det == 0).all()


def test_a_path_can_be_cut_where_labels_switch():
    """With potentials that do not look at the clock, two flows after each other are one switching flow."""

    class Timeless(torch.nn.Module):
        def __init__(self):
            super().__init__()
            self.wave = Wave(3, 2).double()

        def forward(self, z, t):
            return self.wave(z, 0 * t)

    flow, z0 = FlowPosterior(Timeless()), randn(4, 3)
    whole, log_det = flow.transport(z0, torch.tensor([[0, 0, 1, 1, 1]]).expand(4, 5), 5)
    first, first_log_det = flow.transport(z0, 0, 2)
    second, second_log_det = flow.transport(first[:, -1], 1, 3)
    close(whole, torch.cat((first, second[:, 1:]), 1))
    close(log_det, torch.cat((first_log_det, second_log_det), 1))


def test_constraint_ignores_potentials_without_weight():
    """Also their gradients: a label trains its own potential only."""
    potential = make_potential(3, 3)
    flow, hj = FlowPosterior(potential), HJConstraint(potential)
    for way in ({"k": 1}, {"k": torch.ones(4, dtype=torch.int64)}):
        path = flow(gaussian(4, 3), steps=2, **way)
        (gradient,) = torch.autograd.grad(hj(path).sum() + path.log_q.sum(), potential.input_weight)
        assert gradient[1].abs().max() > 0
        assert (gradient[[0, 2]] == 0).all()


def test_gradients_reach_the_weights():
    flow, prior = FlowPosterior(make_potential(2, 2, strength=1.5)), DiffusionPrior(2, 0.3, dtype=torch.float64)
    hj = HJConstraint(flow.potential)
    weights = (0.5 + rand(3, 2, 2)).requires_grad_()

    def total(weights):
        path = flow(gaussian(3, 2), weights=weights, steps=2, generator=torch.Generator().manual_seed(0))
        return path.z, path.log_q, hj(path), flow_kl(path, prior)

    assert torch.autograd.gradcheck(total, weights)


@pytest.mark.parametrize("num", [1, 2])
def test_int_is_a_shortcut_for_users_modules_too(num):
    flow, z0 = FlowPosterior(Wave(3, num).double()), randn(4, 3)
    close(flow.transport(z0, num - 1, 2)[0], flow.transport(z0, torch.full((4,), num - 1), 2)[0])


def test_what_acts_is_known_by_its_tensors_and_by_what_was_written_to_them():
    path = FlowPosterior(make_potential(3, 2))(gaussian(4, 3), torch.tensor([0, 1, 1, 0]), steps=2)
    acts, its_own = path.acting, (path.weights, path.times)
    assert acts.is_of(*its_own)
    copied, copies = pickle.loads(pickle.dumps((acts, its_own)))
    assert copied.is_of(*copies)
    assert not copied.is_of(*its_own)
    assert not acts.is_of(path.weights.clone(), path.times)
    assert not acts.is_of(path.weights, path.times.clone())
    noted_by_a_compiler = dataclasses.replace(acts, state=())
    path.times.add_(1)
    assert not acts.is_of(*its_own)
    late, late_copies = pickle.loads(pickle.dumps((acts, its_own)))
    assert not late.is_of(*late_copies), "it has been written to before it was copied"
    assert noted_by_a_compiler.is_of(*its_own), "it can tell tensors apart, and nothing else"
