"""A⁻¹, kept lazy."""

import math
from typing import Any, final

from . import _check
from ._array import Array
from .errors import DTypeError
from .linalg import Factorization, factorize, inverse, lstsq, slogdet, solve
from .matrix import StructuredMatrix, structure

__all__ = ["Inverse"]


@final
@structure
class Inverse(StructuredMatrix):
    """A⁻¹, kept lazy: a product is a solve with A, and nothing is computed before.

    Where `inverse(A)` computes a matrix, this one stands for it in an expression, such as
    `convert(T1 @ Inverse(T2), LowDisplacementRank)`, or as a preconditioner. A is square, of any class that `solve` has
    a rule for; a product raises and costs what that rule does. Raises ShapeError unless A is square.

    >>> import sepmat as sm
    >>> sm.Inverse(sm.Diagonal([2.0, 4.0])) @ [2.0, 2.0]
    array([1. , 0.5])
    """

    matrix: StructuredMatrix

    def __init__(self, matrix: StructuredMatrix) -> None:
        if not isinstance(matrix, StructuredMatrix):
            got = f"a {type(matrix).__name__}"
            raise DTypeError("Inverse", "matrix", got, "a structured matrix", "Use sm.Dense(A)")
        _check.check_square(matrix.shape, "Inverse", "matrix")
        object.__setattr__(self, "matrix", matrix)

    @property
    def shape(self) -> tuple[int, int]:
        return self.matrix.shape

    def _apply(self, x: Array, axis: int) -> Array:
        xp, n = self.xp, self.shape[0]
        if x.ndim == 1 or (x.ndim == 2 and axis == -2):
            return solve(self.matrix, x)
        x = xp.moveaxis(x, axis, 0)
        y = solve(self.matrix, xp.reshape(x, (n, math.prod(x.shape[1:]))))
        return xp.moveaxis(xp.reshape(y, x.shape), 0, axis)

    def _transpose(self) -> StructuredMatrix:
        return Inverse._of(matrix=self.matrix.T)

    def _detail(self) -> str:
        return self.matrix._name()


@solve.register
def _(A: Inverse, b: Array) -> Array:
    return A.matrix._product(b, -2)


@lstsq.register
def _(A: Inverse, b: Array, rcond: float | None) -> Array:
    """What has an inverse, or is one, has no other solution."""
    return solve.rule(A, b)


@factorize.register
def _(A: Inverse) -> Factorization:
    return Factorization(A, solve.rule, A.matrix)


@inverse.register
def _(A: Inverse) -> StructuredMatrix:
    return A.matrix


@slogdet.register
def _(A: Inverse) -> tuple[Any, Any]:
    sign, logabs = slogdet.rule(A.matrix)
    return A.xp.conj(sign) if A._is_complex else sign, -logabs
