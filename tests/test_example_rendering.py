"""Where rays meet solids against what lies inside of them; light and shadows."""

import math
from collections.abc import Callable

import torch
from data.rendering import Surface, camera, lit, room, trace
from data.solids import Box, Capsule, Cone, Cylinder, Rays, Solid, Sphere, minus
from hypothesis import assume, given
from hypothesis import strategies as st
from torch import Tensor

WHITE = (1.0, 1.0, 1.0)
RAYS = 64
KINDS = ("sphere", "box", "turned box", "cylinder", "capsule", "cone")
seeds = st.integers(0, 10_000)
kinds = st.sampled_from(KINDS)


def planes(points: Tensor) -> tuple[Tensor, Tensor, Tensor]:
    return points.unbind(-1)


def distance_outside(points: Tensor, kind: str, p: dict[str, Tensor]) -> Tensor:
    """Negative within a solid, zero on its surface: the definition that intersections and normals are held against."""
    offset = points - p["centre"]
    if kind == "sphere":
        return offset.norm(dim=-1) - p["radius"]
    if kind in ("box", "turned box"):
        turned = offset @ p["axes"].T if kind == "turned box" else offset
        return (turned.abs() - p["half"]).amax(-1)
    if kind == "capsule":
        axis = p["end"] - p["centre"]
        along = (offset @ axis / axis.square().sum()).clamp(0, 1)
        return (offset - along[..., None] * axis).norm(dim=-1) - p["radius"]
    axis = p["axes"][0]
    along = offset @ axis
    around = (offset - along[..., None] * axis).norm(dim=-1)
    if kind == "cylinder":
        return torch.maximum(along.abs() - p["half"][0], around - p["radius"])
    return torch.maximum(along - p["height"], around - 0.5 * along)


def drawn(kind: str, seed: int) -> tuple[Solid, Callable[[Tensor], Tensor]]:
    """A solid within 2 of the origin, in float64, and its definition."""
    torch.manual_seed(seed)
    axes = torch.linalg.qr(torch.randn(3, 3, dtype=torch.float64))[0]
    p = {
        "centre": torch.rand(3).double() - 0.5,
        "end": torch.rand(3).double() + 0.6,
        "radius": 0.1 + 0.6 * torch.rand(()).double(),
        "half": 0.1 + 0.6 * torch.rand(3).double(),
        "height": 0.2 + torch.rand(()).double(),
        "axes": axes,
    }
    vectors = tuple(tuple(axis) for axis in axes)
    centre, half = tuple(p["centre"]), tuple(p["half"])
    solid = {
        "sphere": Sphere(centre, p["radius"]),
        "box": Box(centre, half),
        "turned box": Box(centre, half, vectors),
        "cylinder": Cylinder(centre, vectors[0], half[0], p["radius"]),
        "capsule": Capsule(centre, tuple(p["end"]), p["radius"]),
        "cone": Cone(centre, vectors[0], p["height"], 0.5),
    }[kind]
    return solid, lambda points: distance_outside(points, kind, p)


