"""How two tensors are compared, how far apart they may be, and what is said when they are further apart."""

from __future__ import annotations

from collections.abc import Mapping

import torch
from torch import Tensor


def rounding(dtype: torch.dtype) -> float:
    """What the rounding of a few hundred operations may add up to, relative to the size of the numbers: 16 eps^(3/4)."""
    return float(16 * torch.finfo(dtype).eps ** 0.75)


def allowance(expected: Tensor, tolerance: float | None = None) -> Tensor:
    """The default tolerance: rounding, times one more than the largest number of the sample (first axis)."""
    sizes = expected.detach().abs().nan_to_num(0, posinf=0)  # infinity would allow anything
    scale = 1 + (sizes.flatten(1).amax(1) if sizes.ndim > 1 and sizes.shape[1:].numel() else sizes)
    scale = scale.view(-1, *(1,) * (expected.ndim - 1)) if expected.ndim > 1 else scale
    return (rounding(expected.dtype) if tolerance is None else tolerance) * scale


def compare(
    what: str,
    got: object,
    expected: Tensor,
    by: str,
    *,
    allowed: Tensor | None = None,
    tolerance: float | None = None,
    axes: tuple[str, ...] = (),
    at: Mapping[str, Tensor | float | int] | None = None,
    hint: str = "",
) -> None:
    """Raise AssertionError where `got` is further from `expected` than allowed.

    Args:
        what: the name of the quantity.
        got: what is judged.
        expected: the truth, whose first axis is the samples.
        by: how the truth was found, for example "by finite differences".
        allowed: how far apart they may be; by default `allowance`.
        tolerance: replaces `allowed`: relative to one more than the largest number of the sample.
        axes: names of all axes after the first.
        at: what to show of the sample that is worst, by name; tensors by their first axis.
        hint: how to mend it.
    """
    __tracebackhide__ = True  # pytest shows the assertion that was called
    if not isinstance(got, Tensor):
        raise AssertionError(f"{what}: got {type(got).__name__}, expected a tensor {tuple(expected.shape)}")
    if got.shape != expected.shape:
        raise AssertionError(f"{what}: got shape {tuple(got.shape)}, expected {tuple(expected.shape)} {by}")
    got, expected = got.detach(), expected.detach()
    if allowed is None or tolerance is not None:
        allowed = allowance(expected, tolerance)
    exact = expected.to(torch.promote_types(expected.dtype, torch.float64))
    error = (got.to(exact) - exact).abs()
    allowed = allowed.to(exact).expand_as(exact)
    wrong = ~((error <= allowed) | (got == expected))  # nan is wrong, and infinity right if it is expected
    if not bool(wrong.any()):
        return
    excess = torch.where(wrong, (error / allowed.clamp_min(torch.finfo(exact.dtype).tiny)).nan_to_num(torch.inf), 0)
    index = tuple(int(i) for i in torch.unravel_index(excess.argmax(), excess.shape)) if excess.ndim else ()
    lines = [
        f"{what}: got {float(got[index]):.6g}, expected {float(expected[index]):.6g} {by}; off by {float(error[index]):.2g}, "
        f"allowed {float(allowed[index]):.2g} in {str(expected.dtype).removeprefix('torch.')}"
    ]
    place = [f"{name} {i}" for name, i in zip(("sample", *axes), index, strict=False)]
    if place:
        lines.append(f"  where    {', '.join(place)} ({int(wrong.sum())} of {wrong.numel()} numbers are off)")
    for name, value in (at or {}).items():
        lines.append(f"  {name:8} {shown(value, index[0] if index else 0)}")
    if hint:
        lines.append(f"  {hint}")
    raise AssertionError("\n".join(lines))


def shown(value: Tensor | float | int, sample: int) -> str:
    """A number or a row of them, as short as it can be."""
    if not isinstance(value, Tensor):
        return f"{value:.6g}"
    row = value.detach() if value.ndim == 0 else value.detach()[sample]
    numbers = [f"{float(x):.6g}" for x in row.flatten()[:12]]
    more = f", ... {row.numel()} in all" if row.numel() > 12 else ""
    return numbers[0] if row.ndim == 0 else f"[{', '.join(numbers)}{more}]"
