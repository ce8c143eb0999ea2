"""One training step of the examples: it reads no value, decodes once, and says later what went wrong, but says it."""

import csv
from pathlib import Path
from typing import Any

import mnist as example
import pytest
import torch
import train as loop
from data.transformations import levels_of, render
from models import FlowVAE
from torch import Tensor
from torch.utils._python_dispatch import TorchDispatchMode

from latentflow import validate_values

SHORT = example.Settings(steps=6, batch=6, threads=1)
MODELS = [{}, {"supervision": "none"}, {"networks": "paper"}]


def ready(**changes: Any) -> tuple[FlowVAE, torch.optim.Optimizer]:
    model = example.build(example.Settings(**changes), 16).train()
    return model, torch.optim.Adam(model.parameters(), lr=1e-3, fused=True)


def batch() -> tuple[Tensor, Tensor]:
    k = torch.arange(6) % 3
    return render(torch.rand(6, 16, 16), levels_of(k, 8)), k


class NoValues(TorchDispatchMode):
    """Stands for an accelerator during the capture of a graph: whatever brings a value to the host is an error."""

    def __torch_dispatch__(self, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        assert func.name() not in (
            "aten::_local_scalar_dense",
            "aten::equal",
            "aten::masked_select",
            "aten::nonzero",
            "aten::_unique2",
        ), f"{func.name()} waits for the device"
        return func(*args, **(kwargs or {}))


@pytest.mark.parametrize("precision", ["float32", "bf16"])
@pytest.mark.parametrize("changes", MODELS)
def test_a_step_reads_no_value(changes: dict[str, Any], precision: str, monkeypatch: pytest.MonkeyPatch) -> None:
    # On the CPU, and only there, one_hot looks at its labels.
    monkeypatch.setattr("torch.nn.functional.one_hot", lambda k, num: (k[..., None] == torch.arange(num)).long())
    model, optimiser = ready(**changes)
    generator = torch.Generator().manual_seed(0)
    with validate_values(False):
        loop.take_step(model, optimiser, *batch(), generator, precision)
        with NoValues():
            noted = loop.take_step(model, optimiser, *batch(), generator, precision)
    assert all(value.isfinite() for value in noted.values())


@pytest.mark.parametrize("changes", MODELS)
def test_a_step_decodes_once(changes: dict[str, Any]) -> None:
    model, optimiser = ready(**changes)
    seen = []
    model.decoder.register_forward_hook(lambda _, inputs, logits: seen.append(len(logits)))
    loop.take_step(model, optimiser, *batch())
    assert seen == [6 * (model.frames or 9)]


@pytest.mark.parametrize("changes", MODELS)
def test_half_precision_stays_in_the_networks(changes: dict[str, Any]) -> None:
    terms, seen = {}, []
    for precision in ("float32", "bf16"):
        torch.manual_seed(0)
        model, optimiser = ready(**changes)
        hook = lambda _, inputs, output: seen.append(output.dtype)  # noqa: E731
        for module in (model.encoder, model.decoder, *([] if model.selector is None else [model.selector.classifier])):
            module.register_forward_hook(hook)
        terms[precision] = loop.take_step(model, optimiser, *batch(), torch.Generator().manual_seed(0), precision)
        assert all(parameter.grad.dtype == torch.float32 for parameter in model.parameters())
    half = len(seen) // 2
    assert set(seen[:half]) == {torch.float32}
    assert set(seen[half:]) == {torch.bfloat16}
    for name, value in terms["float32"].items():
        assert terms["bf16"][name].dtype == value.dtype
        torch.testing.assert_close(terms["bf16"][name], value, rtol=0.02, atol=0.05)


def test_a_loss_that_is_not_finite_is_named_with_its_step(tmp_path: Path) -> None:
    model, _ = ready()
    drawn = 0

    def draw(generator: torch.Generator) -> tuple[Tensor, Tensor]:
        nonlocal drawn
        drawn += 1
        if drawn == 3:
            torch.nn.init.constant_(model.decoder[-1].bias, float("inf"))
        return batch()

    run = loop.Run(out=tmp_path, steps=6, batch=6, save_every=6, threads=1)
    loop.prepare(run, {})
    with pytest.raises(ValueError, match=r"loss: got .* at step 3, expected finite terms; lower --learning-rate"):
        loop.train(model, draw, run)
    with (tmp_path / "log.csv").open() as log:
        assert [row["step"] for row in csv.DictReader(log)] == ["1", "2"]
    assert not list(tmp_path.glob("checkpoints/*"))
