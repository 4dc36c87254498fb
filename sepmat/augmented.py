"""Ill-conditioned least squares with rectangular Toeplitz and W(G, H), as accurate as a QR factorization, in O((m + n)² r).

x minimises ‖b − B x‖ for a tall B iff, with the residual r and any α > 0,

    K_α (r/α, x) = (b, 0),   K_α = [α I, B; Bᴴ, 0],        and (0, b) on the right gives the r of least norm with Bᴴ r = b.

K_α has 6 terms for a Toeplitz B, 2 r + 4 or 2 r + 6 for W(G, H), and is eliminated with pivoting. Björck, "Iterative refinement of
linear least squares solutions" (1967): with α near σ_min this is as stable as a QR factorization, with α = ‖B‖ as bad as the normal
equations. What decides is that the rounding of both blocks is balanced, which α = ‖r‖ / ‖x‖ does, so α follows the solution from step
to step.
"""

import math
from typing import Any

from . import _array
from ._array import Array
from .borders import borders, down, unit, up
from .displacement import LowDisplacementRank
from .errors import SingularMatrixError
from .linalg import norm, solve
from .matrix import StructuredMatrix
from .toeplitz import Toeplitz

STEPS = 8  # eliminations at most; two are the rule
START, LEAST = 1e-6, 1e-10  # α / ‖B‖ of the first one, and of any
GOAL, LIMIT = 1.0, 30.0  # residuals in units of N u at which it ends, and beyond which the result is refused
ADVICE = "Use sm.lstsq(sm.Dense(A.to_dense()), b), or sm.interop.lsmr(A, b, damp=...)"


def augmented_solution(A: StructuredMatrix, S: Any, b: Array) -> Array:
    """The least-squares solution of one column for a tall S, the shortest solution for a wide one; A is S before scaling."""
    xp, tall = S.xp, S.shape[0] > S.shape[1]
    B: Any = S if tall else S.H
    H, (m, n) = B.H, B.shape
    size = _array.to_float(norm.rule(B, "fro")) / math.sqrt(n)
    round_off = (m + n) * 2.0**-53
    none = xp.zeros((n if tall else m, 1), dtype=b.dtype, device=S.device)
    top, bottom = (b, none) if tall else (none, b)
    r, x = (xp.zeros((k, 1), dtype=xp.result_type(b.dtype, B.dtype), device=S.device) for k in (m, n))
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
        worst = max(_length(p) / (size * _length(y) + _length(top) or 1.0), _length(q) / (small or 1.0)) / round_off
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


def augmented(B: Toeplitz | LowDisplacementRank, alpha: float) -> LowDisplacementRank:
    """[α I, B; Bᴴ, 0] for a tall B (m, n): 2 k + 2 terms where ∇(B) has k.

    Its displacement is that by Z_1 ⊕ Z_1 and Z_1 ⊕ Z_{−1}, which stands in the blocks B and Bᴴ alone, and what these differ by from
    the shifts of N = m + n entries: (e_0 − e_m)(e_{N−1} − e_{m−1})ᵀ and −(e_0 − e_m)(e_{N−1} + e_{m−1})ᵀ.
    """
    xp, (m, n) = B.xp, B.shape
    (P, Q), (R, S) = borders(B, -1.0), borders(B, 1.0)
    P, Q = _between(P, 0, n), _between(Q, m, 0)
    R, S = _between(up(_array.conj(R)), 0, n), _between(down(_array.conj(S)), m, 0)  # of Bᴴ
    columns, rows = B._block(range(m), [0, n - 1]), B._block([0, m - 1], range(n))
    start = xp.concat((unit(B, m, 0), -unit(B, n, 0)))
    end = xp.concat((unit(B, m, m - 1), unit(B, n, n - 1)))
    jump = xp.concat((alpha * unit(B, m, 0) - columns[:, 0], _array.conj(rows[0, :])))  # K (e_0 − e_m)
    rise = xp.concat((_array.conj(columns[:, 1]) - alpha * unit(B, m, m - 1), -rows[1, :]))  # Kᵀ (e_{N−1} − e_{m−1})
    G = xp.concat((P, S, xp.stack((start, jump), axis=1)), axis=1)
    H = xp.concat((Q, R, xp.stack((rise, end), axis=1)), axis=1)
    return LowDisplacementRank._of(g=0.5 * G, h=xp.flip(H, axis=0), corner=(m + n, m + n), transposed=False)


def _between(X: Array, above: int, below: int) -> Array:
    """X between rows of zeros."""
    xp = _array.array_namespace(X)
    zeros = [xp.zeros((k, X.shape[1]), dtype=X.dtype, device=_array.device(X)) for k in (above, below)]
    return xp.concat((zeros[0], X, zeros[1]), axis=0)


def _length(x: Array) -> float:
    return _array.to_float(_array.frobenius(x))
