"""Inverse, sign and exponential in separated form, with compression at each step and κ under control.

Every iterate is a sum of few Kronecker products, what a product makes of it is reduced again (`Reducer`), and nothing of
the size of the matrix is formed (Beylkin & Mohlenkamp 2005).
"""

import contextlib
import math
import sys
from collections.abc import Callable
from typing import Any

from . import _array, _check
from ._array import Array
from .algebra import relative_distance
from .als_solve import Reducer, capped, finite, relative_size, shaped, spectral_bound, stacks, warn
from .compress import check_condition
from .equations import lengths
from .errors import ArgumentError, ShapeError, SingularMatrixError, speaks
from .fit import Fit, check_tolerance, progress_bar
from .linalg import norm, trace
from .matrix import StructuredMatrix
from .separated import Separated

__all__ = ["expm", "schulz_inverse", "sign"]

SHARE = 0.1  # of a tolerance that one compression may use up
TERMS = 200  # products of no more terms are reduced as they are, larger ones in two steps
FINER = 4  # what the tolerance of the compressions is divided by where the result is not good enough
TRIES = 4  # how often
LOOSE = 0.1  # the largest relative error of a compression
CHECKS = 12  # steps of power iteration on I − A X_0
DIVERGED = 10.0  # a relative residual
MOST = 120  # terms times factors that an iterate of a sign may have, of three factors and more: a step beyond takes minutes

Terms = Any  # a Separated, as its sums, products and multiples are again, which their types do not say


@speaks
def schulz_inverse(
    A: StructuredMatrix, tol: float, max_condition: float | None = None, start: Any = None, seed: Any = 0
) -> Fit:
    """X ≈ A⁻¹ with ‖I − A X‖_F <= tol ‖I‖_F, by X ← X + X (I − A X) with compression at each step.

    A: Separated, or what converts to one, with square factors. max_condition: a bound on κ of X, >= 1. start: X_0 with
    ‖I − A X_0‖₂ < 1, or a number c for c I (2 / (λ_min + λ_max) for a positive definite A); by default Aᴴ / β², β² a
    bound on ‖A‖₂². The residual is squared at each step, so about 2 log₂ cond(A) + log₂ log 1/tol of them are needed
    from the default start; from 2 / (λ_min + λ_max) half as many. A X is formed first: this order bounds I − A X.

    A truncation of ε moves the residual by at most ε ‖A‖₂ ‖X‖_F / ‖I‖_F, and ε is chosen to make that 0.1 tol; so
    ε cond(A) < 0.1 holds where the directions of small singular values are to survive, and a matrix worse than that
    for its tolerance does not converge: ConvergenceWarning. Fit.relative_error is ‖I − A X‖_F / ‖I‖_F by the QR sweep.

    Raises ArgumentError for a start that does not converge, SingularMatrixError for A = 0, ShapeError, NonFiniteError,
    DTypeError. Source: Schulz (1933); Beylkin & Mohlenkamp (2005).

    >>> import numpy as np, sepmat as sm
    >>> A = sm.KroneckerSum(*[np.diag([2.0, 2.0, 2.0]) - np.eye(3, k=1) - np.eye(3, k=-1)] * 2)
    >>> fit = sm.schulz_inverse(A, tol=1e-8)
    >>> fit.matrix, fit.relative_error <= 1e-8
    (Separated((3×3 ⊗ 3×3) × 3 terms, shape=(9, 9), float64), True)
    """
    where = "schulz_inverse"
    M, dtype = square(A, where)
    tol = check_tolerance(tol, M.factors[0], where)
    reduce = Reducer(where, None, check_condition(max_condition, where), _check.as_generator(seed, where))
    if not M.shape[0]:
        return _empty(A, M)
    with _array.quiet():
        I, bound = identity(M), _nonzero(norm_bound(M), M, where)
        if start is None:
            X: Terms = M.H / bound / bound
        else:
            X = shaped(start, M.shapes, where, "start", M) if isinstance(start, StructuredMatrix) else None
            X = I * _check.as_positive(start, where, "start") if X is None else double(X)
            _check_contraction(I - M @ X, relative_distance(I, M @ X), where)

        def error_of(X: Terms) -> float:
            return relative_distance(I, M @ X)

        def eps(X: Terms) -> float:
            return SHARE * tol / max(1.0, bound * relative_size(X, I, where))

        X, error, steps, _ = _newton(reduce, X, lambda X: M @ X, 1.0, I, tol, eps)
        if start is not None and not error < DIVERGED:
            raise _does_not_converge(where, f"‖I − A X‖ grew to {error:.2g} times ‖I‖")
        if error < tol:  # the last step may have done more than was asked for
            fewer = reduce(X, min(LOOSE, eps(X) * 0.9 * (tol - error) / (SHARE * tol)))
            X = fewer if fewer.terms < X.terms and error_of(fewer) <= tol else X
        return _fit(X, dtype, error_of, tol, steps, where, reduce.cap)


