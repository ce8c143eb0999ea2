"""A flow-factorized VAE on scaled, rotated and coloured handwritten digits.

Without options: on the 1,797 digits of scikit-learn, nothing to download.

--supervision none: which transformation it is, is inferred from the sequence.

--data mnist: on real MNIST, 28x28.
"""

from __future__ import annotations

import dataclasses
import sys
from typing import Literal

import torch
import tyro
from data.digits import digits
from data.mnist import mnist
from data.transformations import TRANSFORMATIONS, levels_of, render
from evaluate import evaluate, show, write
from figures import evolution_figure
from models import FlowVAE
from networks import paper_classifier, paper_decoder, paper_encoder, small_decoder, small_encoder
from torch import Tensor
from train import Run, prepare, train

STEPS = 8  # transitions, so nine states: to scale 1.8, 80 degrees and a hue of 160 degrees


@dataclasses.dataclass(frozen=True)
class Settings(Run):
    """Train, evaluate on held-out digits, print the table, write results.json and figure.png."""

    data: Literal["digits", "mnist"] = "digits"
    """the digits of scikit-learn at 16x16, or MNIST (from $LATENTFLOW_DATA/mnist, else downloaded)"""
    supervision: Literal["labels", "none"] = "labels"
    """are the labels of the transformations given, or inferred"""
    initial: float = 1.0
    """weight of bound (B)'s KL"""
    marginal: float = 0.1
    """weight of bound (A)'s KL beside it, to keep the flows from folding"""
    frames: int = 4
    """frames of each sequence that are decoded in a step, drawn at random"""
    dim: int = 16
    """size of the latent"""
    networks: Literal["small", "paper"] = "small"
    """small convolutional networks, or those of the paper, which had --dim 324"""
    width: int = 32
    """channels of the first convolution of the small networks; those of the paper have as many as the latent has dimensions"""
    held_out: int | None = None
    """evaluate on this many held-out images only (all, if left out); for short runs"""

    def __post_init__(self) -> None:
        super().__post_init__()
        for name, least in (("frames", 1), ("dim", 1), ("width", 1), ("held_out", 5), ("initial", 0), ("marginal", 0)):
            value = getattr(self, name)
            if value is not None and not value >= least:
                raise ValueError(f"--{name.replace('_', '-')}: got {value}, expected at least {least}")
        if self.frames > STEPS + 1:
            raise ValueError(f"--frames: got {self.frames}, expected at most {STEPS + 1}, the frames of a sequence")


def main(settings: Settings) -> None:
    """Load first, so that bad data stops the run before any file is touched."""
    training, held_out = digits() if settings.data == "digits" else mnist()
    held_out = held_out[: settings.held_out]
    torch.set_num_threads(settings.threads)
    shared = dataclasses.asdict(settings)
    for name in (
        "out",
        "resume",
        "overwrite",
        "threads",
        "save_every",
        "held_out",
    ):  # these may differ when a run is resumed
        del shared[name]
    prepare(settings, shared)
    torch.manual_seed(settings.seed)
    model = build(settings, training.shape[-1])
    training = training.to(settings.device)

    def draw(generator: torch.Generator) -> tuple[Tensor, Tensor]:
        chosen = torch.randint(len(training), (settings.batch,), generator=generator, device=training.device)
        k = torch.arange(settings.batch, device=training.device) % len(TRANSFORMATIONS)
        return render(training[chosen], levels_of(k, STEPS)), k

    seconds = train(model, draw, settings)
    results = evaluate(model.cpu(), held_out, STEPS)
    index = results["selection"]["potential_of"] if "selection" in results else list(range(len(TRANSFORMATIONS)))
    evolution_figure(model, held_out, STEPS, index, settings.out / "figure.png")
    write({"example": "mnist", "settings": shared, "seconds": seconds, **results}, settings.out / "results.json")
    show(results)
    print(
        f"trained {settings.steps} steps in {seconds:.0f} s; wrote {settings.out}/results.json and {settings.out}/figure.png"
    )


def build(settings: Settings, side: int) -> FlowVAE:
    """The model for images of this side."""
    num, dim, width, stacked = len(TRANSFORMATIONS), settings.dim, settings.width, 3 * (STEPS + 1)
    infer = settings.supervision == "none"
    if settings.networks == "paper":
        encoder, decoder = paper_encoder(3, side, dim), paper_decoder(dim, 3, side)
        classifier = paper_classifier(stacked, side, num, dim) if infer else None
    else:
        encoder, decoder = small_encoder(3, side, 2 * dim, width), small_decoder(dim, 3, side, width)
        classifier = small_encoder(stacked, side, num, width) if infer else None
    return FlowVAE(
        encoder,
        decoder,
        dim,
        num,
        classifier,
        initial=settings.initial,
        marginal=settings.marginal,
        frames=settings.frames,
    )


if __name__ == "__main__":
    try:
        main(tyro.cli(Settings, description=__doc__))
    except (ValueError, FileNotFoundError) as error:
        sys.exit(f"error: {error}")
