"""The backward pass of `trajectory.follow`, written out, last step first: the adjoints of y, p, q, u and of what enters the
second tanh.

It has seven operations in its loop (C is its own adjoint), and makes the gradient of each parameter in one product afterwards.
"""

from __future__ import annotations

from collections.abc import Sequence
from itertools import accumulate
from typing import Any, NamedTuple

import torch
from torch import Tensor

from latentflow.closed_form import Matrices, Networks, at_times
from latentflow.contexts import unrecorded
from latentflow.coupling import Coupling
from latentflow.product import add_product, divided, few, over_rows, plus_product
from latentflow.tanh import slope_of
from latentflow.trajectory import Trajectory, joined_blocks, with_time_0
from latentflow.written_out import room


class Wanted(NamedTuple):
    """The gradients of what others make of a trajectory; of activations those where the steps start, (G, S M, ...)."""

    path: Tensor  # (1 or G, S+1, M, d)
    starts: Tensor | None  # where its steps start once more, (1 or G, S, M, d)
    first: Tensor  # to be written to
    second: Tensor
    back: Tensor
    coefficient: Tensor
    value: Tensor | None
    squared_at_0: Tensor  # by |grad u|^2 / 2 at time 0, (G, M)
    squared: Tensor | None  # the same where the steps start, (G, S M)
    matrices: Matrices  # to which those of the trajectory are added in place


class Gradients(NamedTuple):
    """Those of what `follow` takes."""

    rows: Tensor
    tau: Tensor
    weights: Tensor | None
    networks: Networks


class _Step(NamedTuple):
    """What one block, M rows of a step or of time 0, knows before the loop; (G, M, ...)."""

    by_first: Tensor  # what others than the trajectory make of h_1
    by_second: Tensor  # of the input of the second tanh
    by_back: Tensor  # of q
    by_coefficient: Tensor | None  # of p, where this is not how it moves; else it is part of the next one
    by_move: Tensor  # of p as it moves
    slope_1: Tensor
    bend_1: Tensor  # h_1 p and h_2 s_2: second derivatives, but for a factor of -2
    bend_2: Tensor
    scale: Tensor | None  # from p to how it moves: weights, and the slope of the output tanh
    turn: Tensor | None  # from how it moves to u
    gate: Tensor | None  # from u to the input of the second tanh


