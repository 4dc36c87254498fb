"""Low rank: U Vᵀ."""

from collections.abc import Sequence
from typing import Any, final

from . import _array, _check
from ._array import Array
from .basic import Dense
from .errors import ShapeError
from .linalg import (
    cut_off,
    diagonal,
    eigvals,
    inverse,
    log_product,
    lstsq,
    norm,
    singular,
    slogdet,
    solve,
    svdvals,
    trace,
)
from .matrix import StructuredMatrix, _take, structure

__all__ = ["LowRank"]


@final
@structure
class LowRank(StructuredMatrix):
    """U Vᵀ (V is not conjugated). U: (m, r), V: (n, r). Products cost (m + n) r a vector.

    >>> import numpy as np, sepmat as sm
    >>> sm.LowRank(np.ones((3, 1)), np.ones((2, 1))).to_dense()
    array([[1., 1.],
           [1., 1.],
           [1., 1.]])
    """

    U: Array
    V: Array

    def __init__(self, U: Any, V: Any) -> None:
        U, V = _check.as_arrays([("U", U), ("V", V)], "LowRank", 2)
        if U.shape[1] != V.shape[1]:
            raise ShapeError(
                "LowRank",
                "V",
                f"shape {tuple(V.shape)}",
                f"{U.shape[1]} columns: U is {tuple(U.shape)}",
                "The matrix is U @ V.T",
            )
        object.__setattr__(self, "U", U)
        object.__setattr__(self, "V", V)

    @property
    def shape(self) -> tuple[int, int]:
        return (self.U.shape[0], self.V.shape[0])

    @property
    def rank(self) -> int:
        """The number of columns stored."""
        return int(self.U.shape[1])

    def _apply(self, x: Array, axis: int) -> Array:
        U, V, e = self._remember("balanced", self._balanced)
        if axis == -1:
            U, V = self._remember("by columns", lambda: (_array.by_columns(U), _array.by_columns(V)))
            return _array.ldexp((x @ V) @ self.xp.matrix_transpose(U), e)
        return _array.ldexp(U @ (self.xp.matrix_transpose(V) @ x), e)

    def _balanced(self) -> tuple[Array, Array, int]:
        """U and V with even exponents, column by column, and the exponent that is left."""
        turn = self.xp.matrix_transpose
        columns = (turn(self.U), turn(self.V))
        (U, V), e = _array.balanced(columns)
        return (self.U, self.V, 0) if U is columns[0] and not e else (turn(U), turn(V), e)

    def _transpose(self) -> StructuredMatrix:
        return LowRank._of(U=self.V, V=self.U)

    def _times(self, other: StructuredMatrix) -> Any:
        V = other.T @ self.V
        return LowRank._of(U=_array.astype(self.U, V.dtype), V=V)

    def _rtimes(self, other: StructuredMatrix) -> Any:
        U = other @ self.U
        return LowRank._of(U=U, V=_array.astype(self.V, U.dtype))

    def _plus(self, other: StructuredMatrix) -> Any:
        if isinstance(other, LowRank):
            U1, V1, U2, V2 = _array.promote(self.U, self.V, other.U, other.V)
            xp = self.xp
            return LowRank._of(U=xp.concat((U1, U2), axis=1), V=xp.concat((V1, V2), axis=1))
        return NotImplemented

    def _scale(self, s: Array) -> StructuredMatrix:
        s, U, V = _array.promote(s, self.U, self.V)
        return LowRank._of(U=s * U, V=V)

    def _block(self, rows: Sequence[int], cols: Sequence[int]) -> Array:
        return _take(self.U, rows, 0) @ self.xp.matrix_transpose(_take(self.V, cols, 0))

    def _to_dense(self) -> Array:
        return self.U @ self.xp.matrix_transpose(self.V)

    def _detail(self) -> str:
        return f"{self.shape[0]}×{self.rank} times {self.rank}×{self.shape[1]}"


def _core(A: LowRank) -> Array:
    """R_U R_Vᵀ of the thin QR factors: the singular values and the norm of U Vᵀ, (r, r) at most."""
    xp = A.xp
    R, S = (xp.linalg.qr(X, mode="reduced")[1] for X in (A.U, A.V))
    return R @ xp.matrix_transpose(S)


@solve.register
def _(A: LowRank, b: Array) -> Array:
    return solve.rule(_full_rank(A, "solve"), b)


@lstsq.register
def _(A: LowRank, b: Array, rcond: float | None) -> Array:
    """With U = P R and V = Q S: A = P (R Sᵀ) Qᵀ, and the core in the middle is small."""
    xp = A.xp
    if not A.rank or 0 in A.shape:
        return xp.zeros((A.shape[1], b.shape[1]), dtype=b.dtype, device=A.device)
    (P, R), (Q, S) = (_array.qr(X) for X in (A.U, A.V))
    k, l = _array.exponent(R), _array.exponent(S)
    core = _array.ldexp(R, -k) @ xp.matrix_transpose(_array.ldexp(S, -l))
    x = _array.lstsq(core, xp.conj(xp.matrix_transpose(P)) @ b, cut_off(A, rcond))
    return _array.ldexp(xp.conj(Q) @ x, -k - l)


@inverse.register
def _(A: LowRank) -> StructuredMatrix:
    return inverse.rule(_full_rank(A, "inverse"))


def _full_rank(A: LowRank, where: str) -> Dense:
    if A.rank < A.shape[0]:
        raise singular(A, where, f"rank {A.rank} < {A.shape[0]}")
    return Dense._of(array=A.to_dense())  # n <= r: not larger than the factors


@slogdet.register
def _(A: LowRank) -> tuple[Array, Array]:
    if A.rank < A.shape[0]:
        return log_product(A.xp.zeros((1,), dtype=A.dtype, device=A.device))
    return slogdet.rule(Dense._of(array=A.to_dense()))


@trace.register
def _(A: LowRank) -> Array:
    return A.xp.sum(diagonal.rule(A))


@diagonal.register
def _(A: LowRank) -> Array:
    k = min(A.shape)
    return A.xp.sum(A.U[:k, :] * A.V[:k, :], axis=1)


@norm.register
def _(A: LowRank, ord: Any) -> Array:
    if ord == "fro":
        _check.check_full_precision(A.U, "norm", "A")
        return _array.frobenius(_core(A))
    raise norm.unsupported(A, f"no closed form of ord={ord!r}")


@eigvals.register
def _(A: LowRank) -> Array:
    """The eigenvalues of VᵀU and zeros (those of U Vᵀ when that is smaller)."""
    n, r = A.shape[0], A.rank
    if r >= n:
        return _array.eigvals(A.to_dense())
    xp = A.xp
    values = _array.eigvals(xp.matrix_transpose(A.V) @ A.U)
    return xp.concat((values, xp.zeros((n - r,), dtype=values.dtype, device=A.device)))


@svdvals.register
def _(A: LowRank) -> Array:
    xp, k = A.xp, min(A.shape)
    values = (
        xp.linalg.svdvals(_core(A))
        if A.rank and k
        else xp.zeros((0,), dtype=_array.real_dtype(xp, A.dtype), device=A.device)
    )
    return xp.concat((values, xp.zeros((k - values.shape[0],), dtype=values.dtype, device=A.device)))
