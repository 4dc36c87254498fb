"""Arrays and scalars of any library: which ones become data, and in which form."""

import math
import numbers
from collections.abc import Iterable, Sequence
from typing import Any

import numpy as np

from .. import _array
from .._array import Array
from ..errors import ArgumentError, DTypeError, NonFiniteError, ShapeError

NESTED = 64  # axes that an array of NumPy can have

_NATIVE = {np.dtype(name) for name in ("float32", "float64", "complex64", "complex128")}  # need no further look
_TENSORS = ("float32", "float64", "complex64", "complex128", "float16", "bfloat16")
_PLAIN = {
    "quantized": "Use .dequantize()",
    "masked": "Use .to_tensor(value)",
    "uninitialised": "Call its module once, or give it a shape by materialize()",
}
_SCALARS = (bool, int, float, complex)
_DIMENSIONS = {0: "a scalar (0-D)", 1: "a vector (1-D)", 2: "a matrix (2-D)", 3: "a stack of matrices (3-D)"}


def as_array(
    x: Any, where: str, name: str, ndim: int | None = None, like: Array | None = None, keep: bool = False
) -> Array:
    """x as a floating point array: its own library and precision, integers to float64 where that is exact.

    like: the array whose library and device x must share (lists go there). keep: x becomes data of a matrix, so
    NumPy, CuPy and other arrays are copied (NumPy: read-only); torch tensors are kept, because gradients reach them.
    """
    plain = type(x) is np.ndarray and x.dtype in _NATIVE and (like is None or type(like) is np.ndarray)
    plain = plain or (like is not None and _array.is_tensor_beside(x, like))
    if not plain:
        x = _raw(x, where, name, like)
    if ndim is not None and x.ndim != ndim:
        raise ShapeError(where, name, f"shape {tuple(x.shape)}", _DIMENSIONS[ndim], _axis_advice(x.ndim, ndim))
    if not plain:
        x = _floating(x, where, name)
    if keep and not _array.is_torch(x):
        x = _array.freeze(_array.copy(x))
    return x


def _from_nested(x: Any, where: str, name: str) -> Array:
    """Nested lists, numbers and what says `__array__` as a NumPy array of numbers."""
    try:
        lengths = _ragged(x)
        found = np.empty(0) if lengths else np.asarray(x)
    except (ValueError, TypeError, OverflowError, RuntimeError) as error:  # a RecursionError is a RuntimeError
        got = f"a {type(x).__name__} that is no array ({error})"
        raise DTypeError(where, name, got, "an array", "Pass a NumPy array, or nested lists of numbers") from None
    if lengths:
        got = f"ragged: rows have lengths {lengths}"
        raise ShapeError(where, name, got, "rows of one length", "Pad or cut the rows")
    return found


def _raw(x: Any, where: str, name: str, like: Array | None) -> Array:
    """x as an array of some library, without looking at its dtype."""
    if x is None:
        raise DTypeError(where, name, "None", "an array", "Pass a NumPy, CuPy or torch array, or nested lists")
    if isinstance(x, np.ma.MaskedArray):
        masked = int(np.ma.getmaskarray(x).sum())
        raise DTypeError(
            where, name, f"a masked array ({masked} entries are masked)", "a plain array", "Use .filled(value)"
        )
    if hasattr(x, "to_dense") and hasattr(x, "num_parameters"):
        got = f"a structured matrix, {x!r}"
        raise DTypeError(where, name, got, "an array", "Use A.to_dense() if the dense matrix is wanted")
    if _array.is_torch(x):
        _dense_tensor(x, where, name)
    elif _array.is_dask(x):  # asked by a cache that torch.compile warns of
        raise DTypeError(where, name, "a lazy dask array", "an array in memory", f"Use {name}.compute()")
    if hasattr(x, "toarray") and hasattr(x, "nnz"):
        raise DTypeError(where, name, f"a sparse {type(x).__name__}", "a dense array", "Use .toarray()")
    if not _array.is_array(x) or isinstance(x, type):
        if isinstance(x, (str, bytes, bytearray, type)) or not (
            isinstance(x, (Sequence, memoryview, *_SCALARS)) or hasattr(x, "__array__")
        ):
            raise DTypeError(
                where,
                name,
                f"a {type(x).__name__}",
                "an array",
                "Pass a NumPy, CuPy or torch array, or nested lists of numbers",
            )
        if _is_nested(x) and any(_array.is_array(row) and not _array.is_numpy(row) for row in x):
            kind = next(_array.library(row) for row in x if _array.is_array(row) and not _array.is_numpy(row))
            raise DTypeError(where, name, f"a list of {kind} arrays", "one array", "Stack them first")
        x = _from_nested(x, where, name)
        if x.dtype.kind not in "biufc":
            raise DTypeError(where, name, f"dtype {x.dtype}", "numbers", "Convert it to float64 yourself")
        if like is not None and not _array.is_numpy(like):
            xp = _array.array_namespace(like)
            x = xp.asarray(x, device=_array.device(like))
    if isinstance(x, (np.ndarray, np.generic)) and type(x) is not np.ndarray:
        x = np.asarray(x)  # np.matrix, memmap and other subclasses, NumPy scalars
    if like is not None:
        same_place(where, (("the other data", like), (name, x)))
    return x


