"""The switch for checks of values: shapes and dtypes stay checked, and good input gives the same numbers."""

import pytest
import torch
from torch.distributions import Independent, MultivariateNormal, Normal
from torch.profiler import ProfilerActivity, profile

import latentflow
from latentflow import FlowPosterior, HJConstraint, validate_values
from latentflow.validate import may_read
from tests.problems import Opaque, gaussian, make_potential, rand, randn

P = make_potential(3, 2)
Q, Z, FLOW = gaussian(4, 3), randn(4, 3), FlowPosterior(P)
SPOILED = torch.where(torch.arange(4)[:, None] == 2, torch.inf, Z)


def test_value_checks_can_be_switched_off_and_come_back():
    checked = {
        "labels": lambda: FLOW(Q, torch.tensor([0, 1, 2, 5]), steps=2),
        "weights": lambda: FLOW(Q, weights=-rand(4, 2), steps=2),
        "latents": lambda: FLOW.transport(SPOILED, 0, 2),
        "residual": lambda: HJConstraint(P).residual(SPOILED, 1.0),
    }

    def all_raise():
        for call in checked.values():
            with pytest.raises(ValueError, match=r"got .*expected"):
                call()

    all_raise()
    with validate_values(False):
        for call in checked.values():
            call()
        with pytest.raises(ValueError, match=r"k: got shape"):  # shapes are always checked
            FLOW(Q, torch.zeros(3).long(), steps=2)
        with validate_values(True):
            all_raise()
        checked["labels"]()
    all_raise()


def test_the_switch_comes_back_after_an_error():
    with pytest.raises(KeyError), validate_values(False):
        raise KeyError
    with pytest.raises(ValueError, match="k: got labels"):
        FLOW(Q, torch.tensor([0, 1, 2, 5]), steps=2)


def test_the_switch_as_a_call_holds_until_the_next():
    validate_values(False)
    try:
        FLOW.transport(SPOILED, 0, 2)
    finally:
        validate_values(True)
    with pytest.raises(ValueError, match="z0: got"):
        FLOW.transport(SPOILED, 0, 2)


def test_unchecked_values_do_not_change_what_good_input_computes():
    """Folded samples take another route where values may not be read."""
    folding = make_potential(3, 1, seed=3, strength=9.0)
    z0 = 2 * randn(40, 3)
    for flow, expect_folds in ((FlowPosterior(folding), True), (FLOW, False)):
        z, log_det = flow.transport(z0, 0, 2)
        with validate_values(False):
            other_z, other_log_det = flow.transport(z0, 0, 2)
            path = flow(MultivariateNormal(z0, torch.eye(3).double()), 0, steps=2)
        assert torch.equal(z, other_z)
        torch.testing.assert_close(log_det, other_log_det, rtol=1e-7, atol=1e-7)
        assert path.folds.any() >= expect_folds


def test_a_posterior_without_scale_is_told_what_to_do():
    q0 = Independent(
        Normal(Z, torch.where(torch.arange(4)[:, None] == 2, 0.0, torch.ones_like(Z)), validate_args=False), 1
    )
    message = r"q0.log_prob\(z_0\): got 1 non-finite values in samples \[2\], .*; clamp the log-variance of the encoder"
    with pytest.raises(ValueError, match=message):
        FLOW(q0, 0, steps=1)


def test_the_components_are_public_and_documented():
    components = {
        *("Potential", "NegativeForce", "HJConstraint", "DiffusionPrior", "FlowPosterior", "GumbelSelector"),
        *("LatentPath", "FoldError", "flow_kl", "categorical_kl"),
    }
    assert components <= set(latentflow.__all__)
    for name in latentflow.__all__:
        assert getattr(latentflow, name).__doc__, name


@pytest.mark.parametrize(
    "potential", [make_potential(3, 2), make_potential(5, 2, hidden=2), Opaque(make_potential(3, 2))]
)
def test_nothing_is_read_on_the_way_back_either(potential):
    """A value that is read makes the host wait for its device, and breaks the capture of a CUDA graph."""
    dim = potential.dim if hasattr(potential, "dim") else 3
    mean = randn(4, dim).requires_grad_()
    q0 = Independent(Normal(mean, torch.ones_like(mean), validate_args=False), 1, validate_args=False)
    flow, hj = FlowPosterior(potential), HJConstraint(potential)
    with validate_values(False), profile(activities=[ProfilerActivity.CPU]) as seen:
        path = flow(q0, 0, steps=2)
        (hj(path).sum() + path.log_q.sum()).backward()
    assert "aten::_local_scalar_dense" not in {event.key for event in seen.key_averages()}


def test_one_switch_serves_again_and_inside_of_itself():
    with validate_values(True):
        off = validate_values(False)
        with off:
            assert not may_read(torch.zeros(1))
            with off:
                assert not may_read(torch.zeros(1))
            assert not may_read(torch.zeros(1))
        assert may_read(torch.zeros(1))
        with off:
            assert not may_read(torch.zeros(1))
        assert may_read(torch.zeros(1))
