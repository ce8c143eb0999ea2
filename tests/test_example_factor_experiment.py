"""The experiments on Shapes3D, Falcor3D and Isaac3D, end to end: what they write, call synthetic, and refuse."""

import dataclasses
import json
from pathlib import Path

import experiment
import falcor3d
import isaac3d
import pytest
import samples
import shapes3d
import torch
from data.factors import FALCOR3D, ISAAC3D, SHAPES3D
from data.files import data_folder
from data.samples import samples as read_samples
from factor_experiment import DataSet, Settings
from PIL import Image

from tests.test_example_factor_sequences import Spelled

SHORT = {
    "steps": 2,
    "batch": 16,
    "save_every": 2,
    "held_out": 10,
    "threads": 1,
    "accelerator": "cpu",
    "side": 16,
    "width": 4,
    "muon": None,  # so narrow, no layer is a matrix that Muon takes
}
EXAMPLES = {"shapes3d": shapes3d, "falcor3d": falcor3d, "isaac3d": isaac3d}
# Tables 2 to 4 of the paper.
COLUMNS = {
    "shapes3d": ["floor_hue", "wall_hue", "object_hue", "scale"],
    "falcor3d": [*FALCOR3D.names],
    "isaac3d": [*ISAAC3D.names[1:]],
}
needs_samples = pytest.mark.skipif(
    not (data_folder() / "falcor3d_samples").is_dir() or not (data_folder() / "isaac3d_samples").is_dir(),
    reason="no sample sequences of Falcor3D and Isaac3D in $LATENTFLOW_DATA",
)


def run(name: str, out: Path, **changes: object) -> dict:
    settings = dataclasses.replace(EXAMPLES[name].PRESETS["cpu"], out=out, **{**SHORT, **changes})
    EXAMPLES[name].DATA.run(settings)
    return json.loads((out / "results.json").read_text())


@pytest.mark.parametrize("supervision", ["labels", "none"])
@pytest.mark.parametrize("name", EXAMPLES)
def test_writes_the_paper_s_columns_and_says_that_they_are_synthetic(
    name: str, supervision: str, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    results = run(name, tmp_path, supervision=supervision)
    assert list(results["transformations"]) == COLUMNS[name]
    for row in results["transformations"].values():
        assert row["identity"] > 0
        assert row["error"] > 0
        assert row["autoencoded"] > 0
    assert results["data"] == f"{name}: synthetic stand-in, not the published images"
    assert "synthetic" in " ".join(capsys.readouterr().out.split())
    assert (tmp_path / "figure.png").read_bytes()[:4] == b"\x89PNG"
    assert (tmp_path / "evolution.webp").is_file()
    assert ("selection" in results) == (supervision == "none")


def test_a_data_set_s_own_files_are_not_called_synthetic(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    own = DataSet(
        "shapes3d", lambda: Spelled(SHAPES3D), lambda side: pytest.fail("rendered"), moving=(0, 1, 2, 3), states=8
    )
    own.run(Settings(**SHORT, data="files", networks="scene", out=tmp_path))
    assert "data" not in json.loads((tmp_path / "results.json").read_text())
    assert "synthetic" not in capsys.readouterr().out


@pytest.mark.parametrize("name", EXAMPLES)
def test_missing_files_stop_the_run_before_anything_is_touched(
    name: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("LATENTFLOW_DATA", str(tmp_path / "nowhere"))
    with pytest.raises(ValueError, match=str(tmp_path / "nowhere")):
        run(name, tmp_path / "out", data="files")
    assert not (tmp_path / "out").exists()


@pytest.mark.parametrize("name", EXAMPLES)
def test_presets_are_those_of_the_paper_or_of_two_cores(name: str) -> None:
    for preset, settings in EXAMPLES[name].PRESETS.items():
        assert experiment.settings_of(Settings, EXAMPLES[name].PRESETS, ["--preset", preset], "") == settings
    paper = EXAMPLES[name].PRESETS["paper"]
    assert (paper.dim, paper.steps, paper.side) == {
        "shapes3d": (226, 90_000, 64),
        "falcor3d": (324, 100_000, 128),
        "isaac3d": (324, 100_000, 128),
    }[name]
    assert EXAMPLES[name].DATA.states == {"shapes3d": 8, "falcor3d": 5, "isaac3d": 4}[name]


@pytest.mark.parametrize(
    ("changes", "said"),
    [
        ({"side": 30}, "--side: got 30, expected a multiple of 8 from 16"),
        ({"held_out": 3}, "--held-out: got 3, expected at least 6"),
        ({"supervision": "none", "batch": 7}, "--batch: got 7 sequences in each of 1 parts, expected at least 8"),
    ],
    ids=str,
)
def test_bad_settings_are_named(changes: dict, said: str, tmp_path: Path) -> None:
    with pytest.raises(ValueError, match=said):
        run("shapes3d", tmp_path / "out", **changes)
    assert not (tmp_path / "out").exists()


@needs_samples
def test_real_sample_sequences_are_learned_whole(tmp_path: Path) -> None:
    settings = samples.Settings(out=tmp_path, steps=2, save_every=2, width=2, threads=1, accelerator="cpu", batch=16)
    samples.main(settings)
    results = json.loads((tmp_path / "results.json").read_text())
    with Image.open(tmp_path / "figure.webp") as figure:
        assert figure.height > figure.width  # a pair of rows for each sequence
    real = {
        f"{kind}, {name}": frames / 255
        for kind in ("falcor3d", "isaac3d")
        for name, frames in read_samples(kind).items()
    }
    assert list(results["transformations"]) == list(real)
    for name, row in results["transformations"].items():
        x = real[name]
        assert row["identity"] == pytest.approx((x[1:] - x[0]).abs().sum().item(), rel=1e-4)
        assert row["movement"] == pytest.approx(row["identity"] / x[1:].numel() / x.mean().item(), rel=1e-4)


@needs_samples
def test_each_round_of_steps_shows_every_sample_sequence_equally_often(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    shown: dict[int, float] = dict.fromkeys(range(16), 0.0)

    def trained(fabric: object, model: torch.nn.Module, draw: samples.train.Draw, run: samples.Settings) -> float:
        for step in range(16):
            x, k = draw(run.batch, step, 0)
            assert len(x) == len(k) == len(k.unique()) <= run.batch
            assert x.shape[1] == (*FALCOR3D.sizes, *ISAAC3D.sizes)[step]
            for each in k.tolist():
                shown[each] += 1 / len(k)  # as the loss is a mean over the batch
        return 0.0

    monkeypatch.setattr(samples.train, "train", trained)
    samples.main(samples.Settings(out=tmp_path, width=2, threads=1, accelerator="cpu"))
    assert shown == pytest.approx(dict.fromkeys(range(16), 1.0))
