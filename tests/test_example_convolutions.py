"""Our convolutions are PyTorch's, in their results and in all gradients."""

import pytest
import torch
from convolutions import ConvToPoint, ConvTransposeDoubling, ConvTransposeOfPoint
from torch import nn

# The layer that ours stands for, ours, and the height and width of its images.
PLAIN = {
    "1x1 to a point": (lambda: nn.Conv2d(5, 4, 1), lambda: ConvToPoint(5, 4, 1), (1, 1)),
    "to a point": (lambda: nn.Conv2d(5, 4, 7), lambda: ConvToPoint(5, 4, 7), (7, 7)),
    "1x1 of a point": (lambda: nn.ConvTranspose2d(5, 4, 1), lambda: ConvTransposeOfPoint(5, 4, 1), (1, 1)),
    "of a point": (lambda: nn.ConvTranspose2d(5, 4, 7), lambda: ConvTransposeOfPoint(5, 4, 7), (1, 1)),
    "doubling, few": (lambda: nn.ConvTranspose2d(5, 4, 4, 2, 1), lambda: ConvTransposeDoubling(5, 4), (6, 7)),
    "doubling": (lambda: nn.ConvTranspose2d(5, 16, 4, 2, 1), lambda: ConvTransposeDoubling(5, 16), (6, 7)),
}


@pytest.mark.parametrize("memory_format", [torch.contiguous_format, torch.channels_last])
@pytest.mark.parametrize("layer", PLAIN)
def test_a_faster_layer_is_the_same_function(layer: str, memory_format: torch.memory_format) -> None:
    *makers, size = PLAIN[layer]
    networks = []
    for make in makers:
        torch.manual_seed(0)  # both draw the same weights
        networks.append(make().double().to(memory_format=memory_format))
    truth, ours = networks
    inputs = [torch.randn(3, 5, *size, dtype=torch.float64, requires_grad=True)]
    inputs.append(inputs[0].detach().clone().to(memory_format=memory_format).requires_grad_())
    images = [network(x) for network, x in zip(networks, inputs, strict=True)]
    torch.testing.assert_close(images[1], images[0], rtol=1e-12, atol=1e-12)
    for image in images:
        (image.square() * torch.linspace(-1, 1, image[0].numel(), dtype=image.dtype).view_as(image[0])).sum().backward()
    for found, expected in ((inputs[1], inputs[0]), (ours.weight, truth.weight), (ours.bias, truth.bias)):
        torch.testing.assert_close(found.grad, expected.grad, rtol=1e-12, atol=1e-12)


def test_half_precision_passes_through_the_doubling_layers() -> None:
    for outputs in (4, 16):
        with torch.autocast("cpu", torch.bfloat16):
            assert ConvTransposeDoubling(5, outputs)(torch.randn(3, 5, 6, 6)).dtype == torch.bfloat16
