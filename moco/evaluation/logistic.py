"""Multinomial logistic regression on frozen features, solved until it has converged.

Of N scaled features x it finds the weights W and biases b of

    min  1/N sum_i -log softmax(W x_i + b)[y_i]  +  penalty / 2 |W|^2

This is scikit-learn's objective with C = 1 / (N penalty). It is strictly convex in W, so the result depends on no
learning rate, schedule, order or seed.

Features are scaled by the square root of their deviation (docs/measurements.md compares it with features that are left
as they are and with those divided by their deviation).
"""

import warnings
from collections.abc import Iterator
from dataclasses import dataclass

import numpy as np
import torch
import torch.nn.functional as F
from jaxtyping import Float
from scipy.optimize import minimize
from threadpoolctl import threadpool_limits
from torch import Tensor

from moco.core.precision import exact_products
from moco.data.images import Labels
from moco.errors import DivergedError
from moco.runtime.randomness import Reals
from moco.shapes import Features

ROWS_AT_A_TIME = 16384
"""Features that are multiplied at a time; their logits take 64 MB for 1,000 classes."""
STRETCH = 1024
"""Features that one thread multiplies at a time: few enough for its cache, and so read once."""
CONSTANT = 1e-6
"""A feature is constant where its deviation is at most this share of its mean: in fp32 that much is rounding."""
NEGLIGIBLE = 1e-9
"""Principal axes with a smaller share of the largest variance are left out: they are rounding, too."""
ITERATIONS = 1000
CORRECTIONS = 20
"""Steps from which L-BFGS estimates the Hessian."""
OUT_OF_ITERATIONS = 1
"""What scipy calls that."""

ViewFeatures = Float[Tensor, "v n c"]
"""Features of v views of each of n images."""
AxisFeatures = Float[Tensor, "n d"]
"""Features on d - 1 principal axes, and a last column of ones."""
AxisWeights = Float[Tensor, "k d"]
"""Weights on these axes for each of k classes; the last column holds the biases."""


@dataclass(frozen=True)
class Tolerance:
    """When L-BFGS has converged."""

    gradient: float
    """No entry of the gradient, in units in which the Hessian is near 1, is larger; not asked of fewer images than
    features, which can be fitted exactly."""
    decrease: float
    """It also ends where a step lowers the objective by a smaller share."""


CLOSE = Tolerance(3e-5, 1e-9)
"""Ends as near to the minimum as fp32 resolves."""
ROUGH = Tolerance(3e-4, 1e-5)
"""Near enough to compare penalties, in a third of the iterations (docs/measurements.md)."""


@dataclass(frozen=True)
class Classifier:
    """Class scores that are linear in the features: weight (K, C) and bias (K), applied to features less `mean` (C)."""

    mean: Tensor
    weight: Tensor
    bias: Tensor

    def logits(self, features: Features) -> Tensor:
        """Score each feature vector for each class: (N, K)."""
        return F.linear(features - self.mean, self.weight, self.bias)


@dataclass(frozen=True)
class Problem:
    """Scaled features, rotated to their principal axes, and their labels.

    The rotation changes neither loss nor penalty. It makes the Hessian nearly diagonal, and the variances say how large
    its entries are: in units that make them equal, L-BFGS takes a quarter of the iterations.
    """

    x: AxisFeatures
    """Features on the computing device, like y."""
    y: Tensor
    sums: AxisWeights
    """The sum of x over the rows of each class (fp64, on the CPU): y times x, with y one-hot."""
    mean: Tensor
    """(C)"""
    rotation: Tensor
    """(C, d - 1): features less their mean, times this, are x."""
    variances: Tensor
    """(d), fp64, of the columns of x; 1 for the column of ones."""

    def classifier(self, weights: AxisWeights) -> Classifier:
        """Turn weights on the principal axes into weights of the features as they are."""
        weight = weights[:, :-1] @ self.rotation.T
        return Classifier(self.mean.float(), weight.float(), weights[:, -1].float())


