"""What holds of a flow: its steps, its log-determinants, that it does not fold, and that its density is one."""

from __future__ import annotations

import copy
from collections.abc import Callable, Sequence

import torch
from torch import Tensor, nn
from torch.quasirandom import SobolEngine

from latentflow import derivatives
from latentflow.acting import acting
from latentflow.derivatives import number_of_potentials
from latentflow.posterior import FlowPosterior
from latentflow.testing.comparison import allowance, compare, shown
from latentflow.testing.gaussians import Given
from latentflow.testing.potentials import Function
from latentflow.testing.reference import (
    Estimate,
    acting_rows,
    autograd_gradient,
    autograd_hessian,
    difference_hessian,
    log_abs_det,
    reference_path,
)

JACOBIAN = "by the Jacobian of z + grad u"


def assert_log_det(
    potential: nn.Module,
    z: Tensor,
    t: Tensor | float,
    active: int | Tensor = 0,
    *,
    log_det: Function | None = None,
    tolerance: float | None = None,
) -> None:
    r"""Assert that the log-determinant of a step is :math:`\log\lvert\det J\rvert` of its Jacobian by finite differences.

    Args:
        potential: any module with ``forward(z, t) -> (..., K)``.
        z, t: latents (..., dim) and times that broadcast to (...).
        active: what acts: an index, labels (...) or weights (..., K).
        log_det: your own arithmetic, judged instead of the library's exact one: z (N, dim), t (N,) to (N,).
        tolerance: relative to one more than the truth; by default what finite differences err by, which is much where the
            Jacobian is nearly singular.

    Raises:
        AssertionError: saying at which latent and time, and what was expected.

    Example:
        >>> import torch
        >>> from latentflow.testing import Linear, assert_log_det
        >>> saddle = Linear(torch.tensor([[[0.0, 0.5], [0.5, 0.0]]]), torch.zeros(1, 2)).double()
        >>> z = torch.ones(1, 2, dtype=torch.float64)
        >>> assert_log_det(saddle, z, 1.0)
        >>> def row_sums(z, t):
        ...     return (1 + saddle.hessian(z, t, 0).sum(-1)).abs().log().sum(-1)
        >>> assert_log_det(saddle, z, 1.0, log_det=row_sums)
        Traceback (most recent call last):
        ...
        AssertionError: your log-determinant: got 0.81093, expected -0.287682 by the Jacobian of z + grad u; off by 1.1, ...
    """
    z, t, active = acting_rows(potential, z, t, active)
    hessian = difference_hessian(potential, z, t, active)
    truth = log_abs_det(Estimate(hessian.value + _identity(z), hessian.error))
    got = log_det(z, t) if log_det else derivatives.log_det(potential, z, t, active)[0]
    name = "log-determinant" if log_det is None else "your log-determinant"
    at: dict[str, Tensor | float | int] = {"latent": z, "time": t, "active": active}
    compare(name, got, truth.value, JACOBIAN, allowed=truth.error + allowance(truth.value), tolerance=tolerance, at=at)


def assert_transport(
    flow: nn.Module,
    z0: Tensor,
    k: int | Tensor | None = None,
    steps: int = 1,
    *,
    weights: Tensor | None = None,
    transport: Callable[[Tensor], tuple[Tensor, Tensor | None]] | None = None,
    tolerance: float | None = None,
) -> None:
    r"""Assert that a path is :math:`z_t = z_{t-1} + \sum_k w_t^k \nabla u^k(z_{t-1}, t)`, and that its log-determinants are.

    Step by step with plain autograd, the log-determinants from the Jacobian of each (sub)step.

    Args:
        flow: a potential, or a `FlowPosterior` with Euler's steps and exact log-determinants or none.
        z0: (B, dim).
        k, weights, steps: as in `FlowPosterior`.
        transport: your own arithmetic, judged instead of `FlowPosterior.transport`: z0 to the path (B, T+1, dim) and the
            log-determinants (B, T), or None.
        tolerance: relative to one more than the largest number of the sample. By default :math:`16\,\epsilon^{3/4}`, times
            what the steps enlarge it by.

    Raises:
        ValueError: the flow follows an ODE solver, or has approximate log-determinants.
        AssertionError: saying at which sample and step, and what was expected.

    Example:
        >>> import torch
        >>> from latentflow import FlowPosterior, Potential
        >>> from latentflow.testing import assert_transport
        >>> flow = FlowPosterior(Potential(2, num=3).double(), substeps=2)
        >>> assert_transport(flow, torch.ones(1, 2, dtype=torch.float64), 1, steps=4)
    """
    flow = flow if isinstance(flow, FlowPosterior) else FlowPosterior(flow)
    if flow.solver != "euler" or flow.log_det not in ("exact", None):
        raise ValueError(
            f"flow: got solver={flow.solver!r} and log_det={flow.log_det!r}, expected 'euler' and 'exact' or None; "
            "an ODE or an approximation has no such definition"
        )
    what = acting(number_of_potentials(flow.potential, z0), z0, k, weights, steps)
    truth, jacobians = reference_path(flow.potential, z0, what.weights, flow.substeps, flow.label)
    got, log_det = flow.transport(z0, k, steps, weights=weights) if transport is None else transport(z0)
    stretched = torch.linalg.svdvals(jacobians)[..., 0].clamp_min(1).prod(2).cumprod(1)  # (B, T)
    grown = torch.cat((torch.ones_like(stretched[:, :1]), stretched), 1)
    own = "" if transport is None else "your "
    at = {"start": z0, "weights": what.weights}
    compare(
        f"{own}path", got, truth, "step by step", allowed=allowance(truth) * grown[..., None], tolerance=tolerance,
        axes=("step", "dimension"), at=at,
    )  # fmt: skip
    if log_det is not None:
        singular = torch.linalg.svdvals(jacobians)
        value = singular.log().sum((-1, -2))
        worst = stretched / singular.amin((-1, -2))
        compare(
            f"{own}log-determinant", log_det, value, "by the Jacobian of each step", allowed=allowance(value) * (1 + worst),
            tolerance=tolerance, axes=("step",), at=at,
        )  # fmt: skip


