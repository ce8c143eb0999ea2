r"""The loop over time, all that must be sequential, with its backward pass written out.

One step, with A, a, B, w of `closed_form`, weights omega of what acts and n substeps:

.. math:: h_1 = \tanh(Az + a), \quad h_2 = \tanh(B h_1 + c), \quad q = (w \circ s_2) B, \quad p = q \circ s_1, \quad
          z \leftarrow z + \tfrac1n \textstyle\sum \omega\, p A.

Autograd would record some ten operations a step and run twice as many backwards. The adjoint below has ten in its loop, and
makes the gradients of all parameters in one product each afterwards.
"""

from __future__ import annotations

from typing import Any, NamedTuple

import torch
from torch import Tensor

from latentflow.closed_form import Networks, activate


class Trajectory(NamedTuple):
    """A path of S substeps and the activations that moved it: G networks, R = G or 1 sets of M rows."""

    path: Tensor  # z, (R, S+1, M, d)
    motion: Tensor  # sum omega p A, the gradient that acts, (R, S, M, d)
    first: Tensor  # h_1, (G, S, M, h), and so on
    second: Tensor  # h_2
    back: Tensor  # q
    coefficient: Tensor  # p


def follow(networks: Networks, rows: Tensor, shift: Tensor, weights: Tensor | None, substeps: int) -> Trajectory:
    """Move rows (R, M, d) along the networks.

    Args:
        networks: G of them.
        rows: R = G, each network moves its own, or R = 1, shared by all.
        shift: c(t) of every step, (G, S, h).
        weights: (G, S, M, 1), how strongly each network moves the shared rows; None for one network, or one for each row set.
        substeps: n, by which the gradients are divided.
    """
    if networks.output_bias is not None or not torch.is_grad_enabled():
        return _follow(networks, rows, shift, weights, substeps)
    return Trajectory(*_Follow.apply(rows, shift, weights, substeps, *networks[:-1]))  # type: ignore[no-untyped-call]


def _follow(networks: Networks, rows: Tensor, shift: Tensor, weights: Tensor | None, substeps: int) -> Trajectory:
    path, steps = [rows], []
    acts = [None] * shift.shape[1] if weights is None else weights.unbind(1)
    for now, active in zip(shift[:, :, None].unbind(1), acts, strict=True):
        local = activate(networks, rows, now)
        coefficient = local.gradient_coefficient()
        motion = _pull_back(coefficient if active is None else coefficient * active, networks.input_weight, len(rows))
        rows = torch.add(rows, motion, alpha=1 / substeps)
        path.append(rows)
        steps.append((motion, local.first, local.second, local.back, local.coefficient))
    return Trajectory(torch.stack(path, 1), *(torch.stack(field, 1) for field in zip(*steps, strict=True)))


class _Follow(torch.autograd.Function):
    """`follow` for networks without an output tanh. The backward pass is made of differentiable operations."""

    generate_vmap_rule = True

    @staticmethod
    def forward(
        rows: Tensor, shift: Tensor, weights: Tensor | None, substeps: int, *parameters: Tensor
    ) -> tuple[Tensor, ...]:
        return tuple(_follow(Networks(*parameters, None), rows, shift, weights, substeps))

    @staticmethod
    def setup_context(ctx: Any, inputs: tuple[Any, ...], output: tuple[Tensor, ...]) -> None:
        _, _, weights, ctx.substeps, weight, _, middle, _, gated = inputs
        path, _, *activations = output
        ctx.save_for_backward(weights, weight, middle, gated, path, *activations)

    @staticmethod
    def backward(ctx: Any, *grads: Tensor) -> tuple[Tensor | None, ...]:
        """The loss by z, p, q, and the inputs of the two tanh, from the last step to the first."""
        weights, weight, middle, gated, path, first, second, _, coefficient = ctx.saved_tensors
        by_path, by_motion, by_first, by_second, by_back, by_coefficient = grads
        # What does not wait for later steps is ready before the loop.
        slope_1, slope_2 = 1 - first.square(), 1 - second.square()
        bend_1, bend_2 = -2 * first * coefficient, -2 * second * slope_2
        by_first, by_second = by_first * slope_1, by_second * slope_2
        ready = (by_path[:, :-1], by_motion, by_first, by_second, by_back, by_coefficient, slope_1, bend_1, bend_2)
        acts = [None] * first.shape[1] if weights is None else weights.unbind(1)
        steps = list(zip(*(x.unbind(1) for x in ready), acts, strict=True))
        z, found = by_path[:, -1], []
        for at_z, at_motion, at_first, at_second, at_q, at_p, s_1, b_1, b_2, active in reversed(steps):
            motion = torch.add(at_motion, z, alpha=1 / ctx.substeps)
            along = _onto(motion, weight)
            p = at_p + (along if active is None else along * active)
            q = torch.addcmul(at_q, p, s_1)
            pre_2 = torch.addcmul(at_second, torch.bmm(q, gated.mT), b_2)
            pre_1 = torch.addcmul(torch.addcmul(at_first, p, b_1), torch.bmm(pre_2, middle), s_1)
            z = z + at_z + _pull_back(pre_1, weight, len(z))
            found.append((motion, along, q, pre_2, pre_1))
        motion, along, q, pre_2, pre_1 = (torch.stack(field, 1) for field in zip(*reversed(found), strict=True))
        return (
            z,
            pre_2.sum(2),
            (coefficient * along).sum(-1, keepdim=True) if ctx.needs_input_grad[2] else None,
            None,
            _outer(coefficient if weights is None else coefficient * weights, motion) + _outer(pre_1, path[:, :-1]),
            pre_1.sum((1, 2))[:, None],
            _outer(pre_2, first),
            None,
            _outer(slope_2, q),
        )


def _pull_back(x: Tensor, weight: Tensor, sets: int) -> Tensor:
    """x A of each network, or the sum of all as one product where they share one set of rows: (G or 1, M, d)."""
    if sets == len(weight):
        return torch.bmm(x, weight)
    return (x.transpose(0, 1).flatten(1) @ weight.flatten(0, 1))[None]


def _onto(z: Tensor, weight: Tensor) -> Tensor:
    """z A^T of each network, (G, M, h), for rows (G or 1, M, d)."""
    if len(z) == len(weight):
        return torch.bmm(z, weight.mT)
    return (z[0] @ weight.flatten(0, 1).mT).view(z.shape[1], *weight.shape[:2]).transpose(0, 1)


def _outer(left: Tensor, right: Tensor) -> Tensor:
    """The sum over steps and rows of left^T right, (G, m, n), for (G, S, M, m) and (G or 1, S, M, n)."""
    left, right = left.flatten(1, 2), right.flatten(1, 2)
    if len(left) == len(right):
        return torch.bmm(left.mT, right)
    return (left.transpose(0, 1).flatten(1).mT @ right[0]).view(len(left), left.shape[-1], right.shape[-1])
