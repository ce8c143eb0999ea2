"""Equivariance errors of decoded images and of latents, and their floor."""

from __future__ import annotations

from collections.abc import Callable

import torch
from torch import Tensor

from latentflow.metrics.checks import sequences
from latentflow.validate import require_floating


def equivariance_error(decoded: Tensor, target: Tensor) -> Tensor:
    r""":math:`E = \sum_{t=1}^T \sum_{pixels} |x_t - \mathrm{Dec}(z_t)|`, one number per sequence.

    The first frame is left out: there nothing has moved yet. Report the mean over sequences, beside its floors,
    `identity_error` and `black_error`.

    Args:
        decoded: (B, T+1, ...), the decoded latents, in the units of the images (values in [0, 1], not logits).
        target: the true sequences, of the same shape.

    Returns:
        (B,).

    Raises:
        TypeError: one of them is not floating.
        ValueError: the shapes differ, or there are fewer than two frames.

    Example:
        >>> import torch
        >>> from latentflow.metrics import equivariance_error
        >>> equivariance_error(torch.zeros(1, 3, 2, 2), torch.ones(1, 3, 2, 2))
        tensor([8.])

    Source: Song et al. 2023, section 4.1.
    """
    decoded, target = sequences("decoded", decoded, "target", target)
    return (target - decoded)[:, 1:].abs().flatten(1).sum(1)


def identity_error(target: Tensor) -> Tensor:
    """The error of a perfect autoencoder whose latents never move, (B,): a floor that a flow has to beat, as `black_error`.

    Args:
        target: (B, T+1, ...), the true sequences.

    Raises:
        TypeError: target is not floating.
        ValueError: there are fewer than two frames, or no axis for what is in them.

    Example:
        >>> import torch
        >>> from latentflow.metrics import identity_error
        >>> identity_error(torch.ones(2, 3, 5))
        tensor([0., 0.])

    Source: Song et al. 2023, section 4.1, whose vanilla VAE is set not to move; that its autoencoder be perfect is ours.
    """
    return _against(target, lambda x: x[:, :1].expand_as(x))


def black_error(target: Tensor) -> Tensor:
    """The error of drawing nothing, (B,). For dark images that rotate, as digits, it is below that of standing still.

    Args:
        target: (B, T+1, ...), the true sequences, 0 being black.

    Raises:
        TypeError: target is not floating.
        ValueError: there are fewer than two frames, or no axis for what is in them.

    Example:
        >>> import torch
        >>> from latentflow.metrics import black_error
        >>> black_error(torch.ones(2, 3, 5))
        tensor([10., 10.])

    Source: ours; the error is that of Song et al. 2023, section 4.1.
    """
    return _against(target, torch.zeros_like)


def latent_equivariance_error(z: Tensor, encoded: Tensor) -> tuple[Tensor, Tensor]:
    r""":math:`\sum_{t=1}^T \|\mathrm{Enc}(x_t) - z_t\|_1` of each sequence, and the same divided by how far Enc(x_t) moves.

    The first depends on the scale of the latent space, the second does not: 0 is perfect, 1 is no better than standing still.
    Both mean something only where the encoder was trained on later frames as well: one that has seen first frames alone puts
    others anywhere.

    Args:
        z: (B, T+1, dim), the path.
        encoded: (B, T+1, dim), posterior means of the true frames.

    Returns:
        (B,) absolute and (B,) relative errors; relative to 0 motion, the error is inf, or nan where it is 0 too.

    Raises:
        TypeError: one of them is not floating.
        ValueError: the shapes differ, or there are fewer than two frames.

    Example:
        >>> import torch
        >>> from latentflow.metrics import latent_equivariance_error
        >>> encoded = torch.tensor([[[0.0], [1.0], [2.0]]])
        >>> latent_equivariance_error(torch.tensor([[[0.0], [1.0], [1.5]]]), encoded)
        (tensor([0.5000]), tensor([0.1667]))

    Source: Song et al. 2023, section 4.1, for the absolute error.
    """
    z, encoded = sequences("z", z, "encoded", encoded, "pass latents as they are")
    error = equivariance_error(z, encoded)
    return error, error / identity_error(encoded)


def _against(target: Tensor, drawn: Callable[[Tensor], Tensor]) -> Tensor:
    """The error of what is drawn without a model."""
    require_floating("target", target, "divide images by 255")
    if target.ndim < 2:
        raise ValueError(f"target: got shape {tuple(target.shape)}, expected (B, T+1, ...); add the missing axes")
    return equivariance_error(drawn(target), target)
