"""The sequences of the examples against kornia and against the floors of the literature; damaged files against their errors."""

import gzip
import math
import struct

import kornia
import pytest
import torch
from data import mnist as mnist_files
from data.digits import digits
from data.files import DataError, data_folder
from data.mnist import mnist, read_idx
from data.moving_digits import DIGITS, render
from data.transformations import levels_of, switching_levels
from hypothesis import given
from hypothesis import strategies as st

from latentflow.metrics import identity_error

STEPS = 8


def all_single(images: torch.Tensor, k: int, steps: int = STEPS) -> torch.Tensor:
    return DIGITS.single(images, k, steps)


@given(k=st.sampled_from([0, 1]), t=st.integers(0, STEPS), side=st.sampled_from([16, 28]), seed=st.integers(0, 99))
def test_warps_are_those_of_kornia(k: int, t: int, side: int, seed: int) -> None:
    images = torch.rand(2, side, side, generator=torch.Generator().manual_seed(seed))
    scale, angle = (1 + 0.1 * t, 0.0) if k == 0 else (1.0, 10.0 * t)
    centre = torch.full((2, 2), side / 2)
    matrix = kornia.geometry.get_rotation_matrix2d(centre, torch.full((2,), angle), torch.full((2, 2), scale))
    truth = kornia.geometry.warp_affine(images[:, None], matrix, (side, side), align_corners=True)[:, 0]
    frames = all_single(images, k)
    torch.testing.assert_close(frames[:, t, 0], truth, atol=5e-5, rtol=0)
    assert frames[:, :, 1:].abs().max() == 0  # a digit lives in the red channel


@given(t=st.integers(0, STEPS), seed=st.integers(0, 99))
def test_hues_are_those_of_kornia(t: int, seed: int) -> None:
    images = torch.rand(2, 16, 16, generator=torch.Generator().manual_seed(seed))
    red = torch.stack((images, torch.zeros_like(images), torch.zeros_like(images)), 1)
    truth = kornia.enhance.adjust_hue(red, math.radians(20.0 * t))
    torch.testing.assert_close(all_single(images, 2)[:, t], truth, atol=1e-5, rtol=0)


@pytest.mark.parametrize("k", range(3))
def test_sequences_start_at_the_image_itself(k: int) -> None:
    images = torch.rand(3, 16, 16)
    # Pixel coordinates up to 16 are rounded to float32, and each is off by a few times 1e-6.
    torch.testing.assert_close(all_single(images, k)[:, 0, 0], images, atol=1e-5, rtol=0)


