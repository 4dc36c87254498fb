"""Products with circulant and skew-circulant matrices, and sums of products of the two, by fast Fourier transforms.

A circulant matrix is diagonal in the basis of the DFT of length n, a skew-circulant one in the DFT of the sequence
twisted by the powers of an n-th root of -1. A real sequence needs no more than

    circulant              one real FFT of length n
    skew-circulant, n odd  the same after the signs (-1)^j, since (-1)^n = -1
    skew-circulant, n even one complex FFT of length n/2: z_j = (x_j + i x_{j+n/2}) e^{iπj/n} has the transform
                           X(4k-1), k < n/2, of the odd frequencies, and X(2n-4k+1) is the conjugate of X(4k-1)

and a complex one a complex FFT of length n. Data far from 1 is divided by a power of two on the way, so that nothing
overflows or underflows that the result does not.
"""

import math
from collections.abc import Callable
from typing import Any, NamedTuple

import numpy as np

from .. import _array
from .._array import Array
from . import plan_fft
from ._table import KernelTable
from .limits import kind_of
from .pocketfft import cut, fft_of, in_blocks

TERM_BLOCK = 2**16  # entries of the intermediates of all terms taken together; they stay in the cache
GPU_BLOCK = 2**27  # the same on a GPU, where few large steps are fast and a gigabyte is not much


class Spectrum(NamedTuple):
    """The eigenvalues of one f-circulant matrix or of several, f = 1 or -1: what is worth remembering of generators."""

    values: Array  # (K,) or (terms, K): the transform of the generators / scale
    scale: Array | None  # a power of two as a 0-d array; None: 1
    twist: Array | None  # what a sequence is multiplied by before its FFT; None: circulant
    back: Array | None  # and after the inverse one: 1 / twist
    n: int  # the size of the matrix
    real: bool
    mirrored: bool = False  # A[i, j] = t[i + j] in place of t[i - j]: x is met backwards
    part: tuple[int, int] | None = None  # a block of that matrix is meant: its first row, and how many rows; None: all

    def inverse(self) -> "Spectrum":
        """The spectrum of the inverse matrix."""
        return Spectrum(1.0 / self.values, None if self.scale is None else 1.0 / self.scale, *self[2:])


def fast_length(n: int, real: bool) -> int:
    """The smallest length >= n with a fast transform."""
    return plan_fft.fast_length(n, real)


def spectrum(v: Array, n: int, skew: bool = False) -> Spectrum:
    """The spectrum of the n×n f-circulants whose first columns are the vectors of v (..., k <= n), padded by zeros."""
    v, real = _widen(v), not _array.is_complex(v)
    if not _array.size(v):
        return Spectrum(v, None, None, None, n, real)
    v, scale = near(v)
    twist = _twist(v, n, real) if skew else None
    S = Spectrum(v, scale, twist, _conj(twist), n, real)
    return Spectrum(_forward(fft_of(v), S, v, -1), *S[1:])


def padded_spectrum(v: Array, length: int, skew: bool = False) -> Spectrum:
    """The same of first columns v (..., n), for transforms of a length >= 2n - 1: blocks of larger circulants."""
    xp, n = _array.array_namespace(v), v.shape[-1]
    above = v[..., 1:]
    diagonals = xp.concat((-above if skew else above, v), axis=-1)
    return spectrum(diagonals, length)._replace(part=(n - 1, n))


def eigenvalues(v: Array, skew: bool = False) -> Array:
    """All n eigenvalues of the n×n f-circulant with first column v (n,), complex."""
    xp = _array.array_namespace(v)
    if not _array.size(v):
        return xp.zeros((0,), dtype=_array.complex_dtype(xp, v.dtype), device=_array.device(v))
    scale = _array.power_of_two(v)
    z = _array.astype(v / _array.astype(scale, v.dtype), _array.complex_dtype(xp, v.dtype))
    S = Spectrum(z, None, _root(z, v.shape[0], v.shape[0]) if skew else None, None, v.shape[0], False)
    return _forward(fft_of(v), S, z, -1) * _array.astype(scale, z.dtype)


