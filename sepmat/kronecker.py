"""Kronecker products and Kronecker sums of any number of factors, dense or structured."""

import functools
import math
from collections.abc import Callable, Iterator, Sequence
from typing import Any, final

from . import _array, _check
from ._array import Array
from .basic import Dense, Identity, is_identity
from .errors import ShapeError, SingularMatrixError
from .kernels.kron import chain, kron_matmul
from .linalg import (
    OpenFunction,
    diagonal,
    eigvals,
    integer_power,
    inverse,
    log_product,
    norm,
    singular,
    slogdet,
    solve,
    svdvals,
    trace,
)
from .matrix import Scaled, StructuredMatrix, structure

__all__ = ["Kronecker", "KroneckerSum", "kron", "rearrange", "rearrange_back"]

Factor = Any  # an array (m, n), or a StructuredMatrix


@final
@structure
class Kronecker(StructuredMatrix):
    """F_1 ⊗ F_2 ⊗ … ⊗ F_d with the first factor slowest, as numpy.kron.

    factors: dense arrays (m_i, n_i) or structured matrices, rectangular as they come; the matrix is Π m_i × Π n_i.
    (V ⊗ W)[i1 m2 + i2, k1 n2 + k2] = V[i1, k1] W[i2, k2], so (V ⊗ W) x = vec(V X Wᵀ) with X = x.reshape(n1, n2).
    A product costs Σ_i m_i n_i Π_{j≠i} (size of mode j), a solve the solves with the factors.

    >>> import numpy as np, sepmat as sm
    >>> K = sm.Kronecker(np.eye(2), [[1.0, 2.0], [3.0, 4.0]])
    >>> K
    Kronecker(2×2 ⊗ 2×2, shape=(4, 4), float64)
    >>> K @ np.array([1.0, 1.0, 0.0, 1.0])
    array([3., 7., 2., 4.])
    """

    factors: tuple[Factor, ...]

    def __init__(self, *factors: Any) -> None:
        object.__setattr__(self, "factors", as_factors(factors, "Kronecker"))

    @property
    def shape(self) -> tuple[int, int]:
        return (math.prod(int(F.shape[0]) for F in self.factors), math.prod(int(F.shape[1]) for F in self.factors))

    @property
    def operators(self) -> tuple[StructuredMatrix, ...]:
        """The factors, arrays wrapped as Dense."""
        return tuple(as_operator(F) for F in self.factors)

    def _apply(self, x: Array, axis: int) -> Array:
        # factors such as 1e200, 1e200, 1e-300: the product is in range, what stands between may not be
        factors, e = self._remember("balanced", lambda: _balanced(self.factors))
        if e is None:
            return _apply_factors(factors, x, axis)
        k = _array.exponent(x)
        return _array.ldexp(_apply_factors(factors, _array.ldexp(x, -k), axis), e + k)

    def _transpose(self) -> StructuredMatrix:
        return self._each(lambda A: A.T)

    def _each(self, fn: Callable[[StructuredMatrix], StructuredMatrix]) -> "Kronecker":
        return Kronecker._of(factors=tuple(as_factor(fn(A)) for A in self.operators))

    def _times(self, other: StructuredMatrix) -> Any:
        if isinstance(other, Kronecker) and [F.shape[1] for F in self.factors] == [F.shape[0] for F in other.factors]:
            pairs = zip(self.operators, other.operators, strict=True)
            return Kronecker._of(factors=_same_dtype([as_factor(A @ B) for A, B in pairs]))
        return NotImplemented

    def _scale(self, s: Array) -> StructuredMatrix:
        first, *rest = self.operators
        return Kronecker._of(factors=_same_dtype([as_factor(A) for A in (first._scale(s), *rest)]))

    def _block(self, rows: Sequence[int], cols: Sequence[int]) -> Array:
        blocks, e = _array.balanced(_digit_blocks(self, rows, cols))
        return _array.ldexp(functools.reduce(lambda P, B: P * B, blocks), e)

    def _to_dense(self) -> Array:
        dense, e = _array.balanced([A._to_dense() for A in self.operators])
        total = dense[0]
        for D in dense[1:]:
            (a, b), (m, n) = total.shape, D.shape
            total = self.xp.reshape(total[:, None, :, None] * D[None, :, None, :], (a * m, b * n))
        return _array.ldexp(total, e)

    def _detail(self) -> str:
        return " ⊗ ".join(_describe(F) for F in self.factors)


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
        sizes = self.sizes
        parts = []
        for i, F in enumerate(self.factors):
            before, after = math.prod(sizes[:i]), math.prod(sizes[i + 1 :])
            parts.append(_apply_factors((F,), x, axis, before, after))
        return functools.reduce(lambda y, part: y + part, parts)

    def _transpose(self) -> StructuredMatrix:
        return KroneckerSum._of(factors=tuple(as_factor(A.T) for A in self.operators))

    def _plus(self, other: StructuredMatrix) -> Any:
        if isinstance(other, KroneckerSum) and other.sizes == self.sizes:
            sums = [as_factor(A + B) for A, B in zip(self.operators, other.operators, strict=True)]
            return KroneckerSum._of(factors=_same_dtype(sums))
        if is_identity(other):
            first, *rest = self.operators
            like = first.xp.empty((0,), dtype=first.dtype, device=first.device)
            shift: StructuredMatrix = Identity._of(n=first.shape[0], like=like)
            shift = shift._scale(other.scale) if isinstance(other, Scaled) else shift
            return KroneckerSum._of(factors=_same_dtype([as_factor(A) for A in (first + shift, *rest)]))
        return NotImplemented

    def _scale(self, s: Array) -> StructuredMatrix:
        return KroneckerSum._of(factors=_same_dtype([as_factor(A._scale(s)) for A in self.operators]))

    def _block(self, rows: Sequence[int], cols: Sequence[int]) -> Array:
        # (P, S): the products of the Kronecker deltas so far, and the sum with one delta replaced by a factor
        P, S = None, None
        blocks = _digit_blocks(self, rows, cols)
        like = self.xp.empty((0,), dtype=self.dtype, device=self.device)
        units = _digit_blocks(
            KroneckerSum._of(factors=tuple(Identity._of(n=n, like=like) for n in self.sizes)), rows, cols
        )
        for B, E in zip(blocks, units, strict=True):
            P, S = (E, B) if P is None or S is None else (P * E, S * E + P * B)
        return S

    def _detail(self) -> str:
        return " ⊕ ".join(_describe(F) for F in self.factors)


