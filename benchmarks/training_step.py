"""A whole training step with the networks of the paper, against those networks alone and against the step as published.

On MNIST's shapes, filled at random: 32 sequences of 9 frames of 3x28x28, 3 transformations, latents of 32 or 64 dimensions.

* latentflow: one warp for all frames, encoder, flow with densities, Hamilton-Jacobi constraint with force, prior, one call of
  the decoder for all frames, backward, fused Adam. The labels of a batch differ.
* networks: encoder, decoder, loss, backward and the same Adam, with no flow between them: every frame is decoded from z_0.
  Its frames are given; rendering them is part of the step, not of the networks. With "rendering" it pays for that as well.
* published: the arrangement of the authors' training script, without its mistakes and without anomaly detection: kornia's warp,
  the derivatives by nested autograd, the decoder, sigmoid and cross-entropy, each frame by frame; two plain Adams. One
  transformation in a batch, so one potential to evaluate. With plain layers as published, and with ours.
"""

from __future__ import annotations

from collections.abc import Callable
from itertools import cycle
from typing import Any

import kornia
import torch
from convolutions import ConvToPoint, ConvTransposeDoubling, ConvTransposeOfPoint
from data.moving_digits import DIGITS, STEP
from models import Model, build
from networks import paper_decoder, paper_encoder
from torch import Tensor, nn
from torch.nn import functional as F
from train import Run, start, take_step

from benchmarks.rollout import Network
from benchmarks.timing import medians

BATCH, STEPS, SIDE, NUM = 32, 8, 28, len(DIGITS.names)
RATE = 1e-4
PLAIN = {
    ConvToPoint: nn.Conv2d,
    ConvTransposeOfPoint: nn.ConvTranspose2d,
    ConvTransposeDoubling: nn.ConvTranspose2d,
}


def ours(dim: int, digits: Tensor, log_det: str, precision: str, compiled: bool = False) -> Callable[[], object]:
    """The step of the examples."""
    run = Run(batch=BATCH, precision=precision, accelerator="cpu", threads=torch.get_num_threads())
    settings = Model(dim=dim, networks="paper", bounded=True, frames=None, log_det=log_det)
    fabric, model = start(run), build(settings, 3, SIDE, NUM, STEPS).train()
    if compiled:
        model.compile_flow()
    wrapped, optimiser = fabric.setup(model, torch.optim.Adam(model.parameters(), lr=RATE, fused=True))
    k = torch.arange(BATCH) % NUM
    return lambda: take_step(fabric, wrapped, [optimiser], lambda *_: (DIGITS.single(digits, k, STEPS), k), run, 0)


def networks(dim: int, digits: Tensor, rendering: bool) -> Callable[[], object]:
    """What is left of it without the flow."""
    encoder, decoder = paper_encoder(3, SIDE, dim), paper_decoder(dim, 3, SIDE)
    optimiser = torch.optim.Adam([*encoder.parameters(), *decoder.parameters()], lr=RATE, fused=True)
    k = torch.arange(BATCH) % NUM
    frames = DIGITS.single(digits, k, STEPS)

    def step() -> None:
        x = DIGITS.single(digits, k, STEPS) if rendering else frames
        optimiser.zero_grad()
        mean, log_variance = encoder(x[:, 0]).chunk(2, dim=-1)
        z = mean + (0.5 * log_variance).exp() * torch.randn_like(mean)
        logits = decoder(z.repeat_interleave(STEPS + 1, 0))
        (F.binary_cross_entropy_with_logits(logits, x.flatten(0, 1), reduction="sum") / BATCH).backward()
        optimiser.step()

    return step


