"""A X = F for sums of rank-one terms, by alternating least squares: arrays in, arrays out.

Beylkin and Mohlenkamp (2005): mode k of min ‖A X − F‖² + λ Σ s_l² is a linear least-squares problem for the factors of all
terms at once, with the matrix Σ_p R_p ⊗ A_k^p, where R stands for the other modes. It is solved by QR: the block system of
the normal equations would square cond(A). With A = I it is the reduction of F to fewer terms.
"""

import dataclasses
import math
from typing import Any

from . import _array
from ._array import Array, adjoint
from .cp.cores import terms_norm, vector_norm
from .cp.train import TrainCore, from_terms, rounded
from .kernels.terms import khatri_rao, thin

# λ as a share of ‖A X‖² / ‖X‖². A random start begins with a large one that falls slowly, which leads to small κ; a
# start that is good already keeps its course.
HOT, COOLING = 0.1, 0.7
WARM, FALL = 1e-8, 0.1
SWEEPS, GAIN = 100, 1e-2  # at most so many, until one gains less than this share of the error
BALANCE = 1e-2  # least share of λ, relative to goal²
TRIM = 20  # sweeps in which fewer terms must reach the goal
POLISH, FINE = 300, 1e-3  # the same at the rank that is returned
LAST = 3  # sweeps at the end with R from QR
SWITCH = 1e-6  # the relative error below which R comes from QR: a Gram matrix keeps half the digits
COLUMNS = 256  # as long as R has no more columns than this
STALLS = 3  # sweeps in a row that gain little
RETURNS = 6  # times that κ may go beyond its bound on the way
PATIENCE = 3  # ranks in a row that may gain less than a tenth of the error
ROUND_OFF = 2.0**-53
ATTAINABLE = 16 * ROUND_OFF  # an error that is not improved on

Factors = list[Array]  # d stacks (terms, n_k, c_k)


@dataclasses.dataclass(frozen=True)
class Solution:
    """Σ_l scales_l X_1^l ⊗ … ⊗ X_d^l with unit factors (terms, n_k, c_k)."""

    factors: Factors
    scales: Array
    error: float  # ‖A X − F‖ for ‖F‖ = 1
    settled: bool
    sweeps: int


class Equations:
    """A: d stacks (p, m_k, n_k) with ‖A‖₂ <= 1; F: d stacks (q, m_k, c_k) with ‖F‖ = 1; both in double precision."""

    def __init__(self, A: Factors, F: Factors) -> None:
        self.A, self.F, self.like = A, F, F[0]
        self.sizes = [(int(a.shape[2]), int(f.shape[2])) for a, f in zip(A, F, strict=True)]
        self.bases = [_independent(a) for a in A]
        self._right = [_flat(f) for f in F]

    def columns(self, terms: int) -> int:
        return int(self.A[0].shape[0]) * terms + int(self.F[0].shape[0])

    def random(self, terms: int, rng: Any) -> Factors:
        return [unit(_array.normal(rng, (terms, n, c), self.like)) for n, c in self.sizes]

    def sweep(self, X: Factors, penalty: float, exact: bool) -> tuple[Factors, Array, float]:
        """One update of every mode in turn: the unit factors, the scales, and ‖A X − F‖."""
        X, s, error = list(X), self.like, 0.0
        left = [_flat(_pairs(a, x)) for a, x in zip(self.A, X, strict=True)]
        begin: Any = (Triangle if exact else Gram).of(self.like, left[0].shape[1], self._right[0].shape[1])
        after = [begin]
        for Z, Y in zip(left[:0:-1], self._right[:0:-1], strict=True):
            after.append(after[-1].times(Z, Y))
        before = begin
        for k in range(len(X)):
            X[k], s, error = self._mode(k, int(X[k].shape[0]), before.meet(after.pop()), penalty)
            if after:
                before = before.times(_flat(_pairs(self.A[k], X[k])), self._right[k])
        return X, s, error

    def _mode(self, k: int, r: int, others: "Gram | Triangle", penalty: float) -> tuple[Array, Array, float]:
        """The W of min ‖Σ_la R[:, (l, a)] ⊗ (B_a W_l) − b‖² + λ Σ ‖W_l‖², as unit factors and scales."""
        xp, (coefficients, basis) = _array.array_namespace(self.like), self.bases[k]
        (rho, m, n), (q, _, c) = basis.shape, self.F[k].shape
        R, b, outside = others.root(coefficients, r, xp.reshape(self.F[k], (q, m * c)))
        e = R.shape[0]
        K = xp.reshape(xp.reshape(R, (e * r, rho)) @ xp.reshape(basis, (rho, m * n)), (e, r, m, n))
        K = xp.reshape(xp.permute_dims(K, (0, 2, 1, 3)), (e * m, r * n))
        b = xp.reshape(b, (e * m, c))
        eye = xp.eye(r * n, dtype=K.dtype, device=_array.device(K))
        Q, T = xp.linalg.qr(xp.concat((K, eye * math.sqrt(penalty))))
        W = _array.solve_triangular(T, adjoint(Q[: e * m, :]) @ b)
        error = math.hypot(vector_norm(b - K @ W), outside)
        W = xp.reshape(W, (r, n, c))
        return unit(W), lengths(W), error


