"""The values of the networks, their backward pass written out."""

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor

from latentflow.closed_form import Networks, at_times, first_layer, value_of
from latentflow.tanh import slope_of, through_tanh
from latentflow.written_out import apart_from_autocast, differentiably, serves


def values(networks: Networks, rows: Tensor, tau: Tensor) -> Tensor:
    """U of each network, (G, N), at rows (G or 1, N, d), shared by all or its own; tau(t), (G, S, h), is that of N / S rows."""
    inputs = rows, tau, *networks
    found: Tensor = (_Values.apply(*inputs) if serves() else _values(*inputs))[0]  # type: ignore[no-untyped-call]
    return found


def _values(rows: Tensor, tau: Tensor, *parameters: Any) -> tuple[Tensor]:
    return (_evaluate(Networks(*parameters), rows, tau)[0],)


def _evaluate(networks: Networks, rows: Tensor, tau: Tensor) -> tuple[Tensor, Tensor, Tensor, Tensor]:
    """The values, h_1, h_1 + tau and h_2."""
    first = torch.tanh(first_layer(networks, rows))
    timed = at_times(first, tau)
    second = torch.tanh(torch.baddbmm(networks.hidden_bias[:, None], timed, networks.hidden_weight.mT))
    return value_of(networks, second), first, timed, second


class _Values(torch.autograd.Function):
    """`_values`, with its backward pass."""

    @staticmethod
    def forward(ctx: Any, rows: Tensor, tau: Tensor, *parameters: Any) -> tuple[Tensor]:
        found, *activations = _evaluate(Networks(*parameters), rows, tau)
        ctx.save_for_backward(rows, tau, *parameters, *activations, found)
        return (found,)

    @staticmethod
    @apart_from_autocast
    def backward(ctx: Any, by_values: Tensor) -> tuple[Tensor | None, ...]:
        rows, tau, *parameters, first, timed, second, found = ctx.saved_tensors
        if torch.is_grad_enabled():
            return differentiably(_values, (rows, tau, *parameters), (by_values,))
        networks = Networks(*parameters)
        by_bias = None
        if networks.output_bias is not None:
            by_values = by_values * slope_of(found)
            by_bias = by_values.sum(1)
        by_value = by_values[..., None]
        pre_2 = through_tanh(by_value * networks.read_out[:, None], second)
        by_timed = torch.bmm(pre_2, networks.hidden_weight)
        pre_1 = through_tanh(by_timed, first)
        num, count, hidden = first.shape
        by_rows = torch.bmm(pre_1, networks.input_weight)
        return (
            by_rows if rows.shape[0] == num else by_rows.sum(0, keepdim=True),
            by_timed.view(num, tau.shape[1], count // max(1, tau.shape[1]), hidden).sum(2),
            torch.bmm(pre_1.mT, rows.expand(num, -1, -1)),
            pre_1.sum(1),
            torch.bmm(pre_2.mT, timed),
            pre_2.sum(1),
            torch.bmm(by_value.mT, second)[:, 0],
            by_bias,
        )
