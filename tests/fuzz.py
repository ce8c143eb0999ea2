"""Thousands of damaged files for each reader and for checkpoints: ``python -m tests.fuzz --count 10000 --seed 0``.

Each file is read in another process, which may neither take long nor much memory. It may refuse a file, by a documented error
that names it, or return what the sound file has; or something else, where no hash could tell. Anything else is a failure, of
which the number is printed, and ``--reader READER --only NUMBER`` repeats it.
"""

from __future__ import annotations

import argparse
import contextlib
import json
import os
import resource
import select
import shutil
import subprocess
import sys
import tempfile
import time
import warnings
import zlib
from collections import Counter
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np

ROOT = Path(__file__).parents[1]
REFUSED, UNCHANGED, CHANGED = "refused", "unchanged", "changed, no hash"
SECONDS = 20  # of a processor, that starting and reading one file may take; or twenty times as long if it only waits
BYTES = 2 << 30  # that reading one file may take


class Trial:
    """One case, with its sound files and what they hold."""

    def __init__(self, name: str, case: Any, folder: Path) -> None:
        from tests.fuzz_cases import digest
        from tests.fuzzing import read_files

        self.name, self.case, self.folder = name, case, folder
        case.write(folder / "sound")
        self.files = read_files(folder / "sound")
        self.digest = digest
        others = [] if case.also is None else [case.also(self.files)]
        self.truths = [self._load(files) for files in (self.files, *others)]
        shutil.rmtree(folder / "sound")

    def __call__(self, seed: int, number: int) -> str:
        """What became of the file of this number."""
        from tests.fuzzing import mutated

        marker = self.folder / "ran"
        rng = np.random.default_rng((seed, zlib.crc32(self.name.encode()), number))
        files = self.case.repair(mutated(self.files, rng, marker))
        try:
            same = self._load(files) in self.truths
            outcome = UNCHANGED if same else "CHANGED, UNSEEN" if self.case.sound else CHANGED
        except (ValueError, OSError) as error:
            named = str(self.folder) in str(error)
            outcome = REFUSED if named else f"NO FILE NAMED: {type(error).__name__}: {error}"
        except Exception as error:
            outcome = f"UNDOCUMENTED: {type(error).__name__}: {error}"
        if marker.exists():
            marker.rmdir()
            outcome = f"RAN CODE, then {outcome}"
        return outcome

    def _load(self, files: Any) -> str:
        from tests.fuzzing import write_files

        folder = self.folder / "read"
        try:
            folder.mkdir()
            write_files(files, folder)
            return self.digest(self.case.load(folder))
        finally:
            shutil.rmtree(folder)


def work(names: list[str], first: int, start: int, end: int, seed: int) -> None:
    """In a process of its own: a line for each file, JSON of (case, number, outcome)."""
    from tests.fuzz_cases import CASES

    warnings.simplefilter("ignore")
    resource.setrlimit(resource.RLIMIT_CORE, (0, 0))
    with tempfile.TemporaryDirectory() as temporary:
        for name in names:
            trial = Trial(name, CASES[name], Path(temporary) / str(names.index(name)))
            used = int(Path("/proc/self/statm").read_text().split()[0]) * resource.getpagesize()
            most = resource.getrlimit(resource.RLIMIT_AS)[1]  # whoever started this may have limited it already
            limit = used + BYTES if most == resource.RLIM_INFINITY else min(used + BYTES, most)
            resource.setrlimit(resource.RLIMIT_AS, (limit, most))
            for number in range(start if name == names[0] else first, end):
                print(json.dumps((name, number, trial(seed, number))), flush=True)


def lines(command: list[str], seconds: float) -> Iterator[str]:
    """What the command prints, line by line, and at last how it ended: "done", "killed by ...", "took too long"."""
    with subprocess.Popen(
        command, stdout=subprocess.PIPE, cwd=ROOT, env=os.environ | {"OMP_NUM_THREADS": "1"}
    ) as process:
        assert process.stdout is not None
        waiting, used, since = b"", 0.0, time.monotonic()
        try:
            # A busy machine must not make files slow, hence the time of the processor.
            while _used(process.pid) - used < seconds and time.monotonic() - since < 20 * seconds:
                if not select.select([process.stdout], [], [], 0.2)[0]:
                    continue
                used, since = _used(process.pid), time.monotonic()
                found = os.read(process.stdout.fileno(), 1 << 16)
                if not found:
                    code = process.wait()
                    yield "done" if code == 0 else f"killed by signal {-code}" if code < 0 else f"ended with {code}"
                    return
                *whole, waiting = (waiting + found).split(b"\n")
                yield from (line.decode() for line in whole)
            yield "took too long"
        finally:
            process.kill()


