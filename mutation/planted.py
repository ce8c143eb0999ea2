"""Mistakes that somebody could make, each of which has to make a test fail; the folder `errors` lists them.

python mutation/planted.py               plants every one in a copy of the tree, runs its tests, prints caught / planted
python mutation/planted.py sign          those whose name contains the word
"""

from __future__ import annotations

import sys
import time

from errors import ERRORS
from runner import changed, copy_of_the_tree, run_tests

SECONDS = 600.0  # for the tests of one error


def main() -> int:
    chosen = [error for error in ERRORS if all(word in error.name for word in sys.argv[1:])]
    caught = 0
    with copy_of_the_tree() as tree:
        for error in chosen:
            file, start = tree / error.file, time.monotonic()
            with changed(file, error.planted_in(file.read_text())):
                result = run_tests(tree, [f"tests/test_{name}.py" for name in error.tests], SECONDS)
            caught += result == "failed"
            said = {"failed": "caught", "passed": "NOT CAUGHT", "timeout": "NO ANSWER"}[result]
            print(f"{said:10} {time.monotonic() - start:5.1f} s  {error.file}: {error.name}", flush=True)
    print(f"caught / planted: {caught} / {len(chosen)}")
    return int(caught < len(chosen))


if __name__ == "__main__":
    sys.exit(main())
