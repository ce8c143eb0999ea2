"""What holds of an evaluation: the error is summed over every step of a path that moves, on sequences of one factor."""

from __future__ import annotations

from collections.abc import Callable
from itertools import pairwise

import torch
from torch import Tensor, nn

from latentflow import derivatives
from latentflow.metrics import equivariance_error
from latentflow.posterior import FlowPosterior
from latentflow.testing.comparison import compare
from latentflow.testing.reference import reference_path

Evaluate = Callable[[Tensor, int, Tensor], Tensor | float]


def assert_equivariance_error(
    potential: nn.Module,
    decode: Callable[[Tensor], Tensor],
    z0: Tensor,
    target: Tensor,
    *,
    evaluate: Evaluate | None = None,
    tolerance: float | None = None,
) -> None:
    r"""Assert that the error is :math:`\sum_{t=1}^T \sum |x_t - \mathrm{Dec}(z_t)|` along the path of each potential.

    The potentials are evaluated one after another, so what one leaves behind in the next is seen too.

    Args:
        potential: any module with ``forward(z, t) -> (..., K)``.
        decode: latents (N, dim) to images (N, ...).
        z0: (B, dim), the latents of the first frames.
        target: (K, B, T+1, ...), the true sequences of each transformation.
        evaluate: your own evaluation, judged instead of the library's: z0, k and target[k] to errors (B,), or to their mean.
        tolerance: relative to one more than the truth; by default :math:`16\,\epsilon^{3/4}`.

    Raises:
        AssertionError: saying of which k, what it got and what was expected.
        ValueError: there are more or fewer targets than potentials.

    Example:
        >>> import torch
        >>> from latentflow import Potential
        >>> from latentflow.testing import assert_equivariance_error
        >>> z0 = torch.ones(3, 2)
        >>> assert_equivariance_error(Potential(2, num=2), torch.tanh, z0, torch.zeros(2, 3, 5, 2))
    """
    name = "equivariance error" if evaluate is None else "your equivariance error"
    evaluate = evaluate or _evaluation(potential, decode)
    steps, num = target.shape[2] - 1, derivatives.number_of_potentials(potential, z0)
    if len(target) != num:
        raise ValueError(
            f"target: got {len(target)} transformations for {num} potentials, expected (K, B, T+1, ...) with the same K; "
            "stack the true sequences of each of them"
        )
    for k in range(num):
        weights = nn.functional.one_hot(torch.tensor(k, device=z0.device), num).to(z0).expand(len(z0), steps, -1)
        path, _ = reference_path(potential, z0, weights)
        truth = torch.zeros_like(z0[:, 0])
        for t in range(1, steps + 1):
            truth = truth + (target[k][:, t] - decode(path[:, t])).abs().flatten(1).sum(1)
        got = torch.as_tensor(evaluate(z0, k, target[k]), dtype=truth.dtype)
        mean = got.ndim == 0
        by = f"by adding up all {steps} steps of potential {k}"
        compare(name, got, truth.mean() if mean else truth, by, tolerance=tolerance)


def assert_one_factor(values: Tensor, factor: Tensor | int, *, sizes: tuple[int, ...] | None = None) -> None:
    """Assert that in each sequence the named factor changes from frame to frame, and no other one ever.

    Args:
        values: (B, T+1, F), whole numbers: which value each factor has in each frame.
        factor: which factor moves, for all sequences or for each, (B,).
        sizes: how many values each factor has, to check that none is beyond its last one.

    Raises:
        AssertionError: saying in which sequence and frame, and which factor.

    Example:
        >>> import torch
        >>> from latentflow.testing import assert_one_factor
        >>> frames = torch.tensor([[[0, 8], [0, 9], [1, 0]]])  # the second factor has ten values: it carries into the first
        >>> assert_one_factor(frames, 1)
        Traceback (most recent call last):
        ...
        AssertionError: sequence 0: got a change of factor 0 from 0 to 1 in frame 2, expected changes of factor 1 only
          frames   [[0, 8], [0, 9], [1, 0]]
    """
    factors = torch.as_tensor(factor).expand(len(values)).tolist()
    for number, (frames, moving) in enumerate(zip(values.tolist(), factors, strict=True)):
        shown = f"\n  frames   {frames}"
        for t, (before, now) in enumerate(pairwise(frames), 1):
            for j, (old, new) in enumerate(zip(before, now, strict=True)):
                if old != new and j != moving:
                    raise AssertionError(
                        f"sequence {number}: got a change of factor {j} from {old} to {new} in frame {t}, expected changes of "
                        f"factor {moving} only{shown}"
                    )
                if old == new and j == moving:
                    raise AssertionError(
                        f"sequence {number}: got factor {j} at {old} in frames {t - 1} and {t}, expected it to move{shown}"
                    )
        for t, now in enumerate(frames):
            for j, size in enumerate(sizes or ()):
                if not 0 <= now[j] < size:
                    raise AssertionError(
                        f"sequence {number}: got factor {j} at {now[j]} in frame {t}, expected 0 to {size - 1}{shown}"
                    )


def _evaluation(potential: nn.Module, decode: Callable[[Tensor], Tensor]) -> Evaluate:
    flow = FlowPosterior(potential, log_det=None)

    def evaluate(z0: Tensor, k: int, target: Tensor) -> Tensor:
        z, _ = flow.transport(z0, k, target.shape[1] - 1)
        return equivariance_error(decode(z.flatten(0, 1)).view_as(target), target)

    return evaluate
