"""Launches of the kernel: pointers and sizes, whatever library they belong to.

`launch` needs an object with RawModule's get_function(name)(grid, block, args, shared_mem=…): cupy.RawModule on a device, a
module of the host compiler in the tests. Every argument has the width that the kernel declares. `module` compiles by NVRTC through
CuPy, once for each device and specialisation.
"""

import functools
import math
from typing import Any

import numpy as np

from ...errors import BackendError
from .plan import H100, RESERVED
from .specialise import Specialisation

BLOCKS = 32  # that a multiprocessor may have at once
THREADS = 2048  # that it may have at once
WITHOUT_ASKING = 48 * 1024  # bytes of shared memory that every block may have; more is a property of the function


def launch(
    module: Any,
    spec: Specialisation,
    x: int,
    factors: int,
    y: int,
    outer: int,
    inner: int,
    terms: int = 1,
    *,
    x_outer: int | None = None,
    x_term: int | None = None,
    y_outer: int | None = None,
    y_term: int | None = None,
    transposed: int = 0,
) -> None:
    """y = (Σ_l F_1l ⊗ … ⊗ F_kl) x on the current device and stream, or what else `spec.kind` says; "one" is a launch a term.

    x, factors, y: addresses; specialise.ARGUMENTS has what lies there. Strides count entries; by default each array is
    contiguous, (outer, Π n_i, inner), or (terms, outer, Π n_i, inner). Nothing waits for the launch.
    """
    m, n = (math.prod(shape[k] for shape in spec.shapes) for k in (0, 1))
    x_outer, y_outer = (n * inner if x_outer is None else x_outer), (m * inner if y_outer is None else y_outer)
    x_term, y_term = (outer * x_outer if x_term is None else x_term), (outer * y_outer if y_term is None else y_term)
    tiles = spec.tiles(outer, inner)
    if not tiles:
        return
    launches, each = (terms, 1) if spec.kind == "one" else (1, terms)
    numbers = tuple(map(np.int64, (outer, inner, each, x_outer, x_term, y_outer, y_term, transposed)))
    steps = (x_term, sum(p * q for p, q in spec.shapes), y_term)
    grid = (min(tiles, H100.multiprocessors * resident(spec)),)
    for l in range(launches):
        at = [np.uint64(a + l * step * spec.itemsize) for a, step in zip((x, factors, y), steps, strict=True)]
        _function(module, spec)(grid, (spec.threads,), (*at, *numbers), shared_mem=spec.shared_bytes)


def resident(spec: Specialisation) -> int:
    """Blocks that a multiprocessor has room for, by shared memory and threads: more would only wait."""
    room = H100.shared_bytes // (spec.shared_bytes + RESERVED)
    return max(1, min(BLOCKS, THREADS // spec.threads, room))


@functools.lru_cache(maxsize=1024)
def _function(module: Any, spec: Specialisation) -> Any:
    """The function of a module; CuPy compiles it here."""
    try:
        function = module.get_function(spec.entry)
    except Exception as error:
        if type(error).__name__ != "CompileException":  # a class of CuPy, which need not be here
            raise
        got = f"{spec.entry} does not compile ({str(error).partition(chr(10))[0]})"
        advice = "Report it with this text, and multiply on the CPU meanwhile"
        raise BackendError("kernels.cuda", "kernel", got, "a kernel that NVRTC takes", advice) from error
    if spec.shared_bytes > WITHOUT_ASKING:
        function.max_dynamic_shared_size_bytes = spec.shared_bytes
    return function


def module(spec: Specialisation) -> Any:
    """The compiled kernel for the current device, a cupy.RawModule. CuPy keeps its binary on disk.

    Raises BackendError without CuPy, and where no device answers.
    """
    runtime = import_cupy("kernels.cuda").cuda.runtime
    try:
        device = runtime.getDevice()
    except runtime.CUDARuntimeError as error:
        got = f"installed, but no CUDA device answers ({str(error).partition(':')[0]})"
        advice = "Check nvidia-smi and the driver (CUDA 13 or later), or use NumPy arrays"
        raise BackendError("kernels.cuda", "cupy", got, "a CUDA device with its driver", advice) from error
    return _module(device, spec)


@functools.lru_cache(maxsize=1024)
def _module(device: int, spec: Specialisation) -> Any:
    return import_cupy("kernels.cuda").RawModule(code=spec.code(), options=spec.options)


def import_cupy(where: str) -> Any:
    """CuPy; BackendError that says how to get it."""
    try:
        import cupy
    except ImportError as error:
        advice = "Run pip install 'sepmat[cuda]', or force a row that needs no device"
        raise BackendError(where, "cupy", f"not importable ({error})", "CuPy 14 for CUDA 13", advice) from error
    return cupy
