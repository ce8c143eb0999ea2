"""Training with `--compile`."""

import csv
from pathlib import Path
from typing import Any

import models
import pytest
import torch
import train as loop
from mnist import Settings
from torch import Tensor

from tests.short_runs import draw

pytestmark = pytest.mark.no_cover  # to watch the compiler's own lines go by takes as long as the compiler


def trained(out: Path, **changes: Any) -> tuple[dict[str, list[float]], dict[int, Tensor]]:
    """The log of two steps, and of the first Adam's first moments, which are a tenth of its gradients."""
    run = Settings(steps=2, save_every=1, batch=6, threads=1, accelerator="cpu", out=out, **changes)
    fabric = loop.start(run)
    torch.manual_seed(0)
    model = models.build(run, 3, 16, 3, 8)
    loop.claim(fabric, run, "mnist")
    loop.train(fabric, model, draw, run)
    with (out / "log.csv").open() as file:
        rows = list(csv.DictReader(file))
    moments = torch.load(out / "checkpoints/00000001/state.pt", weights_only=True)["optimiser 0"]["state"]
    return {name: [float(row[name]) for row in rows] for name in rows[0]}, {n: s["exp_avg"] for n, s in moments.items()}


@pytest.mark.filterwarnings("ignore")  # of torch.compile, about itself
@pytest.mark.parametrize("changes", [{}, {"supervision": "none", "marginal": 0.0, "log_det": "none"}], ids=str)
def test_compiled_it_trains_as_it_does_otherwise(
    changes: dict[str, Any], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    torch._dynamo.reset()
    torch._dynamo.utils.counters.clear()
    monkeypatch.setattr(torch.distributions.kl, "_KL_MEMOIZE", {})  # as in a new process
    ours, our_gradients = trained(tmp_path / "compiled", compile=True, **changes)
    assert torch._dynamo.utils.counters["stats"]["unique_graphs"] == 1, "all of it, and once for both steps"
    truth, gradients = trained(tmp_path / "eager", **changes)
    assert ours.keys() == truth.keys()
    for name, values in truth.items():
        assert ours[name] == pytest.approx(values, rel=1e-4), name
    assert our_gradients.keys() == gradients.keys()
    for n, gradient in gradients.items():
        torch.testing.assert_close(our_gradients[n], gradient, rtol=1e-4, atol=1e-5 * gradient.abs().max().item())


def test_without_a_compiler_it_says_so(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    monkeypatch.setattr(loop, "COMPILER", "no-such-compiler")
    with pytest.raises(
        ValueError, match=r"^--compile: got no C\+\+ compiler \(no-such-compiler\), expected one; install it"
    ):
        trained(tmp_path / "run", compile=True)
    assert not list(tmp_path.iterdir())
