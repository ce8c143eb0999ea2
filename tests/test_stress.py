"""Finite numbers or an error that names them: no nan, however large weights, latents, batches and paths are."""

import copy
import io
import math

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from torch import Tensor, nn
from torch.distributions import Independent, Normal

from latentflow import (
    DiffusionPrior,
    FlowPosterior,
    GumbelSelector,
    HJConstraint,
    NegativeForce,
    Potential,
    categorical_kl,
    flow_kl,
    validate_values,
)
from latentflow.metrics import evidence_bound, importance_weighted_bound
from latentflow.posterior import LOG_DETS
from tests.problems import Drawn, randn, seeds


class Model(nn.Module):
    """All terms of the objective, from latents; the weights are `factor` times those of the initialisation."""

    def __init__(self, dim: int, num: int, log_det: str | None, factor: float = 1.0, **options: object) -> None:
        super().__init__()
        made = {name: options.pop(name) for name in ("bounded", "dtype", "hidden") if name in options}
        potential, force = Potential(dim, num, **made), NegativeForce(dim, num, **made)
        with torch.no_grad():
            for parameter in (*potential.parameters(), *force.parameters()):
                parameter.mul_(factor)
        self.flow, self.hj = FlowPosterior(potential, log_det, **options), HJConstraint(potential, force)
        self.prior = DiffusionPrior(num, 0.1, dtype=made.get("dtype"))
        self.bound = "initial" if log_det is None else "marginal"

    def forward(
        self, mean: Tensor, steps: int, k: Tensor | int | None = None, weights: Tensor | None = None
    ) -> list[Tensor]:
        """Each term that a user may ask for, first the loss."""
        q0 = Independent(Normal(mean, torch.ones_like(mean)), 1)
        path = self.flow(q0, k, weights=weights, steps=steps)
        log_prior = self.prior.log_prob(path)
        kl, penalty = flow_kl(path, self.prior, bound=self.bound), self.hj(path)
        loss = (kl + penalty).sum()
        others = [] if path.log_q is None else [path.log_q, path.log_det]
        return [loss, kl, penalty, log_prior, path.z, *others]


def finite(model: Model, *args: object, **options: object) -> None:
    """All terms and all gradients."""
    terms = model(*args, **options)
    assert all(term.isfinite().all() for term in terms)
    terms[0].backward()
    for name, parameter in model.named_parameters():
        assert parameter.grad is None or parameter.grad.isfinite().all(), name


@given(
    factor=st.sampled_from([1.0, 10.0, 100.0]),
    reach=st.sampled_from([1.0, 1e2, 1e4]),
    log_det=st.sampled_from(LOG_DETS),
    dtype=st.sampled_from([torch.float32, torch.float64]),
    bounded=st.booleans(),
    shape=st.tuples(st.sampled_from([0, 1, 3]), st.sampled_from([1, 5]), st.sampled_from([1, 4])),
    labels=st.booleans(),
    seed=seeds,
)
def test_large_weights_and_latents_stay_finite(
    factor: float, reach: float, log_det: str | None, dtype: torch.dtype, bounded: bool, shape: tuple[int, int, int],
    labels: bool, seed: int,
) -> None:  # fmt: skip
    torch.manual_seed(seed)
    batch, dim, num = shape
    model = Model(dim, num, log_det, factor, bounded=bounded, dtype=dtype)
    acting = {"k": torch.arange(batch) % num} if labels else {"weights": torch.rand(batch, num, dtype=dtype)}
    finite(model, reach * randn(batch, dim, seed=seed, dtype=dtype), 4, **acting)


@pytest.mark.parametrize(
    ("dim", "num", "log_det", "steps", "options"),
    [
        (8, 2, "exact", 256, {}),
        (8, 2, "hutchinson", 256, {}),
        (8, 2, "laplacian", 256, {}),
        (8, 2, "exact", 64, {"substeps": 4}),
        (8, 2, "exact", 8, {"solver": "rk4", "solver_options": {"step_size": 0.5}}),
        (16, 64, "exact", 3, {}),
        (16, 64, "hutchinson", 3, {}),
        (1024, 1, "hutchinson", 2, {"hidden": 256}),
        (1024, 1, None, 2, {"hidden": 256}),
    ],
)
@pytest.mark.parametrize(("factor", "reach"), [(1.0, 1.0), (100.0, 1e4)])
@pytest.mark.parametrize("labels", [False, True])
def test_long_paths_many_potentials_and_many_dimensions_stay_finite(
    dim: int, num: int, log_det: str | None, steps: int, options: dict, factor: float, reach: float, labels: bool
) -> None:
    torch.manual_seed(0)
    batch = 2
    model = Model(dim, num, log_det, factor, **options)
    acting = {"k": torch.arange(batch) % num} if labels else {"weights": torch.rand(batch, num)}
    finite(model, reach * randn(batch, dim, dtype=torch.float32), steps, **acting)


