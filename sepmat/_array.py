"""The one door to the array libraries: namespaces, dtypes, and the few dense routines the array API standard lacks.

Everything above this file is written on the array API standard (https://data-apis.org/array-api) and runs unchanged
on NumPy, CuPy, array-api-strict and torch. What the standard does not have stands here, one function each.
"""

import contextlib
import math
import sys
from collections.abc import Iterable, Sequence
from typing import Any, NamedTuple

import array_api_compat as compat
import numpy as np
import scipy.linalg

from .errors import DTypeError

Array = Any
Namespace = Any

to_device = compat.to_device


def is_numpy(x: object) -> bool:
    return isinstance(x, (np.ndarray, np.generic))


def is_torch(x: object) -> bool:
    """Without the caches of array-api-compat, of which torch.compile warns."""
    torch = sys.modules.get("torch")
    return torch is not None and isinstance(x, torch.Tensor)


def is_cupy(x: object) -> bool:
    return "cupy" in sys.modules and bool(compat.is_cupy_array(x))


def is_array(x: object) -> bool:
    return is_torch(x) or (type(x) not in _NO_ARRAYS and bool(compat.is_array_api_obj(x)))


_NO_ARRAYS = (type(None), bool, int, float, complex, str, tuple, list, dict)  # numpy.float64 is a float, and an array


def device(x: Array) -> Any:
    return x.device if is_torch(x) else compat.device(x)


def size(x: Array) -> Any:
    """The number of entries; None where a lazy array does not know it."""
    return math.prod(x.shape) if is_torch(x) or is_numpy(x) else compat.size(x)


_namespaces: dict[type, Namespace] = {}


def array_namespace(*arrays: Array) -> Namespace:
    """The array API namespace that all arrays share."""
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


def _namespace_of(x: Array) -> Namespace:
    if not is_torch(x):
        return compat.array_namespace(x)
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
    return bool(compat.is_dask_array(x))


# dtypes ---------------------------------------------------------------------------------------------------------------


def is_complex(x: Array) -> bool:
    return bool(array_namespace(x).isdtype(x.dtype, "complex floating"))


def complex_of(real: Array, imag: Array) -> Array:
    """real + i imag; 1j * imag would make NaN of an infinity."""
    xp = array_namespace(real)
    if is_torch(real):
        return xp.complex(real, imag)
    if not is_numpy(real) and not is_cupy(real):  # the standard has no other way to put two parts together
        return xp.asarray(complex_of(to_numpy(real), to_numpy(imag)), device=device(real))
    found = xp.empty(real.shape, dtype=complex_dtype(xp, real.dtype))
    found.real, found.imag = real, imag
    return found


def unit_roundoff(xp: Namespace, dtype: Any) -> float:
    """u, half the spacing of the floating point numbers at 1: 2^-53 for float64 and complex128."""
    return float(xp.finfo(dtype).eps) / 2


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


# values ---------------------------------------------------------------------------------------------------------------


def stop_gradient(x: Array) -> Array:
    return x.detach() if is_torch(x) else x


def to_float(x: Array) -> float:
    """A 0-d real array as a Python float; never on a path where gradients flow."""
    return float(stop_gradient(x))


def to_numpy(x: Array) -> Any:
    """A NumPy copy or view of any array, wherever it lives."""
    if is_torch(x):
        x = x.detach().cpu().resolve_conj()
        return x.float().numpy() if is_half(x.dtype) else x.numpy()  # NumPy has no bfloat16
    return x.get() if is_cupy(x) else np.asarray(x)


def to_bits(x: Array) -> Any:
    """to_numpy without a rounding or a change of sign: half precision as 16-bit integers, no lazy conjugates or negatives."""
    if not is_torch(x):
        return to_numpy(x)
    if is_half(x.dtype):
        return x.detach().cpu().contiguous().view(sys.modules["torch"].int16).numpy().view(np.uint16)
    return to_numpy(x.resolve_neg())


