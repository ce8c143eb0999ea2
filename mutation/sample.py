"""The mutation score of latentflow: how many of a seeded sample of small changes make a test fail.

    python mutation/sample.py                      goes on where it was interrupted
    python mutation/sample.py --again survivors    tries these once more, after tests were added
    python mutation/sample.py --again all          forgets what was found
    python mutation/sample.py --list               prints what is known, and runs nothing

A mutant meets the tests that execute its line, until one fails or they have had their time: first those that other mutants of
the file have failed, then the quickest. Which these are is found by one run of `TESTS` with line coverage, and found again once
latentflow or a test has changed. What is found goes into runs/mutation/*.jsonl, a line for each mutant. The sample are the
first mutants in the order of sha256(seed, key): a larger sample contains a smaller one, and a change of one line leaves the
rest as it was.

The last lines are the score, and each survivor with the reason that survivors.md gives. A survivor without one is an error.
"""

from __future__ import annotations

import argparse
import hashlib
import json
import re
import sys
import time
from collections import Counter, defaultdict
from itertools import accumulate
from pathlib import Path

import coverage
from mutants import Mutant, mutants
from runner import ROOT, changed, copy_of_the_tree, run_tests

FOUND = ROOT / "runs" / "mutation"
REASONS = Path(__file__).with_name("survivors.md")
# They take minutes, or are about other things.
SLOW = ("example", "fuzz", "compile", "distributed", "docs", "readme", "benchmarks", "planted")
TESTS = sorted(
    str(file.relative_to(ROOT)) for file in ROOT.glob("tests/test_*.py") if not any(word in file.name for word in SLOW)
)
SLOWEST = 20.0  # seconds for a mutant, beside what its tests take at most


class Timer:
    """A pytest plugin that keeps how long each test takes."""

    def __init__(self, file: Path) -> None:
        self.file, self.seconds = file, defaultdict[str, float](float)

    def pytest_runtest_logreport(self, report) -> None:
        self.seconds[report.nodeid] += report.duration

    def pytest_sessionfinish(self) -> None:
        self.file.write_text(json.dumps(self.seconds))


class Failure:
    """A pytest plugin that keeps which test failed."""

    def __init__(self, file: Path) -> None:
        self.file = file
        file.unlink(missing_ok=True)

    def pytest_runtest_logreport(self, report) -> None:
        if report.failed:
            self.file.write_text(report.nodeid)

    def read(self) -> str | None:
        return self.file.read_text() if self.file.exists() else None


class Targets:
    """Which tests execute a line, and how long they take."""

    def __init__(self, tree: Path) -> None:
        state = _state(tree)
        stored = FOUND / "targets.json"
        found = json.loads(stored.read_text()) if stored.exists() else {}
        if found.get("state") != state:
            found = {"state": state, **_measured(tree)}
            stored.write_text(json.dumps(found))
        self._lines, self.seconds = found["lines"], found["seconds"]

    def of(self, mutant: Mutant, budget: float, failed: Counter[tuple[str, str]]) -> list[str]:
        lines = self._lines.get(mutant.file, {})
        names = {test for line in mutant.lines for test in lines.get(str(line), ())}
        if not names:  # a line that runs as the file is imported
            names = {test for tests in lines.values() for test in tests}
        order = sorted(names, key=lambda test: (-failed[mutant.file, test], self.seconds[test]))
        together = accumulate(self.seconds[test] for test in order)
        return [test for test, seconds in zip(order, together, strict=True) if seconds <= budget] or order[:1]


def _measured(tree: Path) -> dict[str, object]:
    print("which tests execute which lines: one run of all of them", flush=True)
    data, timer = tree / "targets.coverage", Timer(tree / "seconds.json")
    (tree / "coverage.cfg").write_text(f"[run]\nsource = latentflow\ndata_file = {data}\n")
    options = ("--cov", "--cov-context=test", "--cov-report=", f"--cov-config={tree / 'coverage.cfg'}")
    if run_tests(tree, [*TESTS, "latentflow"], 3600, [timer], *options) != "passed":
        raise RuntimeError("the tests must pass as they are:\n" + tree.with_suffix(".log").read_text()[-2000:])
    found = coverage.CoverageData(str(data))
    found.read()
    lines = {}
    for file in found.measured_files():
        tests = found.contexts_by_lineno(file)
        lines[str(Path(file).relative_to(tree))] = {
            str(line): sorted({name.partition("|")[0] for name in names if name}) for line, names in tests.items()
        }
    return {"lines": lines, "seconds": json.loads(timer.file.read_text())}


def _state(tree: Path) -> str:
    files = [*sorted(tree.glob("latentflow/**/*.py")), *(tree / test for test in (*TESTS, "tests/problems.py"))]
    return hashlib.sha256(b"".join(file.read_bytes() for file in files)).hexdigest()


