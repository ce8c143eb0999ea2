"""A flow-factorized VAE on Falcor3D, a living room: intensity and direction of the light, and the camera's place.

Without options: a synthetic stand-in with the same factors at 64x64, on two cores. --data files: the data set itself.

--preset paper: the published networks and terms, on the files at 128x128.

--supervision none: which factor moves, is inferred from the sequence.
"""

from __future__ import annotations

import sys
from pathlib import Path

import experiment
from data.numbered import Falcor3D
from data.scenes import LivingRoom
from factor_experiment import DataSet, Settings

DATA = DataSet("falcor3d", Falcor3D, LivingRoom, moving=(0, 1, 2, 3, 4, 5, 6), states=5)
PRESETS = {
    "cpu": Settings(
        out=Path("runs/falcor3d"),
        networks="scene",
        batch=16,
        muon=0.05,
        steps=4000,
        initial=0.02,
        marginal=0.002,
    ),
    "paper": Settings(
        preset="paper",
        data="files",
        side=128,
        out=Path("runs/falcor3d-paper"),
        dim=324,
        steps=100_000,
        **experiment.PAPER,
    ),
}


if __name__ == "__main__":
    with experiment.errors_in_one_line():
        DATA.run(experiment.settings_of(Settings, PRESETS, sys.argv[1:], __doc__))