def generator(S: Spectrum) -> Array:
    """The first column that belongs to a spectrum."""
    if not S.n:
        return S.values
    y = _inverse(fft_of(S.values), S, S.values, -1, S.n)
    return rescale(y, S.scale)


# one transform there, one back ------------------------------------------------------------------------------------------


def _forward(fft: Any, S: Spectrum, x: Array, axis: int) -> Array:
    """The coefficients of x, padded by zeros to length n, in the eigenvectors of S."""
    if S.twist is None:
        n = None if x.shape[axis] == S.n else S.n
        if S.mirrored:  # X(-k)
            return (fft.ihfft if S.real else fft.ifft)(x, n=n, axis=axis, norm="forward")
        return fft.rfft(x, n=n, axis=axis) if S.real else fft.fft(x, n=n, axis=axis)
    x = _pad(x, S.n, axis)
    if not S.real:
        return fft.fft(x * _along(S.twist, axis), axis=axis)
    if S.n % 2:
        return fft.rfft(x * _along(S.twist, axis), axis=axis)
    return fft.fft(_times(_fold(x, axis), _along(S.twist, axis)), axis=axis)


def _inverse(fft: Any, S: Spectrum, X: Array, axis: int, stop: int, start: int = 0) -> Array:
    """Entries start to stop of the sequence with coefficients X."""
    if S.twist is None:
        y = fft.irfft(X, n=S.n, axis=axis) if S.real else fft.ifft(X, n=S.n, axis=axis)
        return cut(y, start, stop, axis)
    y = fft.irfft(X, n=S.n, axis=axis) if S.real and S.n % 2 else fft.ifft(X, axis=axis)
    y = _times(y, _along(S.back, axis))
    return cut(_unfold(y, axis) if S.real and S.n % 2 == 0 else y, start, stop, axis)