def assert_injective(
    potential: nn.Module,
    region: tuple[Sequence[float] | Tensor, Sequence[float] | Tensor],
    t: float,
    active: int | Tensor = 0,
    *,
    substeps: int = 1,
    count: int = 512,
) -> None:
    r"""Assert that a step does not fold a box: I + H is positive definite, and no two latents change places.

    On a convex region :math:`I + H \succ 0` makes the step injective, and an optimal transport. It is looked at in `count`
    points that fill the box evenly; between pairs of them :math:`(F(a) - F(b)) \cdot (a - b) > 0`, which sees folds between
    the points too. This may find a fold, but cannot prove that there is none.

    Args:
        potential: any module with ``forward(z, t) -> (..., K)``; judged is a float64 copy on the CPU.
        region: the lowest and the highest corner of the box, dim numbers each.
        t: a time.
        active: what acts: an index, or weights (K,).
        substeps: n, where the step is ``z + grad u / n``.
        count: number of points.

    Raises:
        ValueError: the region is not a pair of corners, the lower first, of dim numbers each.
        AssertionError: saying which latent folds, or which two change places.

    Example:
        >>> from latentflow.testing import Folding, assert_injective
        >>> assert_injective(Folding(0.9), ([-3.0, -3.0], [3.0, 3.0]), 1.0)
        >>> assert_injective(Folding(2.0), ([-3.0], [3.0]), 1.0)
        Traceback (most recent call last):
        ...
        AssertionError: smallest eigenvalue of I + H: got -1, expected a positive number; it folds
          latent   [0]
          time     1
          where    151 of 512 points fold; use more substeps, or constrain the potential more
    """
    low, high = _corners(region)
    potential = copy.deepcopy(potential).to(low)
    cube = SobolEngine(len(low)).draw(count + 1, dtype=torch.float64)[1:]  # type: ignore[no-untyped-call]
    z = low + cube * (high - low)
    times = z.new_full((count,), t)
    now = active.to(z).expand(count, -1) if isinstance(active, Tensor) else active
    eigenvalues = torch.linalg.eigvalsh(_identity(z) + autograd_hessian(potential, z, times, now) / substeps)[:, 0]
    folds = ~(eigenvalues > 0)
    if bool(folds.any()):
        worst = int(eigenvalues.nan_to_num(-torch.inf).argmin())
        raise AssertionError(
            f"smallest eigenvalue of I + H: got {float(eigenvalues[worst]):.6g}, expected a positive number; it folds\n"
            f"  latent   {shown(z, worst)}\n  time     {t:.6g}\n"
            f"  where    {int(folds.sum())} of {count} points fold; use more substeps, or constrain the potential more"
        )
    moved = z + autograd_gradient(potential, z, times, now).detach() / substeps
    for shift in (1, 2, 3):
        before, after = z - z.roll(shift, 0), moved - moved.roll(shift, 0)
        turn = (after * before).sum(-1) / before.square().sum(-1)
        worst = int(turn.argmin())
        if not float(turn[worst]) > 0:
            raise AssertionError(
                f"step from a and b: got (F(a) - F(b)).(a - b) = {float(turn[worst]):.6g} |a - b|^2, expected a positive "
                f"number; they change places, so the step folds between them\n"
                f"  a        {shown(z, worst)}\n  b        {shown(z, worst - shift)}\n  time     {t:.6g}"
            )


def _corners(region: tuple[Sequence[float] | Tensor, Sequence[float] | Tensor]) -> list[Tensor]:
    corners = [torch.as_tensor(corner, dtype=torch.float64) for corner in region]
    if (
        [corner.ndim for corner in corners] != [1, 1]
        or len(corners[0]) != len(corners[1])
        or not bool((corners[0] <= corners[1]).all())
    ):
        raise ValueError(
            f"region: got {region}, expected two corners of a box, dim numbers each, the lowest first; for example "
            "([-3.0, -3.0], [3.0, 3.0])"
        )
    return corners


