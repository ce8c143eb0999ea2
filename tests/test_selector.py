"""The Gumbel choice: its frequencies, its gradient, its temperature, and the KL of its distribution."""

import math

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from scipy.stats import chisquare
from torch.distributions import Categorical, kl_divergence

from latentflow import GumbelSelector, categorical_kl
from tests.problems import randn, seeds


def selector(num=3, temperature=1.0, **options):
    """Its logits are its input."""
    return GumbelSelector(torch.nn.Identity(), num, start=temperature, **options)


@pytest.mark.parametrize("temperature", [0.05, 1.0, 7.0])
@pytest.mark.parametrize("logits", [[2.0, 0.0, 0.0], [0.0, 0.0, 0.0, 0.0], [1.0, -1.0, 0.5, 0.0, 3.0], [0.4]])
def test_choices_are_as_frequent_as_the_softmax_says(logits, temperature):
    """Whatever the temperature: argmax(x + g) is a categorical sample."""
    n, logits = 20_000, torch.tensor(logits)
    weights, returned = selector(len(logits), temperature)(
        logits.expand(n, -1), generator=torch.Generator().manual_seed(0)
    )
    assert torch.equal(returned, logits.expand(n, -1))
    counts = weights.sum(0)
    assert counts.sum() == n
    if len(logits) > 1:
        assert chisquare(counts.numpy(), n * logits.softmax(0).numpy(), sum_check=False).pvalue > 1e-3


@pytest.mark.parametrize("temperature", [1e7, 1e30])
def test_at_a_temperature_at_which_rounding_makes_all_alike_none_is_preferred(temperature):
    weights, _ = selector(3, temperature)(torch.zeros(20_000, 3), generator=torch.Generator().manual_seed(0))
    assert chisquare(weights.sum(0).numpy(), sum_check=False).pvalue > 1e-3


def test_samples_are_independent_of_each_other():
    """Consecutive rows agree as often as chance wants."""
    weights, _ = selector(2)(torch.zeros(20_000, 2), generator=torch.Generator().manual_seed(0))
    agree = (weights[0::2, 0] == weights[1::2, 0]).sum().item()
    assert chisquare([agree, 10_000 - agree]).pvalue > 1e-3


@given(st.integers(1, 6), seeds, st.sampled_from([torch.float32, torch.float64]))
def test_weights_are_exactly_one_hot(num, seed, dtype):
    logits = 5 * randn(50, num, seed=seed, dtype=dtype)
    weights, _ = selector(num)(logits, generator=torch.Generator().manual_seed(seed))
    assert weights.dtype == dtype
    assert ((weights == 0) | (weights == 1)).all()
    assert (weights.sum(1) == 1).all()


@given(st.integers(2, 5), seeds, st.sampled_from([0.1, 0.7, 3.0]))
def test_gradient_is_that_of_the_soft_sample(num, seed, temperature):
    logits = randn(8, num, seed=seed).requires_grad_()
    payoff = randn(8, num, seed=seed + 1)
    weights, _ = selector(num, temperature)(logits, generator=torch.Generator().manual_seed(seed))
    (gradient,) = torch.autograd.grad((payoff * weights).sum(), logits)
    # standard Gumbel noise is minus the log of a standard exponential
    noise = -torch.empty_like(logits).exponential_(generator=torch.Generator().manual_seed(seed)).log()
    scores = (logits + noise).detach() / float(torch.tensor(temperature))
    soft = scores.exp() / scores.exp().sum(1, keepdim=True)
    jacobian = (torch.diag_embed(soft) - soft[:, :, None] * soft[:, None, :]) / float(torch.tensor(temperature))
    torch.testing.assert_close(gradient, (jacobian @ payoff[..., None]).squeeze(-1), rtol=1e-8, atol=1e-10)
    assert torch.equal(weights.argmax(1), soft.argmax(1))


def test_evaluation_takes_the_largest_logit_without_noise():
    """With noise, logits (2, 0, 0) would be decided wrongly in 21 % of the cases."""
    choose = selector().eval()
    logits = torch.tensor([2.0, 0.0, 0.0]).expand(2000, -1)
    before = torch.get_rng_state()
    weights, _ = choose(logits)
    assert torch.equal(torch.get_rng_state(), before), "evaluation draws random numbers"
    assert (weights == torch.tensor([1.0, 0.0, 0.0])).all()
    wrong = 1 - selector()(logits, generator=torch.Generator().manual_seed(0))[0][:, 0].mean()
    assert wrong.item() == pytest.approx(1 - math.exp(2) / (math.exp(2) + 2), abs=0.03)


def test_generator_makes_choices_reproducible_and_leaves_global_state_alone():
    choose, logits = selector(), torch.zeros(64, 3)
    before = torch.get_rng_state()
    first, second, other = (choose(logits, generator=torch.Generator().manual_seed(s))[0] for s in (1, 1, 2))
    assert torch.equal(torch.get_rng_state(), before)
    assert torch.equal(first, second)
    assert not torch.equal(first, other)


def test_temperature_falls_as_the_paper_says():
    choose = selector()
    for iteration in (0, 1, 1250, 50_000, 99_857, 99_858, 10**7):
        choose.anneal(iteration)
        assert choose.temperature.item() == pytest.approx(max(0.05, math.exp(-3e-5 * iteration)), rel=1e-6)
    choose.anneal(1250)
    assert choose.temperature.item() == pytest.approx(0.96, abs=0.005)
    own = selector(temperature=2.0, minimum=0.5, rate=0.1)
    own.anneal(5)
    assert own.temperature.item() == pytest.approx(2 * math.exp(-0.5))
    own.anneal(500)
    assert own.temperature.item() == 0.5


