"""What the examples report: against exact solutions, drawn truths and known optima."""

import math
from types import SimpleNamespace

import compositions
import evaluate
import mnist as example
import models
import pytest
import torch
from data.moving_digits import DIGITS, render
from evaluate import extrapolation
from hypothesis import given
from hypothesis import strategies as st
from models import FlowVAE
from networks import SpriteDecoder
from torch import Tensor, nn
from torch.nn import functional as F
from transport import residual, transport_cost
from variation import variation

from latentflow import FlowPosterior, HJConstraint
from latentflow.metrics import VariationPredictability


class Drift(nn.Module):
    """Each of three potentials moves its own coordinate by one in each step: u^k = z_k - t/2 solves Hamilton-Jacobi."""

    def forward(self, z: Tensor, t: Tensor) -> Tensor:
        return z - 0.5 * t[..., None]


class Renderer(nn.Module):
    """A decoder that is the truth: coordinates of the latent are levels of the transformations of one digit."""

    def __init__(self, digit: Tensor) -> None:
        super().__init__()
        self.digit = digit

    def forward(self, z: Tensor) -> Tensor:
        frames = render(self.digit.expand(len(z), -1, -1), z[:, None])[:, 0]
        return frames.clamp(1e-4, 1 - 1e-4).logit()


class Origin(nn.Module):
    """An encoder that knows that every first frame is at level 0."""

    def forward(self, x: Tensor) -> Tensor:
        return torch.cat((torch.zeros(len(x), 3), torch.full((len(x), 3), -10.0)), 1)


@pytest.fixture
def perfect() -> FlowVAE:
    digit = torch.rand(16, 16)
    potential = Drift()
    return FlowVAE(Origin(), Renderer(digit), FlowPosterior(potential), HJConstraint(potential), nn.Identity()).eval()


def test_a_model_that_is_the_truth_composes_without_error(perfect: FlowVAE) -> None:
    digits = perfect.decoder.digit.expand(2, -1, -1)
    found = compositions.compose(perfect, digits, DIGITS, 8, [0, 1, 2])
    assert {kind: len(rows) for kind, rows in found.items()} == {"restarted": 6, "running": 6, "superposing": 3}
    for rows in found.values():
        for name, row in rows.items():
            assert row["error"] < 0.01 * row["identity"], name


def test_a_model_that_is_the_truth_has_no_error_while_standing_still_has(perfect: FlowVAE) -> None:
    x = DIGITS.single(perfect.decoder.digit.expand(2, -1, -1), 1, 8)
    row = evaluate.single(perfect, x, 1, torch.Generator())
    assert row["identity"] == pytest.approx((x[:, 1:] - x[:, :1]).abs().sum((1, 2, 3, 4)).mean().item(), rel=1e-5)
    assert row["error"] < 0.01 * row["identity"]
    # to its encoder all frames are the first; its latents move by one in each of eight steps
    assert row["autoencoded"] == pytest.approx(row["identity"], rel=0.01)
    assert row["latent_error"] == pytest.approx(sum(range(9)))
    assert row["folds"] == 0


