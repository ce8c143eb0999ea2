r"""log |det(I + H)| of a symmetric H: exactly, by a stochastic second-order expansion, or as the paper prints it."""

from __future__ import annotations

import torch
from torch import Tensor

from latentflow.validate import holds


def exact(hessian: Tensor) -> tuple[Tensor, Tensor]:
    r"""Log |det(I + H)| (...) and the folds (...), where the smallest eigenvalue of I + H is not positive.

    A Cholesky factorisation gives the determinant and, by failing, the folds. Folded samples go through their
    eigenvalues; where values may not be looked at (compiled, captured, under vmap) through the factor of (I + H)^2, which
    costs half of the digits on samples close to a singularity and nothing on the others.

    Args:
        hessian: (..., d, d), symmetric, float32 or float64.

    Example:
        >>> import torch
        >>> from latentflow.logdet import exact
        >>> exact(torch.diag_embed(torch.tensor([[1.0, 1.0], [-3.0, 0.0]])))
        (tensor([1.3863, 0.6931]), tensor([False,  True]))
    """
    matrix = hessian + torch.eye(hessian.shape[-1], dtype=hessian.dtype, device=hessian.device)
    factor, info = torch.linalg.cholesky_ex(matrix)
    folds = info != 0
    unfolded = holds(~folds)
    if unfolded:
        return _log_det_of_factor(factor), folds
    if unfolded is False:
        return _through_eigenvalues(matrix, folds), folds
    chosen = torch.where(folds[..., None, None], matrix @ matrix, matrix)
    factor, _ = torch.linalg.cholesky_ex(chosen)
    return _log_det_of_factor(factor) * torch.where(folds, 0.5, 1.0).to(factor.dtype), folds


def hutchinson(product: Tensor, probe: Tensor) -> Tensor:
    r"""Tr H - tr H^2 / 2 from one probe v: v^T H v - |H v|^2 / 2, an unbiased estimate of the second-order expansion.

    The expansion itself errs by O(|H|^3), and holds for |H| < 1 only.

    Args:
        product: H v, (..., d).  probe: v, (..., d), Rademacher.
    """
    return (probe * product).sum(-1) - 0.5 * product.square().sum(-1)


def laplacian(trace: Tensor) -> Tensor:
    """Log |1 + tr H|, eq. 10 of the paper as printed: exact in one dimension only, kept for reproduction."""
    return (1 + trace).abs().log()


def rademacher(like: Tensor, generator: torch.Generator | None = None) -> Tensor:
    """Independent signs, of the shape, dtype and device of `like`."""
    signs = torch.randint(0, 2, like.shape, generator=generator, device=like.device, dtype=like.dtype)
    return 2 * signs - 1


def _log_det_of_factor(factor: Tensor) -> Tensor:
    return 2 * factor.diagonal(dim1=-2, dim2=-1).log().sum(-1)


def _through_eigenvalues(matrix: Tensor, folds: Tensor) -> Tensor:
    """Cholesky for the sound samples, eigenvalues for the folded ones, in the shape of `folds`."""
    value = torch.zeros(folds.shape, dtype=matrix.dtype, device=matrix.device)
    eigenvalues = torch.linalg.eigvalsh(matrix[folds])
    value = value.masked_scatter(folds, eigenvalues.abs().log().sum(-1))
    return value.masked_scatter(~folds, _log_det_of_factor(torch.linalg.cholesky(matrix[~folds])))
