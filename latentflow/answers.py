"""What the networks that act say of latents, and its way back to the order of these: labels are answered in groups."""

from __future__ import annotations

from typing import NamedTuple

from torch import Tensor

from latentflow import closed_form
from latentflow.groups import Groups


class Answers(NamedTuple):
    """What acts says of N latents in a row, R = 1, or of R groups of them; or what all K say, with weights."""

    local: closed_form.Local
    rate: Tensor
    groups: Groups | None
    weights: Tensor | None  # (K, N, 1)

    def mixed(self, x: Tensor) -> Tensor:
        """X (R or K, N) of each network as that of what acts."""
        return x if self.weights is None else (x * self.weights.squeeze(-1)).sum(0, keepdim=True)

    def of_latents(self, x: Tensor, shape: tuple[int, ...]) -> Tensor:
        """X (R, N, ...) in the order of the latents."""
        x = x.flatten(0, 1)
        return (x if self.groups is None else x.index_select(0, self.groups.place)).reshape(shape)

    def rates(self, shape: tuple[int, ...]) -> Tensor:
        """du/dt."""
        return self.of_latents(self.mixed(self.local.time_derivative(self.rate)), shape)

    def gradients(self, shape: tuple[int, ...]) -> Tensor:
        """Grad u."""
        local = self.local
        return self.of_latents(
            closed_form.to_latents(local.networks, local.gradient_coefficient(), self.weights), shape
        )


def rows_of(x: Tensor, found: Groups | None) -> Tensor:
    """X (..., d) as (1, N, d), or as that of groups, (G, M, d)."""
    if found is None:
        return x.reshape(1, -1, x.shape[-1])
    return x.reshape(-1, x.shape[-1]).index_select(0, found.rows.flatten()).view(*found.rows.shape, x.shape[-1])


def rows_of_branch(branch: Tensor, found: Groups | None) -> Tensor:
    """What each group's time branch says of all latents, (G, N, h), or of one time, (G, 1, h), as of its own, (G, M, h)."""
    if found is None or branch.shape[1] == 1:
        return branch
    return branch.gather(1, found.rows[..., None].expand(-1, -1, branch.shape[-1]))
