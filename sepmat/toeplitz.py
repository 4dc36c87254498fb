"""Toeplitz, Hankel, Circulant and SkewCirculant: matrices with m + n - 1 numbers, one for each diagonal.

Each of them says its vector of diagonals t, from which entries, dense form, trace, norms and sums follow; a Hankel
matrix is a Toeplitz matrix times the reversal. Products are two FFTs.
"""

import abc
import math
from collections.abc import Sequence
from typing import Any, final

from . import _array, _check
from ._array import Array
from .basic import inverse_of_values
from .errors import ArgumentError, ShapeError, UnsupportedError
from .kernels import fourier, plan_fft
from .kernels.limits import kind_of
from .kernels.unrolled import unroll
from .linalg import (
    conversion,
    convert,
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
    svdvals,
    trace,
)
from .matrix import StructuredMatrix, structure
from .transformed import Transformed

__all__ = ["Circulant", "Hankel", "SkewCirculant", "Toeplitz"]


class _Diagonals(Transformed):
    """What the family has in common."""

    @abc.abstractmethod
    def _diagonals(self) -> Array:
        """t of length m + n - 1 with A[i, j] = t[self._place(i, j)]; A has entries."""

    @abc.abstractmethod
    def _place(self, i: Array, j: Array) -> Array:
        """n - 1 + i - j, or i + j for a Hankel matrix."""

    @abc.abstractmethod
    def _added(self, other: Any) -> StructuredMatrix:
        """self + other for another one of this class and shape."""

    def _plus(self, other: StructuredMatrix) -> Any:
        for cls in (type(self), Toeplitz):
            try:
                return convert(self, cls)._added(convert(other, cls))  # type: ignore[attr-defined]
            except UnsupportedError:
                continue
        return NotImplemented

    def _block(self, rows: Sequence[int], cols: Sequence[int]) -> Array:
        xp = self.xp
        i = xp.asarray(list(rows), dtype=xp.int64, device=self.device)
        j = xp.asarray(list(cols), dtype=xp.int64, device=self.device)
        at = self._place(i[:, None], j[None, :])
        return xp.reshape(xp.take(self._diagonals(), xp.reshape(at, (-1,)), axis=0), at.shape)

    _descending = True  # whether the rows of the transpose are windows of t that move backwards

    def _dense_transpose(self) -> Array:
        m, n = self.shape
        return unroll(self._diagonals(), n, m, self._descending) if m * n else self._to_dense().T

    def _to_dense(self) -> Array:
        m, n = self.shape
        if not m * n:
            return self.xp.zeros((m, n), dtype=self.dtype, device=self.device)
        return self._block(range(m), range(n))


@final
@structure
class Toeplitz(_Diagonals):
    """A[i, j] = c[i - j] for i >= j and r[j - i] above the diagonal, as scipy.linalg.toeplitz.

    c: first column (m,); r: first row (n,), r[0] = c[0]; r=None: the conjugate of c, a Hermitian matrix if c[0] is
    real. Stored: c and r[1:], m + n - 1 numbers. Products cost two FFTs of a good length >= m + n - 1 a vector. Their
    error is relative to the norm of the diagonals, not of each entry: |err| <= (20 log2 N + 3) u √N ‖t‖ ‖x‖.
    Raises ArgumentError when r[0] != c[0], ShapeError when only one of c and r is empty.

    >>> import sepmat as sm
    >>> sm.Toeplitz([1.0, 2.0], [1.0, 3.0, 4.0]).to_dense()
    array([[1., 3., 4.],
           [2., 1., 3.]])
    """

    c: Array
    tail: Array | None

    def __init__(self, c: Any, r: Any = None) -> None:
        c, tail = _column_and_row(c, r, "Toeplitz", 0)
        object.__setattr__(self, "c", c)
        object.__setattr__(self, "tail", tail)

    def _arguments(self) -> tuple[Any, ...]:
        return (self.c, None if self.tail is None else self.r)

    @property
    def shape(self) -> tuple[int, int]:
        m = self.c.shape[0]
        return (m, m if self.tail is None else self.tail.shape[0] + 1)

    @property
    def r(self) -> Array:
        """The first row."""
        return self.xp.concat((self.c[: min(1, self.c.shape[0])], self._tail()))

    def _tail(self) -> Array:
        return self.tail if self.tail is not None else _array.conj(self.c[min(1, self.c.shape[0]) :])

    def _diagonals(self) -> Array:
        return self.xp.concat((self.xp.flip(self._tail()), self.c))

    def _place(self, i: Array, j: Array) -> Array:
        return self.shape[1] - 1 + i - j

    def _length(self) -> int:
        return _padded_length(sum(self.shape) - 1, self.c)

    def _by_fft(self, x: Array, axis: int) -> Array:
        m, n = self.shape
        S = self._remember("spectrum", lambda: _padded_spectrum(self._diagonals()))
        return fourier.convolve(S, x, n - 1, n - 1 + m, axis)

    def _transpose(self) -> StructuredMatrix:
        if self.tail is None:
            return Toeplitz._of(c=self.r, tail=None) if self._is_complex else self
        return Toeplitz._of(c=self.r, tail=self.c[1:])

    def _added(self, other: "Toeplitz") -> StructuredMatrix:
        c, d, s, t = _array.promote(self.c, other.c, self._tail(), other._tail())
        return Toeplitz._of(c=c + d, tail=None if self.tail is None and other.tail is None else s + t)

    def _scale(self, s: Array) -> StructuredMatrix:
        s, c, tail = _array.promote(s, self.c, self._tail())
        hermitian = self.tail is None and not (_array.is_complex(c) and c.shape[0])  # i T is not Hermitian
        return Toeplitz._of(c=s * c, tail=None if hermitian else s * tail)


