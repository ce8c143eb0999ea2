"""Run tests against a changed copy of the source tree, without paying for the import of torch each time.

The copy lies in a temporary folder. Each run is a fork of this process, which has imported torch but never latentflow, so that
the child imports the code as it was changed. A run that takes too long, or too much memory, counts as failed.
"""

from __future__ import annotations

import gc
import os
import resource
import shutil
import signal
import sys
import time
import traceback
from collections.abc import Callable, Iterable, Sequence
from contextlib import contextmanager
from pathlib import Path
from tempfile import TemporaryDirectory

import hypothesis  # noqa: F401  like all of these, what every child would import again
import pytest
import scipy.stats  # noqa: F401
import torch
import torch.fx.experimental.symbolic_shapes
import torchdiffeq  # noqa: F401

ROOT = Path(__file__).resolve().parent.parent
COPIED = ("latentflow", "tests", "examples", "benchmarks", "docs", "README.md", "pyproject.toml", "constraints.txt")
MEMORY = 16 * 2**30  # of addresses, not of pages: an endless list ends here
OPTIONS = ("-x", "-q", "--no-header", "--assert=plain", "-p", "no:cacheprovider")
BROKEN = 70  # exit code of a run that did not come to an answer


@contextmanager
def copy_of_the_tree():
    """A folder with all that the tests read."""
    torch.set_num_threads(1)  # a fork does not inherit the threads of a pool
    gc.freeze()  # no child need look for garbage in what is imported
    signal.signal(signal.SIGTERM, lambda *_: sys.exit(1))  # so that what is running is stopped and the folder removed
    with TemporaryDirectory(prefix="mutation-") as folder:
        tree = Path(folder).resolve() / "tree"  # and tree.log beside it
        tree.mkdir()
        for name in COPIED:
            source, ignored = ROOT / name, shutil.ignore_patterns("__pycache__", "_build")
            if source.is_dir():
                shutil.copytree(source, tree / name, ignore=ignored)
            else:
                shutil.copy(source, tree)
        yield tree


@contextmanager
def changed(file: Path, text: str):
    """The file with another text, for as long as it takes."""
    before = file.read_text()
    file.write_text(text)
    try:
        yield
    finally:
        file.write_text(before)


def run_tests(tree: Path, tests: Sequence[str], seconds: float, plugins: Iterable[object] = (), *options: str) -> str:
    """Say "passed", "failed" (also if nothing could be imported) or "timeout"."""

    def work() -> int:
        os.chdir(tree)
        sys.path[:0] = [str(tree), str(tree / "examples")]
        os.environ["PYTHONPATH"] = f"{tree}{os.pathsep}{tree / 'examples'}"
        os.environ.setdefault("HYPOTHESIS_PROFILE", "mutation")
        # Else Python could mistake a changed file of the same second and size for the old one.
        sys.dont_write_bytecode = True
        resource.setrlimit(resource.RLIMIT_AS, (MEMORY, MEMORY))
        code = pytest.main([*OPTIONS, *options, *tests], plugins=[*plugins])
        imported = sys.modules.get("latentflow")
        if imported is not None and tree not in Path(imported.__file__).parents:
            raise RuntimeError(f"latentflow: got {imported.__file__}, expected the copy in {tree}; fix sys.path")
        return int(code)

    code = _in_a_fork(work, tree.with_suffix(".log"), seconds)
    if code is None:
        return "timeout"
    if code in (BROKEN, pytest.ExitCode.NO_TESTS_COLLECTED):
        raise RuntimeError(f"tests: {tests} could not be run:\n{tree.with_suffix('.log').read_text()[-2000:]}")
    return "passed" if code == 0 else "failed"


def _in_a_fork(work: Callable[[], int], log: Path, seconds: float) -> int | None:
    """The exit code, or None if it had to be stopped."""
    child = os.fork()
    if child == 0:
        signal.signal(signal.SIGTERM, signal.SIG_DFL)
        os.setsid()  # so that what it starts can be stopped with it
        output = os.open(log, os.O_WRONLY | os.O_CREAT | os.O_TRUNC)
        os.dup2(output, 1)
        os.dup2(output, 2)
        try:
            code = work()
        except BaseException:
            traceback.print_exc()
            code = BROKEN
        sys.stdout.flush()
        sys.stderr.flush()
        os._exit(code)
    end = time.monotonic() + seconds
    try:
        while time.monotonic() < end:
            found, status = os.waitpid(child, os.WNOHANG)
            if found:
                return os.waitstatus_to_exitcode(status)
            time.sleep(0.01)
        return None
    finally:
        _stop(child)


def _stop(group: int) -> None:
    try:
        os.killpg(group, signal.SIGKILL)
        os.waitpid(group, 0)
    except (ProcessLookupError, ChildProcessError):
        pass
