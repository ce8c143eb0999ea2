"""What holds of any module whose results have a row for each sample: a potential, a constraint, a selector, a prior."""

from __future__ import annotations

import copy
import io
from collections.abc import Callable, Sequence
from typing import Any

import torch
from torch import Tensor, nn

from latentflow import derivatives
from latentflow.testing.comparison import allowance, compare

Call = Callable[..., Any]  # module, *inputs -> a tensor or several

CONSTANT = "a constant that is added to u moves nothing: leave out the bias of the last layer"


def assert_batch_independent(function: Call, *inputs: Tensor, tolerance: float | None = None) -> None:
    r"""Assert that a sample's result depends on nothing else: not on its batch-mates, their order, or the call before.

    Args:
        function: a module or a function of tensors with a leading batch axis, to one tensor or several, (B, ...).
        inputs: (B, ...) each, B at least 2.
        tolerance: relative to one more than the largest number of the sample; by default :math:`16\,\epsilon^{3/4}`.

    Raises:
        ValueError: there is only one sample.
        AssertionError: saying which sample, what it got and what was expected.

    Example:
        >>> import torch
        >>> from latentflow.testing import assert_batch_independent
        >>> assert_batch_independent(torch.nn.BatchNorm1d(2).eval(), torch.randn(4, 2))
        >>> assert_batch_independent(lambda z: z - z.mean(0), torch.tensor([[0.0], [1.0]]))
        Traceback (most recent call last):
        ...
        AssertionError: sample by itself: got 0, expected -0.5 as in its batch; off by 0.5, allowed 0.00015 in float32
          where    sample 0, axis 1: 0 (2 of 2 numbers are off)
    """
    batch = len(inputs[0])
    if batch < 2:
        raise ValueError(f"inputs: got {batch} sample, expected at least 2; a batch of one has no batch-mates")
    together = _tensors(function(*inputs))
    for x in together:
        if not bool(x.isfinite().all()):
            raise AssertionError(f"result: got {x.detach().tolist()}, expected finite numbers of finite inputs")
    _same("the same call again", _tensors(function(*inputs)), together, "as before", tolerance)
    try:
        alone = zip(*(_tensors(function(*(x[i : i + 1] for x in inputs))) for i in range(batch)), strict=True)
        single = [torch.cat(parts) for parts in alone]
    except Exception as error:
        raise AssertionError(
            f"sample by itself: got {type(error).__name__} ({error}), expected its row of the batch; rows must not need others"
        ) from error
    _same("sample by itself", single, together, "as in its batch", tolerance)
    turned = [x.flip(0) for x in _tensors(function(*(x.flip(0) for x in inputs)))]
    _same("sample in a batch turned round", turned, together, "as before", tolerance)


def assert_dtype(module: nn.Module, *inputs: Tensor, call: Call | None = None, tolerance: float | None = None) -> None:
    r"""Assert that results have the dtype of parameters and inputs, and that float32 agrees with float64.

    Args:
        module: is copied, not changed.
        inputs: floating tensors are converted; others are passed as they are.
        call: ``call(module, *inputs)`` gives a tensor or several, (B, ...); by default the module itself.
        tolerance: relative to one more than the largest number of the sample; by default :math:`16\,\epsilon^{3/4}` of
            float32, 1e-4.

    Raises:
        AssertionError: saying which dtype or number it got, and what was expected.

    Example:
        >>> import torch
        >>> from latentflow import Potential
        >>> from latentflow.testing import assert_dtype
        >>> assert_dtype(Potential(2), torch.ones(3, 2), torch.ones(3))
    """
    results = {}
    for dtype in (torch.float32, torch.float64):
        converted = [x.to(dtype) if x.is_floating_point() else x for x in inputs]
        results[dtype] = _tensors((call or _itself)(copy.deepcopy(module).to(dtype), *converted))
        for x in results[dtype]:
            if x.is_floating_point() and x.dtype != dtype:
                raise AssertionError(f"result: got {x.dtype} from {dtype} parameters and inputs, expected {dtype}")
    single, double = results.values()
    _same("result in float32", single, [x.float() for x in double], "as in float64", tolerance)


def assert_device(
    module: nn.Module,
    *inputs: Tensor,
    devices: Sequence[str] | None = None,
    call: Call | None = None,
    tolerance: float | None = None,
) -> None:
    """Assert that the module works on other devices, and computes the same there.

    Args:
        module: is copied, not changed.
        inputs: tensors, (B, ...).
        devices: by default the accelerators of this machine, and "meta", which has no numbers but tells most tensors that are
            left behind on the CPU.
        call: as in `assert_dtype`.
        tolerance: as in `assert_batch_independent`.

    Raises:
        AssertionError: saying on which device what happened.

    Example:
        >>> import torch
        >>> from latentflow import Potential
        >>> from latentflow.testing import assert_device
        >>> assert_device(Potential(2), torch.ones(3, 2), torch.ones(3))
    """
    call = call or _itself
    truth = _tensors(call(module, *inputs))
    if devices is None:
        devices = ["meta", *(["cuda"] if torch.cuda.is_available() else [])]
    for device in devices:
        try:
            results = _tensors(call(copy.deepcopy(module).to(device), *(x.to(device) for x in inputs)))
        except RuntimeError as error:
            told = "on device" in str(error) or "same device" in str(error)
            if device == "meta" and not told:  # it reads a value, of which there is none, or enters autocast
                continue
            raise AssertionError(
                f"on {device}: got {type(error).__name__} ({str(error).splitlines()[0]}), expected a result; make tensors with "
                "device=z.device, or keep them as buffers"
            ) from error
        for x in results:
            if x.device.type != torch.device(device).type:
                raise AssertionError(f"on {device}: got a result on {x.device}, expected it on {device}")
        if device != "meta":
            _same(f"result on {device}", [x.cpu() for x in results], [x.cpu() for x in truth], "as before", tolerance)


