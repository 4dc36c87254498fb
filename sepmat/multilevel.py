"""Multilevel circulant and Toeplitz matrices: BCCB and BTTB for two levels, the matrices of convolutions of images.

Entry (i, j) depends on the differences i_k - j_k of the digits of row and column only (the first level slowest, as
everywhere), so a product is a d-dimensional convolution: one FFT along every mode there, one back.
"""

import functools
import math
from collections.abc import Sequence
from typing import Any, final

from . import _array, _check
from ._array import Array
from .basic import inverse_of_values, is_identity
from .errors import ShapeError, UnsupportedError
from .kernels import fourier, fourier_nd
from .kronecker import Kronecker
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
from .matrix import Scaled, StructuredMatrix, structure
from .toeplitz import Circulant, Toeplitz, inverse_spectrum, near_one

__all__ = ["MultilevelCirculant", "MultilevelToeplitz"]


@final
@structure
class MultilevelCirculant(StructuredMatrix):
    """A[i, j] = c[(i_1 - j_1) mod n_1, …, (i_d - j_d) mod n_d], i = (i_1, …, i_d) with the first digit slowest.

    c: (n_1, …, n_d), the first column as an array; the matrix is N×N, N = Π n_k. BCCB for two levels: A x is the periodic
    convolution of the image x with c. Products cost two FFTs along every mode (sizes are not padded); products, sums and
    inverses stay in the class, and so do sums and products with Kronecker products of circulants of these sizes.
    Errors are those of `Circulant` with N for the length: |err| <= (20 log2 N + 3) u √N ‖c‖ ‖x‖, and the residual of a
    solve knows no condition. Raises ShapeError for a scalar c. Source: Davis, "Circulant matrices" (1979), §5.8.

    >>> import numpy as np, sepmat as sm
    >>> A = sm.MultilevelCirculant([[2.0, 1.0, 0.0], [0.0, 0.0, 0.0]]); A
    MultilevelCirculant(2×3, shape=(6, 6), float64)
    >>> A @ np.arange(6.0)
    array([ 2.,  2.,  5., 11., 11., 14.])
    """

    c: Array

    def __init__(self, c: Any) -> None:
        c = _check.as_array(c, "MultilevelCirculant", "c", keep=True)
        object.__setattr__(self, "c", _with_levels(c, "MultilevelCirculant", "c"))

    @property
    def sizes(self) -> tuple[int, ...]:
        """The sizes (n_1, …, n_d) of the levels."""
        return tuple(int(n) for n in self.c.shape)

    @property
    def shape(self) -> tuple[int, int]:
        N = math.prod(self.sizes)
        return (N, N)

    def _apply(self, x: Array, axis: int) -> Array:
        return self._convolve(self._remember("spectrum", self._spectrum), x, axis)

    def _convolve(self, S: fourier_nd.Spectrum, x: Array, axis: int) -> Array:
        return fourier_nd.convolve_modes(S, x, self.sizes, [(0, n) for n in self.sizes], axis)

    def _spectrum(self) -> fourier_nd.Spectrum:
        return fourier_nd.spectrum(self.c, self.sizes)

    def _transpose(self) -> StructuredMatrix:
        axes = tuple(range(self.c.ndim))
        return self._of(c=self.xp.roll(self.xp.flip(self.c), tuple(1 for _ in axes), axis=axes))

    def _times(self, other: StructuredMatrix) -> Any:
        B = _as_circulant(other, self.sizes)
        return NotImplemented if B is None else self._of(c=self._on_grid(self._product(_flat(B.c), -1)))

    def _rtimes(self, other: StructuredMatrix) -> Any:
        return self._times(other)  # multilevel circulants commute

    def _plus(self, other: StructuredMatrix) -> Any:
        B = _as_circulant(other, self.sizes)
        return NotImplemented if B is None else self._of(c=_added(self.c, B.c))

    def _kron(self, other: StructuredMatrix) -> Any:
        B = _as_circulant(other)
        return NotImplemented if B is None else self._of(c=_outer(self.c, B.c))

    def _rkron(self, other: StructuredMatrix) -> Any:
        A = _as_circulant(other)
        return NotImplemented if A is None else A._kron(self)

    def _scale(self, s: Array) -> StructuredMatrix:
        s, c = _array.promote(s, self.c)
        return self._of(c=s * c)

    def _on_grid(self, x: Array) -> Array:
        return self.xp.reshape(x, self.sizes)

    def _block(self, rows: Sequence[int], cols: Sequence[int]) -> Array:
        i, j = (_digits(k, [self.sizes] * 2, side, self.c) for side, k in enumerate((rows, cols)))
        return _gather(self.c, [(a - b) % n for a, b, n in zip(i, j, self.sizes, strict=True)])

    def _to_dense(self) -> Array:
        return self._block(range(self.shape[0]), range(self.shape[1]))

    def _detail(self) -> str:
        return "×".join(map(str, self.sizes))