def _used(process: int) -> float:
    """Seconds of a processor."""
    fields = Path(f"/proc/{process}/stat").read_text().rpartition(")")[2].split()
    return (int(fields[11]) + int(fields[12])) / os.sysconf("SC_CLK_TCK")


WORKER = (sys.executable, "-m", "tests.fuzz", "--work")


def fuzz(
    names: list[str], first: int, end: int, seed: int, worker: tuple[str, ...] = WORKER
) -> Iterator[tuple[str, int, str]]:
    """The outcome of each file, numbers `first` to `end` - 1 of each case; after a crash the next one gets another process."""
    jobs, at = [(name, number) for name in names for number in range(first, end)], 0
    while at < len(jobs):
        name, number = jobs[at]
        numbers = ["--first", str(first), "--start", str(number), "--end", str(end), "--seed", str(seed)]
        for line in lines([*worker, *names[names.index(name) :], *numbers], SECONDS):
            if line.startswith("["):
                assert json.loads(line)[:2] == list(jobs[at])
                yield (*jobs[at], json.loads(line)[2])
                at += 1
        if at < len(jobs):
            yield (*jobs[at], f"CRASH: {line}")
            at += 1


def table(outcomes: dict[str, Counter[str]], seconds: dict[str, float]) -> str:
    rows = [
        "| files of | number | refused | unchanged | changed, no hash | failures | seconds |",
        "| --- |" + " ---: |" * 6,
    ]
    for name, found in outcomes.items():
        good = [found[REFUSED], found[UNCHANGED], found[CHANGED]]
        cells = [found.total(), *good, found.total() - sum(good), round(seconds[name])]
        rows.append(f"| {name} | " + " | ".join(f"{cell:,}" for cell in cells) + " |")
    return "\n".join(rows)


def main() -> int:
    from tests.fuzz_cases import CASES

    parser = argparse.ArgumentParser("tests.fuzz", description=__doc__, formatter_class=argparse.RawTextHelpFormatter)
    parser.add_argument("--reader", action="append", choices=list(CASES), help="all, if left out; may be repeated")
    parser.add_argument("--count", type=int, default=10_000)
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--only", type=int, help="the one file of this number")
    parser.add_argument("--work", nargs="+", help=argparse.SUPPRESS)
    for name in ("--first", "--start", "--end"):
        parser.add_argument(name, type=int, help=argparse.SUPPRESS)
    given = parser.parse_args()
    if given.work:
        work(given.work, given.first, given.start, given.end, given.seed)
        return 0
    names, one = given.reader or list(CASES), given.only is not None
    if one and len(names) != 1:
        parser.error("--only: expected one --reader with it")
    outcomes: dict[str, Counter[str]] = {name: Counter() for name in names}
    seconds = dict.fromkeys(names, 0.0)
    began, failures = time.monotonic(), 0
    first, end = (given.only, given.only + 1) if one else (0, given.count)
    for name, number, outcome in fuzz(names, first, end, given.seed):
        outcomes[name][outcome] += 1
        seconds[name] += time.monotonic() - began
        began = time.monotonic()
        if one or outcome not in (REFUSED, UNCHANGED, CHANGED):
            failures += outcome not in (REFUSED, UNCHANGED, CHANGED)
            print(f"{name} {number}: {outcome}", flush=True)
        if outcomes[name].total() % 1000 == 0:
            print(f"{name}: {outcomes[name].total():,}, {seconds[name]:.0f} s", flush=True)
    print(table(outcomes, seconds))
    return 1 if failures else 0


if __name__ == "__main__":
    sys.path.insert(0, str(ROOT / "examples"))
    with contextlib.suppress(KeyboardInterrupt):
        sys.exit(main())
