"""The one training loop: draw a batch, sum the terms of the loss, step; on any number of devices, and resumable.

Nothing in a step reads a value, so the host runs ahead of an accelerator and never waits; only decoders that
place something make it wait, on CUDA, for the norm of a matrix whose exponential they take.

All that is random in a step is drawn from a state made of (seed, step, share of the batch) and of nothing else. So a resumed
run repeats the steps of an uninterrupted one, bit for bit on the CPU (CUDA adds in no fixed order), and a batch gives the same
gradients whether its shares are taken by several processes or one after another.
"""

from __future__ import annotations

import dataclasses
import os
import shutil
import sys
import time
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any, Literal

import checkpoints
import numpy as np
import torch
from hardware import keep_freed_memory, multiplies_bfloat16
from lightning_fabric import Fabric
from lightning_fabric.strategies import DDPStrategy
from lightning_fabric.utilities.exceptions import MisconfigurationException
from models import FlowVAE
from muon import Muon
from progress import READ_EVERY, Progress
from stopping import asked, disband, leave, signals
from torch import Tensor, nn

from latentflow import validate_values

# Muon trains matrices with both sides at least HIDDEN and at most LARGEST numbers: its update of larger ones takes more time
# than it saves.
HIDDEN, LARGEST = 128, 2**20
# What torch.compile calls on a CPU.
COMPILER = os.environ.get("CXX", "clang++" if sys.platform == "darwin" else "g++")

# (number of sequences, step, share of the batch) -> frames (B, T+1, C, H, W), labels (B,); random by torch's state, or by
# what it is given, but by nothing else
Draw = Callable[[int, int, int], tuple[Tensor, Tensor]]


@dataclasses.dataclass(frozen=True)
class Run:
    """How long and how fast to train, on what, and where the results go."""

    out: Path = Path("runs/mnist")
    """folder for checkpoints, logs, results.json and figures"""
    steps: int = 1800
    """training steps"""
    batch: int = 64
    """sequences in a step, over all devices"""
    learning_rate: float = 3e-3
    """of Adam; the peak, where it changes"""
    muon: float | None = None
    """learning rate of Muon, which then trains the hidden layers of encoder, decoder and classifier; Adam does, if left out"""
    decay: float = 0.5
    """weight decay of the potentials (AdamW's): what a flow has no use for fades, so that others may use it"""
    schedule: Literal["one-cycle", "constant"] = "one-cycle"
    """of the learning rate"""
    seed: int = 0
    """of the weights, the batches and all samples"""
    save_every: int = 250
    """steps between checkpoints"""
    precision: Literal["float32", "bf16"] = "float32"
    """of encoder, decoder and classifier; the flow is always in float32"""
    compile: bool = False
    """compile the flow and its terms of the loss; needs a C++ compiler, or Triton on an accelerator, and minutes"""
    accelerator: Literal["auto", "cpu", "cuda", "mps"] = "auto"
    """where to train and to evaluate"""
    devices: int = 1
    """processes on each machine, one on each device"""
    nodes: int = 1
    """machines; start the same command on each with torchrun"""
    accumulate: int = 1
    """parts of a batch that are taken one after another, to save memory; without labels each has a balance of its own"""
    threads: int = dataclasses.field(default_factory=lambda: min(2, torch.get_num_threads()))
    """CPU threads of each process: two, or one where OMP_NUM_THREADS says so"""
    resume: bool = False
    """go on from the last checkpoint in OUT, with the settings that its run had"""
    overwrite: bool = False
    """start again although OUT holds a run"""

    def __post_init__(self) -> None:
        for name in ("steps", "batch", "save_every", "threads", "devices", "nodes", "accumulate"):
            if getattr(self, name) < 1:
                raise ValueError(f"--{name.replace('_', '-')}: got {getattr(self, name)}, expected at least 1")
        if self.seed < 0:
            raise ValueError(f"--seed: got {self.seed}, expected at least 0")
        if not 0 < self.learning_rate < float("inf"):
            raise ValueError(f"--learning-rate: got {self.learning_rate}, expected a positive number")
        if self.muon is not None and not 0 < self.muon < float("inf"):
            raise ValueError(f"--muon: got {self.muon}, expected a positive number, or None for Adam")
        if not 0 <= self.decay < float("inf"):
            raise ValueError(f"--decay: got {self.decay}, expected a number of at least 0")
        if self.batch % self.shares != 0:
            raise ValueError(
                f"--batch: got {self.batch}, expected a multiple of {self.shares}, the devices of all nodes times --accumulate"
            )
        if self.resume and self.overwrite:
            raise ValueError("--resume, --overwrite: got both, expected at most one; they contradict each other")

    @property
    def shares(self) -> int:
        """Into how many parts a batch is divided."""
        return self.devices * self.nodes * self.accumulate

    def noted(self) -> dict[str, Any]:
        """The settings that a resumed run must share: all but where and how it is watched."""
        own = ("out", "save_every", "accelerator", "devices", "nodes", "accumulate", "threads", "resume", "overwrite")
        return {"shares": self.shares} | {k: v for k, v in dataclasses.asdict(self).items() if k not in own}

    def measured(self) -> dict[str, Any]:
        """Settings that matter only once the run is trained; a resumed run has them by default."""
        return {}


