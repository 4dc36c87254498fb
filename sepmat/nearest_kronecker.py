"""The nearest Kronecker product, and the nearest sum of r of them: the truncated SVD of the rearranged matrix.

Van Loan and Pitsianis, "Approximation with Kronecker products" (1993): R(A) only permutes entries and takes
B ⊗ C to the rank-one matrix vec(B) vec(C)ᵀ, so the best sum of r products is the best rank-r approximation of R(A).
"""

import functools
import math
from collections.abc import Callable, Sequence
from typing import Any

from . import _array, _check
from ._array import Array, adjoint, conj
from .errors import ShapeError
from .fit import Fit, check_tolerance, smallest_rank, svd, tail_norms
from .kronecker import Kronecker, as_shapes, rearrange
from .rearranged import EXTRA, FromDense, Pairs, Rearranged, Triplets, to_tolerance
from .separated import Separated
from .sources import Source, as_source

__all__ = ["nearest_kronecker"]


def nearest_kronecker(
    M: Any,
    shapes: Sequence[tuple[int, int]],
    rank: int | None = None,
    tol: float | None = None,
    exact: bool = False,
    seed: Any = 0,
) -> Fit:
    """The nearest Σ_{l<=rank} s_l B_l ⊗ C_l in the Frobenius norm: a Kronecker for one term, else a Separated.

    M: dense (m1 m2, n1 n2); a LowRank U Vᵀ, a SciPy sparse matrix, a LinearOperator or structured matrix, of which nothing
    is formed; or a matrix larger than memory (numpy.memmap, HDF5, Dask): see `nearest_separated`. shapes: ((m1, n1),
    (m2, n2)). rank: terms, 1 by default, at most min(m1 n1, m2 n2); or tol: the block grows (16, 24, 40, … columns) until
    the relative error is at most tol, so the number of terms is the smallest, up to what the error of the block costs
    (rarely one).

    Default: block power on R(M), 8 extra columns, 2 or more power iterations, O(rank m n): within 1.003 of the optimum
    even for a flat spectrum, and to the last digits where the singular values decay. exact=True, or a block of
    more than a quarter of R(M): the full SVD, and Fit.optimal. (Of U Vᵀ: the SVD of the core that is left after
    orthogonal compression of [U_1 … U_r] and [V_1 … V_r]; it is small where r m2 < m1 or r m1 < m2. Of a sparse matrix: the
    SVD of the rows and columns of R(M) with nonzeros. An operator is formed, up to 1 GB; otherwise its error is an estimate.)

    The terms are orthonormal, so the condition number of the representation is 1. The entries of each B_l sum to
    >= 0. For a dense real symmetric M and square factors every term is symmetric ⊗ symmetric or skew ⊗ skew; a single
    product is nonnegative for a dense nonnegative M and positive semidefinite for a dense positive semidefinite M.

    Raises ShapeError, ArgumentError, NonFiniteError, DTypeError. `seed` draws the start: every call repeats.

    >>> import numpy as np, sepmat as sm
    >>> fit = sm.nearest_kronecker(np.kron([[1.0, 2.0]], np.eye(3)), ((1, 2), (3, 3)))
    >>> fit.matrix, fit.num_parameters, fit.relative_error < 1e-14
    (Kronecker(1×2 ⊗ 3×3, shape=(3, 6), float64), 11, True)
    """
    where = "nearest_kronecker"
    rng, exact = _check.as_generator(seed, where), _check.as_flag(exact, where, "exact")
    if rank is None and tol is None:
        rank = 1
    _check.one_of(where, rank=rank, tol=tol)
    with _array.quiet():
        source = as_source(M, where, rng, exact)
        pairs = _two(shapes, source.shape, where)
        if tol is not None:
            tol = check_tolerance(tol, source.like, where)
        (U, s, V), error, optimal = nearest_two(source, pairs, rank, tol, rng, where, exact)
        if s.shape[0] == 1:
            A: Kronecker | Separated = as_product(U, s, V, pairs, source.exponents)
        else:
            A = as_sum((U, V), s, pairs, source.exponents)
        return Fit(A, error, A.num_parameters, condition_number=1.0, optimal=optimal)


