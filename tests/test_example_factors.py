"""Which image has which values, sequences in which one factor runs, and who may see which images, at the real sizes."""

import numpy as np
import pytest
import torch
from data.factors import DSPRITES, FALCOR3D, ISAAC3D, SHAPES3D, Factors
from data.splits import SPLITS, parts, starts
from hypothesis import given
from hypothesis import strategies as st

REAL = {"Shapes3D": SHAPES3D, "Falcor3D": FALCOR3D, "Isaac3D": ISAAC3D, "dSprites": DSPRITES}
EVERY_FACTOR = [
    pytest.param(factors, j, id=f"{name} {factors.names[j]}")
    for name, factors in REAL.items()
    for j in range(len(factors.sizes))
]
small = st.lists(st.integers(1, 5), min_size=1, max_size=5).map(
    lambda sizes: Factors(tuple(f"factor {j}" for j in range(len(sizes))), tuple(sizes))
)


def test_the_data_sets_have_as_many_images_as_are_published() -> None:
    assert [len(factors) for factors in REAL.values()] == [480_000, 233_280, 737_280, 737_280]
    assert SHAPES3D.bases == (48000, 4800, 480, 60, 15, 1)
    assert FALCOR3D.bases == (46656, 7776, 1296, 216, 36, 6, 1)
    assert ISAAC3D.bases == (245760, 30720, 6144, 1536, 384, 96, 16, 4, 1)
    assert DSPRITES.bases == (245760, 40960, 1024, 32, 1)
    # Not the names that the README of Isaac3D gives to 30720 and 384.
    assert ISAAC3D.bases[ISAAC3D.names.index("robot_x-move")] == 30720
    assert ISAAC3D.bases[ISAAC3D.names.index("object_scale")] == 384


@pytest.mark.parametrize("factors", REAL.values(), ids=REAL)
@given(data=st.data())
def test_index_and_values_are_those_of_numpy(factors: Factors, data: st.DataObject) -> None:
    index = torch.tensor(data.draw(st.lists(st.integers(0, len(factors) - 1), min_size=1, max_size=9)))
    values = factors.values(index)
    assert values.dtype == torch.int64
    np.testing.assert_array_equal(values.T, np.unravel_index(index.numpy(), factors.sizes))
    np.testing.assert_array_equal(factors.index(values), np.ravel_multi_index(values.T.numpy(), factors.sizes))
    assert torch.equal(factors.index(values), index)
    assert torch.equal(factors.index(values[:, None]), index[:, None])


@given(factors=small)
def test_every_image_has_values_of_its_own(factors: Factors) -> None:
    every = torch.arange(len(factors))
    assert torch.equal(factors.index(factors.values(every)), every)


@pytest.mark.parametrize(("factors", "j"), EVERY_FACTOR)
@given(data=st.data())
def test_a_sequence_changes_its_factor_and_no_other(factors: Factors, j: int, data: st.DataObject) -> None:
    index = torch.tensor(data.draw(st.lists(st.integers(0, len(factors) - 1), min_size=1, max_size=5)))
    states = data.draw(st.integers(1, factors.sizes[j]))
    before = factors.values(index)
    after = factors.values(
        factors.index(factors.sequences(before, j, states))
    )  # as the images say, not as it was asked
    others = [i for i in range(len(factors.sizes)) if i != j]
    assert after.shape == (len(index), states, len(factors.sizes))
    assert (after[..., j] == torch.arange(states)).all()
    assert (after[..., others] == before[:, None, others]).all()


@given(data=st.data(), factors=small)
def test_each_sequence_may_have_a_factor_of_its_own(factors: Factors, data: st.DataObject) -> None:
    states = min(factors.sizes)
    count = data.draw(st.integers(0, 5))
    factor = data.draw(st.lists(st.integers(0, len(factors.sizes) - 1), min_size=count, max_size=count))
    values = factors.values(torch.arange(count) * 7 % len(factors))
    together = factors.sequences(values, torch.tensor(factor, dtype=torch.int64), states)
    assert together.shape == (count, states, len(factors.sizes))
    for row, j, found in zip(values, factor, together, strict=True):
        assert torch.equal(found, factors.sequences(row[None], j, states)[0])


