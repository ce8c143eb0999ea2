"""Potentials whose answers are known, kept beside the answers, and references written without the library.

Exact solutions of the Hamilton-Jacobi equation carry `end`, where a latent is after time T. The references differentiate with
plain `torch.autograd`, one step and one sample after the other, so that they share nothing with what they judge.
"""

import math

import torch
from hypothesis import strategies as st
from torch import nn
from torch.distributions import Independent, MultivariateNormal, Normal

from latentflow import Potential


class Spread(nn.Module):
    """u = |z|^2 / (2 (t + c)): everything moves away from the origin on straight lines."""

    def __init__(self, c=1.0):
        super().__init__()
        self.c = c

    def forward(self, z, t):
        return (z.square().sum(-1) / (2 * (t + self.c))).unsqueeze(-1)

    def end(self, z0, time):
        return z0 * (time + self.c) / self.c


class Drift(nn.Module):
    """u = a.z - |a|^2 t / 2: everything moves along a."""

    def __init__(self, a):
        super().__init__()
        self.a = nn.Parameter(a)

    def forward(self, z, t):
        return (z @ self.a - 0.5 * self.a.square().sum() * t).unsqueeze(-1)

    def end(self, z0, time):
        return z0 + self.a * time


class Stretch(nn.Module):
    """u = z'S(t)z / 2 with S(t) = S_0 (I + t S_0)^-1: each axis of S_0 by itself."""

    def __init__(self, start):
        super().__init__()
        self.start = start
        self.strengths, self.axes = torch.linalg.eigh(start)

    def forward(self, z, t):
        now = self.strengths / (1 + t.unsqueeze(-1) * self.strengths)
        return (0.5 * ((z @ self.axes).square() * now).sum(-1)).unsqueeze(-1)

    def end(self, z0, time):
        return z0 + time * z0 @ self.start


class Swing(nn.Module):
    """u = sin(t) phi(z) - c t with phi = sum cos z_i, which the force of `SwingForce` absorbs entirely."""

    def forward(self, z, t):
        return (t.sin() * z.cos().sum(-1) - (1.5 * z.shape[-1] + 1) * t).unsqueeze(-1)


class SwingForce(nn.Module):
    """f = -g^2 <= -1, the one that makes the residual of `Swing` vanish."""

    def forward(self, z, t):
        dim = z.shape[-1]
        g = (1.5 * dim + 1 - t.cos() * z.cos().sum(-1) - 0.5 * t.sin().square() * z.sin().square().sum(-1)).sqrt()
        return -g.square().unsqueeze(-1)


class Linear(nn.Module):
    """K potentials u^k = z'H^k z / 2 + b^k.z, whose steps are the affine maps z + Hz + b."""

    def __init__(self, hessians, shifts):
        super().__init__()
        self.hessians, self.shifts = nn.Parameter(hessians), nn.Parameter(shifts)

    def forward(self, z, t):
        return 0.5 * torch.einsum("...i,kij,...j->...k", z, self.hessians, z) + z @ self.shifts.mT


class Folding(nn.Module):
    """u = -s sum log cosh z_i, so z - s tanh z, which folds for s > 1."""

    def __init__(self, strength=2.0):
        super().__init__()
        self.strength = strength

    def forward(self, z, t):
        log_cosh = nn.functional.softplus(2 * z, threshold=60) - z - math.log(2)
        return (-self.strength * log_cosh.sum(-1)).unsqueeze(-1)


class Reflection(nn.Module):
    """u = -|z|^2: the step is z -> -z, and I + H = -I everywhere."""

    def forward(self, z, t):
        return -z.square().sum(-1, keepdim=True)


class Wave(nn.Module):
    """A user's potential: an ordinary network in z and t that knows nothing of latentflow."""

    def __init__(self, dim, num=1, width=12):
        super().__init__()
        self.net = nn.Sequential(nn.Linear(dim + 1, width), nn.Tanh(), nn.Linear(width, width), nn.SiLU())
        self.out = nn.Linear(width, num, bias=False)  # a bias would only shift u, hence get no gradient

    def forward(self, z, t):
        return self.out(self.net(torch.cat((z, t.unsqueeze(-1)), -1)))


class Opaque(nn.Module):
    """A Potential that hides its closed forms, so that the library has to differentiate it."""

    def __init__(self, potential):
        super().__init__()
        self.inner = potential

    def forward(self, z, t):
        return self.inner(z, t)