@final
@structure
class Hankel(_Diagonals):
    """A[i, j] = h[i + j], h = (c, r[1:]), as scipy.linalg.hankel.

    c: first column (m,); r: last row (n,), r[0] = c[-1]; r=None: zeros below the antidiagonal of a square matrix.
    Stored, cost, error bound and errors as for Toeplitz.

    >>> import sepmat as sm
    >>> sm.Hankel([1.0, 2.0], [2.0, 3.0, 4.0]).to_dense()
    array([[1., 2., 3.],
           [2., 3., 4.]])
    """

    c: Array
    tail: Array | None

    def __init__(self, c: Any, r: Any = None) -> None:
        c, tail = _column_and_row(c, r, "Hankel", -1)
        object.__setattr__(self, "c", c)
        object.__setattr__(self, "tail", tail)

    def _arguments(self) -> tuple[Any, ...]:
        return (self.c, None if self.tail is None else self.r)

    @property
    def shape(self) -> tuple[int, int]:
        m = self.c.shape[0]
        return (m, m if self.tail is None else self.tail.shape[0] + 1)

    @property
    def r(self) -> Array:
        """The last row."""
        m = self.c.shape[0]
        return self.xp.concat((self.c[max(m - 1, 0) :], self._tail()))

    def _tail(self) -> Array:
        return self.tail if self.tail is not None else self.xp.zeros_like(self.c[min(1, self.c.shape[0]) :])

    def _diagonals(self) -> Array:
        return self.xp.concat((self.c, self._tail()))

    def _place(self, i: Array, j: Array) -> Array:
        return i + j

    _descending = False

    def _length(self) -> int:
        return _padded_length(sum(self.shape) - 1, self.c)

    def _by_fft(self, x: Array, axis: int) -> Array:
        m = self.shape[0]
        S = self._remember("spectrum", lambda: _padded_spectrum(self._diagonals())._replace(mirrored=True))
        return fourier.convolve(S, x, 0, m, axis)

    def _transpose(self) -> StructuredMatrix:
        if self.tail is None:
            return self
        h, n = self._diagonals(), self.shape[1]
        return Hankel._of(c=h[:n], tail=h[n:])

    def _added(self, other: "Hankel") -> StructuredMatrix:
        c, d, s, t = _array.promote(self.c, other.c, self._tail(), other._tail())
        return Hankel._of(c=c + d, tail=None if self.tail is None and other.tail is None else s + t)

    def _scale(self, s: Array) -> StructuredMatrix:
        s, c, tail = _array.promote(s, self.c, self._tail())
        return Hankel._of(c=s * c, tail=None if self.tail is None else s * tail)


