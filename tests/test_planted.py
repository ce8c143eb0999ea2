"""The errors that mutation/planted.py plants can still be planted; that each is caught, the script itself finds out."""

import importlib.util
from pathlib import Path

import pytest

ROOT = Path(__file__).parent.parent
SPEC = importlib.util.spec_from_file_location("errors", ROOT / "mutation" / "errors.py")
errors = importlib.util.module_from_spec(SPEC)
SPEC.loader.exec_module(errors)


@pytest.mark.parametrize("error", errors.ERRORS, ids=lambda error: error.name)
def test_an_error_can_be_planted_and_has_tests(error):
    text = (ROOT / error.file).read_text()
    compile(error.planted_in(text), error.file, "exec")
    assert error.planted_in(text) != text
    for name in error.tests:
        assert (ROOT / "tests" / f"test_{name}.py").exists()


def test_there_are_enough_and_each_is_another():
    assert len({error.name for error in errors.ERRORS}) == len(errors.ERRORS) >= 25


def test_an_error_whose_place_is_gone_is_told():
    with pytest.raises(ValueError, match=r"got 0 times .* expected once"):
        errors.ERRORS[0].planted_in("")
