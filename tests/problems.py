"""What the tests share: problems of their own, and those of `latentflow.testing` under the names that the tests use."""

import dataclasses
import re

import pytest
import torch
from hypothesis import strategies as st
from torch import nn
from torch.distributions import Independent, Normal

from latentflow.testing import Drift, Folding, Linear, Spread, Stretch, Swing, SwingForce, potentials  # noqa: F401
from latentflow.testing.gaussians import Given, sigma_points  # noqa: F401
from latentflow.testing.reference import reference_path, step_map  # noqa: F401
from latentflow.testing.strategies import make_potential  # noqa: F401


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


class Halved(torch.autograd.Function):
    """The identity with half its derivative."""

    @staticmethod
    def forward(ctx, x):
        return x.clone()

    @staticmethod
    def backward(ctx, grad):
        return 0.5 * grad


class WrongBackward(Wave):
    """Its autograd does not differentiate its forward."""

    def forward(self, z, t):
        return super().forward(Halved.apply(z), t)


class Opaque(nn.Module):
    """A Potential that hides its closed forms, so that the library has to differentiate it."""

    def __init__(self, potential):
        super().__init__()
        self.inner = potential

    def forward(self, z, t):
        return self.inner(z, t)


def close(a, b, tolerance=1e-10):
    torch.testing.assert_close(a, b, rtol=tolerance, atol=tolerance)


def check_message(make, error, message):
    """What `make` raises says what it got, what it expected and how to mend it; messages are literal but for " .* "."""
    pattern = ".*".join(re.escape(part) for part in message.split(".*"))
    with pytest.raises(error, match=pattern) as caught:
        make()
    assert re.search(r"got .*expected .*; \w", str(caught.value), re.DOTALL), caught.value


class Drawn(Independent):
    """A Gaussian with its noise given, so that its sample is the same in each process, version and run."""

    def __init__(self, mean, std, noise, **checks):
        super().__init__(Normal(mean, std, **checks), 1, **checks)
        self.noise = noise

    def rsample(self, *_):
        return self.base_dist.loc + self.base_dist.scale * self.noise


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


seeds = st.integers(0, 2**20)


def one_hot(labels, num, dtype=torch.float64):
    return nn.functional.one_hot(labels, num).to(dtype)


def finds(said):
    """A block in which an assertion of the kit must fail, saying this."""
    return pytest.raises(AssertionError, match=said)


def what_acts(kind, batch, steps, num, seed):
    """An argument of a flow, of each kind there is."""
    generator = torch.Generator().manual_seed(seed)
    if kind == "weights":
        return {"weights": rand(batch, steps, num, seed=seed)}
    shape = {"int": (), "labels": (batch,), "switching": (batch, steps)}[kind]
    k = torch.randint(num, shape, generator=generator)
    return {"k": int(k) if kind == "int" else k}


def plain(path):
    """The same path without what the flow has evaluated on the way."""
    return dataclasses.replace(path, rollout=None)
