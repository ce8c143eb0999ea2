"""The kit finds modules that do not batch, move, train or save as they should."""

import pytest
import torch
from torch import nn
from torch.nn import functional as F

from latentflow import testing as kit
from tests.problems import Wave, finds, rand, randn

Z, T = randn(4, 3), 0.5 + rand(4, seed=1)


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