@final
@structure
class MultilevelToeplitz(StructuredMatrix):
    """A[i, j] = t[n_1 - 1 + i_1 - j_1, …, n_d - 1 + i_d - j_d], i = (i_1, …, i_d) with the first digit slowest.

    t: (m_1 + n_1 - 1, …, m_d + n_d - 1), along each level the diagonals from the last one above the main diagonal (at
    n_k - 1) to the last one below; shapes: ((m_1, n_1), …, (m_d, n_d)), by default square, m_k = n_k = (len + 1) / 2.
    The matrix is Π m_k × Π n_k. BTTB for two square levels: A x is the convolution of the image x, zero outside, with the
    point spread function t, whose centre is t[n_1 - 1, n_2 - 1]. Products cost two FFTs along every mode, of good lengths
    >= m_k + n_k - 1: |err| <= (20 log2 M + 3) u √M ‖t‖ ‖x‖, M the product of these lengths. Raises ShapeError where t and
    shapes do not fit.

    >>> import numpy as np, sepmat as sm
    >>> A = sm.MultilevelToeplitz([[0.0, 1.0, 0.0], [1.0, -4.0, 1.0], [0.0, 1.0, 0.0]]); A
    MultilevelToeplitz(2×2, 2×2, shape=(4, 4), float64)
    >>> A.to_dense()
    array([[-4.,  1.,  1.,  0.],
           [ 1., -4.,  0.,  1.],
           [ 1.,  0., -4.,  1.],
           [ 0.,  1.,  1., -4.]])
    """

    t: Array
    shapes: tuple[tuple[int, int], ...]

    def __init__(self, t: Any, shapes: Any = None) -> None:
        where = "MultilevelToeplitz"
        t = _with_levels(_check.as_array(t, where, "t", keep=True), where, "t")
        object.__setattr__(self, "t", t)
        object.__setattr__(self, "shapes", _level_shapes(tuple(int(n) for n in t.shape), shapes, where))

    @property
    def shape(self) -> tuple[int, int]:
        return (math.prod(m for m, _ in self.shapes), math.prod(n for _, n in self.shapes))

    def _apply(self, x: Array, axis: int) -> Array:
        S = self._remember("spectrum", self._spectrum)
        windows = [(n - 1, n - 1 + m) for m, n in self.shapes]
        return fourier_nd.convolve_modes(S, x, [n for _, n in self.shapes], windows, axis)

    def _spectrum(self) -> fourier_nd.Spectrum:
        real, last = not self._is_complex, self.t.ndim - 1  # only the last mode has a real transform
        sizes = [fourier.fast_length(k, real and i == last) if k else 0 for i, k in enumerate(self.t.shape)]
        return fourier_nd.spectrum(self.t, sizes)

    def _transpose(self) -> StructuredMatrix:
        return self._of(t=self.xp.flip(self.t), shapes=tuple((n, m) for m, n in self.shapes))

    def _plus(self, other: StructuredMatrix) -> Any:
        B = _as_toeplitz(other, self.shapes)
        return NotImplemented if B is None else self._of(t=_added(self.t, B.t), shapes=self.shapes)

    def _kron(self, other: StructuredMatrix) -> Any:
        B = _as_toeplitz(other)
        return NotImplemented if B is None else self._of(t=_outer(self.t, B.t), shapes=(*self.shapes, *B.shapes))

    def _rkron(self, other: StructuredMatrix) -> Any:
        A = _as_toeplitz(other)
        return NotImplemented if A is None else A._kron(self)

    def _scale(self, s: Array) -> StructuredMatrix:
        s, t = _array.promote(s, self.t)
        return self._of(t=s * t, shapes=self.shapes)

    def _block(self, rows: Sequence[int], cols: Sequence[int]) -> Array:
        sides = tuple(tuple(side) for side in zip(*self.shapes, strict=True))
        i, j = (_digits(k, sides, side, self.t) for side, k in enumerate((rows, cols)))
        return _gather(self.t, [n - 1 + a - b for a, b, (_, n) in zip(i, j, self.shapes, strict=True)])

    def _to_dense(self) -> Array:
        (m, n), xp = self.shape, self.xp
        return self._block(range(m), range(n)) if m * n else xp.zeros((m, n), dtype=self.dtype, device=self.device)

    def _detail(self) -> str:
        return ", ".join(f"{m}×{n}" for m, n in self.shapes)


