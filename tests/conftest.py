"""Settings of every test: the same examples and the same random numbers in each run, never a clock."""

import pytest
import torch
from hypothesis import HealthCheck, settings

# derandomize: a run must not pass by luck. `pytest --latentflow-thorough` looks elsewhere each time.
settings.register_profile(
    "default", deadline=None, derandomize=True, max_examples=25, suppress_health_check=[HealthCheck.too_slow]
)
settings.load_profile("default")

torch.set_num_threads(1)  # the tensors are tiny: on a busy machine a second thread makes the tests several times slower


@pytest.fixture(autouse=True)
def fixed_seed():
    torch.manual_seed(0)
