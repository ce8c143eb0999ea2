"""A trained model comes back as it was, and what is not there is said."""

import dataclasses
import json
import re
from pathlib import Path
from typing import Any

import experiment
import mnist as example
import pytest
import torch
import trained
from data.moving_digits import DIGITS
from models import FlowVAE
from PIL import Image

from tests.short_runs import SHORT


@pytest.fixture(scope="module")
def run(tmp_path_factory: pytest.TempPathFactory) -> tuple[Path, FlowVAE]:
    """A run without labels, so that all modules are there, and the model as it was evaluated."""
    out, seen = tmp_path_factory.mktemp("runs") / "short", []
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(experiment, "evaluate", lambda model, *_, **__: seen.append(model) or {})
        for name in ("rows", "picture", "animation", "show"):
            patch.setattr(experiment, name, lambda *_, **__: [])
        example.main(dataclasses.replace(SHORT, steps=3, supervision="none", hidden=20, force="penalised", out=out))
    return out, seen[0].eval()


def test_the_model_is_the_one_that_was_trained(run: tuple[Path, FlowVAE]) -> None:
    out, model = run
    loaded = trained.load(out)
    assert not loaded.training
    before, after = model.state_dict(), loaded.state_dict()
    assert before.keys() == after.keys()
    for name, value in before.items():
        assert torch.equal(value, after[name]), name
    assert repr(loaded) == repr(model)
    x = DIGITS.single(torch.rand(2, 16, 16), 1, 8)
    for decoded in (
        [one.images(one.flow.transport(one.posterior(x[:, 0]).mean, 1, steps=8)[0]) for one in (model, loaded)],
        [one.select(x)[1] for one in (model, loaded)],
    ):
        assert torch.equal(*decoded)


def test_says_which_transformation_is_which(run: tuple[Path, FlowVAE]) -> None:
    assert json.loads((run[0] / "model.json").read_text())["transformations"] == list(DIGITS.names)


def test_the_code_that_shows_how_to_use_it_runs(
    run: tuple[Path, FlowVAE], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    text = (Path(trained.__file__).parent / "README.md").read_text(encoding="utf-8")
    (code,) = re.findall(r"^```python\n(.*?)^```$", text, flags=re.MULTILINE | re.DOTALL)
    assert "../runs/demo" in code
    monkeypatch.chdir(tmp_path)
    names: dict[str, Any] = {}
    exec(code.replace("../runs/demo", str(run[0])), names)
    assert names["frames"].shape == (6, 9, 3, 16, 16)
    with Image.open("paths.png") as drawn:
        assert drawn.size == (1152, 768)


def test_every_script_and_every_part_has_its_place_in_the_list() -> None:
    folder = Path(trained.__file__).parent
    text = (folder / "README.md").read_text(encoding="utf-8")
    modules = {path.name: path.read_text(encoding="utf-8") for path in folder.glob("*.py")}
    scripts = {name for name, code in modules.items() if "__main__" in code}
    first, _, rest = text.partition("The other modules")
    assert set(re.findall(r"`(\w+\.py)`", first)) == scripts
    assert set(re.findall(r"`(\w+\.py)`", rest)) == modules.keys() - scripts


def test_what_is_missing_or_damaged_is_said(run: tuple[Path, FlowVAE], tmp_path: Path) -> None:
    with pytest.raises(
        ValueError, match=r"nowhere/model.json: got no such file, expected that of a run; pass the folder"
    ):
        trained.load(tmp_path / "nowhere")
    with pytest.raises(
        ValueError, match=r"checkpoints/model.json: got no such file, .*; pass the folder that --out named"
    ):
        trained.load(run[0] / "checkpoints")
    noted = json.loads((run[0] / "model.json").read_text())
    for damaged in ({**noted, "settings": {"dims": 3}}, {"settings": {}}, {**noted, "settings": {"dim": 0}}):
        (tmp_path / "model.json").write_text(json.dumps(damaged))
        with pytest.raises(
            ValueError, match=r"model.json: got .*, expected what `models.build` takes; the file is dam"
        ):
            trained.load(tmp_path)
    (tmp_path / "model.json").write_text(json.dumps(noted))
    with pytest.raises(ValueError, match=r"got no checkpoint, expected one; train first"):
        trained.load(tmp_path)
    checkpoint = tmp_path / "checkpoints" / "00000003"
    checkpoint.mkdir(parents=True)
    for file in (run[0] / "checkpoints" / "00000003").iterdir():
        (checkpoint / file.name).write_bytes(file.read_bytes())
    trained.load(tmp_path)
    (tmp_path / "model.json").write_text(json.dumps({**noted, "side": 20}))
    with pytest.raises(ValueError, match=r"(?s)model.safetensors: got .*expected weights of the model of this run"):
        trained.load(tmp_path)
    (tmp_path / "model.json").write_text(json.dumps(noted))
    (checkpoint / "model.safetensors").write_bytes(b"")
    with pytest.raises(ValueError, match=r"model.safetensors: got SHA-256 .*delete .*00000003 to load the one before"):
        trained.load(tmp_path)
