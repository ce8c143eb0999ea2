"""What stands in the living room and in the kitchen, in metres; x to the right, y up, z towards the camera."""

from __future__ import annotations

import math

from data.solids import Box, Capsule, Cylinder, Solid, Sphere, Vector, minus, plus, times

UP = (0.0, 1.0, 0.0)
WHITE, GREY, DARK = (0.8, 0.8, 0.8), (0.55, 0.55, 0.56), (0.08, 0.07, 0.07)
RED, PINK, WOOD = (0.6, 0.06, 0.06), (0.75, 0.4, 0.42), (0.5, 0.3, 0.13)
ORANGE, STEEL, CREAM, STONE = (0.6, 0.2, 0.07), (0.45, 0.45, 0.48), (0.95, 0.9, 0.86), (0.8, 0.76, 0.7)

SHOULDER = (0.0, 0.72, 0.0)  # of the robot


def _box(low: tuple[float, float, float], high: tuple[float, float, float]) -> Box:
    return Box(times(plus(low, high), 0.5), times(minus(high, low), 0.5))


def _upright(centre: Vector, half: Vector, degrees: float) -> Box:
    """A box turned about the vertical."""
    cos, sin = math.cos(math.radians(degrees)), math.sin(math.radians(degrees))
    return Box(centre, half, ((cos, 0.0, -sin), UP, (sin, 0.0, cos)))


LIVING_ROOM: list[tuple[Solid, Vector]] = [
    (_box((-1.8, 0.15, -2.3), (1.4, 0.45, -1.3)), GREY),  # sofa
    (_box((-1.5, 0.4, -2.3), (1.1, 1.0, -2.0)), GREY),
    (_box((-1.8, 0.15, -2.3), (-1.5, 0.7, -1.3)), GREY),
    (_box((1.1, 0.15, -2.3), (1.4, 0.7, -1.3)), GREY),
    (_box((-1.5, 0.3, -0.55), (-0.3, 0.4, 0.45)), WHITE),  # table
    (_box((-0.48, 0.0, 0.27), (-0.4, 0.3, 0.35)), DARK),
    (Capsule((-1.0, 0.52, -0.1), (-1.0, 0.65, -0.1), 0.13), RED),
    (_box((1.55, 0.0, -2.1), (2.1, 0.55, -1.5)), WHITE),  # side table
    (Cylinder((1.8, 0.75, -1.8), UP, 0.2, 0.11), DARK),
    (_box((-1.3, 1.45, -2.5), (-0.3, 1.52, -2.1)), DARK),  # shelves
    (_box((-0.6, 1.8, -2.5), (0.5, 1.87, -2.1)), DARK),
    (_box((0.2, 1.38, -2.5), (1.0, 1.45, -2.1)), DARK),
    (_box((0.93, 1.38, -2.5), (1.0, 1.95, -2.1)), DARK),
    (_box((-1.3, 1.45, -2.5), (-1.23, 1.9, -2.1)), DARK),
]
# These throw no shadow that anyone would miss.
SMALL_THINGS: list[tuple[Solid, Vector]] = [
    (_box((-1.48, 0.45, -2.05), (-0.22, 0.56, -1.28)), WHITE),  # seats
    (_box((-0.18, 0.45, -2.05), (1.08, 0.56, -1.28)), WHITE),
    (_upright((-1.2, 0.78, -1.8), (0.23, 0.21, 0.08), 25), PINK),
    (_upright((0.85, 0.78, -1.8), (0.21, 0.21, 0.08), -35), RED),
    (_upright((-0.8, 0.75, -1.8), (0.2, 0.18, 0.07), -10), PINK),
    (_box((-1.42, 0.0, 0.27), (-1.34, 0.3, 0.35)), DARK),
    (_box((-0.48, 0.0, -0.45), (-0.4, 0.3, -0.37)), DARK),
    (Sphere((-0.65, 0.47, 0.1), 0.07), DARK),
    (Capsule((1.8, 0.95, -1.8), (2.0, 1.65, -1.9), 0.02), DARK),
    (Capsule((1.8, 0.95, -1.8), (1.55, 1.55, -1.7), 0.02), DARK),
    (Sphere((-0.8, 1.61, -2.2), 0.09), RED),
    (Sphere((-0.1, 1.96, -2.2), 0.09), RED),
    (_box((0.5, 1.45, -2.3), (0.65, 1.68, -2.15)), RED),
]
KITCHEN: list[tuple[Solid, Vector]] = [
    (_box((-1.8, 0.0, -1.6), (-0.95, 1.0, -0.75)), STEEL),  # fridge
    (_box((-1.8, 1.02, -1.6), (-0.95, 1.7, -0.75)), STEEL),
    (_box((-1.1, 0.3, -0.75), (-1.07, 0.9, -0.7)), WHITE),
    (_box((-1.1, 1.1, -0.75), (-1.07, 1.5, -0.7)), WHITE),
    (_box((-0.9, 0.0, -1.6), (2.4, 0.08, -1.1)), DARK),  # counter
    (_box((-0.9, 0.82, -1.6), (2.4, 0.88, -0.98)), WOOD),
    *((_box((-0.88 + 0.5 * i, 0.1, -1.6), (-0.4 + 0.5 * i, 0.8, -1.0)), CREAM) for i in range(6)),
    (_box((0.5, 0.88, -1.45), (1.1, 0.9, -1.1)), DARK),
    (Capsule((0.8, 0.88, -1.5), (0.8, 1.12, -1.45), 0.02), STEEL),
    *((_box((left, 1.45, -1.6), (left + 0.35, 2.0, -1.3)), CREAM) for left in (-0.8, -0.43, 0.9, 1.27)),
    (_box((-0.26, 0.16, -0.25), (0.26, 0.5, 0.25)), ORANGE),  # robot
    (_box((-0.14, 0.5, -0.14), (0.14, 0.66, 0.14)), ORANGE),
    (Sphere(SHOULDER, 0.12), ORANGE),
    *((Cylinder((x, 0.2, z), (1.0, 0.0, 0.0), 0.06, 0.2), ORANGE) for x in (-0.34, 0.34) for z in (-0.2, 0.2)),
]
