"""Rooms with the factors of Shapes3D, Falcor3D and Isaac3D, rendered when asked for: stand-ins, never the published images.

What does not change from frame to frame is traced once and kept.
"""

from __future__ import annotations

import dataclasses
import math
from collections.abc import Callable
from dataclasses import dataclass
from functools import cache
from typing import ClassVar

import torch
from torch import Tensor

from data.factors import FALCOR3D, ISAAC3D, SHAPES3D, Factors
from data.furniture import CREAM, KITCHEN, LIVING_ROOM, ORANGE, RED, SHOULDER, SMALL_THINGS, STONE, UP, WHITE, WOOD
from data.rendering import Surface, camera, lit, picture, room, sent, trace
from data.solids import (
    Box,
    Capsule,
    Cone,
    Cylinder,
    Rays,
    Solid,
    Sphere,
    Vector,
    dot,
    either,
    minus,
    plus,
    positive,
    times,
)

DAYLIGHT, LAMPLIGHT = (0.92, 1.0, 1.12), (1.1, 1.0, 0.84)  # from the windows, and of the lamps
CACHED = 2**17  # rays at once on the CPU: few enough for planes to stay in its caches, enough for all of its threads


@dataclass(frozen=True)
class Room:
    """Shapes3D: one solid in the middle of a room.

    Colours only scale what each surface sends to the camera, so that is traced once for each of the 480 geometries.
    """

    side: int = 64
    samples: int = 8  # rays per pixel
    factors: ClassVar[Factors] = SHAPES3D

    def images(self, values: Tensor) -> Tensor:
        """Frames (N, 3, side, side) in [0, 1] of values (N, 6)."""
        _check(self, values)
        return _drawn(self, values, self._draw)

    def _draw(self, values: Tensor) -> Tensor:
        scale, shape, orientation = values[:, 3:].unbind(1)
        sent = _sent_in_room(self.side, self.samples, values.device)[(shape * 8 + scale) * 15 + orientation]
        colours = 0.1 + 0.85 * _hues(10, values.device)[values[:, :3]]
        return (colours.mT @ sent).view(-1, 3, self.side, self.side)


@cache
def _sent_in_room(side: int, samples: int, device: torch.device) -> Tensor:
    """What floor, walls and solid would send to each pixel if they were white: (480, 3, side * side)."""
    scale = torch.linspace(0.75, 1.25, 8, device=device).repeat_interleave(15)[:, None]
    angle = torch.linspace(-30, 30, 15, device=device).deg2rad().repeat(8)[:, None]
    parts = zip(*(x.split(_at_once(side, samples, device)) for x in (scale, angle)), strict=True)
    found = [[_sent_by(solid, angle, side, samples) for solid in _solids(scale)] for scale, angle in parts]
    return torch.cat([part for shape in zip(*found, strict=True) for part in shape])


def _solids(scale: Tensor) -> tuple[Solid, ...]:
    return (
        Box((0.0, 0.7 * scale, 0.0), (0.7 * scale, 0.7 * scale, 0.7 * scale)),
        Cylinder((0.0, 0.8 * scale, 0.0), UP, 0.8 * scale, 0.7 * scale),
        Sphere((0.0, 0.85 * scale, 0.0), 0.85 * scale),
        Capsule((-0.45 * scale, 0.6 * scale, 0.0), (0.45 * scale, 0.6 * scale, 0.0), 0.6 * scale),
    )


def _sent_by(solid: Solid, angle: Tensor, side: int, samples: int) -> Tensor:
    position, lamp = (4.2 * angle.sin(), 2.4, 4.2 * angle.cos()), (1.6, 4.4, 2.8)
    rays = camera(position, (0.0, 0.8, 0.0), 44, side, samples, angle.device)
    around = room(rays, (-3.2, 0.0, -3.2), (3.2, 6.0, 4.5))
    seen = trace(rays, [(solid, WHITE)], around)
    light = 1 - (-(0.8 + 26 * lit(seen, lamp, [solid]))).exp()
    on_solid = seen.distance < around.distance
    on_floor = ~on_solid & (around.normal[1] > 0.5)
    parts = [light * part for part in (on_floor, ~(on_floor | on_solid), on_solid)]
    return torch.stack(parts, 1).view(len(angle), 3, samples, -1).mean(2)


