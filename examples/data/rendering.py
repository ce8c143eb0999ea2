"""Pictures of solids in a room: a camera's rays, what they meet first, hard shadows of a point light, Lambert's law."""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence
from dataclasses import dataclass

import torch
from torch import Tensor

from data.solids import HUGE, Planes, Rays, Solid, Vector, dot, minus, plus, plus_product, positive, times

GOLDEN = (math.sqrt(5) - 1) / 2
CLEAR = 1 - 1e-3  # of the way from the light to a point: what is met later is the surface that the point is on


def camera(position: Vector, target: Vector, field: float, side: int, samples: int, device: torch.device) -> Rays:
    """Rays through the pixels of a square picture `field` degrees wide; distances are depths.

    The rays are those of the first sample of each pixel, then those of the second, and so on. Within a pixel the golden ratio
    spreads them, so that edges of any direction come out smooth.
    """
    number = torch.arange(samples, device=device, dtype=torch.float32)
    across = (number + 0.5) / samples
    down = (0.5 + number * GOLDEN) % 1
    down = down + 0.5 - down.mean()
    pixel = torch.arange(side, device=device, dtype=torch.float32)
    half = math.tan(math.radians(field) / 2)
    right = (pixel + across[:, None]) * (2 * half / side) - half
    up = half - (pixel + down[:, None]) * (2 * half / side)
    u = right[:, None, :].expand(samples, side, side).reshape(1, -1)
    v = up[:, :, None].expand(samples, side, side).reshape(1, -1)
    x, y, z = minus(target, position)
    level = (x * x + z * z) ** 0.5
    length = (x * x + y * y + z * z) ** 0.5
    x, y, z = x / length, y / length, z / length
    level = level / length
    rightwards, upwards = (-z / level, 0.0, x / level), (-x * y / level, level, -z * y / level)
    return Rays(position, plus(plus((x, y, z), times(rightwards, u)), times(upwards, v)))


@dataclass(frozen=True)
class Surface:
    """What rays meet first: how far away, where, with which outer normal and which colour (albedo); planes (N, P) each."""

    distance: Tensor
    point: Planes
    normal: Planes
    albedo: Planes

    def of(self, index: Tensor) -> Surface:
        """Frames by index (M,)."""
        return Surface(*(_each(lambda plane: plane.index_select(0, index), part) for part in self._parts()))

    @classmethod
    def joined(cls, surfaces: Sequence[Surface]) -> Surface:
        """The frames of all of them."""
        parts = zip(*map(cls._parts, surfaces), strict=True)
        return cls(*(_each(lambda *planes: torch.cat(planes), *part) for part in parts))

    def _parts(self) -> tuple[Tensor | Planes, ...]:
        return self.distance, self.point, self.normal, self.albedo


def _each(change: Callable[..., Tensor], *parts: Tensor | Planes) -> Tensor | Planes:
    """A change of a plane, or of each of the three."""
    return change(*parts) if isinstance(parts[0], Tensor) else tuple(map(change, *parts))


def room(rays: Rays, low: Vector, high: Vector) -> Surface:
    """The inside of a box that the rays start in; white, for the scene to paint."""
    walls = [
        torch.where(rate > 0, b - o, a - o) * rate
        for a, b, o, (rate, _) in zip(low, high, rays.origin, rays.rates, strict=True)
    ]
    distance = torch.minimum(torch.minimum(walls[0], walls[1]), walls[2])
    normal = tuple(-rate.sign() * (wall == distance) for wall, (rate, _) in zip(walls, rays.rates, strict=True))
    return Surface(distance, rays.at(distance), normal, (torch.ones_like(distance),) * 3)


def trace(rays: Rays, solids: Sequence[tuple[Solid, Vector]], behind: Surface) -> Surface:
    """The nearest of solids, each with its colour, and of what is behind them."""
    hits = []
    nearest = behind.distance
    for solid, _ in solids:
        near, far = solid.hit(rays)
        hits.append(plus_product(near, positive(torch.maximum(near - far, -near)), HUGE))
        nearest = torch.minimum(nearest, hits[-1])
    point, normal, albedo = rays.at(nearest), behind.normal, behind.albedo
    for hit, (solid, colour) in zip(hits, solids, strict=True):
        seen = 1 - positive(hit - nearest)
        normal = _blend(normal, solid.normal(point), seen)
        albedo = _blend(albedo, colour, seen)
    return Surface(nearest, point, normal, albedo)


def lit(surface: Surface, light: Vector, casters: Sequence[Solid]) -> Tensor:
    """Light (N, P) from a point: the cosine over the squared distance, and none in the shadow of a caster.

    Shadow rays start at the light, where they have one origin for all of a frame.
    """
    rays = Rays(light, minus(surface.point, light))
    towards = -dot(rays.direction, surface.normal)
    cosine = towards * (rays.square * dot(surface.normal, surface.normal)).rsqrt()
    hidden = None
    for caster in casters:
        near, far = caster.hit(rays)
        between = far.clamp_max(CLEAR) - near.clamp_min(0)
        hidden = between if hidden is None else torch.maximum(hidden, between)
    if hidden is not None:
        cosine = cosine * (1 - positive(hidden))
    return cosine.clamp_min(0) / rays.square


def sent(surface: Surface, ambient: Vector, lamp: Vector, strength: Tensor) -> Planes:
    """The light that a surface sends: its colour in that of the ambient light and of a lamp of some strength there."""
    colours = zip(surface.albedo, ambient, lamp, strict=True)
    return tuple((everywhere + direct * strength) * own for own, everywhere, direct in colours)


def picture(colours: Planes, side: int) -> Tensor:
    """Frames (N, 3, side, side): a soft exposure of each sample, then the mean of each pixel's."""
    exposed = torch.stack([_exposed(colour, side) for colour in colours], 1)
    return exposed.view(-1, 3, side, side)


def _exposed(colour: Tensor, side: int) -> Tensor:
    unexposed = (1 + 0.5 * colour).reciprocal_().square_()  # not unlike exp(-colour), in a fifth of the time
    return 1 - unexposed.view(len(colour), -1, side * side).mean(1)


def _blend(a: Vector, b: Vector, weight: Tensor) -> Planes:
    b = (y if isinstance(y, Tensor) else weight.new_full((1, 1), y) for y in b)
    return tuple(torch.lerp(x, y, weight) for x, y in zip(a, b, strict=True))
