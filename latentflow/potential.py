"""The learned scalar potentials u^k(z, t), as K networks behind one another."""

from __future__ import annotations

import math

import torch
from torch import Tensor, nn

from latentflow import closed_form
from latentflow.answers import Answers, to_rows
from latentflow.layout import Layout, layout_of_rows
from latentflow.precision import in_own_precision
from latentflow.stack import Choice, all_chosen
from latentflow.time_branch import Embedding, Layers, tau
from latentflow.validate import (
    active_rows,
    as_times,
    broadcasts,
    positive_integer,
    require_floating,
    require_floating_dtype,
    require_shape,
)
from latentflow.values import values
from latentflow.written_out import take


class Potential(nn.Module):
    r"""K scalar potentials :math:`u^k(z, t)` whose gradients move the latents.

    The network is the one of *Flow Factorized Representation Learning* (supplement): a tanh layer on z, a sinusoidal
    embedding of t through a small GELU network, a tanh layer on their sum and a linear read-out. The potential counts
    only up to a function of t alone, so the read-out has no bias; `bounded=True` adds the paper's output tanh with its
    bias, which keeps u between -1 and 1.

    Args:
        dim: size d of a latent, at least 1.
        num: number K of potentials.
        hidden: width of the hidden layers; default ``max(dim, 16)``. A width below dim makes exact log-determinants
            cheaper, because the Hessian then has rank at most `hidden`.
        bounded: end in a tanh, as the paper does.
        device, dtype: where and as what the parameters are made.

    Shapes:
        ``potential(z, t)``: z (..., dim), t a number, a scalar tensor or anything that broadcasts to (...) -> (..., K).

    Raises:
        TypeError: a size is no int, `dtype` is not floating, z has another dtype than the parameters, or `active` is neither
            an index nor labels nor weights.
        ValueError: a size is below 1, the last axis of z is not dim, t does not broadcast to z's leading axes, or `k` or
            `active` does not fit.

    Example:
        >>> import torch
        >>> from latentflow import Potential
        >>> potential = Potential(dim=4, num=3)
        >>> potential(torch.randn(8, 4), 1.0).shape
        torch.Size([8, 3])
        >>> potential.gradients(torch.randn(8, 4), 1.0).shape
        torch.Size([8, 3, 4])

    Source: Song et al. 2023, section 4 and supplement; the sinusoid is that of Vaswani et al. 2017.
    """

    def __init__(
        self,
        dim: int,
        num: int = 1,
        hidden: int | None = None,
        *,
        bounded: bool = False,
        device: torch.device | str | None = None,
        dtype: torch.dtype | None = None,
    ) -> None:
        super().__init__()
        self.dim = positive_integer("dim", dim)
        self.num = positive_integer("num", num)
        self.hidden = max(dim, 16) if hidden is None else positive_integer("hidden", hidden)
        self.bounded = bool(bounded)
        width = max(4, self.hidden + self.hidden % 2)  # of the time embedding: even, and two frequencies at least
        require_floating_dtype(dtype, "use torch.float32 or torch.float64")

        def parameter(*shape: int) -> nn.Parameter:
            return nn.Parameter(torch.empty(self.num, *shape, device=device, dtype=dtype))

        self.input_weight, self.input_bias = parameter(self.hidden, dim), parameter(self.hidden)
        self.time_in_weight, self.time_in_bias = parameter(self.hidden, width), parameter(self.hidden)
        self.time_out_weight, self.time_out_bias = parameter(self.hidden, self.hidden), parameter(self.hidden)
        self.hidden_weight, self.hidden_bias = parameter(self.hidden, self.hidden), parameter(self.hidden)
        self.output_weight = parameter(self.hidden)
        self.output_bias = parameter() if self.bounded else None
        self.reset_parameters()

    def reset_parameters(self) -> None:
        """Draw the parameters as `torch.nn.Linear` does: uniform in +-1/sqrt(fan in).

        Example:
            >>> from latentflow import Potential
            >>> potential = Potential(dim=4)
            >>> potential.reset_parameters()
            >>> bool(potential.input_weight.abs().max() <= 0.5)
            True
        """
        layers = (
            (self.dim, self.input_weight, self.input_bias),
            (self.time_in_weight.shape[-1], self.time_in_weight, self.time_in_bias),
            (self.hidden, self.time_out_weight, self.time_out_bias),
            (self.hidden, self.hidden_weight, self.hidden_bias),
            (self.hidden, self.output_weight, self.output_bias),
        )
        for fan_in, *parameters in layers:
            for parameter in parameters:
                if parameter is not None:
                    nn.init.uniform_(parameter, -1 / math.sqrt(fan_in), 1 / math.sqrt(fan_in))

    def extra_repr(self) -> str:
        return f"dim={self.dim}, num={self.num}, hidden={self.hidden}, bounded={self.bounded}"

    @in_own_precision
    def forward(self, z: Tensor, t: Tensor | float) -> Tensor:
        """The potentials u(z, t), (..., K)."""
        z, t = self.checked(z, t)
        layers, networks = self.stacked()
        of_times = to_rows(tau(self.embedding(t), layers), t, z.shape[:-1])
        value = values(networks, z.reshape(1, -1, self.dim), of_times)
        return value.mT.reshape(*z.shape[:-1], self.num)

    def gradients(self, z: Tensor, t: Tensor | float) -> Tensor:
        """The gradient of each potential, (..., K, dim).

        Example:
            >>> import torch
            >>> from latentflow import Potential
            >>> potential, z = Potential(dim=4, num=3), torch.randn(8, 4, requires_grad=True)
            >>> (slopes,) = torch.autograd.grad(potential(z, 1.0)[:, 2].sum(), z)
            >>> torch.allclose(potential.gradients(z, 1.0)[:, 2], slopes, atol=1e-5)
            True
        """
        return self.first_derivatives(z, t)[1]

    @in_own_precision
    def first_derivatives(self, z: Tensor, t: Tensor | float, k: int | Tensor | None = None) -> tuple[Tensor, Tensor]:
        """du/dt (..., K) and grad u (..., K, dim) of all potentials; with an index or labels (...) in `k`, K = 1: of those.

        Raises:
            TypeError: k is floating; and as `Potential`.
            ValueError: as `Potential`.

        Example:
            >>> import torch
            >>> from latentflow import Potential
            >>> potential, z, t = Potential(dim=4, num=3), torch.randn(8, 4), torch.ones(8, requires_grad=True)
            >>> (rates,) = torch.autograd.grad(potential(z, t)[:, 2].sum(), t)
            >>> torch.allclose(potential.first_derivatives(z, t, 2)[0][:, 0], rates, atol=1e-5)
            True
        """
        if isinstance(k, Tensor) and k.is_floating_point():
            # The equation is quadratic: derivatives of a mixture are seldom what is meant.
            raise TypeError(f"k: got {k.dtype}, expected an index or labels; weigh what first_derivatives(z, t) gives")
        if k is not None:
            answers = self._answers(z, t, k, "k")
            return answers.rates((*z.shape[:-1], 1)), answers.gradients((*z.shape[:-1], 1, self.dim))
        local, rate, _ = self._answers_of(z, t, Layout(None))
        gradients, shape = local.gradients().transpose(0, 1), (*z.shape[:-1], self.num)
        return local.time_derivative(rate).mT.reshape(shape), gradients.reshape(*shape, self.dim)

    @in_own_precision
    def gradient(self, z: Tensor, t: Tensor | float, active: int | Tensor) -> Tensor:
        """sum_k w^k grad u^k, (..., dim); `active` is one index, labels (...) or weights (..., K).

        Example:
            >>> import torch
            >>> from latentflow import Potential
            >>> potential, z, weights = Potential(dim=4, num=3), torch.randn(8, 4), torch.rand(8, 3)
            >>> mixed = (weights[..., None] * potential.gradients(z, 1.0)).sum(1)
            >>> torch.allclose(potential.gradient(z, 1.0, weights), mixed, atol=1e-5)
            True
        """
        return self._answers(z, t, active).gradients(z.shape)

    @in_own_precision
    def hessian(self, z: Tensor, t: Tensor | float, active: int | Tensor) -> Tensor:
        """sum_k w^k grad grad^T u^k, (..., dim, dim).

        Example:
            >>> import torch
            >>> from latentflow import Potential
            >>> potential, z = Potential(dim=4, num=3), torch.randn(4)
            >>> truth = torch.autograd.functional.hessian(lambda z: potential(z, 1.0)[2], z)
            >>> torch.allclose(potential.hessian(z, 1.0, 2), truth, atol=1e-5)
            True
        """
        answers = self._answers(z, t, active)
        return answers.of_latents(
            answers.local.curvature(answers.weights, reduced=False).hessian(), (*z.shape, self.dim)
        )

    @in_own_precision
    def log_det(
        self, z: Tensor, t: Tensor | float, active: int | Tensor, *, substeps: int = 1
    ) -> tuple[Tensor, Tensor]:
        r""":math:`\log\lvert\det(I + H / n)\rvert` and whether the step folds, (...) each; n is `substeps`.

        Raises:
            TypeError: substeps is no int; and as `Potential`.
            ValueError: it is below 1; and as `Potential`.

        Example:
            >>> import torch
            >>> from latentflow import Potential
            >>> potential, z = Potential(dim=4, num=3), torch.randn(8, 4)
            >>> value, folds = potential.log_det(z, 1.0, 2)
            >>> truth = torch.linalg.slogdet(torch.eye(4) + potential.hessian(z, 1.0, 2)).logabsdet
            >>> torch.allclose(value, truth, atol=1e-5)
            True
        """
        answers, substeps = self._answers(z, t, active), positive_integer("substeps", substeps)
        value, folds = answers.local.log_det(answers.weights, substeps)
        return answers.of_latents(value, z.shape[:-1]), answers.of_latents(folds, z.shape[:-1])

    @in_own_precision
    def hessian_product(self, z: Tensor, t: Tensor | float, active: int | Tensor, v: Tensor) -> Tensor:
        """sum_k w^k H^k v, (..., dim), for v (..., dim), without forming H.

        Raises:
            ValueError: v has another shape than z; and as `Potential`.

        Example:
            >>> import torch
            >>> from latentflow import Potential
            >>> potential, z, v = Potential(dim=4, num=3), torch.randn(4), torch.randn(4)
            >>> truth = potential.hessian(z, 1.0, 2) @ v
            >>> torch.allclose(potential.hessian_product(z, 1.0, 2, v), truth, atol=1e-5)
            True
        """
        answers = self._answers(z, t, active)
        require_shape("v", v, z.shape, "give each latent one direction")
        along = closed_form.along_inputs(answers.local.networks, answers.layout.spread(v.reshape(-1, self.dim)))
        product = closed_form.to_latents(
            answers.local.networks, answers.local.product_coefficient(along), answers.weights
        )
        return answers.of_latents(product, z.shape)

    @in_own_precision
    def laplacian(self, z: Tensor, t: Tensor | float, active: int | Tensor) -> Tensor:
        """sum_k w^k tr H^k, (...).

        Example:
            >>> import torch
            >>> from latentflow import Potential
            >>> potential, z = Potential(dim=4, num=3), torch.randn(4)
            >>> torch.allclose(potential.laplacian(z, 1.0, 2), potential.hessian(z, 1.0, 2).trace(), atol=1e-5)
            True
        """
        answers = self._answers(z, t, active)
        return answers.of_latents(answers.mixed(answers.local.laplacian()), z.shape[:-1])

    def stacked(self, k: Choice = None) -> tuple[Layers, closed_form.Networks]:
        """The parameters of the time branches and of all networks, of the k-th alone, or of those that a tensor (G,) lists."""
        given = iter(all_chosen(self.tensors(), k))
        return take(given, Layers), take(given, closed_form.Networks)

    def tensors(self) -> tuple[Tensor | None, ...]:
        """What `stacked` gives of all K, one by one: the only list of them.

        What makes a named tuple in compiled code is looked up anew in each call of that code, by a dozen names.
        """
        return (
            self.time_in_weight,
            self.time_in_bias,
            self.time_out_weight,
            self.time_out_bias,
            self.input_weight,
            self.input_bias,
            self.hidden_weight,
            self.hidden_bias,
            self.output_weight,
            self.output_bias,
        )

    def embedding(self, t: Tensor) -> Embedding:
        """Of times of any shape, (S, width), S being their number."""
        return Embedding.of(t.flatten(), self.time_in_weight.shape[-1])

    def _answers(self, z: Tensor, t: Tensor | float, active: int | Tensor, name: str = "active") -> Answers:
        """What one network says, or that of each label of its own latents, so that no other one acts; or all of a mixture."""
        self.check_latents(z)
        acts = active_rows(active, z.shape[:-1], self.num, name)
        return self._answers_of(z, t, layout_of_rows(acts, self.num, self.input_weight.dtype))

    def _answers_of(self, z: Tensor, t: Tensor | float, layout: Layout) -> Answers:
        z, t = self.checked(z, t)
        return Answers.of(self.embedding(t), *self.stacked(layout.k), z, t, layout)

    def check_latents(self, z: Tensor) -> None:
        """Raise unless the networks take z, (..., dim)."""
        if not isinstance(z, Tensor) or z.dtype != self.input_weight.dtype:
            require_floating("z", z, "pass latents")
            raise TypeError(
                f"z: got dtype {z.dtype}, expected {self.input_weight.dtype} like the potential's parameters; "
                "convert one of them, .double() or .float(); of latents in half precision float32 is expected"
            )
        if z.ndim < 1 or z.shape[-1] != self.dim:
            raise ValueError(
                f"z: got shape {tuple(z.shape)}, expected (..., {self.dim}); put the latent on the last axis"
            )

    def checked(self, z: Tensor, t: Tensor | float) -> tuple[Tensor, Tensor]:
        """z and t as the networks take them, or an error that says what is wrong with their shapes or dtypes."""
        self.check_latents(z)
        t = as_times(t, z)
        lead = z.shape[:-1]
        if not broadcasts(t.shape, lead):
            raise ValueError(
                f"t: got shape {tuple(t.shape)}, expected a scalar or {tuple(lead)}; give each latent one time"
            )
        return z, t
