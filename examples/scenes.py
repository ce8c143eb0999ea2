"""Draw a sequence of every factor of the three synthetic scenes: python examples/scenes.py docs/_static/scenes.png"""

from __future__ import annotations

import argparse
from pathlib import Path

import matplotlib
import torch
from data.factor_sequences import Source
from data.scenes import Kitchen, LivingRoom, Room

matplotlib.use("Agg")
from matplotlib import pyplot as plt

STATES = 6  # frames of a sequence, at most


def main(path: Path, side: int = 64) -> None:
    """A PNG with one column of sequences for each scene; a factor of more values is shown at evenly spaced ones."""
    scenes: dict[str, Source] = {"Shapes3D": Room(side), "Falcor3D": LivingRoom(side), "Isaac3D": Kitchen(side)}
    most = max(len(scene.factors.sizes) for scene in scenes.values())
    figure, axes = plt.subplots(
        most, len(scenes), figsize=(15, 0.82 * most), gridspec_kw={"wspace": 0.32, "hspace": 0.06}
    )
    for column, (name, scene) in enumerate(scenes.items()):
        axes[0, column].set_title(f"{name}: synthetic stand-in", fontsize=11)
        sizes = torch.tensor(scene.factors.sizes)
        base = (7 * torch.arange(len(sizes)) + 2) % sizes  # any, but not the same hue everywhere
        for factor, axis in enumerate(axes[:, column]):
            axis.set_axis_off()
            if factor >= len(scene.factors.sizes):
                continue
            size = scene.factors.sizes[factor]
            values = base.repeat(min(STATES, size), 1)
            values[:, factor] = torch.linspace(0, size - 1, len(values)).round().long()
            strip = scene.images(values).permute(2, 0, 3, 1).flatten(1, 2)
            axis.imshow(strip.numpy(), extent=(0, len(values), 0, 1), interpolation="nearest")
            axis.set(xlim=(0, STATES), ylim=(0, 1), anchor="W")
            label = scene.factors.names[factor].replace("_", "\n", 1)
            axis.text(-0.1, 0.5, label, ha="right", va="center", fontsize=9)
    figure.subplots_adjust(left=0.06, right=0.995, top=0.96, bottom=0.01)
    figure.savefig(path, dpi=100)
    print(f"wrote {path}")


if __name__ == "__main__":
    parser = argparse.ArgumentParser("scenes.py", description=__doc__)
    parser.add_argument("path", type=Path, help="the PNG to write")
    main(parser.parse_args().path)
