r"""The loop over time, all that must be sequential: in coordinates of the first layer, its backward pass written out.

A step moves latents by :math:`\frac1n \sum_k \omega_k\, p_k A_k`, so it moves the inputs :math:`y_j = A_j z + a_j` of the first
tanh by :math:`\frac1n \sum_k \omega_k\, p_k A_k A_j^\top`. The latents themselves are not needed until the end. With the names
of `closed_form`, one step is

.. math:: h_1 = \tanh y, \quad h_2 = \tanh(B h_1 + c), \quad q = (w \circ s_2) B, \quad p = q \circ s_1, \quad
          y \leftarrow y + \tfrac1n\, C(\omega\, p), \quad C(p)_j = \textstyle\sum_k p_k A_k A_j^\top.

Autograd would record these operations and run twice as many backwards. The adjoint below has eight in its loop (C is its own
adjoint), and makes the gradients of all parameters in one product each afterwards.
"""

from __future__ import annotations

from typing import Any, NamedTuple

import torch
from torch import Tensor

from latentflow.closed_form import Networks, above, first_layer
from latentflow.forward_mode import carries_tangent
from latentflow.tanh import slope_of


class Activations(NamedTuple):
    """Of G networks, S substeps and M rows, step after step, (G, S M, h) each."""

    first: Tensor  # h_1
    second: Tensor  # h_2
    back: Tensor  # q
    coefficient: Tensor  # p


def follow(networks: Networks, rows: Tensor, shift: Tensor, weights: Tensor | None, substeps: int) -> Activations:
    """Move latents along the networks; what they say on the way.

    Args:
        networks: G of them.
        rows: where the latents start; (G, M, d), each network moves its own, or (1, M, d), shared by all.
        shift: c(t) of every step, (G, S, h).
        weights: (G, S, M, 1), how strongly each network moves the shared rows; None for one network, or for rows of their own.
        substeps: n, by which the gradients are divided.
    """
    weight, own = networks.input_weight, len(rows) == len(networks.input_weight)
    start, coupling = first_layer(networks, rows), torch.bmm(weight, weight.mT) if own else weight
    above_input = networks.hidden_weight, networks.weighted, networks.read_out, networks.output_bias
    inputs = start, shift, weights, coupling, *above_input, own, substeps
    if not torch.is_grad_enabled() or carries_tangent(*inputs):
        return _follow(*inputs)
    return Activations(*_Follow.apply(*inputs))  # type: ignore[no-untyped-call]


def _follow(
    y: Tensor,
    shift: Tensor,
    weights: Tensor | None,
    coupling: Tensor,
    middle: Tensor,
    weighted: Tensor,
    read_out: Tensor,
    output_bias: Tensor | None,
    own: bool,
    substeps: int,
) -> Activations:
    steps, acts = [], [None] * shift.shape[1] if weights is None else weights.unbind(1)
    for now, active in zip(shift[:, :, None].unbind(1), acts, strict=True):
        first = torch.tanh(y)
        second, back, coefficient = above(first, now, middle, weighted)
        steps.append((first, second, back, coefficient))
        scale, _ = _scale(second, active, read_out, output_bias)
        y = _moved(y, coefficient if scale is None else coefficient * scale, coupling, own, substeps)
    return Activations(*(torch.cat(field, 1) for field in zip(*steps, strict=True)))