def nearest_two(
    source: Source, pairs: Pairs, rank: int | None, tol: float | None, rng: Any, where: str, exact: bool = False
) -> tuple[Triplets, float, bool]:
    """The singular triplets of R(M) that are the terms, their relative error, and whether they are proven optimal."""
    R = _symmetric(source.dense, pairs) or source.rearranged(pairs)
    if rank is not None:
        rank = _check.as_integer(rank, where, "rank", maximum=max(1, min(R.shape)))
        triplets, optimal = _leading(R, rank, rng, exact)
    else:
        triplets, optimal = _to_tolerance(R, tol or 0.0, rng, exact)
    U, s, V = _phased(triplets)
    if U.shape[1] == 1:
        U, s, V = _inherit(R, pairs, U, s, V)
    wide = _array.double(U)
    error = R.residual(wide * _array.astype(s, wide.dtype), V) / (R.norm or 1.0)
    return (U, s, V), error, optimal or error == 0.0


def _two(shapes: Any, full: tuple[int, ...], where: str) -> Pairs:
    pairs = as_shapes(shapes, full, where)
    if len(pairs) != 2:
        raise ShapeError(
            where,
            "shapes",
            f"{len(pairs)} pairs",
            "two: ((m1, n1), (m2, n2))",
            "Use two factors, or split one of the fitted factors again",
        )
    return pairs


def as_sum(factors: Sequence[Array], s: Array, pairs: Pairs, exponents: tuple[int, int]) -> Separated:
    """Σ_l s_l F_1[:, l] ⊗ F_2[:, l] ⊗ … for factors (m_k n_k, terms), times 2^(k + l)."""
    xp = _array.array_namespace(s)
    stacks = tuple(
        xp.reshape(xp.matrix_transpose(F), (F.shape[1], *shape)) for F, shape in zip(factors, pairs, strict=True)
    )
    return Separated(stacks, _array.ldexp(s, sum(exponents)))


def as_product(U: Array, s: Array, V: Array, pairs: Pairs, exponents: tuple[int, int]) -> Kronecker:
    """One term: σ and the powers of two go to both factors, so that neither leaves the range."""
    xp, (k, l) = _array.array_namespace(U), exponents
    root = _array.astype(xp.sqrt(s), U.dtype)
    return Kronecker._of(
        factors=(xp.reshape(_array.ldexp(U * root, k), pairs[0]), xp.reshape(_array.ldexp(V * root, l), pairs[1]))
    )


# singular triplets --------------------------------------------------------------------------------------------------------


def _leading(R: Rearranged, rank: int, rng: Any, exact: bool) -> tuple[Triplets, bool]:
    """The leading triplets, and whether they are exact."""
    triplets, exact = R.triplets(rank + EXTRA, rng, exact)
    return _first(triplets, rank), exact


def _to_tolerance(R: Rearranged, tol: float, rng: Any, exact: bool) -> tuple[Triplets, bool]:
    """As many triplets as the tolerance asks for."""
    triplets, rest, exact = to_tolerance(R, tol, rng, exact)
    # the error of the block and of what is cut from it are orthogonal
    tails = [t / (R.norm or 1.0) for t in tail_norms(triplets[1], rest)]
    return _first(triplets, smallest_rank(tails, tol)), exact


def _first(triplets: Triplets, rank: int) -> Triplets:
    U, s, V = triplets
    rank = min(rank, s.shape[0])
    return U[:, :rank], s[:rank], V[:, :rank]


def _phased(triplets: Triplets) -> Triplets:
    """The same terms with the phase (the sign) that makes the entries of each first factor sum to >= 0."""
    U, s, V = triplets
    xp = _array.array_namespace(U)
    total = xp.sum(U, axis=0)
    size = xp.abs(total)
    phase = xp.where(size > 0, total / _array.astype(size, U.dtype), xp.ones_like(total))
    return U * conj(phase), s, V * phase


# structure of the factors -------------------------------------------------------------------------------------------------


