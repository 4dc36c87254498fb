"""Kronecker sums: the matrices of Laplacians on grids and of Sylvester equations."""

import functools
import math
from collections.abc import Callable, Sequence
from typing import Any, NamedTuple, final

from . import _array, _check
from ._array import Array
from .basic import Identity, inverse_of_values, is_identity
from .errors import ShapeError, SingularMatrixError
from .inverses import Inverse
from .kernels.kron import kron_sum_matmul
from .kernels.sylvester import triangular_sum_solve
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
from .linalg import (
    cut_off,
    diagonal,
    eigvals,
    factorize,
    factorize_as_solve,
    inverse,
    log_product,
    lstsq,
    norm,
    slogdet,
    solve,
    trace,
)
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


class _Forms(NamedTuple):
    """F_i = Q_i T_i Q_iᴴ with unitary Q_i: T_i upper triangular, or where all F_i are normal the vectors of their eigenvalues."""

    Q: tuple[Array, ...]
    T: tuple[Array, ...]
    normal: bool
    rcond: float

    @property
    def values(self) -> Array:
        xp = _array.array_namespace(*self.T)
        diagonals = self.T if self.normal else [xp.linalg.diagonal(X) for X in self.T]
        return outer("solve", diagonals, lambda x, y: x + y)

    def by_values(self, values: Array, b: Array) -> Array:
        """(⊗ Q_i) diag(values) (⊗ Q_i)ᴴ b, real for real b."""
        return self._between(lambda y: _array.astype(values, y.dtype)[:, None] * y, b)

    def solve(self, b: Array) -> Array:
        if self.normal:
            return self.by_values(1.0 / self.values, b)
        shift = _array.array_namespace(b).zeros((), dtype=self.T[0].dtype, device=_array.device(b))
        return self._between(lambda y: triangular_sum_solve(self.T, y, shift), b)

    def _between(self, inner: Callable[[Array], Array], b: Array) -> Array:
        xp, dtype = _array.array_namespace(b), _array.array_namespace(b).result_type(b.dtype, self.Q[0].dtype)
        Q = [_array.astype(X, dtype) for X in self.Q]
        y = apply_factors([_array.adjoint(X) for X in Q], _array.astype(b, dtype), -2)
        x = apply_factors(Q, inner(y), -2)
        return x if _array.is_complex(b) or not _array.is_complex(x) else xp.real(x)


def _forms(A: KroneckerSum) -> _Forms:
    """Found once; eigenvectors for Hermitian factors, else complex Schur forms, which are diagonal for normal ones."""

    def find() -> _Forms:
        F = [_array.stop_gradient(B.to_dense()) for B in A.operators]
        xp, u = A.xp, _array.unit_roundoff(A.xp, A.dtype)
        small = [4 * X.shape[0] * u * _array.to_float(_array.frobenius(X)) for X in F]
        if all(_array.to_float(_array.frobenius(X - _array.adjoint(X))) <= t for X, t in zip(F, small, strict=True)):
            T, Q = zip(*(xp.linalg.eigh((X + _array.adjoint(X)) / 2) for X in F), strict=True)
            return _rated(_Forms(Q, tuple(_array.astype(t, A.dtype) for t in T), True, 0.0), F)
        T, Q = zip(*(_array.schur(X) for X in F), strict=True)
        strict = [_array.to_float(_array.frobenius(xp.triu(X, k=1))) for X in T]
        normal = all(x <= 4 * t for x, t in zip(strict, small, strict=True))
        return _rated(_Forms(Q, tuple(xp.linalg.diagonal(X) for X in T) if normal else T, normal, 0.0), F)

    found: _Forms = A._remember("forms", find)
    return found


def _rated(forms: _Forms, F: Sequence[Array]) -> _Forms:
    """With rcond.

    min|λ| / max|λ| is an upper bound of it, and for a normal matrix it is rcond. For the others one step of power
    iteration tells: with z = A⁻¹ c for a random c, ‖A⁻ᴴ z‖ / ‖z‖ is a lower bound of ‖A⁻¹‖, and close to it when it
    is large.
    """
    xp, T, size = _array.array_namespace(*F), forms.T, _array.array_namespace(*F).abs(forms.values)
    largest, smallest = _array.to_float(xp.max(size)), _array.to_float(xp.min(size))
    rcond = smallest / largest if largest else 0.0
    if forms.normal or not rcond:
        return forms._replace(rcond=rcond)
    shift = xp.zeros((), dtype=T[0].dtype, device=_array.device(T[0]))
    c = _array.normal(_check.as_generator(0, "solve"), (size.shape[0], 1), T[0])
    z = triangular_sum_solve(T, c, shift)
    z = z / _array.astype(_array.frobenius(z), z.dtype)
    # reversed, the adjoint of an upper triangular matrix is upper triangular again
    adjoints = [xp.flip(_array.adjoint(X)) for X in T]
    grown = _array.to_float(_array.frobenius(triangular_sum_solve(adjoints, xp.flip(z, axis=0), shift)))
    norms = sum(_array.to_float(xp.max(xp.linalg.svdvals(X))) for X in F)
    return forms._replace(rcond=min(rcond, 1 / (norms * grown)) if math.isfinite(grown) else 0.0)


@solve.register
def _(A: KroneckerSum, b: Array) -> Array:
    """Bartels–Stewart for any number of factors: F_i = Q_i T_i Q_iᴴ, then (T_1 ⊕ … ⊕ T_d) y = (⊗ Q_i)ᴴ b.

    Eigenvectors of normal factors and a division, or complex Schur forms and back-substitution, one mode after the other; cost
    N Σ n_i plus the forms, which are kept. They are dense: structured factors are formed, within the limit of to_dense. Derivatives of
    first and second order are those of two steps of refinement with the forms held fixed.
    """
    if not A.shape[0]:
        return _array.copy(b)
    forms = _nonsingular(A, "solve")
    x = forms.solve(_array.stop_gradient(b))
    for _ in range(2 if _array.attached(*A.arrays(), b) else 0):
        x = x + forms.solve(b - A._product(x, -2))
    return x


factorize.rules[KroneckerSum] = factorize_as_solve  # the forms are kept


@inverse.register
def _(A: KroneckerSum) -> StructuredMatrix:
    """Lazy: a product is a solve by the forms that are found here."""
    if A.shape[0]:
        _nonsingular(A, "inverse")
    return Inverse(A)


@lstsq.register
def _(A: KroneckerSum, b: Array, rcond: float | None) -> Array:
    """Where factors are normal, so is A, and its singular values are the moduli of its eigenvalues; else A must not be singular."""
    if not A.shape[0]:
        return _array.copy(b)
    forms = _forms(A)
    if not forms.normal:
        ways = "Use sm.interop.lsmr(A, b), or sm.lstsq(sm.Dense(A.to_dense()), b)"
        try:
            return solve.rule(A, b)
        except SingularMatrixError as error:
            got = f"{error.args[2]}, and its factors are not normal"
            raise SingularMatrixError("lstsq", "A", got, "normal factors, or a nonsingular matrix", ways) from None
    if _array.attached(*A.arrays(), b):
        return solve.rule(A, b)
    return forms.by_values(inverse_of_values(forms.values, cut_off(A, rcond)), b)


def _nonsingular(A: KroneckerSum, where: str) -> _Forms:
    forms, u = _forms(A), _array.unit_roundoff(A.xp, A.dtype)
    way = _check.LEAST_SQUARES if forms.normal else _check.DENSE_LEAST_SQUARES
    _check.check_rcond(forms.rcond, max(A.sizes), u, where, "A (a Kronecker sum)", way)
    return forms
