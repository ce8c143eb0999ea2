"""A trained model, from the folder of its run: `model.json` says what to build, the last checkpoint has its weights."""

from __future__ import annotations

import dataclasses
from collections.abc import Sequence
from pathlib import Path

import checkpoints
import models

_NAME = "model.json"


def note(out: Path, settings: models.Model, channels: int, side: int, names: Sequence[str], steps: int) -> None:
    """Write down what `models.build` was given, and which transformation is which."""
    own = {field.name: getattr(settings, field.name) for field in dataclasses.fields(models.Model)}
    sequence = {"channels": channels, "side": side, "transformations": list(names), "steps": steps}
    checkpoints.write(out / _NAME, {"settings": own, **sequence})


def load(out: Path | str) -> models.FlowVAE:
    """The model, on the CPU and ready to be used; `model.to(device)` moves it.

    Potential k is that of the k-th of the transformations in `model.json`; without labels, `results.json` tells which it is.
    """
    path = Path(out) / _NAME
    if not path.is_file():
        fix = (
            "--resume writes it for runs without" if checkpoints.last(Path(out)) else "pass the folder that --out named"
        )
        raise ValueError(f"{path}: got no such file, expected that of a run; {fix}")
    noted = checkpoints.read(path)
    try:
        settings = models.Model(**noted["settings"])
        size = noted["channels"], noted["side"], len(noted["transformations"]), noted["steps"]
        model = models.build(settings, *size)
    except (KeyError, TypeError, ValueError, RuntimeError) as error:
        raise ValueError(f"{path}: got {error}, expected what `models.build` takes; the file is damaged") from error
    checkpoints.load_weights(Path(out), model)
    return model.eval()
