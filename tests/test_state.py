"""Modules as state: copies, pickles, checkpoints, shared potentials, and files that older versions wrote."""

import copy
import io
import pickle

import pytest
import torch

from latentflow import DiffusionPrior, FlowPosterior, GumbelSelector, HJConstraint, NegativeForce, Potential
from tests.problems import gaussian, randn


class Everything(torch.nn.Module):
    """All components in one model, as a user holds them."""

    def __init__(self, seed=0, **options):
        super().__init__()
        torch.manual_seed(seed)
        self.potential = Potential(3, 2, **options)
        self.force = NegativeForce(3, 2, **options)
        self.hj = HJConstraint(self.potential, self.force)
        self.flow = FlowPosterior(self.potential)
        self.ode = FlowPosterior(self.potential, solver="rk4", solver_options={"step_size": 0.5})
        self.prior = DiffusionPrior(2, 0.2)
        self.selector = GumbelSelector(torch.nn.Linear(3, 2), 2)

    def forward(self, x):
        weights, logits = self.selector.eval()(x)
        q0 = gaussian(len(x), 3, dtype=torch.float32)
        results = [logits]
        for flow in (self.flow, self.ode):
            path = flow(q0, weights=weights, steps=3, generator=torch.Generator().manual_seed(0))
            results += [path.z, path.log_q, self.hj(path), self.prior.log_prob(path)]
        return results


def same(a, b):
    return all(torch.equal(x, y) for x, y in zip(a, b, strict=True))


X = randn(5, 3, dtype=torch.float32)


def through_a_file(module):
    file = io.BytesIO()
    torch.save(module, file)
    file.seek(0)
    return torch.load(file, weights_only=False)


def test_a_model_made_without_memory_takes_the_numbers_of_another():
    """On the device "meta", as models are made into which a checkpoint is loaded."""
    with torch.device("meta"):
        model = Everything()
    assert {x.device.type for x in model.state_dict().values()} == {"meta"}
    other = Everything(seed=1)
    model = model.to_empty(device="cpu")
    model.load_state_dict(other.state_dict())
    assert same(model(X), other(X))


@pytest.mark.parametrize("options", [{}, {"bounded": True}, {"hidden": 2}])
@pytest.mark.parametrize("copied", [copy.deepcopy, lambda m: pickle.loads(pickle.dumps(m)), through_a_file])
def test_copies_compute_the_same_and_are_independent(options, copied):
    model = Everything(**options)
    other = copied(model)
    before = model(X)
    assert same(before, other(X))
    with torch.no_grad():
        other.potential.output_weight.mul_(2)
    assert same(before, model(X))
    assert not same(before, other(X)), "flow and constraint of the copy do not use its potential"
    assert other.flow.potential is other.hj.potential is other.potential


@pytest.mark.parametrize("options", [{}, {"bounded": True}, {"hidden": 2}])
def test_state_dict_round_trip(options):
    model, other = Everything(**options), Everything(seed=1, **options)
    model.selector.anneal(40_000)
    assert not same(model(X), other(X))
    other.load_state_dict(model.state_dict())
    assert same(model(X), other(X))
    assert torch.equal(model.selector.temperature, other.selector.temperature)


def test_a_shared_potential_is_counted_once():
    potential = Potential(3, 2)
    model = torch.nn.ModuleDict({"flow": FlowPosterior(potential), "hj": HJConstraint(potential)})
    count = sum(p.numel() for p in model.parameters())
    assert count == sum(p.numel() for p in potential.parameters())
    assert len(list(model.parameters())) == len(list(potential.parameters()))


def test_shared_potentials_go_through_safetensors(tmp_path):
    safetensors = pytest.importorskip("safetensors.torch")
    model, other = Everything(), Everything(seed=1)
    safetensors.save_model(model, tmp_path / "model.safetensors")
    safetensors.load_model(other, tmp_path / "model.safetensors")
    assert same(model(X), other(X))


def test_names_and_shapes_in_checkpoints_stay_what_they_are():
    """Changing any of these breaks the files that users have."""
    network = {
        "input_weight": (2, 16, 3),
        "input_bias": (2, 16),
        "time_in_weight": (2, 16, 16),
        "time_in_bias": (2, 16),
        "time_out_weight": (2, 16, 16),
        "time_out_bias": (2, 16),
        "hidden_weight": (2, 16, 16),
        "hidden_bias": (2, 16),
        "output_weight": (2, 16),
    }

    def shapes(module):
        return {name: tuple(x.shape) for name, x in module.state_dict().items()}

    assert shapes(Potential(3, 2)) == network
    assert shapes(Potential(3, 2, bounded=True)) == {**network, "output_bias": (2,)}
    assert shapes(NegativeForce(3, 2)) == {"bias": (2,), **{f"root.{k}": v for k, v in network.items()}}
    assert shapes(DiffusionPrior(2)) == {"raw": (2,)}
    assert shapes(GumbelSelector(torch.nn.Identity(), 2)) == {"temperature": ()}
    assert shapes(FlowPosterior(Potential(3, 2))) == {f"potential.{k}": v for k, v in network.items()}


def test_a_checkpoint_means_the_same_numbers():
    """Weights written by formula, values as first computed: what a state dict means must not drift between versions."""
    potential = Potential(2, 1, hidden=3, dtype=torch.float64)
    with torch.no_grad():
        for i, parameter in enumerate(potential.parameters()):
            parameter.copy_(torch.sin(torch.arange(parameter.numel(), dtype=torch.float64) + i).view_as(parameter))
    z = torch.tensor([[0.5, -1.0], [2.0, 0.25]], dtype=torch.float64)
    golden = torch.tensor(GOLDEN, dtype=torch.float64)
    values = torch.cat((potential(z, 3.0), potential.gradients(z, 3.0)[:, 0]), 1)
    torch.testing.assert_close(values, golden, rtol=0, atol=1e-9)  # to the digits below


GOLDEN = [[0.127203044, 0.054491853, 0.155784399], [0.713532655, 0.02014359, 0.085863239]]


@pytest.mark.parametrize("dtype", [torch.float64, torch.float32])
def test_to_converts_everything(dtype):
    model = Everything().to(dtype)
    assert {x.dtype for x in model.state_dict().values()} == {dtype}
    path = model.flow(gaussian(4, 3, dtype=dtype), 1, steps=2)
    assert path.log_q.dtype == dtype
    assert model.prior.log_prob(path).dtype == dtype
    assert model.hj(path).dtype == dtype


def test_representations_name_the_settings():
    text = repr(Everything(hidden=5))
    for part in ("dim=3, num=2, hidden=5", "solver='rk4'", "force_penalty=0.0", "form='heat'", "rate=3e-05"):
        assert part in text