def kron(*factors: Any) -> Kronecker:
    """The Kronecker product of arrays and structured matrices; Kronecker factors are flattened.

    >>> import numpy as np, sepmat as sm
    >>> sm.kron(np.eye(2), sm.kron(np.eye(3), np.eye(4)))
    Kronecker(2×2 ⊗ 3×3 ⊗ 4×4, shape=(24, 24), float64)
    """
    flat = [G for F in factors for G in (F.factors if isinstance(F, Kronecker) else (F,))]
    return Kronecker(*flat)


# factors ----------------------------------------------------------------------------------------------------------------


def as_factors(factors: Sequence[Any], where: str) -> tuple[Factor, ...]:
    """Arrays and structured matrices of one library, device and dtype; arrays are copied."""
    if len(factors) == 1 and isinstance(factors[0], (list, tuple)) and not _is_number_row(factors[0]):
        factors = factors[0]
    if not factors:
        raise ShapeError(where, "factors", "empty", "at least one factor", "Use Identity(n, like=array)")
    names = [f"factors[{i}]" for i in range(len(factors))]
    arrays = [(name, F) for name, F in zip(names, factors, strict=True) if not isinstance(F, StructuredMatrix)]
    checked = iter(_check.as_arrays(arrays, where, 2) if arrays else ())
    result = [F if isinstance(F, StructuredMatrix) else next(checked) for F in factors]
    leaves = [(name, a) for name, F in zip(names, result, strict=True) for a in as_operator(F).arrays()]
    _check.same_place(where, leaves)
    return _same_dtype([as_factor(as_operator(F)) for F in result])


def _is_number_row(value: Sequence[Any]) -> bool:
    """Whether a list is itself a matrix (rows of numbers) and not a list of factors."""
    return bool(value) and all(
        isinstance(row, (list, tuple)) and all(not isinstance(x, (list, tuple)) and not _array.is_array(x) for x in row)
        for row in value
    )


def as_operator(F: Factor) -> StructuredMatrix:
    return F if isinstance(F, StructuredMatrix) else Dense._of(array=F)


def as_factor(A: StructuredMatrix) -> Factor:
    return A.array if isinstance(A, Dense) else A


def _same_dtype(factors: Sequence[Factor]) -> tuple[Factor, ...]:
    operators = [as_operator(F) for F in factors]
    dtype = operators[0].xp.result_type(*(A.dtype for A in operators))
    return tuple(as_factor(A.astype(dtype)) for A in operators)


