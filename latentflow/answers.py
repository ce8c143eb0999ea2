"""What the networks that act say of latents, and its way back to the order of these: labels are answered in groups."""

from __future__ import annotations

from typing import NamedTuple

from torch import Tensor

from latentflow import closed_form
from latentflow.layout import Layout


class Answers(NamedTuple):
    """What acts says of N latents, as one step of the rows that a layout spreads them to, (G, M)."""

    local: closed_form.Local
    rate: Tensor
    layout: Layout

    @property
    def weights(self) -> Tensor | None:
        """Of a mixture, (K, N, 1)."""
        return self.layout.weights_of_rows

    def mixed(self, x: Tensor) -> Tensor:
        """x (G, M) of each network as that of what acts."""
        return x if self.weights is None else (x * self.weights.squeeze(-1)).sum(0, keepdim=True)

    def of_latents(self, x: Tensor, shape: tuple[int, ...]) -> Tensor:
        """x (G, M, ...), or of a mixture (1, N, ...), in the order of the latents."""
        return self.layout.samples(x).reshape(shape)

    def rates(self, shape: tuple[int, ...]) -> Tensor:
        """du/dt."""
        return self.of_latents(self.mixed(self.local.time_derivative(self.rate)), shape)

    def gradients(self, shape: tuple[int, ...]) -> Tensor:
        """grad u."""
        local = self.local
        return self.of_latents(
            closed_form.to_latents(local.networks, local.gradient_coefficient(), self.weights), shape
        )
