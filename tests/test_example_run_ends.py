"""Every way in which a run can end: done, killed and resumed, asked to stop, or with a loss that is not finite."""

import dataclasses
import itertools
import json
import os
import re
import signal
import subprocess
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import checkpoints
import pytest
import torch
import train as loop
from torch import Tensor

from tests.short_runs import SCRIPT, SHORT, Killed, draw, ready, rows, weights


def started(out: Path, *options: str, saved: int = 1) -> subprocess.Popen[str]:
    """The script, in the background, with a checkpoint of this step or a later one made."""
    env = {**os.environ, "GLOO_SOCKET_IFNAME": "lo"}
    process = subprocess.Popen([*SCRIPT, *options, "--out", str(out)], stdout=subprocess.PIPE, text=True, env=env)
    for _ in range(12000):  # ten minutes at least
        folder = checkpoints.last(out)
        if folder is not None and int(folder.name) >= saved:
            return process
        assert process.poll() is None, "it ended before it saved anything"
        time.sleep(0.05)  # to look all the time would take a core from it
    process.kill()
    raise AssertionError(f"no checkpoint of step {saved}")


@pytest.mark.parametrize(
    ("changes", "saved"),
    [
        ("--steps 40 --supervision labels", 3),
        ("--steps 40 --supervision none", 12),
        ("--steps 16 --networks small --muon 0.05", 6),
    ],
)
def test_killed_somewhere_and_resumed_it_is_the_uninterrupted_run(changes: str, saved: int, tmp_path: Path) -> None:
    """SIGKILL, wherever the process happens to be then; final weights, log and results are the same bit for bit."""
    options = ["--batch", "6", "--save-every", "3", *changes.split()]
    whole, cut = tmp_path / "whole", tmp_path / "cut"
    assert subprocess.run([*SCRIPT, *options, "--out", str(whole)], capture_output=True).returncode == 0
    process = started(cut, *options, saved=saved)
    process.kill()
    process.communicate()
    assert not (cut / "results.json").exists()
    said = subprocess.run([*SCRIPT, *options, "--out", str(cut), "--resume"], capture_output=True, text=True)
    assert said.returncode == 0, said.stderr
    one, two = weights(whole), weights(cut)
    assert one.keys() == two.keys()
    assert all(torch.equal(one[name], two[name]) for name in one)
    assert (whole / "log.csv").read_bytes() == (cut / "log.csv").read_bytes()
    if "none" in changes:
        assert two["selector.temperature"] < 1
    found = [json.loads((out / "results.json").read_text()) for out in (whole, cut)]
    assert {**found[0], "seconds": 0} == {**found[1], "seconds": 0}
    assert not list(cut.glob("checkpoints/.partial-*"))


