"""Euler's map for our own potentials, evaluated once: motion, rates, residuals and second derivatives share activations.

Only what is sequential stays in the loop over time. The activations of all steps are kept, and everything else is made of
them in one go afterwards.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor, nn

from latentflow import logdet
from latentflow.closed_form import Local, Networks
from latentflow.compiler import one_operation
from latentflow.derivatives import has_closed_form
from latentflow.finite import require_finite_log_det, require_finite_path
from latentflow.force import NegativeForce
from latentflow.layout import Layout, parts_of
from latentflow.penalty import penalty
from latentflow.potential import Potential
from latentflow.stack import all_chosen
from latentflow.states import State, states
from latentflow.sweep import Inputs, Start, sweep
from latentflow.time_branch import Embedding, Layers
from latentflow.times import euler_times
from latentflow.written_out import take


@dataclass(frozen=True, eq=False)
class Rollout:
    """All substeps of a path, with what the networks say on the way."""

    potential: Potential
    layout: Layout
    tensors: tuple[Tensor | None, ...]  # of the potential
    state: State  # of its parameters and of the path, as they were
    sinusoid: Tensor  # the embedding of time 0 and of every step, (S+1, width)
    z: Tensor  # (B, S+1, d)
    starts: Tensor | None  # as `Sweep` says, also of the next three
    squared_at_0: Tensor
    left: Tensor | None
    estimate: Tensor | None  # of the log-determinants, (B, S), where it was asked for
    activations: tuple[Any, ...]  # h_1, h_2, q, p and u of a `Sweep`; of a network in parts those of one part

    def is_of(self, potential: nn.Module, z: Tensor) -> bool:
        """Whether this is `potential` as it stands, evaluated along z."""
        if self.z is not z or self.potential is not potential or not has_closed_form(potential):
            return False
        return self.state == states(*potential.tensors(), z)

    @property
    def steps(self) -> int:
        """S."""
        return self.z.shape[1] - 1

    @property
    def local(self) -> Local:
        """What the networks say of the rows that each step starts from, step after step."""
        networks = Networks(*all_chosen(self.tensors[len(Layers._fields) :], self.layout.k))
        return Local.of(networks, *self.activations)

    def penalty(self, force: NegativeForce | None, times: Tensor, price: float, factor: float) -> Tensor:
        """What the Hamilton-Jacobi equation with this force, of as many networks, costs each sample, (B,).

        Args:
            force: ours, or None.
            times: of the steps, (S,).
            price: on the size of the force.
            factor: of the initial term.

        Raises:
            TypeError: the force has another dtype than the path.
            ValueError: it takes latents of another size.
        """
        assert self.left is not None
        assert self.starts is not None
        of_force = None
        if force is not None:
            root = force.root
            root.check_latents(self.z)
            same = root.hidden == self.potential.hidden
            sinusoid = self.sinusoid[1:] if same else root.embedding(times).sinusoid
            of_force = sinusoid, *root.tensors(), force.bias
        return penalty(self.layout, self.left, self.squared_at_0, self.starts, of_force, price, factor)

    def log_det(self, kind: str, substeps: int, memory: int | None) -> tuple[Tensor, Tensor | None]:
        """log |det(I + H / substeps)| of what acts, (B, S), and the folds, if known.

        Args:
            kind: "exact", "hutchinson" or "laplacian", as of `FlowPosterior`.
            substeps: of a step.
            memory: that of `logdet.in_chunks`.
        """
        if kind == "exact":
            return self._exact(substeps, memory)
        if kind == "hutchinson":
            assert self.estimate is not None
            return self.estimate, None
        return logdet.laplacian(self._laplacian() / substeps), None

    def _exact(self, substeps: int, memory: int | None) -> tuple[Tensor, Tensor]:
        weights, local = self.layout.weights_of_rows, self.local

        def log_det(rows: slice) -> tuple[Tensor, Tensor]:
            acts = None if weights is None else weights[:, rows]
            return local.rows(rows).log_det(acts, substeps)

        rows, bytes_each = local.first.shape[1], local.hessian_bytes(weights is not None)
        values, folds = logdet.in_chunks(log_det, rows, bytes_each, memory)
        return self._of_what_acts(values), self._of_what_acts(folds)

    def _laplacian(self) -> Tensor:
        weights, each = self.layout.weights_of_rows, self.local.laplacian()
        return self._of_what_acts(each if weights is None else (each * weights[..., 0]).sum(0, keepdim=True))

    def _of_what_acts(self, x: Tensor) -> Tensor:
        """x (1 or G, S M) as (B, S)."""
        return self.layout.collect(x.view(x.shape[0], self.steps, -1))


def roll_out(
    potential: Potential,
    layout: Layout,
    z0: Tensor,
    steps: int,
    substeps: int,
    label: str,
    estimated: bool,
    generator: torch.Generator | None,
    constrained: bool,
) -> Rollout:
    """Follow z += grad u(z, t) / substeps through the times of `times.euler_times`.

    Args:
        potential: ours.
        layout: which rows its networks see.
        z0: (B, d).
        steps, substeps, label: see `times.euler_times`.
        estimated: whether to estimate the log-determinants.
        generator: draws the probe that estimates them.
        constrained: whether to evaluate the left-hand side of the Hamilton-Jacobi equation.

    Raises:
        ValueError: latents or estimates are not finite.
    """
    potential.check_latents(z0)
    tensors = potential.tensors()
    # A generator is nothing that a compiler's frontend could hand on.
    bits = _bits(z0, steps * substeps, generator) if estimated and generator is not None else None
    which = layout.rows, layout.place, layout.weights
    say = layout.k, steps, substeps, label, estimated, constrained
    sinusoid, z, starts, squared_at_0, left, log_det, *activations = _rolled(z0, bits, *which, *tensors, *say)
    found = sinusoid, z, starts, squared_at_0, left, log_det, tuple(activations)
    return Rollout(potential, layout, tensors, states(*tensors, z), *found)


def _bits(z0: Tensor, steps: int, generator: torch.Generator | None) -> Tensor:
    """For a sign of each latent that a step starts from, (B, S, ...)."""
    return logdet.random_bits(z0[:, None].expand(-1, steps, -1), generator)


@one_operation
def _rolled(z0: Tensor, bits: Tensor | None, *others: Any) -> tuple[Any, ...]:
    """The embedding of times, and the sweep; of tensors one by one."""
    rows, place, weights, *tensors, k, steps, substeps, label, estimated, constrained = others
    layout, given = Layout(k, rows, place, weights), iter(tensors)
    parts = parts_of(z0) if rows is None and weights is None else 1
    layers, networks = take(given, Layers), take(given, Networks)
    times = euler_times(steps, substeps, label, z0).flatten()
    at_0 = torch.cat((times.new_zeros(1), times))  # the initial term of `HJConstraint` looks at time 0
    sinusoid, rates = Embedding.of(at_0, layers.weight_in.shape[-1])
    probe = None
    if estimated:
        bits = _bits(z0, len(times), None) if bits is None else bits
        probe = logdet.signs(layout.spread(bits, parts), z0)
    start = Start(z0, rows, place, weights, probe, sinusoid, rates[1:] if constrained else rates[:0])
    found = sweep(Inputs(start, layers, networks, k, parts, substeps))
    require_finite_path(found.path, substeps)
    if found.log_det is not None:
        require_finite_log_det(found.log_det, substeps)
    names = ("first", "second", "back", "coefficient", "value")
    activations: dict[str, Any] = {name: layout.in_one(getattr(found, name), len(times)) for name in names}
    return sinusoid, *found._replace(**activations)
