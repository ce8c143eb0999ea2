"""Everything is made where the latents are. The device is "meta", which has no numbers: what is made elsewhere does not fit."""

import contextlib

import pytest
import torch
from torch.distributions import Independent, MultivariateNormal, Normal

from latentflow import (
    DiffusionPrior,
    FlowPosterior,
    GumbelSelector,
    HJConstraint,
    NegativeForce,
    Potential,
    categorical_kl,
    flow_kl,
)
from latentflow.metrics import evidence_bound
from latentflow.times import euler_times
from tests.problems import Opaque

DIM, NUM, BATCH, STEPS = 3, 2, 4, 2
ACTING = ({"k": 1}, {"k": torch.ones(BATCH, dtype=torch.int64)}, {"k": torch.ones(BATCH, STEPS, dtype=torch.int64)})


@pytest.fixture(autouse=True)
def autocast_is_switched_off_where_the_latents_are(monkeypatch):
    def autocast(device_type, *, enabled):
        assert (device_type, enabled) == ("meta", False)
        return contextlib.nullcontext()  # torch knows of none for this device

    def is_enabled(device_type):
        assert device_type == "meta"
        return True

    monkeypatch.setattr(torch, "autocast", autocast)
    monkeypatch.setattr(torch, "is_autocast_enabled", is_enabled)
    monkeypatch.setattr(torch.amp, "is_autocast_available", lambda device_type: True)


class User(Opaque):
    """A user's potential, which gets times where it gets latents."""

    def forward(self, z, t):
        assert (t.device, t.dtype) == (z.device, z.dtype)
        return super().forward(z, t)


def zeros(*shape):
    return torch.zeros(*shape, dtype=torch.float64, device="meta")


def make_potential(opaque, kind=Potential):
    potential = kind(DIM, NUM, device="meta", dtype=torch.float64)
    return User(potential) if opaque else potential


@pytest.mark.parametrize("opaque", [False, True])
@pytest.mark.parametrize(
    "acting", [*ACTING, {"weights": zeros(BATCH, NUM)}], ids=["int", "labels", "switching", "weights"]
)
@pytest.mark.parametrize("log_det", ["exact", "hutchinson", "laplacian", None])
def test_a_training_step_stays_where_the_latents_are(acting, log_det, opaque):
    potential = make_potential(opaque)
    force = make_potential(opaque, NegativeForce)
    q0 = Independent(Normal(zeros(BATCH, DIM), zeros(BATCH, DIM), validate_args=False), 1, validate_args=False)
    path = FlowPosterior(potential, log_det, substeps=2)(q0, steps=STEPS, **acting)
    prior = DiffusionPrior(NUM, dtype=torch.float64).to("meta")
    bound = "initial" if log_det is None else "marginal"
    hj = HJConstraint(potential, force, times="uniform")
    loss = (
        flow_kl(path, prior, bound=bound) + hj(path) + hj.residual(path.z[:, 0], 1.0).sum(1) + hj.initial(path.z).sum()
    )
    loss = loss + evidence_bound(zeros(BATCH, STEPS + 1), path, prior, bound=bound)
    loss.sum().backward()
    z, _ = FlowPosterior(potential, log_det).transport(zeros(BATCH, DIM), steps=STEPS, **acting)
    for tensor in (loss, z, path.z, path.times, path.weights, *(p.grad for p in potential.parameters())):
        assert tensor.device.type == "meta"
        assert tensor.dtype == torch.float64


def test_times_are_made_where_the_latents_are():
    for label in ("end", "start"):
        assert euler_times(STEPS, 2, label, zeros(BATCH, DIM)).device.type == "meta"


def test_the_choice_stays_where_the_logits_are():
    logits = zeros(BATCH, NUM)
    weights, _ = GumbelSelector(torch.nn.Identity(), NUM).to("meta")(logits)
    assert categorical_kl(logits).device == weights.device == logits.device
    assert weights.dtype == logits.dtype


def test_kl_of_a_correlated_posterior_stays_where_it_is():
    q0 = MultivariateNormal(zeros(BATCH, DIM), torch.eye(DIM, dtype=torch.float64, device="meta"), validate_args=False)
    path = FlowPosterior(make_potential(False))(q0, 0, steps=STEPS)
    assert flow_kl(path, DiffusionPrior(NUM), bound="initial").device == path.z.device


def test_a_device_that_knows_no_autocast_is_none_the_worse(monkeypatch):
    """As "meta" is by itself, to find out shapes."""
    monkeypatch.undo()
    potential = Potential(DIM, NUM, device="meta", dtype=torch.float64)
    q0 = Independent(Normal(zeros(BATCH, DIM), zeros(BATCH, DIM), validate_args=False), 1)
    path = FlowPosterior(potential)(q0, 0, STEPS)
    assert (path.log_q.shape, HJConstraint(potential)(path).shape) == ((BATCH, STEPS + 1), (BATCH,))
