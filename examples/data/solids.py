"""Where rays enter spheres, boxes, cylinders, capsules and cones, in closed form, for all frames of a batch at once.

A vector is three planes x, y, z, each a number or a tensor that broadcasts to (N, P): N frames of P rays each. Separate planes
are contiguous, which a last axis of three is not. Solids are convex: a ray is in one from where it has entered the last of the
slabs and quadrics that bound it, until it leaves the first.
"""

from __future__ import annotations

from dataclasses import dataclass
from functools import cached_property
from typing import Protocol

import torch
from torch import Tensor

Number = float | Tensor
Vector = tuple[Number, Number, Number]
Planes = tuple[Tensor, Tensor, Tensor]
TINY, HUGE = 1e-10, 1e20


def plus_product(total: Number, a: Number, b: Number) -> Number:
    """The sum of one and the product of two, without a plane for the product where that can be."""
    if isinstance(b, Tensor) and not isinstance(a, Tensor):
        a, b = b, a
    if not (isinstance(total, Tensor) and isinstance(a, Tensor)):
        return total + a * b
    return torch.addcmul(total, a, b) if isinstance(b, Tensor) else torch.add(total, a, alpha=b)


def dot(a: Vector, b: Vector) -> Number:
    return plus_product(plus_product(a[0] * b[0], a[1], b[1]), a[2], b[2])


def plus(a: Vector, b: Vector) -> Vector:
    return a[0] + b[0], a[1] + b[1], a[2] + b[2]


def minus(a: Vector, b: Vector) -> Vector:
    return a[0] - b[0], a[1] - b[1], a[2] - b[2]


def times(a: Vector, b: Number) -> Vector:
    return a[0] * b, a[1] * b, a[2] * b


def either(mask: Tensor, a: Vector, b: Vector) -> Planes:
    return torch.where(mask, a[0], b[0]), torch.where(mask, a[1], b[1]), torch.where(mask, a[2], b[2])


def positive(x: Tensor) -> Tensor:
    """1 where x > 0, else 0. Comparisons, and masks as they return them, are several times slower than arithmetic."""
    return (x * HUGE).clamp(0, 1)


@dataclass(frozen=True)
class Rays:
    """Points origin + distance * direction. Directions may have any length; distances are in units of it."""

    origin: Vector
    direction: Planes

    def at(self, distance: Tensor) -> Planes:
        return tuple(map(plus_product, self.origin, self.direction, (distance,) * 3))

    @cached_property
    def square(self) -> Tensor:
        return dot(self.direction, self.direction)

    @cached_property
    def inverse_square(self) -> Tensor:
        return self.square.reciprocal()

    @cached_property
    def rates(self) -> tuple[tuple[Tensor, Tensor], ...]:
        return tuple(map(_rate, self.direction))


class Solid(Protocol):
    """What can be seen and can throw shadows."""

    def hit(self, rays: Rays) -> tuple[Tensor, Tensor]:
        """Distances (N, P) at which rays enter, and distances beyond for the rays that meet it: before for all others."""

    def normal(self, point: Planes) -> Planes:
        """Outwards from points of the surface, of any length; finite elsewhere, too."""


@dataclass(frozen=True)
class Sphere:
    centre: Vector
    radius: Number

    def hit(self, rays: Rays) -> tuple[Tensor, Tensor]:
        offset = minus(rays.origin, self.centre)
        middle, reach = _quadric(
            rays.inverse_square, -dot(offset, rays.direction), dot(offset, offset) - self.radius * self.radius
        )
        return middle - reach, middle + reach

    def normal(self, point: Planes) -> Planes:
        return minus(point, self.centre)


@dataclass(frozen=True)
class Box:
    centre: Vector
    half: Vector  # of its sides
    axes: tuple[Vector, Vector, Vector] | None = None  # unit vectors along its sides, if it is turned

    def hit(self, rays: Rays) -> tuple[Tensor, Tensor]:
        offset = self._own(minus(self.centre, rays.origin))
        rates = rays.rates if self.axes is None else map(_rate, self._own(rays.direction))
        near, far = zip(*map(_slab, offset, self.half, rates), strict=True)
        enter = torch.maximum(torch.maximum(near[0], near[1]), near[2])
        return enter, torch.minimum(torch.minimum(far[0], far[1]), far[2])

    def normal(self, point: Planes) -> Planes:
        offset = self._own(minus(point, self.centre))
        x, y, z = (o.abs() - h for o, h in zip(offset, self.half, strict=True))
        on_x, on_y = positive(x - torch.maximum(y, z)), positive(y - torch.maximum(x, z))
        own = tuple(o.sign() * face for o, face in zip(offset, (on_x, on_y, 1 - on_x - on_y), strict=True))
        if self.axes is None:
            return own
        along_x, along_y, along_z = map(times, self.axes, own)
        return plus(plus(along_x, along_y), along_z)

    def _own(self, vector: Vector) -> Vector:
        """A vector as the box sees it."""
        return vector if self.axes is None else tuple(dot(axis, vector) for axis in self.axes)


