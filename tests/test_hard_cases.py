"""Corners where a natural implementation gives nan, a wrong gradient or an accusation of the wrong sample."""

import copy
import dataclasses
import math

import numpy as np
import pytest
import torch
from torch.distributions import Independent, Normal

from latentflow import (
    DiffusionPrior,
    FlowPosterior,
    FoldError,
    GumbelSelector,
    HJConstraint,
    Potential,
    flow_kl,
    logdet,
)
from latentflow import validate_values as checking
from latentflow.metrics import importance_weighted_bound
from tests.problems import gaussian, make_potential, randn


class Formula(torch.nn.Module):
    """A potential given as a function of z alone."""

    def __init__(self, *formulas):
        super().__init__()
        self.formulas = formulas

    def forward(self, z, t):
        return torch.stack([formula(z) for formula in self.formulas], -1)


def sum_exp(z):
    return z.exp().sum(-1)


@pytest.mark.parametrize("damage", ["none", "equal rows", "zero row", "all zero"])
def test_the_reduced_log_det_has_the_right_gradient_for_any_rank(damage):
    potential, z = make_potential(10, 2, 3), randn(5, 10)
    with torch.no_grad():
        if damage == "equal rows":
            potential.input_weight[:, 1] = potential.input_weight[:, 0]
        elif damage == "zero row":
            potential.input_weight[:, 1] = 0
        elif damage == "all zero":
            potential.input_weight.zero_()
    weights = torch.rand(5, 2, dtype=z.dtype)
    gradients = []
    for reduced in (True, False):
        potential.zero_grad()
        exact = potential.log_det(z, 1.0, weights) if reduced else logdet.exact(potential.hessian(z, 1.0, weights))
        value = exact[0].sum()
        value.backward()
        gradients.append([value.detach(), *(p.grad for p in potential.parameters() if p.grad is not None)])
    for ours, truth in zip(*gradients, strict=True):
        torch.testing.assert_close(ours, truth, rtol=1e-10, atol=1e-12)


@pytest.mark.parametrize("smallest", [1e-3, 1e-4, 1e-5, 1e-6])
def test_a_log_det_without_looking_at_values_survives_the_edge_of_a_fold(smallest):
    basis = torch.linalg.qr(torch.randn(200, 16, 16, generator=torch.Generator().manual_seed(0))).Q
    eigenvalues = torch.cat((torch.tensor([-smallest]), torch.linspace(0.8, 1.2, 15)))
    matrix = (basis * eigenvalues) @ basis.mT
    hessian = (0.5 * (matrix + matrix.mT) - torch.eye(16)).requires_grad_()
    with checking(False):
        value, _ = logdet.exact(hessian)
    seen = torch.linalg.eigvalsh(hessian.detach().double() + torch.eye(16)).abs().log().sum(-1)
    assert (value.double() - seen).abs().max() < 10 * torch.finfo(torch.float32).eps / smallest
    (gradient,) = torch.autograd.grad(value.sum(), hessian)
    assert gradient.isfinite().all()


@pytest.mark.parametrize("weight", [1.0, 2.5, 100.0])
def test_a_saturated_bounded_potential_stands_still(weight):
    potential = Potential(3, 2, 8, bounded=True)
    torch.nn.init.constant_(potential.output_bias, 30.0)
    z0 = torch.randn(4, 3, requires_grad=True)
    z, log_det = FlowPosterior(potential).transport(z0, weights=torch.full((4, 2), weight), steps=2)
    torch.testing.assert_close(z[:, -1], z0)
    assert log_det.abs().max() == 0
    log_det.sum().backward()
    assert z0.grad.isfinite().all()


def test_an_inactive_potential_may_overflow_where_labels_say_that_it_does_not_act():
    potential = Formula(lambda z: -0.1 * z.square().sum(-1), sum_exp)
    q0 = Independent(Normal(torch.full((2, 3), 55.0), torch.ones(2, 3)), 1)
    losses = []
    for k in (0, torch.tensor([0, 0]), torch.zeros(2, 1).long()):
        path = FlowPosterior(potential)(q0, k, steps=1, generator=torch.Generator().manual_seed(0))
        losses.append(HJConstraint(potential)(path))
    assert losses[0].isfinite().all()
    torch.testing.assert_close(losses[0], losses[1])
    torch.testing.assert_close(losses[0], losses[2])


def test_weights_that_replace_those_of_a_labelled_path_count():
    potential = make_potential(3, 2)
    path = FlowPosterior(potential)(gaussian(4, 3), 0, steps=2)
    weights = torch.rand(4, 2, 2, dtype=torch.float64)
    moved = type(path)(path.z, path.log_q, path.log_det, path.folds, weights, path.times, path.q0)

    replaced = dataclasses.replace(path, weights=weights)
    hj = HJConstraint(potential)
    torch.testing.assert_close(hj(replaced), hj(moved))
    assert not torch.allclose(hj(replaced), hj(path))


def test_fold_errors_name_the_guilty_only():
    flow = FlowPosterior(Formula(sum_exp))
    good, bad = torch.tensor([[0.1], [-2.0], [60.0]]), torch.tensor([[200.0]])
    alone = flow.inverse(good, 0, 1)
    torch.testing.assert_close(alone + alone.exp(), good)
    with pytest.raises(FoldError) as caught:
        flow.inverse(torch.cat((good, bad)), 0, 1)
    assert (caught.value.step, caught.value.samples) == (1, [3])


