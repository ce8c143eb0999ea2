"""Many runs of the MNIST example in one command that may be stopped and started again.

readings: one change at a time from the default, for most of what the paper leaves open or a derivation reads differently.

seeds: the same settings, with labels and without, from several seeds.

All other options are those of mnist.py: python examples/sweep.py readings --preset cpu --steps 300 --evaluate-on validation
"""

from __future__ import annotations

import argparse
import dataclasses
import statistics
import sys
from pathlib import Path
from typing import Any

import checkpoints
import mnist
from experiment import errors_in_one_line
from report import console
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
    "no decay": {"decay": 0.0},
}
SHOWN = {
    "scaling": "scaling ratio",
    "rotation": "rotation ratio",
    "coloring": "coloring ratio",
    "switch": "restarted",
    "both": "superposing",
    "folds": "folds",
    "residual": "residual grid",
}
Row = dict[str, dict[str, float | None]]  # mean and deviation of each figure

SEEDS: dict[str, dict[str, Any]] = {"labels": {}, "no labels": {"supervision": "none"}}


def sweep(changes: dict[str, dict[str, Any]], base: mnist.Settings, seeds: int, to: Path | None = None) -> None:
    """Run what has not been run, then print the means and deviations, and write them to a JSON file."""
    if base.devices * base.nodes > 1:
        raise ValueError(
            f"--devices, --nodes: got {base.devices} and {base.nodes}, expected 1; run several sweeps side by side instead"
        )
    if seeds < 1:
        raise ValueError(f"--seeds: got {seeds}, expected at least 1; it is how many, 0, 1, ...")
    rows = {}
    for name, change in changes.items():
        found = [_results(dataclasses.replace(base, seed=seed, **change), name) for seed in range(seeds)]
        rows[name] = _summary(found)
    settings = base.reported() | {"seed": list(range(seeds))}
    checkpoints.write(
        to or base.out / "summary.json", {"settings": settings, "hardware": found[0]["hardware"], "rows": rows}
    )
    _show(rows)


def _results(settings: mnist.Settings, name: str) -> dict[str, Any]:
    """Of a run that is done, or is done now, from where it was stopped."""
    out = settings.out / name.replace(" ", "-") / str(settings.seed)
    settings, written = dataclasses.replace(settings, out=out), out / "results.json"
    goes_on = False
    if not settings.overwrite:
        if written.exists() and checkpoints.read(written)["settings"] == checkpoints.as_noted(settings.reported()):
            print(f"{name}, seed {settings.seed}: done before", flush=True)
            return checkpoints.read(written)
        before = checkpoints.settings_of(out)
        changed = checkpoints.differing(before, settings.noted()) if before else []
        if changed:
            raise ValueError(
                f"--out: got {out}, which holds a run with other settings ({', '.join(changed)}), expected these; give them "
                "again, name another folder, or start anew with --overwrite"
            )
        goes_on = checkpoints.last(out) is not None
    print(f"{name}, seed {settings.seed}", flush=True)
    # Without a checkpoint there is nothing to lose.
    mnist.main(dataclasses.replace(settings, resume=goes_on, overwrite=not goes_on))
    return checkpoints.read(written)


def _summary(found: list[dict[str, Any]]) -> Row:
    """Mean and deviation over the runs of each figure; one run has no deviation."""
    numbers = [_numbers(results) for results in found]
    return {
        name: {
            "mean": statistics.fmean(each[name] for each in numbers),
            "deviation": statistics.stdev(each[name] for each in numbers) if len(numbers) > 1 else None,
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
    numbers["path / optimal"] = statistics.fmean(row["path"] / max(row["optimal"], 1e-9) for row in transport)
    for where in ("grid", "between", "force"):
        numbers[f"residual {where}"] = statistics.fmean(row["residual"][where] for row in transport)
    for bound in ("marginal", "initial", "importance_weighted", "gaussian_constant"):
        numbers[bound] = results["bounds"][bound]
    if "selection" in results:
        numbers["selection"] = results["selection"]["accuracy"]
    return numbers | {"seconds": results["seconds"]}


def _show(rows: dict[str, Row]) -> None:
    """What tells most; the rest is in the file."""
    table = Table(title="mean ± deviation; errors as a share of the identity error", title_justify="left")
    table.add_column("", overflow="fold")
    for column in SHOWN:
        table.add_column(column, justify="right", no_wrap=True)
    for name, row in rows.items():
        cells = (row[figure] for figure in SHOWN.values())
        table.add_row(name, *map(_cell, cells))
    console().print(table)


def _cell(figure: dict[str, float | None]) -> str:
    deviation = "" if figure["deviation"] is None else f"\n±{figure['deviation']:.3f}"
    return f"{figure['mean']:.3f}{deviation}"


def main(arguments: list[str]) -> None:
    parser = argparse.ArgumentParser(
        "sweep.py", description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter, allow_abbrev=False
    )
    parser.add_argument("what", choices=("readings", "seeds"))
    parser.add_argument("--seeds", type=int, default=3, help="runs of each, seeds 0, 1, ...")
    parser.add_argument("--to", type=Path, help="JSON file for the summary; OUT/summary.json, if left out")
    own, others = parser.parse_known_args(arguments)
    sweep(READINGS if own.what == "readings" else SEEDS, mnist.settings_of(others), own.seeds, own.to)


if __name__ == "__main__":
    with errors_in_one_line():
        main(sys.argv[1:])