class Formula(nn.Module):
    """A potential without bounds, as a user may write one."""

    def __init__(self, formula) -> None:
        super().__init__()
        self.formula = formula

    def forward(self, z: Tensor, t: Tensor) -> Tensor:
        return self.formula(z, t).unsqueeze(-1)


def q(scale: float, mean: float = 0.0) -> Independent:
    """As an encoder gives it whose checks are off for speed."""
    return Independent(Normal(torch.full((3, 2), mean), torch.full((3, 2), scale), validate_args=False), 1)


def path(scale: float = 1.0, mean: float = 0.0, log_det: str | None = "exact"):
    return FlowPosterior(Potential(2), log_det)(q(scale, mean), 0, steps=2)


STEEP = Formula(lambda z, t: 1e25 * z.sum(-1) * t)
ROOT = Formula(lambda z, t: z.abs().sqrt().sum(-1))
BENT = Formula(lambda z, t: z.abs().pow(1.5).sum(-1))
RK4 = {"solver": "rk4", "solver_options": {"step_size": 0.5}}
SILENT = {
    "a scale of 0": (lambda: path(0.0), r"q0.log_prob\(z_0\): got 3 non-finite values in samples \[0, 1, 2\]"),
    "a scale of 0, no densities": (
        lambda: flow_kl(path(0.0, log_det=None), DiffusionPrior(), bound="initial"), "flow_kl: got 3 non-finite"
    ),
    "latents whose squares overflow": (lambda: DiffusionPrior().log_prob(path(1.0, 1e20)), "prior.log_prob: got 9 non-finite"),
    "a prior as wide as numbers go": (
        lambda: DiffusionPrior(1, 3e38).log_prob(path()), r"prior.log_prob: got 6 non-finite values in samples \[0, 1, 2\]"
    ),
    "a residual whose square overflows": (
        lambda: HJConstraint(STEEP)(FlowPosterior(STEEP, None)(q(1.0), 0, steps=2)),
        r"HJConstraint: got 3 non-finite values in samples \[0, 1, 2\]",
    ),
    "a residual that overflows": (lambda: HJConstraint(STEEP).residual(torch.ones(2, 2), 1.0), "residual: got 2 non-finite"),
    "a potential that is not smooth": (
        lambda: HJConstraint(ROOT).residual(torch.tensor([[1.0], [0.0]]), 1.0), r"residual: got 1 non-finite .* samples \[1\]"
    ),
    "an initial term at such a point": (lambda: HJConstraint(ROOT).initial(torch.zeros(2, 2)), "initial: got 2 non-finite"),
    "an ODE through such a point": (
        lambda: FlowPosterior(BENT, **RK4).transport(torch.zeros(2, 2), 0, 2), "log_det: got nan in sample 0 at step 1"
    ),
    "the density at a point of such a posterior": (
        lambda: FlowPosterior(Potential(2)).log_prob(torch.ones(3, 2), q(0.0), 0, 2), r"q0.log_prob\(z_0\): got 3 nan"
    ),
    "a decoder that gives nan": (
        lambda: evidence_bound(torch.full((3, 3), math.nan), path(), DiffusionPrior()), "log_likelihood: got 9 nan"
    ),
    "a decoder that gives nan to importance weights": (
        lambda: importance_weighted_bound(lambda z: z.sum(-1) * math.nan, Potential(2), q(1.0), 0, steps=2, samples=2),
        r"log_likelihood: got 9 nan in samples \[0, 1, 2\]",
    ),
}  # fmt: skip


@pytest.mark.parametrize("name", SILENT)
def test_what_has_no_finite_answer_is_an_error(name: str) -> None:
    ask, message = SILENT[name]
    with pytest.raises(ValueError, match=rf"{message}.*expected .*; \w"):
        ask()
    with validate_values(False):
        ask()  # who has turned the checks off is not made to wait


def test_an_impossible_point_has_an_infinite_log_density() -> None:
    """-inf is the right answer there, not an accident."""
    flow = FlowPosterior(Formula(lambda z, t: 0.0 * z.sum(-1)))
    box = Independent(torch.distributions.Uniform(torch.zeros(2, 1), torch.ones(2, 1), validate_args=False), 1)
    assert flow.log_prob(torch.tensor([[0.5], [2.0]]), box, 0, 1).tolist() == [0.0, -math.inf]