def from_bits(host: Any, dtype: str, like: Array | None) -> Array:
    """The array of to_bits, and the name of its dtype, in the library and on the device of `like` (None: NumPy)."""
    if like is None or is_numpy(like):
        return host
    xp, place = array_namespace(like), device(like)
    if host.dtype == np.uint16:
        return xp.asarray(host.view(np.int16), device=place).view(getattr(xp, dtype))
    return xp.asarray(host, device=place)


def shares_with_numpy(*tensors: Array) -> bool:
    """Whether NumPy may compute on the memory of CPU tensors: nobody differentiates, traces or vectorises the product."""
    torch = sys.modules.get("torch")
    if torch is None or torch.compiler.is_compiling():
        return False
    gradients = torch.is_grad_enabled()
    for t in tensors:
        if type(t) is not torch.Tensor or t.device.type != "cpu" or t.dtype not in _shared_dtypes(torch):
            return False
        if (gradients and t.requires_grad) or t.is_conj() or t.is_neg():
            return False
    return not _transformed(torch)


def takes_operators(*tensors: Array) -> bool:
    """Whether operators of ours with a backward of their own may run: on tensors as torch makes them, which nobody
    vectorises or differentiates forward."""
    torch = sys.modules.get("torch")
    if torch is None or not all(type(t) is torch.Tensor or type(t) is torch.nn.Parameter for t in tensors):
        return False
    return bool(torch.compiler.is_compiling()) or not _transformed(torch)


def readable(x: Array) -> bool:
    """Whether the host may look at the numbers: not those of a tensor that is traced, vectorised, differentiated forward,
    or that has no memory."""
    if not is_torch(x):
        return True
    torch = sys.modules["torch"]
    return x.device.type != "meta" and not torch.compiler.is_compiling() and not _transformed(torch)


def _transformed(torch: Any) -> bool:
    """Whether forward mode or a transformation of torch.func is under way."""
    level = getattr(torch.autograd.forward_ad, "_current_level", 0)  # -1: no forward mode
    stack = getattr(torch._C._functorch, "peek_interpreter_stack", object)  # None: no torch.func
    return level >= 0 or stack() is not None


def _shared_dtypes(torch: Any) -> tuple[Any, ...]:
    return (torch.float32, torch.float64, torch.complex64, torch.complex128)


def numpy_view(x: Array) -> Any:
    """A CPU tensor as a NumPy array on the same memory."""
    return x.detach().numpy()


def tensor_view(x: Any) -> Array:
    """A NumPy array of ours as a tensor on the same memory."""
    return sys.modules["torch"].from_numpy(x)


def copy(x: Array) -> Array:
    """A copy that shares no memory with x and passes gradients."""
    return x.clone() if is_torch(x) else array_namespace(x).asarray(x, copy=True)


def by_columns(x: Array) -> Array:
    """A thin matrix as torch's GEMMs on many rows like it, column by column in memory; others as they are.

    Rank 4, 4096 rows of 768 in float32 on one core: 2.2 in place of 4.5 ms there, 5.0 in place of 16.3 ms back.
    """
    return x.mT.contiguous().mT if is_torch(x) else x


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
    if compiling():
        return None
    if compiling():
        return None
    found = []
    for a in arrays:
        if is_torch(a):
            if a.requires_grad or a.is_inference() or sys.modules["torch"].is_inference_mode_enabled():
                return None
            found.append(a._version)
    return tuple(found)


def power_of_two(x: Array, axis: int | None = None) -> Array:
    """2^k with max|x| / 2^k in [1, 2); 1 where x is empty, zero or not finite. No gradient.

    A 0-d array of the real dtype; with an axis one number for each slice along it, the axis kept with size 1.
    """
    xp, x = array_namespace(x), stop_gradient(x)
    if axis is None and size(x) and xp.isdtype(x.dtype, "real floating"):
        return binade(xp.maximum(xp.max(x), -xp.min(x)))  # without an array of moduli
    x = xp.abs(x)
    if size(x):
        top = xp.max(x) if axis is None else xp.max(x, axis=axis, keepdims=True)
    else:
        top = xp.sum(x) if axis is None else xp.sum(x, axis=axis, keepdims=True)
    return binade(top)