def _describe(F: Factor) -> str:
    return F._name() if isinstance(F, StructuredMatrix) else f"{F.shape[0]}×{F.shape[1]}"


def _balanced(factors: Sequence[Factor]) -> tuple[tuple[Factor, ...], int | None]:
    if any(isinstance(F, StructuredMatrix) for F in factors):
        return tuple(factors), None
    return _array.balanced(factors)


def _apply_factors(factors: Sequence[Factor], x: Array, axis: int, before: int = 1, after: int = 1) -> Array:
    """I_before ⊗ F_1 ⊗ … ⊗ F_d ⊗ I_after along an axis of x."""
    if before == after == 1 and not any(isinstance(F, StructuredMatrix) for F in factors):
        return kron_matmul(factors, x, axis)
    operators = [as_operator(F) for F in factors]
    xp = _array.array_namespace(x)
    lead, trail = (x.shape[:-1], ()) if axis == -1 else (x.shape[:-2], x.shape[-1:])
    columns = math.prod(A.shape[1] for A in operators)
    x = xp.reshape(x, (math.prod(lead) * before, columns, after * math.prod(trail)))

    def product(i: int, y: Array, left: int, right: int) -> Array:
        n = operators[i].shape[1]
        if right == 1:
            return operators[i]._product(xp.reshape(y, (left, n)), -1)
        return operators[i]._product(xp.reshape(y, (left, n, right)), -2)

    y = chain([A.shape for A in operators], product, x, -2)
    return xp.reshape(y, (*lead, before * math.prod(A.shape[0] for A in operators) * after, *trail))


