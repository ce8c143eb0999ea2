"""Muon, on processors without instructions for bfloat16 as well."""

from __future__ import annotations

from contextlib import nullcontext
from typing import Any

import torch
from hardware import multiplies_bfloat16
from torch.overrides import TorchFunctionMode


class Muon(torch.optim.Muon):
    """PyTorch's, which makes its update in bfloat16; in float32 where a processor would have to emulate that.

    An emulated update takes many times as long as all else in a step. Float32 gives the same to bfloat16's own rounding.
    """

    def __init__(self, params: Any, **settings: Any) -> None:
        super().__init__(params, **settings)
        self.emulated = not multiplies_bfloat16()  # on this processor

    def step(self, closure: Any = None) -> Any:
        on_cpu = self.param_groups[0]["params"][0].device.type == "cpu"
        with _InFloat32() if on_cpu and self.emulated else nullcontext():
            return super().step(closure)


class _InFloat32(TorchFunctionMode):
    """Inside, nothing becomes bfloat16: PyTorch's Muon has no argument for it."""

    def __torch_function__(self, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        if func is torch.Tensor.bfloat16:
            return args[0].clone()  # it is written to
        return func(*args, **(kwargs or {}))
