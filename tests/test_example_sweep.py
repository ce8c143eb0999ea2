"""Several runs in one command, and the presets that they start from."""

import dataclasses
import json
from pathlib import Path
from typing import ClassVar

import mnist as example
import numpy as np
import pytest
import sweep

SHORT = example.Settings(steps=2, batch=6, save_every=2, held_out=6, threads=1, accelerator="cpu")


class TestSweep:
    CHANGES: ClassVar = {"default": {}, "f = 0": {"force": "none"}}

    @pytest.fixture
    def base(self, tmp_path: Path) -> example.Settings:
        return dataclasses.replace(SHORT, out=tmp_path)

    def test_means_and_deviations_of_all_runs(self, base: example.Settings) -> None:
        sweep.sweep(self.CHANGES, base, seeds=2)
        summary = json.loads((base.out / "summary.json").read_text())
        assert list(summary["rows"]) == ["default", "f = 0"]
        errors = [
            json.loads((base.out / "f-=-0" / str(seed) / "results.json").read_text())["transformations"]["rotation"][
                "error"
            ]
            for seed in range(2)
        ]
        assert errors[0] != errors[1]
        found = summary["rows"]["f = 0"]["rotation error"]
        assert found == pytest.approx({"mean": np.mean(errors), "deviation": np.std(errors, ddof=1)})
        assert (
            summary["rows"]["default"]["residual force"]["mean"]
            > summary["rows"]["f = 0"]["residual force"]["mean"]
            == 0
        )

    def test_what_is_done_is_not_done_again_and_what_was_cut_goes_on(
        self, base: example.Settings, monkeypatch: pytest.MonkeyPatch
    ) -> None:
        sweep.sweep(self.CHANGES, base, seeds=1)
        done = base.out / "default" / "0"
        (done / "results.json").unlink()  # as if stopped after its last checkpoint
        seen = []
        run = example.main
        monkeypatch.setattr(example, "main", lambda settings: (seen.append(settings), run(settings)))
        sweep.sweep(self.CHANGES, base, seeds=1)
        assert [(settings.out, settings.resume) for settings in seen] == [(done, True)]
        (done / "results.json").unlink()
        (done / "checkpoints" / "00000002").rename(base.out / "elsewhere")  # as if stopped before its first checkpoint
        sweep.sweep(self.CHANGES, base, seeds=1)
        assert not seen[-1].resume

    def test_a_run_with_other_settings_is_not_overwritten_by_accident(self, base: example.Settings) -> None:
        sweep.sweep({"default": {}}, base, seeds=1)
        before = {path: path.read_bytes() for path in base.out.rglob("*") if path.is_file()}
        other = dataclasses.replace(base, batch=3)
        with pytest.raises(
            ValueError, match=r"--out: got .*, which holds a run with other settings \(batch\), expected these"
        ):
            sweep.sweep({"default": {}}, other, seeds=1)
        assert before == {path: path.read_bytes() for path in base.out.rglob("*") if path.is_file()}
        sweep.sweep({"default": {}}, dataclasses.replace(other, overwrite=True), seeds=1)
        assert json.loads((base.out / "default/0/settings.json").read_text())["batch"] == 3

    def test_one_run_has_no_deviation(self, base: example.Settings, capsys: pytest.CaptureFixture[str]) -> None:
        sweep.sweep({"default": {}}, base, seeds=1)
        row = json.loads((base.out / "summary.json").read_text())["rows"]["default"]
        assert {figure["deviation"] for figure in row.values()} == {None}
        table = capsys.readouterr().out.split("mean ± deviation")[1]
        assert "±" not in table
        assert f"{row['rotation ratio']['mean']:.3f}" in table

    def test_options_are_those_of_the_example_and_its_presets(self, monkeypatch: pytest.MonkeyPatch) -> None:
        seen = []
        monkeypatch.setattr(sweep, "sweep", lambda *arguments: seen.append(arguments))
        sweep.main(["seeds", "--preset", "cpu", "--steps", "7", "--seeds", "5"])
        assert seen == [(sweep.SEEDS, dataclasses.replace(example.PRESETS["cpu"], steps=7), 5, None)]

    def test_several_processes_are_refused(self, base: example.Settings) -> None:
        with pytest.raises(ValueError, match="--devices, --nodes: got 2 and 1, expected 1"):
            sweep.sweep({}, dataclasses.replace(base, devices=2), seeds=1)

    def test_no_runs_at_all_are_refused(self, base: example.Settings) -> None:
        with pytest.raises(ValueError, match="--seeds: got 0, expected at least 1"):
            sweep.sweep(sweep.SEEDS, base, seeds=0)

    def test_every_reading_is_a_setting_and_differs_from_the_default(self) -> None:
        default = example.Settings()
        for name, change in {**sweep.READINGS, **sweep.SEEDS}.items():
            if change:
                assert example.Settings(**{**vars(default), **change}) != default, name


def test_presets_are_named_after_themselves_and_may_be_changed() -> None:
    for name, settings in example.PRESETS.items():
        assert settings.preset == name
        assert example.settings_of(["--preset", name, "--seed", "7"]) == example.Settings(
            **{**vars(settings), "seed": 7}
        )
    assert example.settings_of([]) == example.Settings()
    with pytest.raises(SystemExit):
        example.settings_of(["--preset", "none"])
