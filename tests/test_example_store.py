"""Decoded images are kept: each is decoded once, and none is ever wrong, whoever is killed, full or in the way."""

import errno
import fcntl
import json
import os
import pickle
import signal
import subprocess
import sys
import threading
from collections import Counter
from pathlib import Path
from types import SimpleNamespace

import numpy as np
import pytest
from data import store as stores
from data.store import Store
from hypothesis import given
from hypothesis import strategies as st

SHAPE = (3, 5, 3)
SOURCE = {"file": "images", "bytes": 7}


def truth(rows: np.ndarray) -> np.ndarray:
    """Every byte of every image differs from its neighbours, and none is nought."""
    place = np.arange(np.prod(SHAPE)).reshape(SHAPE)
    return (1 + (17 * rows[:, None, None, None] + place) % 255).astype(np.uint8)


class Decoder:
    """Decodes blocks, and counts how often each."""

    def __init__(self, count: int, block: int) -> None:
        self.count, self.block, self.reads = count, block, Counter()

    def __call__(self, number: int) -> np.ndarray:
        self.reads[number] += 1
        return truth(np.arange(number * self.block, min((number + 1) * self.block, self.count)))


def opened(path: Path, count: int = 20, block: int = 3, source: dict = SOURCE) -> tuple[Store, Decoder]:
    decoder = Decoder(count, block)
    return Store(path, count, SHAPE, block, decoder, source), decoder


def all_right(store: Store, rows: np.ndarray | None = None) -> bool:
    rows = np.arange(store.count) if rows is None else rows
    return np.array_equal(store(rows), truth(rows))


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


# A process of its own: it fills blocks 0 to 6 one after another, and ends itself before one of its writes.
KILLED = """
import os, signal, sys
import numpy as np
sys.path[:0] = {paths!r}
from pathlib import Path
from data import store as stores
from tests.test_example_store import opened

writes, write = 0, stores._write
def killed(*arguments):
    global writes
    if writes == {before}:
        os.kill(os.getpid(), signal.SIGKILL)
    if writes == {before} - 1 and {half}:
        file, content, offset = arguments
        arguments = file, memoryview(content)[: len(content) // 2], offset
    writes += 1
    write(*arguments)
stores._write = killed
store, _ = opened(Path(sys.argv[1]))
for row in range(0, 20, 3):
    store(np.array([row]))
"""


@pytest.mark.parametrize(("before", "half", "kept"), [(4, False, 2), (5, False, 2), (5, True, 2)])
def test_who_is_killed_loses_one_block(tmp_path: Path, before: int, half: bool, kept: int) -> None:
    """Writes 0, 2, ... are images, writes 1, 3, ... the checksums that say they are there."""
    root = Path(__file__).parents[1]
    script = KILLED.format(paths=[str(root), str(root / "examples")], before=before, half=half)
    ended = subprocess.run([sys.executable, "-c", script, tmp_path / "images"], capture_output=True, check=False)
    assert ended.returncode == -signal.SIGKILL, ended.stderr.decode()
    store, decoder = opened(tmp_path / "images")
    assert all_right(store)
    assert decoder.reads == Counter(range(kept, 7))


