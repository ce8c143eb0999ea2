"""The readers on files in the real formats, in which every image says which values it has; damaged files; real sequences."""

import contextlib
import os
import shutil
import zipfile
from collections.abc import Callable
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import h5py
import numpy as np
import pytest
import torch
from data import dsprites as dsprites_file
from data import shapes3d as shapes3d_file
from data import store as stores
from data.dsprites import DSprites
from data.factors import DSPRITES, FALCOR3D, ISAAC3D, SHAPES3D, Factors
from data.files import DataError, data_folder
from data.numbered import Falcor3D, Isaac3D, read_png
from data.samples import samples
from data.shapes3d import Shapes3D
from hypothesis import given
from hypothesis import strategies as st
from PIL import Image

# The names of the real factors, in their order, with fewer values; neighbours differ in size, so that an exchange is seen.
FEW_SHAPES3D = Factors(SHAPES3D.names, (2, 3, 2, 4, 1, 3))
FEW_FALCOR3D = Factors(FALCOR3D.names, (2, 3, 2, 3, 2, 1, 3))
FEW_ISAAC3D = Factors(ISAAC3D.names, (2, 3, 2, 3, 1, 2, 3, 2, 1))
FEW_DSPRITES = Factors(DSPRITES.names, (3, 2, 5, 4, 3))


def drawn(values: np.ndarray, side: int) -> np.ndarray:
    """Images (N, side, side), 0 or 1: the j-th pair of rows has the bits of the j-th value, four pixels each."""
    images = np.zeros((len(values), side, side), np.uint8)
    for j in range(values.shape[1]):
        for bit in range(6):
            images[:, 2 * j : 2 * j + 2, 4 * bit : 4 * bit + 4] = (values[:, j] >> bit & 1)[:, None, None]
    return images


def coloured(values: np.ndarray, side: int) -> np.ndarray:
    """As much of each colour as tells the channels apart."""
    return drawn(values, side)[..., None] * np.array([255, 100, 50], np.uint8)


def said(images: torch.Tensor, factors: Factors) -> torch.Tensor:
    """The values (N, F) that images (N, 3, side, side) say they have."""
    assert images.dtype == torch.uint8
    bits = (images[:, 0, : 2 * len(factors.sizes) : 2, :24:4] == 255).long()
    return (bits << torch.arange(6)).sum(-1)


def every(factors: Factors) -> np.ndarray:
    return factors.values(torch.arange(len(factors))).numpy()


def write_shapes3d(folder: Path, factors: Factors = FEW_SHAPES3D, chunks: Any = (5, 8, 8, 1), **changes: Any) -> Path:
    values = every(factors)
    arrays = {
        "images": coloured(values, 64),
        "labels": values * [0.1, 0.1, 0.1, 0.07, 1, 4.3] - [0, 0, 0, -0.75, 0, 30],
    }
    folder.mkdir(parents=True, exist_ok=True)
    with h5py.File(folder / shapes3d_file.FILE, "w") as file:
        for name, array in (arrays | changes).items():
            if array is not None:
                packed = {"chunks": chunks, "compression": "gzip"} if name == "images" and chunks else {}
                file.create_dataset(name, data=array, **packed)
    return folder / shapes3d_file.FILE


def write_numbered(folder: Path, factors: Factors, labels: str, dtype: str = "<f8") -> Path:
    values = every(factors)
    (folder / "images").mkdir(parents=True)
    for number, image in enumerate(coloured(values, 128)):
        Image.fromarray(image).save(folder / "images" / f"{number:06d}.png", compress_level=1)
    write_array(folder / labels, (values / np.maximum(np.array(factors.sizes) - 1, 1)).astype(dtype))
    return folder


def write_array(path: Path, array: np.ndarray) -> None:
    with path.open("wb") as file:  # as `np.save` of a path would add its extension
        np.save(file, array)


def write_dsprites(folder: Path, factors: Factors = FEW_DSPRITES, **changes: Any) -> Path:
    values = every(factors)
    classes = np.column_stack((np.zeros(len(values), np.int64), values))
    arrays = {"imgs": drawn(values, 64), "latents_classes": classes, "latents_values": classes / 7.0}
    folder.mkdir(parents=True, exist_ok=True)
    np.savez_compressed(folder / dsprites_file.FILE, **{k: v for k, v in (arrays | changes).items() if v is not None})
    return folder / dsprites_file.FILE


