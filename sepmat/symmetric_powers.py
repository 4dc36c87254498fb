"""Symmetric operators as short sums of d-th powers: Σ_l c_l v_l ⊗ … ⊗ v_l with every v_l in one plane.

A sum over all places, Σ_i I ⊗ … ⊗ F ⊗ … ⊗ I, lies in the span of the powers of span{I, F}, and so does a sum over all
pairs. With an orthonormal basis a, b of that plane, the symmetric tensors have the d + 1 orthonormal basis elements

    e_k = (d over k)^-½ Σ over the placements of k factors b among d − k factors a,
    (cos t a + sin t b)^⊗d = Σ_k (d over k)^½ cos^(d−k) t sin^k t e_k,

so a sum of powers is fitted in d + 1 numbers whatever the sizes of the matrices. It is a binary form of degree d.
"""

import functools
import itertools
import math
from collections.abc import Sequence
from typing import NamedTuple

from . import _array
from ._array import Array

LARGEST_DEGREE = 1000  # binomial coefficients up to 1e300
CLOSE = 0.999  # κ above this share of its bound is at the bound
ROUNDS = 10  # of secants
STEEP = 1.5  # bounds on κ below which there are many valleys


class PowerSum(NamedTuple):
    """Σ_l weights[l] (cos angles[l] a + sin angles[l] b)^⊗d, its error relative to the target, and κ."""

    weights: list[float]
    angles: list[float]
    error: float
    condition_number: float


def power_sum(target: Sequence[float], terms: int, cap: float, u: float) -> PowerSum:
    """The best sum of so many powers with κ <= cap for the form Σ_k target[k] e_k of degree d = len(target) − 1.

    Among the minima of ‖target − Σ‖² + λ Σ c_l² (target of norm 1), the one with the smallest λ >= u² that has κ <= cap:
    without a cap the error and the round-off κ u of evaluating the sum are balanced. For given angles the weights are
    a ridge regression; the angles minimise what that leaves (variable projection, Golub & Pereyra 1973), by
    Levenberg-Marquardt in log |t|: where κ is large all angles are small together. Several starts with different numbers of
    positive angles; the best is not proven to be the best of all.
    """
    xp = _array.array_namespace(_array.to_numpy(0.0))
    b = xp.asarray(target, dtype=xp.float64)
    size = float(_array.frobenius(b))
    if size == abs(target[0]):
        return PowerSum([target[0]], [0.0], 0.0, 1.0)
    form = _Form(b / size)
    with _array.quiet():
        found = form.capped(terms, cap, u)
    return found._replace(weights=[size * c for c in found.weights])


