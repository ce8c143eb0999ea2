"""Where data sets lie, and the error that says what is wrong with one."""

from __future__ import annotations

import os
import tokenize
import zipfile
import zlib
from pathlib import Path

# What reading damaged, truncated, encrypted or foreign arrays and archives of arrays raises. NumPy's reader of headers parses
# them as Python's tokens, and reserves as much memory as they promise.
DAMAGES = (
    EOFError,
    KeyError,
    MemoryError,
    OSError,
    RuntimeError,
    SyntaxError,
    ValueError,
    tokenize.TokenError,
    zipfile.BadZipFile,
    zlib.error,
)


class DataError(ValueError):
    """A data file is missing, truncated or not what it should be."""


def data_folder() -> Path:
    """Where data sets lie: $LATENTFLOW_DATA, by default ``data`` in the working folder."""
    return Path(os.environ.get("LATENTFLOW_DATA") or "data")
