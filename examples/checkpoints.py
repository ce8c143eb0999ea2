"""The folder of a run: claimed once, checkpoints that are whole or absent, and what a resumed run must share with them.

Each checkpoint records the SHA-256 of its files, and nothing is loaded that has another. Nothing in a file is ever run. What is
wrong with a file is a `ValueError` that names it, or an `OSError` that names it, if the system does not let it be read.
"""

from __future__ import annotations

import hashlib
import json
import os
import pickle
import shutil
from pathlib import Path
from typing import Any

import torch
from replacing import replacing
from safetensors.torch import load_model, save_model
from torch import nn

# What a run leaves in its folder.
FOLDERS = ("checkpoints", "tensorboard")
FILES = ("model.json", "results.json", "log.csv", "figure.png", "figure.webp", "evolution.webp")
_NOTED = "settings.json"
# What a checkpoint consists of, and the record of their hashes.
_MODEL, _STATE, _RECORD = "model.safetensors", "state.pt", "files.json"
_KEPT = 2  # checkpoints: if the last is damaged there is one to go back to


def check(out: Path, settings: dict[str, Any], resume: bool, overwrite: bool) -> None:
    """Raise unless this run may use the folder; touches nothing."""
    if out.exists() and not out.is_dir():
        raise ValueError(
            f"--out: got {out}, which is a file, expected a folder, or the name of a new one; name another"
        )
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
        fix = "with --overwrite" if noted.is_file() else "without --resume"
        raise ValueError(f"--resume: got no checkpoint in {out}, expected one there; start anew {fix}")
    before, now = settings_of(out), as_noted(settings)
    changed = differing(before, now)
    if changed:
        got, expected = (", ".join(f"{name} {said.get(name)!r}" for name in changed) for said in (now, before))
        fixes = ["run that example"] if "example" in changed else []
        if set(changed) - {"example", "shares"}:
            fixes.append("leave these options out")
        if "shares" in changed:
            fixes.append("give the same product of --devices, --nodes and --accumulate")
        raise ValueError(
            f"--resume: got {got}, expected {expected}, the settings of the run in {noted}, for which its schedule was made; "
            f"{' and '.join(fixes)}, or start anew with --overwrite"
        )


def differing(before: dict[str, Any], settings: dict[str, Any]) -> list[str]:
    """Names of the settings that are not what they were."""
    return [name for name, value in as_noted(settings).items() if name not in before or before[name] != value]


def settings_of(out: Path) -> dict[str, Any]:
    """The settings that a run noted in its folder; none where there is no run."""
    noted = out / _NOTED
    return read(noted) if noted.is_file() else {}


def claim(out: Path, settings: dict[str, Any], resume: bool) -> None:
    """Make the folder this run's own: drop what another left there, and note the settings. Those of a resumed run stay."""
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
    with replacing(path) as partial:
        partial.write_text(json.dumps(content, indent=2, default=str) + "\n")


def read(path: Path) -> dict[str, Any]:
    """Read what `write` has written."""
    try:
        content = json.loads(path.read_bytes())
        if not isinstance(content, dict):
            raise ValueError(f"a {type(content).__name__}")
    except (ValueError, RecursionError) as error:
        raise ValueError(f"{path}: got {error}, expected a JSON object; the file is damaged") from error
    return content


def save(out: Path, step: int, model: nn.Module, state: dict[str, Any]) -> None:
    """Write a checkpoint beside the last one, rename it into place, and only then drop the one before the last."""
    finite = torch.stack([parameter.isfinite().all() for parameter in model.parameters()]).all()
    if not finite:
        raise ValueError(f"model: got parameters that are not finite at step {step}; lower --learning-rate")
    folder = out / "checkpoints"
    partial, target = folder / f".partial-{os.getpid()}", folder / f"{step:08d}"
    partial.mkdir(parents=True)
    save_model(model, str(partial / _MODEL))
    torch.save({"step": step, **state}, partial / _STATE)
    write(partial / _RECORD, {name: _hash(partial / name) for name in (_MODEL, _STATE)})
    partial.rename(target)
    for old in _all(out)[:-_KEPT]:
        shutil.rmtree(old)


def restore(out: Path, model: nn.Module, parts: dict[str, Any]) -> dict[str, Any]:
    """Load the last checkpoint into the model and into parts with `load_state_dict`; return its state."""
    folder = last(out)
    assert folder is not None, "check() has found one"
    damage = _damage(folder)
    if damage is not None:
        whole = [earlier for earlier in _all(out)[:-1] if _damage(earlier) is None]
        advice = f"delete {folder}, and --resume goes on from {whole[-1].name}" if whole else "start with --overwrite"
        raise ValueError(f"{damage}: {advice}")
    try:
        load_model(model, str(folder / _MODEL))
        state: dict[str, Any] = torch.load(folder / _STATE, map_location="cpu", weights_only=True)
        if state["step"] != int(folder.name):
            raise ValueError(f"step {state['step']}")
        for name, part in parts.items():
            part.load_state_dict(state[name])
        return state | {"step": int(state["step"]), "seconds": float(state["seconds"])}
    except Exception as error:
        # Torch's own message recommends to let the file run its code.
        said = f"code in {_STATE}" if isinstance(error, pickle.UnpicklingError) else error
        raise ValueError(
            f"{folder}: got {said}, expected a whole checkpoint of this model after {int(folder.name)} steps; "
            "if it is damaged, start again with --overwrite"
        ) from error


def load_weights(out: Path, model: nn.Module) -> None:
    """Those of the last checkpoint, for who does not go on with the run."""
    folder = last(out)
    if folder is None:
        raise ValueError(f"{out}: got no checkpoint, expected one; train first, or name the folder of another run")
    damage = _damage(folder)
    if damage is not None:
        raise ValueError(f"{damage}; delete {folder} to load the one before it")
    try:
        load_model(model, str(folder / _MODEL))
    except Exception as error:
        raise ValueError(f"{folder / _MODEL}: got {error}, expected weights of the model of this run") from error


def last(out: Path) -> Path | None:
    """The last whole checkpoint."""
    return (_all(out) or [None])[-1]


def _all(out: Path) -> list[Path]:
    """The checkpoints that are there, by their steps."""
    found = (path for path in (out / "checkpoints").glob("[0-9]*") if path.name.isdecimal() and path.is_dir())
    return sorted(found, key=lambda path: int(path.name))


def _damage(checkpoint: Path) -> str | None:
    """What is wrong with the files of a checkpoint, as far as their hashes tell."""
    record = checkpoint / _RECORD
    try:
        hashes = read(record) if record.is_file() else {}
    except ValueError as error:
        return str(error)
    for name in (_MODEL, _STATE):
        path = checkpoint / name
        if name not in hashes:
            return f"{record}: got no hash of {name}, expected one; the checkpoint is damaged"
        if not path.is_file():
            return f"{path}: got no such file, expected one with SHA-256 {hashes[name]}; the checkpoint is damaged"
        found = _hash(path)
        if found != hashes[name]:
            return f"{path}: got SHA-256 {found}, expected {hashes[name]}, as it was saved; the file is damaged"
    return None


def _hash(path: Path) -> str:
    with path.open("rb") as file:
        return hashlib.file_digest(file, "sha256").hexdigest()


def as_noted(settings: dict[str, Any]) -> dict[str, Any]:
    """Settings as they come back from a file."""
    noted: dict[str, Any] = json.loads(json.dumps(settings, default=str))
    return noted
