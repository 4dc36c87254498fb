"""Sums of exponentials that approximate x^-β on an interval with the smallest largest error.

What is sought are weights and exponents, a few dozen numbers, and no data enters: they are found with NumPy in double
precision, whatever library the result is asked in.
"""

import itertools
import math
from collections.abc import Iterator
from typing import Any, NamedTuple

from . import _array, _check
from ._array import Array
from .errors import ArgumentError, PrecisionWarning, warn

__all__ = ["ExponentialSum", "exponential_sum"]

LARGEST_RATIO = 1e12
SHORT = 1.05  # R from which Newton's method reaches the last digits; two or three terms are exact there
LOBE, ZOOM = 32, 8  # points on which each lobe of the error is searched for its extremum, coarse and then twice finer
STEPS = 30  # of Newton's method, and of the exchange; a handful is usual
LEVEL = 1e-4  # relative difference at which the extrema count as equal

Found = tuple[Array, list[float]]  # (log w, log t), and where the error of the sum vanishes


class ExponentialSum(NamedTuple):
    """What `exponential_sum` returns: Σ_k weights[k] exp(−exponents[k] x), both (terms,) and positive, and its largest error
    on the interval that it was made for."""

    weights: Array
    exponents: Array
    error: float


def exponential_sum(
    R: float,
    terms: int | None = None,
    tol: float | None = None,
    power: float = 1.0,
    relative: bool = False,
    like: Any = None,
) -> ExponentialSum:
    """Σ_k w_k exp(−t_k x) ≈ x^-power on [1, R] with the smallest largest error; all w_k, t_k > 0.

    Either `terms`, or `tol`: as few terms as give an error <= tol. The error is absolute, so relative to the largest
    value, 1 at x = 1; with relative=True it is |1 − x^power Σ_k w_k exp(−t_k x)|, relative at each x.

    The best sum of k terms is the one whose error takes its largest size 2k + 1 times with alternating signs (Braess,
    Nonlinear Approximation Theory, 1986, chapter VI). It is found from the sum with one term less, by Newton's method
    for (log w, log t): first a sum that is exact at 2k points, which gives 2k + 1 extrema, then Remez exchange, which
    makes them equal to 1e-4. For power 1 the error falls like 16 exp(−π² k / log(8R)) on [1, R] and like
    exp(−π √(2k)) on [1, ∞) (Braess & Hackbusch, IMA J. Numer. Anal. 25 (2005) 685). The end is where the rounding
    errors of the sum are met, near 1e-12: no more terms are returned than are of use there, and a smaller tol gives
    that sum and a PrecisionWarning.

    R: from 1 to 1e12. like: an array whose library, dtype and device the result has (default NumPy float64).
    Cost: some milliseconds a term, half a second for 30 terms. Raises ArgumentError, DTypeError.

    >>> import math, sepmat as sm
    >>> w, t, error = sm.exponential_sum(100, terms=3)
    >>> f"{error:.2e}", f"{abs(1 / 7 - sum(w * math.e ** (-7 * t))):.1e}"
    ('4.79e-03', '4.4e-04')
    >>> len(sm.exponential_sum(100, tol=1e-6).weights)
    9
    """
    where = "exponential_sum"
    R = _check.as_positive(R, where, "R")
    if not 1 <= R <= LARGEST_RATIO:
        raise ArgumentError(where, "R", repr(R), f"1 <= R <= {LARGEST_RATIO:.0e}", "Divide x by its smallest value")
    power = _check.as_positive(power, where, "power")
    _check.one_of(where, terms=terms, tol=tol)
    like = _check.as_array(0.0 if like is None else like, where, "like")
    most = None if terms is None else _check.as_integer(terms, where, "terms")
    goal = 0.0 if tol is None else _check.as_tolerance(tol, where)
    relative = _check.as_flag(relative, where, "relative")
    with _array.quiet():
        p, error = _best(math.log(R), power, power if relative else 0.0, most, goal)
    if not p.shape[0]:
        got = f"{R:g} with power {power:g}"
        raise ArgumentError(where, "R", got, "powers of x that stay within 1e±30 on [1, R]", "Make R or power smaller")
    if tol is not None and error > goal:
        warn(
            PrecisionWarning, f"{where}: tol: {goal:.1e} is below what double precision gives; the error is {error:.1e}"
        )
    xp, place = _array.array_namespace(like), {"dtype": like.dtype, "device": _array.device(like)}
    values, k = [math.exp(v) for v in p.tolist()], p.shape[0] // 2
    return ExponentialSum(xp.asarray(values[:k], **place), xp.asarray(values[k:], **place), error)


