"""A step of the training loop: what it does and does not do, and how its batch may be divided."""

import dataclasses
import os
import subprocess
from pathlib import Path
from typing import Any

import models
import pytest
import torch
import train as loop
from hypothesis import given
from hypothesis import strategies as st
from torch.utils._python_dispatch import TorchDispatchMode

from latentflow import validate_values
from tests.short_runs import SCRIPT, SHORT, draw, ready, rows

MODELS: list[dict[str, Any]] = [{}, {"supervision": "none"}, {"networks": "paper"}]
WAITING_FOR_NOTHING: list[dict[str, Any]] = [
    {"networks": "small", "supervision": "none"},
    {"networks": "small", "supervision": "none", "muon": 0.05},
    {"networks": "paper"},
]


class NoValues(TorchDispatchMode):
    """Stands for an accelerator during the capture of a graph: whatever brings a value to the host is an error."""

    def __torch_dispatch__(self, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        assert func.name() not in (
            "aten::_local_scalar_dense",
            "aten::equal",
            "aten::masked_select",
            "aten::nonzero",
            "aten::_unique2",
            "aten::linalg_matrix_exp",  # on CUDA
        ), f"{func.name()} waits for the device"
        return func(*args, **(kwargs or {}))


@pytest.mark.parametrize("precision", ["float32", "bf16"])
@pytest.mark.parametrize("changes", WAITING_FOR_NOTHING)
def test_a_step_reads_no_value(changes: dict[str, Any], precision: str, monkeypatch: pytest.MonkeyPatch) -> None:
    # On the CPU, and only there, one_hot looks at its labels.
    monkeypatch.setattr("torch.nn.functional.one_hot", lambda k, num: (k[..., None] == torch.arange(num)).long())
    fabric, _, wrapped, optimisers = ready(**changes)
    run = dataclasses.replace(SHORT, precision=precision)
    with validate_values(False):
        loop.take_step(fabric, wrapped, optimisers, draw, run, 0)
        with NoValues():
            noted = loop.take_step(fabric, wrapped, optimisers, draw, run, 1)
    assert all(value.isfinite() for value in noted.values())


@pytest.mark.parametrize("has_them", [True, False])
def test_without_instructions_for_bfloat16_it_is_said_to_take_longer(
    has_them: bool, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setattr(loop, "multiplies_bfloat16", lambda: has_them)
    ready(precision="float32")
    assert not capsys.readouterr().out
    ready(precision="bf16")
    assert ("no instructions" in capsys.readouterr().out) != has_them


def test_muon_trains_the_hidden_layers_and_adam_the_rest() -> None:
    run = dataclasses.replace(SHORT, networks="scene", supervision="none", muon=0.05)
    model = models.build(run, 3, 64, 3, 8)
    adam, muon = loop.optimisers_of(model, run)
    of_muon = {id(p) for group in muon.param_groups for p in group["params"]}
    of_adam = {id(p) for group in adam.param_groups for p in group["params"]}
    assert not of_muon & of_adam
    assert len(of_muon | of_adam) == len(list(model.parameters()))
    assert {name for name, p in model.named_parameters() if id(p) in of_muon} == {
        "encoder.8.weight",
        "decoder.weights.2.weight",
        "decoder.detail.0.0.weight",
        "selector.classifier.8.weight",
    }


def test_muon_without_a_matrix_to_train_is_an_error() -> None:
    run = dataclasses.replace(SHORT, networks="paper", muon=0.05)
    with pytest.raises(ValueError, match=r"^--muon: got networks without"):
        loop.optimisers_of(models.build(run, 3, 16, 3, 8), run)


@pytest.mark.parametrize("changes", MODELS)
def test_a_step_decodes_once(changes: dict[str, Any]) -> None:
    fabric, model, wrapped, optimisers = ready(**changes)
    seen = []
    model.decoder.register_forward_hook(lambda _, inputs, logits: seen.append(len(logits)))
    loop.take_step(fabric, wrapped, optimisers, draw, SHORT, 0)
    assert seen == [6 * (model.frames or 9)]


@pytest.mark.parametrize("changes", MODELS)
def test_half_precision_stays_in_the_networks(changes: dict[str, Any]) -> None:
    terms, seen = {}, []
    for precision in ("float32", "bf16"):
        fabric, model, wrapped, optimisers = ready(**changes)
        hook = lambda _, inputs, output: seen.append((inputs[0].dtype, output.dtype))  # noqa: E731
        canvas = getattr(model.decoder, "canvas", model.decoder)
        for module in (model.encoder, canvas, *([] if model.selector is None else [model.selector.classifier])):
            module.register_forward_hook(hook)
        run = dataclasses.replace(SHORT, precision=precision)
        terms[precision] = loop.take_step(fabric, wrapped, optimisers, draw, run, 0)
        assert all(parameter.grad.dtype == torch.float32 for parameter in model.parameters())
    half = len(seen) // 2
    assert set(seen[:half]) == {(torch.float32, torch.float32)}
    assert set(seen[half:]) == {(torch.float32, torch.bfloat16)}  # images and latents come as they are
    for name, value in terms["float32"].items():
        assert terms["bf16"][name].dtype == value.dtype
        torch.testing.assert_close(terms["bf16"][name], value, rtol=0.02, atol=0.05)


@pytest.mark.parametrize("changes", MODELS)
def test_a_batch_in_parts_has_the_mean_of_their_gradients(changes: dict[str, Any]) -> None:
    """Each part is what a process of its own would take: the same random numbers, a loss that is a mean."""
    run = dataclasses.replace(SHORT, batch=12, accumulate=2, **changes)
    fabric, model, wrapped, optimisers = ready(**changes)
    loop.take_step(fabric, wrapped, optimisers, draw, run, 0)
    found = [parameter.grad.clone() for parameter in model.parameters()]
    _, model, _, _ = ready(**changes)
    for part in range(2):
        torch.manual_seed(loop._mixed(run.seed, 0, part))
        terms, _ = model(*draw(6))
        (sum(terms.values()) / 2).backward()
    assert sum(gradient.abs().sum() for gradient in found) > 0
    for gradient, parameter in zip(found, model.parameters(), strict=True):
        torch.testing.assert_close(gradient, parameter.grad, rtol=1e-4, atol=1e-6)


@given(
    st.lists(st.tuples(st.integers(0, 9), st.integers(0, 9), st.integers(0, 9)), min_size=2, max_size=20, unique=True)
)
def test_no_two_parts_of_any_step_share_their_random_numbers(numbers: list[tuple[int, int, int]]) -> None:
    assert len({loop._mixed(*each) for each in numbers}) == len(numbers)


@pytest.mark.parametrize("supervision", ["labels", "none"])
def test_two_processes_train_as_one(supervision: str, tmp_path: Path) -> None:
    """On gloo. Gradients are compared, since Adam makes a step of any that is not exactly 0; they are its first moments."""
    options = ["--steps", "1", "--batch", "12", "--supervision", supervision]
    for name, division in (("one", ("--accumulate", "2")), ("two", ("--devices", "2"))):
        said = subprocess.run(
            [*SCRIPT, *options, *division, "--out", str(tmp_path / name)],
            capture_output=True,
            text=True,
            env={**os.environ, "GLOO_SOCKET_IFNAME": "lo"},
        )
        assert said.returncode == 0, said.stderr
    one, two = (
        torch.load(tmp_path / name / "checkpoints/00000001/state.pt", weights_only=True)["optimiser 0"]["state"]
        for name in ("one", "two")
    )
    assert one.keys() == two.keys()
    assert sum(state["exp_avg"].abs().sum() for state in one.values()) > 0
    for parameter, state in one.items():
        size = state["exp_avg"].abs().max().item()
        torch.testing.assert_close(two[parameter]["exp_avg"], state["exp_avg"], rtol=1e-4, atol=1e-5 * size)
    (a,), (b,) = rows(tmp_path / "one"), rows(tmp_path / "two")
    assert {k: float(v) for k, v in a.items()} == pytest.approx({k: float(v) for k, v in b.items()}, rel=1e-5)
