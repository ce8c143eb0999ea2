"""What moves along a sequence: the names of the transformations, their levels, and how true frames are made of them."""

from __future__ import annotations

import dataclasses
from collections.abc import Callable

import numpy as np
import torch
from torch import Tensor
from torch.nn import functional as F


@dataclasses.dataclass(frozen=True)
class Transformations:
    """K transformations and the truth about them, alone or together.

    A sequence is a base, which says all that does not move, and the level of each transformation in each frame.
    """

    names: tuple[str, ...]
    render: Callable[[Tensor, Tensor], Tensor]
    """bases (B, ...) and levels (B, T+1, K) -> frames (B, T+1, C, H, W) in [0, 1]"""
    furthest: int | None = None
    """highest level that there is; None if there is no end"""

    def single(self, bases: Tensor, k: int | Tensor, steps: int) -> Tensor:
        """Frames (B, T+1, C, H, W) of the k-th transformation, an index or one for each base (B,)."""
        return self.render(bases, levels_of(self._each(bases, k), steps, len(self.names)))

    def switched(self, bases: Tensor, first: int, second: int, steps: int) -> Tensor:
        """Frames of the first transformation up to T/2, then of the second on top of it."""
        a, b = self._each(bases, first), self._each(bases, second)
        return self.render(bases, switching_levels(a, b, steps, len(self.names)))

    def superposed(self, bases: Tensor, first: int, second: int, steps: int) -> Tensor:
        """Frames of both transformations at every level."""
        num = len(self.names)
        both = sum(levels_of(self._each(bases, k), steps, num) for k in (first, second))
        assert isinstance(both, Tensor)
        return self.render(bases, both)

    @staticmethod
    def _each(bases: Tensor, k: int | Tensor) -> Tensor:
        return k if isinstance(k, Tensor) else torch.full((len(bases),), k, device=bases.device)


def one_of_all(seed: int, step: int, num: int) -> int:
    """The transformation that a whole batch shows, all shares of it, where it shows one."""
    return int(np.random.default_rng((seed, step)).integers(num))


def levels_of(k: Tensor, steps: int, num: int) -> Tensor:
    """Levels (B, T+1, num) of single transformations: 0, 1, ..., T for the k-th, 0 for the others; k (B,)."""
    ramp = torch.arange(steps + 1, device=k.device, dtype=torch.float32)
    return ramp[None, :, None] * F.one_hot(k, num)[:, None]


def switching_levels(first: Tensor, second: Tensor, steps: int, num: int) -> Tensor:
    """Levels (B, T+1, num) of the first transformation up to T/2, then of the second on top of it."""
    ramp = torch.arange(steps + 1, device=first.device, dtype=torch.float32)
    half = steps // 2
    before, after = ramp.clamp_max(half), (ramp - half).clamp_min(0)
    return (
        before[None, :, None] * F.one_hot(first, num)[:, None] + after[None, :, None] * F.one_hot(second, num)[:, None]
    )
