"""Which rows the stacked networks see, so that labels never pay for potentials that do not act.

A batched product gives every network as many rows. Labels are seldom so even: a batch of one transformation, given by a tensor
of labels, has all its samples at one of K networks. So the samples of a label are cut into groups of one size, and a network
is repeated for as many groups as it has; networks without samples are left out.
"""

from __future__ import annotations

from collections import Counter
from dataclasses import dataclass

import numpy as np
import numpy.typing as npt
import torch
from torch import Tensor

from latentflow.acting import Acting
from latentflow.stack import Choice

Numbers = npt.NDArray[np.int64]
GROUP = 16  # another group, with its copy of a network and of its time branch, takes as long as about this many rows


@dataclass(frozen=True, eq=False)
class Layout:
    """Which rows the networks see. There are three kinds, all of which look alike from outside.

    * one network, which sees all B samples;
    * labels: G groups of M samples, each seen by the network of its label, and padded where they are too few;
    * a mixture: every network sees all samples, and their answers are weighted.
    """

    k: Choice  # labels: a network for each group, or all K of them, a group each
    rows: Tensor | None  # labels: (G, M), the sample in each row; padded rows repeat a sample
    place: Tensor | None  # labels: (B,), where each sample lies among the G M rows
    weights: Tensor | None  # mixture: (K, S, B, 1)

    @property
    def weights_of_rows(self) -> Tensor | None:
        """A mixture's weights, (K, S B, 1), step after step."""
        return None if self.weights is None else self.weights.flatten(1, 2)

    def spread(self, z: Tensor) -> Tensor:
        """Of samples, (B, S, ...) or (B, d), as rows (1 or G, S M, ...), step after step."""
        z = z[:, None] if z.ndim == 2 else z
        if self.rows is None:
            return z.transpose(0, 1).reshape(1, -1, z.shape[-1])
        chosen = z.index_select(0, self.rows.flatten()).view(*self.rows.shape, *z.shape[1:])
        return chosen.transpose(1, 2).flatten(1, 2)

    def collect(self, x: Tensor) -> Tensor:
        """Of rows, (1 or G, S, M, ...), as samples, (B, S, ...)."""
        if self.place is None:
            return x.squeeze(0).transpose(0, 1)  # a selection would be sent back padded with zeros
        return x.transpose(1, 2).flatten(0, 1).index_select(0, self.place)

    def each(self, x: Tensor, steps: int) -> Tensor:
        """X (G, S M, ...) as (B, S, K', ...): of the own network with K' = 1, or of all."""
        x = x.view(x.shape[0], steps, x.shape[1] // steps, *x.shape[2:])
        if self.place is None:
            return x.permute(2, 1, 0, *range(3, x.ndim))
        return x.transpose(0, 1).flatten(1, 2).index_select(1, self.place).transpose(0, 1)[:, :, None]

    def samples(self, x: Tensor) -> Tensor:
        """X (1 or G, M) as (B,)."""
        return x.squeeze(0) if self.place is None else x.flatten().index_select(0, self.place)

    def total(self, x: Tensor, steps: int) -> Tensor:
        """X (G, S M, ...) as (B, S, ...): of the own network, or the weighted sum over all."""
        each = self.each(x, steps)
        if self.weights is None:
            return each[:, :, 0]
        weights = self.weights.permute(2, 1, 0, 3)
        return (each * weights.view(*each.shape[:3], *(1,) * (each.ndim - 3))).sum(2)


def layout_of(what: Acting, dtype: torch.dtype, substeps: int = 1) -> Layout:
    """The cheapest layout for what acts in T steps of this many substeps."""
    if isinstance(what.label, int):
        return Layout(what.label, None, None, None)
    # Groups need their sizes on the host, which has the labels where that costs no synchronisation; else weigh one-hot.
    labels = what.label
    if what.readable and isinstance(labels, Tensor) and labels.device.type == "cpu" and labels.shape[0] > 0:
        listed = labels[:, 0].tolist()  # which may be wrapped by torch.func, and then has no memory to share with numpy
        return _grouped(np.array(listed, np.int64), what.weights.shape[-1])
    weights = what.weights.to(dtype).repeat_interleave(substeps, 1)
    return Layout(None, None, None, weights.permute(2, 1, 0)[..., None])


def _grouped(labels: Numbers, num: int) -> Layout:
    """For the label of each sample, (B,), of at least one: groups of one size, padded where there are too few samples."""
    counts = np.bincount(labels)
    each = counts.tolist()
    sizes = {*each} - {0}
    if len(labels) in sizes:
        return Layout(each.index(len(labels)), None, None, None)
    order = labels.argsort(kind="stable")
    place, row = np.empty_like(order), np.arange(len(order))
    if len(sizes) == 1:  # as many of each, as they usually are
        (size,) = sizes
        rows = order.reshape(-1, size)
        networks = None if len(rows) == num else counts.nonzero()[0]
    else:
        size = _group_size(each)
        groups = -(-counts // size)
        first_sample, first_group = counts.cumsum() - counts, groups.cumsum() - groups
        row += (first_group * size - first_sample).repeat(counts)
        rows = np.full((groups.sum(), size), order[0])
        rows.flat[row] = order
        networks = None if len(groups) == num and (groups == 1).all() else np.arange(len(groups)).repeat(groups)
    place[order] = row
    k = None if networks is None else torch.from_numpy(networks)
    return Layout(k, torch.from_numpy(rows), torch.from_numpy(place), None)


def _group_size(counts: list[int]) -> int:
    """The M that makes the least work: small groups repeat networks, large ones are padded."""
    largest, how_often = max(counts), Counter(counts)
    sizes = largest, *(1 << power for power in range(largest.bit_length()))

    def work(size: int) -> int:
        return sum(times * -(-count // size) for count, times in how_often.items()) * (size + GROUP)

    return min(sizes, key=work)
