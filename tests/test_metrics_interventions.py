"""Scores that hold a factor fixed against what is known of the codes, and what each of them cannot see."""

import math

import numpy as np
import pytest
import scipy.stats
import torch

from latentflow import metrics
from tests.problems import check_message

INTERVENTIONS = pytest.mark.parametrize("score", [metrics.beta_vae_score, metrics.factor_vae_score])


def few(score, represent, sizes, train=300, **settings):
    generator = torch.Generator().manual_seed(0)
    return score(represent, sizes, train=train, test=300, generator=generator, **settings)


def identity(v):
    return v.float()


def near(share, count=300):
    """Four standard deviations of a share of this many trials."""
    return pytest.approx(share, abs=4 * math.sqrt(share * (1 - share) / count))


@INTERVENTIONS
def test_codes_that_are_the_factors_are_perfect(score):
    assert few(score, identity, (3, 4, 2)) == 1


@INTERVENTIONS
def test_whole_numbers_may_be_of_any_library(score):
    assert few(score, identity, torch.tensor([3, 4]), batch=np.int64(32), chunk=np.int64(2)) == 1


@INTERVENTIONS
def test_two_images_are_a_batch(score):
    chance = 1 / 3
    assert few(score, identity, (3, 4, 2), batch=2) > chance + 4 * math.sqrt(chance * (1 - chance) / 300)


@INTERVENTIONS
def test_codes_that_know_nothing_are_at_chance(score):
    noise = torch.Generator().manual_seed(1)
    found = few(score, lambda v: torch.randn(len(v), 50, generator=noise), (5, 5, 5), train=40)
    assert found == near(1 / 3)  # though a classifier of 50 dimensions is right of all 40 that it has learned from


def test_a_factor_that_is_nowhere_is_missed_by_one_and_not_by_the_other():
    """Where all of two dimensions vary it must be the third factor, as Kim and Mnih found of the beta-VAE score."""

    def first_two(v):
        return v[:, :2].float()

    assert few(metrics.beta_vae_score, first_two, (8, 8, 8)) == 1
    assert few(metrics.factor_vae_score, first_two, (8, 8, 8)) == near(2 / 3)


def test_factor_vae_score_sees_a_rotation():
    def turned(v):
        centred = v.double() - v.double().mean(0)
        return torch.stack((centred[:, 0] + centred[:, 1], centred[:, 0] - centred[:, 1]), 1)

    assert few(metrics.factor_vae_score, turned, (50, 50)) == near(1 / 2)


def test_factor_vae_score_does_not_see_units():
    noise = torch.Generator().manual_seed(1)

    def noisy(v):
        return (v + 0.3 * torch.randn(v.shape, generator=noise)) * torch.tensor([100.0, 1.0])

    assert few(metrics.factor_vae_score, noisy, (5, 5)) == 1


def test_dimensions_that_hardly_vary_have_no_vote():
    def with_dead_ones(v):
        noise = 1e-3 * torch.sin(1.7 * v.sum(1, keepdim=True).double())
        return torch.cat((noise, v.double(), noise), 1)

    assert few(metrics.factor_vae_score, with_dead_ones, (3, 4)) == 1
    assert few(metrics.factor_vae_score, lambda v: 1e-3 * v.float(), (3, 4)) == 0
    assert few(metrics.factor_vae_score, lambda v: 1e-3 * v.float(), (3, 4), least_std=1e-5) == 1


def test_batches_hold_one_factor_and_draw_the_others():
    seen = []

    def represent(v):
        seen.append(v)
        return v.float()

    generator = torch.Generator().manual_seed(0)
    metrics.factor_vae_score(
        represent, (4, 5), train=40, test=1, batch=16, population=50, chunk=100, generator=generator
    )
    assert max(map(len, seen)) <= 100
    votes = torch.cat(seen)[50 : 50 + 40 * 16].view(40, 16, 2)
    held = (votes == votes[:, :1]).all(1)
    assert (held.sum(1) == 1).all()
    assert held.any(0).all()
    seen.clear()
    metrics.beta_vae_score(represent, (4, 5), train=10, test=1, batch=16, chunk=1000, generator=generator)
    first, second = seen[0].view(2, 10, 16, 2)
    held = (first == second).all(1)
    assert (held.sum(1) == 1).all()
    assert (first != first[:, :1]).any(1).all()  # pairs agree with each other, not with other pairs


def test_settings_are_uniform_and_reproducible():
    def sample(seed):
        return metrics.sample_codes(lambda v: v.double(), (3, 2), 3000, generator=torch.Generator().manual_seed(seed))

    codes, factors = sample(0)
    assert torch.equal(codes, factors.double())
    counts = (2 * factors[:, 0] + factors[:, 1]).bincount(minlength=6)
    assert scipy.stats.chisquare(counts).pvalue > 1e-3
    assert torch.equal(sample(0)[1], factors)
    assert not torch.equal(sample(1)[1], factors)