@speaks
def sign(
    A: StructuredMatrix,
    tol: float,
    shift: float = 0.0,
    max_condition: float | None = None,
    seed: Any = 0,
    progress: bool = False,
) -> Fit:
    """S ≈ sign(A − shift I), by S ← S + S (I − S²) / 2 from (A − shift I) / β with compression at each step, β >= ‖A − shift I‖₂.

    For a Hermitian A (or one with real eigenvalues, near to normal): S has its eigenvectors, the eigenvalue 1 above the
    shift and −1 below, so (I − S) / 2 is the spectral projector of the eigenvalues below. With a gap g between the
    shift and the spectrum log(β/g) / log 1.5 steps and a few more are needed; an error ε in S_0 grows to ε β / g.

    Fit.relative_error is the larger of ‖I − S²‖_F / ‖I‖_F and ‖B S − S B‖_F / ‖B S‖_F, B = A − shift I: both vanish for the
    sign only (up to the signs of eigenvalues closer to the shift than the tolerance tells). Where they miss tol, all is
    done again with tighter compression.

    Where the eigenvalues of the terms tell that B is definite, S = ±I at once. Else the terms of the iterates decide how
    long it takes: they are most half-way and stop the iteration, with a ConvergenceWarning, beyond 120 / d for d >= 3
    factors; a shift in a wider gap and a larger tol need fewer. progress: a bar on stderr, a step at a time (needs tqdm).
    Warns with ConvergenceWarning, raises as `schulz_inverse` does, and BackendError without tqdm.

    >>> import numpy as np, sepmat as sm
    >>> A = sm.KroneckerSum(np.diag([1.0, 4.0]), np.diag([2.0, 6.0]))  # 3, 7, 6, 10
    >>> S = sm.sign(A, tol=1e-10, shift=6.5).matrix
    >>> np.round(np.diag(S.to_dense()), 8)
    array([-1.,  1., -1.,  1.])
    """
    where = "sign"
    M, dtype = square(A, where)
    tol = check_tolerance(tol, M.factors[0], where)
    cap, rng = check_condition(max_condition, where), _check.as_generator(seed, where)
    shift = _check.as_real(shift, where, "shift")
    bar = progress_bar(where, "step") if _check.as_flag(progress, where, "progress") else None
    if not M.shape[0]:
        return _empty(A, M)
    with _array.quiet(), contextlib.nullcontext() if bar is None else bar:
        I = identity(M)
        B = (M - I * shift).merged()
        B = B / _nonzero(norm_bound(B), M, where)
        most = MOST // len(B.factors) if len(B.factors) > 2 else sys.maxsize
        reduce, eps, total = Reducer(where, None, cap, rng, most), SHARE * tol, 0

        def error_of(S: Terms) -> float:
            return max(relative_distance(I, S @ S), relative_distance(B @ S, S @ B))

        lower, upper = _eigenvalue_bounds(B)
        if lower > 0 or upper < 0:
            return _fit(I if lower > 0 else -1.0 * I, dtype, error_of, tol, 0, where, reduce.cap)
        best, least = B, error_of(B)
        for _ in range(TRIES):
            S, _, steps, grown = _newton(reduce, B, lambda S: S @ S, 0.5, I, tol, lambda S: eps, bar)  # noqa: B023
            error, total = error_of(S), total + steps
            best, least = (S, error) if error < least else (best, least)
            if least <= tol or eps == attainable(0.0) or grown:
                break
            eps = attainable(eps / FINER)
        advice = f"it needs more than {most} terms: try a shift in a wider gap, or a larger tol" if grown else ""
        return _fit(best, dtype, error_of, tol, total, where, reduce.cap, advice=advice)


