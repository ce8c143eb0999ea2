"""What holds of the derivatives of any potential: autograd's, its own closed forms, and a user's own arithmetic.

Autograd is held to finite differences of `forward`, which know nothing of derivatives; closed forms are held to autograd,
within rounding. So a wrong `torch.autograd.Function` and a wrong closed form are told apart.
"""

from __future__ import annotations

import inspect
from collections.abc import Callable, Iterator

import numpy as np
import torch
from torch import Tensor, nn

from latentflow import derivatives
from latentflow.testing.comparison import allowance, compare
from latentflow.testing.reference import (
    Estimate,
    acting_rows,
    autograd_derivatives,
    autograd_gradient,
    autograd_hessian,
    autograd_product,
    difference_gradients,
    difference_hessian,
    difference_rates,
    rows,
)

Function = Callable[[Tensor, Tensor], Tensor]  # rows z (N, dim) and times t (N,) to one result for each row

DIFFERENCES, AUTOGRAD = "by finite differences of forward", "by autograd of forward"
BACKWARD = "look for a torch.autograd.Function with a wrong backward, a detach, or a kink such as that of ReLU"


def assert_gradient(
    potential: nn.Module,
    z: Tensor,
    t: Tensor | float,
    *,
    gradient: Function | None = None,
    tolerance: float | None = None,
) -> None:
    r"""Assert that :math:`\nabla u^k` is the gradient of forward, for all k.

    Autograd is held to finite differences. Held to autograd are what the library takes, and the methods `gradients`,
    `first_derivatives` and `gradient` of the module, if it has them with the signatures of `Potential`.

    Args:
        potential: any module with ``forward(z, t) -> (..., K)``.
        z, t: latents (..., dim) and times that broadcast to (...).
        gradient: your own arithmetic, judged instead: z (N, dim), t (N,) to (N, K, dim).
        tolerance: relative to one more than the largest number of the sample. By default what finite differences
            err by, or :math:`16\,\epsilon^{3/4}` where autograd is the truth.

    Raises:
        AssertionError: saying which number, at which latent and time, and what was expected.

    Example:
        >>> import torch
        >>> from latentflow.testing import Spread, assert_gradient
        >>> z = torch.ones(1, 2, dtype=torch.float64)
        >>> assert_gradient(Spread(), z, 1.0)
        >>> assert_gradient(Spread(), z, 1.0, gradient=lambda z, t: z[:, None])
        Traceback (most recent call last):
        ...
        AssertionError: your gradient: got 1, expected 0.5 by autograd of forward; off by 0.5, allowed 4.4e-11 in float64
          where    sample 0, k 0, dimension 0 (2 of 2 numbers are off)
          latent   [1, 1]
          time     1
    """
    z, t = rows(z, t)
    at, axes = {"latent": z, "time": t}, ("k", "dimension")
    truth = autograd_derivatives(potential, z, t)[1]
    _compare_autograd("gradient", truth, difference_gradients(potential, z, t), tolerance, axes, at)
    for name, claim in _claims(gradient, "your gradient", lambda: _gradients(potential, z, t), (z, t)):
        compare(name, claim, truth, AUTOGRAD, tolerance=tolerance, axes=axes, at=at)


def assert_time_derivative(
    potential: nn.Module,
    z: Tensor,
    t: Tensor | float,
    *,
    time_derivative: Function | None = None,
    tolerance: float | None = None,
) -> None:
    r"""Assert that :math:`\partial_t u^k` is the time derivative of forward, for all k and each sample by itself.

    Args:
        potential, z, t, tolerance: as in `assert_gradient`.
        time_derivative: your own arithmetic, judged instead of autograd and the module's `first_derivatives`: z (N, dim),
            t (N,) to (N, K).

    Raises:
        AssertionError: as `assert_gradient`.

    Example:
        >>> import torch
        >>> from latentflow.testing import Spread, assert_time_derivative
        >>> assert_time_derivative(Spread(), torch.ones(1, 2, dtype=torch.float64), 1.0)
    """
    z, t = rows(z, t)
    at, axes = {"latent": z, "time": t}, ("k",)
    truth = autograd_derivatives(potential, z, t)[0]
    _compare_autograd("time derivative", truth, difference_rates(potential, z, t), tolerance, axes, at)
    for name, claim in _claims(time_derivative, "your time derivative", lambda: _rates(potential, z, t), (z, t)):
        compare(name, claim, truth, AUTOGRAD, tolerance=tolerance, axes=axes, at=at)


