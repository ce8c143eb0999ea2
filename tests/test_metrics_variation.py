"""Variation predictability on pairs whose predictability is known."""

import math

import pytest
import torch

from latentflow.metrics import variation, variation_predictability
from latentflow.metrics.variation import _network
from tests.problems import check_message


def pairs(num=120, kinds=3, size=12):
    """Noise images, of which one of the channels becomes brighter: which one is the label."""
    generator = torch.Generator().manual_seed(3)
    first = 0.5 * torch.rand(num, kinds, size, size, generator=generator)
    labels = torch.arange(num) % kinds
    last = first + 0.4 * torch.eye(kinds)[labels][:, :, None, None]
    return first, last, labels


def score(first, last, labels, seed=0, **settings):
    settings = {"share": 0.25, "epochs": 6, "batch": 8, **settings}
    return variation_predictability(first, last, labels, generator=torch.Generator().manual_seed(seed), **settings)


@pytest.mark.parametrize("mode", ["difference", "concatenated"])
def test_what_can_be_told_is_told(mode):
    found = score(*pairs(), mode=mode, epochs=12, learning_rate=0.003)
    assert found.best > 0.95
    assert found.final <= found.best


def test_labels_at_random_are_told_by_chance():
    first, last, labels = pairs(num=240)
    labels = labels[torch.randperm(240, generator=torch.Generator().manual_seed(1))]
    found = score(first, last, labels, epochs=2)
    assert found.final == pytest.approx(1 / 3, abs=4 * math.sqrt(2 / 9 / 180))


def test_difference_sees_no_more_than_the_difference():
    """The label is whether both images are bright: gone in their difference, plain in the two."""
    labels = torch.arange(80) % 2
    first = torch.where(labels[:, None, None, None] == 1, 0.9, 0.1).expand(-1, 1, 8, 8)
    assert score(first, first, labels, mode="concatenated", epochs=12).best == 1
    assert score(first, first, labels).best <= 0.6


def test_accuracy_is_over_the_pairs_that_were_not_learned_from():
    for seed in range(5):
        thrice = 3 * score(*pairs(num=30), seed=seed, share=0.9, epochs=1).final
        assert thrice == pytest.approx(round(thrice))


def test_network_has_the_layers_of_the_reference():
    convolutions = 49 * 3 * 64 + 9 * (64 * 64 + 64 * 128 + 128 * 256)
    normalisations, output = 2 * (64 + 64 + 128 + 256), 256 * 4 + 4
    network = _network(3, 4)
    assert sum(p.numel() for p in network.parameters()) == convolutions + normalisations + output
    shapes = []
    for layer in network:
        layer.register_forward_hook(lambda module, inputs, output: shapes.append(tuple(output.shape[1:])))
    network(torch.zeros(2, 3, 64, 64))
    assert [shapes[i] for i in (0, 3, 6, 7, 10, 13, -1)] == [
        (64, 32, 32), (64, 32, 32), (64, 16, 16), (128, 16, 16), (256, 16, 16), (256, 1, 1), (4,),
    ]  # fmt: skip


@pytest.mark.parametrize(("mode", "channels", "largest"), [("difference", 3, 2), ("concatenated", 6, 1)])
@pytest.mark.parametrize("dtype", [torch.float32, torch.float64])
def test_network_sees_black_as_minus_one_and_two_images_as_channels(mode, channels, largest, dtype, monkeypatch):
    made = []

    def watched(*sizes):
        network = _network(*sizes)
        network.register_forward_pre_hook(lambda module, inputs: made.append(inputs[0].detach()))
        return network

    monkeypatch.setattr(variation, "_network", watched)
    labels = torch.arange(8) % 2
    first, last = torch.zeros(8, 3, 8, 8, dtype=dtype), torch.ones(8, 3, 8, 8, dtype=dtype)
    score(first, last, labels, mode=mode, epochs=1)
    assert all(x.dtype == dtype and x.shape[1:] == (channels, 8, 8) for x in made)
    assert {x.abs().max().item() for x in made} == {largest}


def test_reproducible_and_leaves_the_global_generator_alone():
    before = torch.get_rng_state()
    found = [score(*pairs(num=40), seed=seed) for seed in (0, 0, 1, 2, 3)]
    assert torch.equal(torch.get_rng_state(), before)
    assert found[0] == found[1]
    assert len(set(found)) > 1
    assert any(one.final < one.best for one in found)
    torch.manual_seed(0)
    drawn = variation_predictability(*pairs(num=40), epochs=1, batch=8)
    torch.manual_seed(0)
    assert variation_predictability(*pairs(num=40), epochs=1, batch=8) == drawn