WRITTEN: dict[str, tuple[Callable[[Path], object], Callable[..., Any], Factors]] = {
    "shapes3d": (write_shapes3d, Shapes3D, FEW_SHAPES3D),
    "falcor3d": (lambda folder: write_numbered(folder, FEW_FALCOR3D, "train-rec.labels"), Falcor3D, FEW_FALCOR3D),
    "isaac3d": (lambda folder: write_numbered(folder, FEW_ISAAC3D, "labels.npy"), Isaac3D, FEW_ISAAC3D),
    "dsprites": (write_dsprites, DSprites, FEW_DSPRITES),
}


@pytest.fixture(scope="module")
def written(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """All data sets under their names in one data folder."""
    folder = tmp_path_factory.mktemp("data")
    for name, (write, _, _) in WRITTEN.items():
        write(folder / name)
    return folder


@pytest.fixture
def falcor(written: Path, tmp_path: Path) -> Path:
    """A copy to damage, of which nothing is decoded yet."""
    kept = shutil.ignore_patterns("*.decoded*")
    return Path(shutil.copytree(written / "falcor3d", tmp_path / "falcor3d", ignore=kept))


@pytest.mark.parametrize(
    ("name", "j"),
    [
        pytest.param(name, j, id=f"{name} {f.names[j]}")
        for name, (_, _, f) in WRITTEN.items()
        for j in range(len(f.sizes))
    ],
)
@given(data=st.data())
def test_the_images_of_a_sequence_show_its_factor_running_and_no_other(
    name: str, j: int, written: Path, data: st.DataObject
) -> None:
    _, reader, factors = WRITTEN[name]
    images = reader(written / name, factors=factors)
    index = torch.tensor(data.draw(st.lists(st.integers(0, len(factors) - 1), min_size=1, max_size=4)))
    before = factors.values(index)
    shown = said(images.images(factors.sequences(before, j, factors.sizes[j]).flatten(0, 1)), factors)
    shown = shown.unflatten(0, (len(index), -1))
    others = [i for i in range(len(factors.sizes)) if i != j]
    assert (shown[..., j] == torch.arange(factors.sizes[j])).all()
    assert (shown[..., others] == before[:, None, others]).all()


@pytest.mark.parametrize("name", WRITTEN)
def test_readers_are_found_in_the_data_folder_and_have_all_images(
    name: str, written: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("LATENTFLOW_DATA", str(written))
    _, reader, factors = WRITTEN[name]
    source = reader(factors=factors)
    values = factors.values(torch.arange(len(factors)).flip(0))
    images = source.images(values)
    assert images.shape == (len(factors), 3, source.side, source.side)
    assert torch.equal(said(images, source.factors), values)
    if name == "dsprites":
        assert (images == images[:, :1]).all()
        assert images.unique().tolist() == [0, 255]
    else:
        assert images.amax((0, 2, 3)).tolist() == [255, 100, 50], "channels in another order"


@pytest.mark.parametrize("name", WRITTEN)
def test_values_that_there_are_not_are_refused(name: str, written: Path) -> None:
    _, reader, factors = WRITTEN[name]
    with pytest.raises(ValueError, match=f"{factors.names[0]}: got value {factors.sizes[0]}, expected 0 to"):
        reader(written / name, factors=factors).images(
            torch.tensor([[factors.sizes[0]] + [0] * (len(factors.sizes) - 1)])
        )


@pytest.mark.parametrize("name", WRITTEN)
def test_of_a_small_file_it_is_said_that_it_is_not_the_data_set(name: str, written: Path) -> None:
    """The real sizes are what is expected unless a test says otherwise."""
    with pytest.raises(DataError, match=rf"{name}.*: got .*expected .*(480000|233280|737280)"):
        WRITTEN[name][1](written / name)


@pytest.mark.parametrize("name", WRITTEN)
def test_where_there_is_nothing_it_is_said_what_is_missing(
    name: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("LATENTFLOW_DATA", str(tmp_path))
    with pytest.raises(DataError, match=r"got no .* in .*expected .*set LATENTFLOW_DATA"):
        WRITTEN[name][1]()


@pytest.mark.parametrize("name", ["shapes3d", "falcor3d", "isaac3d"])
def test_the_second_time_nothing_is_decoded(
    name: str, written: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    _, reader, factors = WRITTEN[name]
    values = factors.values(torch.arange(len(factors)))
    first = reader(written / name, factors=factors, store=tmp_path).images(values)
    again = reader(written / name, factors=factors, store=tmp_path)
    monkeypatch.setattr(again._store, "_read", None)
    assert torch.equal(again.images(values), first)


SWAPPED = every(FEW_SHAPES3D) * 1.0
SWAPPED[:, 3] = np.array([0, 2, 1, 3])[every(FEW_SHAPES3D)[:, 3]]


class TestShapes3D:
    @pytest.mark.parametrize("chunks", [(1, 64, 64, 3), (7, 4, 4, 1), (144, 64, 64, 3), None], ids=str)
    def test_is_read_in_any_chunks(self, tmp_path: Path, chunks: Any) -> None:
        write_shapes3d(tmp_path, chunks=chunks)
        reader = Shapes3D(tmp_path, FEW_SHAPES3D)
        values = FEW_SHAPES3D.values(torch.tensor([143, 0, 70, 0, 71]))
        assert torch.equal(said(reader.images(values), FEW_SHAPES3D), values)
        assert reader._store.block == (chunks[0] if chunks else 1), "a chunk is decoded more than once"

    def test_is_read_at_its_real_size(self, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
        """All 480,000 places are there; images are written of a few sequences, and all else takes no room."""
        monkeypatch.setattr(stores.shutil, "disk_usage", lambda _: SimpleNamespace(free=10**12))
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

    def test_may_lie_directly_in_the_data_folder(self, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
        monkeypatch.setenv("LATENTFLOW_DATA", str(tmp_path))
        write_shapes3d(tmp_path)
        assert Shapes3D(factors=FEW_SHAPES3D).path == tmp_path / shapes3d_file.FILE

    @given(data=st.data())
    def test_no_cut_file_is_opened(self, written: Path, data: st.DataObject, tmp_path_factory: Any) -> None:
        whole = (written / "shapes3d" / shapes3d_file.FILE).read_bytes()
        path = tmp_path_factory.mktemp("cut") / shapes3d_file.FILE
        path.write_bytes(whole[: data.draw(st.integers(0, len(whole) - 1))])
        with pytest.raises(DataError, match=rf"{shapes3d_file.FILE}: got .* expected"):
            Shapes3D(path.parent, FEW_SHAPES3D)

    def test_what_was_downloaded_instead_is_named(self, tmp_path: Path) -> None:
        (tmp_path / shapes3d_file.FILE).write_text("<html>Not found</html>")
        with pytest.raises(DataError, match=rf"{shapes3d_file.FILE}: got signature 3c68746d.*; this is no HDF5 file"):
            Shapes3D(tmp_path)

    def test_damaged_images_are_named_when_they_are_read(self, tmp_path: Path) -> None:
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
    def test_other_files_are_refused(self, tmp_path: Path, changes: dict[str, Any], message: str) -> None:
        path = write_shapes3d(tmp_path, **changes)
        with pytest.raises(DataError, match=f"{path.name}: .*{message}"):
            Shapes3D(tmp_path, FEW_SHAPES3D)

    @given(row=st.integers(0, 143), j=st.integers(0, 5))
    def test_one_wrong_label_is_seen(self, row: int, j: int, tmp_path_factory: Any) -> None:
        labels = every(FEW_SHAPES3D) * 0.3
        labels[row, j] += 0.1
        path = write_shapes3d(tmp_path_factory.mktemp("labels"), labels=labels)
        with pytest.raises(DataError, match=f"got labels of {FEW_SHAPES3D.names[j]} in another order"):
            Shapes3D(path.parent, FEW_SHAPES3D)


class TestNumbered:
    @pytest.mark.parametrize("dtype", ["<f4", ">f4", "<f8", ">f8"])
    @pytest.mark.parametrize(
        ("name", "labels"), [("falcor3d", "train-rec.labels"), ("isaac3d", "labels.npy")], ids=["falcor3d", "isaac3d"]
    )
    def test_labels_of_any_width_and_byte_order(
        self, name: str, labels: str, dtype: str, written: Path, tmp_path: Path
    ) -> None:
        _, reader, factors = WRITTEN[name]
        (tmp_path / "images").symlink_to(written / name / "images")
        found = np.load(written / name / labels).astype(dtype)
        write_array(tmp_path / labels, found)
        values = factors.values(torch.arange(0, len(factors), 7))
        assert torch.equal(said(reader(tmp_path, factors=factors).images(values), factors), values)
        found[5, 0] += 0.01
        write_array(tmp_path / labels, found)
        with pytest.raises(DataError, match=rf"{labels}: got .* for {factors.names[0]} of image 5, expected 0.0000"):
            reader(tmp_path, factors=factors)

    def test_folders_may_have_the_names_of_the_archives(
        self, written: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
    ) -> None:
        monkeypatch.setenv("LATENTFLOW_DATA", str(tmp_path))
        (tmp_path / "Falcor3D_down128").symlink_to(written / "falcor3d")
        (tmp_path / "Isaac3D_down128").symlink_to(written / "isaac3d")
        assert len(Falcor3D(factors=FEW_FALCOR3D).factors) == len(FEW_FALCOR3D)
        assert len(Isaac3D(factors=FEW_ISAAC3D).factors) == len(FEW_ISAAC3D)

    @given(gone=st.integers(0, len(FEW_FALCOR3D) - 1))
    def test_a_missing_image_is_named(self, written: Path, gone: int) -> None:
        path = written / "falcor3d" / "images" / f"{gone:06d}.png"
        away = path.rename(written / "away.png")
        try:
            with pytest.raises(DataError, match=f"got no {path.name} among {len(FEW_FALCOR3D) - 1} PNG files"):
                Falcor3D(written / "falcor3d", factors=FEW_FALCOR3D)
        finally:
            away.rename(path)

    @pytest.mark.parametrize("name", ["000216.png", "1.png", "000001 (1).png"])
    def test_an_image_too_many_is_named(self, falcor: Path, name: str) -> None:
        (falcor / "images" / name).write_bytes(b"")
        with pytest.raises(DataError, match=r"got 217 PNG files with .*expected 216, 000000.png to 000215.png"):
            Falcor3D(falcor, factors=FEW_FALCOR3D)

    def test_what_is_no_png_may_lie_beside(self, falcor: Path) -> None:
        (falcor / "images" / "Thumbs.db").write_bytes(b"")
        Falcor3D(falcor, factors=FEW_FALCOR3D)

    @pytest.mark.parametrize(
        ("labels", "message"),
        [
            (np.zeros((215, 7)), r"got \(215, 7\) of float64, expected \(216, 7\) of floats; unpack it again"),
            (np.zeros(216), r"got \(216,\) of float64"),
            (np.zeros((216, 7), np.int64), r"got \(216, 7\) of int64"),
            (np.zeros((216, 9), np.float32), "these are the labels of Isaac3D, not of Falcor3D"),
            (
                np.zeros((216, 7)),
                "got 0.0 for lighting_intensity of image 108, expected 1.0000; these are not the labels of",
            ),
            (np.full((216, 7), np.nan), "got nan for lighting_intensity of image 0"),
            (every(FEW_FALCOR3D)[:, ::-1] / 2.0, "got 0.5 for lighting_intensity of image 1, expected 0.0000"),
            (np.full((216, 7), None), "got Object arrays cannot be loaded .* expected a whole .npy file of numbers"),
        ],
    )
    def test_other_labels_are_refused(self, falcor: Path, labels: np.ndarray, message: str) -> None:
        write_array(falcor / "train-rec.labels", labels)
        with pytest.raises(DataError, match=f"train-rec.labels: .*{message}"):
            Falcor3D(falcor, factors=FEW_FALCOR3D)

    def test_labels_that_would_run_code_do_not(self, falcor: Path) -> None:
        write_array(falcor / "train-rec.labels", np.array(Code(falcor / "ran"), dtype=object))
        with pytest.raises(DataError, match=r"train-rec.labels: got"):
            Falcor3D(falcor, factors=FEW_FALCOR3D)
        assert not (falcor / "ran").exists()

    def test_an_archive_of_arrays_is_refused(self, falcor: Path) -> None:
        with (falcor / "train-rec.labels").open("wb") as file:
            np.savez(file, labels=np.zeros((216, 7)))
        with pytest.raises(DataError, match=r"train-rec.labels: got several arrays, expected one"):
            Falcor3D(falcor, factors=FEW_FALCOR3D)

    @given(data=st.data())
    def test_cut_labels_are_refused(self, data: st.DataObject, written: Path, tmp_path_factory: Any) -> None:
        folder = tmp_path_factory.mktemp("cut")
        (folder / "images").symlink_to(written / "falcor3d" / "images")
        whole = (written / "falcor3d" / "train-rec.labels").read_bytes()
        (folder / "train-rec.labels").write_bytes(whole[: data.draw(st.integers(0, len(whole) - 1))])
        with pytest.raises(DataError, match=r"train-rec.labels: got .* expected"):
            Falcor3D(folder, factors=FEW_FALCOR3D)

    def test_the_folder_of_the_other_data_set_is_named(self, written: Path) -> None:
        with pytest.raises(DataError, match=r"isaac3d: got no train-rec.labels, .*this is a folder of Isaac3D"):
            Falcor3D(written / "isaac3d")
        with pytest.raises(DataError, match=r"falcor3d: got no labels.npy, .*this is a folder of Falcor3D"):
            Isaac3D(written / "falcor3d")

    def test_missing_labels_are_named(self, falcor: Path) -> None:
        (falcor / "train-rec.labels").unlink()
        with pytest.raises(DataError, match=r"falcor3d: got no train-rec.labels, .*unpack the archive again"):
            Falcor3D(falcor, factors=FEW_FALCOR3D)

    @pytest.mark.parametrize("number", [0, 108, 215], ids=["first", "middle", "last"])
    def test_three_images_are_looked_at_when_it_is_opened(self, falcor: Path, number: int) -> None:
        Image.new("RGB", (1024, 1024)).save(falcor / "images" / f"{number:06d}.png")
        with pytest.raises(DataError, match=rf"{number:06d}.png: got 1024x1024, expected 128x128"):
            Falcor3D(falcor, factors=FEW_FALCOR3D)

    def test_all_others_are_looked_at_when_they_are_read(self, falcor: Path) -> None:
        Image.new("RGB", (128, 64)).save(falcor / "images" / "000007.png")
        Image.new("RGB", (128, 128)).save(falcor / "images" / "000008.png", format="JPEG")
        reader = Falcor3D(falcor, factors=FEW_FALCOR3D)
        for number, message in ((7, "got 128x64, expected 128x128"), (8, "got .* expected a whole PNG file")):
            with pytest.raises(DataError, match=rf"{number:06d}.png: {message}"):
                reader.images(FEW_FALCOR3D.values(torch.tensor([number])))

    @given(data=st.data())
    def test_cut_and_changed_images_are_named(self, data: st.DataObject, written: Path, tmp_path_factory: Any) -> None:
        whole = (written / "falcor3d" / "images" / "000100.png").read_bytes()
        place = data.draw(st.integers(0, len(whole) - 13))  # the last twelve bytes are an empty chunk
        changed = whole[:place] + bytes([whole[place] ^ data.draw(st.integers(1, 255))]) + whole[place + 1 :]
        path = tmp_path_factory.mktemp("damaged") / "000100.png"
        for damaged in (whole[:place], changed):
            path.write_bytes(damaged)
            with pytest.raises(DataError, match=r"000100.png: got .*expected a whole PNG file; unpack it again"):
                read_png(path)

    @pytest.mark.parametrize("mode", ["RGBA", "P", "L"])
    def test_images_of_other_modes_come_in_colour(self, falcor: Path, mode: str) -> None:
        path = falcor / "images" / "000007.png"
        with Image.open(path) as image:
            expected = image.convert(mode).convert("RGB")
            image.convert(mode).save(path)
        images = Falcor3D(falcor, factors=FEW_FALCOR3D).images(FEW_FALCOR3D.values(torch.tensor([7])))
        np.testing.assert_array_equal(images[0].permute(1, 2, 0), np.array(expected))

    def test_images_put_in_later_are_decoded_anew(self, falcor: Path) -> None:
        values = FEW_FALCOR3D.values(torch.tensor([7]))
        Falcor3D(falcor, factors=FEW_FALCOR3D).images(values)
        path = falcor / "images" / "000007.png"
        path.unlink()
        Image.new("RGB", (128, 128), (1, 2, 3)).save(path)
        os.utime(falcor / "images", ns=(0, 0))  # some file systems tell times in steps
        images = Falcor3D(falcor, factors=FEW_FALCOR3D).images(values)
        assert images[0, :, 0, 0].tolist() == [1, 2, 3]


class Code:
    """What would make a folder if it were unpickled."""

    def __init__(self, path: Path) -> None:
        self.path = path

    def __reduce__(self) -> tuple[object, tuple[str]]:
        return os.mkdir, (str(self.path),)


class TestDSprites:
    def test_what_would_run_code_does_not(self, tmp_path: Path) -> None:
        for name in ("metadata", "imgs", "latents_classes"):
            path = write_dsprites(tmp_path, **{name: np.array(Code(tmp_path / "ran"), dtype=object)})
            if name == "metadata":
                DSprites(tmp_path, FEW_DSPRITES)
            else:
                with pytest.raises(DataError, match=f"{path.name}: got .* expected"):
                    DSprites(tmp_path, FEW_DSPRITES)
            assert not (tmp_path / "ran").exists()

    @pytest.mark.parametrize("at_once", [1, 7, 360, 4096])
    def test_is_the_same_however_much_is_unpacked_at_once(
        self, at_once: int, written: Path, monkeypatch: pytest.MonkeyPatch
    ) -> None:
        monkeypatch.setattr(dsprites_file, "_AT_ONCE", at_once)
        values = FEW_DSPRITES.values(torch.arange(len(FEW_DSPRITES)))
        assert torch.equal(said(DSprites(written / "dsprites", FEW_DSPRITES).images(values), FEW_DSPRITES), values)

    @pytest.mark.parametrize("version", [(1, 0), (2, 0)])
    def test_arrays_of_both_versions_of_the_format(self, version: tuple[int, int], tmp_path: Path) -> None:
        values = every(FEW_DSPRITES)
        with zipfile.ZipFile(tmp_path / dsprites_file.FILE, "w") as archive:
            classes = np.column_stack((np.zeros(len(values), np.int64), values))
            for name, array in (("imgs", drawn(values, 64)), ("latents_classes", classes.astype(">i8"))):
                with archive.open(f"{name}.npy", "w") as file:
                    np.lib.format.write_array(file, array, version)
        found = DSprites(tmp_path, FEW_DSPRITES).images(torch.from_numpy(values))
        assert torch.equal(said(found, FEW_DSPRITES), torch.from_numpy(values))

    @pytest.mark.parametrize(
        ("changes", "message"),
        [
            ({"imgs": None}, "imgs.npy"),
            ({"latents_classes": None}, "latents_classes.npy"),
            (
                {"imgs": np.zeros((359, 64, 64), np.uint8)},
                r"got imgs \(359, 64, 64\) of uint8, expected \(360, 64, 64\)",
            ),
            ({"imgs": np.zeros((360, 64, 64), bool)}, "of bool, expected"),
            ({"imgs": np.zeros((360, 64, 64), np.uint8, "F")}, "expected"),
            ({"imgs": np.full((360, 64, 64), 255, np.uint8)}, "got imgs up to 255, expected .* in .0, 1."),
            ({"latents_classes": np.zeros((360, 6), np.int64)}, r"got latents_classes \(360, 6\) in another order"),
            ({"latents_classes": np.zeros((360, 5), np.int64)}, r"got latents_classes \(360, 5\)"),
        ],
    )
    def test_other_files_are_refused(self, tmp_path: Path, changes: dict[str, Any], message: str) -> None:
        path = write_dsprites(tmp_path, **changes)
        with pytest.raises(DataError, match=f"{path.name}: .*{message}.*download it again"):
            DSprites(tmp_path, FEW_DSPRITES)

    @given(data=st.data())
    def test_no_cut_file_is_read(self, data: st.DataObject, written: Path, tmp_path_factory: Any) -> None:
        whole = (written / "dsprites" / dsprites_file.FILE).read_bytes()
        path = tmp_path_factory.mktemp("cut") / dsprites_file.FILE
        path.write_bytes(whole[: data.draw(st.integers(0, len(whole) - 1))])
        with pytest.raises(DataError, match=rf"{path.name}: got .* expected"):
            DSprites(path.parent, FEW_DSPRITES)

    @given(data=st.data())
    def test_damaged_images_are_refused_or_right(
        self, data: st.DataObject, written: Path, tmp_path_factory: Any
    ) -> None:
        whole = (written / "dsprites" / dsprites_file.FILE).read_bytes()
        with zipfile.ZipFile(written / "dsprites" / dsprites_file.FILE) as archive:
            member = archive.getinfo("imgs.npy")
        first = member.header_offset + 30 + len(member.filename) + 20  # the name is followed by 20 bytes for sizes
        place = data.draw(st.integers(first, first + member.compress_size - 1))
        path = tmp_path_factory.mktemp("damaged") / dsprites_file.FILE
        path.write_bytes(whole[:place] + bytes([whole[place] ^ 0xFF]) + whole[place + 1 :])
        values = torch.from_numpy(every(FEW_DSPRITES))
        with contextlib.suppress(DataError):  # not all bits of a compressed file matter
            assert torch.equal(said(DSprites(path.parent, FEW_DSPRITES).images(values), FEW_DSPRITES), values)


REAL_SAMPLES = [
    pytest.param(
        name,
        factors,
        marks=pytest.mark.skipif(
            not (data_folder() / f"{name}_samples").is_dir(), reason=f"no {name}_samples in $LATENTFLOW_DATA"
        ),
    )
    for name, factors in (("falcor3d", FALCOR3D), ("isaac3d", ISAAC3D))
]


class TestSamples:
    @pytest.mark.parametrize(("name", "factors"), REAL_SAMPLES)
    def test_the_real_ones_move_in_every_factor(self, name: str, factors: Factors) -> None:
        """Neighbouring frames of the same scene would be equal; a small object's colour is the least that changes, by 0.13."""
        found = samples(name)
        assert tuple(found) == factors.names
        for size, (factor, frames) in zip(factors.sizes, found.items(), strict=True):
            assert frames.shape == (size, 3, 128, 128)
            assert frames.dtype == torch.uint8
            steps = (frames[1:].float() - frames[:-1].float()).abs().mean((1, 2, 3))
            assert (steps > 0.05).all(), factor
        light = found["lighting_intensity"].float().mean((1, 2, 3))
        assert (light.diff() > 0).all(), "frames in another order"

    @pytest.fixture
    def folder(self, tmp_path: Path) -> Path:
        """Sequences under the right names; the colour of a frame says of which factor and value it is."""
        for j, (factor, size) in enumerate(zip(FALCOR3D.names, FALCOR3D.sizes, strict=True)):
            (tmp_path / f"{j}_{factor}").mkdir()
            for t in range(size):
                Image.new("RGB", (128, 128), (j, t, 9)).save(tmp_path / f"{j}_{factor}" / f"{t}.png")
        return tmp_path

    def test_frames_are_in_the_order_of_factors_and_values(self, folder: Path) -> None:
        for j, (factor, frames) in enumerate(samples("falcor3d", folder).items()):
            assert factor == FALCOR3D.names[j]
            assert frames[:, :, 5, 6].tolist() == [[j, t, 9] for t in range(FALCOR3D.sizes[j])]

    @pytest.mark.parametrize(
        ("old", "new", "message"),
        [
            ("3_lighting_z-dir", "3_lighting_w-dir", "got .*3_lighting_w-dir, .*expected the folders"),
            ("3_lighting_z-dir", "../away", "got .*expected the folders"),
            (
                "0_lighting_intensity/2.png",
                "0_lighting_intensity/5.png",
                "0_lighting_intensity: got .*expected 0.png to 4.png",
            ),
            ("6_camera_z-pos/5.png", "../away.png", "6_camera_z-pos: got .*expected 0.png to 5.png"),
            ("1_lighting_x-dir/0.png", "0_lighting_intensity/5.png", "0_lighting_intensity: got"),
        ],
    )
    def test_other_folders_are_refused(self, folder: Path, old: str, new: str, message: str) -> None:
        (folder / old).rename(folder / new)
        with pytest.raises(DataError, match=message):
            samples("falcor3d", folder)

    def test_the_other_data_set_is_refused(self, folder: Path, tmp_path: Path) -> None:
        with pytest.raises(DataError, match="expected the folders 0_object_shape"):
            samples("isaac3d", folder)
        with pytest.raises(DataError, match="nowhere: got no such folder"):
            samples("isaac3d", tmp_path / "nowhere")
        with pytest.raises(ValueError, match="name: got 'cars3d', expected one of falcor3d, isaac3d"):
            samples("cars3d")
