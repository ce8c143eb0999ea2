"""The factors of the rendered scenes, each seen, and nothing else with it."""

import pytest
import torch
from data.factors import FALCOR3D, ISAAC3D, SHAPES3D
from data.furniture import KITCHEN
from data.rendering import lit
from data.scenes import Kitchen, LivingRoom, Room, _lamp_in_kitchen, _seen_in_kitchen, _seen_in_living_room
from hypothesis import given
from hypothesis import strategies as st
from torch import Tensor

SEEN = 8 / 255  # a step of this much in some pixel can be seen
SIDE = 32
SCENES = {"room": Room(SIDE, 1), "living room": LivingRoom(SIDE, 1), "kitchen": Kitchen(SIDE, 1)}
FACTORS = [(name, factor) for name, scene in SCENES.items() for factor in range(len(scene.factors.sizes))]


@st.composite
def some_values(draw: st.DrawFn, name: str) -> Tensor:
    return torch.tensor([draw(st.integers(0, size - 1)) for size in SCENES[name].factors.sizes])


def run_of(values: Tensor, factor: int, size: int) -> Tensor:
    run = values.repeat(size, 1)
    run[:, factor] = torch.arange(size)
    return run


class TestScenes:
    def test_factors_are_those_of_the_data_sets(self) -> None:
        assert [scene.factors for scene in (Room(), LivingRoom(), Kitchen())] == [SHAPES3D, FALCOR3D, ISAAC3D]

    @pytest.mark.parametrize(("name", "factor"), FACTORS)
    @given(data=st.data())
    def test_every_step_of_every_factor_is_seen(self, name: str, factor: int, data: st.DataObject) -> None:
        scene = SCENES[name]
        frames = scene.images(run_of(data.draw(some_values(name)), factor, scene.factors.sizes[factor]))
        assert frames.isfinite().all()
        assert frames.min() >= 0
        assert frames.max() <= 1
        steps = (frames[1:] - frames[:-1]).abs()
        assert steps.amax((1, 2, 3)).min() > SEEN
        assert steps.mean((1, 2, 3)).max() < 0.2, "neighbours are alike"

    @pytest.mark.parametrize("name", SCENES)
    @given(data=st.data())
    def test_a_frame_is_the_same_alone_and_in_any_batch(self, name: str, data: st.DataObject) -> None:
        scene = SCENES[name]
        values = torch.stack([data.draw(some_values(name)) for _ in range(4)])
        frames = scene.images(values)
        assert frames.shape == (4, 3, SIDE, SIDE)
        assert frames.dtype == torch.float32
        assert torch.equal(frames, scene.images(values))
        torch.testing.assert_close(frames[[2, 0]], scene.images(values[[2, 0]]), atol=1e-6, rtol=0)
        torch.testing.assert_close(frames[1:2], scene.images(values[1:2]), atol=1e-6, rtol=0)

    @pytest.mark.parametrize("name", SCENES)
    def test_batches_larger_than_what_is_drawn_at_once(self, name: str) -> None:
        scene = SCENES[name]
        generator = torch.Generator().manual_seed(0)
        values = torch.stack([torch.randint(size, (600,), generator=generator) for size in scene.factors.sizes], 1)
        frames = scene.images(values)
        torch.testing.assert_close(frames[-3:], scene.images(values[-3:]), atol=1e-6, rtol=0)

    @pytest.mark.parametrize("name", SCENES)
    def test_samples_only_smooth(self, name: str) -> None:
        scene = SCENES[name]
        values = torch.tensor([[size // 2 for size in scene.factors.sizes]])
        fine = type(scene)(SIDE, 4).images(values)
        assert not torch.equal(fine, scene.images(values))
        assert (fine - scene.images(values)).abs().mean() < 0.05

    @given(data=st.data())
    def test_each_hue_colours_a_surface_of_its_own(self, data: st.DataObject) -> None:
        values = data.draw(some_values("room"))
        changed = [
            (frames[1:] != frames[:1]).any(0).any(0)
            for frames in (SCENES["room"].images(run_of(values, factor, 10)) for factor in range(3))
        ]
        assert (torch.stack(changed).sum(0) == 1).all()
        assert len(SCENES["room"].images(run_of(values, 2, 10)).flatten(1).unique(dim=0)) == 10

    @given(data=st.data())
    def test_a_larger_solid_covers_the_smaller_ones(self, data: st.DataObject) -> None:
        values = run_of(data.draw(some_values("room")), 3, 8)
        other = values.clone()
        other[:, 2] = (other[:, 2] + 5) % 10
        solid = (SCENES["room"].images(values) != SCENES["room"].images(other)).any(1).sum((1, 2))
        assert (solid.diff() >= 0).all()
        assert solid[-1] > solid[0]

    @given(data=st.data())
    def test_a_ball_looks_the_same_from_all_sides(self, data: st.DataObject) -> None:
        values = data.draw(some_values("room"))
        values[4] = 2
        first = run_of(values, 5, 15)
        other = first.clone()
        other[:, 2] = (other[:, 2] + 5) % 10
        solid = (SCENES["room"].images(first) != SCENES["room"].images(other)).any(1)
        assert (solid != solid[7]).float().mean() < 0.01  # rounding may move its edge by a pixel
        assert solid.any()

    def test_cameras_of_the_living_room_move_as_they_are_named(self) -> None:
        seen = _seen_in_living_room(SIDE, 1, torch.device("cpu"))
        x, y, _ = seen.point
        depth, left_wall, tops = (
            share.float().mean(1).view(6, 6, 6)
            for share in (seen.distance, x < -2.4 + 1e-3, (seen.normal[1] > 0.5) & (y > 0.1))
        )
        assert (left_wall.mean((1, 2)).diff() > 0).all(), "from the right, more of the left wall is seen"
        assert (tops.mean((0, 2)).diff() > 0).all(), "from above, more of the top of things is seen"
        assert (depth.diff(dim=2) > 0).all(), "from further back, everything is further away"

    @given(height=st.integers(0, 3), lamp=st.integers(0, 5))
    def test_the_shadows_that_are_kept_are_those_of_the_lamp(self, height: int, lamp: int) -> None:
        seen, _, reached = _seen_in_kitchen(SIDE, 1, torch.device("cpu"))
        light = _lamp_in_kitchen(torch.tensor([lamp]))
        direct = lit(seen.of(torch.tensor([height])), light, [solid for solid, _ in KITCHEN])
        assert torch.equal(reached[height * 6 + lamp], (direct > 0).float()[0])

    @given(data=st.data())
    def test_colours_of_wall_and_object_change_nothing_else(self, data: st.DataObject) -> None:
        values = data.draw(some_values("kitchen"))
        on_object, on_wall = (
            (frames[1:] != frames[:1]).any(0).any(0)
            for frames in (SCENES["kitchen"].images(run_of(values, factor, 4)) for factor in (7, 8))
        )
        assert not (on_object & on_wall).any()
        assert not (on_object | on_wall).all()

    @pytest.mark.parametrize(("name", "factor"), [("living room", 0), ("kitchen", 5)])
    @given(data=st.data())
    def test_more_light_makes_nothing_darker(self, name: str, factor: int, data: st.DataObject) -> None:
        scene = SCENES[name]
        frames = scene.images(run_of(data.draw(some_values(name)), factor, scene.factors.sizes[factor]))
        assert (frames.diff(dim=0) >= -1e-6).all()

    @given(data=st.data())
    def test_the_object_is_well_visible(self, data: st.DataObject) -> None:
        frames = SCENES["kitchen"].images(run_of(data.draw(some_values("kitchen")), 7, 4))
        share = (frames[1:] != frames[:1]).any(0).any(0).float().mean()
        assert 0.01 < share < 0.15

    @pytest.mark.parametrize("name", SCENES)
    def test_nothing_waits_for_values(self, name: str) -> None:
        """On a device that computes no values at all, as little as one that is still to compute them."""
        scene = SCENES[name]
        values = torch.zeros(5, len(scene.factors.sizes), dtype=torch.int64, device="meta")
        frames = scene.images(values)
        assert (frames.shape, frames.device.type) == ((5, 3, SIDE, SIDE), "meta")

    @pytest.mark.skipif(not torch.cuda.is_available(), reason="no CUDA")
    @pytest.mark.parametrize("name", SCENES)
    def test_cuda_draws_the_same(self, name: str) -> None:
        scene = SCENES[name]
        values = torch.tensor([[0] * len(scene.factors.sizes), [size - 1 for size in scene.factors.sizes]])
        frames = scene.images(values.cuda())
        assert frames.is_cuda
        assert (frames.cpu() - scene.images(values)).abs().mean() < 1e-3  # a ray along an edge may fall to either side

    @pytest.mark.parametrize("name", SCENES)
    def test_wrong_values_are_named(self, name: str) -> None:
        scene = SCENES[name]
        values = torch.zeros(1, len(scene.factors.sizes), dtype=torch.int64)
        values[0, 1] = scene.factors.sizes[1]
        with pytest.raises(ValueError, match=f"{scene.factors.names[1]}: got value {scene.factors.sizes[1]}, expected"):
            scene.images(values)
        for shape in ((3, 2), (len(scene.factors.sizes),)):
            with pytest.raises(ValueError, match=r"values: got shape .*, expected \(N, "):
                scene.images(torch.zeros(shape, dtype=torch.int64))
        with pytest.raises(TypeError, match="int64"):
            scene.images(values.float())
