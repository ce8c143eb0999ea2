"""The MNIST example from end to end: what it writes, what it refuses, that it learns, and that resuming changes nothing."""

import csv
import dataclasses
import json
from pathlib import Path

import checkpoints
import experiment
import mnist as example
import models
import pytest
import torch
from data.digits import digits
from data.moving_digits import DIGITS
from evaluate import evaluate
from PIL import Image

from tests.short_runs import weights

SHORT = example.Settings(steps=4, batch=6, save_every=2, held_out=24, threads=1, accelerator="cpu")


def run(out: Path, **changes: object) -> dict:
    example.main(dataclasses.replace(SHORT, out=out, **changes))
    return json.loads((out / "results.json").read_text())


@pytest.mark.parametrize("supervision", ["labels", "none"])
def test_writes_what_it_promises(tmp_path: Path, supervision: str) -> None:
    results = run(tmp_path, supervision=supervision)
    assert list(results["transformations"]) == list(DIGITS.names)
    for row in results["transformations"].values():
        assert row["error"] > 0
        assert row["identity"] > 0
        assert 0 <= row["folds"] <= 1
    bounds = results["bounds"]
    assert bounds["marginal"] < bounds["gaussian_constant"]
    assert bounds["initial"] < bounds["gaussian_constant"]
    assert bounds["importance_weighted"] < bounds["gaussian_constant"]
    assert {kind: len(rows) for kind, rows in results["compositions"].items()} == {
        "restarted": 6,
        "running": 6,
        "superposing": 3,
    }
    assert (tmp_path / "figure.png").read_bytes()[:4] == b"\x89PNG"
    with Image.open(tmp_path / "evolution.webp") as animation:
        assert animation.n_frames == 16  # there, 0 to 8, and back
    assert list((tmp_path / "tensorboard").glob("events*"))
    with (tmp_path / "log.csv").open() as log:
        assert [row["step"] for row in csv.DictReader(log)] == ["1", "2", "3", "4"]
    if supervision == "none":
        selection = results["selection"]
        assert sorted(selection["potential_of"]) == [0, 1, 2]
        assert sum(map(sum, selection["confusion"])) == 3 * 24


@pytest.mark.parametrize("changes", [{"networks": "paper", "precision": "bf16"}, {"accumulate": 2}], ids=str)
def test_resuming_repeats_the_uninterrupted_run_bit_for_bit(
    tmp_path: Path, changes: dict[str, str], monkeypatch: pytest.MonkeyPatch
) -> None:
    run(tmp_path / "whole", **changes)
    save = checkpoints.save

    def die_after_saving(*args: object) -> None:
        save(*args)
        raise ConnectionError

    monkeypatch.setattr(checkpoints, "save", die_after_saving)
    with pytest.raises(ConnectionError):
        run(tmp_path / "cut", **changes)
    monkeypatch.undo()
    run(tmp_path / "cut", **changes, resume=True)
    whole, cut = weights(tmp_path / "whole"), weights(tmp_path / "cut")
    assert whole.keys() == cut.keys()
    assert all(torch.equal(whole[name], cut[name]) for name in whole)
    assert (tmp_path / "whole/log.csv").read_bytes() == (tmp_path / "cut/log.csv").read_bytes()


def test_a_run_is_never_overwritten_by_accident(tmp_path: Path) -> None:
    run(tmp_path)
    before = {path: path.read_bytes() for path in tmp_path.rglob("*") if path.is_file()}
    for changes, said in (
        ({}, "--overwrite"),
        ({"resume": True, "steps": 6}, r"got steps 6, expected steps 4"),
        ({"resume": True, "overwrite": True}, "both"),
        ({"steps": 0}, "at least 1"),
        ({"learning_rate": float("nan")}, "positive"),
        ({"accelerator": "cuda"}, "--accelerator, --devices: got cuda and 1"),
        ({"batch": 7, "accumulate": 2}, "--batch: got 7, expected a multiple of 2"),
        ({"log_det": "none"}, "--log-det: got none with --marginal 0.1"),
        ({"seed": -1}, "--seed: got -1, expected at least 0"),
        ({"supervision": "none", "accumulate": 2}, "--batch: got 3 sequences in each of 2 parts, expected at least 6"),
        ({"frames": 10}, "--frames: got 10, expected at most 9"),
        ({"frames": 0}, "--frames: got 0, expected at least 1"),
        ({"hue_range_deg": 400.0}, "--hue-range-deg: got 400.0, expected more than 0 and at most 360"),
        ({"batches": "one", "supervision": "none"}, "--batches: got one with --balance 300.0, expected mixed"),
        ({"held_out": 4}, "--held-out: got 4, expected at least 5"),
        ({"marginal": float("nan")}, "--marginal: got nan, expected at least 0"),
    ):
        with pytest.raises(ValueError, match=said):
            run(tmp_path, **changes)
    assert before == {path: path.read_bytes() for path in tmp_path.rglob("*") if path.is_file()}


