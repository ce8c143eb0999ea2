"""The pytest option: what it does when asked, and that it does nothing else."""

import os
import subprocess
import sys
import tomllib
from importlib import metadata
from pathlib import Path
from types import SimpleNamespace

import pytest

import pytest_latentflow

ROOT = Path(__file__).parents[1]
COUNTS = """
import sys
from hypothesis import given, strategies as st

seen = []

@given(st.integers(0, 2**40))
def test_counts(number):
    seen.append(number)

def test_says_how_many():
    print(f"examples {len(seen)}, torch {'torch' in sys.modules}")
"""
CONFTEST = "from hypothesis import settings\nsettings.register_profile('mine', max_examples=7)\nsettings.load_profile('mine')\n"


def run(folder, *options):
    """Pytest in a process of its own, with no plugins but ours and that of Hypothesis."""
    (folder / "test_counts.py").write_text(COUNTS)
    env = {**os.environ, "PYTEST_DISABLE_PLUGIN_AUTOLOAD": "1", "PYTHONPATH": str(ROOT)}
    plugins = ("-p", "_hypothesis_pytestplugin", "-p", "pytest_latentflow", "-p", "no:cacheprovider")
    command = [sys.executable, "-m", "pytest", "-q", "-s", *plugins, *options]
    return subprocess.run(command, cwd=folder, env=env, capture_output=True, text=True)


@pytest.mark.parametrize(
    ("options", "conftest", "examples"),
    [((), "", 100), ((), CONFTEST, 7), (("--latentflow-thorough",), CONFTEST, pytest_latentflow.EXAMPLES)],
)
def test_draws_as_many_examples_as_it_was_asked_for(tmp_path, options, conftest, examples):
    (tmp_path / "conftest.py").write_text(conftest)
    said = run(tmp_path, *options)
    assert said.returncode == 0, said.stdout + said.stderr
    assert f"examples {examples}, torch False" in said.stdout


def test_is_in_the_help(tmp_path):
    assert "--latentflow-thorough" in run(tmp_path, "--help").stdout


def test_brings_neither_torch_nor_hypothesis():
    code = "import sys, pytest_latentflow; print('torch' in sys.modules, 'hypothesis' in sys.modules)"
    said = subprocess.run([sys.executable, "-c", code], cwd=ROOT, capture_output=True, text=True)
    assert said.stdout.split() == ["False", "False"], said.stderr


def test_the_library_does_not_import_hypothesis():
    code = "import sys, latentflow; print('hypothesis' in sys.modules, 'latentflow.testing' in sys.modules)"
    said = subprocess.run([sys.executable, "-c", code], cwd=ROOT, capture_output=True, text=True)
    assert said.stdout.split() == ["False", "False"], said.stderr


def test_without_hypothesis_the_error_names_the_extra(monkeypatch):
    monkeypatch.setitem(sys.modules, "hypothesis", None)
    asked = SimpleNamespace(getoption=lambda name: name == "--latentflow-thorough")
    with pytest.raises(pytest.UsageError, match=r"got no hypothesis, .*; pip install 'latentflow\[testing\]'"):
        pytest_latentflow.pytest_configure(asked)
    pytest_latentflow.pytest_configure(SimpleNamespace(getoption=lambda name: False))


def test_is_registered_where_pytest_looks():
    """As pyproject.toml says; an installation from before has to be made anew: make test, or pip install -e '.[test]'."""
    said = tomllib.loads((ROOT / "pyproject.toml").read_text())["project"]["entry-points"]["pytest11"]
    installed = {entry.name: entry.value for entry in metadata.entry_points(group="pytest11")}
    assert said == {"latentflow": "pytest_latentflow"}
    assert said.items() <= installed.items()