class _Form:
    """A form of norm 1 and the fits to it."""

    def __init__(self, target: Array) -> None:
        self.xp = _array.array_namespace(target)
        self.target = target
        self.d = target.shape[0] - 1
        self.k = self.xp.arange(self.d + 1, dtype=target.dtype)
        self.roots = self.xp.asarray([math.sqrt(math.comb(self.d, k)) for k in range(self.d + 1)])

    def powers(self, t: Array) -> tuple[Array, Array]:
        """(cos t a + sin t b)^⊗d as rows of d + 1 numbers, and their derivatives by t."""
        xp, d, k = self.xp, self.d, self.k
        c, s = xp.cos(t)[:, None], xp.sin(t)[:, None]
        down, up = xp.clip(d - k - 1, 0.0), xp.clip(k - 1, 0.0)
        slopes = k * s**up * c ** (d - k + 1) - (d - k) * s ** (k + 1) * c**down
        return self.roots * c ** (d - k) * s**k, self.roots * slopes

    def ridge(self, t: Array, penalty: float) -> tuple[Array, Array, Array]:
        """The weights for given angles, what is left of the target and the penalty, and its derivative by t."""
        xp, r = self.xp, t.shape[0]
        P, D = self.powers(t)
        A = xp.concat([xp.matrix_transpose(P), math.sqrt(penalty) * xp.eye(r)])
        b = xp.concat([self.target, xp.zeros(r)])
        Q, R = xp.linalg.qr(A)
        c = _array.solve_triangular(R, (xp.matrix_transpose(Q) @ b)[:, None])[:, 0]
        moved = xp.concat([xp.matrix_transpose(c[:, None] * D), xp.zeros((r, r))])
        return c, A @ c - b, moved - Q @ (xp.matrix_transpose(Q) @ moved)  # Kaufman's derivative

    def settled(self, t: Array, penalty: float) -> tuple[float, Array]:
        """(objective, angles) from Levenberg-Marquardt, the signs of the angles kept."""
        from scipy.optimize import least_squares  # takes as long to import as all of this library

        xp, signs = self.xp, self.xp.sign(t)

        def angles(v: Array) -> Array:
            return signs * xp.exp(xp.clip(v, -700.0, 1.0))

        @functools.lru_cache(maxsize=1)
        def at(v: tuple[float, ...]) -> tuple[Array, Array]:  # asked twice, for the residual and for its derivative
            t = angles(xp.asarray(v))
            _, left, slopes = self.ridge(t, penalty)
            return left, slopes * t

        start = xp.log(xp.abs(t))
        options = {"method": "lm", "xtol": 1e-10, "ftol": 1e-12, "gtol": 1e-15, "max_nfev": 60}
        found = least_squares(lambda v: at(tuple(v.tolist()))[0], start, lambda v: at(tuple(v.tolist()))[1], **options)
        return 2 * float(found.cost), angles(found.x)

    def starts(self, terms: int, penalty: float, scales: Sequence[float] = (0.3, 1.0, 3.0)) -> list[Array]:
        """Angles ±h, ±2h, … with h as it shrinks with the penalty: h^(4q+2) ∝ λ for 2q angles of zero sum."""
        h = penalty ** (1 / (4 * math.ceil(terms / 2) + 2)) / math.sqrt(self.d)
        half = terms // 2
        counts = dict.fromkeys(max(1, min(n, terms - 1)) for n in (terms - half, half, terms - half + 1, terms - 1))
        found = []
        for scale, positive in itertools.product(scales, counts):
            steps = [*range(1, positive + 1), *range(-1, positive - terms - 1, -1)]
            found.append(self.xp.asarray([scale * h * j for j in steps]))
        return found

    def fits(self, starts: list[Array], penalty: float) -> list[tuple[float, Array, PowerSum]]:
        """(objective, angles, fit) from each start, the smallest objective first."""
        settled = (self.settled(t, penalty) for t in starts)
        found = [(J, t, self.measured(t, penalty)) for J, t in settled if math.isfinite(J)]
        return sorted(found, key=lambda fit: fit[0])

    def measured(self, t: Array, penalty: float) -> PowerSum:
        c, left, _ = self.ridge(t, penalty)
        error = float(_array.frobenius(left[: self.d + 1]))
        total = float(_array.frobenius(left[: self.d + 1] + self.target))
        size = float(_array.frobenius(c))
        return PowerSum(c.tolist(), t.tolist(), error, size / total if total else math.inf)

    def capped(self, terms: int, cap: float, u: float) -> PowerSum:
        """The fit with the smallest λ >= u² that keeps κ <= cap: secants of log κ over log λ inside a bracket.

        κ grows like λ^(-1/(2 terms + 2)) where it is large, so the first guess is near. Where it is about 1 the fits jump
        between valleys, and λ is moved in small steps as well. One term has κ = 1, so there is always an answer.
        """
        power = 2 * terms + 2
        x = 2 * math.log(u)
        _, t, found = self.fits(self.starts(terms, math.exp(x)), math.exp(x))[0]
        if terms == 1 or found.condition_number <= cap:
            return found
        above, below = (x, self._excess(found, cap)), (0.0, -math.inf)
        best: PowerSum | None = None
        for attempt in range(ROUNDS):
            last, x = x, self._between(above, below, power)
            t = t * min(math.exp((x - last) / power), 1 / max(abs(t)))
            fits = self.fits(self.starts(terms, math.exp(x)), math.exp(x))
            followed = self.fits([t], math.exp(x))
            best = self._better(best, [*fits, *followed], cap)
            if best is not None and best.condition_number >= CLOSE * cap:
                break
            # the valley that was followed so far, unless there is a much deeper one
            followed = followed if attempt and followed and followed[0][0] < 2 * fits[0][0] else fits
            _, t, found = followed[0]
            excess = self._excess(found, cap)
            above, below = ((x, excess), below) if excess > 0 else (above, (x, excess))
        if best is None or (best.error > 64 * u and best.condition_number < max(0.9 * cap, STEEP)):
            best = self._descended(t, terms, cap, best)
        return best or self.capped(terms - 1, cap, u)

    def _descended(self, t: Array, terms: int, cap: float, best: PowerSum | None) -> PowerSum | None:
        """The best fit with κ <= cap while λ falls from 0.3, and in the valleys just beyond when it rises again."""
        beyond = []
        for step in range(1, 30):
            penalty = 10.0 ** (-step / 2)
            fits = self.fits([t, *self.starts(terms, penalty, (1.0,))], penalty)
            best = self._better(best, fits, cap)
            _, t, found = fits[0]
            if found.condition_number > cap:
                beyond.append((t, penalty))
                if len(beyond) == 3:
                    break
        for t, penalty in beyond:
            for _ in range(8):
                penalty *= 1.5
                fits = self.fits([t], penalty)
                best = self._better(best, fits, cap)
                if not fits or fits[0][2].condition_number <= cap:
                    break
                t = fits[0][1]
        return best

    @staticmethod
    def _better(best: PowerSum | None, fits: list[tuple[float, Array, PowerSum]], cap: float) -> PowerSum | None:
        allowed = [fit for _, _, fit in fits if fit.condition_number <= cap]
        return min([*allowed, *([best] if best else [])], key=lambda fit: fit.error, default=None)

    @staticmethod
    def _excess(found: PowerSum, cap: float) -> float:
        return math.log(found.condition_number / cap)

    @staticmethod
    def _between(above: tuple[float, float], below: tuple[float, float], power: int) -> float:
        """Where log κ is expected a little below its bound."""
        (a, fa), (b, fb) = above, below
        x = a + power * fa if math.isinf(fb) else b if fa == fb else a + (b - a) * (fa + (1 - CLOSE) / 2) / (fa - fb)
        return min(max(x, a + 0.01 * (b - a)), b - 0.01 * (b - a))