def _best(Y: float, power: float, weight: float, most: int | None, goal: float) -> tuple[Array, float]:
    """(log w, log t) and the error of the sum with `most` terms, or with as few as reach the goal, on [1, e^Y]."""
    if not Y:
        return _array.to_numpy([power, math.log(power)]), 0.0
    if not weight:
        Y = min(Y, 36 / power)  # beyond, x^-power < u
    best, error = _array.to_numpy([]), math.inf
    for interval in dict.fromkeys([max(Y, 1e-4), max(Y, math.log(SHORT))]):
        for p in _sums(interval, power, weight):
            found = float(max(abs(_extrema(p, Y, power, weight)[1])))
            if found < error:
                best, error = p, found
            if p.shape[0] // 2 == most or error <= goal:
                return best, error
    return best, error


def _sums(Y: float, power: float, weight: float) -> Iterator[Array]:
    """The best sums of 1, 2, 3, … terms on [1, e^Y], until rounding errors hide the next one."""
    short = Y if power == weight else min(Y, 4 / (power - weight))  # beyond, the function is small
    last: Found = (_gauss(1, short, power), [short / 2])
    before: Found | None = None
    for k in itertools.count(1):
        near = [short * math.sin((2 * j + 1) * math.pi / (8 * k)) ** 2 for j in range(2 * k)]  # Chebyshev's zeros
        p, zeros = _continued(last, k, Y, power)
        starts = list(itertools.product((p, _gauss(k, short, power)), (zeros, near)))
        if before is not None and k > 3:
            q, others = _continued(before, k, Y, power)
            starts.insert(0, (2 * p - q, [2 * a - b for a, b in zip(zeros, others, strict=True)]))
        fits = (_exchange(_newton(start, at, power, weight), Y, power, weight) for start, at in starts)
        found = next((fit for fit in fits if fit is not None), None)
        if found is None:
            return
        before, last = last, found
        yield found[0]


def _error(p: Array, y: Array, power: float, weight: float) -> Array:
    """x^weight (x^-power − Σ w exp(−t x)) at x = e^y."""
    xp, k = _array.array_namespace(p), p.shape[0] // 2
    x = xp.exp(y)
    return x ** (weight - power) - x**weight * (xp.exp(-x[:, None] * xp.exp(p[k:])) @ xp.exp(p[:k]))


def _slopes(p: Array, y: Array, weight: float) -> Array:
    """The derivatives of the error by log w and log t, (points, 2k)."""
    xp, k = _array.array_namespace(p), p.shape[0] // 2
    x, t = xp.exp(y), xp.exp(p[k:])
    terms = xp.exp(p[:k] - x[:, None] * t) * (x**weight)[:, None]
    return xp.concat([-terms, terms * x[:, None] * t], axis=1)


def _extrema(p: Array, Y: float, power: float, weight: float) -> tuple[Array, Array, list[float]]:
    """(where, values, zeros): the largest errors between the zeros, of one sign after the other, and the zeros."""
    xp = _array.array_namespace(p)
    points = LOBE * (p.shape[0] + 1)
    step = Y / (points - 1)
    e = _error(p, xp.linspace(0.0, Y, points), power, weight)
    positive = e > 0
    ends = (xp.nonzero(positive[1:] != positive[:-1])[0] + 1).tolist()
    peaks = [i + int(xp.argmax(xp.abs(e[i:j]))) for i, j in zip([0, *ends], [*ends, points], strict=True)]
    signs = xp.where(xp.stack([positive[i] for i in peaks]), 1.0, -1.0)
    at = step * xp.asarray(peaks, dtype=p.dtype)
    for step_in in (step / ZOOM, step / ZOOM**2):
        near = xp.clip(at[:, None] + step_in * xp.arange(-ZOOM, ZOOM + 1, dtype=p.dtype), 0.0, Y)
        sizes = signs[:, None] * xp.reshape(_error(p, xp.reshape(near, (-1,)), power, weight), near.shape)
        best = xp.argmax(sizes, axis=1).tolist()
        at = xp.stack([near[i, b] for i, b in enumerate(best)])
    return at, _error(p, at, power, weight), [step * (end - 0.5) for end in ends]


