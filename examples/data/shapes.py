"""Squares, ellipses and hearts of any size, angle and place: what a model of digits has never seen."""

from __future__ import annotations

import math

import torch
from torch import Tensor
from torch.nn import functional as F

_FINE = 4  # points to a side of a pixel, for smooth edges


def shapes(count: int, side: int, seed: int = 0) -> Tensor:
    """Drawn shapes (count, side, side) in [0, 1], a third of each kind, of half to all of a third of the side in radius."""
    generator = torch.Generator().manual_seed(seed)
    draw = torch.rand(count, 4, generator=generator)
    radius = (0.5 + 0.5 * draw[:, 0]) / 3
    angle = 2 * math.pi * draw[:, 1]
    x, y = 0.5 + 0.25 * (draw[:, 2] - 0.5), 0.5 + 0.25 * (draw[:, 3] - 0.5)
    line = (torch.arange(side * _FINE) + 0.5) / (side * _FINE)
    v, u = (axis[None] for axis in torch.meshgrid(line, line, indexing="ij"))
    right, down = u - x[:, None, None], v - y[:, None, None]
    cos, sin = angle.cos()[:, None, None], angle.sin()[:, None, None]
    across, up = (cos * right - sin * down) / radius[:, None, None], -(sin * right + cos * down) / radius[:, None, None]
    square = torch.maximum(across.abs(), up.abs()) <= 0.8
    ellipse = across.square() + (up / 0.6).square() <= 1
    a, b = 1.2 * across, 1.2 * up + 0.1
    heart = (a.square() + b.square() - 1) ** 3 <= a.square() * b**3
    kind = torch.arange(count)[:, None, None] % 3
    inside = torch.where(kind == 0, square, torch.where(kind == 1, ellipse, heart))
    return F.avg_pool2d(inside.float(), _FINE)
