"""Many runs of the MNIST example in one command that may be stopped and started again.

readings: one change at a time from the default, for all that the paper leaves open or that a derivation reads differently.

seeds: the same settings, with labels and without, from several seeds.
"""

from __future__ import annotations

import dataclasses
import json
import statistics
import sys
from pathlib import Path
from typing import Any, Literal

import checkpoints
import mnist
import tyro
from rich.console import Console
from rich.table import Table

READINGS: dict[str, dict[str, Any]] = {
    "default": {},
    "f = 0": {"force": "none"},
    "force at a price": {"force": "penalised"},
    "no constraint": {"constraint": 0.0},
    "constraint between steps": {"times": "uniform"},
    "no initial term": {"initial_term": 0.0},
    "start label, no initial term": {"label": "start", "initial_term": 0.0},
    "bound (A)": {"initial": 0.0, "marginal": 1.0},
    "bound (B), no log-determinant": {"marginal": 0.0, "log_det": "none"},
    "eq. 10's log-determinant": {"log_det": "laplacian"},
    "bound (A), eq. 10": {"initial": 0.0, "marginal": 1.0, "log_det": "laplacian"},
    "plain decoder": {"networks": "small"},
}
SEEDS: dict[str, dict[str, Any]] = {"labels": {}, "no labels": {"supervision": "none"}}


@dataclasses.dataclass(frozen=True)
class Sweep:
    """Run what has not been run, then print and write the means and deviations."""

    what: tyro.conf.Positional[Literal["readings", "seeds"]]
    """which changes"""
    base: mnist.Settings
    """of all runs"""
    seeds: int = 3
    """runs of each, seeds 0, 1, ..."""
    to: Path | None = None
    """JSON file for the summary; OUT/summary.json, if left out"""


def main(sweep: Sweep) -> None:
    changes = READINGS if sweep.what == "readings" else SEEDS
    rows = {}
    for name, change in changes.items():
        found = [_results(dataclasses.replace(sweep.base, seed=seed, **change), name) for seed in range(sweep.seeds)]
        rows[name] = _summary(found)
    content = {
        "settings": sweep.base.noted() | {"seed": list(range(sweep.seeds))},
        "hardware": found[0]["hardware"],
        "rows": rows,
    }
    checkpoints.write(sweep.to or sweep.base.out / "summary.json", content)
    _show(rows)


def _results(settings: mnist.Settings, name: str) -> dict[str, Any]:
    """Of a run that is done, or is done now, from where it was stopped."""
    out = settings.out / name.replace(" ", "-") / str(settings.seed)
    settings = dataclasses.replace(settings, out=out)
    written = out / "results.json"
    if written.exists() and _same(json.loads(written.read_text())["settings"], settings.noted()):
        return dict(json.loads(written.read_text()))
    print(f"{name}, seed {settings.seed}", flush=True)
    noted = out / "settings.json"
    goes_on = checkpoints.last(out) is not None and _same(json.loads(noted.read_text()), settings.noted())
    mnist.main(dataclasses.replace(settings, resume=goes_on, overwrite=not goes_on))
    return dict(json.loads(written.read_text()))


def _same(noted: dict[str, Any], settings: dict[str, Any]) -> bool:
    return noted == json.loads(json.dumps(settings, default=str))


def _summary(found: list[dict[str, Any]]) -> dict[str, dict[str, float]]:
    """Mean and deviation over the runs of each figure."""
    numbers = [_numbers(results) for results in found]
    return {
        name: {
            "mean": statistics.fmean(each[name] for each in numbers),
            "deviation": statistics.stdev(each[name] for each in numbers) if len(numbers) > 1 else 0.0,
        }
        for name in numbers[0]
    }


def _numbers(results: dict[str, Any]) -> dict[str, float]:
    single, composed = results["transformations"], results["compositions"]
    numbers = {f"{name} error": row["error"] for name, row in single.items()}
    numbers |= {f"{name} ratio": row["error"] / row["identity"] for name, row in single.items()}
    for kind, rows in composed.items():
        numbers[kind] = statistics.fmean(row["error"] / row["identity"] for row in rows.values())
    numbers["folds"] = statistics.fmean(row["folds"] for row in single.values())
    transport = results["transport"].values()
    numbers["path / optimal"] = statistics.fmean(row["path"] / row["optimal"] for row in transport)
    for where in ("grid", "between", "force"):
        numbers[f"residual {where}"] = statistics.fmean(row["residual"][where] for row in transport)
    for bound in ("marginal", "initial", "importance_weighted"):
        numbers[bound] = results["bounds"][bound]
    if "selection" in results:
        numbers["selection"] = results["selection"]["accuracy"]
    return numbers | {"seconds": results["seconds"]}


def _show(rows: dict[str, dict[str, dict[str, float]]]) -> None:
    columns = list(next(iter(rows.values())))
    table = Table()
    table.add_column("")
    for name in rows:
        table.add_column(name, justify="right")
    for column in columns:
        cells = [row.get(column) for row in rows.values()]
        table.add_row(column, *("" if c is None else f"{c['mean']:.4g} ± {c['deviation']:.2g}" for c in cells))
    Console().print(table)


if __name__ == "__main__":
    try:
        main(tyro.cli(Sweep, description=__doc__))
    except (ValueError, FileNotFoundError) as error:
        sys.exit(f"error: {error}")
