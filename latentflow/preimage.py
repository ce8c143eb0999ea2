"""What an inverse is verified by, and what is raised where there is none."""

from __future__ import annotations

import torch


class FoldError(ValueError):
    """No preimage with I + H positive definite was found. A `ValueError`.

    Attributes:
        step: the step of the path (1, ..., T) that could not be inverted.
        samples: indices into the batch of the latents concerned.

    Example:
        >>> import torch
        >>> from latentflow import FlowPosterior, FoldError
        >>> class Mirror(torch.nn.Module):  # z + grad u = -z
        ...     def forward(self, z, t):
        ...         return -z.square().sum(-1, keepdim=True)
        >>> try:
        ...     FlowPosterior(Mirror()).inverse(torch.ones(2, 3), 0, steps=1)
        ... except FoldError as error:
        ...     print(error.step, error.samples)
        1 [0, 1]
    """

    def __init__(self, step: int, samples: list[int], reason: str) -> None:
        self.step, self.samples, self._reason = step, samples, reason
        shown = samples if len(samples) <= 8 else [*samples[:8], "..."]
        super().__init__(
            f"inverse: got latents {shown} without a preimage at step {step} ({reason}), expected I + H positive definite "
            "there; check path.folds, use more substeps, or constrain the potential more"
        )

    def __reduce__(self) -> tuple[type[FoldError], tuple[int, list[int], str]]:
        return type(self), (self.step, self.samples, self._reason)  # an exception's default pickles the message alone


def tolerance(dtype: torch.dtype) -> float:
    """Of a residual that is verified, relative to the latents."""
    return float(4 * torch.finfo(dtype).eps ** 0.75)
