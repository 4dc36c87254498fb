"""The rearranged matrix R(M) of Van Loan and Pitsianis as the fits see it: products, residuals and a full SVD.

Of a dense M it is a permuted copy; of a low-rank M = U Vᵀ it is never formed. Sparse matrices, operators and matrices
larger than memory stand in `sources`.
"""

import abc
import functools
import math
from collections.abc import Iterator
from typing import Any

from . import _array
from ._array import Array, adjoint, conj
from .fit import svd
from .linalg import norm
from .low_rank import LowRank

CHUNK = 2**16  # entries of R(M) that a residual forms at a time: 512 kB stay in the L2 cache
WIDTH = 2**12  # columns of such a chunk at most
EXTRA = 8  # columns of a block beyond the rank
POWERS = 12  # power iterations at most
# Settled when the next half iteration would gain less than this share of the squared error, less the more of the spectrum
# the block holds: within 1.003 of the optimum on a flat spectrum, after 2 iterations where the block is small.
SETTLED = 1.3e-3

Pairs = tuple[tuple[int, int], ...]
Triplets = tuple[Array, Array, Array]  # U, s, V with R ≈ U diag(s) Vᵀ
Block = tuple[int, int, Array]  # the row and the column of R where it starts


class Rearranged(abc.ABC):
    """R(M) as the fits see it. like: an array of the library, device and dtype in which it is fitted."""

    shape: tuple[int, int]
    like: Array
    norm: Any  # ‖R‖_F, a float

    @abc.abstractmethod
    def times(self, X: Array) -> Array:
        """R X."""

    @abc.abstractmethod
    def adjoint_times(self, Y: Array) -> Array:
        """Rᴴ Y."""

    @abc.abstractmethod
    def residual(self, U: Array, V: Array) -> float:
        """‖R − U Vᵀ‖_F, formed in chunks, in double precision."""

    @abc.abstractmethod
    def svd(self) -> Triplets:
        """The full singular value decomposition."""

    def leading(self, block: int, rng: Any) -> Triplets:
        """About the first `block` triplets; those beyond block − EXTRA only serve the others.

        Halko, Martinsson and Tropp (2011), algorithms 4.4 and 5.1: subspace iteration with Rayleigh–Ritz values, which
        are looked at after every half iteration. A is R or Rᴴ, the taller: A ≈ L diag(s) Kᴴ.
        """
        xp, tall = _array.array_namespace(self.like), self.shape[0] >= self.shape[1]
        times, adjoint_times = (self.times, self.adjoint_times) if tall else (self.adjoint_times, self.times)
        L = _array.qr(times(_array.normal(rng, (min(self.shape), block), self.like)))[0]
        before, floor = None, 16 * _array.unit_roundoff(xp, L.dtype)
        settled = SETTLED * (1 - 4 * block / min(self.shape))
        for half in range(2 * POWERS + 1):
            if half % 2 == 0:
                K, s, Z = svd(adjoint_times(L))  # Aᴴ L = K diag(s) Zᵀ
                L = L @ conj(Z)
            else:
                Q, T = _array.qr(times(K))
                P, s, Z = svd(T)  # A K = Q P diag(s) Zᵀ
                L, K = Q @ P, K @ conj(Z)
            captured, last = _energy(s, block - EXTRA), _array.to_float(s[-1])
            decay = (last / (_array.to_float(s[block - EXTRA - 1]) or 1.0)) ** 2  # of the gains
            if before is not None and (
                decay * (captured - before) <= settled * (self.norm**2 - captured)
                or last <= floor * _array.to_float(s[0])  # nothing is left outside the block
            ):
                break
            before = captured
        return (L, s, conj(K)) if tall else (K, s, conj(L))

    def triplets(self, block: int, rng: Any, exact: bool = False) -> tuple[Triplets, bool]:
        """At least min(block, size) triplets, largest first, and whether they are those of the full SVD."""
        if exact or 4 * block >= min(self.shape):
            return self.svd(), True
        return self.leading(block, rng), False