def sum_of_squares(x: Array) -> float | None:
    """Σ |x|² in the precision of x, or None where the host would have to wait for it. No gradient."""
    if is_torch(x):
        if x.device.type != "cpu" or not readable(x):
            return None
        flat = x.detach().reshape(-1)
        return float(flat.vdot(flat).real if flat.is_complex() else flat.dot(flat))
    if not is_numpy(x):
        return None
    flat = x if x.ndim == 1 else x.ravel(order="K")
    return float(np.vdot(flat, flat).real)


def binade(size: Array) -> Array:
    """The largest power of two <= size, elementwise; 1 where size is zero or not finite."""
    xp = array_namespace(size)
    usable = xp.logical_and(size > 0, xp.isfinite(size))
    limit = math.floor(math.log2(float(xp.finfo(size.dtype).max))) - 1
    exponent = xp.floor(xp.log2(xp.where(usable, size, xp.ones_like(size))))
    exponent = xp.clip(exponent, -float(limit), float(limit))
    return xp.pow(xp.asarray(2.0, dtype=size.dtype, device=device(size)), exponent)


def _range(dtype: Any) -> int:
    """Powers of two that numbers of a dtype hold with room to spare."""
    return {"float64": 900, "complex128": 900, "float16": 12}.get(dtype_name(dtype), 100)


def ldexp(x: Array, exponent: int) -> Array:
    """x 2^exponent, exactly, in steps that stay inside the range of the dtype."""
    if not exponent:
        return x
    step = _range(x.dtype)
    while exponent:
        part = max(-step, min(step, exponent))
        x, exponent = x * 2.0**part, exponent - part
    return x


def exponent(x: Array) -> int:
    """k with 2^k = power_of_two(x); 0 where the host may not look at x."""
    return round(math.log2(to_float(power_of_two(x)))) if readable(x) else 0


def balanced(stacks: Sequence[Array], beyond: int | None = None) -> tuple[tuple[Array, ...], int]:
    """Stacks of arrays, of which slice l of each is multiplied with slice l of the others, with even exponents.

    A factor of 1e200 beside one of 1e-200 makes products leave the range on the way to a result that is in it. Every
    slice is multiplied by a power of two so that all its partners share their common exponent; what that share
    cannot hold is returned, and the product still needs it. Nothing changes where partial products stay within
    2^±beyond (64 in float64, 7 in float32: room for the vectors they meet), nor where a gradient is required or the host
    may not look.
    """
    stacks = tuple(stacks)
    if any(is_torch(a) and (a.requires_grad or not readable(a)) for a in stacks) or not all(a.shape[0] for a in stacks):
        return stacks, 0
    limit = _range(stacks[0].dtype)
    beyond = limit // 14 if beyond is None else beyond
    exponents = np.stack([np.log2(to_numpy(_slice_sizes(a))) for a in stacks])
    if np.all(np.sum(np.abs(exponents), axis=0) + np.abs(np.sum(exponents, axis=0)) <= 2 * beyond):
        return stacks, 0
    total = np.sum(exponents, axis=0)
    share = np.clip(total, -limit, limit)
    targets = np.floor(share / len(stacks)) * np.ones_like(exponents)
    left = int(np.max(total - share))
    targets[0] += share - np.sum(targets, axis=0) + (total - share - left)
    return tuple(_shifted(a, t - k) for a, t, k in zip(stacks, targets, exponents, strict=True)), left


def _slice_sizes(stack: Array) -> Array:
    """power_of_two of every slice along the first axis."""
    xp = array_namespace(stack)
    count = stack.shape[0]
    return power_of_two(xp.reshape(stack, (count, math.prod(stack.shape[1:]))), axis=1)[:, 0]


def _shifted(stack: Array, exponents: Any) -> Array:
    """Slice l times 2^exponents[l], in steps that stay in the range of the dtype."""
    xp = array_namespace(stack)
    step = _range(stack.dtype)
    while np.any(exponents):
        part = np.clip(exponents, -step, step)
        two = xp.asarray(2.0**part, dtype=real_dtype(xp, stack.dtype), device=device(stack))
        stack = stack * astype(xp.reshape(two, (-1, *[1] * (stack.ndim - 1))), stack.dtype)
        exponents = exponents - part
    return stack


