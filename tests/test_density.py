"""The density that a path carries is a density: it integrates to one, is Gaussian where it must be, and shows its folds."""

import math

import pytest
import torch
from hypothesis import assume, given
from hypothesis import strategies as st
from torch.distributions import Independent, MultivariateNormal, Normal

from latentflow import DiffusionPrior, FlowPosterior, flow_kl
from tests.problems import Folding, Given, Linear, Wave, make_potential, randn, seeds, symmetric


def lattice(n, half, dim):
    """n^dim points of a square around the origin, (n, ..., n, dim)."""
    axis = torch.linspace(-half, half, n, dtype=torch.float64)
    return torch.stack(torch.meshgrid(*(axis,) * dim, indexing="ij"), -1)


def on_points(points):
    return Given(points, torch.zeros_like(points[:1]), torch.eye(points.shape[1], dtype=points.dtype))


def gentle(user, dim):
    """A potential that moves latents visibly and folds nowhere; a user's network, or ours with closed forms."""
    potential = Wave(dim, 2).double() if user else make_potential(dim, 2, 5, strength=1.8)
    with torch.no_grad():
        if user:
            potential.out.weight *= 4
    return potential


OPTIONS = [
    {},
    {"substeps": 3},
    {"label": "start"},
    {"solver": "rk4", "substeps": 2},
]


def assert_no_folds(path, options):
    """Folds are unknown for the fixed-step ODE solver."""
    assert path.folds is None if options.get("solver") == "rk4" else not path.folds.any()


@pytest.mark.parametrize("options", OPTIONS)
@pytest.mark.parametrize("user", [False, True])
def test_pushed_density_integrates_to_one_on_the_line(options, user):
    z0 = lattice(6001, 9, 1)
    path = FlowPosterior(gentle(user, 1), **options)(on_points(z0), 1, steps=3)
    assert_no_folds(path, options)
    assert (path.z[:, -1] - z0).abs().max() > 0.1, "nothing moves: the test tests nothing"
    for t in range(4):
        mass = torch.trapezoid(path.log_q[:, t].exp(), path.z[:, t, 0])
        assert mass.item() == pytest.approx(1, abs=1e-5)


def areas(corners):
    """Of the quadrilaterals of a mapped lattice (n, n, 2), by the shoelace formula: no derivative of the map is used."""
    a, b, c, d = corners[:-1, :-1], corners[1:, :-1], corners[1:, 1:], corners[:-1, 1:]
    across, along = c - a, d - b
    return 0.5 * (across[..., 0] * along[..., 1] - across[..., 1] * along[..., 0])


@pytest.mark.parametrize("options", OPTIONS)
@pytest.mark.parametrize("user", [False, True])
def test_pushed_density_integrates_to_one_in_the_plane(options, user):
    n, z0 = 161, lattice(161, 6, 2)
    path = FlowPosterior(gentle(user, 2), **options)(on_points(z0.flatten(0, 1)), 1, steps=2)
    assert_no_folds(path, options)
    for t in range(3):
        density, area = path.log_q[:, t].exp().view(n, n), areas(path.z[:, t].view(n, n, 2))
        height = (density[:-1, :-1] + density[1:, :-1] + density[1:, 1:] + density[:-1, 1:]) / 4
        assert (area > 0).all()
        assert (height * area).sum().item() == pytest.approx(1, abs=1e-3)
    # with the sign of the log-determinants turned round, the mass would be far from one
    wrong = (path.log_q[:, 0] + path.log_det.sum(1)).exp().view(n, n)[:-1, :-1]
    assert abs((wrong * area).sum().item() - 1) > 0.01


@pytest.mark.parametrize("dim", [1, 2])
@pytest.mark.parametrize("substeps", [1, 2])
def test_log_prob_integrates_to_one(dim, substeps):
    n, half = (2001, 10) if dim == 1 else (81, 7)
    z_T = lattice(n, half, dim).view(-1, dim)
    flow = FlowPosterior(gentle(True, dim), substeps=substeps)
    q0 = Independent(Normal(torch.full((1, dim), 0.5, dtype=z_T.dtype), torch.full((1, dim), 0.8, dtype=z_T.dtype)), 1)
    density = flow.log_prob(z_T, q0, 1, 2).exp()
    assert (density.sum() * (2 * half / (n - 1)) ** dim).item() == pytest.approx(1, abs=1e-4)
    mean = (density[:, None] * z_T).sum(0) * (2 * half / (n - 1)) ** dim
    assert (mean - 0.5).abs().max() > 0.05, "nothing moves: the test tests nothing"


