"""The nearest matrices that have a closed form: low rank, circulant, skew-circulant, Toeplitz, Hankel.

The bases of the last four are 0/±1 matrices with disjoint supports, hence orthogonal: the best coefficient is the
(signed) mean over the support, and every Fit here is optimal in the Frobenius norm.
"""

from typing import Any

from . import _array, _check
from ._array import Array
from .errors import ShapeError
from .fit import Fit, as_target, check_tolerance, relative_error, smallest_rank, svd, tail_norms
from .low_rank import LowRank
from .matrix import StructuredMatrix
from .toeplitz import Circulant, Hankel, SkewCirculant, Toeplitz

__all__ = ["nearest_circulant", "nearest_hankel", "nearest_low_rank", "nearest_skew_circulant", "nearest_toeplitz"]


def nearest_low_rank(M: Any, rank: int | None = None, tol: float | None = None) -> Fit:
    """The best LowRank approximation: the truncated singular value decomposition (Eckart and Young 1936).

    M: dense (m, n). rank: 1 to min(m, n), or tol: the smallest rank whose relative error is at most tol.
    Costs one SVD. Raises ArgumentError for an impossible rank or tol, NonFiniteError, DTypeError.

    >>> import numpy as np, sepmat as sm
    >>> sm.nearest_low_rank(np.diag([4.0, 3.0, 0.0]), rank=1).relative_error
    0.6
    """
    where = "nearest_low_rank"
    _check.one_of(where, rank=rank, tol=tol)
    with _array.quiet():
        M, k = as_target(M, where)
        if rank is not None:
            rank = _check.as_integer(rank, where, "rank", maximum=max(1, min(M.shape)))
        else:
            tol = check_tolerance(tol, M, where)
        U, s, V = svd(M)
        if rank is None:
            tails = tail_norms(s)
            rank = smallest_rank([t / (tails[0] or 1.0) for t in tails], tol or 0.0)
        rank = min(rank, s.shape[0])
        half = _array.astype(_array.array_namespace(M).sqrt(s[:rank]), M.dtype)
        U, V = U[:, :rank] * half, V[:, :rank] * half
        error = relative_error(M, LowRank._of(U=U, V=V)._to_dense())
        # 2^k goes to both factors, so that neither leaves the range before the product does
        A = LowRank._of(U=_array.ldexp(U, k // 2), V=_array.ldexp(V, k - k // 2))
        return Fit(A, error, A.num_parameters, optimal=True)


def nearest_circulant(M: Any) -> Fit:
    """The best Circulant: c_k = mean of M[i, j] over (i − j) mod N = k.

    M: dense (m, n); a rectangular one is met by the top-left corner of an N×N circulant, N = max(m, n). Costs m n.
    Passes gradients. Raises NonFiniteError, DTypeError.

    >>> import numpy as np, sepmat as sm
    >>> sm.nearest_circulant(np.array([[1.0, 2.0], [4.0, 3.0]])).matrix.to_dense()
    array([[2., 3.],
           [3., 2.]])
    """
    return _wrapped(M, "nearest_circulant", Circulant, 1.0)


def nearest_skew_circulant(M: Any) -> Fit:
    """The best SkewCirculant: c_k = mean of ±M[i, j] over (i − j) mod N = k, − above the diagonal, where entries are −c_k.

    M: dense (m, n); a rectangular one is met by the top-left corner of an N×N skew-circulant, N = max(m, n). Costs m n.
    Passes gradients. Raises NonFiniteError, DTypeError.

    >>> import numpy as np, sepmat as sm
    >>> sm.nearest_skew_circulant(np.array([[1.0, -2.0], [4.0, 3.0]])).matrix.to_dense()
    array([[ 2., -3.],
           [ 3.,  2.]])
    """
    return _wrapped(M, "nearest_skew_circulant", SkewCirculant, -1.0)


def _wrapped(M: Any, where: str, structure: type[Circulant] | type[SkewCirculant], sign: float) -> Fit:
    with _array.quiet():
        M, k = as_target(M, where)
        m, n = M.shape
        N = max(m, n)
        if 0 in M.shape:
            return _projection(M, k, structure(_zeros(M, N), shape=(m, n)))
        t = _diagonal_sums(M)
        xp = _array.array_namespace(M)
        below = xp.concat((t[n - 1 :], _zeros(M, N - m)))  # diagonals 0 … m-1, then those that M does not have
        above = xp.concat((_zeros(M, N - n + 1), t[: n - 1]))  # diagonal k − N stands in place k
        return _projection(M, k, structure((below + sign * above) / min(m, n), shape=(m, n)))


def nearest_toeplitz(M: Any, symmetric: bool = False) -> Fit:
    """The best Toeplitz matrix: the mean of every diagonal. M: dense (m, n). Costs m n.

    symmetric: the mean over the diagonals k and −k, so that t_k = t_{−k} (also for complex M); a real square result
    then stores its first column only. Passes gradients. Raises ShapeError for 0×n (no corner entry),
    NonFiniteError, DTypeError.

    >>> import numpy as np, sepmat as sm
    >>> fit = sm.nearest_toeplitz(np.array([[1.0, 2.0], [4.0, 3.0]]))
    >>> fit.matrix.to_dense(), fit.num_parameters
    (array([[2., 2.],
           [4., 2.]]), 3)
    >>> sm.nearest_toeplitz([[1.0, 2.0], [4.0, 3.0]], symmetric=True).num_parameters
    2
    """
    symmetric = _check.as_flag(symmetric, "nearest_toeplitz", "symmetric")
    with _array.quiet():
        M, k = as_target(M, "nearest_toeplitz")
        m, n = _with_corner(M, "nearest_toeplitz")
        if m == 0:
            return _projection(M, k, Toeplitz(_zeros(M, 0), _zeros(M, 0)))
        xp = _array.array_namespace(M)
        sums, counts = _diagonal_sums(M), _counts(M)
        if not symmetric:
            t = sums / counts
            return _projection(M, k, Toeplitz(t[n - 1 :], xp.flip(t[:n])))
        t = _folded(M, sums) / _folded(M, counts)
        if m == n and not _array.is_complex(M):
            return _projection(M, k, Toeplitz(t))
        return _projection(M, k, Toeplitz(t[:m], t[:n]))


def _folded(M: Array, t: Array) -> Array:
    """Σ of t over the diagonals k and −k, for k = 0 … max(m, n) − 1."""
    (m, n), xp = M.shape, _array.array_namespace(M)
    N = max(m, n)
    above = xp.concat((_zeros(M, 1), xp.flip(t[: n - 1]), _zeros(M, N - n)))
    return xp.concat((t[n - 1 :], _zeros(M, N - m))) + above


def nearest_hankel(M: Any) -> Fit:
    """The best Hankel matrix: the mean of every anti-diagonal. M: dense (m, n). Costs m n. Passes gradients.

    >>> import numpy as np, sepmat as sm
    >>> sm.nearest_hankel(np.array([[1.0, 2.0], [4.0, 3.0]])).matrix.to_dense()
    array([[1., 3.],
           [3., 3.]])
    """
    with _array.quiet():
        M, k = as_target(M, "nearest_hankel")
        m, _ = _with_corner(M, "nearest_hankel")
        if m == 0:
            return _projection(M, k, Hankel(_zeros(M, 0), _zeros(M, 0)))
        t = _antidiagonal_sums(M) / _counts(M)
        return _projection(M, k, Hankel(t[:m], t[m - 1 :]))


def _projection(M: Array, k: int, A: StructuredMatrix) -> Fit:
    """The Fit of 2^k M by 2^k A, for a class that is linear in its arrays."""
    error = relative_error(M, A._to_dense())
    return Fit(A.map(lambda a: _array.ldexp(a, k)), error, A.num_parameters, optimal=True)


def _with_corner(M: Array, where: str) -> tuple[int, int]:
    m, n = M.shape
    if (m == 0) != (n == 0):
        raise ShapeError(where, "M", f"{m}×{n}", "rows and columns, or 0×0", "The corner entry would be undefined")
    return m, n


def _zeros(like: Array, n: int) -> Array:
    return _array.array_namespace(like).zeros((n,), dtype=like.dtype, device=_array.device(like))


def _antidiagonal_sums(M: Array) -> Array:
    """Σ_{i+j=k} M[i, j] for k = 0 … m+n−2. m and n are at least 1.

    Skewing: with m zero columns appended and read in rows that are one entry shorter, row i moves i places right.
    """
    (m, n), xp = M.shape, _array.array_namespace(M)
    zeros = xp.zeros((m, m), dtype=M.dtype, device=_array.device(M))
    flat = xp.reshape(xp.concat((M, zeros), axis=1), (-1,))
    return xp.sum(xp.reshape(flat[: m * (m + n - 1)], (m, m + n - 1)), axis=0)


def _diagonal_sums(M: Array) -> Array:
    """Σ_{i−j=k} M[i, j] for k = −(n−1) … m−1."""
    return _antidiagonal_sums(_array.array_namespace(M).flip(M, axis=1))


def _counts(M: Array) -> Array:
    """The number of entries of every (anti-)diagonal."""
    (m, n), xp = M.shape, _array.array_namespace(M)
    counts = [min(k + 1, m, n, m + n - 1 - k) for k in range(m + n - 1)]
    return xp.asarray([float(c) for c in counts], dtype=M.dtype, device=_array.device(M))