@speaks
def expm(A: StructuredMatrix, tol: float, max_condition: float | None = None, seed: Any = 0) -> Fit:
    """X ≈ exp(A), by scaling and squaring with compression at each step; exactly one Kronecker product for a Kronecker sum.

    A: Separated, or what converts to one, with square factors. Where every term acts on one factor only (I ⊗ … ⊗ F_i ⊗ … ⊗ I) it
    is a Kronecker sum, and exp(F_1 ⊕ … ⊕ F_d) = exp(F_1) ⊗ … ⊗ exp(F_d). Else exp(A) = e^c T(B)^(2^s), c = tr A / N,
    B = (A − c I) / 2^s with ‖B‖₂ <= 1 and T the Taylor polynomial of enough terms.

    Fit.relative_error: the distance ‖X − Y‖_F / ‖X‖_F to a second exponential Y, computed with tighter compression and one
    squaring more; where it misses tol, a third is computed, and so on. It is measured, and it is no bound: exp of a matrix far
    from normal, or with cancellation, may be worse conditioned than both know. For a Kronecker sum it compares exp(F_i)
    with exp(F_i/3)³. Warns with ConvergenceWarning, raises ShapeError, NonFiniteError, ArgumentError, DTypeError.

    >>> import numpy as np, sepmat as sm
    >>> sm.expm(sm.KroneckerSum(np.zeros((2, 2)), np.eye(3)), tol=1e-12).matrix
    Separated((2×2 ⊗ 3×3) × 1 terms, shape=(6, 6), float64)
    """
    where = "expm"
    M, dtype = square(A, where)
    tol = check_tolerance(tol, M.factors[0], where)
    reduce = Reducer(where, None, check_condition(max_condition, where), _check.as_generator(seed, where))
    if not M.shape[0]:
        return _empty(A, M)
    with _array.quiet():
        local = _local_terms(M)
        if local is not None:
            X, exponent, error = _product_of_exponentials(local)
            return _fit(X, dtype, lambda Y: error, tol, 0, where, reduce.cap, exponent)
        I, mean = identity(M), trace(M) / float(M.shape[0])
        B = (M - I * mean).merged()
        bound = norm_bound(B)
        squarings, eps = max(0, math.ceil(math.log2(bound))) if bound else 0, tol / 2
        X, k, steps = _squared_taylor(reduce, B, I, squarings, eps)
        for _ in range(TRIES):
            squarings, eps = squarings + 1, attainable(eps / FINER)
            Y, l, more = _squared_taylor(reduce, B, I, squarings, eps)
            X, error, k, steps = Y, relative_distance(Y, X * 2.0 ** (k - l)), l, steps + more
            if error <= tol or eps == attainable(0.0):
                break
        return _fit(X, dtype, lambda Y: error, tol, steps, where, reduce.cap, mean + k * math.log(2))


# steps ----------------------------------------------------------------------------------------------------------------------


def _newton(
    reduce: Reducer,
    X: Terms,
    product: Callable[[Terms], Terms],
    factor: float,
    I: Terms,
    tol: float,
    eps: Callable[[Terms], float],
    bar: Any = None,
) -> tuple[Terms, float, int, bool]:
    """X ← X + factor X (I − product(X)) until I − product(X) is tol: (the best X, that relative error, steps, grown).

    grown: more terms were needed than reduce.most. bar: shows every step.
    """
    Y, steps, limit = product(X), 0, 2 * math.ceil(math.log2(1 / attainable(tol))) + 16
    error = relative_distance(I, Y)
    best, least, grown = X, error, False
    while tol < error < DIVERGED and steps < limit:
        E = I - Y
        if E.terms * X.terms > TERMS:
            E = reduce(E, min(LOOSE, SHARE * tol / error))
        grown = E.terms > max(reduce.most, Y.terms + 1)
        if not grown:
            X, steps = reduce(X + factor * (X @ E), min(LOOSE, attainable(eps(X))), X), steps + 1
            grown = X.terms > reduce.most
        if bar is not None:
            bar.set_postfix(terms=X.terms, error=f"{error:.1e}", refresh=False)
            bar.update()
        if grown:
            break
        Y = product(X)
        error = relative_distance(I, Y)
        best, least = (X, error) if error < least else (best, least)
    return best, error if not error < DIVERGED else least, steps, grown