@exact_products()
def pose(features: ViewFeatures, labels: Labels, classes: int, rows: Labels, device: str = "cpu") -> Problem:
    """Prepare the features of all views of the images in `rows`; `labels` are those of all images.

    The features stay as they are; the copy on the device takes as much memory. Raises DivergedError where a feature is
    not a finite number.
    """
    views, images, width = features.shape
    flat, chosen = features.flatten(0, 1), torch.from_numpy(rows)
    parts = torch.split(torch.cat([chosen + view * images for view in range(views)]), ROWS_AT_A_TIME)
    count = views * len(rows)
    mean = torch.stack([flat[part].double().sum(0) for part in parts]).sum(0) / count
    squares = torch.stack([(flat[part].double() - mean).square().sum(0) for part in parts]).sum(0)
    deviation = (squares / count).sqrt()
    if not bool(torch.isfinite(deviation).all()):
        raise DivergedError("the features are not finite numbers: the encoder diverged in its training")
    varies = deviation > CONSTANT * mean.abs()
    scale = (deviation * deviation[varies].mean()).sqrt()  # so that the scaled features' variances have a mean of 1
    inverse = torch.where(varies, 1 / scale, 0)

    if count <= width:  # these rows differ in fewer directions than there are features
        z = (flat[torch.cat(parts)].double() - mean) * inverse
        variances, turned = _list_axes(z @ z.T / count)
        vectors = z.T @ turned / (count * variances).sqrt()
    else:
        products = torch.zeros(width, width, dtype=torch.float64)
        for part in parts:
            z = ((flat[part].double() - mean) * inverse).float().to(device)
            products += (z.T @ z).cpu()
        variances, vectors = _list_axes(products / count)
    rotation = inverse[:, None] * vectors

    x = torch.ones(count, len(variances) + 1, device=device)
    for part, out in zip(parts, torch.split(x[:, :-1], ROWS_AT_A_TIME), strict=True):
        out.copy_((flat[part].double() - mean).float() @ rotation.float())
    y, sums = torch.from_numpy(labels[rows]).repeat(views), torch.zeros(classes, x.shape[1], dtype=torch.float64)
    for some, own in zip(torch.split(x, ROWS_AT_A_TIME), torch.split(y, ROWS_AT_A_TIME), strict=True):
        sums.index_add_(0, own, some.cpu().double())
    variances = torch.cat([variances, torch.ones(1, dtype=torch.float64)])
    return Problem(x, y.to(device), sums, mean, rotation, variances)


def _list_axes(products: Tensor) -> tuple[Tensor, Tensor]:
    """Return the eigenvalues of a symmetric matrix, ascending, and its eigenvectors, without those of rounding."""
    values, vectors = torch.linalg.eigh(products)
    kept = values > NEGLIGIBLE * values[-1]
    return values[kept], vectors[:, kept]


def solve(
    problem: Problem, penalty: float, start: AxisWeights | None = None, tolerance: Tolerance = CLOSE
) -> AxisWeights:
    """Find the weights (fp64) at the minimum, by L-BFGS from `start` or from 0; warns where it was not reached."""
    classes, columns = problem.sums.shape
    penalties = torch.full((columns,), penalty, dtype=torch.float64)
    penalties[-1] = 0  # biases are free
    curvature = (classes - 1) / classes**2  # of the loss where every class is equally likely
    scale = (penalties + curvature * problem.variances).rsqrt()

    def objective(point: Reals) -> tuple[float, Reals]:
        weights = torch.from_numpy(point).view(classes, columns) * scale
        loss, gradient = cross_entropy(problem, weights)
        value = loss + float((penalties * weights.square()).sum()) / 2
        return value, ((gradient + penalties * weights) * scale).flatten().numpy()

    separable = len(problem.x) <= columns  # so the loss flattens as it falls, and a small gradient says nothing
    point = np.zeros(classes * columns) if start is None else (start / scale).flatten().numpy()
    options = {
        "maxiter": ITERATIONS,
        "maxfun": 2 * ITERATIONS,
        "maxcor": CORRECTIONS,
        "gtol": 0.0 if separable else tolerance.gradient,
        "ftol": tolerance.decrease,
    }
    with threadpool_limits(1, user_api="blas"):  # scipy's own threads would wait in a loop, on the cores of torch's
        found = minimize(objective, point, jac=True, method="L-BFGS-B", options=options)
    if found.status == OUT_OF_ITERATIONS:
        left = float(np.abs(found.jac).max())
        warnings.warn(
            f"penalty {penalty:g}: not converged after {ITERATIONS} iterations (gradient {left:.1g})", stacklevel=2
        )
    return torch.from_numpy(found.x).view(classes, columns) * scale


@exact_products()
def cross_entropy(problem: Problem, weights: AxisWeights) -> tuple[float, AxisWeights]:
    """Mean cross-entropy over all rows, and its gradient p - y times x (fp64, on the CPU).

    Rows are columns here: a softmax over a few classes is several times as fast where each class is one stretch of
    memory. Threads take one stack of rows each: a product of few classes is too small to be shared.
    """
    total, gradient = 0.0, -problem.sums
    own = weights.float().to(problem.x.device)
    for x, y in zip(_stack(problem.x), _stack(problem.y), strict=True):
        log_p = torch.bmm(own.expand(len(x), *own.shape), x.mT).log_softmax(1)  # (stacks, K, rows)
        total -= float(log_p.gather(1, y[:, None]).cpu().double().sum())
        gradient += torch.bmm(log_p.exp_(), x).sum(0).cpu()
    return total / len(problem.x), gradient / len(problem.x)


def _stack(rows: Tensor) -> Iterator[Tensor]:
    """Cut rows (n, ...) into stacks (s, STRETCH, ...), and what is left into one (1, r, ...)."""
    whole = len(rows) // STRETCH * STRETCH
    at_a_time = STRETCH * torch.get_num_threads() if rows.device.type == "cpu" else ROWS_AT_A_TIME
    for part in torch.split(rows[:whole], at_a_time) if whole else ():
        yield part.view(-1, STRETCH, *rows.shape[1:])
    if whole < len(rows):
        yield rows[None, whole:]
