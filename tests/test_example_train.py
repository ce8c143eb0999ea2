"""The training loop: what a step does and does not do, how its batch may be divided, and every way in which a run can end."""

import csv
import dataclasses
import itertools
import json
import os
import random
import re
import signal
import subprocess
import sys
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import checkpoints
import mnist as example
import models
import pytest
import torch
import train as loop
from data.moving_digits import DIGITS
from hypothesis import given
from hypothesis import strategies as st
from lightning_fabric import Fabric
from models import FlowVAE
from safetensors.torch import load_file
from torch import Tensor
from torch.utils._python_dispatch import TorchDispatchMode

from latentflow import validate_values

SHORT = example.Settings(steps=6, batch=6, threads=1, accelerator="cpu", held_out=6)
MODELS: list[dict[str, Any]] = [{}, {"supervision": "none"}, {"networks": "paper"}]
WAITING_FOR_NOTHING: list[dict[str, Any]] = [
    {"networks": "small", "supervision": "none"},
    {"networks": "small", "supervision": "none", "muon": 0.05},
    {"networks": "paper"},
]
SCRIPT = [sys.executable, str(Path(example.__file__)), "--held-out", "6", "--threads", "1", "--accelerator", "cpu"]


def ready(**changes: Any) -> tuple[Fabric, FlowVAE, Any, list[torch.optim.Optimizer]]:
    """Fabric, the model, the model as it wrapped it, and the optimisers."""
    torch.manual_seed(0)
    run = dataclasses.replace(SHORT, **changes)
    fabric = loop.start(run)
    model = models.build(run, 3, 16, 3, 8).train()
    wrapped, *optimisers = fabric.setup(model, *loop.optimisers_of(model, run))
    return fabric, model, wrapped, optimisers


def draw(count: int, *_: int) -> tuple[Tensor, Tensor]:
    k = torch.arange(count) % 3
    return DIGITS.single(torch.rand(count, 16, 16), k, 8), k


def weights(out: Path) -> dict[str, Tensor]:
    folder = checkpoints.last(out)
    assert folder is not None
    return load_file(folder / "model.safetensors")


def rows(out: Path) -> list[dict[str, str]]:
    return list(csv.DictReader((out / "log.csv").read_text().splitlines()))


