r"""The loop over time, all that must be sequential: in coordinates of the first layer, its backward pass written out.

A step moves latents by :math:`\frac1n \sum_k \omega_k\, p_k A_k`, so it moves the inputs :math:`y_j = A_j z + a_j` of the first
tanh by :math:`\frac1n \sum_k \omega_k\, p_k A_k A_j^\top`. The latents themselves are not needed until the end. With the names
of `closed_form`, one step is

.. math:: h_1 = \tanh y, \quad h_2 = \tanh(B (h_1 + \tau) + b), \quad q = (w \circ s_2) B, \quad p = q \circ s_1, \quad
          y \leftarrow y + \tfrac1n\, C(\omega\, p), \quad C(p)_j = \textstyle\sum_k p_k A_k A_j^\top.

The gradients at time 0, where nothing moves yet, are made on the way, of one more block of rows: the initial term of
`HJConstraint` asks for them. The adjoint has eight operations in its loop (C is its own adjoint), and makes the gradient of
each parameter in one product afterwards.
"""

from __future__ import annotations

from collections.abc import Sequence
from itertools import accumulate
from typing import Any, NamedTuple

import torch
from torch import Tensor

from latentflow.closed_form import Networks, above, first_layer
from latentflow.tanh import slope_of
from latentflow.written_out import apart_from_autocast, differentiably, serves


class Trajectory(NamedTuple):
    """Of G networks, S substeps and M rows: the latents, and what is said where each step starts, step after step."""

    path: Tensor  # (1 or G, S+1, M, d)
    first: Tensor  # h_1, (G, S M, h)
    second: Tensor  # h_2, (G, S M, h)
    back: Tensor  # q, (G, S M, h)
    coefficient: Tensor  # p, (G, S M, h)
    value: Tensor | None  # u, (G, S M, 1), of bounded potentials
    gradients: Tensor | None  # grad u, (G, S M, d); None of a mixture
    gradients_at_0: Tensor  # where the path starts, at time 0, (G, M, d)
    weighted: Tensor  # wB, (G, h, h): what else needs it sends its gradient back together with the loop's


def follow(networks: Networks, rows: Tensor, tau: Tensor, weights: Tensor | None, substeps: int) -> Trajectory:
    """Move latents along the networks; what they say on the way.

    Args:
        networks: G of them.
        rows: where the latents start; (G, M, d), each network moves its own, or (1, M, d), shared by all.
        tau: tau(t) of time 0 and of every step, (G, S+1, h).
        weights: (G, S, M, 1), how strongly each network moves the shared rows; None for one network, or for rows of their own.
        substeps: n, by which the gradients are divided.
    """
    inputs = rows, tau, weights, *networks, substeps
    if serves():
        return Trajectory(*_Follow.apply(*inputs))  # type: ignore[no-untyped-call]
    return _follow(*inputs)


def divided(x: Tensor, substeps: int) -> Tensor:
    """The share of one substep, at no cost for the usual 1."""
    return x if substeps == 1 else x / substeps


class _Blocks(NamedTuple):
    """Activations of M rows at time 0, and then of the S M rows where the steps start, (G, (S+1) M, ...)."""

    first: Tensor
    second: Tensor
    back: Tensor
    coefficient: Tensor
    value: Tensor | None
    moving: Tensor  # p as it moves: times the slope of the output tanh, and the weights

    @classmethod
    def joined(cls, blocks: list[_Blocks]) -> _Blocks:
        *activations, values, moving = zip(*blocks, strict=True)
        first, second, back, coefficient = (torch.cat(field, 1) for field in activations)
        moves = coefficient if moving[0] is activations[-1][0] else torch.cat(moving, 1)
        return cls(first, second, back, coefficient, _joined(values), moves)


def _follow(*inputs: Any) -> Trajectory:
    return _evaluate(*inputs)[0]


