"""Multinomial logistic regression with an L2 penalty, and the search for its strength.

Shapes: N rows, E feature width, C classes.

Reference: Radford et al. 2021 (CLIP, arXiv:2103.00020), appendix A.3.
"""

from collections.abc import Callable, Sequence
from dataclasses import dataclass

import numpy as np
import torch
from scipy import optimize
from torch import Tensor

L2_GRID = tuple(float(value) for value in np.logspace(-6, 6, 97))
"""CLIP's range of penalties, 1e-6 to 1e6 in 96 steps of an eighth of a decade, smallest first."""
FIRST_STEP = 16
"""Grid steps between the penalties that the search starts with: 1e-6, 1e-4, ..., 1e6."""

_GRADIENT_TOLERANCE = 1e-9
_ROWS_AT_A_TIME = 16384


@dataclass(frozen=True, slots=True, kw_only=True)
class LogisticRegression:
    """A fitted classifier; scores are features @ weight.T + bias."""

    weight: Tensor
    """float64 (C, E); zeros for a class without a training row."""
    bias: Tensor
    """float64 (C,); -inf for a class without a training row, which is therefore never predicted."""
    l2: float
    """Strength of the penalty; scikit-learn's C is its inverse."""
    num_iterations: int
    converged: bool
    """Whether the optimum was reached within the allowed iterations."""

    def scores(self, features: Tensor) -> Tensor:
        """Log-odds up to a constant per row, float64 (N, C)."""
        return features.to(self.weight) @ self.weight.T + self.bias


def fit_logistic_regression(
    features: Tensor, labels: Tensor, num_classes: int, l2: float, max_iter: int = 1000
) -> LogisticRegression:
    """Minimise the summed cross-entropy plus l2 / 2 times the squared norm of the weight, in float64.

    The bias has no penalty. The objective is scikit-learn's with C = 1 / l2. With two classes, scikit-learn penalises
    the one difference of their weights; the penalty here is doubled then, which is the same problem.

    SciPy's L-BFGS-B minimises, torch computes loss and gradient on the device of the features.

    Args:
        features: (N, E), any float dtype, finite, N at least 1.
        labels: (N,) int64 in [0, C).
        num_classes: C.
        l2: Strength of the penalty, above 0.
        max_iter: Iterations of L-BFGS at most.
    """
    present, targets = torch.unique(labels, return_inverse=True)
    rows, width = features.double(), features.shape[1]
    penalty = l2 * (2 if len(present) == 2 else 1)

    def objective(flat: np.ndarray) -> tuple[float, np.ndarray]:
        parameters = torch.from_numpy(flat).view(len(present), width + 1).to(rows.device)
        loss, gradient = _loss_and_gradient(parameters, rows, targets, penalty)
        return loss, gradient.cpu().numpy().ravel()

    with torch.no_grad():
        found = optimize.minimize(
            objective,
            np.zeros(len(present) * (width + 1)),
            jac=True,
            method="L-BFGS-B",
            # ftol: below the rounding of a step's decrease, so that the gradient alone decides.
            options={"maxiter": max_iter, "maxfun": 10 * max_iter, "gtol": _GRADIENT_TOLERANCE, "ftol": 0.0},
        )
    solved = torch.from_numpy(found.x).view(len(present), width + 1).to(rows.device)
    weight = rows.new_zeros(num_classes, width)
    bias = rows.new_full((num_classes,), -torch.inf)
    weight[present], bias[present] = solved[:, :-1], solved[:, -1]
    # Status 2: no step decreases the loss any further in float64.
    return LogisticRegression(
        weight=weight, bias=bias, l2=l2, num_iterations=int(found.nit), converged=found.status != 1
    )


