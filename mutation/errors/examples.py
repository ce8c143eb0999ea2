"""In the examples, and in the checks that users take from `latentflow.testing`."""

from __future__ import annotations

from .error import Error

ERRORS = (
    Error(
        "factors carry into other factors",
        "examples/data/factors.py",
        "torch.where(runs[:, None], torch.arange(states)[:, None], values[:, None])",
        "values[:, None] + torch.where(runs[:, None], torch.arange(states)[:, None], 0)",
        ("example_factors",),
    ),
    Error(
        "learned indices are matched to the true ones that they are least often",
        "examples/evaluate.py",
        "linear_sum_assignment(-confusion.numpy())",
        "linear_sum_assignment(confusion.numpy())",
        ("example_evaluation",),
    ),
    Error(
        "the latent never moves in the evaluation",
        "examples/evaluate.py",
        "z, _ = model.flow.transport(q0.mean, steps=steps, **what)",
        "z = q0.mean[:, None].expand(-1, steps + 1, -1)",
        ("example_evaluation",),
    ),
    Error(
        "Muon updates in float32 write to its gradient's average",
        "examples/muon.py",
        "return args[0].clone()",
        "return args[0]",
        ("example_muon",),
    ),
    Error(
        "extrapolation counts the steps that were trained",
        "examples/evaluate.py",
        "torch.cat((z[:, :1], z[:, steps + 1 :]), 1), torch.cat((x[:, :1], x[:, steps + 1 :]), 1)",
        "z, x",
        ("example_evaluation",),
    ),
    Error(
        "a steep potential is taken for one with a kink",
        "latentflow/testing/potentials.py",
        "for pieces in (1, 4, 16, 64):",
        "for pieces in (1,):",
        ("testing",),
    ),
)
