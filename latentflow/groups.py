"""The samples of each label in groups of one size, so that labels never pay for potentials that do not act.

A batched product gives every network as many rows. Labels are seldom so even: a batch of one transformation, given by a tensor
of labels, has all its samples at one of K networks. So the samples of a label are cut into groups of one size, and a network
is repeated for as many groups as it has.
"""

from __future__ import annotations

from collections import Counter
from typing import NamedTuple

import numpy as np
import numpy.typing as npt
import torch
from torch import Tensor

from latentflow.written_out import hidden

Numbers = npt.NDArray[np.int64]
GROUP = 16  # another group, with its copy of a network and of its time branch, takes as long as about this many rows


class Groups(NamedTuple):
    """G of them, with M rows each, for B samples."""

    networks: Tensor | None  # (G,), that of each group; None are all of them, a group each
    rows: Tensor  # (G, M), the sample in each row; padded rows repeat a sample
    place: Tensor  # (B,), where each sample lies among the G M rows


def of_read(labels: Numbers, num: int) -> int | Groups:
    """For the label of each sample, (B,), of at least one: as few rows as there can be; or the one label of them all."""
    counts = np.bincount(labels)
    each: list[int] = counts.tolist()
    sizes = {*each} - {0}
    if len(labels) in sizes:
        return each.index(len(labels))
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
    return Groups(k, torch.from_numpy(rows), torch.from_numpy(place))


def _group_size(counts: list[int]) -> int:
    """The M that makes the least work: small groups repeat networks, large ones are padded."""
    largest, how_often = max(counts), Counter(counts)
    sizes = largest, *(1 << power for power in range(largest.bit_length()))

    def work(size: int) -> int:
        return sum(times * -(-count // size) for count, times in how_often.items()) * (size + GROUP)

    return min(sizes, key=work)


def of_unread(labels: Tensor, num: int) -> Groups | None:
    """For labels (B,) that cannot be read, by a compiler or while a device works: as many groups as any labels can need.

    With M = B / K rows each, at most 2 K - 1: at most K are full, at most one of each label is not, and not both at once. None
    where B is a symbol: whatever is asked of a size like M is one more reason to compile anew.
    """
    if torch.compiler.is_compiling():
        _hide()
    networks, rows, place = _unread(labels, num)
    return None if rows is None or place is None else Groups(networks, rows, place)


def _unread(labels: Tensor, num: int) -> tuple[Tensor | None, Tensor | None, Tensor | None]:
    batch = labels.shape[0]
    if type(batch) is not int:
        return None, None, None
    size = -(-batch // num)
    most = (batch + min(num, batch) * (size - 1)) // size
    counts = labels.new_zeros(num).index_add(0, labels, torch.ones_like(labels))
    groups = (counts + size - 1) // size
    last_sample, last_group = counts.cumsum(0), groups.cumsum(0)
    order = labels.argsort(stable=True)
    shift = (last_group - groups) * size - (last_sample - counts)
    row = torch.arange(batch, device=labels.device) + shift.index_select(0, labels.index_select(0, order))
    place = torch.zeros_like(order).scatter(0, order, row)
    rows = order.new_zeros(most * size).scatter(0, row, order)
    before = torch.arange(most, device=labels.device)[:, None] >= last_group
    return before.sum(1).clamp_max(num - 1), rows.view(most, size), place


_hide = hidden(_unread)