def test_two_threads_may_fill_the_same_block(tmp_path: Path) -> None:
    both = threading.Barrier(2, timeout=60)

    def together(number: int) -> np.ndarray:
        both.wait()  # neither goes on before the other is decoding the same block
        return truth(np.arange(3 * number, 3 * number + 3))

    store = Store(tmp_path / "images", 6, SHAPE, 3, together, SOURCE)
    found: list[np.ndarray] = []
    threads = [threading.Thread(target=lambda: found.append(store(np.array([1, 0])))) for _ in range(2)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert len(found) == 2
    assert all((images == truth(np.array([1, 0]))).all() for images in found)
    assert (store(np.array([0, 1, 2])) == truth(np.arange(3))).all()  # from the file: a third would wait for a fourth


def test_processes_may_fill_one_store(tmp_path: Path) -> None:
    root = Path(__file__).parents[1]
    script = f"""
import sys
sys.path[:0] = {[str(root), str(root / "examples")]!r}
from pathlib import Path
from tests.test_example_store import all_right, opened
store, _ = opened(Path(sys.argv[1]), 3000, 7)
print("ready", flush=True)
sys.stdin.readline()
sys.exit(not all_right(store))
"""
    processes = [
        subprocess.Popen(
            [sys.executable, "-c", script, tmp_path / "images"],
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            text=True,
        )
        for _ in range(2)
    ]
    with processes[0] as first, processes[1] as second:
        assert [process.stdout.readline() for process in (first, second)] == ["ready\n"] * 2
        for process in (first, second):
            process.stdin.write("\n")
            process.stdin.flush()
        assert [process.wait() for process in (first, second)] == [0, 0]
    store, decoder = opened(tmp_path / "images", 3000, 7)
    assert all_right(store)
    assert not decoder.reads


def test_one_at_a_time_makes_the_file(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    refused = 0

    def another_comes(_: Path) -> SimpleNamespace:
        nonlocal refused
        with (tmp_path / "images.json").open("a") as record:
            try:
                fcntl.flock(record, fcntl.LOCK_EX | fcntl.LOCK_NB)
            except BlockingIOError:
                refused += 1
        return SimpleNamespace(free=10**12)

    monkeypatch.setattr(stores.shutil, "disk_usage", another_comes)
    opened(tmp_path / "images")
    assert refused == 2  # while it is made, and while it is opened
    with (tmp_path / "images.json").open("a") as record:
        fcntl.flock(record, fcntl.LOCK_EX | fcntl.LOCK_NB)


def test_for_another_process_it_is_opened_again(tmp_path: Path) -> None:
    store, _ = opened(tmp_path / "images")
    assert all_right(store)
    travelled = pickle.dumps(store)
    assert len(travelled) < 1000
    other = pickle.loads(travelled)
    assert all_right(other)
    assert not other._read.reads - store._read.reads


def test_without_room_nothing_is_kept_and_all_is_right(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(stores.shutil, "disk_usage", lambda _: SimpleNamespace(free=100))
    with pytest.warns(UserWarning, match=r"images: got .* GB needed, expected room"):
        store, decoder = opened(tmp_path / "images")
    assert not (tmp_path / "images").exists()
    assert all_right(store)
    assert all_right(store)
    assert decoder.reads == Counter(dict.fromkeys(range(7), 2))


def test_without_room_for_the_rest_what_is_there_is_still_used(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    opened(tmp_path / "images")[0](np.arange(6))
    monkeypatch.setattr(stores.shutil, "disk_usage", lambda _: SimpleNamespace(free=100))
    with pytest.warns(UserWarning, match="expected room"):
        store, decoder = opened(tmp_path / "images")
    assert all_right(store)
    assert decoder.reads == Counter(range(2, 7))


def test_a_whole_store_needs_no_more_room(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    all_right(opened(tmp_path / "images")[0])
    monkeypatch.setattr(stores.shutil, "disk_usage", lambda _: SimpleNamespace(free=0))
    store, decoder = opened(tmp_path / "images", block=3)
    assert all_right(store)
    assert not decoder.reads


def test_a_disk_that_fills_up_is_told_of_and_all_is_right(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    write, room = os.pwrite, 200

    def full(file: int, content: bytes, offset: int) -> int:
        nonlocal room
        fits = min(room, len(content))
        if not fits:
            raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))
        room -= fits
        return write(file, content[:fits], offset)

    store, _ = opened(tmp_path / "images")
    monkeypatch.setattr(stores.os, "pwrite", full)
    store(np.arange(3))
    with pytest.warns(UserWarning, match="No space left"):
        assert all_right(store, np.array([4]))
    monkeypatch.undo()
    assert all_right(store)
    again, decoder = opened(tmp_path / "images")
    assert all_right(again)
    assert decoder.reads == Counter(range(1, 7)), "a block of which only a part was written is taken for whole"


def test_writes_may_come_in_parts(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    write = os.pwrite
    monkeypatch.setattr(stores.os, "pwrite", lambda file, content, offset: write(file, content[:7], offset))
    store, _ = opened(tmp_path / "images")
    assert all_right(store)
    assert all_right(store)
    again, decoder = opened(tmp_path / "images")
    assert all_right(again)
    assert not decoder.reads


def test_a_folder_that_cannot_be_written_is_told_of(tmp_path: Path) -> None:
    (tmp_path / "file").write_text("not a folder")
    with pytest.warns(UserWarning, match="keep the store elsewhere"):
        store, _ = opened(tmp_path / "file" / "images")
    assert all_right(store)


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


def test_the_benchmark_of_loading_tells_rates(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    from data.factors import FALCOR3D, SHAPES3D, Factors

    from benchmarks import loading  # not above: the processes of other tests start without it

    monkeypatch.setenv("LATENTFLOW_DATA", str(tmp_path))  # no samples there
    monkeypatch.setattr(loading, "PNG", Factors(FALCOR3D.names, (2, 3, 2, 1, 1, 1, 1)))
    monkeypatch.setattr(loading, "HDF5", Factors(SHAPES3D.names, (10, 10, 10, 1, 1, 1)))
    monkeypatch.setattr(loading, "CHUNKS", (1000, 32, 32, 1))
    found = loading.measure(repeats=1)
    assert set(found) == {"PNG, 128x128, gradients", "HDF5, 64x64"}
    assert all(rate > 0 for rates in found.values() for rate in rates.values())