def test_represent_may_write_to_what_it_is_shown():
    def represent(v):
        v -= 1
        return v.double()

    codes, factors = metrics.sample_codes(represent, (3, 4), 50)
    assert factors.min() == 0
    assert torch.equal(codes, factors.double() - 1)


@pytest.mark.parametrize("dtype", [torch.float16, torch.bfloat16])
@INTERVENTIONS
def test_codes_in_half_precision_do_not_overflow(score, dtype):
    assert few(score, lambda v: ((v - 1.5) * 20000).to(dtype), (4, 4)) == 1


def test_no_graph_is_kept():
    weight = torch.ones(2, requires_grad=True)
    codes, _ = metrics.sample_codes(lambda v: v * weight, (3, 2), 10)
    assert not codes.requires_grad


@pytest.mark.parametrize(
    ("make", "error", "message"),
    [
        (lambda: metrics.sample_codes(identity, ()), ValueError, "sizes: got 0 factors, expected at least 1"),
        (lambda: metrics.beta_vae_score(identity, (3,)), ValueError, "sizes: got 1 factors, expected at least 2"),
        (
            lambda: metrics.factor_vae_score(identity, (3, 1)),
            ValueError,
            "sizes: got 1, expected at least 2; give",
        ),
        (lambda: metrics.sample_codes(identity, (3, 2.0)), TypeError, "sizes: got (3, 2.0), expected whole numbers"),
        (lambda: metrics.sample_codes(identity, 3), TypeError, "sizes: got 3, expected whole numbers, of at least 1 f"),
        (lambda: metrics.sample_codes(None, (3, 2)), TypeError, "represent: got NoneType, expected a function"),
        (lambda: metrics.beta_vae_score(identity, (3, 2), chunk=None), TypeError, "chunk: got None"),
        (
            lambda: metrics.beta_vae_score(identity, (3, 2), generator=0),
            TypeError,
            "generator: got int, expected a torch",
        ),
        (lambda: metrics.beta_vae_score(identity, (3, 2), train=1), ValueError, "train: got 1 points that share one"),
        (
            lambda: metrics.factor_vae_score(identity, (3, 2), least_std=0),
            ValueError,
            "least_std: got 0, expected more",
        ),
        (lambda: metrics.factor_vae_score(identity, (3, 2), least_std=math.nan), ValueError, "least_std: got nan"),
        (
            lambda: metrics.sample_codes(lambda v: torch.zeros(len(v), len(v)), (3, 2), 5, chunk=3),
            ValueError,
            "represent(factors): got shape (2, 2), expected (2, 3)",
        ),
        (
            lambda: metrics.sample_codes(lambda v: torch.zeros(len(v), 0), (3, 2), 5),
            ValueError,
            "represent(factors): got shape (5, 0), expected (5, dim)",
        ),
        (
            lambda: metrics.sample_codes(lambda v: 1e31 * v.float(), (3, 2), 5),
            ValueError,
            "represent(factors): got values up to .*, expected at most 1e+30",
        ),
        (lambda: metrics.sample_codes(identity, (3, 2), 0), ValueError, "num: got 0, expected at least 1"),
        (lambda: metrics.sample_codes(identity, (3, 2), 5, chunk=0), ValueError, "chunk: got 0, expected at least 1"),
        (lambda: metrics.factor_vae_score(identity, (3, 2), batch=1), ValueError, "batch: got 1, expected at least 2"),
        (lambda: metrics.factor_vae_score(identity, (3, 2), population=1), ValueError, "population: got 1, expected"),
        (lambda: metrics.factor_vae_score(identity, (3, 2), train=0), ValueError, "train: got 0, expected at least 1"),
        (
            lambda: metrics.factor_vae_score(identity, (3, 2), least_std="0"),
            TypeError,
            "least_std: got '0', expected a",
        ),
        (lambda: metrics.beta_vae_score(identity, (3, 2), test=0), ValueError, "test: got 0, expected at least 1"),
        (lambda: metrics.sample_codes(lambda v: v, (3, 2), 5), TypeError, "represent(factors): got dtype torch.int64"),
        (
            lambda: metrics.sample_codes(lambda v: v.float().mean(0), (3, 2), 5),
            ValueError,
            "represent(factors): got shape (2,), expected (5, dim)",
        ),
        (
            lambda: metrics.sample_codes(lambda v: v.float() / 0, (3, 2), 5),
            ValueError,
            "represent(factors): got .* non-finite values",
        ),
    ],
)
def test_what_cannot_be_scored_is_refused(make, error, message):
    check_message(make, error, message)
