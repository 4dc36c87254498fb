"""Fewer terms: the separated representation with a given number of terms, or a given error, under a bound on κ."""

import math
import warnings
from typing import Any

from . import _array, _check
from ._array import Array
from .cp import DenseCore, TrainCore, fit_core
from .cp.cores import Core
from .cp.train import Train, dense, difference, from_terms, mode_vectors, norm, rounded
from .errors import ArgumentError, ConvergenceWarning, DTypeError, UnsupportedError
from .fit import Fit, check_tolerance, smallest_rank, svd, tail_norms
from .linalg import convert
from .matrix import StructuredMatrix
from .separated import Separated

__all__ = ["compress"]

CORE = 2**13  # entries up to which the core is a dense array
SHARE = 0.03  # of the error that a fit cannot avoid: what the mode compression may add to it
ROUND_OFF = 2.0**-48  # relative to A: what a mode may lose though every digit is wanted


def compress(
    A: StructuredMatrix,
    rank: int | None = None,
    tol: float | None = None,
    max_condition: float | None = None,
    penalty: float | None = None,
    seed: Any = 0,
) -> Fit:
    """A separated representation of A with fewer terms, Â = Σ_{l<=rank} s_l V_1^l ⊗ … ⊗ V_d^l, and κ under control.

    A: Separated, or what converts to one (Kronecker, KroneckerSum). rank: the number of terms; or tol: the smallest
    number found with ‖A − Â‖_F <= tol ‖A‖_F. max_condition: κ = (Σ s_l²)^½ / ‖Â‖ is at most this in what is returned,
    always; >= 1, since a single term has κ = 1. penalty: λ itself.

    One factor or two: exact and direct (QR of the stacked factors, SVD of what is left), κ = 1, optimal. Three and
    more: the minimum of ‖A − Â‖² + λ ‖A‖² Σ (s_l/‖A‖)² over several starts (generalised eigenvectors; random ones with λ
    falling from 1e-2), by alternating least squares with QR and Levenberg–Marquardt on a core without the
    redundant part of each factor; λ is u² unless max_condition asks for more. A best approximation with r terms need
    not exist for d >= 3: then κ grows as far as λ lets it, err · κ² is constant, and max_condition is what to set.

    Nothing of the size of A is formed. Cost O(d R² M) for R terms of M entries, and that of the fit of a core, which
    does not depend on M. Data in float32 is fitted in float64. Every call with the same seed repeats.
    Fit.relative_error is measured by the QR sweep, right to its last digits.

    Raises ArgumentError (max_condition < 1, rank, tol), NonFiniteError, DTypeError, UnsupportedError; warns with
    ConvergenceWarning and PrecisionWarning. Source: Beylkin and Mohlenkamp (2005), sections 2 and 4.

    >>> import numpy as np, sepmat as sm
    >>> L = sm.convert(sm.KroneckerSum(*[np.diag([1.0, 2.0, 4.0])] * 6), sm.Separated)
    >>> fit = sm.compress(L, rank=2, max_condition=10)
    >>> L.terms, fit.matrix.terms, fit.condition_number <= 10, fit.relative_error < 1e-3
    (6, 2, True, True)
    """
    where = "compress"
    A = as_separated(A, where)
    _check.one_of(where, rank=rank, tol=tol)
    rng = _check.as_generator(seed, where)
    cap = check_condition(max_condition, where)
    if penalty is not None:
        _check.one_of(where, max_condition=max_condition, penalty=penalty)
        penalty = _check.as_tolerance(penalty, where, "penalty")
    for F in A.arrays():
        _check.check_finite(F, where, "A")
    most = max(1, math.prod(sizes := [m * n for m, n in A.shapes]) // max(1, *sizes))
    if rank is not None:
        rank = _check.as_integer(rank, where, "rank", maximum=most)
    else:
        tol = check_tolerance(tol, A.factors[0], where)
    with _array.quiet():
        columns, exponent = scaled_columns(A)
        exact = from_terms(columns) if A.terms and 0 not in A.shape else []
        size = norm(exact) if exact else 0.0
        if not size:
            return Fit(nothing(A), 0.0, 0, condition_number=1.0, optimal=True)

        def fit_of(weights: Array, found: list[Array], optimal: bool, converged: bool, iterations: int) -> Fit:
            matrix, stored = assembled(A, weights, found, exponent)
            error = difference(exact, stored) / size
            kappa = matrix.condition_number
            return Fit(matrix, error, matrix.num_parameters, kappa, optimal, converged, iterations)

        if len(columns) <= 2:
            return fit_of(*_two(columns, rank, tol), True, True, 0)
        bases, core, rest, least = small_core(exact, rank, tol)
        for shrink in (1.0, 0.999, 0.99, 0.9, 0.0):  # returned in float32, κ moves a little
            result = fit_core(core, rank, tol, max(1.0, cap * shrink), penalty, rng, rest, least=least)
            found = [Q @ U for Q, U in zip(bases, result.factors, strict=True)]
            fit = fit_of(result.weights, found, False, result.converged, result.iterations)
            if fit.condition_number is not None and fit.condition_number <= cap:
                break
    if not fit.converged:
        warnings.warn(
            f"compress: the fit has not settled after {fit.iterations} steps (relative error {fit.relative_error:.1e}, "
            f"condition number {fit.condition_number:.1e}); set max_condition, or allow more terms",
            ConvergenceWarning,
            stacklevel=2,
        )
    return fit


# arguments ----------------------------------------------------------------------------------------------------------------


def as_separated(A: Any, where: str, name: str = "A") -> Separated:
    """A in separated form where that is exact."""
    if not isinstance(A, StructuredMatrix):
        advice = "Use nearest_separated(M, shapes, ...) for a dense matrix"
        raise DTypeError(where, name, f"a {type(A).__name__}", "a Separated matrix", advice)
    try:
        A = convert(A, Separated)
    except UnsupportedError:
        expected = "a Separated, Kronecker or KroneckerSum"
        raise DTypeError(where, name, A._name(), expected, "Use nearest_separated(A.to_dense(), shapes, ...)") from None
    _check.check_full_precision(A.factors[0], where, name)
    return A


def check_condition(max_condition: Any, where: str) -> float:
    """A bound on κ; infinity without one."""
    if max_condition is None:
        return math.inf
    value = _check.as_positive(max_condition, where, "max_condition")
    if value < 1:
        expected = "a number >= 1"
        raise ArgumentError(where, "max_condition", repr(value), expected, "A single term has κ = 1")
    return value


# the two ends -------------------------------------------------------------------------------------------------------------


def scaled_columns(A: Separated) -> tuple[list[Array], int]:
    """(U_1, …, U_d) and k with A = 2^k Σ_l U_1[:, l] ∘ … ∘ U_d[:, l], in double precision, no column large."""
    unit = A.astype(A.xp.complex128 if A._is_complex else A.xp.float64).normalized().map(_array.stop_gradient)
    k = _array.exponent(unit._weights)
    first, *others = unit._columns()
    return [first * _array.ldexp(unit._weights, -k), *others], k


def nothing(A: Separated) -> Separated:
    """The zero matrix: no term."""
    return Separated._of(factors=tuple(F[:0, ...] for F in A.factors), scales=None)


def assembled(A: Separated, weights: Array, columns: list[Array], exponent: int) -> tuple[Separated, list[Array]]:
    """2^exponent Σ_l weights_l ⊗ … in the dtype of A, and the columns that it rounds to, in double precision."""
    xp = A.xp
    factors = [_array.astype(xp.matrix_transpose(U), A.dtype) for U in columns]
    scales = _array.astype(weights, A.dtype)
    stored = [xp.matrix_transpose(_array.astype(F, U.dtype)) for F, U in zip(factors, columns, strict=True)]
    stored[0] = stored[0] * _array.astype(scales, stored[0].dtype)
    stacks = tuple(xp.reshape(F, (F.shape[0], *shape)) for F, shape in zip(factors, A.shapes, strict=True))
    return Separated._of(factors=stacks, scales=_array.ldexp(scales, exponent)), stored


# one and two factors --------------------------------------------------------------------------------------------------------


def _two(columns: list[Array], rank: int | None, tol: float | None) -> tuple[Array, list[Array]]:
    """Of U diag(1) Vᵀ the leading singular triplets, from the triangular factors of U and V."""
    xp = _array.array_namespace(columns[0])
    if len(columns) == 1:
        total = xp.sum(columns[0], axis=1)[:, None]
        size = _array.frobenius(total, axis=0)
        return size, [total / _array.astype(size, total.dtype)]
    (Q, R), (P, T) = (xp.linalg.qr(U) for U in columns)
    left, s, right = svd(R @ xp.matrix_transpose(T))
    tails = tail_norms(s)
    r = smallest_rank([t / tails[0] for t in tails], tol or 0.0) if rank is None else min(rank, s.shape[0])
    r = min(r, sum(1 for v in _array.to_numpy(s).tolist() if v > 0))
    return s[:r], [Q @ left[:, :r], P @ right[:, :r]]


# three and more -------------------------------------------------------------------------------------------------------------


def small_core(exact: Train, rank: int | None, tol: float | None) -> tuple[list[Array], Core, float, int]:
    """(bases, core, rest, least): orthonormal bases of what matters in every mode, and A in them.

    What is cut, rest, is at most 3 % of the error that no fit avoids: tol, or the tail of the unfoldings beyond rank.
    least is the number of terms that no fit within tol can do without.
    """
    first = rounded(exact, 0.0)
    _, spectra, _ = mode_vectors(first, None)
    total = spectra[0][0]
    goal = (tol or 0.0) * total if rank is None else max(tails[min(rank, len(tails) - 1)] for tails in spectra)
    least = max(next((r for r, tail in enumerate(tails) if tail <= goal), 1) for tails in spectra)
    budget = SHARE * goal / math.sqrt(2 * len(exact))
    short = rounded(exact, SHARE * goal / math.sqrt(2)) if goal > 0 else first
    bases, _, train = mode_vectors(short, max(budget, ROUND_OFF * total))
    rest = math.sqrt(max(0.0, total**2 - norm(train) ** 2)) if goal > 0 else 0.0
    sizes = [Q.shape[1] for Q in bases]
    core: Core = DenseCore(dense(train)) if math.prod(sizes) <= CORE else TrainCore(train)
    return bases, core, min(rest, SHARE * goal), max(1, least)
