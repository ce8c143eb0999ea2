"""The values of the networks, their backward pass written out."""

from __future__ import annotations

from typing import Any, NamedTuple

import torch
from torch import Tensor

from latentflow.closed_form import Networks, at_times, first_layer, value_of
from latentflow.product import over_rows, plus_product
from latentflow.tanh import slope_of, through_tanh
from latentflow.written_out import with_backward


def values(networks: Networks, rows: Tensor, tau: Tensor) -> Tensor:
    """u of each network, (G, N), at rows (G or 1, N, d), shared by all or its own; tau(t), (G, S, h), is that of N / S rows."""
    found: Tensor = _values(rows, tau, *networks)[0]
    return found


class Activations(NamedTuple):
    """Of the networks at their rows."""

    value: Tensor  # u, (G, N)
    first: Tensor  # h_1, (G, N, h)
    timed: Tensor  # h_1 + tau, (G, N, h)
    second: Tensor  # h_2, (G, N, h)


def evaluate(networks: Networks, rows: Tensor, tau: Tensor) -> Activations:
    """The `values`, and what `adjoint` takes."""
    first = torch.tanh(first_layer(networks, rows))
    timed = at_times(first, tau)
    second = torch.tanh(plus_product(networks.hidden_bias[:, None], timed, networks.hidden_weight.mT))
    return Activations(value_of(networks, second), first, timed, second)


def adjoint(
    networks: Networks, rows: Tensor, steps: int, activations: Activations, by_values: Tensor
) -> tuple[Tensor, Tensor, Networks]:
    """The gradients of the rows, of tau (G, `steps`, h) and of the networks, for those of the values, (G, N)."""
    found, first, timed, second = activations
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
    by_networks = Networks(
        torch.bmm(pre_1.mT, rows.expand(num, -1, -1)),
        pre_1.sum(1),
        torch.bmm(pre_2.mT, timed),
        pre_2.sum(1),
        torch.bmm(by_value.mT, second)[:, 0],
        by_bias,
    )
    by_rows = by_rows if rows.shape[0] == num else by_rows.sum(0, keepdim=True)
    return by_rows, over_rows(by_timed.view(num, steps, count // max(1, steps), hidden)), by_networks


def _forward(rows: Tensor, tau: Tensor, *parameters: Any) -> Any:
    activations = evaluate(Networks(*parameters), rows, tau)
    return (activations.value,), activations


def _backward(inputs: Any, kept: Any, by: Any, asked: Any) -> Any:
    rows, tau, *parameters = inputs
    by_rows, by_tau, by_networks = adjoint(Networks(*parameters), rows, tau.shape[1], Activations(*kept), *by)
    return by_rows, by_tau, *by_networks


_values = with_backward(_forward, _backward)
