"""The one training loop: draw a batch, sum the terms of the loss, step; with progress, a log, checkpoints and resume."""

from __future__ import annotations

import csv
import dataclasses
import json
import os
import shutil
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import torch
from models import FlowVAE
from rich.console import Console
from rich.progress import BarColumn, MofNCompleteColumn, Progress, TextColumn, TimeElapsedColumn, TimeRemainingColumn
from safetensors.torch import load_model, save_model
from torch import Tensor

Draw = Callable[[torch.Generator], tuple[Tensor, Tensor]]  # generator -> frames (B, T+1, C, H, W), labels (B,)


@dataclasses.dataclass(frozen=True)
class Run:
    """How long and how fast to train, and where the results go."""

    out: Path = Path("runs/mnist")
    """folder for checkpoints, log.csv, results.json and figure.png"""
    steps: int = 1800
    """training steps"""
    batch: int = 64
    """sequences in a batch"""
    learning_rate: float = 3e-3
    """peak of a one-cycle schedule of Adam"""
    seed: int = 0
    """of the weights, the batches and all samples"""
    save_every: int = 250
    """steps between checkpoints"""
    threads: int = 2
    """CPU threads"""
    resume: bool = False
    """go on from the last checkpoint in OUT"""
    overwrite: bool = False
    """start again although OUT holds a run"""

    def __post_init__(self) -> None:
        for name in ("steps", "batch", "save_every", "threads"):
            if getattr(self, name) < 1:
                raise ValueError(f"--{name.replace('_', '-')}: got {getattr(self, name)}, expected at least 1")
        if not 0 < self.learning_rate < float("inf"):
            raise ValueError(f"--learning-rate: got {self.learning_rate}, expected a positive number")
        if self.resume and self.overwrite:
            raise ValueError("--resume, --overwrite: got both, expected at most one; they contradict each other")


def prepare(run: Run, settings: dict[str, Any]) -> None:
    """Claim the folder of a run before anything in it is touched, and note the settings that a resumed run must share."""
    noted, record = run.out / "settings.json", json.loads(json.dumps(settings, default=str))
    if run.resume:
        if not noted.is_file() or _last_checkpoint(run.out) is None:
            raise ValueError(
                f"--resume: got no checkpoint in {run.out}, expected one there; leave --resume out to start anew"
            )
        before = json.loads(noted.read_text())
        changed = [
            f"{name} {before.get(name)!r} -> {record[name]!r}" for name in record if before.get(name) != record[name]
        ]
        if changed:
            raise ValueError(
                f"--resume: got {', '.join(changed)}, expected the settings of the run; "
                "give these again (its schedule was made for them), or start anew with --overwrite"
            )
        return
    if noted.exists() and not run.overwrite:
        raise ValueError(f"--out: got {run.out}, which holds a run; go on with --resume, start again with --overwrite")
    shutil.rmtree(run.out / "checkpoints", ignore_errors=True)
    for stale in ("results.json", "figure.png", "log.csv"):  # or they would stand beside the settings of another run
        (run.out / stale).unlink(missing_ok=True)
    run.out.mkdir(parents=True, exist_ok=True)
    noted.write_text(json.dumps(record, indent=2) + "\n")


def train(model: FlowVAE, draw: Draw, run: Run) -> float:
    """Train in place and return the seconds that it took, those before a resume included."""
    optimiser = torch.optim.Adam(model.parameters(), lr=run.learning_rate)
    schedule = torch.optim.lr_scheduler.OneCycleLR(optimiser, run.learning_rate, total_steps=run.steps, pct_start=0.1)
    generator = torch.Generator().manual_seed(run.seed)
    first, seconds = _restore(model, optimiser, schedule, generator, run) if run.resume else (0, 0.0)
    model.train()
    began = time.monotonic() - seconds
    with _Report(run, first) as report:
        for step in range(first, run.steps):
            x, k = draw(generator)
            if model.selector is not None:
                model.selector.anneal(step)
            terms, path = model(x, k, generator)
            loss = torch.stack(list(terms.values())).sum()
            if not torch.isfinite(loss):
                values = {name: float(term) for name, term in terms.items()}
                raise ValueError(f"loss: got {values} at step {step}, expected finite terms; lower --learning-rate")
            optimiser.zero_grad(set_to_none=True)
            loss.backward()
            optimiser.step()
            schedule.step()
            folds = None if path.folds is None else int(path.folds.sum())
            report(step + 1, {name: float(term.detach()) for name, term in terms.items()}, folds)
            if (step + 1) % run.save_every == 0 or step + 1 == run.steps:
                _save(model, optimiser, schedule, generator, step + 1, time.monotonic() - began, run.out)
    return time.monotonic() - began


