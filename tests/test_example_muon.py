"""Muon's update in float32, held to the same iteration in float64."""

import muon
import pytest
import torch
from torch.nn import Parameter

from tests.problems import randn


def orthogonalised(gradient, steps, a=3.4445, b=-4.775, c=2.0315):
    """Newton and Schulz's iteration, as published with Muon."""
    x = gradient / gradient.norm()
    for _ in range(steps):
        square = x @ x.mT
        x = a * x + (b * square + c * square @ square) @ x
    return x


@pytest.mark.parametrize(("multiplies", "least", "most"), [(False, 0.0, 1e-5), (True, 1e-4, 6e-2)])
def test_the_update_is_as_precise_as_the_processor_lets_it_be(multiplies, least, most, monkeypatch):
    monkeypatch.setattr(muon, "multiplies_bfloat16", lambda: multiplies)
    parameter, average, expected = Parameter(torch.zeros(32, 48)), 0.0, 0.0
    optimiser = muon.Muon([parameter], lr=1.0, weight_decay=0.0, momentum=0.8, nesterov=False, ns_steps=3)
    for seed in (0, 1):  # the second one tells whether the average was written to
        gradient = randn(32, 48, seed=seed)
        parameter.grad = gradient.float()
        optimiser.step()
        average = 0.8 * average + 0.2 * gradient
        expected = expected - orthogonalised(average, 3)
    error = (parameter.double() - expected).abs().max().item()
    assert least <= error <= most
