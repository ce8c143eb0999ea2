"""A checkpoint of an earlier version still loads, and still means the same numbers, in every dtype."""

import json
import re
from pathlib import Path

import pytest
import torch
from safetensors.torch import load_file

import latentflow.derivatives
import latentflow.heat
import latentflow.logdet
import latentflow.metrics
import latentflow.objective
import latentflow.rollout
import latentflow.selector
from latentflow import FlowPosterior, HJConstraint, Potential
from latentflow.curvature import Curvature
from tests.golden import CHECKPOINT, TOLERANCE, VALUES, Model, differences, known, measured, restored


@pytest.mark.parametrize("dtype", TOLERANCE)
def test_the_golden_checkpoint_means_the_same_numbers(dtype: torch.dtype) -> None:
    assert differences(measured(restored(), dtype), known(), TOLERANCE[dtype]) == []


def test_the_golden_values_are_numbers_of_a_small_file() -> None:
    values = {name: torch.tensor(value) for name, value in known().items()}
    assert len(values) > 40
    assert all(value.isfinite().all() and value.abs().max() > 1e-3 for value in values.values())
    assert CHECKPOINT.stat().st_size + VALUES.stat().st_size < 20_000


def test_every_parameter_of_the_checkpoint_counts() -> None:
    """Each moves some golden value: by its gradient, or as it is one itself."""
    model = restored()
    found = measured(model, torch.float64)
    sum(value.square().sum() for value in found.values() if value.requires_grad).backward()
    for name, parameter in model.named_parameters():
        assert parameter.grad.abs().min() > 0, name
    assert [name for name, _ in model.named_buffers()] == ["selector.temperature"]
    assert torch.equal(found["temperature"], model.selector.temperature)


def test_another_name_in_the_state_dict_is_seen(monkeypatch: pytest.MonkeyPatch) -> None:
    made = Potential.__init__

    def renamed(self: Potential, *args: object, **options: object) -> None:
        made(self, *args, **options)
        self.register_parameter("first_weight", self._parameters.pop("input_weight"))

    monkeypatch.setattr(Potential, "__init__", renamed)
    monkeypatch.setattr(Potential, "input_weight", property(lambda self: self.first_weight), raising=False)
    with pytest.raises(RuntimeError, match=r"(?s)Missing key.*first_weight|Unexpected key.*input_weight"):
        restored()


CHANGES = {
    "the log-determinant": (Curvature, "log_det", lambda found: (found[0] * (1 + 1e-6), found[1])),
    "Hutchinson's estimate": (latentflow.logdet, "hutchinson", lambda found: found * (1 + 1e-6)),
    "eq. 10": (latentflow.logdet, "laplacian", lambda found: found * (1 + 1e-6)),
    "the times of the steps": (latentflow.rollout, "euler_times", lambda found: found + 1e-5),
    "the force": (latentflow.NegativeForce, "forward", lambda found: found * (1 + 1e-6)),
    "the residual": (HJConstraint, "_residual_and_force", lambda found: (found[0] * (1 + 1e-6), found[1])),
    "the initial term": (HJConstraint, "initial", lambda found: found * (1 + 1e-6)),
    "the preimage": (FlowPosterior, "inverse", lambda found: found * (1 + 1e-6)),
    "the prior's variance": (latentflow.heat, "variance", lambda found: found * (1 + 1e-6)),
    "bound (B)": (latentflow.objective, "_kl_to_standard_normal", lambda found: found * (1 + 1e-6)),
    "an error": (latentflow.metrics, "equivariance_error", lambda found: found * (1 + 1e-6)),
    "the constant": (latentflow.metrics, "gaussian_constant", lambda found: found * (1 + 1e-6)),
}


@pytest.mark.parametrize("name", CHANGES)
def test_another_formula_is_seen(name: str, monkeypatch: pytest.MonkeyPatch) -> None:
    owner, function, change = CHANGES[name]
    before = getattr(owner, function)
    monkeypatch.setattr(owner, function, lambda *args, **options: change(before(*args, **options)))
    assert differences(measured(restored(), torch.float64), known(), TOLERANCE[torch.float64])


def test_missing_and_new_values_are_seen() -> None:
    found, truth = measured(restored(), torch.float64), known()
    del found["hessian"], truth["force"]
    assert differences(found, truth, 1.0) == ["force", "hessian"]


def test_the_command_says_that_all_is_as_it_was(
    capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    from tests.golden.__main__ import main

    monkeypatch.setattr("sys.argv", ["tests.golden"])
    assert main() == 0
    assert re.fullmatch(r"(torch\.\w+: as it was\n){3}", capsys.readouterr().out)


def test_what_is_written_is_what_is_committed(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Else `--write` would change more than a changed formula does. The weights are drawn by this version of torch."""
    from tests.golden import __main__ as command

    monkeypatch.setattr(command, "CHECKPOINT", tmp_path / "model.safetensors")
    monkeypatch.setattr(command, "VALUES", tmp_path / "values.json")
    command.write()
    written = json.loads((tmp_path / "values.json").read_text())
    values = {name: torch.tensor(value, dtype=torch.float64) for name, value in written.items()}
    assert differences(values, known(), TOLERANCE[torch.float64]) == []
    assert load_file(tmp_path / "model.safetensors").keys() == load_file(CHECKPOINT).keys()
    assert Model().state_dict().keys() > load_file(CHECKPOINT).keys(), "the shared potential is stored once"
