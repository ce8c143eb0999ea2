"""What the tests of the training loop share: short runs, ready to take a step, and what they leave behind."""

import csv
import dataclasses
import sys
from pathlib import Path
from typing import Any

import checkpoints
import mnist as example
import models
import torch
import train as loop
from data.moving_digits import DIGITS
from lightning_fabric import Fabric
from models import FlowVAE
from safetensors.torch import load_file
from torch import Tensor

SHORT = example.Settings(steps=6, batch=6, threads=1, accelerator="cpu", held_out=6)
SCRIPT = [sys.executable, str(Path(example.__file__)), "--held-out", "6", "--threads", "1", "--accelerator", "cpu"]


def ready(**changes: Any) -> tuple[Fabric, FlowVAE, Any, list[torch.optim.Optimizer]]:
    """Fabric, the model, the model as it wrapped it, and the optimisers."""
    torch.manual_seed(0)
    run = dataclasses.replace(SHORT, **changes)
    fabric = loop.start(run)
    model = models.build(run, 3, 16, 3, 8).train()
    wrapped, *optimisers = fabric.setup(model, *loop.optimisers_of(model, run))
    return fabric, model, wrapped, optimisers


def draw(count: int, *_: int) -> tuple[Tensor, Tensor]:
    k = torch.arange(count) % 3
    return DIGITS.single(torch.rand(count, 16, 16), k, 8), k


def rows(out: Path) -> list[dict[str, str]]:
    return list(csv.DictReader((out / "log.csv").read_text().splitlines()))


def weights(out: Path) -> dict[str, Tensor]:
    """Those of the last checkpoint."""
    folder = checkpoints.last(out)
    assert folder is not None
    return load_file(folder / "model.safetensors")


class Killed(BaseException):
    """Stands for SIGKILL: nothing catches it."""
