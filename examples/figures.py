"""Decoded latent evolutions beside the true sequences."""

from __future__ import annotations

from pathlib import Path

import matplotlib
import torch
from data.transformations import TRANSFORMATIONS, levels_of, render
from evaluate import acting, composition_name, compositions, decode_mean_path
from models import FlowVAE
from torch import Tensor

matplotlib.use("Agg")
from matplotlib import pyplot as plt


@torch.no_grad()
def evolution_figure(model: FlowVAE, digits: Tensor, steps: int, index: list[int], path: Path) -> None:
    """One pair of rows, truth and flow, for each transformation, one switch and one superposition; digits (>= 5, H, W)."""
    model.eval()
    rows: list[tuple[str, Tensor, Tensor]] = []
    for k, name in enumerate(TRANSFORMATIONS):
        x = render(digits[k : k + 1], levels_of(torch.tensor([k]), steps))
        rows.append((name, x, decode_mean_path(model, x[:, 0], steps, **acting(model, x, k))[0]))
    for (first, second), row, kind in (((0, 1), 3, "switching"), ((0, 2), 4, "superposing")):
        x, what = compositions(digits[row : row + 1], first, second, steps, index)[kind]
        rows.append(
            (f"{kind}:\n{composition_name(kind, first, second)}", x, decode_mean_path(model, x[:, 0], steps, **what)[0])
        )
    frames = steps + 1
    figure, axes = plt.subplots(
        2 * len(rows),
        frames,
        figsize=(0.9 * frames + 2.2, 1.85 * len(rows)),
        gridspec_kw={"wspace": 0.04, "hspace": 0.08},
    )
    for r, (name, truth, decoded) in enumerate(rows):
        for offset, (label, images) in enumerate((("true", truth), ("flow", decoded))):
            for t, image in enumerate(images[0]):
                axis = axes[2 * r + offset, t]
                axis.imshow(image.permute(1, 2, 0).clamp(0, 1).numpy(), interpolation="nearest")
                axis.set(xticks=[], yticks=[])
                if r == 0 and offset == 0:
                    axis.set_title(f"t = {t}", fontsize=9)
            axes[2 * r + offset, 0].set_ylabel(label, rotation=0, ha="right", va="center", fontsize=9)
        axes[2 * r, 0].text(
            -0.75, -0.04, name, transform=axes[2 * r, 0].transAxes, ha="right", va="center", fontsize=10
        )
    figure.subplots_adjust(left=0.24, right=0.99, top=0.96, bottom=0.01)
    partial = path.with_name(f".{path.name}")
    figure.savefig(partial, dpi=110, format="png")
    plt.close(figure)
    partial.replace(path)