def test_what_others_left_in_a_folder_is_not_touched(tmp_path: Path) -> None:
    mine = tmp_path / "checkpoints" / "mine.pt"
    mine.parent.mkdir()
    mine.write_text("years of work")
    for overwrite in (False, True):
        with pytest.raises(ValueError, match="has checkpoints of something else"):
            run(tmp_path, overwrite=overwrite)
    assert [path for path in tmp_path.rglob("*") if path.is_file()] == [mine]


def test_validation_images_are_kept_from_training(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    seen = {}
    monkeypatch.setattr(experiment, "evaluate", lambda model, images, *_, **__: seen.update(images=images) or {})
    monkeypatch.setattr(experiment.train, "train", lambda fabric, model, draw, settings: seen.update(draw=draw) or 0.0)
    for name in ("rows", "picture", "animation", "show"):
        monkeypatch.setattr(experiment, name, lambda *_, **__: [])
    run(tmp_path, evaluate_on="validation", held_out=None)
    training, test = digits()
    assert torch.equal(seen["images"], training[-len(test) :])
    x, _ = seen["draw"](500, 0, 0)
    gaps = (x[:, None, 0, 0] - seen["images"][None]).abs().amax((2, 3))
    assert gaps.min() > 1e-3


@pytest.mark.parametrize("batches", ["mixed", "one"])
def test_batches_show_all_transformations_or_one(batches: str) -> None:
    settings = dataclasses.replace(SHORT, batches=batches)
    draw = example.sequences(settings, torch.device("cpu")).draw
    shown = []
    for step in range(20):
        counts = draw(7, step, 0)[1].bincount(minlength=3)
        shown.append(counts.argmax().item())
        assert counts.sort().values.tolist() == ([2, 2, 3] if batches == "mixed" else [0, 0, 7])
        if batches == "one":
            assert torch.equal(draw(7, step, 1)[1].bincount(minlength=3), counts), "in all shares"
    assert set(shown) == {0, 1, 2}


def test_the_paper_is_the_paper() -> None:
    """What its preset leaves of the paper's terms is on the page of the report."""
    paper = example.PRESETS["paper"]
    with torch.device("meta"):
        model = models.build(paper, 3, 28, 3, 8)
    assert model.prior.form == "particle"
    assert model.flow.log_det == "laplacian"
    assert model.hj.force is not None
    assert (paper.batches, paper.batch, paper.learning_rate, paper.steps) == ("one", 128, 1e-4, 90_000)
    assert (model.initial, model.marginal, model.constraint, model.frames) == (0.0, 1.0, 1.0, None)


def test_resuming_nothing_is_an_error(tmp_path: Path) -> None:
    with pytest.raises(ValueError, match="no checkpoint"):
        run(tmp_path / "empty", resume=True)
    assert not (tmp_path / "empty").exists()


def test_a_damaged_checkpoint_is_named(tmp_path: Path) -> None:
    run(tmp_path)
    before, last = sorted((tmp_path / "checkpoints").iterdir())
    state = last / "state.pt"
    state.write_bytes(state.read_bytes()[:100])
    with pytest.raises(ValueError, match=rf"state.pt: got SHA-256 .* expected .*--resume goes on from {before.name}"):
        run(tmp_path, resume=True)


def test_missing_data_stop_the_run_before_any_file_is_touched(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("LATENTFLOW_DATA", str(tmp_path / "nowhere"))
    monkeypatch.setattr("data.mnist.MIRRORS", ())
    with pytest.raises(ValueError, match="MNIST"):
        run(tmp_path / "out", data="mnist")
    assert not (tmp_path / "out").exists()


def test_decoding_some_frames_is_an_unbiased_estimate_of_decoding_all() -> None:
    torch.manual_seed(0)
    model = models.build(SHORT, 3, 16, 3, 8).double()
    x, z = torch.rand(3, 9, 3, 16, 16, dtype=torch.float64), torch.randn(3, 9, 16, dtype=torch.float64)
    with torch.no_grad():
        whole = model.eval().reconstruction(z, x)
        model.train()
        draws = torch.stack([model.reconstruction(z, x) for _ in range(300)])
    error = draws.std() / len(draws) ** 0.5
    assert (draws.mean() - whole).abs() < 4 * error
    assert draws.std() > 0


def test_it_learns_to_move(tmp_path: Path) -> None:
    results = run(tmp_path, steps=250, batch=32, save_every=250)
    ratio = {name: row["error"] / row["identity"] for name, row in results["transformations"].items()}
    assert ratio["coloring"] < 0.6
    assert ratio["rotation"] < 0.8


def test_evaluation_does_not_depend_on_the_chunks() -> None:
    torch.manual_seed(0)
    model = models.build(SHORT, 3, 16, 3, 8)
    images = digits()[1][:10]
    whole, parts = (evaluate(model, images, DIGITS, 8, chunk=chunk)["transformations"] for chunk in (10, 3))
    for name in DIGITS.names:
        assert whole[name]["error"] == pytest.approx(parts[name]["error"], rel=1e-5)
        assert whole[name]["identity"] == pytest.approx(parts[name]["identity"], rel=1e-5)
