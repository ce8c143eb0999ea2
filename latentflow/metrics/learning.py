"""scikit-learn, imported only where it is asked for."""

from __future__ import annotations

from importlib import import_module
from typing import Any


def scikit_learn(module: str) -> Any:
    """A module of scikit-learn."""
    try:
        return import_module(f"sklearn.{module}")
    except ImportError as error:
        raise ImportError(
            "latentflow.metrics: got no scikit-learn, expected it installed; pip install 'latentflow[scores]'"
        ) from error
