"""A flow-factorized VAE on scaled, rotated and coloured handwritten digits.

Without options: on the 1,797 digits of scikit-learn, nothing to download.

--preset cpu: real MNIST, in half an hour or so on two cores. gpu: wider. paper: the published networks and terms.

--supervision none: which transformation it is, is inferred from the sequence.
"""

from __future__ import annotations

import dataclasses
import sys
from pathlib import Path
from typing import Literal

import experiment
import torch
from data.digits import digits
from data.dsprites import dsprites
from data.mnist import mnist
from data.moving_digits import moving_digits
from data.shapes import shapes
from torch import Tensor

STEPS = 8  # transitions, so nine states: to scale 1.8, 80 degrees and the whole range of hues


@dataclasses.dataclass(frozen=True)
class Settings(experiment.Settings):
    """Train, evaluate on held-out digits, print the tables, write results.json and the figures."""

    preset: Literal["demo", "cpu", "gpu", "paper"] = "demo"
    """which defaults; any other option changes them"""
    data: Literal["digits", "mnist"] = "digits"
    """the digits of scikit-learn at 16x16, or MNIST (from $LATENTFLOW_DATA/mnist, else downloaded)"""
    hue_range_deg: float = 160.0
    """by which colouring turns the hue in eight steps, as in the paper's code; its text says 340"""

    def __post_init__(self) -> None:
        super().__post_init__()
        if not 0 < self.hue_range_deg <= 360:
            raise ValueError(f"--hue-range-deg: got {self.hue_range_deg}, expected more than 0 and at most 360")


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
        dim=324,
        steps=90_000,
        **experiment.PAPER,
    ),
}


def settings_of(arguments: list[str]) -> Settings:
    """The preset's settings, and what the command line changes."""
    return experiment.settings_of(Settings, PRESETS, arguments, __doc__)


def sequences(settings: Settings, device: torch.device) -> experiment.Sequences:
    """Sequences of digits, from images in [0, 1] that are kept on the device."""
    truth = moving_digits(settings.hue_range_deg)
    training, held_out = digits() if settings.data == "digits" else mnist()
    if settings.evaluate_on == "validation":
        training, held_out = training[: -len(held_out)], training[-len(held_out) :]
    training, held_out = training.to(device), held_out[: settings.held_out].to(device)

    def draw(count: int, step: int, share: int) -> tuple[Tensor, Tensor]:
        chosen = torch.randint(len(training), (count,), device=device)
        k = experiment.labels(settings, count, len(truth.names), step, device)
        return truth.single(training[chosen], k, STEPS), k

    few = min(len(held_out), experiment.SOME)
    others = {"drawn shapes": shapes(few, training.shape[-1]), "dSprites": dsprites(few, training.shape[-1])}
    elsewhere = {name: images.to(held_out) for name, images in others.items() if images is not None}
    return experiment.Sequences(truth, STEPS, training.shape[-1], draw, held_out, elsewhere)


def main(settings: Settings) -> None:
    experiment.run("mnist", settings, sequences)


if __name__ == "__main__":
    with experiment.errors_in_one_line():
        main(settings_of(sys.argv[1:]))
