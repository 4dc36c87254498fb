"""Whose array it is: its library, namespace, device and dtype; and whether torch.compile is looking."""

import contextlib
import math
import sys
from typing import Any

import array_api_compat as compat
import numpy as np

from ..errors import DTypeError

Array = Any
Namespace = Any

to_device = compat.to_device


def is_numpy(x: object) -> bool:
    return isinstance(x, (np.ndarray, np.generic))


def is_torch(x: object) -> bool:
    """Without the caches of array-api-compat, of which torch.compile warns."""
    if type(x) is np.ndarray:
        return False
    torch = sys.modules.get("torch")
    return torch is not None and isinstance(x, torch.Tensor)


def is_cupy(x: object) -> bool:
    return "cupy" in sys.modules and bool(compat.is_cupy_array(x))


def on_gpu(x: Any) -> bool:
    """Whether x is an array on a CUDA device, of CuPy or torch."""
    return bool(x.is_cuda) if is_torch(x) else is_cupy(x)


def is_array(x: object) -> bool:
    known = type(x)
    return known is np.ndarray or (known not in _NO_ARRAYS and (is_torch(x) or bool(compat.is_array_api_obj(x))))


_NO_ARRAYS = (type(None), bool, int, float, complex, str, tuple, list, dict)  # numpy.float64 is a float, and an array


def device(x: Array) -> Any:
    return x.device if is_torch(x) else compat.device(x)


def size(x: Array) -> Any:
    """The number of entries; None where a lazy array does not know it."""
    return math.prod(x.shape) if is_torch(x) or is_numpy(x) else compat.size(x)


_namespaces: dict[type, Namespace] = {}


def array_namespace(*arrays: Array) -> Namespace:
    """The array API namespace that all arrays share."""
    if len(arrays) == 1 and type(arrays[0]) is np.ndarray and np.ndarray in _namespaces:
        return _namespaces[np.ndarray]
    if arrays and all(is_torch(a) for a in arrays):
        return _torch_namespace()
    kinds = {type(a) for a in arrays}
    if len(kinds) == 1:  # compat looks at every array anew; a type never changes its library
        (kind,) = kinds
        if kind not in _namespaces:
            _namespaces[kind] = compat.array_namespace(arrays[0])
        return _namespaces[kind]
    try:
        return compat.array_namespace(*arrays)
    except TypeError:
        names = ", ".join(sorted({library(a) for a in arrays}))
        raise DTypeError(
            "sepmat", "arrays", f"from {names}", "arrays of one library", "Convert them explicitly"
        ) from None


def _torch_namespace() -> Namespace:
    import array_api_compat.torch

    return array_api_compat.torch


def library(x: object) -> str:
    """The name of the library an array comes from ("numpy", "torch", ...), for messages and for choosing kernels."""
    if is_numpy(x) or is_torch(x):  # subclasses of users have modules of their own
        return "numpy" if is_numpy(x) else "torch"
    return str(type(x).__module__).split(".")[0]


def quiet() -> contextlib.AbstractContextManager[object]:
    """IEEE arithmetic without NumPy's floating point warnings: infinities and NaN speak for themselves."""
    return contextlib.nullcontext() if compiling() else np.errstate(all="ignore")


def is_operator(func: Any, name: str) -> bool:
    """Whether func is what torch calls for an operator: "matmul", "mul"."""
    torch = sys.modules["torch"]
    known = getattr(torch, name), getattr(torch.Tensor, name), getattr(torch.Tensor, f"__{name}__")
    return func is known[0] or func is known[1] or func is known[2]


def compiling() -> bool:
    """Whether torch.compile traces this call: nothing can be remembered then, and no number be looked at."""
    torch = sys.modules.get("torch")
    return torch is not None and bool(torch.compiler.is_compiling())


def is_lazy(x: object) -> bool:
    """Whether x is a matrix that is read piece by piece: numpy.memmap, Dask, HDF5, Zarr."""
    return isinstance(x, np.memmap) or all(hasattr(x, name) for name in ("chunks", "dtype", "shape", "__getitem__"))


def is_dask(x: object) -> bool:
    return "dask.array" in sys.modules and not is_torch(x) and bool(compat.is_dask_array(x))


# dtypes ---------------------------------------------------------------------------------------------------------------


def is_complex(x: Array) -> bool:
    if type(x) is np.ndarray:
        return x.dtype.kind == "c"
    return bool(array_namespace(x).isdtype(x.dtype, "complex floating"))


def unit_roundoff(xp: Namespace, dtype: Any) -> float:
    """u, half the spacing of the floating point numbers at 1: 2^-53 for float64 and complex128."""
    found = _ROUNDOFF.get(dtype) if type(dtype) in _NUMPY_DTYPES else None
    return float(xp.finfo(dtype).eps) / 2 if found is None else found


_ROUNDOFF = {
    np.dtype(name): float(np.finfo(name).eps) / 2 for name in ("float32", "float64", "complex64", "complex128")
}
_NUMPY_DTYPES = {type(dtype) for dtype in _ROUNDOFF}


def real_dtype(xp: Namespace, dtype: Any) -> Any:
    """The real dtype of the same precision."""
    if not xp.isdtype(dtype, "complex floating"):
        return dtype
    return xp.float64 if dtype == xp.complex128 else xp.float32


def complex_dtype(xp: Namespace, dtype: Any) -> Any:
    """The complex dtype of the same precision (complex64 for anything below float64)."""
    if xp.isdtype(dtype, "complex floating"):
        return dtype
    return xp.complex128 if dtype == xp.float64 else xp.complex64


def double(x: Array) -> Array:
    """x in float64 or complex128, exactly."""
    xp = array_namespace(x)
    return astype(x, xp.complex128 if is_complex(x) else xp.float64)


def is_half(dtype: Any) -> bool:
    """Whether the dtype is float16 or bfloat16, which torch stores but has neither FFT nor LU for."""
    return itemsize(dtype) == 2


def dtype_name(dtype: Any) -> str:
    """ "float64" for the float64 of any library."""
    return str(dtype).rpartition(".")[2]


def itemsize(dtype: Any) -> int:
    """Bytes of one entry."""
    known = getattr(dtype, "itemsize", None)  # NumPy's scalar types have a descriptor of that name
    return known if isinstance(known, int) else int("".join(filter(str.isdigit, str(dtype).rpartition(".")[2]))) // 8


def astype(x: Array, dtype: Any) -> Array:
    """x in another dtype; the array itself when it has it already."""
    return x if x.dtype == dtype else array_namespace(x).astype(x, dtype, copy=False)


def promote(*arrays: Array) -> tuple[Array, ...]:
    """The arrays in their common dtype."""
    xp = array_namespace(*arrays)
    if all(a.dtype == arrays[0].dtype for a in arrays):
        return arrays
    dtype = xp.result_type(*arrays)
    return tuple(astype(a, dtype) for a in arrays)


def as_dtype(xp: Namespace, dtype: Any) -> Any:
    """The floating point dtype of a namespace that a dtype, a scalar type or a name ("float32") means, else None."""
    if dtype is float or dtype is complex:
        dtype = "float64" if dtype is float else "complex128"
    name = dtype if isinstance(dtype, str) else getattr(dtype, "__name__", None) or dtype_name(dtype)
    known = ["float32", "float64", "complex64", "complex128"]
    if hasattr(xp, "bfloat16"):  # torch computes in half precision, the others do not
        known += ["float16", "bfloat16"]
    if name not in known:
        return None
    found = getattr(xp, name)
    return np.dtype(found) if isinstance(found, type) and issubclass(found, np.generic) else found
