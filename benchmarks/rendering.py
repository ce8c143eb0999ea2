"""Frames per second of the scenes that stand in for data sets, and their share of a training step of the `cpu` presets."""

from __future__ import annotations

import dataclasses
import time
from collections.abc import Callable
from functools import partial
from typing import Any

import factor_experiment
import falcor3d
import isaac3d
import models
import shapes3d
import torch
import train
from data.factor_sequences import FactorSequences
from data.scenes import Kitchen, LivingRoom, Room

from benchmarks.timing import medians

FRAMES = {64: 256, 128: 64}  # in a batch, by their side: as many pixels in each
SCENES = {"room": Room, "living room": LivingRoom, "kitchen": Kitchen}


def measure(repeats: int) -> dict[str, Any]:
    """By scene and side: frames per second, and the seconds it takes before the first, once, to trace what never changes."""
    found = {}
    for side, count in FRAMES.items():
        scenes = {f"{name}, {side}": scene(side) for name, scene in SCENES.items()}
        first = {name: _seconds_before_first(scene) for name, scene in scenes.items()}
        batches = {name: partial(scene.images, _values(scene, count)) for name, scene in scenes.items()}
        for name, milliseconds in medians(batches, repeats).items():
            speed = 1000 * count / milliseconds
            found[name] = {"frames per second": speed, "seconds before the first": first[name]}
            print(f"{name}: {speed:.0f} frames/s, the first after {first[name]:.1f} s", flush=True)
    for name, example in {"shapes3d": shapes3d, "falcor3d": falcor3d, "isaac3d": isaac3d}.items():
        times = medians(_step(example.DATA, example.PRESETS["cpu"]), repeats)
        found[name] = times | {"share": times["rendering"] / times["step"]}
        print(
            f"{name}: rendering takes {100 * found[name]['share']:.0f} % of a training step of {times['step']:.0f} ms"
        )
    return found


def _step(data: factor_experiment.DataSet, preset: factor_experiment.Settings) -> dict[str, Callable[[], object]]:
    """A training step of a preset, and what of it makes the frames; milliseconds."""
    fabric = train.start(dataclasses.replace(preset, accelerator="cpu", threads=torch.get_num_threads()))
    sequences = FactorSequences(data.scene(preset.side), data.moving, data.states, preset.side)
    model = models.build(preset, 3, preset.side, len(data.moving), data.states - 1).train()
    wrapped, *optimisers = fabric.setup(model, *train.optimisers_of(model, preset))
    return {
        "step": partial(train.take_step, fabric, wrapped, optimisers, sequences.draw, preset, 0),
        "rendering": partial(sequences.draw, preset.batch, 0, 0),
    }


def _seconds_before_first(scene: Room | LivingRoom | Kitchen) -> float:
    start = time.perf_counter()
    scene.images(_values(scene, 1))
    return time.perf_counter() - start


def _values(scene: Room | LivingRoom | Kitchen, count: int) -> torch.Tensor:
    generator = torch.Generator().manual_seed(0)
    return torch.stack([torch.randint(size, (count,), generator=generator) for size in scene.factors.sizes], 1)
