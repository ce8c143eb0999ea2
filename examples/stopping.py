"""How a run ends before its time, with its last step saved: by a signal, in one process or in several."""

from __future__ import annotations

import contextlib
import signal
import sys
import time
from collections.abc import Iterator

import torch
from lightning_fabric import Fabric

# Seconds for the threads that exchange gradients to finish what takes them microseconds.
GRACE = 1.0


@contextlib.contextmanager
def signals() -> Iterator[list[int]]:
    """What asked for a stop, SIGTERM or Ctrl-C, to be heeded between two steps; a second one acts at once."""
    received: list[int] = []
    before = {number: signal.getsignal(number) for number in (signal.SIGTERM, signal.SIGINT)}

    def note(number: int, _: object) -> None:
        received.append(number)
        signal.signal(number, before[signal.Signals(number)])

    for number in before:
        signal.signal(number, note)
    try:
        yield received
    finally:
        for number, handler in before.items():
            signal.signal(number, handler)


@contextlib.contextmanager
def stoppable() -> Iterator[None]:
    """What comes after training ends at once when it is asked to; there is nothing to save."""
    before = {number: signal.getsignal(number) for number in (signal.SIGTERM, signal.SIGINT)}

    def stop(number: int, _: object) -> None:
        print("\nstopped; the trained model is saved, and the same command with --resume evaluates it", flush=True)
        sys.exit(128 + number)

    for number in before:
        signal.signal(number, stop)
    try:
        yield
    finally:
        for number, handler in before.items():
            signal.signal(number, handler)


def asked(fabric: Fabric, received: list[int], ask: bool) -> bool:
    """Has any process been asked to stop? Asking the others makes all wait, so several processes do it now and then."""
    if fabric.world_size > 1 and not ask:
        return False
    return fabric.strategy.reduce_boolean_decision(bool(received), all=False)


def leave(fabric: Fabric, received: list[int], step: int) -> None:
    """End this process, all of them once the first has saved; a failure of any other would have the first killed."""
    fabric.barrier()
    fabric.print(f"stopped after step {step}, which is saved; go on with the same command and --resume")
    disband()
    sys.exit(128 + (received[-1] if received else signal.SIGTERM) if fabric.is_global_zero else 0)


def disband() -> None:
    """The processes go on by themselves.

    A thread of gloo's may not yet have let go of the tensors of the last exchange, for which it needs the interpreter, while
    whoever ends the group waits for the thread and keeps the interpreter: each would wait for the other, or the interpreter
    end before the thread and abort. So the thread is given time.
    """
    if torch.distributed.is_available() and torch.distributed.is_initialized():
        time.sleep(GRACE)
        torch.distributed.destroy_process_group()
