"""A run of the examples that is killed, stopped, resumed and evaluated in any order: its weights are those of a run left alone.

Hypothesis chooses what happens and shrinks it. Killed means that the batch of a step is never drawn and all objects are gone;
what is left is the folder of the run.
"""

import dataclasses
import functools
import os
import shutil
import signal
import tempfile
from itertools import pairwise
from pathlib import Path
from unittest import mock

import checkpoints
import mnist as example
import models
import pytest
import torch
import train as loop
from data.moving_digits import DIGITS
from evaluate import evaluate
from hypothesis import settings
from hypothesis import strategies as st
from hypothesis.stateful import RuleBasedStateMachine, initialize, invariant, rule
from safetensors.torch import load_file, load_model

from tests.short_runs import Killed

STEPS = 9
TINY = example.Settings(
    steps=STEPS, batch=6, threads=1, accelerator="cpu", networks="small", dim=3, width=2, frames=2, held_out=5
)
HOW = st.sampled_from([{}, {"supervision": "none"}])


def draw(count, *_):
    k = torch.arange(count) % 3
    return DIGITS.single(torch.rand(count, 16, 16), k, 4), k


def built(run, seed=0):
    torch.manual_seed(seed)
    return models.build(run, 3, 16, 3, 4).train()


def copied(model):
    return {name: x.clone() for name, x in model.state_dict().items()}


def measured(model):
    """What evaluation says of some sequences, as a tree of numbers."""
    bases = torch.rand(2, 16, 16, generator=torch.Generator().manual_seed(0))
    return evaluate(model, bases, DIGITS, 4)


@functools.cache
def uninterrupted(supervision):
    """The weights after 0, 1, ..., STEPS steps of a run that nothing happens to."""
    with tempfile.TemporaryDirectory() as folder:
        run = dataclasses.replace(TINY, supervision=supervision, out=Path(folder), save_every=1)
        fabric, model = loop.start(run), built(run)
        found = [copied(model)]
        loop.claim(fabric, run, "mnist")
        with mock.patch.object(checkpoints, "save", lambda out, step, model, state: found.append(copied(model))):
            loop.train(fabric, model, draw, run)
        return found


class Training(RuleBasedStateMachine):
    @initialize(changes=HOW, save_every=st.integers(1, 4))
    def begins(self, changes, save_every):
        self.folder = Path(tempfile.mkdtemp())
        self.run = dataclasses.replace(TINY, out=self.folder / "run", save_every=save_every, **changes)
        self.truth = uninterrupted(self.run.supervision)
        self.saved = 0  # steps that a checkpoint must hold

    @rule(steps=st.integers(0, 4))
    def trains_until_it_is_killed(self, steps):
        def kill():
            raise Killed

        first, reached = self.saved, self._train(steps, kill, Killed)
        last = reached - reached % self.run.save_every
        self.saved = STEPS if reached == STEPS else max(first, last)

    @rule(steps=st.integers(1, 4), number=st.sampled_from([signal.SIGTERM, signal.SIGINT]))
    def trains_until_it_is_asked_to_stop(self, steps, number):
        # The batch at which it hears of it is trained on, then saved.
        self.saved = min(STEPS, self._train(steps - 1, lambda: os.kill(os.getpid(), number), SystemExit) + 1)

    @rule()
    def is_evaluated(self):
        if not self.saved:
            return
        model, same = built(self.run, seed=1), built(self.run, seed=2)
        load_model(model, self._last() / "model.safetensors")
        same.load_state_dict(self.truth[self.saved])
        found, expected = measured(model), measured(same)
        assert found == expected
        assert self.run.supervision == "labels" or "selection" in found

    @invariant()
    def has_the_weights_of_a_run_left_alone(self):
        if not hasattr(self, "run"):
            return
        folder = self._last()
        assert (folder is None) == (self.saved == 0)
        if folder is not None:
            assert folder.name == f"{self.saved:08d}"
            self._equal(load_file(folder / "model.safetensors"))

    def teardown(self):
        """Whatever has happened, it can go on to the end."""
        if not hasattr(self, "run"):
            return
        try:
            self._train(STEPS, lambda: None, ())
            self.saved = STEPS
            self.has_the_weights_of_a_run_left_alone()
            log = (self.run.out / "log.csv").read_text().splitlines()
            assert [line.split(",")[0] for line in log[1:]] == [str(step) for step in range(1, STEPS + 1)]
        finally:
            shutil.rmtree(self.folder)

    def _train(self, steps, happens, ends):
        """Train on so many batches in objects of their own, from the last checkpoint; then something happens.

        Returns the number of steps that were made before that.
        """
        resume = self._last() is not None
        run = dataclasses.replace(self.run, resume=resume, overwrite=not resume)
        fabric, model = (
            loop.start(run),
            built(run, seed=3 if resume else 0),
        )  # what is resumed must not hang on the start
        at, count = self.saved + steps, self.saved

        def drawing(*arguments):
            nonlocal count
            if count == at:
                happens()
            count += 1
            return draw(*arguments)

        loop.claim(fabric, run, "mnist")
        if at >= STEPS or not ends:
            loop.train(fabric, model, drawing, run)
            return STEPS
        with pytest.raises(ends):
            loop.train(fabric, model, drawing, run)
        return at

    def _last(self):
        return checkpoints.last(self.run.out)

    def _equal(self, found):
        truth = self.truth[self.saved]
        assert found
        assert all(torch.equal(x, truth[name]) for name, x in found.items())


Training.TestCase.settings = settings(max_examples=12, stateful_step_count=6, deadline=None)
TestTraining = Training.TestCase


@pytest.mark.parametrize("supervision", ["labels", "none"])
def test_the_weights_change_with_every_step(supervision):
    """Else the invariant would hold of anything."""
    truth = uninterrupted(supervision)
    assert len(truth) == STEPS + 1
    for before, after in pairwise(truth):
        assert any(not torch.equal(before[name], after[name]) for name in before)


def test_a_resume_that_forgets_the_optimiser_is_found(monkeypatch):
    """The machine itself, on a loop that is wrong."""

    def forgetful(out, model, parts):
        return restore(out, model, {name: part for name, part in parts.items() if name.startswith("schedule")})

    restore = checkpoints.restore
    monkeypatch.setattr(checkpoints, "restore", forgetful)
    machine = Training()
    machine.begins({}, 1)
    machine.trains_until_it_is_asked_to_stop(3, signal.SIGTERM)
    machine.has_the_weights_of_a_run_left_alone()
    with pytest.raises(AssertionError):
        machine.teardown()