def test_an_adaptive_solver_that_cannot_go_back_is_a_fold_error():
    flow = FlowPosterior(Formula(lambda z: -(z**3).sum(-1) / 3), solver="dopri5")
    with pytest.raises(FoldError, match="'dopri5' cannot go back along the path") as caught:
        flow.inverse(torch.tensor([[0.2], [0.3], [2.0]], dtype=torch.float64), 0, 1)
    assert (caught.value.step, caught.value.samples) == (1, [2])


def test_inverse_and_log_prob_have_second_derivatives():
    flow, q0 = FlowPosterior(make_potential(2, 1, strength=0.5)), gaussian(3, 2)
    y = randn(3, 2).requires_grad_()
    assert torch.autograd.gradgradcheck(lambda y: flow.inverse(y, 0, 2), y)
    assert torch.autograd.gradgradcheck(lambda y: flow.log_prob(y, q0, 0, 1), y)


def test_a_singular_step_is_an_error_instead_of_a_nan_gradient():
    learned = torch.ones((), requires_grad=True)
    flow = FlowPosterior(Formula(lambda z: -0.5 * learned * z.square().sum(-1)))
    with pytest.raises(ValueError, match=r"log_det: got -inf in sample 0 at step 1, expected a finite"):
        flow.transport(torch.randn(2, 3), 0, 1)
    with pytest.raises(ValueError, match=r"log_det: got -inf"):  # where it is not known to fold
        FlowPosterior(flow.potential, "laplacian").transport(torch.full((2, 1), 0.5), 0, 1)


@pytest.mark.parametrize("substeps", [1, 2])
def test_a_singular_step_is_a_fold_where_nobody_asks_for_gradients(substeps):
    """All volume of the second coordinate is lost."""
    flow = FlowPosterior(Formula(lambda z: -0.5 * substeps * z[..., 1].square()), substeps=substeps)
    path = flow(gaussian(4, 3), 0, steps=2)
    assert path.folds.all()
    assert (path.log_det == -math.inf).all()
    assert (path.z[:, 1:, 1] == 0).all()
    with pytest.raises(ValueError, match="flow_kl: got"):
        flow_kl(path, DiffusionPrior(dtype=torch.float64))


def test_potentials_survive_meta_devices_and_low_precision():
    potential, z = Potential(4, 2), torch.randn(3, 4)
    empty = Potential(4, 2, device="meta").to_empty(device="cpu")
    empty.load_state_dict(potential.state_dict())
    assert torch.equal(empty(z, 9.0), potential(z, 9.0))
    rounded = copy.deepcopy(potential).bfloat16().float()
    rounded.load_state_dict(potential.state_dict())
    assert torch.equal(rounded(z, 9.0), potential(z, 9.0))


@pytest.mark.parametrize("k", [-1, 2])
def test_an_index_out_of_range_is_refused_by_the_derivatives_too(k):
    potential, z = Potential(3, 2), torch.randn(4, 3)
    for derivative in (potential.gradient, potential.hessian, potential.laplacian, potential.first_derivatives):
        with pytest.raises(ValueError, match=r"k: got .* expected 0, \.\.\., 1"):
            derivative(z, 1.0, k)


def test_numpy_integers_are_integers():
    flow, q0 = FlowPosterior(make_potential(3, 2)), gaussian(4, 3)
    generator = torch.Generator()
    ours = flow(q0, np.int64(1), steps=np.int64(3), generator=generator.manual_seed(0))
    assert torch.equal(ours.z, flow(q0, 1, steps=3, generator=generator.manual_seed(0)).z)


def test_a_users_dim_and_num_may_mean_anything():
    potential = Formula(lambda z: 0.1 * z.square().sum(-1))
    potential.dim, potential.num = 64, 12
    z, _ = FlowPosterior(potential).transport(torch.ones(2, 3), 0, 1)
    torch.testing.assert_close(z[:, 1], torch.full((2, 3), 1.2))


def test_huge_logits_and_small_temperatures_choose_without_nan():
    selector = GumbelSelector(torch.nn.Identity(), 3)
    selector.temperature.fill_(0.05)
    logits = torch.tensor([[3e38, 0.0, -3e38]], requires_grad=True)
    weights, _ = selector(logits)
    assert weights.tolist() == [[1.0, 0.0, 0.0]]
    weights[0, 0].backward()
    assert logits.grad.isfinite().all()


def test_importance_weighting_scores_a_half_precision_posterior_in_full():
    potential, generator = Potential(3), torch.Generator()
    mean, std = torch.randn(4, 3).bfloat16(), (torch.rand(4, 3) * 0.1 + 0.01).bfloat16()
    bounds = []
    for dtype in (torch.bfloat16, torch.float32):  # the same distribution twice: numbers that bfloat16 can hold
        q0 = Independent(Normal(mean.to(dtype), std.to(dtype)), 1)
        assert flow_kl(FlowPosterior(potential)(q0, 0, steps=1), DiffusionPrior()).dtype == torch.float32
        generator.manual_seed(0)
        bounds.append(
            importance_weighted_bound(
                lambda z: -0.5 * z.square().sum(-1), potential, q0, 0, steps=2, samples=8, generator=generator
            )
        )
    torch.testing.assert_close(*bounds)
    empty = Independent(Normal(torch.zeros(0, 3), torch.ones(0, 3)), 1)
    none = importance_weighted_bound(lambda z: z.sum(-1), Potential(3), empty, 0, steps=2, samples=2)
    assert none.shape == (0,)
