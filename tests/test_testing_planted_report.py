"""How the kit says what is wrong: the smallest place, what was got there and what was expected."""

import math
import sys

import pytest
import torch
from torch import nn

from latentflow import testing as kit
from latentflow.testing.comparison import compare
from tests.problems import Wave, WrongBackward, finds, make_potential, rand, randn

Z, T = randn(4, 3), 0.5 + rand(4, seed=1)
OURS = make_potential(3, 2)


class TestReport:
    def test_infinity_is_like_itself_and_like_nothing_else(self):
        compare("x", torch.tensor([-math.inf, 1.0]), torch.tensor([-math.inf, 1.0]), "by hand")
        for wrong in (math.inf, 0.0, math.nan):
            with finds(f"x: got {wrong:.6g}, expected -inf by hand"):
                compare("x", torch.tensor([wrong, 1.0]), torch.tensor([-math.inf, 1.0]), "by hand")

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
            kit.check_potential(WrongBackward(2), 2)

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

    @pytest.mark.parametrize(
        ("error", "forward"),
        [
            ("IndexError", lambda self, z, t: z * t[:, 0]),
            ("TypeError", lambda self, z: z.square().sum(-1, keepdim=True)),
        ],
    )
    def test_a_forward_that_expects_something_else(self, error, forward):
        potential = type("Mistaken", (nn.Module,), {"forward": forward})()
        with finds(rf"float64 copy: got {error} \(.*\), expected a result \(N, K\) for latents \(N, 2\)"):
            kit.check_potential(potential, 2)

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