@pytest.mark.parametrize(
    ("call", "said"),
    [
        (lambda: SHAPES3D.index(torch.tensor([0, 0, 0, 8, 0, 0])), "scale: got value 8, expected 0 to 7"),
        (lambda: SHAPES3D.index(torch.tensor([[0, -1, 0, 0, 0, 0]])), "wall_hue: got value -1, expected 0 to 9"),
        (lambda: SHAPES3D.index(torch.zeros(2, 5).long()), r"values: got shape \(2, 5\), expected \(\.\.\., 6\)"),
        (lambda: SHAPES3D.index(torch.tensor(0)), r"values: got shape \(\), expected"),
        (lambda: SHAPES3D.index(torch.zeros(2, 6)), r"values: got torch.float32, expected torch.int64"),
        (lambda: SHAPES3D.values(torch.tensor([3, 480_000])), "index: got 480000, expected 0 to 479999"),
        (lambda: SHAPES3D.values(torch.tensor(-1)), "index: got -1, expected 0 to 479999"),
        (lambda: SHAPES3D.values(torch.tensor([1.0])), "index: got torch.float32, expected torch.int64"),
        (
            lambda: SHAPES3D.sequences(torch.zeros(1, 6).long(), 3, 9),
            "states: got 9, expected 1 to 8; scale has no more",
        ),
        (lambda: SHAPES3D.sequences(torch.zeros(1, 6).long(), 3, 0), "states: got 0, expected 1 to 8"),
        (
            lambda: SHAPES3D.sequences(torch.zeros(1, 6).long(), 6, 2),
            "factor: got 6, expected 0 to 5, one of floor_hue",
        ),
        (lambda: SHAPES3D.sequences(torch.zeros(6).long(), 0, 2), r"values: got shape \(6,\), expected \(B, 6\)"),
        (lambda: starts(SHAPES3D, 0, 11, "train"), "states: got 11, expected 1 to 10; floor_hue"),
        (lambda: starts(SHAPES3D, -1, 2, "train"), "factor: got -1, expected 0 to 5"),
        (lambda: starts(SHAPES3D, 0, 2, "training"), "split: got 'training', expected one of train, validation, test"),
        (lambda: Factors(("a", "a"), (2, 2)), "expected as many sizes"),
        (lambda: Factors(("a",), (2, 2)), "expected as many sizes"),
        (lambda: Factors(("a", "b"), (2, 0)), "at least 1"),
    ],
)
def test_mistakes_are_told(call: object, said: str) -> None:
    with pytest.raises((ValueError, TypeError), match=said):
        call()


def test_the_hash_is_splitmix64() -> None:
    """The first numbers that its reference implementation gives for seed 0."""
    first = [0xE220A8397B1DCDAF, 0x6E789E6AA1B965F4, 0x06C45D188009454F, 0xF88BB8A8724C81EC, 0x1B39896A51A8749B]
    assert parts(5).tolist() == [max(0, x % 20 - 17) for x in first]


@given(count=st.integers(1, 400), more=st.integers(0, 400), seed=st.integers(0, 2**63))
def test_the_part_of_an_image_does_not_depend_on_how_many_there_are(count: int, more: int, seed: int) -> None:
    assert (parts(count + more, seed)[:count] == parts(count, seed)).all()


@pytest.mark.parametrize("factors", REAL.values(), ids=REAL)
@given(seed=st.integers(0, 2**63))
def test_ninety_five_and_five_in_a_hundred(factors: Factors, seed: int) -> None:
    counts = np.bincount(parts(len(factors), seed), minlength=3)
    expected = np.array([0.90, 0.05, 0.05]) * len(factors)
    assert counts.sum() == len(factors)
    assert (np.abs(counts - expected) < 6 * np.sqrt(expected)).all()  # six standard deviations, and 25 seeds


@pytest.mark.parametrize(("factors", "j"), EVERY_FACTOR)
@pytest.mark.parametrize("most", [1, 0.5], ids=["all states", "half of them"])
def test_no_training_sequence_shows_where_another_starts(factors: Factors, j: int, most: float) -> None:
    states = max(2, int(most * factors.sizes[j]))
    training, *others = (starts(factors, j, states, split) for split in SPLITS)
    seen = factors.sequences(factors.values(training), j, states)
    shown = np.zeros(len(factors), bool)
    shown[factors.index(seen)] = True
    part = parts(len(factors))
    assert (part[shown] == 0).all(), "a training sequence shows an image that is not for training"
    for name, start in enumerate(others, 1):
        assert (factors.values(start)[:, j] == 0).all()
        assert (part[start] == name).all()
        assert not shown[start].any()
        every = len(factors) / factors.sizes[j]
        assert abs(len(start) - 0.05 * every) < 6 * (0.05 * every) ** 0.5
    # Nothing that could be used is left out.
    whole = (np.moveaxis(part.reshape(factors.sizes), j, 0)[:states] == 0).all(0).sum()
    assert len(training) == whole > 0


@given(factors=small, data=st.data())
def test_what_one_factor_is_tested_on_no_other_factor_is_trained_on(factors: Factors, data: st.DataObject) -> None:
    """Small grids, all pairs of factors, any seed."""
    seed = data.draw(st.integers(0, 2**63))
    shown: set[int] = set()
    for j, size in enumerate(factors.sizes):
        values = factors.values(starts(factors, j, size, "train", seed))
        shown |= set(factors.index(factors.sequences(values, j, size)).flatten().tolist())
    for j in range(len(factors.sizes)):
        validation, test = (set(starts(factors, j, 1, split, seed).tolist()) for split in ("validation", "test"))
        assert not shown & validation
        assert not shown & test
        assert not validation & test