def _evaluate(rows: Tensor, tau: Tensor, weights: Tensor | None, *others: Any) -> tuple[Trajectory, _Blocks, _Coupling]:
    networks, substeps = Networks(*others[:-1]), others[-1]
    weight, middle, size = networks.input_weight, networks.hidden_weight.mT, rows.shape[1]
    coupling, weighted = _Coupling.of(weight, rows, substeps), networks.weighted()
    shift = torch.baddbmm(networks.hidden_bias[:, None], tau, middle)
    acts = [None] * tau.shape[1] if weights is None else _with_time_0(weights).unbind(1)
    y = first_layer(networks, rows)
    found: list[_Blocks] = []
    for block, (now, active) in enumerate(zip(shift[:, :, None].unbind(1), acts, strict=True)):
        if block > 1:  # the step before has moved the rows
            y = coupling.added(y, found[-1].moving)
        if block != 1:  # which starts where time 0 does
            first = torch.tanh(y)
        second, back, coefficient = above(torch.baddbmm(now, first, middle), first, weighted)
        scale, value = _scale(second, active, networks)
        moving = coefficient if scale is None else coefficient * scale
        found.append(_Blocks(first, second, back, coefficient, value, moving))
    blocks = _Blocks.joined(found)
    first, second, back, coefficient, value, moving = blocks
    gradients = torch.bmm(moving, weight)
    each = gradients[:, size:]
    motion = divided(each if coupling.own else each.sum(0, keepdim=True), substeps)
    motions = motion.view(rows.shape[0], tau.shape[1] - 1, *rows.shape[1:]).unbind(1)
    trajectory = Trajectory(
        torch.stack(list(accumulate((rows, *motions), torch.add)), 1),
        first[:, size:],
        second[:, size:],
        back[:, size:],
        coefficient[:, size:],
        value if value is None else value[:, size:],
        each if weights is None else None,
        gradients[:, :size],
        weighted,
    )
    return trajectory, blocks, coupling


class _Follow(torch.autograd.Function):
    """`_follow`, with its backward pass."""

    @staticmethod
    def forward(ctx: Any, *inputs: Any) -> tuple[Tensor | None, ...]:
        trajectory, blocks, coupling = _evaluate(*inputs)
        *tensors, ctx.substeps = inputs
        ctx.save_for_backward(*tensors, *blocks, coupling.square, trajectory.weighted)
        return tuple(trajectory)

    @staticmethod
    @apart_from_autocast
    def backward(ctx: Any, *by_outputs: Any) -> tuple[Tensor | None, ...]:
        """The loss by y, p, q, u and the input of the second tanh, from the last step to the first."""
        *tensors, first, second, _, coefficient, value, moving, square, weighted = ctx.saved_tensors
        if torch.is_grad_enabled():
            return differentiably(_follow, (*tensors, ctx.substeps), by_outputs)
        rows, tau, weights, *parameters = tensors
        networks, steps, size = Networks(*parameters), tau.shape[1] - 1, rows.shape[1]
        weight, middle = networks.input_weight, networks.hidden_weight
        coupling, transposed = _Coupling(weight, square, ctx.substeps), weight.mT
        by_path, at_1, by_second, at_q, at_p, by_value, by_gradients, by_gradients_at_0, by_weighted = by_outputs
        # What does not wait for later steps is ready before the loop.
        slope_1, slope_2 = slope_of(first), slope_of(second)
        bend_1, bend_2 = first * coefficient, second * slope_2  # but for a factor of -2
        at_2 = by_second * slope_2[:, size:]
        slope = None if value is None else slope_of(value)
        acts = None if weights is None else _with_time_0(weights).flatten(1, 2)
        scale = acts if slope is None else slope if acts is None else slope * acts
        at_value, gate, turn = None, None, None
        if slope is not None:
            gate, turn = slope_2 * networks.read_out[:, None], -2 * value * moving
            at_value = by_value * slope[:, size:]
            at_2.addcmul_(at_value, gate[:, size:])
        # A latent of the path has been moved by all steps before it.
        by_motions = list(accumulate(by_path[:, 1:].unbind(1)[::-1], torch.add))
        by_motion = divided(torch.cat(by_motions[::-1], 1), ctx.substeps)
        if by_gradients is not None:
            by_motion = by_motion + by_gradients
        by_each = by_motion.expand(weight.shape[0], -1, -1)
        at_move = torch.baddbmm(at_p, by_each, transposed) if scale is None else torch.bmm(by_each, transposed)
        y, upwards = torch.zeros_like(at_1[:, :size]), weighted.mT
        at_0 = y, y, y, y, torch.bmm(by_gradients_at_0, transposed)
        at_steps = zip(*(x.chunk(steps, 1) for x in (at_1, at_2, at_q, at_p, at_move)), strict=True)
        local = (slope_1, bend_1, bend_2, scale, turn, gate)
        everywhere = zip(*([None] * (steps + 1) if x is None else x.chunk(steps + 1, 1) for x in local), strict=True)
        after, by_back, by_pre, by_values, by_moves = [], [], [], [], []
        for block, ready in reversed(list(enumerate(zip((at_0, *at_steps), everywhere, strict=True)))):
            (at_1, at_2, at_q, at_p, by_move), (s_1, b_1, b_2, scaled, turned, gated) = ready
            if 0 < block < steps:  # nothing is moved at time 0, and nothing comes after the last step
                by_move = coupling.added(by_move, y)
            by_p = by_move if scaled is None else torch.addcmul(at_p, by_move, scaled)
            by_v = None
            if turned is not None:
                by_v = (by_move * turned).sum(-1, keepdim=True)
                at_2 = torch.addcmul(at_2, by_v, gated)
            q = torch.addcmul(at_q, by_p, s_1)
            pre_2 = torch.addcmul(at_2, torch.bmm(q, upwards), b_2, value=-2)
            after.append(y)
            by_back.append(q)
            by_pre.append(pre_2)
            by_values.append(by_v)
            by_moves.append(by_move if ctx.needs_input_grad[2] else None)
            y = torch.addcmul(torch.addcmul(y, torch.baddbmm(at_1, pre_2, middle), s_1), by_p, b_1, value=-2)
        q, pre_2 = torch.cat(by_back[::-1], 1), torch.cat(by_pre[::-1], 1)
        by_v, by_move = _joined(by_values[::-1]), _joined(by_moves[::-1])
        by_weight = coupling.by_weight(moving[:, size:], torch.cat(after[-2::-1], 1))
        by_weight.baddbmm_(moving[:, size:].mT, by_each).baddbmm_(moving[:, :size].mT, by_gradients_at_0)
        by_weight.baddbmm_(y.mT, rows.expand(weight.shape[0], -1, -1))
        by_weighted = torch.baddbmm(by_weighted, slope_2.mT, q)
        by_weights, by_read_out, by_bias = None, (by_weighted * middle).sum(-1), None
        if by_move is not None:
            by_scale = (by_move * coefficient).sum(-1, keepdim=True)
            by_scale = by_scale if slope is None else by_scale * slope
            by_weights = by_scale[:, size:].reshape(weights.shape)
        if by_v is not None and at_value is not None:
            by_v[:, size:].add_(at_value)
            by_read_out, by_bias = by_read_out + torch.bmm(by_v.mT, second)[:, 0], by_v.sum((1, 2))
        by_start, by_shift = torch.bmm(y, weight), pre_2.view(y.shape[0], steps + 1, *y.shape[1:]).sum(2)
        return (
            by_path.sum(1) + (by_start if coupling.own else by_start.sum(0, keepdim=True)),
            torch.bmm(by_shift, middle),
            by_weights,
            by_weight,
            y.sum(1),
            torch.bmm(pre_2.mT, first).baddbmm_(by_shift.mT, tau).addcmul_(by_weighted, networks.read_out[:, :, None]),
            by_shift.sum(1),
            by_read_out,
            by_bias,
            None,
        )


