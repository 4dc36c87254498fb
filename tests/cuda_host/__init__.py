"""The CUDA kernels on the host: their own text compiled by g++ through shim.hpp, and a module of the shape of `cupy.RawModule`.

What this shows: the index maps, the barriers (in three orders of the threads, and for races under TSan), every access in bounds
(ASan), the launch code. What it does not: speed, occupancy, coalescing, subtleties of the memory model, last bits where a device
contracts a product and a sum to one rounding.
"""

import ctypes
import shutil
import subprocess
import sys
from pathlib import Path

import numpy as np

from sepmat.kernels.cuda.specialise import SHARED_LIMIT, SOURCE

HERE = Path(__file__).parent
ORDERS = ("ascending", "descending", "random", "threads")
WARNINGS = ("-Wall", "-Wextra", "-Werror", "-Wno-unknown-pragmas")
UNASKED = 48 * 1024  # bytes of shared memory a kernel may have without max_dynamic_shared_size_bytes
FOUND = sys.platform == "linux" and shutil.which("g++")
MISSING = None if FOUND else "no g++ on Linux: the kernels cannot be compiled for the host"


def compile_kernels(specs, output, flags=("-O2",), source=SOURCE, program=False):
    """All specialisations in one translation unit: a library, or a program of one launch (main.hpp).

    source: the kernel, or {entry: kernel} where they differ.
    """
    unit = ['#include "shim.hpp"']
    for spec in specs:
        unit += [f"#define {name} {value}" for name, value in spec.defines.items()]
        text = source[spec.entry] if isinstance(source, dict) else source
        unit += [f'#include "{text}"', f"CUDA_HOST_KERNEL(in_{spec.entry}, {spec.entry});"]
        unit += [f"#undef {name}" for name in spec.defines]
    unit += ['#include "main.hpp"'] if program else []
    text = output.with_suffix(".cpp")
    text.write_text("\n".join(unit) + "\n")
    kind = () if program else ("-shared", "-fPIC")
    command = ["g++", "-std=c++20", "-pthread", *kind, *flags, *WARNINGS, f"-I{HERE}", "-o", str(output), str(text)]
    done = subprocess.run(command, capture_output=True, text=True)
    if done.returncode:
        raise RuntimeError(done.stderr[:4000])
    return output


class HostModule:
    """`get_function(name)` as `cupy.RawModule` has it, of kernels compiled for the host in `folder`.

    order: in which the threads of a block run between two barriers; "threads" runs them at once. specs: a list of
    specialisations; source, flags: of the kernel and of g++.
    """

    def __init__(self, specs, folder, order="ascending", seed=0, **how):
        self.specs = {spec.entry: spec for spec in specs}
        self.order, self.seed = order, seed
        self.library = ctypes.CDLL(str(compile_kernels(specs, Path(folder) / "kernels.so", **how)))
        self.launches = 0

    def get_function(self, name):
        """One kernel; KeyError where there is none of this name."""
        return HostFunction(self, self.specs[name])


class HostFunction:
    """A kernel, called as CuPy calls it: function(grid, block, args, shared_mem=...)."""

    def __init__(self, module, spec):
        text = ctypes.create_string_buffer(256)
        module.library.cuda_host_signature(spec.entry.encode(), text)
        self.module, self.spec, self.signature = module, spec, text.value.decode()
        self.max_dynamic_shared_size_bytes = UNASKED

    def __call__(self, grid, block, args, *, shared_mem=0, stream=None):
        """Run it. Whatever a device would take in silence, or would not take, is an error here."""
        if len(args) != len(self.signature):
            raise TypeError(f"{len(args)} arguments for {len(self.signature)} parameters")
        for sizes, limit in ((grid, 2**31 - 1), (block, 1024)):
            if not 1 <= len(sizes) <= 3 or not all(type(s) is int and s >= 1 for s in sizes) or max(sizes) > limit:
                raise ValueError(f"grid {grid}, block {block}")
        if tuple(block) != (self.spec.threads,) + (1,) * (len(block) - 1) or any(s != 1 for s in grid[1:]):
            raise ValueError(f"block {block}, grid {grid}: {self.spec.threads} threads in one dimension are compiled")
        if not self.spec.shared_bytes <= shared_mem <= self.max_dynamic_shared_size_bytes <= SHARED_LIMIT:
            raise ValueError(
                f"{shared_mem} bytes of shared memory: {self.spec.shared_bytes} are needed, at most "
                f"max_dynamic_shared_size_bytes = {self.max_dynamic_shared_size_bytes} are given, {SHARED_LIMIT} on the device"
            )
        values = [self._value(i, kind, arg) for i, (kind, arg) in enumerate(zip(self.signature, args, strict=True))]
        how = (ctypes.c_int64 * 5)(grid[0], block[0], shared_mem, ORDERS.index(self.module.order), self.module.seed)
        text = ctypes.create_string_buffer(256)
        self.module.launches += 1
        self.module.library.cuda_host_launch(
            self.spec.entry.encode(), ctypes.byref(how), (ctypes.c_int64 * len(values))(*values), text
        )
        if text.value:
            raise RuntimeError(f"{self.spec.entry}: {text.value.decode()}")

    def _value(self, i, kind, arg):
        """The 64 bits of an argument: integers as np.int64, addresses as np.uint64 or as contiguous arrays of the dtype."""
        if kind == "i":
            if type(arg) is not np.int64:
                raise TypeError(f"argument {i}: a 64-bit integer, got {type(arg).__name__}")
            return int(arg)
        if isinstance(arg, np.ndarray):
            if str(arg.dtype) != self.spec.dtype or not arg.flags.c_contiguous:
                raise TypeError(
                    f"argument {i}: a contiguous {self.spec.dtype} array, got {arg.dtype}, strides {arg.strides}"
                )
            return arg.ctypes.data
        if type(arg) is not np.uint64 or int(arg) % self.spec.itemsize:
            raise TypeError(f"argument {i}: an array or an aligned np.uint64 address, got {type(arg).__name__} {arg!r}")
        return int(arg) - 2**64 * (int(arg) >= 2**63)


class HostProgram:
    """The same kernels as a program of one launch, for sanitizers: run(spec, grid, args, order) -> y."""

    def __init__(self, specs, folder, flags, **how):
        self.path = compile_kernels(specs, Path(folder) / "program", flags=flags, program=True, **how)

    def run(self, spec, grid, args, order, seed=0, environment=None):
        """y after the launch, and what the program said on standard error; y is None where it failed."""
        head = [grid, spec.threads, spec.shared_bytes, ORDERS.index(order), seed]
        arrays = [a for a in args if isinstance(a, np.ndarray)]
        head += [a.nbytes if isinstance(a, np.ndarray) else int(a) for a in args]
        given = np.array(head, np.int64).tobytes() + b"".join(a.tobytes() for a in arrays)
        done = subprocess.run([self.path, spec.entry], input=given, capture_output=True, env=environment, timeout=120)
        said = done.stderr.decode(errors="replace")
        if done.returncode:
            return None, said or f"exit status {done.returncode}"
        return np.frombuffer(done.stdout[-arrays[-1].nbytes :], arrays[-1].dtype).reshape(arrays[-1].shape), said
