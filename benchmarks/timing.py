"""How all benchmarks time."""

from __future__ import annotations

import random
import statistics
import time
from collections.abc import Callable
from typing import Any


def medians(functions: dict[str, Callable[[], Any]], repeats: int, calls: int = 1) -> dict[str, float]:
    """Milliseconds, the functions taking turns, so that a busy moment of the machine meets all of them.

    What a function finds in the caches depends on who came before it, so each round has an order of its own. With several
    calls in each turn, of which the last one counts, a function comes after itself.
    """
    order, chance = list(functions), random.Random(0)
    for function in functions.values():
        function()
        function()
    times: dict[str, list[float]] = {name: [] for name in functions}
    for _ in range(repeats):
        chance.shuffle(order)
        for name in order:
            for _ in range(calls - 1):
                functions[name]()
            start = time.perf_counter()
            functions[name]()
            times[name].append(1000 * (time.perf_counter() - start))
    return {name: statistics.median(values) for name, values in times.items()}