def assert_gradients_reach(module: nn.Module, *inputs: Tensor, call: Call | None = None) -> None:
    """Assert that every parameter receives a finite gradient that is not all 0.

    Args:
        module: whose parameters are looked at; their `grad` is left alone.
        inputs: for a potential latents (N, dim) and times (N,), best random ones.
        call: ``call(module, *inputs)`` gives what is differentiated, a tensor or several. By default what moves latents
            and what the constraint needs of a potential: its gradient and its time derivative.

    Raises:
        AssertionError: naming the parameters that nothing reaches.

    Example:
        >>> import torch
        >>> from latentflow import Potential
        >>> from latentflow.testing import assert_gradients_reach
        >>> assert_gradients_reach(Potential(2), torch.randn(8, 2), torch.rand(8))
    """
    named = {name: parameter for name, parameter in module.named_parameters() if parameter.requires_grad}
    if not named:
        raise AssertionError("module: got no parameters that require a gradient, expected at least one")
    results = _tensors((call or derivatives.first_derivatives)(module, *inputs))
    # Different factors everywhere, so that nothing cancels by symmetry.
    total = sum(
        (x * torch.cos(torch.arange(x.numel(), dtype=x.dtype, device=x.device) + 1).view_as(x)).sum()
        for x in results
        if x.is_floating_point()
    )
    if not isinstance(total, Tensor) or not total.requires_grad:
        raise AssertionError(f"{', '.join(named)}: got results that depend on no parameter, expected gradients")
    gradients = torch.autograd.grad(total, list(named.values()), allow_unused=True)
    found = dict(zip(named, gradients, strict=True))
    missing = [name for name, gradient in found.items() if gradient is None or not bool(gradient.count_nonzero())]
    if missing:
        hint = CONSTANT if call is None else "use it in the result, or leave it out"
        raise AssertionError(f"{', '.join(missing)}: got no gradient, expected one for every parameter\n  {hint}")
    spoilt = [name for name, gradient in found.items() if gradient is not None and not bool(gradient.isfinite().all())]
    if spoilt:
        raise AssertionError(f"{', '.join(spoilt)}: got gradients that are not finite, expected finite numbers")


def assert_state(module: nn.Module, *inputs: Tensor, call: Call | None = None) -> None:
    """Assert that what decides the result is in the state dict, and survives saving and loading.

    All parameters and floating buffers of a copy are changed: the result has to change with them. Its state dict, saved to
    bytes and loaded into another copy, has to give the same result bit for bit.

    Args:
        module: is copied, not changed.
        inputs: passed as they are.
        call: as in `assert_dtype`.

    Raises:
        AssertionError: naming what is not in the state dict.

    Example:
        >>> import torch
        >>> from latentflow import DiffusionPrior
        >>> from latentflow.testing import assert_state
        >>> assert_state(DiffusionPrior(num=3), call=lambda prior: prior.diffusion)  # (K,)
        >>> assert_state(torch.nn.Identity(), call=lambda prior: torch.ones(3))
        Traceback (most recent call last):
        ...
        AssertionError: state: got the same result from other parameters and buffers, expected another
          what decides it is a constant: make it a parameter or a buffer, so that it is learned, saved and resumed
    """
    hidden = [
        f"{path}.{name}" if path else name
        for path, part in module.named_modules()
        for name, value in vars(part).items()
        if isinstance(value, Tensor)
    ]
    if hidden:
        raise AssertionError(
            f"{', '.join(hidden)}: got a tensor that is no parameter or buffer, expected it in the state dict; "
            "register it as a buffer"
        )
    call = call or _itself
    before, changed, loaded = (copy.deepcopy(module) for _ in range(3))
    with torch.no_grad():
        for x in (*changed.parameters(), *changed.buffers()):
            if x.is_floating_point():
                x.add_(0.1 + 0.05 * torch.cos(torch.arange(x.numel(), dtype=x.dtype, device=x.device)).view_as(x))
        old, new = _tensors(call(before, *inputs)), _tensors(call(changed, *inputs))
        if all(torch.equal(a, b) for a, b in zip(old, new, strict=True)):
            raise AssertionError(
                "state: got the same result from other parameters and buffers, expected another\n"
                "  what decides it is a constant: make it a parameter or a buffer, so that it is learned, saved and resumed"
            )
        file = io.BytesIO()
        torch.save(changed.state_dict(), file)
        file.seek(0)
        loaded.load_state_dict(torch.load(file, weights_only=True))
        for again, x in zip(_tensors(call(loaded, *inputs)), new, strict=True):
            compare(
                "result after loading",
                again,
                x,
                "as saved",
                allowed=torch.zeros_like(x),
                hint="is a buffer not persistent?",
            )


def _itself(module: nn.Module, *inputs: Tensor) -> Any:
    return module(*inputs)


def _tensors(result: Any) -> list[Tensor]:
    """One tensor or several as a list; what is None is left out."""
    if isinstance(result, Tensor):
        return [result]
    return [x for x in result if isinstance(x, Tensor)]


def _same(what: str, got: Sequence[Tensor], truth: Sequence[Tensor], by: str, tolerance: float | None) -> None:
    for a, b in zip(got, truth, strict=True):
        if not b.is_floating_point():
            a, b = a.double(), b.double()
        axes = tuple(f"axis {i}:" for i in range(1, b.ndim))
        compare(what, a, b, by, allowed=allowance(b.detach()), tolerance=tolerance, axes=axes)