def digits(
    shapes: Sequence[tuple[int, int]], rows: Sequence[int], cols: Sequence[int]
) -> Iterator[tuple[list[int], list[int]]]:
    """For each factor its rows and columns that the given rows and columns of the whole matrix meet (mixed radix)."""
    row_step, col_step = math.prod(m for m, _ in shapes), math.prod(n for _, n in shapes)
    for m, n in shapes:
        row_step, col_step = row_step // m, col_step // n
        yield [r // row_step % m for r in rows], [c // col_step % n for c in cols]


def _digit_blocks(A: "Kronecker | KroneckerSum", rows: Sequence[int], cols: Sequence[int]) -> list[Array]:
    indices = digits([B.shape for B in A.operators], rows, cols)
    return [B._block(i, j) for B, (i, j) in zip(A.operators, indices, strict=True)]


# rearrangement ----------------------------------------------------------------------------------------------------------


def rearrange(A: Any, shapes: Sequence[tuple[int, int]]) -> Array:
    """R(A) of Van Loan and Pitsianis: the d-way array (m_1 n_1, …, m_d n_d) whose rank-one terms are Kronecker products.

    R(V_1 ⊗ … ⊗ V_d) = vec(V_1) ∘ … ∘ vec(V_d) with row-major vec; R only permutes entries, so ‖R(A)‖_F = ‖A‖_F.
    A: dense (Π m_i, Π n_i); shapes: ((m_1, n_1), …, (m_d, n_d)). For d = 2 the result is an m_1 n_1 × m_2 n_2 matrix.

    >>> import numpy as np, sepmat as sm
    >>> sm.rearrange(np.kron([[1, 2]], [[10], [20]]), ((1, 2), (2, 1)))
    array([[10., 20.],
           [20., 40.]])
    """
    A = _check.as_array(A, "rearrange", "A", 2)
    shapes = as_shapes(shapes, tuple(A.shape), "rearrange")
    xp, d = _array.array_namespace(A), len(shapes)
    split = xp.reshape(A, (*(m for m, _ in shapes), *(n for _, n in shapes)))
    mixed = xp.permute_dims(split, tuple(k for i in range(d) for k in (i, d + i)))
    return xp.reshape(mixed, tuple(m * n for m, n in shapes))


def rearrange_back(R: Any, shapes: Sequence[tuple[int, int]]) -> Array:
    """The matrix A with rearrange(A, shapes) = R."""
    R = _check.as_array(R, "rearrange_back", "R")
    expected = tuple(m * n for m, n in shapes)
    if tuple(R.shape) != expected:
        raise ShapeError("rearrange_back", "R", f"shape {tuple(R.shape)}", f"{expected}", "Its axes are m_i n_i")
    xp, d = _array.array_namespace(R), len(shapes)
    split = xp.reshape(R, tuple(k for shape in shapes for k in shape))
    mixed = xp.permute_dims(split, (*range(0, 2 * d, 2), *range(1, 2 * d, 2)))
    return xp.reshape(mixed, (math.prod(m for m, _ in shapes), math.prod(n for _, n in shapes)))


def as_shapes(shapes: Any, full: tuple[int, ...], where: str) -> tuple[tuple[int, int], ...]:
    """Factor shapes that multiply to the full shape."""
    if not isinstance(shapes, (tuple, list)) or not shapes:
        raise ShapeError(where, "shapes", repr(shapes), "pairs ((m1, n1), (m2, n2), …)", "One pair for each factor")
    pairs = tuple(_check.as_shape(s, where, f"shapes[{i}]") for i, s in enumerate(shapes))
    for axis, word in ((0, "rows"), (1, "columns")):
        sizes = [p[axis] for p in pairs]
        if math.prod(sizes) != full[axis]:
            got = f"{word} {'·'.join(map(str, sizes))} ≠ {full[axis]}"
            divisors = ", ".join(str(k) for k in range(1, full[axis] + 1) if full[axis] % k == 0)
            raise ShapeError(
                where, "shapes", got, f"sizes that multiply to {full}", f"Divisors of {full[axis]}: {divisors}"
            )
    return pairs


# Kronecker --------------------------------------------------------------------------------------------------------------


def _all_square(A: Kronecker) -> bool:
    return all(B.shape[0] == B.shape[1] for B in A.operators)


def _rank_bound(A: Kronecker) -> int:
    return math.prod(min(B.shape) for B in A.operators)


def _by_factor(function: OpenFunction, i: int, *args: Any) -> Any:
    """The rule for one factor; a singular one is named by its index."""
    try:
        return function.rule(*args)
    except SingularMatrixError as error:
        where, _, got, expected, advice = error.args
        raise SingularMatrixError(where, f"factors[{i}]", got, expected, advice) from None


def _nonsingular(A: Kronecker, where: str) -> None:
    if not _all_square(A):
        raise singular(A, where, f"rank <= {_rank_bound(A)} < {A.shape[0]}")


@solve.register
def _(A: Kronecker, b: Array) -> Array:
    """Factor by factor, never by inverses: the residual bound is free of the condition (maths: B15)."""
    _nonsingular(A, "solve")
    xp = A.xp

    def product(i: int, y: Array, left: int, right: int) -> Array:
        n = A.factors[i].shape[0]
        columns = xp.reshape(xp.permute_dims(xp.reshape(y, (left, n, right)), (1, 0, 2)), (n, left * right))
        x = xp.reshape(_by_factor(solve, i, A.operators[i], columns), (n, left, right))
        return xp.permute_dims(x, (1, 0, 2))

    return chain([B.shape for B in A.operators], product, b, -2)


@inverse.register
def _(A: Kronecker) -> Kronecker:
    _nonsingular(A, "inverse")
    inverses = [_by_factor(inverse, i, B) for i, B in enumerate(A.operators)]
    return Kronecker._of(factors=_same_dtype([as_factor(B) for B in inverses]))


@slogdet.register
def _(A: Kronecker) -> tuple[Array, Array]:
    """log|det| = Σ (N/n_i) log|det F_i|, sign = Π sign_i^(N/n_i) with the parity of exact integers (maths: B21)."""
    xp, N = A.xp, A.shape[0]
    if not _all_square(A):
        return log_product(xp.zeros((1,), dtype=A.dtype, device=A.device))
    sign, logabs = log_product(xp.ones((1,), dtype=A.dtype, device=A.device))
    for B in A.operators if N else ():
        s, l = slogdet.rule(B)
        k = N // B.shape[0]
        sign, logabs = sign * integer_power(s, k), logabs + l * float(k)
    return sign, logabs


@trace.register
def _(A: Kronecker) -> Array:
    if _all_square(A):
        return _array.scaled_product([trace.rule(B) for B in A.operators])
    return A.xp.sum(diagonal.rule(A))


@diagonal.register
def _(A: Kronecker) -> Array:
    xp = A.xp
    if _all_square(A):
        return _outer("diagonal", [diagonal.rule(B) for B in A.operators], lambda x, y: x * y)
    k = min(A.shape)
    _check.check_bytes((k,), _array.itemsize(A.dtype), _check.DENSE_LIMIT, "diagonal", "Read entries with A[i, i]")
    entries = [A._block([i], [i]) for i in range(k)]
    return (
        xp.concat([xp.reshape(e, (1,)) for e in entries]) if entries else xp.zeros((0,), dtype=A.dtype, device=A.device)
    )


@norm.register
def _(A: Kronecker, ord: Any) -> Array:
    """The Frobenius, 1, inf and every Schatten norm is multiplicative."""
    return _array.scaled_product([norm(B, ord) for B in A.operators])


@eigvals.register
def _(A: Kronecker) -> Array:
    if not _all_square(A):
        raise eigvals.unsupported(A, "rectangular factors have no closed form")
    return _outer("eigvals", [eigvals.rule(B) for B in A.operators], lambda x, y: x * y)


@svdvals.register
def _(A: Kronecker) -> Array:
    """All products of the factors' singular values, padded with zeros to min(m, n)."""
    xp = A.xp
    values = _outer("svdvals", [svdvals.rule(B) for B in A.operators], lambda x, y: x * y)
    zeros = xp.zeros((min(A.shape) - values.shape[0],), dtype=values.dtype, device=A.device)
    return xp.concat((xp.sort(values, descending=True), zeros))


def _outer(where: str, vectors: Sequence[Array], combine: Callable[[Array, Array], Array]) -> Array:
    """combine(x_1[i_1], x_2[i_2], …) for all multi-indices, the first one slowest."""
    first, *rest = vectors
    xp, total = _array.array_namespace(first), (math.prod(v.shape[0] for v in vectors),)
    _check.check_bytes(total, _array.itemsize(first.dtype), _check.DENSE_LIMIT, where, "Ask for those of the factors")
    for v in rest:
        first = xp.reshape(combine(first[:, None], v[None, :]), (first.shape[0] * v.shape[0],))
    return first


# KroneckerSum -----------------------------------------------------------------------------------------------------------


@trace.register
def _(A: KroneckerSum) -> Array:
    N = A.shape[0]
    parts = [trace.rule(B) * float(N // n) for B, n in zip(A.operators, A.sizes, strict=True) if n]
    return functools.reduce(lambda x, y: x + y, parts) if parts else A.xp.zeros((), dtype=A.dtype, device=A.device)


@diagonal.register
def _(A: KroneckerSum) -> Array:
    return _outer("diagonal", [diagonal.rule(B) for B in A.operators], lambda x, y: x + y)


@norm.register
def _(A: KroneckerSum, ord: Any) -> Array:
    """‖A‖_F² = Σ (N/n_i) ‖F_i − t_i I‖_F² + N |Σ t_i|², t_i = tr F_i / n_i: orthogonal parts, nothing cancels."""
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
    return _outer("eigvals", [eigvals.rule(B) for B in A.operators], lambda x, y: x + y)


@slogdet.register
def _(A: KroneckerSum) -> tuple[Array, Array]:
    values = eigvals.rule(A)
    return log_product(values, real=not A._is_complex)


@solve.register
def _(A: KroneckerSum, b: Array) -> Array:
    """Bartels–Stewart for any number of factors: complex Schur forms F_i = Q_i T_i Q_iᴴ, then back-substitution.

    (T_1 ⊕ … ⊕ T_d) y = (⊗ Q_i)ᴴ b, one mode after the other; cost N Σ n_i plus the Schur forms.
    """
    xp = A.xp
    if any(_array.is_torch(a) and a.requires_grad for a in (*A.arrays(), b)):
        raise solve.unsupported(A, "no gradient through the Schur forms")
    if not A.shape[0]:
        return _array.copy(b)
    T, Q = zip(*(_array.schur(B._to_dense()) for B in A.operators), strict=True)
    spectrum = xp.abs(_outer("solve", [xp.linalg.diagonal(X) for X in T], lambda x, y: x + y))
    largest, smallest = _array.to_float(xp.max(spectrum)), _array.to_float(xp.min(spectrum))
    u = _array.unit_roundoff(xp, A.dtype)
    rcond = smallest / largest if largest else 0.0
    _check.check_rcond(rcond, max(A.sizes), u, "solve", "A (a sum of eigenvalues)")
    y = _apply_factors([xp.conj(xp.matrix_transpose(X)) for X in Q], _array.astype(b, T[0].dtype), -2)
    y = _back_substitute(T, y, xp.zeros((), dtype=T[0].dtype, device=A.device))
    x = _apply_factors(Q, y, -2)
    return x if A._is_complex else xp.real(x)


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
