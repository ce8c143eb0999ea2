"""Hypothesis strategies: latents, times, what acts, and modules. They shrink to one small latent of one dimension at time 0."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any, TypeVar

import torch
from hypothesis import strategies as st
from hypothesis.strategies import SearchStrategy
from torch import Tensor, nn

from latentflow.potential import Potential
from latentflow.testing.gaussians import LinearGaussian
from latentflow.testing.solutions import Drift, Folding, Linear, Spread, Stretch, Swing

Module = TypeVar("Module", bound=nn.Module)
Size = int | SearchStrategy[int] | None


@st.composite
def latents(
    draw: st.DrawFn,
    dim: Size = None,
    batch: Size = None,
    *,
    low: float = -3.0,
    high: float = 3.0,
    dtype: torch.dtype = torch.float64,
) -> Tensor:
    """Latents (B, dim), which shrink to zeros and small whole numbers.

    Args:
        dim, batch: a number or a strategy of numbers; by default 1 to 5 dimensions and 1 to 4 samples.
        low, high: the range of each entry.
        dtype: of the tensor.

    Example:
        >>> from hypothesis import given
        >>> from latentflow.testing import latents
        >>> @given(latents(dim=3))
        ... def test(z):
        ...     assert z.shape[1] == 3
        >>> test()
    """
    width, rows = _drawn(draw, dim, 1, 5), _drawn(draw, batch, 1, 4)
    return torch.tensor(_numbers(draw, rows * width, low, high), dtype=dtype).view(rows, width)


@st.composite
def times(
    draw: st.DrawFn, batch: int | None = None, *, latest: float = 8.0, dtype: torch.dtype = torch.float64
) -> Tensor | float:
    """A time in each form that a potential takes: a number, a scalar tensor, or with `batch` one for each latent, (B,).

    Args:
        batch: B; None leaves this form out.
        latest: the end of the range that starts at 0.
        dtype: of the tensors.

    Example:
        >>> from hypothesis import given
        >>> from latentflow import Potential
        >>> from latentflow.testing import latents, times
        >>> @given(latents(dim=3, batch=2), times(batch=2))
        ... def test(z, t):
        ...     assert Potential(3, dtype=z.dtype)(z, t).shape == (2, 1)
        >>> test()
    """
    form = draw(st.sampled_from(("number", "scalar") if batch is None else ("number", "scalar", "each")))
    if form == "each":
        return torch.tensor(_numbers(draw, batch or 0, 0.0, latest), dtype=dtype)
    (time,) = _numbers(draw, 1, 0.0, latest)
    return time if form == "number" else torch.tensor(time, dtype=dtype)


@st.composite
def points(
    draw: st.DrawFn,
    dim: Size = None,
    batch: Size = None,
    *,
    low: float = -3.0,
    high: float = 3.0,
    latest: float = 8.0,
    dtype: torch.dtype = torch.float64,
) -> tuple[Tensor, Tensor | float]:
    """Latents (B, dim) and a time for them in any form, as a pair.

    Args:
        dim, batch, low, high: as in `latents`.
        latest: as in `times`.
        dtype: of the tensors.

    Example:
        >>> from hypothesis import given
        >>> from latentflow import Potential
        >>> from latentflow.testing import assert_gradient, points
        >>> potential = Potential(3, dtype=torch.float64)
        >>> @given(points(dim=3))
        ... def test(point):
        ...     assert_gradient(potential, *point)
        >>> test()
    """
    width, rows = _drawn(draw, dim, 1, 5), _drawn(draw, batch, 1, 4)
    t = draw(times(rows, latest=latest, dtype=dtype))  # first: what is drawn first is shrunk first, so to time 0
    return draw(latents(width, rows, low=low, high=high, dtype=dtype)), t


@st.composite
def acting(
    draw: st.DrawFn, batch: int, num: int, steps: int, *, most: float = 2.0, dtype: torch.dtype = torch.float64
) -> dict[str, Any]:
    """What acts, as keyword arguments of `FlowPosterior`, in every form that it takes.

    ``k`` as an int, labels (B,) or (B, T); ``weights`` (B, K) or (B, T, K). Shrinks to ``{"k": 0}``.

    Args:
        batch, num, steps: B, K and T.
        most: the largest weight.
        dtype: of the weights.

    Example:
        >>> from hypothesis import given
        >>> from latentflow import FlowPosterior, Potential
        >>> from latentflow.testing import acting
        >>> flow = FlowPosterior(Potential(3, num=2))
        >>> @given(acting(batch=4, num=2, steps=5))
        ... def test(active):
        ...     z, _ = flow.transport(torch.zeros(4, 3), steps=5, **active)
        ...     assert z.shape == (4, 6, 3)
        >>> test()
    """
    labelled, weighted = ((), (batch,), (batch, steps)), ((batch, num), (batch, steps, num))
    name, shape = draw(st.sampled_from([("k", s) for s in labelled] + [("weights", s) for s in weighted]))
    count = torch.Size(shape).numel()
    if name == "weights":
        return {name: torch.tensor(_numbers(draw, count, 0.0, most), dtype=dtype).view(shape)}
    labels = draw(st.lists(st.integers(0, num - 1), min_size=count, max_size=count))
    return {name: torch.tensor(labels).view(shape) if shape else labels[0]}


def seeded(factory: Callable[[], Module]) -> SearchStrategy[Module]:
    """Modules made with drawn seeds; torch's own random state is left as it was.

    Args:
        factory: makes a module, for example ``lambda: MyPotential(dim=3)`` with latents (..., 3).

    Example:
        >>> from hypothesis import given
        >>> from latentflow import Potential
        >>> from latentflow.testing import seeded
        >>> @given(seeded(lambda: Potential(3)))
        ... def test(potential):
        ...     assert potential.num == 1
        >>> test()
    """
    return st.integers(0, 2**20).map(lambda seed: _with_seed(factory, seed))


@st.composite
def potentials(draw: st.DrawFn, max_dim: int = 6) -> Potential:
    """The library's `Potential`: odd and even dims, narrow and wide, one and several, with and without the output tanh.

    Args:
        max_dim: latents are (..., 1) to (..., max_dim).

    Example:
        >>> from hypothesis import given
        >>> from latentflow.testing import assert_gradient, potentials
        >>> @given(potentials())
        ... def test(potential):
        ...     assert_gradient(potential, torch.ones(2, potential.dim, dtype=torch.float64), 1.0)
        >>> test()
    """
    return make_potential(
        draw(st.integers(1, max_dim)),
        draw(st.integers(1, 3)),
        draw(st.sampled_from([None, 1, 2, 3, 7, 12])),
        bounded=draw(st.booleans()),
        seed=draw(st.integers(0, 2**20)),
        strength=draw(st.sampled_from([1.0, 2.0, 4.0])),
    )


@st.composite
def solutions(draw: st.DrawFn, dim: int, dtype: torch.dtype = torch.float64) -> Spread | Drift | Stretch:
    """Exact solutions of the ordinary Hamilton-Jacobi equation: `Spread`, `Drift` and `Stretch`, in their parameters.

    Args:
        dim: of the latents (..., dim).
        dtype: of the parameters.

    Example:
        >>> from hypothesis import given
        >>> from latentflow.testing import assert_solution, latents, solutions
        >>> @given(solutions(dim=3), latents(dim=3))
        ... def test(potential, z):
        ...     assert_solution(potential, z, 2.0)
        >>> test()
    """
    kind = draw(st.sampled_from((Spread, Drift, Stretch)))
    if kind is Spread:
        return Spread(draw(st.floats(0.25, 4.0)))
    if kind is Drift:
        return Drift(draw(latents(dim, 1, dtype=dtype))[0])
    root = draw(latents(dim, dim, low=-1.0, high=1.0, dtype=dtype))
    return Stretch(root @ root.mT)  # no axis is compressed, so that S(t) exists for all t


@st.composite
def known_potentials(draw: st.DrawFn, dim: int, dtype: torch.dtype = torch.float64) -> nn.Module:
    """Potentials with their derivatives written out: those of `solutions`, `Swing`, `Folding`, and `Linear` of several.

    Args:
        dim: of the latents (..., dim).
        dtype: of the parameters.

    Example:
        >>> from hypothesis import given
        >>> from latentflow.testing import assert_hessian, known_potentials, points
        >>> @given(known_potentials(dim=3), points(dim=3))
        ... def test(potential, point):
        ...     assert_hessian(potential, *point)
        >>> test()
    """
    kind = draw(st.sampled_from(("solution", Swing, Folding, Linear)))
    if kind == "solution":
        return draw(solutions(dim, dtype))
    if kind is Linear:
        num = draw(st.integers(1, 3))
        roots = torch.stack([draw(latents(dim, dim, low=-1.0, high=1.0, dtype=dtype)) for _ in range(num)])
        return Linear(0.5 * (roots + roots.mT), draw(latents(dim, num, dtype=dtype)))
    return Swing() if kind is Swing else Folding(draw(st.floats(0.0, 3.0)))


@st.composite
def linear_gaussians(draw: st.DrawFn, max_dim: int = 3, dtype: torch.dtype = torch.float64) -> LinearGaussian:
    """Cases of `LinearGaussian` whose steps do not fold.

    Args:
        max_dim: latents are (..., 1) to (..., max_dim).
        dtype: of all tensors.

    Example:
        >>> from hypothesis import given
        >>> from latentflow import DiffusionPrior
        >>> from latentflow.testing import assert_kl, linear_gaussians
        >>> @given(linear_gaussians())
        ... def test(case):
        ...     assert_kl(case, DiffusionPrior(init=0.5, dtype=torch.float64))
        >>> test()
    """
    dim = draw(st.integers(1, max_dim))
    square = latents(dim, dim, low=-1.0, high=1.0, dtype=dtype)
    root, spread = draw(square), draw(square)
    hessian = 0.4 * (root + root.mT) / (2 * dim)  # eigenvalues within 0.4
    potential = Linear(hessian[None], draw(latents(dim, 1, dtype=dtype)))
    covariance = spread @ spread.mT + 0.25 * torch.eye(dim, dtype=dtype)
    return LinearGaussian(potential, draw(latents(dim, 1, dtype=dtype))[0], covariance, draw(st.integers(1, 3)))


def make_potential(
    dim: int,
    num: int = 1,
    hidden: int | None = None,
    *,
    bounded: bool = False,
    seed: int = 0,
    strength: float = 3.0,
    dtype: torch.dtype = torch.float64,
) -> Potential:
    """A potential away from its tame initialisation: `strength` multiplies its first and last layer."""
    potential = _with_seed(lambda: Potential(dim, num, hidden, bounded=bounded, dtype=dtype), seed)
    with torch.no_grad():
        potential.input_weight.mul_(strength)
        potential.output_weight.mul_(strength)
    return potential


def _with_seed(factory: Callable[[], Module], seed: int) -> Module:
    with torch.random.fork_rng(devices=range(torch.cuda.device_count())):
        torch.manual_seed(seed)
        return factory()


def _drawn(draw: st.DrawFn, size: Size, least: int, most: int) -> int:
    return size if isinstance(size, int) else draw(st.integers(least, most) if size is None else size)


def _numbers(draw: st.DrawFn, count: int, low: float, high: float) -> list[float]:
    number = st.floats(low, high, allow_subnormal=False)
    return draw(st.lists(number, min_size=count, max_size=count))
