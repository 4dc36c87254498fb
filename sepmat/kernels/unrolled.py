"""The dense form of a matrix that is constant along its diagonals or antidiagonals, and when it is used."""

import numpy as np

from .. import _array
from .._array import Array
from . import plan_fft
from ._table import KernelTable
from .limits import kind_of


def _reference(t: Array, rows: int, columns: int, descending: bool) -> Array:
    """The windows t[s : s + columns] as rows, s = 0, 1, …, rows - 1, or backwards; t has rows + columns - 1 entries."""
    xp = _array.array_namespace(t)
    s, at = (xp.arange(k, dtype=xp.int64, device=_array.device(t)) for k in (rows, columns))
    at = (xp.flip(s) if descending else s)[:, None] + at[None, :]
    return xp.reshape(xp.take(t, xp.reshape(at, (-1,)), axis=0), (rows, columns))


unroll = KernelTable("unroll", _reference)


@unroll.row("numpy", lambda t, *_: type(t) is np.ndarray)
def _windows(t: Array, rows: int, columns: int, descending: bool) -> Array:
    """A strided view, copied; NumPy's sliding_window_view takes 10 µs to make one."""
    t = np.ascontiguousarray(t)
    windows: Array = np.ndarray((rows, columns), t.dtype, t, strides=(t.itemsize, t.itemsize))
    return (windows[::-1] if descending else windows).copy()


def transform(like: Array, m: int, n: int, length: int, vectors: int, transforms: int = 2) -> plan_fft.Transform:
    """The plan of a product by FFTs or by the dense form (plan_fft.transform), that of the machine which holds this array."""
    make = plan_fft.transform
    if _array.on_gpu(like):
        from .cuda.transforms import transform as make
    return make(m, n, length, vectors, kind_of(like.dtype), transforms)
