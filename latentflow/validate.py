"""Errors that say what was got, what was expected and how to mend it.

Shapes and dtypes are always checked: they cost nothing and hold under every transformation of PyTorch. Values (finite
latents, labels in range, non-negative weights) need the numbers themselves, so they are looked at in eager mode only and
never inside `torch.compile`, `torch.export`, `vmap` or a CUDA graph capture. `validate_values` turns them off.
"""

from __future__ import annotations

import math
import operator
from collections.abc import Callable, Sequence
from contextvars import ContextVar
from numbers import Real
from types import TracebackType
from typing import SupportsIndex, TypeVar

import numpy as np
import torch
from torch import Tensor

Found = TypeVar("Found")
_VALUES_ARE_CHECKED: ContextVar[bool] = ContextVar("latentflow_values_are_checked", default=True)


class validate_values:
    """Turn the checks of values on or off, as a call or as a context manager.

    Reading a value makes the host wait for the device. Training loops that want no such wait turn the checks off once
    their data is known to be good. The setting belongs to the current thread or task; shapes and dtypes stay checked.

    Args:
        enabled: whether values are looked at from now on.

    Raises:
        TypeError: enabled is no bool.

    Example:
        >>> import latentflow
        >>> with latentflow.validate_values(False):
        ...     pass  # labels, weights and latents are taken on trust in here
    """

    def __init__(self, enabled: bool) -> None:
        if not isinstance(enabled, bool):
            raise TypeError(f"enabled: got {enabled!r}, expected True or False; it stays so until it is told otherwise")
        self._enabled, self._tokens = enabled, [_VALUES_ARE_CHECKED.set(enabled)]
        self._entered = False

    def __enter__(self) -> None:
        if self._entered:  # once more: the first time it was set when it was made
            self._tokens.append(_VALUES_ARE_CHECKED.set(self._enabled))
        self._entered = True

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        _VALUES_ARE_CHECKED.reset(self._tokens.pop())


def as_validated_now(function: Callable[..., Found]) -> Callable[..., Found]:
    """The function with values checked or not as they are now: it may be called again later, or by a thread of autograd."""
    if torch.compiler.is_compiling():  # where none are checked
        return function
    enabled = _VALUES_ARE_CHECKED.get()

    def inner(*inputs: object) -> Found:
        with validate_values(enabled):
            return function(*inputs)

    return inner


def holds(condition: Tensor) -> bool | None:
    """Whether every element of `condition` holds, or None where values may not be read."""
    return read(condition, lambda x: bool(x.all()))


def sum_is_finite(x: Tensor) -> bool | None:
    """Whether the sum of `x` is finite, hence all of x, or None where values may not be read. One number tells."""
    return read(x, lambda x: math.isfinite(x.sum().item()))


def read(x: Tensor, of: Callable[[Tensor], Found]) -> Found | None:
    """What `of` reads of the values of `x`, or None where values may not be read."""
    try:
        return of(x) if may_read(x) else None
    except RuntimeError:  # inside vmap or with fake tensors there are no numbers to read
        return None


def may_read(x: Tensor) -> bool:
    """Whether values of `x` may be waited for: not in compiled code, a CUDA graph, or where `validate_values` forbids it."""
    if torch.compiler.is_compiling() or not _VALUES_ARE_CHECKED.get():
        return False
    return not (x.is_cuda and torch.cuda.is_current_stream_capturing())


def require(condition: Tensor, message: Callable[[], str]) -> None:
    """Raise `ValueError(message())` unless every element of `condition` holds; skipped where values may not be read."""
    if holds(condition) is False:
        raise ValueError(message())


def require_finite(name: str, x: Tensor, fix: str, *, by_sample: bool = False) -> None:
    """Raise unless all of `x` is finite, naming the samples (first axis) that are not; of (B,) where it is said `by_sample`."""
    if sum_is_finite(x) is False:  # to which an overflow suffices
        _require_each(name, x.isfinite(), by_sample, "non-finite values", "finite numbers", fix)


def require_no_nan(name: str, x: Tensor, fix: str, *, by_sample: bool = False) -> None:
    """Like `require_finite`, but infinities may stand, as the log density of an impossible point."""
    if sum_is_finite(x) is False:
        _require_each(name, ~x.isnan(), by_sample, "nan", "numbers", fix)


def require_floating(name: str, x: object, fix: str) -> Tensor:
    """Return `x` if it is a floating tensor, else raise TypeError."""
    if not isinstance(x, Tensor):
        fix = "make a tensor of it, with torch.as_tensor" if isinstance(x, (np.ndarray, list)) else fix
        raise TypeError(f"{name}: got {type(x).__name__}, expected a floating tensor; {fix}")
    if not x.is_floating_point():
        raise TypeError(f"{name}: got dtype {x.dtype}, expected a floating dtype; {fix}")
    return x


def require_floating_dtype(dtype: torch.dtype | None, why: str) -> None:
    """Raise unless parameters can be made of it; None is the default."""
    if dtype is not None and not (isinstance(dtype, torch.dtype) and dtype.is_floating_point):
        raise TypeError(f"dtype: got {dtype}, expected a floating dtype; {why}")


def number(name: str, x: object) -> float:
    """Return `x` as a float if it is a number, else raise TypeError."""
    if not isinstance(x, Real) or isinstance(x, bool):
        raise TypeError(f"{name}: got {x!r}, expected a number; pass an int or a float")
    return float(x)


