"""The flow-factorized VAE: any encoder and decoder, with latentflow's modules between them."""

from __future__ import annotations

import dataclasses
import math
from typing import Literal

import torch
from networks import (
    LayerDecoder,
    PlacedDecoder,
    SceneDecoder,
    SpriteDecoder,
    deep_decoder,
    deep_encoder,
    paper_classifier,
    paper_decoder,
    paper_encoder,
    scene_encoder,
    small_decoder,
    small_encoder,
)
from torch import Tensor, nn
from torch.distributions import Independent, Normal
from torch.nn import functional as F

from latentflow import (
    DiffusionPrior,
    FlowPosterior,
    GumbelSelector,
    HJConstraint,
    NegativeForce,
    Potential,
    categorical_kl,
    flow_kl,
)

FORCE_PRICE = 1.0
Networks = Literal["sprite", "small", "scene", "placed", "layers", "paper"]
OF_SCENES = {"scene": SceneDecoder, "placed": PlacedDecoder, "layers": LayerDecoder}


@dataclasses.dataclass(frozen=True)
class Model:
    """What is trained, and on which terms."""

    supervision: Literal["labels", "none"] = "labels"
    """are the labels of the transformations given, or inferred"""
    dim: int = 16
    """size of the latent"""
    networks: Networks = "sprite"
    """sprite: small, with a decoder that draws, places and colours; small: the same with a plain decoder; scene: for scenes,
    with a decoder that adds pictures; placed: that, with one thing placed on top; layers: for scenes, with a decoder that
    paints masks; paper: the published ones, which had --dim 324"""
    width: int = 32
    """channels of the first convolution of the small networks; those of the paper have as many as the latent has dimensions"""
    hidden: int | None = None
    """width of the potentials and forces; as the latent, if left out"""
    bounded: bool = False
    """potentials and forces end in the paper's tanh"""
    frames: int | None = 4
    """frames of each sequence that are decoded in a step, drawn at random; None decodes all"""
    balance: float = 300.0
    """without labels: weight of the KL that keeps all potentials in use"""
    gumbel_rate: float = 1e-3
    """without labels: how fast the temperature of the choice falls; the paper's 3e-5 was made for 90,000 steps"""
    initial: float = 1.0
    """weight of bound (B)'s KL"""
    marginal: float = 0.1
    """weight of bound (A)'s KL beside it, to keep the flows from folding"""
    log_det: Literal["exact", "hutchinson", "laplacian", "none"] = "exact"
    """log-determinants of bound (A) in training, none for --marginal 0; evaluation is always exact"""
    prior: Literal["heat", "particle"] = "heat"
    """how the prior widens: as the heat equation says, or by the paper's discrete step"""
    constraint: float = 1.0
    """weight of the Hamilton-Jacobi constraint"""
    force: Literal["free", "penalised", "none"] = "free"
    """the external force: learned, learned at a price, or 0"""
    initial_term: float = 1.0
    """weight of the squared gradient at time 0 in the constraint"""
    times: Literal["grid", "uniform"] = "grid"
    """where the constraint is looked at: at integer times, or at random ones between them"""
    label: Literal["end", "start"] = "end"
    """the time of a step that its potential is told"""

    def __post_init__(self) -> None:
        for name, least in (
            ("frames", 1),
            ("dim", 1),
            ("width", 1),
            ("hidden", 1),
            ("initial", 0),
            ("marginal", 0),
            ("constraint", 0),
            ("initial_term", 0),
            ("balance", 0),
            ("gumbel_rate", 0),
        ):
            value = getattr(self, name)
            if value is not None and not least <= value < math.inf:
                raise ValueError(f"--{name.replace('_', '-')}: got {value}, expected at least {least}")
        if self.log_det == "none" and self.marginal > 0:
            raise ValueError(
                f"--log-det: got none with --marginal {self.marginal}, expected exact; bound (A) needs log-determinants"
            )


