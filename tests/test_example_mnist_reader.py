"""MNIST: IDX files, packed or plain, found or downloaded, whole, cut, damaged or of something else."""

import gzip

import pytest
from data import mnist as mnist_files
from data.files import DataError
from data.mnist import mnist, read_idx
from hypothesis import given
from hypothesis import strategies as st

from tests.data_files import idx


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
