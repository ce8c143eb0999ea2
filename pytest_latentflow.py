"""The pytest option `--latentflow-thorough`.

A module of its own, beside the package, because pytest imports it in every run: inside the package it would bring torch along.
"""

import pytest

EXAMPLES = 1000  # of each property; Hypothesis draws 100 by default


def pytest_addoption(parser: pytest.Parser) -> None:
    """Add the option; nothing else happens in runs without it."""
    group = parser.getgroup("latentflow")
    group.addoption(
        "--latentflow-thorough",
        action="store_true",
        help=f"draw {EXAMPLES} new Hypothesis examples of each property, without deadline",
    )


@pytest.hookimpl(trylast=True)  # after conftest files and Hypothesis have loaded profiles of their own
def pytest_configure(config: pytest.Config) -> None:
    """Load the profile, if asked to."""
    if not config.getoption("--latentflow-thorough"):
        return
    try:
        from hypothesis import HealthCheck, settings
    except ImportError as error:
        raise pytest.UsageError(
            "--latentflow-thorough: got no hypothesis, expected it installed; pip install 'latentflow[testing]'"
        ) from error
    settings.register_profile(
        "latentflow-thorough",
        max_examples=EXAMPLES,
        deadline=None,
        derandomize=False,
        suppress_health_check=[HealthCheck.too_slow],
    )
    settings.load_profile("latentflow-thorough")
