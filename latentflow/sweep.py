"""All that a flow, its density and its Hamilton-Jacobi equation ask of the networks along a path, with one backward pass.

On the way there: the time branch, the loop over time, the left-hand side of the equation and the estimate of the
log-determinants. Their adjoints run in the opposite order, and add the gradient of each matrix up in place.
"""

from __future__ import annotations

from collections.abc import Iterator
from itertools import islice
from typing import Any, NamedTuple

import torch
from torch import Tensor

from latentflow import hamilton_jacobi, hessian_product, hutchinson, time_branch, trajectory, trajectory_adjoint
from latentflow.closed_form import Matrices, Networks
from latentflow.layout import Layout
from latentflow.product import add_product
from latentflow.stack import Choice, all_chosen, each_to_all, in_parts, of_parts
from latentflow.tanh import slope_of
from latentflow.time_branch import Layers
from latentflow.trajectory import Trajectory
from latentflow.trajectory_adjoint import Wanted
from latentflow.written_out import take, with_backward


class Sweep(NamedTuple):
    """Of B samples, S substeps and G networks, or G parts of the rows of one, with M rows each.

    Activations are those of the rows where the steps start, step after step. They are parts of what the backward pass keeps,
    and not to be written to: PyTorch would not notice.
    """

    path: Tensor  # (B, S+1, d)
    starts: Tensor | None  # of the steps on it, (1 or G, S, M, d); with the left-hand side
    squared_at_0: Tensor  # |grad u|^2 where the path starts, at time 0, (G, M)
    left: Tensor | None  # of the Hamilton-Jacobi equation, (G, S M)
    log_det: Tensor | None  # of what acts, as the probe estimates it, (B, S); with it, no activations
    first: Tensor | None = None  # h_1, (G, S M, h)
    second: Tensor | None = None  # h_2, (G, S M, h)
    back: Tensor | None = None  # q, (G, S M, h)
    coefficient: Tensor | None = None  # p, (G, S M, h)
    value: Tensor | None = None  # u, (G, S M, 1), of bounded potentials

    def activations(self) -> tuple[Tensor, Tensor, Tensor, Tensor, Tensor | None]:
        """h_1, h_2, q, p and u."""
        assert self.first is not None
        assert self.second is not None
        assert self.back is not None
        assert self.coefficient is not None
        return self.first, self.second, self.back, self.coefficient, self.value


class Start(NamedTuple):
    """What the networks are shown."""

    latents: Tensor  # where they start, (B, d)
    rows: Tensor | None  # see `Layout`, as the next two
    place: Tensor | None
    weights: Tensor | None  # (G, S, M, 1), how strongly each network moves the shared rows; None without a mixture
    probe: Tensor | None  # for the estimate of the log-determinants, (1 or G, S M, d)
    sinusoid: Tensor  # the embedding of time 0 and of every step, (S+1, width), which gets no gradient
    sinusoid_rate: Tensor  # its rate at every step, (S, width); (0, width) where the left-hand side is not asked for


class Inputs(NamedTuple):
    """With all networks and which of them act, or with those that act alone."""

    start: Start
    layers: Layers
    networks: Networks
    k: Choice
    parts: int  # into which the rows of one network are cut
    substeps: int  # by which gradients are divided

    @classmethod
    def chosen(cls, *flat: Any) -> Inputs:
        """From inputs one by one, as autograd takes them, to those that act."""
        *tensors, k, parts, substeps = flat
        given = iter(tensors)
        start, parameters = take(given, Start), iter(all_chosen(given, k))
        layers, networks = take(parameters, Layers), in_parts(take(parameters, Networks), parts)
        return cls(start, layers, Networks(*networks), k, parts, substeps)

    @property
    def layout(self) -> Layout:
        return Layout(self.k, self.start.rows, self.start.place, self.start.weights)

    def flat(self) -> tuple[Any, ...]:
        return *self.start, *self.layers, *self.networks, self.k, self.parts, self.substeps


def sweep(inputs: Inputs) -> Sweep:
    """Follow the networks from where the latents start."""
    return Sweep(*_sweep(*inputs.flat()))