class FromSymmetric(FromDense):
    """R(M) of a real symmetric M commutes with transposition, so it splits into a symmetric and a skew part.

    Each part is a matrix of half the size in the coordinates of its (i, j), i <= j: every singular vector is exactly
    symmetric or skew, also where two singular values meet, at half the work. R(M) itself is formed for one term only.
    """

    def __init__(
        self, M: Array, pairs: Pairs, basis: "tuple[_Coordinates, _Coordinates]", parts: Sequence[Array]
    ) -> None:
        self.M, self.pairs, self.basis, self.parts = M, pairs, basis, parts
        (p, _), (q, _) = pairs
        self.shape = (p * p, q * q)

    @functools.cached_property
    def hermitian(self) -> bool:
        return True

    @functools.cached_property
    def like(self) -> Array:
        return rearrange(self.M, self.pairs)

    @functools.cached_property
    def norm(self) -> float:
        return math.hypot(*(FromDense(part).norm for part in self.parts))

    def triplets(self, block: int, rng: Any, exact: bool = False) -> tuple[Triplets, bool]:
        xp, (rows, cols) = _array.array_namespace(self.M), self.basis
        found, all_exact = [], True
        for sign, part in zip((1.0, -1.0), self.parts, strict=True):
            if 0 in part.shape:
                continue
            (U, s, V), full = FromDense(part).triplets(block, rng, exact)
            found.append((rows.lift(U, sign), s, cols.lift(V, sign)))
            all_exact = all_exact and full
        U, s, V = (xp.concat(parts, axis=-1) for parts in zip(*found, strict=True))
        order = xp.argsort(s, descending=True)
        return (xp.take(U, order, axis=1), xp.take(s, order), xp.take(V, order, axis=1)), all_exact

    def residual(self, U: Array, V: Array) -> float:
        """Every term is symmetric or skew in both factors, so what is left has the same two parts."""
        rows, cols = self.basis
        both = zip(self.parts, rows.of(U), cols.of(V), strict=True)
        return math.hypot(*(FromDense(part).residual(u, v) for part, u, v in both))


