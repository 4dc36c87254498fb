"""The numbers of an array: on the host, with or without gradients, as memory of two libraries, as data that is remembered."""

import contextlib
import contextvars
import math
import sys
from collections.abc import Callable, Iterable
from typing import Any

import numpy as np

from ..errors import DTypeError
from .libraries import (
    Array,
    array_namespace,
    astype,
    compiling,
    complex_dtype,
    device,
    is_complex,
    is_cupy,
    is_half,
    is_numpy,
    is_torch,
)


def stop_gradient(x: Array) -> Array:
    """x without a gradient, also of forward mode, whose tangents `detach` keeps."""
    return _primal(x.detach()) if is_torch(x) else x


def attached(*arrays: Array) -> bool:
    """Whether torch wants a gradient of one of them, backwards or in forward mode."""
    return any(is_torch(a) and (a.requires_grad or _primal(a) is not a) for a in arrays)


def _primal(x: Array) -> Array:
    """A tensor without its tangent; itself where it has none."""
    forward = sys.modules["torch"].autograd.forward_ad
    if compiling() or getattr(forward, "_current_level", 0) < 0:  # the level is -1 outside forward mode
        return x
    primal, tangent = forward.unpack_dual(x)
    return x if tangent is None else primal


def to_float(x: Array) -> float:
    """A 0-d real array as a Python float; never on a path where gradients flow."""
    check_unbatched(x, "sepmat", "x")
    return float(stop_gradient(x))


def to_numpy(x: Array) -> Any:
    """A NumPy copy or view of any array, wherever it lives, without its gradient; DTypeError where torch.vmap runs over it."""
    if is_torch(x):
        with _outside_transforms():
            x = _unwrapped(x)
            return (x.float() if is_half(x.dtype) else x).numpy(force=True)  # NumPy has no bfloat16
    return x.get() if is_cupy(x) else np.asarray(x)


def _outside_transforms() -> contextlib.AbstractContextManager[object]:
    """Where torch.func wraps no tensor: what it has wrapped has no memory that NumPy could read."""
    if compiling() or sys.modules["torch"]._C._functorch.peek_interpreter_stack() is None:
        return contextlib.nullcontext()
    from torch._functorch.pyfunctorch import temporarily_clear_interpreter_stack

    return temporarily_clear_interpreter_stack()


def _unwrapped(x: Array) -> Array:
    """The tensor inside what torch.func wraps around it to differentiate."""
    if not compiling():
        check_unbatched(x, "sepmat", "x")
        functorch = sys.modules["torch"]._C._functorch
        while functorch.is_functorch_wrapped_tensor(x):
            x = functorch.get_unwrapped(x)
    return x


def check_unbatched(x: Array, where: str, name: str) -> None:
    """Under torch.vmap a tensor stands for many matrices, and nothing can be decided by its numbers."""
    if not is_torch(x) or compiling():
        return
    functorch = sys.modules["torch"]._C._functorch
    while functorch.is_functorch_wrapped_tensor(x):
        if functorch.is_batchedtensor(x):
            got, expected = "a tensor that torch.vmap runs over", "a tensor whose numbers can be looked at"
            advice = "Pass all right-hand sides as the columns of one matrix, or loop over the matrices; products may be vectorised"
            raise DTypeError(where, name, got, expected, advice)
        x = functorch.get_unwrapped(x)


def to_bits(x: Array) -> Any:
    """to_numpy without a rounding or a change of sign: half precision as 16-bit integers, no lazy conjugates or negatives."""
    if not is_torch(x):
        return to_numpy(x)
    if is_half(x.dtype):
        return x.detach().cpu().contiguous().view(sys.modules["torch"].int16).numpy().view(np.uint16)
    return to_numpy(x)


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
        if (gradients and t.requires_grad) or t.is_conj() or t.is_neg() or t._is_zerotensor():
            return False
    return not _transformed(torch)


def odd_tensor(x: Array) -> str:
    """What keeps a tensor from being an array of numbers in a plain layout; an empty string where nothing does."""
    torch = sys.modules["torch"]
    kinds: dict[str, Callable[[Any], bool]] = {
        "uninitialised": lambda x: isinstance(x, torch.nn.parameter.UninitializedTensorMixin),  # is_lazy breaks graphs
        "masked": lambda x: type(x).__name__ == "MaskedTensor",
        "nested": lambda x: x.is_nested,
        "quantized": lambda x: x.is_quantized,
        "sparse": lambda x: x.layout is not torch.strided,
    }
    return next((kind for kind, found in kinds.items() if found(x)), "")


def is_tensor_beside(x: Any, like: Array) -> bool:
    """Whether x is a dense tensor of floating point numbers, as torch makes them, on the device of another tensor."""
    torch = sys.modules.get("torch")
    if torch is None or type(x) is not torch.Tensor or not isinstance(like, torch.Tensor):
        return False
    known = x.dtype in _shared_dtypes(torch) and x.layout is torch.strided and not x.is_nested
    return known and not torch.compiler.is_compiling() and x.device == like.device


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
    return sys.modules["torch"].from_numpy(np.ascontiguousarray(x))


