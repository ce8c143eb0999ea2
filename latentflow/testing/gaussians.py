"""Gaussians carried by affine flows: paths whose densities and KL terms are known, with expectations that are exact."""

from __future__ import annotations

import math
from dataclasses import dataclass

import torch
from torch import Tensor
from torch.distributions import MultivariateNormal

from latentflow.path import LatentPath
from latentflow.posterior import FlowPosterior
from latentflow.testing.solutions import Linear


class Given(MultivariateNormal):
    """A Gaussian that hands out the points it was given: expectations over it become quadrature."""

    def __init__(self, points: Tensor, loc: Tensor, covariance: Tensor) -> None:
        self.points = points
        super().__init__(loc.expand_as(points), covariance.expand(len(points), -1, -1))

    def rsample(self, sample_shape: object = ()) -> Tensor:
        return self.points


def sigma_points(loc: Tensor, covariance: Tensor) -> Tensor:
    """2 d equally weighted points that integrate quadratic functions against N(loc, covariance) exactly."""
    root = torch.linalg.cholesky(covariance) * math.sqrt(len(loc))
    return torch.cat((loc + root.mT, loc - root.mT))


@dataclass(frozen=True)
class LinearGaussian:
    r"""A Gaussian :math:`q_0 = N(m, C)`, carried T steps by the first potential of an affine flow.

    Its densities stay Gaussian, :math:`m \leftarrow (I + H)m + b` and :math:`C \leftarrow (I + H)\,C\,(I + H)`.

    Attributes:
        potential: the affine flow.
        mean: m, (dim,).
        covariance: C, (dim, dim).
        steps: T.

    Shapes:
        ``path()`` has B = 2 dim samples, so latents (B, T+1, dim), whose mean is the expectation of any quadratic function;
        ``moments()`` is the list of the T + 1 means (dim,) and covariances (dim, dim).

    Example:
        >>> import torch
        >>> from latentflow import DiffusionPrior, flow_kl
        >>> from latentflow.testing import Linear, LinearGaussian
        >>> still = Linear(torch.zeros(1, 2, 2), torch.zeros(1, 2))
        >>> case = LinearGaussian(still, torch.zeros(2), torch.eye(2), steps=3)
        >>> flow_kl(case.path(), DiffusionPrior()).mean().abs() < 1e-5
        tensor(True)
    """

    potential: Linear
    mean: Tensor
    covariance: Tensor
    steps: int

    def path(self) -> LatentPath:
        """Its sigma points as a path (B, T+1, dim), with densities.

        Example:
            >>> import torch
            >>> from latentflow.testing import Linear, LinearGaussian
            >>> triple = Linear(2 * torch.eye(2)[None], torch.zeros(1, 2))
            >>> LinearGaussian(triple, torch.zeros(2), torch.eye(2), steps=3).path().z.shape
            torch.Size([4, 4, 2])
        """
        q0 = Given(sigma_points(self.mean, self.covariance), self.mean[None], self.covariance[None])
        path: LatentPath = FlowPosterior(self.potential)(q0, 0, steps=self.steps)
        return path

    def moments(self) -> list[tuple[Tensor, Tensor]]:
        """Mean (dim,) and covariance (dim, dim) at t = 0, ..., T.

        Example:
            >>> import torch
            >>> from latentflow.testing import Linear, LinearGaussian
            >>> triple = Linear(2 * torch.eye(2)[None], torch.zeros(1, 2))
            >>> mean, covariance = LinearGaussian(triple, torch.ones(2), torch.eye(2), steps=1).moments()[-1]
            >>> mean.tolist(), covariance.tolist()
            ([3.0, 3.0], [[9.0, 0.0], [0.0, 9.0]])
        """
        mean, covariance = self.mean, self.covariance
        matrix = torch.eye(len(mean), dtype=mean.dtype) + self.potential.hessians[0].detach()
        found = [(mean, covariance)]
        for _ in range(self.steps):
            mean, covariance = matrix @ mean + self.potential.shifts[0].detach(), matrix @ covariance @ matrix
            found.append((mean, covariance))
        return found
