"""From low matrix rank to low separation rank: the separated form of U Vᵀ, separation ranks, and their bounds.

Low matrix rank does not mean low separation rank: for one column each, R(u vᵀ) = mat(u) ⊗ mat(v) is a Kronecker product
of the two columns written as matrices, and its rank is the product of theirs. Only vectors that are Kronecker products
themselves have rank one there; a random u vᵀ has the largest separation rank that its shapes allow.
"""

import functools
import math
from collections.abc import Sequence
from typing import Any, Protocol

from . import _array, _check
from ._array import Array, adjoint
from .errors import ShapeError, UnsupportedError, speaks
from .fit import as_target, svd
from .kernels.terms import khatri_rao, thin
from .kronecker import _pairs, apply_factors, as_shapes, rearrange
from .low_rank import LowRank
from .rearranged import Pairs, kron_sum
from .separated import Separated
from .tree import largest, round_off, tree

__all__ = ["generic_separation_rank", "separated_from_low_rank", "separation_rank", "separation_rank_bounds"]

Terms = tuple[Array, list[Array]]  # weights (terms,) and for each factor the columns (m_i n_i, terms)


# the separated form of U Vᵀ -----------------------------------------------------------------------------------------------


@speaks
def separated_from_low_rank(U: Any, V: Any, shapes: Sequence[tuple[int, int]]) -> Separated:
    """U Vᵀ (V is not conjugated) as a sum of Kronecker products, exact up to round-off, without forming it.

    U: (Π m_i, r), V: (Π n_i, r); shapes: ((m_1, n_1), …, (m_d, n_d)). With U_j, V_j the columns as d-way arrays,
    R(U Vᵀ) = Σ_j U_j ⊗ V_j. Error about u Σ_j ‖u_j‖ ‖v_j‖; terms below that are left out.

    d = 2: the SVD of R, of its core after orthogonal compression: the fewest terms there are (`separation_rank`),
    orthonormal, κ = 1. d > 2, a finite algorithm, not the fewest: the shorter of
    - the orthonormal trees of every U_j and V_j, all pairs: r terms where all columns are Kronecker products of
      vectors, at most r (m / max m_i) (n / max n_i), with factors of matrix rank 1;
    - the orthonormal tree of the core of R, compressed in every mode: at most Π m_i n_i / max m_i n_i terms for any r,
      orthonormal, κ = 1. The core is formed where it is no larger than U and V, or than the terms above.
    d = 1: the one term is the matrix.

    Raises ShapeError, NonFiniteError, DTypeError, and SizeLimitError where the terms would take over 1 GiB.

    >>> import numpy as np, sepmat as sm
    >>> u = np.array([[1.0], [0.0], [0.0], [1.0]])  # matrix rank 1, but u, read as 2×2, has rank 2
    >>> sm.separated_from_low_rank(u, u, ((2, 2), (2, 2))).terms
    4
    """
    where = "separated_from_low_rank"
    M = LowRank(U, V)
    pairs = as_shapes(shapes, M.shape, where)
    with _array.quiet():
        M, e = _scaled(M, where)
        weights, columns = _terms(M, pairs, where)
        xp, terms = M.xp, weights.shape[0]
        factors = [xp.reshape(xp.matrix_transpose(F), (terms, *p)) for F, p in zip(columns, pairs, strict=True)]
        return Separated(factors, _array.astype(_array.ldexp(weights, e), M.dtype))


def _scaled(M: LowRank, where: str) -> tuple[LowRank, int]:
    """(M / 2^e, e) with columns u_j, v_j of the same norm: what is cut from U or V is then cut from M in proportion."""
    for name, X in (("U", M.U), ("V", M.V)):
        _check.check_finite(_check.check_full_precision(X, where, name), where, name)
    (U, k), (V, l) = as_target(M.U, where), as_target(M.V, where)
    xp = M.xp
    u, v = (_array.frobenius(X, axis=0) for X in (U, V))
    some = xp.logical_and(u > 0, v > 0)
    one, zero = xp.ones_like(u), xp.zeros_like(u)
    ratio = xp.sqrt(xp.where(some, v, one)) / xp.sqrt(xp.where(some, u, one))
    U = U * _array.astype(xp.where(some, ratio, zero), U.dtype)
    V = V * _array.astype(xp.where(some, 1.0 / ratio, zero), V.dtype)
    e = _array.exponent(U)
    return LowRank._of(U=_array.ldexp(U, -e), V=_array.ldexp(V, -e)), k + l + 2 * e