@given(st.integers(1, 5), st.integers(1, 4), seeds, st.integers(1, 3))
def test_affine_flows_keep_gaussians_gaussian(dim, steps, seed, substeps):
    potential = Linear(symmetric(dim, seed, 0.4)[None], randn(1, dim, seed=seed))
    matrix = torch.eye(dim) + potential.hessians[0].detach() / substeps
    assume(torch.linalg.eigvalsh(matrix)[0] > 0.05)
    points = randn(6, dim, seed=seed)
    root = torch.eye(dim) + 0.3 * randn(dim, dim, seed=seed + 1)
    mean, covariance = randn(1, dim, seed=seed + 2), root @ root.mT + 0.1 * torch.eye(dim)
    path = FlowPosterior(potential, substeps=substeps)(Given(points, mean, covariance), 0, steps=steps)
    for t in range(steps + 1):
        expected = MultivariateNormal(mean, covariance).log_prob(path.z[:, t])
        torch.testing.assert_close(path.log_q[:, t], expected, rtol=1e-8, atol=1e-8)
        for _ in range(substeps):
            mean, covariance = mean @ matrix + potential.shifts.detach() / substeps, matrix @ covariance @ matrix


def test_where_the_map_folds_the_single_branch_is_no_density_and_bound_a_no_bound():
    """Why folds are reported: under z - 2 tanh z the 'KL' of bound (A) comes out negative."""
    std, z0 = 1.5, lattice(400_001, 14, 1)
    q0 = Given(z0, torch.zeros(1, 1, dtype=z0.dtype), torch.full((1, 1), std**2, dtype=z0.dtype))
    path = FlowPosterior(Folding(2.0))(q0, 0, steps=1)
    mass = q0.log_prob(z0).exp() * (z0[1, 0] - z0[0, 0])
    prior = DiffusionPrior(dtype=torch.float64)
    log_ratio = path.log_q[:, 1] - prior.log_prob(path)[:, 1]
    z1 = z0 - 2 * z0.tanh()
    standard = Normal(torch.zeros((), dtype=z0.dtype), 1)
    by_hand = standard.log_prob(z0 / std) - math.log(std) - (1 - 2 / z0.cosh().square()).abs().log()
    expected = (mass[:, None] * (by_hand - standard.log_prob(z1))).sum()
    assert (mass * log_ratio).sum().item() == pytest.approx(expected.item(), abs=1e-9)
    assert expected < -0.06
    folded = (mass * path.folds[:, 0]).sum()
    assert folded.item() == pytest.approx(math.erf(math.acosh(2**0.5) / std / 2**0.5), abs=1e-4)  # |z| < arcosh sqrt 2

    # The pushforward itself, all its branches summed, is a density with a KL of at least 0.
    edges = torch.linspace(-13, 13, 1301, dtype=z0.dtype)
    cells = torch.bucketize(z1[:, 0], edges) - 1
    probability = torch.zeros(1300, dtype=z0.dtype).scatter_add_(0, cells, mass)
    width, middle = edges[1] - edges[0], 0.5 * (edges[1:] + edges[:-1])
    kl = (torch.special.xlogy(probability, probability / width) - probability * standard.log_prob(middle)).sum()
    assert kl > 0.1


def test_an_injective_map_has_a_kl_that_is_not_negative():
    z0 = lattice(20_001, 9, 1)
    mass = Normal(0.0, 1.0).log_prob(z0[:, 0]).exp() * (z0[1, 0] - z0[0, 0])
    for strength in (0.3, 0.6, 0.9):
        path = FlowPosterior(Folding(strength))(on_points(z0), 0, steps=2)
        assert not path.folds.any()
        kl = (mass * flow_kl(path, DiffusionPrior(dtype=torch.float64))).sum()
        assert kl.item() > 0.01


def test_exact_beats_the_expansion_beats_eq_10():
    """For H = h I the three say d log(1 + h), d (h - h^2/2) and log(1 + d h)."""
    dim, h = 6, 0.1
    potential = Linear(h * torch.eye(dim, dtype=torch.float64)[None], torch.zeros(1, dim, dtype=torch.float64))
    values = [
        FlowPosterior(potential, kind).transport(randn(2, dim), 0, 1)[1][0, 0].item()
        for kind in ("exact", "hutchinson", "laplacian")
    ]
    expected = [dim * math.log(1 + h), dim * (h - h * h / 2), math.log(1 + dim * h)]
    assert values == pytest.approx(expected, abs=1e-12)
