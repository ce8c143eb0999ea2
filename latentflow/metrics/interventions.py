r"""Scores that need to choose factors of variation: which of them was held fixed?

Factors are the discrete settings that made an image, such as shape, size and position. `represent` turns them into codes: it
looks the images up, or renders them, and encodes them. These scores, as those of `codes`, presuppose one latent dimension for
each factor. A flow that moves many dimensions at once scores low by construction, which says nothing against it: compare
only what was built to that end (Song et al. 2023, supplement).
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence

import torch
from torch import Tensor

from latentflow.metrics.learning import scikit_learn
from latentflow.validate import number, positive_integer, require_finite, require_floating, require_integer

Represent = Callable[[Tensor], Tensor]


@torch.no_grad()
def sample_codes(
    represent: Represent,
    sizes: Sequence[int],
    num: int = 10_000,
    *,
    chunk: int = 4096,
    generator: torch.Generator | None = None,
) -> tuple[Tensor, Tensor]:
    """Codes of N random settings of the factors, (N, dim), and these settings, (N, F): what `dci` and its kin take.

    Args:
        represent: maps factors (n, F), integers, to codes (n, dim), such as posterior means. Whatever else makes an image it
            draws by itself.
        sizes: how many values each of the F factors has; value j of factor i is 0, ..., sizes[i] - 1.
        num: N.
        chunk: how many settings represent is shown at a time, at most.
        generator: draws the settings, on its device.

    Raises:
        TypeError: sizes, num or chunk are no ints, or codes are not floating.
        ValueError: there are no factors, one has fewer than two values, num or chunk is not positive, or codes are not
            (n, dim), or not finite.

    Example:
        >>> from latentflow.metrics import sample_codes
        >>> codes, factors = sample_codes(lambda factors: factors.float(), sizes=(3, 4), num=10)
        >>> codes.shape, factors.shape
        (torch.Size([10, 2]), torch.Size([10, 2]))

    Source: Locatello et al. 2019, appendix B.
    """
    factors = _draw(_checked(sizes, 1), positive_integer("num", num), generator)
    return _codes(represent, factors, chunk), factors


@torch.no_grad()
def beta_vae_score(
    represent: Represent,
    sizes: Sequence[int],
    *,
    train: int = 10_000,
    test: int = 5_000,
    batch: int = 64,
    chunk: int = 4096,
    generator: torch.Generator | None = None,
) -> float:
    r"""How often a linear classifier tells which factor two batches share, from their mean absolute difference of codes.

    One point: a factor j; L pairs of settings that agree in j and are random else; :math:`\frac1L \sum |r(x) - r(x')|`, (dim,),
    with the label j. Logistic regression learns from some points; the score is its accuracy on others, 1 / F by chance.

    Args:
        represent: maps factors (N, F) to codes (N, dim), as in `sample_codes`.
        sizes, chunk, generator: as there.
        train, test: how many points to learn from, and to judge by.
        batch: L.

    Raises:
        TypeError: as `sample_codes`, or train, test or batch are no ints.
        ValueError: as `sample_codes`, there is but one factor, or train, test or batch is not positive.
        ImportError: scikit-learn is not installed.

    Example:
        >>> import torch
        >>> from latentflow.metrics import beta_vae_score
        >>> beta_vae_score(lambda factors: factors.float(), sizes=(3, 4), train=100, test=50)
        1.0

    Source: Higgins et al. 2017, section 3; the settings are those of Locatello et al. 2019.
    """
    positive_integer("batch", batch)

    def points(num: int) -> tuple[Tensor, Tensor]:
        found = []
        for which, first in _fixed(checked, num, batch, chunk, generator):
            second = _draw(checked, len(first) * batch, generator).view_as(first)
            second = torch.where(_is(which, len(checked)), first, second)
            codes = _codes(represent, torch.stack((first, second)).flatten(0, 2), chunk)
            one, other = codes.view(2, len(which), batch, -1)
            found.append(((one - other).abs().mean(1).double().cpu(), which.cpu()))
        features, labels = zip(*found, strict=True)
        return torch.cat(features), torch.cat(labels)

    checked, linear = _checked(sizes, 2), scikit_learn("linear_model")
    learned, judged = points(positive_integer("train", train)), points(positive_integer("test", test))
    model = linear.LogisticRegression().fit(*(x.numpy() for x in learned))
    return float(model.score(*(x.numpy() for x in judged)))


@torch.no_grad()
def factor_vae_score(
    represent: Represent,
    sizes: Sequence[int],
    *,
    train: int = 10_000,
    test: int = 5_000,
    batch: int = 64,
    population: int = 10_000,
    least_std: float = 0.05,
    chunk: int = 4096,
    generator: torch.Generator | None = None,
) -> float:
    r"""How often the code dimension that varies least tells which factor was held fixed.

    One vote: a factor j; L settings that share one value of j; the dimension whose variance, over that of all settings, is
    least. The majority of votes assigns a factor to each dimension; the score is its accuracy on other votes.

    Args:
        represent: maps factors (N, F) to codes (N, dim), as in `sample_codes`.
        sizes, chunk, generator: as there.
        train, test: how many votes to learn from, and to judge by.
        batch: L, at least 2.
        population: of how many settings to take the overall variances, at least 2.
        least_std: dimensions that vary less are left out; the score is 0 if none is left.

    Raises:
        TypeError: as `sample_codes`, or train, test, batch, population are no ints or least_std no number.
        ValueError: as `sample_codes`, there is but one factor, or one of the numbers is too small.

    Example:
        >>> import torch
        >>> from latentflow.metrics import factor_vae_score
        >>> factor_vae_score(lambda factors: factors.float(), sizes=(3, 4), train=100, test=50)
        1.0

    Source: Kim and Mnih 2018, section 4; the settings are those of Locatello et al. 2019.
    """
    checked, few = _checked(sizes, 2), "a variance needs two"
    require_integer("batch", batch, 2, few)
    population = require_integer("population", population, 2, few)
    overall = _codes(represent, _draw(checked, population, generator), chunk).double().var(0)
    active = overall.sqrt() >= number("least_std", least_std)
    train, test = positive_integer("train", train), positive_integer("test", test)
    if not active.any():
        return 0.0

    def votes(num: int) -> Tensor:
        """Of each factor for each dimension that varies, (F, dim)."""
        found = overall.new_zeros(len(checked), int(active.sum()), dtype=torch.int64)
        for which, factors in _fixed(checked, num, batch, chunk, generator):
            factors = torch.where(_is(which, len(checked)), factors[:, :1], factors)
            codes = _codes(represent, factors.flatten(0, 1), chunk).double()
            ratio = codes.view(len(which), batch, -1).var(1)[:, active] / overall[active]
            found.index_put_((which.to(found.device), ratio.argmin(1)), found.new_ones(()), accumulate=True)
        return found

    assigned, judged = votes(train).argmax(0), votes(test)
    return float(judged.gather(0, assigned[None]).sum() / judged.sum())


def _fixed(
    sizes: Sequence[int], num: int, batch: int, chunk: int, generator: torch.Generator | None
) -> Iterator[tuple[Tensor, Tensor]]:
    """For `num` points, some at a time, the factor that is to be held fixed, (n,), and a batch of settings, (n, batch, F)."""
    device = None if generator is None else generator.device
    which = torch.randint(len(sizes), (num,), generator=generator, device=device)
    for part in torch.split(which, max(1, chunk // batch)):
        yield part, _draw(sizes, len(part) * batch, generator).view(len(part), batch, -1)


def _is(which: Tensor, num: int) -> Tensor:
    """Whether each of the factors is that of the point, (n, 1, F)."""
    return torch.arange(num, device=which.device) == which[:, None, None]


def _draw(sizes: Sequence[int], num: int, generator: torch.Generator | None) -> Tensor:
    """Random settings of the factors, (num, F)."""
    device = None if generator is None else generator.device
    return torch.stack([torch.randint(size, (num,), generator=generator, device=device) for size in sizes], 1)


def _codes(represent: Represent, factors: Tensor, chunk: int) -> Tensor:
    """Of settings (N, F), (N, dim)."""
    found = []
    for part in torch.split(factors, positive_integer("chunk", chunk)):
        codes = require_floating("represent(factors)", represent(part), "return posterior means")
        if codes.ndim != 2 or len(codes) != len(part):
            raise ValueError(
                f"represent(factors): got shape {tuple(codes.shape)}, expected ({len(part)}, dim); return one for each setting"
            )
        require_finite("represent(factors)", codes, "look for exploding weights")
        found.append(codes)
    return torch.cat(found)


def _checked(sizes: Sequence[int], least: int) -> list[int]:
    """The sizes of at least so many factors."""
    found = [require_integer("sizes", size, 2, "leave out a factor that never changes") for size in sizes]
    if len(found) < least:
        raise ValueError(
            f"sizes: got {len(found)} factors, expected at least {least}; give the number of values of each"
        )
    return found