def adjoint(
    networks: Networks,
    weighted: Tensor,
    rows: Tensor,
    tau: Tensor,
    weights: Tensor | None,
    substeps: int,
    trajectory: Trajectory,
    by: Wanted,
    weights_too: bool,
) -> Gradients:
    """The gradients of what `follow` takes; of the weights where `weights_too` asks for them."""
    first, second, _, coefficient, value, moving = trajectory.activations
    steps, size = tau.shape[1] - 1, rows.shape[1]
    weight, middle = networks.input_weight, networks.hidden_weight
    coupling, transposed = Coupling(weight, trajectory.square, substeps), weight.mT
    # What does not wait for later steps is ready before the loop.
    slope_1, slope_2 = slope_of(first), slope_of(second)
    bend_1, bend_2 = first * coefficient, second * slope_2  # but for a factor of -2
    at_2 = by.second * slope_2[:, size:]
    slope = None if value is None else slope_of(value)
    acts = None if weights is None else with_time_0(weights).flatten(1, 2)
    scale = acts if slope is None else slope if acts is None else slope * acts
    at_value, gate, turn = None, None, None
    if slope is not None and value is not None and by.value is not None:
        gate, turn = slope_2 * networks.read_out[:, None], -2 * value * moving
        at_value = by.value * slope[:, size:]
        at_2.addcmul_(at_value, gate[:, size:])
    by_rows, by_motion = _summed_up(by.path, by.starts)
    by_motion = divided(by_motion, substeps)
    by_all = None
    if by.squared is None or torch.compiler.is_compiling():
        by_at_0 = trajectory.gradients[:, :size] * by.squared_at_0[..., None]
        if by.squared is not None:
            by_motion = torch.addcmul(by_motion, trajectory.gradients[:, size:], by.squared[..., None])
        by_each, move_at_0 = by_motion.expand(weight.shape[0], -1, -1), torch.bmm(by_at_0, transposed)
        at_move = plus_product(by.coefficient, by_each, transposed) if scale is None else torch.bmm(by_each, transposed)
        moved = [(moving[:, size:], by_motion), (moving[:, :size], by_at_0)]
    else:  # time 0 and the steps go through A together
        by_all = trajectory.gradients * torch.cat((by.squared_at_0, by.squared), 1)[..., None]
        by_motion = by_all[:, size:].add_(by_motion)
        moves = torch.bmm(by_all, transposed)
        move_at_0, at_move = moves[:, :size], moves[:, size:]
        if scale is None:
            at_move.add_(by.coefficient)
        moved = [(moving, by_all)]
    nothing, at_p = torch.zeros_like(by.first[:, :size]), None if scale is None else by.coefficient
    at_0 = nothing, nothing, nothing, nothing, move_at_0
    at = at_0, *zip(*(_blocks(x, steps) for x in (by.first, at_2, by.back, at_p, at_move)), strict=True)
    here = zip(*(_blocks(x, steps + 1) for x in (slope_1, bend_1, bend_2, scale, turn, gate)), strict=True)
    known = [_Step(*heard, *local) for heard, local in zip(at, here, strict=True)]
    y, ys, pre, back, by_v, by_moves = _last_step_first(known, by.first, coupling, middle, weighted.mT, weights_too)
    # Moves come from A twice: they are A^T p, and A brings them to the inputs of the first tanh, as it does the first rows.
    by_moved, but_last = torch.bmm(ys, weight), slice((steps - 1) * size)
    by_motion[:, but_last].add_(coupling.motion(by_moved[:, size:]))
    by_weight = by.matrices.input_weight
    for left, right in ((y, rows), (ys[:, size:], trajectory.motion[:, but_last]), *moved):
        by_weight = add_product(by_weight, left.mT, right.expand(weight.shape[0], -1, -1))
    by_weighted = add_product(by.matrices.weighted, slope_2.mT, back)
    by_weights, by_bias = None, None
    if weights is not None and by_moves is not None:
        by_scale = (by_moves * coefficient).sum(-1, keepdim=True)
        by_scale = by_scale if slope is None else by_scale * slope
        by_weights = by_scale[:, size:].reshape(weights.shape)
    by_start, by_shift = by_moved[:, :size], over_rows(pre.view(y.shape[0], steps + 1, *y.shape[1:]))
    if few(size):  # to add tau to each row takes less than a product for it
        by_middle = add_product(by.matrices.hidden_weight, pre.mT, at_times(first, tau))
    else:
        by_middle = add_product(by.matrices.hidden_weight, pre.mT, first)
        by_middle = add_product(by_middle, by_shift.mT, tau)
    by_middle.addcmul_(by_weighted, networks.read_out[:, :, None])
    by_read_out = by_weighted.mul_(middle).sum(-1)
    if by_v is not None and at_value is not None:
        by_v[:, size:].add_(at_value)
        by_read_out, by_bias = by_read_out + torch.bmm(by_v.mT, second)[:, 0], by_v.sum((1, 2))
    by_networks = Networks(by_weight, y.sum(1), by_middle, by_shift.sum(1), by_read_out, by_bias)
    by_rows = by_rows + (by_start if coupling.own else by_start.sum(0, keepdim=True))
    return Gradients(by_rows, torch.bmm(by_shift, middle), by_weights, by_networks)


class _Heard(NamedTuple):
    """The adjoints that the loop makes; all but the first two of all blocks, time 0 first."""

    start: Tensor  # of A z_0 + a, which time 0 and step 1 share, (G, M, h)
    inputs: Tensor  # of the inputs of the first tanh where each step starts, (G, S M, h)
    second: Tensor  # of the inputs of the second tanh
    back: Tensor  # of q
    value: Tensor | None  # of u
    moves: Tensor | None  # of p as it moves, where that of the weights is wanted