class _Coordinates:
    """Symmetric p×p matrices in the orthonormal basis e_ii, then (e_ij + e_ji) / √2 for i < j; skew ones in that of the
    (e_ij − e_ji) / √2."""

    def __init__(self, p: int, like: Array) -> None:
        xp, place = _array.array_namespace(like), {"device": _array.device(like)}
        diagonal = list(range(0, p * p, p + 1))
        above = [k for i in range(p) for k in range(i * p + i + 1, i * p + p)]
        below = [k for i in range(p) for k in range(i * p + i + p, p * p, p)]
        self.p, self.dim = p, p + len(above)
        self.upper, self.lower = (xp.asarray(diagonal + ix, dtype=xp.int64, **place) for ix in (above, below))
        i = xp.arange(p, dtype=xp.int64, **place)[:, None]
        j = xp.arange(p, dtype=xp.int64, **place)[None, :]
        low, high = xp.minimum(i, j), xp.maximum(i, j)
        position = xp.where(low == high, low, p + low * (2 * p - 1 - low) // 2 + high - low - 1)
        self.position = xp.reshape(position, (-1,))
        root, order = math.sqrt(0.5), xp.reshape(xp.astype(xp.sign(j - i), like.dtype), (-1, 1))
        self.weights = {1.0: 1.0 - (1.0 - root) * xp.abs(order), -1.0: root * order}
        # the columns (i, i) are added to themselves
        self.scale = xp.concat(
            (xp.full((p,), root, dtype=like.dtype, **place), xp.ones_like(self.upper[p:], dtype=like.dtype))
        )

    def of(self, X: Array) -> tuple[Array, Array]:
        """The coordinates of the symmetric and of the skew parts of the matrices X (p², k), row by row."""
        xp, root = _array.array_namespace(X), math.sqrt(0.5)
        upper, lower = (xp.take(X, ix, axis=0) for ix in (self.upper, self.lower))
        return (upper + lower) * (self.scale[:, None] * root), (upper - lower)[self.p :, :] * root

    def lift(self, X: Array, sign: float) -> Array:
        """The matrices, row by row, with the coordinates X (dim, k)."""
        xp = _array.array_namespace(X)
        if sign < 0:  # the diagonal has the weight 0
            X = xp.concat((xp.zeros((self.p, X.shape[1]), dtype=X.dtype, device=_array.device(X)), X), axis=0)
        return xp.take(X, self.position, axis=0) * self.weights[sign]


def _symmetric(M: Array | None, pairs: Pairs) -> FromSymmetric | None:
    """R(M) in two parts, straight from M; None where M is not real and symmetric, or a factor not square.

    By block rows of M that stay in cache, the first of which decides most cases.
    """
    if M is None or _array.is_complex(M) or 0 in M.shape or any(m != n for m, n in pairs):
        return None
    xp, ((p, _), (q, _)) = _array.array_namespace(M), pairs
    blocks = xp.reshape(M, (p, q, p, q))
    if _block_row(blocks, 0) is None:
        return None
    rows = _Coordinates(p, M)
    cols = rows if p == q else _Coordinates(q, M)
    diagonal, above, skew = [], [], []
    for i in range(p):
        R = _block_row(blocks, i)
        if R is None:
            return None
        upper, lower = (xp.take(R, ix, axis=1) for ix in (cols.upper, cols.lower))
        symmetric = (upper + lower) * cols.scale
        diagonal.append(symmetric[:1, :] * math.sqrt(0.5))
        above.append(symmetric[1:, :])
        skew.append(upper[1:, q:] - lower[1:, q:])
    return FromSymmetric(M, pairs, (rows, cols), (xp.concat(diagonal + above, axis=0), xp.concat(skew, axis=0)))


def _block_row(blocks: Array, i: int) -> Array | None:
    """The rows (i, j), i <= j, of R(M) for M given as (p, q, p, q); None where M is not symmetric there."""
    xp, (p, q, _, _) = _array.array_namespace(blocks), blocks.shape
    R = xp.reshape(xp.permute_dims(blocks[i, :, i:, :], (1, 0, 2)), (p - i, q * q))
    mirrored = xp.matrix_transpose(_array.copy(blocks[i:, :, i, :]))
    return R if bool(xp.all(xp.reshape(R, (p - i, q, q)) == mirrored)) else None


def _inherit(R: Rearranged, pairs: Pairs, U: Array, s: Array, V: Array) -> Triplets:
    """One term of a dense M: |B| and |C|, of matrices where M is Hermitian, of entries where it is nonnegative.

    The leading term of a positive semidefinite or nonnegative M has them (Perron–Frobenius on R(M)), up to rounding
    and the error of the block. They replace the term where |<M, B ⊗ C>| does not fall; one alternating update then
    keeps the structure and gains.
    """
    if not isinstance(R, FromDense) or 0 in R.shape or not R.norm:
        return U, s, V
    xp = _array.array_namespace(U)
    candidates: list[Callable[[Array], Array]] = [_matrix_abs] if R.hermitian else []
    if not _array.is_complex(R.like) and _array.to_float(xp.min(R.like)) >= 0:
        candidates = [lambda X: xp.abs(_matrix_abs(X))] * len(candidates) + [xp.abs]
    slack = 1 - 64 * _array.unit_roundoff(xp, U.dtype)
    for fn in candidates:
        B, C = (xp.reshape(fn(xp.reshape(X, p)), (-1, 1)) for X, p in zip((U, V), pairs, strict=True))
        RC = R.times(conj(C))
        if _array.to_float(xp.abs(xp.sum(conj(B) * RC))) >= slack * _array.to_float(s[0]):
            break
    else:
        return U, s, V
    U = RC / _array.astype(_array.frobenius(RC), U.dtype)
    V = conj(R.adjoint_times(U))
    if R.hermitian:
        U, V = (xp.reshape(_hermitian_part(xp.reshape(X, p)), (-1, 1)) for X, p in zip((U, V), pairs, strict=True))
    s = xp.reshape(_array.frobenius(V), (1,))
    return U, s, V / _array.astype(s, V.dtype)


def _hermitian_part(B: Array) -> Array:
    return (B + adjoint(B)) / 2


def _matrix_abs(B: Array) -> Array:
    """(BᴴB)^{1/2}, whatever the sign or phase of B."""
    _, s, V = svd(B)
    V = V * _array.astype(_array.array_namespace(B).sqrt(s), B.dtype)
    return conj(V) @ _array.array_namespace(V).matrix_transpose(V)
