"""What the networks that act say of latents, in the order of these: those of each label are evaluated together."""

from __future__ import annotations

from typing import NamedTuple

from torch import Tensor

from latentflow import closed_form
from latentflow.closed_form import Networks
from latentflow.layout import Layout
from latentflow.time_branch import Embedding, Layers, tau_and_rate


class Answers(NamedTuple):
    """What acts says of N latents, as one step of the rows that a layout spreads them to, (G, M)."""

    local: closed_form.Local
    rate: Tensor
    layout: Layout

    @classmethod
    def of(
        cls, embedding: Embedding, layers: Layers, networks: Networks, z: Tensor, t: Tensor, layout: Layout
    ) -> Answers:
        """Of the networks that the layout has chosen, for latents z (..., d) and times t that broadcast to (...)."""
        of_times = [to_rows(x, t, z.shape[:-1]) for x in tau_and_rate(embedding, layers)]
        if layout.rows is not None and t.numel() != 1:  # of all latents, each group keeps its own
            own = layout.rows[..., None].expand(-1, -1, of_times[0].shape[-1])
            of_times = [x.gather(1, own) for x in of_times]
        tau, rate = of_times
        return cls(closed_form.activate(networks, layout.spread(z.reshape(-1, z.shape[-1])), tau), rate, layout)

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


def to_rows(branch: Tensor, t: Tensor, lead: tuple[int, ...]) -> Tensor:
    """What each distinct time of t says, (G, S, h), as (G, N, h) where t broadcasts to `lead`, of product N.

    (G, 1, h) where all latents share one time.
    """
    if t.numel() == 1:
        return branch
    branch = branch.view(branch.shape[0], *(1,) * (len(lead) - t.ndim), *t.shape, branch.shape[-1])
    return branch.expand(-1, *lead, -1).flatten(1, -2)
