"""Images are kept whoever writes them: several at once, one that is killed, or one that finds no room."""

import errno
import fcntl
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

from tests.stored_images import SHAPE, SOURCE, all_right, opened, truth

# A process of its own: it fills blocks 0 to 6 one after another, and ends itself before one of its writes.
KILLED = """
import os, signal, sys
import numpy as np
sys.path[:0] = {paths!r}
from pathlib import Path
from data import store as stores
from tests.stored_images import opened

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
from tests.stored_images import all_right, opened
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