def _terms(M: LowRank, pairs: Pairs, where: str) -> Terms:
    """The tree of the core; for three factors and more the trees of the columns, where they have fewer terms."""
    core, each = _Core(M, pairs), sum(m * n for m, n in pairs)
    if len(pairs) <= 2 or core.entries == 0:
        return core.terms(where)
    lefts = [tree(M.xp.reshape(M.U[:, j], tuple(m for m, _ in pairs))) for j in range(M.rank)]
    rights = [tree(M.xp.reshape(M.V[:, j], tuple(n for _, n in pairs))) for j in range(M.rank)]
    count = sum(a.shape[0] * b.shape[0] for (a, _), (b, _) in zip(lefts, rights, strict=True))
    if core.entries <= max(count * each, M.num_parameters):
        weights, columns = core.terms(where)
        if weights.shape[0] <= count:
            return weights, columns
    _limit(M, count * each, where)
    return _all_pairs(M, lefts, rights)


def _all_pairs(M: LowRank, lefts: list[Terms], rights: list[Terms]) -> Terms:
    """Σ_j of every term of u_j times every term of v_j, largest first."""
    xp = M.xp
    weights = xp.concat(
        [xp.reshape(a[:, None] * b[None, :], (-1,)) for (a, _), (b, _) in zip(lefts, rights, strict=True)]
    )
    kept = largest(weights, _size(M) * round_off(xp, M.dtype, *M.shape))
    index = xp.asarray(kept, dtype=xp.int64, device=M.device)
    columns = []
    for i in range(len(lefts[0][1])):
        sides = zip((F[i] for _, F in lefts), (F[i] for _, F in rights), strict=True)
        products = xp.concat([kron_sum(A[None, :, :], B[None, :, :]) for A, B in sides], axis=1)
        columns.append(xp.take(products, index, axis=1))
    return xp.take(weights, index), columns


class _Core:
    """R(U Vᵀ) in orthonormal bases of its modes: R = (P_1 ⊗ Q_1, …, P_d ⊗ Q_d) applied to a smaller array.

    P_i spans what the columns of U, as d-way arrays, hold in mode i, Q_i the same of V: with skinny factors, or columns
    that are Kronecker products, far less than m_i and n_i.
    """

    def __init__(self, M: LowRank, pairs: Pairs) -> None:
        self.M, self.pairs, self.entries = M, pairs, 0
        if 0 not in (*M.shape, M.rank):
            rows, cols = ([p[side] for p in pairs] for side in (0, 1))
            self.P, self.Q = (
                [_basis(X, sizes, i) for i in range(len(sizes))] for X, sizes in ((M.U, rows), (M.V, cols))
            )
            self.sizes = tuple((P.shape[1], Q.shape[1]) for P, Q in zip(self.P, self.Q, strict=True))
            self.entries = math.prod(p * q for p, q in self.sizes)

    def array(self, where: str) -> Array:
        """The core, (p_1 q_1, …, p_d q_d)."""
        _limit(self.M, self.entries, where)
        U, V = (
            apply_factors([adjoint(B) for B in basis], X, -2) for basis, X in ((self.P, self.M.U), (self.Q, self.M.V))
        )
        return rearrange(U @ self.M.xp.matrix_transpose(V), self.sizes)

    def terms(self, where: str) -> Terms:
        """The tree of the core, in the coordinates of the factors."""
        M, xp = self.M, self.M.xp
        if not self.entries:
            empty = xp.zeros((0,), dtype=_array.real_dtype(xp, M.dtype), device=M.device)
            return empty, [xp.zeros((m * n, 0), dtype=M.dtype, device=M.device) for m, n in self.pairs]
        weights, columns = tree(self.array(where))
        k = len(largest(weights, _size(M) * round_off(xp, M.dtype, *(m * n for m, n in self.pairs))))
        _limit(M, k * sum(m * n for m, n in self.pairs), where)
        bases = zip(self.P, self.Q, columns, strict=True)
        return weights[:k], [apply_factors([P, Q], F[:, :k], -2) for P, Q, F in bases]