class Reduction:
    """X = F with a tensor train in the place of F, ‖F‖ = 1: a sweep costs what the ranks of the train cost, not the terms of F."""

    def __init__(self, F: Factors, error: float) -> None:
        self.like, self.sizes = F[0], [(1, int(f.shape[2])) for f in F]
        self._core = TrainCore(rounded(from_terms([_flat(f) for f in F]), error))

    def columns(self, terms: int) -> int:
        return 0

    def random(self, terms: int, rng: Any) -> Factors:
        return [unit(_array.normal(rng, (terms, n, c), self.like)) for n, c in self.sizes]

    def sweep(self, X: Factors, penalty: float, exact: bool) -> tuple[Factors, Array, float]:
        """As that of `Equations`, always by QR."""
        columns = self._core.sweep([_flat(x) for x in X], penalty)
        *_, last = found = [_array.array_namespace(U).matrix_transpose(U)[:, None, :] for U in columns]
        return [unit(x) for x in found], lengths(last), self._core.residual(columns)


# the other modes ------------------------------------------------------------------------------------------------------------


@dataclasses.dataclass(frozen=True)
class Gram:
    """Z_1 ⊙ … ⊙ Z_k and Y_1 ⊙ … ⊙ Y_k by their inner products: cheap, and right to 1e-8 or so."""

    T: Array  # Zᴴ Z
    C: Array  # Zᴴ Y

    @staticmethod
    def of(like: Array, p: int, q: int) -> "Gram":
        xp, place = _array.array_namespace(like), {"dtype": like.dtype, "device": _array.device(like)}
        return Gram(xp.ones((p, p), **place), xp.ones((p, q), **place))

    def times(self, Z: Array, Y: Array) -> "Gram":
        H = adjoint(Z)
        return Gram(self.T * (H @ Z), self.C * (H @ Y))

    def meet(self, other: "Gram") -> "Gram":
        return Gram(self.T * other.T, self.C * other.C)

    def root(self, mix: Array, r: int, F: Array) -> tuple[Array, Array, float]:
        """(R, b, outside): RᴴR is the Gram matrix of Z mixed over p, b is Y F in the same coordinates, the rest is outside."""
        xp = _array.array_namespace(mix)
        T, C = adjoint(_mixed(adjoint(_mixed(self.T, mix, r)), mix, r)), adjoint(_mixed(adjoint(self.C), mix, r))
        values, V = xp.linalg.eigh((T + adjoint(T)) / 2)
        least = max(16 * ROUND_OFF * _array.to_float(values[-1]), 1e-290)  # what is below is noise
        roots = _array.astype(xp.sqrt(xp.clip(values, least)), V.dtype)[:, None]
        b = adjoint(V) @ C / roots @ F
        return roots * adjoint(V), b, math.sqrt(max(0.0, 1 - vector_norm(b) ** 2))


@dataclasses.dataclass(frozen=True)
class Triangle:
    """The same by a matrix with the same inner products: right to the last digits."""

    R: Array  # of [Z_1 ⊙ … ⊙ Z_k, Y_1 ⊙ … ⊙ Y_k]
    p: int  # columns of Z

    @staticmethod
    def of(like: Array, p: int, q: int) -> "Triangle":
        return Triangle(_array.array_namespace(like).ones((1, p + q), dtype=like.dtype, device=_array.device(like)), p)

    def times(self, Z: Array, Y: Array) -> "Triangle":
        both = _array.array_namespace(Z).concat((Z, Y), axis=1)
        return Triangle(thin(khatri_rao(self.R, thin(both))), self.p)

    def meet(self, other: "Triangle") -> "Triangle":
        return Triangle(khatri_rao(self.R, other.R), self.p)

    def root(self, mix: Array, r: int, F: Array) -> tuple[Array, Array, float]:
        xp = _array.array_namespace(mix)
        Z = _mixed(self.R[:, : self.p], mix, r)
        both, width = xp.concat((Z, self.R[:, self.p :]), axis=1), Z.shape[1]
        rows = width if both.shape[0] > both.shape[1] else both.shape[0]
        R = thin(both)
        return R[:rows, :width], R[:rows, width:] @ F, vector_norm(R[rows:, width:] @ F)


