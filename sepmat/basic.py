"""Dense, Diagonal and Identity."""

import functools
import math
from collections.abc import Sequence
from typing import Any, final

from . import _array, _check
from ._array import Array
from .linalg import (
    Factorization,
    conversion,
    cut_off,
    diagonal,
    eigvals,
    factorize,
    factorize_as_solve,
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
from .matrix import Scaled, StructuredMatrix, _take, structure

__all__ = ["Dense", "Diagonal", "Identity"]


@final
@structure
class Dense(StructuredMatrix):
    """A dense matrix in the contract of the structured ones.

    A: (m, n), any floating point dtype (integers become float64). Products cost m n multiplications a vector.

    >>> import numpy as np, sepmat as sm
    >>> sm.Dense([[1.0, 2.0], [3.0, 4.0]]) @ np.array([1.0, 1.0])
    array([3., 7.])
    """

    array: Array

    def __init__(self, A: Any) -> None:
        object.__setattr__(self, "array", _check.as_array(A, "Dense", "A", 2, keep=True))

    @property
    def shape(self) -> tuple[int, int]:
        return (self.array.shape[0], self.array.shape[1])

    def _apply(self, x: Array, axis: int) -> Array:
        return x @ self.xp.matrix_transpose(self.array) if axis == -1 else self.array @ x

    def _transpose(self) -> StructuredMatrix:
        return Dense._of(array=self.xp.matrix_transpose(self.array))

    def _times(self, other: StructuredMatrix) -> Any:
        if isinstance(other, Dense):
            return Dense._of(array=other._product_from_left(self.array))
        return NotImplemented

    def _product_from_left(self, left: Array) -> Array:
        a, b = _array.promote(left, self.array)
        return a @ b

    def _plus(self, other: StructuredMatrix) -> Any:
        if isinstance(other, (Dense, Diagonal)) or is_identity(other):
            a, b = _array.promote(self.array, other.array if isinstance(other, Dense) else other._to_dense())
            return Dense._of(array=a + b)
        return NotImplemented

    def _scale(self, s: Array) -> StructuredMatrix:
        a, b = _array.promote(s, self.array)
        return Dense._of(array=a * b)

    def _block(self, rows: Sequence[int], cols: Sequence[int]) -> Array:
        return _take(_take(self.array, rows, 0), cols, 1)

    def _to_dense(self) -> Array:
        return _array.copy(self.array)


@final
@structure
class Diagonal(StructuredMatrix):
    """diag(d), square. d: (n,). Products, solves and everything else cost n.

    >>> import sepmat as sm
    >>> sm.Diagonal([1.0, 2.0]) @ sm.Diagonal([3.0, 4.0])
    Diagonal(shape=(2, 2), float64)
    """

    d: Array

    def __init__(self, d: Any) -> None:
        object.__setattr__(self, "d", _check.as_array(d, "Diagonal", "d", 1, keep=True))

    @property
    def shape(self) -> tuple[int, int]:
        return (self.d.shape[0], self.d.shape[0])

    def _apply(self, x: Array, axis: int) -> Array:
        return x * (self.d if axis == -1 else self.d[:, None])

    def _transpose(self) -> StructuredMatrix:
        return self

    def _times(self, other: StructuredMatrix) -> Any:
        if isinstance(other, Diagonal):
            a, b = _array.promote(self.d, other.d)
            return Diagonal._of(d=a * b)
        if isinstance(other, Dense):
            return Dense._of(array=self @ other.array)
        return NotImplemented

    def _rtimes(self, other: StructuredMatrix) -> Any:
        if isinstance(other, Dense):
            return (self @ other.T).T
        return NotImplemented

    def _plus(self, other: StructuredMatrix) -> Any:
        if isinstance(other, Diagonal) or is_identity(other):
            a, b = _array.promote(self.d, diagonal(other))
            return Diagonal._of(d=a + b)
        return NotImplemented

    def _scale(self, s: Array) -> StructuredMatrix:
        a, b = _array.promote(s, self.d)
        return Diagonal._of(d=a * b)

    def _block(self, rows: Sequence[int], cols: Sequence[int]) -> Array:
        xp = self.xp
        i = xp.asarray(list(rows), dtype=xp.int64, device=self.device)
        j = xp.asarray(list(cols), dtype=xp.int64, device=self.device)
        hit = i[:, None] == j[None, :]
        return xp.where(hit, _take(self.d, rows, 0)[:, None], xp.zeros((), dtype=self.dtype, device=self.device))

    def _to_dense(self) -> Array:
        return self._block(range(self.shape[0]), range(self.shape[1]))


@final
@structure
class Identity(StructuredMatrix):
    """The n×n identity, of the library, dtype and device of `like` (default: NumPy float64). No parameters.

    >>> import numpy as np, sepmat as sm
    >>> sm.Identity(3, like=np.zeros(1, "float32"))
    Identity(shape=(3, 3), float32)
    """

    n: int
    like: Array

    def __init__(self, n: int, like: Any = None) -> None:
        like = _check.as_array(0.0 if like is None else like, "Identity", "like")
        empty = _array.array_namespace(like).empty((0,), dtype=like.dtype, device=_array.device(like))
        object.__setattr__(self, "n", _check.as_integer(n, "Identity", "n", 0))
        object.__setattr__(self, "like", _array.freeze(empty))

    @property
    def shape(self) -> tuple[int, int]:
        return (self.n, self.n)

    def _apply(self, x: Array, axis: int) -> Array:
        return _array.copy(x)

    def _transpose(self) -> StructuredMatrix:
        return self

    def _times(self, other: StructuredMatrix) -> Any:
        dtype = self.xp.result_type(self.dtype, other.dtype)
        return other if dtype == other.dtype else other.astype(dtype)

    def _rtimes(self, other: StructuredMatrix) -> Any:
        return self._times(other)

    def _plus(self, other: StructuredMatrix) -> Any:
        if not is_identity(other):
            return NotImplemented
        one = self.xp.ones((), dtype=self.dtype, device=self.device)
        other_one = self.xp.ones((), dtype=other.dtype, device=self.device)
        a, b = _array.promote(one, other.scale if isinstance(other, Scaled) else other_one)
        return self._scale(a + b)

    def _block(self, rows: Sequence[int], cols: Sequence[int]) -> Array:
        xp = self.xp
        hits = [[1.0 if i == j else 0.0 for j in cols] for i in rows]  # Python integers: n may be 10^30
        return xp.asarray(hits, dtype=self.dtype, device=self.device)


def is_identity(A: StructuredMatrix) -> bool:
    """Whether A is a multiple of the identity by its class."""
    return isinstance(A.matrix if isinstance(A, Scaled) else A, Identity)


# Dense ------------------------------------------------------------------------------------------------------------------


@solve.register
def _(A: Dense, b: Array) -> Array:
    return _array.lu_solve(_factors(A, "solve"), b)


@factorize.register
def _(A: Dense) -> Factorization:
    """LU, once for all right-hand sides."""
    factors = _factors(A, "factorize")
    return Factorization(A, functools.partial(_solve_lu, factors), None, factors.rcond)


def _solve_lu(factors: _array.Factors, A: Dense, b: Array) -> Array:
    return _array.lu_solve(factors, b)


@lstsq.register
def _(A: Dense, b: Array, rcond: float | None) -> Array:
    return _array.lstsq(A.array, b, cut_off(A, rcond))


@inverse.register
def _(A: Dense) -> Dense:
    _factors(A, "inverse")
    return Dense._of(array=A.xp.linalg.inv(A.array))


def _factors(A: Dense, where: str) -> _array.Factors:
    """LU of a matrix that is not singular to its precision."""
    factors, n = _array.lu_factor(A.array), A.shape[0]
    u = _array.unit_roundoff(A.xp, A.dtype)
    _check.check_rcond(factors.rcond, n, u, where, f"A (dense {n}×{n})")
    return factors


@slogdet.register
def _(A: Dense) -> tuple[Array, Array]:
    xp = A.xp
    if A.shape[0] == 0:
        return xp.ones((), dtype=A.dtype, device=A.device), xp.zeros(
            (), dtype=_array.real_dtype(xp, A.dtype), device=A.device
        )
    sign, logabsdet = xp.linalg.slogdet(A.array)
    return sign, logabsdet


@trace.register
def _(A: Dense) -> Array:
    return A.xp.sum(A.xp.linalg.diagonal(A.array))


@diagonal.register
def _(A: Dense) -> Array:
    return _array.copy(A.xp.linalg.diagonal(A.array))


@norm.register
def _(A: Dense, ord: Any) -> Array:
    xp = A.xp
    if ord == "fro":
        return _array.frobenius(A.array)
    sums = xp.sum(xp.abs(A.array), axis=0 if ord == 1 else 1)
    return xp.max(sums) if sums.shape[0] else xp.zeros((), dtype=sums.dtype, device=A.device)


@eigvals.register
def _(A: Dense) -> Array:
    return _array.eigvals(A.array)


@svdvals.register
def _(A: Dense) -> Array:
    return A.xp.linalg.svdvals(A.array)


# Diagonal ---------------------------------------------------------------------------------------------------------------


@solve.register
def _(A: Diagonal, b: Array) -> Array:
    _check_nonzero(A, "solve")
    return b / A.d[:, None]


@lstsq.register
def _(A: Diagonal, b: Array, rcond: float | None) -> Array:
    return inverse_of_values(A.d, cut_off(A, rcond))[:, None] * b


def inverse_of_values(values: Array, rcond: float) -> Array:
    """1 / values; 0 where one is at most rcond times the largest in modulus."""
    xp = _array.array_namespace(values)
    if not _array.size(values):
        return values
    size = xp.abs(_array.stop_gradient(values))
    kept = size > rcond * xp.max(size)
    return xp.where(kept, 1.0 / xp.where(kept, values, xp.ones_like(values)), xp.zeros_like(values))


@inverse.register
def _(A: Diagonal) -> Diagonal:
    _check_nonzero(A, "inverse")
    return Diagonal._of(d=1.0 / A.d)


def _check_nonzero(A: Diagonal, where: str) -> None:
    # a diagonal solve is exact entry by entry, whatever the condition: only a zero makes it impossible
    if bool(A.xp.any(A.d == 0)):
        raise singular(A, where, "a zero on the diagonal")


@slogdet.register
def _(A: Diagonal) -> tuple[Array, Array]:
    return log_product(A.d)


@trace.register
def _(A: Diagonal) -> Array:
    return A.xp.sum(A.d)


@diagonal.register
def _(A: Diagonal) -> Array:
    return _array.copy(A.d)


@norm.register
def _(A: Diagonal, ord: Any) -> Array:
    if ord == "fro":
        return _array.frobenius(A.d)
    return A.xp.max(A.xp.abs(A.d)) if A.shape[0] else A.xp.abs(A.xp.sum(A.d))


@eigvals.register
def _(A: Diagonal) -> Array:
    return _array.astype(_array.copy(A.d), _array.complex_dtype(A.xp, A.dtype))


@svdvals.register
def _(A: Diagonal) -> Array:
    return A.xp.sort(A.xp.abs(A.d), descending=True)


# Identity ---------------------------------------------------------------------------------------------------------------


@conversion
def convert_identity(A: Identity) -> Diagonal:
    return Diagonal._of(d=_ones(A, A.dtype, "convert"))


def _ones(A: Identity, dtype: Any, where: str) -> Array:
    """n ones, which may be more than there is room for."""
    _check.check_bytes((A.n,), _array.itemsize(dtype), _check.DENSE_LIMIT, where, "All n of them are 1")
    return A.xp.ones((A.n,), dtype=dtype, device=A.device)


@solve.register
def _(A: Identity, b: Array) -> Array:
    return _array.copy(b)


@lstsq.register
def _(A: Identity, b: Array, rcond: float | None) -> Array:
    return _array.copy(b)


@inverse.register
def _(A: Identity) -> Identity:
    return A


@slogdet.register
def _(A: Identity) -> tuple[Array, Array]:
    return log_product(A.xp.ones((1,), dtype=A.dtype, device=A.device))


@trace.register
def _(A: Identity) -> Array:
    return A.xp.asarray(float(A.n), dtype=A.dtype, device=A.device)


@diagonal.register
def _(A: Identity) -> Array:
    return _ones(A, A.dtype, "diagonal")


@norm.register
def _(A: Identity, ord: Any) -> Array:
    value = math.sqrt(A.n) if ord == "fro" else float(A.n > 0)
    return A.xp.asarray(value, dtype=_array.real_dtype(A.xp, A.dtype), device=A.device)


@eigvals.register
def _(A: Identity) -> Array:
    return _ones(A, _array.complex_dtype(A.xp, A.dtype), "eigvals")


@svdvals.register
def _(A: Identity) -> Array:
    return _ones(A, _array.real_dtype(A.xp, A.dtype), "svdvals")


for _cls in (Diagonal, Identity):
    factorize.rules[_cls] = factorize_as_solve
