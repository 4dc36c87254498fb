"""The orthonormal tree: a dense d-way array as a finite sum of rank-one terms, by one SVD after another."""

import math

from . import _array
from ._array import Array
from .fit import tail_norms

FLOOR = 16  # a tail below FLOOR u ‖T‖ is round-off of the SVD


def tree(T: Array, tol: float = 0.0, rank: int | None = None) -> tuple[Array, list[Array]]:
    """(w, [F_1, …, F_d]) with T ≈ Σ_l w_l F_1[:, l] ∘ … ∘ F_d[:, l], nothing conjugated.

    T: finite, (n_1, …, n_d), d >= 1, real or complex. w: (r,), real, descending, > 0; F_k: (n_k, r), unit columns.
    The smallest mode is split from the others by an SVD, then every right factor is split in the same way, until one
    mode is left: the terms are at most all sizes but the largest multiplied (the singular vectors for d = 2, T itself
    for d = 1), one another's orthogonal complement at the node where they part. So they are orthonormal, κ = 1 and
    ‖T − T̂‖² is the sum of the squared weights that are left out. There are more terms than in a best sum: it is a
    start for one, and an upper bound of its length.

    tol: leave out small weights, relative error <= tol; round-off (16 u ‖T‖ a level) is always left out, and a zero
    array has no terms. rank: the largest weights only. Cost O(size × smallest n) a level; memory of one T.
    Source: Van Loan and Pitsianis (1993) for d = 2; applied again to every right factor for d > 2.

    >>> import numpy as np
    >>> w, (A, B, C) = tree(np.ones((2, 3, 4)))
    >>> w.shape, A.shape, B.shape, C.shape, bool(np.isclose(w[0] ** 2, 24))
    ((1,), (2, 1), (3, 1), (4, 1), True)
    """
    xp, shape = _array.array_namespace(T), tuple(int(n) for n in T.shape)
    order = sorted(range(len(shape)), key=lambda k: shape[k])
    e = _array.exponent(T)
    rest = xp.reshape(_array.ldexp(xp.permute_dims(T, tuple(order)), -e), (1, math.prod(shape)))
    weights = _array.frobenius(rest, axis=1)
    norm = _array.to_float(weights[0])
    rest = rest / (weights[0] if norm else 1.0)
    floor = FLOOR * _array.unit_roundoff(xp, T.dtype) * norm
    found: list[Array] = []  # (terms, n_k) of the modes split so far
    for level, k in enumerate(order[:-1]):
        nodes, later = rest.shape[0], math.prod(shape[j] for j in order[level + 1 :])
        split = min(shape[k], later)
        if not nodes or not split:
            return xp.zeros_like(weights[:0]), [xp.zeros((n, 0), dtype=T.dtype, device=_array.device(T)) for n in shape]
        U, s, Vt = xp.linalg.svd(xp.reshape(rest, (nodes, shape[k], later)), full_matrices=False)
        weights = xp.reshape(weights[:, None] * s, (nodes * split,))
        kept = _largest(weights, floor)
        parents, kept = (
            xp.asarray(i, dtype=xp.int64, device=_array.device(T)) for i in ([j // split for j in kept], kept)
        )
        weights = xp.take(weights, kept)
        found = [xp.take(F, parents, axis=0) for F in found]
        found.append(xp.take(xp.reshape(xp.matrix_transpose(U), (nodes * split, shape[k])), kept, axis=0))
        rest = xp.take(xp.reshape(Vt, (nodes * split, later)), kept, axis=0)
    kept = xp.asarray(_largest(weights, tol * norm)[:rank], dtype=xp.int64, device=_array.device(T))
    columns = dict(zip(order, [*found, rest], strict=True))
    factors = [xp.matrix_transpose(xp.take(columns[k], kept, axis=0)) for k in range(len(shape))]
    return _array.ldexp(xp.take(weights, kept), e), factors


def _largest(weights: Array, error: float) -> list[int]:
    """The fewest indices, largest weight first, such that the norm of the other weights is at most error."""
    values = _array.to_numpy(weights).tolist()
    order = sorted(range(len(values)), key=lambda i: -values[i])
    xp = _array.array_namespace(weights)
    tails = tail_norms(xp.sort(weights, descending=True))
    return order[: next(k for k, tail in enumerate(tails) if tail <= error)]