def _dense_tensor(x: Array, where: str, name: str) -> None:
    """A tensor of numbers in a plain layout."""
    kind = _array.odd_tensor(x)
    if kind:
        advice = _PLAIN.get(kind, "Use .to_dense()")
        raise DTypeError(where, name, f"{'an' if kind[0] in 'aeiou' else 'a'} {kind} tensor", "a dense array", advice)
    if (x.is_floating_point() or x.is_complex()) and _array.dtype_name(x.dtype) not in _TENSORS:
        raise DTypeError(where, name, f"dtype {x.dtype}", ", ".join(_TENSORS), f"Use {name}.to(torch.float32)")


def _floating(x: Array, where: str, name: str) -> Array:
    """x in a dtype that the library computes in."""
    if _array.is_numpy(x):
        x = _native(x, where, name)
    xp = _array.array_namespace(x)
    if xp.isdtype(x.dtype, ("bool", "integral")):
        wide = xp.astype(x, xp.float64)
        _exact(xp, x, wide, where, name)
        return wide
    if not xp.isdtype(x.dtype, ("real floating", "complex floating")):
        raise DTypeError(where, name, f"dtype {x.dtype}", "numbers", "Convert it to float64 yourself")
    if _array.is_half(x.dtype) and not _array.is_torch(x):
        raise DTypeError(where, name, f"dtype {x.dtype}", "float32 or float64", f"Use {name}.astype('float32')")
    return x


def _native(x: Any, where: str, name: str) -> Any:
    """A NumPy array in native byte order; longdouble and anything that is not a number are refused."""
    if x.dtype.kind not in "biufc":
        raise DTypeError(where, name, f"dtype {x.dtype}", "numbers", "Convert it to float64 yourself")
    if x.dtype.kind in "fc" and x.dtype.itemsize > (8 if x.dtype.kind == "f" else 16):
        raise DTypeError(
            where,
            name,
            f"dtype {x.dtype}",
            "float32, float64, complex64 or complex128",
            f"Use {name}.astype('float64') if the loss is fine",
        )
    return x if x.dtype.isnative else x.astype(x.dtype.newbyteorder("="))


def _ragged(x: Any) -> str:
    """The differing lengths of nested sequences ("2, 3") on the first level where they differ, or an empty string."""
    level = [x]
    for _ in range(NESTED):
        level = [row for rows in level if _is_nested(rows) for row in rows]
        lengths = dict.fromkeys(_length(row) for row in level)
        if len(lengths) > 1:
            return ", ".join(lengths)
        if not any(map(_is_nested, level)):
            break
    return ""


def _is_nested(x: Any) -> bool:
    return isinstance(x, Sequence) and not isinstance(x, (str, bytes, bytearray, memoryview))


def _length(row: Any) -> str:
    if _is_nested(row):
        return str(len(row))
    return str(row.shape[0]) if isinstance(row, np.ndarray) and row.ndim else "scalar"


def _exact(xp: Any, x: Array, wide: Array, where: str, name: str) -> None:
    if xp.isdtype(x.dtype, "bool") or xp.iinfo(x.dtype).bits <= 32:
        return
    host = _array.to_numpy(x)
    inexact = np.argwhere(np.abs(_array.to_numpy(wide)) > 2.0**53 - 1)
    lost = [tuple(map(int, i)) for i in inexact if int(host[tuple(i)]) != int(float(host[tuple(i)]))]
    if lost:
        at = ", ".join(map(str, lost[0]))
        raise ArgumentError(
            where,
            f"{name}[{at}]",
            f"{host[lost[0]]} is not exact in float64",
            "integers up to 2^53",
            "Convert it yourself",
        )