def test_a_switch_applies_the_second_transformation_to_the_first_ones_result() -> None:
    images = torch.rand(2, 16, 16)
    first, second = torch.tensor([0, 2]), torch.tensor([1, 0])
    frames = render(images, switching_levels(first, second, STEPS, 3))
    alone = render(images, levels_of(first, STEPS, 3))
    torch.testing.assert_close(frames[:, : STEPS // 2 + 1], alone[:, : STEPS // 2 + 1])
    # Rotating by 40 degrees at size 1.4, from the image in one warp.
    both = torch.tensor([[[4.0, 4.0, 0.0]], [[4.0, 0.0, 4.0]]])
    torch.testing.assert_close(frames[:, -1:], render(images, both))


def test_digits_are_split_once_and_for_all() -> None:
    training, held_out = digits()
    assert training.shape == (1437, 16, 16)
    assert held_out.shape == (360, 16, 16)
    assert training.min() >= 0
    assert training.max() <= 1
    assert torch.equal(held_out, digits()[1])
    gaps = (held_out[:, None] - training[None]).abs().amax((2, 3))
    assert (gaps.amin(1) > 0).all(), "a held-out digit is also in the training set"


@pytest.mark.skipif(not (data_folder() / "mnist").is_dir(), reason="no MNIST in $LATENTFLOW_DATA")
def test_identity_floors_of_mnist() -> None:
    _, test = mnist(download=False)
    floors = [torch.cat([identity_error(all_single(part, k)) for part in test.split(1000)]).mean() for k in range(3)]
    torch.testing.assert_close(torch.stack(floors), torch.tensor([1333.77, 895.94, 1246.70]), atol=0.05, rtol=0)
    assert len(DIGITS.names) == 3


def idx(*shape: int) -> bytes:
    return b"\x00\x00\x08" + bytes([len(shape)]) + struct.pack(f">{len(shape)}I", *shape) + bytes(math.prod(shape))


@given(cut=st.integers(0, len(idx(3, 2, 2)) - 1), grown=st.integers(1, 9))
def test_truncated_and_padded_idx_are_named(cut: int, grown: int, tmp_path_factory: pytest.TempPathFactory) -> None:
    whole = idx(3, 2, 2)
    assert read_idx(whole, "whole").shape == (3, 2, 2)
    for damaged in (whole[:cut], whole + bytes(grown)):
        with pytest.raises(DataError, match=r"damaged: got .* expected"):
            read_idx(damaged, "damaged")


@given(magic=st.binary(min_size=3, max_size=3).filter(lambda m: m != b"\x00\x00\x08"))
def test_other_files_are_no_idx(magic: bytes) -> None:
    with pytest.raises(DataError, match="IDX"):
        read_idx(magic + idx(3, 2, 2)[3:], "other")


class TestMnistFiles:
    """A folder of small files under MNIST's names, with their own hashes."""

    @pytest.fixture(autouse=True)
    def files(self, tmp_path, monkeypatch):
        self.folder, self.mirror = tmp_path / "mnist", tmp_path / "mirror"
        self.mirror.mkdir()
        hashes = {}
        for name, content in (("train-images-idx3-ubyte", idx(5, 4, 4)), ("t10k-images-idx3-ubyte", idx(2, 4, 4))):
            (self.mirror / f"{name}.gz").write_bytes(gzip.compress(content))
            hashes[name] = mnist_files.hashlib.md5(content).hexdigest()
        monkeypatch.setattr(mnist_files, "HASHES", hashes)
        monkeypatch.setattr(mnist_files, "MIRRORS", ((tmp_path / "gone").as_uri() + "/", self.mirror.as_uri() + "/"))

    def test_downloads_what_is_missing_from_the_first_mirror_that_has_it(self) -> None:
        train, test = mnist(self.folder)
        assert (train.shape, test.shape) == ((5, 4, 4), (2, 4, 4))
        assert sorted(path.name for path in self.folder.iterdir()) == sorted(
            path.name for path in self.mirror.iterdir()
        )

    def test_a_wrong_download_never_lands(self) -> None:
        (self.mirror / "train-images-idx3-ubyte.gz").write_bytes(gzip.compress(idx(5, 4, 4)[:-1] + b"\x01"))
        with pytest.raises(DataError, match="md5"):
            mnist(self.folder)
        assert not self.folder.exists()

    def test_missing_files_say_where_they_are_expected(self) -> None:
        with pytest.raises(DataError, match="LATENTFLOW_DATA"):
            mnist(self.folder, download=False)

    @given(data=st.data())
    def test_no_damaged_file_is_read(self, data: st.DataObject) -> None:
        mnist(self.folder)
        path = self.folder / "t10k-images-idx3-ubyte.gz"
        whole = (self.mirror / path.name).read_bytes()
        place = data.draw(st.integers(10, len(whole) - 1))  # the gzip header before it holds nothing but a time stamp
        kind = data.draw(st.sampled_from(["cut", "flip"]))
        flipped = whole[:place] + bytes([whole[place] ^ 0xFF]) + whole[place + 1 :]
        path.write_bytes(whole[:place] if kind == "cut" else flipped)
        try:
            with pytest.raises(DataError, match=r"got .* expected"):
                mnist(self.folder, download=False)
        finally:
            path.write_bytes(whole)

    def test_plain_files_are_read_too(self) -> None:
        self.folder.mkdir()
        for packed in self.mirror.iterdir():
            (self.folder / packed.stem).write_bytes(gzip.decompress(packed.read_bytes()))
        assert mnist(self.folder, download=False)[0].shape == (5, 4, 4)

    def test_another_data_set_of_the_same_form_is_refused(self) -> None:
        mnist(self.folder)
        (self.folder / "train-images-idx3-ubyte.gz").write_bytes(gzip.compress(bytes(idx(5, 4, 4)[:-1] + b"\x07")))
        with pytest.raises(DataError, match="other bytes"):
            mnist(self.folder, download=False)
