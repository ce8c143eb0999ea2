"""Scores of codes against what is known of them: perfect codes, counted information, and what each score cannot see."""

import math
import sys

import numpy as np
import pytest
import scipy.stats
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from latentflow import metrics
from latentflow.metrics.codes import _one_sided
from tests.problems import check_message, rand, seeds


def grid(*sizes, times=1):
    """All settings of the factors, as often as said."""
    return torch.cartesian_prod(*map(torch.arange, sizes)).view(-1, len(sizes)).repeat(times, 1)


def flipped(bits, share):
    """A copy of bits (N,) in which this share of each value is the other one, exactly."""
    found = bits.clone()
    for value in (0, 1):
        where = (bits == value).nonzero().flatten()
        found[where[: round(share * len(where))]] = 1 - value
    return found


def entropy(p):
    return -p * math.log(p) - (1 - p) * math.log(1 - p)


def test_codes_that_are_the_factors_are_perfect():
    factors = grid(3, 4, 2, times=5)
    codes = factors.double()
    assert metrics.mutual_information_gap(codes, factors) == pytest.approx(1)
    found = metrics.dci(codes, factors, codes, factors)
    assert (found.disentanglement, found.completeness, found.informativeness) == pytest.approx((1, 1, 1))
    torch.testing.assert_close(found.importance, torch.eye(3, dtype=torch.float64))


@given(st.sampled_from([0.0, 0.125, 0.25, 0.375]), st.sampled_from([0.25, 0.375, 0.5]))
def test_information_gap_of_noisy_bits_is_counted(share, second):
    """A bit that is flipped with probability p knows log 2 - H(p) of what it was."""
    bit = grid(2, times=64)[:, 0]
    codes = torch.stack((flipped(bit, share), flipped(bit, second)), 1).double()
    known = [math.log(2) - (entropy(p) if p > 0 else 0) for p in (share, second)]
    truth = abs(known[0] - known[1]) / math.log(2)
    assert metrics.mutual_information_gap(codes, bit[:, None]) == pytest.approx(truth, abs=1e-12)


def test_a_factor_in_two_dimensions_leaves_no_gap():
    factors = grid(4, 3, times=4)
    codes = torch.cat((factors, factors), 1).double()
    assert metrics.mutual_information_gap(codes, factors) == pytest.approx(0)
    assert metrics.sap_score(codes, factors, codes, factors) == pytest.approx(0)


