"""How the pages show what the results files of the examples say."""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from typing import Any

from IPython.display import Markdown


def table(header: Sequence[str], rows: Iterable[Sequence[Any]]) -> Markdown:
    """A name in the first column, numbers in all others."""
    lines = ["| " + " | ".join(header) + " |", "| --- |" + " ---: |" * (len(header) - 1)]
    return Markdown("\n".join([*lines, *("| " + " | ".join(map(str, row)) + " |" for row in rows)]))


def where(hardware: dict[str, Any]) -> str:
    """On what, and by which commit."""
    machine = hardware.get("accelerator") or f"{hardware['threads']} threads of {hardware['processor']}"
    return f"{machine}, torch {hardware['torch']}, commit `{hardware['commit']}`"
