"""log |det(I + H)| against the determinant of the autograd Jacobian of the step, folds, and the two cheaper estimates."""

import itertools

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st

from latentflow import FlowPosterior, logdet
from latentflow.curvature import Curvature
from latentflow.layout import Layout
from tests import problems
from tests.problems import (
    Drawn,
    Folding,
    Opaque,
    Reflection,
    Wave,
    gaussian,
    make_potential,
    potentials,
    rand,
    randn,
    reference_path,
    seeds,
    symmetric,
)


def close(a, b, tolerance=1e-9):
    problems.close(a, b, tolerance)


def check_against_jacobian(flow, z0, weights):
    z, jacobians = reference_path(flow.potential, z0, weights, flow.substeps, flow.label)
    path = flow(Drawn(torch.zeros_like(z0), torch.ones_like(z0), z0), weights=weights, steps=weights.shape[1])
    close(path.z, z)
    close(path.log_det, torch.linalg.slogdet(jacobians)[1].sum(2))
    smallest = torch.linalg.eigvalsh(jacobians)[..., 0]
    assert smallest.abs().min() > 1e-9, "too close to singular to tell folds by rounding"
    assert torch.equal(path.folds, (smallest <= 0).any(2))
    close(path.log_q, path.q0.log_prob(z0)[:, None] - torch.nn.functional.pad(path.log_det, (1, 0)).cumsum(1), 1e-12)
    return path


@given(potentials(), seeds, st.integers(1, 3), st.sampled_from(["end", "start"]), st.booleans())
def test_exact_is_the_jacobians_determinant(potential, seed, substeps, label, opaque):
    flow = FlowPosterior(Opaque(potential) if opaque else potential, substeps=substeps, label=label)
    check_against_jacobian(flow, randn(3, potential.dim, seed=seed), rand(3, 2, potential.num, seed=seed))


@pytest.mark.parametrize("dim", [1, 2, 7, 33, 64])
@pytest.mark.parametrize("hidden", [3, 24, None])
@pytest.mark.parametrize("opaque", [False, True])
def test_exact_up_to_64_dimensions(dim, hidden, opaque):
    potential = make_potential(dim, 2, hidden, strength=2.0)
    flow = FlowPosterior(Opaque(potential) if opaque else potential)
    check_against_jacobian(flow, randn(3, dim), rand(3, 1, 2))


def test_exact_for_a_users_network_in_64_dimensions():
    check_against_jacobian(FlowPosterior(Wave(64, 2, width=32).double()), randn(3, 64), 4 * rand(3, 1, 2))


@pytest.mark.parametrize(
    ("potential", "substeps"),
    [
        (Folding(2.0), 1),
        (Folding(3.5), 3),
        (make_potential(3, 1, seed=3, strength=9.0), 1),
        (make_potential(3, 1, seed=3, strength=16.0), 3),
        (Reflection(), 1),
    ],
)
def test_folded_samples_are_measured_and_flagged(potential, substeps):
    ones = torch.ones(40, 2, 1, dtype=torch.float64)
    path = check_against_jacobian(FlowPosterior(potential, substeps=substeps), 6 * randn(40, 3), ones)
    assert path.folds.any(), "nothing folds: the test tests nothing"
    assert path.folds.all() == isinstance(potential, Reflection)


def test_an_even_number_of_folds_is_still_a_fold():
    """I + H = -I in two dimensions has determinant 1, which no sign of a determinant can tell from the identity."""
    _, folds = logdet.exact(-2 * torch.eye(2))
    assert folds


@pytest.mark.parametrize("dim", [1, 3, 6])
def test_exact_under_vmap_needs_no_values(dim):
    hessians = torch.stack([symmetric(dim, seed, 2.0 * (seed % 2) + 0.2) for seed in range(12)])
    value, folds = torch.func.vmap(logdet.exact)(hessians)
    identity = torch.eye(dim, dtype=hessians.dtype)
    close(value, torch.linalg.slogdet(identity + hessians)[1])
    assert torch.equal(folds, torch.linalg.eigvalsh(identity + hessians)[:, 0] <= 0)
    assert folds.any()
    assert not folds.all()


