"""Batches and true frames of sequences in which one factor moves: read back from images that spell out their factors."""

from itertools import pairwise

import pytest
import torch
from data.factor_sequences import FactorSequences
from data.factors import FALCOR3D, ISAAC3D, SHAPES3D, Factors
from data.splits import SPLITS, parts
from hypothesis import given
from hypothesis import strategies as st
from torch import Tensor

SETS = {
    "shapes3d": (SHAPES3D, (0, 1, 2, 3), 8),
    "falcor3d": (FALCOR3D, tuple(range(7)), 5),
    "isaac3d": (ISAAC3D, tuple(range(1, 9)), 4),
}
SIDE = 16


class Spelled:
    """Images whose first pixels are the values of their factors."""

    side = SIDE

    def __init__(self, factors: Factors) -> None:
        self.factors = factors

    def images(self, values: Tensor) -> Tensor:
        images = torch.zeros(len(values), 3, SIDE * SIDE, dtype=torch.uint8)
        images[:, :, : values.shape[1]] = values[:, None].to(torch.uint8)
        return images.unflatten(-1, (SIDE, SIDE))


def read(frames: Tensor, factors: Factors) -> Tensor:
    """The values (B, T+1, F) that frames (B, T+1, 3, side, side) spell out."""
    return (255 * frames[:, :, 0].flatten(2)[..., : len(factors.sizes)]).round().long()


def sequences(name: str, seed: int = 0) -> FactorSequences:
    factors, moving, states = SETS[name]
    return FactorSequences(Spelled(factors), moving, states, SIDE, seed=seed, files=True)


ALL = {name: sequences(name) for name in SETS}
IS_TRAINING = {name: torch.from_numpy(parts(len(SETS[name][0])) == SPLITS.index("train")) for name in SETS}


@given(
    name=st.sampled_from(sorted(SETS)), count=st.integers(1, 20), step=st.integers(0, 10**6), share=st.integers(0, 9)
)
def test_a_training_sequence_moves_its_own_factor_only_through_training_images(
    name: str, count: int, step: int, share: int
) -> None:
    factors, moving, states = SETS[name]
    x, k = ALL[name].draw(count, step, share)
    values = read(x, factors)
    for row, each in zip(values, k.tolist(), strict=True):
        own = moving[each]
        assert row[:, own].tolist() == list(range(states))
        others = torch.cat((row[:, :own], row[:, own + 1 :]), 1)
        assert (others == others[:1]).all()
    assert IS_TRAINING[name][factors.index(values)].all()
    counts = torch.bincount(k, minlength=len(moving))
    assert counts.max() - counts.min() <= 1


@given(name=st.sampled_from(sorted(SETS)), data=st.data())
def test_true_frames_move_what_they_are_asked_to_and_start_at_its_first_value(name: str, data: st.DataObject) -> None:
    factors, moving, states = SETS[name]
    found, steps = ALL[name], states - 1
    bases = found.held_out("test", 3)
    first, second = data.draw(st.permutations(range(len(moving))))[:2]
    ramp = torch.arange(states)
    half = steps // 2
    expected = bases[:, first, None].repeat(1, states, 1)
    expected[..., moving[first]] = ramp
    assert torch.equal(read(found.truth.single(bases, first, steps), factors), expected)
    expected[..., moving[second]] = ramp
    both = bases[:, min(first, second), None].repeat(1, states, 1)
    both[..., [moving[first], moving[second]]] = ramp[:, None]
    assert torch.equal(read(found.truth.superposed(bases, first, second, steps), factors), both)
    both[..., moving[first]] = ramp.clamp_max(half)
    both[..., moving[second]] = (ramp - half).clamp_min(0)
    assert torch.equal(read(found.truth.switched(bases, first, second, steps), factors), both)


@pytest.mark.parametrize("name", SETS)
def test_what_is_held_out_starts_at_images_that_no_training_sequence_shows(name: str) -> None:
    factors, moving, _ = SETS[name]
    for split in ("test", "validation"):
        bases = ALL[name].held_out(split, 50)
        assert torch.equal(bases, sequences(name, seed=1).held_out(split, 50)), "all seeds are measured on the same"
        for k, factor in enumerate(moving):
            assert (bases[:, k, factor] == 0).all()
            place = torch.from_numpy(parts(len(factors)))[factors.index(bases[:, k])]
            assert (place == SPLITS.index(split)).all()


def test_a_batch_may_show_one_transformation_in_all_its_shares() -> None:
    found = FactorSequences(Spelled(SHAPES3D), SETS["shapes3d"][1], SETS["shapes3d"][2], SIDE, files=True, mixed=False)
    shown = []
    for step in range(30):
        (one,), (other,) = (found.draw(4, step, share)[1].unique().tolist() for share in range(2))
        assert one == other
        shown.append(one)
    assert set(shown) == set(range(len(SETS["shapes3d"][1])))


def test_a_resumed_run_sees_the_batches_of_one_that_went_on() -> None:
    went_on = [sequences("shapes3d", seed=3)]
    batches = {(step, share): went_on[0].draw(5, step, share) for step in range(4) for share in range(2)}
    for step in (2, 3):
        resumed = sequences("shapes3d", seed=3)
        for share in range(2):
            for a, b in zip(resumed.draw(5, step, share), batches[step, share], strict=True):
                assert torch.equal(a, b)
    seen = [read(x, SHAPES3D)[:, 0] for x, _ in batches.values()]
    assert all(not torch.equal(a, b) for a, b in pairwise(seen)), "every batch is another"
    other, _ = sequences("shapes3d", seed=4).draw(5, 0, 0)
    assert not torch.equal(other, batches[0, 0][0])


def test_smaller_frames_are_averages_of_pixels() -> None:
    factors, moving, states = SETS["falcor3d"]
    small = FactorSequences(Spelled(factors), moving, states, SIDE // 2, files=True)
    bases = small.held_out("test", 2)
    large = ALL["falcor3d"].truth.single(bases, 1, 4)
    mean = large.unflatten(-1, (SIDE // 2, 2)).unflatten(-3, (SIDE // 2, 2)).mean((-1, -3))
    torch.testing.assert_close(small.truth.single(bases, 1, 4), mean)
    with pytest.raises(ValueError, match="--side: got 3, expected a divisor of 16"):
        FactorSequences(Spelled(factors), moving, states, 3)
