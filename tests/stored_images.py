"""Images of which every byte is known, and a store of them that counts what it decodes."""

from collections import Counter
from pathlib import Path

import numpy as np
from data.store import Store

SHAPE = (3, 5, 3)
SOURCE = {"file": "images", "bytes": 7}


def truth(rows: np.ndarray) -> np.ndarray:
    """Every byte of every image differs from its neighbours, and none is nought."""
    place = np.arange(np.prod(SHAPE)).reshape(SHAPE)
    return (1 + (17 * rows[:, None, None, None] + place) % 255).astype(np.uint8)


class Decoder:
    """Decodes blocks, and counts how often each."""

    def __init__(self, count: int, block: int) -> None:
        self.count, self.block, self.reads = count, block, Counter()

    def __call__(self, number: int) -> np.ndarray:
        self.reads[number] += 1
        return truth(np.arange(number * self.block, min((number + 1) * self.block, self.count)))


def opened(path: Path, count: int = 20, block: int = 3, source: dict = SOURCE) -> tuple[Store, Decoder]:
    decoder = Decoder(count, block)
    return Store(path, count, SHAPE, block, decoder, source), decoder


def all_right(store: Store, rows: np.ndarray | None = None) -> bool:
    rows = np.arange(store.count) if rows is None else rows
    return np.array_equal(store(rows), truth(rows))