def torch_has_threads() -> bool:
    """Whether operators of torch take more than one thread on a CPU."""
    torch = sys.modules.get("torch")
    return torch is not None and torch.get_num_threads() > 1


_beside_torch: contextvars.ContextVar[bool] = contextvars.ContextVar("beside torch", default=False)


def on_memory(run: Callable[[Any], Any], x: Array) -> Array:
    """run, of a NumPy array, on the memory of a CPU tensor; where torch has several threads, `gemm` is torch's meanwhile."""
    if not torch_has_threads():
        return tensor_view(run(numpy_view(x)))
    token = _beside_torch.set(True)
    try:
        return tensor_view(run(numpy_view(x)))
    finally:
        _beside_torch.reset(token)


def threads_of_torch() -> int:
    """How many threads a product on the memory of a tensor may use, as torch says; 1 outside of `on_memory`."""
    return int(sys.modules["torch"].get_num_threads()) if _beside_torch.get() else 1


def gemm(a: Array, b: Array, out: Array | None = None) -> Array:
    """a @ b, of matrices, vectors, or a matrix and a stack; within `on_memory` by torch what OpenBLAS would use its threads for.

    Threads of torch wait for work without sleep, so that those of OpenBLAS have no processor of their own beside them and stand
    still for a time slice or more.
    """
    if type(a) is not np.ndarray:
        return a @ b
    if not _beside_torch.get():
        return a.dot(b) if out is None and b.ndim < 3 else np.matmul(a, b, out=out)  # with less in front of the GEMM
    m, n, k = a.shape[-2] if a.ndim > 1 else 1, a.shape[-1], b.shape[-1] if b.ndim > 1 else 1
    if m * n * k <= (_BLAS_GEMM if min(m, k) > 1 else _BLAS_GEMV):
        return np.matmul(a, b, out=out)
    torch = sys.modules["torch"]
    A, B = (torch.from_numpy(v if v.flags.writeable else v.copy()) for v in (a, b))
    C = None if out is None else torch.from_numpy(out)
    found = torch.bmm(A.expand(len(b), m, n), B, out=C) if b.ndim == 3 else torch.matmul(A, B, out=C)
    return found.numpy() if out is None else out


_BLAS_GEMM, _BLAS_GEMV = 10**6, 9216  # multiplications up to which OpenBLAS takes one thread


def copy(x: Array) -> Array:
    """A copy that shares no memory with x and passes gradients."""
    if type(x) is np.ndarray:
        return np.array(x)
    return x.clone() if is_torch(x) else array_namespace(x).asarray(x, copy=True)


def in_rows(x: Array) -> Array:
    """x with neighbours of a row beside each other in memory, where BLAS is faster with it."""
    if type(x) is np.ndarray:
        return np.ascontiguousarray(x)
    return x.contiguous() if is_torch(x) else x


def conj(x: Array) -> Array:
    """The complex conjugate; real numbers as they are, which the standard's `conj` need not take."""
    return array_namespace(x).conj(x) if is_complex(x) else x


def real(x: Array) -> Array:
    """The real part; real numbers as they are."""
    return array_namespace(x).real(x) if is_complex(x) else x


def adjoint(X: Array) -> Array:
    """Xᴴ, of the last two axes."""
    return conj(array_namespace(X).matrix_transpose(X))


def by_columns(x: Array) -> Array:
    """A thin matrix as torch's GEMMs on many rows like it, forward and in their gradients: column by column in memory; others
    as they are."""
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
    found = []
    for a in arrays:
        if is_torch(a):
            if attached(a) or a.is_inference() or sys.modules["torch"].is_inference_mode_enabled():
                return None
            found.append(a._version)
    return tuple(found)


_COMPLEX = {np.dtype("float32"): np.dtype("complex64")}


def complex_of(real: Array, imag: Array) -> Array:
    """real + i imag; 1j * imag would make NaN of an infinity."""
    if type(real) is np.ndarray:
        found = np.empty(real.shape, _COMPLEX.get(real.dtype, np.complex128))
        found.real, found.imag = real, imag
        return found
    xp = array_namespace(real)
    if is_torch(real):
        return xp.complex(real, imag)
    if not is_numpy(real) and not is_cupy(real):  # the standard has no other way to put two parts together
        return xp.asarray(complex_of(to_numpy(real), to_numpy(imag)), device=device(real))
    found = xp.empty(real.shape, dtype=complex_dtype(xp, real.dtype))
    found.real, found.imag = real, imag
    return found


def normal(rng: Any, shape: tuple[int, ...], like: Array) -> Array:
    """Standard normal numbers from a NumPy generator, in the library, dtype and device of `like`."""
    xp = array_namespace(like)
    draws = rng.standard_normal(shape)
    if xp.isdtype(like.dtype, "complex floating"):
        draws = (draws + 1j * rng.standard_normal(shape)) / math.sqrt(2)
    return astype(xp.asarray(draws, device=device(like)), like.dtype)
