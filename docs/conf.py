"""Sphinx settings. The build needs no network: no intersphinx, and formulas become MathML, which browsers draw themselves."""

import inspect
import os
import re
import sys
from pathlib import Path

from docutils import nodes
from docutils.utils.math import MathError
from docutils.utils.math.latex2mathml import tex2mathml
from sphinx.util import logging

sys.path.insert(0, str(Path(__file__).parents[1]))
# Of the notebooks.
os.environ["PYTHONPATH"] = os.pathsep.join(filter(None, (sys.path[0], os.environ.get("PYTHONPATH"))))

os.environ.setdefault("OMP_NUM_THREADS", "1")  # small tensors everywhere: threads would only wait for each other

import latentflow
import latentflow.testing

project = "latentflow"
author = "The latentflow authors"
copyright = author
release = version = latentflow.__version__

extensions = ["myst_nb", "sphinx.ext.autodoc", "sphinx.ext.napoleon", "sphinx.ext.viewcode"]
exclude_patterns = ["_build"]
default_role = "code"
html_theme = "furo"
html_title = f"latentflow {release}"
html_static_path = ["_static"]
html_css_files = ["extra.css"]
html_copy_source = html_show_sourcelink = False

myst_enable_extensions = ["dollarmath", "colon_fence", "deflist"]
myst_heading_anchors = 3

nb_execution_mode = "force"  # everything published has run against this very source
nb_execution_raise_on_error = True
nb_execution_timeout = 60
nb_merge_streams = True

autodoc_member_order = "bysource"
autodoc_typehints_format = "short"
python_use_unqualified_type_names = True
python_maximum_signature_line_length = 88
napoleon_numpy_docstring = False
napoleon_use_rtype = False
napoleon_use_ivar = True
napoleon_custom_sections = ["Shapes"]

logger = logging.getLogger(__name__)


def _mathml(source, *, block):
    # docutils reads \frac12 as \frac{12}, knows no \dots and takes every bar for an infix operator.
    source = re.sub(r"\\frac(\w)(\w)", r"\\frac{\1}{\2}", source).replace(r"\dots", r"\ldots")
    source = re.sub(r"\\\|(.+?)\\\|", r"\\lVert \1\\rVert", source)
    try:
        result = tex2mathml(source, as_block=block)
        result = re.sub(r'<mo class="mathopen">(?=[|‖])', '<mo form="prefix" stretchy="false">', result)
        result = re.sub(r"<mo>(?=[|‖])", '<mo form="postfix" stretchy="false">', result)
        # A thin space between log and z, none between log and a bracket.
        return re.sub(r"<mo>&ApplyFunction;</mo>(?!\s*<mo[^>]*>[(|‖])", '<mspace width="0.17em"/>', result)
    except MathError as error:
        logger.warning("no MathML for %r: %s", source, error)
        return f"<code>{source}</code>"


def _visit_inline(writer, node):
    writer.body.append(_mathml(node.astext(), block=False))
    raise nodes.SkipNode


def _visit_block(writer, node):
    writer.body.append(f'<div class="formula">{_mathml(node.astext(), block=True)}</div>')
    raise nodes.SkipNode


def public_symbols():
    """Every name that the library publishes."""
    for name in latentflow.__all__:
        if not inspect.ismodule(getattr(latentflow, name)):
            yield f"latentflow.{name}"
    for name in latentflow.metrics.__all__:
        yield f"latentflow.metrics.{name}"
    for name in latentflow.testing.__all__:
        yield f"latentflow.testing.{name}"


def _check_that_all_is_documented(app, environment):
    documented = environment.domains["py"].objects
    for symbol in public_symbols():
        if symbol not in documented:
            logger.warning("%s is public, but no page documents it; add it to api.md", symbol)


def setup(app):
    app.add_html_math_renderer("mathml", (_visit_inline, None), (_visit_block, None))
    app.config.html_math_renderer = "mathml"
    app.connect("env-check-consistency", _check_that_all_is_documented)
