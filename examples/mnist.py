"""A flow-factorized VAE on scaled, rotated and coloured handwritten digits.

Without options: on the 1,797 digits of scikit-learn, nothing to download.

--preset cpu: real MNIST, in twenty minutes on two cores. gpu: wider. paper: the published networks and terms.

--supervision none: which transformation it is, is inferred from the sequence.
"""

from __future__ import annotations

import argparse
import dataclasses
import sys
from pathlib import Path
from typing import Literal

import checkpoints
import models
import torch
import train
import tyro
from data.digits import digits
from data.mnist import mnist
from data.transformations import TRANSFORMATIONS, levels_of, render
from evaluate import evaluate
from figures import animation, picture, rows
from hardware import hardware
from report import show
from torch import Tensor

STEPS = 8  # transitions, so nine states: to scale 1.8, 80 degrees and a hue of 160 degrees


@dataclasses.dataclass(frozen=True)
class Settings(train.Run, models.Model):
    """Train, evaluate on held-out digits, print the tables, write results.json and the figures."""

    preset: Literal["demo", "cpu", "gpu", "paper"] = "demo"
    """which defaults; any other option changes them"""
    data: Literal["digits", "mnist"] = "digits"
    """the digits of scikit-learn at 16x16, or MNIST (from $LATENTFLOW_DATA/mnist, else downloaded)"""
    evaluate_on: Literal["test", "validation"] = "test"
    """test images, or some of the training images, kept from training: for whoever chooses settings by what comes out"""
    held_out: int | None = None
    """evaluate on this many held-out images only (all, if left out); for short runs"""

    def __post_init__(self) -> None:
        train.Run.__post_init__(self)
        models.Model.__post_init__(self)
        share, least = self.batch // self.shares, 2 * len(TRANSFORMATIONS)
        if self.supervision == "none" and share < least:
            raise ValueError(
                f"--batch: got {share} sequences in each of {self.shares} parts, expected at least {least} in each; "
                "without labels, each part is asked to use all potentials"
            )
        if self.held_out is not None and self.held_out < 5:
            raise ValueError(f"--held-out: got {self.held_out}, expected at least 5")


PRESETS = {
    "demo": Settings(),
    "cpu": Settings(preset="cpu", data="mnist", out=Path("runs/mnist-cpu"), steps=7500, save_every=500),
    "gpu": Settings(
        preset="gpu",
        data="mnist",
        out=Path("runs/mnist-gpu"),
        width=128,
        dim=32,
        frames=None,
        batch=512,
        steps=15_000,
        precision="bf16",
        save_every=1000,
    ),
    "paper": Settings(
        preset="paper",
        data="mnist",
        out=Path("runs/mnist-paper"),
        networks="paper",
        dim=324,
        bounded=True,
        frames=None,
        balance=0.0,
        gumbel_rate=3e-5,
        initial=0.0,
        marginal=1.0,
        log_det="laplacian",
        batch=128,
        steps=90_000,
        learning_rate=1e-4,
        decay=0.0,
        schedule="constant",
        save_every=1000,
    ),
}


def settings_of(arguments: list[str]) -> Settings:
    """The preset's settings, and what the command line changes."""
    chooser = argparse.ArgumentParser(add_help=False, allow_abbrev=False)
    chooser.add_argument("--preset", default="demo")
    preset = chooser.parse_known_args(arguments)[0].preset
    return tyro.cli(Settings, default=PRESETS.get(preset, PRESETS["demo"]), args=arguments, description=__doc__)


def main(settings: Settings) -> None:
    fabric = train.start(settings)
    # Load and build first, so that bad data and settings stop the run before any file is touched.
    training, held_out = digits() if settings.data == "digits" else mnist()
    if settings.evaluate_on == "validation":
        training, held_out = training[: -len(held_out)], training[-len(held_out) :]
    training, held_out = training.to(fabric.device), held_out[: settings.held_out].to(fabric.device)
    torch.manual_seed(settings.seed)
    num = len(TRANSFORMATIONS)
    model = models.build(settings, 3, training.shape[-1], num, STEPS)
    train.claim(fabric, settings)
    machine = hardware(fabric.device, fabric.world_size)

    def draw(count: int) -> tuple[Tensor, Tensor]:
        chosen = torch.randint(len(training), (count,), device=training.device)
        first = torch.randint(num, (), device=training.device)
        k = (torch.arange(count, device=training.device) + first) % num  # as many of each as possible
        return render(training[chosen], levels_of(k, STEPS)), k

    seconds = train.train(fabric, model, draw, settings)
    if not fabric.is_global_zero:
        return
    results = evaluate(model, held_out, STEPS)
    index = results["selection"]["potential_of"] if "selection" in results else list(range(num))
    found = rows(model, held_out, STEPS, index, each=6)
    picture(found, settings.out / "figure.png")
    animation(found, settings.out / "evolution.webp")
    written = {"example": "mnist", "settings": settings.noted(), "hardware": machine, "seconds": seconds, **results}
    checkpoints.write(settings.out / "results.json", written)
    show(results)
    print(
        f"trained {settings.steps} steps in {seconds:.0f} s; wrote results.json, figure.png, evolution.webp to {settings.out}"
    )


if __name__ == "__main__":
    try:
        main(settings_of(sys.argv[1:]))
    except (ValueError, FileNotFoundError) as error:
        sys.exit(f"error: {error}")
