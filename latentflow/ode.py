"""The flow of the same field in continuous time, there and back, by any method of torchdiffeq.

In each step s = 0, ..., T-1 latents move along the gradient at time t of what acts in it, for t from s to s + 1.
"""

from __future__ import annotations

import math
import warnings
from collections.abc import Callable, Mapping
from typing import Any

import torch
import torchdiffeq
from torch import Tensor, nn

from latentflow import derivatives, logdet
from latentflow.acting import Acting
from latentflow.contexts import forward_mode
from latentflow.finite import require_finite_log_det, require_finite_path
from latentflow.path import Carried
from latentflow.preimage import FoldError, tolerance

ADAPTIVE = ("dopri8", "dopri5", "bosh3", "fehlberg2", "adaptive_heun", "scipy_solver")  # they control their error

Field = Callable[[Tensor, Tensor, int], Tensor]
Divergence = Callable[[Tensor, Tensor, int], Tensor]


def checked_options(
    solver: str, substeps: int, given: Mapping[str, Any], log_det: str | None, label: str
) -> dict[str, Any]:
    """The keyword arguments of `torchdiffeq.odeint`, none for Euler; an error where a flow's settings do not go together."""
    if not isinstance(solver, str):
        raise TypeError(f"solver: got {solver!r}, expected 'euler' or the name of a torchdiffeq method; pass a string")
    if not isinstance(given, Mapping):
        raise TypeError(f"solver_options: got {given!r}, expected a dict; name what torchdiffeq.odeint takes, as rtol")
    if solver == "euler":
        if given:
            raise ValueError(f"solver_options: got {given} with solver='euler', expected none; set substeps instead")
        return {}
    require_fitting(solver, log_det, label)
    return _odeint_options(solver, substeps, given)


def require_fitting(solver: str, log_det: str | None, label: str) -> None:
    """Raise where a log-determinant or a label belongs to Euler's steps alone."""
    if solver == "euler":
        return
    if log_det == "laplacian":
        raise ValueError(
            f"log_det: got 'laplacian' with solver={solver!r}, expected 'exact', 'hutchinson' or None; eq. 10 belongs to "
            "Euler's steps, an ODE integrates the Laplacian itself"
        )
    if label == "start":
        raise ValueError(f"label: got 'start' with solver={solver!r}, expected 'end'; an ODE's time is continuous")


def _odeint_options(method: str, substeps: int, given: Mapping[str, Any]) -> dict[str, Any]:
    """The keyword arguments of `torchdiffeq.odeint` for a method."""
    options = {name: value for name, value in given.items() if name not in ("rtol", "atol", "options")}
    options.update(given.get("options", {}))
    if substeps > 1:
        if options.keys() & {"step_size", "grid_constructor"}:
            raise ValueError(f"substeps: got {substeps} and {options}, expected one of them; they say the same")
        if method in ADAPTIVE:
            raise ValueError(
                f"substeps: got {substeps} with solver={method!r}, expected 1; it chooses its steps by rtol and atol"
            )
        options["step_size"] = 1 / substeps
    arguments: dict[str, Any] = {name: given[name] for name in ("rtol", "atol") if name in given}
    if options:
        arguments["options"] = options
    return arguments


def try_out(method: str, arguments: dict[str, Any]) -> None:
    """Raise unless a method integrates a line with these arguments: torchdiffeq says late, if at all, what it cannot use."""
    with torch.device("cpu"), warnings.catch_warnings():  # modules may be made on a device without numbers
        warnings.simplefilter("error")  # torchdiffeq only warns of an option that its method does not know
        try:
            start, times = torch.zeros(1, dtype=torch.float64), torch.tensor([0.0, 1.0], dtype=torch.float64)
            torchdiffeq.odeint(lambda t, y: y, start, times, method=method, **arguments)
        except Exception as error:
            raise ValueError(
                f"solver: got {method!r} with {arguments}, expected 'euler' or a torchdiffeq method and its options; {error}"
            ) from error


