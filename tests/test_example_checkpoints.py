"""Checkpoints know the hashes of their files: damage is named, with the way back, and nothing in a file ever runs."""

import hashlib
import json
import shutil
from pathlib import Path

import checkpoints
import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st

from tests.fuzz_cases import SETTINGS, digest, rehashed, resume, write_run
from tests.fuzzing import HOSTILE, Code, read_files, write_files

LAST, BEFORE = "checkpoints/00000002", "checkpoints/00000001"
PARTS = ["model.safetensors", "state.pt", "files.json"]


@pytest.fixture
def run(tmp_path: Path) -> Path:
    write_run(tmp_path)
    return tmp_path


def test_every_file_has_its_hash(run: Path) -> None:
    for folder in (LAST, BEFORE):
        hashes = json.loads((run / folder / "files.json").read_text())
        files = read_files(run / folder)
        del files["files.json"]
        assert hashes == {name: hashlib.sha256(content).hexdigest() for name, content in files.items()}


@given(data=st.data(), name=st.sampled_from(PARTS[:2]), cut=st.booleans())
def test_any_damage_is_named_with_both_hashes_and_the_way_back(
    data: st.DataObject, name: str, cut: bool, tmp_path_factory: pytest.TempPathFactory
) -> None:
    run = tmp_path_factory.mktemp("run")
    write_run(run)
    path = run / LAST / name
    whole = path.read_bytes()
    place = data.draw(st.integers(0, len(whole) - 1))
    damaged = whole[:place] + (b"" if cut else bytes([whole[place] ^ 1]) + whole[place + 1 :])
    path.write_bytes(damaged)
    expected, found = (hashlib.sha256(content).hexdigest() for content in (whole, damaged))
    with pytest.raises(ValueError, match=f"{path}: got SHA-256 {found}, expected {expected}") as refused:
        resume(run)
    assert f"delete {run / LAST}, and --resume goes on from 00000001" in str(refused.value)
    shutil.rmtree(run / LAST)
    assert resume(run)[0] == 1


@pytest.mark.parametrize("name", PARTS)
def test_a_missing_file_is_named(run: Path, name: str) -> None:
    (run / LAST / name).unlink()
    with pytest.raises(
        ValueError, match=rf"{LAST}/{name}: got no .*delete .*{LAST}, and --resume goes on from 00000001"
    ):
        resume(run)


@pytest.mark.parametrize("name", PARTS)
def test_a_damaged_checkpoint_is_not_recommended(run: Path, name: str) -> None:
    for folder in (LAST, BEFORE):
        (run / folder / name).write_bytes(b"")
    with pytest.raises(ValueError, match=rf"{LAST}/{name}: got .*: start with --overwrite"):
        resume(run)


@pytest.mark.parametrize("record", [b"{", b"[]", b"\xff", b"[" * 100_000, b"1" * 10_000])
@pytest.mark.parametrize("name", [f"{LAST}/files.json", "settings.json"])
def test_a_damaged_record_is_named(run: Path, name: str, record: bytes) -> None:
    (run / name).write_bytes(record)
    with pytest.raises(ValueError, match=f"{name}: got .*, expected a JSON object"):
        resume(run)


def test_a_renamed_checkpoint_is_named(run: Path) -> None:
    (run / LAST).rename(run / "checkpoints/00000003")
    with pytest.raises(ValueError, match=r"00000003: got step 2, expected .* after 3 steps"):
        resume(run)


def test_others_of_the_name_are_no_checkpoints(run: Path) -> None:
    (run / "checkpoints/00000009").write_text("a file")
    (run / "checkpoints/00000009.bak").mkdir()
    assert checkpoints.last(run) == run / LAST
    (run / "checkpoints/100000000").mkdir()
    assert checkpoints.last(run) == run / "checkpoints/100000000", "as numbers, not as names"


def test_a_damaged_log_stops_nothing(run: Path) -> None:
    (run / "log.csv").write_bytes(b"step,loss\n\xff\xfe\n2,0.2\n3,0.3\n")
    resume(run)
    assert (run / "log.csv").read_bytes() == b"step,loss\n\xff\xfe\n2,0.2\n"


@pytest.mark.parametrize("known", [False, True], ids=["other hash", "its hash"])
@pytest.mark.parametrize("hostile", HOSTILE)
@pytest.mark.parametrize("name", [f"{LAST}/{part}" for part in PARTS] + ["settings.json", "log.csv"])
def test_nothing_in_a_file_runs(run: Path, name: str, hostile: object, known: bool, tmp_path_factory) -> None:
    truth, marker = digest(resume(run)), tmp_path_factory.mktemp("marker") / "ran"
    files = read_files(run) | {name: hostile(marker)}
    write_files(rehashed(files) if known else files, run)
    if name == "log.csv" or (known and name == f"{LAST}/files.json"):  # the one is text, the other was made anew
        assert digest(resume(run)) == truth
    else:
        with pytest.raises(ValueError, match=f"{run}.*: got .* expected") as refused:
            resume(run)
        assert "arbitrary code" not in str(refused.value), "torch explains how to let the file run its code"
    assert not marker.exists()


def test_the_hostile_files_are_hostile(tmp_path: Path) -> None:
    """Else the test above would show nothing."""
    torch.save({"step": Code(tmp_path / "ran")}, tmp_path / "file")
    torch.load(tmp_path / "file", weights_only=False)
    assert (tmp_path / "ran").is_dir()


def test_other_settings_are_named_with_the_file_that_has_them(run: Path) -> None:
    with pytest.raises(
        ValueError, match=rf"got steps 21, expected steps 20, the settings of the run in {run}/settings.json"
    ):
        checkpoints.check(run, {**SETTINGS, "steps": 21}, resume=True, overwrite=False)


def test_a_file_is_no_folder_for_a_run(tmp_path: Path) -> None:
    file = tmp_path / "notes.txt"
    file.write_text("mine")
    with pytest.raises(ValueError, match=r"--out: got .*notes.txt, which is a file, expected a folder"):
        checkpoints.check(file, SETTINGS, resume=False, overwrite=True)
    assert file.read_text() == "mine"
