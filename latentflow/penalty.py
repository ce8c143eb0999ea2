r"""What the Hamilton-Jacobi equation costs along a path that the flow has evaluated, its backward pass written out.

With L the left-hand side and :math:`f = -m^2` the force of `NegativeForce`, each row costs :math:`(L + m^2)^2 + \lambda\, m^2`.
"""

from __future__ import annotations

from itertools import chain
from typing import Any, NamedTuple

import torch
from torch import Tensor

from latentflow import time_branch, values
from latentflow.closed_form import Networks
from latentflow.compiler import one_operation
from latentflow.finite import require_finite_derivatives
from latentflow.layout import Layout
from latentflow.precision import autocast_off
from latentflow.stack import Choice, all_chosen, each_to_all, in_parts, of_parts
from latentflow.time_branch import Layers
from latentflow.written_out import take, with_backward


def penalty(
    layout: Layout,
    left: Tensor,
    at_0: Tensor,
    starts: Tensor,
    force: tuple[Tensor | None, ...] | None,
    price: float,
    factor: float,
) -> Tensor:
    """The mean over S steps of M rows, and the initial term, of each sample, (B,).

    Args:
        layout: which rows the networks see. Of a mixture all is summed up over the networks.
        left: of the equation, (G, S M).
        at_0: the squared gradients at time 0, (G, M).
        starts: of the steps, (1 or G, S, M, d).
        force: the embedding of every step, (S, width), which gets no gradient, the tensors of all K networks behind m, see
            `Potential.tensors`, and the bias of m, (K,), if it has one. None is f = 0.
        price: lambda, on the size of the force.
        factor: of the initial term.
    """
    if force is None:
        force = (None,) * (2 + len(Layers._fields) + len(Networks._fields))
    inputs = left, at_0, layout.rows, layout.place, layout.weights, starts, *force, layout.k, price, factor
    return _paid(*inputs)


@one_operation
def _paid(*inputs: Any) -> Tensor:
    with autocast_off(inputs[0].device.type):
        (total,) = _penalty(*inputs)
        return require_finite_derivatives("HJConstraint", total, by_sample=True)


class _Given(NamedTuple):
    """What `penalty` takes, but for the force."""

    left: Tensor
    at_0: Tensor
    rows: Tensor | None  # see `Layout`, as the next two
    place: Tensor | None
    weights: Tensor | None
    starts: Tensor

    def layout(self, k: Choice) -> Layout:
        return Layout(k, self.rows, self.place, self.weights)


class _Way(NamedTuple):
    """From the path to the penalty."""

    each: Tensor  # of each row, (G, S, M)
    residual: Tensor  # (G, S M)
    root: Tensor | None  # m, (G, S M)


class _OfForce(NamedTuple):
    """What m comes from."""

    layers: Layers
    networks: Networks
    parts: time_branch.Parts
    activations: values.Activations


def _forward(*inputs: Any) -> tuple[tuple[Tensor], tuple[Tensor | None, ...]]:
    *tensors, k, price, factor = inputs
    rest = iter(tensors)
    given, sinusoid = take(rest, _Given), next(rest)
    left, at_0, _, _, weights, starts = given
    *parameters, bias = rest
    root, of_force, residual = None, None, left
    if sinusoid is not None:
        acting = iter(all_chosen((*parameters, bias), k))
        layers, networks, bias = take(acting, Layers), take(acting, Networks), next(acting)
        tau, _, parts = time_branch.evaluate(sinusoid, sinusoid[:0], layers)
        tau, *networks = in_parts((tau, *networks), starts.shape[0])
        networks = Networks(*networks)
        activations = values.evaluate(networks, starts.flatten(1, 2), tau)
        root = activations.value if bias is None else activations.value + bias[:, None]
        residual = torch.addcmul(left, root, root)
        of_force = _OfForce(layers, networks, parts, activations)
    each = residual.square()
    if root is not None and price > 0:
        each = torch.addcmul(each, root, root, value=price)
    each = each.view(left.shape[0], *starts.shape[1:3])
    initial = at_0
    if weights is None:
        total = each.sum(1) / each.shape[1]
    else:
        weights = weights[..., 0]
        total = (each * weights).sum((0, 1), keepdim=True)[0] / each.shape[1]
        initial = (at_0 * weights[:, 0]).sum(0, keepdim=True)
    if factor > 0:  # nothing times a gradient that overflows would not be a number
        total = torch.add(total, initial, alpha=factor)
    way = _Way(each, residual, root)
    return (given.layout(k).samples(total),), way if of_force is None else (*way, *chain(*of_force))


def _backward(inputs: Any, kept: Any, by: Any, asked: Any) -> tuple[Tensor | None, ...]:
    *tensors, k, price, factor = inputs
    rest, kept, (by_total,) = iter(tensors), iter(kept), by
    given, of_force = take(rest, _Given), (*rest,)
    (left, at_0, _, _, weights, starts), (each, residual, root) = given, take(kept, _Way)
    by_total = given.layout(k).by_samples(by_total, starts.shape[0])
    by_each, by_at_0 = (by_total / each.shape[1])[:, None], by_total if factor == 1 else by_total * factor
    by_weights = None
    if weights is not None:
        if _Given(*asked[: len(_Given._fields)]).weights:
            by_weights = by_each * each
            by_weights[:, 0] += by_at_0 * at_0
            by_weights = by_weights[..., None]
        by_each, by_at_0 = by_each * weights[..., 0], by_at_0 * weights[:, 0, :, 0]
    by_left = (residual + residual).view_as(each) * by_each
    if root is None:
        return by_left.view_as(left), by_at_0, None, None, by_weights, *[None] * (1 + len(of_force) + 3)
    layers, networks = take(kept, Layers), take(kept, Networks)
    parts, activations = take(kept, time_branch.Parts), take(kept, values.Activations)
    by_square = by_left if price == 0 else torch.add(by_left, by_each, alpha=price)
    by_root = ((root + root).view_as(each) * by_square).view_as(root)
    rows = starts.flatten(1, 2)
    by_rows, by_tau, by_networks = values.adjoint(networks, rows, len(of_force[0]), activations, by_root)
    by_bias = None if of_force[-1] is None else by_root.sum(1)
    by_tau, *by_others = of_parts((by_tau, *by_networks, by_bias), layers.weight_in.shape[0])
    _, by_layers = time_branch.adjoint(layers, parts, by_tau, None)
    by_force = each_to_all((*by_layers, *by_others), k, of_force[1].shape[0])
    # Of each field of `_Given`.
    by_given = by_left.view_as(left), by_at_0, None, None, by_weights, by_rows.view_as(starts)
    return *by_given, None, *by_force, None, None, None


_penalty = with_backward(_forward, _backward, constants=3)
