r"""Scores of codes (N, dim) beside the factors (N, F) that made the images: which dimension knows of which factor?

`interventions.sample_codes` draws both. What is said there of one dimension for each factor holds here too.
"""

from __future__ import annotations

from typing import Any, NamedTuple

import numpy as np
import torch
from torch import Tensor

from latentflow.metrics.checks import require_codes, require_integers, seed
from latentflow.metrics.learning import scikit_learn
from latentflow.validate import positive_integer, require


class DCI(NamedTuple):
    r"""What `dci` returns, for codes (N, dim) and factors (N, F).

    Attributes:
        disentanglement: 1 where each dimension serves one factor, 0 where it serves all alike.
        completeness: 1 where each factor lies in one dimension, 0 where it lies in all alike.
        informativeness: the mean accuracy of the classifiers on test codes.
        importance: (dim, F), how much each dimension tells of each factor; a factor's add up to 1, or 0 if none tells.

    Example:
        >>> import torch
        >>> from latentflow.metrics import DCI
        >>> DCI(1.0, 1.0, 0.9, torch.eye(2)).completeness
        1.0

    Source: Eastwood and Williams 2018, section 2.
    """

    disentanglement: float
    completeness: float
    informativeness: float
    importance: Tensor


def mutual_information_gap(codes: Tensor, factors: Tensor, *, bins: int = 20) -> float:
    r"""Mean over factors of :math:`(I_1 - I_2) / H`: how much more the best dimension knows of a factor than the second best.

    I is the mutual information of the factor and a dimension cut into bins of equal width, H the entropy of the factor.

    Args:
        codes: (N, dim), with dim at least 2.
        factors: (N, F), integers.
        bins: how many.

    Returns:
        Between 0 and 1.

    Raises:
        TypeError: codes are not floating, factors not integer, or bins is no int.
        ValueError: codes or factors have another shape, codes are not finite, a factor never changes, or bins is not positive.
        ImportError: scikit-learn is not installed.

    Example:
        >>> import torch
        >>> from latentflow.metrics import mutual_information_gap
        >>> factors = torch.cartesian_prod(torch.arange(3), torch.arange(4))
        >>> round(mutual_information_gap(factors.double(), factors), 6)
        1.0

    Source: Chen et al. 2018, eq. 6; 20 bins as in Locatello et al. 2019.
    """
    x, y = _arrays("", codes, factors)
    edges = positive_integer("bins", bins) + 1
    information = scikit_learn("metrics").mutual_info_score
    cut = [np.digitize(column, np.linspace(column.min(), column.max(), edges)[:-1]) for column in x.T]
    found = np.array([[information(factor, column) for factor in y.T] for column in cut])
    entropy = np.array([information(factor, factor) for factor in y.T])
    return float(np.mean(_gap(found) / entropy))


def dci(
    codes: Tensor,
    factors: Tensor,
    test_codes: Tensor,
    test_factors: Tensor,
    *,
    generator: torch.Generator | None = None,
) -> DCI:
    r"""Disentanglement, completeness and informativeness, from the importances that boosted trees give to dimensions.

    One classifier learns each factor from the codes. With its importances as a column of R, (dim, F), and their shares
    :math:`P_{ij} = R_{ij} / \sum_j R_{ij}`, dimension i has disentanglement :math:`1 + \sum_j P_{ij} \log_F P_{ij}`, and counts
    with its share of all of R; likewise each factor has completeness, in shares over dimensions.

    Args:
        codes, test_codes: (N, dim), to learn from and to judge by, with dim at least 2.
        factors, test_factors: (N, F), integers, with F at least 2.
        generator: seeds the trees.

    Raises:
        TypeError: codes are not floating, or factors not integer.
        ValueError: codes or factors have another shape, codes are not finite, there is but one factor, one never changes, or
            one has values among the test factors that were not learned.
        ImportError: scikit-learn is not installed.

    Example:
        >>> import torch
        >>> from latentflow.metrics import dci
        >>> factors = torch.cartesian_prod(torch.arange(3), torch.arange(4))
        >>> found = dci(factors.double(), factors, factors.double(), factors)
        >>> round(found.disentanglement, 3), round(found.completeness, 3), found.informativeness
        (1.0, 1.0, 1.0)

    Source: Eastwood and Williams 2018, section 2; boosted trees as in Locatello et al. 2019.
    """
    (x, y), (test_x, test_y) = _learned_and_judged(codes, factors, test_codes, test_factors)
    if y.shape[1] < 2:
        raise ValueError(f"factors: got shape {tuple(factors.shape)}, expected at least 2 columns; give all factors")
    trees, columns, accuracies = scikit_learn("ensemble").GradientBoostingClassifier, [], []
    for factor, test_factor in zip(y.T, test_y.T, strict=True):
        model = trees(random_state=seed(generator)).fit(x, factor)
        columns.append(model.feature_importances_)
        accuracies.append(model.score(test_x, test_factor))
    importance = torch.from_numpy(np.stack(columns, 1))
    disentanglement, completeness = _one_sided(importance), _one_sided(importance.mT)
    return DCI(disentanglement, completeness, float(np.mean(accuracies)), importance)


