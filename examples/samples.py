"""Overfit the sample sequences of Falcor3D and Isaac3D: real images, few enough to learn by heart on two cores.

One model, one flow for each of the 16 sequences. Nothing is held out: this shows what flows and networks can hold, on images
that no renderer of ours has made.
"""

from __future__ import annotations

import dataclasses
import sys
from pathlib import Path
from typing import Any

import checkpoints
import experiment
import models
import torch
import train
import trained
from data.samples import samples
from evaluate import single
from figures import Row, picture
from hardware import hardware
from report import show
from stopping import stoppable
from torch import Tensor


@dataclasses.dataclass(frozen=True)
class Settings(train.Run, models.Model):
    """Train on all sample sequences in $LATENTFLOW_DATA, print the errors on them, write results.json and a figure."""

    out: Path = Path("runs/samples")
    networks: models.Networks = "scene"
    steps: int = 7500
    batch: int = 3
    """sequences in a step, at most: as many as there are of one length"""
    frames: int | None = None
    initial: float = 0.02
    marginal: float = 0.002

    def __post_init__(self) -> None:
        train.Run.__post_init__(self)
        models.Model.__post_init__(self)
        if self.supervision == "none":
            raise ValueError("--supervision: got none, expected labels; each sequence is a transformation of its own")


def main(settings: Settings) -> None:
    fabric = train.start(settings)
    found = {
        f"{kind}, {name}": (frames / 255).to(fabric.device)
        for kind in ("falcor3d", "isaac3d")
        for name, frames in samples(kind).items()
    }
    sequences = list(found.values())
    torch.manual_seed(settings.seed)
    steps = min(map(len, sequences)) - 1
    model = models.build(settings, 3, sequences[0].shape[-1], len(sequences), steps)
    train.claim(fabric, settings, "samples")
    if fabric.is_global_zero:
        trained.note(settings.out, settings, 3, sequences[0].shape[-1], list(found), steps)

    def draw(count: int, step: int, share: int) -> tuple[Tensor, Tensor]:
        """One sequence after the other, each with others of its length, as those of another do not fit into its batch."""
        own = (step * settings.shares + share) % len(sequences)
        alike = [k for k, x in enumerate(sequences) if len(x) == len(sequences[own])]
        first = alike.index(own)
        chosen = (alike[first:] + alike[:first])[:count]
        return torch.stack([sequences[k] for k in chosen]), torch.tensor(chosen, device=fabric.device)

    machine = hardware(fabric.device, fabric.world_size)
    seconds = train.train(fabric, model, draw, settings)
    if not fabric.is_global_zero:
        return
    with stoppable():
        errors, rows = measured(model, found, settings.seed)
    results = {"transformations": errors}
    about = {"example": "samples", "settings": settings.noted(), "hardware": machine}
    checkpoints.write(settings.out / "results.json", {**about, "seconds": seconds, **results})
    picture(rows, settings.out / "figure.webp")
    show(results, on="the training sequences")
    print(f"trained {settings.steps} steps in {seconds:.0f} s; wrote results.json, figure.webp to {settings.out}")


@torch.no_grad()
def measured(model: models.FlowVAE, found: dict[str, Tensor], seed: int) -> tuple[dict[str, Any], list[Row]]:
    """Errors on sequences (T+1, 3, H, W) by name, in the order of their potentials; and what to draw."""
    model.eval()
    generator = torch.Generator(next(iter(found.values())).device).manual_seed(seed)
    errors, rows = {}, []
    for k, (name, frames) in enumerate(found.items()):
        x = frames[None]
        errors[name] = single(model, x, k, generator) | {"movement": movement(frames).item()}
        z, _ = model.flow.transport(model.posterior(x[:, 0]).mean, k, steps=len(frames) - 1)
        rows.append(Row(name.replace(", ", ",\n"), x.cpu(), model.images(z).cpu()))
    return errors, rows


def movement(x: Tensor) -> Tensor:
    """Mean absolute difference of frames x (T+1, 3, H, W) from the first, as a share of their mean."""
    return (x[1:] - x[:1]).abs().mean() / x.mean()


if __name__ == "__main__":
    with experiment.errors_in_one_line():
        main(experiment.settings_of(Settings, {"": Settings()}, sys.argv[1:], __doc__))