def build(settings: Model, channels: int, side: int, num: int, steps: int) -> FlowVAE:
    """The model for sequences of steps + 1 frames (channels, side, side) and this number of transformations."""
    if settings.frames is not None and settings.frames > steps + 1:
        raise ValueError(
            f"--frames: got {settings.frames}, expected at most {steps + 1}, the frames of a sequence; None decodes all"
        )
    dim, width, stacked = settings.dim, settings.width, channels * (steps + 1)
    infer = settings.supervision == "none"
    if settings.networks == "paper" and side > 64:
        encoder, decoder = deep_encoder(channels, side, dim, 2 * dim), deep_decoder(dim, channels, side)
        classifier = deep_encoder(stacked, side, dim, num) if infer else None
    elif settings.networks == "paper":
        encoder, decoder = paper_encoder(channels, side, dim), paper_decoder(dim, channels, side)
        classifier = paper_classifier(stacked, side, num, dim) if infer else None
    elif settings.networks in OF_SCENES:
        encoder = scene_encoder(channels, side, 2 * dim, width)
        decoder = OF_SCENES[settings.networks](dim, channels, side, width)
        classifier = scene_encoder(stacked, side, num, width) if infer else None
    else:
        of_parts = SpriteDecoder if settings.networks == "sprite" else small_decoder
        encoder, decoder = small_encoder(channels, side, 2 * dim, width), of_parts(dim, channels, side, width)
        classifier = small_encoder(stacked, side, num, width) if infer else None
    potential = Potential(dim, num, settings.hidden, bounded=settings.bounded)
    force = None if settings.force == "none" else NegativeForce(dim, num, settings.hidden, bounded=settings.bounded)
    return FlowVAE(
        encoder,
        decoder,
        FlowPosterior(potential, None if settings.log_det == "none" else settings.log_det, label=settings.label),
        HJConstraint(
            potential,
            force,
            force_penalty=FORCE_PRICE if settings.force == "penalised" else 0.0,
            initial_weight=settings.initial_term,
            times=settings.times,
            label=settings.label,
        ),
        DiffusionPrior(num, form=settings.prior),
        None if classifier is None else GumbelSelector(classifier, num, rate=settings.gumbel_rate),
        initial=settings.initial,
        marginal=settings.marginal,
        constraint=settings.constraint,
        frames=settings.frames,
        balance=settings.balance,
    )