class _Report:
    """Losses by name, rate and time left: a live bar on a terminal, a line now and then elsewhere, and always log.csv."""

    def __init__(self, run: Run, first: int) -> None:
        self.run, self.first, self.console = run, first, Console()
        self.every = max(1, run.steps // 20)

    def __enter__(self) -> _Report:
        self.bar = Progress(
            BarColumn(bar_width=24),
            MofNCompleteColumn(),
            TextColumn("{task.fields[rate]:.1f} steps/s"),
            TimeElapsedColumn(),
            TextColumn("left"),
            TimeRemainingColumn(),
            TextColumn("{task.fields[losses]}"),
            console=self.console,
            disable=not self.console.is_terminal,
        )
        self.bar.start()
        self.task = self.bar.add_task("", total=self.run.steps, completed=self.first, rate=0.0, losses="")
        self.file = (self.run.out / "log.csv").open("a" if self.first else "w", newline="")
        self.began = time.monotonic()
        return self

    def __exit__(self, *_: object) -> None:
        self.bar.stop()
        self.file.close()

    def __call__(self, step: int, terms: dict[str, float], folds: int | None) -> None:
        row = {"step": step, **terms, "folds": folds}
        writer = csv.DictWriter(self.file, row)
        if step == 1:
            writer.writeheader()
        writer.writerow(row)
        rate = (step - self.first) / (time.monotonic() - self.began)
        losses = "  ".join(f"{name} {value:.4g}" for name, value in row.items() if name != "step" and value is not None)
        self.bar.update(self.task, completed=step, rate=rate, losses=losses)
        if self.bar.disable and (step == self.first + 1 or step % self.every == 0 or step == self.run.steps):
            left = (self.run.steps - step) / rate
            print(f"{step:>6}/{self.run.steps}  {rate:.1f} steps/s  {left:.0f} s left  {losses}", flush=True)


def _save(
    model: FlowVAE,
    optimiser: torch.optim.Optimizer,
    schedule: torch.optim.lr_scheduler.LRScheduler,
    generator: torch.Generator,
    step: int,
    seconds: float,
    out: Path,
) -> None:
    """Write a checkpoint beside the last one, rename it into place, and only then drop the last one."""
    folder = out / "checkpoints"
    partial = folder / f".partial-{os.getpid()}"
    shutil.rmtree(partial, ignore_errors=True)
    partial.mkdir(parents=True)
    save_model(model, str(partial / "model.safetensors"))
    state = {
        "step": step,
        "seconds": seconds,
        "optimiser": optimiser.state_dict(),
        "schedule": schedule.state_dict(),
        "generator": generator.get_state(),
        "global_generator": torch.get_rng_state(),
    }
    torch.save(state, partial / "state.pt")
    target = folder / f"{step:08d}"
    shutil.rmtree(target, ignore_errors=True)
    partial.rename(target)
    for old in folder.glob("[0-9]*"):
        if old != target:
            shutil.rmtree(old)


def _restore(
    model: FlowVAE,
    optimiser: torch.optim.Optimizer,
    schedule: torch.optim.lr_scheduler.LRScheduler,
    generator: torch.Generator,
    run: Run,
) -> tuple[int, float]:
    """Load the last checkpoint; return its step and the seconds spent until then."""
    folder = _last_checkpoint(run.out)
    assert folder is not None, "prepare() has found one"
    try:
        load_model(model, str(folder / "model.safetensors"))
        state = torch.load(folder / "state.pt", weights_only=True)
        optimiser.load_state_dict(state["optimiser"])
        schedule.load_state_dict(state["schedule"])
        generator.set_state(state["generator"])
        torch.set_rng_state(state["global_generator"])
    except Exception as error:
        raise ValueError(
            f"{folder}: got {error}, expected a whole checkpoint of this model; start again with --overwrite"
        ) from error
    _trim_log(run.out / "log.csv", state["step"])
    return state["step"], state["seconds"]


def _trim_log(log: Path, step: int) -> None:
    """Drop the rows of steps after the checkpoint: they will be taken again."""
    if log.is_file():
        log.write_text("".join(log.read_text().splitlines(keepends=True)[: step + 1]))


def _last_checkpoint(out: Path) -> Path | None:
    return max((out / "checkpoints").glob("[0-9]*"), default=None)
