"""Decoded images are kept: each is decoded once, and none is ever wrong, whatever has become of the files."""

import json
from collections import Counter
from pathlib import Path

import numpy as np
import pytest
from data.store import Store
from hypothesis import given
from hypothesis import strategies as st

from tests.stored_images import SHAPE, SOURCE, all_right, opened, truth


@given(data=st.data(), count=st.integers(1, 30), block=st.integers(1, 40))
def test_each_block_is_decoded_once_however_often_it_is_asked_for(
    data: st.DataObject, count: int, block: int, tmp_path_factory: pytest.TempPathFactory
) -> None:
    path = tmp_path_factory.mktemp("store") / "images"
    rows = st.lists(st.integers(0, count - 1), max_size=40).map(lambda rows: np.array(rows, dtype=np.int64))
    store, decoder = opened(path, count, block)
    touched: set[int] = set()
    for asked in data.draw(st.lists(rows, min_size=1, max_size=4)):
        assert all_right(store, asked)
        touched |= set((asked // block).tolist())
        assert decoder.reads == Counter(touched)
    again, decoder = opened(path, count, block)
    assert all_right(again)
    assert decoder.reads == Counter(set(range(-(-count // block))) - touched), "another run decodes what is there"


def test_only_what_was_decoded_takes_room(tmp_path: Path) -> None:
    count = 100_000
    store, _ = opened(tmp_path / "images", count, block=1)
    assert all_right(store, np.array([0, count // 2, count - 1]))
    told = (tmp_path / "images").stat()
    assert told.st_size == count * np.prod(SHAPE) + 4 * count
    assert told.st_blocks * 512 < told.st_size / 10


@pytest.mark.parametrize("other", [{"file": "images", "bytes": 8}, {}], ids=["changed", "unknown"])
def test_what_was_made_from_another_file_is_made_anew(tmp_path: Path, other: dict) -> None:
    all_right(opened(tmp_path / "images")[0])
    store, decoder = opened(tmp_path / "images", source=other)
    assert all_right(store)
    assert sum(decoder.reads.values()) == 7
    again, decoder = opened(tmp_path / "images", source=other)
    assert all_right(again)
    assert not decoder.reads


@pytest.mark.parametrize("other", [(21, 3), (20, 4)], ids=["another count", "another block"])
def test_what_was_made_with_another_layout_is_made_anew(tmp_path: Path, other: tuple[int, int]) -> None:
    all_right(opened(tmp_path / "images")[0])
    store, decoder = opened(tmp_path / "images", *other)
    assert all_right(store)
    assert sum(decoder.reads.values()) == -(-other[0] // other[1])


@given(data=st.data(), which=st.sampled_from(["images", "images.json"]))
def test_cut_files_are_made_anew(data: st.DataObject, which: str, tmp_path_factory: pytest.TempPathFactory) -> None:
    folder = tmp_path_factory.mktemp("store")
    all_right(opened(folder / "images")[0])
    whole = (folder / which).read_bytes()
    (folder / which).write_bytes(whole[: data.draw(st.integers(0, len(whole) - 1))])
    store, decoder = opened(folder / "images")
    assert all_right(store)
    assert set(decoder.reads.values()) == {1}
    assert len(decoder.reads) == 7


@given(data=st.data())
def test_damaged_images_are_decoded_anew(data: st.DataObject, tmp_path_factory: pytest.TempPathFactory) -> None:
    """Of the images or of the checksums, by a bit, or by a power cut that leaves zeros."""
    path = tmp_path_factory.mktemp("store") / "images"
    all_right(opened(path)[0])
    before = path.read_bytes()
    whole = bytearray(before)
    place, size = data.draw(st.integers(0, len(whole) - 1)), data.draw(st.integers(1, 200))
    damage = data.draw(st.sampled_from([bytes(size), bytes([whole[place] ^ 16])]))[: len(whole) - place]
    whole[place : place + len(damage)] = damage
    path.write_bytes(whole)
    store, decoder = opened(path)
    assert all_right(store)
    assert bool(decoder.reads) == (whole != before)
    again, decoder = opened(path)
    assert all_right(again)
    assert not decoder.reads, "the damage stays"


@pytest.mark.parametrize(
    "record", [b"", b"{", b"\xff\xfe\x00", b"[" * 100_000], ids=["empty", "open", "no text", "deep"]
)
def test_any_other_record_is_that_of_another_store(tmp_path: Path, record: bytes) -> None:
    all_right(opened(tmp_path / "images")[0])
    (tmp_path / "images.json").write_bytes(record)
    store, decoder = opened(tmp_path / "images")
    assert all_right(store)
    assert len(decoder.reads) == 7


def test_what_could_not_be_decoded_is_not_there(tmp_path: Path) -> None:
    damaged = True

    def read(number: int) -> np.ndarray:
        if damaged and number == 1:
            raise ValueError("damaged")
        return truth(np.arange(3 * number, 3 * number + 3))

    store = Store(tmp_path / "images", 9, SHAPE, 3, read, SOURCE)
    with pytest.raises(ValueError, match="damaged"):
        store(np.arange(9))
    damaged = False
    assert all_right(store)


@pytest.mark.parametrize(
    "wrong", [np.ones((2, *SHAPE), np.uint8), np.ones((3, *SHAPE)), np.ones((3, 4, 5, 3), np.uint8)]
)
def test_nothing_of_another_size_is_written_over_its_neighbours(tmp_path: Path, wrong: np.ndarray) -> None:
    store = Store(tmp_path / "images", 9, SHAPE, 3, lambda number: wrong, SOURCE)
    with pytest.raises(ValueError, match=r"block 0 of .*images: got .* expected \(3, 3, 5, 3\) of uint8"):
        store(np.array([0]))
    assert not any((tmp_path / "images").read_bytes())


def test_the_record_says_what_the_images_were_made_from(tmp_path: Path) -> None:
    opened(tmp_path / "images")
    record = json.loads((tmp_path / "images.json").read_text())
    assert record == {"count": 20, "shape": list(SHAPE), "block": 3, "source": SOURCE}