def _mixed(X: Array, mix: Array, r: int) -> Array:
    """Columns (p, l) to columns (l, a) with the coefficients (p, a)."""
    xp, rows, (p, rho) = _array.array_namespace(X), X.shape[0], mix.shape
    X = xp.permute_dims(xp.reshape(X, (rows, p, r)), (0, 2, 1))
    return xp.reshape(xp.reshape(X, (rows * r, p)) @ mix, (rows, r * rho))


def _independent(A: Array) -> tuple[Array, Array]:
    """(coefficients (p, ρ), basis (ρ, m, n)): the matrices of one mode in a basis of their span."""
    xp, (p, m, n) = _array.array_namespace(A), A.shape
    U, s, Vt = xp.linalg.svd(xp.reshape(A, (p, m * n)), full_matrices=False)
    least = 8 * ROUND_OFF * _array.to_float(s[0])
    rho = max(1, sum(1 for v in _array.to_numpy(s).tolist() if v > least))
    return U[:, :rho] * _array.astype(s[:rho], U.dtype)[None, :], xp.reshape(Vt[:rho, :], (rho, m, n))


def _pairs(A: Array, X: Array) -> Array:
    """All products of the matrices of two stacks, (p r, m, c)."""
    xp, products = _array.array_namespace(A), A[:, None, :, :] @ X[None, :, :, :]
    return xp.reshape(products, (A.shape[0] * X.shape[0], A.shape[1], X.shape[2]))


def _flat(X: Array) -> Array:
    """A stack (terms, m, n) as columns (m n, terms)."""
    xp = _array.array_namespace(X)
    return xp.matrix_transpose(xp.reshape(X, (X.shape[0], X.shape[1] * X.shape[2])))


def lengths(X: Array) -> Array:
    """The norms of the matrices of a stack."""
    xp = _array.array_namespace(X)
    return xp.linalg.vector_norm(xp.reshape(X, (X.shape[0], X.shape[1] * X.shape[2])), axis=1)


def unit(X: Array) -> Array:
    """A stack with every matrix divided by its norm; a zero matrix stays."""
    xp, s = _array.array_namespace(X), lengths(X)
    return X / _array.astype(xp.where(s > 0, s, xp.ones_like(s)), X.dtype)[:, None, None]


# solutions ------------------------------------------------------------------------------------------------------------------


