"""One experiment from its data to its tables and figures, the same whatever the data: build, train, evaluate, write, show."""

from __future__ import annotations

import argparse
import contextlib
import dataclasses
import sys
from collections.abc import Callable, Iterator, Mapping
from pathlib import Path
from typing import Any, Literal, TypeVar

import checkpoints
import models
import torch
import train
import trained
import tyro
from data.transformations import Transformations, one_of_all
from evaluate import evaluate
from figures import animation, picture, rows
from hardware import hardware
from report import show
from stopping import stoppable
from torch import Tensor
from variation import variation

# The published networks, terms and optimiser.
PAPER: dict[str, Any] = {
    "networks": "paper",
    "bounded": True,
    "frames": None,
    "balance": 0.0,
    "gumbel_rate": 3e-5,
    "initial": 0.0,
    "marginal": 1.0,
    "log_det": "laplacian",
    "prior": "particle",
    "batches": "one",
    "batch": 128,
    "learning_rate": 1e-4,
    "decay": 0.0,
    "schedule": "constant",
    "save_every": 1000,
}
SOME = 1000  # bases, for what takes long to measure and changes little with more


@dataclasses.dataclass(frozen=True)
class Settings(train.Run, models.Model):
    """What every experiment has."""

    batches: Literal["mixed", "one"] = "mixed"
    """transformations in a batch: as many of each as possible, or one for all of it, drawn anew in each step as in the paper"""
    evaluate_on: Literal["test", "validation"] = "test"
    """test images, or some of the training images, kept from training: for whoever chooses settings by what comes out"""
    held_out: int | None = None
    """evaluate on this many held-out images only (all, if left out); for short runs"""
    variation_pairs: int = 0
    """pairs of decoded images for variation predictability, as many of each transformation; 0 does not measure it. 1,200 take
    minutes"""

    def __post_init__(self) -> None:
        train.Run.__post_init__(self)
        models.Model.__post_init__(self)
        if self.held_out is not None and self.held_out < 1:
            raise ValueError(f"--held-out: got {self.held_out}, expected at least 1")
        if self.variation_pairs < 0:
            raise ValueError(f"--variation-pairs: got {self.variation_pairs}, expected at least 0")
        if self.batches == "one" and self.supervision == "none" and self.balance > 0:
            raise ValueError(
                f"--batches: got one with --balance {self.balance}, expected mixed; without labels, a batch is asked to use "
                "all potentials"
            )

    def noted(self) -> dict[str, Any]:
        """The settings that a resumed run must share; what is measured in the end may be more or less."""
        return {name: value for name, value in super().noted().items() if name not in self.measured()}

    def measured(self) -> dict[str, Any]:
        return {"held_out": self.held_out, "variation_pairs": self.variation_pairs}

    def reported(self) -> dict[str, Any]:
        """The settings that the results of every run come from."""
        return self.noted() | {"held_out": self.held_out}


@dataclasses.dataclass(frozen=True)
class Sequences:
    """What a model is trained and evaluated on."""

    truth: Transformations
    steps: int
    """transitions T of a sequence"""
    side: int
    """of a frame, which is square and RGB; pixels"""
    draw: train.Draw
    held_out: Tensor
    """bases (N, ...) that training never sees"""
    elsewhere: dict[str, Tensor] = dataclasses.field(default_factory=dict)
    """bases of another kind, by name"""
    some: int = SOME
    """how many of the bases are enough for what takes long to measure"""
    note: str = ""
    """what every table and figure has to say of the data"""


S = TypeVar("S", bound=Settings)
R = TypeVar("R", bound=train.Run)


def labels(settings: Settings, count: int, num: int, step: int, device: torch.device) -> Tensor:
    """Which of num transformations each of a batch's sequences shows, (count,)."""
    if settings.batches == "one":
        return torch.full((count,), one_of_all(settings.seed, step, num), device=device)
    first = torch.randint(num, (), device=device)
    return (torch.arange(count, device=device) + first) % num


def run(name: str, settings: S, sequences: Callable[[S, torch.device], Sequences]) -> None:
    """Everything; each process of a run calls it."""
    fabric = train.start(settings)
    # Load and build first, so that bad data and settings stop the run before any file is touched.
    data = sequences(settings, fabric.device)
    num = len(data.truth.names)
    _check(settings, num, len(data.held_out))
    torch.manual_seed(settings.seed)
    model = models.build(settings, 3, data.side, num, data.steps)
    train.claim(fabric, settings, name)
    if fabric.is_global_zero:
        trained.note(settings.out, settings, 3, data.side, data.truth.names, data.steps)
    machine = hardware(fabric.device, fabric.world_size)
    seconds = train.train(fabric, model, data.draw, settings)
    if not fabric.is_global_zero:
        return
    with stoppable():
        results = _measured(model, data, settings)
    about = {"example": name, "data": data.note} if data.note else {"example": name}
    written = {**about, "settings": settings.reported(), "hardware": machine, "seconds": seconds, **results}
    checkpoints.write(settings.out / "results.json", written)
    show(results, data.note)
    print(
        f"trained {settings.steps} steps in {seconds:.0f} s; wrote results.json, figure.png, evolution.webp to {settings.out}"
    )