def towards(seed: int) -> tuple[Tensor, Tensor]:
    """Origins outside of all drawn solids, and directions of any length; every fourth one along an axis."""
    generator = torch.Generator().manual_seed(seed)
    origin = torch.randn(RAYS, 3, generator=generator, dtype=torch.float64)
    origin = 4 * origin / origin.norm(dim=-1, keepdim=True)
    target = 2 * torch.rand(RAYS, 3, generator=generator, dtype=torch.float64) - 0.8
    direction = (target - origin) * (0.1 + torch.rand(RAYS, 1, generator=generator, dtype=torch.float64))
    straight = torch.arange(RAYS) % 4 == 0
    axis = torch.nn.functional.one_hot(torch.arange(RAYS) // 4 % 3, 3).bool()
    origin[straight] = torch.where(axis, origin, target)[straight]
    origin[straight] = torch.where(axis, 4 * origin.sign(), origin)[straight]
    direction[straight] = direction[straight] * axis[straight]
    return origin, direction


def entered(solid: Solid, origin: Tensor, direction: Tensor) -> Tensor:
    near, far = solid.hit(Rays(planes(origin), planes(direction)))
    return torch.where((near > 0) & (near < far), near, torch.inf)


class TestSolids:
    @given(kind=kinds, seed=seeds)
    def test_rays_end_on_the_surface_and_were_never_inside_before(self, kind: str, seed: int) -> None:
        solid, outside = drawn(kind, seed)
        origin, direction = towards(seed)
        distance = entered(solid, origin, direction)
        met = distance.isfinite()
        point = origin + distance[:, None] * direction
        torch.testing.assert_close(outside(point[met]), torch.zeros(int(met.sum())).double(), atol=1e-4, rtol=0)
        assert (outside(origin) > 0).all()
        until = torch.where(met, distance, 12 / direction.norm(dim=-1))  # to the other side of all there is
        passed = origin + torch.linspace(0, 1, 400).double()[:, None, None] * until[:, None] * direction
        assert outside(passed).min() > -1e-4

    @given(kind=kinds, seed=seeds)
    def test_some_rays_meet_the_solid_and_some_do_not(self, kind: str, seed: int) -> None:
        solid, outside = drawn(kind, seed)
        inside = torch.rand(4096, 3).double() * 4 - 2
        inside = inside[outside(inside) < 0]
        assume(len(inside) > 0)
        origin, _ = towards(seed)
        target = inside[torch.arange(RAYS) % len(inside)]
        assert entered(solid, origin, target - origin).isfinite().all()
        assert entered(solid, origin, origin - target).isinf().all()
        assert entered(solid, inside, torch.ones_like(inside)).isinf().all(), "a ray cannot enter where it already is"

    @given(kind=kinds, seed=seeds)
    def test_normals_are_the_gradient_of_the_distance(self, kind: str, seed: int) -> None:
        solid, outside = drawn(kind, seed)
        origin, direction = towards(seed)
        distance = entered(solid, origin, direction)
        point = (origin + distance[:, None] * direction)[distance.isfinite()].requires_grad_()
        (gradient,) = torch.autograd.grad(outside(point).sum(), point)
        normal = torch.stack(solid.normal(planes(point.detach())), -1)
        for vectors in (normal, gradient):
            vectors /= vectors.norm(dim=-1, keepdim=True)
        torch.testing.assert_close(normal, gradient, atol=1e-4, rtol=0)

    @given(kind=kinds, seed=seeds)
    def test_normals_are_finite_anywhere(self, kind: str, seed: int) -> None:
        solid, _ = drawn(kind, seed)
        centre = tuple(torch.full((1,), float(c)) for c in getattr(solid, "centre", (0.0, 0.0, 0.0)))
        for point in (planes(torch.randn(RAYS, 3).double()), centre):
            assert all(plane.isfinite().all() for plane in solid.normal(point))


class TestRendering:
    @given(seed=seeds)
    def test_the_nearest_solid_is_seen(self, seed: int) -> None:
        some = [drawn(kind, seed + i) for i, kind in enumerate(KINDS)]
        origin, direction = towards(seed)
        rays = Rays(planes(origin[None]), planes(direction[None]))
        wall = room(rays, (-9.0, -9.0, -9.0), (9.0, 9.0, 9.0))
        colours = [(float(i), 0.0, 0.0) for i in range(len(some))]
        seen = trace(rays, [(solid, colour) for (solid, _), colour in zip(some, colours, strict=True)], wall)
        each = torch.stack([entered(solid, origin, direction) for solid, _ in some])
        nearest, which = each.min(0)
        met = nearest.isfinite()
        torch.testing.assert_close(seen.distance[0], nearest.minimum(wall.distance[0]))
        torch.testing.assert_close(seen.albedo[0][0, met], which[met].double())
        assert (seen.albedo[0][0, ~met] == 1).all()
        torch.testing.assert_close(torch.stack(seen.point, -1)[0], origin + seen.distance[0, :, None] * direction)

    @given(seed=seeds)
    def test_a_room_ends_every_ray_at_a_wall_that_faces_it(self, seed: int) -> None:
        origin, direction = towards(seed)
        seen = room(Rays(planes(origin[None]), planes(direction[None])), (-5.0, -6.0, -4.5), (6.0, 5.0, 7.0))
        low, high = torch.tensor([-5.0, -6.0, -4.5]).double(), torch.tensor([6.0, 5.0, 7.0]).double()
        point, normal = torch.stack(seen.point, -1)[0], torch.stack(seen.normal, -1)[0]
        gap = torch.minimum(point - low, high - point)
        assert gap.amin(-1).abs().max() < 1e-4
        assert (normal.norm(dim=-1) == 1).all()
        assert (gap * normal.abs()).abs().max() < 1e-4
        assert ((normal * direction).sum(-1) < 0).all()

    @given(seed=seeds, field=st.floats(20, 80), side=st.sampled_from([8, 15]), samples=st.integers(1, 9))
    def test_a_camera_looks_at_its_target_upright(self, seed: int, field: float, side: int, samples: int) -> None:
        torch.manual_seed(seed)
        position, target = 3 + torch.rand(4, 3), torch.rand(4, 3)
        rays = camera(planes(position[:, None]), planes(target[:, None]), field, side, samples, torch.device("cpu"))
        forwards = (target - position) / (target - position).norm(dim=-1, keepdim=True)
        picture = torch.stack(rays.direction).view(3, 4, samples, side, side)
        torch.testing.assert_close(picture.mean((2, 3, 4)).T, forwards, atol=1e-5, rtol=0)
        depth = (picture * forwards.T[:, :, None, None, None]).sum(0)
        torch.testing.assert_close(depth, torch.ones_like(depth), atol=1e-5, rtol=0)
        up = picture[:, :, :, 0] - picture[:, :, :, -1]
        assert (up[1] > 0).all(), "the first row of a picture is its top"
        right = picture[..., -1] - picture[..., 0]
        assert right[1].abs().max() < 1e-5
        assert (torch.linalg.cross(right, up, dim=0) * forwards.T[:, :, None, None]).sum(0).max() < 0
        width = right.norm(dim=0) * side / (side - 1)
        torch.testing.assert_close(width, torch.full_like(width, 2 * math.tan(math.radians(field) / 2)))

    @given(kind=kinds, seed=seeds)
    def test_what_a_solid_is_in_front_of_the_light_of_is_dark(self, kind: str, seed: int) -> None:
        solid, outside = drawn(kind, seed)
        point, _ = towards(seed)
        light = 4 * torch.rand(3).double() - 2  # so that the solid may also be behind it
        assume(outside(light) > 0.1)
        between = outside(point + torch.linspace(0, 1, 400).double()[:, None, None] * (light - point)).amin(0)
        planar = planes(point[None])
        surface = Surface(planar[0], planar, minus(tuple(light), planar), WHITE)  # which faces the light
        clear = lit(surface, tuple(light), [])
        torch.testing.assert_close(clear[0], (light - point).square().sum(-1).reciprocal())
        dim = lit(surface, tuple(light), [Sphere((9.0, 9.0, 9.0), 0.1), solid])
        assert (dim[0, between < -1e-2] == 0).all()
        torch.testing.assert_close(dim[0, between > 1e-2], clear[0, between > 1e-2])

    def test_a_point_behind_a_sphere_is_dark(self) -> None:
        point = planes(torch.tensor([[[0.0, 0.0, 0.0], [2.5, 0.0, 0.0], [0.0, 3.5, 0.0]]]))
        surface = Surface(point[0], point, (0.0, 1.0, 0.0), WHITE)
        light = lit(surface, (0.0, 4.0, 0.0), [Sphere((0.0, 2.0, 0.0), 1.0)])
        torch.testing.assert_close(light, torch.tensor([[0.0, 4 / (16 + 2.5**2) ** 1.5, 4.0]]))

    @given(kind=kinds, seed=seeds)
    def test_no_solid_shades_what_the_light_sees_of_it(self, kind: str, seed: int) -> None:
        """In float32, where shadow rays that began at the surface might not get away from it."""
        solid, _ = drawn(kind, seed)
        values = {k: _single(v) for k, v in vars(solid).items()}
        solid = type(solid)(**values)
        _, target = towards(seed)
        light = (3.0, 2.0, -2.5)
        rays = Rays(light, minus(planes(target[None].float()), light))
        near, far = solid.hit(rays)
        met = (near > 0) & (far - near > 0.05)
        surface = Surface(near, rays.at(near), minus(light, rays.at(near)), WHITE)
        assert (lit(surface, light, [solid])[met] > 0).all()


def _single(value: object) -> object:
    if isinstance(value, tuple):
        return tuple(map(_single, value))
    return value.float() if isinstance(value, Tensor) else value
