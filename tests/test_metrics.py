"""Reported numbers against loops over pixels, closed forms and their floors."""

import math

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from torch.distributions import Independent, Normal

from latentflow import DiffusionPrior, FlowPosterior, metrics
from tests.problems import close, gaussian, make_potential, rand, randn, seeds


@given(st.integers(1, 3), st.integers(1, 4), seeds)
def test_errors_sum_absolute_pixels_and_leave_the_first_frame_out(batch, steps, seed):
    decoded, target = rand(batch, steps + 1, 2, 3, 3, seed=seed), rand(batch, steps + 1, 2, 3, 3, seed=seed + 1)
    error, floor = metrics.equivariance_error(decoded, target), metrics.identity_error(target)
    black = metrics.black_error(target)
    for b in range(batch):
        frames = range(1, steps + 1)
        off = sum(float((decoded[b, t] - target[b, t]).abs().sum()) for t in frames)
        moved = sum(float((target[b, 0] - target[b, t]).abs().sum()) for t in frames)
        assert error[b].item() == pytest.approx(off)
        assert floor[b].item() == pytest.approx(moved)
        assert black[b].item() == pytest.approx(sum(float(target[b, t].sum()) for t in frames))
    assert (metrics.equivariance_error(target, target) == 0).all()


def test_a_model_that_never_moves_sits_on_the_floor():
    target = rand(4, 5, 1, 6, 6)
    still = target[:, :1].expand_as(target)
    assert torch.equal(metrics.equivariance_error(still, target), metrics.identity_error(target))


@given(st.integers(1, 5), st.integers(1, 4), seeds)
def test_latent_error_is_relative_to_the_motion(dim, steps, seed):
    z, encoded = randn(3, steps + 1, dim, seed=seed), randn(3, steps + 1, dim, seed=seed + 1)
    absolute, relative = metrics.latent_equivariance_error(z, encoded)
    for b in range(3):
        off = sum(float(torch.linalg.vector_norm(encoded[b, t] - z[b, t], 1)) for t in range(1, steps + 1))
        motion = sum(float(torch.linalg.vector_norm(encoded[b, t] - encoded[b, 0], 1)) for t in range(1, steps + 1))
        assert absolute[b].item() == pytest.approx(off)
        assert relative[b].item() == pytest.approx(off / motion)
    still = encoded[:, :1].expand_as(encoded)
    close(metrics.latent_equivariance_error(still, encoded)[1], torch.ones(3, dtype=z.dtype))
    assert (metrics.latent_equivariance_error(100 * z, 100 * encoded)[1] - relative).abs().max() < 1e-9


def test_relative_to_no_motion_the_error_is_infinite_or_undefined():
    encoded = torch.zeros(2, 3, 2)
    z = encoded.clone()
    z[0] += 1
    relative = metrics.latent_equivariance_error(z, encoded)[1]
    assert relative[0] == math.inf
    assert relative[1].isnan()


@given(st.integers(1, 3), st.integers(1, 3), seeds)
def test_gaussian_log_likelihood_is_a_unit_gaussian_over_pixels(batch, steps, seed):
    decoded, target = randn(batch, steps + 1, 2, 3, seed=seed), randn(batch, steps + 1, 2, 3, seed=seed + 1)
    value = metrics.gaussian_log_likelihood(decoded, target)
    close(value, Independent(Normal(decoded, torch.ones_like(decoded)), 2).log_prob(target))
    assert (value <= metrics.gaussian_constant(6)).all()
    close(metrics.gaussian_log_likelihood(target, target), torch.full_like(value, metrics.gaussian_constant(6)))


def test_constants_that_no_unit_variance_decoder_exceeds():
    assert round(metrics.gaussian_constant(3 * 28 * 28), 2) == -2161.34
    assert round(metrics.gaussian_constant(3 * 64 * 64), 2) == -11291.92


def test_an_empty_batch_has_no_errors():
    none = torch.zeros(0, 3, 2, 2)
    assert metrics.equivariance_error(none, none).shape == (0,)
    assert metrics.gaussian_log_likelihood(none, none).shape == (0, 3)


