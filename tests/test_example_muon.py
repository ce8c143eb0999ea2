"""Muon's update in float32, held to the same iteration in float64; and that in bfloat16, to PyTorch's."""

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


@pytest.mark.parametrize("multiplies", [False, True])
def test_the_update_is_in_float32_where_bfloat16_would_be_emulated(multiplies, monkeypatch):
    monkeypatch.setattr(muon, "multiplies_bfloat16", lambda: multiplies)
    found, average, expected = [], 0.0, 0.0
    gradients = [randn(32, 48, seed=seed) for seed in (0, 1)]  # the second tells whether the average was written to
    for kind in (muon.Muon, torch.optim.Muon):
        parameter = Parameter(torch.zeros(32, 48))
        optimiser = kind([parameter], lr=1.0, weight_decay=0.0, momentum=0.8, nesterov=False, ns_steps=3)
        for gradient in gradients:
            parameter.grad = gradient.float()
            optimiser.step()
        found.append(parameter.detach())
    for gradient in gradients:
        average = 0.8 * average + 0.2 * gradient
        expected = expected - orthogonalised(average, 3)
    assert torch.equal(*found) == multiplies
    if not multiplies:
        torch.testing.assert_close(found[0].double(), expected, rtol=0, atol=1e-5)
