"""Sequences in which one factor moves and all others stay, from anything that has an image for all values of its factors."""

from __future__ import annotations

from concurrent.futures import Future, ThreadPoolExecutor
from typing import Protocol

import numpy as np
import torch
from torch import Tensor
from torch.nn import functional as F

from data.factors import Factors
from data.splits import Split, starts
from data.transformations import Transformations, one_of_all


class Source(Protocol):
    """A data set, or a renderer that stands in for it."""

    factors: Factors
    side: int

    def images(self, values: Tensor) -> Tensor:
        """Images (N, 3, side, side) of values (N, F): in [0, 1] where the values lie, or bytes from and on the CPU."""


class FactorSequences:
    """Batches for training and true frames for evaluation; the k-th transformation moves the factor ``moving[k]``.

    Args:
        source: where images come from.
        moving: the factors that move, by index.
        states: frames of a sequence; the factor takes its values 0, 1, ..., states - 1.
        side: of a frame, which the source's side is a multiple of; smaller frames are averages of pixels.
        seed: of the batches.
        device: where frames go, and where they are rendered.
        files: the source reads bytes, and is asked for the next batch, in a thread, while the last is in use.
        mixed: batches show all transformations, else one each.
    """

    def __init__(
        self,
        source: Source,
        moving: tuple[int, ...],
        states: int,
        side: int,
        *,
        seed: int = 0,
        device: torch.device | str = "cpu",
        files: bool = False,
        mixed: bool = True,
    ) -> None:
        if source.side % side != 0:
            raise ValueError(f"--side: got {side}, expected a divisor of {source.side}, the side of the images")
        self.source, self.moving, self.states, self.side = source, moving, states, side
        self.seed, self.device, self.files, self.mixed = seed, torch.device(device), files, mixed
        names = tuple(source.factors.names[factor] for factor in moving)
        self.truth = Transformations(names, self.render, min(source.factors.sizes[factor] for factor in moving) - 1)
        self._starts = self._of("train")
        self._reader = ThreadPoolExecutor(1)
        self._ahead: dict[int, tuple[int, Future[tuple[Tensor, Tensor]]]] = {}

    def held_out(self, split: Split, count: int) -> Tensor:
        """Bases (count, K, F) to evaluate on: in row n, the k-th is where the n-th sequence of transformation k starts."""
        rng = np.random.default_rng(0)
        chosen = [torch.from_numpy(rng.choice(index, count, replace=len(index) < count)) for index in self._of(split)]
        return self.source.factors.values(torch.stack(chosen, 1)).to(self.device)

    def render(self, bases: Tensor, levels: Tensor) -> Tensor:
        """Frames (B, T+1, 3, side, side) of bases (B, K, F) at levels (B, T+1, K).

        A transformation that acts in a sequence starts at 0, whatever the base says of its factor; where several act, all else
        is as in the base of the first.
        """
        acts = levels.any(1)
        first = acts.int().argmax(1)
        values = bases[torch.arange(len(bases), device=bases.device), first]
        moving = list(self.moving)
        values[:, moving] = values[:, moving].where(~acts, 0)
        values = values[:, None].repeat(1, levels.shape[1], 1)
        values[..., moving] += levels.to(values.dtype)
        return self._floating(self._images(values))

    def draw(self, count: int, step: int, share: int) -> tuple[Tensor, Tensor]:
        """A batch of the training sequences, as many of each transformation as possible, or of one."""
        at, ahead = self._ahead.pop(share, (None, None))
        x, k = ahead.result() if ahead is not None and at == step else self._batch(count, step, share)
        if self.files:
            self._ahead[share] = step + 1, self._reader.submit(self._batch, count, step + 1, share)
        return self._floating(x), k.to(self.device)

    def _of(self, split: Split) -> list[np.ndarray]:
        return [starts(self.source.factors, factor, self.states, split).numpy() for factor in self.moving]

    def _batch(self, count: int, step: int, share: int) -> tuple[Tensor, Tensor]:
        rng, num = np.random.default_rng((self.seed, step, share)), len(self.moving)
        k = (np.arange(count) + rng.integers(num)) % num
        if not self.mixed:
            k = np.full(count, one_of_all(self.seed, step, num))
        chosen = np.array([rng.choice(self._starts[each]) for each in k])
        factor = torch.tensor([self.moving[each] for each in k])
        values = self.source.factors.values(torch.from_numpy(chosen))
        return self._images(self.source.factors.sequences(values, factor, self.states)), torch.from_numpy(k)

    def _images(self, values: Tensor) -> Tensor:
        """As the source has them, (B, S, 3, side, side) of values (B, S, F)."""
        x = self.source.images(values.flatten(0, 1).to("cpu" if self.files else self.device))
        if self.files and self.device.type == "cuda":
            x = x.pin_memory()  # so that it goes over while the device computes
        return x.unflatten(0, values.shape[:2])

    def _floating(self, x: Tensor) -> Tensor:
        x = x.to(self.device, non_blocking=True)
        x = x / 255 if self.files else x
        times = x.shape[-1] // self.side
        return x if times == 1 else F.avg_pool2d(x.flatten(0, 1), times).unflatten(0, x.shape[:2])
