"""Settings of every test: the same examples and the same random numbers in each run, never a clock."""

import os

import pytest
import torch
from hypothesis import HealthCheck, Phase, settings

# derandomize: a run must not pass by luck. `pytest --latentflow-thorough` looks elsewhere each time.
settings.register_profile(
    "default", deadline=None, derandomize=True, max_examples=25, suppress_health_check=[HealthCheck.too_slow]
)
# For mutation/: the same examples; which of them fails is all that is asked.
settings.register_profile(
    "mutation",
    settings.get_profile("default"),
    phases=(Phase.explicit, Phase.generate),
    report_multiple_bugs=False,
    print_blob=False,
)
settings.load_profile(os.environ.get("HYPOTHESIS_PROFILE", "default"))

torch.set_num_threads(1)  # the tensors are tiny: on a busy machine a second thread makes the tests several times slower


@pytest.fixture(autouse=True)
def fixed_seed():
    torch.manual_seed(0)


@pytest.fixture(scope="session")
def written(tmp_path_factory):
    """All data sets of `data_files` under their names in one data folder."""
    from tests.data_files import WRITTEN  # not above: most tests need none of its libraries

    folder = tmp_path_factory.mktemp("data")
    for name, (write, _, _) in WRITTEN.items():
        write(folder / name)
    return folder
