"""The flow-factorized VAE: any encoder and decoder, with latentflow's modules between them."""

from __future__ import annotations

import torch
from torch import Tensor, nn
from torch.distributions import Independent, Normal
from torch.nn import functional as F

from latentflow import (
    DiffusionPrior,
    FlowPosterior,
    GumbelSelector,
    HJConstraint,
    LatentPath,
    NegativeForce,
    Potential,
    categorical_kl,
    flow_kl,
)


class FlowVAE(nn.Module):
    """A VAE whose latents flow: each of K transformations of the images is the gradient flow of one potential.

    Args:
        encoder: images (N, C, H, W) -> mean and log-variance (N, 2 dim).
        decoder: latents (N, dim) -> logits (N, C, H, W).
        dim, num: d and K.
        classifier: frames stacked on channels, (B, (T+1) C, H, W) -> (B, K); given when labels are not.
        initial, marginal: weights of the KL terms of bounds (B) and (A), see `flow_kl`. (B) alone trains to the lowest errors,
            but nothing keeps its flows from folding. The log-determinants of (A) rise without limit towards a fold, so a tenth
            of it makes folds rarer at no visible cost; it does not exclude them, since a step may jump across.
        frames: how many frames of each sequence are decoded in a training step, drawn anew each time and weighted so that
            the loss keeps its mean; None decodes all. The decoder takes most of the time of a step.
        log_det, hidden, bounded: of the flow and its potential.
        balance: weight of the KL of the selection, averaged over the batch, to the uniform prior. Without it all sequences
            soon choose the potential that happened to learn first, and the others never learn.
        gumbel_rate: how fast the selector's temperature falls with the iterations.
    """

    def __init__(
        self,
        encoder: nn.Module,
        decoder: nn.Module,
        dim: int,
        num: int,
        classifier: nn.Module | None = None,
        *,
        initial: float = 1.0,
        marginal: float = 0.1,
        frames: int | None = None,
        log_det: str | None = "exact",
        hidden: int | None = None,
        bounded: bool = False,
        balance: float = 300.0,
        gumbel_rate: float = 1e-3,
    ) -> None:
        super().__init__()
        self.encoder, self.decoder = encoder, decoder
        self.initial, self.marginal = initial, marginal
        self.frames, self.balance = frames, balance
        potential = Potential(dim, num, hidden, bounded=bounded)
        self.flow = FlowPosterior(potential, log_det)
        self.hj = HJConstraint(potential, NegativeForce(dim, num, hidden, bounded=bounded))
        self.prior = DiffusionPrior(num)
        self.selector = None if classifier is None else GumbelSelector(classifier, num, rate=gumbel_rate)

    def posterior(self, images: Tensor) -> Independent:
        """q(z_0 | x_0) of images (B, C, H, W)."""
        mean, log_variance = self.encoder(images).to(images.dtype).chunk(2, dim=-1)
        # Not validated: that would read values in every step. latentflow looks at the latents itself, where it may.
        return Independent(Normal(mean, (0.5 * log_variance).exp(), validate_args=False), 1, validate_args=False)

    def decode(self, z: Tensor) -> Tensor:
        """Logits (B, T+1, C, H, W) of latents (B, T+1, dim), in one call of the decoder."""
        logits = self.decoder(z.flatten(0, 1)).to(z.dtype)
        return logits.view(*z.shape[:2], *logits.shape[1:])

    def select(self, x: Tensor, generator: torch.Generator | None = None) -> tuple[Tensor, Tensor]:
        """One-hot weights (B, K) and logits (B, K), inferred from the whole sequence."""
        assert self.selector is not None
        return self.selector(x.flatten(1, 2), generator=generator)

    def reconstruction(self, z: Tensor, x: Tensor, generator: torch.Generator | None = None) -> Tensor:
        """-log p(x | z) of a Bernoulli decoder, summed over pixels and frames, mean over the batch; in nats."""
        weight = 1.0
        if self.training and self.frames is not None and self.frames < x.shape[1]:
            weight = x.shape[1] / self.frames
            order = torch.rand(x.shape[:2], generator=generator, device=x.device).argsort(1)[:, : self.frames]
            rows = torch.arange(len(x), device=x.device)[:, None]
            z, x = z[rows, order], x[rows, order]
        loss = F.binary_cross_entropy_with_logits(self.decode(z), x, reduction="sum")
        return weight * loss / len(x)

    def forward(
        self, x: Tensor, k: Tensor | None = None, generator: torch.Generator | None = None
    ) -> tuple[dict[str, Tensor], LatentPath]:
        """The terms of the loss by name, each a mean over the batch of x (B, T+1, C, H, W); and the path."""
        q0, steps = self.posterior(x[:, 0]), x.shape[1] - 1
        terms = {}
        if self.selector is None:
            path = self.flow(q0, k, steps=steps, generator=generator)
        else:
            weights, logits = self.select(x, generator)
            path = self.flow(q0, weights=weights, steps=steps, generator=generator)
            terms["selection"] = categorical_kl(logits).mean()
            log_share = logits.log_softmax(-1).logsumexp(
                0, keepdim=True
            )  # of each potential in the batch, unnormalised
            terms["balance"] = self.balance * categorical_kl(log_share).squeeze(0)
        terms["reconstruction"] = self.reconstruction(path.z, x, generator)
        terms["kl"] = self.initial * flow_kl(path, self.prior, bound="initial").mean()
        if self.marginal > 0:
            terms["marginal_kl"] = self.marginal * flow_kl(path, self.prior).mean()
        terms["hamilton_jacobi"] = self.hj(path).mean()
        return terms, path
