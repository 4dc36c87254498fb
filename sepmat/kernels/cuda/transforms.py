"""Plans of products by FFTs on a GPU: transforms, or one GEMM with the dense form where that moves less. Sizes only.

For many vectors a GEMM is cheaper than it looks: it reads each of them once, transforms read and write the padded ones
several times. In float32 it wins up to n = 700 for Toeplitz and 240 for circulant matrices. Derived from the limits of
plan.py, not measured.
"""

import functools

from ..limits import REAL, SIZE
from ..plan_fft import AT_ONCE, DENSE_BYTES, PATIENCE, Transform
from .plan import H100, Limits


@functools.lru_cache(maxsize=4096)
def transform(
    m: int, n: int, length: int, vectors: int, kind: str, transforms: int = 2, limits: Limits = H100
) -> Transform:
    """FFT or dense on a GPU; the arguments are those of kernels.plan_fft.transform, and so is what is remembered of the dense form.

    Each transform, and each product with a spectrum between two of them, reads and writes vectors of the length; padding and
    cutting take the vectors once more.
    """
    size = SIZE[kind]
    numbers = (2 * transforms + 2 * (transforms - 1)) * length
    launches = 2 * transforms - 1
    if length > max(m, n):
        numbers, launches = numbers + n + length + 2 * m, launches + 2
    fast = size * numbers * vectors / limits.bandwidth + launches * limits.launch
    flops = 2 * m * n * vectors * REAL[kind]
    moved = size * (m * n + (m + n) * vectors)
    dense = max(moved / limits.bandwidth, flops / limits.gemm(kind)) + limits.launch
    making = 2 * size * m * n / limits.bandwidth + 4 * limits.launch
    if transforms > 2:  # by n products
        making = size * numbers * n / limits.bandwidth + launches * limits.launch
    chosen = dense < fast and m * n * size <= DENSE_BYTES and making <= max(AT_ONCE, PATIENCE * fast)
    seconds = dense if chosen else fast
    return Transform("dense" if chosen else "fft", m, n, length, transforms, vectors, kind, fast, making, seconds)
