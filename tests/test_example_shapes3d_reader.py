"""Shapes3D: one HDF5 file, in any chunks, whole, cut, damaged or of something else."""

import hashlib
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import h5py
import numpy as np
import pytest
import torch
from data import shapes3d as shapes3d_file
from data import store as stores
from data.factors import SHAPES3D
from data.files import DataError
from data.shapes3d import Shapes3D
from hypothesis import given
from hypothesis import strategies as st

from tests.data_files import FEW_SHAPES3D, coloured, every, said, write_shapes3d

SWAPPED = every(FEW_SHAPES3D) * 1.0
SWAPPED[:, 3] = np.array([0, 2, 1, 3])[every(FEW_SHAPES3D)[:, 3]]


@pytest.mark.parametrize("chunks", [(1, 64, 64, 3), (7, 4, 4, 1), (144, 64, 64, 3), None], ids=str)
def test_is_read_in_any_chunks(tmp_path: Path, chunks: Any) -> None:
    write_shapes3d(tmp_path, chunks=chunks)
    reader = Shapes3D(tmp_path, FEW_SHAPES3D)
    values = FEW_SHAPES3D.values(torch.tensor([143, 0, 70, 0, 71]))
    assert torch.equal(said(reader.images(values), FEW_SHAPES3D), values)
    assert reader._store.block == (chunks[0] if chunks else 1), "a chunk is decoded more than once"


def test_is_read_at_its_real_size(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """All 480,000 places are there; images are written of a few sequences, and all else takes no room."""
    monkeypatch.setattr(stores.shutil, "disk_usage", lambda _: SimpleNamespace(free=10**12))
    monkeypatch.setattr(shapes3d_file, "HASHES", {})
    index = torch.tensor([0, 123_456, 479_999])
    runs = [SHAPES3D.sequences(SHAPES3D.values(index), j, size) for j, size in enumerate(SHAPES3D.sizes)]
    values = torch.cat([run.flatten(0, 1) for run in runs])
    with h5py.File(tmp_path / shapes3d_file.FILE, "w") as file:
        file["labels"] = every(SHAPES3D).astype(float)
        images = file.create_dataset(
            "images", (480_000, 64, 64, 3), np.uint8, chunks=(1, 64, 64, 3), compression="gzip"
        )
        for row, image in zip(SHAPES3D.index(values).tolist(), coloured(values.numpy(), 64), strict=True):
            images[row] = image
    reader = Shapes3D(tmp_path)
    assert torch.equal(said(reader.images(values), SHAPES3D), values)


def test_may_lie_directly_in_the_data_folder(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("LATENTFLOW_DATA", str(tmp_path))
    write_shapes3d(tmp_path)
    assert Shapes3D(factors=FEW_SHAPES3D).path == tmp_path / shapes3d_file.FILE


@given(data=st.data())
def test_no_cut_file_is_opened(written: Path, data: st.DataObject, tmp_path_factory: Any) -> None:
    whole = (written / "shapes3d" / shapes3d_file.FILE).read_bytes()
    path = tmp_path_factory.mktemp("cut") / shapes3d_file.FILE
    path.write_bytes(whole[: data.draw(st.integers(0, len(whole) - 1))])
    with pytest.raises(DataError, match=rf"{shapes3d_file.FILE}: got .* expected"):
        Shapes3D(path.parent, FEW_SHAPES3D)


def test_what_was_downloaded_instead_is_named(tmp_path: Path) -> None:
    (tmp_path / shapes3d_file.FILE).write_text("<html>Not found</html>")
    with pytest.raises(DataError, match=rf"{shapes3d_file.FILE}: got signature 3c68746d.*; this is no HDF5 file"):
        Shapes3D(tmp_path)


def test_damaged_images_are_named_when_they_are_read(tmp_path: Path) -> None:
    path = write_shapes3d(tmp_path, chunks=(5, 64, 64, 3))
    with h5py.File(path) as file:
        place = file["images"].id.get_chunk_info(3)
    with path.open("r+b") as file:
        file.seek(place.byte_offset)
        file.write(bytes(place.size))
    reader = Shapes3D(tmp_path, FEW_SHAPES3D)
    values = every(FEW_SHAPES3D)
    assert len(reader.images(torch.from_numpy(values[:15]))) == 15
    with pytest.raises(DataError, match=rf"{shapes3d_file.FILE}: got .* expected whole images; download it again"):
        reader.images(torch.from_numpy(values[15:16]))


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"images": None}, "got labels, expected images and labels"),
        (
            {"images": np.zeros((143, 64, 64, 3), np.uint8)},
            r"got images \(143, 64, 64, 3\) of uint8, expected \(144, ",
        ),
        (
            {"images": np.zeros((144, 64, 64, 3), np.float32)},
            "of float32, expected .* of uint8; this is not Shapes3D",
        ),
        ({"labels": every(FEW_SHAPES3D)}, "got labels .* of int64, expected .* of float64"),
        ({"labels": np.zeros((144, 5))}, r"got labels \(144, 5\)"),
        ({"labels": np.zeros((144, 6))}, "got labels of floor_hue in another order, expected 2 values"),
        ({"labels": np.full((144, 6), np.nan)}, "got labels of floor_hue in another order"),
        ({"labels": every(FEW_SHAPES3D)[:, [1, 0, 2, 3, 4, 5]] * 1.0}, "got labels of floor_hue in another order"),
        (
            {"labels": SWAPPED},
            "got labels of scale in another order, expected 4 values of which each lasts 3 images",
        ),
    ],
)
def test_other_files_are_refused(tmp_path: Path, changes: dict[str, Any], message: str) -> None:
    path = write_shapes3d(tmp_path, **changes)
    with pytest.raises(DataError, match=f"{path.name}: .*{message}"):
        Shapes3D(tmp_path, FEW_SHAPES3D)


