"""What several metrics ask of what they are given."""

from __future__ import annotations

from torch import Tensor

from latentflow.validate import require, require_floating


def check_sequences(name: str, x: Tensor, other_name: str, other: Tensor, fix: str = "divide images by 255") -> None:
    """Raise unless both are sequences (B, T+1, ...) of one shape."""
    require_floating(name, x, fix)
    require_floating(other_name, other, fix)
    if x.shape != other.shape or x.ndim < 3 or x.shape[1] < 2:
        raise ValueError(
            f"{name}, {other_name}: got shapes {tuple(x.shape)} and {tuple(other.shape)}, expected two equal (B, T+1, ...) "
            "with T >= 1; stack the frames on axis 1"
        )


def require_pixels(name: str, x: Tensor) -> None:
    """Raise unless all values lie in [0, 1]."""
    require(
        (x >= 0) & (x <= 1),
        lambda: f"{name}: got values from {x.min():.3g} to {x.max():.3g}, expected [0, 1]; divide images by 255",
    )


def require_integers(name: str, x: object, fix: str) -> None:
    """Raise TypeError unless `x` is a tensor of integers."""
    if not isinstance(x, Tensor):
        raise TypeError(f"{name}: got {type(x).__name__}, expected an integer tensor; {fix}")
    if x.is_floating_point() or x.is_complex():
        raise TypeError(f"{name}: got dtype {x.dtype}, expected an integer dtype; {fix}")