def _hues(size: int, device: torch.device) -> Tensor:
    """Colours (size, 3) of full saturation all around the circle of hues: the last is not the first again."""
    hue = torch.arange(size, device=device) / size
    distance = (6 * hue[:, None] - torch.tensor([0.0, 2.0, 4.0], device=device)) % 6
    return ((distance - 3).abs() - 1).clamp(0, 1)


@dataclass(frozen=True)
class LivingRoom:
    """Falcor3D: a lamp and a camera move through a living room, and nothing else does.

    What each of the 216 cameras sees is traced once; shadows are not, there being 216 lamps for each.
    """

    side: int = 64
    samples: int = 2  # rays per pixel
    factors: ClassVar[Factors] = FALCOR3D

    def images(self, values: Tensor) -> Tensor:
        """Frames (N, 3, side, side) in [0, 1] of values (N, 7)."""
        _check(self, values)
        return _drawn(self, values, self._draw)

    def _draw(self, values: Tensor) -> Tensor:
        intensity, x, y, z, *place = values.unbind(1)
        seen = _seen_in_living_room(self.side, self.samples, values.device).of((place[0] * 6 + place[1]) * 6 + place[2])
        lamp = _spread(-2.0, 2.6, 6, x), _spread(1.0, 2.4, 6, y), _spread(-0.4, 1.6, 6, z)
        strength = lit(seen, lamp, [solid for solid, _ in LIVING_ROOM]) * (7 * 1.3 ** intensity[:, None])
        return picture(sent(seen, times(DAYLIGHT, 0.45), LAMPLIGHT, strength), self.side)


