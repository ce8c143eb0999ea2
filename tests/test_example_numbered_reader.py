"""Falcor3D and Isaac3D: folders of numbered PNG files with labels, whole, cut, damaged or of something else."""

import os
import shutil
import struct
import zlib
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from data.files import DataError
from data.numbered import Falcor3D, Isaac3D, read_png
from hypothesis import given
from hypothesis import strategies as st
from PIL import Image

from tests.data_files import FEW_FALCOR3D, FEW_ISAAC3D, WRITTEN, every, said, write_array
from tests.fuzzing import Code


@pytest.fixture
def falcor(written: Path, tmp_path: Path) -> Path:
    """A copy to damage, of which nothing is decoded yet."""
    kept = shutil.ignore_patterns("*.decoded*")
    return Path(shutil.copytree(written / "falcor3d", tmp_path / "falcor3d", ignore=kept))


@pytest.mark.parametrize("dtype", ["<f4", ">f4", "<f8", ">f8"])
@pytest.mark.parametrize(
    ("name", "labels"), [("falcor3d", "train-rec.labels"), ("isaac3d", "labels.npy")], ids=["falcor3d", "isaac3d"]
)
def test_labels_of_any_width_and_byte_order(name: str, labels: str, dtype: str, written: Path, tmp_path: Path) -> None:
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
    written: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("LATENTFLOW_DATA", str(tmp_path))
    (tmp_path / "Falcor3D_down128").symlink_to(written / "falcor3d")
    (tmp_path / "Isaac3D_down128").symlink_to(written / "isaac3d")
    assert len(Falcor3D(factors=FEW_FALCOR3D).factors) == len(FEW_FALCOR3D)
    assert len(Isaac3D(factors=FEW_ISAAC3D).factors) == len(FEW_ISAAC3D)


@given(gone=st.integers(0, len(FEW_FALCOR3D) - 1))
def test_a_missing_image_is_named(written: Path, gone: int) -> None:
    path = written / "falcor3d" / "images" / f"{gone:06d}.png"
    away = path.rename(written / "away.png")
    try:
        with pytest.raises(DataError, match=f"got no {path.name} among {len(FEW_FALCOR3D) - 1} PNG files"):
            Falcor3D(written / "falcor3d", factors=FEW_FALCOR3D)
    finally:
        away.rename(path)


@pytest.mark.parametrize("name", ["000216.png", "1.png", "000001 (1).png"])
def test_an_image_too_many_is_named(falcor: Path, name: str) -> None:
    (falcor / "images" / name).write_bytes(b"")
    with pytest.raises(DataError, match=r"got 217 PNG files with .*expected 216, 000000.png to 000215.png"):
        Falcor3D(falcor, factors=FEW_FALCOR3D)


def test_what_is_no_png_may_lie_beside(falcor: Path) -> None:
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
def test_other_labels_are_refused(falcor: Path, labels: np.ndarray, message: str) -> None:
    write_array(falcor / "train-rec.labels", labels)
    with pytest.raises(DataError, match=f"train-rec.labels: .*{message}"):
        Falcor3D(falcor, factors=FEW_FALCOR3D)


def test_labels_that_would_run_code_do_not(falcor: Path) -> None:
    write_array(falcor / "train-rec.labels", np.array(Code(falcor / "ran"), dtype=object))
    with pytest.raises(DataError, match=r"train-rec.labels: got"):
        Falcor3D(falcor, factors=FEW_FALCOR3D)
    assert not (falcor / "ran").exists()


def test_an_archive_of_arrays_is_refused(falcor: Path) -> None:
    with (falcor / "train-rec.labels").open("wb") as file:
        np.savez(file, labels=np.zeros((216, 7)))
    with pytest.raises(DataError, match=r"train-rec.labels: got several arrays, expected one"):
        Falcor3D(falcor, factors=FEW_FALCOR3D)


@given(data=st.data())
def test_cut_labels_are_refused(data: st.DataObject, written: Path, tmp_path_factory: Any) -> None:
    folder = tmp_path_factory.mktemp("cut")
    (folder / "images").symlink_to(written / "falcor3d" / "images")
    whole = (written / "falcor3d" / "train-rec.labels").read_bytes()
    (folder / "train-rec.labels").write_bytes(whole[: data.draw(st.integers(0, len(whole) - 1))])
    with pytest.raises(DataError, match=r"train-rec.labels: got .* expected"):
        Falcor3D(folder, factors=FEW_FALCOR3D)


