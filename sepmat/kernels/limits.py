"""What one core can do, and the constants that plans of all kinds share."""

import dataclasses
import functools
import math
import time
from collections.abc import Callable
from typing import Any

import numpy as np

from .. import _array

# sizes of one number, and real multiplications in one of its multiplications, by the character of the dtype
SIZE = {"f": 4, "d": 8, "F": 8, "D": 16}
REAL = {"f": 1, "d": 1, "F": 4, "D": 4}

LARGE_RATE = {4: 220e9, 8: 86e9}  # flop/s of large GEMMs, by the size of a real number
CACHE = 2**20  # bytes of L2: what is larger pays COPY at every step


def kind_of(dtype: Any) -> str:
    """The character of the dtype that products with this one are computed in."""
    known: str | None = getattr(dtype, "char", None)
    if known in SIZE:
        return known
    return {"float64": "d", "complex64": "F", "complex128": "D"}.get(_array.dtype_name(dtype), "f")


def fft_flops(n: int, kind: str) -> float:
    """The usual count of a transform of length n: 2.5 n log2 n for real data, twice that for complex."""
    return (5.0 if REAL[kind] == 4 else 2.5) * n * math.log2(max(2, n))


@dataclasses.dataclass(frozen=True)
class Limits:
    """What one core can do: seconds are predicted with these, and shares are shares of them.

    Defaults: measured on one AVX-512 core (see plan.py). `Limits.measured()` takes a second and measures yours.
    """

    gemm32: float = 205e9  # flop/s of a 1024×1024 GEMM
    gemm64: float = 86e9
    copy: float = 28e9  # bytes read and written per second by a copy of 64 MB
    cache: float = 150e9  # the same of what stays in L2
    fft: float = 13e9  # flop/s of scipy.fft on 64 rows of 4096, 2.5 n log2 n for each

    def gemm(self, kind: str) -> float:
        return self.gemm32 if kind in "fF" else self.gemm64

    @classmethod
    def measured(cls) -> "Limits":
        """The limits of this machine with the threads it uses now: best of five runs each, about a second."""

        def best(run: Callable[[], Any]) -> float:
            def once() -> float:
                start = time.perf_counter()
                run()
                return time.perf_counter() - start

            return min(once() for _ in range(5))

        rates = []
        for dtype in (np.float32, np.float64):
            A = np.ones((1024, 1024), dtype)
            out = np.empty_like(A)
            rates.append(2 * 1024**3 / best(functools.partial(np.matmul, A, A, out=out)))
        source = np.ones(2**23)
        target = np.empty_like(source)
        copied = 2 * source.nbytes / best(lambda: np.copyto(target, source))
        x = np.ones((64, 4096))
        fft = 64 * fft_flops(4096, "d") / best(lambda: scipy_fft().rfft(x))

        def copy_small() -> None:
            for _ in range(100):
                np.copyto(target[: 2**15], source[: 2**15])

        cached = 2 * 100 * 8 * 2**15 / best(copy_small)
        return cls(rates[0], rates[1], copied, cached, fft)


def scipy_fft() -> Any:
    import scipy.fft

    return scipy.fft
