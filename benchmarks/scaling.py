"""Time and peak memory of a forward and backward pass as one of K, T, d and B grows and the others stay.

It is latentflow's part of a loss only, see `loss`; encoders and decoders come on top. Each sample is moved by one potential,
and the labels of a batch are mixed over all of them.
"""

from __future__ import annotations

import math
from collections.abc import Callable
from typing import Any

from matplotlib.figure import Figure

from benchmarks.loss import TYPICAL, forward_and_backward
from benchmarks.memory import MIB, peak_bytes
from benchmarks.timing import medians

GROWING = {  # the argument that grows, how we write it and its sizes; the others stay typical
    "num": ("K", (1, 4, 16, 64)),
    "steps": ("T", (1, 4, 16, 64)),
    "dim": ("d", (8, 32, 128, 512)),
    "batch": ("B", (16, 128, 512, 2048)),
}
WIDEST = 128  # exact log-determinants in more dimensions only with narrow potentials
NARROW = 64
STYLES = {"exact": ("#0072B2", "o"), f"exact, hidden={NARROW}": ("#56B4E9", "s"), "hutchinson": ("#D55E00", "^")}
NAMES = {"K": "K, potentials", "T": "T, steps", "d": "d, latent dimensions", "B": "B, sequences in a batch"}


def measure(repeats: int) -> dict[str, Any]:
    """What stays, and by what grows: its sizes, and of each contestant milliseconds and MiB; None where it takes no part."""
    growing = {}
    for argument, (letter, sizes) in GROWING.items():
        points = []
        for size in sizes:
            points.append(_measure(TYPICAL | {argument: size}, repeats))
            told = (f"  {who}: {ms:.1f} ms, {mib:.1f} MiB" for who, (ms, mib) in points[-1].items())
            print(f"{letter} = {size}", *told, sep="\n", flush=True)
        who_ran = [who for who in STYLES if any(who in point for point in points)]
        growing[letter] = {"sizes": list(sizes)} | {
            quantity: {who: [point[who][index] if who in point else None for point in points] for who in who_ran}
            for index, quantity in enumerate(("milliseconds", "MiB"))
        }
    return {"typical": {letter: TYPICAL[argument] for argument, (letter, _) in GROWING.items()}, "growing": growing}


def _measure(size: dict[str, int], repeats: int) -> dict[str, tuple[float, float]]:
    functions = contestants(size)
    times = medians(functions, math.ceil(repeats / 4))  # a large point takes seconds, and the trend shows anyway
    return {who: (times[who], peak_bytes(function) / MIB) for who, function in functions.items()}


def contestants(size: dict[str, int]) -> dict[str, Callable[[], None]]:
    """The ways to the log-determinant that are worth their time at this size."""
    found = {"hutchinson": forward_and_backward("hutchinson", **size)}
    if size["dim"] <= WIDEST:
        found["exact"] = forward_and_backward("exact", **size)
    if size["dim"] >= WIDEST:
        found[f"exact, hidden={NARROW}"] = forward_and_backward("exact", hidden=NARROW, **size)
    return found


def figure(results: dict[str, Any], quantity: str) -> Figure:
    """One panel for each of K, T, d and B, both axes logarithmic; `quantity` is "milliseconds" or "MiB"."""
    drawing = Figure(figsize=(8.6, 5.6), layout="constrained")
    panels = drawing.subplots(2, 2, sharey=True)
    for panel, (letter, growth) in zip(panels.flat, results["growing"].items(), strict=False):
        sizes = growth["sizes"]
        for who, values in growth[quantity].items():
            colour, marker = STYLES[who]
            points = [(size, value) for size, value in zip(sizes, values, strict=True) if value is not None]
            panel.plot(*zip(*points, strict=True), color=colour, marker=marker, label=who)
        panel.set_xscale("log", base=2)
        panel.set_yscale("log")
        panel.set_xticks(sizes, [str(size) for size in sizes])
        panel.minorticks_off()
        panel.set_xlabel(NAMES[letter])
        panel.grid(color="0.9")
    lowest, highest = panels[0, 0].get_ylim()
    for panel, growth in zip(panels.flat, results["growing"].values(), strict=False):
        first, last = growth["sizes"][0], growth["sizes"][-1]
        line = 1.3 * lowest, 1.3 * lowest * last / first
        panel.plot((first, last), line, ":", color="0.5", zorder=0, label="proportional")
    panels[0, 0].set_ylim(lowest, highest)  # the guides must not stretch the axes
    for panel in panels[:, 0]:
        panel.set_ylabel(quantity)
    lines = {line.get_label(): line for panel in panels.flat for line in panel.get_lines()}
    names = [name for name in (*STYLES, "proportional") if name in lines]
    drawing.legend([lines[name] for name in names], names, loc="outside upper center", ncols=len(names), frameon=False)
    return drawing
