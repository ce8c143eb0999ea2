"""What is fuzzed: every reader of the examples, and the loading of checkpoints, on files in the real formats."""

import csv
import gzip
import hashlib
import json
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import checkpoints
import models
import numpy as np
import torch
import trained
from data import mnist as mnist_file
from data import shapes3d as shapes3d_file
from data.dsprites import DSprites
from data.factors import DSPRITES, FALCOR3D, ISAAC3D, SHAPES3D, Factors
from data.files import data_folder
from data.mnist import mnist
from data.numbered import Falcor3D, Isaac3D
from data.samples import samples
from data.shapes3d import Shapes3D
from data.store import Store
from PIL import Image
from progress import _keep_rows
from torch import nn

from latentflow import Potential
from tests.data_files import idx, write_dsprites, write_numbered, write_shapes3d
from tests.fuzzing import Files, read_files, write_files

# Small data sets: the fewer images, the more files in a second.
HASHED = Factors(SHAPES3D.names, (2, 3, 1, 4, 1, 2))
UNHASHED = Factors(SHAPES3D.names, (2, 3, 1, 2, 1, 4))
FALCOR = Factors(FALCOR3D.names, (1, 2, 1, 2, 1, 2, 1))
ISAAC = Factors(ISAAC3D.names, (2, 1, 2, 1, 1, 2, 1, 1, 1))
SPRITES = Factors(DSPRITES.names, (3, 2, 2, 3, 2))


@dataclass(frozen=True)
class Case:
    """A reader, and what it reads."""

    write: Callable[[Path], object]
    """sound files into a folder"""
    load: Callable[[Path], object]
    """what the reader makes of all that is there"""
    sound: bool
    """can all damage to what it returns be found: by a hash, by checksums that are known, or as it can be made anew"""
    repair: Callable[[Files], Files] = lambda files: files
    """what an attacker would do after the damage"""
    also: Callable[[Files], Files] | None = None
    """other files that are as good as the whole ones"""


def digest(found: Any) -> str:
    """Equal for equal nested tensors, arrays and plain values."""
    return hashlib.sha256(repr(_plain(found)).encode()).hexdigest()


def _plain(found: Any) -> Any:
    if isinstance(found, torch.Tensor):
        found = found.contiguous().numpy()
    if isinstance(found, np.ndarray):
        return found.shape, found.dtype.str, hashlib.sha256(np.ascontiguousarray(found)).hexdigest()
    if isinstance(found, dict):
        return [(name, _plain(value)) for name, value in found.items()]
    return [_plain(value) for value in found] if isinstance(found, (list, tuple)) else found


def write_mnist(folder: Path) -> None:
    """Small files under MNIST's names, one packed and one plain, whose hashes become the known ones."""
    train, test = idx(9, 28, 28), idx(5, 28, 28)
    write_files({"train-images-idx3-ubyte.gz": gzip.compress(train, mtime=0), "t10k-images-idx3-ubyte": test}, folder)
    names = ("train-images-idx3-ubyte", "t10k-images-idx3-ubyte")
    mnist_file.HASHES = {n: hashlib.md5(content).hexdigest() for n, content in zip(names, (train, test), strict=True)}


def write_hashed(folder: Path) -> None:
    shapes3d_file.HASHES[HASHED] = hashlib.md5(write_shapes3d(folder, HASHED).read_bytes()).hexdigest()


def images_of(reader: Callable[..., Any], factors: Factors) -> Callable[[Path], torch.Tensor]:
    def load(folder: Path) -> torch.Tensor:
        found: torch.Tensor = reader(folder, factors=factors).images(factors.values(torch.arange(len(factors))))
        return found

    return load


def write_samples(folder: Path) -> None:
    """The real sequences where they are there, else frames of one colour."""
    real = data_folder() / "falcor3d_samples"
    if real.is_dir():
        write_files(read_files(real), folder)
        return
    for j, (factor, size) in enumerate(zip(FALCOR3D.names, FALCOR3D.sizes, strict=True)):
        (folder / f"{j}_{factor}").mkdir(parents=True)
        for t in range(size):
            Image.new("RGB", (128, 128), (j, t, 9)).save(folder / f"{j}_{factor}" / f"{t}.png")


def decode(number: int) -> np.ndarray:
    return np.random.default_rng(number).integers(256, size=(3, 8, 8, 3), dtype=np.uint8)


