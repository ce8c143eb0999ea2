"""Settings of a flow's solver: as it is made, changed later, and what is wrong with them."""

import pytest
import torch

from latentflow import FlowPosterior
from tests.problems import close, make_potential, randn


@pytest.mark.parametrize(
    ("before", "later"),
    [
        ({"solver": "rk4"}, {"substeps": 4}),
        ({"solver": "rk4"}, {"solver_options": {"step_size": 0.2}}),
        ({"solver": "midpoint", "substeps": 8}, {"solver": "rk4"}),
        ({"solver": "dopri5"}, {"solver_options": {"rtol": 1e-2, "atol": 1e-2}}),
        ({}, {"substeps": 3}),
        ({}, {"label": "start"}),
    ],
)
def test_settings_may_be_changed_later(before, later):
    potential, z0 = make_potential(2, strength=4.0), randn(3, 2)
    flow, as_made = FlowPosterior(potential, **before), FlowPosterior(potential, **before | later)
    flow.transport(z0, 0, 1)
    for name, value in later.items():
        setattr(flow, name, value)
    expected = as_made.transport(z0, 0, 1)
    assert not torch.allclose(FlowPosterior(potential, **before).transport(z0, 0, 1)[0], expected[0], rtol=1e-9)
    for got, wanted in zip(flow.transport(z0, 0, 1), expected, strict=True):
        assert torch.equal(got, wanted)
    assert torch.equal(flow.inverse(expected[0][:, -1], 0, 1), as_made.inverse(expected[0][:, -1], 0, 1))


@pytest.mark.parametrize(
    ("before", "name", "value", "error", "message"),
    [
        ({}, "substeps", 0, ValueError, "substeps: got 0, expected at least 1"),
        ({"solver": "rk4"}, "substeps", -3, ValueError, "substeps: got -3, expected at least 1"),
        ({"solver": "rk4"}, "substeps", 2.5, TypeError, "substeps: got 2.5"),
        ({}, "label", "middle", ValueError, "label: got 'middle', expected one of 'end', 'start'"),
        ({"solver": "rk4"}, "label", "start", ValueError, "label: got 'start' with solver='rk4'"),
        ({}, "solver", "nonsense", ValueError, "solver: got 'nonsense'"),
        ({"solver": "rk4", "solver_options": {"step_size": 0.5}}, "solver", "euler", ValueError, "solver_options: got"),
        ({"solver": "rk4"}, "solver_options", {"stepsize": 1}, ValueError, "solver: got 'rk4'.*stepsize"),
        ({"solver": "rk4"}, "solver_options", 3, TypeError, "solver_options: got 3, expected a dict"),
    ],
)
def test_settings_that_are_changed_later_are_checked(before, name, value, error, message):
    flow, z = FlowPosterior(make_potential(2), **before), randn(3, 2)
    setattr(flow, name, value)
    for ask in (flow.transport, flow.inverse):
        with pytest.raises(error, match=message):
            ask(z, 0, 1)


def test_options_may_be_taken_back():
    flow, z0 = FlowPosterior(make_potential(2), solver="rk4", solver_options={"step_size": 0.5}), randn(3, 2)
    flow.solver_options = None
    assert torch.equal(flow.transport(z0, 0, 1)[0], FlowPosterior(flow.potential, solver="rk4").transport(z0, 0, 1)[0])


def test_numbers_of_options_are_those_of_now_however_they_are_printed():
    flow, z0 = FlowPosterior(make_potential(2, strength=4.0), solver="dopri5"), randn(3, 2)
    found = []
    for moment in (0.12341, 0.12344):  # which print alike
        flow.solver_options = {"rtol": 1e-2, "atol": 1e-2, "step_t": torch.tensor([moment], dtype=torch.float64)}
        found.append(flow.transport(z0, 0, 1)[0])
    assert not torch.equal(*found)


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"solver": "nonsense"}, "solver: got 'nonsense'"),
        ({"solver": "rk4", "solver_options": {"stepsize": 0.1}}, "solver: got 'rk4'.*stepsize"),
        ({"solver": "dopri5", "substeps": 4}, "substeps: got 4 with solver='dopri5', expected 1; it chooses"),
        ({"solver": "rk4", "substeps": 4, "solver_options": {"step_size": 0.1}}, "substeps: got 4"),
        ({"solver": "rk4", "label": "start"}, "label: got 'start'"),
        ({"solver": "rk4", "log_det": "laplacian"}, "log_det: got 'laplacian'"),
        ({"solver_options": {"rtol": 0.1}}, "solver_options: got {'rtol': 0.1} with solver='euler'"),
    ],
)
def test_bad_solver_settings_are_named_at_once(options, message):
    with pytest.raises(ValueError, match=message) as error:
        FlowPosterior(make_potential(2), **options)
    assert "expected" in str(error.value)


def test_options_may_be_nested_as_torchdiffeq_takes_them():
    potential, z0 = make_potential(2), randn(3, 2)
    results = [
        FlowPosterior(potential, None, solver="rk4", **options).transport(z0, 0, 1)[0]
        for options in (
            {"substeps": 4},
            {"solver_options": {"step_size": 0.25}},
            {"solver_options": {"options": {"step_size": 0.25}}},
        )
    ]
    close(results[0], results[1], 0)
    close(results[0], results[2], 0)