def _column_and_row(c: Any, r: Any, where: str, corner: int) -> tuple[Array, Array | None]:
    """The first column, and the row without the corner that it shares with c[corner]."""
    if r is None:
        return _check.as_array(c, where, "c", 1, keep=True), None
    c, r = _check.as_arrays([("c", c), ("r", r)], where, 1)
    m, n = c.shape[0], r.shape[0]
    if not m and not n:
        return c, None
    if not m or not n:
        raise ShapeError(
            where,
            "r" if m else "c",
            f"empty: c has {m} entries, r has {n}",
            "both empty or none: the corner entry is undefined",
            "Use sm.Dense for a matrix without rows or columns",
        )
    shared = c[corner % m]
    if not bool((r[0] == shared) | ((r[0] != r[0]) & (shared != shared))):
        entry = f"c[{corner}]"
        raise ArgumentError(
            where,
            "r",
            f"r[0] = {_array.to_numpy(r[0])} and {entry} = {_array.to_numpy(shared)}",
            f"r[0] = {entry}, the entry they share",
            "Set one of them to the other",
        )
    return c, r[1:]


def _padded_spectrum(t: Array) -> fourier.Spectrum:
    return fourier.spectrum(t, _padded_length(t.shape[0], t))


def _padded_length(n: int, like: Array) -> int:
    """A good length for the transforms of n diagonals."""
    return fourier.fast_length(n, not _array.is_complex(like)) if n > 0 else 0


class _FCirculant(_Diagonals):
    """The top-left corner of Z_f(c), entries c[i - j] for i >= j and f c[N + i - j] above, for f = 1 and f = -1."""

    c: Array
    corner: tuple[int, int]
    _f: int

    @property
    def shape(self) -> tuple[int, int]:
        return self.corner

    def _diagonals(self) -> Array:
        (m, n), N = self.corner, self.c.shape[0]
        return self.xp.concat((self._f * self.c[N - n + 1 :], self.c[:m]))

    def _place(self, i: Array, j: Array) -> Array:
        return self.shape[1] - 1 + i - j

    def _length(self) -> int:
        return plan_fft.circulant_length(self.c.shape[0], sum(self.corner) - 1, kind_of(self.dtype))

    def _by_fft(self, x: Array, axis: int) -> Array:
        if self._fft_length == self.c.shape[0]:
            return fourier.convolve(self._remember("spectrum", self._spectrum), x, 0, self.corner[0], axis)
        (m, n), S = self.corner, self._remember("padded spectrum", lambda: _padded_spectrum(self._diagonals()))
        return fourier.convolve(S, x, n - 1, n - 1 + m, axis)

    def _spectrum(self) -> fourier.Spectrum:
        return fourier.spectrum(self.c, self.c.shape[0], self._f < 0)

    def _transpose(self) -> StructuredMatrix:
        xp, c = self.xp, self.c
        k = min(1, c.shape[0])
        return self._of(c=xp.concat((c[:k], self._f * xp.flip(c[k:]))), corner=self.corner[::-1])

    def _times(self, other: StructuredMatrix) -> Any:
        N = self.c.shape[0]
        corner = (self.shape[0], other.shape[1])
        if type(other) is type(self) and self.shape[1] == N == other.c.shape[0] == max(corner):
            full = self._of(c=self.c, corner=(N, N)) if self.shape[0] < N else self
            return self._of(c=full._product(other.c, -1), corner=corner)
        return NotImplemented

    def _added(self, other: Any) -> StructuredMatrix:
        a, b = _array.promote(self.c, other.c)
        return self._of(c=a + b, corner=self.corner)

    def _scale(self, s: Array) -> StructuredMatrix:
        s, c = _array.promote(s, self.c)
        return self._of(c=s * c, corner=self.corner)


@final
@structure
class Circulant(_FCirculant):
    """A[i, j] = c[(i - j) mod N], N = len(c), or its top-left corner of the given shape (m, n), max(m, n) = N.

    c: first column (N,). Products cost two FFTs of length N a vector (where N has a large prime factor, of a good length
    >= m + n - 1, as for a Toeplitz matrix), square ones stay circulant, and so do inverses; solve is as stable as a product, whatever
    the condition: ‖b - A x‖ <= (20 log2 N + 6) u ‖A‖_F ‖x‖. Raises ShapeError when the shape does not fit.

    >>> import sepmat as sm
    >>> sm.Circulant([1.0, 2.0, 3.0], shape=(3, 2)).to_dense()
    array([[1., 3.],
           [2., 1.],
           [3., 2.]])
    """

    c: Array
    corner: tuple[int, int]
    _f = 1

    def __init__(self, c: Any, shape: Any = None) -> None:
        _store(self, c, shape)


