"""Which transformation is it? A Gumbel-softmax choice, inferred from the sequence."""

from __future__ import annotations

import math

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from latentflow.precision import in_full_precision, without_autocast
from latentflow.validate import (
    number,
    positive_integer,
    require_finite,
    require_floating,
    require_floating_dtype,
    require_generator,
    require_integer,
)


class GumbelSelector(nn.Module):
    r"""Choose one of K potentials per sequence, with a straight-through gradient.

    In training, :math:`y = \mathrm{softmax}((x + g)/\tau)` with standard Gumbel noise g; forward gives the one-hot of its
    largest entry exactly, backward the gradient of y. In evaluation, the one-hot of the largest logit, without noise.

    Args:
        classifier: any module that takes the sequence and returns logits (B, K).
        num: number K of potentials.
        start: the temperature at first.
        minimum: the temperature at last.
        rate: how fast it falls: `anneal` sets it to ``max(minimum, start * exp(-rate * iteration))``. The defaults are the
            paper's, made for 90,000 iterations; short runs need a larger rate.
        device, dtype: of the temperature.

    Shapes:
        ``weights, logits = selector(x, generator=None)``: x as the classifier takes it -> (B, K) and (B, K).

    Raises:
        TypeError: num is no int, the classifier no module or returns no floating tensor, the schedule is of no numbers, the
            dtype is not floating, or `generator` is something else than a torch.Generator.
        ValueError: the classifier returns another shape or non-finite logits, or the schedule is not positive.

    Example:
        >>> import torch
        >>> from latentflow import GumbelSelector
        >>> selector = GumbelSelector(torch.nn.Linear(8, 3), num=3)
        >>> weights, logits = selector(torch.randn(5, 8))
        >>> weights.sum(-1).tolist()
        [1.0, 1.0, 1.0, 1.0, 1.0]

    Source: Song et al. 2023, supplement A.2; Jang et al. 2017.
    """

    temperature: Tensor

    def __init__(
        self,
        classifier: nn.Module,
        num: int,
        *,
        start: float = 1.0,
        minimum: float = 0.05,
        rate: float = 3e-5,
        device: torch.device | str | None = None,
        dtype: torch.dtype | None = None,
    ) -> None:
        super().__init__()
        if not isinstance(classifier, nn.Module):
            raise TypeError(
                f"classifier: got {type(classifier).__name__}, expected a module from x to (B, num) logits; "
                "parameters of anything else would not be learned"
            )
        self.classifier = classifier
        self.num = positive_integer("num", num)
        start, minimum, rate = number("start", start), number("minimum", minimum), number("rate", rate)
        if not 0 < minimum <= start < math.inf or not 0 <= rate < math.inf:
            raise ValueError(
                f"temperature: got start={start}, minimum={minimum}, rate={rate}, expected 0 < minimum <= start and "
                "rate >= 0; the temperature falls from start to minimum"
            )
        self.start, self.minimum, self.rate = start, minimum, rate
        require_floating_dtype(dtype, "the temperature falls")
        # State: saved, restored and resumed.
        self.register_buffer("temperature", torch.tensor(self.start, device=device, dtype=dtype))

    def extra_repr(self) -> str:
        return f"num={self.num}, start={self.start}, minimum={self.minimum}, rate={self.rate}"

    def anneal(self, iteration: int) -> None:
        """Set the temperature for this iteration, counted from 0.

        Raises:
            TypeError: iteration is no int.
            ValueError: iteration is negative.

        Example:
            >>> import torch
            >>> from latentflow import GumbelSelector
            >>> selector = GumbelSelector(torch.nn.Identity(), num=3)
            >>> selector.anneal(90_000)
            >>> round(selector.temperature.item(), 3)
            0.067

        Source: Song et al. 2023, supplement A.2.
        """
        require_integer("iteration", iteration, 0, "count from the start of training")
        self.temperature.fill_(max(self.minimum, self.start * math.exp(-self.rate * iteration)))

    def forward(self, x: Tensor, *, generator: torch.Generator | None = None) -> tuple[Tensor, Tensor]:
        """Weights (B, K), one-hot, and logits (B, K)."""
        require_generator(generator)
        logits = require_floating("classifier(x)", self.classifier(x), "return logits")
        if logits.ndim != 2 or logits.shape[1] != self.num:
            raise ValueError(
                f"classifier(x): got shape {tuple(logits.shape)}, expected (B, {self.num}); return one logit for each potential"
            )
        with without_autocast(logits):
            logits = in_full_precision(logits)
            require_finite("classifier(x)", logits, "look for exploding weights or bad input")
            if not self.training:
                return _one_hot(logits), logits
            exponential = torch.empty_like(logits).exponential_(generator=generator)
            gumbel = -exponential.clamp_min(torch.finfo(logits.dtype).tiny).log()
            scores = logits + gumbel
            scores = scores - scores.amax(-1, keepdim=True)  # or a small temperature would overflow large logits
            soft = (scores / self.temperature.to(logits.dtype)).softmax(-1)
            # soft - soft is exactly 0, so the weights are exactly one-hot, with the gradient of soft.
            # That of the scores: at a large temperature rounding makes all of soft alike.
            return _one_hot(scores) + (soft - soft.detach()), logits


def categorical_kl(logits: Tensor) -> Tensor:
    r"""KL of the categorical distribution with these logits to the uniform one, in nats.

    Args:
        logits: (B, K).

    Returns:
        (B,), between 0 and log K.

    Raises:
        TypeError: logits are not floating.
        ValueError: logits are not (B, K) or not finite.

    Example:
        >>> import torch
        >>> from latentflow import categorical_kl
        >>> categorical_kl(torch.zeros(2, 3))
        tensor([0., 0.])

    Source: Song et al. 2023, eq. 8 with a uniform p(k).
    """
    require_floating("logits", logits, "pass unnormalised log-probabilities")
    if logits.ndim != 2 or logits.shape[1] < 1:
        raise ValueError(f"logits: got shape {tuple(logits.shape)}, expected (B, K); add the missing axis")
    require_finite("logits", logits, "an impossible choice is a large negative logit, not -inf")
    with without_autocast(logits):
        log_probability = F.log_softmax(in_full_precision(logits), -1)
        # Logits further apart than any number give -inf, which times the probability 0 would be nan.
        log_probability = log_probability.clamp_min(torch.finfo(log_probability.dtype).min)
        return (log_probability.exp() * (log_probability + math.log(logits.shape[1]))).sum(-1)


def _one_hot(scores: Tensor) -> Tensor:
    return F.one_hot(scores.argmax(-1), scores.shape[-1]).to(scores.dtype)