def _basis(X: Array, sizes: list[int], mode: int) -> Array:
    """An orthonormal basis of what the columns of X, as d-way arrays, hold in one mode, without round-off."""
    xp = _array.array_namespace(X)
    T = xp.moveaxis(xp.reshape(X, (*sizes, X.shape[1])), mode, 0)
    P, s, _ = svd(xp.reshape(T, (sizes[mode], -1)))
    noise = round_off(xp, X.dtype, sizes[mode], _array.size(X) // sizes[mode])
    return P[:, : max(1, len(largest(s, noise * _array.to_float(_array.frobenius(s)))))]


def _size(M: LowRank) -> float:
    """Σ_j ‖u_j‖ ‖v_j‖."""
    return _array.to_float(M.xp.sum(_array.frobenius(M.U, axis=0) * _array.frobenius(M.V, axis=0)))


def _limit(M: LowRank, entries: int, where: str) -> None:
    advice = "Use nearest_kronecker or nearest_separated with a rank for an approximation"
    _check.check_bytes((entries,), _array.itemsize(M.dtype), _check.DENSE_LIMIT, where, advice)


# separation ranks ---------------------------------------------------------------------------------------------------------


def separation_rank(M: Any, shapes: Sequence[tuple[int, int]] | None = None, tol: float | None = None) -> int:
    """The smallest number of terms Σ_l V_1^l ⊗ V_2^l that gives M: the rank of R(M). Exact for two factors.

    M: dense (m1 m2, n1 n2), a LowRank or a pair (U, V) for U Vᵀ (not formed), or a Separated (shapes may be left out).
    shapes: ((m1, n1), (m2, n2)); factors of 1×1 do not count. tol: the fewest terms with a relative Frobenius error of
    at most tol. By default what M holds above round-off: the singular values of R(M) that are left out have the norm
    4 u √(longest side of R) ‖M‖ at most (for U Vᵀ and a sum of terms times the sum of the norms of the terms, which is
    what their round-off comes from); smaller terms of M cannot be told from round-off, and do not count.

    Three factors or more: UnsupportedError, for this is the rank of a tensor and NP-hard; `separation_rank_bounds`.
    Raises ShapeError, ArgumentError, NonFiniteError, DTypeError, SizeLimitError. Costs one SVD of R(M) or its core.

    >>> import numpy as np, sepmat as sm
    >>> sm.separation_rank(np.eye(6), ((2, 2), (3, 3)))
    1
    >>> u = np.random.default_rng(0).standard_normal((2, 768, 1))  # matrix rank 1
    >>> sm.separation_rank((u[0], u[1]), ((32, 32), (24, 24)))
    576
    """
    where = "separation_rank"
    with _array.quiet():
        R = _rearranged(M, shapes, where)
        share = 0.0 if tol is None else _check.as_tolerance(tol, where)
        modes = [i for i, p in enumerate(R.pairs) if p != (1, 1)]
        if len(modes) > 2:
            advice = "Use separation_rank_bounds, or nearest_separated with a tolerance for terms that suffice"
            expected = "at most two: the rank of a tensor with three modes or more is NP-hard"
            raise UnsupportedError(where, "shapes", f"{len(R.pairs)} factors", expected, advice)
        return _rank(R, modes[:1] or [0], where, share)


def separation_rank_bounds(M: Any, shapes: Sequence[tuple[int, int]] | None = None) -> tuple[int, int]:
    """(lower, upper) for the smallest number of terms Σ_l V_1^l ⊗ … ⊗ V_d^l that gives M, both proven; d >= 1.

    M and shapes as for `separation_rank`. lower: the largest separation rank of M as a sum of two factors, i against the
    rest and 1 … i against the rest for every i (the rank of an unfolding of R(M) is at most that of R(M)). upper: the
    terms of a finite algorithm: the orthonormal tree of R(M); for U Vᵀ `separated_from_low_rank`; for a Separated what
    it stores, parallel terms merged; never more than Π m_i n_i / max m_i n_i. Round-off as for `separation_rank`; for d <= 2 both are it.

    >>> import numpy as np, sepmat as sm
    >>> u = np.random.default_rng(0).standard_normal((2, 24, 1))
    >>> sm.separation_rank_bounds((u[0], u[1]), ((3, 2), (4, 3), (2, 4)))
    (12, 36)
    """
    where = "separation_rank_bounds"
    with _array.quiet():
        R = _rearranged(M, shapes, where)
        d = len(R.pairs)
        splits = [[i] for i in range(d)] + [list(range(i)) for i in range(2, d - 1)]
        lower = max(_rank(R, left, where) for left in splits)
        return lower, max(lower, R.terms(where)) if d > 2 else lower


def generic_separation_rank(rank: int, shapes: Sequence[tuple[int, int]]) -> int:
    """The separation rank of almost every matrix of this rank, the largest that any of them has; two factors.

    The rank of R = Σ_{j<=r} U_j ⊗ V_j for random U_j (m1×m2) and V_j (n1×n2). With P and Q invertible, P U_j Q is block
    diagonal for all j at once, with blocks of known sizes (`_blocks`; r = 1: the rank; r = 2: Kronecker's form of a
    pencil; any r: Kac 1980, the canonical decomposition); V_j likewise, and a block a×b meets a block c×d in full
    rank, min(a c, b d), in every case tried. But for few shapes the sum is the simple bound
    min{ r min(m1, m2) min(n1, n2), min(m1, r m2) min(n1, r n2), min(m2, r m1) min(n2, r n1) },
    which it never exceeds; the smallest exception is 3×5 ⊗ 5×3 with r = 2, 14 and not 15.

    >>> import sepmat as sm
    >>> sm.generic_separation_rank(1, ((32, 32), (24, 24))), sm.generic_separation_rank(4, ((32, 2), (24, 2)))
    (576, 48)
    """
    where = "generic_separation_rank"
    pairs = _pairs(shapes, where)
    if len(pairs) != 2:
        advice = "Use separation_rank_bounds((U, V), shapes)"
        raise ShapeError(where, "shapes", f"{len(pairs)} pairs", "two: ((m1, n1), (m2, n2))", advice)
    (m1, n1), (m2, n2) = pairs
    r = _check.as_integer(rank, where, "rank", 0, maximum=min(m1 * m2, n1 * n2))
    left, right = _blocks(r, m1, m2), _blocks(r, n1, n2)
    return sum(x * y * min(a * c, b * d) for x, a, b in left for y, c, d in right)


def _blocks(r: int, rows: int, cols: int) -> list[tuple[int, int, int]]:
    """(how many, rows, columns) of the diagonal blocks that r random matrices have in common, in some bases.

    For r rows < cols the columns that are zero; else blocks of two consecutive sizes of 0×1, 1×r, r×(r²−1), … (for
    r = 2: 1×2, 2×3, 3×4, …) where such blocks fit, and one block where the matrices are too near to square for it.
    """
    if rows > cols:
        return [(x, b, a) for x, a, b in _blocks(r, cols, rows)]
    (a, b), (c, d) = (0, 1), (1, r)
    while r and c <= rows:
        x, y = c * cols - d * rows, b * rows - a * cols
        if x >= 0:
            return [(x, a, b), (y, c, d)]
        (a, b), (c, d) = (c, d), (r * c - a, r * d - b)
    return [(1, rows, cols)] if r else []


def _rank(R: "_Rearranged", left: list[int], where: str, share: float = 0.0) -> int:
    """The rank of R with the modes `left` down and the others across, above round-off or above a share of the norm."""
    right = [i for i in range(len(R.pairs)) if i not in left]
    rows, cols = (math.prod(m * n for m, n in (R.pairs[i] for i in side)) for side in (left, right))
    if not rows * cols:
        return 0
    values = R.values(left, right, where)
    noise = R.size * round_off(_array.array_namespace(R.like), R.like.dtype, rows, cols)
    return len(largest(values, max(noise, share * _array.to_float(_array.frobenius(values)))))


# R(M) of the three forms that M comes in ------------------------------------------------------------------------------------


class _Rearranged(Protocol):
    """R(M) of a matrix with its largest entries near 1."""

    pairs: Pairs
    like: Array
    size: float  # the sum of the norms of the terms that M is given by: round-off is in proportion to it

    def values(self, left: list[int], right: list[int], where: str) -> Array: ...  # singular values of an unfolding
    def terms(self, where: str) -> int: ...  # how many terms a finite algorithm finds, above round-off


def _rearranged(M: Any, shapes: Any, where: str) -> _Rearranged:
    if isinstance(M, Separated) and (shapes is None or as_shapes(shapes, M.shape, where) == M.shapes):
        return _OfTerms(M, where)
    if isinstance(M, tuple):
        if len(M) != 2:
            advice = "Pass a dense matrix as one array"
            raise ShapeError(where, "M", f"a tuple of {len(M)}", "a pair (U, V) for U Vᵀ", advice)
        M = LowRank(*M)
    if isinstance(M, LowRank):
        return _OfColumns(_scaled(M, where)[0], as_shapes(shapes, M.shape, where))
    A, _ = as_target(M, where)
    return _OfDense(A, as_shapes(shapes, tuple(A.shape), where))


class _OfDense:
    """R(M) of a dense M."""

    def __init__(self, M: Array, pairs: Pairs) -> None:
        self.like, self.pairs = rearrange(M, pairs), pairs
        self.size = _array.to_float(_array.frobenius(M))

    def values(self, left: list[int], right: list[int], where: str) -> Array:
        xp = _array.array_namespace(self.like)
        rows = math.prod(self.like.shape[i] for i in left)
        return xp.linalg.svdvals(xp.reshape(xp.permute_dims(self.like, (*left, *right)), (rows, -1)))

    def terms(self, where: str) -> int:
        return int(tree(self.like)[0].shape[0])


class _OfColumns:
    """R(U Vᵀ), which is not formed."""

    def __init__(self, M: LowRank, pairs: Pairs) -> None:
        self.M, self.like, self.pairs, self.size = M, M.U, pairs, _size(M)

    def values(self, left: list[int], right: list[int], where: str) -> Array:
        xp, sides = self.M.xp, []
        for side, X in enumerate((self.M.U, self.M.V)):
            sizes = [p[side] for p in self.pairs]
            T = xp.permute_dims(xp.reshape(X, (*sizes, self.M.rank)), (*left, *right, len(sizes)))
            sides.append(xp.reshape(T, tuple(X.shape)))
        parts = [[self.pairs[i] for i in modes] for modes in (left, right)]
        halves = tuple((math.prod(m for m, _ in part), math.prod(n for _, n in part)) for part in parts)
        core = _Core(LowRank._of(U=sides[0], V=sides[1]), halves)
        if not core.entries:
            return xp.zeros((0,), dtype=_array.real_dtype(xp, self.M.dtype), device=self.M.device)
        return xp.linalg.svdvals(core.array(where))

    def terms(self, where: str) -> int:
        return int(_terms(self.M, self.pairs, where)[0].shape[0])


class _OfTerms:
    """R(A) of a Separated A: a sum of rank-one terms already."""

    def __init__(self, A: Separated, where: str) -> None:
        for i, F in enumerate(A.factors):
            _check.check_finite(_check.check_full_precision(F, where, "M"), where, f"M.factors[{i}]")
        _check.check_finite(A._weights, where, "M.scales")
        unit = A.merged().normalized()
        self.weights = _array.ldexp(unit._weights, -_array.exponent(unit._weights))
        self.like, self.pairs, self.columns = self.weights, A.shapes, unit._columns()
        self.size = _array.to_float(A.xp.sum(A.xp.abs(self.weights)))

    def values(self, left: list[int], right: list[int], where: str) -> Array:
        xp = _array.array_namespace(self.weights)
        R, S = (self._sweep([self.columns[i] for i in side]) for side in (left, right))
        return xp.linalg.svdvals((R * self.weights[None, :]) @ xp.matrix_transpose(S))

    def _sweep(self, columns: list[Array]) -> Array:
        """A matrix with the Gram matrix of the Khatri–Rao product of the columns."""
        ones = _array.array_namespace(self.weights).ones_like(self.weights)[None, :]
        return functools.reduce(lambda R, U: thin(khatri_rao(R, thin(U))), columns, ones)

    def terms(self, where: str) -> int:
        entries = [m * n for m, n in self.pairs]
        xp = _array.array_namespace(self.weights)
        stored = largest(xp.abs(self.weights), self.size * round_off(xp, self.like.dtype, self.weights.shape[0]))
        return min(len(stored), math.prod(entries) // (max(entries) or 1))