class _Found(NamedTuple):
    """What the adjoints take."""

    rows: Tensor  # where the latents start; (G, M, d), each network moves its own, or (1, M, d), shared by all
    matrices: Matrices
    tau: Tensor
    rate: Tensor
    parts: time_branch.Parts
    trajectory: Trajectory
    each: Tensor | None  # grad u of each network of a mixture where the steps start, (K, S M, d)
    way: hutchinson.Way | None

    def flat(self) -> tuple[Tensor | None, ...]:
        """To be saved; the matrices but for wB are parameters."""
        motion, gradients, activations, square = self.trajectory
        way = () if self.way is None else (*self.way.parts, *self.way.others)
        here = self.rows, self.matrices.weighted, self.tau, self.rate, self.each, motion, gradients, square
        return *here, *self.parts, *activations, *way

    @classmethod
    def taken(cls, saved: Iterator[Any], networks: Networks, estimated: bool) -> _Found:
        rows, weighted, tau, rate, each, motion, gradients, square = islice(saved, 8)
        parts = take(saved, time_branch.Parts)
        found = Trajectory(motion, gradients, take(saved, trajectory.Activations), square)
        way = hutchinson.Way(take(saved, hessian_product.Parts), take(saved, hutchinson.Others)) if estimated else None
        matrices = Matrices(networks.input_weight, networks.hidden_weight, weighted)
        return cls(rows, matrices, tau, rate, parts, found, each, way)


def _evaluate(inputs: Inputs) -> tuple[Sweep, _Found]:
    (latents, _, _, weights, probe, sinusoid, sinusoid_rate), layers, networks, _, parts, substeps = inputs
    layout, matrices = inputs.layout, Matrices.of(networks)
    rows = layout.spread(latents, parts)
    size = rows.shape[1]
    tau, rate, of_time = time_branch.evaluate(sinusoid, sinusoid_rate, layers)
    tau, rate = in_parts((tau, rate), parts)
    found = trajectory.follow(networks, matrices.weighted, rows, tau, weights, substeps)
    first, second, back, coefficient, value = _from_step_1(found, size)
    path = found.path(rows, tau.shape[1] - 1)
    starts, each, left, log_det, way = None, None, None, None, None
    squared = (found.gradients if weights is None else found.gradients[:, :size]).square().sum(-1)
    if sinusoid_rate.shape[0] > 0:
        if weights is not None:  # what moves a mixture does not tell of each network
            each = torch.bmm(coefficient if value is None else slope_of(value) * coefficient, networks.input_weight)
        # A copy, whose gradient needs no padding to that of the path.
        starts = path[:, :-1].clone(memory_format=torch.contiguous_format)
        of_steps = squared[:, size:] if each is None else each.square().sum(-1)
        left = hamilton_jacobi.left_hand_side(of_steps, back, value, rate)
    if probe is not None:
        local, acts = (first, second, coefficient, value), None if weights is None else weights.flatten(1, 2)
        estimate, way = hutchinson.estimate(probe, hutchinson.Activations(*local), acts, matrices, substeps)
        log_det = layout.collect(estimate.view(rows.shape[0], tau.shape[1] - 1, size))
    activations = (first, second, back, coefficient, value) if probe is None else ()
    said = Sweep(layout.collect(path), starts, squared[:, :size], left, log_det, *activations)
    return said, _Found(rows, matrices, tau, rate, of_time, found, each, way)


def _from_step_1(found: Trajectory, size: int) -> tuple[Tensor, Tensor, Tensor, Tensor, Tensor | None]:
    """h_1, h_2, q, p and u but for time 0, (G, S M, ...)."""
    first, second, back, coefficient, value, _ = found.activations
    late = [x[:, size:] for x in (first, second, back, coefficient)]
    return late[0], late[1], late[2], late[3], None if value is None else value[:, size:]


def _forward(*flat: Any) -> tuple[tuple[Any, ...], tuple[Tensor | None, ...]]:
    inputs = Inputs.chosen(*flat)
    said, found = _evaluate(inputs)
    # With what acts, so that labels need not gather it again from the whole stack.
    return tuple(said), (*inputs.layers, *inputs.networks, *found.flat())


