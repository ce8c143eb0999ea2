"""Images per second that training can be fed with: decoded from files in the formats of the data sets, and from the store.

* decoded: every image once in random order, its store being empty; decoding it, keeping it and copying it into the batch;
* kept: random sequences, all of whose images are in the store.

PNG files of 128x128 are the sample sequences in $LATENTFLOW_DATA, repeated, or gradients with noise where there are none. The
HDF5 file has gradients of 64x64 in chunks that h5py chooses for 480,000 of them, packed by gzip. All files were just written:
this measures processors and memory, not disks. To compare: a training step takes 1,000 images, 128 sequences of 8.
"""

from __future__ import annotations

import tempfile
import time
from collections.abc import Callable
from io import BytesIO
from pathlib import Path
from typing import Any

import h5py
import numpy as np
import torch
from data.factors import FALCOR3D, SHAPES3D, Factors
from data.files import DataError
from data.numbered import Falcor3D
from data.samples import samples
from data.shapes3d import FILE, Shapes3D
from PIL import Image
from torch import Tensor

from benchmarks.timing import medians

SEQUENCES = 128
AT_ONCE = 500  # images asked for at once while decoding
PNG = Factors(FALCOR3D.names, (5, 6, 6, 6, 2, 1, 1))
HDF5 = Factors(SHAPES3D.names, (10, 10, 10, 5, 1, 3))  # as many as one of its chunks has
CHUNKS = (15_000, 4, 4, 1)


def gradients(count: int, side: int, noise: float) -> np.ndarray:
    """Images (count, side, side, 3) of slopes in random directions, as smooth as shaded walls."""
    rng = np.random.default_rng(0)
    line = np.linspace(-1, 1, side)
    slope = 50 * rng.standard_normal((count, 2, 1, 1, 3))
    images = 128 + slope[:, 0] * line[:, None, None] + slope[:, 1] * line[:, None]
    return (images + noise * rng.standard_normal(images.shape)).clip(0, 255).astype(np.uint8)


def write_png(folder: Path) -> str:
    """As the archive of Falcor3D unpacks; says what its images are."""
    try:
        frames, kind = torch.cat(tuple(samples("falcor3d").values())).permute(0, 2, 3, 1).numpy(), "real"
    except DataError:
        frames, kind = gradients(40, 128, 4.0), "gradients"
    (folder / "images").mkdir(parents=True)
    files = []
    for frame in frames:
        file = BytesIO()
        Image.fromarray(frame).save(file, "PNG")
        files.append(file.getvalue())
    for number in range(len(PNG)):
        (folder / "images" / f"{number:06d}.png").write_bytes(files[number % len(files)])
    values = PNG.values(torch.arange(len(PNG))).numpy()
    with (folder / "train-rec.labels").open("wb") as file:
        np.save(file, values / np.maximum(np.array(PNG.sizes) - 1, 1))
    return kind


def write_hdf5(folder: Path) -> None:
    folder.mkdir(parents=True)
    with h5py.File(folder / FILE, "w") as file:
        file["labels"] = HDF5.values(torch.arange(len(HDF5))).double().numpy()
        images = file.create_dataset("images", (len(HDF5), 64, 64, 3), np.uint8, chunks=CHUNKS, compression="gzip")
        some = gradients(1000, 64, 0.0)
        images[:] = np.tile(some, (len(HDF5) // len(some), 1, 1, 1))


def rates(factors: Factors, images: Callable[[Tensor], Tensor], factor: int, repeats: int) -> dict[str, float]:
    """Images per second of a reader whose store is empty."""
    generator = torch.Generator().manual_seed(0)
    order = torch.randperm(len(factors), generator=generator)
    start = time.perf_counter()
    for part in order.split(AT_ONCE):
        images(factors.values(part))
    decoded = len(factors) / (time.perf_counter() - start)
    states = factors.sizes[factor]

    def batch() -> None:
        index = torch.randint(len(factors), (SEQUENCES,), generator=generator)
        images(factors.sequences(factors.values(index), factor, states).flatten(0, 1))

    kept = 1000 * SEQUENCES * states / medians({"kept": batch}, repeats)["kept"]
    return {"decoded": decoded, "kept": kept}


def measure(repeats: int) -> dict[str, Any]:
    """By format: images per second."""
    with tempfile.TemporaryDirectory() as temporary:
        folder = Path(temporary)
        kind = write_png(folder / "png")
        found = {f"PNG, 128x128, {kind}": rates(PNG, Falcor3D(folder / "png", factors=PNG).images, 1, repeats)}
        write_hdf5(folder / "hdf5")
        found["HDF5, 64x64"] = rates(HDF5, Shapes3D(folder / "hdf5", HDF5).images, 0, repeats)
    for name, each in found.items():
        print(f"{name}: ", "   ".join(f"{how} {rate:,.0f} images/s" for how, rate in each.items()), flush=True)
    return found
