"""Property-test potentials, flows and objectives of your own: Hypothesis strategies, exact solutions, and assertions.

`check_potential` checks all that must hold of any module with ``forward(z, t) -> (..., K)``. The assertions check one property
each, on tensors that you give or that the strategies draw. Most take arithmetic of your own to be judged.
"""

try:
    import hypothesis as _hypothesis  # noqa: F401
except ImportError as error:
    raise ImportError(
        "latentflow.testing: got no hypothesis, expected it installed; pip install 'latentflow[testing]'"
    ) from error

from latentflow.testing.check import check_potential
from latentflow.testing.constraint import assert_initial, assert_penalty, assert_residual, assert_solution
from latentflow.testing.evaluation import assert_equivariance_error, assert_one_factor
from latentflow.testing.flows import assert_density, assert_injective, assert_log_det, assert_transport
from latentflow.testing.gaussians import LinearGaussian
from latentflow.testing.modules import (
    assert_batch_independent,
    assert_device,
    assert_dtype,
    assert_gradients_reach,
    assert_state,
)
from latentflow.testing.objective import assert_categorical_kl, assert_kl
from latentflow.testing.potentials import assert_gradient, assert_hessian, assert_smooth, assert_time_derivative
from latentflow.testing.solutions import Drift, Folding, Linear, Spread, Stretch, Swing, SwingForce
from latentflow.testing.strategies import (
    acting,
    known_potentials,
    latents,
    linear_gaussians,
    points,
    potentials,
    seeded,
    solutions,
    times,
)

__all__ = [
    "Drift",
    "Folding",
    "Linear",
    "LinearGaussian",
    "Spread",
    "Stretch",
    "Swing",
    "SwingForce",
    "acting",
    "assert_batch_independent",
    "assert_categorical_kl",
    "assert_density",
    "assert_device",
    "assert_dtype",
    "assert_equivariance_error",
    "assert_gradient",
    "assert_gradients_reach",
    "assert_hessian",
    "assert_initial",
    "assert_injective",
    "assert_kl",
    "assert_log_det",
    "assert_one_factor",
    "assert_penalty",
    "assert_residual",
    "assert_smooth",
    "assert_solution",
    "assert_state",
    "assert_time_derivative",
    "assert_transport",
    "check_potential",
    "known_potentials",
    "latents",
    "linear_gaussians",
    "points",
    "potentials",
    "seeded",
    "solutions",
    "times",
]
