"""SciPy's pocketfft on NumPy arrays: its transforms without the checks around them, and many vectors in blocks that share arrays."""

import threading
from collections.abc import Callable
from typing import Any

import numpy as np
import scipy.fft

from .. import _array
from .._array import Array
from . import plan_fft

try:  # what scipy.fft calls: its own checks take as long as a transform of length 512
    from scipy.fft._pocketfft import pypocketfft as pypocketfft
except ImportError:  # pragma: no cover - a SciPy that is built in another way
    pypocketfft = None

_COMPLEX = {"f": np.dtype("F"), "d": np.dtype("D"), "F": np.dtype("F"), "D": np.dtype("D")}


class PocketFFT:
    """The transforms of scipy.fft along one axis of a NumPy array of a supported dtype.

    `again(out, first)` gives up what was returned before: from then on the first call writes where the first one wrote, and so
    on, and a real inverse transform of the shape of out writes there. first: x may be shorter than before.
    """

    def __init__(self) -> None:
        self.rooms: list[Any] = []
        self.at: int | None = None  # None: every result in an array of its own
        self.out: Any = None
        self.first = True

    def again(self, out: Any, first: bool) -> None:
        self.at, self.out, self.first = 0, out, first

    def rfft(self, x: Any, n: int | None = None, axis: int = -1, forward: bool = True) -> Any:
        x = self._fit(x, n, axis)
        out = None if self.at is None else self._room(x, x.shape[axis] // 2 + 1, axis, _COMPLEX[x.dtype.char])
        return pypocketfft.r2c(x, (axis % x.ndim,), forward, 0, out, 1)

    def ihfft(self, x: Any, n: int | None = None, axis: int = -1, norm: str = "forward") -> Any:
        return self.rfft(x, n, axis, False)

    def irfft(self, X: Any, n: int, axis: int = -1) -> Any:
        out = self.out
        if out is None or out.shape != (*X.shape[:-1], n):
            out = None if self.at is None else self._room(X, n, axis, X.real.dtype)
        return pypocketfft.c2r(X, (axis % X.ndim,), n, False, 2, out, 1)

    def fft(self, x: Any, n: int | None = None, axis: int = -1) -> Any:
        return self._complex(x, n, axis, True, 0)

    def ifft(self, X: Any, n: int | None = None, axis: int = -1, norm: str = "backward") -> Any:
        return self._complex(X, n, axis, False, 2 if norm == "backward" else 0)

    def _complex(self, x: Any, n: int | None, axis: int, forward: bool, norm: int) -> Any:
        x = self._fit(x, n, axis)
        out = None if self.at is None else self._room(x, x.shape[axis], axis, _COMPLEX[x.dtype.char])
        return pypocketfft.c2c(x, (axis % x.ndim,), forward, norm, out, 1)

    def _room(self, like: Any, n: int, axis: int, dtype: Any, make: Any = np.empty) -> Any:
        """An array like this one, but of length n along the axis."""
        shape = (*like.shape[:-1], n) if axis == -1 else (*like.shape[:-2], n, like.shape[-1])
        if self.at is None:
            return make(shape, dtype)
        at, self.at = self.at, self.at + 1
        if at == len(self.rooms):
            self.rooms.append(make(shape, dtype))
        room = self.rooms[at]
        if room.dtype != dtype or room.shape[1:] != shape[1:] or len(room) < shape[0]:
            room = self.rooms[at] = make(shape, dtype)
        return room[: shape[0]]

    def _fit(self, x: Any, n: int | None, axis: int) -> Any:
        """x padded by zeros to length n, with addresses that vector instructions can take."""
        if n is None or n == x.shape[axis]:
            return x if x.flags.aligned else x.copy()
        padded, k = self._room(x, n, axis, x.dtype, np.zeros), x.shape[axis]
        cut(padded, 0, k, axis)[...] = x
        if self.at is not None and self.first:
            cut(padded, k, n, axis)[...] = 0.0
        return padded


NUMPY_FFT: Any = scipy.fft if pypocketfft is None else PocketFFT()


def fft_of(x: Array) -> Any:
    return NUMPY_FFT if _array.is_numpy(x) else _array.array_namespace(x).fft


def cut(y: Array, start: int, stop: int, axis: int) -> Array:
    if start == 0 and stop == y.shape[axis]:
        return y
    return y[..., start:stop] if axis == -1 else y[..., start:stop, :]


# blocks ------------------------------------------------------------------------------------------------------------------------


def in_blocks(run: Callable[[Any, Any, int], Any], x: Any, axis: int, n: int, m: int) -> Any:
    """run(fft, x, axis) -> m numbers for each vector: many vectors in blocks of rows that stay in L2 with their transforms of
    length n; columns are turned, block by block.

    The blocks share their intermediate arrays: new ones would have to be cleared. The result of columns stands in memory column by
    column.
    """
    if x.ndim == 1:
        return run(NUMPY_FFT, x, -1)
    if axis == -2 and x.shape[-1] == 1:  # one column is a row
        return in_blocks(run, x[..., 0], -1, n, m)[..., None]
    step = plan_fft.vectors(n, x.dtype.char, axis)
    if 4 * x.size <= step * x.shape[axis]:  # so little memory is warm whoever had it before
        return run(NUMPY_FFT, x, axis)
    if axis == -2 and x.ndim > 2:
        return np.stack([in_blocks(run, part, axis, n, m) for part in x])
    rows = x.reshape(-1, x.shape[-1]) if axis == -1 else x.T
    out = np.empty((len(rows), m), x.dtype)
    fft = shared_rooms()
    for i in range(0, len(rows), step):
        part = out[i : i + step]
        if fft is not NUMPY_FFT:
            fft.again(part, i == 0)
        found = run(fft, np.ascontiguousarray(rows[i : i + step]), -1)
        if found is not part:
            part[...] = found
    give_back(fft)
    return out.T if axis == -2 else out.reshape((*x.shape[:-1], m))


_scratch = threading.local()


def shared_rooms() -> Any:
    """Transforms whose intermediate arrays serve one block after the other, and the next product of this thread: for 64 rows of
    1024 in float32 new memory can take longer than the transforms. Whoever comes before they are given back makes his own."""
    if not isinstance(NUMPY_FFT, PocketFFT):
        return NUMPY_FFT
    return _scratch.__dict__.pop("fft", None) or PocketFFT()


def give_back(fft: Any) -> None:
    """Keep the arrays of `shared_rooms`; those of an interrupted product are gone."""
    if isinstance(fft, PocketFFT) and sum(room.nbytes for room in fft.rooms) <= 2 * plan_fft.VECTORS:
        fft.out = None
        _scratch.fft = fft
