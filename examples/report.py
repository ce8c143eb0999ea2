"""What a run found, as tables on the terminal."""

from __future__ import annotations

from typing import Any

from rich.console import Console
from rich.table import Table

WIDE = 120  # characters


def show(results: dict[str, Any], note: str = "", on: str = "held-out images") -> None:
    """Print the tables; the note says what the data are, where that is not the real ones, and `on` what was measured."""
    out = console()
    table = _table(
        f"equivariance error on {on}, summed over pixels and steps{note and f' ({note})'}",
        "transformation", "flow", "identity", "ratio", "black", "autoencoded", "folds",
    )  # fmt: skip
    for name, row in results["transformations"].items():
        floors = (f"{row[what]:.1f}" for what in ("black", "autoencoded"))
        table.add_row(name, *_cells(row), *floors, f"{100 * row['folds']:.2f} %")
    out.print(table)
    out.print(
        "identity: the error of standing still, a ratio below 1 beats it\n"
        "black: that of drawing nothing\n"
        "autoencoded: each frame encoded and decoded by itself, by an encoder\n"
        "that has seen first frames only"
    )
    if "compositions" in results:
        out.print(_compositions(results["compositions"]))
    if results.get("extrapolation") or results.get("out_of_distribution"):
        out.print(_elsewhere(results))
    if "transport" in results:
        out.print(_transport(results["transport"]))
    if "bounds" in results:
        _bounds(out, results["bounds"])
    if "variation" in results:
        out.print(_variation(results["variation"]))
    if "selection" in results:
        _selection(out, results["selection"], list(results["transformations"]))


def console() -> Console:
    """A terminal as wide as it is; a file or a pipe has room for whole tables."""
    terminal = Console()
    return terminal if terminal.is_terminal else Console(width=WIDE)


def _compositions(results: dict[str, Any]) -> Table:
    table = _table("compositions, none of them trained", "composition", "flow", "running time", "identity", "ratio")
    for name, row in results["restarted"].items():
        error, identity, ratio = _cells(row)
        table.add_row(name, error, f"{results['running'][name]['error']:.1f}", identity, ratio)
    table.add_section()
    for name, row in results["superposing"].items():
        error, identity, ratio = _cells(row)
        table.add_row(name, error, "", identity, ratio)
    return table


def _elsewhere(results: dict[str, Any]) -> Table:
    table = _table("outside of what was trained", "", "flow", "identity", "ratio")
    for name, row in results["extrapolation"].items():
        table.add_row(f"{name}, further steps", *_cells(row))
    for source, rows in results["out_of_distribution"].items():
        table.add_section()
        for name, row in rows.items():
            table.add_row(f"{source}, {name}", *_cells(row))
    return table


def _transport(results: dict[str, Any]) -> Table:
    table = _table(
        "cost of the paths (squared distance in unit time), and residuals (root mean square)",
        "transformation", "path", "straight", "optimal", "residual", "between steps", "force",
    )  # fmt: skip
    for name, row in results.items():
        costs = (f"{row[cost]:.2f}" for cost in ("path", "straight", "optimal"))
        sizes = (f"{row['residual'][where]:.3f}" for where in ("grid", "between", "force"))
        table.add_row(name, *costs, *sizes)
    return table


def _bounds(out: Console, bounds: dict[str, Any]) -> None:
    out.print(f"evidence bounds, {bounds['unit']} (unit-variance Gaussian decoder):")
    for name in ("marginal", "initial", "importance_weighted"):
        out.print(f"  {name.replace('_', ' '):<20}{bounds[name]:>10.1f}")
    out.print(f"  {'no model can exceed':<20}{bounds['gaussian_constant']:>10.1f}")


def _variation(found: dict[str, Any]) -> Table:
    title = f"variation predictability: accuracies in per cent, of {found['pairs']} pairs and {found['epochs']} epochs"
    table = _table(title, "first and last frames", "learned from", "best epoch", "last epoch")
    for name in ("decoded", "true"):
        for share, row in found[name].items():
            table.add_row(name, share.replace("%", " %"), f"{100 * row['best']:.2f}", f"{100 * row['final']:.2f}")
    return table


def _selection(out: Console, selection: dict[str, Any], names: list[str]) -> None:
    out.print(f"matched selection: {100 * selection['accuracy']:.2f} %")
    table = _table("how often each transformation chose each potential", "", *map(str, range(len(names))))
    for name, counts in zip(names, selection["confusion"], strict=True):
        table.add_row(name, *map(str, counts))
    out.print(table)


def _table(title: str, first: str, *others: str) -> Table:
    table = Table(title=title, title_justify="left")
    table.add_column(first, overflow="fold")  # where there is no room, names give way, not numbers
    for column in others:
        table.add_column(column, justify="right", no_wrap=True)
    return table


def _cells(row: dict[str, float]) -> tuple[str, str, str]:
    return f"{row['error']:.1f}", f"{row['identity']:.1f}", f"{row['error'] / row['identity']:.3f}"
