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
from latentflow.layout import Layout, parts_of
from latentflow.penalty import Force, penalty
from latentflow.potential import NegativeForce, Potential
from latentflow.stack import all_chosen
from latentflow.sweep import Inputs, Start, Sweep, sweep
from latentflow.time_branch import Embedding, Layers
from latentflow.written_out import hidden, take


@dataclass(frozen=True, eq=False)
class Rollout:
    """All substeps of a path, with what the networks say on the way."""

    potential: Potential
    layout: Layout
    networks: Networks  # all of them
    sinusoid: Tensor  # the embedding of time 0 and of every step, (S+1, width)
    sweep: Sweep  # of a network in parts, with the activations of one part
    versions: tuple[
        int, ...
    ]  # of the path and of the potential's parameters, to tell whether they still are what they were

    def is_of(self, potential: nn.Module, z: Tensor) -> bool:
        """Whether this is `potential` as it stands, evaluated along z."""
        return self.z is z and self.potential is potential and self.versions == _versions(self.potential, z)

    @property
    def z(self) -> Tensor:
        """(B, S+1, d)."""
        return self.sweep.path

    @property
    def steps(self) -> int:
        """S."""
        return self.z.shape[1] - 1

    @property
    def local(self) -> Local:
        """What the networks say of the rows that each step starts from, step after step."""
        return Local.of(Networks(*all_chosen(self.networks, self.layout.k)), *self.sweep.activations())

    def penalty(self, force: NegativeForce | None, times: Tensor, price: float, factor: float) -> Tensor:
        """What the Hamilton-Jacobi equation with this force, of as many networks, costs each sample, (B,).

        Args:
            force: ours, or None.
            times: of the steps, (S,).
            price: on the size of the force.
            factor: of the initial term.
        """
        left, starts, of_force = self.sweep.left, self.sweep.starts, None
        assert left is not None
        assert starts is not None
        if force is not None:
            root = force.root
            same = root.hidden == self.potential.hidden
            sinusoid = self.sinusoid[1:] if same else root.embedding(times).sinusoid
            of_force = Force(sinusoid, root.time_layers(), root.networks(), force.bias)
        return penalty(self.layout, left, self.sweep.squared_at_0, starts, of_force, price, factor)

    def log_det(self, substeps: int, memory: int | None) -> tuple[Tensor, Tensor]:
        """The exact log |det(I + H / substeps)| of what acts and the folds, (B, S) each; `memory` as in `logdet.in_chunks`."""
        weights, local = self.layout.weights_of_rows, self.local

        def log_det(rows: slice) -> tuple[Tensor, Tensor]:
            acts = None if weights is None else weights[:, rows]
            return local.rows(rows).curvature(acts, reduced=True, substeps=substeps).log_det()

        rows, bytes_each = local.first.shape[1], local.hessian_bytes(weights is not None)
        values, folds = logdet.in_chunks(log_det, rows, bytes_each, memory)
        return self._of_what_acts(values), self._of_what_acts(folds)

    def hutchinson(self) -> Tensor:
        """`logdet.hutchinson` of H / substeps of what acts, (B, S)."""
        assert self.sweep.log_det is not None
        return self.sweep.log_det

    def _of_what_acts(self, x: Tensor) -> Tensor:
        """X (1 or G, S M) as (B, S)."""
        return self.layout.collect(x.view(x.shape[0], self.steps, -1))

    def laplacian(self) -> Tensor:
        """Tr H of what acts, (B, S)."""
        weights, each = self.layout.weights_of_rows, self.local.laplacian()
        return self._of_what_acts(each if weights is None else (each * weights[..., 0]).sum(0, keepdim=True))


def roll_out(
    potential: Potential,
    layout: Layout,
    z0: Tensor,
    times: Tensor,
    substeps: int,
    bits: Tensor | None = None,
    constrained: bool = True,
) -> Rollout:
    """Follow z += grad u(z, t) / substeps through `times`.

    Args:
        potential: ours.
        layout: which rows its networks see.
        z0: (B, d).
        times: (S,).
        substeps: n.
        bits: `logdet.random_bits` for a sign of each latent that a step starts from, (B, S, ...); None without an estimate of
            the log-determinants.
        constrained: whether to evaluate the left-hand side of the Hamilton-Jacobi equation.
    """
    potential.check_latents(z0)
    networks = potential.networks()
    if torch.compiler.is_compiling():
        _hide()
    which = layout.rows, layout.place, layout.weights
    parameters = *potential.time_layers(), *networks
    sinusoid, *found = _rolled(z0, times, bits, *which, *parameters, layout.k, substeps, constrained)
    along = Sweep(*found)
    return Rollout(potential, layout, networks, sinusoid, along, _versions(potential, along.path))


def _rolled(z0: Tensor, times: Tensor, bits: Tensor | None, *others: Any) -> tuple[Any, ...]:
    """The embedding of times, and the sweep; of tensors one by one."""
    rows, place, weights, *parameters, k, substeps, constrained = others
    layout, given = Layout(k, rows, place, weights), iter(parameters)
    parts = parts_of(z0) if rows is None and weights is None else 1
    layers, networks = take(given, Layers), take(given, Networks)
    at_0 = torch.cat((times.new_zeros(1), times))  # the initial term of `HJConstraint` looks at time 0
    sinusoid, rates = Embedding.of(at_0, layers.weight_in.shape[-1])
    probe = None if bits is None else logdet.signs(layout.spread(bits, parts), z0)
    start = Start(z0, rows, place, weights, probe, sinusoid, rates[1:] if constrained else rates[:0])
    found = sweep(Inputs(start, layers, networks, k, parts, substeps))
    names = ("first", "second", "back", "coefficient", "value")
    activations: dict[str, Any] = {name: layout.in_one(getattr(found, name), len(times)) for name in names}
    return sinusoid, *found._replace(**activations)


_hide = hidden(_rolled)


def _versions(potential: nn.Module, path: Tensor) -> tuple[int, ...]:
    """How often the path and each parameter have been written to; inside a compiled graph nothing comes in between."""
    if torch.compiler.is_compiling():
        return ()
    tensors = path, *potential._parameters.values()  # it has no modules with more
    return tuple(x._version for x in tensors if x is not None and not x.is_inference())