def carry(
    potential: nn.Module,
    z0: Tensor,
    what: Acting,
    log_det: str | None,
    generator: torch.Generator | None,
    method: str,
    options: dict[str, Any],
) -> Carried:
    """Latents and, but for `log_det` None, the integral of the Laplacian over each step."""
    field, divergence = _field(potential, what), _divergence(potential, log_det, what, z0, generator)
    _require_a_graph(method, field, z0, what.steps)
    z, latents, integrals = z0, [z0], []
    for step in range(what.steps):
        z, integral = _one_step(field, divergence, z, step, step, step + 1, method, options)
        latents.append(z)
        integrals.append(integral)
    path = torch.stack(latents, 1)
    require_finite_path(path, 1)
    if divergence is None:
        return Carried(path, None, None, None)
    value = torch.stack(integrals, 1)
    require_finite_log_det(value, 1)
    # The flow of an ODE is a diffeomorphism, but a fixed step that is too long for it may still fold: unknown.
    sound = log_det == "exact" and method in ADAPTIVE
    return Carried(path, value, torch.zeros_like(value, dtype=torch.bool) if sound else None, None)


def back(potential: nn.Module, z: Tensor, what: Acting, method: str, options: dict[str, Any]) -> Tensor:
    """The latents that the solver carries to z (B, dim), the residual of each step verified."""
    field = _field(potential, what)
    _require_a_graph(method, field, z, what.steps)
    for step in reversed(range(what.steps)):
        z = _step_back(field, z, step, method, options)
    return z


def _require_a_graph(method: str, field: Field, z: Tensor, steps: int) -> None:
    """Raise where gradients would be lost on the way through a solver that leaves PyTorch."""
    if method != "scipy_solver":
        return
    # What acts, or something that a user's module holds, may ask for gradients too.
    asked = (field(z, z.new_tensor(float(step)), step).requires_grad for step in range(steps))
    if forward_mode() or (torch.is_grad_enabled() and (z.requires_grad or any(asked))):
        raise ValueError(
            f"solver: got {method!r} where gradients are wanted, expected a solver that has some; use solver='dopri5', or call "
            "inside of torch.no_grad()"
        )


def _field(potential: nn.Module, what: Acting) -> Field:
    return lambda z, t, step: derivatives.gradient(potential, z, t, what.at(step))


def _divergence(
    potential: nn.Module, log_det: str | None, what: Acting, z0: Tensor, generator: torch.Generator | None
) -> Divergence | None:
    """The Laplacian along an ODE, whose integral is the log-determinant: exact, or Hutchinson's estimate; None for none."""
    if log_det is None:
        return None
    if log_det == "exact":
        return lambda z, t, step: derivatives.laplacian(potential, z, t, what.at(step))
    probe = logdet.rademacher(z0, generator)  # one for the whole path: the integrand must be smooth in time

    def estimate(z: Tensor, t: Tensor, step: int) -> Tensor:
        return (probe * derivatives.hessian_product(potential, z, t, what.at(step), probe)).sum(-1)

    return estimate


def _one_step(
    field: Field,
    divergence: Divergence | None,
    z: Tensor,
    step: int,
    begin: int,
    end: int,
    method: str,
    options: dict[str, Any],
) -> tuple[Tensor, Tensor]:
    """Where latents are at time `end`, (B, dim), and the integral, (B,); `end` may be before `begin`."""
    span = torch.tensor([begin, end], dtype=z.dtype, device=z.device)

    def derivative(t: Tensor, state: tuple[Tensor, ...]) -> tuple[Tensor, ...]:
        motion = field(state[0], t, step)
        return (motion,) if divergence is None else (motion, divergence(state[0], t, step))

    start = (z,) if divergence is None else (z, torch.zeros_like(z[:, 0]))
    if z.shape[0] == 0:  # adaptive solvers find no step size for an empty batch
        return start[0], start[-1]
    arguments = _with_tolerances(options, z.dtype)
    if method in ADAPTIVE and method != "scipy_solver":
        given = arguments.get("options", {})
        arguments["options"] = {"norm": _of_the_worst_sample, **given, "step_t": _landing(given, span[1:])}
    try:
        end_state = torchdiffeq.odeint(derivative, start, span, method=method, **arguments)
    except AssertionError as error:  # adaptive solvers assert that their step size has not vanished
        raise ValueError(
            f"solver: got {error} from {method!r} between t = {begin} and {end}, expected a smooth field; "
            "loosen rtol and atol in solver_options, use float64, or solver='rk4'"
        ) from error
    return end_state[0][-1], end_state[-1][-1]


