"""Data sets that hold one image for every combination of their factors, and the sequences in which one factor runs."""

from __future__ import annotations

import math
from dataclasses import dataclass

import torch
from torch import Tensor


@dataclass(frozen=True)
class Factors:
    """The factors of a data set, and how many values each has. The last one runs fastest from image to image.

    Example:
        >>> two = Factors(("shape", "scale"), (3, 6))
        >>> two.values(torch.tensor([7]))
        tensor([[1, 1]])
        >>> two.index(torch.tensor([1, 1]))
        tensor(7)
    """

    names: tuple[str, ...]
    sizes: tuple[int, ...]

    def __post_init__(self) -> None:
        if not len(self.sizes) == len(self.names) == len(set(self.names)) or min(self.sizes, default=0) < 1:
            raise ValueError(
                f"factors: got names {self.names} and sizes {self.sizes}, expected as many sizes, at least 1, as "
                "different names"
            )

    def __len__(self) -> int:
        """The number of images."""
        return math.prod(self.sizes)

    @property
    def bases(self) -> tuple[int, ...]:
        """By how many images one step of each factor moves on."""
        return tuple(math.prod(self.sizes[j + 1 :]) for j in range(len(self.sizes)))

    def index(self, values: Tensor) -> Tensor:
        """Which images (...) have these values (..., F)."""
        self._check(values)
        return (values * torch.tensor(self.bases)).sum(-1)

    def values(self, index: Tensor) -> Tensor:
        """The value of each factor (..., F) in these images (...)."""
        _check_whole("index", index)
        if index.numel() and not 0 <= index.min() <= index.max() < len(self):
            wrong = index[(index < 0) | (index >= len(self))][0].item()
            raise ValueError(f"index: got {wrong}, expected 0 to {len(self) - 1}; there is no such image")
        return index[..., None] // torch.tensor(self.bases) % torch.tensor(self.sizes)

    def sequences(self, values: Tensor, factor: Tensor | int, states: int) -> Tensor:
        """Values (B, states, F) in which `factor` (B,) is 0, ..., states - 1 and all others stay as in `values` (B, F).

        The factor is set, whatever it was. Adding 0, 1, ... times its base to an index instead would carry into the factors
        before it wherever it did not start at 0, and the sequence would jump in two factors at once. Which base belongs to
        which name matters as much: the formula printed in the README of Isaac3D gives the bases, but with the names in another
        order than that of its images; the order here is the one that its example traversals show.
        """
        self._check(values)
        if values.ndim != 2:
            raise ValueError(
                f"values: got shape {tuple(values.shape)}, expected (B, {len(self.sizes)}), a row per sequence"
            )
        factor = torch.as_tensor(factor).expand(len(values))
        _check_whole("factor", factor)
        for j in factor.unique().tolist():
            self.check_run(j, states)
        runs = torch.arange(len(self.sizes)) == factor[:, None]
        return torch.where(runs[:, None], torch.arange(states)[:, None], values[:, None])

    def check_run(self, factor: int, states: int) -> None:
        """Can this factor run through so many states?"""
        if not 0 <= factor < len(self.sizes):
            raise ValueError(
                f"factor: got {factor}, expected 0 to {len(self.sizes) - 1}, one of {', '.join(self.names)}"
            )
        if not 1 <= states <= self.sizes[factor]:
            raise ValueError(
                f"states: got {states}, expected 1 to {self.sizes[factor]}; {self.names[factor]} has no more values"
            )

    def _check(self, values: Tensor) -> None:
        _check_whole("values", values)
        if values.ndim == 0 or values.shape[-1] != len(self.sizes):
            raise ValueError(
                f"values: got shape {tuple(values.shape)}, expected (..., {len(self.sizes)}), "
                f"the last axis being {', '.join(self.names)}"
            )
        for name, size, column in zip(self.names, self.sizes, values.unbind(-1), strict=True):
            wrong = column[(column < 0) | (column >= size)]
            if len(wrong):
                raise ValueError(f"{name}: got value {wrong[0].item()}, expected 0 to {size - 1}")


def _check_whole(name: str, tensor: Tensor) -> None:
    if tensor.dtype != torch.int64:
        raise TypeError(f"{name}: got {tensor.dtype}, expected torch.int64; convert it with .long()")


SHAPES3D = Factors(("floor_hue", "wall_hue", "object_hue", "scale", "shape", "orientation"), (10, 10, 10, 8, 4, 15))
FALCOR3D = Factors(
    (
        "lighting_intensity",
        "lighting_x-dir",
        "lighting_y-dir",
        "lighting_z-dir",
        "camera_x-pos",
        "camera_y-pos",
        "camera_z-pos",
    ),
    (5, 6, 6, 6, 6, 6, 6),
)
ISAAC3D = Factors(
    (
        "object_shape",
        "robot_x-move",
        "robot_y-move",
        "camera_height",
        "object_scale",
        "lighting_intensity",
        "lighting_y-dir",
        "object_color",
        "wall_color",
    ),
    (3, 8, 5, 4, 4, 4, 6, 4, 4),
)
DSPRITES = Factors(("shape", "scale", "orientation", "posX", "posY"), (3, 6, 40, 32, 32))  # without its one colour
