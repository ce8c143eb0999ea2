"""What a trained model is measured by, on images that training never saw: errors beside their floors, densities, selection."""

from __future__ import annotations

import math
from collections.abc import Callable
from typing import Any

import torch
from compositions import compose
from data.transformations import Transformations
from models import FlowVAE
from scipy.optimize import linear_sum_assignment
from torch import Tensor
from transport import residual, transport_cost

from latentflow import LatentPath
from latentflow.metrics import (
    black_error,
    equivariance_error,
    evidence_bound,
    gaussian_constant,
    gaussian_log_likelihood,
    identity_error,
    importance_weighted_bound,
    latent_equivariance_error,
)

Tree = dict[str, Any]  # of means


@torch.no_grad()
def evaluate(
    model: FlowVAE,
    bases: Tensor,
    truth: Transformations,
    steps: int,
    *,
    elsewhere: dict[str, Tensor] | None = None,
    some: int = 1000,
    seed: int = 0,
    chunk: int = 100,
    say: Callable[[str], None] = lambda _: None,
) -> dict[str, Any]:
    """All that is reported, on bases (N, ...) that training never saw; errors are sums over pixels and steps.

    What takes long and changes little with more is measured on some of them; errors also on bases from elsewhere, by name.
    `say` is told what is measured next.
    """
    model.eval()
    generator = torch.Generator(bases.device).manual_seed(seed)
    few = bases[:some]
    if model.selector is not None:
        say("selection")
    selection = _selection(model, bases, truth, steps, chunk)
    index = list(range(len(truth.names))) if selection is None else selection["potential_of"]
    further = steps // 2 if truth.furthest is None else min(steps // 2, truth.furthest - steps)

    def errors(part: Tensor) -> Tree:
        return {name: single(model, truth.single(part, k, steps), k, generator) for k, name in enumerate(truth.names)}

    measures: dict[str, Callable[[], Any]] = {
        "transformations": lambda: _averaged(errors, bases, chunk),
        "compositions": lambda: _averaged(lambda part: compose(model, part, truth, steps, index), few, chunk),
        "extrapolation": lambda: (
            _averaged(lambda part: extrapolation(model, part, truth, steps, further), few, chunk) if further > 0 else {}
        ),
        "out_of_distribution": lambda: {
            name: _averaged(errors, others, chunk) for name, others in (elsewhere or {}).items()
        },
        "transport": lambda: _transport(model, few, truth, steps, index, generator),
        "bounds": lambda: _bounds(model, few[:256], truth, steps, generator),
    }
    results = {}
    for name, measure in measures.items():
        say(name.replace("_", " "))
        results[name] = measure()
    if selection is not None:
        results["selection"] = selection
    return results


def _averaged(measure: Callable[[Tensor], Tree], bases: Tensor, chunk: int) -> Tree:
    """Means over bases (N, ...) of what is measured on some at a time: all at once would not fit into a cache."""
    parts = bases.split(chunk)
    return _mean([measure(part) for part in parts], [len(part) for part in parts])


def _mean(parts: list[Any], sizes: list[int]) -> Any:
    if isinstance(parts[0], dict):
        return {name: _mean([part[name] for part in parts], sizes) for name in parts[0]}
    return sum(part * size for part, size in zip(parts, sizes, strict=True)) / sum(sizes)


def acting(model: FlowVAE, x: Tensor, k: int) -> dict[str, Any]:
    """What tells the flow which potential acts: the label, or what the selector infers from the frames."""
    return {"k": k} if model.selector is None else {"weights": model.select(x)[0]}


def single(model: FlowVAE, x: Tensor, k: int, generator: torch.Generator) -> dict[str, float]:
    """Errors of the k-th transformation on its true frames x (N, T+1, C, H, W), and their floors; and folds."""
    what, steps, q0 = acting(model, x, k), x.shape[1] - 1, model.posterior(x[:, 0])
    z, _ = model.flow.transport(q0.mean, steps=steps, **what)
    encoded = model.posterior(x.flatten(0, 1)).mean
    by_itself = model.images(encoded[:, None]).view_as(x)
    absolute, relative = latent_equivariance_error(z, encoded.view_as(z))
    path: LatentPath = model.flow.with_log_det("exact")(q0, steps=steps, generator=generator, **what)
    assert path.folds is not None
    return {
        "error": equivariance_error(model.images(z), x).mean().item(),
        "identity": identity_error(x).mean().item(),
        "black": black_error(x).mean().item(),
        "autoencoded": equivariance_error(by_itself, x).mean().item(),
        "latent_error": absolute.mean().item(),
        "latent_relative": relative.mean().item(),
        "folds": path.folds.float().mean().item(),
    }


