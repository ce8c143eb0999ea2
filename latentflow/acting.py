"""Which potentials act: one index for all, a label for each sample, or weights, and each of these constant or by step."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

import numpy as np
import torch
from torch import Tensor

from latentflow.states import State, states
from latentflow.validate import index, labels_in_range, positive_integer, require


@dataclass(frozen=True, eq=False)
class Acting:
    """What acts in each step, in the form that `derivatives` takes."""

    weights: Tensor  # (B, T, K)
    k: int | Tensor | None  # one index, or labels (B, T); None where weights were given
    times: Tensor  # 0, ..., T, (T+1,)
    state: State | None  # of these three, as they were; None of a copy that was made after one had been written to
    constant: bool = False  # labels (B, T) that stay the same along the path

    @classmethod
    def noted(cls, weights: Tensor, k: int | Tensor | None, times: Tensor, constant: bool = False) -> Acting:
        """With the state that they are in."""
        return cls(weights, k, times, states(weights, k, times), constant)

    def __reduce__(self) -> tuple[Any, ...]:
        """Copies are noted anew, but for those of what has been written to."""
        if self.is_of(self.weights, self.times):
            return Acting.noted, (self.weights, self.k, self.times, self.constant)
        return Acting, (self.weights, self.k, self.times, None, self.constant)

    def is_of(self, weights: Tensor, times: Tensor) -> bool:
        """Whether these are the weights and times that it came with, and nobody has written to them since.

        Compiled code does not see what is written, so there the answer is yes. Nor does inference mode: weights made there are
        trusted if they repeat a row, for PyTorch refuses to write to such a tensor, if not to a view of its part.
        """
        if self.state is None or self.weights is not weights or self.times is not times:
            return False
        now = states(weights, self.k, times)
        if not now or not self.state:
            return True
        repeats = any(size > 1 and stride == 0 for size, stride in zip(weights.shape, weights.stride(), strict=True))
        return self.state == now and (repeats or not weights.is_inference())

    @property
    def steps(self) -> int:
        return self.weights.shape[1]

    def at(self, step: int) -> int | Tensor:
        """One index, labels (B,) or weights (B, K), for step 0, ..., T-1."""
        if self.k is None:
            return self.weights[:, step]
        return self.k[:, step] if isinstance(self.k, Tensor) else self.k

    def fine(self, substeps: int) -> int | Tensor:
        """One index, labels (B, T substeps) or weights (B, T substeps, K)."""
        if isinstance(self.k, int):
            return self.k
        return (self.weights if self.k is None else self.k).repeat_interleave(substeps, 1)


def acting(num: int, z: Tensor, k: int | Tensor | None, weights: Tensor | None, steps: int | None) -> Acting:
    """Check and unify what the user said of `num` potentials; z is (B, dim)."""
    steps = positive_integer("steps", steps, "pass steps=T, the number of transitions, of at least 1")
    if (k is None) == (weights is None):
        got = "neither" if k is None else "both"
        raise ValueError(f"k, weights: got {got}, expected exactly one; pass labels as k or a mixture as weights=")
    times = torch.arange(steps + 1, dtype=z.dtype, device=z.device)
    if weights is not None:
        return Acting.noted(_weights(weights, z, steps, num), None, times)
    k = _index_or_labels(k, z, steps, num)
    if isinstance(k, int):
        row = z.new_zeros(num)
        row[k] = 1
        return Acting.noted(row.expand(z.shape[0], steps, num), k, times)
    if not labels_in_range("k", k, num):
        k = k.clamp(0, num - 1)  # taken on trust, not to crash
    one_hot = z.new_zeros(*k.shape, num).scatter(-1, k[..., None], 1)
    if k.ndim == 2:
        return Acting.noted(one_hot, k, times)
    weights, k = one_hot[:, None].expand(-1, steps, -1), k[:, None].expand(-1, steps)
    return Acting.noted(weights, k, times, constant=True)


def _index_or_labels(k: object, z: Tensor, steps: int, num: int) -> int | Tensor:
    fix = "pass an int or a tensor of integer labels (torch.as_tensor); a mixture goes to weights="
    if type(k) is int or (isinstance(k, (int, np.integer)) and not isinstance(k, bool)):
        return index(int(k), num)
    if not isinstance(k, Tensor) or k.is_floating_point() or k.is_complex() or k.dtype == torch.bool:
        got = f"a tensor of {k.dtype}" if isinstance(k, Tensor) else f"{k!r} ({type(k).__name__})"
        raise TypeError(f"k: got {got}, expected integers; {fix}")
    batch = z.shape[0]
    if k.ndim == 0:
        k = k.expand(batch)
    if k.shape != (batch,) and k.shape != (batch, steps):
        fix = "give each sample one label, or one for each step"
        if k.shape == (batch, 1):
            fix = "take k[:, 0]"
        elif k.shape in ((steps,), (1, steps)):
            fix = f"for the same switches in all samples k.expand({batch}, -1)"
        raise ValueError(
            f"k: got shape {tuple(k.shape)}, expected ({batch},) or ({batch}, {steps}); "
            f"{fix}; one-hot rows go to weights=k.float()"
        )
    return k.to(device=z.device, dtype=torch.int64, copy=True)  # users may write to theirs


def _weights(weights: object, z: Tensor, steps: int, num: int) -> Tensor:
    if not isinstance(weights, Tensor) or not weights.is_floating_point():
        got = f"a tensor of {weights.dtype}" if isinstance(weights, Tensor) else type(weights).__name__
        fix = "pass labels as k, or convert with .to(z.dtype)"
        if isinstance(weights, (list, np.ndarray)):
            fix = "make a tensor of them, torch.as_tensor(weights)"
        if isinstance(weights, tuple):
            fix = "unpack what a selector returns: weights, logits = selector(x)"
        raise TypeError(f"weights: got {got}, expected a floating tensor; {fix}")
    batch = z.shape[0]
    if weights.shape != (batch, num) and weights.shape != (batch, steps, num):
        fix = "give each sample a weight for each potential, or those of each step"
        if weights.shape in ((num,), (1, num)):
            fix = f"give each sample its weights: weights.expand({batch}, -1)"
        elif weights.shape == (1, steps, num):
            fix = f"give each sample its weights: weights.expand({batch}, -1, -1)"
        raise ValueError(
            f"weights: got shape {tuple(weights.shape)}, expected ({batch}, {num}) or ({batch}, {steps}, {num}); {fix}"
        )
    weights = weights.to(z, copy=True)  # users may write to theirs
    require(
        (weights >= 0) & weights.isfinite(),
        lambda: (
            f"weights: got values from {weights.detach().min():.3g} to {weights.detach().max():.3g}, expected finite numbers "
            "of at least 0; of a selector's two results pass the first, or take logits.softmax(-1)"
        ),
    )
    return weights if weights.ndim == 3 else weights[:, None].expand(-1, steps, -1)
