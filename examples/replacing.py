"""Files that are whole or not there, however a run ends while they are written."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path


@contextmanager
def replacing(path: Path) -> Iterator[Path]:
    """A file beside `path` to write to, which takes its place once all is written."""
    partial = path.with_name(f".{path.name}")
    yield partial
    partial.replace(path)
