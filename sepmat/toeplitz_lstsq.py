"""Least squares with rectangular Toeplitz, Hankel and W(G, H) in O(n² r), n the shorter side; square ones are solved.

For B = A (m >= n) or Aᴴ, the matrix BᴴB has displacement rank at most 2 k and is never formed: with ∇_{1,g}(B) = P Qᵀ, k columns each
(`borders`), ∇(BᴴB) = ∇_{1,1}(Bᴴ) B + Bᴴ ∇_{1,−1}(B), and ∇_{1,1}(Bᴴ) = Z_1 ∇_{1,1}(B)ᴴ Z_1. Steps with residuals of A bring the
solution to the accuracy of a QR factorization while they contract, κ(A)² u < 1 (Björck, "Stability analysis of the method of
seminormal equations for linear least squares problems", 1987); beyond, `augmented` takes over.
"""

from collections.abc import Callable
from typing import Any

from . import _array
from ._array import Array
from .augmented import ADVICE, augmented_solution
from .borders import borders, down, up
from .cauchy_like import _scaled, _toeplitz
from .displacement import LowDisplacementRank
from .errors import SingularMatrixError
from .linalg import factorize, lstsq, solve
from .matrix import StructuredMatrix
from .toeplitz import Hankel, Toeplitz

Solver = Callable[[Array], Array]
STEPS = 8  # of refinement at most
SMALL = 1e-2  # the first step, relative to x, for κ² u to be small enough


def _lstsq(A: Toeplitz | LowDisplacementRank, b: Array, rcond: float | None) -> Array:
    """As accurate as a QR factorization: by BᴴB with refinement, or where that does not contract the augmented system.

    Raises where the rank is not full, or κ(A) beyond 1e11 or so.
    """
    if not A.shape[0] or not A.shape[1] or not b.shape[1]:
        return A.xp.zeros((A.shape[1], b.shape[1]), dtype=b.dtype, device=A.device)
    if A.shape[0] == A.shape[1]:
        return _square(A, b)
    S, k = _scaled(A)
    right, tall = _array.double(_array.stop_gradient(b)), A.shape[0] > A.shape[1]
    W = _inverse_gram(S if tall else S.H)
    x = W and (_tall if tall else _wide)(S, right, W)
    if _array.attached(*A.arrays(), b):
        if W is None or x is None:
            raise lstsq.unsupported(A, "no gradient where κ(A)² u is near 1")
        change = _derivatives(_scaled(A, plain=False)[0], _array.double(b), x, W)
        x = x + (change - _array.stop_gradient(change))
    if x is None:  # each column has an α of its own
        x = A.xp.concat([augmented_solution(A, S, right[:, i : i + 1]) for i in range(b.shape[1])], axis=1)
    return _array.astype(_array.ldexp(x, -k), b.dtype)


lstsq.rules[Toeplitz] = lstsq.rules[LowDisplacementRank] = _lstsq


@lstsq.register
def _(A: Hankel, b: Array, rcond: float | None) -> Array:
    """A = T J."""
    if A.shape[0] == A.shape[1] and A.shape[0]:
        return _square(A, b)
    return A.xp.flip(lstsq.rule(_toeplitz(A), b, rcond), axis=0)


def _square(A: StructuredMatrix, b: Array) -> Array:
    try:
        return solve.rule(A, b)
    except SingularMatrixError:  # advises least squares
        got = f"{A._name()} with a rank that is not full to the precision"
        raise SingularMatrixError("lstsq", "A", got, "full rank", ADVICE) from None


def gram(B: Toeplitz | LowDisplacementRank) -> LowDisplacementRank:
    """BᴴB of a tall B: four terms for Toeplitz matrices, 2 (r + 1) or 2 (r + 2) for corners of W(G, H)."""
    xp, n = B.xp, B.shape[1]
    H: Any = B.H
    (P, Q), (R, S) = borders(B, 1.0), borders(B, -1.0)
    G = xp.concat((down(_array.conj(Q)), H @ R), axis=1)
    K = xp.concat((B.T @ up(_array.conj(P)), S), axis=1)
    return LowDisplacementRank._of(g=0.5 * G, h=xp.flip(K, axis=0), corner=(n, n), transposed=False)


def _tall(A: Any, b: Array, W: Solver) -> Array | None:
    """x of least ‖b − A x‖, by steps x + (AᴴA)⁻¹ Aᴴ (b − A x)."""
    H = A.H
    return _refined(W(H @ b), lambda x: W(H @ (b - A @ x)))


def _wide(A: Any, b: Array, W: Solver) -> Array | None:
    """The shortest x with A x = b, x = Aᴴ y, by steps x + Aᴴ (AAᴴ)⁻¹ (b − A x)."""
    H = A.H
    return _refined(H @ W(b), lambda x: H @ W(b - A @ x))


def _derivatives(A: Any, b: Array, x: Array, W: Solver) -> Array:
    """The solution x again, by two of these steps with W held fixed: its first and second derivatives are right."""
    H = A.H
    if A.shape[0] > A.shape[1]:
        for _ in range(2):
            x = x + W(H @ (b - A @ x))
        return x
    y = W(_array.stop_gradient(A @ x))
    for _ in range(2):
        y = y + W(b - A @ (H @ y))
    return H @ y


def _refined(x: Array, step: Callable[[Array], Array]) -> Array | None:
    """x after steps until they stop to shrink; None where the first is not small beside x."""
    before = _lengths(x) * SMALL
    for k in range(STEPS):
        change = step(x)
        size = _lengths(change)
        if not _all(size <= before):
            return x if k else None
        x, before = x + change, 0.5 * size
        if _all(size <= 2.0**-53 * _lengths(x)):
            break
    return x


def _inverse_gram(B: Any) -> Solver | None:
    G = gram(B)
    try:
        F = factorize.rule(G)
    except SingularMatrixError:
        return None
    return lambda v: F.solver(G, v)


def _lengths(x: Array) -> Array:
    return _array.frobenius(x, axis=0)


def _all(condition: Array) -> bool:
    return bool(_array.array_namespace(condition).all(condition))
