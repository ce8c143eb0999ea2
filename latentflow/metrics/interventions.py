r"""Scores that need to choose factors of variation: which of them was held fixed?

Factors are the discrete settings that made an image, such as shape, size and position. `represent` turns them into codes: it
looks the images up, or renders them, and encodes them. These scores, as those of `codes`, presuppose one latent dimension for
each factor. A flow that moves many dimensions at once scores low by construction, which says nothing against it: compare
only what was built to that end (Song et al. 2023, supplement).
"""

from __future__ import annotations

import math
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass

import torch
from torch import Tensor

from latentflow.metrics.checks import device_of, number_between, require_codes
from latentflow.metrics.learning import scikit_learn
from latentflow.validate import positive_integer, require_integer

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

    Both are on the CPU, the codes in double precision.

    Args:
        represent: maps factors (n, F), integers, to codes (n, dim), such as posterior means. What else determines an
            image, it draws itself.
        sizes: how many values each of the F factors has; value j of factor i is 0, ..., sizes[i] - 1.
        num: N.
        chunk: how many settings represent is shown at a time, at most.
        generator: draws the settings, on its device.

    Raises:
        TypeError: represent is no function, sizes, num or chunk are no ints, or codes are not floating.
        ValueError: there are no factors, one has fewer than two values, num or chunk is not positive, or codes are not
            (n, dim), or not finite.

    Example:
        >>> from latentflow.metrics import sample_codes
        >>> codes, factors = sample_codes(lambda factors: factors.float(), sizes=(3, 4), num=10)
        >>> codes.shape, factors.shape
        (torch.Size([10, 2]), torch.Size([10, 2]))

    Source: Locatello et al. 2019, appendix B.
    """
    source = _Factors.checked(represent, sizes, chunk, generator, 1)
    factors = source.draw(positive_integer("num", num))
    return source.codes(factors), factors.cpu()


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
    source, batch = _Factors.checked(represent, sizes, chunk, generator, 2), positive_integer("batch", batch)
    train, test = positive_integer("train", train), positive_integer("test", test)
    linear = scikit_learn("linear_model")

    def points(num: int) -> tuple[Tensor, Tensor]:
        found = []
        for which, held, first in source.held(num, batch):
            second = torch.where(held, first, source.draw(len(which) * batch).view_as(first))
            one, other = source.codes(torch.stack((first, second)).flatten(0, 2)).view(2, len(which), batch, -1)
            found.append(((one - other).abs().mean(1), which.cpu()))
        features, labels = zip(*found, strict=True)
        return torch.cat(features), torch.cat(labels)

    learned, judged = points(train), points(test)
    if len(torch.unique(learned[1])) < 2:
        raise ValueError(f"train: got {train} points that share one factor, expected others too; take more")
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
    source, few = _Factors.checked(represent, sizes, chunk, generator, 2), "a variance needs two"
    batch, population = require_integer("batch", batch, 2, few), require_integer("population", population, 2, few)
    train, test = positive_integer("train", train), positive_integer("test", test)
    least = number_between("least_std", least_std, 0, math.inf, "0.05 is usual")
    overall = source.codes(source.draw(population)).var(0)
    active = overall.sqrt() >= least
    if not active.any():
        return 0.0

    def votes(num: int) -> Tensor:
        """Of each factor for each dimension that varies, (F, dim)."""
        found = torch.zeros(len(source.sizes), int(active.sum()), dtype=torch.int64)
        for which, held, factors in source.held(num, batch):
            codes = source.codes(torch.where(held, factors[:, :1], factors).flatten(0, 1)).view(len(which), batch, -1)
            ratio = codes.var(1)[:, active] / overall[active]
            found.index_put_((which.cpu(), ratio.argmin(1)), torch.ones((), dtype=torch.int64), accumulate=True)
        return found

    assigned, judged = votes(train).argmax(0), votes(test)
    return int(judged.gather(0, assigned[None]).sum()) / int(judged.sum())


@dataclass(frozen=True)
class _Factors:
    """What makes codes of random settings."""

    represent: Represent
    sizes: Sequence[int]
    chunk: int
    generator: torch.Generator | None

    @classmethod
    def checked(
        cls, represent: Represent, sizes: Sequence[int], chunk: int, generator: torch.Generator | None, least: int
    ) -> _Factors:
        """Of at least so many factors, or an error."""
        fix = "give the number of values of each factor, and leave out one that never changes"
        if not callable(represent):
            raise TypeError(
                f"represent: got {type(represent).__name__}, expected a function; let it take factors (n, F) to codes (n, dim)"
            )
        try:
            found = [require_integer("sizes", size, 2, fix) for size in iter(sizes)]
        except TypeError as error:
            raise TypeError(
                f"sizes: got {sizes!r}, expected whole numbers, of at least {least} factors; {fix}"
            ) from error
        if len(found) < least:
            raise ValueError(f"sizes: got {len(found)} factors, expected at least {least}; {fix}")
        device_of(generator)
        return cls(represent, found, positive_integer("chunk", chunk), generator)

    def draw(self, num: int) -> Tensor:
        """Random settings, (num, F)."""
        return torch.stack([self._integers(size, num) for size in self.sizes], 1)

    def held(self, num: int, batch: int) -> Iterator[tuple[Tensor, Tensor, Tensor]]:
        """For `num` points, some at a time, the factor that is to be held: as a number (n,), and as a mask (n, 1, F).

        And a batch of settings for each, (n, batch, F).
        """
        for which in torch.split(self._integers(len(self.sizes), num), max(1, self.chunk // batch)):
            held = torch.arange(len(self.sizes), device=which.device) == which[:, None, None]
            yield which, held, self.draw(len(which) * batch).view(len(which), batch, -1)

    def codes(self, factors: Tensor) -> Tensor:
        """Of settings (N, F), (N, dim), in double precision, on the CPU."""
        found: list[Tensor] = []
        for part in torch.split(factors, self.chunk):
            codes = require_codes("represent(factors)", self.represent(part.clone()))
            dim = codes.shape[1] if codes.ndim == 2 else 0
            if len(codes) != len(part) or dim == 0 or (found and dim != found[0].shape[1]):
                wanted = f"({len(part)}, {found[0].shape[1] if found else 'dim'})"
                raise ValueError(
                    f"represent(factors): got shape {tuple(codes.shape)}, expected {wanted}; return a code for each setting"
                )
            found.append(codes)
        return torch.cat(found)

    def _integers(self, end: int, num: int) -> Tensor:
        return torch.randint(end, (num,), generator=self.generator, device=device_of(self.generator))
