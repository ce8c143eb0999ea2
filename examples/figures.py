"""Decoded latent paths beside the true sequences: evolution, switching, superposing; as a picture and as an animation."""

from __future__ import annotations

from pathlib import Path
from typing import NamedTuple

import matplotlib
import torch
from compositions import superpose, switch
from data.transformations import Transformations
from evaluate import acting
from models import FlowVAE
from PIL import Image, ImageDraw, ImageFont
from replacing import replacing
from torch import Tensor
from torch.nn import functional as F

matplotlib.use("Agg")
from matplotlib import pyplot as plt

SWITCH, SUPERPOSE = (0, 1), (0, 2)  # the pairs that are drawn
LONG = 24  # letters of a name that do not fit beside a picture
SIZE, MARGIN, GAP = 56, 110, 4  # of an animation: an image at most, the names on its left, between images; pixels


class Row(NamedTuple):
    """One sequence."""

    name: str
    truth: Tensor  # (N, T+1, 3, H, W)
    flow: Tensor  # likewise, in [0, 1]


@torch.no_grad()
def rows(model: FlowVAE, bases: Tensor, truth: Transformations, steps: int, index: list[int], each: int) -> list[Row]:
    """Every transformation by itself, one switch and one superposition, each on so many of the bases (>= K + 2, ...)."""
    model.eval()
    count = len(truth.names) + 2
    own = [bases[row::count][:each] for row in range(count)]
    found = []
    for k, name in enumerate(truth.names):
        x = truth.single(own[k], k, steps)
        z, _ = model.flow.transport(model.posterior(x[:, 0]).mean, steps=steps, **acting(model, x, k))
        found.append(Row(name, x, model.images(z)))
    (a, b), (c, d) = SWITCH, SUPERPOSE
    x = truth.switched(own[-2], a, b, steps)
    z = switch(model, x[:, 0], index[a], index[b], steps, restart=True)
    found.append(Row(f"switching:\n{truth.names[a]}, then {truth.names[b]}", x, model.images(z)))
    x = truth.superposed(own[-1], c, d, steps)
    z = superpose(model, x[:, 0], index[c], index[d], steps, len(index))
    found.append(Row(f"superposing:\n{truth.names[c]} with {truth.names[d]}", x, model.images(z)))
    return [Row(row.name, row.truth.cpu(), row.flow.cpu()) for row in found]


def _wrapped(name: str) -> str:
    return name.replace(", then ", ",\nthen ").replace(" with ", "\nwith ")


def picture(found: list[Row], path: Path, title: str = "") -> None:
    """A PNG or WebP with a pair of rows, truth and flow, for the first sequence of each; time runs to the right."""
    frames, height = max(row.truth.shape[1] for row in found), 1.85 * len(found)
    names = [row.name if max(map(len, row.name.split("\n"))) < LONG else _wrapped(row.name) for row in found]
    margin = 0.8 + 0.075 * max(len(line) for name in names for line in name.split("\n"))  # inches: 10 point letters
    width = margin + 0.9 * frames
    figure, axes = plt.subplots(
        2 * len(found), frames, figsize=(width, height), gridspec_kw={"wspace": 0.04, "hspace": 0.08}
    )
    for r, (row, name) in enumerate(zip(found, names, strict=True)):
        for offset, (label, images) in enumerate((("true", row.truth[0]), ("flow", row.flow[0]))):
            for axis in axes[2 * r + offset, len(images) :]:
                axis.set_axis_off()
            for t, image in enumerate(images):
                axis = axes[2 * r + offset, t]
                axis.imshow(image.permute(1, 2, 0).clamp(0, 1).numpy(), interpolation="nearest")
                axis.set(xticks=[], yticks=[])
            axes[2 * r + offset, 0].set_ylabel(label, rotation=0, ha="right", va="center", fontsize=9)
        axes[2 * r, 0].text(
            -0.75, -0.04, name, transform=axes[2 * r, 0].transAxes, ha="right", va="center", fontsize=10
        )
    for t, axis in enumerate(axes[0]):
        axis.set_title(f"t = {t}", fontsize=9)
    figure.subplots_adjust(left=margin / width, right=0.99, top=1 - 0.37 / height, bottom=0.0925 / height)
    figure.text(0.01, 1 - 0.05 / height, title, ha="left", va="top", fontsize=9)
    with replacing(path) as partial:
        figure.savefig(partial, dpi=110, format=path.suffix[1:])
    plt.close(figure)


def animation(found: list[Row], path: Path) -> None:
    """A WebP that plays the sequences of all rows at once, there and back; truth above flow."""
    there = [_still(found, t) for t in range(found[0].truth.shape[1])]
    frames = [*there, *there[-2:0:-1]]
    pause = [600 if t in (0, len(there) - 1) else 160 for t in range(len(frames))]
    with replacing(path) as partial:
        frames[0].save(
            partial, "WEBP", save_all=True, append_images=frames[1:], duration=pause, loop=0, lossless=True, method=6
        )


def _still(found: list[Row], t: int) -> Image.Image:
    count = len(found[0].truth)
    side = found[0].truth.shape[-1]
    size = side * max(1, SIZE // side)  # whole pixels stay sharp, and small in the file
    pair = 2 * size + GAP
    canvas = Image.new("RGB", (MARGIN + count * (size + GAP), len(found) * (pair + 3 * GAP)), "white")
    draw, font = ImageDraw.Draw(canvas), ImageFont.load_default(13)
    for r, row in enumerate(found):
        top = r * (pair + 3 * GAP) + GAP
        draw.multiline_text((4, top + pair // 2), _wrapped(row.name), "black", font, anchor="lm")
        for offset, images in enumerate((row.truth[:, t], row.flow[:, t])):
            large = F.interpolate(images.clamp(0, 1), (size, size), mode="nearest")
            for column, image in enumerate((255 * large).byte().permute(0, 2, 3, 1)):
                place = MARGIN + column * (size + GAP), top + offset * (size + GAP)
                canvas.paste(Image.fromarray(image.numpy()), place)
    return canvas
