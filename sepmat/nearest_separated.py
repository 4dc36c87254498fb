"""The nearest separated representation of a given matrix, whatever holds it, and the search for its factor shapes."""

import dataclasses
import math
from collections.abc import Iterator, Sequence
from typing import Any

from . import _array, _check
from ._array import Array, adjoint
from .compress import check_condition, compress
from .cp import DenseCore, fit_core
from .cp.cores import scales, terms_norm, unit
from .cp.optimise import alternate
from .errors import ConvergenceWarning, ShapeError, warn
from .fit import Fit, check_attainable, check_tolerance, condition_of, constant
from .kronecker import as_shapes
from .modes import Compressed, Unfolded, compress_modes, grouped_pairs, least_rank, refine_modes, unfolded, weakest
from .nearest_kronecker import as_sum, nearest_two
from .rearranged import FromDense, Pairs
from .separated import Separated
from .sources import Source, as_source
from .tree import tree

__all__ = ["factor_shapes", "nearest_separated"]

REFINEMENTS = 20  # of the mode spaces, at most
MANY = 32  # terms beyond which a tolerance is met by the orthonormal tree and not by fits
SWEEPS = 20  # of alternating least squares in each
GAIN = 1e-3  # of the error, below which a refinement is not worth its passes
TINY, SMALL, LARGE = 2**8, 2**13, 2**24  # entries up to which an array is its own core, is formed, is swept in memory
LOOSE = 0.1  # share of the array outside its core from which on they are
PENALTY = 1e-5  # λ of those sweeps
ROUND_OFF = 2.0**-47  # relative error below which nothing is left to refine
SHRINK = (1.0, 0.999, 0.99, 0.9, 0.0)  # of the bound on κ: rounded to float32 it moves a little


def nearest_separated(
    M: Any,
    shapes: Sequence[tuple[int, int]] | str,
    rank: int | None = None,
    tol: float | None = None,
    max_condition: float | None = None,
    seed: Any = 0,
    factors: int = 2,
) -> Fit:
    """The nearest Σ_{l<=rank} s_l V_1^l ⊗ … ⊗ V_d^l in the Frobenius norm, d >= 2, with κ under control: a Separated.

    M, (Π m_i, Π n_i), is one of

    - a dense array;
    - a LowRank U Vᵀ, which is not formed;
    - a SciPy sparse matrix, whose nonzeros move: work O(rank nnz) a pass;
    - a SciPy LinearOperator or a structured matrix (circulant, Toeplitz, products, …), of which only products with columns
      are used: about 4 (n_1 + n_2 ⋯ n_d) + 136 of them for two factors, so 2^16 × 2^16 is nothing special, and up to
      (n_1 + n_2 ⋯ n_d) max(n_1, n_2 ⋯ n_d) where all terms live in a few rows or columns of a factor. For these
      relative_error is right to a percent or so: what the sketch explains is exact, the rest estimated from 128 products;
    - numpy.memmap, HDF5 and Zarr, read in slabs of 64 MB; or a dask.array, whose slabs go to Dask's scheduler. Each
      product is one pass; 7 or so passes for one fit.

    shapes: ((m_1, n_1), …, (m_d, n_d)); or "auto": the best of all pairs of shapes (of all `factors` shapes), as
    `factor_shapes` lists them. rank: the number of terms; or tol: the smallest number found with ‖M − Â‖ <= tol ‖M‖ (where
    more than 32 terms are needed for d >= 3: those of the orthonormal tree, κ = 1, more than the fewest).
    max_condition: κ = (Σ s_l²)^½ / ‖Â‖ is at most this in what is returned, always; >= 1.

    Two factors: `nearest_kronecker`, so within 1.003 of the optimum, κ = 1. Three and more: the array R(M) is compressed to
    the leading singular vectors of its modes (a few passes over M), the small core is fitted as in `compress`, and the mode
    spaces are refined by alternating steps while the error falls by 1e-3 or more. A best approximation need not exist for
    d >= 3: then κ grows as far as it may, and max_condition is what to set. Cost O(rank m n) and that of the core.

    Fits run in float64, the factors come back in the dtype of M; the error is an explicit residual of the whole matrix in
    chunks, in float64. Raises ShapeError, ArgumentError, NonFiniteError, DTypeError, SizeLimitError; warns with
    PrecisionWarning (tol < u κ) and ConvergenceWarning. `seed` draws the starts: every call repeats. Sources: Van Loan and
    Pitsianis (1993); Beylkin and Mohlenkamp (2005).

    >>> import numpy as np, sepmat as sm
    >>> A = sm.KroneckerSum(*[np.diag([1.0, 2.0, 4.0])] * 3)
    >>> fit = sm.nearest_separated(A.to_dense(), ((3, 3),) * 3, rank=3, max_condition=10)
    >>> fit.matrix, fit.relative_error < 1e-13, fit.condition_number <= 10
    (Separated((3×3 ⊗ 3×3 ⊗ 3×3) × 3 terms, shape=(27, 27), float64), True, True)
    """
    where = "nearest_separated"
    _check.one_of(where, rank=rank, tol=tol)
    if isinstance(shapes, str):
        _check.as_choice(shapes, ["auto"], where, "shapes")
        return factor_shapes(M, rank, tol, factors, max_condition, seed)[0]
    if isinstance(M, Separated) and M.shapes == _several(shapes, M.shape, where):
        return compress(M, rank, tol, max_condition, seed=seed)
    rng = _check.as_generator(seed, where)
    cap = check_condition(max_condition, where)
    with _array.quiet():
        source = as_source(M, where, rng)
        pairs = _several(shapes, source.shape, where)
        if tol is not None:
            tol = check_tolerance(tol, source.like, where)
        fit = _fit(source, pairs, rank, tol, cap, rng, where)
    u = _array.unit_roundoff(_array.array_namespace(source.like), source.like.dtype)
    if tol is not None and tol >= u and isinstance(fit.matrix, Separated):
        check_attainable(tol, fit.matrix, where)
    if not fit.converged:
        warn(
            ConvergenceWarning,
            f"nearest_separated: the fit has not settled after {fit.iterations} steps (relative error "
            f"{fit.relative_error:.1e}, condition number {fit.condition_number:.1e}); set max_condition, or allow more terms",
        )
    return fit


