"""The shared evaluation of a path agrees with the plain one in everything, and is used only while it is true."""

import copy
import dataclasses
import pickle

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from latentflow import DiffusionPrior, FlowPosterior, HJConstraint, LatentPath, NegativeForce, flow_kl
from latentflow.rollout import Rollout
from tests.problems import Opaque, gaussian, make_potential, potentials, rand, seeds


def what_acts(kind, batch, steps, num, seed):
    generator = torch.Generator().manual_seed(seed)
    if kind == "weights":
        return {"weights": rand(batch, steps, num, seed=seed)}
    shape = {"int": (), "labels": (batch,), "switching": (batch, steps)}[kind]
    k = torch.randint(num, shape, generator=generator)
    return {"k": int(k) if kind == "int" else k}


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
    seed=seeds,
)
def test_every_number_and_gradient_is_that_of_the_plain_route(potential, kind, log_det, substeps, batch, seed):
    force = NegativeForce(potential.dim, potential.num, dtype=torch.float64)
    act = what_acts(kind, batch, 3, potential.num, seed)
    q0, parameters = gaussian(batch, potential.dim), [*potential.parameters(), *force.parameters()]
    results = []
    for module in (potential, Opaque(potential)):
        generator = torch.Generator().manual_seed(seed)
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


def stale_weights(path, potential):
    return dataclasses.replace(path, weights=rand(5, 3, 3))


@pytest.mark.parametrize("change", [stale_potential, stale_latents, stale_weights])
def test_what_has_changed_since_is_evaluated_anew(change):
    potential = make_potential(4, 3)
    path = FlowPosterior(potential)(gaussian(5, 4), 1, steps=3)
    hj = HJConstraint(potential, NegativeForce(4, 3).double())
    before = hj(path)
    changed = change(path, potential)
    torch.testing.assert_close(hj(changed), hj(plain(changed)), rtol=1e-12, atol=1e-12)
    assert not torch.allclose(hj(changed), before)


def test_the_copy_of_a_potential_is_another_potential():
    potential = make_potential(4, 3)
    path = FlowPosterior(potential)(gaussian(5, 4), 1, steps=3)
    other = copy.deepcopy(potential)
    with torch.no_grad():
        other.output_weight *= 2
    torch.testing.assert_close(HJConstraint(other)(path), HJConstraint(other)(plain(path)), rtol=1e-12, atol=1e-12)
    assert not torch.allclose(HJConstraint(other)(path), HJConstraint(potential)(path))


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


@given(labels=st.lists(st.integers(0, 4), min_size=1, max_size=12), seed=seeds)
def test_groups_of_any_sizes_put_every_sample_back_in_its_place(labels, seed):
    potential, batch = make_potential(3, 5), len(labels)
    z0 = gaussian(batch, 3).mean + 0.1 * seed % 3
    z, log_det = FlowPosterior(potential).transport(z0, torch.tensor(labels), 2)
    for i, k in enumerate(labels):
        alone, its_log_det = FlowPosterior(potential).transport(z0[i : i + 1], k, 2)
        torch.testing.assert_close(z[i : i + 1], alone, rtol=1e-12, atol=1e-12)
        torch.testing.assert_close(log_det[i : i + 1], its_log_det, rtol=1e-11, atol=1e-11)


def test_adding_potentials_does_not_slow_labels_down():
    """The rows that the networks see grow with the largest group, not with K times the batch."""
    potential, labels = make_potential(3, 64), torch.arange(128) % 64
    path = FlowPosterior(potential)(gaussian(128, 3), labels, steps=1)
    assert path.rollout.layout.rows.numel() == 128
    alone = FlowPosterior(potential)(gaussian(128, 3), 5, steps=1)
    assert alone.rollout.local.first.shape[:2] == (1, 128)
