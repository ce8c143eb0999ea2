"""Which rows the stacked networks see, and which of the networks."""

from __future__ import annotations

from dataclasses import dataclass

import torch
from torch import Tensor
from torch.nn import functional as F

from latentflow import groups
from latentflow.acting import Acting
from latentflow.stack import Choice

PART = 16  # rows, at least: fewer would spend more on their gradients, (h, h) each, than they spare


@dataclass(frozen=True, eq=False)
class Layout:
    """Which rows the networks see. There are three kinds, all of which look alike from outside.

    * one network, which sees all B samples, in G parts of M, see `parts_of`;
    * labels: G groups of M samples, each seen by the network of its label, and padded where they are too few;
    * a mixture: every network sees all samples, and their answers are weighted.
    """

    k: Choice  # labels: a network for each group, or all K of them, a group each
    rows: Tensor | None = None  # labels: (G, M), the sample in each row; padded rows repeat one of the same label
    place: Tensor | None = None  # labels: (B,), where each sample lies among the G M rows
    weights: Tensor | None = None  # mixture: (K, S, B, 1)

    @property
    def weights_of_rows(self) -> Tensor | None:
        """A mixture's weights, (K, S B, 1), step after step."""
        return None if self.weights is None else self.weights.flatten(1, 2)

    def spread(self, z: Tensor, parts: int = 1) -> Tensor:
        """Of samples, (B, S, ...) or (B, d), as rows (G, S M, ...), step after step.

        G is the number of parts of one network, or of groups of labels; of a mixture it is 1.
        """
        z = z[:, None] if z.ndim == 2 else z
        if self.rows is None:
            return z.view(parts, z.shape[0] // parts, *z.shape[1:]).transpose(1, 2).flatten(1, 2)
        chosen = z.index_select(0, self.rows.flatten()).view(*self.rows.shape, *z.shape[1:])
        return chosen.transpose(1, 2).flatten(1, 2)

    def collect(self, x: Tensor) -> Tensor:
        """Of rows, (G, S, M, ...), as samples, (B, S, ...)."""
        return self.samples(x.transpose(1, 2))

    def by_spread(self, by: Tensor) -> Tensor:
        """The gradient of z (B, d), for that of `spread`, (G, M, d)."""
        by = by.flatten(0, 1)
        if self.rows is None or self.place is None:
            return by
        batch = self.place.shape[0]
        if by.shape[0] == batch:  # a permutation
            return by.index_select(0, self.place)
        return by.new_zeros(batch, by.shape[1]).index_add(0, self.rows.flatten(), by)

    def by_collect(self, by: Tensor, parts: int) -> Tensor:
        """The gradient of x (G, S, M, ...), for that of `collect`, (B, S, ...)."""
        return self.by_samples(by, parts).transpose(1, 2)

    def in_one(self, x: Tensor | None, steps: int) -> Tensor | None:
        """Of rows of a network in parts, (G, S M, n), those of one part, (1, S G M, n); all else as it is."""
        if x is None or self.rows is not None or self.weights is not None or x.shape[0] == 1:
            return x
        return x.view(x.shape[0], steps, -1, x.shape[-1]).transpose(0, 1).reshape(1, -1, x.shape[-1])

    def samples(self, x: Tensor) -> Tensor:
        """Of rows, (G, M, ...), as samples, (B, ...)."""
        x = x.flatten(0, 1)
        return x if self.place is None else x.index_select(0, self.place)

    def by_samples(self, by: Tensor, parts: int) -> Tensor:
        """The gradient of x (G, M, ...), for that of `samples`, (B, ...); padded rows get none."""
        if self.rows is None or self.place is None:
            return by.view(parts, by.shape[0] // parts, *by.shape[1:])
        if self.rows.numel() == by.shape[0]:  # a permutation
            found = by.index_select(0, self.rows.flatten())
        else:
            found = by.new_zeros(self.rows.numel(), *by.shape[1:]).index_copy(0, self.place, by)
        return found.view(*self.rows.shape, *by.shape[1:])


def parts_of(z: Tensor) -> int:
    """Into how many parts to cut the rows of one network, for samples z (B, ...).

    In compiled code for a CPU, one for each thread: a product of stacked parts gives each thread one of them, as the loops
    around it do, so a thread finds in its own cache what it has written. Uncompiled, most loops are too small for more than
    one thread; where B may change, whether it can be divided would be one more reason to compile anew.

    A compiler asks twice, and in between a B that could change may have become a number. So nothing outside of what is `hidden`
    from its frontend may depend on the answer.
    """
    batch = z.shape[0]
    if not torch.compiler.is_compiling() or z.device.type != "cpu" or type(batch) is not int:
        return 1
    threads = torch.get_num_threads()
    return threads if batch >= PART * threads and batch % threads == 0 else 1


def layout_of(what: Acting, dtype: torch.dtype, substeps: int = 1) -> Layout:
    """The cheapest layout for what acts in T steps of this many substeps."""
    labels, num = what.k, what.weights.shape[-1]
    if isinstance(labels, int):
        return Layout(labels)
    if labels is not None and num == 1:
        return Layout(0)
    if labels is not None and what.constant:
        found = groups.of_labels(labels[:, 0], num)
        if isinstance(found, int):
            return Layout(found)
        if found is not None:
            return Layout(*found)
    weights = what.weights.to(dtype).repeat_interleave(substeps, 1)
    return Layout(None, weights=weights.permute(2, 1, 0)[..., None])


def layout_of_rows(acts: int | Tensor, num: int, dtype: torch.dtype) -> Layout:
    """The cheapest layout for what acts on N latents: an index, labels (N,) or weights (N, K)."""
    if isinstance(acts, Tensor) and not acts.is_floating_point():
        found = None if torch.compiler.is_compiling() else groups.of_labels(acts, num)
        if isinstance(found, groups.Groups):
            return Layout(*found)
        acts = F.one_hot(acts, num).to(dtype) if found is None else found
    if isinstance(acts, Tensor):
        return Layout(None, weights=acts.mT[:, None, :, None])
    return Layout(acts)
