"""R(M) of a SciPy sparse matrix: the nonzeros move, nothing is formed."""

import math
from collections.abc import Iterator
from typing import Any

from .. import _array, _check
from .._array import Array, conj
from ..fit import svd
from ..linalg import norm
from ..low_rank import LowRank
from ..rearranged import Block, FromDense, Pairs, Rearranged, Triplets, residual, total
from .source import Source, two_dimensional

DENSE = 2**22  # entries up to which the nonzero rows and columns of R(M) are kept as an array
SQUARES = 1e-6  # share of the norm above which a residual may be a difference of squares: right to four digits there


def sparse_source(M: Any, where: str) -> Source:
    shape = two_dimensional(M, where)
    M = M.tocoo(copy=True)
    M.sum_duplicates()
    data = _check.check_full_precision(_check.as_array(M.data, where, "M.data", 1), where, "M.data")
    _check.check_finite(data, where, "M.data")
    k = _array.exponent(data)
    data, xp = _array.ldexp(data, -k), _array.array_namespace(data)
    row, col = (xp.astype(xp.asarray(index), xp.int64) for index in (M.row, M.col))
    return Source(shape, data, (k // 2, k - k // 2), lambda pairs: FromSparse(row, col, data, pairs))


class FromSparse(Rearranged):
    """R(M) of a sparse M: the same nonzeros in other places. Rows and columns without any are left out of the work."""

    def __init__(self, row: Array, col: Array, data: Array, pairs: Pairs) -> None:
        import scipy.sparse

        (m1, n1), (m2, n2) = pairs
        xp = _array.array_namespace(data)
        self.like, self.shape = data, (m1 * n1, m2 * n2)
        self.rows, i = xp.unique_inverse(row // m2 * n1 + col // n2)
        self.cols, j = xp.unique_inverse(row % m2 * n2 + col % n2)
        S = scipy.sparse.csr_array((data, (i, j)), shape=(self.rows.shape[0], self.cols.shape[0]))
        self.inner: Rearranged = FromDense(S.toarray()) if math.prod(S.shape) <= DENSE else FromNonzeros(S)
        self.norm = self.inner.norm

    def times(self, X: Array) -> Array:
        return self._spread(self.inner.times(self._only(X, self.cols)), self.rows, 0)

    def adjoint_times(self, Y: Array) -> Array:
        return self._spread(self.inner.adjoint_times(self._only(Y, self.rows)), self.cols, 1)

    def residual(self, U: Array, V: Array) -> float:
        inside, right = self._only(U, self.rows), self._only(V, self.cols)
        above, beside = U - self._spread(inside, self.rows, 0), V - self._spread(right, self.cols, 1)
        outside = [_product_norm(above, V), _product_norm(inside, beside)]  # of U Vᵀ where R has no entries
        return math.hypot(self.inner.residual(inside, right), *outside)

    def svd(self) -> Triplets:
        return self._lifted(self.inner.svd())

    def triplets(self, block: int, rng: Any, exact: bool = False) -> tuple[Triplets, bool]:
        found, exact = self.inner.triplets(block, rng, exact)
        return self._lifted(found), exact

    def _lifted(self, triplets: Triplets) -> Triplets:
        U, s, V = triplets
        return self._spread(U, self.rows, 0), s, self._spread(V, self.cols, 1)

    def _only(self, X: Array, indices: Array) -> Array:
        return _array.array_namespace(X).take(X, indices, axis=0)

    def _spread(self, X: Array, indices: Array, axis: int) -> Array:
        """Rows to their places, zeros elsewhere."""
        xp = _array.array_namespace(X)
        if not X.shape[0]:
            return xp.zeros((self.shape[axis], X.shape[1]), dtype=X.dtype)
        places = xp.arange(self.shape[axis], dtype=xp.int64)
        found = xp.clip(xp.searchsorted(indices, places), 0, max(0, indices.shape[0] - 1))
        there = xp.astype(xp.take(indices, found) == places, X.dtype)
        return xp.take(X, found, axis=0) * there[:, None]


def _product_norm(U: Array, V: Array) -> float:
    return _array.to_float(norm.rule(LowRank._of(U=U, V=_array.astype(V, U.dtype)), "fro"))


class FromNonzeros(Rearranged):
    """A large sparse matrix in compressed rows."""

    def __init__(self, S: Any) -> None:
        self.S, self.shape, self.like = S, tuple(S.shape), S.data
        self.norm = total(iter([S.data]))

    def times(self, X: Array) -> Array:
        return self.S @ X

    def adjoint_times(self, Y: Array) -> Array:
        return conj(self.S.T @ conj(Y))

    def _blocks(self) -> Iterator[Block]:
        step = max(1, 2**20 // self.shape[1])
        return ((i, 0, self.S[i : i + step].toarray()) for i in range(0, self.shape[0], step))

    def residual(self, U: Array, V: Array) -> float:
        """On the nonzeros, and ‖U Vᵀ‖² less its share there; row by row where that loses its digits."""
        xp, S = _array.array_namespace(U), self.S.tocoo()
        U, V = _array.double(U), _array.double(V)
        there, differences = [], []
        for i in range(0, S.nnz, 2**18):
            row, col, data = (x[i : i + 2**18] for x in (S.row, S.col, S.data))
            there.append(xp.sum(xp.take(U, row, axis=0) * xp.take(V, col, axis=0), axis=1))
            differences.append(data - there[-1])
        elsewhere = _product_norm(U, V) ** 2 - total(iter(there)) ** 2
        found = math.sqrt(total(iter(differences)) ** 2 + max(0.0, elsewhere))
        return found if found > SQUARES * self.norm else residual(self._blocks(), U, V)

    def svd(self) -> Triplets:
        _check.check_bytes(
            self.shape, _array.itemsize(self.like.dtype), _check.DENSE_LIMIT, "nearest_kronecker", "Use exact=False"
        )
        return svd(self.S.toarray())