def _of_the_worst_sample(state: tuple[Tensor, ...]) -> Tensor:
    """The size of an error, whose parts are (B, ...).

    torchdiffeq's own is a mean over the batch too, where many samples that hardly move would excuse one that is far off.
    """
    # Detached: how long a step is needs no gradient, and a root has none at 0, where samples are at rest.
    return torch.stack([x.detach().reshape(len(x), -1).square().mean(1).max() for x in state]).max().sqrt()


def _landing(given: Mapping[str, Any], end: Tensor) -> Tensor:
    """Where an adaptive solver has to step: where the user says, and onto the end of the span.

    What it interpolates, from a step that leads beyond, lacks the precision that it asks of its steps.
    """
    steps, jumps = (torch.as_tensor(given.get(name, [])).to(end) for name in ("step_t", "jump_t"))
    return steps if bool((torch.cat((steps, jumps)) == end).any()) else torch.cat((steps, end))


def _with_tolerances(options: dict[str, Any], dtype: torch.dtype) -> dict[str, Any]:
    """Torchdiffeq's default tolerances lie below what float32 resolves, so that its steps would shrink to nothing."""
    defaults = {"rtol": 1e-7, "atol": 1e-9} if dtype == torch.float64 else {"rtol": 1e-5, "atol": 1e-6}
    return {**defaults, **options}


def _step_back(field: Field, z: Tensor, step: int, method: str, options: dict[str, Any]) -> Tensor:
    """The latent that the solver carries to z in this step, its residual verified."""

    def back(y: Tensor) -> Tensor:
        return _one_step(field, None, y, step, step + 1, step, method, options)[0]

    try:
        start = back(z)
    except ValueError as error:  # for some samples the solution may not reach back that far
        guilty = [i for i in range(len(z)) if not _succeeds(back, z[i : i + 1])]
        raise FoldError(step + 1, guilty, f"{method!r} cannot go back along the path") from error
    refined, worst = start.detach(), math.inf
    with torch.no_grad():
        wanted = accepted = tolerance(z.dtype)
        if method in ADAPTIVE:
            # They repeat themselves only to within their tolerances.
            asked = _with_tolerances(options, z.dtype)
            wanted = max(wanted, 10 * asked["rtol"])
            accepted = max(wanted, 10 * asked["atol"])
        for _ in range(20):  # the solver's own error makes back() an inexact inverse, which this fixed point mends
            landed = _one_step(field, None, refined, step, step, step + 1, method, options)[0]
            off = (landed - z).norm(dim=1) / (1 + z.norm(dim=1))
            missed, nearer = ~(off <= accepted), bool((off < worst).all())
            if bool((off <= wanted).all()) or not (nearer or bool(missed.any())):
                break
            worst = min(worst, off.max().item())
            refined = refined + start - back(landed)
        if bool(missed.any()):
            raise FoldError(step + 1, missed.nonzero().flatten().tolist(), f"{method!r} does not retrace its path")
    return start + (refined - start).detach()  # the value of the one, the gradient of the other


def _succeeds(back: Callable[[Tensor], Tensor], z: Tensor) -> bool:
    try:
        return bool(back(z).isfinite().all())
    except ValueError:
        return False