@given(row=st.integers(0, 143), j=st.integers(0, 5))
def test_one_wrong_label_is_seen(row: int, j: int, tmp_path_factory: Any) -> None:
    labels = every(FEW_SHAPES3D) * 0.3
    labels[row, j] += 0.1
    path = write_shapes3d(tmp_path_factory.mktemp("labels"), labels=labels)
    with pytest.raises(DataError, match=f"got labels of {FEW_SHAPES3D.names[j]} in another order"):
        Shapes3D(path.parent, FEW_SHAPES3D)


def test_of_the_published_file_every_byte_counts(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Its hash is compared before HDF5 sees it; here that of a small one stands for the known hash."""
    path = write_shapes3d(tmp_path)
    whole = path.read_bytes()
    monkeypatch.setitem(shapes3d_file.HASHES, FEW_SHAPES3D, hashlib.md5(whole).hexdigest())
    assert len(Shapes3D(tmp_path, FEW_SHAPES3D).factors) == 144
    monkeypatch.setattr(shapes3d_file.h5py, "File", None)
    for place in (8, 100, len(whole) // 2, len(whole) - 1):
        path.write_bytes(whole[:place] + bytes([whole[place] ^ 1]) + whole[place + 1 :])
        with pytest.raises(
            DataError, match=rf"{shapes3d_file.FILE}: got {len(whole)} bytes with md5 .* expected those of"
        ):
            Shapes3D(tmp_path, FEW_SHAPES3D)


def test_the_published_hash_is_that_of_the_real_factors() -> None:
    assert {SHAPES3D: "099a2078d58cec4daad0702c55d06868"} == shapes3d_file.HASHES


def elsewhere(path: Path, how: str) -> None:
    """The images in another file: by a link, by a raw file, by a virtual data set."""
    other = path.with_name("other.h5")
    with h5py.File(path, "r+") as file, h5py.File(other, "w") as target:
        images = target["images"] = file["images"][:]
        del file["images"]
        if how == "external link":
            file["images"] = h5py.ExternalLink(other.name, "images")
        elif how == "soft link":
            file["kept"] = images
            file["images"] = h5py.SoftLink("/kept")
        elif how == "raw file":
            images.tofile(path.with_name("raw"))
            raw = [(str(path.with_name("raw")), 0, images.nbytes)]
            file.create_dataset("images", images.shape, images.dtype, external=raw)
        else:
            layout = h5py.VirtualLayout(images.shape, images.dtype)
            layout[:] = h5py.VirtualSource(other.name, "images", images.shape)
            file.create_virtual_dataset("images", layout)


@pytest.mark.parametrize("how", ["external link", "soft link", "raw file", "virtual data set"])
def test_nothing_outside_of_the_file_is_read(tmp_path: Path, how: str) -> None:
    """A file from elsewhere could have any file of this machine taken for images."""
    elsewhere(write_shapes3d(tmp_path), how)
    with pytest.raises(DataError, match="got images that lies in another file or behind filters"):
        Shapes3D(tmp_path, FEW_SHAPES3D)


def test_no_plugin_is_loaded_for_a_filter(tmp_path: Path) -> None:
    """HDF5 would look for its code in folders of plugins."""
    path = write_shapes3d(tmp_path, chunks=(5, 64, 64, 3))
    with h5py.File(path, "r+") as file:
        images = file["images"][:]
        del file["images"]
        made = h5py.h5p.create(h5py.h5p.DATASET_CREATE)
        made.set_chunk((5, 64, 64, 3))
        made.set_filter(32001, h5py.h5z.FLAG_OPTIONAL, ())
        space = h5py.h5s.create_simple(images.shape)
        h5py.h5d.create(file.id, b"images", h5py.h5t.NATIVE_UINT8, space, made)
    with pytest.raises(DataError, match=r"behind filters \[32001\], expected it in this file"):
        Shapes3D(tmp_path, FEW_SHAPES3D)


def test_a_type_that_numpy_does_not_have_is_damage(tmp_path: Path) -> None:
    """The libraries' own errors, here a TypeError, do not name the file."""
    path = write_shapes3d(tmp_path, images=None)
    with h5py.File(path, "r+") as file:
        h5py.h5d.create(file.id, b"images", h5py.h5t.UNIX_D32LE, h5py.h5s.create_simple((144, 64, 64, 3)))
    with pytest.raises(DataError, match=f"{shapes3d_file.FILE}: got No NumPy equivalent .* expected a whole HDF5 file"):
        Shapes3D(tmp_path, FEW_SHAPES3D)
