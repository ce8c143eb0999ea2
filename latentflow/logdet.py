r"""log |det(I + H)| of a symmetric H: exactly, by a stochastic second-order expansion, or as the paper prints it."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import torch
from torch import Tensor
from torch.utils.checkpoint import checkpoint

from latentflow.contexts import forward_mode, transformed
from latentflow.precision import apart_from_autocast
from latentflow.validate import as_validated_now, holds, may_read

_BITS = 32  # of a random number


def exact(hessian: Tensor) -> tuple[Tensor, Tensor]:
    r"""The exact :math:`\log\lvert\det(I + H)\rvert` (...), and the folds (...): where I + H is not positive definite.

    A Cholesky factorisation gives the determinant and, by failing, the folds. Folded samples go through a QR
    factorisation, which is as accurate for any matrix.

    Args:
        hessian: (..., d, d), symmetric, float32 or float64.

    Example:
        >>> import torch
        >>> from latentflow.logdet import exact
        >>> exact(torch.diag_embed(torch.tensor([[1.0, 1.0], [-3.0, 0.0]])))
        (tensor([1.3863, 0.6931]), tensor([False,  True]))
    """
    return of_jacobian(hessian + torch.eye(hessian.shape[-1], dtype=hessian.dtype, device=hessian.device))


def of_jacobian(matrix: Tensor) -> tuple[Tensor, Tensor]:
    """`exact` for I + H, (..., d, d), symmetric."""
    factor, info = torch.linalg.cholesky_ex(matrix.detach())
    folds = info != 0
    unfolded = holds(~folds)
    if unfolded:
        return _through_cholesky(matrix, factor), folds
    # Each factorisation sees only matrices that it can take, so that no nan comes back through `where`.
    if unfolded is None:  # values may not be looked at
        identity = torch.eye(matrix.shape[-1], dtype=matrix.dtype, device=matrix.device)
        folded = folds[..., None, None]
        sound = torch.where(folded, identity, matrix), torch.where(folded, identity, factor)
        return _through_cholesky(*sound) + _through_qr(torch.where(folded, matrix, identity)), folds
    matrices, factors = (x.reshape(folds.numel(), *x.shape[-2:]) for x in (matrix, factor))
    sound, folded = (where.flatten().nonzero().squeeze(1) for where in (~folds, folds))
    value = matrix.new_empty(folds.numel())
    value = value.index_copy(
        0, sound, _through_cholesky(matrices.index_select(0, sound), factors.index_select(0, sound))
    )
    return value.index_copy(0, folded, _through_qr(matrices.index_select(0, folded))).view_as(folds), folds


def in_chunks(
    log_det: Callable[[slice], tuple[Tensor, Tensor]], rows: int, bytes_each: int, memory: int | None
) -> tuple[Tensor, Tensor]:
    """Log-determinants and folds of many rows, all at once, or as many at a time as `memory` holds.

    A chunk is made, used and forgotten, and made once more for its gradient.

    Args:
        log_det: of a slice of rows, which lie on the last axis of its results.
        rows: how many there are.
        bytes_each: what one row takes, with everything in between.
        memory: bytes for one chunk, at least one row; None for no limit.
    """
    most = rows if memory is None else max(1, memory // bytes_each)
    if rows <= most:
        return log_det(slice(0, rows))
    chunks = [slice(start, min(start + most, rows)) for start in range(0, rows, most)]
    if transformed():  # where nothing can be forgotten
        found = [log_det(chunk) for chunk in chunks]
    else:
        log_det = as_validated_now(log_det)
        found = [checkpoint(log_det, chunk, use_reentrant=False, preserve_rng_state=False) for chunk in chunks]
    values, folds = (torch.cat(parts, -1) for parts in zip(*found, strict=True))
    return values, folds


def hutchinson(product: Tensor, probe: Tensor) -> Tensor:
    r"""tr H - tr H^2 / 2 from one probe v: v^T H v - |H v|^2 / 2, an unbiased estimate of the second-order expansion.

    The expansion itself errs by O(|H|^3), and holds for |H| < 1 only.

    Args:
        product: H v, (..., d).  probe: v, (..., d), Rademacher.
    """
    return (product * torch.sub(probe, product, alpha=0.5)).sum(-1)


def laplacian(trace: Tensor) -> Tensor:
    """log |1 + tr H|, eq. 10 of the paper as printed: exact in one dimension only, kept for reproduction."""
    return (1 + trace).abs().log()


def rademacher(like: Tensor, generator: torch.Generator | None = None) -> Tensor:
    """Independent signs, of the shape, dtype and device of `like`."""
    return signs(random_bits(like, generator), like)


def random_bits(like: Tensor, generator: torch.Generator | None = None) -> Tensor:
    """Random bits for as many signs as `like` (..., d) has numbers, (..., ceil(d / 32)): 32 cost as much as one number."""
    size = *like.shape[:-1], -(-like.shape[-1] // _BITS)
    kind: dict[str, Any] = {"dtype": torch.int32, "device": like.device}
    if generator is not None:  # an export takes no None
        kind["generator"] = generator
    return torch.randint(-(2**31), 2**31, size, **kind)


def signs(bits: Tensor, like: Tensor) -> Tensor:
    """A sign for each bit, (..., d), for bits (..., ceil(d / 32)), of the d, dtype and device of `like` (..., d)."""
    top = (bits[..., None] << torch.arange(_BITS, dtype=torch.int32, device=like.device)).bitwise_and_(-(2**31))
    found = top.bitwise_or_(0x3F800000).view(torch.float32)  # the number 1 with this bit for its sign
    return found.flatten(-2)[..., : like.shape[-1]].to(like.dtype)


class _LogDet(torch.autograd.Function):
    """log det of a positive definite matrix with a given Cholesky factor.

    The gradient is the inverse, which LAPACK makes of the factor in a third of the time that differentiating the
    factorisation takes.
    """

    generate_vmap_rule = True

    @staticmethod
    def forward(matrix: Tensor, factor: Tensor) -> Tensor:
        return 2 * factor.diagonal(dim1=-2, dim2=-1).log().sum(-1)

    @staticmethod
    def setup_context(ctx: Any, inputs: tuple[Tensor, Tensor], output: Tensor) -> None:
        ctx.save_for_backward(*inputs)

    @staticmethod
    @apart_from_autocast
    def backward(ctx: Any, grad: Tensor) -> tuple[Tensor, None]:
        matrix, factor = ctx.saved_tensors
        if torch.is_grad_enabled():  # for second derivatives the inverse must remember what it is the inverse of
            factor = torch.linalg.cholesky_ex(matrix).L
        return grad[..., None, None] * inverse_of(factor), None


def inverse_of(factor: Tensor) -> Tensor:
    """(L L^T)^-1 for L, (..., d, d). LAPACK's own inverse is faster, but waits for a device to say that it went well."""
    if may_read(factor):
        return torch.cholesky_inverse(factor)
    identity = torch.ones_like(factor[..., 0]).diag_embed()
    inverse: Tensor = torch.linalg.solve_triangular(factor, identity, upper=False)
    return inverse.mT @ inverse


def _through_cholesky(matrix: Tensor, factor: Tensor) -> Tensor:
    if forward_mode():
        plain: Tensor = 2 * torch.linalg.cholesky(matrix).diagonal(dim1=-2, dim2=-1).log().sum(-1)
        return plain
    value: Tensor = _LogDet.apply(matrix, factor)  # type: ignore[no-untyped-call]
    return value


def _through_qr(matrix: Tensor) -> Tensor:
    triangle: Tensor = torch.linalg.qr(matrix).R
    return triangle.diagonal(dim1=-2, dim2=-1).abs().log().sum(-1)
