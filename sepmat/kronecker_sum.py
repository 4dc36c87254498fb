"""Kronecker sums: the matrices of Laplacians on grids and of Sylvester equations."""

import functools
import math
from collections.abc import Sequence
from typing import Any, final

from . import _array, _check
from ._array import Array
from .basic import Identity, is_identity
from .errors import ShapeError
from .kernels.kron import kron_sum_matmul
from .kronecker import (
    Factor,
    apply_factors,
    as_factor,
    as_factors,
    as_operator,
    describe,
    digit_blocks,
    outer,
    same_dtype,
)
from .linalg import diagonal, eigvals, log_product, lstsq, norm, slogdet, solve, trace
from .matrix import Scaled, StructuredMatrix, structure

__all__ = ["KroneckerSum"]


@final
@structure
class KroneckerSum(StructuredMatrix):
    """F_1 ⊕ … ⊕ F_d = Σ_i I ⊗ … ⊗ F_i ⊗ … ⊗ I for square factors.

    The matrix of X -> F_1 X + X F_2ᵀ (d = 2), of the d-dimensional Laplacian, of Sylvester equations. A product
    costs N Σ n_i multiplications, N = Π n_i.

    >>> import numpy as np, sepmat as sm
    >>> sm.KroneckerSum([[2.0]], np.diag([1.0, 5.0])).to_dense()
    array([[3., 0.],
           [0., 7.]])
    """

    factors: tuple[Factor, ...]

    def __init__(self, *factors: Any) -> None:
        factors = as_factors(factors, "KroneckerSum")
        for i, F in enumerate(factors):
            if F.shape[0] != F.shape[1]:
                got = f"{F.shape[0]}×{F.shape[1]}"
                raise ShapeError("KroneckerSum", f"factors[{i}]", got, "a square matrix", "I ⊗ F needs square F")
        object.__setattr__(self, "factors", factors)

    @property
    def shape(self) -> tuple[int, int]:
        N = math.prod(self.sizes)
        return (N, N)

    @property
    def sizes(self) -> tuple[int, ...]:
        """The sizes n_i of the factors."""
        return tuple(int(F.shape[0]) for F in self.factors)

    @property
    def operators(self) -> tuple[StructuredMatrix, ...]:
        """The factors, arrays wrapped as Dense."""
        return tuple(as_operator(F) for F in self.factors)

    def _apply(self, x: Array, axis: int) -> Array:
        if not any(isinstance(F, StructuredMatrix) for F in self.factors):
            return kron_sum_matmul(self.factors, x, axis)
        sizes = self.sizes
        parts = []
        for i, F in enumerate(self.factors):
            before, after = math.prod(sizes[:i]), math.prod(sizes[i + 1 :])
            parts.append(apply_factors((F,), x, axis, before, after))
        return functools.reduce(lambda y, part: y + part, parts)

    def _transpose(self) -> StructuredMatrix:
        return KroneckerSum._of(factors=tuple(as_factor(A.T) for A in self.operators))

    def _plus(self, other: StructuredMatrix) -> Any:
        if isinstance(other, KroneckerSum) and other.sizes == self.sizes:
            sums = [as_factor(A + B) for A, B in zip(self.operators, other.operators, strict=True)]
            return KroneckerSum._of(factors=same_dtype(sums))
        if is_identity(other):
            first, *rest = self.operators
            like = first.xp.empty((0,), dtype=other.dtype, device=first.device)
            shift: StructuredMatrix = Identity._of(n=first.shape[0], like=like)
            shift = shift._scale(other.scale) if isinstance(other, Scaled) else shift
            return KroneckerSum._of(factors=same_dtype([as_factor(A) for A in (first + shift, *rest)]))
        return NotImplemented

    def _scale(self, s: Array) -> StructuredMatrix:
        return KroneckerSum._of(factors=same_dtype([as_factor(A._scale(s)) for A in self.operators]))

    def _block(self, rows: Sequence[int], cols: Sequence[int]) -> Array:
        # (P, S): the products of the Kronecker deltas so far, and the sum with one delta replaced by a factor
        P, S = None, None
        blocks = digit_blocks(self.operators, rows, cols)
        like = self.xp.empty((0,), dtype=self.dtype, device=self.device)
        units = digit_blocks([Identity._of(n=n, like=like) for n in self.sizes], rows, cols)
        for B, E in zip(blocks, units, strict=True):
            P, S = (E, B) if P is None or S is None else (P * E, S * E + P * B)
        return S

    def _detail(self) -> str:
        return " ⊕ ".join(describe(F) for F in self.factors)


