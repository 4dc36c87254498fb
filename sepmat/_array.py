"""The one door to the array libraries: namespaces, dtypes, and the few dense routines the array API standard lacks.

Everything above this file is written on the array API standard (https://data-apis.org/array-api) and runs unchanged
on NumPy, CuPy, array-api-strict and torch. What the standard does not have stands here, one function each.
"""

import contextlib
import math
from collections.abc import Iterable
from typing import Any

import array_api_compat as compat
import numpy as np
import scipy.linalg

from .errors import DTypeError

Array = Any
Namespace = Any

is_array = compat.is_array_api_obj
is_numpy = compat.is_numpy_array
is_torch = compat.is_torch_array
is_cupy = compat.is_cupy_array
device = compat.device
size = compat.size


def array_namespace(*arrays: Array) -> Namespace:
    """The array API namespace that all arrays share."""
    try:
        return compat.array_namespace(*arrays)
    except TypeError:
        kinds = ", ".join(sorted({library(a) for a in arrays}))
        raise DTypeError(
            "sepmat", "arrays", f"from {kinds}", "arrays of one library", "Convert them explicitly"
        ) from None


def library(x: object) -> str:
    """The name of the library an array comes from ("numpy", "torch", ...), for messages and for choosing kernels."""
    return type(x).__module__.partition(".")[0]


def quiet() -> contextlib.AbstractContextManager[object]:
    """IEEE arithmetic without NumPy's floating point warnings: infinities and NaN speak for themselves."""
    return np.errstate(all="ignore")


# dtypes ---------------------------------------------------------------------------------------------------------------


def is_complex(x: Array) -> bool:
    return bool(array_namespace(x).isdtype(x.dtype, "complex floating"))


def unit_roundoff(xp: Namespace, dtype: Any) -> float:
    """u, half the spacing of the floating point numbers at 1: 2^-53 for float64 and complex128."""
    return float(xp.finfo(dtype).eps) / 2


def real_dtype(xp: Namespace, dtype: Any) -> Any:
    """The real dtype of the same precision."""
    return {xp.complex64: xp.float32, xp.complex128: xp.float64}.get(dtype, dtype)


def complex_dtype(xp: Namespace, dtype: Any) -> Any:
    """The complex dtype of the same precision (complex64 for anything below float64)."""
    if xp.isdtype(dtype, "complex floating"):
        return dtype
    return xp.complex128 if dtype == xp.float64 else xp.complex64


def is_half(dtype: Any) -> bool:
    """Whether the dtype is float16 or bfloat16, which torch stores but has neither FFT nor LU for."""
    return str(dtype).endswith("float16")


def dtype_name(dtype: Any) -> str:
    """ "float64" for the float64 of any library."""
    return str(dtype).rpartition(".")[2]


def itemsize(dtype: Any) -> int:
    """Bytes of one entry."""
    return int("".join(filter(str.isdigit, dtype_name(dtype)))) // 8


def astype(x: Array, dtype: Any) -> Array:
    """x in another dtype; the array itself when it has it already."""
    return x if x.dtype == dtype else array_namespace(x).astype(x, dtype, copy=False)


def promote(*arrays: Array) -> tuple[Array, ...]:
    """The arrays in their common dtype."""
    xp = array_namespace(*arrays)
    dtype = xp.result_type(*arrays)
    return tuple(astype(a, dtype) for a in arrays)


def as_dtype(xp: Namespace, dtype: Any) -> Any:
    """The dtype object of a namespace for a dtype, a scalar type or a name ("float32")."""
    if isinstance(dtype, str):
        dtype = getattr(xp, dtype, dtype)
    if dtype is float or dtype is complex:
        return xp.float64 if dtype is float else xp.complex128
    if library(xp.empty((0,))) == "numpy":
        return np.dtype(dtype)
    return dtype


# values ---------------------------------------------------------------------------------------------------------------


def stop_gradient(x: Array) -> Array:
    return x.detach() if is_torch(x) else x


def to_float(x: Array) -> float:
    """A 0-d real array as a Python float; never on a path where gradients flow."""
    return float(stop_gradient(x))


def to_numpy(x: Array) -> Any:
    """A NumPy copy or view of any array, wherever it lives."""
    if is_torch(x):
        return x.detach().cpu().resolve_conj().numpy()
    return x.get() if is_cupy(x) else np.asarray(x)


def copy(x: Array) -> Array:
    """A copy that shares no memory with x and passes gradients."""
    return x.clone() if is_torch(x) else array_namespace(x).asarray(x, copy=True)


