r"""The loop over time, all that must be sequential: in coordinates of the first layer.

The latents themselves are not needed until the end. With the names of `closed_form`, C of `coupling`, weights :math:`\omega`
and the inputs y of the first tanh, one step is

.. math:: h_1 = \tanh y, \quad h_2 = \tanh(B (h_1 + \tau) + b), \quad q = (w \circ s_2) B, \quad p = q \circ s_1, \quad
          y \leftarrow y + \tfrac1n\, C(\omega\, p).

The gradients at time 0, where nothing moves yet, are made on the way, of one more block of rows: the initial term of
`HJConstraint` asks for them. Step 1 starts where time 0 does, so these two blocks go through the networks together.
"""

from __future__ import annotations

from collections.abc import Sequence
from itertools import accumulate
from typing import NamedTuple

import torch
from torch import Tensor

from latentflow.closed_form import Networks, first_layer, value_of
from latentflow.contexts import unrecorded
from latentflow.coupling import Coupling
from latentflow.product import add_product, plus_product
from latentflow.tanh import slope_of, through_tanh


class Activations(NamedTuple):
    """Of M rows at time 0, and then of the rows where each of S steps starts, (G, (S+1) M, ...)."""

    first: Tensor  # h_1
    second: Tensor  # h_2
    back: Tensor  # q
    coefficient: Tensor  # p
    value: Tensor | None  # u, of bounded potentials
    moving: Tensor  # p as it moves: times the slope of the output tanh, and the weights

    @classmethod
    def joined(cls, blocks: list[Activations], second: Tensor | None) -> Activations:
        """Of all blocks; `second` where these are parts of one array."""
        firsts, seconds, backs, coefficients, values, moving = zip(*blocks, strict=True)
        first, back, coefficient = (torch.cat(found, 1) for found in (firsts, backs, coefficients))
        moves = coefficient if moving[0] is coefficients[0] else torch.cat(moving, 1)
        return cls(
            first, torch.cat(seconds, 1) if second is None else second, back, coefficient, joined_blocks(values), moves
        )


class Trajectory(NamedTuple):
    """Of G networks, S substeps and M rows."""

    motion: Tensor  # how far each step moves the latents, (1 or G, S M, d)
    gradients: Tensor  # grad u, times the weights, (G, (S+1) M, d)
    activations: Activations
    square: Tensor | None  # A A^T / n, (G, h, h), of networks that move rows of their own

    def path(self, rows: Tensor, steps: int) -> Tensor:
        """The latents, (1 or G, S+1, M, d), that start at `rows`, (1 or G, M, d)."""
        moves = self.motion.view(rows.shape[0], steps, *rows.shape[1:]).unbind(1)
        # In memory row after row, as `Layout.collect` wants it.
        return torch.stack(list(accumulate((rows, *moves), torch.add)), 2).transpose(1, 2)


def follow(
    networks: Networks, weighted: Tensor, rows: Tensor, tau: Tensor, weights: Tensor | None, substeps: int
) -> Trajectory:
    """Move latents along the networks.

    Args:
        networks: G of them.
        weighted: wB, (G, h, h).
        rows: where the latents start; (G, M, d), each network moves its own, or (1, M, d), shared by all.
        tau: tau(t) of time 0 and of every step, (G, S+1, h).
        weights: (G, S, M, 1), how strongly each network moves the shared rows; None for one network, or for rows of their own.
        substeps: n, by which the gradients are divided.
    """
    weight, middle, size = networks.input_weight, networks.hidden_weight.mT, rows.shape[1]
    coupling = Coupling.of(weight, rows, substeps)
    inputs = plus_product(networks.hidden_bias[:, None], tau, middle).transpose(0, 1)[:, :, None]
    acts = None if weights is None else with_time_0(weights)
    y = first_layer(networks, rows)
    found: list[Activations] = []
    one, in_place = y.new_ones(()), unrecorded()
    if in_place:  # it becomes h_2: what products are added to, torch would copy once for each step
        inputs = inputs.expand(-1, -1, size, -1).contiguous()

    def said(first: Tensor, second: Tensor, active: Tensor | None) -> Tensor:
        back = torch.bmm(through_tanh(one, second), weighted)
        coefficient = through_tanh(back, first)
        scale, value = _scale(second, active, networks)
        moving = coefficient if scale is None else coefficient * scale
        found.append(Activations(first, second, back, coefficient, value, moving))
        return moving

    first, both = torch.tanh(y), inputs[:2]
    shared = torch.bmm(first, middle)
    both = both.add_(shared).tanh_() if in_place else torch.tanh(both + shared)
    twice, active = torch.cat((first, first), 1), None if acts is None else acts[:, :2].flatten(1, 2)
    moving = said(twice, both.transpose(0, 1).flatten(1, 2), active)[:, size:]
    actives = [None] * (tau.shape[1] - 2) if acts is None else acts[:, 2:].unbind(1)
    for now, active in zip(inputs[2:].unbind(), actives, strict=True):
        y = coupling.added(y, moving, add_product if in_place else plus_product)
        first = torch.tanh(y)
        second = now.baddbmm_(first, middle).tanh_() if in_place else torch.tanh(plus_product(now, first, middle))
        moving = said(first, second, active)
    activations = Activations.joined(found, inputs.transpose(0, 1).flatten(1, 2) if in_place else None)
    gradients = torch.bmm(activations.moving, weight)
    return Trajectory(coupling.motion(gradients[:, size:]), gradients, activations, coupling.square)


def with_time_0(weights: Tensor) -> Tensor:
    """Weights (G, S, M, 1) with those of time 0 ahead: the gradients there are asked for of each network."""
    return torch.cat((torch.ones_like(weights[:, :1]), weights), 1)


def joined_blocks(blocks: Sequence[Tensor | None]) -> Tensor | None:
    found = [block for block in blocks if block is not None]
    return torch.cat(found, 1) if found else None


def _scale(second: Tensor, weights: Tensor | None, networks: Networks) -> tuple[Tensor | None, Tensor | None]:
    """What multiplies p where it moves: the weights, times the slope of the output tanh; and the value u of that tanh.

    For h_2 (G, N, h); (G, N, 1) each, or None where there is nothing of the kind.
    """
    if networks.output_bias is None:
        return weights, None
    value = value_of(networks, second)[..., None]
    slope = slope_of(value)
    return slope if weights is None else slope * weights, value
