"""MNIST from its IDX files: found in the data folder, else downloaded; always checked before use."""

from __future__ import annotations

import gzip
import hashlib
import os
import struct
import urllib.error
import urllib.request
import zlib
from pathlib import Path

import numpy as np
import torch
from torch import Tensor

from data.files import DataError, data_folder

MIRRORS = (
    "https://ossci-datasets.s3.amazonaws.com/mnist/",
    "https://storage.googleapis.com/cvdf-datasets/mnist/",
)
# md5 of the uncompressed files: archives of the same images differ in their gzip headers.
HASHES = {
    "train-images-idx3-ubyte": "6bbc9ace898e44ae57da46a324031adb",
    "t10k-images-idx3-ubyte": "2646ac647ad5339dbf082846283269ea",
}


def mnist(folder: Path | None = None, *, download: bool = True) -> tuple[Tensor, Tensor]:
    """Training (60000, 28, 28) and test (10000, 28, 28) images in [0, 1].

    Raises:
        DataError: a file is not there, or has other bytes than MNIST's; it is named.
        OSError: the system does not let it be read.
    """
    folder = data_folder() / "mnist" if folder is None else folder
    train, test = (_images(folder, f"{part}-images-idx3-ubyte", download) for part in ("train", "t10k"))
    return train, test


def _images(folder: Path, name: str, download: bool) -> Tensor:
    path = next((p for p in (folder / name, folder / f"{name}.gz") if p.is_file()), None)
    if path is None:
        if not download:
            raise DataError(
                f"MNIST: got no {name}[.gz] in {folder}, expected it there; set LATENTFLOW_DATA or allow download"
            )
        path = _download(folder, name)
    content = _uncompressed(path)
    images = read_idx(content, path)
    if hashlib.md5(content).hexdigest() != HASHES[name]:
        raise DataError(
            f"{path}: got other bytes than MNIST's (md5 differs), expected {HASHES[name]}; delete it and try again"
        )
    return torch.from_numpy(images).float() / 255


def read_idx(content: bytes, path: Path) -> np.ndarray:
    """The array in an IDX file of unsigned bytes: big-endian magic 0x000008NN with NN axes, their sizes, then the data."""
    if len(content) < 4 or content[:3] != b"\x00\x00\x08" or content[3] == 0:
        raise DataError(
            f"{path}: got magic {content[:4].hex() or 'nothing'}, expected 000008NN; this is no IDX file of bytes"
        )
    axes, header = content[3], 4 + 4 * content[3]
    if len(content) < header:
        raise DataError(f"{path}: got {len(content)} bytes, expected a header of {header}; the file is truncated")
    shape = struct.unpack(f">{axes}I", content[4:header])
    expected = header + int(np.prod(shape, dtype=np.int64))
    if len(content) != expected:
        state = "truncated" if len(content) < expected else "too long"
        raise DataError(f"{path}: got {len(content)} bytes, expected {expected} for shape {shape}; the file is {state}")
    return np.frombuffer(content, np.uint8, offset=header).reshape(shape).copy()


def _uncompressed(path: Path) -> bytes:
    content = path.read_bytes()
    if path.suffix != ".gz":
        return content
    try:
        return gzip.decompress(content)
    except (EOFError, OSError, zlib.error) as error:
        raise DataError(f"{path}: got {error}, expected a whole gzip file; delete it and try again") from error


def _download(folder: Path, name: str) -> Path:
    """Fetch from the first mirror that has it; the file appears under its name only once its hash is right."""
    failures = []
    for mirror in MIRRORS:
        url = f"{mirror}{name}.gz"
        try:
            with urllib.request.urlopen(url, timeout=30) as response:
                compressed = response.read()
            found = hashlib.md5(gzip.decompress(compressed)).hexdigest()
        except (OSError, EOFError, zlib.error, urllib.error.URLError) as error:
            failures.append(f"{url}: {error}")
            continue
        if found == HASHES[name]:
            folder.mkdir(parents=True, exist_ok=True)
            partial = folder / f".{name}.gz.{os.getpid()}"
            partial.write_bytes(compressed)
            return partial.replace(folder / f"{name}.gz")
        failures.append(f"{url}: md5 {found}")
    raise DataError(
        f"MNIST: got {'; '.join(failures)}, expected {name}.gz with md5 {HASHES[name]} unpacked; "
        f"put the file into {folder} by hand, or set LATENTFLOW_DATA; --data digits needs no download"
    )