@given(seeds, st.integers(2, 4), st.integers(5, 30))
@settings(max_examples=10)
def test_information_gap_sees_neither_units_nor_the_order_of_dimensions(seed, dim, bins):
    codes = rand(60, dim, seed=seed)
    factors = (torch.arange(60)[:, None] // torch.tensor([1, 5])) % torch.tensor([3, 4])
    found = metrics.mutual_information_gap(codes, factors, bins=bins)
    assert 0 <= found <= 1
    assert metrics.mutual_information_gap(4 * codes.flip(1), 7 - factors.flip(1), bins=bins) == pytest.approx(found)


@given(st.integers(1, 5), st.integers(2, 5), seeds)
def test_one_sidedness_is_one_minus_entropy(rows, columns, seed):
    importance = rand(rows, columns, seed=seed) ** 4
    array = importance.numpy()
    per_row = 1 - scipy.stats.entropy(array.T + 1e-11, base=columns)
    assert _one_sided(importance) == pytest.approx(np.sum(per_row * array.sum(1) / array.sum()))


def test_one_dimension_for_two_factors_is_complete_but_not_disentangled():
    factors = grid(2, 2, times=25)
    codes = torch.stack((2 * factors[:, 0] + factors[:, 1], torch.zeros(100)), 1).double()
    found = metrics.dci(codes, factors, codes, factors)
    assert found.disentanglement == pytest.approx(0, abs=1e-6)
    assert found.completeness == pytest.approx(1, abs=1e-6)
    assert found.informativeness == 1


def test_dci_of_codes_that_say_nothing():
    factors = grid(2, 2, times=5)
    codes = torch.zeros(20, 3, dtype=torch.float64)
    found = metrics.dci(codes, factors, codes, factors)
    assert (found.disentanglement, found.completeness, found.informativeness) == (0, 0, 0.5)


def test_dci_judges_by_test_codes():
    factors = grid(2, 2, times=10)
    wrong = torch.stack((1 - factors[:, 0], factors[:, 1]), 1)
    found = metrics.dci(factors.double(), factors, factors.double(), wrong)
    assert found.informativeness == 0.5  # right of one factor, always wrong of the other


@pytest.mark.parametrize("share", [0.0, 0.125, 0.25, 0.375])
def test_sap_is_the_gap_of_two_accuracies(share):
    """The flipped bit tells its factor in 1 - p of all cases; nothing else tells it better than a coin."""
    bit = grid(2, times=64)[:, 0]
    codes = torch.stack((flipped(bit, share), flipped(bit, 0.5)), 1).double()
    found = metrics.sap_score(codes, bit[:, None], codes, bit[:, None])
    assert found == pytest.approx(0.5 - share, abs=1e-12)


def test_sap_judges_by_test_codes():
    factors = grid(2, 2, times=100)
    wrong = torch.stack((1 - factors[:, 0], factors[:, 1]), 1)
    # The first dimension is now always wrong of its factor, and the second, a coin, the best: 0.5 - 0.
    assert metrics.sap_score(factors.double(), factors, factors.double(), wrong) == pytest.approx((0.5 + 0.5) / 2)


def test_sap_weighs_values_alike_however_rare():
    """Else whoever says 0 always would be right in nine cases of ten, by either dimension."""
    bit = torch.cat((torch.zeros(900, dtype=torch.int64), torch.ones(100, dtype=torch.int64)))
    codes = torch.stack((flipped(bit, 0.125), flipped(bit, 0.375)), 1).double()
    found = metrics.sap_score(codes, bit[:, None], codes, bit[:, None])
    flips = [(flipped(bit, share) != bit).double().mean().item() for share in (0.125, 0.375)]
    assert found == pytest.approx(flips[1] - flips[0], abs=1e-12)


def test_a_factor_may_stand_still_among_the_test_codes():
    factors = grid(2, 2, times=100)
    still = factors[factors[:, 0] == 1]
    assert metrics.dci(factors.double(), factors, still.double(), still).informativeness == 1
    twice, still_twice = (x.double().repeat(1, 2) for x in (factors, still))  # two dimensions for each: no gap
    assert metrics.sap_score(twice, factors, still_twice, still) == 0


def test_twenty_bins_are_usual():
    codes, factors = rand(200, 3, seed=1), grid(4, 5, times=10)
    given = [metrics.mutual_information_gap(codes, factors, bins=bins) for bins in (19, 20, 21)]
    assert metrics.mutual_information_gap(codes, factors) == given[1]
    assert len(set(given)) == 3


def test_bins_may_be_a_whole_number_of_any_library():
    factors = grid(3, 4, times=5)
    codes = rand(60, 2)
    bins = torch.tensor([5])
    assert metrics.mutual_information_gap(codes, factors, bins=bins) == metrics.mutual_information_gap(
        codes, factors, bins=5
    )


def test_a_dimension_that_hardly_varies_is_no_obstacle():
    """A range of less than as many floating numbers as there are bins."""
    factors = grid(3, 4, times=5)
    codes = torch.cat((factors.double(), 1 + 2**-52 * factors[:, :1].double()), 1)
    assert metrics.mutual_information_gap(codes[:, :2], factors) == pytest.approx(1)
    assert metrics.mutual_information_gap(codes, factors) == pytest.approx(0.5)


def test_without_scikit_learn_it_says_what_to_install(monkeypatch):
    monkeypatch.setitem(sys.modules, "sklearn.metrics", None)
    factors = grid(2, 2)
    check_message(
        lambda: metrics.mutual_information_gap(factors.double(), factors),
        ImportError,
        "got no scikit-learn, expected it installed; pip install 'latentflow[scores]'",
    )


@pytest.mark.parametrize(
    ("make", "error", "message"),
    [
        (
            lambda: metrics.sap_score(1e300 * grid(2, 2).double(), grid(2, 2), torch.ones(4, 2), grid(2, 2)),
            ValueError,
            "codes: got values up to 1e+300, expected at most 1e+30",
        ),
        (
            lambda: metrics.sap_score(torch.ones(4, 2), grid(2, 2) > 0, torch.ones(4, 2), grid(2, 2)),
            TypeError,
            "factors: got dtype torch.bool, expected an integer dtype",
        ),
        (
            lambda: metrics.dci(torch.ones(4, 2), grid(2, 2), torch.ones(4, 2), grid(2, 2) + torch.tensor([0, 5])),
            ValueError,
            "test_factors: got value 5 of factor 1, expected those of factors; learn from more codes",
        ),
        (
            lambda: metrics.mutual_information_gap(torch.ones(4, 2), torch.ones(4, 1)),
            TypeError,
            "factors: got dtype torch.float32, expected an integer dtype",
        ),
        (
            lambda: metrics.mutual_information_gap(torch.ones(4, 2), [0, 1]),
            TypeError,
            "factors: got list, expected an integer tensor",
        ),
        (
            lambda: metrics.mutual_information_gap(torch.ones(4, 1), grid(2, 2)),
            ValueError,
            "codes, factors: got shapes (4, 1) and (4, 2), expected (N, dim) and (N, F) with dim >= 2",
        ),
        (
            lambda: metrics.mutual_information_gap(torch.ones(5, 2), grid(2, 2)),
            ValueError,
            "codes, factors: got shapes (5, 2) and (4, 2), expected",
        ),
        (
            lambda: metrics.mutual_information_gap(torch.ones(4, 2), 0 * grid(2, 2)),
            ValueError,
            "factors: got one that never changes, expected",
        ),
        (
            lambda: metrics.mutual_information_gap(torch.full((4, 2), torch.nan), grid(2, 2)),
            ValueError,
            "codes: got 8 non-finite values",
        ),
        (
            lambda: metrics.mutual_information_gap(torch.ones(4, 2), grid(2, 2), bins=0),
            ValueError,
            "bins: got 0, expected at least 1",
        ),
        (
            lambda: metrics.dci(torch.ones(4, 2), grid(2, 2)[:, :1], torch.ones(4, 2), grid(2, 2)[:, :1]),
            ValueError,
            "factors: got shape (4, 1), expected at least 2 columns",
        ),
        (
            lambda: metrics.sap_score(torch.ones(4, 2), grid(2, 2), torch.ones(4, 3), grid(2, 2)),
            ValueError,
            "test_codes: got 3 columns, expected 2; pass the same as in codes",
        ),
        (
            lambda: metrics.dci(torch.ones(4, 2), grid(2, 2), torch.ones(2, 2), grid(2)),
            ValueError,
            "test_factors: got 1 columns, expected 2",
        ),
    ],
)
def test_what_cannot_be_scored_is_refused(make, error, message):
    check_message(make, error, message)
