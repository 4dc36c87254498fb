"""Kronecker products of any number of factors, dense or structured; the rearrangement of Van Loan and Pitsianis."""

import functools
import math
from collections.abc import Callable, Iterator, Sequence
from typing import Any, final

from . import _array, _check
from ._array import Array
from .basic import Dense
from .errors import ShapeError, SingularMatrixError, speaks
from .frozen import once
from .kernels import plan
from .kernels.kron import groups_on_gpu, kron_matmul, laid_out, planned
from .kernels.limits import kind_of
from .kernels.reference import chain, merged
from .linalg import (
    Factorization,
    OpenFunction,
    diagonal,
    eigvals,
    factorize,
    integer_power,
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
from .matrix import StructuredMatrix, instead_of, structure

__all__ = ["Kronecker", "kron", "rearrange", "rearrange_back"]

Factor = Any  # an array (m, n), or a StructuredMatrix
Sizes = tuple[tuple[tuple[int, int], ...], str]  # shapes, and the character of the dtype


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

    @once
    def shape(self) -> tuple[int, int]:
        rows, columns = ([int(F.shape[k]) for F in self.factors] for k in (0, 1))
        return (math.prod(rows), math.prod(columns))

    @once
    def operators(self) -> tuple[StructuredMatrix, ...]:
        """The factors, arrays wrapped as Dense."""
        return tuple(as_operator(F) for F in self.factors)

    def _apply(self, x: Array, axis: int) -> Array:
        if _array.is_numpy(x) and (p := self._plan(x.shape, axis)) is not None:
            groups = p.groups
            factors, e = self._remember(groups, lambda: self._ready(groups))
            return _array.ldexp(planned(p, factors, x, axis), e)
        if _array.compiling() or not self._remembers or self._sizes is None:
            factors, e = self._remember("balanced", lambda: _balanced(self.factors))
            return _array.ldexp(apply_factors(factors, x, axis), e)
        groups = self._groups(self._sizes, x, axis)
        factors, e = self._remember(groups, lambda: self._ready(groups))
        return _array.ldexp(kron_matmul(factors, x, axis), e)

    def _groups(self, sizes: Sizes, x: Array, axis: int) -> tuple[tuple[int, int], ...]:
        """What is merged for arrays other than NumPy's, whose rows of the table make a plan of the rest."""
        if _array.on_gpu(x):
            return groups_on_gpu(sizes[0], 1, x.shape, axis, x.dtype)
        return plan.chain(sizes[0], *plan.sides(x.shape, axis), sizes[1], True, False).groups

    def _suits_numpy(self, shape: tuple[int, ...], axis: int) -> bool:
        return self._sizes is not None  # torch folds small factors by copies and has no panels

    def _ready(self, groups: tuple[tuple[int, int], ...]) -> tuple[tuple[Array, ...], int]:
        """Balanced and merged factors, and the exponent that is left."""
        factors, e = self._remember("balanced", lambda: _balanced(self.factors))
        return laid_out(merged(factors, groups)), e

    def _plan(self, shape: tuple[int, ...], axis: int) -> plan.Chain | None:
        """What is merged and in which steps; None for structured factors. Merged factors cost too much where each product
        would have to form them again, for gradients."""
        if self._sizes is None:
            return None
        shapes, kind = self._sizes
        left, right = plan.sides(shape, axis)
        return plan.chain(shapes, left, right, kind, self._remembers, self._on_numpy)

    @once
    def _sizes(self) -> Sizes | None:
        """The shapes of the factors where all of them are arrays, and what their products are computed in."""
        if any(isinstance(F, StructuredMatrix) for F in self.factors):
            return None
        return tuple((int(F.shape[0]), int(F.shape[1])) for F in self.factors), kind_of(self.dtype)

    @once
    def _on_numpy(self) -> bool:
        return _array.is_numpy(self._arrays[0])

    def _transpose(self) -> StructuredMatrix:
        return self._each(lambda A: A.T)

    def _each(self, fn: Callable[[StructuredMatrix], StructuredMatrix]) -> "Kronecker":
        return Kronecker._of(factors=tuple(as_factor(fn(A)) for A in self.operators))

    def _times(self, other: StructuredMatrix) -> Any:
        if isinstance(other, Kronecker) and [F.shape[1] for F in self.factors] == [F.shape[0] for F in other.factors]:
            pairs = zip(self.operators, other.operators, strict=True)
            return Kronecker._of(factors=same_dtype([as_factor(A @ B) for A, B in pairs]))
        return NotImplemented

    def _scale(self, s: Array) -> StructuredMatrix:
        # a large s into the smallest factor, a small one into the largest: 1e200 A may leave the range, 1e200 (A ⊗ B) not
        operators = list(self.operators)
        choose = min if _array.exponent(s) >= 0 else max
        i = choose(range(len(operators)), key=lambda k: sum(map(_array.exponent, operators[k].arrays())))
        operators[i] = operators[i]._scale(s)
        return Kronecker._of(factors=same_dtype([as_factor(A) for A in operators]))

    def _block(self, rows: Sequence[int], cols: Sequence[int]) -> Array:
        blocks, e = _balanced(digit_blocks(self.operators, rows, cols))
        return _array.ldexp(functools.reduce(lambda P, B: P * B, blocks), e)

    def _to_dense(self) -> Array:
        dense, e = _balanced([A._to_dense() for A in self.operators])
        total = dense[0]
        for D in dense[1:]:
            (a, b), (m, n) = total.shape, D.shape
            total = self.xp.reshape(total[:, None, :, None] * D[None, :, None, :], (a * m, b * n))
        return _array.ldexp(total, e)

    def _detail(self) -> str:
        return " ⊗ ".join(describe(F) for F in self.factors)


@speaks
@instead_of("kron")
def kron(*factors: Any) -> StructuredMatrix:
    """The Kronecker product of arrays and structured matrices; Kronecker factors are flattened.

    A `Separated` takes in arrays, identities and other sums of terms beside it (their numbers of terms multiply);
    everything else is a `Kronecker`.

    >>> import numpy as np, sepmat as sm
    >>> sm.kron(np.eye(2), sm.kron(np.eye(3), np.eye(4)))
    Kronecker(2×2 ⊗ 3×3 ⊗ 4×4, shape=(24, 24), float64)
    >>> sm.kron(sm.Separated([np.ones((5, 2, 3))]), np.eye(4))
    Separated((2×3 ⊗ 4×4) × 5 terms, shape=(8, 12), float64)
    """
    product = Kronecker(*(G for F in factors for G in (F.factors if isinstance(F, Kronecker) else (F,))))
    joined: list[StructuredMatrix] = []
    with _array.quiet():
        for B in product.operators:
            while joined and (C := _join(joined[-1], B)) is not NotImplemented:
                joined, B = joined[:-1], C
            joined.append(B)
    if len(joined) == len(product.factors):
        return product
    return joined[0] if len(joined) == 1 else Kronecker._of(factors=same_dtype([as_factor(A) for A in joined]))


def _join(A: StructuredMatrix, B: StructuredMatrix) -> Any:
    """A ⊗ B in a closed form, or NotImplemented."""
    C = A._kron(B)
    return B._rkron(A) if C is NotImplemented else C


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
    if len(arrays) < len(factors):
        leaves = [(name, a) for name, F in zip(names, result, strict=True) for a in as_operator(F).arrays()]
        _check.same_place(where, leaves)
    return same_dtype([as_factor(F) for F in result])


def _is_number_row(value: Sequence[Any]) -> bool:
    """Whether a list is itself a matrix (rows of numbers) and not a list of factors."""
    return bool(value) and all(
        isinstance(row, (list, tuple)) and all(not isinstance(x, (list, tuple)) and not _array.is_array(x) for x in row)
        for row in value
    )


def as_operator(F: Factor) -> StructuredMatrix:
    return F if isinstance(F, StructuredMatrix) else Dense._of(array=F)


def as_factor(A: Factor) -> Factor:
    return A.array if isinstance(A, Dense) else A


def same_dtype(factors: Sequence[Factor]) -> tuple[Factor, ...]:
    if all(F.dtype == factors[0].dtype for F in factors):
        return tuple(factors)
    operators = [as_operator(F) for F in factors]
    dtype = operators[0].xp.result_type(*(A.dtype for A in operators))
    return tuple(as_factor(A.astype(dtype)) for A in operators)


def describe(F: Factor) -> str:
    return F._name() if isinstance(F, StructuredMatrix) else f"{F.shape[0]}×{F.shape[1]}"


def _balanced(factors: Sequence[Factor]) -> tuple[tuple[Factor, ...], int]:
    """The factors with even exponents (`_array.balanced`), where all of them are arrays."""
    if any(isinstance(F, StructuredMatrix) for F in factors):
        return tuple(factors), 0
    stacks = tuple(F[None, ...] for F in factors)
    even, e = _array.balanced(stacks)
    return tuple(factors if even is stacks else (F[0, ...] for F in even)), e


def apply_factors(factors: Sequence[Factor], x: Array, axis: int, before: int = 1, after: int = 1) -> Array:
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


def digit_blocks(operators: Sequence[StructuredMatrix], rows: Sequence[int], cols: Sequence[int]) -> list[Array]:
    """The block of each factor that the given rows and columns of the Kronecker product meet."""
    indices = digits([B.shape for B in operators], rows, cols)
    return [B._block(i, j) for B, (i, j) in zip(operators, indices, strict=True)]


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
    """The matrix A (Π m_i, Π n_i) with rearrange(A, shapes) = R. R: (m_1 n_1, …, m_d n_d). Raises ShapeError.

    >>> import numpy as np, sepmat as sm
    >>> sm.rearrange_back(np.array([[10.0, 20.0], [30.0, 40.0]]), ((1, 2), (2, 1)))
    array([[10., 30.],
           [20., 40.]])
    """
    R = _check.as_array(R, "rearrange_back", "R")
    shapes = _pairs(shapes, "rearrange_back")
    expected = tuple(m * n for m, n in shapes)
    if tuple(R.shape) != expected:
        raise ShapeError("rearrange_back", "R", f"shape {tuple(R.shape)}", f"{expected}", "Its axes are m_i n_i")
    xp, d = _array.array_namespace(R), len(shapes)
    split = xp.reshape(R, tuple(k for shape in shapes for k in shape))
    mixed = xp.permute_dims(split, (*range(0, 2 * d, 2), *range(1, 2 * d, 2)))
    rows, columns = ([s[k] for s in shapes] for k in (0, 1))
    return xp.reshape(mixed, (math.prod(rows), math.prod(columns)))


def as_shapes(shapes: Any, full: tuple[int, ...], where: str) -> tuple[tuple[int, int], ...]:
    """Factor shapes that multiply to the full shape."""
    pairs = _pairs(shapes, where)
    for axis, word in ((0, "rows"), (1, "columns")):
        sizes = [p[axis] for p in pairs]
        if math.prod(sizes) != full[axis]:
            got = f"{word} {'·'.join(map(str, sizes))} ≠ {full[axis]}"
            divisors = ", ".join(str(k) for k in range(1, full[axis] + 1) if full[axis] % k == 0)
            raise ShapeError(
                where, "shapes", got, f"sizes that multiply to {full}", f"Divisors of {full[axis]}: {divisors}"
            )
    return pairs


def _pairs(shapes: Any, where: str) -> tuple[tuple[int, int], ...]:
    if not isinstance(shapes, (tuple, list)) or not shapes:
        raise ShapeError(where, "shapes", repr(shapes), "pairs ((m1, n1), (m2, n2), …)", "One pair for each factor")
    return tuple(_check.as_shape(s, where, f"shapes[{i}]") for i, s in enumerate(shapes))


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
        raise SingularMatrixError(where, f"A.factors[{i}]", got, expected, advice) from None


def _nonsingular(A: Kronecker, where: str) -> None:
    if A.shape[0] and not _all_square(A):
        raise singular(A, where, f"rank <= {_rank_bound(A)} < {A.shape[0]}")


@solve.register
def _(A: Kronecker, b: Array) -> Array:
    """Factor by factor, never by inverses: the residual bound is free of the condition (docs/numerics.md)."""
    if _array.is_torch(b) and _array.shares_with_numpy(b) and (twin := A._twin()) is not None:
        return _array.tensor_view(solve.rule(twin, _array.numpy_view(b)))  # its layouts cost no copies there
    _nonsingular(A, "solve")
    even, e = _even(A)
    return _array.ldexp(_mode_by_mode(even, lambda i, B, columns: _by_factor(solve, i, B, columns), b, stacks=True), -e)


def _even(A: Kronecker) -> tuple[Kronecker, int]:
    """(K, e) with A = 2^e K: where the inverse of a factor is out of the range, the factors share their exponents."""

    def look() -> tuple[Kronecker, int] | None:
        factors, e = (A.factors, 0) if _near_one(A.factors) else _balanced(A.factors)
        return None if factors is A.factors else (Kronecker._of(factors=factors), e)

    return A._remember("even", look) or (A, 0)


def _near_one(factors: Sequence[Factor]) -> bool:
    """Whether inverses, one after another, take b past the numbers between b and x by 2^7 at most, as `_array.balanced`
    allows products in float32. The size of a factor is ‖F‖_F / √m, its singular values in the mean; False in doubt."""
    up = down = 0.0
    for F in factors:
        square = _array.sum_of_squares(F)
        if not square or not math.isfinite(square):
            return False
        k = math.log2(square / F.shape[0]) / 2.0
        up, down = up + max(k, 0.0), down + max(-k, 0.0)
    return min(up, down) <= 7.0


def _mode_by_mode(
    A: Kronecker, inner: Callable[[int, StructuredMatrix, Array], Array], b: Array, stacks: bool = False
) -> Array:
    """inner(i, factor i, columns), as many rows as the factor has columns, along every mode of the columns of b.

    stacks: that of a dense factor takes a stack of columns as well, and so need not turn them.
    """
    operators = A.operators

    def product(i: int, y: Array, left: int, right: int) -> Array:
        B = operators[i]
        y = A.xp.reshape(y, (left, B.shape[0], right))
        if stacks and isinstance(B, Dense):
            return inner(i, B, y)
        return _array.folded(lambda columns: inner(i, B, columns), y)

    return chain([B.shape[::-1] for B in operators], product, b, -2)


@factorize.register
def _(A: Kronecker) -> Factorization:
    _nonsingular(A, "factorize")
    even, e = _even(A)
    inner = [_by_factor(factorize, i, B) for i, B in enumerate(even.operators)]
    return Factorization(A, functools.partial(_solve_factors, inner, even, e))


def _solve_factors(inner: Sequence[Factorization], even: Kronecker, e: int, A: Kronecker, b: Array) -> Array:
    def each(i: int, B: StructuredMatrix, columns: Array) -> Array:
        return inner[i].solver(B.astype(b.dtype), columns)

    return _array.ldexp(_mode_by_mode(even, each, b, stacks=True), -e)


@lstsq.register
def _(A: Kronecker, b: Array, rcond: float | None) -> Array:
    """Factor by factor: the pseudo-inverse of V ⊗ W is that of V times that of W."""
    even, e = _even(A)
    return _array.ldexp(_mode_by_mode(even, lambda i, B, columns: _by_factor(lstsq, i, B, columns, rcond), b), -e)


@inverse.register
def _(A: Kronecker) -> Kronecker:
    _nonsingular(A, "inverse")
    inverses = [_by_factor(inverse, i, B) for i, B in enumerate(A.operators)]
    return Kronecker._of(factors=same_dtype([as_factor(B) for B in inverses]))


@slogdet.register
def _(A: Kronecker) -> tuple[Array, Array]:
    """log|det| = Σ (N/n_i) log|det F_i|, sign = Π sign_i^(N/n_i) with the parity of exact integers."""
    xp, N = A.xp, A.shape[0]
    if N and not _all_square(A):
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
    if _all_square(A):
        return _outer_product("diagonal", [diagonal.rule(B) for B in A.operators])
    _check.check_bytes((min(A.shape),), _array.itemsize(A.dtype), _check.DENSE_LIMIT, "diagonal", "Use A[i, i]")
    entries = main_entries([B.to_dense()[None, ...] for B in A.operators], min(A.shape))
    factors, e = _balanced([E[0, :] for E in entries])
    return _array.ldexp(functools.reduce(lambda x, y: x * y, factors), e)


def main_entries(stacks: Sequence[Array], k: int) -> list[Array]:
    """For stacks (terms, m_i, n_i) the entries (terms, k) of each that the first k diagonal entries of ⊗ meet."""
    if not k:
        return [
            _array.array_namespace(F).zeros((F.shape[0], 0), dtype=F.dtype, device=_array.device(F)) for F in stacks
        ]
    found = []
    indices = digits([(F.shape[1], F.shape[2]) for F in stacks], range(k), range(k))
    for F, (rows, cols) in zip(stacks, indices, strict=True):
        xp, n = _array.array_namespace(F), F.shape[2]
        at = xp.asarray([i * n + j for i, j in zip(rows, cols, strict=True)], dtype=xp.int64, device=_array.device(F))
        found.append(xp.take(xp.reshape(F, (F.shape[0], F.shape[1] * n)), at, axis=1))
    return found


@norm.register
def _(A: Kronecker, ord: Any) -> Array:
    """The Frobenius, 1, inf and every Schatten norm is multiplicative."""
    return _array.scaled_product([norm(B, ord) for B in A.operators])


@eigvals.register
def _(A: Kronecker) -> Array:
    if not _all_square(A):
        raise eigvals.unsupported(A, "rectangular factors have no closed form")
    return _outer_product("eigvals", [eigvals.rule(B) for B in A.operators])


@svdvals.register
def _(A: Kronecker) -> Array:
    """All products of the factors' singular values, padded with zeros to min(m, n)."""
    xp = A.xp
    values = _outer_product("svdvals", [svdvals.rule(B) for B in A.operators])
    zeros = xp.zeros((min(A.shape) - values.shape[0],), dtype=values.dtype, device=A.device)
    return xp.concat((xp.sort(values, descending=True), zeros))


def _outer_product(where: str, vectors: Sequence[Array]) -> Array:
    balanced, e = _balanced(vectors)
    return _array.ldexp(outer(where, balanced, lambda x, y: x * y), e)


def outer(where: str, vectors: Sequence[Array], combine: Callable[[Array, Array], Array]) -> Array:
    """combine(x_1[i_1], x_2[i_2], …) for all multi-indices, the first one slowest."""
    first, *rest = vectors
    xp, total = _array.array_namespace(first), (math.prod(v.shape[0] for v in vectors),)
    _check.check_bytes(total, _array.itemsize(first.dtype), _check.DENSE_LIMIT, where, "Ask for those of the factors")
    for v in rest:
        first = xp.reshape(combine(first[:, None], v[None, :]), (first.shape[0] * v.shape[0],))
    return first
