"""What a run shows while it trains: losses by name, rate and time left; log.csv and TensorBoard for later."""

from __future__ import annotations

import csv
import math
import time
from collections.abc import Callable
from pathlib import Path

import torch
from replacing import replacing
from rich import progress as rich
from rich.console import Console
from rich.table import Column
from torch import Tensor
from torch.utils.tensorboard import SummaryWriter

READ_EVERY = 25


class Progress:
    """A live bar on a terminal, a line now and then elsewhere, and always a row of log.csv for each step.

    Rows wait on the device until they are read, all in one transfer, once in `READ_EVERY` steps.

    Args:
        out: folder of the run.
        first, steps: the steps taken already, and those to take in all.
        mean: over the processes that train together.
        writes: is this the process that shows and writes.
    """

    def __init__(self, out: Path, first: int, steps: int, mean: Callable[[Tensor], Tensor], writes: bool) -> None:
        self.out, self.first, self.steps, self.mean, self.writes = out, first, steps, mean, writes
        self.every = max(1, steps // 20)
        self.waiting: dict[int, dict[str, Tensor]] = {}  # by step

    def __enter__(self) -> Progress:
        console = Console()
        self.bar = rich.Progress(
            rich.BarColumn(bar_width=12),
            rich.MofNCompleteColumn(),
            rich.TextColumn("{task.fields[rate]:.1f} steps/s"),
            rich.TimeElapsedColumn(),
            rich.TextColumn("left"),
            rich.TimeRemainingColumn(),
            # The one that gives way, down to 80 columns.
            rich.TextColumn("{task.fields[losses]}", table_column=Column(ratio=1, no_wrap=True, overflow="ellipsis")),
            console=console,
            expand=True,
            disable=not (self.writes and console.is_terminal),
        )
        if self.writes:
            _keep_rows(self.out / "log.csv", self.first)
            self.file = (self.out / "log.csv").open("a", newline="")
            self.board = SummaryWriter(self.out / "tensorboard", purge_step=self.first + 1)
        self.bar.start()
        self.task = self.bar.add_task("", total=self.steps, completed=self.first, rate=0.0, losses="")
        self.since = self.first, time.monotonic()  # the last line
        return self

    def __exit__(self, *_: object) -> None:
        self.bar.stop()
        if self.writes:
            self.file.close()
            self.board.close()

    def __call__(self, step: int, terms: dict[str, Tensor]) -> None:
        self.waiting[step] = terms
        line = step == self.first + 1 or step % self.every == 0 or step == self.steps
        if not line and step % READ_EVERY != 0:
            return
        (before, then), values = self.since, self.read()
        now = time.monotonic()
        rate, first = (step - before) / (now - then), before == self.first
        losses = "  ".join(f"{name} {value:.4g}" for name, value in values.items())
        self.bar.update(self.task, completed=step, rate=rate, losses=losses)
        if line:
            self.since = step, now
        if self.writes and self.bar.disable and line:
            # The first step takes longer than any other, and would promise hours.
            speed = "" if first else f"{rate:.1f} steps/s  {(self.steps - step) / rate:.0f} s left  "
            print(f"{step:>6}/{self.steps}  {speed}{losses}", flush=True)

    def read(self) -> dict[str, float]:
        """Write what waits, and return the last of it."""
        waiting, self.waiting, values = self.waiting, {}, {}
        if not waiting:
            return values
        rows = self.mean(torch.stack([torch.stack(list(terms.values())) for terms in waiting.values()])).tolist()
        for (step, terms), row in zip(waiting.items(), rows, strict=True):
            values = dict(zip(terms, row, strict=True))
            if not all(map(math.isfinite, row)):
                raise ValueError(f"loss: got {values} at step {step}, expected finite terms; lower --learning-rate")
            if self.writes:
                self._write(step, values)
        if self.writes:
            self.file.flush()  # before a checkpoint is made of it
            self.board.flush()
        return values

    def _write(self, step: int, values: dict[str, float]) -> None:
        writer = csv.DictWriter(self.file, {"step": step, **values}, lineterminator="\n")
        if step == 1:
            writer.writeheader()
        writer.writerow({"step": step, **values})
        for name, value in values.items():
            self.board.add_scalar(name, value, step)


def _keep_rows(log: Path, steps: int) -> None:
    """Drop the rows of steps after a checkpoint: they will be taken again."""
    if log.is_file():
        with replacing(log) as kept:
            kept.write_bytes(b"".join(log.read_bytes().splitlines(keepends=True)[: steps + 1 if steps else 0]))
