"""What PyTorch does with operations at the moment, and with tensors beside them: all that has no public name, in one place.

Tests with several versions of PyTorch hold these names to what they are taken for.
"""

from __future__ import annotations

from contextlib import AbstractContextManager, nullcontext

import torch
from torch import Tensor
from torch.autograd import forward_ad


def forward_mode() -> bool:
    """Whether derivatives are carried forwards at all: a tensor does not tell what lies below an inner transform.

    Our own autograd functions have no rule for them; their callers then take PyTorch's way.
    """
    return not torch.compiler.is_compiling() and forward_ad._current_level >= 0


def func_transforms() -> bool:
    """Whether a transform of `torch.func` is at work."""
    return torch._C._are_functorch_transforms_active()


def transformed() -> bool:
    """Whether `torch.func` or forward mode is at work."""
    return forward_mode() or func_transforms()


def unrecorded() -> bool:
    """Whether nothing looks at single operations, so that they may write in place."""
    if torch.is_grad_enabled() or torch.compiler.is_compiling() or transformed():
        return False
    return torch._C._len_torch_dispatch_stack() == 0  # of modes, as that by which make_fx traces


def past_autograd() -> AbstractContextManager[object]:
    """Inside, operations go past autograd, where nothing looks at single ones.

    With gradients disabled it still looks at each operation, and at each view, only to find nothing to record.
    """
    return torch._C._AutoDispatchBelowADInplaceOrView() if unrecorded() else nullcontext()


def many_at_once(gradient: Tensor) -> bool:
    """Whether this stands for several gradients that go back together, as `is_grads_batched` has it."""
    return torch._C._functorch.is_legacy_batchedtensor(gradient)


def times_written(x: Tensor) -> int:
    """How often a tensor has been written to, as far as PyTorch counts.

    Of one that `torch.func` wraps, vmap counts at the bottom alone, and other transforms at each level.
    """
    count = 0 if x.is_inference() else x._version
    while torch._C._functorch.is_functorch_wrapped_tensor(x):
        x = torch._C._functorch.get_unwrapped(x)
        count += x._version
    return count


def uncompiled(module: object) -> object:
    """The module that `torch.compile` has wrapped, or what it is."""
    return getattr(module, "_orig_mod", module)


def watched(x: Tensor) -> bool:
    """Whether somebody waits for the gradient of this tensor, which need not be a leaf."""
    return not torch.compiler.is_compiling() and (x.retains_grad or bool(x._backward_hooks))
