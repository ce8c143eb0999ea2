"""Variation predictability in runs of the examples: when it is measured, and of how many pairs."""

import dataclasses
import functools
import json
from pathlib import Path

import experiment
import mnist as example
import pytest
import variation

from tests.short_runs import SHORT


def test_it_is_measured_where_it_is_asked_for_and_also_later(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setattr(experiment, "variation", functools.partial(variation.variation, epochs=2))
    settings = dataclasses.replace(SHORT, steps=2, save_every=2, held_out=20, out=tmp_path)
    example.main(settings)
    assert "variation" not in json.loads((tmp_path / "results.json").read_text())
    example.main(dataclasses.replace(settings, resume=True, variation_pairs=8))
    found = json.loads((tmp_path / "results.json").read_text())["variation"]
    assert found["pairs"] == 6, "as many of each"
    assert found["epochs"] == 2
    for kind in ("decoded", "true"):
        for share in ("10%", "1%"):
            row = found[kind][share]
            assert 0 <= row["final"] <= row["best"] <= 1
    assert "6 pairs and" in capsys.readouterr().out


@pytest.mark.parametrize(("pairs", "said"), [(-1, "at least 0"), (5, "0, or 6 to 60"), (61, "0, or 6 to 60")])
def test_as_many_pairs_as_there_are_and_two_of_each(tmp_path: Path, pairs: int, said: str) -> None:
    with pytest.raises(ValueError, match=f"--variation-pairs: got {pairs}, expected {said}"):
        example.main(dataclasses.replace(SHORT, held_out=20, variation_pairs=pairs, out=tmp_path / "out"))
    assert not (tmp_path / "out").exists()
