"""The errors that mutation/planted.py plants can still be planted; that each is caught, the script itself finds out."""

import subprocess
import sys
from pathlib import Path

import pytest

from mutation.errors import ERRORS

ROOT = Path(__file__).parent.parent


@pytest.mark.parametrize("error", ERRORS, ids=lambda error: error.name)
def test_an_error_can_be_planted_and_has_tests(error):
    text = (ROOT / error.file).read_text()
    planted = error.planted_in(text)
    assert planted != text
    # A name that is not there would be noticed by every test.
    command = [
        sys.executable,
        "-m",
        "ruff",
        "check",
        "--isolated",
        "--select",
        "F821",
        "--target-version",
        "py311",
        "-",
    ]
    found = subprocess.run(command, input=planted, capture_output=True, text=True)
    assert found.returncode == 0, found.stdout
    for name in error.tests:
        assert (ROOT / "tests" / f"test_{name}.py").exists()


def test_each_is_another():
    assert len({error.name for error in ERRORS}) == len(ERRORS)


def test_an_error_whose_place_is_gone_is_told():
    with pytest.raises(ValueError, match=r"got 0 times .* expected once"):
        ERRORS[0].planted_in("")