def test_the_folder_of_the_other_data_set_is_named(written: Path) -> None:
    with pytest.raises(DataError, match=r"isaac3d: got no train-rec.labels, .*this is a folder of Isaac3D"):
        Falcor3D(written / "isaac3d")
    with pytest.raises(DataError, match=r"falcor3d: got no labels.npy, .*this is a folder of Falcor3D"):
        Isaac3D(written / "falcor3d")


def test_missing_labels_are_named(falcor: Path) -> None:
    (falcor / "train-rec.labels").unlink()
    with pytest.raises(DataError, match=r"falcor3d: got no train-rec.labels, .*unpack the archive again"):
        Falcor3D(falcor, factors=FEW_FALCOR3D)


@pytest.mark.parametrize("number", [0, 108, 215], ids=["first", "middle", "last"])
def test_three_images_are_looked_at_when_it_is_opened(falcor: Path, number: int) -> None:
    Image.new("RGB", (1024, 1024)).save(falcor / "images" / f"{number:06d}.png")
    with pytest.raises(DataError, match=rf"{number:06d}.png: got 1024x1024, expected 128x128"):
        Falcor3D(falcor, factors=FEW_FALCOR3D)


def test_all_others_are_looked_at_when_they_are_read(falcor: Path) -> None:
    Image.new("RGB", (128, 64)).save(falcor / "images" / "000007.png")
    Image.new("RGB", (128, 128)).save(falcor / "images" / "000008.png", format="JPEG")
    reader = Falcor3D(falcor, factors=FEW_FALCOR3D)
    for number, message in ((7, "got 128x64, expected 128x128"), (8, "got .* expected a whole PNG file")):
        with pytest.raises(DataError, match=rf"{number:06d}.png: {message}"):
            reader.images(FEW_FALCOR3D.values(torch.tensor([number])))


@given(data=st.data())
def test_cut_and_changed_images_are_named(data: st.DataObject, written: Path, tmp_path_factory: Any) -> None:
    whole = (written / "falcor3d" / "images" / "000100.png").read_bytes()
    place = data.draw(st.integers(0, len(whole) - 13))  # the last twelve bytes are an empty chunk
    changed = whole[:place] + bytes([whole[place] ^ data.draw(st.integers(1, 255))]) + whole[place + 1 :]
    path = tmp_path_factory.mktemp("damaged") / "000100.png"
    for damaged in (whole[:place], changed):
        path.write_bytes(damaged)
        with pytest.raises(DataError, match=r"000100.png: got .*expected a whole PNG file; unpack it again"):
            read_png(path)


@pytest.mark.parametrize("mode", ["RGBA", "P", "L"])
def test_images_of_other_modes_come_in_colour(falcor: Path, mode: str) -> None:
    path = falcor / "images" / "000007.png"
    with Image.open(path) as image:
        expected = image.convert(mode).convert("RGB")
        image.convert(mode).save(path)
    images = Falcor3D(falcor, factors=FEW_FALCOR3D).images(FEW_FALCOR3D.values(torch.tensor([7])))
    np.testing.assert_array_equal(images[0].permute(1, 2, 0), np.array(expected))


def test_images_put_in_later_are_decoded_anew(falcor: Path) -> None:
    values = FEW_FALCOR3D.values(torch.tensor([7]))
    Falcor3D(falcor, factors=FEW_FALCOR3D).images(values)
    path = falcor / "images" / "000007.png"
    path.unlink()
    Image.new("RGB", (128, 128), (1, 2, 3)).save(path)
    os.utime(falcor / "images", ns=(0, 0))  # some file systems tell times in steps
    images = Falcor3D(falcor, factors=FEW_FALCOR3D).images(values)
    assert images[0, :, 0, 0].tolist() == [1, 2, 3]


def test_an_image_without_pixels_is_named(falcor: Path) -> None:
    """Pillow has an IndexError for it."""
    path = falcor / "images" / "000000.png"
    whole = path.read_bytes()
    end = whole.index(b"IDAT") - 4
    path.write_bytes(whole[:end] + whole[-12:])
    with pytest.raises(DataError, match=r"000000.png: got .*expected a whole PNG file"):
        Falcor3D(falcor, factors=FEW_FALCOR3D)


def test_an_image_that_says_it_is_huge_is_named(falcor: Path) -> None:
    """Checksums right; nothing of that size is made."""
    path = falcor / "images" / "000000.png"
    whole = path.read_bytes()
    for side in (16_000, 100_000):
        header = b"IHDR" + struct.pack(">II", side, side) + whole[24:29]
        path.write_bytes(whole[:12] + header + struct.pack(">I", zlib.crc32(header)) + whole[33:])
        with pytest.raises(DataError, match=r"000000.png: got .*expected "):
            Falcor3D(falcor, factors=FEW_FALCOR3D)
