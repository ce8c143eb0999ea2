r"""The posterior over latent paths: a sample of q(z_0 | x_0), carried along by the gradients of the potentials.

``z_t = z_{t-1} + sum_k w_t^k grad u^k(z_{t-1}, t)``, with the density of each z_t.
"""

from __future__ import annotations

import copy
from collections.abc import Mapping
from typing import Any

import torch
from torch import Tensor, nn
from torch.distributions import Distribution

from latentflow import derivatives, euler, ode
from latentflow.acting import Acting, acting
from latentflow.derivatives import dimension, has_closed_form, number_of_potentials
from latentflow.initial import checked, draw, latents, log_prob
from latentflow.path import Carried, LatentPath, densities
from latentflow.precision import autocast_off, without_autocast
from latentflow.times import LABELS
from latentflow.validate import one_of, positive_integer, require_generator

LOG_DETS = ("exact", "hutchinson", "laplacian", None)


class FlowPosterior(nn.Module):
    r"""Carry :math:`q(z_0 | x_0)` along the potentials: :math:`z_t = z_{t-1} + \sum_k w_t^k \nabla u^k(z_{t-1}, t)`.

    What acts is said by exactly one of two arguments, in every method:

    * ``k``: an int, or integer labels (B,), or (B, T) to switch on the way;
    * ``weights``: floating, non-negative, (B, K) or (B, T, K), to superpose or for soft and Gumbel one-hot choices.

    Args:
        potential: `Potential`, or any module with ``forward(z, t) -> (..., K)``; t comes as a tensor with z's leading shape.
            Rows of z must not interact, and the same (z, t) must give the same answer: no batch normalisation or dropout
            in training mode, nor in any submodule.
        log_det: "exact" (and folds are reported); "hutchinson", the second-order expansion
            :math:`\mathrm{tr}\,H - \frac12 \mathrm{tr}\,H^2` by one Rademacher probe; "laplacian",
            :math:`\log\lvert 1 + \mathrm{tr}\,H\rvert`, eq. 10 as printed; None, no densities.
        solver: "euler" is the paper's map; any torchdiffeq method integrates :math:`dz/ds = \sum_k w_t^k \nabla u^k(z, s)`
            over [t-1, t] in continuous time, with log_det the integral of the Laplacian.
        substeps: Euler takes n substeps ``z += grad u(z, t-1+(j+1)/n) / n``; fixed-step torchdiffeq methods likewise.
        solver_options: for torchdiffeq, for example ``{"rtol": 1e-6, "atol": 1e-6}`` or ``{"step_size": 0.1}``.
        label: "end" evaluates Euler's step t at time t, as the paper; "start" at t - 1, which moves solutions of the
            Hamilton-Jacobi equation exactly, but contradicts the initial term of `HJConstraint`.
        memory: a limit in bytes for the Hessians of exact log-determinants of a `Potential`: they are made in chunks, and once
            more for their gradients. None: all at once. Second derivatives of potentials with `hidden` < `dim` form full
            Hessians and do not keep to it.

    Raises:
        TypeError: the potential is no module, a `NegativeForce` or a flow itself, the solver no string, its options no dict,
            or substeps or memory is no int.
        ValueError: an option is unknown, options contradict each other, or `memory` is given where it cannot be kept.

    Example:
        >>> import torch
        >>> from torch.distributions import Independent, Normal
        >>> from latentflow import FlowPosterior, Potential
        >>> flow = FlowPosterior(Potential(dim=4, num=3))
        >>> q0 = Independent(Normal(torch.zeros(8, 4), torch.ones(8, 4)), 1)
        >>> path = flow(q0, torch.randint(3, (8,)), steps=5)
        >>> path.z.shape, path.log_q.shape
        (torch.Size([8, 6, 4]), torch.Size([8, 6]))

    Source: Song et al. 2023, eqs. 4, 9 and 10.
    """

    def __init__(
        self,
        potential: nn.Module,
        log_det: str | None = "exact",
        *,
        solver: str = "euler",
        substeps: int = 1,
        solver_options: Mapping[str, Any] | None = None,
        label: str = "end",
        memory: int | None = None,
    ) -> None:
        super().__init__()
        derivatives.require_potential(potential)
        self.potential, self.log_det, self.label = potential, log_det, label
        self.solver, self.substeps = solver, positive_integer("substeps", substeps)
        self.solver_options, self._tried = {} if solver_options is None else solver_options, ""
        self._odeint_options(log_det)
        self.solver_options = dict(self.solver_options)
        self.memory = None if memory is None else positive_integer("memory", memory, "pass bytes, for example 2**28")
        if memory is not None and not (has_closed_form(potential) and (log_det, solver) == ("exact", "euler")):
            raise ValueError(
                f"memory: got {memory} for {type(potential).__name__} with log_det={log_det!r} and solver={solver!r}, expected "
                "None; only exact log-determinants of Euler's steps of a latentflow.Potential know what they take: "
                "use smaller batches"
            )

    def with_log_det(self, log_det: str | None) -> FlowPosterior:
        """The same flow, of the same potential, with another kind of log-determinants; for evaluation, as a rule.

        Raises:
            ValueError: the kind is unknown, or does not go with the solver.

        Example:
            >>> from latentflow import FlowPosterior, Potential
            >>> training = FlowPosterior(Potential(dim=4), "hutchinson")
            >>> exact = training.with_log_det("exact")
            >>> exact.log_det, training.log_det, exact.potential is training.potential
            ('exact', 'hutchinson', True)
        """
        one_of("log_det", log_det, LOG_DETS)
        ode.require_fitting(self.solver, log_det, self.label)
        same = copy.copy(self)
        for name, value in vars(self).items():
            if isinstance(value, dict):  # its modules and hooks are its own from now on
                vars(same)[name] = value.copy()
        same.log_det, same.memory = log_det, self.memory if log_det == "exact" else None
        return same

    def extra_repr(self) -> str:
        names = ("log_det", "solver", "substeps", "solver_options", "label", "memory")
        return ", ".join(f"{name}={getattr(self, name)!r}" for name in names)

    def forward(
        self,
        q0: Distribution,
        k: int | Tensor | None = None,
        steps: int | None = None,
        *,
        weights: Tensor | None = None,
        generator: torch.Generator | None = None,
    ) -> LatentPath:
        """Sample z_0 and follow it for `steps` steps.

        Args:
            q0: the posterior of z_0, batch shape (B,) and event shape (dim,), for example
                ``Independent(Normal(mu, std), 1)``. Must have `rsample` if gradients are wanted.
            k, weights: what acts, exactly one of the two.
            steps: T, at least 1.
            generator: draws z_0 and Hutchinson's probes reproducibly.

        Raises:
            TypeError: a floating k, integer weights, q0 is no distribution, or `generator` is something else than a
                torch.Generator.
            ValueError: shapes or values that do not fit; each message says got, expected and the fix.
        """
        q0 = checked(q0, dimension(self.potential))
        z0, start = draw(q0, generator, density=self.log_det is not None)
        with autocast_off(z0.device.type):
            what = self._acting(z0, k, weights, steps)
            z, log_det, folds, rollout = self._carry(z0, what, self.log_det, generator)
            log_q = None if start is None or log_det is None else densities(start, log_det)
            return LatentPath(z, log_q, log_det, folds, what.weights, what.times, q0, acting=what, rollout=rollout)

    def transport(
        self,
        z0: Tensor,
        k: int | Tensor | None = None,
        steps: int | None = None,
        *,
        weights: Tensor | None = None,
        generator: torch.Generator | None = None,
    ) -> tuple[Tensor, Tensor | None]:
        """The deterministic core, for plain tensors: from z_0 to the whole path.

        Args:
            z0: (B, dim).
            k, weights, steps: as for the flow itself.
            generator: draws Hutchinson's probes.

        Returns:
            The path (B, T+1, dim), z0 first, and the log-determinants (B, T), or None in their place.

        Raises:
            TypeError: z0 or weights are not floating, k is not integer, steps is no int, or `generator` is something
                else than a torch.Generator.
            ValueError: shapes or values do not fit, or latents or log-determinants are not finite.

        Example:
            >>> import torch
            >>> from latentflow import FlowPosterior, Potential
            >>> z, log_det = FlowPosterior(Potential(dim=4)).transport(torch.zeros(8, 4), 0, steps=5)
            >>> z.shape, log_det.shape
            (torch.Size([8, 6, 4]), torch.Size([8, 5]))
        """
        require_generator(generator)
        with without_autocast(z0):
            z0 = latents("z0", z0, dimension(self.potential))
            carried = self._carry(z0, self._acting(z0, k, weights, steps), self.log_det, generator)
            return carried.z, carried.log_det

    def inverse(
        self,
        z_T: Tensor,
        k: int | Tensor | None = None,
        steps: int | None = None,
        *,
        weights: Tensor | None = None,
    ) -> Tensor:
        """A z_0 (B, dim) that `transport` carries to z_T (B, dim), with I + H positive definite at every step.

        The residual of every step is verified. Where the map is not injective there may be others, and one of them may be
        found although no step of the path that led to z_T folds: uniqueness is not certified. Differentiable in z_T and in the
        parameters, backwards and forwards: twice with Euler; once with an ODE, to within the solver's own error.

        Raises:
            TypeError, ValueError: as `transport`.
            FoldError: no such preimage was found, naming step and samples.

        Example:
            >>> import torch
            >>> from latentflow import FlowPosterior, Potential
            >>> flow, z0 = FlowPosterior(Potential(dim=4)), torch.randn(8, 4)
            >>> z, _ = flow.transport(z0, 0, steps=5)
            >>> torch.allclose(flow.inverse(z[:, -1], 0, steps=5), z0, atol=1e-4)
            True
        """
        with without_autocast(z_T):
            z = latents("z_T", z_T, dimension(self.potential))
            what = self._acting(z, k, weights, steps)
            options = self._odeint_options(None)
            if self.solver == "euler":
                return euler.back(self.potential, z, what, self.substeps, self.label)
            return ode.back(self.potential, z, what, self.solver, options)

    def log_prob(
        self,
        z_T: Tensor,
        q0: Distribution,
        k: int | Tensor | None = None,
        steps: int | None = None,
        *,
        weights: Tensor | None = None,
    ) -> Tensor:
        """Log density (B,) at z_T (B, dim) of q0 pushed forward, through `inverse`, in nats.

        The log-determinants are exact whatever `log_det` the flow was made with. Where the map is not injective this is the
        density of the branch that `inverse` found, which may be another one than that of a path: take `path.log_q` for that.

        Args:
            z_T: (B, dim).
            q0: the density of z_0, batch shape (B,) or (1,) and event shape (dim,).
            k, weights, steps: as for the flow itself.

        Raises:
            TypeError, FoldError: as `inverse`.
            ValueError: likewise, or q0 has another batch or event shape.

        Example:
            >>> import torch
            >>> from torch.distributions import Independent, Normal
            >>> from latentflow import FlowPosterior, Potential
            >>> flow, q0 = FlowPosterior(Potential(4)), Independent(Normal(torch.zeros(8, 4), torch.ones(8, 4)), 1)
            >>> path = flow(q0, 0, steps=5)
            >>> torch.allclose(flow.log_prob(path.z[:, -1], q0, 0, steps=5), path.log_q[:, -1], atol=1e-3)
            True
        """
        q0 = checked(q0, dimension(self.potential))
        if isinstance(z_T, Tensor) and z_T.ndim == 2 and q0.batch_shape[0] not in (1, z_T.shape[0]):
            raise ValueError(
                f"q0: got batch shape {tuple(q0.batch_shape)} for {z_T.shape[0]} latents, expected ({z_T.shape[0]},) or (1,); "
                "give each latent its posterior, or all of them one"
            )
        z0 = self.inverse(z_T, k, steps, weights=weights)
        with without_autocast(z0):
            log_det = self._carry(z0, self._acting(z0, k, weights, steps), "exact", None).log_det
            assert log_det is not None
            return log_prob(q0, z0) - log_det.sum(1)

    def _acting(self, z: Tensor, k: int | Tensor | None, weights: Tensor | None, steps: int | None) -> Acting:
        return acting(number_of_potentials(self.potential, z), z, k, weights, steps)

    def _carry(self, z0: Tensor, what: Acting, log_det: str | None, generator: torch.Generator | None) -> Carried:
        options, given = self._odeint_options(log_det), (self.potential, z0, what, log_det, generator)
        if self.solver == "euler":
            return euler.carry(*given, self.substeps, self.label, self.memory)
        return ode.carry(*given, self.solver, options)

    def _odeint_options(self, log_det: str | None) -> dict[str, Any]:
        """Of the settings as they are, which are checked anew, as users may have set them; Euler has none."""
        one_of("log_det", log_det, LOG_DETS)
        one_of("label", self.label, LABELS)
        positive_integer("substeps", self.substeps)
        given = {} if self.solver_options is None else self.solver_options
        if self.solver == "euler" and not given:
            return {}
        options = ode.checked_options(self.solver, self.substeps, given, log_det, self.label)
        if self._tried != (now := repr((self.solver, options))):
            ode.try_out(self.solver, options)
            self._tried = now
        return options
