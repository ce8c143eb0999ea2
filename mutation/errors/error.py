"""An error that is planted, and the tests that have to notice.

It is a text that occurs exactly once in a file, what it is replaced by, and the test files that have to notice. If a
refactoring takes the text away, the script and tests/test_planted.py say so; an error never quietly stops being planted.
"""

from __future__ import annotations

from typing import NamedTuple


class Error(NamedTuple):
    name: str
    file: str
    old: str
    new: str
    tests: tuple[str, ...]  # the quickest first

    def planted_in(self, text: str) -> str:
        """The file's text with the error in it."""
        if text.count(self.old) != 1:
            raise ValueError(
                f"{self.name}: got {text.count(self.old)} times {self.old!r} in {self.file}, expected once; write it anew"
            )
        return text.replace(self.old, self.new)


def errors_in(file: str, *tests: str):
    """The errors of a file that the same tests have to notice."""
    return lambda name, old, new: Error(name, file, old, new, tests)
