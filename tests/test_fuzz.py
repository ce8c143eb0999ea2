"""A few damaged files of each kind; ``python -m tests.fuzz`` takes thousands. And that the fuzzer sees what it looks for."""

import io
import pickle
import re
import sys
import zipfile
from collections import Counter
from pathlib import Path

import numpy as np
import pytest

from tests.fuzz import CHANGED, REFUSED, UNCHANGED, Trial, fuzz, lines, table
from tests.fuzz_cases import CASES, Case
from tests.fuzzing import BYTES, FOLDER, HOSTILE, inside_zip, mutated, write_files


def test_no_reader_breaks_and_none_is_deceived() -> None:
    outcomes: dict[str, Counter[str]] = {name: Counter() for name in CASES}
    bad = []
    for name, number, outcome in fuzz(list(CASES), 0, 60, seed=0):
        outcomes[name][outcome] += 1
        if outcome not in (REFUSED, UNCHANGED, CHANGED):
            bad.append((name, number, outcome))
    assert not bad
    for name, found in outcomes.items():
        assert found.total() == 60
        assert found[UNCHANGED] + found[CHANGED] > 0 or CASES[name].sound, "nothing comes behind the first check"
        assert found[REFUSED] > 15 or name == "store", "which makes anew what is damaged"
        assert not (found[CHANGED] and CASES[name].sound)
    assert table(outcomes, dict.fromkeys(CASES, 0.0)).count("\n") == 1 + len(CASES)


FILES = {
    "a/first": bytes(range(256)),
    "a/second": b"",
    "b": b"\x89PNG\r\n\x1a\n" + bytes(30),
    "c": b"PK",
    "d": b"\x1f\x8b",
}


def test_damage_is_the_same_for_the_same_seed_and_other_for_another(tmp_path: Path) -> None:
    many = [mutated(FILES, np.random.default_rng(seed), tmp_path) for seed in range(500)]
    again = [mutated(FILES, np.random.default_rng(seed), tmp_path) for seed in range(500)]
    assert many == again
    assert len({repr(files) for files in many}) > 200
    assert FILES not in many


def test_a_damaged_archive_is_not_dated_by_the_clock(tmp_path: Path) -> None:
    packed = io.BytesIO()
    np.savez(packed, first=np.arange(3), second=np.arange(4))
    damaged = inside_zip(packed.getvalue(), np.random.default_rng(0), tmp_path)
    assert damaged != packed.getvalue()
    with zipfile.ZipFile(io.BytesIO(damaged)) as archive:
        assert {member.date_time for member in archive.infolist()} == {(1980, 1, 1, 0, 0, 0)}


@pytest.mark.parametrize("damage", BYTES)
def test_bytes_of_any_number_can_be_damaged(damage) -> None:
    for seed in range(200):
        rng = np.random.default_rng(seed)
        assert isinstance(damage(rng.bytes(seed % 20), rng), bytes)


@pytest.mark.parametrize("damage", FOLDER)
def test_folders_of_any_number_of_files_can_be_damaged(damage) -> None:
    for seed in range(100):
        files = dict(list(FILES.items())[: 1 + seed % len(FILES)])
        damage(files, sorted(files)[seed % len(files)], np.random.default_rng(seed))
        assert not any(str(parent) in files for name in files for parent in Path(name).parents)


@pytest.mark.parametrize("hostile", HOSTILE)
def test_hostile_files_have_the_code_in_them(hostile, tmp_path: Path) -> None:
    assert b"mkdir" in hostile(tmp_path / "ran")
    assert not (tmp_path / "ran").exists()


SOUND = pickle.dumps([1, 2, 3])


def careless(folder: Path) -> object:
    try:
        return pickle.loads((folder / "file").read_bytes())
    except Exception as error:
        raise ValueError(f"{folder}: {error}") from error


def silent(folder: Path) -> object:
    if (folder / "file").read_bytes() != SOUND:
        raise ValueError("something is wrong")
    return 0


def clumsy(folder: Path) -> object:
    return [0][(folder / "file").read_bytes() != SOUND]


def trusting(folder: Path) -> object:
    return (folder / "file").read_bytes()


@pytest.mark.parametrize(
    ("load", "outcome"),
    [
        (careless, "RAN CODE, then refused|RAN CODE, then CHANGED, UNSEEN"),
        (silent, "NO FILE NAMED: ValueError: something is wrong"),
        (clumsy, "UNDOCUMENTED: IndexError: list index out of range"),
        (trusting, "CHANGED, UNSEEN"),
    ],
)
def test_careless_readers_are_found(load, outcome: str, tmp_path: Path) -> None:
    trial = Trial("reader", Case(lambda folder: write_files({"file": SOUND}, folder), load, True), tmp_path)
    found = [trial(0, number) for number in range(100)]
    assert any(re.fullmatch(outcome, each) for each in found)
    assert sorted(tmp_path.iterdir()) == [], "what one file leaves behind is there for the next"


def test_what_no_hash_could_tell_is_no_failure(tmp_path: Path) -> None:
    case = Case(lambda folder: write_files({"file": SOUND}, folder), trusting, False)
    trial = Trial("reader", case, tmp_path)
    assert {trial(0, number) for number in range(300)} == {REFUSED, UNCHANGED, CHANGED}


# Speaks as a worker does, and ends itself at some files: in the middle, twice in a row, at the last and at the first of a case.
DYING = """
import json, os, signal, sys
options = sys.argv.index("--first")
names, (first, start, end) = sys.argv[1:options], map(int, sys.argv[options + 1 : options + 6 : 2])
for name in names:
    for number in range(start if name == names[0] else first, end):
        if name + str(number) in ("a1", "b0", "b3", "b4", "c4"):
            os.kill(os.getpid(), signal.SIGSEGV)
        print(json.dumps((name, number, "refused")), flush=True)
"""


def test_after_a_crash_it_goes_on_with_the_next_file() -> None:
    found = list(fuzz(["a", "b", "c"], 0, 5, 0, (sys.executable, "-c", DYING)))
    assert [(name, number) for name, number, _ in found] == [(name, number) for name in "abc" for number in range(5)]
    crashed = [name + str(number) for name, number, outcome in found if outcome == "CRASH: killed by signal 11"]
    assert crashed == ["a1", "b0", "b3", "b4", "c4"]
    assert {outcome for _, _, outcome in found} == {REFUSED, "CRASH: killed by signal 11"}


@pytest.mark.parametrize(
    ("script", "end"),
    [
        ("print('one')", "done"),
        ("import sys; sys.exit(3)", "ended with 3"),
        ("import os; os.abort()", "killed by signal 6"),
        ("while True: pass", "took too long"),
        ("import time; time.sleep(10**6)", "took too long"),
    ],
)
def test_every_end_of_a_process_is_told(script: str, end: str) -> None:
    assert list(lines([sys.executable, "-c", script], 20 if end != "took too long" else 0.3))[-1] == end
