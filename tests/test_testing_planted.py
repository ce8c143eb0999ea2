"""Each assertion of the kit fails on arithmetic that is wrong, and says where."""

import math
import re
import sys

import pytest
import torch
from torch import nn
from torch.nn import functional as F

from latentflow import DiffusionPrior, FlowPosterior, Potential
from latentflow import testing as kit
from latentflow.testing.comparison import compare
from tests.problems import Reflection, Wave, gaussian, make_potential, rand, randn

Z, T = randn(4, 3), 0.5 + rand(4, seed=1)
OURS = make_potential(3, 2)


def finds(said):
    """What the assertion says first, and that it names a place."""
    return pytest.raises(AssertionError, match=said)


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
    def test_of_ours(self, method, wrong, assertion, said):
        def changed(self, *arguments, **options):
            return wrong(getattr(Potential, method)(self, *arguments, **options))

        potential = make_potential(3, 2)
        assertion(potential, Z, T)
        potential.__class__ = type("Changed", (Potential,), {method: changed})
        with finds(said) as caught:
            assertion(potential, Z, T)
        assert re.search(r"\n  where    sample \d.*\n  latent   \[.*\]\n  time     \d", str(caught.value))

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


class Halved(torch.autograd.Function):
    """The identity with half its derivative."""

    @staticmethod
    def forward(ctx, x):
        return x.clone()

    @staticmethod
    def backward(ctx, grad):
        return 0.5 * grad


class TestBackward:
    """A module whose autograd does not differentiate its forward."""

    class Custom(Wave):
        def forward(self, z, t):
            return super().forward(Halved.apply(z), t)

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

    @pytest.mark.parametrize("potential", [Custom(3).double(), Detached(3).double(), Frozen()])
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


