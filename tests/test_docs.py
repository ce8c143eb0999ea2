"""Every public name is on the API page, and its docstring says what a user has to know."""

import inspect
import re
from pathlib import Path

import pytest

import latentflow
import latentflow.testing

DOCS = Path(__file__).parents[1] / "docs"
NAMES = [name for name in latentflow.__all__ if not inspect.ismodule(getattr(latentflow, name))]
METRICS = [name for name, value in inspect.getmembers(latentflow.metrics, inspect.isfunction)]
METRICS = [name for name in METRICS if getattr(latentflow.metrics, name).__module__ == "latentflow.metrics"]
PUBLIC = {f"latentflow.{name}": getattr(latentflow, name) for name in NAMES}
PUBLIC |= {f"latentflow.metrics.{name}": getattr(latentflow.metrics, name) for name in METRICS if name[0] != "_"}
KIT = {f"latentflow.testing.{name}": getattr(latentflow.testing, name) for name in latentflow.testing.__all__}
PUBLIC |= KIT
WITHOUT_TENSORS = ("FoldError", "validate_values", "gaussian_constant")


@pytest.mark.parametrize("name", [*(f"latentflow.{name}" for name in NAMES), *KIT])
def test_is_on_the_api_page(name):
    page = (DOCS / "api.md").read_text(encoding="utf-8")
    assert re.search(rf"^\.\. auto\w+:: {re.escape(name)}$", page, flags=re.MULTILINE)


@pytest.mark.parametrize("name", PUBLIC)
def test_has_an_example(name):
    docstring = inspect.getdoc(PUBLIC[name])
    assert "Example:" in docstring
    assert ">>>" in docstring


@pytest.mark.parametrize("name", [name for name in PUBLIC if name.split(".")[-1] not in WITHOUT_TENSORS])
def test_gives_shapes(name):
    """A shape such as (B,), (N, dim) or (..., K)."""
    assert re.search(r"\((B|N|K|\.\.\.)(, ?[^)]*)?,?\)", inspect.getdoc(PUBLIC[name]))


def test_names_in_the_readme_exist():
    readme = (DOCS.parent / "README.md").read_text(encoding="utf-8")
    for path in re.findall(r"`latentflow\.([\w.]+)`", readme):
        value = latentflow
        for part in path.split("."):
            value = getattr(value, part)


def test_links_in_the_readme_lead_somewhere():
    readme = (DOCS.parent / "README.md").read_text(encoding="utf-8")
    for target in re.findall(r"\]\(([^)#:]+)\)", readme):
        assert (DOCS.parent / target).exists(), target
