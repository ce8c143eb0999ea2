"""Where a path, its density or what derivatives say of it has left the finite numbers: the first step, and the samples."""

from __future__ import annotations

from torch import Tensor

from latentflow.validate import require_finite, sum_is_finite


def require_finite_path(fine: Tensor, substeps: int) -> None:
    """Name the first step and the samples at which a path left the finite numbers; index 0 is z_0 itself."""
    if sum_is_finite(fine[:, -1]) is not False:  # what is no number stays none, whatever is added to it
        return
    finite = fine.isfinite().all(-1)
    if bool(finite.all()):  # only their sum overflows
        return
    column = int((~finite).any(0).nonzero()[0])
    samples = (~finite)[:, column].nonzero().flatten().tolist()
    origin = "q0 gave them" if column == 0 else f"they appeared in step {(column - 1) // substeps + 1}"
    raise ValueError(
        f"z: got non-finite latents in samples {samples[:8]}, expected finite numbers; {origin}: look for exploding "
        "weights or bad input there"
    )


def require_finite_log_det(log_det: Tensor, substeps: int, folds: Tensor | None = None) -> None:
    """An exactly singular I + H squashes volume to nothing: its gradient would be nan for the whole batch.

    Where nobody asks for gradients, -inf is the truth, and what is known to fold may have it.
    """
    if sum_is_finite(log_det) is not False:
        return
    finite = log_det.isfinite()
    if folds is not None and not log_det.requires_grad:
        finite |= folds & log_det.isneginf()
    if bool(finite.all()):
        return
    sample, column = (~finite).nonzero()[0].tolist()
    raise ValueError(
        f"log_det: got {log_det[sample, column].item()} in sample {sample} at step {column // substeps + 1}, expected a finite "
        "number; I + H is singular or not finite there: use more substeps, or constrain the potential more"
    )


def require_finite_derivatives(name: str, x: Tensor, *, by_sample: bool = False) -> Tensor:
    """Return x, or raise: squares of large derivatives overflow, and these may be nan where a potential is not smooth."""
    fix = "look for exploding potentials, or for points where they are not smooth, or use float64"
    require_finite(name, x, fix, by_sample=by_sample)
    return x