def test_temperature_is_saved_and_restored():
    choose = GumbelSelector(torch.nn.Linear(4, 3), 3)
    choose.anneal(30_000)
    state = choose.state_dict()
    assert "temperature" in state
    assert not any(parameter is choose.temperature for parameter in choose.parameters())
    other = GumbelSelector(torch.nn.Linear(4, 3), 3)
    other.load_state_dict(state)
    assert other.temperature.item() == pytest.approx(math.exp(-0.9))
    x = torch.randn(9, 4)
    for a, b in zip(
        choose(x, generator=torch.Generator().manual_seed(0)),
        other(x, generator=torch.Generator().manual_seed(0)),
        strict=True,
    ):
        assert torch.equal(a, b)


def test_gradient_reaches_the_classifier():
    choose = GumbelSelector(torch.nn.Linear(4, 3), 3)
    weights, logits = choose(torch.randn(9, 4))
    (weights * torch.randn(9, 3)).sum().add(categorical_kl(logits).sum()).backward()
    for parameter in choose.classifier.parameters():
        assert parameter.grad.abs().max() > 0
        assert parameter.grad.isfinite().all()


def test_extreme_logits_stay_finite():
    logits = torch.tensor([[1e4, 0.0, -1e4]]).requires_grad_()
    weights, _ = selector(temperature=0.05)(logits)
    assert weights.tolist() == [[1, 0, 0]]
    (gradient,) = torch.autograd.grad((weights * torch.tensor([1.0, 2.0, 3.0])).sum(), logits)
    assert gradient.isfinite().all()


def test_autocast_keeps_the_choice_in_float32():
    choose = GumbelSelector(torch.nn.Linear(4, 3), 3)
    with torch.autocast("cpu", dtype=torch.bfloat16):
        weights, logits = choose(torch.randn(9, 4))
        assert categorical_kl(logits.bfloat16()).dtype == torch.float32
    assert weights.dtype == logits.dtype == torch.float32
    assert (weights.sum(1) == 1).all()


@given(st.integers(1, 6), seeds, st.sampled_from([0.1, 1.0, 20.0]))
def test_categorical_kl_is_the_kl_to_uniform(num, seed, scale):
    logits = scale * randn(7, num, seed=seed)
    expected = kl_divergence(Categorical(logits=logits), Categorical(logits=torch.zeros_like(logits)))
    value = categorical_kl(logits)
    torch.testing.assert_close(value, expected, rtol=1e-10, atol=1e-10)
    assert (value >= -1e-12).all()
    assert (value <= math.log(num) + 1e-12).all()


def test_categorical_kl_of_certainty():
    logits = torch.tensor([[1e5, 0.0, 0.0]], dtype=torch.float64)
    assert categorical_kl(logits).item() == pytest.approx(math.log(3))


def test_the_temperature_is_made_where_and_as_it_is_asked_for():
    found = GumbelSelector(torch.nn.Identity(), 3, device="meta", dtype=torch.float64).temperature
    assert (found.device.type, found.dtype) == ("meta", torch.float64)
    with pytest.raises(TypeError, match=r"dtype: got torch.int64, expected a floating dtype; the temperature"):
        GumbelSelector(torch.nn.Identity(), 3, dtype=torch.int64)


@pytest.mark.parametrize(
    ("make", "error", "message"),
    [
        (lambda: selector(2)(torch.zeros(4, 3)), ValueError, r"classifier\(x\): got shape \(4, 3\), expected \(B, 2\)"),
        (lambda: selector(3)(torch.zeros(3)), ValueError, r"classifier\(x\): got shape \(3,\)"),
        (lambda: selector(3)(torch.zeros(4, 3).long()), TypeError, r"classifier\(x\): got dtype torch.int64"),
        (lambda: selector(3)(torch.full((4, 3), math.nan)), ValueError, r"classifier\(x\): got 12 non-finite"),
        (lambda: selector(3).anneal(-1), ValueError, "iteration: got -1"),
        (lambda: selector(3, 0.0), ValueError, "temperature: got start=0.0"),
        (lambda: selector(3, 1.0, minimum=2.0), ValueError, "temperature: got .*minimum=2.0"),
        (lambda: selector(3, rate=-1.0), ValueError, "temperature: got .*rate=-1.0"),
        (lambda: selector(3, math.inf), ValueError, "temperature: got start=inf"),
        (lambda: selector(0), ValueError, "num: got 0"),
        (lambda: selector(True), TypeError, "num: got True"),
        (lambda: categorical_kl(torch.zeros(3)), ValueError, r"logits: got shape \(3,\)"),
        (lambda: categorical_kl(torch.zeros(3, 0)), ValueError, r"logits: got shape \(3, 0\)"),
        (lambda: categorical_kl(torch.zeros(3, 2).long()), TypeError, "logits: got dtype torch.int64"),
        (lambda: categorical_kl(torch.full((3, 2), -math.inf)), ValueError, "logits: got 6 non-finite"),
    ],
)
def test_bad_input_is_named(make, error, message):
    with pytest.raises(error, match=message) as caught:
        make()
    assert "expected" in str(caught.value)
    assert ";" in str(caught.value)