def _last_step_first(
    known: Sequence[_Step], by_first: Tensor, coupling: Coupling, middle: Tensor, upwards: Tensor, weights_too: bool
) -> _Heard:
    """The loop; `by_first`, (G, S M, h), is written to. B is `middle`, and (wB)^T `upwards`."""
    steps, size = len(known) - 1, known[0].slope_1.shape[1]
    (back, to_back), (pre, to_pre) = (room(known[0].slope_1, steps + 1) for _ in range(2))
    # The adjoints of h_1 are needed but once: those of y take their place.
    ys, to_ys = (None, [None] * steps) if back is None else (by_first, _blocks(by_first, steps))
    after, by_back, by_pre, by_values, by_moves = [], [], [], [], []

    def to_second(block: int, by_move: Tensor) -> tuple[Tensor, Tensor, Tensor]:
        """The adjoints of p and q, and that part of the one of the second tanh's inputs that does not come through q."""
        step = known[block]
        by_p, at_2 = by_move, step.by_second
        by_v: Tensor | None = None
        if step.scale is not None and step.by_coefficient is not None:
            by_p = torch.addcmul(step.by_coefficient, by_move, step.scale)
        if step.turn is not None and step.gate is not None:
            by_v = (by_move * step.turn).sum(-1, keepdim=True)
            at_2 = torch.addcmul(at_2, by_v, step.gate)
        by_back.append(torch.addcmul(step.by_back, by_p, step.slope_1, out=to_back[block]))
        by_values.append(by_v)
        by_moves.append(by_move if weights_too else None)
        return by_p, by_back[-1], at_2

    def at_second(block: int, through_q: Tensor, at_2: Tensor) -> Tensor:
        """The adjoint of the inputs of the second tanh."""
        by_pre.append(torch.addcmul(at_2, through_q, known[block].bend_2, value=-2, out=to_pre[block]))
        return by_pre[-1]

    y = known[0].by_first
    for block in range(steps, 0, -1):
        step = known[block]
        # Nothing comes after the last one.
        by_move = step.by_move if block == steps else coupling.added(step.by_move, y, add_product)
        by_p, q, at_2 = to_second(block, by_move)
        if block > 1:
            pre_2 = at_second(block, torch.bmm(q, upwards), at_2)
        else:  # which starts where time 0 does, at which nothing is moved
            by_p_0, q_0, at_2_0 = to_second(0, known[0].by_move)
            both = torch.cat((q_0, q), 1) if back is None else back[:, : 2 * size]
            through_q_0, through_q = torch.bmm(both, upwards).chunk(2, 1)
            pre_2 = at_second(1, through_q, at_2) + at_second(0, through_q_0, at_2_0)
            y = torch.addcmul(y, by_p_0, known[0].bend_1, value=-2)
        y = torch.addcmul(y, add_product(step.by_first, pre_2, middle), step.slope_1)
        # By what the step before has led to, or at last by the rows.
        y = torch.addcmul(y, by_p, step.bend_1, value=-2, out=to_ys[block - 1])
        after.append(y)
    if back is None or pre is None or ys is None:
        back, pre, ys = (torch.cat(blocks[::-1], 1) for blocks in (by_back, by_pre, after))
    return _Heard(y, ys, pre, back, joined_blocks(by_values[::-1]), joined_blocks(by_moves[::-1]))


def _summed_up(by_path: Tensor, by_starts: Tensor | None) -> tuple[Tensor, Tensor]:
    """The gradients of where a path starts, (1 or G, M, d), and of each step, (1 or G, S M, d): those of all latents after it.

    For those of the path, (1 or G, S+1, M, d), and once more of where its steps start, (1 or G, S, M, d).
    """
    if unrecorded():
        sums = by_path.clone(memory_format=torch.contiguous_format)
        if by_starts is not None:
            sums[:, :-1].add_(by_starts)
        blocks = sums.unbind(1)
        for block, later in zip(blocks[-2::-1], blocks[:0:-1], strict=True):
            block.add_(later)
        return blocks[0], sums[:, 1:].flatten(1, 2)
    starts, end = by_path[:, :-1] if by_starts is None else by_path[:, :-1] + by_starts, by_path[:, -1]
    sums_of_steps = list(accumulate((end, *starts[:, 1:].unbind(1)[::-1]), torch.add))
    # Summed by itself: inductor (torch 2.13) has been seen to lose it as the last of the running sums.
    return starts.sum(1) + end, torch.cat(sums_of_steps[::-1], 1)


def _blocks(x: Tensor | None, num: int) -> Sequence[Any]:
    """x (G, num M, ...) cut up, or as many Nones."""
    return [None] * num if x is None else x.chunk(num, 1)
