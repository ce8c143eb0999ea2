"""The shapes that no digit is: drawn, and those of dSprites, read from its own file."""

import os
import zipfile
from functools import partial
from pathlib import Path

import numpy as np
import pytest
import torch
from data import dsprites as dsprites_file
from data.dsprites import dsprites
from data.factors import Factors
from data.files import DataError
from data.shapes import shapes
from torch.nn import functional as F


class TestShapes:
    def test_are_pictures_of_three_kinds(self) -> None:
        images = shapes(30, 28)
        assert images.shape == (30, 28, 28)
        assert images.min() == 0
        assert images.max() == 1
        assert torch.equal(images, shapes(30, 28))
        assert not torch.equal(images, shapes(30, 28, seed=1))
        border = torch.cat((images[:, 0], images[:, -1], images[:, :, 0], images[:, :, -1]), 1)
        assert border.max() == 0, "a shape is cut off"
        squares, ellipses, _ = (images[kind::3].sum((1, 2)) for kind in range(3))
        # Half a side of 0.8 r, and half axes of r and 0.6 r, with r between a sixth and a third of the side.
        for area, least, most in ((squares, 2.56 / 36, 2.56 / 9), (ellipses, 0.6 * np.pi / 36, 0.6 * np.pi / 9)):
            assert (area >= 0.97 * least * 28**2).all()
            assert (area <= 1.03 * most * 28**2).all()

    @pytest.fixture
    def few(self, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
        five = Factors(("posX",), (5,))
        monkeypatch.setattr(dsprites_file, "DSprites", partial(dsprites_file.DSprites, factors=five))
        return tmp_path

    def write(self, folder: Path, **arrays: np.ndarray) -> Path:
        path = folder / dsprites_file.FILE
        np.savez_compressed(path, latents_classes=np.stack((np.zeros(5, np.int64), np.arange(5)), 1), **arrays)
        return path

    def test_of_dsprites_are_read_without_running_what_is_in_the_file(self, few: Path) -> None:
        class Code:
            def __reduce__(self) -> tuple[object, tuple[str]]:
                return os.mkdir, (str(few / "ran"),)

        images = np.zeros((5, 64, 64), np.uint8)
        images[:, 16:48, 16:48] = 1
        self.write(few, imgs=images, metadata=np.array(Code(), dtype=object), latents_values=np.zeros((5, 6)))
        found = dsprites(3, 16, folder=few)
        assert found is not None
        assert found.shape == (3, 16, 16)
        assert found.sum().item() == 3 * 8 * 8
        assert not (few / "ran").exists()

    @pytest.mark.parametrize(("count", "side", "seed"), [(3, 16, 0), (7, 28, 5), (2, 64, 1)])
    def test_of_dsprites_are_chosen_as_ever(self, few: Path, count: int, side: int, seed: int) -> None:
        """Numbers that were published with them stay comparable."""
        images = np.random.default_rng(1).integers(2, size=(5, 64, 64), dtype=np.uint8)
        self.write(few, imgs=images)
        chosen = torch.from_numpy(images[np.random.default_rng(seed).integers(5, size=count)]).float()
        found = dsprites(count, side, seed, few)
        assert found is not None
        assert torch.equal(found, F.interpolate(chosen[:, None], (side, side), mode="area")[:, 0])

    def test_without_the_file_there_are_none(self, tmp_path: Path) -> None:
        assert dsprites(3, 16, folder=tmp_path) is None

    @pytest.mark.parametrize(
        "images",
        [np.zeros((4, 64, 64), np.uint8), np.zeros((5, 64, 64)), np.full((5, 64, 64), 255, np.uint8)],
        ids=["too few", "floats", "0 to 255"],
    )
    def test_of_another_file_are_refused(self, few: Path, images: np.ndarray) -> None:
        self.write(few, imgs=images)
        with pytest.raises(DataError, match="expected"):
            dsprites(3, 16, folder=few)

    def test_of_a_damaged_file_are_refused(self, few: Path) -> None:
        path = self.write(few, imgs=np.random.default_rng(0).integers(2, size=(5, 64, 64), dtype=np.uint8))
        whole = path.read_bytes()
        path.write_bytes(whole[: len(whole) // 2])
        with pytest.raises(DataError, match="download it again"):
            dsprites(3, 16, folder=few)
        with zipfile.ZipFile(path, "w") as empty:
            empty.writestr("else.txt", "")
        with pytest.raises(DataError, match="download it again"):
            dsprites(3, 16, folder=few)
