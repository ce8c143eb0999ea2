"""The values of the networks, their backward pass written out."""

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor

from latentflow.closed_form import Networks, first_layer, second_layer, value_of
from latentflow.tanh import slope_of, through_tanh
from latentflow.written_out import apart_from_autocast, differentiably, serves


def values(networks: Networks, rows: Tensor, shift: Tensor) -> Tensor:
    """U of each network, (G, N), at rows (G or 1, N, d), shared by all or its own; c(t), (G, S, h), is that of N / S rows."""
    inputs = rows, shift, *networks
    found: Tensor = (_Values.apply(*inputs) if serves() else _values(*inputs))[0]  # type: ignore[no-untyped-call]
    return found


def _values(rows: Tensor, shift: Tensor, *parameters: Tensor | None) -> tuple[Tensor]:
    return (_evaluate(Networks(*parameters), rows, shift)[0],)  # type: ignore[arg-type]


def _evaluate(networks: Networks, rows: Tensor, shift: Tensor) -> tuple[Tensor, Tensor, Tensor]:
    """The values, h_1 and h_2."""
    first = torch.tanh(first_layer(networks, rows))
    second = second_layer(first, shift, networks.hidden_weight.mT)
    return value_of(networks, second), first, second


class _Values(torch.autograd.Function):
    """`_values`, with its backward pass."""

    @staticmethod
    def forward(ctx: Any, rows: Tensor, shift: Tensor, *parameters: Any) -> tuple[Tensor]:
        found, first, second = _evaluate(Networks(*parameters), rows, shift)
        ctx.save_for_backward(rows, shift, *parameters, first, second, found)
        return (found,)

    @staticmethod
    @apart_from_autocast
    def backward(ctx: Any, by_values: Tensor) -> tuple[Tensor | None, ...]:
        rows, shift, *parameters, first, second, found = ctx.saved_tensors
        if torch.is_grad_enabled():
            return differentiably(_values, (rows, shift, *parameters), (by_values,))
        networks = Networks(*parameters)
        by_bias = None
        if networks.output_bias is not None:
            by_values = by_values * slope_of(found)
            by_bias = by_values.sum(1, keepdim=True)
        by_value = by_values[..., None]
        pre_2 = through_tanh(by_value * networks.read_out, second)
        pre_1 = through_tanh(torch.bmm(pre_2, networks.hidden_weight), first)
        num, count, hidden = first.shape
        times = shift.shape[1]
        by_rows = torch.bmm(pre_1, networks.input_weight)
        return (
            by_rows if rows.shape[0] == num else by_rows.sum(0, keepdim=True),
            pre_2.view(num, times, count // max(1, times), hidden).sum(2),
            torch.bmm(pre_1.mT, rows.expand(num, -1, -1)),
            pre_1.sum(1, keepdim=True),
            torch.bmm(pre_2.mT, first),
            None,
            torch.bmm(by_value.mT, second),
            by_bias,
        )