def _backward(flat: Any, kept: Any, by: Any, asked: Any) -> tuple[Tensor | None, ...]:
    *tensors, k, parts, substeps = flat
    rest, kept = iter(tensors), iter(kept)
    start, whole = take(rest, Start), (*rest,)
    inputs = Inputs(start, take(kept, Layers), take(kept, Networks), k, parts, substeps)
    found = _Found.taken(kept, inputs.networks, start.probe is not None)
    weights_too = bool(Start(*asked[: len(Start._fields)]).weights)
    by_latents, by_weights, by_layers, by_networks = _adjoint(inputs, found, Sweep(*by), weights_too)
    by_parameters = each_to_all((*by_layers, *by_networks), k, whole[0].shape[0])
    by_start = by_latents, None, None, by_weights, None, None, None  # of each field of `Start`
    return *by_start, *by_parameters, None, None, None


def _adjoint(
    inputs: Inputs, found: _Found, by: Sweep, weights_too: bool
) -> tuple[Tensor, Tensor | None, Layers, Networks]:
    """The gradients of latents, of weights where `weights_too` asks for them, and of layers and networks that act."""
    (_, _, _, weights, probe, _, _), layers, networks, _, parts, substeps = inputs
    layout, rows = inputs.layout, found.rows
    size = rows.shape[1]
    first, second, back, coefficient, value = _from_step_1(found.trajectory, size)
    acts, by_acts = None if weights is None else weights.flatten(1, 2), None
    if probe is not None and found.way is not None and by.log_det is not None:
        local = hutchinson.Activations(first, second, coefficient, value)
        by_estimate = layout.by_collect(by.log_det, parts).flatten(1)
        (by_first, by_second, by_coefficient, by_value), by_acts, by_matrices = hutchinson.adjoint(
            probe, local, acts, found.matrices, substeps, found.way, by_estimate, weights_too
        )
        by_back = None
    else:
        by_first, by_second, by_back, by_coefficient, by_value = by.activations()
        by_first = by_first.clone(memory_format=torch.contiguous_format)  # to be written to
        by_matrices = Matrices(*map(torch.zeros_like, found.matrices))
    by_rate, by_squared = None, None
    if by.left is not None:
        by_q, by_u, by_rate = hamilton_jacobi.adjoint(back, value, found.rate, by.left)
        by_back = by_q if by_back is None else by_back + by_q
        by_value = by_u if by_value is None or by_u is None else by_value + by_u
        if found.each is None:
            by_squared = by.left
        else:
            by_each = found.each * by.left[..., None]
            by_p = torch.bmm(by_each, networks.input_weight.mT)
            p = coefficient
            if value is not None and by_value is not None:
                slope = slope_of(value)
                by_value = torch.addcmul(by_value, value, (by_p * p).sum(-1, keepdim=True), value=-2)
                by_p, p = by_p * slope, p * slope
            by_coefficient = by_coefficient + by_p
            by_weight = add_product(by_matrices.input_weight, p.mT, by_each)
            by_matrices = by_matrices._replace(input_weight=by_weight)
    wanted = Wanted(
        layout.by_collect(by.path, parts),
        by.starts,
        by_first,
        by_second,
        torch.zeros_like(by_first) if by_back is None else by_back,
        by_coefficient,
        by_value,
        by.squared_at_0 + by.squared_at_0,
        by_squared,
        by_matrices,
    )
    given = trajectory_adjoint.adjoint(
        networks, found.matrices.weighted, rows, found.tau, weights, substeps, found.trajectory, wanted, weights_too
    )
    by_weights = given.weights
    if by_acts is not None and by_weights is not None:
        by_weights = by_weights + by_acts.view_as(by_weights)
    num = layers.weight_in.shape[0]
    by_tau, by_rate = of_parts((given.tau, by_rate), num)
    _, by_layers = time_branch.adjoint(layers, found.parts, by_tau, by_rate)
    return layout.by_spread(given.rows), by_weights, by_layers, Networks(*of_parts(given.networks, num))


_sweep = with_backward(_forward, _backward, constants=3)