class _Coupling(NamedTuple):
    """C / n, which is its own adjoint."""

    weight: Tensor  # A, (G, h, d)
    square: Tensor | None  # A A^T, (G, h, h), of networks that move rows of their own
    substeps: int

    @classmethod
    def of(cls, weight: Tensor, rows: Tensor, substeps: int) -> _Coupling:
        return cls(weight, torch.bmm(weight, weight.mT) if rows.shape[0] == weight.shape[0] else None, substeps)

    @property
    def own(self) -> bool:
        """Whether each network moves rows of its own."""
        return self.square is not None

    def added(self, y: Tensor, p: Tensor) -> Tensor:
        """The sum y + C(p) / n, (G, N, h)."""
        if self.square is not None:
            return torch.baddbmm(y, p, self.square, alpha=1 / self.substeps)
        return torch.baddbmm(y, self._motion(p), self.weight.mT)

    def by_weight(self, p: Tensor, by_y: Tensor) -> Tensor:
        """What the gradient of y + C(p) / n, (G, N, h), sends to A."""
        if self.square is not None:
            by_square = divided(torch.bmm(p.mT, by_y), self.substeps)
            return torch.bmm(by_square + by_square.mT, self.weight)
        return torch.baddbmm(torch.bmm(p.mT, self._motion(by_y)), by_y.mT, self._motion(p))

    def _motion(self, p: Tensor) -> Tensor:
        """Of the shared rows, once for each network, (G, N, d)."""
        return divided(torch.bmm(p, self.weight).sum(0), self.substeps).expand(p.shape[0], -1, -1)


def _with_time_0(weights: Tensor) -> Tensor:
    """Weights (G, S, M, 1) with those of time 0 ahead: the gradients there are asked for of each network."""
    return torch.cat((torch.ones_like(weights[:, :1]), weights), 1)


def _joined(blocks: Sequence[Tensor | None]) -> Tensor | None:
    found = [block for block in blocks if block is not None]
    return torch.cat(found, 1) if found else None


def _scale(second: Tensor, weights: Tensor | None, networks: Networks) -> tuple[Tensor | None, Tensor | None]:
    """What multiplies p where it moves: the weights, times the slope of the output tanh; and the value u of that tanh.

    For h_2 (G, N, h); (G, N, 1) each, or None where there is nothing of the kind.
    """
    if networks.output_bias is None:
        return weights, None
    value = torch.tanh(torch.baddbmm(networks.output_bias[:, None, None], second, networks.read_out[:, :, None]))
    slope = slope_of(value)
    return slope if weights is None else slope * weights, value