@trace.register
def _(A: KroneckerSum) -> Array:
    N = A.shape[0]
    parts = [trace.rule(B) * float(N // n) for B, n in zip(A.operators, A.sizes, strict=True) if n]
    return functools.reduce(lambda x, y: x + y, parts) if parts else A.xp.zeros((), dtype=A.dtype, device=A.device)


@diagonal.register
def _(A: KroneckerSum) -> Array:
    return outer("diagonal", [diagonal.rule(B) for B in A.operators], lambda x, y: x + y)


@norm.register
def _(A: KroneckerSum, ord: Any) -> Array:
    """‖A‖_F² = Σ (N/n_i) ‖F_i − t_i I‖_F² + N |Σ t_i|², t_i = tr F_i / n_i: orthogonal parts, nothing cancels.

    Structured factors are formed, within the limit of to_dense.
    """
    if ord != "fro":
        raise norm.unsupported(A, f"no closed form of ord={ord!r}")
    xp, N = A.xp, A.shape[0]
    if N == 0:
        return xp.abs(xp.zeros((), dtype=A.dtype, device=A.device))
    means = [trace.rule(B) / float(n) for B, n in zip(A.operators, A.sizes, strict=True)]
    parts = [xp.reshape(xp.abs(functools.reduce(lambda x, y: x + y, means)) * math.sqrt(N), (1,))]
    for B, n, t in zip(A.operators, A.sizes, means, strict=True):
        centred = B.to_dense() - t * xp.eye(n, dtype=B.dtype, device=A.device)
        parts.append(xp.reshape(_array.frobenius(centred) * math.sqrt(N // n), (1,)))
    return _array.frobenius(xp.concat(parts))


@eigvals.register
def _(A: KroneckerSum) -> Array:
    return outer("eigvals", [eigvals.rule(B) for B in A.operators], lambda x, y: x + y)


@slogdet.register
def _(A: KroneckerSum) -> tuple[Array, Array]:
    values = eigvals.rule(A)
    return log_product(values, real=not A._is_complex)


@solve.register
def _(A: KroneckerSum, b: Array) -> Array:
    """Bartels–Stewart for any number of factors: complex Schur forms F_i = Q_i T_i Q_iᴴ, then back-substitution.

    The Schur form of a factor is dense: structured factors are formed, within the limit of to_dense.

    (T_1 ⊕ … ⊕ T_d) y = (⊗ Q_i)ᴴ b, one mode after the other; cost N Σ n_i plus the Schur forms.
    """
    xp = A.xp
    if _array.attached(*A.arrays(), b):
        raise solve.unsupported(A, "no gradient through the Schur forms")
    if not A.shape[0]:
        return _array.copy(b)
    T, Q = zip(*(_array.schur(B.to_dense()) for B in A.operators), strict=True)
    y = apply_factors([xp.conj(xp.matrix_transpose(X)) for X in Q], _array.astype(b, T[0].dtype), -2)
    y = _checked_substitution(T, y)
    x = apply_factors(Q, y, -2)
    return x if A._is_complex else xp.real(x)


def _checked_substitution(T: Sequence[Array], y: Array) -> Array:
    """(T_1 ⊕ … ⊕ T_d)⁻¹ y for upper triangular T_i; SingularMatrixError where it is singular to the precision.

    min|λ| / max|λ| is an upper bound of rcond, and for a normal matrix it is rcond. For the others one step of power
    iteration tells: with z = A⁻¹ c for a random c, ‖A⁻ᴴ z‖ / ‖z‖ is a lower bound of ‖A⁻¹‖, and close to it when it
    is large.
    """
    xp, n = _array.array_namespace(y), max(X.shape[0] for X in T)
    u = _array.unit_roundoff(xp, y.dtype)
    size = xp.abs(outer("solve", [xp.linalg.diagonal(X) for X in T], lambda x, y: x + y))
    largest, smallest = _array.to_float(xp.max(size)), _array.to_float(xp.min(size))
    _check.check_rcond(
        smallest / largest if largest else 0.0, n, u, "solve", "A (a sum of eigenvalues)", _check.DENSE_LEAST_SQUARES
    )
    shift = xp.zeros((), dtype=y.dtype, device=_array.device(y))
    c = _array.normal(_check.as_generator(0, "solve"), (y.shape[0], 1), y)
    solved = _back_substitute(T, xp.concat((y, c), axis=1), shift)
    z = solved[:, -1:] / _array.astype(_array.frobenius(solved[:, -1:]), y.dtype)
    # reversed, the adjoint of an upper triangular matrix is upper triangular again
    adjoints = [xp.flip(xp.conj(xp.matrix_transpose(X))) for X in T]
    grown = _array.to_float(_array.frobenius(_back_substitute(adjoints, xp.flip(z, axis=0), shift)))
    norms = sum(_array.to_float(xp.max(xp.linalg.svdvals(X))) for X in T)
    _check.check_rcond(1 / (norms * grown), n, u, "solve", "A (a Kronecker sum)", _check.DENSE_LEAST_SQUARES)
    return solved[:, :-1]


def _back_substitute(T: Sequence[Array], b: Array, shift: Array) -> Array:
    """The solution of (T_1 ⊕ … ⊕ T_d + shift I) y = b for upper triangular T_i, b of shape (N, k)."""
    xp = _array.array_namespace(b)
    n, rest = T[0].shape[0], T[1:]
    if not rest:
        return xp.linalg.solve(T[0] + shift * xp.eye(n, dtype=b.dtype, device=_array.device(b)), b)
    size = b.shape[0] // n
    rows = [b[i * size : (i + 1) * size, :] for i in range(n)]
    solved: list[Array] = []
    for i in reversed(range(n)):
        right = rows[i]
        if solved:
            later = xp.reshape(xp.stack(solved[::-1]), (n - 1 - i, -1))
            right = right - xp.reshape(T[0][i : i + 1, i + 1 :] @ later, right.shape)
        solved.append(_back_substitute(rest, right, shift + T[0][i, i]))
    return xp.concat(solved[::-1], axis=0)


lstsq.ways[KroneckerSum] = "Use sm.solve(A, b) if A is not singular, or sm.lstsq(sm.Dense(A.to_dense()), b)"