def scaled_product(values: Iterable[Array]) -> Array:
    """The elementwise product of arrays, without overflow or underflow on the way to a result that is in range."""
    first, *rest = values
    xp = array_namespace(first)
    p = binade(xp.abs(stop_gradient(first)))
    total, exponent = first / astype(p, first.dtype), xp.log2(p)
    for v in rest:
        p = binade(xp.abs(stop_gradient(v)))
        total, exponent = total * (v / astype(p, v.dtype)), exponent + xp.log2(p)
    half = xp.floor(exponent / 2)
    two = xp.asarray(2.0, dtype=exponent.dtype, device=device(exponent))
    return total * astype(xp.pow(two, half), total.dtype) * astype(xp.pow(two, exponent - half), total.dtype)


def frobenius(x: Array, axis: int | None = None) -> Array:
    """‖x‖_F as a 0-d array, without avoidable overflow or underflow: entries of 1e200 and 1e-200 are fine.

    With an axis the norms of the slices along it. The gradient at 0 is 0.
    """
    xp = array_namespace(x)
    s = power_of_two(x, axis)
    x = x / astype(s, x.dtype)
    squares = xp.real(x) ** 2 + xp.imag(x) ** 2 if is_complex(x) else x**2
    if axis is None:
        total = xp.sum(squares)
    else:
        total, s = xp.sum(squares, axis=axis), xp.squeeze(s, axis=axis)
    zero = total == 0  # the root of 0 has no gradient
    return xp.where(zero, total, xp.sqrt(xp.where(zero, xp.ones_like(total), total))) * s


def normal(rng: Any, shape: tuple[int, ...], like: Array) -> Array:
    """Standard normal numbers from a NumPy generator, in the library, dtype and device of `like`."""
    xp = array_namespace(like)
    draws = rng.standard_normal(shape)
    if xp.isdtype(like.dtype, "complex floating"):
        draws = (draws + 1j * rng.standard_normal(shape)) / math.sqrt(2)
    return astype(xp.asarray(draws, device=device(like)), like.dtype)


# dense routines -------------------------------------------------------------------------------------------------------


class Factors(NamedTuple):
    """A square matrix as `lu_solve` wants it, and an estimate of 1/(‖A‖₁‖A⁻¹‖₁), 0 where it is exactly singular."""

    lu: Any  # LAPACK's LU and pivots of A / scale; None: A itself
    scale: float
    A: Array
    rcond: float


def lu_factor(A: Array) -> Factors:
    """In the memory of the host LAPACK's LU and its estimator, O(n²) more; elsewhere the inverse says how good A is."""
    plain = stop_gradient(A)
    if not A.shape[-1]:
        return Factors(None, 1.0, A, 1.0)
    scale = to_float(power_of_two(plain))
    if is_numpy(A) or (is_torch(A) and str(A.device) == "cpu"):
        B = to_numpy(plain) / scale
        getrf, gecon = scipy.linalg.get_lapack_funcs(("getrf", "gecon"), (B,))
        norm = float(np.abs(B).sum(axis=0).max())
        lu, pivots, info = getrf(B)
        return Factors((lu, pivots), scale, A, 0.0 if info > 0 else float(gecon(lu, norm)[0]))
    return Factors(None, scale, A, _rcond_by_inverse(plain / astype(power_of_two(plain), A.dtype)))


def _rcond_by_inverse(A: Array) -> float:
    xp = array_namespace(A)
    try:
        X = xp.linalg.inv(A)
    except (np.linalg.LinAlgError, RuntimeError):  # torch raises its own subclass of RuntimeError
        return 0.0
    value = 1.0 / (to_float(xp.max(xp.sum(xp.abs(A), axis=0))) * to_float(xp.max(xp.sum(xp.abs(X), axis=0))))
    return value if math.isfinite(value) else 0.0


