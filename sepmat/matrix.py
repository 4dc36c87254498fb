"""The contract of a structured matrix, and the three lazy nodes that close it: Sum, Product, Scaled.

A structure says three things: its `shape`, how it is applied along one axis (`_apply`), and its transpose
(`_transpose`). It may say more: which products, Kronecker products and sums stay in its class (`_times`, `_rtimes`,
`_kron`, `_rkron`, `_plus`), what a multiple of it is (`_scale`), and how entries are read off (`_block`, `_to_dense`).
Everything else is written here, once for everybody.
"""

import abc
import dataclasses
import functools
import inspect
import math
import numbers
import typing
from collections.abc import Callable, Iterator, Sequence
from typing import Any, Self, TypeVar, cast, final

from . import _array, _check
from ._array import Array
from .errors import ArgumentError, DTypeError, ShapeError
from .frozen import Frozen

Named = TypeVar("Named", bound=Callable[..., Any])  # a function, as it was

structure = dataclasses.dataclass(frozen=True, eq=False, repr=False, init=False)


class StructuredMatrix(Frozen, abc.ABC):
    """A matrix that is stored, multiplied and solved by its structure.

    Data is frozen: a structure is one to a few arrays in a frozen dataclass. `xp`, dtype and device are read off
    these arrays. Build one with its class, then use `A @ x`, `x @ A`, `A @ B`, `A + B`, `2 * A`, `A.T`, `A.H`,
    `A[i, j]`, `A.block(rows, cols)`, and the functions `solve`, `inverse`, `slogdet`, `trace`, `diagonal`, `norm`,
    `eigvals` and `svdvals`.
    """

    __array_ufunc__ = None  # lets x @ A and 2 * A reach us when x is a NumPy array

    # --- what a structure must say ------------------------------------------------------------------------------------

    @property
    @abc.abstractmethod
    def shape(self) -> tuple[int, int]:
        """(rows, columns), exact Python ints."""

    @abc.abstractmethod
    def _apply(self, x: Array, axis: int) -> Array:
        """A along one axis of x (-1, or -2 of a matrix or stack of matrices), the other axes kept.

        `A @ X` is axis=-2, `x @ A.T` is axis=-1. x is already checked, and of the dtype of A (or A is real and x
        is of its precision).
        """

    @abc.abstractmethod
    def _transpose(self) -> "StructuredMatrix":
        """The transpose, without conjugation."""

    # --- what it may say ----------------------------------------------------------------------------------------------

    def _times(self, other: "StructuredMatrix") -> Any:
        """self @ other where that stays closed, else NotImplemented."""
        return NotImplemented

    def _rtimes(self, other: "StructuredMatrix") -> Any:
        """other @ self, asked when other._times(self) gave NotImplemented."""
        return NotImplemented

    def _plus(self, other: "StructuredMatrix") -> Any:
        """self + other where that stays closed, else NotImplemented; both sides are asked, the left one first."""
        return NotImplemented

    def _kron(self, other: "StructuredMatrix") -> Any:
        """self ⊗ other where that is closed in something better than a Kronecker, else NotImplemented."""
        return NotImplemented

    def _rkron(self, other: "StructuredMatrix") -> Any:
        """other ⊗ self, asked when other._kron(self) gave NotImplemented."""
        return NotImplemented

    def _suits_numpy(self, shape: tuple[int, ...], axis: int) -> bool:
        """Whether products of CPU tensors of this shape are faster by NumPy on the same memory, where nobody differentiates."""
        return False

    def _scale(self, s: Array) -> "StructuredMatrix":
        """s A for a 0-d array of the dtype of A (or a wider one)."""
        return Scaled._of(scale=s, matrix=self)

    def _block(self, rows: Sequence[int], cols: Sequence[int]) -> Array:
        """The dense block A[rows][:, cols]; indices are in range and not negative."""
        if len(cols) > len(rows):
            return _array.array_namespace(*self.arrays()).matrix_transpose(self.T._block(cols, rows))
        E = self._unit_columns(cols)
        return _take(self._apply(E, -2), rows, 0)

    def _to_dense(self) -> Array:
        """The dense matrix, a new array; the size is already checked."""
        return self._apply(self._unit_columns(range(self.shape[1])), -2)

    def _detail(self) -> str:
        """What the repr shows beside class, shape and dtype."""
        return ""

    def _name(self) -> str:
        """How the structure shows inside the repr of a larger one, and in messages."""
        return f"{type(self).__name__}({self._detail() or '×'.join(map(str, self.shape))})"

    @property
    def ndim(self) -> int:
        return 2

    # --- transposes -----------------------------------------------------------------------------------------------------

    @property
    @final
    def T(self) -> "StructuredMatrix":
        """The transpose. `A.T.T is A` for data that is ours, so that a remembered spectrum serves both sides."""
        if self._tensors:
            return self._transpose()
        transposed: StructuredMatrix = self._remember("T", self._linked_transpose)
        return transposed

    def _linked_transpose(self) -> "StructuredMatrix":
        transposed = self._transpose()
        if transposed is not self:
            transposed.__dict__.setdefault("_memo", {}).setdefault("T", ((), self))
        return transposed

    def conj(self) -> Self:
        """The complex conjugate; the matrix itself when it is real."""
        return self.map(lambda a: self.xp.conj(a) if _array.is_complex(a) else a) if self._is_complex else self

    @property
    @final
    def H(self) -> "StructuredMatrix":
        """The conjugate transpose."""
        return self.conj().T

    # --- products ---------------------------------------------------------------------------------------------------------

    @final
    def apply(self, x: Any, axis: int = -1) -> Array:
        """A along one axis of x, the other axes kept: y[..., i, ...] = Σ_j A[i, j] x[..., j, ...].

        With the default axis a batch of rows x of shape (..., n) becomes `x @ A.T` of shape (..., m).
        """
        x = _check.as_array(x, "apply", "x", like=self.arrays()[0])
        if not x.ndim or (type(axis) is int and axis == -1):
            _check.check_length(x, -1, self.shape[1], self._name, "apply")
            with _array.quiet():
                return self._product(x, -1)
        if isinstance(axis, bool) or not isinstance(axis, numbers.Integral) or not -x.ndim <= axis < x.ndim:
            raise ArgumentError(
                "apply", "axis", repr(axis), f"an integer from {-x.ndim} to {x.ndim - 1}", "Use one of the axes of x"
            )
        axis = int(axis) % x.ndim
        _check.check_length(x, axis, self.shape[1], self._name, "apply")
        lead, trail = tuple(x.shape[:axis]), tuple(x.shape[axis + 1 :])
        with _array.quiet():
            if not trail:
                return self._product(x, -1)
            xp = self.xp
            y = self._product(xp.reshape(x, (*lead, self.shape[1], math.prod(trail))), -2)
            return xp.reshape(y, (*lead, self.shape[0], *trail))

    def __matmul__(self, other: Any) -> Any:
        if isinstance(other, StructuredMatrix):
            return _multiply(self, other)
        x = _check.as_array(other, "A @ x", "x", like=self.arrays()[0])
        axis = -1 if x.ndim == 1 else -2
        _check.check_length(x, axis, self.shape[1], self._name, "A @ x")
        with _array.quiet():
            return self._product(x, axis)

    def __rmatmul__(self, other: Any) -> Any:
        x = _check.as_array(other, "x @ A", "x", like=self.arrays()[0])
        _check.check_length(x, -1, self.shape[0], self._name, "x @ A")
        with _array.quiet():
            return self.T._product(x, -1)

    def _product(self, x: Array, axis: int) -> Array:
        """_apply after bringing A and x to a common precision; a real A takes real and imaginary part apart."""
        mine = self.dtype
        if x.dtype == mine:
            if self._tensors and _array.shares_with_numpy(x) and self._suits_numpy(x.shape, axis):
                twin = self._twin()
                if twin is not None:
                    return _array.on_memory(lambda view: twin._apply(view, axis), x)
            return self._apply(x, axis)
        xp = self.xp
        dtype = xp.result_type(mine, x.dtype)
        wide = self._in_precision(dtype)
        x = _array.astype(x, dtype)
        if self._is_complex or not xp.isdtype(dtype, "complex floating"):
            return wide._product(x, axis)
        return _array.complex_of(wide._product(xp.real(x), axis), wide._product(xp.imag(x), axis))

    def _twin(self) -> Self | None:
        """The same matrix as NumPy arrays on the memory of its CPU tensors; None where NumPy may not compute on that."""

        def view() -> Self | None:
            if not _array.shares_with_numpy(*self._arrays):
                return None
            twin = self.map(_array.numpy_view)
            return twin if self._remembers else twin._once()

        return cast("Self | None", self._remember("twin", view))

    def matvec(self, x: Any) -> Array:
        """A x, for SciPy's solvers: x of shape (n,) or (n, 1)."""
        return self @ x

    def rmatvec(self, x: Any) -> Array:
        """Aᴴ x, for SciPy's solvers."""
        return self.H @ x

    def matmat(self, X: Any) -> Array:
        """A X, for SciPy's solvers."""
        return self @ X

    def rmatmat(self, X: Any) -> Array:
        """Aᴴ X, for SciPy's solvers."""
        return self.H @ X

    # --- sums and scalar multiples --------------------------------------------------------------------------------------

    def __add__(self, other: Any) -> "StructuredMatrix":
        return _add(self, self._partner(other, "A + B"))

    def __radd__(self, other: Any) -> "StructuredMatrix":
        if isinstance(other, (int, float)) and other == 0:  # what sum([A, B]) starts with
            return self
        return _add(self._partner(other, "A + B"), self)

    def __sub__(self, other: Any) -> "StructuredMatrix":
        return _add(self, -self._partner(other, "A - B"))

    def __rsub__(self, other: Any) -> "StructuredMatrix":
        return _add(self._partner(other, "A - B"), -self)

    def __mul__(self, s: Any) -> "StructuredMatrix":
        s = self._scalar(s, "s * A")
        A = self.astype("float32") if _array.is_half(self.dtype) and _array.is_complex(s) else self
        with _array.quiet():
            return A._scale(s)

    __rmul__ = __mul__

    def __truediv__(self, s: Any) -> "StructuredMatrix":
        s = self._scalar(s, "A / s")
        with _array.quiet():
            k = _array.exponent(s)
            if abs(k) < 64:
                return self._scale(1.0 / s)
            near, half = _array.ldexp(s, -k), _array.ldexp(self.xp.ones_like(s), -(k // 2))  # 1 / 5e-324 is infinite
            return self._scale(1.0 / near)._scale(half)._scale(half * 2.0 ** (k // 2 * 2 - k))

    def __rtruediv__(self, other: Any) -> "StructuredMatrix":
        raise DTypeError("c / A", "A", self._name(), "a number below the line", "Use c * sm.inverse(A)")

    def __pow__(self, other: Any) -> "StructuredMatrix":
        raise DTypeError("A ** p", "A", self._name(), "a number", "Write A @ A for A², sm.inverse(A) for A⁻¹")

    def __neg__(self) -> "StructuredMatrix":
        return -1 * self

    def __pos__(self) -> "StructuredMatrix":
        return self

    def _partner(self, other: Any, where: str) -> "StructuredMatrix":
        if isinstance(other, StructuredMatrix):
            return other
        advice = "Use sm.Dense(B) to keep the sum lazy, or A.to_dense() + B"
        if isinstance(other, numbers.Number):
            advice = "Use A + s * sm.Identity(n) to add to the diagonal"
        raise DTypeError(where, "B", f"a {type(other).__name__}", "a structured matrix", advice)

    def _scalar(self, s: Any, where: str) -> Array:
        if isinstance(s, StructuredMatrix):
            raise DTypeError(where, "s", s._name(), "a number", "Use A @ B for the matrix product")
        return _check.as_scalar(s, where, self.arrays()[0], self.dtype)

    # --- entries and dense forms --------------------------------------------------------------------------------------

    def __getitem__(self, index: Any) -> Array:
        """A[i, j] is an entry, A[i, :] a row, A[i:k, :] a dense block; nothing else of A is formed."""
        pair = index if isinstance(index, tuple) and len(index) == 2 else ()
        if not pair or any(isinstance(ix, bool) or not isinstance(ix, (numbers.Integral, slice)) for ix in pair):
            advice = "Use A[i, :] for a row, A.block(rows, cols) for lists of indices"
            raise DTypeError("A[i, j]", "index", repr(index)[:60], "two integers or slices", advice)
        rows, cols = (_check.as_indices(ix, n, name) for ix, n, name in zip(index, self.shape, ("i", "j"), strict=True))
        block = self.block(rows, cols)
        out = tuple(k for k, ix in zip(block.shape, index, strict=True) if isinstance(ix, slice))
        return self.xp.reshape(block, out) if out else self.xp.reshape(block, ())[()]

    def block(self, rows: Any, cols: Any, max_bytes: int = _check.DENSE_LIMIT) -> Array:
        """The dense block of the given rows and columns (slices or sequences of integers)."""
        r, c = (_check.as_indices(rows, self.shape[0], "rows"), _check.as_indices(cols, self.shape[1], "cols"))
        size = (_check.count(r), _check.count(c))
        advice = "Ask for smaller blocks or pass max_bytes="
        _check.check_bytes(size, _array.itemsize(self.dtype), max_bytes, "block", advice)
        if not r or not c:
            return self.xp.zeros((len(r), len(c)), dtype=self.dtype, device=self.device)
        with _array.quiet():
            return self._block(r, c)

    def _unit_columns(self, cols: Sequence[int]) -> Array:
        """The columns `cols` of the identity."""
        xp, n = self.xp, self.shape[1]
        size, advice = (n, len(cols)), "Read entries and blocks of its parts"
        _check.check_bytes(size, _array.itemsize(self.dtype), _check.PRODUCT_LIMIT, "block", advice)
        j = xp.asarray(list(cols), dtype=xp.int64, device=self.device)
        i = xp.arange(n, dtype=xp.int64, device=self.device)
        return xp.astype(i[:, None] == j[None, :], self.dtype)

    @final
    def to_dense(self, max_bytes: int = _check.DENSE_LIMIT) -> Array:
        """The dense matrix as a new array. Raises SizeLimitError above max_bytes, before anything is allocated."""
        advice = f"Use A @ x, A[i, j], A.block(...) or to_dense(max_bytes=...); A is {_array.dtype_name(self.dtype)}"
        _check.check_bytes(self.shape, _array.itemsize(self.dtype), max_bytes, "to_dense", advice)
        with _array.quiet():
            return self._to_dense()

    def _dense_transpose(self) -> Array:
        """The dense transpose, whose rows meet a batch of rows without a turn."""
        xp = self.xp
        return xp.asarray(xp.matrix_transpose(self._to_dense()), copy=True)

    def _times_dense(self, x: Array, axis: int) -> Array:
        """_apply by the remembered dense form, for a plan that says so."""
        D = self._remember("dense", self._dense_transpose)
        return _array.gemm(x, D) if axis == -1 else _array.gemm(self.xp.matrix_transpose(D), x)

    def __array__(self, dtype: Any = None, copy: bool | None = None) -> Any:
        """np.asarray(A) is an explicit request: to_dense under the same limit."""
        if copy is False:
            advice = "Use np.asarray(A)"
            raise ArgumentError("np.asarray", "copy", "False", "None or True: A has no dense memory to share", advice)
        dense = _array.to_numpy(self.to_dense())
        return dense if dtype is None else dense.astype(dtype)

    def __array_function__(self, func: Any, types: Any, args: Any, kwargs: Any) -> Any:
        advice = f"Use {_instead.get(func.__name__, 'the functions of sepmat')}, or A.to_dense()"
        raise DTypeError(f"{func.__module__}.{func.__name__}", "argument", self._name(), "a NumPy array", advice)

    @classmethod
    def __torch_function__(cls, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        """x @ A and s * A for tensors x and s, also where torch.compile traces them."""
        tensor, *others = args
        if len(others) == 1 and _array.is_operator(func, "matmul"):
            return others[0].__rmatmul__(tensor)
        if len(others) == 1 and _array.is_operator(func, "mul"):
            return others[0].__rmul__(tensor)
        return NotImplemented

    def __repr__(self) -> str:
        parts = (self._detail(), f"shape={self.shape}", _array.dtype_name(self.dtype))
        return f"{type(self).__name__}({', '.join(filter(None, parts))})"


def _take(x: Array, indices: Sequence[int], axis: int) -> Array:
    xp = _array.array_namespace(x)
    return xp.take(x, xp.asarray(list(indices), dtype=xp.int64, device=_array.device(x)), axis=axis)


# What to write in place of a function of NumPy; the files of the functions add theirs.
_instead = {
    "conjugate": "A.conj()",
    "dot": "A @ x",
    "matrix_power": "A @ A",
    "matrix_transpose": "A.T",
    "transpose": "A.T",
}


def instead_of(*names: str) -> Callable[[Named], Named]:
    """Decorator: NumPy's functions of these names, given a structured matrix, name this one."""

    def add(function: Named) -> Named:
        _instead.update(dict.fromkeys(names, f"sm.{function.__name__}"))
        return function

    return add


# Closed sums and products whose answer is a class of a higher file than both operands are registered in that file.
_sums: dict[tuple[type, type], Callable[[Any, Any], Any]] = {}
_products: dict[tuple[type, type], Callable[[Any, Any], Any]] = {}


def _closed_by_neither(A: StructuredMatrix, B: StructuredMatrix) -> Any:
    return NotImplemented


def closed_sum(rule: Callable[[Any, Any], Any]) -> Callable[[Any, Any], Any]:
    """Decorator: def _(A: X, B: Y | Z) is A + B (and B + A), or NotImplemented."""
    _sums.update(dict.fromkeys(_operands(rule), rule))
    return rule


def closed_product(rule: Callable[[Any, Any], Any]) -> Callable[[Any, Any], Any]:
    """Decorator: def _(A: X, B: Y | Z) is A @ B, or NotImplemented."""
    _products.update(dict.fromkeys(_operands(rule), rule))
    return rule


def _operands(rule: Callable[[Any, Any], Any]) -> list[tuple[type, type]]:
    """The pairs of classes that the annotations of a rule name."""
    first, second = (
        typing.get_args(p.annotation) or (p.annotation,)
        for p in inspect.signature(rule, eval_str=True).parameters.values()
    )
    return [(X, Y) for X in first for Y in second]


def _multiply(A: StructuredMatrix, B: StructuredMatrix) -> StructuredMatrix:
    if A.shape[1] != B.shape[0]:
        expected = f"{A.shape[1]} rows: A is {A.shape[0]}×{A.shape[1]}"
        raise ShapeError("A @ B", "B", f"{B.shape[0]}×{B.shape[1]}", expected, "Check the sizes")
    _check.same_place("A @ B", (("A", A.arrays()[0]), ("B", B.arrays()[0])))
    with _array.quiet():
        C = _merge(A, B)
    return Product._of(factors=(A, B)) if C is NotImplemented else C


def _merge(A: StructuredMatrix, B: StructuredMatrix) -> Any:
    """A @ B in a closed form, or NotImplemented."""
    rule: Callable[[Any, Any], Any] = _products.get((type(A), type(B)), _closed_by_neither)
    C = rule(A, B)
    if C is NotImplemented:
        C = A._times(B)
    return B._rtimes(A) if C is NotImplemented else C


def _absorb(A: StructuredMatrix, B: StructuredMatrix) -> Any:
    """A + B in a closed form, or NotImplemented."""
    for rule, X, Y in (
        (_sums.get((type(A), type(B)), _closed_by_neither), A, B),
        (_sums.get((type(B), type(A)), _closed_by_neither), B, A),
        (type(A)._plus, A, B),
        (type(B)._plus, B, A),
    ):
        C = rule(X, Y)
        if C is not NotImplemented:
            return C
    return NotImplemented


def _add(A: StructuredMatrix, B: StructuredMatrix) -> StructuredMatrix:
    if A.shape != B.shape:
        expected = f"{A.shape[0]}×{A.shape[1]} as A"
        raise ShapeError("A + B", "B", f"{B.shape[0]}×{B.shape[1]}", expected, "Check the sizes")
    _check.same_place("A + B", (("A", A.arrays()[0]), ("B", B.arrays()[0])))
    with _array.quiet():
        C = _absorb(A, B)
    return Sum._of(terms=(A, B)) if C is NotImplemented else C


def _check_parts(where: str, name: str, parts: Sequence[Any]) -> None:
    """At least one structured matrix, all of one library and on one device."""
    if not parts:
        raise ShapeError(
            where, name, "empty", "at least one matrix", "Use sm.Identity(n), or sm.Separated without terms"
        )
    for i, A in enumerate(parts):
        if not isinstance(A, StructuredMatrix):
            raise DTypeError(where, f"{name}[{i}]", f"a {type(A).__name__}", "a structured matrix", "Use sm.Dense(A)")
    _check.same_place(where, [(f"{name}[{i}]", a) for i, A in enumerate(parts) for a in A.arrays()])


@final
@structure
class Sum(StructuredMatrix):
    """Σ_i A_i, kept lazy. A new term is absorbed by the first one that stays in its class with it."""

    terms: tuple[StructuredMatrix, ...]

    def __init__(self, *terms: StructuredMatrix) -> None:
        _check_parts("Sum", "terms", terms)
        for i, A in enumerate(terms):
            if A.shape != terms[0].shape:
                got, expected = f"{A.shape[0]}×{A.shape[1]}", f"{terms[0].shape[0]}×{terms[0].shape[1]} as terms[0]"
                raise ShapeError("Sum", f"terms[{i}]", got, expected, "Check the sizes")
        object.__setattr__(self, "terms", terms)

    def _arguments(self) -> tuple[Any, ...]:
        return self.terms

    @property
    def shape(self) -> tuple[int, int]:
        return self.terms[0].shape

    def _apply(self, x: Array, axis: int) -> Array:
        first, *rest = (A._product(x, axis) for A in self.terms)
        return sum(rest, start=first)

    def _wide_terms(self) -> Iterator[StructuredMatrix]:
        return (A._in_precision(self.dtype) for A in self.terms)

    def _transpose(self) -> StructuredMatrix:
        return Sum._of(terms=tuple(A.T for A in self.terms))

    def _plus(self, other: StructuredMatrix) -> StructuredMatrix:
        terms = self.terms
        for new in other.terms if isinstance(other, Sum) else (other,):
            for i, A in enumerate(terms):
                C = _absorb(A, new)
                if C is not NotImplemented:
                    terms = (*terms[:i], C, *terms[i + 1 :])
                    break
            else:
                terms = (*terms, new)
        return Sum._of(terms=terms)

    def _scale(self, s: Array) -> StructuredMatrix:
        return Sum._of(terms=tuple(A._scale(s) for A in self.terms))

    def _block(self, rows: Sequence[int], cols: Sequence[int]) -> Array:
        first, *rest = (A._block(rows, cols) for A in self._wide_terms())
        return sum(rest, start=first)

    def _to_dense(self) -> Array:
        first, *rest = (A._to_dense() for A in self._wide_terms())
        return sum(rest, start=first)

    def _detail(self) -> str:
        return " + ".join(A._name() for A in self.terms)


@final
@structure
class Product(StructuredMatrix):
    """A_1 A_2 … A_k, kept lazy, applied from the right."""

    factors: tuple[StructuredMatrix, ...]

    def __init__(self, *factors: StructuredMatrix) -> None:
        _check_parts("Product", "factors", factors)
        for i in range(1, len(factors)):
            m, n = factors[i].shape
            if m != factors[i - 1].shape[1]:
                expected = f"{factors[i - 1].shape[1]} rows: factors[{i - 1}] is {factors[i - 1]._name()}"
                raise ShapeError("Product", f"factors[{i}]", f"{m}×{n}", expected, "Check the sizes")
        object.__setattr__(self, "factors", factors)

    def _arguments(self) -> tuple[Any, ...]:
        return self.factors

    @property
    def shape(self) -> tuple[int, int]:
        return (self.factors[0].shape[0], self.factors[-1].shape[1])

    def _apply(self, x: Array, axis: int) -> Array:
        for A in reversed(self.factors):
            x = A._product(x, axis)
        return x

    def _transpose(self) -> StructuredMatrix:
        return Product._of(factors=tuple(A.T for A in reversed(self.factors)))

    def _times(self, other: StructuredMatrix) -> StructuredMatrix:
        if isinstance(other, Product):
            left: StructuredMatrix = self
            return functools.reduce(_multiply, other.factors, left)
        factors = self.factors
        while factors and (C := _merge(factors[-1], other)) is not NotImplemented:
            factors, other = factors[:-1], C
        return Product._of(factors=(*factors, other)) if factors else other

    def _rtimes(self, other: StructuredMatrix) -> StructuredMatrix:
        factors = self.factors
        while factors and (C := _merge(other, factors[0])) is not NotImplemented:
            factors, other = factors[1:], C
        return Product._of(factors=(other, *factors)) if factors else other

    def _scale(self, s: Array) -> StructuredMatrix:
        return Product._of(factors=(self.factors[0]._scale(s), *self.factors[1:]))

    def _detail(self) -> str:
        return " @ ".join(A._name() for A in self.factors)


@final
@structure
class Scaled(StructuredMatrix):
    """s A for a class that cannot take the scalar in."""

    scale: Array
    matrix: StructuredMatrix

    def __init__(self, scale: Any, matrix: StructuredMatrix) -> None:
        _check_parts("Scaled", "matrix", (matrix,))
        object.__setattr__(self, "scale", matrix._scalar(scale, "Scaled"))
        object.__setattr__(self, "matrix", matrix)

    @property
    def shape(self) -> tuple[int, int]:
        return self.matrix.shape

    def _apply(self, x: Array, axis: int) -> Array:
        y = self.matrix._product(x, axis)
        return y * _array.astype(self.scale, self.xp.result_type(self.scale, y))

    def _transpose(self) -> StructuredMatrix:
        return Scaled._of(scale=self.scale, matrix=self.matrix.T)

    def _times(self, other: StructuredMatrix) -> StructuredMatrix:
        return _multiply(self.matrix, other)._scale(self.scale)

    def _rtimes(self, other: StructuredMatrix) -> StructuredMatrix:
        return _multiply(other, self.matrix)._scale(self.scale)

    def _plus(self, other: StructuredMatrix) -> Any:
        if not isinstance(other, Scaled) or not self.matrix.equals(other.matrix):
            return NotImplemented
        a, b = _array.promote(self.scale, other.scale)
        return Scaled._of(scale=a + b, matrix=self.matrix)

    def _scale(self, s: Array) -> StructuredMatrix:
        a, b = _array.promote(s, self.scale)
        return Scaled._of(scale=a * b, matrix=self.matrix)

    def _block(self, rows: Sequence[int], cols: Sequence[int]) -> Array:
        return self.scale * self.matrix._in_precision(self.dtype)._block(rows, cols)

    def _to_dense(self) -> Array:
        return self.scale * self.matrix._in_precision(self.dtype)._to_dense()

    def _detail(self) -> str:
        return f"s {self.matrix._name()}"
