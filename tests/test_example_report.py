"""What a run shows: on 80 columns or more, numbers are whole."""

import io
import signal
from pathlib import Path

import progress
import pytest
import report
import stopping
import sweep
import torch
from rich.console import Console

ROW = {"error": 578612.3, "identity": 223714.9, "black": 779234.5, "autoencoded": 578954.1, "folds": 0.0}
NAME = "falcor3d, lighting_intensity"


def shown(width: int, monkeypatch: pytest.MonkeyPatch) -> str:
    file = io.StringIO()
    monkeypatch.setattr(
        report, "Console", lambda **_: Console(file=file, width=width, force_terminal=True, no_color=True)
    )
    report.show({"transformations": {NAME: ROW}})
    return file.getvalue()


@pytest.mark.parametrize("width", [80, 100, 200])
def test_numbers_are_whole(width: int, monkeypatch: pytest.MonkeyPatch) -> None:
    said = shown(width, monkeypatch)
    for number in ("578612.3", "223714.9", "2.586", "779234.5", "578954.1", "0.00 %"):
        assert number in said
    assert "…" not in said
    assert (NAME in said) == (width > 80)


def test_the_numbers_of_a_sweep_are_whole(monkeypatch: pytest.MonkeyPatch) -> None:
    file = io.StringIO()
    monkeypatch.setattr(sweep, "console", lambda: Console(file=file, width=80, force_terminal=True, no_color=True))
    row = {figure: {"mean": 0.1234, "deviation": 0.0567} for figure in sweep.SHOWN.values()}
    sweep._show({"start label, no initial term": row})
    assert file.getvalue().count("0.123 ") == file.getvalue().count("±0.057 ") == len(sweep.SHOWN)
    assert "…" not in file.getvalue()


def test_in_a_file_names_are_whole_too(capsys: pytest.CaptureFixture[str]) -> None:
    report.show({"transformations": {NAME: ROW}})
    assert NAME in capsys.readouterr().out


@pytest.mark.parametrize("width", [80, 200])
def test_on_a_terminal_steps_and_time_are_whole(width: int, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    file = io.StringIO()
    monkeypatch.setattr(
        progress, "Console", lambda: Console(file=file, width=width, force_terminal=True, no_color=True)
    )
    with progress.Progress(tmp_path, 0, 1000, lambda x: x, writes=True) as bar:
        for step in range(1, 26):
            bar(step, {f"a loss with a long name, {n}": torch.tensor(1.0) for n in range(4)})
    line = [line for line in file.getvalue().splitlines() if "steps/s" in line][-1]
    assert " 25/1000 " in line
    assert " steps/s 0:00:0" in line
    assert " left " in line
    assert ("…" in line) == (width == 80)


@pytest.mark.parametrize("number", [signal.SIGINT, signal.SIGTERM])
def test_an_evaluation_may_be_stopped(number: signal.Signals, capsys: pytest.CaptureFixture[str]) -> None:
    before = signal.getsignal(number)
    with pytest.raises(SystemExit) as stopped, stopping.stoppable():
        signal.raise_signal(number)
    assert stopped.value.code == 128 + number
    assert "the same command with --resume evaluates it" in capsys.readouterr().out
    assert signal.getsignal(number) == before
