"""Ill-conditioned least squares with rectangular Toeplitz matrices, as accurate as a QR factorization, in O((m + n)²).

x minimises ‖b − B x‖ for a tall B iff, with the residual r and any α > 0,

    K_α (r/α, x) = (b, 0),   K_α = [α I, B; Bᴴ, 0],        and (0, b) on the right gives the r of least norm with Bᴴ r = b.

K_α has displacement rank 4 and is eliminated with pivoting. Björck, "Iterative refinement of linear least squares solutions"
(1967): with α near σ_min this is as stable as a QR factorization, with α = ‖B‖ as bad as the normal equations. What decides is
that the rounding of both blocks is balanced, which α = ‖r‖ / ‖x‖ does, so α follows the solution from step to step.
"""

import math
from typing import Any

from . import _array
from ._array import Array
from .displacement import LowDisplacementRank
from .errors import SingularMatrixError
from .linalg import norm, solve
from .matrix import StructuredMatrix
from .toeplitz import Toeplitz

STEPS = 8  # eliminations at most; two are the rule
START, LEAST = 1e-6, 1e-10  # α / ‖B‖ of the first one, and of any
GOAL, LIMIT = 1.0, 30.0  # residuals in units of N u at which it ends, and beyond which the result is refused
ADVICE = "Use sm.lstsq(sm.Dense(A.to_dense()), b), or sm.interop.lsmr(A, b, damp=...)"


def augmented_solution(A: StructuredMatrix, S: Toeplitz, b: Array) -> Array:
    """The least-squares solution of one column for a tall S, the shortest solution for a wide one; A is S before scaling."""
    xp, tall = S.xp, S.shape[0] > S.shape[1]
    B: Any = S if tall else S.H
    H, (m, n) = B.H, B.shape
    size = _array.to_float(norm.rule(B, "fro")) / math.sqrt(n)
    unit = (m + n) * 2.0**-53
    none = xp.zeros((n if tall else m, 1), dtype=b.dtype, device=S.device)
    top, bottom = (b, none) if tall else (none, b)
    r, x = (xp.zeros((k, 1), dtype=xp.result_type(b, B.c), device=S.device) for k in (m, n))
    f, g, best, alpha = top, bottom, math.inf, START * size
    for _ in range(STEPS):
        try:
            z = solve.rule(augmented(B, alpha), _array.astype(xp.concat((f, g / alpha), axis=0), x.dtype))
        except SingularMatrixError:  # σ² / α is too small
            alpha = alpha * 1e-2
            continue
        s, y = r + alpha * z[:m, :], x + z[m:, :]
        p, q = top - s - B @ y, bottom - H @ s
        small = size * (_length(s) + LEAST * size * _length(y)) + _length(bottom)
        worst = max(_length(p) / (size * _length(y) + _length(top) or 1.0), _length(q) / (small or 1.0)) / unit
        if worst < best:
            r, x, f, g, best = s, y, p, q, worst
        if best <= GOAL:
            break
        ratio = _length(s) / (_length(y) or 1.0)
        alpha = min(max(ratio, LEAST * size), size)
    if not best <= LIMIT:
        got = f"{A._name()} with a rank that is not full to the precision (rcond below 1e-12)"
        raise SingularMatrixError("lstsq", "A", got, "full rank", ADVICE)
    return x if tall else r


def augmented(B: Toeplitz, alpha: float) -> LowDisplacementRank:
    """[α I, B; Bᴴ, 0] for a Toeplitz B (m, n): ∇ has the rows 0 and m, and else the columns m - 1 and m + n - 1."""
    xp, (m, n) = B.xp, B.shape
    N, place = m + n, {"dtype": B.dtype, "device": B.device}
    unit = [xp.astype(xp.arange(N, dtype=xp.int64, device=B.device) == k, B.dtype) for k in (0, m - 1, m, N - 1)]
    ends, sides = B._block([0, m - 1], range(n)), B._block(range(m), [0, n - 1])
    zero = xp.zeros((n,), **place)
    inner = alpha * xp.stack((unit[0][:m], unit[1][:m]))
    rows = [xp.concat((inner[i, :], ends[i, :])) for i in (0, 1)]
    rows += [xp.concat((_array.conj(sides[:, j]), zero)) for j in (0, 1)]
    first, last, below, end = rows
    columns = [_array.conj(v) for v in rows]  # Hermitian
    at_rows = [end - xp.concat((first[1:], -first[:1])), last - xp.concat((below[1:], -below[:1]))]
    at_columns = [_down(columns[1]) - columns[2], _down(columns[3]) + columns[0]]
    inside = 1.0 - unit[0] - unit[2]
    G = 0.5 * xp.stack((unit[0], unit[2], *(inside * v for v in at_columns)), axis=1)
    H = xp.stack((*at_rows, unit[1], unit[3]), axis=1)
    return LowDisplacementRank._of(g=G, h=xp.flip(H, axis=0), corner=(N, N), transposed=False)


def _down(v: Array) -> Array:
    return _array.array_namespace(v).concat((v[-1:], v[:-1]))


def _length(x: Array) -> float:
    return _array.to_float(_array.frobenius(x))
