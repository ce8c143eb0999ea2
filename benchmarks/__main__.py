"""Measure what latentflow costs, one thing after the other, and keep it in one file.

    python benchmarks [--only rollout scaling] [--out benchmarks/results/cpu.json]

* rollout: a whole rollout against nested `torch.autograd.grad` written the usual way;
* training_step: a training step against its networks alone and against the step as published;
* scaling: time and peak memory as the number of potentials, the steps, the dimensions or the batch grow;
* memory: peak memory of each way to the log-determinant, and of the rollouts.

When asked for with --only, of the data of the examples:

* rendering: frames per second of the synthetic scenes, and their share of a training step;
* loading: images per second of the readers of files.

And on a GPU:

* accelerator: the training step of the paper's MNIST experiment.

Contestants take turns, in a new order each round, and medians are compared: only ratios of one run mean anything, as absolute
times depend on the machine and on what else it does.
"""

from __future__ import annotations

import argparse
import json
import sys
from importlib import import_module
from pathlib import Path
from typing import Any

sys.path.insert(0, str(Path(__file__).parents[1] / "examples"))  # training_step trains as they do
sys.path.insert(0, str(Path(__file__).parents[1]))

import torch
from hardware import hardware, keep_freed_memory

BENCHMARKS = ("rollout", "training_step", "scaling", "memory")
DATA = ("rendering", "loading")  # of the examples, not of the library
ACCELERATOR = "accelerator"
RESULTS = Path(__file__).parent / "results"


def main(arguments: list[str] | None = None) -> None:
    parser = argparse.ArgumentParser(
        "benchmarks", description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    every = (*BENCHMARKS, *DATA, ACCELERATOR)
    parser.add_argument("--only", nargs="+", choices=every, default=BENCHMARKS, help="leave out the others")
    parser.add_argument("--repeats", type=int, default=75, help="of each measurement")
    parser.add_argument("--threads", type=int, default=2)
    parser.add_argument("--out", type=Path, help="JSON; by default in benchmarks/results, unless something is left out")
    options = parser.parse_args(arguments)
    torch.set_num_threads(options.threads)
    keep_freed_memory()  # as the examples do
    device = torch.accelerator.current_accelerator(check_available=True) if ACCELERATOR in options.only else None
    if device is None and ACCELERATOR in options.only:
        parser.error("--only accelerator: got none, expected a GPU that PyTorch can use; leave it out on this machine")
    results = {"hardware": hardware(device), "repeats": options.repeats}
    for name in options.only:
        print(f"\n{name}", flush=True)
        results[name] = _measure(name, options.repeats)
    out = options.out
    if out is None and set(options.only) == set(BENCHMARKS):
        out = RESULTS / "cpu.json"
    if out is not None:
        out.parent.mkdir(parents=True, exist_ok=True)
        out.write_text(json.dumps(results, indent=2) + "\n")


def _measure(name: str, repeats: int) -> dict[str, Any]:
    measure = import_module(f"benchmarks.{name}").measure
    return measure() if name == "memory" else measure(repeats)  # bytes are the same each time


if __name__ == "__main__":
    main()
