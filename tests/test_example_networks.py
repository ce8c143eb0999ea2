"""The networks: as many parameters as published, the shapes of their results, and what each decoder is made of."""

import pytest
import torch
from models import OF_SCENES
from networks import (
    LayerDecoder,
    PlacedDecoder,
    affine_grid,
    deep_decoder,
    deep_encoder,
    paper_classifier,
    paper_decoder,
    paper_encoder,
    scene_encoder,
    small_decoder,
    small_encoder,
)
from torch import nn


def parameters(network: nn.Module) -> int:
    return sum(parameter.numel() for parameter in network.parameters())


def test_the_networks_of_the_paper_have_its_numbers_of_parameters() -> None:
    with torch.device("meta"):
        assert parameters(paper_encoder(3, 28, 324)) == 35_711_280
        assert parameters(paper_decoder(324, 3, 28)) == 35_185_431
        assert parameters(paper_encoder(3, 64, 226)) + parameters(paper_decoder(226, 3, 64)) == 161_375_529
        assert parameters(paper_classifier(27, 28, 3, 324)) == 35_205_843
        assert parameters(deep_encoder(3, 128, 324, 648)) + parameters(deep_decoder(324, 3, 128)) == 32_574_639


@pytest.mark.parametrize("side", [16, 28])
@pytest.mark.parametrize("kind", ["small", *OF_SCENES, "paper", "deep"])
def test_shapes(kind: str, side: int) -> None:
    if kind in OF_SCENES:
        side = 32 if side == 28 else side  # 8 has to divide it
        encoder, classifier = scene_encoder(3, side, 12), scene_encoder(27, side, 3)
        decoder = OF_SCENES[kind](6, 3, side)
    elif kind == "deep":
        side = 32 if side == 28 else side  # 16 has to divide it
        encoder, decoder = deep_encoder(3, side, 6, 12), deep_decoder(6, 3, side)
        classifier = deep_encoder(27, side, 6, 3)
    elif kind == "paper":
        encoder, decoder, classifier = (
            paper_encoder(3, side, 6),
            paper_decoder(6, 3, side),
            paper_classifier(27, side, 3, 6),
        )
    else:
        encoder, decoder, classifier = small_encoder(3, side, 12), small_decoder(6, 3, side), small_encoder(27, side, 3)
    assert encoder(torch.rand(5, 3, side, side)).shape == (5, 12)
    assert classifier(torch.rand(5, 27, side, side)).shape == (5, 3)
    logits = decoder(100 * torch.randn(5, 6))
    assert logits.shape == (5, 3, side, side)
    assert logits.min() < 0  # no sigmoid
    assert all(parameter.grad_fn is None and parameter.requires_grad for parameter in decoder.parameters())


@pytest.mark.parametrize("half_turns", [0, 1, 2])
def test_generators_turn_move_and_multiply(half_turns: int) -> None:
    """Exact images: a turn by 180 degrees reverses both axes, a shift of half a side crops, and sums are products."""
    x, none = torch.rand(1, 2, 8, 8), torch.zeros(1, 6)
    turn, shift = torch.tensor([[0, -torch.pi, 0, torch.pi, 0, 0]]), torch.tensor([[0, 0, 1.0, 0, 0, 0]])
    draw = lambda g: nn.functional.grid_sample(x, affine_grid(g, 8), align_corners=False)  # noqa: E731
    torch.testing.assert_close(draw(none), x)
    torch.testing.assert_close(draw(half_turns * turn), x.flip(2, 3) if half_turns == 1 else x, atol=1e-4, rtol=0)
    torch.testing.assert_close(draw(shift), nn.functional.pad(x[..., 4:], (0, 4)))


def test_a_thing_hides_what_is_behind_it_and_nothing_else() -> None:
    decoder = PlacedDecoder(6, 3, 32)
    z = torch.randn(5, 6)
    weights = decoder.weights(z)
    nn.init.zeros_(decoder.frame.weight)
    nn.init.constant_(decoder.thing[0].weight, 0)
    thing = decoder.thing[0].bias.data.view(4, 16, 16)
    thing[0], thing[1:] = 1e4, 7.0  # opaque, of one colour
    decoder.frame.bias.data = torch.tensor([0.0, 0, 1.0, 0, 0, 0])  # half a side to the left
    logits, behind = decoder(z), decoder.pictures(weights)
    torch.testing.assert_close(logits[..., 3:-3, :12], torch.full((5, 3, 26, 12), 7.0))
    clear = torch.tensor(decoder.CLEAR)  # nearly transparent
    torch.testing.assert_close(logits[..., 17:], behind[..., 17:].lerp(clear, clear.sigmoid()))


def test_a_layer_colours_its_mask() -> None:
    decoder = LayerDecoder(6, 3, 16)
    masks = decoder.masks[0][0]
    nn.init.zeros_(masks.weight)
    masks.bias.data = torch.zeros(8, 8, 8)
    masks.bias.data[2, :, :4] = masks.bias.data[5, :, 4:] = 1e3
    masks.bias.data = masks.bias.data.flatten()
    z = torch.randn(5, 6)
    colours = decoder.colours(decoder.hidden(z)).view(5, 3, 8)
    logits = decoder(z)
    torch.testing.assert_close(logits[..., :7], colours[:, :, 2, None, None].expand(5, 3, 16, 7))
    torch.testing.assert_close(logits[..., 9:], colours[:, :, 5, None, None].expand(5, 3, 16, 7))
