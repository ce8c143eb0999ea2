"""Euler's map for our own potentials, evaluated once: motion, rates, residuals and second derivatives share activations.

Only what is sequential stays in the loop over time. The activations of all steps are kept, and everything else is made of
them in one go afterwards.
"""

from __future__ import annotations

from dataclasses import dataclass

import torch
from torch import Tensor, nn

from latentflow import logdet
from latentflow.closed_form import Local, along_inputs, at_time, evaluate, to_latents
from latentflow.layout import Layout
from latentflow.potential import Potential
from latentflow.trajectory import divided, follow


@dataclass(frozen=True, eq=False)
class Rollout:
    """All substeps of a path: S in number, with the activations that moved them."""

    potential: Potential
    layout: Layout
    z: Tensor  # (B, S+1, d)
    rows: Tensor  # the latents that each step starts from, (1 or G, S M, d), step after step
    local: Local  # (G, S M, hidden), step after step
    rate: Tensor  # tau'(t), (G, S, hidden)
    shift_0: Tensor  # c(0), (G, 1, hidden)
    gradients: Tensor | None  # grad u of the own network, (1 or G, S M, d); None of a mixture
    versions: tuple[int, ...]  # of the potential's parameters, to tell whether they still are what they were

    def is_of(self, potential: nn.Module, z: Tensor) -> bool:
        """Whether this is `potential` as it stands, evaluated along z."""
        return self.z is z and self.potential is potential and self.versions == _versions(self.potential)

    @property
    def steps(self) -> int:
        """S."""
        return self.rate.shape[1]

    def hamilton_jacobi(self) -> Tensor:
        """du/dt + |grad u|^2 / 2 at the start of every step, (B, S, K')."""
        gradients = self.local.gradients() if self.gradients is None else self.gradients
        kinetic = gradients.square().sum(-1)
        return self.layout.each(torch.add(self.local.time_derivative(self.rate), kinetic, alpha=0.5), self.steps)

    def squared_gradients_at_0(self) -> Tensor:
        """|grad u|^2 at z_0 and time 0, (B, K')."""
        first = self.local.first[:, : self.rows.shape[1] // self.steps]
        gradients = at_time(self.local.networks, first, self.shift_0).gradients()
        return self.layout.each(gradients.square().sum(-1), 1)[:, 0]

    def root_values(self, root: Potential, times: Tensor) -> Tensor:
        """The values of other networks, as many as the potential's, along the path: (B, S, K') at `times` (S,)."""
        shift, _ = root.time_branch(times, times.shape, self.layout.k)
        return self.layout.each(evaluate(root.networks(self.layout.k), self.rows, shift), self.steps)

    def log_det(self, substeps: int, memory: int | None) -> tuple[Tensor, Tensor]:
        """The exact log |det(I + H / substeps)| of what acts and the folds, (B, S) each; `memory` as in `logdet.in_chunks`."""
        weights = self.layout.weights_of_rows

        def log_det(rows: slice) -> tuple[Tensor, Tensor]:
            acts = None if weights is None else weights[:, rows]
            return self.local.rows(rows).curvature(acts, reduced=True, substeps=substeps).log_det()

        rows, bytes_each = self.local.first.shape[1], self.local.hessian_bytes(weights is not None)
        values, folds = logdet.in_chunks(log_det, rows, bytes_each, memory)
        return self._of_what_acts(values), self._of_what_acts(folds)

    def hutchinson(self, substeps: int, generator: torch.Generator | None) -> Tensor:
        """`logdet.hutchinson` of H / substeps of what acts, (B, S), with a probe for each sample and step."""
        bits = logdet.random_bits(self.z[:, :-1], generator)
        probe = logdet.signs(self.layout.spread(bits), self.rows)
        coefficient = self.local.product_coefficient(along_inputs(self.local.networks, probe))
        product = to_latents(self.local.networks, coefficient, self.layout.weights_of_rows)
        return self._of_what_acts(logdet.hutchinson(divided(product, substeps), probe))

    def _of_what_acts(self, x: Tensor) -> Tensor:
        """X (1 or G, S M, ...) as (B, S, ...)."""
        return self.layout.each(x, self.steps)[:, :, 0]

    def laplacian(self) -> Tensor:
        """Tr H of what acts, (B, S)."""
        return self.layout.total(self.local.laplacian(), self.steps)


def roll_out(potential: Potential, layout: Layout, z0: Tensor, times: Tensor, substeps: int) -> Rollout:
    """Follow z += grad u(z, t) / substeps through `times` (S,), from z0 (B, d)."""
    potential.checked(z0, 0.0)
    networks = potential.networks(layout.k)
    at_0 = torch.cat((times.new_zeros(1), times))  # the initial term of `HJConstraint` looks at time 0
    shift, rate = potential.time_branch(at_0, at_0.shape, layout.k, derivative=True)
    assert rate is not None
    rows = layout.spread(z0)
    local = Local.of(networks, *follow(networks, rows, shift[:, 1:], layout.weights, substeps))
    motion = layout.motion(local, len(times))
    path = torch.cat((rows[:, None], divided(motion, substeps)), 1).cumsum(1)  # (1 or G, S+1, M, d)
    z = path[0].transpose(0, 1)
    if layout.place is not None:
        z = path.transpose(1, 2).flatten(0, 1).index_select(0, layout.place)
    gradients = motion.flatten(1, 2) if layout.weights is None else None
    rows = path[:, :-1].flatten(1, 2)
    return Rollout(potential, layout, z, rows, local, rate[:, 1:], shift[:, :1], gradients, _versions(potential))


def _versions(potential: nn.Module) -> tuple[int, ...]:
    """How often each parameter has been written to; inside a compiled graph nothing comes in between."""
    return () if torch.compiler.is_compiling() else tuple(p._version for p in potential.parameters())
