"""Convolutions with the weights and the results of PyTorch's, but faster in networks whose channels are last in memory."""

from __future__ import annotations

import torch
from torch import Tensor, nn
from torch.nn import functional as F


class ConvToPoint(nn.Conv2d):
    """`nn.Conv2d` of images as large as its kernel, (N, C, kernel, kernel) -> (N, C', 1, 1), as the matrix product it is."""

    def forward(self, x: Tensor) -> Tensor:
        # Where channels are last, this is the order in memory.
        kernel, image = self.weight.permute(0, 2, 3, 1), x.permute(0, 2, 3, 1)
        return F.linear(image.flatten(1), kernel.flatten(1), self.bias)[..., None, None]


class ConvTransposeOfPoint(nn.ConvTranspose2d):
    """`nn.ConvTranspose2d` of 1x1 images, (N, C, 1, 1) -> (N, C', kernel, kernel): likewise."""

    def forward(self, x: Tensor) -> Tensor:
        assert self.bias is not None
        kernel = self.weight.permute(0, 2, 3, 1)
        bias = self.bias.repeat(kernel.shape[1] * kernel.shape[2])
        return torch.addmm(bias, x.flatten(1), kernel.flatten(1)).unflatten(1, kernel.shape[1:]).permute(0, 3, 1, 2)


class ConvTransposeDoubling(nn.ConvTranspose2d):
    """`nn.ConvTranspose2d` with a kernel of 4, stride 2 and padding 1, (N, C, H, W) -> (N, C', 2 H, 2 W), faster on a CPU.

    For channels last.
    """

    FEW = 16  # outputs, with which the transposed convolution leaves vector registers half empty

    def __init__(self, inputs: int, outputs: int) -> None:
        super().__init__(inputs, outputs, 4, stride=2, padding=1)

    def forward(self, x: Tensor) -> Tensor:
        assert self.bias is not None
        if self.out_channels < self.FEW:
            return self._by_windows(x, self.bias)
        y = F.conv_transpose2d(x, self.weight, None, self.stride, self.padding)
        return y.add_(self.bias.to(y.dtype)[:, None, None])  # apart, as convolutions are slow to sum up its gradient

    def _by_windows(self, x: Tensor, bias: Tensor) -> Tensor:
        """Each window of 2x2 inputs gives 2x2 outputs: a convolution with four times the outputs, then laid out."""
        kernel = self.weight.unflatten(3, (2, 2)).unflatten(2, (2, 2)).flip(2, 4)  # (C, C', input y, output y, x, x)
        kernel = kernel.permute(3, 5, 1, 0, 2, 4).flatten(0, 2).contiguous(memory_format=torch.channels_last)
        y = F.conv2d(x, kernel, padding=1)
        laid_out = y.permute(0, 2, 3, 1).unflatten(-1, (2, 2, -1)).transpose(2, 3).flatten(3, 4).flatten(1, 2)
        # Pixels and their few channels in one axis, along which vector registers are full.
        rows = laid_out.flatten(2)[:, 1:-1, len(bias) : -len(bias)]
        rows = rows + bias.to(y.dtype).repeat(rows.shape[2] // len(bias))
        return rows.unflatten(2, (-1, len(bias))).permute(0, 3, 1, 2)
