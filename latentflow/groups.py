"""The samples of each label in groups of one size, so that labels never pay for potentials that do not act.

A batched product gives every network as many rows. Labels are seldom so even: a batch of one transformation, given by a tensor
of labels, has all its samples at one of K networks. So the samples of a label are cut into groups of one size, and a network
is repeated for as many groups as it has.
"""

from __future__ import annotations

from array import array
from collections import Counter
from typing import NamedTuple

import torch
from torch import Tensor

from latentflow.compiler import one_operation
from latentflow.contexts import transformed
from latentflow.validate import may_read, read

GROUP = 4  # another group, with its copy of a network and of its time branch, takes as long as about this many rows


class Groups(NamedTuple):
    """G of them, with M rows each, for B samples."""

    networks: Tensor | None  # (G,), that of each group; None are all of them, a group each
    rows: Tensor  # (G, M), the sample in each row; padded rows repeat one of the same label
    place: Tensor  # (B,), where each sample lies among the G M rows


def of_labels(labels: Tensor, num: int) -> int | Groups | None:
    """For labels (N,) in range: read where that does not wait for a device, else sorted where they lie, if that is possible.

    As a list: `torch.func` may wrap them, and has no memory to share.
    """
    on_host = may_read(labels) and labels.device.type == "cpu" and labels.shape[0] > 0
    # A list of them all would tell make_fx nothing of where its numbers come from; a single one raises there.
    readable = on_host and read(labels[0], Tensor.item) is not None
    found = read(labels, Tensor.tolist) if readable else None  # before torch 2.12 not even that
    if found is not None:
        return of_read(found, num)
    return None if transformed() else of_unread(labels, num)


def of_read(labels: list[int], num: int) -> int | Groups:
    """For the label of each sample, of at least one: as few rows as there can be; or the one label of them all.

    In plain Python: with a few hundred labels, a library spends longer in its calls than on the labels.
    """
    counts = [0] * num
    for label in labels:
        counts[label] += 1
    sizes = {*counts} - {0}
    if len(labels) in sizes:
        return labels[0]
    rows = sorted(range(len(labels)), key=labels.__getitem__)
    if len(sizes) == 1:  # as many of each, as they usually are
        (size,) = sizes
        networks = [label for label, count in enumerate(counts) if count]
    else:
        size = _group_size(counts)
        rows, networks = _padded(rows, counts, size)
    place = [0] * len(labels)
    for row, sample in enumerate(rows):
        place[sample] = row
    k = None if networks == list(range(num)) else _integers(networks)
    return Groups(k, _integers(rows).view(-1, size), _integers(place))


def _padded(samples: list[int], counts: list[int], size: int) -> tuple[list[int], list[int]]:
    """Samples of one label after the other, so many of each, in groups of one size; and the label of each group."""
    rows: list[int] = []
    networks: list[int] = []
    end = 0
    for label, count in enumerate(counts):
        if count > 0:
            groups, start, end = -(-count // size), end, end + count
            networks += [label] * groups
            rows += samples[start:end]
            rows += [samples[start]] * (groups * size - count)
    return rows, networks


def _integers(numbers: list[int]) -> Tensor:
    return torch.frombuffer(array("q", numbers), dtype=torch.int64)


def _group_size(counts: list[int]) -> int:
    """The M that makes the least work: small groups repeat networks, large ones are padded."""
    largest, how_often = max(counts), Counter(counts)
    sizes = largest, *(1 << power for power in range(largest.bit_length()))

    def work(size: int) -> int:
        return sum(times * -(-count // size) for count, times in how_often.items()) * (size + GROUP)

    return min(sizes, key=work)


def of_unread(labels: Tensor, num: int) -> Groups | None:
    """For labels (B,) that cannot be read, by a compiler or while a device works: as many groups as any labels can need.

    With M = ceil(B / K) rows each, they are fewer than 2 K. What is too many repeats the last one. None of an empty batch, and
    where B is a symbol: whatever is asked of a size like M is one more reason to compile anew.
    """
    networks, rows, place = _unread(labels, num)
    return None if rows is None or place is None else Groups(networks, rows, place)


@one_operation
def _unread(labels: Tensor, num: int) -> tuple[Tensor | None, Tensor | None, Tensor | None]:
    batch, device = labels.shape[0], labels.device
    if type(batch) is not int or batch == 0:
        return None, None, None
    size = -(-batch // num)
    most = (batch + min(num, batch) * (size - 1)) // size  # the last of each label may lack all rows but one
    counts = labels.new_zeros(num).index_add(0, labels, torch.ones_like(labels))
    groups = (counts + size - 1) // size
    end, last_sample = groups.cumsum(0), counts.cumsum(0) - 1
    first_group, first_sample = end - groups, last_sample - counts + 1
    order = labels.argsort(stable=True)
    row = torch.arange(batch, device=device) + (first_group * size - first_sample)[labels[order]]
    place = torch.zeros_like(order).scatter(0, order, row)
    group = torch.arange(most, device=device).minimum(end[-1] - 1)
    networks = (group[:, None] >= end).sum(1)
    start = first_sample[networks] + (group - first_group[networks]) * size
    sample = start[:, None] + torch.arange(size, device=device)
    return networks, order[sample.minimum(last_sample[networks][:, None])], place