def _squared_taylor(reduce: Reducer, B: Terms, I: Terms, squarings: int, eps: float) -> tuple[Terms, int, int]:
    """(X, k, compressions): exp(B) = 2^k X = T(B / 2^s)^(2^s). A squaring doubles a relative error, so eps / 2^s at first."""
    B, eps, k = B / 2.0**squarings, eps / 2.0**squarings, 0
    degree = next(m for m in range(1, 40) if 1 / math.factorial(m + 1) <= max(eps, 1e-17))
    X = I
    for j in range(degree, 0, -1):
        X = reduce(I + (B @ X) / j, attainable(eps), X)
    for j in range(1, squarings + 1):
        X = reduce(X @ X, attainable(eps * 2.0**j), X)
        e = X._sweep(reduce.where)[2]  # of the norm: squares of squares leave the range
        X, k = X / 2.0**e, 2 * k + e
    return X, k, degree + squarings


# exponentials of Kronecker sums -----------------------------------------------------------------------------------------------


def _local_terms(A: Separated) -> list[Array] | None:
    """(F_1, …, F_d) with A = F_1 ⊕ … ⊕ F_d, where every term of A is a multiple of I in all factors but one."""
    xp, d = A.xp, len(A.factors)
    means, local = [], []
    for F in A.factors:
        n = F.shape[1]
        mean = xp.sum(xp.linalg.diagonal(F), axis=-1) / n
        off = lengths(F - mean[:, None, None] * xp.eye(n, dtype=F.dtype, device=A.device)[None, :, :])
        means.append(mean)
        local.append(_array.to_numpy(off > 4 * 2.0**-53 * lengths(F)).tolist())
    acts = [[i for i in range(d) if local[i][l]] for l in range(A.terms)]
    if any(len(modes) > 1 for modes in acts):
        return None
    sums = []
    for i, F in enumerate(A.factors):
        weights = _array.scaled_product([A._weights, *(m for j, m in enumerate(means) if j != i)])
        mine = xp.asarray([1.0 if modes[:1] == [i] or (not modes and i == 0) else 0.0 for modes in acts])
        mine = _array.astype(_array.to_device(mine, A.device), A.dtype)
        sums.append(xp.sum((weights * mine)[:, None, None] * F, axis=0))
    return sums


def _product_of_exponentials(F: list[Array]) -> tuple[Separated, Array, float]:
    """(X, c, error): exp(F_1) ⊗ … ⊗ exp(F_d) = e^c X, and how far its factors are from the cubes of exp(F_i / 3)."""
    xp, total, error, factors = _array.array_namespace(F[0]), 0.0, 0.0, []
    for B in F:
        top = xp.max(xp.real(_array.eigvals(B)))  # without it the largest eigenvalue of a factor is of modulus 1
        B = B - _array.astype(top, B.dtype) * xp.eye(B.shape[0], dtype=B.dtype, device=_array.device(B))
        X, third = _array.expm(B), _array.expm(B / 3)  # scaled by other powers of two
        error += _array.to_float(_array.frobenius(X - third @ third @ third) / _array.frobenius(X))
        factors.append(X[None, :, :])
        total = total + top
    return Separated._of(factors=tuple(factors), scales=None), total, error


# arguments and results --------------------------------------------------------------------------------------------------------


def square(A: Any, where: str) -> tuple[Terms, Any]:
    """A in separated form and double precision, all factors square, and its dtype."""
    A = finite(A, where, "A")
    _check.check_square(A.shape, where)
    for i, (m, n) in enumerate(A.shapes):
        if m != n:
            raise ShapeError(
                where, f"A.factors[{i}]", f"{m}×{n}", "a square factor", "Use als_solve for rectangular ones"
            )
    return double(A).normalized(), A.dtype  # factors of norm 1: those of long products stay in range


def double(A: Separated) -> Terms:
    return A.astype(A.xp.complex128 if A._is_complex else A.xp.float64)


def in_dtype(X: Separated, dtype: Any) -> Separated:
    """X in the precision of a dtype; complex stays complex."""
    return X._in_precision(dtype) if X._is_complex else X.astype(_array.real_dtype(X.xp, dtype))


