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

    * one network, which sees all B samples, G being the number of parts that they are cut into, see `_parts`;
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
            parts = 1 if self.weights is not None else _parts(z)
            return z.view(parts, z.shape[0] // parts, *z.shape[1:]).transpose(1, 2).flatten(1, 2)
        chosen = z.index_select(0, self.rows.flatten()).view(*self.rows.shape, *z.shape[1:])
        return chosen.transpose(1, 2).flatten(1, 2)

    def collect(self, x: Tensor) -> Tensor:
        """Of rows, (1 or G, S, M, ...), as samples, (B, S, ...)."""
        found = x.transpose(1, 2).flatten(0, 1)
        return found if self.place is None else found.index_select(0, self.place)

    def samples(self, x: Tensor) -> Tensor:
        """X (1 or G, M) as (B,)."""
        found = x.flatten()
        return found if self.place is None else found.index_select(0, self.place)


def _parts(z: Tensor) -> int:
    """Into how many parts the rows of one network are cut, for samples z (B, ...).

    In compiled code for a CPU, one for each thread: a product of stacked parts gives each thread one of them, as the loops
    around it do, so a thread finds in its own cache what it has written. Uncompiled, most loops are too small for more than
    one thread; and where B may change, whether it can be divided would be one more reason to compile anew.
    """
    batch = z.shape[0]
    if not torch.compiler.is_compiling() or z.device.type != "cpu" or type(batch) is not int:
        return 1
    threads = torch.get_num_threads()
    return threads if batch > 0 and batch % threads == 0 else 1


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
