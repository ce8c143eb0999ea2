"""The kit finds potentials whose derivatives are not their own, and says where."""

import re

import pytest
import torch
from torch import nn

from latentflow import Potential
from latentflow import testing as kit
from latentflow.curvature import Curvature
from tests.problems import Halved, Wave, WrongBackward, finds, make_potential, rand, randn

Z, T = randn(4, 3), 0.5 + rand(4, seed=1)


class TestClosedForms:
    """A module that claims derivatives which are not its own."""

    @pytest.mark.parametrize(
        ("method", "wrong", "assertion", "said"),
        [
            (
                "gradient",
                lambda x: 2 * x,
                kit.assert_gradient,
                r"\w+\.gradient\(z, t, k\): got .* by autograd of forward",
            ),
            ("gradients", lambda x: -x, kit.assert_gradient, r"\w+\.gradients\(z, t\): got .* by autograd of forward"),
            (
                "first_derivatives",
                lambda x: (x[0], x[1] + 1e-6),
                kit.assert_gradient,
                "gradient that latentflow takes: got",
            ),
            (
                "first_derivatives",
                lambda x: (x[0] + 1e-6, x[1]),
                kit.assert_time_derivative,
                "time derivative that latentflow",
            ),
            ("hessian", lambda x: x.mT.flip(1), kit.assert_hessian, "Hessian that latentflow takes: got"),
            ("hessian_product", lambda x: x.flip(-1), kit.assert_hessian, "Hessian product that latentflow takes: got"),
            ("laplacian", lambda x: x + 0.1, kit.assert_hessian, "Laplacian that latentflow takes: got"),
        ],
    )
    def test_of_ours(self, method, wrong, assertion, said, monkeypatch):
        right = getattr(Potential, method)

        def changed(self, *arguments, **options):
            return wrong(right(self, *arguments, **options))

        potential = make_potential(3, 2)
        assertion(potential, Z, T)
        subclass = type("Changed", (Potential,), {method: changed})
        monkeypatch.setattr(Potential, method, changed)
        with finds(said) as caught:
            assertion(potential, Z, T)
        assert re.search(r"\n  where    sample \d.*\n  latent   \[.*\]\n  time     \d", str(caught.value))
        # Those of a subclass latentflow does not take, but somebody else may.
        monkeypatch.undo()
        potential.__class__ = subclass
        with finds(rf"Changed\.(gradients|{method})\(z, t.*by autograd of forward"):
            assertion(potential, Z, T)

    @pytest.mark.parametrize(
        ("method", "assertion"),
        [
            ("first_derivatives", kit.assert_gradient),
            ("first_derivatives", kit.assert_time_derivative),
            ("hessian", kit.assert_hessian),
        ],
    )
    def test_of_a_users_module(self, method, assertion):
        class Mistaken(kit.Swing):
            pass

        def wrong(self, *arguments):
            x = getattr(kit.Swing, method)(self, *arguments)
            return tuple(2 * part for part in x) if isinstance(x, tuple) else 2 * x

        setattr(Mistaken, method, wrong)
        with finds(rf"Mistaken\.{method}\(.*: got .* by autograd of forward"):
            assertion(Mistaken(), Z, T)

    @pytest.mark.parametrize(
        ("method", "said"), [("hessian_product", r"\(z, t, active, v\)"), ("laplacian", r"\(z, t, active\)")]
    )
    def test_of_a_users_products_and_traces(self, method, said):
        class Mistaken(kit.Swing):
            pass

        setattr(Mistaken, method, lambda self, z, t, active, v=None: torch.ones_like(z if v is not None else z[:, 0]))
        with finds(rf"Mistaken\.{method}{said}: got 1, expected"):
            kit.assert_hessian(Mistaken(), Z, T)

    def test_what_only_shares_a_name_is_no_claim(self):
        potential = kit.Swing()
        potential.gradient = 0.5
        potential.laplacian = lambda image: image
        kit.assert_gradient(potential, Z, T)
        kit.assert_hessian(potential, Z, T)


def test_the_log_determinant_that_flows_use_is_judged(monkeypatch):
    right = Curvature.log_det
    kit.assert_log_det(make_potential(3, 2), Z, T)
    monkeypatch.setattr(Curvature, "log_det", lambda self: (right(self)[0] + 0.1, right(self)[1]))
    with finds("log-determinant: got .* by the Jacobian of z"):
        kit.assert_log_det(make_potential(3, 2), Z, T)


class TestBackward:
    """A module whose autograd does not differentiate its forward."""

    class LateCustom(Wave):
        def forward(self, z, t):
            return super().forward(z, Halved.apply(t))

    class Detached(Wave):
        def forward(self, z, t):
            return super().forward(z.detach(), t.detach())

    class Frozen(nn.Module):
        def forward(self, z, t):
            with torch.no_grad():
                return (z.square().sum(-1) * t)[..., None]

    @pytest.mark.parametrize("potential", [WrongBackward(3).double(), Detached(3).double(), Frozen()])
    def test_gradient(self, potential):
        with finds(
            r"gradient by autograd: got .* by finite differences of forward.*\n(.*\n)*  look for a torch.autograd"
        ):
            kit.assert_gradient(potential, Z, T)

    @pytest.mark.parametrize("potential", [LateCustom(3).double(), Detached(3).double(), Frozen()])
    def test_time_derivative(self, potential):
        with finds("time derivative by autograd: got .* by finite differences of forward"):
            kit.assert_time_derivative(potential, Z, T)

    def test_hessian(self):
        class Slope(torch.autograd.Function):
            """z^3 / 3, with a gradient z^2 that cannot be differentiated."""

            @staticmethod
            def forward(ctx, z):
                ctx.save_for_backward(z)
                return z**3 / 3

            @staticmethod
            def backward(ctx, grad):
                return grad * ctx.saved_tensors[0].detach() ** 2

        class Cubic(nn.Module):
            def forward(self, z, t):
                return Slope.apply(z).sum(-1, keepdim=True)

        kit.assert_gradient(kit.Folding(), Z, T)
        with finds("Hessian by autograd: got 0, expected .* by finite differences of autograd's gradient"):
            kit.assert_hessian(Cubic(), Z, T)

    def test_relu_has_no_smooth_gradient(self):
        class Kinked(Wave):
            def __init__(self, dim):
                super().__init__(dim)
                self.net[1], self.net[3] = nn.ReLU(), nn.ReLU()

        with finds(
            r"change of the gradient along a segment: got .*\n(.*\n)*  the potential must be twice differentiable"
        ):
            kit.assert_smooth(Kinked(3).double(), Z, T)
        kit.assert_smooth(Wave(3).double(), Z, T)