def start(run: Run) -> Fabric:
    """The devices, and the processes on them; each runs the rest of the script."""
    # Not every term of the loss is always there, and a module without a term gets no gradient.
    strategy: Any = DDPStrategy(find_unused_parameters=True) if run.devices * run.nodes > 1 else "auto"
    try:
        fabric = Fabric(
            accelerator=run.accelerator,
            devices=run.devices,
            num_nodes=run.nodes,
            strategy=strategy,
        )
    except (RuntimeError, ValueError, MisconfigurationException) as error:
        raise ValueError(
            f"--accelerator, --devices: got {run.accelerator} and {run.devices} ({error}), expected what this machine has"
        ) from error
    if run.compile and fabric.device.type == "cpu" and shutil.which(COMPILER) is None:
        raise ValueError(
            f"--compile: got no C++ compiler ({COMPILER}), expected one; install it, name another in CXX, or leave it out"
        )
    fabric.launch()
    torch.set_num_threads(run.threads)  # after the launch, which sets them too
    keep_freed_memory()
    if run.precision == "bf16" and fabric.device.type == "cpu" and not multiplies_bfloat16():
        fabric.print(
            "--precision bf16: this processor has no instructions for it, so networks take longer than in float32"
        )
    return fabric


def claim(fabric: Fabric, run: Run, example: str) -> None:
    """Make the folder this run's own, before anything in it is touched."""
    checkpoints.check(run.out, {"example": example} | run.noted(), run.resume, run.overwrite)
    fabric.barrier()
    if fabric.is_global_zero:
        checkpoints.claim(run.out, {"example": example} | run.noted() | run.measured(), run.resume)
    fabric.barrier()


def train(fabric: Fabric, model: FlowVAE, draw: Draw, run: Run) -> float:
    """Train in place and return the seconds that it took, those before a resume included.

    Leaves the process with 128 + the signal's number if that asked for a stop, the last step being saved.
    """
    wrapped, *optimisers = fabric.setup(model.train(), *optimisers_of(model, run))
    if run.compile:  # for the device that the model now is on
        model.compile_flow()
        fabric.print("compiling, which takes a minute or more", flush=True)
    schedules = [_schedule(optimiser, run) for optimiser in optimisers]
    parts = {f"optimiser {n}": optimiser for n, optimiser in enumerate(optimisers)}
    parts |= {f"schedule {n}": schedule for n, schedule in enumerate(schedules)}
    state = checkpoints.restore(run.out, model, parts) if run.resume else {"step": 0, "seconds": 0.0}
    first, began = state["step"], time.monotonic() - state["seconds"]
    progress = Progress(
        run.out, first, run.steps, lambda x: fabric.all_reduce(x, reduce_op="mean"), fabric.is_global_zero
    )
    # On the CPU a look at values costs nothing and names what went wrong; elsewhere each would wait for the device.
    with progress, signals() as received, validate_values(fabric.device.type == "cpu"):
        for step in range(first, run.steps):
            if model.selector is not None:
                model.selector.anneal(step)
            terms = take_step(fabric, wrapped, optimisers, draw, run, step)
            for schedule in schedules:
                schedule.step()
            progress(step + 1, terms)
            last = step + 1 == run.steps
            stop = asked(fabric, received, last or (step + 1) % READ_EVERY == 0)
            if stop or last or (step + 1) % run.save_every == 0:
                progress.read()  # so that no checkpoint is made of a loss that is not finite
                if fabric.is_global_zero:
                    spent = {"seconds": time.monotonic() - began}
                    saved = {name: part.state_dict() for name, part in parts.items()}
                    checkpoints.save(run.out, step + 1, model, saved | spent)
            if stop:
                leave(fabric, received, step + 1)
    disband()
    return time.monotonic() - began


