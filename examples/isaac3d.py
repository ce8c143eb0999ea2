"""A flow-factorized VAE on Isaac3D, a robot in a kitchen: its arm, what it holds, the camera, the light and the colours.

Without options: a synthetic stand-in with the same factors at 64x64, on two cores. --data files: the data set itself.

--preset paper: the published networks and terms, on the files at 128x128.

--supervision none: which factor moves, is inferred from the sequence.
"""

from __future__ import annotations

import sys
from pathlib import Path

import experiment
from data.numbered import Isaac3D
from data.scenes import Kitchen
from factor_experiment import DataSet, Settings

# All but the shape of the object, as in the paper.
DATA = DataSet("isaac3d", Isaac3D, Kitchen, moving=(1, 2, 3, 4, 5, 6, 7, 8), states=4)
PRESETS = {
    "cpu": Settings(
        out=Path("runs/isaac3d"),
        networks="placed",
        dim=24,
        batch=32,
        frames=2,
        muon=0.05,
        steps=5200,
        initial=0.02,
        marginal=0.002,
    ),
    "paper": Settings(
        preset="paper",
        data="files",
        side=128,
        out=Path("runs/isaac3d-paper"),
        dim=324,
        steps=100_000,
        **experiment.PAPER,
    ),
}


if __name__ == "__main__":
    with experiment.errors_in_one_line():
        DATA.run(experiment.settings_of(Settings, PRESETS, sys.argv[1:], __doc__))
