"""Where data sets lie, and the error that says what is wrong with one."""

from __future__ import annotations

import os
from pathlib import Path


class DataError(ValueError):
    """A data file is missing, truncated or not what it should be.

    Which errors a library raises of a damaged file is not documented, and not to be foreseen: HDF5 has TypeErrors, Pillow
    IndexErrors, NumPy those of Python's tokenizer. Readers turn all of them into this one, which names the file.
    """


def data_folder() -> Path:
    """Where data sets lie: $LATENTFLOW_DATA, by default ``data`` in the working folder."""
    return Path(os.environ.get("LATENTFLOW_DATA") or "data")
