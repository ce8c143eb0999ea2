"""A flow-factorized VAE on Shapes3D: the hues of floor, wall and object, and the size of the object.

Without options: a synthetic stand-in with the same factors, on two cores. --data files: the data set itself, 3dshapes.h5.

--preset paper: the published networks and terms, on the files.

--supervision none: which factor moves, is inferred from the sequence.
"""

from __future__ import annotations

import sys
from pathlib import Path

import experiment
from data.scenes import Room
from data.shapes3d import Shapes3D
from factor_experiment import DataSet, Settings

DATA = DataSet("shapes3d", Shapes3D, Room, moving=(0, 1, 2, 3), states=8)
PRESETS = {
    "cpu": Settings(
        out=Path("runs/shapes3d"),
        networks="layers",
        batch=32,
        frames=2,
        muon=0.05,
        steps=5500,
        initial=0.02,
        marginal=0.002,
    ),
    "paper": Settings(
        preset="paper", data="files", out=Path("runs/shapes3d-paper"), dim=226, steps=90_000, **experiment.PAPER
    ),
}


if __name__ == "__main__":
    with experiment.errors_in_one_line():
        DATA.run(experiment.settings_of(Settings, PRESETS, sys.argv[1:], __doc__))
