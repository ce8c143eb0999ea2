"""scikit-learn, imported only where it is asked for, and what it is given: arrays, and a seed."""

from __future__ import annotations

from importlib import import_module
from typing import Any

import torch

from latentflow.validate import require_generator


def scikit_learn(module: str) -> Any:
    """A module of scikit-learn."""
    try:
        return import_module(f"sklearn.{module}")
    except ImportError as error:
        raise ImportError(
            "latentflow.metrics: got no scikit-learn, expected it installed; pip install 'latentflow[scores]'"
        ) from error


def seed(generator: torch.Generator | None) -> int:
    """For what draws random numbers of its own."""
    return int(torch.randint(2**31 - 1, (), generator=generator, device=device_of(generator)))


def device_of(generator: torch.Generator | None) -> torch.device:
    """Where it draws."""
    require_generator(generator)
    return torch.device("cpu") if generator is None else generator.device