@final
@structure
class SkewCirculant(_FCirculant):
    """A[i, j] = c[i - j] for i >= j and -c[N + i - j] above the diagonal, N = len(c); shape as for Circulant.

    c: first column (N,). Real products cost two complex FFTs of length N/2 a vector (N odd: two real ones of length
    N). Closure, solve and errors as for Circulant.

    >>> import sepmat as sm
    >>> sm.SkewCirculant([1.0, 2.0, 3.0]).to_dense()
    array([[ 1., -3., -2.],
           [ 2.,  1., -3.],
           [ 3.,  2.,  1.]])
    """

    c: Array
    corner: tuple[int, int]
    _f = -1

    def __init__(self, c: Any, shape: Any = None) -> None:
        _store(self, c, shape)


def _store(A: _FCirculant, c: Any, shape: Any) -> None:
    where = type(A).__name__
    c = _check.as_array(c, where, "c", 1, keep=True)
    corner = _check.as_corner(shape, c.shape[0], where, "entries in c", ", or use sm.Toeplitz")
    object.__setattr__(A, "c", c)
    object.__setattr__(A, "corner", corner)


@conversion
def _(A: Circulant) -> Toeplitz:
    return _as_toeplitz(A)


@conversion
def _(A: SkewCirculant) -> Toeplitz:
    return _as_toeplitz(A)


def _as_toeplitz(A: _Diagonals) -> Toeplitz:
    m, n = A.shape
    if not m and not n:
        return Toeplitz._of(c=A.c, tail=None)  # type: ignore[attr-defined]
    if not m or not n:
        raise UnsupportedError(
            "convert",
            "A",
            f"{A._name()} without entries",
            "at least one row and one column: a Toeplitz matrix stores the corner entry",
            "Use sm.Dense(A.to_dense()), or A as it is",
        )
    t = A._diagonals()
    return Toeplitz._of(c=t[n - 1 :], tail=A.xp.flip(t[: n - 1]))


# the whole family -------------------------------------------------------------------------------------------------------


def _main_entries(A: _Diagonals) -> Array:
    xp, k = A.xp, min(A.shape)
    if not k:
        return xp.zeros((0,), dtype=A.dtype, device=A.device)
    i = xp.arange(k, dtype=xp.int64, device=A.device)
    return xp.take(A._diagonals(), A._place(i, i), axis=0)


def _trace(A: _Diagonals) -> Array:
    return A.xp.sum(_main_entries(A))


def _norm(A: _Diagonals, ord: Any) -> Array:
    """Frobenius from the lengths of the diagonals; 1 and inf from sums over windows of |t|, all in O(m + n)."""
    (m, n), xp = A.shape, A.xp
    if ord not in ("fro", 1, float("inf")):
        raise norm.unsupported(A, f"no closed form of ord={ord!r}")
    if not m * n:
        return xp.zeros((), dtype=_array.real_dtype(xp, A.dtype), device=A.device)
    t = A._diagonals()
    if ord == "fro":
        p = xp.arange(1, m + n, dtype=_array.real_dtype(xp, A.dtype), device=A.device)
        length = xp.clip(xp.minimum(p, m + n - p), 1.0, float(min(m, n)))
        return _array.frobenius(t * _array.astype(xp.sqrt(length), t.dtype))
    return xp.max(_window_sums(xp.abs(t), *((m, n) if ord == 1 else (n, m))))