class Drawn(Independent):
    """A Gaussian with its noise given, so that its sample is the same in each process, version and run."""

    def __init__(self, mean, std, noise, **checks):
        super().__init__(Normal(mean, std, **checks), 1, **checks)
        self.noise = noise

    def rsample(self, *_):
        return self.base_dist.loc + self.base_dist.scale * self.noise


class Given(MultivariateNormal):
    """A Gaussian that hands out the points it was given: expectations over it become quadrature."""

    def __init__(self, points, loc, covariance):
        self.points = points
        super().__init__(loc.expand_as(points), covariance.expand(len(points), -1, -1))

    def rsample(self, sample_shape=()):
        return self.points


def sigma_points(loc, covariance):
    """2 d equally weighted points that integrate quadratic functions against N(loc, covariance) exactly."""
    root = torch.linalg.cholesky(covariance) * math.sqrt(len(loc))
    return torch.cat((loc + root.mT, loc - root.mT))


def gaussian(batch, dim, seed=0, dtype=torch.float64):
    """A posterior of z_0 with its own mean and scale in every coordinate, as an encoder gives it."""
    generator = torch.Generator().manual_seed(seed)
    mean = torch.randn(batch, dim, generator=generator, dtype=dtype)
    std = 0.3 + torch.rand(batch, dim, generator=generator, dtype=dtype)
    return Independent(Normal(mean, std), 1)


def randn(*shape, seed=0, dtype=torch.float64):
    return torch.randn(shape, generator=torch.Generator().manual_seed(seed), dtype=dtype)


def rand(*shape, seed=0, dtype=torch.float64):
    return torch.rand(shape, generator=torch.Generator().manual_seed(seed), dtype=dtype)


def symmetric(dim, seed=0, scale=0.3):
    matrix = randn(dim, dim, seed=seed)
    return scale * (matrix + matrix.mT) / 2


def make_potential(dim, num=1, hidden=None, *, bounded=False, seed=0, strength=3.0, dtype=torch.float64):
    """A potential away from its tame initialisation: `strength` multiplies its first and last layer."""
    torch.manual_seed(seed)
    potential = Potential(dim, num, hidden, bounded=bounded, dtype=dtype)
    with torch.no_grad():
        potential.input_weight *= strength
        potential.output_weight *= strength
    return potential


@st.composite
def potentials(draw, max_dim=6):
    """Closed-form potentials over odd and even dims, narrow and wide, one and several, with and without the output tanh."""
    return make_potential(
        draw(st.integers(1, max_dim)),
        draw(st.integers(1, 3)),
        draw(st.sampled_from([None, 1, 2, 3, 7, 12])),
        bounded=draw(st.booleans()),
        seed=draw(seeds),
        strength=draw(st.sampled_from([1.0, 2.0, 4.0])),
    )


seeds = st.integers(0, 2**20)


def values_at(potential, z, t):
    """u (N, K) at rows z and one time for all, with t in the form that a user's module gets."""
    return potential(z, torch.as_tensor(t, dtype=z.dtype).expand(len(z)))


def step_map(potential, t, weights, substeps=1):
    """z -> z + sum_k w^k grad u^k(z, t) / substeps, by plain autograd."""

    def step(z):
        with torch.enable_grad():
            z = z if z.requires_grad else z.detach().requires_grad_()
            energy = (weights * values_at(potential, z, t)).sum()
            return z + torch.autograd.grad(energy, z, create_graph=True)[0] / substeps

    return step


def reference_path(potential, z0, weights, substeps=1, label="end"):
    """The path (B, T+1, d) by the definition, and the Jacobian of every substep (B, T, substeps, d, d)."""
    z, path, jacobians = z0.detach(), [z0.detach()], []
    for step in range(weights.shape[1]):
        for substep in range(substeps):
            t = step + (substep + (label == "end")) / substeps
            move = step_map(potential, t, weights[:, step], substeps)
            # Rows do not interact, so the Jacobian of the sum over rows holds one block for each row.
            rows = torch.autograd.functional.jacobian(
                lambda x, move=move: move(x).sum(0), z, vectorize=True
            )  # (d, B, d)
            jacobians.append(rows.transpose(0, 1))
            z = move(z).detach()
        path.append(z)
    stacked = torch.stack(jacobians, 1)
    return torch.stack(path, 1), stacked.unflatten(1, (weights.shape[1], substeps))


def one_hot(labels, num, dtype=torch.float64):
    return nn.functional.one_hot(labels, num).to(dtype)
