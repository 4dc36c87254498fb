"""Mode compression: a d-way array on orthonormal bases of its mode spaces, so that a fit sees a small core only.

A sum of r rank-one terms lives in mode spaces of dimension <= r. They are read off one balanced 2-way unfolding, whose
leading singular vectors come from a few passes over the data, whatever the source: an array, a sparse matrix, blocks
on disk. All that follows is as small as those vectors.
"""

import functools
import math
from collections.abc import Callable
from typing import Any, NamedTuple

from . import _array
from ._array import Array, adjoint, conj
from .fit import smallest_rank, svd, tail_norms
from .kernels.terms import khatri_rao
from .rearranged import EXTRA, FromDense, Pairs, Rearranged, Triplets, to_tolerance

ROOM = 8  # under a tolerance: dimensions of a mode beyond twice the number that the tolerance asks for
TIGHT = 0.9  # share of a tolerance that the balanced unfolding may use up

Count = int | Callable[[Array], int]  # the dimension of a mode space, or that for given singular values


class Unfolded:
    """A d-way array as the fits see it: the rearranged matrix R(M) that holds its first modes | its last modes.

    shapes: (m_k, n_k) of all d modes of size m_k n_k; R rearranges by the pairs (Π m_k, Π n_k) of the first `split` and of
    the other modes. A plain array has shapes (n_k, 1).
    """

    def __init__(self, R: Rearranged, shapes: Pairs) -> None:
        self.R, self.shapes = R, shapes
        self.sizes = tuple(m * n for m, n in shapes)
        self.split = balanced_split(self.sizes)
        self.left, self.right = shapes[: self.split], shapes[self.split :]

    @property
    def norm(self) -> float:
        return float(self.R.norm)

    def columns(self, factors: list[Array]) -> tuple[Array, Array]:
        """(U, V) with R = U Vᵀ for the sum of the products of the columns of the factors (N_k, r)."""
        left, right = (functools.reduce(khatri_rao, F) for F in (factors[: self.split], factors[self.split :]))
        return _from_modes(left, self.left), _from_modes(right, self.right)

    def residual(self, factors: list[Array]) -> float:
        """‖T − Σ_l f_1^l ∘ … ∘ f_d^l‖, formed in chunks."""
        return self.R.residual(*self.columns(factors))

    def whole(self) -> Array:
        """The array itself in double precision, its modes in order."""
        xp, (rows, cols) = _array.array_namespace(self.R.like), self.R.shape
        if isinstance(self.R, FromDense):
            R = self.R.like
        else:
            R = self.R.times(xp.eye(cols, dtype=self.R.like.dtype, device=_array.device(self.R.like)))
        half = xp.reshape(_to_modes(_array.double(R), self.left), (rows, cols))
        turned = xp.reshape(_to_modes(xp.matrix_transpose(half), self.right), (cols, rows))
        return xp.reshape(xp.matrix_transpose(turned), self.sizes)


class Compressed(NamedTuple):
    """T ≈ core ×_1 Q_1 … ×_d Q_d with orthonormal Q_k (N_k, R_k), in double precision."""

    core: Array
    bases: list[Array]

    def lift(self, factors: list[Array]) -> list[Array]:
        """Factors of the core as factors of the array."""
        return [Q @ F for Q, F in zip(self.bases, factors, strict=True)]


def balanced_split(sizes: tuple[int, ...]) -> int:
    """The number of modes k that makes the longer side of the unfolding (1 … k | k+1 … d) shortest."""
    return min(range(1, len(sizes)), key=lambda k: max(math.prod(sizes[:k]), math.prod(sizes[k:])))


def grouped_pairs(shapes: Pairs) -> Pairs:
    """The pair of shapes by which `Unfolded` wants its matrix rearranged."""
    k = balanced_split(tuple(m * n for m, n in shapes))
    return tuple((math.prod(m for m, _ in group), math.prod(n for _, n in group)) for group in (shapes[:k], shapes[k:]))


def unfolded(T: Array) -> Unfolded:
    """A dense d-way array, d >= 2."""
    sizes = tuple(int(n) for n in T.shape)
    k = balanced_split(sizes)
    R = _array.array_namespace(T).reshape(T, (math.prod(sizes[:k]), math.prod(sizes[k:])))
    return Unfolded(FromDense(R), tuple((n, 1) for n in sizes))