def as_times(t: object, z: Tensor) -> Tensor:
    """Times of z's dtype and device, or TypeError. A number is made there: a copy would wait, which no CUDA graph allows."""
    if not isinstance(t, Tensor):
        try:
            return z.new_full((), t)  # type: ignore[arg-type]
        except (TypeError, RuntimeError) as error:
            raise TypeError(
                f"t: got {t!r}, expected a number or a tensor; give each latent a time, or all one"
            ) from error
    if t.dtype == torch.bool or t.is_complex():
        raise TypeError(f"t: got {t.dtype}, expected real numbers; convert with .to(z.dtype)")
    return t.to(z)


def broadcasts(shape: Sequence[int], to: Sequence[int]) -> bool:
    """Whether a tensor of this shape can stand for one of the other."""
    return len(shape) <= len(to) and all(n in (1, m) for n, m in zip(shape[::-1], to[::-1], strict=False))


def require_shape(name: str, x: Tensor, shape: Sequence[int], fix: str) -> None:
    """Raise unless x has this shape."""
    if x.shape != tuple(shape):
        raise ValueError(f"{name}: got shape {tuple(x.shape)}, expected {tuple(shape)}; {fix}")


def index(k: int, num: int) -> int:
    """Return `k` if there is such a potential among `num`, else raise."""
    if not 0 <= k < num:
        raise ValueError(f"k: got {k}, expected 0, ..., {num - 1}; the potential has num={num}")
    return k


def labels_in_range(name: str, labels: Tensor, num: int) -> bool:
    """Raise unless labels are among 0, ..., num - 1; False where values may not be read."""
    found = read(labels, lambda x: [end.item() for end in x.aminmax()] if x.numel() > 0 else [0, 0])
    if found is None:
        return False
    low, high = found
    if low < 0 or high >= num:
        raise ValueError(
            f"{name}: got labels from {low} to {high}, expected 0, ..., {num - 1}; the potential has num={num}"
        )
    return True


def active_rows(active: object, lead: Sequence[int], num: int, name: str = "active") -> int | Tensor:
    """What acts on latents of shape `lead`, N in all: an index as it is, labels as (N,), weights as (N, K).

    Labels and weights may broadcast to the latents. Raises where they do not; and where labels are out of range, on the CPU
    and while values are checked.
    """
    if isinstance(active, SupportsIndex) and not isinstance(active, (bool, Tensor)):
        return index(operator.index(active), num)
    if not isinstance(active, Tensor) or active.dtype == torch.bool or active.is_complex():
        got = f"a tensor of {active.dtype}" if isinstance(active, Tensor) else f"{active!r} ({type(active).__name__})"
        raise TypeError(f"{name}: got {got}, expected an index, labels or weights; use .long() or .float() of a tensor")
    weighted = active.is_floating_point()
    shape = (*lead, num) if weighted else tuple(lead)
    if active.shape != shape:
        if not broadcasts(active.shape, shape) or (weighted and active.shape[-1:] != (num,)):
            kind, fix = ("weights", "a weight for each potential") if weighted else ("labels", "one label")
            raise ValueError(
                f"{name}: got {kind} of shape {tuple(active.shape)}, expected {shape}; give each latent {fix}"
            )
        active = active.expand(shape)
    if weighted:
        return active.reshape(-1, num)
    if active.device.type == "cpu":  # elsewhere to look would wait for the device
        labels_in_range(name, active, num)
    return active.reshape(-1).long()


def positive_integer(name: str, value: object, fix: str = "pass a whole number of at least 1") -> int:
    """Return `value` as an int of at least 1, else raise."""
    if type(value) is int and value >= 1:  # nearly always; to ask for a protocol takes longer than a small product
        return value
    return require_integer(name, value, 1, fix)


def require_integer(name: str, value: object, least: int, fix: str) -> int:
    """Return `value` as an int of at least this, else raise."""
    if isinstance(value, bool) or not isinstance(value, SupportsIndex):
        raise TypeError(f"{name}: got {value!r} ({type(value).__name__}), expected an int; {fix}")
    value = operator.index(value)
    if value < least:
        raise ValueError(f"{name}: got {value}, expected at least {least}; {fix}")
    return value


def require_generator(generator: object) -> None:
    """Raise unless this is something to draw random numbers from, or None."""
    if generator is not None and not isinstance(generator, torch.Generator):
        raise TypeError(
            f"generator: got {type(generator).__name__}, expected a torch.Generator; torch.Generator().manual_seed(0) is one"
        )


def one_of(name: str, value: object, allowed: tuple[object, ...]) -> None:
    """Raise unless `value` is among `allowed`."""
    if value not in allowed:
        raise ValueError(f"{name}: got {value!r}, expected one of {', '.join(map(repr, allowed))}; choose one of these")


def _require_each(name: str, fine: Tensor, by_sample: bool, got: str, expected: str, fix: str) -> None:
    def message() -> str:
        rows = (~fine).reshape(len(fine), -1).any(1).nonzero().flatten().tolist() if by_sample or fine.ndim > 1 else []
        where = f" in samples {_shorten(rows)}" if rows else ""
        return f"{name}: got {int((~fine).sum())} {got}{where}, expected {expected}; {fix}"

    require(fine, message)


def _shorten(rows: list[int], most: int = 8) -> str:
    return str(rows) if len(rows) <= most else f"[{', '.join(map(str, rows[:most]))}, ... {len(rows)} in all]"