def _with_levels(x: Array, where: str, name: str) -> Array:
    if not x.ndim:
        raise ShapeError(where, name, "a scalar (0-D)", "an array with one axis for each level", "Use sm.Identity")
    return x


def _level_shapes(lengths: tuple[int, ...], shapes: Any, where: str) -> tuple[tuple[int, int], ...]:
    """The shapes of the levels, one pair for each length m + n - 1."""
    if shapes is None:
        even = next((k for k, length in enumerate(lengths) if length and not length % 2), None)
        if even is not None:
            advice = "Pass shapes= for rectangular levels, or pad t by zeros to an odd length"
            expected = "2 n - 1 diagonals for a square level"
            raise ShapeError(where, "t", f"{lengths[even]} entries along axis {even}", expected, advice)
        return tuple(((length + 1) // 2, (length + 1) // 2) for length in lengths)
    if not isinstance(shapes, (tuple, list)) or len(shapes) != len(lengths):
        expected = f"{len(lengths)} pairs ((m_1, n_1), …), one for each axis of t"
        raise ShapeError(where, "shapes", repr(shapes), expected, "Pass for example ((3, 3), (4, 4))")
    pairs = tuple(_check.as_shape(s, where, f"shapes[{k}]") for k, s in enumerate(shapes))
    for k, ((m, n), length) in enumerate(zip(pairs, lengths, strict=True)):
        if length != (m + n - 1 if m and n else 0):
            expected = f"m + n - 1 = {m + n - 1 if m and n else 0} for the level {m}×{n}"
            raise ShapeError(where, "t", f"{length} entries along axis {k}", expected, "Pass one number a diagonal")
    return pairs


# digits and grids -------------------------------------------------------------------------------------------------------


def _digits(indices: Sequence[int], sides: Sequence[Sequence[int]], side: int, like: Array) -> list[Array]:
    """The digits of rows (side 0) or columns (side 1), shaped to broadcast against those of the other side."""
    xp = _array.array_namespace(like)
    rest = xp.asarray(list(indices), dtype=xp.int64, device=_array.device(like))
    rest = rest[:, None] if side == 0 else rest[None, :]
    found = []
    for n in reversed(sides[side]):
        found.append(rest % n)
        rest = rest // n
    return found[::-1]


def _gather(values: Array, places: Sequence[Array]) -> Array:
    """values[places[0], …, places[d - 1]]."""
    xp = _array.array_namespace(values)
    at, *rest = places
    for n, place in zip(values.shape[1:], rest, strict=True):
        at = at * n + place
    return xp.reshape(xp.take(_flat(values), xp.reshape(at, (-1,)), axis=0), at.shape)


def _flat(x: Array) -> Array:
    return _array.array_namespace(x).reshape(x, (-1,))


def _added(a: Array, b: Array) -> Array:
    a, b = _array.promote(a, b)
    return a + b


def _outer(a: Array, b: Array) -> Array:
    """The array of all products, the axes of a before those of b."""
    a, b = _array.promote(a, b)
    return _array.array_namespace(a).reshape(a, (*a.shape, *[1] * b.ndim)) * b


def _unit(like: Array, shape: Sequence[int], place: Sequence[int]) -> Array:
    """Zeros with a one at a place."""
    xp = _array.array_namespace(like)
    units = [xp.arange(n, dtype=xp.int64, device=_array.device(like)) == k for n, k in zip(shape, place, strict=True)]
    return functools.reduce(_outer, [xp.astype(unit, like.dtype) for unit in units])


# conversions --------------------------------------------------------------------------------------------------------------


def _as_circulant(A: StructuredMatrix, sizes: tuple[int, ...] | None = None) -> MultilevelCirculant | None:
    """A as a multilevel circulant (of the given sizes) where it is one by its class, else None."""
    if sizes is not None and is_identity(A) and A.shape[0] == math.prod(sizes):
        one = MultilevelCirculant._of(c=_unit(A.arrays()[0], sizes, [0] * len(sizes)))
        return one._scale(A.scale) if isinstance(A, Scaled) else one  # type: ignore[return-value]
    if isinstance(A, (Circulant, Kronecker)):
        try:
            A = convert(A, MultilevelCirculant)
        except UnsupportedError:
            return None
    return A if isinstance(A, MultilevelCirculant) and sizes in (None, A.sizes) else None


def _as_toeplitz(A: StructuredMatrix, shapes: Any = None) -> MultilevelToeplitz | None:
    """A as a multilevel Toeplitz matrix (of the given shapes) where it is one by its class, else None."""
    if shapes is not None and is_identity(A) and all(m == n for m, n in shapes):
        place = [n - 1 for _, n in shapes]
        one = MultilevelToeplitz._of(
            t=_unit(A.arrays()[0], [max(2 * n - 1, 0) for _, n in shapes], place), shapes=shapes
        )
        return one._scale(A.scale) if isinstance(A, Scaled) else one  # type: ignore[return-value]
    if isinstance(A, (Toeplitz, Circulant, MultilevelCirculant, Kronecker)):
        try:
            A = convert(A, MultilevelToeplitz)
        except UnsupportedError:
            return None
    return A if isinstance(A, MultilevelToeplitz) and shapes in (None, A.shapes) else None


def _no(A: StructuredMatrix, expected: str) -> UnsupportedError:
    return UnsupportedError("convert", "A", A._name(), expected, "Keep it as it is, or use sm.Dense(A.to_dense())")


@conversion
def _(A: Circulant) -> MultilevelCirculant:
    if A.shape[0] != A.shape[1]:
        raise _no(A, "a square circulant: a corner is no multilevel circulant")
    return MultilevelCirculant._of(c=A.c)


@conversion
def _(A: MultilevelCirculant) -> Circulant:
    if A.c.ndim != 1:
        raise _no(A, "one level")
    return Circulant._of(c=A.c, corner=A.shape)


@conversion
def _(A: Kronecker) -> MultilevelCirculant:
    """C_1 ⊗ … ⊗ C_d of circulants: the outer product of their first columns."""
    parts = [_as_circulant(B) if isinstance(B, (Circulant, MultilevelCirculant)) else None for B in A.operators]
    if any(B is None for B in parts):
        raise _no(A, "factors that are square circulants")
    return MultilevelCirculant._of(c=functools.reduce(_outer, [B.c for B in parts if B is not None]))


@conversion
def _(A: MultilevelCirculant) -> MultilevelToeplitz:
    xp, t = A.xp, A.c
    for axis, n in enumerate(A.sizes):
        wrapped = t[(*[slice(None)] * axis, slice(min(1, n), None), ...)]
        t = xp.concat((wrapped, t), axis=axis)
    return MultilevelToeplitz._of(t=t, shapes=tuple((n, n) for n in A.sizes))


@conversion
def _(A: Toeplitz) -> MultilevelToeplitz:
    return MultilevelToeplitz._of(t=A._diagonals(), shapes=(A.shape,))


@conversion
def _(A: MultilevelToeplitz) -> Toeplitz:
    if A.t.ndim != 1 or (0 in A.shape and A.shape != (0, 0)):
        raise _no(A, "one level")
    n = max(A.shape[1], 1)
    return Toeplitz._of(c=A.t[n - 1 :], tail=A.xp.flip(A.t[: n - 1]) if A.shape[1] else None)


@conversion
def _(A: Kronecker) -> MultilevelToeplitz:
    """T_1 ⊗ … ⊗ T_d of Toeplitz matrices: the outer product of their diagonals."""
    kinds = (Toeplitz, Circulant, MultilevelCirculant, MultilevelToeplitz)
    parts = [_as_toeplitz(B) if isinstance(B, kinds) else None for B in A.operators]
    if any(B is None for B in parts):
        raise _no(A, "factors that are Toeplitz matrices")
    found = [B for B in parts if B is not None]
    shapes = tuple(s for B in found for s in B.shapes)
    return MultilevelToeplitz._of(t=functools.reduce(_outer, [B.t for B in found]), shapes=shapes)


# rules ------------------------------------------------------------------------------------------------------------------


def _inverse_spectrum(A: MultilevelCirculant, where: str) -> fourier_nd.Spectrum:
    found: fourier_nd.Spectrum = inverse_spectrum(A, A._remember("spectrum", A._spectrum), where)
    return found


@solve.register
def _(A: MultilevelCirculant, b: Array) -> Array:
    return A._convolve(A._remember("inverse spectrum", lambda: _inverse_spectrum(A, "solve")), b, -2)


@lstsq.register
def _(A: MultilevelCirculant, b: Array, rcond: float | None) -> Array:
    """A normal matrix: its singular values are the moduli of its eigenvalues."""
    S = A._remember("spectrum", A._spectrum)
    return A._convolve(S.inverse()._replace(values=inverse_of_values(S.values, cut_off(A, rcond))), b, -2)


@inverse.register
def _(A: MultilevelCirculant) -> MultilevelCirculant:
    return MultilevelCirculant._of(c=fourier_nd.generator(_inverse_spectrum(A, "inverse")))


@eigvals.register
def _(A: MultilevelCirculant) -> Array:
    """The d-dimensional DFT of the first column, the first frequency slowest."""
    return _flat(fourier_nd.eigenvalues(A.c))


@slogdet.register
def _(A: MultilevelCirculant) -> tuple[Array, Array]:
    near, shift = near_one(A, A.c)
    sign, logabs = log_product(eigvals.rule(near), real=not A._is_complex)
    return _array.astype(sign, A.dtype), logabs + shift


@svdvals.register
def _(A: MultilevelCirculant) -> Array:
    return A.xp.sort(A.xp.abs(eigvals.rule(A)), descending=True)


@diagonal.register
def _(A: MultilevelCirculant) -> Array:
    return A.xp.zeros((A.shape[0],), dtype=A.dtype, device=A.device) + _flat(A.c)[: min(1, A.shape[0])]


@diagonal.register
def _(A: MultilevelToeplitz) -> Array:
    k = min(A.shape)
    if not k:
        return A.xp.zeros((0,), dtype=A.dtype, device=A.device)
    rows, cols = (
        _digits(range(k), side, 1, A.t) for side in ([[m for m, _ in A.shapes]] * 2, [[n for _, n in A.shapes]] * 2)
    )
    return _gather(A.t, [n - 1 + i - j for i, j, (_, n) in zip(rows, cols, A.shapes, strict=True)])[0, :]


def _trace(A: StructuredMatrix) -> Array:
    return A.xp.sum(diagonal.rule(A))


trace.rules[MultilevelCirculant] = trace.rules[MultilevelToeplitz] = _trace


@norm.register
def _(A: MultilevelCirculant, ord: Any) -> Array:
    """Every row and column holds the same numbers."""
    if ord == "fro":
        return _array.frobenius(A.c) * math.sqrt(A.shape[0])
    return A.xp.sum(A.xp.abs(A.c))


@norm.register
def _(A: MultilevelToeplitz, ord: Any) -> Array:
    """Frobenius, from the lengths of the diagonals, in O(size of t)."""
    xp = A.xp
    if ord != "fro":
        raise norm.unsupported(A, f"no closed form of ord={ord!r}")
    if not math.prod(A.shape):
        return xp.zeros((), dtype=_array.real_dtype(xp, A.dtype), device=A.device)
    weights = []
    for m, n in A.shapes:
        p = xp.arange(1, m + n, dtype=_array.real_dtype(xp, A.dtype), device=A.device)
        weights.append(xp.sqrt(xp.clip(xp.minimum(p, m + n - p), 1.0, float(min(m, n)))))
    return _array.frobenius(A.t * _array.astype(functools.reduce(_outer, weights), A.t.dtype))


factorize.rules[MultilevelCirculant] = factorize_as_solve
# the generators of two levels and more do not stay few in an elimination; circulants precondition well, and the nearest
# one is positive definite where A is
_CG = "sm.interop.cg(A, b, M=sm.inverse(sm.t_chan(A)))"
solve.ways[MultilevelToeplitz] = (
    f"Use {_CG} for a positive definite A, {_CG.replace('cg', 'gmres')} for another, "
    "or sm.solve(sm.Dense(A.to_dense()), b)"
)
inverse.ways[MultilevelToeplitz] = f"Use {_CG} for the products you need, or sm.inverse(sm.Dense(A.to_dense()))"
factorize.ways[MultilevelToeplitz] = f"Use {_CG}, or sm.factorize(sm.Dense(A.to_dense()))"
slogdet.ways[MultilevelToeplitz] = "Use sm.slogdet(sm.Dense(A.to_dense())), or sm.slogdet(sm.t_chan(A)) for an estimate"
lstsq.ways[MultilevelToeplitz] = "Use sm.interop.lsmr(A, b), or sm.lstsq(sm.Dense(A.to_dense()), b)"
