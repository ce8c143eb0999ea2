"""What a resumed run takes from its folder, so that nobody has to say it again."""

import dataclasses
import re
from pathlib import Path

import checkpoints
import mnist
import pytest
import shapes3d
from experiment import settings_of

RUN = mnist.Settings(
    **{**vars(mnist.PRESETS["cpu"]), "dim": 12, "held_out": 50, "decay": 0.25, "supervision": "none", "muon": 0.01}
)

NOTED = {"example": "mnist"} | RUN.noted() | RUN.measured()


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    checkpoints.claim(tmp_path, NOTED, resume=False)
    (tmp_path / "checkpoints" / "00000001").mkdir(parents=True)
    return tmp_path


def test_the_settings_of_the_run_need_not_be_given_again(folder: Path) -> None:
    resumed = mnist.settings_of(["--out", str(folder), "--resume"])
    assert resumed == dataclasses.replace(RUN, out=folder, resume=True)


def test_what_is_given_is_what_is_taken_for_the_check_to_refuse(folder: Path) -> None:
    resumed = mnist.settings_of(["--out", str(folder), "--resume", "--dim", "8", "--threads", "1"])
    assert resumed == dataclasses.replace(RUN, out=folder, resume=True, dim=8, threads=1)
    with pytest.raises(ValueError, match=r"got dim 8, expected dim 12, .*; leave these options out"):
        checkpoints.check(folder, resumed.noted(), resume=True, overwrite=False)
    shared = mnist.settings_of(["--out", str(folder), "--resume", "--accumulate", "2"])
    with pytest.raises(ValueError, match=r"got shares 2, expected shares 1, .*; give the same product of --devices"):
        checkpoints.check(folder, shared.noted(), resume=True, overwrite=False)


def test_a_folder_that_is_not_named_is_the_one_that_is_looked_at(folder: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Not that of the preset which its run had."""
    monkeypatch.setattr(mnist, "PRESETS", {**mnist.PRESETS, "demo": mnist.Settings(out=folder)})
    assert mnist.settings_of(["--resume"]) == dataclasses.replace(RUN, out=folder, resume=True)


def test_more_or_less_may_be_measured_of_a_run_that_is_resumed(folder: Path) -> None:
    resumed = mnist.settings_of(["--out", str(folder), "--resume", "--held-out", "7", "--variation-pairs", "30"])
    assert resumed.noted() == RUN.noted()
    assert resumed.reported() == RUN.reported() | {"held_out": 7}


def test_nothing_is_taken_where_nothing_is_resumed(folder: Path) -> None:
    assert mnist.settings_of(["--out", str(folder)]) == mnist.Settings(out=folder)
    assert mnist.settings_of(["--out", str(folder / "new"), "--resume"]) == mnist.Settings(
        out=folder / "new", resume=True
    )


def test_a_run_of_another_example_is_refused(folder: Path) -> None:
    with pytest.raises(ValueError, match="whose run has no side, expected one of this example and version"):
        settings_of(shapes3d.Settings, shapes3d.PRESETS, ["--out", str(folder), "--resume"], "")
    with pytest.raises(ValueError, match=r"got example 'other', expected example 'mnist', .*; run that example, or"):
        checkpoints.check(folder, NOTED | {"example": "other"}, resume=True, overwrite=False)


@pytest.mark.parametrize(
    "change",
    [
        {"steps": "many"},
        {"steps": 4.0},
        {"steps": 0},
        {"frames": []},
        {"precision": "f8"},
        {"bounded": "yes"},
        {"preset": ["demo"]},
        {"networks": "nothing"},
    ],
    ids=str,
)
def test_settings_that_cannot_be_are_named(folder: Path, change: dict[str, object]) -> None:
    checkpoints.write(folder / "settings.json", NOTED | change)
    with pytest.raises(
        ValueError, match=f"{re.escape(str(folder))}: got .*, expected settings that this example takes"
    ):
        mnist.settings_of(["--out", str(folder), "--resume"])


@pytest.mark.parametrize("arguments", [["--resume=True"], ["--out"], ["--preset"]])
def test_options_that_cannot_be_are_told_by_the_one_who_knows_all(
    arguments: list[str], capsys: pytest.CaptureFixture[str]
) -> None:
    with pytest.raises(SystemExit):
        mnist.settings_of(arguments)
    assert "--help" in capsys.readouterr().err


@pytest.mark.parametrize("name", mnist.PRESETS)
def test_every_preset_comes_back_from_its_notes(name: str, tmp_path: Path) -> None:
    settings = mnist.PRESETS[name]
    checkpoints.claim(tmp_path, {"example": "mnist"} | settings.noted() | settings.measured(), resume=False)
    resumed = mnist.settings_of(["--out", str(tmp_path), "--resume"])
    assert resumed == dataclasses.replace(settings, out=tmp_path, resume=True)