def assert_hessian(
    potential: nn.Module,
    z: Tensor,
    t: Tensor | float,
    active: int | Tensor = 0,
    *,
    hessian: Function | None = None,
    laplacian: Function | None = None,
    tolerance: float | None = None,
) -> None:
    r"""Assert that :math:`H = \sum_k w^k \nabla\nabla^\top u^k`, H v and the Laplacian are those of forward.

    Autograd's Hessian is held to finite differences of its gradient. Held to it are what the library takes, and the methods
    `hessian`, `hessian_product` and `laplacian` of the module, if it has them with the signatures of `Potential`.

    Args:
        potential, z, t, tolerance: as in `assert_gradient`.
        active: what acts: an index, labels (...) or weights (..., K).
        hessian, laplacian: your own arithmetic, judged instead: z (N, dim), t (N,) to (N, dim, dim) and (N,).

    Raises:
        AssertionError: as `assert_gradient`.

    Example:
        >>> import torch
        >>> from latentflow.testing import Linear, assert_hessian
        >>> saddle = Linear(torch.tensor([[[0.0, 0.5], [0.5, 0.0]]]), torch.zeros(1, 2)).double()
        >>> z = torch.ones(1, 2, dtype=torch.float64)
        >>> assert_hessian(saddle, z, 1.0)
        >>> assert_hessian(saddle, z, 1.0, laplacian=lambda z, t: saddle.hessian(z, t, 0).sum((1, 2)))
        Traceback (most recent call last):
        ...
        AssertionError: your Laplacian: got 1, expected 0 by autograd of forward; off by 1, allowed 2.9e-11 in float64
          where    sample 0 (1 of 1 numbers are off)
          latent   [1, 1]
          time     1
          active   0
    """
    z, t, active = acting_rows(potential, z, t, active)
    at: dict[str, Tensor | float | int] = {"latent": z, "time": t, "active": active}
    truth, axes = autograd_hessian(potential, z, t, active), ("row", "column")
    estimate = difference_hessian(potential, z, t, active)
    _compare_autograd("Hessian", truth, estimate, tolerance, axes, at, "by finite differences of autograd's gradient")
    probe = torch.cos(torch.arange(z.numel(), dtype=z.dtype, device=z.device)).view_as(z)
    truths = {
        "Hessian": truth,
        "Hessian product": (truth @ probe[..., None]).squeeze(-1),
        "Laplacian": truth.diagonal(dim1=-2, dim2=-1).sum(-1),
    }
    claims: list[tuple[str, str, object]] = [
        (name, f"your {name}", function(z, t))
        for name, function in (("Hessian", hessian), ("Laplacian", laplacian))
        if function is not None
    ]
    if not claims:
        claims = list(_second(potential, z, t, active, probe))
    for kind, name, claim in claims:
        names = axes if kind == "Hessian" else ("dimension",)
        compare(name, claim, truths[kind], AUTOGRAD, tolerance=tolerance, axes=names, at=at)


def assert_smooth(
    potential: nn.Module,
    z: Tensor,
    t: Tensor | float,
    active: int | Tensor = 0,
    *,
    tolerance: float | None = None,
) -> None:
    r"""Assert that the gradient has no jumps: :math:`\nabla u(b) - \nabla u(a) = \int_0^1 H(a + s(b-a))\,(b-a)\,ds`.

    A network of ReLUs has H = 0 wherever one looks, and yet its gradient changes: log-determinants would miss all of it.

    Args:
        potential, z, t, tolerance: as in `assert_gradient`. The segments lead from each latent through the region to the
            mirror image of another, so that from a single latent they pass the origin.
        active: what acts: an index, labels (...) or weights (..., K).

    Raises:
        AssertionError: saying on which segment, and how far the gradient jumps.

    Example:
        >>> import torch
        >>> from latentflow import Potential
        >>> from latentflow.testing import assert_smooth
        >>> assert_smooth(Potential(2, dtype=torch.float64), torch.ones(1, 2, dtype=torch.float64), 1.0)
    """
    z, t, active = acting_rows(potential, z, t, active)
    end = -z.flip(0)

    def integral(nodes: int, pieces: int) -> Tensor:
        places, weights = (torch.from_numpy(x).to(z) / 2 for x in np.polynomial.legendre.leggauss(nodes))
        places = (torch.arange(pieces).to(z)[:, None] + places + 0.5).view(-1, 1, 1) / pieces
        weights = weights.repeat(pieces).view(-1, 1, 1) / pieces
        between = z + places * (end - z)
        return (weights * autograd_product(potential, between, t, active, (end - z).expand_as(between))).sum(0)

    change = autograd_gradient(potential, end, t, active) - autograd_gradient(potential, z, t, active)
    for pieces in (1, 4, 16, 64):  # until it is known: a stiff potential bends in a small part of a segment
        fine, coarse = integral(32, pieces), integral(16, pieces)
        if bool(((fine - coarse).abs() <= allowance(fine)).all()):
            break
    # A kink below 1e-8 harms nobody: torch's Softplus has one where it turns into a straight line.
    least = torch.maximum(allowance(fine), allowance(fine, 1e-8))
    compare(
        "change of the gradient along a segment", change, fine, "by integrating the Hessian",
        allowed=least + 2 * (fine - coarse).abs(), tolerance=tolerance, axes=("dimension",),
        at={"from": z, "to": end, "time": t, "active": active},
        hint="the potential must be twice differentiable: tanh or GELU, not ReLU or ELU",
    )  # fmt: skip