@pytest.mark.parametrize("mode", [torch.no_grad, torch.inference_mode])
def test_learns_where_gradients_are_off(mode):
    plain = score(*pairs(num=40))
    with mode():
        assert score(*pairs(num=40)) == plain


def test_neither_autocast_nor_a_default_device_changes_it():
    plain = score(*pairs(num=40))
    with torch.autocast("cpu", dtype=torch.bfloat16):
        assert score(*pairs(num=40)) == plain
    given = pairs(num=40)
    with torch.device("meta"):  # nothing can be computed there
        assert score(*given) == plain


def test_one_pair_suffices_to_learn_from():
    right = 11 * score(*pairs(num=12), share=0.01, epochs=1).final
    assert right == pytest.approx(round(right)), "judged by all eleven others"


def test_images_keep_their_graph_to_themselves():
    first, last, labels = pairs(num=40)
    first.requires_grad_()
    score(first, last, labels, epochs=1)
    assert first.grad is None


IMAGES = torch.zeros(20, 1, 8, 8)
LABELS = torch.arange(20) % 2


@pytest.mark.parametrize(
    ("make", "error", "message"),
    [
        (lambda: score(IMAGES, IMAGES[:, :, :7], LABELS), ValueError, "first, last: got shapes (20, 1, 8, 8) and (20, 1,"),
        (lambda: score(IMAGES[..., :7], IMAGES[..., :7], LABELS), ValueError, "expected two equal (N, C, H, W) of at least"),
        (lambda: score(IMAGES[0], IMAGES[0], LABELS), ValueError, "first, last: got shapes (1, 8, 8)"),
        (lambda: score(IMAGES, 255 * (IMAGES + 1), LABELS), ValueError, "last: got values from 255 to 255, expected [0, 1]"),
        (lambda: score(IMAGES.byte(), IMAGES, LABELS), TypeError, "first: got dtype torch.uint8, expected a floating"),
        (lambda: score(IMAGES, IMAGES, LABELS[:5]), ValueError, "labels: got shape (5,), expected (20,); give each pair"),
        (lambda: score(IMAGES, IMAGES, LABELS.float()), TypeError, "labels: got dtype torch.float32, expected an integer"),
        (lambda: score(IMAGES, IMAGES, LABELS - 1), ValueError, "labels: got the numbers -1, 0, expected 0, 1,"),
        (lambda: score(IMAGES, IMAGES, 2 * LABELS), ValueError, "labels: got the numbers 0, 2, expected 0, 1, ..., K - 1"),
        (lambda: score(IMAGES, IMAGES, 0 * LABELS), ValueError, "labels: got the numbers 0, expected 0, 1, ..., K - 1"),
        (lambda: score(IMAGES, IMAGES, LABELS > 0), TypeError, "labels: got dtype torch.bool, expected an integer"),
        (lambda: score(IMAGES, IMAGES * math.nan, LABELS), ValueError, "last: got 1280 nan in samples .*, expected numb"),
        (lambda: score(IMAGES[:, :0], IMAGES[:, :0], LABELS), ValueError, "first, last: got shapes (20, 0, 8, 8)"),
        (lambda: score(IMAGES, IMAGES, LABELS, share=0.98), ValueError, "share: got 0.98 of 20 pairs, expected one to"),
        (lambda: score(IMAGES, IMAGES, LABELS, share=1.0), ValueError, "share: got 1, expected more than 0 and less than 1"),
        (lambda: score(IMAGES, IMAGES, LABELS, share=math.nan), ValueError, "share: got nan, expected more than 0 and"),
        (lambda: score(IMAGES, IMAGES, LABELS, learning_rate=0), ValueError, "learning_rate: got 0, expected more than 0"),
        (lambda: score(IMAGES, IMAGES, LABELS, learning_rate=math.inf), ValueError, "learning_rate: got inf, expected m"),
        (lambda: score(IMAGES, IMAGES, LABELS, share="all"), TypeError, "share: got 'all', expected a number"),
        (lambda: score(IMAGES, IMAGES, LABELS, mode="diff"), ValueError, "mode: got 'diff', expected one of"),
        (lambda: score(IMAGES, IMAGES, LABELS, epochs=0), ValueError, "epochs: got 0, expected at least 1"),
        (lambda: score(IMAGES, IMAGES, LABELS, batch=2.5), TypeError, "batch: got 2.5 (float), expected an int"),
        (lambda: score(IMAGES, IMAGES, LABELS, learning_rate=None), TypeError, "learning_rate: got None, expected a"),
    ],
)  # fmt: skip
def test_what_cannot_be_scored_is_refused(make, error, message):
    check_message(make, error, message)
