"""Decoded images in one file: each is decoded when it is first asked for, and copied from a memory map ever after."""

from __future__ import annotations

import fcntl
import json
import os
import shutil
import warnings
import weakref
import zlib
from collections.abc import Callable, Mapping
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import numpy as np


class Store:
    """`count` images of `shape` (H, W, 3), decoded `block` at a time by `read(number of the block)`.

    The file holds the images and then a checksum (CRC-32) of each, which is written last, and is 0 of what is not there: who is
    killed in between has lost one block's decoding and nothing else. Processes and threads that fill the same block write the
    same bytes. The file is sparse, and takes as much disk as has been decoded. Checksums are compared when an image is first
    used: what a power cut lost, or a disk damaged, is decoded anew.

    Beside it, a small JSON file records `source`: what the images were made from. A store of anything else is made anew. Where
    there is no room or no right to write, a warning says so, and images are decoded each time.
    """

    def __init__(
        self,
        path: Path,
        count: int,
        shape: tuple[int, int, int],
        block: int,
        read: Callable[[int], np.ndarray],
        source: Mapping[str, object],
    ) -> None:
        self._made_of = (path, count, shape, block, read, source)
        self.path, self.count, self.shape, self.block = path, count, shape, block
        self._read, self._bytes = read, int(np.prod(shape))
        self._images, self._sums = np.empty((0, *shape), np.uint8), np.zeros(count, np.uint32)
        self._sound = np.zeros(count, bool)  # images that were found to have their checksums
        self._file: int | None = None
        try:
            self._open(source)
        except OSError as error:
            self._do_without(error)

    def __reduce__(self) -> tuple[type[Store], tuple[object, ...]]:
        return Store, self._made_of  # for another process the file is opened again: its images must not travel

    def __call__(self, rows: np.ndarray) -> np.ndarray:
        """The images (N, H, W, 3) of these rows (N,)."""
        blocks, there = rows // self.block, self._are_there(rows)
        if there.all():
            return self._images[rows]
        images = np.empty((len(rows), *self.shape), np.uint8)
        images[there] = self._images[rows[there]]

        def fill(number: int) -> None:
            decoded = self._decoded(number)
            self._keep(number, decoded)
            asked = blocks == number
            images[asked] = decoded[rows[asked] - number * self.block]

        # Threads of its own for each call: they do not survive a fork, and starting them is nothing beside decoding.
        with ThreadPoolExecutor(min(os.cpu_count() or 1, 8)) as pool:
            list(pool.map(fill, np.unique(blocks[~there]).tolist()))
        return images

    def _are_there(self, rows: np.ndarray) -> np.ndarray:
        """Which of these images the file has, with their checksums."""
        for row in np.unique(rows[~self._sound[rows]]):
            self._sound[row] = self._sums[row] != 0 and self._sums[row] == zlib.crc32(self._images[row])
        return self._sound[rows]

    def _decoded(self, number: int) -> np.ndarray:
        images = self._read(number)
        expected = (min(self.block, self.count - number * self.block), *self.shape)
        if images.shape != expected or images.dtype != np.uint8:
            raise ValueError(
                f"block {number} of {self.path}: got {images.shape} of {images.dtype}, expected {expected} of uint8"
            )
        return images

    def _keep(self, number: int, images: np.ndarray) -> None:
        if self._file is None:
            return
        try:
            # Not through the memory map: on a full disk that would end the process, while this is an error that can be told.
            _write(self._file, np.ascontiguousarray(images).data.cast("B"), number * self.block * self._bytes)
            sums = np.array([zlib.crc32(image) for image in np.ascontiguousarray(images)], np.uint32)
            _write(self._file, sums.data.cast("B"), self.count * self._bytes + number * self.block * sums.itemsize)
        except OSError as error:
            self._file = None
            self._do_without(error)

    def _open(self, source: Mapping[str, object]) -> None:
        images, sums = self.count * self._bytes, self.count * self._sums.itemsize
        told = json.dumps(
            {"count": self.count, "shape": self.shape, "block": self.block, "source": dict(source)}, indent=2
        )
        self.path.parent.mkdir(parents=True, exist_ok=True)
        with Path(f"{self.path}.json").open("a+b") as record:
            fcntl.flock(record, fcntl.LOCK_EX)  # until it is closed: one process at a time makes or opens the file
            record.seek(0)
            whole = self.path.is_file() and self.path.stat().st_size == images + sums
            if not whole or record.read() != told.encode():
                record.truncate(0)  # first: a kill below must leave nothing that looks right
                self.path.unlink(missing_ok=True)
                self._check_room(images)
                with self.path.open("xb") as new:
                    new.truncate(images + sums)
                record.write(told.encode())
            content = np.asarray(np.memmap(self.path, np.uint8, "r"))
            self._images, self._sums = (
                content[:images].reshape(self.count, *self.shape),
                content[images:].view(np.uint32),
            )
            self._check_room(images - np.count_nonzero(self._sums) * self._bytes)
            file = self._file = os.open(self.path, os.O_RDWR)
            weakref.finalize(self, os.close, file)

    def _check_room(self, needed: int) -> None:
        free = shutil.disk_usage(self.path.parent).free
        if free < needed:
            raise OSError(f"{free / 1e9:.1f} GB free, {needed / 1e9:.1f} GB needed")

    def _do_without(self, error: OSError) -> None:
        warnings.warn(
            f"{self.path}: got {error}, expected room for decoded images; what is not kept is decoded each time it is needed, "
            "which is slow: make room, or keep the store elsewhere",
            stacklevel=2,
        )


def _write(file: int, content: bytes | memoryview, offset: int) -> None:
    left = memoryview(content)
    while left:
        written = os.pwrite(file, left, offset)
        left, offset = left[written:], offset + written