@pytest.mark.parametrize("fold", [False, True])
def test_exact_has_the_right_gradient(fold):
    start = torch.stack([symmetric(3, seed, 0.5) for seed in range(2)])
    if fold:
        start[1] -= 2.5 * torch.eye(3)

    def both(a):
        return logdet.exact(0.5 * (a + a.mT))[0]

    assert logdet.exact(start)[1].tolist() == [False, fold]
    assert torch.autograd.gradcheck(both, start.requires_grad_())


@pytest.mark.parametrize("dim", [1, 2, 5])
def test_hutchinson_is_unbiased_over_all_probes(dim):
    """A Rademacher vector has 2^d values, so that its expectation is a finite sum."""
    probes = torch.tensor(list(itertools.product((-1.0, 1.0), repeat=dim)), dtype=torch.float64)
    hessian = symmetric(dim, seed=dim)
    estimates = logdet.hutchinson(probes @ hessian, probes)
    close(estimates.mean(), torch.trace(hessian) - 0.5 * torch.trace(hessian @ hessian), 1e-12)


@pytest.mark.parametrize("substeps", [1, 2])
@pytest.mark.parametrize("opaque", [False, True])
def test_hutchinsons_flow_averages_to_the_second_order_expansion(substeps, opaque):
    potential = make_potential(3, 2)
    z0, weights, n = randn(1, 3), rand(1, 2, 2), 4000
    _, jacobians = reference_path(potential, z0, weights, substeps)
    hessians = jacobians - torch.eye(3)
    trace, square = (h.diagonal(dim1=-2, dim2=-1).sum(-1) for h in (hessians, hessians @ hessians))
    flow = FlowPosterior(Opaque(potential) if opaque else potential, "hutchinson", substeps=substeps)
    generator = torch.Generator().manual_seed(1)
    _, estimates = flow.transport(
        z0.expand(n, -1), steps=2, weights=weights.expand(n, -1, -1).contiguous(), generator=generator
    )
    expected, standard_error = (trace - 0.5 * square).sum(2)[0], estimates.std(0) / n**0.5
    assert ((estimates.mean(0) - expected).abs() < 4 * standard_error).all()
    assert (0.5 * square.sum(2)[0] > 8 * standard_error).any(), "too noisy to see the second-order term"


def test_hutchinsons_probes_come_from_the_generator_and_are_signs():
    like = torch.empty(500, 4, dtype=torch.float64)
    probes = logdet.rademacher(like, torch.Generator().manual_seed(0))
    assert probes.dtype == torch.float64
    assert probes.abs().eq(1).all()
    assert probes.mean(0).abs().max() < 4 / 500**0.5
    # neither what came before nor how the latents lie in memory
    across = torch.empty(4, 500, dtype=torch.float64).mT
    assert torch.equal(probes, logdet.rademacher(across, torch.Generator().manual_seed(0)))
    torch.manual_seed(0)
    unseeded = logdet.rademacher(like)
    torch.manual_seed(0)
    assert torch.equal(unseeded, logdet.rademacher(across))


@pytest.mark.parametrize("opaque", [False, True])
@pytest.mark.parametrize("solver", ["euler", "rk4"])
def test_a_generator_makes_hutchinsons_estimates_reproducible(solver, opaque):
    potential, q0 = make_potential(4), gaussian(6, 4)
    flow = FlowPosterior(Opaque(potential) if opaque else potential, "hutchinson", solver=solver)
    for estimate in (
        lambda generator: flow(q0, 0, steps=2, generator=generator).log_q,
        lambda generator: flow.transport(q0.mean, 0, 2, generator=generator)[1],
    ):
        first, second, other = (estimate(torch.Generator().manual_seed(seed)) for seed in (5, 5, 6))
        assert torch.equal(first, second)
        assert not torch.equal(first, other)