def _eigenvalue_bounds(A: Separated) -> tuple[float, float]:
    """Numbers below and above all eigenvalues of a sum of Hermitian terms of norm 1 or so, from those of the factors; else (−inf, inf)."""
    xp, n = A.xp, max(n for n, _ in A.shapes)
    lower, upper = xp.real(A._weights), xp.real(A._weights)
    if A._is_complex and bool(xp.any(xp.imag(A._weights) != 0)):
        return -math.inf, math.inf
    for F in A.factors:
        H = (F + _array.adjoint(F)) / 2
        if bool(xp.any(lengths(F - H) > 4 * n * 2.0**-53 * lengths(F))):
            return -math.inf, math.inf
        values = xp.linalg.eigvalsh(H)
        ends = xp.stack([end * values[:, i] for end in (lower, upper) for i in (0, -1)])
        lower, upper = xp.min(ends, axis=0), xp.max(ends, axis=0)
    margin = 8 * n * len(A.factors) * 2.0**-53 * _array.to_float(xp.sum(xp.abs(A._weights)))
    return _array.to_float(xp.sum(lower)) - margin, _array.to_float(xp.sum(upper)) + margin


def identity(A: Separated) -> Terms:
    xp = A.xp
    units = tuple(xp.eye(n, dtype=A.dtype, device=A.device)[None, :, :] for n, _ in A.shapes)
    return Separated._of(factors=units, scales=None)


def norm_bound(A: Separated) -> float:
    """Σ_l |s_l| Π_i ‖V_i^l‖₂ >= ‖A‖₂."""
    if not A.terms or 0 in A.shape:
        return 0.0
    factors, k = stacks(A, A.dtype)
    return math.ldexp(spectral_bound(factors), k)


def _nonzero(bound: float, A: Separated, where: str) -> float:
    if not bound:
        raise SingularMatrixError(where, "A", f"{A._name()} is zero", "a nonsingular matrix", "Add s * Identity(n)")
    return bound


def attainable(eps: float) -> float:
    """No compression is tighter than round-off."""
    return max(eps, 2.0**-48)


def _fit(
    X: Separated,
    dtype: Any,
    error_of: Callable[[Separated], float],
    tol: float,
    steps: int,
    where: str,
    cap: float,
    exponent: Any = None,
    advice: str = "",
) -> Fit:
    """e^exponent X in the precision of a dtype, κ <= cap, with its error."""
    X = capped(in_dtype(X, dtype), cap)
    error, kappa = error_of(double(X)), X.condition_number
    if not error <= tol:
        warn(where, f"{steps} steps with {X.terms} terms", error, advice)
    if exponent is not None:
        scales = X._weights * _array.astype(X.xp.exp(exponent), X.dtype)
        X = Separated._of(factors=X.factors, scales=scales)
    return Fit(X, error, X.num_parameters, kappa, converged=error <= tol, iterations=steps)


def _empty(A: StructuredMatrix, M: Separated) -> Fit:
    """Any function of a 0×0 matrix."""
    return Fit(M.astype(A.dtype), 0.0, M.num_parameters, condition_number=1.0, optimal=True)


def _check_contraction(E: Separated, error: float, where: str) -> None:
    """‖E‖₂ < 1, as far as the mean singular value and some steps of power iteration tell."""
    reduce = Reducer(where, None, math.inf, _check.as_generator(0, where))
    x: Terms = random_vector(E, 1, reduce.rng)
    for _ in range(CHECKS):
        size = norm(x)
        if not _array.to_float(size):
            break
        x = E @ (x / size)
        error = max(error, _array.to_float(norm(x)))
        if not error < 1:
            break
        x = reduce(x, LOOSE)
    if not error < 1:
        raise _does_not_converge(where, f"‖I − A X_0‖ = {error:.2g}")


def _does_not_converge(where: str, got: str) -> ArgumentError:
    expected, advice = "‖I − A X_0‖ < 1, or the iteration does not converge", "Leave it out: the default start works"
    return ArgumentError(where, "start", got, expected, advice)


def random_vector(A: Separated, terms: int, rng: Any) -> Separated:
    """Factors (terms, n_i, 1) of normal numbers for a matrix with n_i columns."""
    factors = [_array.normal(rng, (terms, n, 1), F) for F, (_, n) in zip(A.factors, A.shapes, strict=True)]
    return Separated._of(factors=tuple(factors), scales=None)
