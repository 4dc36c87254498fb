"""Products with multilevel circulant matrices and their corners, by one fast Fourier transform along every mode.

A multilevel circulant is diagonal in the basis of the d-dimensional DFT. The modes are transformed one after the other,
the last one first and real where the data is real: a mode is padded just before its own transform and cut just after its
inverse, so that no transform runs along a row of padding, or along one that nobody asked for.
"""

import math
from collections.abc import Sequence
from typing import Any, NamedTuple

import scipy.fft

from .. import _array
from .._array import Array
from ._table import KernelTable
from .fourier import _widen, _zeros, near, rescale


class Spectrum(NamedTuple):
    """The eigenvalues of one multilevel circulant: what is worth remembering of its first column."""

    values: Array  # (K_1, …, K_d), the last mode halved for real data: the transform of the first column / scale
    scale: Array | None  # a power of two as a 0-d array; None: 1
    sizes: tuple[int, ...]  # of the modes
    real: bool

    def inverse(self) -> "Spectrum":
        """The spectrum of the inverse matrix."""
        return self._replace(values=1.0 / self.values, scale=None if self.scale is None else 1.0 / self.scale)


def spectrum(v: Array, sizes: Sequence[int]) -> Spectrum:
    """The spectrum of the multilevel circulant whose first column is v (k_1, …, k_d), k_i <= sizes[i], padded by zeros."""
    v, real = _widen(v), not _array.is_complex(v)
    if not _array.size(v):
        return Spectrum(v, None, tuple(sizes), real)
    v, scale = near(v)
    S = Spectrum(v, scale, tuple(sizes), real)
    return S._replace(values=_forward(_fft_of(v), S, v, 0))


def eigenvalues(v: Array) -> Array:
    """All eigenvalues (n_1, …, n_d) of the multilevel circulant with first column v, complex."""
    xp = _array.array_namespace(v)
    z = _array.astype(v, _array.complex_dtype(xp, v.dtype))
    if not _array.size(v):
        return xp.zeros_like(z)
    scale = _array.astype(_array.power_of_two(v), z.dtype)
    return _forward(_fft_of(v), Spectrum(z, None, tuple(v.shape), False), z / scale, 0) * scale


def generator(S: Spectrum) -> Array:
    """The first column that belongs to a spectrum."""
    if not math.prod(S.sizes):
        return S.values
    return rescale(_inverse(_fft_of(S.values), S, S.values, 0, [(0, n) for n in S.sizes]), S.scale)


def _fft_of(x: Array) -> Any:
    return scipy.fft if _array.is_numpy(x) else _array.array_namespace(x).fft


def _forward(fft: Any, S: Spectrum, x: Array, first: int) -> Array:
    """The transform along the modes of x, which start at the axis `first`; each is padded to its size."""
    last = first + len(S.sizes) - 1
    x = (fft.rfft if S.real else fft.fft)(x, n=S.sizes[-1], axis=last)
    for axis, n in reversed(list(enumerate(S.sizes[:-1], first))):
        x = fft.fft(x, n=n, axis=axis)
    return x


def _inverse(fft: Any, S: Spectrum, X: Array, first: int, windows: Sequence[tuple[int, int]]) -> Array:
    """The inverse transform, along each mode the entries of its window (start, stop)."""
    last = first + len(S.sizes) - 1
    for axis, window in enumerate(windows[:-1], first):
        X = _cut(fft.ifft(X, axis=axis), axis, *window)
    y = fft.irfft(X, n=S.sizes[-1], axis=last) if S.real else fft.ifft(X, axis=last)
    return _cut(y, last, *windows[-1])


def _cut(y: Array, axis: int, start: int, stop: int) -> Array:
    if start == 0 and stop == y.shape[axis]:
        return y
    return y[(*[slice(None)] * axis, slice(start, stop), ...)]


def _convolve_modes(
    S: Spectrum, x: Array, lengths: Sequence[int], windows: Sequence[tuple[int, int]], axis: int, fft: Any = None
) -> Array:
    """The entries of the windows of S times x padded by zeros, along `axis` (-1 or -2) of x, which holds Π lengths.

    Two FFTs along every mode for every vector.
    """
    rows = math.prod(stop - start for start, stop in windows)
    if not _array.size(x) or not rows:
        return _zeros(x, rows, axis)
    xp, dtype, x = _array.array_namespace(x), x.dtype, _widen(x)
    fft = xp.fft if fft is None else fft
    lead, trail = (x.shape[:-1], ()) if axis == -1 else (x.shape[:-2], x.shape[-1:])
    x, scale = near(x, axis)
    X = _forward(fft, S, xp.reshape(x, (*lead, *lengths, *trail)), len(lead))
    X = X * (S.values if axis == -1 else S.values[..., None])
    y = xp.reshape(_inverse(fft, S, X, len(lead), windows), (*lead, rows, *trail))
    return _array.astype(rescale(y, S.scale, scale), dtype)


convolve_modes = KernelTable("convolve_modes", _convolve_modes)
convolve_modes.row("scipy", lambda S, x, *_: _array.is_numpy(x))(
    lambda S, x, lengths, windows, axis: _convolve_modes(S, x, lengths, windows, axis, scipy.fft)
)