def solution(
    equations: Equations | Reduction,
    rank: int,
    goal: float,
    cap: float,
    rng: Any,
    start: Factors | None = None,
    quick: bool = False,
) -> Solution:
    """The best that is found with at most `rank` terms and κ <= cap; from few terms to many the first with an error <= goal.

    quick: no random starts beside the growing one, and no last sweeps for what they may still gain.
    """
    found: Solution | None = None
    terms, steps, slow = 1 if start is None else min(rank, start[0].shape[0]), 0, 0
    warm = equations.random(1, rng) if start is None else [x[:terms, ...] for x in start]
    while True:
        last = math.inf if found is None else found.error
        tries = [settle(equations, warm, WARM, FALL, cap, goal)]
        if terms > 1 and not quick and not (tries[0] and tries[0].error <= goal):
            tries.append(settle(equations, equations.random(terms, rng), HOT, COOLING, cap, goal))
        found = min([s for s in (found, *tries) if s is not None], key=lambda s: s.error, default=None)
        steps += sum(s.sweeps for s in tries if s is not None)
        if found is None:  # a start beyond the cap
            terms, warm = 1, equations.random(1, rng)
            continue
        slow = slow + 1 if found.error > 0.9 * last else 0
        if found.error <= max(goal, ATTAINABLE) or terms >= rank or (goal and slow >= PATIENCE):
            break
        more = min(rank, terms + max(1, terms // 4))
        terms, warm = more, joined(found.factors, equations.random(more - found.factors[0].shape[0], rng))
    if goal and found.error <= goal:
        found = _trimmed(equations, found, cap, goal)
    elif found.error > ATTAINABLE and not quick:
        polished = settle(equations, found.factors, WARM, FALL, cap, goal, POLISH, FINE)
        steps += polished.sweeps if polished else 0
        if polished is not None:
            found = min(found, polished, key=lambda s: s.error)
            found = dataclasses.replace(found, settled=polished.settled)
        last_sweeps = settle(equations, found.factors, WARM, FALL, cap, goal, LAST, exact=True)
        if last_sweeps is not None and last_sweeps.error <= found.error * (1 + 1e-6):
            found = dataclasses.replace(last_sweeps, settled=found.settled)
    return dataclasses.replace(found, sweeps=steps)


def _trimmed(equations: Equations | Reduction, found: Solution, cap: float, goal: float) -> Solution:
    """The same without terms that the goal does not need, the smallest ones first."""
    xp, terms = _array.array_namespace(found.scales), int(found.scales.shape[0])
    less = max(1, terms // 4)
    while terms > 1:
        kept = xp.argsort(found.scales, descending=True)[: terms - less]
        part = [xp.take(X, kept, axis=0) for X in found.factors]
        fewer = settle(equations, part, WARM, FALL, cap, goal, TRIM)
        if fewer is not None and fewer.error <= goal:
            found, terms = fewer, terms - less
        elif less == 1:
            break
        less = max(1, min(less // 2, terms - 1))
    return found


def settle(
    equations: Equations | Reduction,
    X: Factors,
    share: float,
    fall: float,
    cap: float,
    goal: float,
    sweeps: int = SWEEPS,
    gain: float = GAIN,
    exact: bool = False,
) -> Solution | None:
    """Sweeps with falling λ until they gain little more; the best with κ <= cap, None where there is none.

    λ = share · ‖A X‖² / ‖X‖² >= u². Where κ goes beyond the cap, λ is raised and falls more slowly from there. Under a
    goal the share stays above BALANCE goal², which costs little of the goal and keeps κ near 1 / √BALANCE or below.
    Once λ has no more say, sweeps begin ahead of the last factors (Nesterov's momentum, from zero where the error rises):
    dozens do what takes plain sweeps a thousand.
    """
    cap = cap * (1 - 1e-6)  # what follows rounds
    least = max(BALANCE * goal**2, ROUND_OFF**2)
    terms, goal = int(X[0].shape[0]), max(goal, ATTAINABLE)
    triangles = equations.columns(terms) <= COLUMNS
    found: Solution | None = None
    size, last, beyond, small, done, ahead = 1e-6, math.inf, 0, 0, 0, 0
    before, settled = X, False
    while done < sweeps and not settled:
        begin = ahead_of(X, before, ahead / (ahead + 3)) if ahead else X
        Y, s, error = equations.sweep(begin, max(share * size, ROUND_OFF**2), exact and triangles)
        done, total = done + 1, vector_norm(s)
        length = scaled_norm(Y, s) if done == 1 or cap < math.inf else 0.0
        if done == 1 and length:
            size = max(1 - error**2, 1e-6) / length**2
        if terms > 1 and cap < math.inf and not total <= cap * length:
            beyond, share, fall, last, ahead = beyond + 1, min(1.0, 30 * share), math.sqrt(fall), math.inf, 0
            X, settled = Y if found is None else found.factors, beyond >= RETURNS
            continue
        if ahead and error > last:
            ahead = 0
            continue
        free = share <= max(least, 1e-3 * error**2)
        small = small + 1 if free and error > last * (1 - gain) else 0
        settled = error <= goal or small >= STALLS
        before, X, ahead = X, Y, ahead + 1 if free else 0
        if found is None or error <= found.error:
            found = Solution(X, s, error, settled, done)
        exact = exact or error < SWITCH
        share, last = max(least, share * fall), error
    return None if found is None else dataclasses.replace(found, settled=settled, sweeps=done)


def ahead_of(X: Factors, before: Factors, step: float) -> Factors:
    """The way from one iterate to the next, gone on."""
    return [unit(x + step * (x - y)) for x, y in zip(X, before, strict=True)]


def scaled_norm(X: Factors, s: Array) -> float:
    """‖Σ_l s_l X_1^l ⊗ … ⊗ X_d^l‖ by the QR sweep."""
    first, *others = (_flat(x) for x in X)
    return terms_norm([first * _array.astype(s, first.dtype)[None, :], *others])


def joined(X: Factors, more: Factors) -> Factors:
    xp = _array.array_namespace(X[0])
    return [xp.concat((x, y), axis=0) for x, y in zip(X, more, strict=True)]