class FlowVAE(nn.Module):
    """A VAE whose latents flow: each of K transformations of the images is the gradient flow of one potential.

    Args:
        encoder: images (N, C, H, W) -> mean and log-variance (N, 2 dim).
        decoder: latents (N, dim) -> logits (N, C, H, W).
        flow, hj, prior: flow and hj share one potential.
        selector: given when labels are not; takes the frames stacked on channels, (B, (T+1) C, H, W).
        initial, marginal: weights of the KL terms of bounds (B) and (A), see `flow_kl`. (A) alone trains more slowly, (B) alone
            less steadily (`results/readings.json`), and nothing keeps the flows of (B) from folding. The log-determinants of
            (A) rise without limit towards a fold, so a tenth of it makes folds rarer at no visible cost; it does not exclude
            them, since a step may jump across.
        constraint: weight of the Hamilton-Jacobi constraint.
        frames: how many frames of each sequence are decoded in a training step, drawn anew each time and weighted so that
            the loss keeps its mean; None decodes all. The decoder takes most of the time of a step.
        balance: weight of the KL from the uniform prior to the selection, averaged over the batch. Without it all sequences
            soon choose the potential that happened to learn first, and the others never learn. In this direction the KL
            grows without limit as a potential goes out of use, and its gradient does not fade with the choices growing sure.
    """

    def __init__(
        self,
        encoder: nn.Module,
        decoder: nn.Module,
        flow: FlowPosterior,
        hj: HJConstraint,
        prior: nn.Module,
        selector: GumbelSelector | None = None,
        *,
        initial: float = 1.0,
        marginal: float = 0.1,
        constraint: float = 1.0,
        frames: int | None = None,
        balance: float = 300.0,
    ) -> None:
        super().__init__()
        self.encoder, self.decoder = encoder, decoder
        self.flow, self.hj, self.prior, self.selector = flow, hj, prior, selector
        self.initial, self.marginal, self.constraint = initial, marginal, constraint
        self.frames, self.balance = frames, balance

    def posterior(self, images: Tensor) -> Independent:
        """q(z_0 | x_0) of images (B, C, H, W)."""
        mean, log_variance = self.encoder(images).to(images.dtype).chunk(2, dim=-1)
        # Not validated: that would read values in every step. latentflow looks at the latents itself, where it may.
        return Independent(Normal(mean, (0.5 * log_variance).exp(), validate_args=False), 1, validate_args=False)

    def decode(self, z: Tensor) -> Tensor:
        """Logits (B, T+1, C, H, W) of latents (B, T+1, dim), in one call of the decoder."""
        logits = self.decoder(z.flatten(0, 1)).to(z.dtype)
        return logits.view(*z.shape[:2], *logits.shape[1:])

    def images(self, z: Tensor) -> Tensor:
        """The same as images in [0, 1]."""
        return self.decode(z).sigmoid()

    def select(self, x: Tensor) -> tuple[Tensor, Tensor]:
        """One-hot weights (B, K) and logits (B, K), inferred from the whole sequence."""
        assert self.selector is not None
        return self.selector(x.flatten(1, 2))

    def reconstruction(self, z: Tensor, x: Tensor) -> Tensor:
        """-log p(x | z) of a Bernoulli decoder, summed over pixels and frames, mean over the batch; in nats."""
        weight = 1.0
        if self.training and self.frames is not None and self.frames < x.shape[1]:
            weight = x.shape[1] / self.frames
            order = torch.rand(x.shape[:2], device=x.device).argsort(1)[:, : self.frames]
            rows = torch.arange(len(x), device=x.device)[:, None]
            z, x = z[rows, order], x[rows, order]
        loss = F.binary_cross_entropy_with_logits(self.decode(z), x, reduction="sum")
        return weight * loss / len(x)

    def compile_flow(self) -> None:
        """Have `torch.compile` make one graph of all that latentflow computes in a step; the first step takes a minute more."""
        # Small kernels, of which there are many: on a CPU they are called from C++. Random numbers are those of eager mode.
        options = {"fallback_random": True, "cpp_wrapper": next(self.parameters()).device.type == "cpu"}
        self._flow_terms = torch.compile(self._flow_terms, fullgraph=True, options=options)  # type: ignore[method-assign]

    def forward(self, x: Tensor, k: Tensor | None = None) -> tuple[dict[str, Tensor], dict[str, Tensor]]:
        """The terms of the loss by name, each a mean over the batch x (B, T+1, C, H, W); and what else is worth a log."""
        q0, steps = self.posterior(x[:, 0]), x.shape[1] - 1
        terms, weights = {}, None
        if self.selector is not None:
            k = None
            weights, logits = self.select(x)
            terms["selection"] = categorical_kl(logits).mean()
            log_share = logits.log_softmax(-1).logsumexp(0) - math.log(len(x))  # of each potential in the batch
            terms["balance"] = -self.balance * (log_share.mean() + math.log(len(log_share)))
        # Outside of autocast: a backward pass that is compiled inside would be in half precision.
        with torch.autocast(x.device.type, enabled=False):
            z, of_flow, noted = self._flow_terms(q0, k, weights, steps)
        terms["reconstruction"] = self.reconstruction(z, x)
        return terms | of_flow, noted

    def _flow_terms(
        self, q0: Independent, k: Tensor | None, weights: Tensor | None, steps: int
    ) -> tuple[Tensor, dict[str, Tensor], dict[str, Tensor]]:
        """Latents (B, T+1, dim), and what comes of them without the decoder: terms of the loss, and what is worth a log."""
        path = self.flow(q0, k, weights=weights, steps=steps)
        terms = {}
        if self.initial > 0:
            terms["kl"] = self.initial * flow_kl(path, self.prior, bound="initial").mean()
        if self.marginal > 0:
            terms["marginal_kl"] = self.marginal * flow_kl(path, self.prior).mean()
        if self.constraint > 0:
            terms["hamilton_jacobi"] = self.constraint * self.hj(path).mean()
        return path.z, terms, {} if path.folds is None else {"folds": path.folds.float().mean()}
