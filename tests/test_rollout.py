"""The shared evaluation of a path agrees with the plain one in everything."""

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
from tests.problems import Opaque, gaussian, make_potential, plain, potentials, rand, seeds, what_acts

groups_cost = st.sampled_from([0, 1, groups.GROUP])  # the less a group costs, the more of them there are


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


@pytest.mark.parametrize(
    ("kind", "num", "dim", "hidden"),
    [("int", 1, 24, 24), ("int", 1, 48, 16), ("weights", 3, 16, 16), ("labels", 8, 32, 32), ("int", 1, 64, 64)],
)
def test_the_stated_memory_is_kept(kind, num, dim, hidden):
    potential, memory = make_potential(dim, num, hidden), 2**20
    acts = {"int": {"k": 0}, "labels": {"k": torch.arange(64) % num}, "weights": {"weights": rand(64, num)}}
    act, z0 = acts[kind], rand(64, dim)

    def peak(**options):
        flow = FlowPosterior(potential, **options)
        return peak_bytes(lambda: flow.transport(z0, steps=8, **act)[-1].sum().backward())

    without = peak_bytes(lambda: FlowPosterior(potential, None).transport(z0, steps=8, **act)[0].sum().backward())
    whole = peak()
    assert whole > without + 2 * memory
    assert peak(memory=memory) < without + memory
    local = roll_out_of(potential, act, z0).local
    rows, stated = local.first.shape[1], local.hessian_bytes(kind == "weights")
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


@pytest.mark.parametrize("weights", [None, torch.ones(1, 2, 3, 1)])
def test_an_initial_term_that_is_left_out_may_overflow(weights):
    left, at_0, starts = torch.zeros(1, 6), torch.full((1, 3), torch.inf), torch.zeros(1, 2, 3, 2)
    layout = Layout(None, weights=weights)
    assert (penalty(layout, left, at_0, starts, None, price=0.0, factor=0.0) == 0).all()