@pytest.mark.parametrize("at", [0, 2, 3, 4, 5, 6, 8, 10, 11, 13, 15, 16])
def test_killed_within_a_save_it_still_has_a_whole_checkpoint(
    at: int, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Before changes to the disk of every kind that three saves make, of which the third drops a checkpoint: there are 17."""
    run = dataclasses.replace(SHORT, out=tmp_path, steps=3, save_every=1)
    fabric, model, _, _ = ready()
    loop.claim(fabric, run, "mnist")
    done = 0

    def deadly(change: Any) -> Any:
        def changed(*args: Any, **options: Any) -> Any:
            nonlocal done
            if done == at:
                raise Killed
            done += 1
            return change(*args, **options)

        return changed

    with monkeypatch.context() as patch:
        for owner, name in (
            (Path, "mkdir"), (Path, "rename"), (checkpoints, "save_model"), (torch, "save"), (checkpoints, "write"),
            (checkpoints.shutil, "rmtree"),
        ):  # fmt: skip
            patch.setattr(owner, name, deadly(getattr(owner, name)))
        with pytest.raises(Killed):
            loop.train(fabric, model, draw, run)
    if checkpoints.last(tmp_path) is None:
        assert at < 7, "folders, model, state, hashes and its name: by then there is one"
        with pytest.raises(ValueError, match="no checkpoint"):
            loop.claim(fabric, dataclasses.replace(run, resume=True), "mnist")
        return
    again = dataclasses.replace(run, resume=True)
    loop.claim(fabric, again, "mnist")
    _, fresh, _, _ = ready()
    loop.train(fabric, fresh, draw, again)
    assert len(rows(tmp_path)) == 3
    whole = dataclasses.replace(run, out=tmp_path / "whole")
    _, uninterrupted, _, _ = ready()
    loop.claim(fabric, whole, "mnist")
    loop.train(fabric, uninterrupted, draw, whole)
    assert all(
        torch.equal(a, b) for a, b in zip(fresh.state_dict().values(), uninterrupted.state_dict().values(), strict=True)
    )
    assert sorted(left.name for left in (tmp_path / "checkpoints").iterdir()) == [f"{2:08d}", f"{3:08d}"]


def test_two_processes_asked_to_stop_save_first(tmp_path: Path) -> None:
    """The first, which saves, gets the signal; the other must neither go on without it nor have it killed."""
    options = ["--steps", "100000", "--batch", "6", "--save-every", "5", "--devices", "2"]
    process = started(tmp_path, *options)
    process.terminate()
    said, _ = process.communicate(timeout=600)
    assert process.returncode == 128 + signal.SIGTERM
    (step,) = re.findall(r"stopped after step (\d+), which is saved", said)
    folder = checkpoints.last(tmp_path)
    assert folder is not None
    assert folder.name == f"{int(step):08d}"


def drawing(at: int, happens: Callable[[], object]) -> loop.Draw:
    """The usual batches; with the one of this number, counted from 1, something happens."""
    numbers = itertools.count(1)

    def draw_and(count: int, *_: int) -> tuple[Tensor, Tensor]:
        if next(numbers) == at:
            happens()
        return draw(count)

    return draw_and


@pytest.mark.parametrize("number", [signal.SIGTERM, signal.SIGINT])
def test_asked_to_stop_it_saves_first(number: signal.Signals, tmp_path: Path) -> None:
    run = dataclasses.replace(SHORT, out=tmp_path, steps=9, save_every=9)
    fabric, model, _, _ = ready()
    loop.claim(fabric, run, "mnist")
    before = signal.getsignal(number)
    with pytest.raises(SystemExit) as stopped:
        loop.train(fabric, model, drawing(4, lambda: os.kill(os.getpid(), number)), run)
    assert stopped.value.code == 128 + number
    assert signal.getsignal(number) is before
    folder = checkpoints.last(tmp_path)
    assert folder is not None
    assert folder.name == f"{4:08d}"
    assert len(rows(tmp_path)) == 4


def test_a_loss_that_is_not_finite_is_named_with_its_step(tmp_path: Path) -> None:
    fabric, model, _, _ = ready()
    run = dataclasses.replace(SHORT, out=tmp_path, save_every=6)
    loop.claim(fabric, run, "mnist")
    spoil = drawing(3, lambda: torch.nn.init.constant_(model.decoder.palette[-1].bias, float("nan")))
    with pytest.raises(ValueError, match=r"loss: got .* at step 3, expected finite terms; lower --learning-rate"):
        loop.train(fabric, model, spoil, run)
    assert [row["step"] for row in rows(tmp_path)] == ["1", "2"]
    assert not list(tmp_path.glob("checkpoints/*"))


@pytest.mark.parametrize("steps", [1, 2, 9, 10, 11, 20])
def test_a_run_may_be_of_any_length(steps: int, tmp_path: Path) -> None:
    run = dataclasses.replace(SHORT, out=tmp_path, steps=steps, batch=3)
    fabric, model, _, _ = ready()
    loop.claim(fabric, run, "mnist")
    loop.train(fabric, model, draw, run)
    assert len(rows(tmp_path)) == steps