def _compare_autograd(
    what: str,
    autograd: Tensor,
    estimate: Estimate,
    tolerance: float | None,
    axes: tuple[str, ...],
    at: dict[str, Tensor] | dict[str, Tensor | float | int],
    by: str = DIFFERENCES,
) -> None:
    compare(
        f"{what} by autograd", autograd, estimate.value, by,
        allowed=estimate.error, tolerance=tolerance, axes=axes, at=at, hint=BACKWARD,
    )  # fmt: skip


def _claims(
    own: Function | None,
    name: str,
    claims: Callable[[], Iterator[tuple[str, Tensor]]],
    arguments: tuple[Tensor, Tensor],
) -> Iterator[tuple[str, Tensor]]:
    """What is judged: the user's own arithmetic, else what the module and the library say."""
    if own is not None:
        yield name, own(*arguments)
    else:
        yield from claims()


def _gradients(potential: nn.Module, z: Tensor, t: Tensor) -> Iterator[tuple[str, Tensor]]:
    yield "gradient that latentflow takes", derivatives.first_derivatives(potential, z, t)[1]
    for name, method in _methods(potential, z, t, gradients=0, first_derivatives=0, gradient=1):
        if name.endswith(".gradient"):
            num = derivatives.number_of_potentials(potential, z)
            yield f"{name}(z, t, k)", torch.stack([method(z, t, k) for k in range(num)], 1)
        elif name.endswith(".gradients"):
            yield f"{name}(z, t)", method(z, t)
        else:
            yield f"{name}(z, t)[1]", method(z, t)[1]


def _rates(potential: nn.Module, z: Tensor, t: Tensor) -> Iterator[tuple[str, Tensor]]:
    yield "time derivative that latentflow takes", derivatives.first_derivatives(potential, z, t)[0]
    for name, method in _methods(potential, z, t, first_derivatives=0):
        yield f"{name}(z, t)[0]", method(z, t)[0]


def _second(
    potential: nn.Module, z: Tensor, t: Tensor, active: int | Tensor, probe: Tensor
) -> Iterator[tuple[str, str, Tensor]]:
    for kind, function, more in (
        ("Hessian", derivatives.hessian, ()),
        ("Hessian product", derivatives.hessian_product, (probe,)),
        ("Laplacian", derivatives.laplacian, ()),
    ):
        yield kind, f"{kind} that latentflow takes", function(potential, z, t, active, *more)
    kinds = {"hessian": "Hessian", "hessian_product": "Hessian product", "laplacian": "Laplacian"}
    for name, method in _methods(potential, z, t, hessian=1, hessian_product=2, laplacian=1):
        kind = kinds[name.split(".")[1]]
        if kind == "Hessian product":
            yield kind, f"{name}(z, t, active, v)", method(z, t, active, probe)
        else:
            yield kind, f"{name}(z, t, active)", method(z, t, active)


def _methods(potential: nn.Module, z: Tensor, t: Tensor, **further: int) -> Iterator[tuple[str, Callable[..., Tensor]]]:
    """Those of the module's methods that can be called as those of `Potential`: z, t and so many arguments more."""
    for name, count in further.items():
        method = getattr(potential, name, None)
        if not callable(method):
            continue
        try:
            inspect.signature(method).bind(z, t, *(None,) * count)
        except (TypeError, ValueError):  # the name means something else there
            continue
        yield f"{type(potential).__name__}.{name}", method