def _axis_advice(have: int, want: int) -> str:
    if (have, want) == (1, 2):
        return "Use a[:, None] for a column or a[None, :] for a row"
    if (have, want) == (0, 2):
        return "Multiply by the scalar instead"
    if (have, want) == (3, 2):
        return "Use Separated for a sum of several terms"
    if (have, want) == (2, 1):
        return "Use A[:, 0] for its first column, nearest_* for the nearest of a class, or reshape(-1) for one vector"
    if want == 1:
        return "Use a.reshape(-1) if all entries belong to one vector"
    return "Reshape it first"


def same_place(where: str, named: Iterable[tuple[str, Array]]) -> None:
    """All arrays must be of one library and on one device: nothing is copied between them in silence."""
    (first, a), *rest = named
    for name, b in rest:
        if type(a) is type(b) is np.ndarray:
            continue
        if _array.library(a) != _array.library(b):
            advice = "Convert one of them explicitly"
            if not _array.size(a) or not _array.size(b):  # what has no numbers of its own
                advice = "Use sm.Identity(n, like=x), x an array of the other library"
            elif _array.is_torch(b) and b.requires_grad:
                advice = "Build the matrix from torch tensors, so that gradients flow"
            raise DTypeError(
                where,
                name,
                f"mixed libraries: {first} is {_array.library(a)}, {name} is {_array.library(b)}",
                "arrays of one library",
                advice,
            )
        if _array.device(a) != _array.device(b):
            raise DTypeError(
                where,
                name,
                f"mixed devices: {first} is on {_array.device(a)}, {name} on {_array.device(b)}",
                "arrays on one device",
                "Use A.to_device(device)",
            )


def as_arrays(values: Sequence[tuple[str, Any]], where: str, ndim: int | None) -> tuple[Array, ...]:
    """Several data arrays of one matrix: one library, one device, one dtype, copied. Lists follow the arrays."""
    like = next((x for _, x in values if _array.is_array(x)), None)
    named = [(name, as_array(x, where, name, ndim, like)) for name, x in values]
    promoted = _array.promote(*(x for _, x in named))
    return tuple(x if _array.is_torch(x) else _array.freeze(_array.copy(x)) for x in promoted)


SMALL = 2**16  # entries up to which the sum of squares is looked at first


def check_finite(x: Array, where: str, name: str) -> Array:
    """x without NaN and infinity."""
    square = _array.sum_of_squares(x) if math.prod(x.shape) <= SMALL and not _array.is_half(x.dtype) else None
    if square is not None and math.isfinite(square):
        return x  # one pass and no array of flags
    if _array.is_torch(x) and x.device.type == "meta":
        advice = "Move the data to a device first"
        raise DTypeError(where, name, "a tensor on the meta device", "a tensor that has numbers", advice)
    _array.check_unbatched(x, where, name)
    xp = _array.array_namespace(x)
    finite = xp.isfinite(x)
    if not (finite.all() if _array.is_numpy(x) else bool(xp.all(finite))):
        bad = np.argwhere(~_array.to_numpy(finite))
        raise NonFiniteError(
            where,
            name,
            f"{len(bad)} non-finite entries, first at {[int(i) for i in bad[0]]}",
            "finite numbers",
            "Remove or replace NaN and infinity first",
        )
    return x


def check_full_precision(x: Array, where: str, name: str) -> Array:
    """x in a precision that factorizations and FFTs exist in."""
    if _array.is_half(x.dtype):
        raise DTypeError(where, name, f"dtype {x.dtype}", "float32 or float64", f"Use {name}.astype('float32')")
    return x


def as_scalar(s: Any, where: str, like: Array, dtype: Any) -> Array:
    """A 0-d array like another one: Python and NumPy scalars adapt to the dtype, complex ones widen it."""
    xp = _array.array_namespace(like)
    if isinstance(s, numbers.Complex):
        try:
            value = float(s) if isinstance(s, numbers.Real) else complex(s)
        except OverflowError:
            raise ArgumentError(
                where, "s", "an integer beyond the range", "a number up to 1.8e308", "Use floats"
            ) from None
        dtype = _array.complex_dtype(xp, dtype) if isinstance(value, complex) else dtype
        return xp.asarray(value, dtype=dtype, device=_array.device(like))
    s = as_array(s, where, "s", like=like, keep=True)
    if s.ndim:
        advice = "Use A @ x for the product, or sm.Diagonal(s) @ A"
        raise DTypeError(where, "s", f"an array of shape {tuple(s.shape)}", "a number", advice)
    return s