@given(
    st.lists(st.floats(width=32, allow_nan=False, allow_infinity=False), min_size=2, max_size=5),
    st.sampled_from([torch.float32, torch.float64]),
)
def test_the_kl_of_any_logits_is_a_number(logits: list[float], dtype: torch.dtype) -> None:
    x = torch.tensor([logits], dtype=dtype, requires_grad=True)
    kl = categorical_kl(x)
    probability = x.detach().double().softmax(-1)
    truth = torch.special.xlogy(probability, probability).sum(-1) + math.log(len(logits))
    torch.testing.assert_close(kl.double(), truth, rtol=1e-5, atol=1e-5)
    kl.backward()
    assert x.grad.isfinite().all()


class Loss(nn.Module):
    """The whole objective of a model; without noise it is the same in each run."""

    def __init__(self, seed: int, noise: float) -> None:
        super().__init__()
        torch.manual_seed(seed)
        self.model, self.noise = Model(3, 2, "exact", 2.0, dtype=torch.float64), noise

    def forward(self, z0: Tensor, k: Tensor) -> Tensor:
        q0 = Drawn(z0, torch.ones_like(z0), self.noise * torch.randn_like(z0), validate_args=False)
        path = self.model.flow(q0, k, steps=3)
        return (flow_kl(path, self.model.prior) + self.model.hj(path)).sum()


@pytest.mark.parametrize("noise", [0.0, 1.0])
def test_seeds_train_side_by_side_under_vmap(noise: float) -> None:
    """Objective and gradients of several models at once are those of each by itself."""
    models = [Loss(seed, noise) for seed in range(3)]
    z0, k = randn(4, 3), torch.tensor([0, 1, 1, 0])
    state, empty = torch.func.stack_module_state(models), copy.deepcopy(models[0]).to("meta")

    def objective(parameters: dict[str, Tensor], buffers: dict[str, Tensor]) -> Tensor:
        return torch.func.functional_call(empty, (parameters, buffers), (z0, k))

    both = torch.func.vmap(torch.func.grad_and_value(objective), randomness="different")
    gradients, values = both(*state)
    assert len(set(values.tolist())) == 3
    assert all(gradient.isfinite().all() for gradient in gradients.values())
    if noise:
        return
    for seed, model in enumerate(models):
        value = model(z0, k)
        torch.testing.assert_close(values[seed], value, rtol=1e-12, atol=1e-12)
        value.backward()
        for name, parameter in model.named_parameters():
            torch.testing.assert_close(gradients[name][seed], parameter.grad, rtol=1e-9, atol=1e-11)


@pytest.mark.parametrize("dtype", [torch.float64, torch.float16, torch.bfloat16])
def test_a_state_dict_may_be_loaded_into_another_dtype(dtype: torch.dtype) -> None:
    """Into a wider one exactly; a narrower one rounds, and gives the same numbers to within what it rounds away."""
    torch.manual_seed(0)
    model = Model(3, 2, "exact")
    file = io.BytesIO()
    torch.save(model.to(dtype).state_dict(), file)
    file.seek(0)
    state = torch.load(file, weights_only=True)
    for own in (torch.float32, torch.float64):
        other = Model(3, 2, "exact", dtype=own)
        other.load_state_dict(state)
        assert all(parameter.dtype == own for parameter in other.parameters())
        for name, parameter in other.state_dict().items():
            assert torch.equal(parameter, state[name].to(own)), name
        z, _ = other.flow.transport(torch.ones(2, 3, dtype=own), 0, 3)
        truth, _ = model.double().flow.transport(torch.ones(2, 3, dtype=torch.float64), 0, 3)
        torch.testing.assert_close(z.double(), truth, rtol=1e-5, atol=1e-5)


@pytest.mark.parametrize(("dtype", "factor"), [(torch.bfloat16, 1.0), (torch.bfloat16, 100.0), (torch.float16, 1.0)])
def test_a_step_under_autocast_with_large_weights_is_finite(dtype: torch.dtype, factor: float) -> None:
    """Encoder and classifier in half precision, the flow in float32, gradients scaled as for float16.

    Not both float16 and large weights: a gradient of 1e16 is beyond what the encoder's own float16 can hold.
    """
    torch.manual_seed(0)
    model, encoder, selector = Model(4, 3, "exact", factor), nn.Linear(7, 8), GumbelSelector(nn.Linear(7, 3), 3)
    x = 3 * randn(5, 7, dtype=torch.float32)
    with torch.autocast("cpu", dtype=dtype):
        mean, log_variance = encoder(x).chunk(2, -1)
        assert mean.dtype == dtype
        weights, logits = selector(x)
        path = model.flow(Independent(Normal(mean, (0.5 * log_variance).exp()), 1), weights=weights, steps=4)
        loss = (flow_kl(path, model.prior) + model.hj(path) + categorical_kl(logits)).mean()
    assert loss.dtype == torch.float32
    (2.0**8 * loss).backward()
    for module in (model, encoder, selector):
        for name, parameter in module.named_parameters():
            assert parameter.grad is None or parameter.grad.isfinite().all(), name