def _measured(model: models.FlowVAE, data: Sequences, settings: Settings) -> dict[str, Any]:
    """The results of a trained model, whose figures are drawn as well."""
    given = model, data.held_out, data.truth, data.steps
    print(f"evaluating on {len(data.held_out)} held-out sequences of each kind:", end="", flush=True)
    results = evaluate(*given, elsewhere=data.elsewhere, some=data.some, say=_say)
    index = results["selection"]["potential_of"] if "selection" in results else list(range(len(data.truth.names)))
    if settings.variation_pairs > 0:
        _say("variation")
        results["variation"] = variation(*given, index, settings.variation_pairs, seed=settings.seed)
    print(" figures", flush=True)
    found = rows(*given, index, each=6)
    picture(found, settings.out / "figure.png", data.note)
    animation(found, settings.out / "evolution.webp")
    return results


def _say(what: str) -> None:
    """One line that grows while it takes."""
    print(f" {what},", end="", flush=True)


def _check(settings: Settings, num: int, held_out: int) -> None:
    share, least = settings.batch // settings.shares, 2 * num
    if settings.supervision == "none" and share < least:
        raise ValueError(
            f"--batch: got {share} sequences in each of {settings.shares} parts, expected at least {least} in each; "
            "without labels, each part is asked to use all potentials"
        )
    if held_out < num + 2:
        raise ValueError(f"--held-out: got {held_out}, expected at least {num + 2}, one for each row of the figure")
    pairs, least, most = settings.variation_pairs, 2 * num, num * held_out
    if pairs > 0 and not least <= pairs <= most:
        raise ValueError(
            f"--variation-pairs: got {pairs}, expected 0, or {least} to {most}: each transformation shows two to all of the "
            "held-out images"
        )


def settings_of(kind: type[R], presets: Mapping[str, R], arguments: list[str], description: str | None) -> R:
    """The preset's settings, and what the command line changes; the first preset is the default.

    Those of a run that is resumed stand in its folder, and need not be given again.
    """
    first = next(iter(presets))
    chooser = argparse.ArgumentParser(add_help=False, allow_abbrev=False, exit_on_error=False)
    chooser.add_argument("--preset", default=first)
    chooser.add_argument("--out", type=Path)
    chooser.add_argument("--resume", action=argparse.BooleanOptionalAction, default=False)
    default = presets[first]
    with contextlib.suppress(argparse.ArgumentError):  # which tyro tells of in its own words
        said = chooser.parse_known_args(arguments)[0]
        default = presets.get(said.preset, default)
        if said.resume:
            default = _as_before(kind, presets, default, said.out or default.out)
    return tyro.cli(kind, default=default, args=arguments, description=description)


def _as_before(kind: type[R], presets: Mapping[str, R], default: R, out: Path) -> R:
    """The settings that a run has noted in its folder, if there is one; all others are those of its preset."""
    before = checkpoints.settings_of(out)
    if not before:
        return default
    default = dataclasses.replace(presets.get(str(before.get("preset")), default), out=out)
    wanted = [name for name in (default.noted() | default.measured()) if name != "shares"]
    missing = [name for name in wanted if name not in before]
    if missing:
        raise ValueError(
            f"--resume: got {out}, whose run has no {', '.join(missing)}, expected one of this example and version; "
            "name its folder with --out, or start anew with --overwrite"
        )
    said = [word for name in wanted for word in _as_option(name, before[name])]
    try:
        return tyro.cli(kind, default=default, args=said, console_outputs=False)
    except (SystemExit, ValueError) as error:
        raise ValueError(
            f"{out}: got {' '.join(said)}, expected settings that this example takes; the file is damaged, "
            "start anew with --overwrite"
        ) from error


def _as_option(name: str, value: Any) -> tuple[str, ...]:
    option = name.replace("_", "-")
    if isinstance(value, bool):
        return (f"--{option}" if value else f"--no-{option}",)
    return f"--{option}", str(value)


@contextlib.contextmanager
def errors_in_one_line() -> Iterator[None]:
    """What a user can mend ends the script with one line."""
    try:
        yield
    except (ValueError, OSError) as error:
        sys.exit(f"error: {error}")