class NoValues(TorchDispatchMode):
    """Stands for an accelerator during the capture of a graph: whatever brings a value to the host is an error."""

    def __torch_dispatch__(self, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        assert func.name() not in (
            "aten::_local_scalar_dense",
            "aten::equal",
            "aten::masked_select",
            "aten::nonzero",
            "aten::_unique2",
            "aten::linalg_matrix_exp",  # on CUDA
        ), f"{func.name()} waits for the device"
        return func(*args, **(kwargs or {}))


@pytest.mark.parametrize("precision", ["float32", "bf16"])
@pytest.mark.parametrize("changes", WAITING_FOR_NOTHING)
def test_a_step_reads_no_value(changes: dict[str, Any], precision: str, monkeypatch: pytest.MonkeyPatch) -> None:
    # On the CPU, and only there, one_hot looks at its labels.
    monkeypatch.setattr("torch.nn.functional.one_hot", lambda k, num: (k[..., None] == torch.arange(num)).long())
    fabric, _, wrapped, optimisers = ready(**changes)
    run = dataclasses.replace(SHORT, precision=precision)
    with validate_values(False):
        loop.take_step(fabric, wrapped, optimisers, draw, run, 0)
        with NoValues():
            noted = loop.take_step(fabric, wrapped, optimisers, draw, run, 1)
    assert all(value.isfinite() for value in noted.values())


@pytest.mark.parametrize("has_them", [True, False])
def test_without_instructions_for_bfloat16_it_is_said_to_take_longer(
    has_them: bool, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setattr(loop, "multiplies_bfloat16", lambda: has_them)
    ready(precision="float32")
    assert not capsys.readouterr().out
    ready(precision="bf16")
    assert ("no instructions" in capsys.readouterr().out) != has_them


def test_muon_trains_the_hidden_layers_and_adam_the_rest() -> None:
    run = dataclasses.replace(SHORT, networks="scene", supervision="none", muon=0.05)
    model = models.build(run, 3, 64, 3, 8)
    adam, muon = loop.optimisers_of(model, run)
    of_muon = {id(p) for group in muon.param_groups for p in group["params"]}
    of_adam = {id(p) for group in adam.param_groups for p in group["params"]}
    assert not of_muon & of_adam
    assert len(of_muon | of_adam) == len(list(model.parameters()))
    assert {name for name, p in model.named_parameters() if id(p) in of_muon} == {
        "encoder.8.weight",
        "decoder.weights.2.weight",
        "decoder.detail.0.0.weight",
        "selector.classifier.8.weight",
    }


def test_muon_without_a_matrix_to_train_is_an_error() -> None:
    run = dataclasses.replace(SHORT, networks="paper", muon=0.05)
    with pytest.raises(ValueError, match=r"^--muon: got networks without"):
        loop.optimisers_of(models.build(run, 3, 16, 3, 8), run)


@pytest.mark.parametrize("changes", MODELS)
def test_a_step_decodes_once(changes: dict[str, Any]) -> None:
    fabric, model, wrapped, optimisers = ready(**changes)
    seen = []
    model.decoder.register_forward_hook(lambda _, inputs, logits: seen.append(len(logits)))
    loop.take_step(fabric, wrapped, optimisers, draw, SHORT, 0)
    assert seen == [6 * (model.frames or 9)]


@pytest.mark.parametrize("changes", MODELS)
def test_half_precision_stays_in_the_networks(changes: dict[str, Any]) -> None:
    terms, seen = {}, []
    for precision in ("float32", "bf16"):
        fabric, model, wrapped, optimisers = ready(**changes)
        hook = lambda _, inputs, output: seen.append((inputs[0].dtype, output.dtype))  # noqa: E731
        canvas = getattr(model.decoder, "canvas", model.decoder)
        for module in (model.encoder, canvas, *([] if model.selector is None else [model.selector.classifier])):
            module.register_forward_hook(hook)
        run = dataclasses.replace(SHORT, precision=precision)
        terms[precision] = loop.take_step(fabric, wrapped, optimisers, draw, run, 0)
        assert all(parameter.grad.dtype == torch.float32 for parameter in model.parameters())
    half = len(seen) // 2
    assert set(seen[:half]) == {(torch.float32, torch.float32)}
    assert set(seen[half:]) == {(torch.float32, torch.bfloat16)}  # images and latents come as they are
    for name, value in terms["float32"].items():
        assert terms["bf16"][name].dtype == value.dtype
        torch.testing.assert_close(terms["bf16"][name], value, rtol=0.02, atol=0.05)


@pytest.mark.parametrize("changes", MODELS)
def test_a_batch_in_parts_has_the_mean_of_their_gradients(changes: dict[str, Any]) -> None:
    """Each part is what a process of its own would take: the same random numbers, a loss that is a mean."""
    run = dataclasses.replace(SHORT, batch=12, accumulate=2, **changes)
    fabric, model, wrapped, optimisers = ready(**changes)
    loop.take_step(fabric, wrapped, optimisers, draw, run, 0)
    found = [parameter.grad.clone() for parameter in model.parameters()]
    _, model, _, _ = ready(**changes)
    for part in range(2):
        torch.manual_seed(loop._mixed(run.seed, 0, part))
        terms, _ = model(*draw(6))
        (sum(terms.values()) / 2).backward()
    assert sum(gradient.abs().sum() for gradient in found) > 0
    for gradient, parameter in zip(found, model.parameters(), strict=True):
        torch.testing.assert_close(gradient, parameter.grad, rtol=1e-4, atol=1e-6)


@given(
    st.lists(st.tuples(st.integers(0, 9), st.integers(0, 9), st.integers(0, 9)), min_size=2, max_size=20, unique=True)
)
def test_no_two_parts_of_any_step_share_their_random_numbers(numbers: list[tuple[int, int, int]]) -> None:
    assert len({loop._mixed(*each) for each in numbers}) == len(numbers)


@pytest.mark.parametrize("supervision", ["labels", "none"])
def test_two_processes_train_as_one(supervision: str, tmp_path: Path) -> None:
    """On gloo. Gradients are compared, since Adam makes a step of any that is not exactly 0; they are its first moments."""
    options = ["--steps", "1", "--batch", "12", "--supervision", supervision]
    for name, division in (("one", ("--accumulate", "2")), ("two", ("--devices", "2"))):
        said = subprocess.run(
            [*SCRIPT, *options, *division, "--out", str(tmp_path / name)],
            capture_output=True,
            text=True,
            env={**os.environ, "GLOO_SOCKET_IFNAME": "lo"},
        )
        assert said.returncode == 0, said.stderr
    one, two = (
        torch.load(tmp_path / name / "checkpoints/00000001/state.pt", weights_only=True)["optimiser 0"]["state"]
        for name in ("one", "two")
    )
    assert one.keys() == two.keys()
    assert sum(state["exp_avg"].abs().sum() for state in one.values()) > 0
    for parameter, state in one.items():
        size = state["exp_avg"].abs().max().item()
        torch.testing.assert_close(two[parameter]["exp_avg"], state["exp_avg"], rtol=1e-4, atol=1e-5 * size)
    (a,), (b,) = rows(tmp_path / "one"), rows(tmp_path / "two")
    assert {k: float(v) for k, v in a.items()} == pytest.approx({k: float(v) for k, v in b.items()}, rel=1e-5)


def started(out: Path, *options: str) -> subprocess.Popen[str]:
    """The script, in the background, with its first checkpoint made."""
    env = {**os.environ, "GLOO_SOCKET_IFNAME": "lo"}
    process = subprocess.Popen([*SCRIPT, *options, "--out", str(out)], stdout=subprocess.PIPE, text=True, env=env)
    while checkpoints.last(out) is None:
        assert process.poll() is None, "it ended before it saved anything"
        time.sleep(0.05)  # to look all the time would take a core from it
    return process


@pytest.mark.parametrize(
    "changes",
    ["--steps 40 --supervision labels", "--steps 40 --supervision none", "--steps 16 --networks small --muon 0.05"],
)
def test_killed_at_a_random_moment_and_resumed_it_is_the_uninterrupted_run(changes: str, tmp_path: Path) -> None:
    """SIGKILL, wherever the process happens to be; final weights, log and results are the same bit for bit."""
    options = ["--batch", "6", "--save-every", "3", *changes.split()]
    whole, cut = tmp_path / "whole", tmp_path / "cut"
    assert subprocess.run([*SCRIPT, *options, "--out", str(whole)], capture_output=True).returncode == 0
    process = started(cut, *options)
    time.sleep(random.uniform(0, 2))
    process.send_signal(signal.SIGKILL)
    process.communicate()
    if (cut / "results.json").exists():
        pytest.skip("it was done before it was killed")
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


class Killed(BaseException):
    """Stands for SIGKILL: nothing catches it."""


@pytest.mark.parametrize("at", [0, 2, 3, 4, 5, 6, 8, 10, 11, 13, 15, 16])
def test_killed_within_a_save_it_still_has_a_whole_checkpoint(
    at: int, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Before changes to the disk of every kind that three saves make, of which the third drops a checkpoint: there are 17."""
    run = dataclasses.replace(SHORT, out=tmp_path, steps=3, save_every=1)
    fabric, model, _, _ = ready()
    loop.claim(fabric, run)
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
            loop.claim(fabric, dataclasses.replace(run, resume=True))
        return
    again = dataclasses.replace(run, resume=True)
    loop.claim(fabric, again)
    _, fresh, _, _ = ready()
    loop.train(fabric, fresh, draw, again)
    assert len(rows(tmp_path)) == 3
    whole = dataclasses.replace(run, out=tmp_path / "whole")
    _, uninterrupted, _, _ = ready()
    loop.claim(fabric, whole)
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
    loop.claim(fabric, run)
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
    loop.claim(fabric, run)
    spoil = drawing(3, lambda: torch.nn.init.constant_(model.decoder.palette[-1].bias, float("nan")))
    with pytest.raises(ValueError, match=r"loss: got .* at step 3, expected finite terms; lower --learning-rate"):
        loop.train(fabric, model, spoil, run)
    assert [row["step"] for row in rows(tmp_path)] == ["1", "2"]
    assert not list(tmp_path.glob("checkpoints/*"))


@pytest.mark.parametrize("steps", [1, 2, 9, 10, 11, 20])
def test_a_run_may_be_of_any_length(steps: int, tmp_path: Path) -> None:
    run = dataclasses.replace(SHORT, out=tmp_path, steps=steps, batch=3)
    fabric, model, _, _ = ready()
    loop.claim(fabric, run)
    loop.train(fabric, model, draw, run)
    assert len(rows(tmp_path)) == steps