def _twist(like: Array, n: int, real: bool) -> Array:
    """The powers of an n-th root of -1 that make a negacyclic convolution a cyclic one: -1 itself where n is odd."""
    if n % 2:
        signs = 1.0 - 2.0 * (np.arange(n) % 2)
        return _array.array_namespace(like).asarray(signs, dtype=like.dtype, device=_array.device(like))
    return _root(like, -n, n // 2) if real else _root(like, n, n)


def _conj(twist: Array | None) -> Array | None:
    if twist is None or not _array.is_complex(twist):
        return twist
    return _array.array_namespace(twist).conj(twist)


def _root(like: Array, n: int, count: int) -> Array:
    """e^{-iπj/n}, j < count, from float64 whatever the precision."""
    xp = _array.array_namespace(like)
    powers = np.exp(-1j * (np.pi / (n or 1) * np.arange(count)))
    return xp.asarray(powers, dtype=_array.complex_dtype(xp, like.dtype), device=_array.device(like))


def _along(v: Array, axis: int) -> Array:
    return v if axis == -1 else v[..., None]


def _pad(x: Array, n: int, axis: int) -> Array:
    missing = n - x.shape[axis]
    return _array.array_namespace(x).concat((x, _zeros(x, missing, axis)), axis=axis) if missing else x


def _zeros(x: Array, n: int, axis: int) -> Array:
    """Zeros like x, with n of them along the axis."""
    shape = (*x.shape[:-1], n) if axis == -1 else (*x.shape[:-2], n, x.shape[-1])
    return _array.array_namespace(x).zeros(shape, dtype=x.dtype, device=_array.device(x))


def _fold(x: Array, axis: int) -> Array:
    """z_j = x_j + i x_{j+n/2}."""
    n = x.shape[axis]
    return _array.complex_of(cut(x, 0, n // 2, axis), cut(x, n // 2, n, axis))


def _unfold(z: Array, axis: int) -> Array:
    """The x of _fold."""
    xp = _array.array_namespace(z)
    return xp.concat((xp.real(z), xp.imag(z)), axis=axis)


# scaling --------------------------------------------------------------------------------------------------------------------


def _widen(x: Array) -> Array:
    """float16 and bfloat16 have no FFT: float32 in their place."""
    if type(x) is np.ndarray:
        return x
    return _array.astype(x, _array.array_namespace(x).float32) if _array.is_half(x.dtype) else x


def near(x: Array, axis: int | None = None) -> tuple[Array, Array | None]:
    """(x / s, s), s a power of two near max|x| (with an axis one for each vector along it); (x, None) where three such factors
    multiply safely as they are.

    Looking costs one dot product on a CPU. On an accelerator it would make the host wait, so there x is always scaled.
    """
    square = _array.sum_of_squares(x)
    if square is not None:
        low, high = _LIMITS[kind_of(x.dtype)]
        if low < square < high or (square == 0 and not (x != 0).any()):
            return x, None
    scale = _array.power_of_two(x, axis)
    return x / _array.astype(scale, x.dtype), scale


_LIMITS = {kind: (1 / limit, limit) for kind, limit in zip("fFdD", (2.0**64, 2.0**64, 2.0**512, 2.0**512), strict=True)}


def rescale(y: Array, *scales: Array | None) -> Array:
    """y times powers of two, with no overflow or underflow on the way that the result does not have."""
    known = [s for s in scales if s is not None]
    if not known:
        return y
    xp = _array.array_namespace(y)
    exponent = sum((xp.round(xp.log2(s)) for s in known[1:]), start=xp.round(xp.log2(known[0])))
    limit = math.floor(math.log2(float(xp.finfo(y.dtype).max))) - 1.0
    for _ in known:  # steps of one sign
        step = xp.clip(exponent, -limit, limit)
        y = y * _array.astype(xp.pow(xp.asarray(2.0, dtype=step.dtype, device=_array.device(y)), step), y.dtype)
        exponent = exponent - step
    return y


# kernels --------------------------------------------------------------------------------------------------------------------

Run = Callable[[Any, Array, int], Array]  # (an FFT module, x, axis) -> y


def at_once(run: Run, x: Array, axis: int, n: int, m: int) -> Array:
    """All vectors together, by the FFT module of the array API."""
    return run(_array.array_namespace(x).fft, x, axis)


def few(shape: tuple[int, ...]) -> bool:
    """Whether x has so few vectors that torch's transforms, which win for batches, take longer than to be called."""
    return math.prod(shape) < 4 * max(shape[-2:], default=0)


def _times(X: Array, v: Array) -> Array:
    """X v, in place where X is an array of ours."""
    if isinstance(X, np.ndarray):
        return np.multiply(X, v, out=X)
    if _array.is_cupy(X):  # one elementwise kernel, no new array
        X *= v
        return X
    return X * v


def _total(X: Array, axis: int) -> Array:
    """The sum along an axis."""
    if isinstance(X, np.ndarray):
        return np.add.reduce(X, axis=axis)
    return _array.array_namespace(X).sum(X, axis=axis)


def _convolve(S: Spectrum, x: Array, start: int, stop: int, axis: int, over: Any = at_once) -> Array:
    """Rows start to stop of the f-circulant S, times x padded by zeros, along `axis` (-1 or -2) of x.

    Two FFTs of length n for every vector. over: at_once, or in_blocks.
    """
    if 0 in x.shape or start >= stop:
        return _zeros(x, stop - start, axis)

    def run(fft: Any, x: Array, axis: int) -> Array:
        x, scale = near(x, axis)
        X = _times(_forward(fft, S, x, axis), _along(S.values, axis))
        return rescale(_inverse(fft, S, X, axis, stop, start), S.scale, scale)

    return _array.astype(over(run, _widen(x), axis, S.n, stop - start), x.dtype)


def _convolve_twice(outer: Spectrum, inner: Spectrum, x: Array, stop: int, axis: int, over: Any = at_once) -> Array:
    """The first `stop` rows of Σ_i A_i B_i, A_i and B_i the f-circulants of two spectra, times x padded by zeros.

    1 + r + r + 1 FFTs of length n for every vector, in blocks of terms whose intermediates stay in the cache.
    """
    terms, n = inner.values.shape[0], inner.n
    if 0 in x.shape or not stop or not terms:
        return _zeros(x, stop, axis)
    (first_in, size), (first, _) = inner.part or (0, n), outer.part or (0, n)

    def run(fft: Any, x: Array, axis: int) -> Array:
        x, scale = near(x, axis)
        X = _forward(fft, inner, x, axis)
        X = X[..., None, :] if axis == -1 else X[..., None, :, :]
        block = GPU_BLOCK if _array.on_gpu(x) else TERM_BLOCK
        vectors = 1 if _array.compiling() else math.prod(x.shape) // max(1, x.shape[axis])  # one graph for all numbers
        step = max(1, block // max(1, n * vectors))
        total = None
        for i in range(0, terms, step):
            Y = X * _along(inner.values[i : min(i + step, terms), :], axis)
            y = _inverse(fft, inner, Y, axis, first_in + size, first_in)
            Y = _times(_forward(fft, outer, y, axis), _along(outer.values[i : min(i + step, terms), :], axis))
            part = _total(Y, axis - 1)
            total = part if total is None else total + part
        y = _inverse(fft, outer, total, axis, first + stop, first)
        return rescale(y, outer.scale, inner.scale, scale)

    return _array.astype(over(run, _widen(x), axis, n, stop), x.dtype)


convolve = KernelTable("convolve", _convolve)
convolve_twice = KernelTable("convolve_twice", _convolve_twice)


@convolve.row("scipy", lambda S, x, *_: type(x) is np.ndarray)
def _convolve_numpy(S: Spectrum, x: Array, start: int, stop: int, axis: int) -> Array:
    return _convolve(S, x, start, stop, axis, in_blocks)


@convolve_twice.row("scipy", lambda outer, inner, x, *_: type(x) is np.ndarray)
def _convolve_numpy_twice(outer: Spectrum, inner: Spectrum, x: Array, stop: int, axis: int) -> Array:
    return _convolve_twice(outer, inner, x, stop, axis, in_blocks)


# rows of tensors that are differentiated, or too many for the memory of all their transforms at once


def _has_rows(S: Spectrum, x: Array, axis: int) -> bool:
    known = axis == -1 and S.real and bool(_array.size(x)) and not _array.is_complex(x)
    return known and _array.takes_operators(x, S.values)


@convolve.row("torch", lambda S, x, start, stop, axis: start < stop and _has_rows(S, x, axis))
def _convolve_rows(S: Spectrum, x: Array, start: int, stop: int, axis: int) -> Array:
    """In chunks, with a backward of its own (kernels/torch/fourier.py)."""
    from .torch import fourier as own

    n = x.shape[-1]
    if S.mirrored:
        x, start, stop = x.flip(-1), start + n - 1, stop + n - 1
    y = own.convolve(S.values, x.reshape(-1, n), S.twist, S.n, 0, start, stop)
    return rescale(y.reshape(*x.shape[:-1], stop - start), S.scale)


@convolve_twice.row(
    "torch",
    lambda outer, inner, x, stop, axis: (
        stop > 0 and inner.values.shape[0] > 0 and inner.part is None and _has_rows(inner, x, axis)
    ),
)
def _convolve_rows_twice(outer: Spectrum, inner: Spectrum, x: Array, stop: int, axis: int) -> Array:
    from .torch import fourier as own

    rows = x.reshape(-1, x.shape[-1])
    y = own.convolve_twice(outer.values, inner.values, rows, outer.twist, inner.twist, inner.n, stop)
    return rescale(y.reshape(*x.shape[:-1], stop), outer.scale, inner.scale)
