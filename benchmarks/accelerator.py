"""The training step of the paper's MNIST experiment on the accelerator at hand, and how much of what that can do it uses.

    python benchmarks --only accelerator --out benchmarks/results/accelerator.json

Batches of 128 sequences of 9 frames and latents of 324 dimensions, the published networks in bfloat16, the flow in float32.
A step renders the frames, encodes, moves, decodes, goes back and takes a step of fused Adam. Potentials are as wide as the
latent, or 64.

* eager: as the examples do it;
* compiled: the flow and its terms of the loss;
* captured: the whole step, replayed as one CUDA graph, where there is CUDA.

The share of a step is what it multiplies and adds in a second, relative to a product of two square matrices of bfloat16 on the
same device. PyTorch counts: products and convolutions, there and back, and nothing else.
"""

from __future__ import annotations

import itertools
from collections.abc import Callable
from typing import Any

import torch
from data.moving_digits import DIGITS
from models import Model, build
from torch.utils.flop_counter import FlopCounterMode

from benchmarks.timing import medians
from latentflow import validate_values

BATCH, DIM, STEPS, SIDE, NUM = 128, 324, 8, 28, len(DIGITS.names)
HIDDEN = (DIM, 64)
SQUARE = 8192  # of the product that a step is compared with
CALLS = 10  # of a step in each turn: the device is waited for once
RATE = 1e-4
KINDS = ("eager", "compiled", "captured")

Step = Callable[[], object]


def training_step(log_det: str, hidden: int, device: torch.device, compiled: bool = False) -> Step:
    """That of the published networks, all of it on the device: nothing is read, so nothing is waited for."""
    torch.manual_seed(0)
    settings = Model(
        dim=DIM, networks="paper", bounded=True, hidden=hidden, frames=None, initial=0.0, marginal=1.0, log_det=log_det
    )
    model = build(settings, 3, SIDE, NUM, STEPS).to(device).train()
    if compiled:
        model.compile_flow()
    captures = device.type == "cuda"
    optimiser = torch.optim.Adam(model.parameters(), RATE, fused=True, capturable=captures)
    digits, k = torch.rand(BATCH, SIDE, SIDE, device=device), torch.arange(BATCH, device=device) % NUM

    def step() -> None:
        optimiser.zero_grad(set_to_none=True)
        x = DIGITS.single(digits, k, STEPS)
        with torch.autocast(device.type, torch.bfloat16):
            terms, _ = model(x, k)
        torch.stack([*terms.values()]).sum().backward()
        optimiser.step()

    return step


def captured(step: Step) -> Step:
    """The step as a CUDA graph."""
    aside = torch.cuda.Stream()
    aside.wait_stream(torch.cuda.current_stream())
    with torch.cuda.stream(aside):  # the first calls choose algorithms and make the optimiser's state
        for _ in range(3):
            step()
    torch.cuda.current_stream().wait_stream(aside)
    graph = torch.cuda.CUDAGraph()
    with torch.cuda.graph(graph):
        step()
    return graph.replay


def product(device: torch.device) -> Step:
    left, right = torch.randn(2, SQUARE, SQUARE, device=device, dtype=torch.bfloat16)
    return lambda: left @ right


def operations(step: Step) -> int:
    """Of one call: a multiplication and an addition are two."""
    with FlopCounterMode(display=False) as counter:
        step()
    return counter.get_total_flops()


def several(step: Step, device: torch.device) -> Step:
    """So many calls that waiting for the device does not count."""

    def calls() -> None:
        for _ in range(CALLS):
            step()
        if device.type != "cpu":
            torch.accelerator.synchronize(device)

    return calls


def measure(repeats: int) -> dict[str, Any]:
    """Of each step and of the product: milliseconds, operations, and the share."""
    return measure_on(torch.accelerator.current_accelerator(), repeats)


def measure_on(device: torch.device, repeats: int) -> dict[str, Any]:
    """The same on this device."""
    steps, counts = {"product": product(device)}, {"product": 2 * SQUARE**3}
    with validate_values(False):
        for hidden, log_det in itertools.product(HIDDEN, ("hutchinson", "exact")):
            count = operations(training_step(log_det, hidden, device))
            for kind in KINDS if device.type == "cuda" else KINDS[:2]:
                name = f"{log_det}, hidden = {hidden}, {kind}"
                step = training_step(log_det, hidden, device, compiled=kind == "compiled")
                try:
                    steps[name] = captured(step) if kind == "captured" else step
                except RuntimeError as error:  # what takes minutes to compile is measured all the same
                    print(f"{name}: {error}", flush=True)
                else:
                    counts[name] = count
        milliseconds = medians({name: several(step, device) for name, step in steps.items()}, repeats)
    found = {name: {"milliseconds": ms / CALLS, "operations": counts[name]} for name, ms in milliseconds.items()}
    most = counts["product"] / found["product"]["milliseconds"]
    for name, each in found.items():
        each["share"] = each["operations"] / each["milliseconds"] / most
        print(f"{name}: {each['milliseconds']:.2f} ms, {100 * each['share']:.0f} % of the product's speed", flush=True)
    return found
