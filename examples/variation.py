"""Variation predictability of a trained flow: can a network name the transformation from the ends of decoded paths?"""

from __future__ import annotations

from typing import Any

import torch
from data.transformations import Transformations
from models import FlowVAE
from torch import Tensor

from latentflow.metrics import variation_predictability

SHARES = (0.1, 0.01)  # of the pairs to learn from, as published
EPOCHS = 200


@torch.no_grad()
def variation(
    model: FlowVAE,
    bases: Tensor,
    truth: Transformations,
    steps: int,
    index: list[int],
    pairs: int,
    *,
    epochs: int = EPOCHS,
    seed: int = 0,
    chunk: int = 100,
) -> dict[str, Any]:
    """Accuracies from Dec(z_0) and Dec(z_T), and from true frames x_0 and x_T, for each share of the pairs.

    With as many pairs of each transformation, each of another of the bases (N, ...); each transformation has bases of its own
    where there are enough. Index is the potential of each.
    """
    each = pairs // len(index)
    decoded, true = [], []
    apart = each if len(bases) >= each * len(index) else 0
    for k, potential in enumerate(index):
        for part in bases[k * apart : k * apart + each].split(chunk):
            x = truth.single(part, k, steps)[:, [0, -1]]
            z, _ = model.flow.transport(model.posterior(x[:, 0]).mean, potential, steps=steps)
            decoded.append(model.images(z[:, [0, -1]]))
            true.append(x)
    labels = torch.arange(len(index)).repeat_interleave(each)
    found: dict[str, Any] = {"pairs": len(labels), "epochs": epochs}
    for name, frames in {"decoded": torch.cat(decoded), "true": torch.cat(true)}.items():
        found[name] = {}
        for share in SHARES:
            generator = torch.Generator().manual_seed(seed)
            accuracy = variation_predictability(
                *frames.unbind(1), labels, share=share, epochs=epochs, generator=generator
            )
            found[name][f"{share:.0%}"] = accuracy._asdict()
    return found
