"""Euler's map for our own potentials, evaluated once: motion, rates, residuals and second derivatives share activations.

Only what is sequential stays in the loop over time. The activations of all steps are kept, and everything else is made of
them in one go afterwards.
"""

from __future__ import annotations

from dataclasses import dataclass

import torch
from torch import Tensor, nn

from latentflow import logdet
from latentflow.closed_form import Local, Networks
from latentflow.hamilton_jacobi import left_hand_side
from latentflow.hutchinson import hutchinson
from latentflow.layout import Layout
from latentflow.potential import Potential
from latentflow.time_branch import Embedding, tau, tau_and_rate
from latentflow.trajectory import Trajectory, follow
from latentflow.values import values


@dataclass(frozen=True, eq=False)
class Rollout:
    """All substeps of a path: S in number, with the activations that moved them."""

    potential: Potential
    layout: Layout
    z: Tensor  # (B, S+1, d)
    networks: Networks  # that the layout has chosen
    embedding: Embedding  # of time 0 and of every step
    trajectory: Trajectory
    rate: Tensor  # tau'(t) of every step, (G, S, hidden)
    versions: tuple[int, ...]  # of the potential's parameters, to tell whether they still are what they were

    def is_of(self, potential: nn.Module, z: Tensor) -> bool:
        """Whether this is `potential` as it stands, evaluated along z."""
        return self.z is z and self.potential is potential and self.versions == _versions(self.potential)

    @property
    def steps(self) -> int:
        """S."""
        return self.rate.shape[1]

    @property
    def rows(self) -> Tensor:
        """The latents that each step starts from, (1 or G, S M, d), step after step."""
        return self.trajectory.path[:, :-1].flatten(1, 2)

    @property
    def local(self) -> Local:
        """What the networks say of these rows."""
        _, first, second, back, coefficient, value, *_ = self.trajectory
        return Local.of(self.networks, first, second, back, coefficient, value)

    def hamilton_jacobi(self) -> Tensor:
        """du/dt + |grad u|^2 / 2 of the rows at the start of every step, (G, S M)."""
        trajectory = self.trajectory
        # What moves a mixture does not tell of each network.
        gradients = self.local.gradients() if trajectory.gradients is None else trajectory.gradients
        return left_hand_side(gradients, trajectory.back, trajectory.value, self.rate)

    def squared_gradients_at_0(self) -> Tensor:
        """|grad u|^2 of the rows at z_0 and time 0, (G, M)."""
        return self.trajectory.gradients_at_0.square().sum(-1)

    def root_values(self, root: Potential, times: Tensor) -> Tensor:
        """The values of other networks, as many as the potential's, of the rows at `times` (S,): (G, S M)."""
        k, same = self.layout.k, root.hidden == self.potential.hidden
        at_times = tau(self.embedding.after_first() if same else root.embedding(times), root.time_layers(k))
        return values(root.networks(k), self.rows, at_times)

    def log_det(self, substeps: int, memory: int | None) -> tuple[Tensor, Tensor]:
        """The exact log |det(I + H / substeps)| of what acts and the folds, (B, S) each; `memory` as in `logdet.in_chunks`."""
        weights, local = self.layout.weights_of_rows, self.local

        def log_det(rows: slice) -> tuple[Tensor, Tensor]:
            acts = None if weights is None else weights[:, rows]
            return local.rows(rows).curvature(acts, reduced=True, substeps=substeps).log_det()

        rows, bytes_each = local.first.shape[1], local.hessian_bytes(weights is not None)
        values, folds = logdet.in_chunks(log_det, rows, bytes_each, memory)
        return self._of_what_acts(values), self._of_what_acts(folds)

    def hutchinson(self, substeps: int, generator: torch.Generator | None) -> Tensor:
        """`logdet.hutchinson` of H / substeps of what acts, (B, S), with a probe for each sample and step."""
        bits = self.layout.spread(logdet.random_bits(self.z[:, :-1], generator))
        probe = logdet.signs(bits, self.rows)
        weights = self.layout.weights_of_rows
        return self._of_what_acts(hutchinson(probe, self.trajectory, self.networks, weights, substeps))

    def _of_what_acts(self, x: Tensor) -> Tensor:
        """X (1 or G, S M, ...) as (B, S, ...)."""
        return self.layout.each(x, self.steps).squeeze(2)

    def laplacian(self) -> Tensor:
        """Tr H of what acts, (B, S)."""
        return self.layout.total(self.local.laplacian(), self.steps)


def roll_out(potential: Potential, layout: Layout, z0: Tensor, times: Tensor, substeps: int) -> Rollout:
    """Follow z += grad u(z, t) / substeps through `times` (S,), from z0 (B, d)."""
    potential.checked(z0, 0.0)
    networks = potential.networks(layout.k)
    at_0 = torch.cat((times.new_zeros(1), times))  # the initial term of `HJConstraint` looks at time 0
    embedding = potential.embedding(at_0)
    at_times, rate = tau_and_rate(embedding, potential.time_layers(layout.k))
    trajectory = follow(networks, layout.spread(z0), at_times, layout.weights, substeps)
    z = layout.collect(trajectory.path)
    return Rollout(potential, layout, z, networks, embedding, trajectory, rate[:, 1:], _versions(potential))


def _versions(potential: nn.Module) -> tuple[int, ...]:
    """How often each parameter has been written to; inside a compiled graph nothing comes in between."""
    if torch.compiler.is_compiling():
        return ()
    return tuple(p._version for p in potential._parameters.values() if p is not None)  # it has no modules with more