@given(potentials(), seeds, st.integers(1, 3), st.booleans())
def test_laplacian_is_eq_10_as_printed(potential, seed, substeps, opaque):
    z0, weights = randn(3, potential.dim, seed=seed), rand(3, 2, potential.num, seed=seed)
    _, jacobians = reference_path(potential, z0, weights, substeps)
    traces = (jacobians - torch.eye(potential.dim)).diagonal(dim1=-2, dim2=-1).sum(-1)
    flow = FlowPosterior(Opaque(potential) if opaque else potential, "laplacian", substeps=substeps)
    close(flow.transport(z0, steps=2, weights=weights)[1], (1 + traces).abs().log().sum(2))


def test_laplacian_is_far_off_in_many_dimensions():
    """Why eq. 10 is not the default: H = 0.1 I in 324 dimensions has 30.88 nats, and eq. 10 gives 3.51."""
    hessian = 0.1 * torch.eye(324, dtype=torch.float64)
    assert logdet.exact(hessian)[0].item() == pytest.approx(30.88, abs=0.005)
    assert logdet.laplacian(torch.trace(hessian)).item() == pytest.approx(3.51, abs=0.005)


def test_no_densities_on_request():
    path = FlowPosterior(make_potential(3), None)(gaussian(5, 3), 0, steps=2)
    assert path.log_q is None
    assert path.log_det is None
    assert path.folds is None
    assert FlowPosterior(make_potential(3), "hutchinson")(gaussian(5, 3), 0, steps=2).folds is None


def test_the_gradient_of_the_log_determinant_is_right_to_second_order_and_forwards():
    root = rand(3, 4, 4)

    def log_det(root):
        return logdet.exact(root @ root.mT)[0]

    assert torch.autograd.gradcheck(log_det, root.requires_grad_(), check_forward_ad=True)
    assert torch.autograd.gradgradcheck(log_det, root)


@pytest.mark.parametrize("weighted", [False, True])
@pytest.mark.parametrize("bounded", [False, True])
@pytest.mark.parametrize("hidden", [2, 6])  # fewer and more than there are latents
def test_the_gradient_of_a_curvature_is_right_to_second_order_and_forwards(weighted, bounded, hidden):
    potential = make_potential(3, 2, hidden, bounded=bounded, strength=1.0)
    local = potential._answers_of(0.3 * randn(4, 3), 1.0, Layout(None)).local
    weights = rand(2, 4, 1) if weighted else None
    factors = [x.detach().requires_grad_() for x in local.curvature(weights, reduced=True)]
    assert not Curvature(*factors).log_det()[1].any()
    size = factors[2].shape[-1]

    def log_det(*factors):
        return Curvature(*factors).log_det()[0]

    truth = torch.linalg.slogdet(torch.eye(size, dtype=torch.float64) + Curvature(*factors).hessian()).logabsdet
    torch.testing.assert_close(log_det(*factors), truth, rtol=1e-12, atol=1e-12)
    assert torch.autograd.gradcheck(log_det, factors, check_forward_ad=True, fast_mode=True)
    assert torch.autograd.gradgradcheck(log_det, factors, fast_mode=True)


@pytest.mark.parametrize("weighted", [False, True])
@pytest.mark.parametrize("bounded", [False, True])
@pytest.mark.parametrize("dim", [2, 5])  # fewer and more than the hidden layer is wide
def test_many_hessians_are_those_of_one_after_the_other(weighted, bounded, dim):
    potential, z = make_potential(dim, 2, 3, bounded=bounded, strength=0.5), randn(12, dim).requires_grad_()
    weights, by = rand(2, 12, 1) if weighted else None, randn(2, 12)[: 1 if weighted else 2]
    inputs = z, *potential.parameters()

    def log_det(rows):
        here = potential._answers_of(z[rows], 1.0, Layout(None)).local
        return here.curvature(None if weights is None else weights[:, rows], reduced=True).log_det()[0]

    together, apart = log_det(slice(None)), torch.cat([log_det(slice(n, n + 1)) for n in range(12)], 1)
    close(together, apart, 1e-12)
    options = {"retain_graph": True, "materialize_grads": True}
    once, again, truth = (torch.autograd.grad(found, inputs, by, **options) for found in (together, together, apart))
    for x, y, true in zip(once, again, truth, strict=True):
        assert torch.equal(x, y), "what is kept for the gradient was written to"
        close(x, true, 1e-12)


