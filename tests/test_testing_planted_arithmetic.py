"""The kit finds what a user's script computes wrongly, and says where."""

import math

import pytest
import torch
from torch import nn

from latentflow import DiffusionPrior, FlowPosterior
from latentflow import testing as kit
from tests.problems import Reflection, finds, gaussian, make_potential, rand, randn

Z, T = randn(4, 3), 0.5 + rand(4, seed=1)
OURS = make_potential(3, 2)


class TestOwnArithmetic:
    """What a user's script computes, passed to the assertion that it concerns."""

    def test_gradient_and_time_derivative(self):
        kit.assert_gradient(OURS, Z, T, gradient=OURS.gradients)
        with finds("your gradient: got .* by autograd"):
            kit.assert_gradient(OURS, Z, T, gradient=lambda z, t: OURS.gradients(z, t) + 1e-8)
        kit.assert_time_derivative(OURS, Z, T, time_derivative=lambda z, t: OURS.first_derivatives(z, t)[0])
        with finds("your time derivative: got .* by autograd"):
            kit.assert_time_derivative(
                OURS, Z, T, time_derivative=lambda z, t: OURS.first_derivatives(z, t)[0].sum(0).expand(4, 2)
            )

    def test_hessian_and_laplacian(self):
        kit.assert_hessian(
            OURS, Z, T, hessian=lambda z, t: OURS.hessian(z, t, 0), laplacian=lambda z, t: OURS.laplacian(z, t, 0)
        )
        with finds("your Hessian: got .* by autograd"):
            kit.assert_hessian(OURS, Z, T, hessian=lambda z, t: OURS.hessian(z, t, 1))
        with finds("your Laplacian: got .* by autograd"):
            kit.assert_hessian(OURS, Z, T, laplacian=lambda z, t: OURS.hessian(z, t, 0).sum((1, 2)))

    def test_residual(self):
        def without_the_half(z, t):
            rates, gradients = OURS.first_derivatives(z, t)
            return rates + gradients.square().sum(-1)

        with finds("your Hamilton-Jacobi residual: got .* by finite differences"):
            kit.assert_residual(OURS, Z, T, residual=without_the_half)
        with finds("your Hamilton-Jacobi residual: got"):
            kit.assert_residual(kit.Swing(), Z, T, residual=lambda z, t: torch.zeros(4, 1).double())
        kit.assert_residual(kit.Swing(), Z, T, force=kit.SwingForce(), residual=lambda z, t: torch.zeros(4, 1).double())

    def test_solution(self):
        with finds("Hamilton-Jacobi residual of a solution: got .*, expected 0 of an exact solution"):
            kit.assert_solution(kit.Swing(), Z, T)
        with finds("Hamilton-Jacobi residual of a solution"):
            kit.assert_solution(OURS, Z, T)

    def test_initial_term_and_penalty(self):
        with finds("your initial term: got .* by finite differences"):
            kit.assert_initial(OURS, Z, initial=lambda z: OURS.gradients(z, 1.0).square().sum(-1))
        path = FlowPosterior(OURS)(gaussian(4, 3), weights=rand(4, 2, 2), steps=2)

        def of_the_mixture(path):
            z, weights = path.z[:, :-1], path.weights
            rates, gradients = OURS.first_derivatives(z, path.times[1:])
            mixed = (weights[..., None] * gradients).sum(2).square().sum(-1)
            first = OURS.gradients(path.z[:, 0], 0.0).square().sum(-1)
            return ((weights * rates).sum(-1) + 0.5 * mixed).square().mean(1) + (weights[:, 0] * first).sum(-1)

        with finds("your Hamilton-Jacobi penalty: got .* by finite differences"):
            kit.assert_penalty(OURS, path, penalty=of_the_mixture)

    def test_log_det(self):
        with finds("your log-determinant: got .* by the Jacobian of z"):
            kit.assert_log_det(OURS, Z, T, log_det=lambda z, t: (1 + OURS.laplacian(z, t, 0)).abs().log())
        weights = rand(4, 2)
        with finds(r"your log-determinant: got .*\n(.*\n)*  active   \[0\.\d+, 0\.\d+\]"):
            kit.assert_log_det(OURS, Z, T, weights, log_det=lambda z, t: OURS.laplacian(z, t, 0))

    def test_transport(self):
        flow = FlowPosterior(OURS)
        other = FlowPosterior(OURS, label="start")
        with finds(r"your path: got .* step by step.*\n  where    sample \d, step [123], dimension \d"):
            kit.assert_transport(flow, Z, 0, 3, transport=lambda z: other.transport(z, 0, 3))
        with finds(r"your log-determinant: got .* by the Jacobian of each step.*\n  where    sample \d, step \d"):
            kit.assert_transport(
                flow, Z, 0, 3, transport=lambda z: (flow.transport(z, 0, 3)[0], -flow.transport(z, 0, 3)[1])
            )
        for wrong in ({"solver": "rk4"}, {"log_det": "laplacian"}):
            with pytest.raises(ValueError, match=r"flow: got solver=.* expected 'euler' and 'exact'"):
                kit.assert_transport(FlowPosterior(OURS, **wrong), Z, 0, 1)

    def test_kl(self):
        case = kit.LinearGaussian(kit.Linear(torch.eye(2)[None], torch.zeros(1, 2)), torch.ones(2), torch.eye(2), 2)
        with finds(r"your KL: got .* in closed form.*\n  steps    2"):
            kit.assert_kl(case, DiffusionPrior(), kl=lambda path, prior: (prior.log_prob(path) - path.log_q).sum(1))
        with finds("your KL: got .* in closed form"):
            kit.assert_kl(case, DiffusionPrior(), bound="initial", kl=lambda path, prior: path.log_q.sum(1))
        with finds("your KL of the index: got .* by the sum over k"):
            kit.assert_categorical_kl(torch.eye(3), kl=lambda x: -x.log_softmax(-1).mean(-1) - math.log(3))