def assert_density(
    flow: nn.Module,
    k: int | Tensor | None = None,
    steps: int = 1,
    *,
    dim: int,
    weights: Tensor | None = None,
    path: Callable[[Tensor], tuple[Tensor, Tensor]] | None = None,
    tolerance: float | None = None,
) -> None:
    r"""Assert that :math:`\int q_t(z)\,dz = 1` at every step, for latents of one or two dimensions.

    A lattice around N(0, I) is carried along. Lengths or areas of its cells, taken with their sign and without any derivative,
    are weighed with :math:`q_t`: a wrong log-determinant changes the total, and a fold does, whose cells count negative.

    Args:
        flow: a potential, or a `FlowPosterior`; judged is a float64 copy on the CPU.
        k, weights: what acts: an index, labels (T,), or weights (K,) or (T, K).
        steps: T.
        dim: 1 or 2.
        path: your own arithmetic, judged instead: z0 (N, dim) to the path (N, T+1, dim) and log q (N, T+1), from N(0, I).
        tolerance: by default twice what the lattice and one of half its points disagree about, plus 1e-6.

    Raises:
        ValueError: dim is neither 1 nor 2, or the flow has no densities.
        AssertionError: saying at which step, and the total that it got.

    Example:
        >>> import torch
        >>> from latentflow import Potential
        >>> from latentflow.testing import Folding, assert_density
        >>> assert_density(Potential(1), 0, steps=3, dim=1)
        >>> assert_density(Folding(2.0), 0, steps=1, dim=1)
        Traceback (most recent call last):
        ...
        AssertionError: integral of the density: got -0.24..., expected 1 at step 1; off by 1.2, allowed ...
          the map folds, or the log-determinant is not its own
    """
    if dim not in (1, 2):
        raise ValueError(
            f"dim: got {dim}, expected 1 or 2; in more dimensions there are too many cells, use assert_log_det"
        )
    half, n = (8.0, 2001) if dim == 1 else (6.5, 161)
    axis = torch.linspace(-half, half, n, dtype=torch.float64)
    lattice = torch.stack(torch.meshgrid(*(axis,) * dim, indexing="ij"), -1)  # (n, ..., n, dim)
    z0 = lattice.view(-1, dim)
    with torch.no_grad():
        z, log_q = _densities(flow, z0, k, steps, weights) if path is None else path(z0)
    for t in range(steps + 1):
        density, corners = log_q[:, t].exp().view(lattice.shape[:-1]), z[:, t].view_as(lattice)
        skip = (slice(None, None, 2),) * dim
        fine, coarse = _mass(density, corners), _mass(density[skip], corners[skip])
        allowed = tolerance if tolerance is not None else 1e-6 + 2 * abs(fine - coarse)
        if not abs(fine - 1) <= allowed:
            raise AssertionError(
                f"integral of the density: got {fine:.6g}, expected 1 at step {t}; off by {abs(fine - 1):.2g}, "
                f"allowed {allowed:.2g}\n  the map folds, or the log-determinant is not its own"
            )


def _densities(
    flow: nn.Module, z0: Tensor, k: int | Tensor | None, steps: int, weights: Tensor | None
) -> tuple[Tensor, Tensor]:
    flow = copy.deepcopy(flow).to(z0)
    flow = flow if isinstance(flow, FlowPosterior) else FlowPosterior(flow)
    count, dim = z0.shape
    if isinstance(k, Tensor) and k.ndim == 1:
        k = k.expand(count, -1)
    if weights is not None:
        weights = weights.expand(count, *weights.shape)
    standard = Given(z0, torch.zeros_like(z0[:1]), torch.eye(dim, dtype=z0.dtype))
    found = flow(standard, k, weights=weights, steps=steps)
    if found.log_q is None:
        raise ValueError("flow: got log_det=None, expected densities; make it with log_det='exact'")
    return found.z, found.log_q


def _mass(density: Tensor, corners: Tensor) -> float:
    """Cells of a mapped lattice, with their sign, times the mean density of their corners."""
    if corners.shape[-1] == 1:
        return float(torch.trapezoid(density, corners[..., 0]))
    a, b, c, d = (_corner(corners, *which) for which in ((0, 0), (1, 0), (1, 1), (0, 1)))
    across, along = c - a, d - b
    areas = 0.5 * (across[..., 0] * along[..., 1] - across[..., 1] * along[..., 0])  # the shoelace formula
    heights = sum(_corner(density, i, j) for i in (0, 1) for j in (0, 1)) / 4
    return float((areas * heights).sum())


def _corner(x: Tensor, i: int, j: int) -> Tensor:
    return x[i : x.shape[0] - 1 + i, j : x.shape[1] - 1 + j]


def _identity(z: Tensor) -> Tensor:
    return torch.eye(z.shape[1], dtype=z.dtype, device=z.device)
