"""Every public name is on the API page, and its docstring says what a user has to know."""

import ast
import inspect
import re
import textwrap
from pathlib import Path

import pytest

import latentflow
import latentflow.testing

DOCS = Path(__file__).parents[1] / "docs"
API = (DOCS / "api.md").read_text(encoding="utf-8")
README = (DOCS.parent / "README.md").read_text(encoding="utf-8")
NAMES = [f"latentflow.{name}" for name in latentflow.__all__ if not inspect.ismodule(getattr(latentflow, name))]
METRICS = [f"latentflow.metrics.{name}" for name in latentflow.metrics.__all__]
KIT = [f"latentflow.testing.{name}" for name in latentflow.testing.__all__]

SHAPE = re.compile(r"\((B|N|K|T\+1|dim|\.\.\.)(, ?[^)]*)?,?\)")  # such as (B,), (N, dim) or (..., K)
CHECK = re.compile(r"_?(require|check|compare|positive_integer|one_of)")  # how the names of what raises begin
WITHOUT_TENSORS = ("FoldError", "validate_values", "gaussian_constant", "anneal", "reset_parameters", "with_log_det")
OF_NO_PAPER = ("latentflow.FoldError", "latentflow.validate_values")


def found(name):
    """What the name stands for; the second level of a method's is its class."""
    value = latentflow
    for part in name.split(".")[1:]:
        value = getattr(value, part)
    return value


def listed():
    """All names of the API page, with those behind `:members:`."""
    for name, members in re.findall(r"^\.\. auto\w+:: ([\w.]+)\n( +:members:.*)?", API, flags=re.MULTILINE):
        yield name
        yield from (f"{name}.{member}" for member in re.findall(r"\w+", members.partition(":members:")[2]))


PUBLIC = list(listed())


def docstring(name):
    """What a user reads of it: to call a module is its `forward`, which the docstring of the class describes."""
    own = inspect.getdoc(found(name))
    return f"{inspect.getdoc(found(name.removesuffix('.forward')))}\n{own}" if name.endswith(".forward") else own


def errors(function):
    """Names of the errors that its own source raises, and of the checks that it calls."""
    try:
        source = inspect.getsource(inspect.unwrap(function))
    except OSError:  # what `hypothesis.strategies.composite` has made: it raises nothing by itself
        return
    for node in ast.walk(ast.parse(textwrap.dedent(source))):
        if isinstance(node, ast.Raise) and isinstance(node.exc, ast.Call):
            yield node.exc.func.id
        elif isinstance(node, ast.Call):
            called = getattr(node.func, "attr", getattr(node.func, "id", ""))
            if CHECK.match(called):
                yield called


def what_raises(name):
    """The errors and checks of a function, of a property, or of the constructor of a class."""
    value = found(name)
    if inspect.isclass(value):
        return set(errors(value.__init__)) if "__init__" in vars(value) else set()
    return set(errors(value.fget if isinstance(value, property) else value))


@pytest.mark.parametrize("name", [*NAMES, *METRICS, *KIT])
def test_is_on_the_api_page(name):
    assert name in PUBLIC


def test_the_api_page_lists_methods():
    assert "latentflow.Potential.hessian" in PUBLIC
    assert "latentflow.DiffusionPrior.diffusion" in PUBLIC
    assert "latentflow.testing.LinearGaussian.moments" in PUBLIC


@pytest.mark.parametrize("name", PUBLIC)
def test_has_an_example(name):
    assert "Example:" in docstring(name)
    assert ">>>" in docstring(name)


@pytest.mark.parametrize("name", [name for name in PUBLIC if name.split(".")[-1] not in WITHOUT_TENSORS])
def test_gives_shapes(name):
    assert SHAPE.search(docstring(name))


@pytest.mark.parametrize("name", [name for name in PUBLIC if what_raises(name)])
def test_says_what_it_raises(name):
    """Of an error that the source names, its name too."""
    said = docstring(name).partition("Raises:")[2]
    assert said
    for error in what_raises(name):
        assert CHECK.match(error) or error in said, error


def test_what_raises_is_read_from_the_source():
    assert what_raises("latentflow.FlowPosterior") >= {"require_potential", "positive_integer", "ValueError"}
    assert what_raises("latentflow.metrics.gaussian_constant") == {"require_integer"}
    assert what_raises("latentflow.DiffusionPrior.variance") == {"require_floating", "_check", "require"}
    assert what_raises("latentflow.Potential.gradients") == set()


@pytest.mark.parametrize("name", [name for name in (*NAMES, *METRICS) if name not in OF_NO_PAPER])
def test_names_its_source(name):
    assert re.search(r"^Source: \S", docstring(name), flags=re.MULTILINE)


def test_names_in_the_readme_exist():
    paths = re.findall(r"`latentflow\.([\w.]+)`", README)
    assert "metrics.gaussian_constant" in paths
    for path in paths:
        found(f"latentflow.{path}")


def test_links_in_the_readme_lead_somewhere():
    targets = re.findall(r"\]\(([^)#:]+)(?:#[\w-]+)?\)", README)
    assert "docs/mathematics.md" in targets
    assert "docs/start.md" in targets
    for target in targets:
        assert (DOCS.parent / target).exists(), target