def factor_shapes(
    M: Any,
    rank: int | None = None,
    tol: float | None = None,
    factors: int = 2,
    max_condition: float | None = None,
    seed: Any = 0,
) -> list[Fit]:
    """The separated fits of M for all shapes of its factors, best first: which splitting does a matrix have?

    M, rank, tol, max_condition, seed: as for `nearest_separated`. factors: how many; every ordered splitting of both sizes
    is tried, without factors 1×1. Best under tol: the fewest parameters, among the fits that reach it with fewer than M
    has. Best for a rank: the smallest m n log(error²) + log(m n) × parameters, which weighs the error against the
    number of parameters as the Bayesian information criterion does (Cai, Chen and Xiao 2022, for one term); errors at
    round-off count as equal. Each Fit prints its parameters and its error, and fit.matrix.shapes are its shapes.

    Costs one fit for each splitting: the product of the numbers of divisors of m and n for two factors.

    >>> import numpy as np, sepmat as sm
    >>> M = np.kron(np.arange(6.0).reshape(2, 3) + 1, np.arange(20.0).reshape(4, 5) ** 2 + 1)
    >>> fits = sm.factor_shapes(M, rank=1)
    >>> len(fits), fits[0].matrix.shapes, fits[0].num_parameters, fits[0].relative_error < 1e-14
    (14, ((2, 3), (4, 5)), 27, True)
    """
    where = "factor_shapes"
    _check.one_of(where, rank=rank, tol=tol)
    factors = _check.as_integer(factors, where, "factors", minimum=2)
    rng = _check.as_generator(seed, where)
    cap = check_condition(max_condition, where)
    with _array.quiet():
        source = as_source(M, where, rng)
        u = _array.unit_roundoff(_array.array_namespace(source.like), source.like.dtype)
        if tol is not None:
            tol = check_tolerance(tol, source.like, where)
        else:
            rank = _check.as_integer(rank, where, "rank")
        m, n = source.shape
        fits, entries = [], max(1, m * n)
        for pairs in splittings(m, n, factors) if factors <= entries.bit_length() else ():  # no factor is 1×1
            if tol is not None:
                limit = (entries - 1) // (sum(a * b for a, b in pairs) + 1)  # terms with fewer parameters than M
                fit = _fit(source, pairs, None, tol, cap, rng, where, max(1, limit))
                fits += [fit] if fit.relative_error <= tol and fit.num_parameters < entries else []
            else:
                fits.append(_fit(source, pairs, min(rank or 1, _most(pairs)), None, cap, rng, where))
    if not fits:
        raise ShapeError(
            where,
            "M",
            f"{m}×{n}",
            "sizes that split" if tol is None else f"a splitting with fewer than {entries} parameters at tol={tol:.1e}",
            "Pad M to sizes with more divisors, or choose the shapes yourself",
        )
    if tol is not None:
        return sorted(fits, key=lambda fit: (fit.num_parameters, fit.relative_error))

    def criterion(fit: Fit) -> float:
        return 2 * entries * math.log(max(fit.relative_error, 64 * u)) + math.log(entries) * fit.num_parameters

    return sorted(fits, key=criterion)


