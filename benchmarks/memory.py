"""Peak memory of a forward and backward pass: bytes of tensors, which are the same in every run, not those of the process."""

from __future__ import annotations

import gc
import weakref
from collections.abc import Callable
from typing import Any

from torch import Tensor
from torch.utils._python_dispatch import TorchDispatchMode
from torch.utils._pytree import tree_leaves

from benchmarks.loss import TYPICAL, forward_and_backward

MIB = 2**20
CASES = {  # of `forward_and_backward`
    "None": {"log_det": None},
    "hutchinson": {"log_det": "hutchinson"},
    "laplacian": {"log_det": "laplacian"},
    "exact": {"log_det": "exact"},
    "exact, memory=2**24": {"log_det": "exact", "memory": 2**24},
}
DIMS = (32, 128)


class LiveBytes(TorchDispatchMode):
    """Counts the bytes of all storages that operations make, from when they are made until nothing refers to them.

    What a kernel allocates and frees within itself is not seen, and what existed before is not counted.
    """

    def __init__(self) -> None:
        super().__init__()
        self.live = self.peak = 0
        self.sizes: dict[int, int] = {}  # of the living storages, by address

    def __torch_dispatch__(
        self, func: Callable[..., Any], types: Any, args: tuple[Any, ...] = (), kwargs: dict[str, Any] | None = None
    ) -> Any:
        given = {storage._cdata for storage in _storages((args, kwargs))}
        found = func(*args, **(kwargs or {}))
        for storage in _storages(found):
            if storage._cdata not in given and storage._cdata not in self.sizes:  # neither a view nor in place
                self._count(storage)
        return found

    def _count(self, storage: Any) -> None:
        self.sizes[storage._cdata] = storage.nbytes()
        self.live += storage.nbytes()
        self.peak = max(self.peak, self.live)
        weakref.finalize(storage, self._forget, storage._cdata).atexit = False

    def _forget(self, address: int) -> None:
        self.live -= self.sizes.pop(address)


def peak_bytes(function: Callable[[], Any]) -> int:
    """The most bytes that tensors made inside `function`, backward passes included, take at any one time."""
    gc.collect()  # what earlier work has left behind must not be freed halfway
    with LiveBytes() as counted:
        function()
    return counted.peak


def measure() -> dict[str, Any]:
    """MiB of each way to the log-determinant, by the size of the latent, and of the rollouts, by case."""
    from benchmarks import rollout  # not above: who wants `peak_bytes` alone needs none of its contestants

    log_dets, rollouts = {}, {}
    for dim in DIMS:
        size = TYPICAL | {"dim": dim}
        found = {name: peak_bytes(forward_and_backward(**size, **case)) for name, case in CASES.items()}
        log_dets[f"{dim} dimensions"] = _told(f"{dim} dimensions", found)
    for name, case in rollout.CASES.items():
        # Made anew for each, so that each makes its own gradients. What is compiled does not pass by here.
        who_runs = [who for who in rollout.contestants(*case) if "compiled" not in who]
        found = {who: peak_bytes(rollout.contestants(*case)[who]) for who in who_runs}
        rollouts[name] = _told(name, found)
    return {"log_det": log_dets, "rollout": rollouts}


def _told(name: str, found: dict[str, int]) -> dict[str, float]:
    print(name, *(f"  {who}: {size / MIB:.1f} MiB" for who, size in found.items()), sep="\n", flush=True)
    return {who: size / MIB for who, size in found.items()}


def _storages(tree: Any) -> list[Any]:
    return [leaf.untyped_storage() for leaf in tree_leaves(tree) if isinstance(leaf, Tensor)]