class TestModules:
    def test_batch(self):
        with finds("sample by itself: got .* as in its batch"):
            kit.assert_batch_independent(lambda z: z - z.mean(0), Z)
        with finds("sample by itself: got ValueError .*Expected more than 1 value per channel"):
            kit.assert_batch_independent(nn.BatchNorm1d(3).double(), Z)
        with finds(r"result: got \[nan, nan, nan, nan\], expected finite numbers"):
            kit.assert_batch_independent(lambda z: (z.sum(1) - 100).log(), Z)
        with finds("the same call again: got .* as before"):
            kit.assert_batch_independent(nn.Dropout(), Z)
        with finds("sample in a batch turned round: got .* as before"):
            kit.assert_batch_independent(
                lambda z: z + torch.arange(len(z))[:, None] if len(z) > 1 else z + Z.eq(z).all(1).nonzero()[0], Z
            )
        with pytest.raises(ValueError, match="inputs: got 1 sample, expected at least 2"):
            kit.assert_batch_independent(nn.Identity(), Z[:1])

    def test_labels_are_compared_as_numbers(self):
        kit.assert_batch_independent(lambda z: z.argmax(1), Z)
        with finds("sample by itself: got 0, expected"):
            kit.assert_batch_independent(lambda z: z.argmax(0).expand(len(z), -1).sum(1), Z.sort(0)[0])

    def test_dtype(self):
        class Single(Wave):
            def forward(self, z, t):
                return super().forward(z, t).float()

        class Coarse(Wave):
            def forward(self, z, t):
                return super().forward(z.round() if z.dtype == torch.float32 else z, t)

        with finds("result: got torch.float32 from torch.float64 parameters and inputs, expected torch.float64"):
            kit.assert_dtype(Single(3), Z, T)
        with finds("result in float32: got .* as in float64"):
            kit.assert_dtype(Coarse(3), Z, T)

    def test_device(self):
        class Left(Wave):
            def __init__(self):
                super().__init__(3)
                self.shift = torch.ones(3)

            def forward(self, z, t):
                return super().forward(z + self.shift, t)

        class Back(Wave):
            def forward(self, z, t):
                return torch.zeros(len(z), 1)

        class Reads(Wave):
            def forward(self, z, t):
                return super().forward(z / z.abs().max().item(), t)

        z, t = Z.float(), T.float()
        with finds(r"on meta: got RuntimeError \(.*cpu.*\), expected a result; make tensors with device=z.device"):
            kit.assert_device(Left(), z, t)
        with finds("on meta: got a result on cpu, expected it on meta"):
            kit.assert_device(Back(3), z, t)
        kit.assert_device(Reads(3), z, t)

    def test_device_compares_what_it_computes_there(self):
        class Different(Wave):
            """Stands for another device: the second call, of the copy, gives something else."""

            calls = []

            def forward(self, z, t):
                self.calls.append(0)
                return super().forward(z, t) + len(self.calls)

        with finds("result on cpu: got .* as before"):
            kit.assert_device(Different(3), Z.float(), T.float(), devices=["cpu"])

    def test_gradients(self):
        class Biased(Wave):
            def __init__(self):
                super().__init__(3)
                self.out = nn.Linear(12, 1)

        class Root(nn.Module):
            def __init__(self):
                super().__init__()
                self.scale = nn.Parameter(torch.zeros(1))

            def forward(self, z, t):
                return self.scale.sqrt() * z

        z, t = Z.float(), T.float()
        with finds("out.bias: got no gradient, expected one for every parameter\n  a constant that is added to u"):
            kit.assert_gradients_reach(Biased(), z, t)
        with finds("weight, bias: got results that depend on no parameter"):
            kit.assert_gradients_reach(nn.Linear(3, 1), z, call=lambda module, z: z)
        with finds("bias: got no gradient, .*\n  use it in the result"):
            kit.assert_gradients_reach(nn.Linear(3, 1), z, call=lambda module, z: F.linear(z, module.weight))
        with finds("module: got no parameters"):
            kit.assert_gradients_reach(nn.Identity(), z)
        with finds("scale: got gradients that are not finite"):
            kit.assert_gradients_reach(Root(), z, t, call=lambda module, z, t: module(z, t))

    def test_state(self):
        class Prior(nn.Module):
            def __init__(self, kind):
                super().__init__()
                if kind == "hidden":
                    self.diffusion = torch.ones(2)
                elif kind == "constant":
                    self.raw = nn.Parameter(torch.ones(2))
                else:
                    self.register_buffer("diffusion", torch.ones(2), persistent=kind == "saved")

        def diffusion(prior):
            return getattr(prior, "diffusion", torch.ones(2))

        kit.assert_state(Prior("saved"), call=diffusion)
        with finds("diffusion: got a tensor that is no parameter or buffer, expected it in the state dict"):
            kit.assert_state(Prior("hidden"), call=diffusion)
        with finds(r"1\.diffusion: got a tensor that is no parameter"):
            kit.assert_state(nn.Sequential(nn.Identity(), Prior("hidden")), call=lambda m: m[1].diffusion)
        with finds("state: got the same result from other parameters and buffers"):
            kit.assert_state(Prior("constant"), call=diffusion)
        with finds(r"result after loading: got 1, expected 1\.15 as saved; .*\n(.*\n)*  is a buffer not persistent\?"):
            kit.assert_state(Prior("forgotten"), call=diffusion)


class TestEvaluation:
    def test_error_of_each_sequence(self):
        def as_images(z0, k, target):
            return target.flatten(1).abs().sum(1)

        with finds(
            r"your equivariance error: got .* by adding up all 3 steps of potential 0; .*\n  where    sample \d"
        ):
            kit.assert_equivariance_error(OURS, torch.tanh, Z, randn(2, 4, 4, 3), evaluate=as_images)

    def test_one_factor(self):
        right = torch.tensor([[[0, 1], [1, 1], [2, 1]], [[0, 0], [0, 1], [0, 2]]])
        kit.assert_one_factor(right, torch.tensor([0, 1]), sizes=(3, 3))
        with finds("sequence 0: got a change of factor 0 from 0 to 1 in frame 1, expected changes of factor 1 only"):
            kit.assert_one_factor(right, 1)
        with finds("sequence 0: got factor 1 at 1 in frames 0 and 1, expected it to move"):
            kit.assert_one_factor(right[:1, [0, 0]], 1)
        with finds("sequence 0: got factor 0 at 2 in frame 2, expected 0 to 1"):
            kit.assert_one_factor(right[:1], 0, sizes=(2, 3))