def load_store(folder: Path) -> np.ndarray:
    return Store(folder / "images", 30, (8, 8, 3), 3, decode, {"file": "other"})(np.arange(30))


SETTINGS = {"steps": 20, "learning_rate": 3e-3, "schedule": "one-cycle"}


def parts() -> tuple[nn.Module, dict[str, Any]]:
    torch.manual_seed(0)
    model = nn.ModuleDict({"encoder": nn.Linear(4, 3), "potential": Potential(2, 2, 3)})
    optimiser = torch.optim.AdamW(model.parameters(), 3e-3)
    return model, {"optimiser": optimiser, "schedule": torch.optim.lr_scheduler.OneCycleLR(optimiser, 3e-3, 20)}


def write_run(folder: Path) -> None:
    """A run with two checkpoints, after steps 1 and 2."""
    checkpoints.claim(folder, SETTINGS, resume=False)
    model, others = parts()
    for step in (1, 2):
        model["encoder"](torch.ones(2, 4)).square().sum().backward()
        model["potential"](torch.ones(2, 2), 1.0).square().sum().backward()
        others["optimiser"].step()
        others["schedule"].step()
        checkpoints.save(folder, step, model, {n: part.state_dict() for n, part in others.items()} | {"seconds": 1.0})
    with (folder / "log.csv").open("w", newline="") as file:
        csv.writer(file).writerows([["step", "loss"], *([step, 0.1 * step] for step in range(1, 5))])


def resume(folder: Path) -> object:
    """What `train.claim` and `train.train` do of a run that goes on."""
    checkpoints.check(folder, SETTINGS, resume=True, overwrite=False)
    checkpoints.claim(folder, SETTINGS, resume=True)
    model, others = parts()
    state = checkpoints.restore(folder, model, others)
    _keep_rows(folder / "log.csv", state["step"])
    return (
        state["step"],
        state["seconds"],
        model.state_dict(),
        {name: part.state_dict() for name, part in others.items()},
    )


def write_trained(folder: Path) -> None:
    folder.mkdir(parents=True)
    settings = models.Model(supervision="none", dim=2, networks="small", width=1, hidden=2, frames=None)
    trained.note(folder, settings, 3, 8, ("one", "two"), 2)
    checkpoints.save(folder, 1, models.build(settings, 3, 8, 2, 2), {"seconds": 1.0})


def load_trained(folder: Path) -> object:
    return trained.load(folder).state_dict()


def without_the_last(files: Files) -> Files:
    return {name: content for name, content in files.items() if "00000002" not in name}


def rehashed(files: Files) -> Files:
    """With the hashes of what is there."""
    for record in [name for name in files if name.endswith("files.json")]:
        beside = record.removesuffix("files.json")
        contents = {name: files.get(beside + name) for name in ("model.safetensors", "state.pt")}
        hashes = {
            name: hashlib.sha256(content).hexdigest() for name, content in contents.items() if content is not None
        }
        files[record] = json.dumps(hashes).encode()
    return files


CASES = {
    "mnist": Case(write_mnist, lambda folder: mnist(folder, download=False), True),
    "shapes3d": Case(write_hashed, images_of(Shapes3D, HASHED), True),
    "shapes3d, no hash": Case(lambda folder: write_shapes3d(folder, UNHASHED), images_of(Shapes3D, UNHASHED), False),
    "shapes3d, no hash, one piece": Case(
        lambda folder: write_shapes3d(folder, UNHASHED, chunks=None), images_of(Shapes3D, UNHASHED), False
    ),
    "falcor3d": Case(lambda folder: write_numbered(folder, FALCOR, "train-rec.labels"), images_of(Falcor3D, FALCOR), False),
    "isaac3d": Case(lambda folder: write_numbered(folder, ISAAC, "labels.npy"), images_of(Isaac3D, ISAAC), False),
    "dsprites": Case(lambda folder: write_dsprites(folder, SPRITES), images_of(DSprites, SPRITES), False),
    "samples": Case(write_samples, lambda folder: samples("falcor3d", folder), False),
    "store": Case(load_store, load_store, True),
    "trained": Case(write_trained, load_trained, False, rehashed),
    "checkpoint": Case(write_run, resume, True, also=without_the_last),
    "checkpoint, new hashes": Case(write_run, resume, False, rehashed, without_the_last),
}  # fmt: skip