class _Follow(torch.autograd.Function):
    """`_follow`, with a backward pass made of differentiable operations."""

    generate_vmap_rule = True

    @staticmethod
    def forward(*inputs: Any) -> tuple[Tensor, ...]:
        return tuple(_follow(*inputs))

    @staticmethod
    def setup_context(ctx: Any, inputs: tuple[Any, ...], output: tuple[Tensor, ...]) -> None:
        _, shift, *shared, ctx.own, ctx.substeps = inputs
        ctx.steps = shift.shape[1]
        ctx.save_for_backward(*shared, *output)

    @staticmethod
    def backward(ctx: Any, *grads: Tensor) -> tuple[Tensor | None, ...]:
        """The loss by y, p, q, u and the input of the second tanh, from the last step to the first."""
        weights, coupling, middle, weighted, read_out, output_bias, first, second, _, coefficient = ctx.saved_tensors
        by_first, by_second, by_back, by_coefficient = grads
        # What does not wait for later steps is ready before the loop.
        slope_1, slope_2 = slope_of(first), slope_of(second)
        bend_1, bend_2 = first * coefficient, second * slope_2  # but for a factor of -2
        scale, value = _scale(second, None if weights is None else weights.flatten(1, 2), read_out, output_bias)
        turn = None if value is None or scale is None else -2 * value * scale * coefficient
        gate = None if turn is None else slope_2 * read_out
        ready = by_first, by_second * slope_2, by_back, by_coefficient, slope_1, bend_1, bend_2
        steps = list(zip(*(_by_step(x, ctx.steps) for x in (*ready, scale, turn, gate)), strict=True))
        y, found = torch.zeros_like(steps[0][0]), []
        for at_1, at_2, at_q, at_p, s_1, b_1, b_2, scaled, turned, gated_by in reversed(steps):
            along, by_value = None, None
            if scaled is None:
                by_p = _moved(at_p, y, coupling, ctx.own, ctx.substeps)
            else:
                along = _moved(None, y, coupling, ctx.own, ctx.substeps)
                by_p = torch.addcmul(at_p, along, scaled)
                if turned is not None:
                    by_value = (along * turned).sum(-1, keepdim=True)
                    at_2 = torch.addcmul(at_2, by_value, gated_by)
            q = torch.addcmul(at_q, by_p, s_1)
            pre_2 = torch.addcmul(at_2, torch.bmm(q, weighted.mT), b_2, value=-2)
            found.append((y, q, pre_2, along if ctx.needs_input_grad[2] else None, by_value))
            y = torch.addcmul(torch.addcmul(y, torch.baddbmm(at_1, pre_2, middle), s_1), by_p, b_1, value=-2)
        joined: list[Any] = [None if x[0] is None else torch.cat(x[::-1], 1) for x in zip(*found, strict=True)]
        after, q, pre_2, along, by_value = joined
        by_weights = None
        if along is not None:
            by_weights = (coefficient * along).sum(-1, keepdim=True)
            by_weights = (by_weights if value is None else by_weights * slope_of(value)).view_as(weights)
        return (
            y,
            pre_2.view(len(y), ctx.steps, *y.shape[1:]).sum(2),
            by_weights,
            divided(
                _by_coupling(coefficient if scale is None else coefficient * scale, after, coupling, ctx.own),
                ctx.substeps,
            ),
            torch.bmm(pre_2.mT, first),
            torch.bmm(slope_2.mT, q),
            None if by_value is None else torch.bmm(by_value.mT, second),
            None if by_value is None else by_value.sum(1),
            None,
            None,
        )


def _by_step(x: Tensor | None, steps: int) -> tuple[Tensor | None, ...]:
    return (None,) * steps if x is None else x.chunk(steps, 1)


def _scale(
    second: Tensor, weights: Tensor | None, read_out: Tensor, output_bias: Tensor | None
) -> tuple[Tensor | None, Tensor | None]:
    """What multiplies p where it moves: the weights, times the slope of the output tanh; and the value u of that tanh.

    For h_2 (G, N, h); (G, N, 1) each, or None where there is nothing of the kind.
    """
    if output_bias is None:
        return weights, None
    value = torch.tanh(torch.baddbmm(output_bias[:, None], second, read_out.mT))
    slope = slope_of(value)
    return slope if weights is None else slope * weights, value


def _moved(y: Tensor | None, p: Tensor, coupling: Tensor, own: bool, substeps: int) -> Tensor:
    """The sum y + C(p) / n, where `coupling` is A A^T, (G, h, h), of networks on their own, else A, (G, h, d)."""
    if own and y is not None:
        return torch.baddbmm(y, p, coupling, alpha=1 / substeps)
    if own:
        return torch.bmm(p, divided(coupling, substeps))
    motion = divided(torch.bmm(p, coupling).sum(0), substeps).expand(len(p), -1, -1)
    return torch.bmm(motion, coupling.mT) if y is None else torch.baddbmm(y, motion, coupling.mT)


def _by_coupling(p: Tensor, by_y: Tensor, coupling: Tensor, own: bool) -> Tensor:
    """The gradient that `coupling` gets from C(p), for p and the loss by C(p) of all rows, (G, N, h)."""
    if own:
        return torch.bmm(p.mT, by_y)
    motion, by_motion = (torch.bmm(x, coupling).sum(0).expand(len(x), -1, -1) for x in (p, by_y))
    return torch.baddbmm(torch.bmm(p.mT, by_motion), by_y.mT, motion)


def divided(x: Tensor, substeps: int) -> Tensor:
    """The share of one substep, at no cost for the usual 1."""
    return x if substeps == 1 else x / substeps
