"""Variation predictability: can a small network tell from pairs of images which transformation lies between them?"""

from __future__ import annotations

from typing import NamedTuple

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from latentflow.metrics.checks import number_between, require_integers, require_pixels, seed
from latentflow.precision import autocast_off, in_full_precision
from latentflow.validate import one_of, positive_integer, require_floating, require_shape


class VariationPredictability(NamedTuple):
    """What `variation_predictability` of labels (N,) returns: accuracies, between 0 and 1, on pairs that were not learned from.

    Attributes:
        best: of the epoch where it was highest, as it is published: chosen by these same pairs, hence optimistic.
        final: after the last epoch.

    Example:
        >>> from latentflow.metrics import VariationPredictability
        >>> VariationPredictability(best=0.9, final=0.8).final
        0.8

    Source: Zhu et al. 2020, section 4.
    """

    best: float
    final: float


def variation_predictability(
    first: Tensor,
    last: Tensor,
    labels: Tensor,
    *,
    share: float = 0.1,
    mode: str = "difference",
    epochs: int = 200,
    batch: int = 32,
    learning_rate: float = 0.01,
    generator: torch.Generator | None = None,
) -> VariationPredictability:
    """The accuracy with which a small convolutional network, having learned from a few pairs, names the transformation.

    Pairs are what the model makes of one image, Dec(z_0) and Dec(z_T), as many of each transformation. The network trains on
    their device. After each epoch it is judged by all other pairs, which takes most of the time.

    Args:
        first, last: (N, C, H, W), in [0, 1], at least 8 pixels high and wide.
        labels: (N,), which of K transformations lies between them: integers 0, ..., K - 1, all of them.
        share: of the pairs to learn from, 0.1 or 0.01 in the paper, drawn at random: of a few pairs it may lack a label, which
            is then never told.
        mode: whether the network sees the "difference" of the two images, or both, "concatenated".
        epochs, batch, learning_rate: of its training, with Adam.
        generator: draws the pairs to learn from, the first weights and the order; any device.

    Raises:
        TypeError: images are not floating, labels not integer, or a setting is no number.
        ValueError: shapes differ, images leave [0, 1] or are too small, labels are not 0, ..., K - 1, a setting is out of
            range, or no pair is left to judge by.

    Example:
        >>> import torch
        >>> from latentflow.metrics import variation_predictability
        >>> labels = torch.arange(40) % 2
        >>> first = torch.full((40, 1, 8, 8), 0.5)
        >>> last = first + 0.5 * (2 * labels - 1)[:, None, None, None]  # brighter or darker
        >>> generator = torch.Generator().manual_seed(0)
        >>> variation_predictability(first, last, labels, share=0.5, epochs=5, generator=generator).best
        1.0

    Source: Zhu et al. 2020, section 4, whose network and settings these are; Song et al. 2023, supplement, tables 1 and 2.
    """
    one_of("mode", mode, ("difference", "concatenated"))
    epochs, batch = positive_integer("epochs", epochs), positive_integer("batch", batch)
    rate = number_between("learning_rate", learning_rate, 0, 1, "0.01 is usual")
    labels = _checked_labels(first, last, labels)
    share = number_between("share", share, 0, 1, "0.1 and 0.01 are usual")
    judged = len(labels) - max(1, round(share * len(labels)))
    if judged == 0:
        raise ValueError(f"share: got {share} of {len(labels)} pairs, expected one to judge by; give more pairs")
    of_all, cpu = seed(generator), torch.device("cpu")
    # Also inside of an evaluation without gradients. Layers and shuffling take no generator.
    with (
        torch.inference_mode(False),
        torch.enable_grad(),
        autocast_off(first.device.type),
        torch.random.fork_rng([]),
        cpu,
    ):
        torch.default_generator.manual_seed(of_all)
        first, last = (2 * in_full_precision(images.detach()) - 1 for images in (first, last))
        seen = first - last if mode == "difference" else torch.cat((first, last), 1)
        labels = labels.to(seen.device)
        train, test = torch.randperm(len(labels)).to(seen.device).tensor_split([len(labels) - judged])
        network = _network(seen.shape[1], int(labels.max()) + 1).to(seen)
        optimizer = torch.optim.Adam(network.parameters(), lr=rate)
        accuracies = []
        for _ in range(epochs):
            _train(network, optimizer, seen, labels, train, batch)
            accuracies.append(_accuracy(network, seen, labels, test))
    return VariationPredictability(max(accuracies), accuracies[-1])


def _network(channels: int, num: int) -> nn.Module:
    """As the authors of the score have it."""
    return nn.Sequential(
        *_layer(channels, 64, 7, 2),
        *_layer(64, 64),
        nn.MaxPool2d(3, 2, 1),
        *_layer(64, 128),
        *_layer(128, 256),
        nn.AdaptiveAvgPool2d(1),
        nn.Flatten(),
        nn.Linear(256, num),
    )


def _layer(channels: int, width: int, size: int = 3, stride: int = 1) -> tuple[nn.Module, ...]:
    convolution = nn.Conv2d(channels, width, size, stride, size // 2, bias=False)
    return convolution, nn.BatchNorm2d(width), nn.ReLU()


def _train(
    network: nn.Module, optimizer: torch.optim.Optimizer, seen: Tensor, labels: Tensor, train: Tensor, batch: int
) -> None:
    """One epoch."""
    network.train()
    for some in torch.split(train[torch.randperm(len(train)).to(train.device)], batch):
        optimizer.zero_grad()
        F.cross_entropy(network(seen[some]), labels[some]).backward()  # type: ignore[no-untyped-call]
        optimizer.step()


@torch.no_grad()
def _accuracy(network: nn.Module, seen: Tensor, labels: Tensor, test: Tensor) -> float:
    network.eval()
    right = [network(seen[some]).argmax(1).eq(labels[some]).sum() for some in torch.split(test, 256)]
    return float(torch.stack(right).sum()) / len(test)


def _checked_labels(first: Tensor, last: Tensor, labels: Tensor) -> Tensor:
    """The labels as int64, if they and the images are what they should be."""
    for name, images in {"first": first, "last": last}.items():
        require_floating(name, images, "divide images by 255")
        require_pixels(name, images)
    if first.shape != last.shape or first.ndim != 4 or first.shape[1] == 0 or min(first.shape[2:]) < 8:
        raise ValueError(
            f"first, last: got shapes {tuple(first.shape)} and {tuple(last.shape)}, expected two equal (N, C, H, W) of at "
            "least 8 pixels; decode the ends of the paths"
        )
    found = require_integers("labels", labels, "number the transformations from 0")
    require_shape("labels", found, first.shape[:1], "give each pair its transformation")
    kinds = torch.unique(found)
    if len(kinds) < 2 or kinds.tolist() != list(range(len(kinds))):
        raise ValueError(
            f"labels: got the numbers {_some(kinds)}, expected 0, 1, ..., K - 1, all of them; number the transformations so"
        )
    return found


def _some(kinds: Tensor) -> str:
    return ", ".join(map(str, kinds[:8].tolist())) + (", ..." if len(kinds) > 8 else "")