class TestFolds:
    def test_an_eigenvalue(self):
        with finds(
            r"smallest eigenvalue of I \+ H: got -1, .*\n  latent   \[0, 0\]\n  time     1\n  where    \d+ of 512 points"
        ):
            kit.assert_injective(kit.Folding(2.0), ([-3.0, -3.0], [3.0, 3.0]), 1.0)
        with finds(r"smallest eigenvalue of I \+ H: got -1"):
            kit.assert_injective(Reflection(), ([-3.0], [3.0]), 1.0)

    @pytest.mark.parametrize("region", [(-3.0, 3.0), ([3.0], [-3.0]), ([-3.0], [3.0, 3.0]), ([[-3.0]], [[3.0]])])
    def test_no_region(self, region):
        with pytest.raises(ValueError, match=r"region: got .*, expected two corners of a box, dim numbers each"):
            kit.assert_injective(OURS, region, 1.0)

    def test_two_latents_that_change_places_where_no_eigenvalue_tells(self):
        class Roof(nn.Module):
            """u = -2 |z|: H = 0 wherever one looks, and the step folds at the origin."""

            def forward(self, z, t):
                return -2 * z.abs().sum(-1, keepdim=True)

        with finds(r"step from a and b: got .* = -\S+ \|a - b\|\^2, .*\n  a        \[.*\n  b        \["):
            kit.assert_injective(Roof(), ([-3.0], [3.0]), 1.0)

    def test_density(self):
        with finds("integral of the density: got -0.24.*, expected 1 at step 1; .*\n  the map folds, or"):
            kit.assert_density(kit.Folding(2.0), 0, 1, dim=1)
        with finds("integral of the density: got .*, expected 1 at step 2"):
            kit.assert_density(kit.Folding(0.9), 0, 2, dim=2, path=self.without_a_determinant)
        kit.assert_density(kit.Folding(0.9), 0, 2, dim=2)
        with pytest.raises(ValueError, match="dim: got 3, expected 1 or 2"):
            kit.assert_density(kit.Folding(), 0, 1, dim=3)
        with pytest.raises(ValueError, match="flow: got log_det=None, expected densities"):
            kit.assert_density(FlowPosterior(kit.Folding(), log_det=None), 0, 1, dim=1)

    @staticmethod
    def without_a_determinant(z0):
        z, log_det = FlowPosterior(kit.Folding(0.9)).transport(z0, 0, 2)
        log_q = -0.5 * z0.square().sum(1) - math.log(2 * math.pi)
        return z, torch.stack((log_q, log_q - log_det[:, 0], log_q - log_det[:, 0]), 1)


class TestEvaluation:
    def test_error_of_each_sequence(self):
        def as_images(z0, k, target):
            return target.flatten(1).abs().sum(1)

        with finds(
            r"your equivariance error: got .* by adding up all 3 steps of potential 0; .*\n  where    sample \d"
        ):
            kit.assert_equivariance_error(OURS, torch.tanh, Z, randn(2, 4, 4, 3), evaluate=as_images)

    @pytest.mark.parametrize("transformations", [1, 3])
    def test_every_potential_has_a_target_of_its_own(self, transformations):
        with pytest.raises(
            ValueError, match=f"target: got {transformations} transformations for 2 potentials, expected"
        ):
            kit.assert_equivariance_error(OURS, torch.tanh, Z, randn(transformations, 4, 4, 3))

    def test_one_factor(self):
        right = torch.tensor([[[0, 1], [1, 1], [2, 1]], [[0, 0], [0, 1], [0, 2]]])
        kit.assert_one_factor(right, torch.tensor([0, 1]), sizes=(3, 3))
        with finds("sequence 0: got a change of factor 0 from 0 to 1 in frame 1, expected changes of factor 1 only"):
            kit.assert_one_factor(right, 1)
        with finds("sequence 0: got factor 1 at 1 in frames 0 and 1, expected it to move"):
            kit.assert_one_factor(right[:1, [0, 0]], 1)
        with finds("sequence 0: got factor 0 at 2 in frame 2, expected 0 to 1"):
            kit.assert_one_factor(right[:1], 0, sizes=(2, 3))