ACTING = {
    "index": {"k": 1},
    "labels": {"k": torch.tensor([0, 1, 1])},
    "labels by step": {"k": torch.tensor([[0, 1], [1, 1], [1, 0]])},
    "weights": {"weights": rand(3, 2)},
}


class LogDet(torch.nn.Module):
    """That of two steps, summed up for each sample, as a module whose parameters `functional_call` can vary."""

    def __init__(self, potential, acts):
        super().__init__()
        self.flow, self.acts = FlowPosterior(potential), ACTING[acts]

    def forward(self, z0):
        return self.flow.transport(z0, steps=2, **self.acts)[1].sum(1)


@pytest.mark.parametrize("acts", ACTING)
@pytest.mark.parametrize("bounded", [False, True])
@pytest.mark.parametrize(
    "hidden", [1, 2, 5]
)  # narrower than the latent, so that the Hessians are made in a smaller basis
def test_exact_log_dets_are_right_to_second_order_in_all_parameters(acts, bounded, hidden):
    module = LogDet(make_potential(4, 2, hidden, bounded=bounded, strength=1.0), acts)
    z0, (names, parameters) = 0.5 * randn(3, 4), zip(*module.named_parameters(), strict=True)

    def log_det(*values):
        return torch.func.functional_call(module, dict(zip(names, values, strict=True)), (z0,))

    values = [p.detach().clone().requires_grad_() for p in parameters]
    assert torch.autograd.gradcheck(log_det, values, fast_mode=True)
    assert torch.autograd.gradgradcheck(log_det, values, fast_mode=True)


@pytest.mark.parametrize("hidden", [2, 5])
@pytest.mark.parametrize("own", [False, True])
def test_all_ways_to_second_derivatives_of_exact_log_dets_agree(own, hidden):
    potential, z0 = make_potential(4, 2, hidden, strength=1.0), 0.5 * randn(4)
    flow = FlowPosterior(potential if own else Opaque(potential))

    def log_det(z):
        return flow.transport(z[None], 0, 2)[1].sum()

    truth = torch.autograd.functional.hessian(log_det, z0)
    for outer, inner in itertools.product((torch.func.jacrev, torch.func.jacfwd), repeat=2):
        torch.testing.assert_close(outer(inner(log_det))(z0), truth, rtol=1e-9, atol=1e-9)
    torch.testing.assert_close(torch.func.hessian(log_det)(z0), truth, rtol=1e-9, atol=1e-9)


@pytest.mark.parametrize("hidden", [2, 5])
@pytest.mark.parametrize("own", [False, True])
def test_many_gradients_of_exact_log_dets_may_go_back_at_once(own, hidden):
    potential, z0 = make_potential(4, 2, hidden, strength=1.0), (0.5 * randn(3, 4)).requires_grad_()
    value = FlowPosterior(potential if own else Opaque(potential)).transport(z0, 0, 2)[1].sum(1)
    inputs = z0, *potential.parameters()
    options = {"retain_graph": True, "allow_unused": True, "materialize_grads": True}
    together = torch.autograd.grad(value, inputs, torch.eye(3, dtype=value.dtype), is_grads_batched=True, **options)
    apart = zip(*(torch.autograd.grad(x, inputs, **options) for x in value), strict=True)
    for found, each in zip(together, apart, strict=True):
        torch.testing.assert_close(found, torch.stack(each), rtol=1e-10, atol=1e-12)