def freeze(x: Array) -> Array:
    """x as data of a matrix: a read-only NumPy array, everything else as it is."""
    if isinstance(x, np.ndarray):
        x.flags.writeable = False
    return x


def versions(arrays: Iterable[Array]) -> tuple[int, ...] | None:
    """What must not change for a value computed from the arrays to stay valid; None where nothing may be remembered.

    NumPy and CuPy data is ours (copied when it came in), a torch tensor is the user's: its version counter tells
    whether it was written to, and a tensor that requires a gradient must be computed with anew.
    """
    found = []
    for a in arrays:
        if is_torch(a):
            if a.requires_grad or a.is_inference():
                return None
            found.append(a._version)
    return tuple(found)


def power_of_two(x: Array) -> Array:
    """2^k, as a 0-d array, with max|x| / 2^k in [1, 2); 1 where x is empty, zero or not finite. No gradient."""
    xp = array_namespace(x)
    x = stop_gradient(x)
    top = xp.max(xp.abs(x)) if size(x) else xp.zeros((), dtype=real_dtype(xp, x.dtype), device=device(x))
    usable = xp.logical_and(top > 0, xp.isfinite(top))
    info = xp.finfo(top.dtype)
    limit = math.floor(math.log2(float(info.max))) - 1
    exponent = xp.floor(xp.log2(xp.where(usable, top, xp.ones_like(top))))
    exponent = xp.clip(exponent, -float(limit), float(limit))
    return xp.pow(xp.asarray(2.0, dtype=top.dtype, device=device(x)), exponent)


def frobenius(x: Array) -> Array:
    """‖x‖_F as a 0-d array, without avoidable overflow or underflow: entries of 1e200 and 1e-200 are fine."""
    xp = array_namespace(x)
    s = power_of_two(x)
    return xp.sqrt(xp.sum(xp.abs(x / astype(s, x.dtype)) ** 2)) * s


def normal(rng: Any, shape: tuple[int, ...], like: Array) -> Array:
    """Standard normal numbers from a NumPy generator, in the library, dtype and device of `like`."""
    xp = array_namespace(like)
    draws = rng.standard_normal(shape)
    if xp.isdtype(like.dtype, "complex floating"):
        draws = (draws + 1j * rng.standard_normal(shape)) / math.sqrt(2)
    return astype(xp.asarray(draws, device=device(like)), like.dtype)


# dense routines -------------------------------------------------------------------------------------------------------


def rcond(A: Array) -> float:
    """An estimate of 1/(‖A‖₁‖A⁻¹‖₁) for a square A, 0 when it is exactly singular.

    NumPy: LAPACK's estimator on the LU factors, O(n²) beyond the factorization; elsewhere by the inverse.
    """
    A = stop_gradient(A)
    n = A.shape[-1]
    if n == 0:
        return 1.0
    A = A / astype(power_of_two(A), A.dtype)
    if is_numpy(A):
        getrf, gecon = scipy.linalg.get_lapack_funcs(("getrf", "gecon"), (A,))
        lu, _, info = getrf(A)
        if info > 0:
            return 0.0
        return float(gecon(lu, np.linalg.norm(A, 1))[0])
    xp = array_namespace(A)
    try:
        X = xp.linalg.inv(A)
    except (np.linalg.LinAlgError, RuntimeError):  # torch raises its own subclass of RuntimeError
        return 0.0
    value = 1.0 / (to_float(xp.max(xp.sum(xp.abs(A), axis=0))) * to_float(xp.max(xp.sum(xp.abs(X), axis=0))))
    return value if math.isfinite(value) else 0.0


def eigvals(A: Array) -> Array:
    """The eigenvalues of a square matrix, always complex."""
    xp = array_namespace(A)
    if is_torch(A):
        return xp.linalg.eigvals(A)
    values = np.linalg.eigvals(to_numpy(A)) if not is_cupy(A) else xp.linalg.eigvals(A)
    return xp.asarray(values, dtype=complex_dtype(xp, A.dtype), device=device(A))


def schur(A: Array) -> tuple[Array, Array]:
    """Complex Schur form A = Q T Qᴴ, Q unitary and T upper triangular (LAPACK through SciPy; no gradient)."""
    xp = array_namespace(A)
    T, Q = scipy.linalg.schur(to_numpy(A), output="complex")
    return tuple(xp.asarray(X, dtype=complex_dtype(xp, A.dtype), device=device(A)) for X in (T, Q))  # type: ignore[return-value]