def published(dim: int, digits: Tensor, plain: bool) -> Callable[[], object]:
    """Frame by frame, with one transformation in each batch."""
    encoder, decoder = paper_encoder(3, SIDE, dim), paper_decoder(dim, 3, SIDE)
    if plain:
        encoder, decoder = as_published(encoder), as_published(decoder)
    potentials, forces = (nn.ModuleList(Network(dim) for _ in range(NUM)) for _ in range(2))
    diffusion = nn.Parameter(torch.zeros(NUM))
    of_flow = torch.optim.Adam([*potentials.parameters(), *forces.parameters(), diffusion], lr=RATE)
    of_networks = torch.optim.Adam([*encoder.parameters(), *decoder.parameters()], lr=RATE)
    transformations = cycle(range(NUM))
    x0 = torch.cat((digits[:, None], torch.zeros(BATCH, 2, SIDE, SIDE)), 1)

    def cross_entropy(z: Tensor, x: Tensor) -> Tensor:
        return F.binary_cross_entropy(decoder(z).sigmoid(), x, reduction="sum") / BATCH

    def derivatives(k: int, z: Tensor, time: float) -> tuple[Tensor, Tensor, Tensor]:
        t = torch.full((BATCH,), time, requires_grad=True)
        return t, *torch.autograd.grad(torch.tanh(potentials[k](z, t)).sum(), (z, t), create_graph=True)

    def step() -> None:
        of_flow.zero_grad()
        of_networks.zero_grad()
        k = next(transformations)
        mean, log_variance = encoder(x0).chunk(2, dim=-1)
        z = mean + (0.5 * log_variance).exp() * torch.randn_like(mean)
        loss = cross_entropy(z, x0)
        loss = loss + 0.5 * (mean.square() + log_variance.exp() - 1 - log_variance).sum() / BATCH
        loss = loss + derivatives(k, z, 0.0)[1].square().sum() / BATCH
        log_ratio = torch.distributions.Normal(mean, (0.5 * log_variance).exp()).log_prob(z).sum(-1)
        for t in range(1, STEPS + 1):
            with torch.no_grad():
                x = transformed(x0, k, t)
            time, gradient, rate = derivatives(k, z, float(t))
            (product,) = torch.autograd.grad(gradient.sum(), z, create_graph=True)  # one probe, as published: ones
            residual = rate + 0.5 * gradient.square().sum(-1) + torch.tanh(forces[k](z, time)).square()
            z = z + gradient
            log_ratio = log_ratio - (product.sum(-1) - 0.5 * product.square().sum(-1))
            variance = 1 + 2 * t * diffusion[k]
            log_prior = -0.5 * (z.square() / variance + variance.log()).sum(-1)
            loss = loss + cross_entropy(z, x) + (residual.square() / STEPS + log_ratio - log_prior).mean()
        loss.backward()
        of_flow.step()
        of_networks.step()

    return step


def transformed(x: Tensor, k: int, t: int) -> Tensor:
    """One frame (B, 3, H, W) of a sequence, by kornia."""
    if DIGITS.names[k] == "coloring":
        return kornia.enhance.adjust_hue(x, torch.full((BATCH,), t * STEP[k]))
    scale = torch.full((BATCH, 2), 1 + t * STEP[0] if DIGITS.names[k] == "scaling" else 1.0)
    degrees = torch.full((BATCH,), 10.0 * t if DIGITS.names[k] == "rotation" else 0.0)
    matrix = kornia.geometry.get_rotation_matrix2d(torch.full((BATCH, 2), SIDE / 2), degrees, scale)
    return kornia.geometry.warp_affine(x, matrix, (SIDE, SIDE))


def as_published(network: nn.Sequential) -> nn.Sequential:
    """The same layers as plain modules in the default memory format."""
    layers = (
        PLAIN[type(x)](x.in_channels, x.out_channels, x.kernel_size, x.stride, x.padding) if type(x) in PLAIN else x
        for x in network
    )
    return nn.Sequential(*layers).to(memory_format=torch.contiguous_format)


def measure(repeats: int) -> dict[str, Any]:
    """By the size of the latent: milliseconds of each contestant, and our ratios to each rival."""
    return {f"{dim} dimensions": _measure(dim, repeats) for dim in (64, 32)}


def _measure(dim: int, repeats: int) -> dict[str, Any]:
    torch.manual_seed(0)
    digits = torch.rand(BATCH, SIDE, SIDE)
    rivals = {
        "networks": networks(dim, digits, rendering=False),
        "networks, rendering": networks(dim, digits, rendering=True),
        "published": published(dim, digits, plain=True),
        "published, our layers": published(dim, digits, plain=False),
    }
    steps = {
        "latentflow, exact": ours(dim, digits, "exact", "float32"),
        "latentflow, hutchinson": ours(dim, digits, "hutchinson", "float32"),
        "latentflow, hutchinson, compiled": ours(dim, digits, "hutchinson", "float32", compiled=True),
        "latentflow, hutchinson, bf16": ours(dim, digits, "hutchinson", "bf16"),
        "latentflow, hutchinson, bf16, compiled": ours(dim, digits, "hutchinson", "bf16", compiled=True),
    }
    found = medians(rivals | steps, repeats)
    ratios = {rival: {step: found[step] / found[rival] for step in steps} for rival in rivals}
    print(f"{dim} dimensions: ", "   ".join(f"{who} {ms:.1f} ms" for who, ms in found.items()))
    for rival, ratio in ratios.items():
        print(f"  to {rival}: ", "   ".join(f"{who} {value:.3f}" for who, value in ratio.items()), flush=True)
    return {"milliseconds": found, "ratio to": ratios}