def to_tolerance(R: Rearranged, tol: float, rng: Any, exact: bool = False) -> tuple[Triplets, float, bool]:
    """As many triplets as the tolerance asks for or more, from blocks that double; what they leave out; whether exact."""
    block = EXTRA
    while True:
        (U, s, V), full = R.triplets(block + EXTRA, rng, exact)
        rest = 0.0 if full else R.residual(U * _array.astype(s, U.dtype), V)
        if full or rest <= tol * (R.norm or 1.0):
            return (U, s, V), rest, full
        block *= 2


def _energy(s: Array, rank: int) -> float:
    return _array.to_float(_array.array_namespace(s).sum(s[: min(rank, s.shape[0])] ** 2))


class FromDense(Rearranged):
    """R(M) of a dense M, or a part of it."""

    def __init__(self, R: Array, pairs: Pairs = ()) -> None:
        self.like, self.shape, self.pairs = R, (int(R.shape[0]), int(R.shape[1])), pairs

    @functools.cached_property
    def norm(self) -> float:
        step = max(1, CHUNK // max(1, self.shape[1]))
        return total(self.like[i : min(i + step, self.shape[0]), :] for i in range(0, self.shape[0], step))

    @functools.cached_property
    def hermitian(self) -> bool:
        """Whether M = Mᴴ and both factors are square; block row after block row, the first of which decides most cases."""
        if 0 in self.shape or any(m != n for m, n in self.pairs):
            return False
        xp, ((p, _), (q, _)) = _array.array_namespace(self.like), self.pairs
        R = xp.reshape(self.like, (p, p, q, q))
        return all(bool(xp.all(R[i, i:, :, :] == adjoint(R[i:, i, :, :]))) for i in range(p))

    def times(self, X: Array) -> Array:
        return self.like @ X

    def adjoint_times(self, Y: Array) -> Array:
        return adjoint(adjoint(Y) @ self.like)  # a third faster than the transpose of R from the left

    def _blocks(self) -> Iterator[Block]:
        m, n = self.shape
        width = min(max(1, n), WIDTH)
        height = max(1, CHUNK // width)
        for i in range(0, m, height):
            for j in range(0, n, width):
                yield i, j, self.like[i : min(i + height, m), j : min(j + width, n)]

    def residual(self, U: Array, V: Array) -> float:
        return residual(self._blocks(), U, V)

    def svd(self) -> Triplets:
        return svd(self.like)


class FromLowRank(Rearranged):
    """R(U Vᵀ) = Σ_j U_j ⊗ V_j with U_j = mat(U[:, j]) m1×m2 and V_j = mat(V[:, j]) n1×n2, without forming it."""

    def __init__(self, U: Array, V: Array, pairs: Pairs) -> None:
        xp = _array.array_namespace(U)
        ((m1, n1), (m2, n2)), r = pairs, U.shape[1]
        self.U = xp.reshape(xp.matrix_transpose(U), (r, m1, m2))
        self.V = xp.reshape(xp.matrix_transpose(V), (r, n1, n2))
        self.like, self.shape = U, (m1 * n1, m2 * n2)
        self.norm = _array.to_float(norm.rule(LowRank._of(U=U, V=V), "fro")) if r else 0.0

    def times(self, X: Array) -> Array:
        return _mode_products(self.U, self.V, X)

    def adjoint_times(self, Y: Array) -> Array:
        transpose = _array.array_namespace(Y).matrix_transpose
        return conj(_mode_products(transpose(self.U), transpose(self.V), conj(Y)))

    def residual(self, U: Array, V: Array) -> float:
        m1, (n1, n2), m2 = self.U.shape[1], self.V.shape[1:], self.U.shape[2]
        step = max(1, CHUNK // max(1, n1 * m2 * n2))
        starts = range(0, m1, step)
        return residual(((i * n1, 0, kron_sum(self.U[:, i : min(i + step, m1), :], self.V)) for i in starts), U, V)

    def svd(self) -> Triplets:
        """Of the core Σ_j (Q_aᴴ U_j conj(Q_c)) ⊗ (Q_bᴴ V_j conj(Q_d)), lifted back by Q_a ⊗ Q_b and Q_c ⊗ Q_d."""
        xp = _array.array_namespace(self.U)
        U, Qa, Qc = _compressed(self.U)
        V, Qb, Qd = _compressed(self.V)
        left, s, right = svd(kron_sum(U, V))

        def lift(P: Array, Q: Array, X: Array) -> Array:
            Y = P @ xp.reshape(X, (P.shape[1], -1))
            Y = Q @ xp.reshape(Y, (P.shape[0], Q.shape[1], X.shape[1]))
            return xp.reshape(Y, (P.shape[0] * Q.shape[0], X.shape[1]))

        return lift(Qa, Qb, left), s, lift(Qc, Qd, right)


def _mode_products(U: Array, V: Array, X: Array) -> Array:
    """Σ_j vec(U_j X V_jᵀ) for every column of X."""
    xp = _array.array_namespace(X)
    (r, m1, m2), (_, n1, n2), b = U.shape, V.shape, X.shape[1]
    left = xp.reshape(U @ xp.reshape(X, (m2, n2 * b)), (r, m1, n2, b))
    left = xp.reshape(xp.permute_dims(left, (1, 0, 2, 3)), (m1, r * n2, b))
    right = xp.reshape(xp.permute_dims(V, (1, 0, 2)), (n1, r * n2))
    return xp.reshape(right @ left, (m1 * n1, b))


def kron_sum(U: Array, V: Array) -> Array:
    """Σ_j U_j ⊗ V_j, dense."""
    xp = _array.array_namespace(U)
    (r, a, b), (_, c, d) = U.shape, V.shape
    product = xp.matrix_transpose(xp.reshape(U, (r, a * b))) @ xp.reshape(V, (r, c * d))
    return xp.reshape(xp.permute_dims(xp.reshape(product, (a, b, c, d)), (0, 2, 1, 3)), (a * c, b * d))


def _compressed(U: Array) -> Triplets:
    """(Û, P, Q) with U_j = P Û_j Qᵀ for every j, P and Q with orthonormal columns."""
    xp = _array.array_namespace(U)
    r, m, n = U.shape
    P = xp.linalg.qr(xp.reshape(xp.permute_dims(U, (1, 0, 2)), (m, r * n)))[0]
    Q = xp.linalg.qr(xp.reshape(xp.permute_dims(U, (2, 0, 1)), (n, r * m)))[0]
    return adjoint(P) @ U @ conj(Q), P, Q


def residual(blocks: Iterator[Block], U: Array, V: Array) -> float:
    """‖R − U Vᵀ‖_F for R given by its blocks; in double precision, so that it is true for single data too."""
    U, V = _array.double(U), _array.double(V)
    transpose = _array.array_namespace(V).matrix_transpose

    def differences() -> Iterator[Array]:
        for i, j, X in blocks:
            m, n = X.shape
            yield _array.astype(X, V.dtype) - U[i : i + m, :] @ transpose(V[j : j + n, :])

    return total(differences())


def total(blocks: Iterator[Array]) -> float:
    """‖·‖_F of blocks of a matrix that is already scaled to 1."""
    return math.hypot(0.0, *map(_norm, blocks))


def _norm(X: Array) -> float:
    """In double precision; twice as fast as linalg.vector_norm in NumPy."""
    xp = _array.array_namespace(X)
    x = xp.reshape(_array.double(X), (-1,))
    return math.sqrt(max(0.0, _array.to_float(xp.real(xp.vecdot(x, x)) if _array.is_complex(x) else xp.vecdot(x, x))))
