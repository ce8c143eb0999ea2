"""Encoders and decoders of images: small ones, those of scenes, and those of the paper.

All are convolutional, know nothing of flows, and take images of any side that 4 divides, those of scenes 8, deep ones 16.
Decoders give logits: the sigmoid belongs to the loss, where it costs nothing.
"""

from __future__ import annotations

import torch
from convolutions import ConvToPoint, ConvTransposeDoubling, ConvTransposeOfPoint
from torch import Tensor, nn
from torch.nn import functional as F


def small_encoder(channels: int, side: int, outputs: int, width: int = 32) -> nn.Sequential:
    """Images (N, channels, side, side) -> (N, outputs)."""
    return nn.Sequential(
        nn.Conv2d(channels, width, 4, stride=2, padding=1),
        nn.ReLU(),
        nn.Conv2d(width, 2 * width, 4, stride=2, padding=1),
        nn.ReLU(),
        nn.Flatten(),
        nn.Linear(2 * width * (side // 4) ** 2, 8 * width),
        nn.ReLU(),
        nn.Linear(8 * width, outputs),
    )


def small_decoder(dim: int, channels: int, side: int, width: int = 32) -> nn.Sequential:
    """Latents (N, dim) -> logits (N, channels, side, side)."""
    return nn.Sequential(
        nn.Linear(dim, 8 * width),
        nn.ReLU(),
        nn.Linear(8 * width, 2 * width * (side // 4) ** 2),
        nn.ReLU(),
        nn.Unflatten(1, (2 * width, side // 4, side // 4)),
        nn.ConvTranspose2d(2 * width, width, 4, stride=2, padding=1),
        nn.ReLU(),
        nn.ConvTranspose2d(width, channels, 4, stride=2, padding=1),
    )


class SpriteDecoder(nn.Module):
    """Latents (N, dim) -> logits (N, channels, side, side) of one thing in one colour: a canvas, placed by an affine map.

    Each part has latents of its own. What moves or colours one picture moves and colours another alike, so flows that were
    learned one at a time compose; a decoder without parts has to guess what two of them look like together. It does not know
    how anything moves: that is what the flows learn.
    """

    POSE, COLOUR = 4, 3  # latents of the map and of the colour; the canvas has the others

    def __init__(self, dim: int, channels: int, side: int, width: int = 32) -> None:
        super().__init__()
        if dim <= self.POSE + self.COLOUR:
            raise ValueError(
                f"--dim: got {dim} with sprite networks, expected at least {self.POSE + self.COLOUR + 1}; "
                "a place and a colour take seven"
            )
        self.canvas = small_decoder(dim - self.POSE - self.COLOUR, 1, side, width)
        self.frame = nn.Linear(self.POSE, 6, bias=False)
        self.palette = nn.Sequential(nn.Linear(self.COLOUR, width), nn.ReLU(), nn.Linear(width, channels))

    def forward(self, z: Tensor) -> Tensor:
        colour, pose, content = z.split((self.COLOUR, self.POSE, z.shape[1] - self.COLOUR - self.POSE), 1)
        canvas = self.canvas(content).to(z.dtype)
        with torch.autocast(z.device.type, enabled=False):  # half precision cannot tell pixels apart
            canvas = F.grid_sample(
                canvas, affine_grid(self.frame(pose), canvas.shape[-1]), padding_mode="border", align_corners=False
            )
        # A pixel is lit in a channel where the canvas is lit and the colour has it: p = p_1 p_2, in logits.
        unlit, lacks = torch.broadcast_tensors(-canvas, -self.palette(colour)[..., None, None])
        return -torch.stack((unlit, lacks, unlit + lacks)).logsumexp(0)


def affine_grid(generators: Tensor, side: int) -> Tensor:
    """The maps of generators (N, 6), as grids (N, side, side, 2) for `F.grid_sample`."""
    # The exponential of a generator: turns and sizes multiply where generators add up, and 0 is the identity.
    maps = torch.matrix_exp(F.pad(generators.view(-1, 2, 3), (0, 0, 0, 1)))
    return F.affine_grid(maps[:, :2], [len(maps), 1, side, side], align_corners=False)


def scene_encoder(channels: int, side: int, outputs: int, width: int = 32) -> nn.Sequential:
    """Images (N, channels, side, side), of a side that 8 divides -> (N, outputs).

    Large images, of which little changes: every layer is normalised, so that the little is not lost beside what stays.
    """
    return nn.Sequential(
        Centred(),
        nn.Conv2d(channels, width, 4, stride=4),
        nn.ReLU(),
        nn.GroupNorm(1, width),
        nn.Conv2d(width, 2 * width, 4, stride=2, padding=1),
        nn.ReLU(),
        nn.GroupNorm(1, 2 * width),
        nn.Flatten(),
        nn.Linear(2 * width * (side // 8) ** 2, 8 * width),
        nn.LayerNorm(8 * width),
        nn.ReLU(),
        nn.Linear(8 * width, outputs),
    )


class Centred(nn.Module):
    """Pixels in [0, 1] as numbers in [-2, 2]: of a size that fresh weights are made for."""

    def forward(self, x: Tensor) -> Tensor:
        return 4 * x - 2


class SceneDecoder(nn.Module):
    """Latents (N, dim) -> logits (N, channels, side, side): a weighted sum of pictures, and convolutions on top of it.

    Most of a scene stands where it is in all images, and a sum of pictures learns that with one product of matrices, many
    times faster than convolutions do; what moves is left to these.
    """

    def __init__(self, dim: int, channels: int, side: int, width: int = 32) -> None:
        super().__init__()
        self.weights = _two_layers(dim, 8 * width)
        self.pictures = _pictures(8 * width, channels, side)
        self.detail = nn.Sequential(
            _pictures(8 * width, 2 * width, side // 8),
            nn.ReLU(),
            nn.ConvTranspose2d(2 * width, width, 4, stride=2, padding=1),
            nn.ReLU(),
            nn.ConvTranspose2d(width, channels, 4, stride=4),
        )

    def forward(self, z: Tensor) -> Tensor:
        weights = self.weights(z)
        return self.detail(weights) + self.pictures(weights)


class PlacedDecoder(nn.Module):
    """Latents (N, dim) -> logits (N, channels, side, side): a weighted sum of pictures, and before it a thing in its place.

    For scenes in which one thing moves, or changes its colour or size: that it is the same thing in every place need not be
    learned place by place.
    """

    THING, CLEAR = 16, -4.0  # pixels on each side of the picture of the thing; the logit of what is around it

    def __init__(self, dim: int, channels: int, side: int, width: int = 32) -> None:
        super().__init__()
        self.side = side
        self.weights = _two_layers(dim, 8 * width)
        self.pictures = _pictures(8 * width, channels, side)
        self.thing = _pictures(8 * width, 1 + channels, self.THING)  # how opaque, and its logits
        self.frame = nn.Linear(8 * width, 6)

    def forward(self, z: Tensor) -> Tensor:
        weights = self.weights(z)
        thing = F.pad(self.thing(weights).to(z.dtype), (1, 1, 1, 1), value=self.CLEAR)
        with torch.autocast(z.device.type, enabled=False):  # half precision cannot tell pixels apart
            grid = affine_grid(self.frame(weights.to(z.dtype)), self.side)
            thing = F.grid_sample(thing, grid, padding_mode="border", align_corners=False)
        opaque = thing[:, :1].sigmoid()
        return (1 - opaque) * self.pictures(weights) + opaque * thing[:, 1:]


class LayerDecoder(nn.Module):
    """Latents (N, dim) -> logits (N, channels, side, side) of layers, each of one colour in a mask; the masks share each pixel.

    For scenes of few things with one colour each: a hue is learned at once for the whole of a thing, whatever its outline.
    """

    LAYERS = 8

    def __init__(self, dim: int, channels: int, side: int, width: int = 32) -> None:
        super().__init__()
        self.hidden = _two_layers(dim, 8 * width)
        self.masks = nn.Sequential(
            _pictures(8 * width, self.LAYERS, side // 2), nn.Upsample(scale_factor=2, mode="bilinear"), nn.Softmax(1)
        )
        self.colours = nn.Linear(8 * width, channels * self.LAYERS)
        nn.init.normal_(self.colours.bias)  # layers of like colours would not part

    def forward(self, z: Tensor) -> Tensor:
        hidden = self.hidden(z)
        masks = self.masks(hidden)
        colours = self.colours(hidden).unflatten(1, (-1, self.LAYERS))
        return (colours @ masks.flatten(2)).unflatten(2, masks.shape[2:])


def _two_layers(inputs: int, width: int) -> nn.Sequential:
    return nn.Sequential(nn.Linear(inputs, width), nn.ReLU(), nn.Linear(width, width), nn.ReLU())


def _pictures(inputs: int, channels: int, side: int) -> nn.Sequential:
    """As many pictures (channels, side, side) as there are inputs, (N, inputs) -> their weighted sum."""
    return nn.Sequential(nn.Linear(inputs, channels * side**2), nn.Unflatten(1, (channels, side, side)))


def paper_encoder(channels: int, side: int, dim: int) -> nn.Sequential:
    """Images (N, channels, side, side) -> mean and log-variance (N, 2 dim); the latent sets the width of all layers."""
    return _five_convolutions(channels, side, dim, 2 * dim).append(nn.Linear(2 * dim, 2 * dim))


def paper_classifier(channels: int, side: int, num: int, width: int) -> nn.Sequential:
    """Frames stacked on channels (N, channels, side, side) -> logits (N, num)."""
    return _five_convolutions(channels, side, width, width).append(nn.Linear(width, num))


def paper_decoder(dim: int, channels: int, side: int) -> nn.Sequential:
    """Latents (N, dim) -> logits (N, channels, side, side)."""
    return nn.Sequential(
        nn.Linear(dim, dim),
        nn.Unflatten(1, (dim, 1, 1)),
        nn.ReLU(),
        ConvTransposeOfPoint(dim, 2 * dim, 1),
        nn.ReLU(),
        ConvTransposeOfPoint(2 * dim, 3 * dim, 1),
        nn.ReLU(),
        ConvTransposeOfPoint(3 * dim, 2 * dim, side // 4),
        nn.ReLU(),
        ConvTransposeDoubling(2 * dim, dim),
        nn.ReLU(),
        ConvTransposeDoubling(dim, channels),
    ).to(memory_format=torch.channels_last)


def deep_encoder(channels: int, side: int, width: int, outputs: int) -> nn.Sequential:
    """Images (N, channels, side, side), of a side that 16 divides -> (N, outputs): the paper's for 128x128 pixels."""
    layers: list[nn.Module] = []
    for inputs in (channels, width, width, width):
        layers += [nn.Conv2d(inputs, width, 4, stride=2, padding=1), nn.ReLU()]
        layers += [nn.Conv2d(width, width, 3, padding=1), nn.ReLU()]
    layers += [ConvToPoint(width, width, side // 16), nn.ReLU(), ConvToPoint(width, width, 1), nn.ReLU()]
    layers += [ConvToPoint(width, width, 1), nn.Flatten(), nn.Linear(width, outputs)]
    return nn.Sequential(*layers).to(memory_format=torch.channels_last)


def deep_decoder(dim: int, channels: int, side: int) -> nn.Sequential:
    """Latents (N, dim) -> logits (N, channels, side, side)."""
    layers: list[nn.Module] = [nn.Linear(dim, dim), nn.Unflatten(1, (dim, 1, 1)), nn.ReLU()]
    for kernel in (1, 1, side // 16):
        layers += [ConvTransposeOfPoint(dim, dim, kernel), nn.ReLU()]
    for outputs in (dim, dim, dim, channels):
        layers += [ConvTransposeDoubling(dim, dim), nn.ReLU()]
        layers += [nn.ConvTranspose2d(dim, outputs, 3, padding=1), nn.ReLU()]
    return nn.Sequential(*layers[:-1]).to(memory_format=torch.channels_last)


def _five_convolutions(channels: int, side: int, width: int, outputs: int) -> nn.Sequential:
    """Images (N, channels, side, side) -> (N, outputs)."""
    return nn.Sequential(
        nn.Conv2d(channels, width, 4, stride=2, padding=1),
        nn.ReLU(),
        nn.Conv2d(width, 2 * width, 4, stride=2, padding=1),
        nn.ReLU(),
        ConvToPoint(2 * width, 3 * width, side // 4),
        nn.ReLU(),
        ConvToPoint(3 * width, 2 * width, 1),
        nn.ReLU(),
        ConvToPoint(2 * width, outputs, 1),
        nn.Flatten(),
    ).to(memory_format=torch.channels_last)
