"""Held-out equivariance errors beside their floors, compositions, evidence bounds, folds and selection."""

from __future__ import annotations

import json
import platform
from pathlib import Path
from typing import Any

import torch
from data.transformations import TRANSFORMATIONS, levels_of, render, switching_levels
from models import FlowVAE
from rich.console import Console
from rich.table import Table
from scipy.optimize import linear_sum_assignment
from torch import Tensor

from latentflow import FlowPosterior, LatentPath
from latentflow.metrics import (
    equivariance_error,
    evidence_bound,
    gaussian_constant,
    gaussian_log_likelihood,
    identity_error,
    importance_weighted_bound,
    latent_equivariance_error,
)

PAIRS = ((0, 1), (0, 2), (1, 2))


@torch.no_grad()
def evaluate(model: FlowVAE, digits: Tensor, steps: int, *, seed: int = 0, chunk: int = 500) -> dict[str, Any]:
    """All that is reported, on digits (N, H, W) that training never saw; errors are sums over pixels and steps."""
    model.eval()
    generator = torch.Generator().manual_seed(seed)
    selection = _selection(model, digits, steps, chunk)
    index = list(range(len(TRANSFORMATIONS))) if selection is None else selection["potential_of"]
    results: dict[str, Any] = {"transformations": {}}
    for k, name in enumerate(TRANSFORMATIONS):
        parts = [_single(model, part, k, steps, generator) for part in digits.split(chunk)]
        results["transformations"][name] = _mean(parts, [len(part) for part in digits.split(chunk)])
    results["bounds"] = _bounds(model, digits[:256], steps, generator)
    results["compositions"] = _compositions(model, digits[: 4 * chunk], steps, index)
    if selection is not None:
        results["selection"] = selection
    return results


def acting(model: FlowVAE, x: Tensor, k: int) -> dict[str, Any]:
    """What tells the flow which potential acts: the label, or what the selector infers from the frames."""
    return {"k": k} if model.selector is None else {"weights": model.select(x)[0]}


def decode_mean_path(model: FlowVAE, first: Tensor, steps: int, **what: Any) -> tuple[Tensor, Tensor]:
    """The path of the posterior mean of x_0 (B, C, H, W), decoded to values in [0, 1]; and the path itself."""
    z, _ = model.flow.transport(model.posterior(first).mean, steps=steps, **what)
    return model.decode(z).sigmoid(), z


def _single(model: FlowVAE, digits: Tensor, k: int, steps: int, generator: torch.Generator) -> dict[str, float]:
    x = render(digits, levels_of(torch.full((len(digits),), k), steps))
    what = acting(model, x, k)
    decoded, z = decode_mean_path(model, x[:, 0], steps, **what)
    encoded = model.posterior(x.flatten(0, 1)).mean
    by_itself = model.decode(encoded[:, None]).sigmoid().view_as(x)
    absolute, relative = latent_equivariance_error(z, encoded.view_as(z))
    path: LatentPath = FlowPosterior(model.flow.potential)(
        model.posterior(x[:, 0]), steps=steps, generator=generator, **what
    )
    assert path.folds is not None
    return {
        "error": equivariance_error(decoded, x).mean().item(),
        "identity": identity_error(x).mean().item(),
        "autoencoded": equivariance_error(by_itself, x).mean().item(),
        "latent_error": absolute.mean().item(),
        "latent_relative": relative.mean().item(),
        "folds": path.folds.float().mean().item(),
    }


def _bounds(
    model: FlowVAE, digits: Tensor, steps: int, generator: torch.Generator, samples: int = 10
) -> dict[str, Any]:
    """Bounds with a Gaussian decoder of unit variance, in nats per sequence, averaged over the transformations."""
    totals = dict.fromkeys(("marginal", "initial", "importance_weighted"), 0.0)
    flow = FlowPosterior(model.flow.potential)
    for k in range(len(TRANSFORMATIONS)):
        x = render(digits, levels_of(torch.full((len(digits),), k), steps))
        what, q0 = acting(model, x, k), model.posterior(x[:, 0])
        path = flow(q0, steps=steps, generator=generator, **what)

        def log_likelihood(z: Tensor, x: Tensor = x) -> Tensor:
            return gaussian_log_likelihood(model.decode(z).sigmoid(), x)

        for bound in ("marginal", "initial"):
            totals[bound] += evidence_bound(log_likelihood(path.z), path, model.prior, bound=bound).mean().item()
        weighted = importance_weighted_bound(
            log_likelihood, flow, q0, steps=steps, samples=samples, generator=generator, **what
        )
        totals["importance_weighted"] += weighted.mean().item()
    pixels = x[0, 0].numel()
    return {
        **{name: total / len(TRANSFORMATIONS) for name, total in totals.items()},
        "gaussian_constant": (steps + 1) * gaussian_constant(pixels),
        "samples": samples,
        "sequences": len(digits) * len(TRANSFORMATIONS),
        "unit": f"nats per sequence of {steps + 1} frames",
    }