def optimisers_of(model: FlowVAE, run: Run) -> list[torch.optim.Optimizer]:
    """Adam, with decay of the potentials only: latents that one flow leaves alone are free for another. And Muon, if wanted."""
    decayed = list(model.flow.potential.parameters())
    hidden = [] if run.muon is None else _hidden(model)
    others = [p for p in model.parameters() if all(p is not q for q in decayed + hidden)]
    groups = [{"params": others, "weight_decay": 0.0}, {"params": decayed, "weight_decay": run.decay}]
    found: list[torch.optim.Optimizer] = [torch.optim.AdamW(groups, lr=run.learning_rate, fused=True)]
    if run.muon is not None:
        # Three steps to an orthogonal update instead of five: nearly as good, and that update is what takes the time.
        found.append(Muon(hidden, lr=run.muon, weight_decay=0.0, ns_steps=3))
    return found


def _hidden(model: FlowVAE) -> list[nn.Parameter]:
    """Matrices between hidden layers: neither side is as short as a latent or the colours, nor as long as an image."""
    networks = (model.encoder, model.decoder, *([] if model.selector is None else [model.selector]))
    found = [
        p
        for network in networks
        for p in network.parameters()
        if p.ndim == 2 and min(p.shape) >= HIDDEN and p.numel() <= LARGEST
    ]
    if not found:
        raise ValueError(
            f"--muon: got networks without a matrix of {HIDDEN} or more rows and columns and at most {LARGEST} numbers, "
            "expected at least one for Muon to train; use --muon None, or take a larger --width"
        )
    return found


def take_step(
    fabric: Fabric, model: nn.Module, optimisers: Sequence[torch.optim.Optimizer], draw: Draw, run: Run, step: int
) -> dict[str, Tensor]:
    """One step of a model set up by Fabric; the terms of the loss, and what else the model noted.

    Reads no value and has the same shapes every time, as a CUDA graph needs it. Only its seeds, new ones in each step, no graph
    can hold: `benchmarks/accelerator.py` captures what is left.
    """
    for optimiser in optimisers:
        optimiser.zero_grad(set_to_none=True)
    parts = []
    for part in range(run.accumulate):
        share = fabric.global_rank * run.accumulate + part
        # All of torch.manual_seed takes its time, to seed devices that take no part.
        (torch.default_generator if fabric.device.type == "cpu" else torch).manual_seed(_mixed(run.seed, step, share))
        x, k = draw(run.batch // run.shares, step, share)
        half = torch.autocast(x.device.type, torch.bfloat16, enabled=run.precision == "bf16")
        with fabric.no_backward_sync(model, enabled=part + 1 < run.accumulate):
            with half:
                terms, noted = model(x, k)
            fabric.backward(torch.stack(list(terms.values())).sum() / run.accumulate)
        parts.append({name: value.detach() for name, value in (terms | noted).items()})
    for optimiser in optimisers:
        optimiser.step()
    return {name: torch.stack([part[name] for part in parts]).mean() for name in parts[0]}


def _mixed(*numbers: int) -> int:
    """A seed made of several numbers, such that neighbours have nothing in common."""
    return int(np.random.SeedSequence(numbers).generate_state(1, np.uint64)[0])


def _schedule(optimiser: torch.optim.Optimizer, run: Run) -> torch.optim.lr_scheduler.LRScheduler:
    if run.schedule == "constant":
        return torch.optim.lr_scheduler.ConstantLR(optimiser, factor=1.0)
    # A tenth, but never exactly one step: OneCycleLR would divide by zero.
    return torch.optim.lr_scheduler.OneCycleLR(
        optimiser, optimiser.param_groups[0]["lr"], total_steps=run.steps, pct_start=0.101
    )