@cache
def _seen_in_living_room(side: int, samples: int, device: torch.device) -> Surface:
    found = []
    # A quarter of what would do for less furniture: the distance of each piece is kept until the nearest one is known.
    for place in torch.arange(216, device=device).split(max(1, _at_once(side, samples, device) // 4)):
        x, y, z = place // 36, place // 6 % 6, place % 6
        position = _spread(-0.3, 1.2, 6, x), _spread(1.0, 2.0, 6, y), _spread(2.3, 3.3, 6, z)
        rays = camera(position, (0.0, 0.85, -1.6), 50, side, samples, device)
        around = room(rays, (-2.4, 0.0, -2.5), (3.2, 2.7, 4.0))
        found.append(trace(rays, LIVING_ROOM + SMALL_THINGS, _with_planks(around)))
    return Surface.joined(found)


def _with_planks(around: Surface) -> Surface:
    """Planks and a rug on the floor; grey walls."""
    x, _, z = around.point
    plank = (x / 0.22).floor()
    tone = 0.8 + 0.25 * (12.9 * plank + 4 * (z / 0.9 + 0.37 * plank).floor()).sin()
    tone = tone * (1 - 0.35 * (x / 0.22 - plank < 0.08))
    rug = (x > -2.0) & (x < 1.2) & (z > -1.25) & (z < 1.1)
    floor = either(rug, RED, times(WOOD, tone))
    return dataclasses.replace(around, albedo=either(around.normal[1] > 0.5, floor, times(around.albedo, 0.7)))


@dataclass(frozen=True)
class Kitchen:
    """Isaac3D: a robot holds an object in a kitchen.

    Only its arm and the object move: the kitchen is traced once for each height of the camera, its shadows for each lamp, too.
    """

    side: int = 64
    samples: int = 2  # rays per pixel
    factors: ClassVar[Factors] = ISAAC3D

    def images(self, values: Tensor) -> Tensor:
        """Frames (N, 3, side, side) in [0, 1] of values (N, 9)."""
        _check(self, values)
        order = values[:, 0].argsort()  # objects of one shape together: others need not be traced with them
        return _drawn(self, values[order], self._draw)[order.argsort()]

    def _draw(self, values: Tensor) -> Tensor:
        shape, x, y, height, scale, intensity, lamp, colour, wall = values.unbind(1)
        seen, wall_seen, open_to_lamp = _seen_in_kitchen(self.side, self.samples, values.device)
        behind = seen.of(height)
        albedo = plus(behind.albedo, times(_chosen(WALLS, wall), wall_seen.index_select(0, height)))
        hand, forwards, arm = _arm(x, y)
        held = _held(hand, forwards, _spread(0.17, 0.28, 4, scale), shape)
        painted = [(part, ORANGE) for part in arm] + [(solid, _chosen(OBJECTS, colour)) for solid in held]
        rays = _rays_in_kitchen(height, self.side, self.samples)
        seen = trace(rays, painted, dataclasses.replace(behind, albedo=albedo))
        moving = positive(behind.distance - seen.distance)
        open_to_lamp = torch.maximum(moving, open_to_lamp.index_select(0, height * 6 + lamp))
        direct = lit(seen, _lamp_in_kitchen(lamp), [*arm, *held]) * open_to_lamp
        return picture(
            sent(seen, times(DAYLIGHT, 0.6), LAMPLIGHT, direct * (7 * 1.35 ** intensity[:, None])), self.side
        )


WALLS = ((0.22, 0.55, 0.08), (0.45, 0.5, 0.4), (0.55, 0.45, 0.52), (0.6, 0.33, 0.6))
OBJECTS = ((0.1, 0.03, 0.65), (0.3, 0.27, 0.75), (0.6, 0.6, 0.75), (0.85, 0.82, 0.55))
UPPER, LOWER = 0.6, 0.58  # lengths of the arm's links


def _arm(x: Tensor, y: Tensor) -> tuple[Vector, Vector, list[Solid]]:
    """Where the hand is, where it points, and two links that reach it with the elbow up: a triangle of three known sides."""
    around = _spread(-1.2, 1.2, 8, x)
    hand = 0.68 * around.sin(), _spread(1.0, 1.6, 5, y), 0.4 * around.cos()
    reach = minus(hand, SHOULDER)
    square = dot(reach, reach)
    along = (square + UPPER**2 - LOWER**2) / (2 * square)
    up = minus(UP, times(reach, reach[1] / square))
    aside = ((UPPER**2 - along * along * square) / dot(up, up)).sqrt()
    elbow = plus(SHOULDER, plus(times(reach, along), times(up, aside)))
    links: list[Solid] = [Capsule(SHOULDER, elbow, 0.085), Capsule(elbow, hand, 0.065)]
    return hand, times(minus(hand, elbow), 1 / LOWER), links


def _held(hand: Vector, forwards: Vector, size: Tensor, shape: Tensor) -> list[Solid]:
    """A cube, a cone and a sphere: one where the hand is, the others out of sight."""
    x, y, z = forwards
    level = (x * x + z * z).sqrt()
    sideways, upwards = (-z / level, 0.0, x / level), (-x * y / level, level, -z * y / level)
    roll = math.cos(0.6), math.sin(0.6)  # so that more than one face of the cube is seen
    axes = (
        forwards,
        plus(times(sideways, roll[0]), times(upwards, roll[1])),
        minus(times(upwards, roll[0]), times(sideways, roll[1])),
    )
    cube, cone, ball = ((hand[0], hand[1] - 100 * (shape != kind)[:, None], hand[2]) for kind in range(3))
    solids: list[Solid] = [
        Box(cube, (0.92 * size,) * 3, axes),
        Cone(plus(cone, times(forwards, 1.4 * size)), times(forwards, -1.0), 2.4 * size, 0.6),
        Sphere(ball, 1.15 * size),
    ]
    # Elsewhere than on the CPU it would take waiting for the device to know.
    present = shape.unique().tolist() if shape.device.type == "cpu" else range(3)
    return [solids[kind] for kind in present]


@cache
def _seen_in_kitchen(side: int, samples: int, device: torch.device) -> tuple[Surface, Tensor, Tensor]:
    """Surfaces from each height; 1 where they are the wall, left black for its colours; 1 where each lamp reaches them."""
    height = torch.arange(4, device=device)
    rays = _rays_in_kitchen(height, side, samples)
    around, on_wall = _with_tiles(room(rays, (-2.2, 0.0, -1.6), (2.4, 2.6, 4.0)))
    seen = trace(rays, KITCHEN, around)
    lamp = _lamp_in_kitchen(torch.arange(6, device=device).repeat(4))
    direct = lit(seen.of(height.repeat_interleave(6)), lamp, [solid for solid, _ in KITCHEN])
    return seen, (on_wall & (seen.distance == around.distance)).float(), (direct > 0).float()


def _rays_in_kitchen(height: Tensor, side: int, samples: int) -> Rays:
    return camera((0.0, _spread(1.0, 1.9, 4, height), 3.0), (0.0, 1.0, 0.0), 42, side, samples, height.device)


def _lamp_in_kitchen(value: Tensor) -> Vector:
    return -0.8, _spread(0.9, 2.5, 6, value), 1.7


def _with_tiles(around: Surface) -> tuple[Surface, Tensor]:
    """A floor of tiles and a white ceiling; a splashback and a clock on the far wall. And where else walls are."""
    x, y, z = around.point
    tiles = times(STONE, 1 - 0.25 * (((x / 0.5) % 1 < 0.04) | ((z / 0.5) % 1 < 0.04)))
    clock = ((((x - 0.45) ** 2 + (y - 1.8) ** 2).sqrt() - 0.14).abs() < 0.025) & (around.normal[2] > 0.5)
    splash = (y < 1.3) & (around.normal[2] > 0.5)
    on_wall = (around.normal[1].abs() < 0.5) & ~clock & ~splash
    albedo = either(around.normal[1] > 0.5, tiles, either(splash, CREAM, WHITE))
    return dataclasses.replace(around, albedo=times(albedo, ~on_wall)), on_wall


def _chosen(colours: tuple[Vector, ...], value: Tensor) -> Vector:
    """The value-th (N,) of some colours, as planes (N, 1)."""
    return tuple(torch.tensor(plane, device=value.device)[value, None] for plane in zip(*colours, strict=True))


def _spread(first: float, last: float, size: int, value: Tensor) -> Tensor:
    """The value-th (N,) of `size` numbers from first to last, as (N, 1)."""
    return first + value[:, None] * ((last - first) / (size - 1))


def _check(scene: Room | LivingRoom | Kitchen, values: Tensor) -> None:
    if values.ndim != 2 or values.shape[1] != len(scene.factors.sizes):
        raise ValueError(
            f"values: got shape {tuple(values.shape)}, expected (N, {len(scene.factors.sizes)}), a row per frame"
        )
    if values.device.type == "cpu":
        scene.factors.index(values)  # says what else is wrong; elsewhere it would take waiting for the device


def _drawn(scene: Room | LivingRoom | Kitchen, values: Tensor, draw: Callable[[Tensor], Tensor]) -> Tensor:
    """Images of values (N, F), a few at a time."""
    with torch.no_grad():
        return torch.cat([draw(part) for part in values.split(_at_once(scene.side, scene.samples, values.device))])


def _at_once(side: int, samples: int, device: torch.device) -> int:
    """How many frames to trace together."""
    rays = CACHED if device.type == "cpu" else 32 * CACHED
    return max(1, rays // (samples * side**2))