def compress_modes(
    T: Array | Unfolded, rank: int | None = None, tol: float | None = None, rng: Any = None
) -> tuple[Compressed, float]:
    """The array on the leading singular vectors of its unfoldings, and the norm of what that leaves out.

    rank: min(rank, N_k) vectors of mode k, as many as a sum of that many terms needs. tol: as many as an error of tol ‖T‖
    needs, with room to spare; what is left out is below it. The singular vectors of the balanced unfolding come from
    block power (a few passes, 8 extra columns) or, where it is small, from an SVD; the modes follow one after the other
    (sequentially truncated HOSVD: Vannieuwenhoven, Vandebril and Meerbergen 2012).
    """
    T = T if isinstance(T, Unfolded) else unfolded(T)
    if rank is not None:
        triplets, _ = T.R.triplets(rank + EXTRA, rng)
        found = _on_modes(T, triplets, rank, rng)
        return found, left_out(T, found)
    tol, scale = tol or 0.0, T.norm or 1.0
    triplets, rest, _ = to_tolerance(T.R, TIGHT * tol, rng)
    for room in (ROOM, None):  # noise just below the tolerance has no small core without loss
        found = _on_modes(T, triplets, _cut(tol, scale, len(T.sizes), room), rng)
        outside = left_out(T, found) or rest
        if outside <= (1 - 1e-3) * tol * scale:
            break
    return found, outside


def refine_modes(T: Unfolded, factors: list[Array], rank: int, rng: Any) -> tuple[Compressed, float]:
    """The array on mode spaces that suit r given terms better than the singular vectors: one alternating step.

    The best left factors for the given right ones span Q = R conj(V); the other modes are the leading singular vectors of
    Qᴴ R. Where terms are near to parallel or the noise is large, this is what brings the error of a fit to its optimum.
    Two passes over the data.
    """
    _, V = T.columns(factors)
    R = T.R
    Q = _array.qr(R.times(_array.astype(conj(V), R.like.dtype)))[0]
    W, s, Z = svd(R.adjoint_times(Q))
    found = _on_modes(T, (Q @ conj(Z), s, conj(W)), rank, rng)
    return found, left_out(T, found)


def left_out(T: Unfolded, found: Compressed) -> float:
    """‖T‖² = ‖core‖² + what is left out²; by a pass over the data where the difference has lost its digits."""
    core, bases, k = found.core, found.bases, T.split
    outside = math.sqrt(max(0.0, T.norm**2 - _array.to_float(_array.frobenius(core)) ** 2))
    u = _array.unit_roundoff(_array.array_namespace(T.R.like), T.R.like.dtype)
    if outside > 10 * math.sqrt(u) * T.norm:
        return outside
    xp, rows = _array.array_namespace(core), math.prod(core.shape[:k])
    C = xp.reshape(core, (rows, math.prod(core.shape[k:])))
    eye = xp.eye(min(C.shape), dtype=C.dtype, device=_array.device(C))
    short = rows <= C.shape[1]
    U = _lifted(eye if short else C, bases[:k], T.left)
    return T.R.residual(U, _lifted(xp.matrix_transpose(C) if short else eye, bases[k:], T.right))


def least_rank(core: Array, error: float) -> int:
    """What the unfoldings of an array say about the terms of a sum with this error: it has as many or more."""
    return max(smallest_rank(tail_norms(_spectrum(core, k)), error) for k in range(core.ndim))


def weakest(T: Unfolded, found: Compressed) -> float:
    """The smallest singular value of the core among the modes that are compressed; infinity where none is."""
    cut = [k for k, n in enumerate(T.sizes) if found.core.shape[k] < n]
    return min([_array.to_float(_spectrum(found.core, k)[-1]) for k in cut], default=math.inf) or 2.0**-1000


