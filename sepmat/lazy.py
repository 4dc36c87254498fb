"""The rules of the lazy nodes: a Scaled, a Sum or a Product answers by the rules of what it is made of."""

import functools
import operator
from typing import Any

from . import _array
from ._array import Array
from .errors import SingularMatrixError
from .linalg import (
    Factorization,
    OpenFunction,
    diagonal,
    eigvals,
    factorize,
    integer_power,
    inverse,
    lstsq,
    norm,
    singular,
    slogdet,
    solve,
    svdvals,
    trace,
)
from .matrix import Product, Scaled, StructuredMatrix, Sum


@factorize.register
def _(A: Scaled) -> Factorization:
    inner: Factorization = factorize.rule(A.matrix)
    _nonzero(A, "factorize")
    return Factorization(A, functools.partial(_solve_scaled, inner), None, inner.rcond)


def _solve_scaled(inner: Factorization, A: Scaled, b: Array) -> Array:
    return inner.solver(A.matrix.astype(b.dtype), b) / A.scale


@solve.register
def _(A: Scaled, b: Array) -> Array:
    return solve.rule(A.matrix.astype(b.dtype), b) / _nonzero(A, "solve")


@lstsq.register
def _(A: Scaled, b: Array, rcond: float | None) -> Array:
    zero = A.scale == 0
    x = lstsq.rule(A.matrix.astype(b.dtype), b, rcond) / A.xp.where(zero, A.xp.ones_like(A.scale), A.scale)
    return A.xp.where(zero, A.xp.zeros_like(x), x)


@inverse.register
def _(A: Scaled) -> StructuredMatrix:
    return inverse.rule(A.matrix)._scale(1.0 / _nonzero(A, "inverse"))


@slogdet.register
def _(A: Scaled) -> tuple[Array, Array]:
    sign, logabs = slogdet.rule(A.matrix)
    xp, n = A.xp, A.shape[0]
    size = xp.abs(A.scale)
    unit = xp.where(
        size > 0,
        A.scale / _array.astype(xp.where(size > 0, size, xp.ones_like(size)), A.scale.dtype),
        xp.zeros_like(A.scale),
    )
    return sign * integer_power(unit, n), logabs + (n * xp.log(size) if n else 0.0)


@trace.register
def _(A: Scaled) -> Array:
    return A.scale * trace.rule(A.matrix)


@diagonal.register
def _(A: Scaled) -> Array:
    return A.scale * diagonal.rule(A.matrix)


@norm.register
def _(A: Scaled, ord: Any) -> Array:
    return A.xp.abs(A.scale) * norm(A.matrix, ord)


@eigvals.register
def _(A: Scaled) -> Array:
    values = eigvals.rule(A.matrix)
    return _array.astype(A.scale, values.dtype) * values


@svdvals.register
def _(A: Scaled) -> Array:
    return A.xp.abs(A.scale) * svdvals.rule(A.matrix)


@trace.register
def _(A: Sum) -> Array:
    first, *rest = (trace.rule(B) for B in A._wide_terms())
    return sum(rest, start=first)


@diagonal.register
def _(A: Sum) -> Array:
    first, *rest = (diagonal.rule(B) for B in A._wide_terms())
    return sum(rest, start=first)


@solve.register
def _(A: Product, b: Array) -> Array:
    for B in _square_factors(A, solve):
        b = solve.rule(B.astype(b.dtype), b)
    return b


@lstsq.register
def _(A: Product, b: Array, rcond: float | None) -> Array:
    """Of nonsingular factors: the pseudo-inverse of a product is in general not the product of the pseudo-inverses."""
    try:
        _square_factors(A, lstsq)
        return solve.rule(A, b)
    except SingularMatrixError as error:
        got, ways = (
            f"{error.args[2]}, in a product",
            "Use sm.interop.lsmr(A, b), or sm.lstsq(sm.Dense(A.to_dense()), b)",
        )
        raise SingularMatrixError("lstsq", "A", got, "nonsingular factors", ways) from None


@factorize.register
def _(A: Product) -> Factorization:
    inner = tuple(factorize.rule(B) for B in _square_factors(A, factorize))
    return Factorization(A, functools.partial(_solve_product, inner))


def _solve_product(inner: tuple[Factorization, ...], A: Product, b: Array) -> Array:
    for F, B in zip(inner, A.factors, strict=True):
        b = F.solver(B.astype(b.dtype), b)
    return b


@inverse.register
def _(A: Product) -> StructuredMatrix:
    first, *rest = (inverse.rule(B) for B in reversed(_square_factors(A, inverse)))
    return functools.reduce(operator.matmul, rest, first)


@slogdet.register
def _(A: Product) -> tuple[Array, Array]:
    results = [slogdet.rule(B) for B in _square_factors(A, slogdet)]
    sign, logabs = results[0]
    for s, l in results[1:]:
        sign, logabs = sign * s, logabs + l
    return sign, logabs


def _square_factors(A: Product, function: OpenFunction) -> tuple[StructuredMatrix, ...]:
    if any(B.shape[0] != B.shape[1] for B in A.factors):
        raise function.unsupported(A, "a product of rectangular factors has no rule")
    return A.factors


def _nonzero(A: Scaled, where: str) -> Array:
    if A.shape[0] and _array.to_float(A.xp.abs(A.scale)) == 0:
        raise singular(A, where, "the scale is 0")
    return A.scale


lstsq.square.add(Product)
