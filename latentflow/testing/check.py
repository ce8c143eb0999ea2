"""All properties that hold of any potential, on latents and times that Hypothesis draws and shrinks."""

from __future__ import annotations

import copy
from collections.abc import Callable

import torch
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from hypothesis.strategies import SearchStrategy
from torch import Tensor, nn

from latentflow import derivatives
from latentflow.testing.constraint import assert_residual
from latentflow.testing.flows import assert_log_det, assert_transport
from latentflow.testing.modules import (
    assert_batch_independent,
    assert_device,
    assert_dtype,
    assert_gradients_reach,
    assert_state,
)
from latentflow.testing.potentials import assert_gradient, assert_hessian, assert_smooth, assert_time_derivative
from latentflow.testing.strategies import acting, points
from latentflow.validate import positive_integer

Point = tuple[Tensor, Tensor | float]


def check_potential(
    potential: nn.Module,
    dim: int | None = None,
    *,
    force: nn.Module | None = None,
    low: float = -3.0,
    high: float = 3.0,
    latest: float = 8.0,
    examples: int | None = None,
) -> None:
    """Check all that must hold of any potential, and report the smallest latent where it does not.

    Rows do not interact; gradient, time derivative and Hessian are those of forward, also in closed form; the gradient has no
    jumps; the residual, the log-determinant and the path follow their definitions; dtype and device are kept; gradients
    reach every parameter; the state dict holds the state. Folds are no error of a potential: see `assert_injective`.

    The checks run on a float64 copy, so that rounding hides nothing.

    Args:
        potential: any module with ``forward(z, t) -> (..., K)``.
        dim: of the latents (..., dim); a `Potential` knows its own.
        force: its external force, if it has one.
        low, high, latest: latents are drawn from this range, times from 0 to `latest`.
        examples: how many Hypothesis draws for each property; by default those of its current profile, 100 unless you
            changed it, 1,000 under ``pytest --latentflow-thorough``.

    Raises:
        AssertionError: at the first property that fails, for the smallest example found.
        TypeError: potential is no module, a flow or a force, or dim or examples is no int.
        ValueError: dim is needed and not given, dim or examples is below 1, or the module normalises its batch or drops out in
            training mode, or has not the same number of columns for each number of latents.

    Example:
        >>> from latentflow import Potential
        >>> from latentflow.testing import check_potential
        >>> check_potential(Potential(dim=3, num=2), examples=5)
    """
    derivatives.require_potential(potential)
    dim = derivatives.dimension(potential) if dim is None else dim
    if dim is None:
        raise ValueError("dim: got None, expected the size of a latent; pass dim=")
    dim = positive_integer("dim", dim)
    examples = None if examples is None else positive_integer("examples", examples)
    potential = copy.deepcopy(potential).double()
    force = None if force is None else copy.deepcopy(force).double()
    random = torch.Generator().manual_seed(0)
    many = torch.randn(64, dim, generator=random, dtype=torch.float64)
    moments = latest * torch.rand(64, generator=random, dtype=torch.float64)
    try:
        num = derivatives.number_of_potentials(potential, many)
    except (RuntimeError, IndexError, TypeError) as error:
        raise AssertionError(
            f"float64 copy: got {type(error).__name__} ({error}), expected a result (N, K) for latents (N, {dim}) and times "
            "(N,); write t[:, None] where t meets columns, make tensors like z, or keep them as buffers, and pass the dim that "
            "its latents have"
        ) from error
    point = points(dim, low=low, high=high, latest=latest)
    several = points(dim, st.integers(2, 4), low=low, high=high, latest=latest)

    def rows_do_not_interact(point: Point) -> None:
        z, t = point
        assert_batch_independent(
            lambda z, t: derivatives.values(potential, z, t), z, torch.as_tensor(t).to(z).expand(len(z))
        )

    def first_derivatives(point: Point) -> None:
        assert_gradient(potential, *point)
        assert_time_derivative(potential, *point)
        assert_residual(potential, *point, force=force)

    def second_derivatives(point: Point, data: st.DataObject) -> None:
        active = _active(data.draw(acting(len(point[0]), num, 1), label="active"))
        assert_hessian(potential, *point, active)
        assert_smooth(potential, *point, active)
        assert_log_det(potential, *point, active)

    def path(point: Point, data: st.DataObject) -> None:
        active = data.draw(acting(len(point[0]), num, 2), label="active")
        assert_transport(potential, point[0], steps=2, **active)

    _run(rows_do_not_interact, examples, several)
    _run(first_derivatives, examples, point)
    _run(second_derivatives, examples, point, st.data())
    _run(path, examples, point, st.data())
    assert_dtype(potential, many, moments)
    assert_device(potential, many, moments)
    if any(p.requires_grad for p in potential.parameters()):
        assert_gradients_reach(potential, many, moments)
        assert_state(potential, many, moments)


def _active(arguments: dict[str, int | Tensor]) -> int | Tensor:
    """What acts at a point: an index, labels (B,) or weights (B, K)."""
    what = next(iter(arguments.values()))
    if not isinstance(what, Tensor):
        return what
    return what[:, 0] if what.ndim == (3 if what.is_floating_point() else 2) else what


def _run(property: Callable[..., None], examples: int | None, *strategies: SearchStrategy[object]) -> None:
    quiet = (HealthCheck.too_slow, HealthCheck.data_too_large, HealthCheck.nested_given)
    chosen = settings(deadline=None, suppress_health_check=quiet)
    if examples is not None:
        chosen = settings(chosen, max_examples=examples)
    chosen(given(*strategies)(property))()