def sampled(tree: Path, seed: int, size: int) -> list[Mutant]:
    """The sample, file after file."""
    # `latentflow.testing` is held to its word by modules with planted errors.
    files = sorted([*tree.glob("latentflow/*.py"), *tree.glob("latentflow/metrics/*.py")])
    every = [mutant for file in files for mutant in mutants(tree, file)]
    print(f"{len(every)} mutants of {len({m.file for m in every})} files; a sample of {size}, seed {seed}", flush=True)
    return sorted(every, key=lambda m: hashlib.sha256(f"{seed} {m.key}".encode()).digest())[:size]


def reasons() -> dict[str, str]:
    """What survivors.md says of each key."""
    rows = re.findall(r"^\| `(\w{10})` \|.*\| (.+?) \|$", REASONS.read_text(), re.MULTILINE) if REASONS.exists() else []
    return dict(rows)


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--size", type=int, default=500)
    parser.add_argument(
        "--budget", type=float, default=100.0, help="seconds of tests; a mutant that outlives them survives"
    )
    parser.add_argument("--again", choices=("survivors", "all"), help="what to forget of what was found")
    parser.add_argument("--list", action="store_true", help="run nothing")
    args = parser.parse_args()
    FOUND.mkdir(parents=True, exist_ok=True)
    log = FOUND / f"seed{args.seed}.jsonl"
    found = remembered(log, args.again)
    with copy_of_the_tree() as tree:
        sample = sampled(tree, args.seed, args.size)
        missing = [mutant for mutant in sample if mutant.key not in found]
        targets = Targets(tree) if missing and not args.list else None
        for number, mutant in enumerate(missing if targets else (), 1):
            failed = Counter((entry["file"], entry["by"]) for entry in found.values() if entry.get("by"))
            entry = attempt(tree, mutant, targets.of(mutant, args.budget, failed), targets.seconds)
            found[mutant.key] = entry
            with log.open("a") as file:
                file.write(json.dumps(entry) + "\n")
            print(f"{number}/{len(missing)} {entry['result']:7} {entry['seconds']:5.1f} s  {told(mutant)}", flush=True)
    return report([mutant for mutant in sample if mutant.key in found], found, args.seed)


def remembered(log: Path, again: str | None) -> dict[str, dict[str, object]]:
    """What was found before, by key; without what is to be tried again, which the file forgets too."""
    entries = map(json.loads, log.read_text().splitlines()) if log.exists() and again != "all" else ()
    found = {entry["key"]: entry for entry in entries if again is None or entry["result"] != "passed"}
    log.write_text("".join(json.dumps(entry) + "\n" for entry in found.values()))
    return found


def attempt(tree: Path, mutant: Mutant, tests: list[str], seconds: dict[str, float]) -> dict[str, object]:
    """Run the tests of one mutant."""
    failure, start = Failure(tree / "failure"), time.monotonic()
    with changed(tree / mutant.file, mutant.code()):
        result = run_tests(tree, tests, SLOWEST + 3 * sum(map(seconds.get, tests)), [failure]) if tests else "passed"
    spent = round(time.monotonic() - start, 2)
    return {"key": mutant.key, "file": mutant.file, "result": result, "seconds": spent, "by": failure.read()}


def told(mutant: Mutant) -> str:
    before, after = (re.sub(r"\s+", " ", x) for x in (mutant.before, mutant.after))
    where = "" if mutant.source in before else f"    in: {mutant.source}"
    return f"{mutant.key} {mutant.file}:{mutant.line}: {before}  ->  {after}{where}"


def report(sample: list[Mutant], found: dict[str, dict[str, object]], seed: int) -> int:
    """Print the score and the survivors; 1 if one of them has no reason."""
    survivors, known = [m for m in sample if found[m.key]["result"] == "passed"], reasons()
    for kind in ("operator", "file"):  # an argument that is missing mostly breaks the call, so it says less than a sign
        killed_by = defaultdict[str, list[bool]](list)
        for mutant in sample:
            killed_by[getattr(mutant, kind)].append(found[mutant.key]["result"] != "passed")
        for name, killed in sorted(killed_by.items()):
            print(f"{name:32} {sum(killed):4} / {len(killed)}")
    for mutant in survivors:
        print(f"survivor {told(mutant)}\n    {known.get(mutant.key, 'NO REASON YET')}")
    killed, seconds = len(sample) - len(survivors), sum(float(found[m.key]["seconds"]) for m in sample)
    timeouts = sum(found[m.key]["result"] == "timeout" for m in sample)
    print(
        f"killed / sampled: {killed} / {len(sample)}, {killed / max(1, len(sample)):.1%} (seed {seed}, {timeouts} of them by "
        f"running out of time), in {seconds / 60:.0f} minutes"
    )
    return int(any(mutant.key not in known for mutant in survivors))


if __name__ == "__main__":
    sys.exit(main())
