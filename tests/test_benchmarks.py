import contextlib
import json
import time
from pathlib import Path

import pytest
import torch
from data.factors import FALCOR3D, SHAPES3D, Factors

from benchmarks import __main__, accelerator, loading, loss, scaling
from benchmarks.memory import peak_bytes
from benchmarks.timing import medians
from latentflow import validate_values

KIB = 1024


@pytest.fixture
def x():
    return torch.randn(KIB // 4, requires_grad=True)  # 1 KiB


def test_contestants_take_turns_in_an_order_that_changes(monkeypatch):
    """On a clock that every call moves on by as many seconds as its name says, but for one that takes long."""
    called, clock = [], [0.0]
    monkeypatch.setattr(time, "perf_counter", lambda: clock[0])

    def contestant(seconds):
        def call():
            called.append(seconds)
            clock[0] += 100 if len(called) == 20 else seconds

        return call

    found = medians({str(seconds): contestant(seconds) for seconds in (1, 2, 3)}, 15)
    assert found == {"1": 1000, "2": 2000, "3": 3000}
    rounds = [tuple(called[i : i + 3]) for i in range(6, len(called), 3)]
    assert len(rounds) == 15
    assert all(set(order) == {1, 2, 3} for order in rounds)
    assert len({order[0] for order in rounds}) == 3


def test_of_the_calls_in_a_turn_the_last_one_counts(monkeypatch):
    """On a clock of seconds: one after itself, two after another."""
    called, clock = [None], [0.0]
    monkeypatch.setattr(time, "perf_counter", lambda: clock[0])

    def contestant(name):
        def call():
            clock[0] += 1 if called[-1] == name else 2
            called.append(name)

        return call

    found = medians({name: contestant(name) for name in "ab"}, 5, calls=2)
    assert found == {"a": 1000, "b": 1000}
    assert len(called) == 1 + 4 + 2 * 2 * 5


def test_what_is_freed_is_counted_no_longer():
    def three_in_turn():
        for _ in range(3):
            torch.empty(KIB, dtype=torch.uint8)

    assert peak_bytes(three_in_turn) == KIB


def test_views_and_what_is_done_in_place_take_no_memory(x):
    def in_place():
        y = x.detach().clone()
        y[::2].view(2, -1).mul_(2).add_(x.detach()[: KIB // 16])

    assert peak_bytes(in_place) == KIB


def test_what_existed_before_is_not_counted(x):
    assert peak_bytes(lambda: x.detach()[2:].unsqueeze(0)) == 0


def test_the_backward_pass_is_counted(x):
    """Most is alive when exp(x), which is kept, meets its cosine and their product; loss and seed are 4 bytes each."""
    assert peak_bytes(lambda: x.exp().sin().sum()) == 2 * KIB + 4
    assert peak_bytes(lambda: x.exp().sin().sum().backward()) == 3 * KIB + 8
    assert x.grad is not None


@pytest.mark.parametrize("log_det", ["exact", "hutchinson", None])
def test_a_loss_takes_the_same_memory_each_time(log_det):
    step = loss.forward_and_backward(log_det, batch=4, dim=3, num=2, steps=2)
    assert peak_bytes(step) == peak_bytes(step) > 0


def test_less_memory_for_hessians_is_less_memory():
    some, all_at_once = (
        peak_bytes(loss.forward_and_backward("exact", batch=64, dim=16, num=2, steps=8, memory=memory))
        for memory in (2**18, None)
    )
    assert some < all_at_once


def test_scaling_says_what_each_point_takes_and_draws_it(monkeypatch):
    monkeypatch.setattr(scaling, "WIDEST", 4)
    monkeypatch.setattr(scaling, "TYPICAL", {"batch": 8, "dim": 3, "num": 2, "steps": 2})
    monkeypatch.setattr(scaling, "GROWING", {"num": ("K", (1, 2)), "dim": ("d", (2, 6))})
    results = json.loads(json.dumps(scaling.measure(1)))
    found = results["growing"]
    assert found["K"]["sizes"] == [1, 2]
    assert all(ms > 0 for ms in found["K"]["milliseconds"]["exact"])
    assert found["d"]["MiB"]["exact"][1] is None
    assert found["d"]["MiB"]["hutchinson"][0] < found["d"]["MiB"]["hutchinson"][1]
    drawn = {
        letter: {line.get_label(): list(line.get_ydata()) for line in panel.get_lines()}
        for letter, panel in zip(found, scaling.figure(results, "MiB").get_axes(), strict=False)
    }
    assert drawn["K"]["exact"] == found["K"]["MiB"]["exact"]
    assert drawn["d"]["exact"] == found["d"]["MiB"]["exact"][:1]


def test_all_goes_into_one_file(tmp_path, monkeypatch, capsys):
    monkeypatch.setattr(scaling, "GROWING", {"steps": ("T", (1, 2))})
    __main__.main(
        ["--only", "scaling", "--repeats", "1", "--threads", "1", "--out", str(tmp_path / "new" / "cpu.json")]
    )
    results = json.loads((tmp_path / "new" / "cpu.json").read_text())
    assert set(results) == {"hardware", "repeats", "scaling"}
    assert results["scaling"]["growing"]["T"]["sizes"] == [1, 2]
    assert "T = 2" in capsys.readouterr().out


def test_the_benchmark_of_loading_tells_rates(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("LATENTFLOW_DATA", str(tmp_path))  # no samples there
    monkeypatch.setattr(loading, "PNG", Factors(FALCOR3D.names, (2, 3, 2, 1, 1, 1, 1)))
    monkeypatch.setattr(loading, "HDF5", Factors(SHAPES3D.names, (10, 10, 10, 1, 1, 1)))
    monkeypatch.setattr(loading, "CHUNKS", (1000, 32, 32, 1))
    found = loading.measure(repeats=1)
    assert set(found) == {"PNG, 128x128, gradients", "HDF5, 64x64"}
    assert all(rate > 0 for rates in found.values() for rate in rates.values())


def test_the_step_on_an_accelerator_multiplies_as_much_as_the_published_networks_do(monkeypatch):
    """1.54e12 operations, most of them to decode 1,152 images; a device that computes nothing can count them."""
    adam = torch.optim.Adam
    monkeypatch.setattr(torch, "autocast", lambda *_, **__: contextlib.nullcontext())  # of which "meta" knows nothing
    monkeypatch.setattr(torch.optim, "Adam", lambda parameters, rate, **_: adam(parameters, rate))
    with validate_values(False):
        found = {
            (log_det, hidden): accelerator.operations(accelerator.training_step(log_det, hidden, torch.device("meta")))
            for log_det in ("hutchinson", "exact")
            for hidden in accelerator.HIDDEN
        }
    assert found["hutchinson", 324] == pytest.approx(1.54e12, rel=0.005)
    assert found["hutchinson", 64] < found["exact", 64] < 1.01 * found["hutchinson", 64]
    assert found["exact", 324] > 1.5 * found["hutchinson", 324]


def test_a_product_has_twice_as_many_operations_as_multiplications():
    left, right = torch.randn(2, 3), torch.randn(3, 5)
    assert accelerator.operations(lambda: left @ right) == 2 * 2 * 3 * 5


def test_a_share_is_relative_to_the_product(monkeypatch):
    """On a clock that tells 1 ms for the product, and 4 ms for each step of a quarter of its operations."""
    steps = {"product": 1.0, "hutchinson, hidden = 4, eager": 4.0, "exact, hidden = 4, eager": 4.0}
    for name, value in {"BATCH": 2, "DIM": 4, "HIDDEN": (4,), "SQUARE": 8, "KINDS": ("eager",)}.items():
        monkeypatch.setattr(accelerator, name, value)
    monkeypatch.setattr(accelerator, "operations", lambda step: 256)
    called = []

    def timed(functions, repeats):
        for name, function in functions.items():
            function()
            called.append(name)
        return {name: accelerator.CALLS * steps[name] for name in functions}

    monkeypatch.setattr(accelerator, "medians", timed)
    found = accelerator.measure_on(torch.device("cpu"), 1)
    assert called == list(steps)
    assert {name: each["milliseconds"] for name, each in found.items()} == steps
    assert [each["share"] for each in found.values()] == [1, 1 / 16, 1 / 16]


def test_without_an_accelerator_nothing_else_is_measured_first(monkeypatch, capsys):
    monkeypatch.setattr(torch.accelerator, "current_accelerator", lambda **_: None)
    with pytest.raises(SystemExit):
        __main__.main(["--only", "scaling", "accelerator"])
    said = capsys.readouterr()
    assert "K = 1" not in said.out
    assert "--only accelerator: got none, expected a GPU" in said.err