def _loss_and_gradient(parameters: Tensor, rows: Tensor, targets: Tensor, l2: float) -> tuple[float, Tensor]:
    """The objective divided by N, so that the tolerance does not depend on N; parameters: (C, E + 1), bias last."""
    weight, bias = parameters[:, :-1], parameters[:, -1]
    gradient = torch.zeros_like(parameters)
    gradient[:, :-1] = l2 * weight
    loss = l2 / 2 * weight.square().sum()
    for start in range(0, len(rows), _ROWS_AT_A_TIME):
        chunk, own = rows[start : start + _ROWS_AT_A_TIME], targets[start : start + _ROWS_AT_A_TIME, None]
        logs = torch.log_softmax(torch.addmm(bias, chunk, weight.T), dim=1)
        loss = loss - logs.gather(1, own).sum()
        errors = logs.exp()
        errors.scatter_(1, own, errors.gather(1, own) - 1)
        gradient[:, :-1].addmm_(errors.T, chunk)
        gradient[:, -1] += errors.sum(dim=0)
    return (loss / len(rows)).item(), gradient / len(rows)


def search_l2(evaluate: Callable[[Sequence[float]], Sequence[tuple[float, float]]]) -> float:
    """CLIP's parametric binary search over `L2_GRID`: seven penalties first, then half the distance around the best.

    Fits at most 15 of the 97 penalties. The best one has the highest accuracy; of equals, the lowest cross-entropy;
    of these, the strongest penalty.

    Args:
        evaluate: Penalties -> validation accuracy and mean cross-entropy of each.
    """
    found: dict[int, tuple[float, float]] = {}

    def best_of(indices: Sequence[int]) -> int:
        new = [index for index in indices if index not in found]
        found.update(zip(new, evaluate([L2_GRID[index] for index in new]), strict=True))
        return max(indices, key=lambda index: (found[index][0], -found[index][1], index))

    last = len(L2_GRID) - 1
    best, step = best_of(range(0, last + 1, FIRST_STEP)), FIRST_STEP // 2
    while step:
        best = best_of(sorted({max(best - step, 0), best, min(best + step, last)}))
        step //= 2
    return L2_GRID[best]


def validation_score(classifier: LogisticRegression, features: Tensor, labels: Tensor) -> Tensor:
    """Accuracy and mean cross-entropy on held-out rows, float64 (2,), on the device of the features.

    Rows of a class without a training row are wrong, and left out of the cross-entropy, which would be infinite.

    Args:
        classifier: Fitted on other rows.
        features: (N, E), any float dtype.
        labels: (N,) int64 in [0, C).
    """
    scores = classifier.scores(features)
    losses = -scores.log_softmax(dim=1).gather(1, labels[:, None]).squeeze(1)
    known = losses[losses.isfinite()]
    accuracy = (scores.argmax(dim=1) == labels).double().mean()
    return torch.stack([accuracy, known.mean() if len(known) else accuracy.new_zeros(())])


def validation_rows(ids: Tensor, share: float = 0.2) -> Tensor:
    """Mask of the validation split: the `share` of the ids with the lowest hashes.

    The hash is the finaliser of SplitMix64 (Steele et al. 2014, doi:10.1145/2660193.2660195), so neighbouring ids,
    which often have one class, are spread over both splits.

    Args:
        ids: (N,) int64, distinct, N at least 2.
        share: In (0, 1).

    Returns:
        bool (N,), on the device of the ids; at least one row is in either split.
    """
    bits = ids.cpu().numpy().astype(np.uint64) + np.uint64(0x9E3779B97F4A7C15)
    bits = (bits ^ (bits >> np.uint64(30))) * np.uint64(0xBF58476D1CE4E5B9)
    bits = (bits ^ (bits >> np.uint64(27))) * np.uint64(0x94D049BB133111EB)
    bits ^= bits >> np.uint64(31)
    chosen = np.zeros(len(bits), dtype=bool)
    chosen[np.argsort(bits)[: max(1, round(share * len(bits)))]] = True
    return torch.from_numpy(chosen).to(ids.device)