def _spectrum(core: Array, mode: int) -> Array:
    xp, n = _array.array_namespace(core), core.shape[mode]
    return xp.linalg.svdvals(xp.reshape(xp.moveaxis(core, mode, 0), (n, math.prod(core.shape) // n)))


def _cut(tol: float, scale: float, modes: int, room: int | None) -> Callable[[Array], int]:
    """How many singular vectors of a mode an error of tol asks for."""

    def count(s: Array) -> int:
        tails = [t / scale for t in tail_norms(s)]
        enough = smallest_rank(tails, 0.1 * tol / math.sqrt(modes))
        return enough if room is None else min(enough, 2 * smallest_rank(tails, tol) + room)

    return count


# one mode after the other -------------------------------------------------------------------------------------------------


def _on_modes(T: Unfolded, triplets: Triplets, count: Count, rng: Any) -> Compressed:
    """The core of U diag(s) Vᵀ on the leading singular vectors of every mode."""
    U, s, V = (_array.double(X) for X in triplets)
    xp, s = _array.array_namespace(U), _array.astype(s, U.dtype)
    L, left = _hosvd(_to_modes(U * s, T.left), count, rng)
    R, right = _hosvd(_to_modes(V * s, T.right), count, rng)
    R = _to_modes(V, T.right)  # without the weights, which stand in L
    for i, Q in enumerate(right):
        R = _project(R, Q, i)
    b = s.shape[0]
    core = xp.reshape(L, (math.prod(L.shape[:-1]), b)) @ xp.matrix_transpose(
        xp.reshape(R, (math.prod(R.shape[:-1]), b))
    )
    return Compressed(xp.reshape(core, (*L.shape[:-1], *R.shape[:-1])), [*left, *right])


def _hosvd(X: Array, count: Count, rng: Any) -> tuple[Array, list[Array]]:
    """X (N_1, …, N_k, b) on the leading left singular vectors of its first k modes, and these."""
    bases = []
    for i in range(X.ndim - 1):
        bases.append(_space(X, i, count, rng))
        X = _project(X, bases[-1], i)
    return X, bases


def _space(X: Array, mode: int, count: Count, rng: Any) -> Array:
    """The leading left singular vectors of one unfolding."""
    xp, n = _array.array_namespace(X), X.shape[mode]
    Y = FromDense(xp.reshape(xp.moveaxis(X, mode, 0), (n, math.prod(X.shape) // max(1, n))))
    if isinstance(count, int) and 4 * (count + EXTRA) < min(Y.shape):
        return Y.leading(count + EXTRA, rng)[0][:, :count]
    U, s, _ = svd(Y.like if Y.shape[0] >= Y.shape[1] else adjoint(_array.qr_triangle(adjoint(Y.like))))
    return U[:, : min(count if isinstance(count, int) else count(s), U.shape[1])]


def _project(X: Array, Q: Array, mode: int) -> Array:
    """Qᴴ along one mode."""
    xp = _array.array_namespace(X)
    head, tail = math.prod(X.shape[:mode]), math.prod(X.shape[mode + 1 :])
    Y = adjoint(Q) @ xp.reshape(X, (head, X.shape[mode], tail))
    return xp.reshape(Y, (*X.shape[:mode], Q.shape[1], *X.shape[mode + 1 :]))


def _lifted(X: Array, bases: list[Array], shapes: Pairs) -> Array:
    """Q_1 ⊗ … ⊗ Q_k times columns, the rows in the order of vec of the matrices (Π m_k, Π n_k)."""
    xp, b = _array.array_namespace(X), X.shape[1]
    Y = xp.reshape(X, (*(Q.shape[1] for Q in bases), b))
    for i, Q in enumerate(bases):
        Y = _project(Y, adjoint(Q), i)
    return _from_modes(xp.reshape(Y, (-1, b)), shapes)


# the order of the entries -------------------------------------------------------------------------------------------------


def _to_modes(X: Array, shapes: Pairs) -> Array:
    """Columns that are vec of matrices (Π m_k, Π n_k), as an array (m_1 n_1, …, m_k n_k, columns)."""
    xp, k, b = _array.array_namespace(X), len(shapes), X.shape[1]
    split = xp.reshape(X, (*(m for m, _ in shapes), *(n for _, n in shapes), b))
    mixed = xp.permute_dims(split, (*(i for j in range(k) for i in (j, k + j)), 2 * k))
    return xp.reshape(mixed, (*(m * n for m, n in shapes), b))


def _from_modes(X: Array, shapes: Pairs) -> Array:
    """Columns over the modes (m_1 n_1 ⋯ m_k n_k), their entries in the order of vec of matrices (Π m_k, Π n_k)."""
    xp, k, b = _array.array_namespace(X), len(shapes), X.shape[1]
    split = xp.reshape(X, (*(i for pair in shapes for i in pair), b))
    mixed = xp.permute_dims(split, (*range(0, 2 * k, 2), *range(1, 2 * k, 2), 2 * k))
    return xp.reshape(mixed, X.shape)
