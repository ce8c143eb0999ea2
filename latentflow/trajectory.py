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

from collections.abc import Callable
from typing import Any, NamedTuple

import torch
from torch import Tensor

from latentflow.closed_form import Networks, activate_above, first_layer, onto_networks, slope_of_value, value_of
from latentflow.forward_mode import carries_tangent


class Activations(NamedTuple):
    """Of G networks, S substeps and M rows, (G, S, M, h) each."""

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
    inputs = start, shift, weights, coupling, networks.hidden_weight, networks.gated, own, substeps
    if networks.output_bias is not None:
        return _follow(*inputs, slope=lambda second: slope_of_value(value_of(networks, second))[..., None])
    if not torch.is_grad_enabled() or carries_tangent(*inputs):
        return _follow(*inputs)
    return Activations(*_Follow.apply(*inputs))  # type: ignore[no-untyped-call]


def _follow(
    y: Tensor,
    shift: Tensor,
    weights: Tensor | None,
    coupling: Tensor,
    middle: Tensor,
    gated: Tensor,
    own: bool,
    substeps: int,
    slope: Callable[[Tensor], Tensor] | None = None,
) -> Activations:
    steps, acts = [], [None] * shift.shape[1] if weights is None else weights.unbind(1)
    for now, active in zip(shift[:, :, None].unbind(1), acts, strict=True):
        first, second, back, coefficient = activate_above(y, now, middle, gated)
        steps.append((first, second, back, coefficient))
        acted = coefficient if slope is None else slope(second) * coefficient
        y = _moved(y, acted if active is None else acted * active, coupling, own, substeps)
    return Activations(*(torch.stack(field, 1) for field in zip(*steps, strict=True)))


class _Follow(torch.autograd.Function):
    """`_follow` without an output tanh. The backward pass is made of differentiable operations."""

    generate_vmap_rule = True

    @staticmethod
    def forward(
        y: Tensor,
        shift: Tensor,
        weights: Tensor | None,
        coupling: Tensor,
        middle: Tensor,
        gated: Tensor,
        own: bool,
        substeps: int,
    ) -> tuple[Tensor, ...]:
        return tuple(_follow(y, shift, weights, coupling, middle, gated, own, substeps))

    @staticmethod
    def setup_context(ctx: Any, inputs: tuple[Any, ...], output: tuple[Tensor, ...]) -> None:
        _, _, *shared, ctx.own, ctx.substeps = inputs
        ctx.save_for_backward(*shared, *output)

    @staticmethod
    def backward(ctx: Any, *grads: Tensor) -> tuple[Tensor | None, ...]:
        """The loss by y, p, q and the input of the second tanh, from the last step to the first."""
        weights, coupling, middle, gated, first, second, _, coefficient = ctx.saved_tensors
        by_first, by_second, by_back, by_coefficient = grads
        # What does not wait for later steps is ready before the loop.
        slope_1, slope_2 = 1 - first.square(), 1 - second.square()
        bend_1, bend_2 = -2 * first * coefficient, -2 * second * slope_2
        ready = by_first * slope_1, by_second * slope_2, by_back, by_coefficient, slope_1, bend_1, bend_2
        acts = [None] * first.shape[1] if weights is None else weights.unbind(1)
        steps = list(zip(*(x.unbind(1) for x in ready), acts, strict=True))
        y, found = torch.zeros_like(by_first[:, 0]), []
        for at_1, at_2, at_q, at_p, s_1, b_1, b_2, active in reversed(steps):
            if active is None:
                along, p = y, _moved(at_p, y, coupling, ctx.own, ctx.substeps)
            else:
                along = _moved(torch.zeros_like(y), y, coupling, ctx.own, ctx.substeps)
                p = torch.addcmul(at_p, along, active)
            q = torch.addcmul(at_q, p, s_1)
            pre_2 = torch.addcmul(at_2, torch.bmm(q, gated.mT), b_2)
            found.append((y, along, q, pre_2))
            y = y + torch.addcmul(torch.addcmul(at_1, p, b_1), torch.bmm(pre_2, middle), s_1)
        after, along, q, pre_2 = (torch.stack(field, 1) for field in zip(*reversed(found), strict=True))
        acted = coefficient if weights is None else coefficient * weights
        return (
            y,
            pre_2.sum(2),
            (coefficient * along).sum(-1, keepdim=True) if weights is not None else None,
            _by_coupling(acted, after, coupling, ctx.own) / ctx.substeps,
            _outer(pre_2, first),
            _outer(slope_2, q),
            None,
            None,
        )


def _moved(y: Tensor, p: Tensor, coupling: Tensor, own: bool, substeps: int) -> Tensor:
    """The sum y + C(p) / n, where `coupling` is A A^T, (G, h, h), of networks on their own, else A, (G, h, d)."""
    if own:
        return torch.baddbmm(y, p, coupling, alpha=1 / substeps)
    motion = p.transpose(0, 1).flatten(1) @ coupling.flatten(0, 1)
    return torch.add(y, onto_networks(motion, coupling), alpha=1 / substeps)


def _by_coupling(p: Tensor, by_y: Tensor, coupling: Tensor, own: bool) -> Tensor:
    """The gradient that `coupling` gets from C(p), for p and the loss by C(p) of all steps, (G, S, M, h)."""
    if own:
        return _outer(p, by_y)
    p, by_y = (x.flatten(1, 2).transpose(0, 1).flatten(1) for x in (p, by_y))
    weight = coupling.flatten(0, 1)
    return (p.mT @ (by_y @ weight) + by_y.mT @ (p @ weight)).view_as(coupling)


def _outer(left: Tensor, right: Tensor) -> Tensor:
    """The sum over steps and rows of left^T right, (G, m, n), for (G, S, M, m) and (G, S, M, n)."""
    return torch.bmm(left.flatten(1, 2).mT, right.flatten(1, 2))
