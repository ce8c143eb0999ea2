"""What the experiments on Shapes3D, Falcor3D and Isaac3D share: their options, and sequences that move one factor each."""

from __future__ import annotations

import dataclasses
from collections.abc import Callable
from typing import Literal

import experiment
import torch
from data.factor_sequences import FactorSequences, Source

SOME = 40  # sequences of each composition: there are up to 84 of those
NOTE = "synthetic stand-in, not the published images"


@dataclasses.dataclass(frozen=True)
class Settings(experiment.Settings):
    """Train, evaluate on sequences from held-out images, print the tables, write results.json and the figures."""

    preset: Literal["cpu", "paper"] = "cpu"
    """which defaults; any other option changes them"""
    data: Literal["synthetic", "files"] = "synthetic"
    """a renderer that stands in for the data set, or the data set's own files in $LATENTFLOW_DATA"""
    side: int = 64
    """of a frame; the files' images are averaged down to it"""
    held_out: int = 200  # there is no end of them
    """sequences of each transformation to evaluate on"""

    def __post_init__(self) -> None:
        super().__post_init__()
        if self.side < 16 or self.side % 8 != 0:
            raise ValueError(f"--side: got {self.side}, expected a multiple of 8 from 16")


@dataclasses.dataclass(frozen=True)
class DataSet:
    """A data set of images by factors, and which of its factors move."""

    name: str
    reader: Callable[[], Source]
    """opens and checks the files"""
    scene: Callable[[int], Source]
    """a renderer of the same factors, of frames of a side"""
    moving: tuple[int, ...]
    """factors, by index"""
    states: int
    """frames of a sequence"""

    def run(self, settings: Settings) -> None:
        experiment.run(self.name, settings, self._sequences)

    def _sequences(self, settings: Settings, device: torch.device) -> experiment.Sequences:
        synthetic = settings.data == "synthetic"
        source = self.scene(settings.side) if synthetic else self.reader()
        found = FactorSequences(
            source,
            self.moving,
            self.states,
            settings.side,
            seed=settings.seed,
            device=device,
            files=not synthetic,
            mixed=settings.batches == "mixed",
        )
        return experiment.Sequences(
            found.truth,
            self.states - 1,
            settings.side,
            found.draw,
            found.held_out(settings.evaluate_on, settings.held_out),
            some=SOME,
            note=f"{self.name}: {NOTE}" if synthetic else "",
        )
