"""Which rows the networks see, in groups of labels or in parts for threads, changes no number and spares what does not act."""

import pytest
import torch
from hypothesis import example, given
from hypothesis import strategies as st
from torch.distributions import Independent, Normal
from torch.fx.experimental.proxy_tensor import make_fx

from latentflow import FlowPosterior, HJConstraint, NegativeForce, groups, layout, rollout, validate_values
from latentflow.acting import acting
from tests.problems import gaussian, make_potential, potentials, rand, seeds

groups_cost = st.sampled_from([0, 1, groups.GROUP])  # the less a group costs, the more of them there are


few_labels = st.lists(st.integers(0, 4), min_size=1, max_size=12)
even_labels = st.builds(
    lambda labels, times: labels * times, st.lists(st.integers(0, 4), unique=True, min_size=2), st.integers(2, 3)
)


@given(
    potential=potentials(),
    log_det=st.sampled_from(["exact", "hutchinson", "laplacian", None]),
    substeps=st.sampled_from([1, 2]),
    num=st.integers(2, 3),
    each=st.integers(1, 3),
    seed=seeds,
)
def test_cut_into_parts_a_network_says_and_learns_the_same(potential, log_det, substeps, num, each, seed):
    force, batch = NegativeForce(potential.dim, potential.num, dtype=torch.float64), num * each
    q0 = gaussian(batch, potential.dim)
    start, parameters = q0.mean.clone().requires_grad_(), [*potential.parameters(), *force.parameters()]
    q0, results = Independent(Normal(start, torch.ones_like(start)), 1), []
    for parts in (num, 1):
        with pytest.MonkeyPatch.context() as patch:
            patch.setattr(rollout, "parts_of", lambda z, parts=parts: parts)
            generator = torch.Generator().manual_seed(seed)
            path = FlowPosterior(potential, log_det, substeps=substeps)(
                q0, potential.num - 1, steps=3, generator=generator
            )
        found = [path.z, HJConstraint(potential, force)(path), *([] if log_det is None else [path.log_q])]
        loss = sum((x * rand(*x.shape, seed=seed)).sum() for x in found)
        wanted = [start, *parameters]
        gradients = torch.autograd.grad(loss, wanted, create_graph=True, allow_unused=True)
        gradients = [x for x in gradients if x is not None]
        again = torch.autograd.grad(sum(x.square().sum() for x in gradients), wanted, allow_unused=True)
        results.append([*found, *gradients, *(x for x in again if x is not None)])
    for ours, truth in zip(*results, strict=True):
        assert (ours - truth).abs().max() < 1e-10 * (1 + truth.abs().max())


@given(labels=few_labels | even_labels.flatmap(st.permutations), group=groups_cost, seed=seeds)
def test_groups_of_any_sizes_put_every_sample_back_in_its_place(labels, group, seed):
    potential, batch = make_potential(3, 5), len(labels)
    z0 = gaussian(batch, 3).mean + 0.1 * (seed % 3)
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(groups, "GROUP", group)
        z, log_det = FlowPosterior(potential).transport(z0, torch.tensor(labels), 2)
    for i, k in enumerate(labels):
        alone, its_log_det = FlowPosterior(potential).transport(z0[i : i + 1], k, 2)
        torch.testing.assert_close(z[i : i + 1], alone, rtol=1e-12, atol=1e-12)
        torch.testing.assert_close(log_det[i : i + 1], its_log_det, rtol=1e-11, atol=1e-11)


@example(counts=[300, *[1] * 63])  # as one size for all would make them many
@given(counts=st.lists(st.integers(0, 300), min_size=1, max_size=64).filter(any))
def test_labels_never_pay_for_potentials_that_do_not_act(counts):
    """Neither many potentials nor uneven labels cost more than three times what as many samples cost, shared out evenly."""
    labels = torch.arange(len(counts)).repeat_interleave(torch.tensor(counts))
    what = acting(len(counts), torch.zeros(len(labels), 2), labels, None, 1)
    found = layout.layout_of(what, torch.float64)
    num, rows = (1, len(labels)) if found.rows is None else (len(found.rows), found.rows.numel())
    present = sum(count > 0 for count in counts)
    assert rows + groups.GROUP * num <= 3 * (len(labels) + groups.GROUP * present)


