"""The networks of the paper: as many parameters as published, and the same function as the layers they are named after."""

import pytest
import torch
from networks import (
    ConvToPoint,
    ConvTransposeOfPoint,
    LayerDecoder,
    SceneDecoder,
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
@pytest.mark.parametrize("kind", ["small", "scene", "layers", "paper", "deep"])
def test_shapes(kind: str, side: int) -> None:
    if kind in ("scene", "layers"):
        side = 32 if side == 28 else side  # 8 has to divide it
        encoder, classifier = scene_encoder(3, side, 12), scene_encoder(27, side, 3)
        decoder = (SceneDecoder if kind == "scene" else LayerDecoder)(6, 3, side)
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


PLAIN = {ConvToPoint: nn.Conv2d, ConvTransposeOfPoint: nn.ConvTranspose2d}


@pytest.mark.parametrize("kernel", [1, 7])
@pytest.mark.parametrize("memory_format", [torch.contiguous_format, torch.channels_last])
@pytest.mark.parametrize("layer", PLAIN)
def test_a_convolution_from_or_to_a_point_is_a_matrix_product(
    layer: type[nn.Module], kernel: int, memory_format: torch.memory_format
) -> None:
    networks = []
    for kind in (PLAIN[layer], layer):
        torch.manual_seed(0)  # both draw the same weights
        networks.append(kind(5, 4, kernel).double())
    truth, ours = networks[0], networks[1].to(memory_format=memory_format)
    side = kernel if layer is ConvToPoint else 1
    x = torch.randn(3, 5, side, side, dtype=torch.float64)
    torch.testing.assert_close(ours(x), truth(x), rtol=1e-12, atol=1e-12)
    for network in networks:
        network(x).square().sum().backward()
    torch.testing.assert_close(ours.weight.grad, truth.weight.grad, rtol=1e-12, atol=1e-12)
    torch.testing.assert_close(ours.bias.grad, truth.bias.grad, rtol=1e-12, atol=1e-12)
