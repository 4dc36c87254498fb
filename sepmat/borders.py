"""Displacements of rectangular matrices: P, Q with Z_1 B − B Z_g = P Qᵀ for an m×n matrix B, Z of the sizes m and n.

Cutting columns off a matrix that Z_1 and Z_{−1} shift changes its displacement in the last column alone.
"""

import functools
from typing import Any

from . import _array
from ._array import Array
from .displacement import LowDisplacementRank
from .toeplitz import Toeplitz


@functools.singledispatch
def borders(B: Any, g: float) -> tuple[Array, Array]:
    """(P, Q), m×k and n×k, with Z_1 B − B Z_g = P Qᵀ. B: Toeplitz, or the first columns (fewer than N) of W(G, H) or its transpose."""
    raise NotImplementedError(f"borders: {type(B).__name__}")


@borders.register
def _(B: Toeplitz, g: float) -> tuple[Array, Array]:
    """k = 2: e_0 pᵀ + q e_{n-1}ᵀ."""
    xp, (m, n) = B.xp, B.shape
    rows, cols = B._block([0, m - 1], range(n)), B._block(range(m), [0, n - 1])
    p = rows[1, :] - xp.concat((rows[0, 1:], g * rows[0, :1]))
    q = xp.concat((xp.zeros_like(cols[:1, 1]), cols[: m - 1, 1] - g * cols[1:, 0]))
    return xp.stack((unit(B, m, 0), q), axis=1), xp.stack((p, unit(B, n, n - 1)), axis=1)


@borders.register
def _(B: LowDisplacementRank, g: float) -> tuple[Array, Array]:
    """k = r + 1 from Z_1 W − W Z_{−1} = 2 G (J H)ᵀ; k = r + 2 from Z_{−1} V − V Z_1 = 2 (Z_{−1} J H) (Z_1ᵀ G)ᵀ, V = Wᵀ."""
    xp, (m, n) = B.xp, B.shape
    V = B._of(g=B.g, h=B.h, corner=(m, m), transposed=B.transposed)
    first_and_next = V._block(range(m), [0, n])
    cut = (first_and_next[:, 1:] - g * first_and_next[:, :1], unit(B, n, n - 1)[:, None])
    if not B.transposed:
        return xp.concat((2.0 * B.g, cut[0]), axis=1), xp.concat((xp.flip(B.h, axis=0)[:n, :], cut[1]), axis=1)
    sign = xp.concat((2.0 * unit(B, m, 0)[:, None], 2.0 * down(xp.flip(B.h, axis=0), -1.0)), axis=1)
    last = xp.concat((xp.matrix_transpose(V._block([m - 1], range(n))), up(B.g)[:n, :]), axis=1)
    return xp.concat((sign, cut[0]), axis=1), xp.concat((last, cut[1]), axis=1)


def down(X: Array, f: float = 1.0) -> Array:
    """Z_f X."""
    return _array.array_namespace(X).concat((f * X[-1:, ...], X[:-1, ...]), axis=0)


def up(X: Array) -> Array:
    """Z_1ᵀ X."""
    return _array.array_namespace(X).concat((X[1:, ...], X[:1, ...]), axis=0)


def unit(like: Any, n: int, k: int) -> Array:
    """The unit vector e_k of length n, of the dtype and device of a matrix."""
    xp = like.xp
    return xp.astype(xp.arange(n, dtype=xp.int64, device=like.device) == k, like.dtype)
