"""Fewer terms: the separated representation with a given number of terms, or a given error, under a bound on κ."""

import math
import warnings
from typing import Any

from . import _array, _check
from ._array import Array
from .cp import fit_core
from .cp.cores import terms_norm
from .errors import ArgumentError, ConvergenceWarning, DTypeError, UnsupportedError
from .fit import Fit, check_tolerance, smallest_rank, svd, tail_norms
from .kernels.terms import khatri_rao
from .linalg import convert
from .matrix import StructuredMatrix
from .separated import Separated

__all__ = ["compress"]

CORE = 2**13  # entries up to which the core is a dense array
SHARE = 0.03  # of the error that a fit cannot avoid: what the mode compression may add to it


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
        columns, norm, exponent = scaled_columns(A)
        if not norm:
            return Fit(nothing(A), 0.0, 0, condition_number=1.0, optimal=True)
        if len(columns) <= 2:
            weights, found = _two(columns, rank, tol)
            return finished(A, columns, weights, found, exponent, optimal=True)
        bases, core, rest = mode_compression(columns, rank, tol)
        for shrink in (1.0, 0.999, 0.99, 0.9, 0.0):  # returned in float32, κ moves a little
            result = fit_core(core, rank, tol, max(1.0, cap * shrink), penalty, rng, rest)
            found = [Q @ U for Q, U in zip(bases, result.factors, strict=True)]
            fit = finished(A, columns, result.weights, found, exponent, False, result.converged, result.iterations)
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


def scaled_columns(A: Separated) -> tuple[list[Array], float, int]:
    """(U_1, …, U_d), their norm and k: A = 2^k Σ_l U_1[:, l] ∘ … ∘ U_d[:, l] in double precision, the norm near 1."""
    xp = A.xp
    double = xp.complex128 if A._is_complex else xp.float64
    unit = A.astype(double).normalized()
    unit = unit.map(_array.stop_gradient)
    k = _array.exponent(unit._weights)
    first, *others = unit._columns()
    columns = [first * _array.ldexp(unit._weights, -k), *others]
    if 0 in A.shape or not A.terms:
        return columns, 0.0, 0
    e = _array.exponent(xp.asarray(norm := terms_norm(columns)))
    return [_array.ldexp(columns[0], -e), *others], norm / 2.0**e, k + e


def nothing(A: Separated) -> Separated:
    """The zero matrix: no term."""
    return Separated._of(factors=tuple(F[:0, ...] for F in A.factors), scales=None)


def finished(
    A: Separated,
    columns: list[Array],
    weights: Array,
    found: list[Array],
    exponent: int,
    optimal: bool,
    converged: bool = True,
    iterations: int = 0,
) -> Fit:
    """The fit in the dtype of A with its true error, against the columns that A was scaled to."""
    xp = A.xp
    factors = [_array.astype(xp.matrix_transpose(U), A.dtype) for U in found]
    scales = _array.astype(weights, A.dtype)
    back = [xp.matrix_transpose(_array.astype(F, U.dtype)) for F, U in zip(factors, columns, strict=True)]
    back[0] = back[0] * -_array.astype(scales, back[0].dtype)
    error = terms_norm([xp.concat((U, V), axis=1) for U, V in zip(columns, back, strict=True)]) / terms_norm(columns)
    stacks = tuple(xp.reshape(F, (F.shape[0], *shape)) for F, shape in zip(factors, A.shapes, strict=True))
    matrix = Separated._of(factors=stacks, scales=_array.ldexp(scales, exponent))
    return Fit(matrix, error, matrix.num_parameters, matrix.condition_number, optimal, converged, iterations)


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


def mode_compression(
    columns: list[Array], rank: int | None, tol: float | None
) -> tuple[list[Array], Array | list[Array], float]:
    """(bases, core, rest): orthonormal bases of what matters in every mode, and A in them; dense where it is small.

    Which directions matter is read off the Gram matrices of the unfoldings, whose square roots are right to 1e-7 or so:
    enough to cut what adds 3 % of the unavoidable error, and nothing is cut where that is smaller. rest bounds what is.
    """
    xp, d = _array.array_namespace(columns[0]), len(columns)
    grams = [xp.matrix_transpose(_conj(U)) @ U for U in columns]
    bases, coordinates, spectra = [], [], []
    for k, U in enumerate(columns):
        Q, s, Vt = xp.linalg.svd(U, full_matrices=False)
        size = _array.to_float(s[0])
        r = max(1, sum(1 for v in _array.to_numpy(s).tolist() if v > size * 2.0**-53 * max(U.shape)))
        T = _array.astype(s[:r], U.dtype)[:, None] * Vt[:r, :]
        others = _product([G for j, G in enumerate(grams) if j != k])
        values, X = xp.linalg.eigh(T @ _conj(others) @ xp.matrix_transpose(_conj(T)))
        values, X = xp.flip(values), xp.flip(X, axis=1)
        spectra.append([max(v, 0.0) for v in _array.to_numpy(values).tolist()])
        bases.append(Q[:, :r] @ X)
        coordinates.append(xp.matrix_transpose(_conj(X)) @ T)
    total = _array.to_float(xp.real(xp.sum(_product(grams))))
    noise = 2.0**-50 * _array.to_float(xp.sum(xp.abs(_product(grams))))
    goal = (tol or 0.0) ** 2 * total if rank is None else max(sum(s[rank:]) for s in spectra)
    budget = goal * SHARE**2 * 2 / d
    rest, core = 0.0, []
    for k, s in enumerate(spectra):
        keep, cut = len(s), 0.0
        while keep > 1 and cut + s[keep - 1] + noise <= budget:
            keep, cut = keep - 1, cut + s[keep - 1] + noise
        rest += cut
        bases[k], coordinates[k] = bases[k][:, :keep], coordinates[k][:keep, :]
        core.append(coordinates[k])
    if math.prod(C.shape[0] for C in core) > CORE:
        return bases, core, math.sqrt(rest)
    *first, last = core
    left = first[0]
    for C in first[1:]:
        left = khatri_rao(left, C)
    return bases, xp.reshape(left @ xp.matrix_transpose(last), tuple(C.shape[0] for C in core)), math.sqrt(rest)


def _product(arrays: list[Array]) -> Array:
    total, *rest = arrays
    for X in rest:
        total = total * X
    return total


def _conj(x: Array) -> Array:
    return _array.array_namespace(x).conj(x) if _array.is_complex(x) else x
