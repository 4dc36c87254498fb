"""Fewer terms: the separated representation with a given number of terms, or a given error, under a bound on κ."""

import dataclasses
import math
from typing import Any

from . import _array, _check
from ._array import Array
from .algebra import as_separated
from .cp import DenseCore, TrainCore, fit_core
from .cp.cores import Core, scales, terms_norm, unit, vector_norm
from .cp.train import Train, dense, difference, from_terms, mode_vectors, norm, rounded
from .errors import ArgumentError, ConvergenceWarning, DTypeError, PrecisionWarning, warn
from .fit import Fit, condition_of, constant, smallest_rank, svd, tail_norms
from .kernels.terms import scaled
from .matrix import StructuredMatrix
from .separated import Separated

__all__ = ["compress"]

CORE = 2**13  # entries up to which the core is a dense array
SHARE = 0.03  # of the error that a fit cannot avoid: what the mode compression may add to it
FINE = 1e-12  # relative errors below which the round-off of the train is seen
ROUND_OFF = 2.0**-48  # relative to A: what a mode may lose though every digit is wanted
AIM = 0.999  # of a tolerance: what is left is for the rounding of the factors


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
    A = as_separated(A, where, "A", DTypeError)
    _check.check_full_precision(A.factors[0], where, "A")
    _check.one_of(where, rank=rank, tol=tol)
    cap, rng = check_condition(max_condition, where), _check.as_generator(seed, where)
    if penalty is not None:
        _check.one_of(where, max_condition=max_condition, penalty=penalty)
        penalty = _check.as_tolerance(penalty, where, "penalty")
    for F in A.arrays():
        _check.check_finite(constant(F, where, "A"), where, "A")
    most = max(1, math.prod(sizes := [m * n for m, n in A.shapes]) // max(1, *sizes))
    if rank is not None:
        rank = _check.as_integer(rank, where, "rank", maximum=most)
    else:
        tol = _check.as_tolerance(tol, where)
    fit, attainable = fewer_terms(A, rank, tol, cap, penalty, rng)
    if tol is not None and tol < attainable:
        warn(
            PrecisionWarning,
            f"compress: tol: {tol:.1e} < {attainable:.1e} = u κ, the unit roundoff of {_array.dtype_name(A.dtype)} times the "
            f"condition number of the terms of A; the relative error is {fit.relative_error:.1e}",
        )
    elif not fit.converged:
        if tol is None:
            missed, change = f"has not settled after {fit.iterations} steps", "more terms"
            other = "a larger penalty" if penalty else "a smaller max_condition" if max_condition else "max_condition"
        else:
            missed, change = f"has not come down to tol = {tol:.1e}", "a larger tol"
            other = "a smaller penalty" if penalty else "a larger max_condition" if max_condition else "a rank"
        warn(
            ConvergenceWarning,
            f"compress: the fit {missed} (relative error {fit.relative_error:.1e}, condition number "
            f"{fit.condition_number:.1e}); use {change}, or {other}",
        )
    return fit


def fewer_terms(
    A: Separated, rank: int | None, tol: float | None, cap: float, penalty: float | None, rng: Any
) -> tuple[Fit, float]:
    """(fit, u κ of A): `compress` of checked arguments without its warnings, for iterations, which look at Fit.converged."""
    with _array.quiet():
        columns, top, exponent = scaled_columns(A)
        exact = from_terms(columns) if A.terms and 0 not in A.shape else []
        size = norm(exact) if exact else 0.0
        if size <= ROUND_OFF * math.sqrt(len(columns)) * top:  # the terms cancel: seen, up to 13 u √d
            return Fit(nothing(A), 0.0, 0, condition_number=1.0, optimal=True), 0.0
        u = _array.unit_roundoff(A.xp, A.dtype)
        attainable = u * top / size

        def fit_of(weights: Array, found: list[Array], optimal: bool, converged: bool, iterations: int) -> Fit:
            matrix, stored = assembled(A, weights, found, exponent)
            error, kappa = difference(exact, stored) / size, condition_of(matrix)
            if error < FINE:  # the train itself is exact to some u only: against the terms as they came
                negative = [-stored[0], *stored[1:]]
                both = [A.xp.concat((U, V), axis=1) for U, V in zip(columns, negative, strict=True)]
                error = terms_norm(both) / size
            return Fit(matrix, error, matrix.num_parameters, kappa, optimal, converged, iterations)

        def within(fit: Fit) -> bool:
            return (fit.condition_number or 0.0) <= cap

        goal = None if tol is None else max(tol, attainable)
        if sum(U.shape[0] > 1 for U in columns) <= 2:  # the others have one entry
            return fit_of(*_two(columns, rank, goal), True, True, 0), attainable
        goal = None if goal is None else max(AIM * goal, ROUND_OFF)
        bases, core, rest, least = small_core(exact, rank, goal)
        usable = penalty is None and A.terms <= (rank or A.terms) and top <= cap * size  # the terms of A themselves
        most = A.terms if usable else None
        for shrink in (1.0, 0.999, 0.99, 0.9, 0.0):  # returned in float32, κ moves a little
            bound = max(1.0, cap * shrink)
            result = fit_core(core, rank, goal, bound, penalty, rng, rest, least=least, most=most)
            found = [Q @ U for Q, U in zip(bases, result.factors, strict=True)]
            fit = fit_of(result.weights, found, False, result.converged, result.iterations)
            if within(fit):
                break
        if usable and fit.relative_error > (tol or ROUND_OFF) and (rank or result.weights.shape[0]) >= A.terms:
            own = fit_of(*normalized(columns), False, True, 0)
            fit = own if own.relative_error < fit.relative_error and within(own) else fit
    if tol is not None:
        reached = fit.relative_error <= (tol if tol >= attainable else max(4 * attainable, ROUND_OFF))
        fit = dataclasses.replace(fit, converged=reached)
    return fit, attainable


# arguments ----------------------------------------------------------------------------------------------------------------


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
    """(U_1, …, U_d), (Σ s_l²)^½ and k with A = 2^k Σ_l U_1[:, l] ∘ … ∘ U_d[:, l], in double precision, no column large."""
    part = scaled([_array.stop_gradient(F) for F in A.factors], _array.stop_gradient(A._weights))
    first, *others = part.columns
    columns = [first * part.scales[None, :], *others]
    return columns, vector_norm(scales(columns)), part.exponent


def normalized(columns: list[Array]) -> tuple[Array, list[Array]]:
    """(weights, unit columns) of the terms that are not zero."""
    xp, weights = _array.array_namespace(columns[0]), scales(columns)
    ranked = xp.argsort(weights, descending=True)[: int(xp.sum(xp.astype(weights > 0, xp.int64)))]
    return xp.take(weights, ranked), [xp.take(unit(U), ranked, axis=1) for U in columns]


def nothing(A: Separated) -> Separated:
    """The zero matrix: no term."""
    return Separated._of(factors=tuple(_array.stop_gradient(F)[:0, ...] for F in A.factors), scales=None)


def assembled(A: Separated, weights: Array, columns: list[Array], exponent: int) -> tuple[Separated, list[Array]]:
    """2^exponent Σ_l weights_l ⊗ … in the dtype of A, and the columns that it rounds to, in double precision."""
    xp = A.xp
    factors = [_array.astype(xp.matrix_transpose(U), A.dtype) for U in columns]
    scales = _array.astype(weights, A.dtype)
    stored = [xp.matrix_transpose(_array.astype(F, U.dtype)) for F, U in zip(factors, columns, strict=True)]
    stored[0] = stored[0] * _array.astype(scales, stored[0].dtype)
    share = 0 if abs(exponent) <= 100 else math.trunc(exponent / len(factors))  # in the factors: scales have a range
    stacks = tuple(
        _array.ldexp(xp.reshape(F, (F.shape[0], *shape)), share) for F, shape in zip(factors, A.shapes, strict=True)
    )
    return Separated._of(factors=stacks, scales=_array.ldexp(scales, exponent - share * len(factors))), stored


# one and two factors --------------------------------------------------------------------------------------------------------


def _two(columns: list[Array], rank: int | None, tol: float | None) -> tuple[Array, list[Array]]:
    """Of U diag(1) Vᵀ the leading singular triplets, from the triangular factors of U and V. Further modes have one entry."""
    xp, count = _array.array_namespace(columns[0]), len(columns)
    modes = [*columns, xp.ones_like(columns[0][:1, :])]
    a, b, *others = sorted(range(max(2, count)), key=lambda k: -modes[k].shape[0])
    for k in others:
        modes[a] = modes[a] * modes[k]
    (Q, R), (P, T) = xp.linalg.qr(modes[a]), xp.linalg.qr(modes[b])
    left, s, right = svd(R @ xp.matrix_transpose(T))
    tails = tail_norms(s)
    r = smallest_rank([t / tails[0] for t in tails], tol or 0.0) if rank is None else min(rank, s.shape[0])
    r = min(r, sum(1 for v in _array.to_numpy(s).tolist() if v > 0))
    found = [xp.ones((1, r), dtype=left.dtype, device=_array.device(left)) for _ in modes]
    found[a], found[b] = Q @ left[:, :r], P @ right[:, :r]
    if count == 1:
        found[0] = found[0] * found[1]  # a phase
    return s[:r], found[:count]


# three and more -------------------------------------------------------------------------------------------------------------


def small_core(exact: Train, rank: int | None, tol: float | None) -> tuple[list[Array], Core, float, int]:
    """(bases, core, rest, least): orthonormal bases of what matters in every mode, and A in them.

    What is cut, rest, is at most 3 % of the error that no fit avoids: tol, or the tail of the unfoldings beyond rank.
    least is the number of terms that no fit within tol can do without.
    """
    total = norm(exact)
    goal = 0.0 if tol is None else tol * total
    short = rounded(exact, SHARE * goal / math.sqrt(2))
    _, spectra, _ = mode_vectors(short, None)
    if rank is not None:
        goal = max(tails[min(rank, len(tails) - 1)] for tails in spectra)
        short = rounded(exact, SHARE * goal / math.sqrt(2)) if goal > 0 else short
    least = max(next((r for r, tail in enumerate(tails) if tail <= goal), 1) for tails in spectra)
    budget = SHARE * goal / math.sqrt(2 * len(exact))
    bases, _, train = mode_vectors(short, max(budget, ROUND_OFF * total))
    rest = math.sqrt(max(0.0, total**2 - norm(train) ** 2)) if goal > 0 else 0.0
    sizes = [Q.shape[1] for Q in bases]
    small = math.prod(sizes) <= CORE or sum(n > 1 for n in sizes) <= 2
    core: Core = DenseCore(dense(train)) if small else TrainCore(train)
    return bases, core, min(rest, SHARE * goal), max(1, least)