@given(
    labels=st.integers(1, 9).flatmap(
        lambda num: st.tuples(st.just(num), st.lists(st.integers(0, num - 1), min_size=1, max_size=40))
    )
)
def test_labels_that_are_not_read_are_grouped_all_the_same(labels):
    num, labels = labels[0], torch.tensor(labels[1])
    networks, rows, place = groups.of_unread(labels, num)
    assert len(rows) < 2 * num  # as many for any labels
    assert rows.shape[1] == -(-len(labels) // num)
    torch.testing.assert_close(rows.flatten()[place], torch.arange(len(labels)))
    assert (labels[rows] == networks[:, None]).all()  # no network sees the samples of another


@given(
    potential=potentials(),
    labels=st.lists(st.integers(0, 8), min_size=1, max_size=9),
    log_det=st.sampled_from(["exact", "hutchinson", "laplacian", None]),
    seed=seeds,
)
def test_labels_that_are_not_read_say_and_teach_what_those_that_are_do(potential, labels, log_det, seed):
    labels, q0 = torch.tensor(labels) % potential.num, gaussian(len(labels), potential.dim)
    hj, results = HJConstraint(potential, NegativeForce(potential.dim, potential.num, dtype=torch.float64)), []
    for read in (False, True):
        with validate_values(read):
            generator = torch.Generator().manual_seed(seed)
            path = FlowPosterior(potential, log_det)(q0, labels, steps=2, generator=generator)
        assert path.rollout.layout.weights is None  # no mixture
        found = [path.z, hj(path), *([] if log_det is None else [path.log_q])]
        loss = sum((x * rand(*x.shape, seed=seed)).sum() for x in found)
        results.append([*found, *torch.autograd.grad(loss, [*hj.parameters()], materialize_grads=True)])
    for ours, truth in zip(*results, strict=True):
        assert (ours - truth).abs().max() < 1e-10 * (1 + truth.abs().max())


@pytest.mark.parametrize("read", [False, True])
def test_a_network_that_overflows_and_does_not_act_spoils_nothing(read):
    potential, labels = make_potential(3, 4), torch.tensor([1, 0, 1, 1, 1])
    with torch.no_grad():
        for parameter in potential.parameters():
            parameter[2:] = 1e200
    with validate_values(read):
        path = FlowPosterior(potential)(gaussian(5, 3), labels, steps=2)
        loss = (HJConstraint(potential)(path) + path.log_q.sum(1)).sum()
    gradients = torch.autograd.grad(loss, [*potential.parameters()], materialize_grads=True)
    assert all(gradient.isfinite().all() for gradient in (loss, *gradients))
    assert not any(gradient[2:].any() for gradient in gradients)


def test_a_batch_of_one_label_costs_what_the_number_costs():
    potential, q0 = make_potential(3, 64), gaussian(128, 3)
    for k in (5, torch.full((128,), 5)):
        path = FlowPosterior(potential)(q0, k, steps=1)
        assert path.rollout.local.first.shape[:2] == (1, 128)


def test_compiled_for_a_known_batch_each_thread_of_a_cpu_has_a_part_of_one_network_s_rows(monkeypatch):
    monkeypatch.setattr(torch, "get_num_threads", lambda: 3)
    enough = 3 * layout.PART
    assert layout.parts_of(torch.zeros(enough, 2)) == 1
    monkeypatch.setattr(torch.compiler, "is_compiling", lambda: True)
    assert [layout.parts_of(torch.zeros(batch, 2)) for batch in (enough, enough + 1, enough - 3, 0)] == [3, 1, 1, 1]
    assert layout.parts_of(torch.zeros(enough, 2, device="meta")) == 1


def test_a_traced_graph_takes_the_labels_that_it_is_given():
    """Make_fx computes with real numbers, which must not become a part of the graph."""
    flow, z0, one, other = FlowPosterior(make_potential(3, 4)), gaussian(5, 3).mean, *torch.randint(4, (2, 5))
    traced = make_fx(lambda z, k: flow.transport(z, k, 2)[0])(z0, one)
    torch.testing.assert_close(traced(z0, other), flow.transport(z0, other, 2)[0], rtol=1e-12, atol=1e-12)


def test_even_labels_of_all_potentials_need_no_copy_of_them():
    path = FlowPosterior(make_potential(3, 64))(gaussian(128, 3), torch.arange(128) % 64, steps=1)
    assert path.rollout.layout.k is None
    assert path.rollout.layout.rows.shape == (64, 2)