def lu_solve(F: Factors, B: Array) -> Array:
    """A⁻¹ B of the dtype of B; with gradients where they are asked for."""
    xp = array_namespace(B)
    if not F.A.shape[-1]:
        return copy(B)
    if F.lu is None or any(is_torch(x) and x.requires_grad for x in (F.A, B)):
        return xp.linalg.solve(astype(F.A, B.dtype), B)
    right = to_numpy(B)
    (getrs,) = scipy.linalg.get_lapack_funcs(("getrs",), (F.lu[0], right))
    x = getrs(*F.lu, right)[0]
    return xp.asarray(x / F.scale if F.scale != 1.0 else x, dtype=B.dtype, device=device(B))


def qr_triangle(A: Array) -> Array:
    """R of the QR factorization, without the orthogonal factor where a library offers that (half the time)."""
    if is_numpy(A):
        return np.linalg.qr(A, mode="r")
    xp = array_namespace(A)
    return xp.linalg.qr(A, mode="r" if is_torch(A) and not A.requires_grad else "reduced")[1]


def qr(A: Array) -> tuple[Array, Array]:
    """The thin QR decomposition of a finite matrix."""
    if is_numpy(A) and 0 not in A.shape:  # NumPy's takes three times as long for a tall one
        Q, R = scipy.linalg.qr(A, mode="economic", check_finite=False)
        return Q, R
    Q, R = array_namespace(A).linalg.qr(A)
    return Q, R


def solve_triangular(R: Array, B: Array, upper: bool = True) -> Array:
    """R⁻¹ B for a triangular R."""
    xp = array_namespace(R)
    if is_numpy(R):
        return scipy.linalg.solve_triangular(R, B, lower=not upper, check_finite=False)
    return xp.linalg.solve_triangular(R, B, upper=upper) if is_torch(R) else xp.linalg.solve(R, B)


def lstsq(A: Array, B: Array, rcond: float) -> Array:
    """The X of least norm among those that minimise ‖B - A X‖_F; singular values up to rcond times the largest are 0.

    Full rank: by a QR factorization, with gradients; else by the SVD of its triangle.
    """
    xp = array_namespace(A, B)
    wide = A.shape[0] < A.shape[1]
    Q, R = qr(xp.conj(xp.matrix_transpose(A)) if wide else A)
    if not size(R):
        return xp.zeros((A.shape[1], B.shape[1]), dtype=B.dtype, device=device(B))
    s = xp.linalg.svdvals(stop_gradient(R))
    full = to_float(s[-1]) > rcond * to_float(s[0])
    Qh = xp.conj(xp.matrix_transpose(Q))
    if full and wide:  # A = Rᴴ Qᴴ
        return Q @ solve_triangular(xp.conj(xp.matrix_transpose(R)), B, upper=False)
    if full:
        return solve_triangular(R, Qh @ B)
    U, s, Vh = xp.linalg.svd(R, full_matrices=False)
    kept = s > rcond * s[0]
    inverse = astype(xp.where(kept, 1.0 / xp.where(kept, s, xp.ones_like(s)), xp.zeros_like(s)), B.dtype)[:, None]
    if wide:  # A = V S Uᴴ Qᴴ
        return Q @ (U @ (inverse * (Vh @ B)))
    return xp.conj(xp.matrix_transpose(Vh)) @ (inverse * (xp.conj(xp.matrix_transpose(U)) @ (Qh @ B)))


def eig(A: Array) -> tuple[Array, Array]:
    """The eigenvalues and the eigenvectors, in columns, of a square matrix, always complex."""
    xp = array_namespace(A)
    if is_torch(A):
        return tuple(xp.linalg.eig(A))
    dtype = complex_dtype(xp, A.dtype)
    values, vectors = np.linalg.eig(to_numpy(A))
    return tuple(xp.asarray(np.asarray(x), dtype=dtype, device=device(A)) for x in (values, vectors))


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
    dtype = complex_dtype(xp, A.dtype)
    return xp.asarray(T, dtype=dtype, device=device(A)), xp.asarray(Q, dtype=dtype, device=device(A))


def expm(A: Array) -> Array:
    """exp(A) of a square matrix (SciPy; torch has its own)."""
    xp = array_namespace(A)
    if is_torch(A):
        return xp.linalg.matrix_exp(A)
    return xp.asarray(scipy.linalg.expm(to_numpy(A)), dtype=A.dtype, device=device(A))