def splittings(m: int, n: int, parts: int) -> Iterator[Pairs]:
    """All ((m_1, n_1), …) with Π m_i = m, Π n_i = n, none of them (1, 1)."""
    for rows in _products(m, parts):
        for cols in _products(n, parts):
            pairs = tuple(zip(rows, cols, strict=True))
            if (1, 1) not in pairs:
                yield pairs


def _products(n: int, parts: int) -> Iterator[tuple[int, ...]]:
    if parts == 1:
        yield (n,)
        return
    for k in (k for k in range(1, n + 1) if n % k == 0):
        yield from ((k, *rest) for rest in _products(n // k, parts - 1))


def _several(shapes: Any, full: tuple[int, int], where: str) -> Pairs:
    pairs = as_shapes(shapes, full, where)
    if len(pairs) < 2:
        advice = "Use two factors or more, or Dense(M)"
        raise ShapeError(where, "shapes", f"{len(pairs)} pair", "((m1, n1), (m2, n2), …)", advice)
    return pairs


def _most(pairs: Pairs) -> int:
    """Terms that represent every matrix."""
    sizes = [m * n for m, n in pairs]
    return max(1, math.prod(sizes) // max(1, *sizes))


# one fit ------------------------------------------------------------------------------------------------------------------


def _fit(
    source: Source,
    pairs: Pairs,
    rank: int | None,
    tol: float | None,
    cap: float,
    rng: Any,
    where: str,
    limit: int | None = None,
) -> Fit:
    """limit: more terms than this are not tried under a tolerance."""
    if rank is not None:
        rank = _check.as_integer(rank, where, "rank", maximum=_most(pairs))
    if 0 in source.shape:
        return _nothing(source, pairs)
    if len(pairs) == 2:
        (U, s, V), error, optimal = nearest_two(source, pairs, rank, tol, rng, where)
        A = as_sum((U, V), s, pairs, source.exponents)
        return Fit(A, error, A.num_parameters, condition_number=1.0, optimal=optimal)
    constant(source.like, where, "M")
    T = Unfolded(source.rearranged(grouped_pairs(pairs)), pairs)
    if not T.norm:
        return _nothing(source, pairs)
    for shrink in SHRINK:
        bound = None if cap == math.inf else max(1.0, cap * shrink)
        if rank is not None:
            terms = _of_rank(T, rank, bound, rng)
        else:
            terms = _to_tolerance(T, tol or 0.0, min(_most(pairs), limit or _most(pairs)), bound, rng)
        fit = _rounded(source, T, terms)
        if (fit.condition_number or 0.0) <= cap:
            break
    return dataclasses.replace(fit, matrix=fit.matrix.map(_array.stop_gradient))


@dataclasses.dataclass(frozen=True)
class Terms:
    """Rank-one terms of an array in double precision, and how far they are from it."""

    weights: Array
    factors: list[Array]
    residual: float  # absolute
    converged: bool
    iterations: int

    @property
    def columns(self) -> list[Array]:
        """The factors with the weights in the first."""
        first, *others = self.factors
        return [first * _array.astype(self.weights, first.dtype), *others]


def _of_rank(T: Unfolded, rank: int, bound: float | None, rng: Any) -> Terms:
    """The fit of the core; where its mode spaces are not the best ones yet, those are found first and it is fitted anew.

    A small array is its own core. Where most of an array is outside its core (noise, trained weights), the best mode spaces
    of r terms are not those of the array, and sweeps over all of it have the last word.
    """
    entries = math.prod(T.sizes)
    if entries <= TINY:
        array = T.whole()
        xp, place = _array.array_namespace(array), {"dtype": array.dtype, "device": _array.device(array)}
        return _of_core(T, Compressed(array, [xp.eye(n, **place) for n in T.sizes]), 0.0, rank, bound, rng)
    found, outside = compress_modes(T, rank, rng=rng)
    best = _of_core(T, found, outside, rank, bound, rng)
    # what the singular vectors miss of the best mode spaces is of the order of this ratio, and the error its square
    if best.residual <= ROUND_OFF * T.norm or (outside / weakest(T, found)) ** 2 <= GAIN:
        return best
    columns, residual = best.columns, best.residual
    for _ in range(REFINEMENTS):
        found, outside = refine_modes(T, columns, rank, rng)
        start = [adjoint(Q) @ U for Q, U in zip(found.bases, columns, strict=True)]
        start[0] = start[0] / T.norm
        p = alternate(DenseCore(found.core / T.norm), start, ROUND_OFF**2, SWEEPS)
        columns, last = found.lift(p.factors), residual
        columns[0] = columns[0] * T.norm
        residual = math.hypot(p.residual * T.norm, outside)
        if residual > (1 - GAIN) * last:
            break
    again = _of_core(T, found, outside, rank, bound, rng, start)
    best = min(best, again, key=lambda terms: terms.residual)
    if outside <= LOOSE * T.norm or entries > (LARGE if isinstance(T.R, FromDense) else SMALL):
        return best
    first, *others = best.columns
    p = alternate(DenseCore(T.whole() / T.norm), [first / T.norm, *others], PENALTY, 10 * SWEEPS, GAIN / 10)
    if p.residual * T.norm < best.residual and (bound is None or p.size <= bound * terms_norm(p.factors)):
        weights = scales(p.factors) * T.norm
        return Terms(weights, [unit(U) for U in p.factors], p.residual * T.norm, p.settled, best.iterations + p.steps)
    return best


def _of_core(
    T: Unfolded,
    found: Compressed,
    outside: float,
    rank: int,
    bound: float | None,
    rng: Any,
    start: list[Array] | None = None,
) -> Terms:
    result = fit_core(DenseCore(found.core), rank, None, bound, None, rng, outside, start)
    terms = Terms(result.weights, found.lift(result.factors), 0.0, result.converged, result.iterations)
    return dataclasses.replace(terms, residual=T.residual(terms.columns))


def _to_tolerance(T: Unfolded, tol: float, most: int, bound: float | None, rng: Any) -> Terms:
    """The smallest number of terms that is found, from the ranks of the unfoldings upwards, which bound it from below.

    From above it is bounded by the orthonormal tree, which is the answer where more than a few terms are needed.
    """
    found, outside = compress_modes(T, tol=tol, rng=rng)
    small, goal = unfolded(found.core), tol * T.norm
    weights, factors = tree(found.core, math.sqrt(max(0.0, goal**2 - outside**2)) / (small.norm or 1.0))
    best, terms = Terms(weights, factors, goal, True, 0), max(1, int(weights.shape[0]))
    failed = min(most, terms, least_rank(found.core, goal)) - 1
    rank, fitted = failed + 1, False
    while failed < rank < terms and rank <= min(most, MANY):
        fit = _of_rank(small, rank, bound, rng)
        if math.hypot(fit.residual, outside) <= goal:
            best, terms, fitted = fit, rank, True
        else:
            failed = rank
        # a quarter more each time; what is too large by more than one is halved back
        rank = (failed + terms) // 2 if fitted else failed + max(1, failed // 4)
    lifted = dataclasses.replace(best, factors=found.lift(best.factors))
    return dataclasses.replace(lifted, residual=T.residual(lifted.columns))


def _rounded(source: Source, T: Unfolded, terms: Terms) -> Fit:
    """The terms in the dtype of the data; where that is single precision, measured again."""
    factors = [_array.astype(U, source.like.dtype) for U in terms.factors]
    weights = _array.astype(terms.weights, source.like.dtype)
    A = as_sum(factors, weights, T.shapes, source.exponents)
    if factors[0] is not terms.factors[0]:
        terms = dataclasses.replace(terms, weights=_array.double(weights), factors=[_array.double(U) for U in factors])
        terms = dataclasses.replace(terms, residual=T.residual(terms.columns))
    error = terms.residual / T.norm
    return Fit(A, error, A.num_parameters, condition_of(A), error == 0.0, terms.converged, terms.iterations)


def _nothing(source: Source, pairs: Pairs) -> Fit:
    """The zero matrix: no term."""
    xp, like = _array.array_namespace(source.like), source.like
    stacks = tuple(xp.zeros((0, *pair), dtype=like.dtype, device=_array.device(like)) for pair in pairs)
    return Fit(Separated._of(factors=stacks, scales=None), 0.0, 0, condition_number=1.0, optimal=True)