def sap_score(
    codes: Tensor,
    factors: Tensor,
    test_codes: Tensor,
    test_factors: Tensor,
    *,
    generator: torch.Generator | None = None,
) -> float:
    """Separated attribute predictability: how much better the best dimension tells a factor than the second best.

    Linear support vector machines learn each factor from each dimension alone; the score is the mean over factors of the gap
    between the two best accuracies. The machines are regularised, so units and offsets of the codes matter.

    Args:
        codes, test_codes: (N, dim), to learn from and to judge by, with dim at least 2.
        factors, test_factors: (N, F), integers.
        generator: seeds the machines, where they draw.

    Returns:
        Between 0 and 1.

    Raises:
        TypeError: codes are not floating, or factors not integer.
        ValueError: codes or factors have another shape, codes are not finite, a factor never changes, or has values among the
            test factors that were not learned.
        ImportError: scikit-learn is not installed.

    Example:
        >>> import torch
        >>> from latentflow.metrics import sap_score
        >>> factors = torch.cartesian_prod(torch.arange(2), torch.arange(2)).repeat(100, 1)
        >>> sap_score(factors.double(), factors, factors.double(), factors)
        0.5

    Source: Kumar et al. 2018, section 3; the settings are those of Locatello et al. 2019.
    """
    (x, y), (test_x, test_y) = _learned_and_judged(codes, factors, test_codes, test_factors)
    machine = scikit_learn("svm").LinearSVC

    def accuracy(i: int, j: int) -> float:
        model = machine(C=0.01, class_weight="balanced", random_state=seed(generator))
        found: float = model.fit(x[:, i : i + 1], y[:, j]).score(test_x[:, i : i + 1], test_y[:, j])
        return found

    return float(np.mean(_gap(np.array([[accuracy(i, j) for j in range(y.shape[1])] for i in range(x.shape[1])]))))


def _gap(found: Any) -> Any:
    """Between the best and the second best dimension, (F,), for (dim, F)."""
    best = np.sort(found, axis=0)
    return best[-1] - best[-2]


def _one_sided(importance: Tensor) -> float:
    """How far each row keeps to one column, the rows weighted by what they hold."""
    shares = importance + 1e-11
    shares = shares / shares.sum(1, keepdim=True)
    kept = 1 + (shares * shares.log()).sum(1) / np.log(importance.shape[1])
    return float((kept * importance.sum(1)).sum() / importance.sum().clamp_min(1e-11))


def _learned_and_judged(codes: Tensor, factors: Tensor, test_codes: Tensor, test_factors: Tensor) -> tuple[Any, Any]:
    (x, y), (test_x, test_y) = _arrays("", codes, factors), _arrays("test_", test_codes, test_factors, changing=False)
    for name, one, other in (("codes", x, test_x), ("factors", y, test_y)):
        if one.shape[1] != other.shape[1]:
            raise ValueError(
                f"test_{name}: got {other.shape[1]} columns, expected {one.shape[1]}; pass the same as in {name}"
            )
    for j, (factor, test_factor) in enumerate(zip(y.T, test_y.T, strict=True)):
        if unknown := sorted({*test_factor.tolist()} - {*factor.tolist()}):
            raise ValueError(
                f"test_factors: got value {unknown[0]} of factor {j}, expected those of factors; learn from more codes"
            )
    return (x, y), (test_x, test_y)


def _arrays(prefix: str, codes: Tensor, factors: Tensor, *, changing: bool = True) -> tuple[Any, Any]:
    """Codes and factors for scikit-learn, or an error."""
    x = require_codes(f"{prefix}codes", codes)
    y = require_integers(f"{prefix}factors", factors, "number the values of each factor").cpu()
    if x.ndim != 2 or y.ndim != 2 or len(x) != len(y) or 0 in y.shape or x.shape[1] < 2:
        raise ValueError(
            f"{prefix}codes, {prefix}factors: got shapes {tuple(x.shape)} and {tuple(y.shape)}, expected (N, dim) "
            "and (N, F) with dim >= 2; give a row for each image"
        )
    if changing:
        require(
            (y != y[:1]).any(0),
            lambda: f"{prefix}factors: got one that never changes, expected two values of each; leave it out",
        )
    return x.numpy(), y.numpy()
