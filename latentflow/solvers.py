"""How the latents move: the paper's explicit map, or the flow of the same field in continuous time.

A field is ``field(z, t, step) -> (B, dim)``: the gradient of what acts in step ``step`` (0, ..., T-1) at latents z, time t.
"""

from __future__ import annotations

import warnings
from collections.abc import Callable, Mapping
from typing import Any

import torch
import torchdiffeq
from torch import Tensor, nn

from latentflow.product import divided

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
    if log_det == "laplacian":
        raise ValueError(
            f"log_det: got 'laplacian' with solver={solver!r}, expected 'exact', 'hutchinson' or None; eq. 10 belongs to "
            "Euler's steps, an ODE integrates the Laplacian itself"
        )
    if label == "start":
        raise ValueError(f"label: got 'start' with solver={solver!r}, expected 'end'; an ODE's time is continuous")
    return _odeint_options(solver, substeps, given)


def _odeint_options(method: str, substeps: int, given: Mapping[str, Any]) -> dict[str, Any]:
    """The keyword arguments of `torchdiffeq.odeint` for a method, checked by integrating a line."""
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
    with torch.device("cpu"), warnings.catch_warnings():  # modules may be made on a device without numbers
        warnings.simplefilter("error")  # torchdiffeq only warns of an option that its method does not know
        try:
            start, times = torch.zeros(1, dtype=torch.float64), torch.tensor([0.0, 1.0], dtype=torch.float64)
            torchdiffeq.odeint(lambda t, y: y, start, times, method=method, **arguments)
        except Exception as error:
            raise ValueError(
                f"solver: got {method!r} with {arguments}, expected 'euler' or a torchdiffeq method and its options; {error}"
            ) from error
    return arguments


def require_a_graph(solver: str, z: Tensor, potential: nn.Module) -> None:
    """Raise where gradients would be lost on the way through a solver that leaves PyTorch."""
    wanted = torch.is_grad_enabled() and (z.requires_grad or any(p.requires_grad for p in potential.parameters()))
    if solver == "scipy_solver" and wanted:
        raise ValueError(
            f"solver: got {solver!r} where gradients are wanted, expected a solver that has some; use solver='dopri5', or call "
            "inside of torch.no_grad()"
        )


def euler_times(steps: int, substeps: int, label: str, like: Tensor) -> Tensor:
    """The time at which each substep evaluates the potential, (steps, substeps)."""
    offset = 1 if label == "end" else 0
    fine = torch.arange(offset, offset + steps * substeps, dtype=like.dtype, device=like.device)
    return divided(fine, substeps).view(steps, substeps)


def euler(field: Field, z: Tensor, times: Tensor, substeps: int) -> Tensor:
    """All substep latents, (B, S + 1, dim), of z += field / substeps at `times` (S,)."""
    latents = [z]
    for substep, t in enumerate(times):
        z = z + field(z, t, substep // substeps) / substeps
        latents.append(z)
    return torch.stack(latents, 1)


def integrate(
    field: Field, divergence: Divergence | None, z: Tensor, steps: int, method: str, options: dict[str, Any]
) -> tuple[Tensor, Tensor | None]:
    """Latents (B, steps+1, dim) and, where `divergence` (its Laplacian) is given, its integral over each step (B, steps)."""
    latents, integrals = [z], []
    for step in range(steps):
        z, integral = one_step(field, divergence, z, step, step, step + 1, method, options)
        latents.append(z)
        integrals.append(integral)
    return torch.stack(latents, 1), None if divergence is None else torch.stack(integrals, 1)


def one_step(
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
    try:
        end_state = torchdiffeq.odeint(derivative, start, span, method=method, **with_tolerances(options, z.dtype))
    except AssertionError as error:  # adaptive solvers assert that their step size has not vanished
        raise ValueError(
            f"solver: got {error} from {method!r} between t = {begin} and {end}, expected a smooth field; "
            "loosen rtol and atol in solver_options, use float64, or solver='rk4'"
        ) from error
    return end_state[0][-1], end_state[-1][-1]


def with_tolerances(options: dict[str, Any], dtype: torch.dtype) -> dict[str, Any]:
    """Torchdiffeq's default tolerances lie below what float32 resolves, so that its steps would shrink to nothing."""
    defaults = {"rtol": 1e-7, "atol": 1e-9} if dtype == torch.float64 else {"rtol": 1e-5, "atol": 1e-6}
    return {**defaults, **options}
