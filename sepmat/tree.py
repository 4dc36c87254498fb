"""The orthonormal tree: a dense d-way array as a finite sum of rank-one terms, by one SVD after another."""

import math
from typing import Any

from . import _array
from ._array import Array
from .fit import tail_norms


def round_off(xp: Any, dtype: Any, *shape: int) -> float:
    """The share of ‖M‖_F that singular values of M may hold by round-off alone: 4 u √(longest side); seen: 1.3."""
    return 4 * _array.unit_roundoff(xp, dtype) * math.sqrt(max(shape))


def tree(T: Array, tol: float = 0.0, rank: int | None = None) -> tuple[Array, list[Array]]:
    """(w, [F_1, …, F_d]) with T ≈ Σ_l w_l F_1[:, l] ∘ … ∘ F_d[:, l], nothing conjugated.

    T: finite, (n_1, …, n_d), d >= 1, real or complex. w: (r,), real, descending, > 0; F_k: (n_k, r), unit columns.
    The smallest mode is split from the others by an SVD, then every right factor is split in the same way, until one
    mode is left: at most Π n_k / max n_k terms (the singular triplets for d = 2, T itself for d = 1). Two terms have
    orthogonal factors in the mode where their paths part, so the terms are orthonormal, κ = 1 and ‖T − T̂‖² is the
    sum of the squared weights left out. The best sums have fewer terms: this is a start for them, and an upper bound.

    tol: leave out small weights, relative error <= tol; what is round-off at its split is always left out, and a zero
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
    found: list[Array] = []  # (terms, n_k) of the modes split so far
    for level, k in enumerate(order[:-1]):
        nodes, later = rest.shape[0], math.prod(shape[j] for j in order[level + 1 :])
        split = min(shape[k], later)
        if not nodes or not split:
            return xp.zeros_like(weights[:0]), [xp.zeros((n, 0), dtype=T.dtype, device=_array.device(T)) for n in shape]
        U, s, Vt = xp.linalg.svd(xp.reshape(rest, (nodes, shape[k], later)), full_matrices=False)
        weights = xp.reshape(weights[:, None] * s, (nodes * split,))
        kept = largest(weights, norm * round_off(xp, T.dtype, shape[k], later))
        weights = take(weights, kept)
        found = [take(F, [i // split for i in kept]) for F in found]
        found.append(take(xp.reshape(xp.matrix_transpose(U), (nodes * split, shape[k])), kept))
        rest = take(xp.reshape(Vt, (nodes * split, later)), kept)
    kept = largest(weights, tol * norm)[:rank]
    rows = dict(zip(order, [*found, rest], strict=True))
    return _array.ldexp(take(weights, kept), e), [xp.matrix_transpose(take(rows[k], kept)) for k in range(len(shape))]


def largest(weights: Array, error: float) -> list[int]:
    """The fewest indices, largest weight first, such that the norm of the other weights is at most error."""
    values = _array.to_numpy(weights).tolist()
    order = sorted(range(len(values)), key=lambda i: -values[i])
    xp = _array.array_namespace(weights)
    tails = tail_norms(xp.sort(weights, descending=True))
    return order[: next(k for k, tail in enumerate(tails) if tail <= error)]


def take(x: Array, indices: list[int]) -> Array:
    """x[indices] along the first axis."""
    xp = _array.array_namespace(x)
    return xp.take(x, xp.asarray(indices, dtype=xp.int64, device=_array.device(x)), axis=0)
