"""Where paths start: latents, or their distribution as the user's encoder gives it, checked and in full precision."""

from __future__ import annotations

import math
from collections.abc import Callable

import torch
from torch import Tensor
from torch.distributions import Distribution, Independent, Normal

from latentflow.compiler import one_operation
from latentflow.precision import autocast_off, in_full_precision, is_half, without_autocast
from latentflow.validate import require_finite, require_floating, require_generator, require_no_nan

_DENSITY, _FIX = "q0.log_prob(z_0)", "clamp the log-variance of the encoder, for example to [-20, 20]"


def checked(q0: object, dim: int | None) -> Distribution:
    """`q0` in full precision; an error unless it has batch shape (B,) and event shape (dim,)."""
    if not isinstance(q0, Distribution):
        raise TypeError(
            f"q0: got {type(q0).__name__}, expected a torch.distributions.Distribution; "
            "build Independent(Normal(mu, std), 1)"
        )
    # The shape of a mean is known; in compiled code, a property of a distribution is looked up anew in each call.
    if normal := gaussian(q0):
        batch, event = normal.loc.shape[:-1], normal.loc.shape[-1:]
    else:
        batch, event = q0.batch_shape, q0.event_shape
    if len(batch) != 1 or len(event) != 1 or (dim is not None and event[0] != dim):
        fix = "make the last axis the event, Independent(Normal(mu, std), 1)"
        of_each = (*batch, *event)[1:]
        if len(of_each) > 1 and math.prod(of_each) == dim:
            fix = "make one axis of what is one latent, Independent(Normal(mu.flatten(1), std.flatten(1)), 1)"
        elif len(event) == 1 and not batch:
            fix = "add a batch axis"
        elif len(event) == 1 and len(batch) == 2 and event[0] == (dim or event[0]):
            fix = "a path starts from one frame: encode the first, x[:, 0]"
        elif len(event) == 1 and event == (2 * (dim or 0),):
            fix = "split the encoder's output into mean and log-variance with .chunk(2, dim=-1)"
        elif len(event) == 1 and len(batch) == 1:
            fix = f"make the potential with dim={event[0]}, or the encoder for {dim} latents"
        raise ValueError(
            f"q0: got batch shape {tuple(batch)} and event shape {tuple(event)}, expected (B,) and "
            f"({'dim' if dim is None else dim},); {fix}"
        )
    return _with_full_precision(q0)


def draw(q0: Distribution, generator: torch.Generator | None, *, density: bool) -> tuple[Tensor, Tensor | None]:
    """z_0, (B, dim), reparameterised where gradients are wanted, and log q_0(z_0), (B,), if the density is wanted.

    In full precision, whatever autocast says. Raises where the density is not finite: a sample always lies where its
    distribution has one.
    """
    require_generator(generator)
    if normal := gaussian(q0):
        # A generator is nothing that a compiler's frontend could hand on.
        noise = None if generator is None else _noise(normal.loc, generator)
        return _reparameterised(normal.loc, normal.scale, noise, density)
    with without_autocast(q0):
        z0 = in_full_precision(_sample(q0, generator))
        return z0, _finite(_log_prob(q0, z0)) if density else None


@one_operation
def _reparameterised(mean: Tensor, std: Tensor, noise: Tensor | None, density: bool) -> tuple[Tensor, Tensor | None]:
    with autocast_off(mean.device.type):
        noise = _noise(mean, None) if noise is None else noise
        z0 = torch.addcmul(mean, std, noise)
        if not density:
            return z0, None
        # Said of the noise the density needs neither the mean nor a square of the scale, which underflows long before the
        # scale does; said of z_0 it would send gradients to both that cancel.
        twice = torch.add(noise.square(), std.log(), alpha=2).sum(-1)
        return z0, _finite(torch.rsub(twice, -0.5 * math.log(2 * math.pi) * mean.shape[-1], alpha=0.5))


def _noise(like: Tensor, generator: torch.Generator | None) -> Tensor:
    return torch.empty_like(like, memory_format=torch.contiguous_format).normal_(generator=generator)


def _finite(density: Tensor) -> Tensor:
    require_finite(_DENSITY, density, _FIX, by_sample=True)
    return density


def log_prob(q0: Distribution, z0: Tensor) -> Tensor:
    """log q_0(z_0), (B,), of any z_0.

    Raises where it is nan, which torch's `Normal` gives without a word if the square of its scale is 0 or infinite.
    """
    value = _log_prob(q0, z0)
    require_no_nan(_DENSITY, value, _FIX, by_sample=True)
    return value


def _sample(q0: Distribution, generator: torch.Generator | None) -> Tensor:
    if not q0.has_rsample and torch.is_grad_enabled():
        raise ValueError(
            f"q0: got {type(q0).__name__} without rsample, expected a reparameterised distribution; "
            "use one, or sample under torch.no_grad()"
        )
    sample: Callable[[], Tensor] = q0.rsample if q0.has_rsample else q0.sample
    if generator is None:
        return sample()
    # torch.distributions take no generator: seed the global one from it, and put it back afterwards.
    seed = int(torch.randint(2**62, (), generator=generator, device=generator.device))
    with torch.random.fork_rng(devices=range(torch.cuda.device_count())):
        torch.manual_seed(seed)
        return sample()


def _log_prob(q0: Distribution, z0: Tensor) -> Tensor:
    """log q_0(z_0), (B,); torch's `Independent` fails on an empty batch."""
    value: Tensor = q0.log_prob(z0) if z0.shape[0] > 0 else z0.new_zeros(0)
    return value


def gaussian(q0: Distribution) -> Normal | None:
    """The normal distribution behind ``Independent(Normal(mean, std), 1)``; None of anything else, or derived from it."""
    if type(q0) is Independent and type(q0.base_dist) is Normal and q0.reinterpreted_batch_ndims == 1:
        return q0.base_dist
    return None


def _with_full_precision(q0: Distribution) -> Distribution:
    """An encoder under autocast gives a half-precision Gaussian, whose log density would be off by the rounding of log std."""
    if not (isinstance(q0, Independent) and isinstance(q0.base_dist, Normal)):
        return q0
    mean, std = q0.base_dist.loc, q0.base_dist.scale
    if not is_half(mean) and std.dtype == mean.dtype:
        return q0
    normal = Normal(in_full_precision(mean), in_full_precision(std), validate_args=False)  # checked where it was made
    return Independent(normal, q0.reinterpreted_batch_ndims)


def latents(name: str, z: Tensor, dim: int | None) -> Tensor:
    """Latents (B, dim) that the user gives as they are, in full precision; an error if they are none."""
    require_floating(name, z, "pass latents (B, dim)")
    if z.ndim != 2 or (dim is not None and z.shape[1] != dim):
        raise ValueError(
            f"{name}: got shape {tuple(z.shape)}, expected (B, {'dim' if dim is None else dim}); "
            "pass one latent for each sample, for example path.z[:, -1]"
        )
    z = in_full_precision(z)
    require_finite(name, z, "look for exploding weights or bad input")
    return z
