"""What the frontend of torch.compile takes for one operation. Its backend looks inside all the same."""

from __future__ import annotations

import functools
from collections.abc import Callable
from typing import ParamSpec, TypeVar

import torch

Inputs = ParamSpec("Inputs")
Found = TypeVar("Found")


def one_operation(function: Callable[Inputs, Found]) -> Callable[Inputs, Found]:
    """The function, as one operation. Its inputs are tensors, numbers, strings, or None, and its outputs tensors or None.

    Otherwise the frontend would have every name in there looked up again in each call of the compiled code, which takes long
    after other work has taken the caches.
    """

    def mark() -> None:
        # Not before a compiler asks: to mark it imports the frontend, which takes long too.
        if torch.compiler.is_compiling():
            torch.compiler.allow_in_graph(function)  # type: ignore[no-untyped-call]

    mark._dynamo_marked_constant = True  # type: ignore[attr-defined]  # run, not traced; see torch.compiler.assume_constant_result

    @functools.wraps(function)
    def operation(*inputs: Inputs.args, **options: Inputs.kwargs) -> Found:
        mark()
        return function(*inputs, **options)

    return operation