@pytest.mark.parametrize("index", [[0, 1, 2], [1, 2, 0]])
def test_ends_of_decoded_paths_and_of_true_sequences_are_judged(
    perfect: FlowVAE,
    index: list[int],
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    seen = []

    def judge(first: Tensor, last: Tensor, labels: Tensor, **settings: object) -> VariationPredictability:
        seen.append((first, last, labels, settings["share"]))
        return VariationPredictability(1.0, 0.5)

    monkeypatch.setattr("variation.variation_predictability", judge)
    bases = perfect.decoder.digit.expand(7, -1, -1)
    found = variation(perfect, bases, DIGITS, 8, index, 20, chunk=4)
    assert found["pairs"] == 18, "as many of each"
    assert found["true"] == found["decoded"] == {share: {"best": 1.0, "final": 0.5} for share in ("10%", "1%")}
    assert [share for *_, share in seen] == [0.1, 0.01, 0.1, 0.01]
    (first, last, labels, _), _, (true_first, true_last, _, _), _ = seen
    assert labels.tolist() == 6 * [0] + 6 * [1] + 6 * [2]
    x = torch.cat([DIGITS.single(bases[:6], k, 8) for k in range(3)])
    assert torch.equal(true_first, x[:, 0])
    assert torch.equal(true_last, x[:, -1])
    assert (first - true_first).abs().max() < 1e-3
    assert ((last - true_last).abs().max() < 1e-3) == (index == [0, 1, 2])


def test_each_transformation_has_images_of_its_own_where_there_are_enough(
    perfect: FlowVAE, monkeypatch: pytest.MonkeyPatch
) -> None:
    seen = []
    judge = lambda *given, **settings: seen.append(given) or VariationPredictability(1.0, 1.0)  # noqa: E731
    monkeypatch.setattr("variation.variation_predictability", judge)
    for count, different in ((6, 6), (5, 2)):
        seen.clear()
        variation(perfect, torch.rand(count, 16, 16), DIGITS, 8, [0, 1, 2], 6)
        true_first = seen[2][0]
        assert len(true_first) == 6
        assert len(true_first.flatten(1).unique(dim=0)) == different


def test_learned_indices_may_be_a_permutation(perfect: FlowVAE) -> None:
    digits = perfect.decoder.digit.expand(2, -1, -1)
    right, wrong = (
        compositions.compose(perfect, digits, DIGITS, 8, index)["superposing"] for index in ([0, 1, 2], [1, 2, 0])
    )
    for name, row in right.items():
        assert wrong[name]["error"] > 10 * row["error"], name


def test_inferred_indices_are_matched_to_those_they_are_most_often() -> None:
    """Five sequences of each of three transformations; the choice is a permutation of the truth but for one in five."""
    permutation = [2, 0, 1]

    def single(part: Tensor, k: int, steps: int) -> Tensor:
        return torch.tensor([k if base == 0 else permutation[k] for base in part])

    model = SimpleNamespace(selector=True, select=lambda chosen: (F.one_hot(chosen, 3).float(), None))
    truth = SimpleNamespace(names=("turn", "grow", "fade"), single=single)
    assert evaluate._selection(model, torch.arange(5), truth, 8, 2) == {
        "accuracy": pytest.approx(0.8),
        "confusion": [[1, 0, 4], [4, 1, 0], [0, 4, 1]],
        "potential_of": permutation,
    }


def test_extrapolation_counts_only_the_steps_beyond_those_trained(perfect: FlowVAE) -> None:
    digits = perfect.decoder.digit.expand(2, -1, -1)
    for k, row in enumerate(extrapolation(perfect, digits, DIGITS, 8, 4).values()):
        x = DIGITS.single(digits, k, 12)
        assert row["identity"] == pytest.approx((x[:, 9:] - x[:, :1]).abs().sum((1, 2, 3, 4)).mean().item(), rel=1e-5)
        assert row["error"] < 0.01 * row["identity"]


@pytest.mark.parametrize("label", ["end", "start"])
def test_evaluation_is_exact_whatever_training_was(label: str) -> None:
    flow = FlowPosterior(Drift(), "hutchinson", label=label).with_log_det("exact")
    assert (flow.log_det, flow.label) == ("exact", label)


@given(seed=st.integers(0, 99), steps=st.integers(1, 6), count=st.integers(1, 20))
def test_the_path_costs_at_least_the_straight_line_and_that_at_least_the_optimum(
    seed: int, steps: int, count: int
) -> None:
    z = torch.randn(count, steps + 1, 3, generator=torch.Generator().manual_seed(seed))
    cost = transport_cost(z)
    assert cost["path"] >= cost["straight"] * (1 - 1e-5)
    assert cost["straight"] >= cost["optimal"] * (1 - 1e-5)


def test_costs_of_known_transports() -> None:
    start = torch.randn(50, 1, 2)
    straight = start + torch.arange(5)[None, :, None] * torch.tensor([1.0, -2.0])  # a translation is optimal
    assert transport_cost(straight) == pytest.approx({"path": 80.0, "straight": 80.0, "optimal": 80.0}, rel=1e-4)
    crossing = torch.tensor([[[0.0], [1.0]], [[1.0], [0.0]]])  # two points that change places need not have moved
    assert transport_cost(crossing) == pytest.approx({"path": 1.0, "straight": 1.0, "optimal": 0.0}, abs=1e-6)


def test_an_exact_solution_has_no_residual_at_any_time(perfect: FlowVAE) -> None:
    found = residual(perfect, torch.randn(5, 9, 3), 1, torch.Generator())
    assert found == pytest.approx({"grid": 0.0, "between": 0.0, "force": 0.0}, abs=1e-6)


class TestSpriteDecoder:
    @pytest.fixture
    def decoder(self) -> SpriteDecoder:
        return SpriteDecoder(12, 3, 16).double()

    def test_where_nothing_is_placed_it_is_the_product_of_canvas_and_colour(self, decoder: SpriteDecoder) -> None:
        z = torch.randn(4, 12, dtype=torch.float64)
        z[:, 3:7] = 0
        product = decoder.canvas(z[:, 7:]).sigmoid() * decoder.palette(z[:, :3]).sigmoid()[..., None, None]
        torch.testing.assert_close(decoder(z).sigmoid(), product)

    def test_place_and_colour_are_independent(self, decoder: SpriteDecoder) -> None:
        """log p is a sum of a picture and a colour, so the ratio of two colours is the same at every pixel and place."""
        z = torch.randn(1, 12, dtype=torch.float64).repeat(4, 1)
        z[1::2, :3] += 1
        z[2:, 3:7] += 1
        log_p = torch.nn.functional.logsigmoid(decoder(z))
        ratios = log_p[1::2] - log_p[::2]
        torch.testing.assert_close(ratios[0], ratios[1])
        torch.testing.assert_close(ratios[0], ratios[0][:, :1, :1].expand_as(ratios[0]))

    def test_sizes_multiply_where_latents_add(self, decoder: SpriteDecoder) -> None:
        """Two halves of a zoom by four are drawn as the zoom by four itself; and an eighth of a turn twice as a quarter."""
        with torch.no_grad():
            decoder.frame.weight.zero_()
            decoder.frame.weight[[0, 4], 0] = 1.0  # grow
            decoder.frame.weight[1, 1], decoder.frame.weight[3, 1] = -1.0, 1.0  # turn
        z = torch.randn(1, 12, dtype=torch.float64).repeat(3, 1)
        z[:, 3:7] = 0
        z[1, 3], z[2, 4] = math.log(2), math.pi / 2
        plain, grown, turned = decoder(z)
        zoom = torch.tensor([[[2.0, 0, 0], [0, 2.0, 0]]], dtype=torch.float64)
        grid = torch.nn.functional.affine_grid(zoom, [1, 1, 16, 16], align_corners=False)
        canvas = decoder.canvas(z[:1, 7:])
        shrunk = torch.nn.functional.grid_sample(canvas, grid, padding_mode="border", align_corners=False)
        colour = decoder.palette(z[:1, :3]).sigmoid()[..., None, None]
        torch.testing.assert_close(grown.sigmoid(), (shrunk.sigmoid() * colour)[0])
        torch.testing.assert_close(turned, torch.rot90(plain, 1, (1, 2)))

    def test_too_few_latents_are_an_error(self) -> None:
        with pytest.raises(ValueError, match="--dim: got 7 with sprite networks, expected at least 8"):
            SpriteDecoder(7, 3, 16)


def test_a_potential_out_of_use_is_pulled_back_however_sure_the_choices_are() -> None:
    """The gradient that brings it back does not fade as its share does."""
    model = models.build(example.Settings(supervision="none"), 3, 16, 3, 8).train()
    x = DIGITS.single(torch.rand(6, 16, 16), torch.arange(6) % 3, 8)
    pulls = []
    for share in (1e-2, 1e-4, 1e-8):
        logits = torch.log(torch.tensor([0.5, 0.5 - share, share])).expand(6, 3).clone().requires_grad_()
        model.select = lambda x, logits=logits: (torch.eye(3)[torch.arange(6) % 2], logits)
        terms, _ = model(x)
        terms["balance"].backward()
        pulls.append(-logits.grad[:, 2].sum().item())
    assert min(pulls) > 0.9 * max(pulls) > 0