def _compositions(model: FlowVAE, digits: Tensor, steps: int, index: list[int]) -> dict[str, dict[str, float]]:
    """Switching and superposing were never trained; the truth is both transformations applied to the image."""
    results = {}
    for first, second in PAIRS:
        for kind, (x, what) in compositions(digits, first, second, steps, index).items():
            decoded, _ = decode_mean_path(model, x[:, 0], steps, **what)
            error, identity = equivariance_error(decoded, x).mean().item(), identity_error(x).mean().item()
            results[composition_name(kind, first, second)] = {"error": error, "identity": identity}
    return results


def composition_name(kind: str, first: int, second: int) -> str:
    """For example "scaling, then rotation" or "scaling with rotation"."""
    joint = ", then " if kind == "switching" else " with "
    return f"{TRANSFORMATIONS[first]}{joint}{TRANSFORMATIONS[second]}"


def compositions(
    digits: Tensor, first: int, second: int, steps: int, index: list[int]
) -> dict[str, tuple[Tensor, dict[str, Tensor]]]:
    """True frames, and what acts, for the first transformation switched to the second and for both at once."""
    a, b = (torch.full((len(digits),), k) for k in (first, second))
    labels = torch.full((len(digits), steps), index[second])
    labels[:, : steps // 2] = index[first]
    both = torch.zeros(len(digits), len(TRANSFORMATIONS))
    both[:, [index[first], index[second]]] = 1
    return {
        "switching": (render(digits, switching_levels(a, b, steps)), {"k": labels}),
        "superposing": (render(digits, levels_of(a, steps) + levels_of(b, steps)), {"weights": both}),
    }


def _selection(model: FlowVAE, digits: Tensor, steps: int, chunk: int) -> dict[str, Any] | None:
    """How often the inferred index is the true one, learned indices being a permutation of the true ones (Hungarian)."""
    if model.selector is None:
        return None
    num = len(TRANSFORMATIONS)
    confusion = torch.zeros(num, num, dtype=torch.int64)
    for k in range(num):
        for part in digits.split(chunk):
            x = render(part, levels_of(torch.full((len(part),), k), steps))
            confusion[k] += model.select(x)[0].sum(0).long()
    rows, columns = linear_sum_assignment(-confusion.numpy())
    accuracy = confusion[rows, columns].sum().item() / confusion.sum().item()
    return {"accuracy": accuracy, "confusion": confusion.tolist(), "potential_of": columns.tolist()}


def _mean(parts: list[dict[str, float]], sizes: list[int]) -> dict[str, float]:
    total = sum(sizes)
    return {name: sum(part[name] * size for part, size in zip(parts, sizes, strict=True)) / total for name in parts[0]}


def show(results: dict[str, Any]) -> None:
    """Print the tables."""
    console = Console()
    table = Table(title="equivariance error on held-out images, summed over pixels and steps", title_justify="left")
    table.add_column("transformation", no_wrap=True)
    for column in ("flow", "identity", "ratio", "autoencoded", "folds"):
        table.add_column(column, justify="right")
    for name, row in results["transformations"].items():
        table.add_row(name, *_cells(row), f"{row['autoencoded']:.1f}", f"{100 * row['folds']:.2f} %")
    table.add_section()
    for name, row in results["compositions"].items():
        table.add_row(name, *_cells(row))
    console.print(table)
    console.print(
        "identity: the error of standing still, a ratio below 1 beats it\n"
        "autoencoded: each frame encoded and decoded by itself; the encoder has seen first frames only"
    )
    bounds = results["bounds"]
    console.print(f"evidence bounds, {bounds['unit']} (unit-variance Gaussian decoder):")
    for name in ("marginal", "initial", "importance_weighted"):
        console.print(f"  {name.replace('_', ' '):<20}{bounds[name]:>10.1f}")
    console.print(f"  {'no model can exceed':<20}{bounds['gaussian_constant']:>10.1f}")
    if "selection" in results:
        console.print(f"matched selection: {100 * results['selection']['accuracy']:.2f} %")


def _cells(row: dict[str, float]) -> tuple[str, str, str]:
    return f"{row['error']:.1f}", f"{row['identity']:.1f}", f"{row['error'] / row['identity']:.3f}"


def write(results: dict[str, Any], path: Path) -> None:
    """Write results.json with the hardware, whole or not at all."""
    hardware = {"machine": platform.machine(), "threads": torch.get_num_threads(), "torch": torch.__version__}
    partial = path.with_name(f".{path.name}")
    partial.write_text(json.dumps({**results, "hardware": hardware}, indent=2) + "\n")
    partial.replace(path)