@pytest.mark.parametrize(
    ("decoded", "target"),
    [
        (torch.zeros(2, 3, 4), torch.zeros(2, 3, 5)),
        (torch.zeros(2, 3, 4), torch.zeros(2, 4, 4)),
        (torch.zeros(1, 3, 4), torch.zeros(2, 3, 4)),
        (torch.zeros(2, 3), torch.zeros(2, 3)),
        (torch.zeros(2, 1, 4), torch.zeros(2, 1, 4)),
    ],
)
def test_sequences_of_other_shapes_are_refused(decoded, target):
    for metric in (
        metrics.equivariance_error,
        metrics.latent_equivariance_error,
        metrics.gaussian_log_likelihood,
    ):
        with pytest.raises(ValueError, match=r"got shapes .*expected two equal .*; stack"):
            metric(decoded, target)


def test_images_in_bytes_are_refused():
    for metric in (metrics.equivariance_error, metrics.gaussian_log_likelihood):
        with pytest.raises(TypeError, match=r"target: got dtype torch.uint8, expected .*; divide images by 255"):
            metric(torch.zeros(2, 3, 4), torch.zeros(2, 3, 4, dtype=torch.uint8))
    with pytest.raises(
        TypeError, match=r"z: got dtype torch.int64, expected a floating dtype; pass latents as they are"
    ):
        metrics.latent_equivariance_error(torch.zeros(2, 3, 4, dtype=torch.int64), torch.zeros(2, 3, 4))


def test_evidence_bound_refuses_likelihoods_that_are_not_one_number_for_each_frame():
    path, prior = FlowPosterior(make_potential(3))(gaussian(2, 3), 0, steps=2), DiffusionPrior(dtype=torch.float64)
    with pytest.raises(ValueError, match=r"log_likelihood: got shape \(2, 3, 5\), expected \(2, 3\); sum over pixels"):
        metrics.evidence_bound(torch.zeros(2, 3, 5), path, prior)
    with pytest.raises(TypeError, match=r"log_likelihood: got int, expected"):
        metrics.evidence_bound(3, path, prior)


@pytest.mark.parametrize("shape", [(2, 2), (2,), (), (1, 3), (2, 1), (2, 3, 4)])
def test_importance_weighting_refuses_likelihoods_that_are_not_one_number_for_each_frame(shape):
    with pytest.raises(
        ValueError, match=r"log_likelihood: got shape .*expected \(2, 3\); sum over pixels and keep one"
    ):
        metrics.importance_weighted_bound(
            lambda z: z.new_zeros(shape), make_potential(3), gaussian(2, 3), 0, steps=2, samples=2
        )


def test_importance_weighting_needs_samples():
    for samples, error in ((0, ValueError), (2.5, TypeError)):
        with pytest.raises(error, match=r"samples: got .*expected"):
            metrics.importance_weighted_bound(
                lambda z: z.sum(-1), make_potential(3), gaussian(2, 3), 0, steps=2, samples=samples
            )


@given(st.integers(1, 3), st.integers(1, 3), seeds)
def test_bernoulli_log_likelihood_is_that_of_binary_pixels(batch, steps, seed):
    logits = 4 * randn(batch, steps + 1, 3, 2, 2, seed=seed)
    binary = (rand(*logits.shape, seed=seed) > 0.5).to(logits)
    truth = torch.distributions.Bernoulli(logits=logits).log_prob(binary).sum((2, 3, 4))
    close(metrics.bernoulli_log_likelihood(logits, binary), truth)
    grey = rand(*logits.shape, seed=seed + 1)
    likely = logits.sigmoid()
    truth = (grey * likely.log() + (1 - grey) * (1 - likely).log()).sum((2, 3, 4))
    close(metrics.bernoulli_log_likelihood(logits, grey), truth)


@pytest.mark.parametrize("dtype", [torch.float16, torch.bfloat16])
def test_half_precision_is_summed_in_full(dtype):
    """As many pixels as an image has overflow float16, and bfloat16 counts to 256."""
    x, y = rand(2, 4, 3, 64, 64, seed=1).to(dtype), rand(2, 4, 3, 64, 64, seed=2).to(dtype)
    for metric in (
        metrics.equivariance_error,
        metrics.gaussian_log_likelihood,
        metrics.bernoulli_log_likelihood,
        lambda x, y: metrics.black_error(y),
        lambda x, y: metrics.latent_equivariance_error(x, y)[1],
    ):
        found, truth = metric(x, y), metric(x.double(), y.double())
        assert found.dtype == torch.float32
        torch.testing.assert_close(found.double(), truth, rtol=1e-5, atol=0)
