"""Least squares with rectangular Toeplitz and Hankel matrices in O(n²), n the shorter side.

For B = A (m >= n) or Aᴴ, the matrix BᴴB has displacement rank 4 and is never formed:
∇(BᴴB) = ∇_{1,1}(Bᴴ) B + Bᴴ ∇_{1,−1}(B), and ∇_{a,b} of a rectangular Toeplitz matrix is e_0 pᵀ + q e_lastᵀ.
"""

from collections.abc import Callable
from typing import Any

from . import _array
from ._array import Array
from .cauchy_like import _toeplitz
from .displacement import LowDisplacementRank
from .errors import SingularMatrixError
from .linalg import factorize, lstsq, norm, solve
from .matrix import StructuredMatrix
from .toeplitz import Hankel, Toeplitz

STEPS = 8  # of refinement at most
GOAL = 10.0  # of a residual in units of its round-off
ADVICE = "Use sm.lstsq(sm.Dense(A.to_dense()), b), or sm.interop.lsmr(A, b, damp=...)"


@lstsq.register
def _(A: Toeplitz, b: Array, rcond: float | None) -> Array:
    """By BᴴB with refinement, which is as good as a QR factorization while κ(A)² u < 1; beyond, it raises."""
    if not A.shape[0] or not A.shape[1]:
        return A.xp.zeros((A.shape[1], b.shape[1]), dtype=b.dtype, device=A.device)
    if any(_array.is_torch(a) and a.requires_grad for a in (*A.arrays(), b)):
        raise lstsq.unsupported(A, "no gradient")
    if A.shape[0] == A.shape[1]:
        return solve.rule(A, b)
    k = _array.exponent(A._diagonals())
    S = A.map(lambda a: _array.ldexp(_array.double(a), -k))
    x = _tall(S, _array.double(b)) if A.shape[0] >= A.shape[1] else _wide(S, _array.double(b))
    return _array.astype(_array.ldexp(x, -k), b.dtype)


@lstsq.register
def _(A: Hankel, b: Array, rcond: float | None) -> Array:
    """A = T J."""
    T = _toeplitz(A)
    return A.xp.flip(lstsq.rule(T, b, rcond), axis=0)


def gram(B: Toeplitz) -> LowDisplacementRank:
    """BᴴB as four terms."""
    xp, (m, n) = B.xp, B.shape
    H: Any = B.H
    p, q = _border(H, 1.0)
    r, s = _border(B, -1.0)
    first, last = (xp.astype(xp.arange(m, dtype=xp.int64, device=B.device) == i, B.dtype) for i in (0, m - 1))
    e = xp.astype(xp.arange(n, dtype=xp.int64, device=B.device) == 0, B.dtype)
    P = xp.stack((e, q, H @ first, H @ s), axis=1)
    Q = xp.stack((B.T @ p, B.T @ last, r, xp.flip(e)), axis=1)
    return LowDisplacementRank._of(g=0.5 * P, h=xp.flip(Q, axis=0), corner=(n, n), transposed=False)


def _border(B: StructuredMatrix, g: float) -> tuple[Array, Array]:
    """(p, q) with Z_1 B − B Z_g = e_0 pᵀ + q e_{n-1}ᵀ for a p×n Toeplitz matrix."""
    xp, (m, n) = B.xp, B.shape
    rows, cols = B._block([0, m - 1], range(n)), B._block(range(m), [0, n - 1])
    p = rows[1, :] - xp.concat((rows[0, 1:], g * rows[0, :1]))
    q = xp.concat((xp.zeros_like(cols[:1, 1]), cols[: m - 1, 1] - g * cols[1:, 0]))
    return p, q


def _tall(A: Toeplitz, b: Array) -> Array:
    """x of least ‖b − A x‖, by steps x + (AᴴA)⁻¹ Aᴴ (b − A x)."""
    W, H = _inverse_gram(A, A), A.H
    x, size = W(H @ b), _array.to_float(norm.rule(A, "fro"))

    def gap(x: Array) -> tuple[Array, float]:
        r = b - A @ x
        top, scale = H @ r, size * (size * _length(x) + _length(r))
        return top, _length(top) / (scale * max(A.shape) * 2.0**-53) if scale else 0.0

    return _refined(A, x, gap, W)


def _wide(A: Toeplitz, b: Array) -> Array:
    """The shortest x with A x = b, x = Aᴴ y, by steps x + Aᴴ (AAᴴ)⁻¹ (b − A x)."""
    H: Any = A.H
    W, size = _inverse_gram(A, H), _array.to_float(norm.rule(A, "fro"))

    def gap(x: Array) -> tuple[Array, float]:
        r = b - A @ x
        scale = size * _length(x)
        return r, _length(r) / (scale * max(A.shape) * 2.0**-53) if scale else 0.0

    return _refined(A, H @ W(b), gap, lambda r: H @ W(r))


def _refined(
    A: StructuredMatrix, x: Array, gap: Callable[[Array], tuple[Array, float]], step: Callable[[Array], Array]
) -> Array:
    rest, reached = gap(x)
    for _ in range(STEPS):
        if reached <= GOAL:
            return x
        y = x + step(rest)
        rest, again = gap(y)
        if not again < reached:
            break
        x, reached = y, again
    if reached <= 100 * GOAL:
        return x
    raise _rough(A)


def _inverse_gram(A: StructuredMatrix, B: Toeplitz) -> Callable[[Array], Array]:
    G = gram(B)
    try:
        F = factorize.rule(G)
    except SingularMatrixError as error:
        raise _rough(A) from error
    return lambda v: F.solver(G, v)


def _rough(A: StructuredMatrix) -> SingularMatrixError:
    got = f"{A._name()} with κ(A)² u near 1 or above, or a rank that is not full (rcond 0)"
    return SingularMatrixError("lstsq", "A", got, "full rank and a condition below 1e7", ADVICE)


def _length(x: Array) -> float:
    return _array.to_float(_array.frobenius(x))