@dataclass(frozen=True)
class Cylinder:
    centre: Vector
    axis: Vector  # of unit length
    half: Number  # of its length
    radius: Number

    def hit(self, rays: Rays) -> tuple[Tensor, Tensor]:
        offset = minus(rays.origin, self.centre)
        along, step = dot(offset, self.axis), dot(rays.direction, self.axis)
        across = (rays.square - step * step).clamp_min(TINY**2)
        middle, reach = _quadric(
            across.reciprocal(),
            along * step - dot(offset, rays.direction),
            dot(offset, offset) - along * along - self.radius * self.radius,
        )
        near, far = _slab(-along, self.half, _rate(step))
        return torch.maximum(middle - reach, near), torch.minimum(middle + reach, far)

    def normal(self, point: Planes) -> Planes:
        offset = minus(point, self.centre)
        along = dot(offset, self.axis)
        around = minus(offset, times(self.axis, along))
        on_cap = along.abs() - self.half > dot(around, around).sqrt() - self.radius
        return either(on_cap, times(self.axis, along.sign()), around)


@dataclass(frozen=True)
class Capsule:
    start: Vector
    end: Vector
    radius: Number

    def hit(self, rays: Rays) -> tuple[Tensor, Tensor]:
        """The ball that is entered is the one about the point of the axis beside which the endless cylinder is entered."""
        axis, offset = minus(self.end, self.start), minus(rays.origin, self.start)
        length2 = dot(axis, axis)
        along, step = dot(offset, axis), dot(rays.direction, axis)
        towards, outside = -dot(offset, rays.direction), dot(offset, offset) - self.radius * self.radius
        part = step / length2
        across = (rays.square - step * part).clamp_min(TINY**2)
        middle, reach = _quadric(
            across.reciprocal(), plus_product(towards, part, along), outside - along * along / length2
        )
        beside = plus_product(along / length2, part, middle - reach).clamp(0, 1)
        towards = plus_product(towards, beside, step)
        outside = plus_product(outside, beside, plus_product(-2 * along, beside, length2))
        middle, reach = _quadric(rays.inverse_square, towards, outside)
        return middle - reach, middle + reach

    def normal(self, point: Planes) -> Planes:
        axis, offset = minus(self.end, self.start), minus(point, self.start)
        return minus(offset, times(axis, (dot(offset, axis) / dot(axis, axis)).clamp(0, 1)))


@dataclass(frozen=True)
class Cone:
    apex: Vector
    axis: Vector  # of unit length, from the apex to the middle of the base
    height: Number
    slope: float  # radius over height

    def hit(self, rays: Rays) -> tuple[Tensor, Tensor]:
        offset = minus(rays.origin, self.apex)
        along, step = dot(offset, self.axis), dot(rays.direction, self.axis)
        wide = 1 + self.slope**2
        square, around = rays.square - step * step * wide, along * along * wide
        towards, outside = along * step * wide - dot(offset, rays.direction), dot(offset, offset) - around
        middle, reach = _quadric((square + TINY**2).reciprocal(), towards, outside)
        first, last = middle - reach, middle + reach
        # A ray steeper than the side crosses both nappes: it is in this one after its last root, or before its first.
        steep, down = square < 0, step > 0
        enter = torch.where(steep, torch.where(down, last, -torch.inf), first)
        leave = torch.where(steep, torch.where(down, torch.inf, first), last)
        near, far = _slab(self.height / 2 - along, self.height / 2, _rate(step))
        return torch.maximum(enter, near), torch.minimum(leave, far)

    def normal(self, point: Planes) -> Planes:
        offset = minus(point, self.apex)
        along = dot(offset, self.axis)
        around = minus(offset, times(self.axis, along))
        radius = dot(around, around).sqrt()
        on_base = along - self.height > radius - self.slope * along
        side = minus(around, times(self.axis, self.slope * radius))
        return either(on_base, times(self.axis, torch.ones_like(along)), side)


def _rate(step: Tensor) -> tuple[Tensor, Tensor]:
    """Distance per length across a slab, and its size. Never infinite, which times zero would be no number."""
    rate = (step + TINY).reciprocal()
    return rate, rate.abs()


def _slab(offset: Number, half: Number, rate: tuple[Tensor, Tensor]) -> tuple[Tensor, Tensor]:
    """Between which distances a ray is between two planes; offset: from its origin to the middle."""
    middle = offset * rate[0]
    return plus_product(middle, rate[1], -half), plus_product(middle, rate[1], half)


def _quadric(inverse: Tensor, b: Number, c: Number) -> tuple[Tensor, Tensor]:
    """The zeros of a t^2 - 2 b t + c, given 1 / a, are middle -/+ reach; the reach is negative where there are none."""
    middle = b * inverse
    square = plus_product(c * -inverse, middle, middle)
    return middle, square * square.clamp_min(TINY**2).rsqrt()  # the root of a negative number would be slow, and none
