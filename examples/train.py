"""The one training loop: draw a batch, sum the terms of the loss, step; with progress, a log, checkpoints and resume.

Nothing in a step reads a value, so the host runs ahead of an accelerator and never waits. What is to be logged stays on the
device and is read in one go, once in `READ_EVERY` steps.
"""

from __future__ import annotations

import csv
import dataclasses
import json
import math
import os
import shutil
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any, Literal

import torch
from models import FlowVAE
from rich.console import Console
from rich.progress import BarColumn, MofNCompleteColumn, Progress, TextColumn, TimeElapsedColumn, TimeRemainingColumn
from safetensors.torch import load_model, save_model
from torch import Tensor

from latentflow import validate_values

READ_EVERY = 25
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
    precision: Literal["float32", "bf16"] = "float32"
    """of encoder, decoder and classifier; the flow is always in float32"""
    device: str = "cpu"
    """where to train, for example cuda; evaluation is on the CPU"""
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
        try:
            torch.empty((), device=self.device)
        except (RuntimeError, AssertionError) as error:
            said = str(error).splitlines()[0]
            raise ValueError(f"--device: got {self.device!r} ({said}), expected a device of this machine") from error
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
    model.to(run.device).train()
    optimiser = torch.optim.Adam(model.parameters(), lr=run.learning_rate, fused=True)
    schedule = torch.optim.lr_scheduler.OneCycleLR(optimiser, run.learning_rate, total_steps=run.steps, pct_start=0.1)
    generator = torch.Generator(run.device).manual_seed(run.seed)
    first, seconds = _restore(model, optimiser, schedule, generator, run) if run.resume else (0, 0.0)
    began = time.monotonic() - seconds
    # On the CPU a look at values costs nothing and names what went wrong; elsewhere each would wait for the device.
    with _Report(run, first) as report, validate_values(run.device == "cpu"):
        for step in range(first, run.steps):
            x, k = draw(generator)
            if model.selector is not None:
                model.selector.anneal(step)
            terms = take_step(model, optimiser, x, k, generator, run.precision)
            schedule.step()
            report(step + 1, terms)
            if (step + 1) % run.save_every == 0 or step + 1 == run.steps:
                report.read()  # so that no checkpoint is made of a loss that is not finite
                _save(model, optimiser, schedule, generator, step + 1, time.monotonic() - began, run.out)
    return time.monotonic() - began


def take_step(
    model: FlowVAE,
    optimiser: torch.optim.Optimizer,
    x: Tensor,
    k: Tensor,
    generator: torch.Generator | None = None,
    precision: str = "float32",
) -> dict[str, Tensor]:
    """One step on frames x (B, T+1, C, H, W) with labels k (B,); the terms of the loss, and how many steps folded.

    Reads no value and has the same shapes every time, as a CUDA graph needs it.
    """
    optimiser.zero_grad(set_to_none=True)
    with torch.autocast(x.device.type, torch.bfloat16, enabled=precision == "bf16"):
        terms, path = model(x, k, generator)
    torch.stack(list(terms.values())).sum().backward()
    optimiser.step()
    noted = {name: term.detach() for name, term in terms.items()}
    return noted if path.folds is None else {**noted, "folds": path.folds.sum()}


class _Report:
    """Losses by name, rate and time left: a live bar on a terminal, a line now and then elsewhere, and always log.csv.

    Rows wait on the device until they are read, all in one transfer.
    """

    def __init__(self, run: Run, first: int) -> None:
        self.run, self.first, self.console = run, first, Console()
        self.every = max(1, run.steps // 20)
        self.waiting: dict[int, dict[str, Tensor]] = {}  # by step

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
        try:
            self.read()
        finally:
            self.bar.stop()
            self.file.close()

    def __call__(self, step: int, terms: dict[str, Tensor]) -> None:
        self.waiting[step] = terms
        line = step == self.first + 1 or step % self.every == 0 or step == self.run.steps
        if not line and step % READ_EVERY != 0:
            return
        rate, values = (step - self.first) / (time.monotonic() - self.began), self.read()
        losses = "  ".join(f"{name} {value:.4g}" for name, value in values.items())
        self.bar.update(self.task, completed=step, rate=rate, losses=losses)
        if self.bar.disable and line:
            left = (self.run.steps - step) / rate
            print(f"{step:>6}/{self.run.steps}  {rate:.1f} steps/s  {left:.0f} s left  {losses}", flush=True)

    def read(self) -> dict[str, float]:
        """Write what waits to log.csv, and return the last of it."""
        waiting, self.waiting, values = self.waiting, {}, {}
        if not waiting:
            return values
        rows = torch.stack([torch.stack(list(terms.values())) for terms in waiting.values()]).tolist()
        for (step, terms), row in zip(waiting.items(), rows, strict=True):
            values = dict(zip(terms, row, strict=True))
            if not all(map(math.isfinite, row)):
                raise ValueError(f"loss: got {values} at step {step}, expected finite terms; lower --learning-rate")
            writer = csv.DictWriter(self.file, {"step": step, **values})
            if step == 1:
                writer.writeheader()
            writer.writerow({"step": step, **values})
        return values


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
