"""The folder of a run: claimed once, checkpoints that are whole or absent, and what a resumed run must share with them."""

from __future__ import annotations

import json
import os
import shutil
from pathlib import Path
from typing import Any

import torch
from safetensors.torch import load_model, save_model
from torch import nn

# What a run leaves in its folder.
FOLDERS = ("checkpoints", "tensorboard")
FILES = ("results.json", "log.csv", "figure.png", "evolution.webp")
_NOTED = "settings.json"


def check(out: Path, settings: dict[str, Any], resume: bool, overwrite: bool) -> None:
    """Raise unless this run may use the folder; touches nothing."""
    noted = out / _NOTED
    if not resume:
        if noted.exists() and not overwrite:
            raise ValueError(f"--out: got {out}, which holds a run; go on with --resume, start again with --overwrite")
        others = [name for name in (*FOLDERS, *FILES) if (out / name).exists() and not noted.exists()]
        if others:
            raise ValueError(
                f"--out: got {out}, which has {', '.join(others)} of something else, expected a folder without; name another"
            )
        return
    if not noted.is_file() or last(out) is None:
        raise ValueError(f"--resume: got no checkpoint in {out}, expected one there; start anew with --overwrite")
    before, now = json.loads(noted.read_text()), _as_noted(settings)
    changed = [f"{name} {before.get(name)!r} -> {now[name]!r}" for name in now if before.get(name) != now[name]]
    if changed:
        raise ValueError(
            f"--resume: got {', '.join(changed)}, expected the settings of the run; "
            "give these again (its schedule was made for them), or start anew with --overwrite"
        )


def claim(out: Path, settings: dict[str, Any], resume: bool) -> None:
    """Make the folder this run's own: drop what another left there, and note the settings."""
    for partial in (out / "checkpoints").glob(".partial-*"):  # of a run that was killed while it saved
        shutil.rmtree(partial)
    if resume:
        return
    for name in FOLDERS:
        shutil.rmtree(out / name, ignore_errors=True)
    for name in FILES:  # or they would stand beside the settings of another run
        (out / name).unlink(missing_ok=True)
    out.mkdir(parents=True, exist_ok=True)
    write(out / _NOTED, settings)


def write(path: Path, content: dict[str, Any]) -> None:
    """Write JSON, whole or not at all."""
    partial = path.with_name(f".{path.name}")
    partial.write_text(json.dumps(content, indent=2, default=str) + "\n")
    partial.replace(path)


def save(out: Path, step: int, model: nn.Module, state: dict[str, Any]) -> None:
    """Write a checkpoint beside the last one, rename it into place, and only then drop the last one."""
    finite = torch.stack([parameter.isfinite().all() for parameter in model.parameters()]).all()
    if not finite:
        raise ValueError(f"model: got parameters that are not finite at step {step}; lower --learning-rate")
    folder = out / "checkpoints"
    partial, target = folder / f".partial-{os.getpid()}", folder / f"{step:08d}"
    partial.mkdir(parents=True)
    save_model(model, str(partial / "model.safetensors"))
    torch.save({"step": step, **state}, partial / "state.pt")
    partial.rename(target)
    for old in folder.glob("[0-9]*"):
        if old != target:
            shutil.rmtree(old)


def restore(out: Path, model: nn.Module, parts: dict[str, Any]) -> dict[str, Any]:
    """Load the last checkpoint into the model and into parts with `load_state_dict`; return its state."""
    folder = last(out)
    assert folder is not None, "check() has found one"
    try:
        load_model(model, str(folder / "model.safetensors"))
        state: dict[str, Any] = torch.load(folder / "state.pt", map_location="cpu", weights_only=True)
        for name, part in parts.items():
            part.load_state_dict(state[name])
        return state | {"step": int(state["step"]), "seconds": float(state["seconds"])}
    except Exception as error:
        raise ValueError(
            f"{folder}: got {error}, expected a whole checkpoint of this model; if it is damaged, start again with --overwrite"
        ) from error


def last(out: Path) -> Path | None:
    """The last whole checkpoint."""
    return max((out / "checkpoints").glob("[0-9]*"), default=None)


def _as_noted(settings: dict[str, Any]) -> dict[str, Any]:
    noted: dict[str, Any] = json.loads(json.dumps(settings, default=str))
    return noted
