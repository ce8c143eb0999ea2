"""What several metrics ask of what they are given."""

from __future__ import annotations

import math

import torch
from torch import Tensor

from latentflow.precision import in_full_precision
from latentflow.validate import number, require, require_finite, require_floating, require_generator, require_no_nan

LARGEST = 1e30  # of a code: beyond, squares leave single precision, and classifiers do not terminate


def sequences(
    name: str, x: Tensor, other_name: str, other: Tensor, fix: str = "divide images by 255"
) -> tuple[Tensor, Tensor]:
    """Both in full precision, as their sums need it, if they are sequences (B, T+1, ...) of one shape; else an error."""
    require_floating(name, x, fix)
    require_floating(other_name, other, fix)
    if x.shape != other.shape or x.ndim < 3 or x.shape[1] < 2:
        raise ValueError(
            f"{name}, {other_name}: got shapes {tuple(x.shape)} and {tuple(other.shape)}, expected two equal (B, T+1, ...) "
            "with T >= 1; stack the frames on axis 1"
        )
    return in_full_precision(x), in_full_precision(other)


def require_pixels(name: str, x: Tensor) -> None:
    """Raise unless all values lie in [0, 1]."""
    require_no_nan(name, x, "look for exploding weights")
    require(
        (x >= 0) & (x <= 1),
        lambda: (
            f"{name}: got values from {x.min():.3g} to {x.max():.3g}, expected [0, 1]; "
            f"{'take logits.sigmoid(), or (x + 1) / 2 of [-1, 1]' if x.min() < 0 else 'divide images by 255'}"
        ),
    )


def require_integers(name: str, x: object, fix: str) -> Tensor:
    """Return `x` as int64 if it is a tensor of integers, else raise TypeError."""
    if not isinstance(x, Tensor):
        raise TypeError(f"{name}: got {type(x).__name__}, expected an integer tensor; {fix}")
    if x.is_floating_point() or x.is_complex() or x.dtype == torch.bool:
        raise TypeError(f"{name}: got dtype {x.dtype}, expected an integer dtype; {fix}")
    return x.long()


def require_codes(name: str, x: object) -> Tensor:
    """Return codes in double precision, on the CPU, if they are finite and of a size that can be squared, else raise."""
    codes = require_floating(name, x, "pass posterior means").detach().cpu().double()
    fix = "look for exploding weights"
    require_finite(name, codes, fix)
    require(
        codes.abs() <= LARGEST,
        lambda: f"{name}: got values up to {codes.abs().max():.3g}, expected at most {LARGEST:g}; {fix}",
    )
    return codes


def number_between(name: str, x: object, low: float, high: float, fix: str) -> float:
    """Return `x` as a float if it is a number between these two, else raise."""
    found = number(name, x)
    if not low < found < high:
        end = "" if math.isinf(high) else f" and less than {high:g}"
        raise ValueError(f"{name}: got {found:g}, expected more than {low:g}{end}; {fix}")
    return found


def device_of(generator: torch.Generator | None) -> torch.device:
    """Where it draws: on the CPU, if there is none."""
    require_generator(generator)
    return torch.device("cpu") if generator is None else generator.device


def seed(generator: torch.Generator | None) -> int:
    """A seed for libraries that take an int."""
    return int(torch.randint(2**31 - 1, (), generator=generator, device=device_of(generator)))
