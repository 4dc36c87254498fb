"""Vectors in the orthonormal basis of the Fourier transform, where circulant matrices are diagonal: norms and inner products stay.

complex x, ω = e^{-2πi/n}   F x = X / √n, X the transform of x
real x                      F x = √(2/n) (X_0 / √2, X_{n/2} / √2, Re X_1, Im X_1, Re X_2, …), for n odd without X_{n/2}:
                            n real numbers, in which a circulant is diagonal in blocks of 2 (complex numbers)
"""

import math
from typing import Any

import numpy as np

from .. import _array
from .._array import Array
from ._table import KernelTable
from .fourier import Spectrum, convolve, rescale
from .pocketfft import NUMPY_FFT, pypocketfft

HALF = math.sqrt(0.5)


def plain(S: Spectrum) -> Spectrum | None:
    """The spectrum with its scale multiplied in; None where that is so far from 1 that vectors would have to be scaled too."""
    if S.scale is None:
        return S
    if not 1e-9 < _array.to_float(S.scale) < 1e9:
        return None
    return S._replace(values=rescale(S.values, S.scale), scale=None)


def _ends(n: int) -> int:
    """How many coefficients of a real sequence are real."""
    return 2 - n % 2


def _coordinates(x: Array) -> Array:
    """F x for a vector x (n,), n >= 1. One FFT of length n."""
    xp, n = _array.array_namespace(x), x.shape[0]
    if _array.is_complex(x):
        return xp.fft.fft(x, norm="ortho")
    X, e = xp.fft.rfft(x, norm="ortho"), _ends(n)
    ends = xp.concat((xp.real(X[:1]), xp.real(X[n // 2 :])))[:e]
    pairs = X[1 : 1 + (n - e) // 2]
    return xp.concat((ends, xp.reshape(xp.stack((xp.real(pairs), xp.imag(pairs)), axis=-1), (-1,)) / HALF))


def _sequence(v: Array) -> Array:
    """The x with F x = v. One FFT of length n."""
    xp, n = _array.array_namespace(v), v.shape[0]
    if _array.is_complex(v):
        return xp.fft.ifft(v, norm="ortho")
    e = _ends(n)
    pairs = xp.reshape(v[e:], ((n - e) // 2, 2)) * HALF
    ends = _array.complex_of(v[:e], 0.0 * v[:e])
    X = xp.concat((ends[:1], _array.complex_of(pairs[:, 0], pairs[:, 1]), ends[1:]))
    return xp.fft.irfft(X, n=n, norm="ortho")


def _diagonal(C: Spectrum, v: Array) -> Array:
    """F C Fᴴ v for a circulant C whose spectrum has no scale. O(n)."""
    xp, n = _array.array_namespace(v), v.shape[0]
    if not C.real:
        return C.values * v
    e = _ends(n)
    ends = xp.concat((xp.real(C.values[:1]), xp.real(C.values[n // 2 :])))[:e] * v[:e]
    pairs = xp.reshape(v[e:], ((n - e) // 2, 2))
    pairs = C.values[1 : 1 + (n - e) // 2] * _array.complex_of(pairs[:, 0], pairs[:, 1])
    pairs = xp.reshape(xp.stack((xp.real(pairs), xp.imag(pairs)), axis=-1), (-1,))
    return xp.concat((ends, pairs))


def _toeplitz(C: Spectrum, S: Spectrum, v: Array) -> Array:
    """F (C + S) Fᴴ v for a circulant C and a skew-circulant S, whose spectra have no scales. Two FFTs of length n, and those of S."""
    return diagonal(C, v) + coordinates(convolve(S, sequence(v), 0, v.shape[0], -1))


coordinates = KernelTable("coordinates", _coordinates)
sequence = KernelTable("sequence", _sequence)
diagonal = KernelTable("diagonal", _diagonal)
toeplitz = KernelTable("toeplitz", _toeplitz)


# real NumPy vectors: the complex numbers where they lie ---------------------------------------------------------------------


def _is_real(*args: Any) -> bool:
    *spectra, x = args
    real = type(x) is np.ndarray and x.dtype.kind == "f" and x.flags.c_contiguous
    return real and all(S.real and S.values.itemsize == 2 * x.itemsize for S in spectra)


def _pack(X: Any, n: int, factor: float) -> Any:
    """The coordinates, times a factor, of the sequence with transform X / √(2 / n), in the memory of X."""
    v, e = X.view(X.real.dtype), _ends(n)
    v[1] = v[n if e == 2 else 0]  # the first coefficient has no imaginary part: its place is free
    v = v[2 - e :][:n]
    if factor != 1.0:
        v *= factor
    v[:e] *= HALF
    return v


def _unpack(v: Any, factor: float) -> Any:
    """The inverse of _pack."""
    n, e = len(v), _ends(len(v))
    X = np.empty(n // 2 + 1, np.result_type(v, "F"))
    parts = X.view(v.dtype)
    np.multiply(v[e:], factor, out=parts[2 : 2 + n - e])
    X[0] = v[0] * (factor / HALF)
    if e == 2:
        X[-1] = v[1] * (factor / HALF)
    return X


@coordinates.row("scipy", _is_real)
def _coordinates_numpy(x: Any) -> Any:
    return _pack(NUMPY_FFT.rfft(x), len(x), math.sqrt(2 / len(x)))


@sequence.row("scipy", _is_real)
def _sequence_numpy(v: Any) -> Any:
    return NUMPY_FFT.irfft(_unpack(v, math.sqrt(len(v) / 2)), len(v))


@diagonal.row("scipy", _is_real)
def _diagonal_numpy(C: Spectrum, v: Any) -> Any:
    n, e, kind = len(v), _ends(len(v)), C.values.dtype
    out = np.empty_like(v)
    out[0] = v[0] * C.values[0].real
    if e == 2:
        out[1] = v[1] * C.values[n // 2].real
    np.multiply(v[e:].view(kind), C.values[1 : 1 + (n - e) // 2], out=out[e:].view(kind))
    return out


@toeplitz.row("scipy", lambda C, S, v: pypocketfft is not None and _is_real(C, S, v) and len(v) % 2 == 0)
def _toeplitz_numpy(C: Spectrum, S: Spectrum, v: Any) -> Any:
    """The reference for n even, in three arrays; the factors √(2/n) there and back are left out."""
    n, h = len(v), len(v) // 2
    X = _unpack(v, 1.0)
    x = pypocketfft.c2r(X, (0,), n, False, 2, None, 1)
    z = np.empty(h, X.dtype)
    z.real, z.imag = x[:h], x[h:]
    z *= S.twist
    pypocketfft.c2c(z, (0,), True, 0, z, 1)
    z *= S.values
    pypocketfft.c2c(z, (0,), False, 2, z, 1)
    z *= S.back
    x[:h], x[h:] = z.real, z.imag
    out = _pack(pypocketfft.r2c(x, (0,), True, 0, X, 1), n, 1.0)
    out += _diagonal_numpy(C, v)
    return out
