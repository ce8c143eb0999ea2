r"""What the Hamilton-Jacobi equation with the force of `NegativeForce` costs along a path, its backward pass written out.

With L the left-hand side and :math:`f = -m^2`, each row costs :math:`(L + m^2)^2 + \lambda\, m^2`.
"""

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor

from latentflow import time_branch, values
from latentflow.closed_form import Networks
from latentflow.time_branch import Layers
from latentflow.written_out import apart_from_autocast, differentiably, serves


def penalty(
    left: Tensor,
    path: Tensor,
    sinusoid: Tensor,
    bias: Tensor | None,
    layers: Layers,
    networks: Networks,
    price: float,
) -> Tensor:
    """Of S steps of M rows, (G, S M).

    Args:
        left: of the equation, (G, S M).
        path: the latents, (1 or G, S+1, M, d), of which all but the last are looked at.
        sinusoid: the embedding of every step, (S, width).
        bias: of m, (G,); None without one.
        layers: of the time branches behind m.
        networks: behind m.
        price: lambda, on the size of the force.
    """
    inputs = left, path, sinusoid, bias, *layers, *networks, price
    found: Tensor = (_Penalty.apply(*inputs) if serves() else _penalty(*inputs))[0]  # type: ignore[no-untyped-call]
    return found


def _penalty(*inputs: Any) -> tuple[Tensor]:
    return (_evaluate(*inputs)[0],)


def _evaluate(
    left: Tensor, path: Tensor, sinusoid: Tensor, bias: Tensor | None, *others: Any
) -> tuple[Tensor, Tensor, Tensor, time_branch.Parts, values.Activations]:
    """The penalty, the residual, m and where this comes from."""
    layers, networks, price = Layers(*others[:4]), Networks(*others[4:10]), others[10]
    tau, _, parts = time_branch.evaluate(sinusoid, sinusoid[:0], layers)
    activations = values.evaluate(networks, _starts(path), tau)
    root = activations.value if bias is None else activations.value + bias[:, None]
    residual = torch.addcmul(left, root, root)
    found = residual.square()
    if price > 0:
        found = torch.addcmul(found, root, root, value=price)
    return found, residual, root, parts, activations


def _starts(path: Tensor) -> Tensor:
    """The latents that each step starts from, (1 or G, S M, d), step after step."""
    return path[:, :-1].flatten(1, 2)


class _Penalty(torch.autograd.Function):
    """`_penalty`, with its backward pass."""

    @staticmethod
    def forward(ctx: Any, *inputs: Any) -> tuple[Tensor]:
        found, residual, root, parts, activations = _evaluate(*inputs)
        *tensors, ctx.price = inputs
        ctx.save_for_backward(*tensors, residual, root, *parts, *activations)
        return (found,)

    @staticmethod
    @apart_from_autocast
    def backward(ctx: Any, by_penalty: Tensor) -> tuple[Tensor | None, ...]:
        inputs, (residual, root, *saved) = ctx.saved_tensors[:14], ctx.saved_tensors[14:]
        if torch.is_grad_enabled():
            return differentiably(_penalty, (*inputs, ctx.price), (by_penalty,))
        _, path, sinusoid, bias, *parameters = inputs
        layers, networks = Layers(*parameters[:4]), Networks(*parameters[4:])
        parts, activations = time_branch.Parts(*saved[:6]), values.Activations(*saved[6:])
        by_left = 2 * residual * by_penalty
        by_square = by_left if ctx.price == 0 else torch.add(by_left, by_penalty, alpha=ctx.price)
        by_root = 2 * root * by_square
        times = len(sinusoid)
        by_starts, by_tau, by_networks = values.adjoint(networks, _starts(path), times, activations, by_root)
        by_times, by_layers = time_branch.adjoint(layers, parts, by_tau, None, ctx.needs_input_grad[2])
        by_path = torch.cat((by_starts.view_as(path[:, :-1]), torch.zeros_like(path[:, -1:])), 1)
        by_bias = None if bias is None else by_root.sum(1)
        return by_left, by_path, by_times, by_bias, *by_layers, *by_networks, None
