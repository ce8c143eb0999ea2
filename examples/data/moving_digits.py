"""Scaling, rotation and colouring of grey digits, alone or together, as sequences of RGB frames.

Every frame is made from the first image directly, never from the frame before it, so nothing blurs along a sequence.
A digit is drawn in the red channel; colouring turns its hue and leaves black pixels black.
"""

from __future__ import annotations

import math
from functools import partial

import kornia
import torch
from torch import Tensor
from torch.nn import functional as F

from data.transformations import Transformations

# What one level adds: a factor of 0.1 to the size, 10 degrees, 20 degrees of hue. Eight levels reach 1.8, 80, 160.
STEP = (0.1, math.radians(10), math.radians(20))


def render(digits: Tensor, levels: Tensor, hue_step: float = STEP[2]) -> Tensor:
    """Frames (B, T+1, 3, H, W) of digits (B, H, W) at levels (B, T+1, 3) of scaling, rotation and hue."""
    scale, angle, hue = 1 + levels[..., 0] * STEP[0], levels[..., 1] * STEP[1], levels[..., 2] * hue_step
    return _warp(digits, scale, angle)[:, :, None] * _colour(hue)[..., None, None]


def _warp(digits: Tensor, scale: Tensor, angle: Tensor) -> Tensor:
    """Scale and turn about the pixel (W/2, H/2), bilinear with zero padding: (B, T+1, H, W).

    Counter-clockwise as displayed. The true centre of the image would be half a pixel off; this is the paper's.
    """
    batch, frames = scale.shape
    side = digits.shape[-1]
    centre = 2 * (side / 2) / (side - 1) - 1  # pixel side/2 in grid_sample's coordinates, -1 and 1 being the end pixels
    cos, sin = angle.cos() / scale, angle.sin() / scale
    shift_x, shift_y = centre * (1 - cos + sin), centre * (1 - sin - cos)
    inverse = torch.stack((cos, -sin, shift_x, sin, cos, shift_y), -1).view(-1, 3)
    line = torch.linspace(-1, 1, side, device=digits.device)
    y, x = torch.meshgrid(line, line, indexing="ij")
    points = inverse @ torch.stack((x, y, torch.ones_like(x))).flatten(1)  # one product: affine_grid makes one a frame
    grid = points.view(batch, frames, 2, side, side).movedim(2, -1).reshape(batch, frames * side, side, 2)
    # All frames of a digit are one tall image sampled from it, so no digit is copied.
    warped = F.grid_sample(digits[:, None], grid, align_corners=True, padding_mode="zeros")
    return warped.view(batch, frames, side, side)


def _colour(hue: Tensor) -> Tensor:
    """Fully saturated RGB (..., 3) of a hue in radians."""
    full = torch.ones_like(hue)
    hsv = torch.stack((hue.remainder(2 * math.pi), full, full), -1).view(-1, 3, 1, 1)
    return kornia.color.hsv_to_rgb(hsv).view(*hue.shape, 3)


def moving_digits(hue_range_deg: float) -> Transformations:
    """Whose hue turns by so many degrees in eight levels: 160 in the paper's code, 340 in its text."""
    return Transformations(
        ("scaling", "rotation", "coloring"), partial(render, hue_step=math.radians(hue_range_deg / 8))
    )


DIGITS = moving_digits(160)