def _exchange(p: Array, Y: float, power: float, weight: float) -> Found | None:
    """(p, zeros) whose error has 2k + 1 extrema of one size, from some p whose error has 2k zeros; else None."""
    best, spread = None, math.inf
    for _ in range(STEPS):
        if not math.isfinite(float(sum(p))):
            break
        at, values, zeros = _extrema(p, Y, power, weight)
        sizes = abs(values).tolist()
        if len(sizes) != p.shape[0] + 1 or not min(sizes):
            break
        previous, now = spread, max(sizes) / min(sizes) - 1
        if now < spread:
            best, spread = (p, zeros), now
        if spread < LEVEL or (previous < 0.1 and now > 0.5 * previous):
            break
        p = _newton(p, at.tolist(), power, weight, values.tolist())
    return best if spread < 0.5 else None


def _newton(p: Array, at: list[float], power: float, weight: float, values: list[float] | None = None) -> Array:
    """Newton's method for an error of 0 at 2k points, or of ±E at 2k + 1 points with the signs of the values.

    Steps are shortened only to a factor e in w and t. On the way the error may grow by orders of magnitude, because the
    good sums lie along a narrow curved valley; the method comes back to it quadratically.
    """
    xp, k = _array.array_namespace(p), p.shape[0] // 2
    y = xp.asarray(at)
    signs = xp.sign(xp.asarray(values)) if values else xp.zeros_like(y)
    E = math.exp(sum(math.log(abs(v)) for v in values) / len(values)) if values else 0.0
    last = math.inf
    for step in range(STEPS):
        J = _slopes(p, y, weight)
        if values:
            J = xp.concat([J, -signs[:, None]], axis=1)
        columns = xp.max(xp.abs(J), axis=0)
        try:
            d = -xp.linalg.solve(J / columns, (_error(p, y, power, weight) - E * signs)[:, None])[:, 0] / columns
        except ValueError:  # singular, or not finite
            return p * math.nan
        size = float(xp.max(xp.abs(d[: 2 * k])))
        short = 1.0 / max(1.0, size)
        p, E = p + short * d[: 2 * k], E + short * (float(d[-1]) if values else 0.0)
        if not size > 1e-8 or (size < 1 and step > 8 and size > 0.5 * last):
            break
        last = size
    return p


def _gauss(k: int, Y: float, power: float) -> Array:
    """A start on short intervals: Gauss-Laguerre quadrature of x^-β = ∫ t^(β-1) e^(-tx) dt / Γ(β) about x = e^(Y/2)."""
    from scipy.special import roots_genlaguerre  # takes longer to import than most of this library

    t, w = roots_genlaguerre(k, power - 1)
    xp = _array.array_namespace(t)
    return xp.concat([xp.log(w) + t - power * Y / 2 - math.lgamma(power), xp.log(t) - Y / 2])


def _continued(found: Found, k: int, Y: float, power: float) -> Found:
    """A start with k terms from fewer: log w, log t and the zeros as functions of j/k, in straight lines."""
    p, zeros = found
    had = p.shape[0] // 2
    pairs = sorted(zip(p[had:].tolist(), p[:had].tolist(), strict=True))
    if had == 1:
        (t, w), d = pairs[0], power**-0.5
        pairs = [(t - d, w - d), (t + d, w)]
    more = [*_resampled([w for _, w in pairs], k, 0.5), *_resampled([t for t, _ in pairs], k, 0.5)]
    return _array.to_numpy(more), _resampled([0.0, *zeros, Y], 2 * k + 2, 0.0)[1:-1]


def _resampled(values: list[float], n: int, offset: float) -> list[float]:
    """n values from some that stand at (j + offset) / (number − 1 + 2 offset), on straight lines between and beyond."""
    found = []
    for j in range(n):
        place = (j + offset) * (len(values) - 1 + 2 * offset) / (n - 1 + 2 * offset) - offset
        i = min(max(math.floor(place), 0), len(values) - 2)
        found.append(values[i] + (place - i) * (values[i + 1] - values[i]))
    return found
