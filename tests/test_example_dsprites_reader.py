"""dSprites: one archive of arrays, whole, cut, damaged, hostile or of something else."""

import contextlib
import zipfile
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from data import dsprites as dsprites_file
from data.dsprites import DSprites
from data.files import DataError
from hypothesis import given
from hypothesis import strategies as st

from tests.data_files import FEW_DSPRITES, drawn, every, said, write_dsprites
from tests.fuzzing import Code


def test_what_would_run_code_does_not(tmp_path: Path) -> None:
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
    at_once: int, written: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(dsprites_file, "_AT_ONCE", at_once)
    values = FEW_DSPRITES.values(torch.arange(len(FEW_DSPRITES)))
    assert torch.equal(said(DSprites(written / "dsprites", FEW_DSPRITES).images(values), FEW_DSPRITES), values)


@pytest.mark.parametrize("version", [(1, 0), (2, 0)])
def test_arrays_of_both_versions_of_the_format(version: tuple[int, int], tmp_path: Path) -> None:
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
        (
            {"latents_classes": np.zeros((360, 6), np.int64)},
            r"got latents_classes \(360, 6\) of int64 in another order",
        ),
        ({"latents_classes": np.zeros((360, 5), np.int64)}, r"got latents_classes \(360, 5\)"),
    ],
)
def test_other_files_are_refused(tmp_path: Path, changes: dict[str, Any], message: str) -> None:
    path = write_dsprites(tmp_path, **changes)
    with pytest.raises(DataError, match=f"{path.name}: .*{message}.*download it again"):
        DSprites(tmp_path, FEW_DSPRITES)


@given(data=st.data())
def test_no_cut_file_is_read(data: st.DataObject, written: Path, tmp_path_factory: Any) -> None:
    whole = (written / "dsprites" / dsprites_file.FILE).read_bytes()
    path = tmp_path_factory.mktemp("cut") / dsprites_file.FILE
    path.write_bytes(whole[: data.draw(st.integers(0, len(whole) - 1))])
    with pytest.raises(DataError, match=rf"{path.name}: got .* expected"):
        DSprites(path.parent, FEW_DSPRITES)


@given(data=st.data())
def test_damaged_images_are_refused_or_right(data: st.DataObject, written: Path, tmp_path_factory: Any) -> None:
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


@pytest.mark.parametrize("name", ["imgs", "latents_classes"])
def test_an_array_that_says_it_is_huge_is_named(name: str, tmp_path: Path) -> None:
    """Nothing of that size is made."""
    path = write_dsprites(tmp_path)
    with zipfile.ZipFile(path) as archive:
        members = {member: archive.read(member) for member in archive.namelist()}
    header = members[f"{name}.npy"][:128]
    members[f"{name}.npy"] = header.replace(b"(360", b"(360000000000").replace(b" " * 9 + b"\n", b"\n")
    assert len(members[f"{name}.npy"]) == 128
    with zipfile.ZipFile(path, "w") as archive:
        for member, content in members.items():
            archive.writestr(member, content)
    with pytest.raises(DataError, match=rf"{path.name}: got {name} \(360000000000, .* expected"):
        DSprites(tmp_path, FEW_DSPRITES)
