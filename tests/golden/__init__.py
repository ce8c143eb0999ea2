"""A checkpoint that users could have, and what the library makes of it: neither may change between versions.

``python -m tests.golden`` compares, ``--write`` writes both anew: after a change that is meant, and is in CHANGELOG.md.
"""

import dataclasses
import json
from pathlib import Path
from typing import Any

import torch
from safetensors.torch import load_model
from torch import Tensor, nn
from torch.distributions import Independent, Laplace

from latentflow import (
    DiffusionPrior,
    FlowPosterior,
    GumbelSelector,
    HJConstraint,
    NegativeForce,
    Potential,
    categorical_kl,
    flow_kl,
    logdet,
    metrics,
)
from tests.problems import Drawn

FOLDER = Path(__file__).parent
CHECKPOINT, VALUES = FOLDER / "model.safetensors", FOLDER / "values.json"
BATCH, STEPS, DIM, NUM = 3, 3, 3, 2
# Of each value, relative to the largest of its kind; of latents in bfloat16, which flow in float32, it is their own rounding.
TOLERANCE = {torch.float64: 1e-10, torch.float32: 2e-5, torch.bfloat16: 2e-2}


class Model(nn.Module):
    """Every component, with both kinds of potentials, forces and priors; flow and constraint share their potential."""

    def __init__(self) -> None:
        super().__init__()
        self.potential, self.force = Potential(DIM, NUM, 4), NegativeForce(DIM, NUM, 4)
        self.bounded = Potential(DIM, NUM, 5, bounded=True)
        self.bounded_force = NegativeForce(DIM, NUM, 3, bounded=True)
        self.flow, self.hj = FlowPosterior(self.potential), HJConstraint(self.potential, self.force)
        self.prior = DiffusionPrior(NUM)
        self.selector = GumbelSelector(nn.Linear(DIM, NUM), NUM)


def waves(*shape: int, start: float, dtype: torch.dtype) -> Tensor:
    """Inputs by formula, the same in all versions of all libraries."""
    return torch.sin(start + torch.arange(torch.Size(shape).numel(), dtype=torch.float64)).view(shape).to(dtype)


def restored() -> Model:
    model = Model()
    load_model(model, CHECKPOINT)
    return model.eval()


def known() -> dict[str, Any]:
    found: dict[str, Any] = json.loads(VALUES.read_text())
    return found


def measured(model: Model, dtype: torch.dtype) -> dict[str, Tensor]:
    """All golden values, of latents in this dtype."""
    model = model.to(torch.float64 if dtype == torch.float64 else torch.float32)
    full = torch.float32 if dtype == torch.bfloat16 else dtype
    z, mean = (waves(BATCH, DIM, start=start, dtype=dtype) for start in (1, 2))
    mean, std, noise = (
        mean.to(full),
        1 + 0.5 * waves(BATCH, DIM, start=3, dtype=full),
        waves(BATCH, DIM, start=4, dtype=full),
    )
    q0 = Drawn(mean, std, noise)
    weights = waves(BATCH, STEPS, NUM, start=5, dtype=full).square()
    labels, switching = torch.tensor([0, 1, 1]), torch.tensor([[0, 1, 0], [1, 1, 0], [0, 0, 1]])
    wide, x = z.to(full), waves(BATCH, STEPS + 1, 2, 2, start=6, dtype=full)
    found: dict[str, Tensor] = {"potential": model.potential(wide, 1.5), "bounded potential": model.bounded(wide, 1.5)}
    found |= {"force": model.force(wide, 1.5), "bounded force": model.bounded_force(wide, 1.5)}
    found["hessian"] = model.potential.hessian(wide, 1.5, 0)

    flows = {
        "exact": (FlowPosterior(model.potential), {"k": labels}),
        "laplacian": (FlowPosterior(model.potential, "laplacian"), {"weights": weights}),
        "start": (FlowPosterior(model.potential, label="start", substeps=2), {"k": switching}),
        "bounded": (FlowPosterior(model.bounded), {"weights": weights}),
        "rk4": (FlowPosterior(model.potential, solver="rk4", solver_options={"step_size": 0.5}), {"k": switching}),
    }
    for name, (flow, acting) in flows.items():
        found[f"{name}: z"], log_det = flow.transport(z, steps=STEPS, **acting)
        assert log_det is not None
        found[f"{name}: log_det"] = log_det
    probe = waves(BATCH, DIM, start=7, dtype=full).sign()
    found["hutchinson"] = logdet.hutchinson(model.potential.hessian_product(wide, 1.5, labels, probe), probe)
    found["inverse"] = model.flow.inverse(z, labels, STEPS)
    found["log_prob"] = model.flow.log_prob(z, q0, labels, STEPS)

    path = model.flow(q0, weights=weights, steps=STEPS)
    assert path.log_q is not None
    found |= {"log_q": path.log_q, "hj": model.hj(path), "diffusion": model.prior.diffusion}
    priced = HJConstraint(model.bounded, model.bounded_force, force_penalty=0.3, initial_weight=0.7, label="start")
    found |= {"hj, priced": priced(path), "ordinary hj": HJConstraint(model.potential)(path)}
    found |= {"residual": model.hj.residual(wide, 1.5), "initial": model.hj.initial(wide)}
    particle = DiffusionPrior(NUM, model.prior.diffusion.detach(), form="particle", dtype=full)
    for name, prior in (("heat", model.prior), ("particle", particle)):
        found[f"{name}: log_prob"] = prior.log_prob(path)
        found[f"{name}: marginal"] = flow_kl(path, prior)
    found["initial bound"] = flow_kl(path, model.prior, bound="initial")
    as_sampled = dataclasses.replace(path, q0=Independent(Laplace(mean, 1.0), 1))
    found["initial bound, sampled"] = flow_kl(as_sampled, model.prior, bound="initial")

    chosen, logits = model.selector(wide)
    found |= {"chosen": chosen, "logits": logits, "categorical_kl": categorical_kl(logits)}
    found["temperature"] = model.selector.temperature
    decoded = path.z.sigmoid()[..., :2, None].expand_as(x)
    found["equivariance_error"], found["identity_error"] = (
        metrics.equivariance_error(decoded, x),
        metrics.identity_error(x),
    )
    encoded = waves(BATCH, STEPS + 1, DIM, start=8, dtype=full)
    absolute, relative = metrics.latent_equivariance_error(path.z, encoded)
    likelihood = metrics.gaussian_log_likelihood(decoded, x)
    found |= {"latent error": absolute, "latent error, relative": relative, "gaussian_log_likelihood": likelihood}
    found["evidence_bound"] = metrics.evidence_bound(likelihood, path, model.prior)
    found["importance_weighted_bound"] = metrics.importance_weighted_bound(
        lambda z: -0.5 * z.square().sum(-1), model.flow, q0, weights=weights, steps=STEPS, samples=2
    )
    found["gaussian_constant"] = torch.tensor(metrics.gaussian_constant(12), dtype=full)
    return found


def differences(found: dict[str, Tensor], truth: dict[str, Any], tolerance: float) -> list[str]:
    """What is not as it was."""
    wrong = sorted(found.keys() ^ truth.keys())
    for name in found.keys() & truth.keys():
        value, expected = found[name].detach().double(), torch.tensor(truth[name], dtype=torch.float64)
        size = expected.abs().max()
        if value.shape != expected.shape or not (value - expected).abs().max() <= tolerance * size:
            wrong.append(name)
    return wrong