def _window_sums(a: Array, length: int, count: int) -> Array:
    """Σ a[s : s + length] for s < count, from running sums in blocks of `length`: nothing is subtracted.

    A window that starts inside one block ends inside the next: the rest of the one and the start of the other.
    """
    xp = _array.array_namespace(a)
    blocks = -(-(count + length) // length)
    padding = xp.zeros((blocks * length - a.shape[0],), dtype=a.dtype, device=_array.device(a))
    a = xp.reshape(xp.concat((a, padding)), (blocks, length))
    rests = xp.reshape(xp.flip(xp.cumulative_sum(xp.flip(a, axis=1), axis=1), axis=1), (-1,))
    starts = xp.reshape(xp.cumulative_sum(a, axis=1, include_initial=True)[:, :length], (-1,))
    return rests[:count] + starts[length : length + count]


for _cls in (Toeplitz, Hankel, Circulant, SkewCirculant):
    trace.rules[_cls], diagonal.rules[_cls], norm.rules[_cls] = _trace, _main_entries, _norm


# circulant and skew-circulant -----------------------------------------------------------------------------------------------


def _eigenvalues(A: _FCirculant) -> Array:
    return fourier.eigenvalues(A.c, A._f < 0)


def inverse_spectrum(A: StructuredMatrix, S: Any, where: str) -> Any:
    """The spectrum of A⁻¹, S that of a square A; ΔA of the solve is (skew-)circulant too, so no condition enters."""
    n, u = A.shape[0], _array.unit_roundoff(A.xp, A.dtype)
    if not n:
        return S
    inverse = S.inverse()
    square, inverse_square = (_array.sum_of_squares(values) for values in (S.values, inverse.values))
    # ‖λ‖ ‖1/λ‖ >= max|λ| / min|λ| takes two dot products; numbers are compared only where that does not tell
    if square is None or inverse_square is None or not square * inverse_square * (2 * n * u) ** 2 <= 1:
        size = _array.stop_gradient(A.xp.abs(S.values))
        largest = _array.to_float(A.xp.max(size))
        rcond = _array.to_float(A.xp.min(size)) / largest if largest else 0.0
        _check.check_rcond(rcond, n, u, where, f"A ({A._name()})")
    return inverse


def _inverse_spectrum(A: _FCirculant, where: str) -> fourier.Spectrum:
    found: fourier.Spectrum = inverse_spectrum(A, A._remember("spectrum", A._spectrum), where)
    return found


def _solve(A: _FCirculant, b: Array) -> Array:
    S = A._remember("inverse spectrum", lambda: _inverse_spectrum(A, "solve"))
    return fourier.convolve(S, b, 0, A.shape[0], -2)


def _lstsq(A: _FCirculant, b: Array, rcond: float | None) -> Array:
    """A normal matrix: its singular values are the moduli of its eigenvalues."""
    if A.shape[0] != A.shape[1]:
        if not A.shape[0] or not A.shape[1]:
            return A.xp.zeros((A.shape[1], b.shape[1]), dtype=b.dtype, device=A.device)
        return lstsq.rule(convert(A, Toeplitz), b, rcond)
    S = A._remember("spectrum", A._spectrum)
    S = S.inverse()._replace(values=inverse_of_values(S.values, cut_off(A, rcond)))
    return fourier.convolve(S, b, 0, A.shape[0], -2)


def _inverse(A: _FCirculant) -> StructuredMatrix:
    return A._of(c=fourier.generator(_inverse_spectrum(A, "inverse")), corner=A.corner)


def _slogdet(A: _FCirculant) -> tuple[Array, Array]:
    near, shift = near_one(A, A.c)
    sign, logabs = log_product(_eigenvalues(near), real=not A._is_complex)
    return _array.astype(sign, A.dtype), logabs + shift


def near_one(A: Any, c: Array) -> tuple[Any, float]:
    """(2^-k A, log 2^(k n)) for a square A of first column c: subnormal eigenvalues have few digits, those of 1e308 overflow."""
    k = _array.exponent(c)
    if abs(k) < 64:
        return A, 0.0
    return A.map(lambda a: _array.ldexp(a, -k)), A.shape[0] * k * math.log(2.0)


def _svdvals(A: _FCirculant) -> Array:
    if A.shape[0] != A.shape[1]:
        raise svdvals.unsupported(A, "no closed form for a corner")
    return A.xp.sort(A.xp.abs(_eigenvalues(A)), descending=True)


for _cls in (Circulant, SkewCirculant):
    solve.rules[_cls], inverse.rules[_cls], slogdet.rules[_cls] = _solve, _inverse, _slogdet
    factorize.rules[_cls] = factorize_as_solve
    lstsq.rules[_cls], eigvals.rules[_cls], svdvals.rules[_cls] = _lstsq, _eigenvalues, _svdvals