class TestReport:
    def test_of_a_wrong_closed_form_is_shrunk_to_a_small_latent(self):
        class Mistaken(kit.Folding):
            def first_derivatives(self, z, t):  # right at the origin, and nearly so around it
                return torch.zeros_like(z[:, :1]), -self.strength * z[:, None]

        with finds(
            r"^Mistaken\.first_derivatives\(z, t\)\[1\]: got -2, expected -1\.52\d* by autograd of forward"
        ) as caught:
            kit.check_potential(Mistaken(), 3)
        assert "\n  latent   [0, 0, 1]\n  time     0" in str(caught.value)
        assert any("tensor([[0., 0., 1.]]" in note for note in caught.value.__notes__)

    def test_a_wrong_backward(self):
        with finds("gradient by autograd: got .* by finite differences"):
            kit.check_potential(TestBackward.Custom(2), 2)

    def test_rows_that_interact(self):
        class Normalised(Wave):
            def forward(self, z, t):
                return super().forward(z - z.mean(0), t)

        with finds("sample by itself: got .* as in its batch"):
            kit.check_potential(Normalised(2), 2)

    def test_a_tensor_of_another_dtype(self):
        class Single(Wave):
            def forward(self, z, t):
                return super().forward(z @ torch.eye(2), t)

        with finds(r"float64 copy: got RuntimeError \(.*\), expected a result \(N, K\) for latents \(N, 2\)"):
            kit.check_potential(Single(2), 2)

    def test_a_bias_that_moves_nothing(self):
        potential = Wave(2)
        potential.out = nn.Linear(12, 1)
        with finds("out.bias: got no gradient"):
            kit.check_potential(potential, 2, examples=2)

    def test_a_tensor_that_is_no_buffer(self):
        potential = Wave(2)
        potential.hidden = torch.ones(1)
        with finds("hidden: got a tensor that is no parameter or buffer"):
            kit.check_potential(potential, 2, examples=2)

    def test_says_what_is_not_a_number(self):
        truth = torch.ones(2, 3)
        with finds("x: got float, expected a tensor"):
            compare("x", 1.0, truth, "here")
        with finds(r"x: got shape \(3, 2\), expected \(2, 3\) here"):
            compare("x", torch.ones(3, 2), truth, "here")
        got = truth.clone()
        got[1, 2] = math.nan
        with finds(r"x: got nan, expected 1 here; off by nan, .*\n  where    sample 1, k 2 \(1 of 6 numbers are off\)"):
            compare("x", got, truth, "here", axes=("k",))
        with finds("y        \\[0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, ... 13 in all\\]"):
            compare("x", got, truth, "here", at={"y": torch.zeros(2, 13)})

    def test_the_tolerance_can_be_chosen(self):
        truth = torch.ones(2, 3)
        compare("x", truth + 0.1, truth, "here", tolerance=0.06)
        with finds("allowed 0.08 in float32"):
            compare("x", truth + 0.1, truth, "here", tolerance=0.04)
        kit.assert_gradient(OURS, Z, T, gradient=lambda z, t: OURS.gradients(z, t) + 1e-8, tolerance=1e-7)

    def test_a_check_of_nothing_is_an_error(self):
        with pytest.raises(ValueError, match=r"z: got shape \(0, 3\), expected at least one latent"):
            kit.assert_gradient(OURS, Z[:0], 1.0)


def test_without_hypothesis_the_error_names_the_extra(monkeypatch):
    for name in [name for name in sys.modules if name.startswith("latentflow.testing")]:
        monkeypatch.delitem(sys.modules, name)
    monkeypatch.setitem(sys.modules, "hypothesis", None)
    with pytest.raises(
        ImportError, match=r"got no hypothesis, expected it installed; pip install 'latentflow\[testing\]'"
    ):
        import latentflow.testing  # noqa: F401
