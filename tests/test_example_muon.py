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


@pytest.mark.parametrize(("multiplies", "least", "most"), [(False, 0.0, 1e-5), (True, 1e-4, 3e-2)])
def test_the_update_is_as_precise_as_the_processor_lets_it_be(multiplies, least, most, monkeypatch):
    monkeypatch.setattr(muon, "multiplies_bfloat16", lambda: multiplies)
    parameter, gradient = Parameter(torch.zeros(32, 48)), randn(32, 48)
    parameter.grad = gradient.float()
    optimiser = muon.Muon([parameter], lr=1.0, weight_decay=0.0, momentum=0.0, nesterov=False, ns_steps=3)
    optimiser.step()
    error = (parameter.double() + orthogonalised(gradient, 3)).abs().max().item()
    assert least <= error <= most
    assert torch.equal(parameter.grad, gradient.float())  # it was not written to