def extrapolation(model: FlowVAE, bases: Tensor, truth: Transformations, steps: int, further: int) -> Tree:
    """Errors and floors over the steps T+1, ..., T + further, which were never trained."""
    results = {}
    for k, name in enumerate(truth.names):
        x = truth.single(bases, k, steps + further)
        z, _ = model.flow.transport(
            model.posterior(x[:, 0]).mean, steps=steps + further, **acting(model, x[:, : steps + 1], k)
        )
        later = torch.cat((z[:, :1], z[:, steps + 1 :]), 1), torch.cat((x[:, :1], x[:, steps + 1 :]), 1)
        results[name] = {
            "error": equivariance_error(model.images(later[0]), later[1]).mean().item(),
            "identity": identity_error(later[1]).mean().item(),
        }
    return results


def _transport(
    model: FlowVAE, bases: Tensor, truth: Transformations, steps: int, index: list[int], generator: torch.Generator
) -> Tree:
    """Costs of the paths of samples of the posterior, and residuals along them."""
    results = {}
    for k, name in enumerate(truth.names):
        q0 = model.posterior(truth.single(bases, k, steps)[:, 0])
        z = model.flow.with_log_det(None)(q0, index[k], steps=steps, generator=generator).z
        results[name] = {**transport_cost(z), "residual": residual(model, z, index[k], generator)}
    return results


def _bounds(
    model: FlowVAE, bases: Tensor, truth: Transformations, steps: int, generator: torch.Generator, samples: int = 10
) -> dict[str, Any]:
    """Bounds with a Gaussian decoder of unit variance, in nats per sequence, averaged over the transformations.

    Where the transformation is inferred, they are bounds of p(x) only after the KL of that choice to a uniform prior: eq. 8.
    """
    num = len(truth.names)
    price = 0.0 if model.selector is None else math.log(num)  # of a sure choice
    totals = dict.fromkeys(("marginal", "initial", "importance_weighted"), 0.0)
    flow = model.flow.with_log_det("exact")  # noise in them would inflate the bounds
    for k in range(num):
        x = truth.single(bases, k, steps)
        what, q0 = acting(model, x, k), model.posterior(x[:, 0])
        path = flow(q0, steps=steps, generator=generator, **what)

        def log_likelihood(z: Tensor, x: Tensor = x) -> Tensor:
            return gaussian_log_likelihood(model.images(z), x)

        for bound in ("marginal", "initial"):
            totals[bound] += evidence_bound(log_likelihood(path.z), path, model.prior, bound=bound).mean().item()
        weighted = importance_weighted_bound(
            log_likelihood, flow, q0, steps=steps, samples=samples, generator=generator, **what
        )
        totals["importance_weighted"] += weighted.mean().item()
    pixels = x[0, 0].numel()
    return {
        **{name: total / num - price for name, total in totals.items()},
        "gaussian_constant": (steps + 1) * gaussian_constant(pixels),
        "samples": samples,
        "sequences": len(bases) * num,
        "unit": f"nats per sequence of {steps + 1} frames",
    }


def _selection(model: FlowVAE, bases: Tensor, truth: Transformations, steps: int, chunk: int) -> dict[str, Any] | None:
    """How often the inferred index is the true one, learned indices being a permutation of the true ones (Hungarian)."""
    if model.selector is None:
        return None
    num = len(truth.names)
    confusion = torch.zeros(num, num, dtype=torch.int64)
    for k in range(num):
        for part in bases.split(chunk):
            x = truth.single(part, k, steps)
            confusion[k] += model.select(x)[0].sum(0).long().cpu()
    rows, columns = linear_sum_assignment(-confusion.numpy())
    accuracy = confusion[rows, columns].sum().item() / confusion.sum().item()
    return {"accuracy": accuracy, "confusion": confusion.tolist(), "potential_of": columns.tolist()}
