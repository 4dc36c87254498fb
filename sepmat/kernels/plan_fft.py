"""Plans of products by FFTs: the length of the transforms, how many vectors at a time, or the dense form (see plan.py)."""

import functools
import math
from typing import NamedTuple

from .limits import CACHE, LARGE_RATE, REAL, SIZE, fft_flops

# Crossovers that these constants give, n of square matrices, float64 (float32): circulant, 1 vector 240 (350), 64 rows 110
# (130); Toeplitz, 1 vector 300 (430), 64 rows 240 (300). Measured, dense over FFT at n = 256: 0.9 (0.5), 2.4 (1.7); Toeplitz 0.6
# (0.3), 1.0 (0.9).
TRANSFORM = 6e-6  # what a product by FFT costs beside its transforms: circulant, n = 64
PADDING = 1.5e-6  # and more where x is padded: Toeplitz, n = 64
# W(G, H), whose transforms stand in stacks of terms: faster for one vector, and slower for many, with the products between them.
# n = 1024, 1, 4 and 16 terms: one vector 30, 41, 101 µs; 64 rows 0.64, 1.6, 5.8 ms.
SUM_OF_TRANSFORMS = 20e-6  # what it costs beside its transforms
SUM_ONE, SUM_MANY = 1.4, 0.8  # the rate of its transforms beside that of others, for one vector and for many
FFT_ONE = 8.5e9  # flop/s of a transform of one vector: n = 1024 in 3.0 µs, both precisions
FFT_MANY = {4: 23e9, 8: 13e9}  # of 64 rows of 1024, by the size of a real number
DENSE_CALL = 1.2e-6
GEMV = 80e9  # bytes of the matrix per second: n = 256 float64 in 6.4 µs
UNROLL = 14e9  # bytes of a dense form per second, from its diagonals: n = 512 float64 in 0.15 ms
RUNS = 4e9  # and in runs of columns: n = 1024 in 1.7 ms, n = 256 in 0.2
LONGEST_RUN = 32  # of columns that follow from one another, each a rounding: n = 1024, 16 terms, 5 ms in place of 110
PATIENCE = 24  # products that making a dense form may cost: 16 of 64 rows at n = 1024
AT_ONCE = 0.01  # seconds that making it may cost in any case
DENSE_BYTES = 2**25  # of a dense form that is remembered beside a structure


class Transform(NamedTuple):
    """A product with an m×n matrix by FFTs of length `length`, or by its dense form where that is faster."""

    route: str  # "fft" or "dense"
    m: int
    n: int
    length: int
    transforms: int  # for each vector
    vectors: int
    kind: str
    by_transforms: float  # seconds
    making: float  # seconds that the first product takes more, for the dense form
    seconds: float

    def by_fft(self) -> "Transform":
        """The same product by transforms."""
        return self._replace(route="fft", seconds=self.by_transforms)

    @property
    def flops(self) -> int:
        if self.route == "dense":
            return 2 * self.m * self.n * self.vectors * REAL[self.kind]
        pointwise = 6 * (self.length // (1 if REAL[self.kind] == 4 else 2)) * max(1, self.transforms - 1)
        return round(self.vectors * (self.transforms * fft_flops(self.length, self.kind) + pointwise))

    @property
    def bytes(self) -> int:
        """The vectors, the results, and what is stored of the matrix."""
        stored = self.m * self.n if self.route == "dense" else self.length * max(1, self.transforms - 2)
        return SIZE[self.kind] * ((self.m + self.n) * self.vectors + stored)


@functools.lru_cache(maxsize=4096)
def transform(m: int, n: int, length: int, vectors: int, kind: str, transforms: int = 2) -> Transform:
    """FFT or dense, by sizes alone, so that equal products have equal bits.

    transforms = 2: a matrix that is constant along its diagonals, whose dense form is a copy of windows; more: W(G, H), whose
    columns follow from one another in runs, the first one of each by a product.
    """
    size, real = SIZE[kind], SIZE[kind] // (2 if REAL[kind] == 4 else 1)
    fixed = TRANSFORM + (PADDING if length > max(m, n) else 0.0)
    one, rate = transforms * fft_cost(length, kind), FFT_MANY[real]
    single = FFT_ONE
    if transforms > 2:
        fixed, rate, single = SUM_OF_TRANSFORMS, SUM_MANY * rate, SUM_ONE * single
    fast = fixed + vectors * one / (single if vectors < 4 else rate)
    dense = DENSE_CALL + m * n * size / GEMV
    if vectors > 1:
        dense += 2 * m * n * vectors * REAL[kind] / LARGE_RATE[real]
    if transforms == 2:
        making = 1e-5 + m * n * size / UNROLL
    else:
        making = fixed + n * (one / rate / run(n) + max(m, n) * size / RUNS)
    chosen = dense < fast and m * n * size <= DENSE_BYTES and making <= max(AT_ONCE, PATIENCE * fast)
    return Transform(
        "dense" if chosen else "fft", m, n, length, transforms, vectors, kind, fast, making, dense if chosen else fast
    )


def run(n: int) -> int:
    """The columns of a dense W(G, H) that follow from a product each: few enough that the steps are worth their calls."""
    return max(1, min(LONGEST_RUN, n // 16))


def fft_cost(n: int, kind: str) -> float:
    """fft_flops of as much work, by pocketfft's own estimate: a factor p costs p, or one way around through 2 n - 1.

    n = 16381 is prime and takes 8.7 times as long as 16384; the estimate says 6.4.
    """
    around = 3 * _passes(_good_length(2 * n - 1)) if n > 50 else math.inf
    return (2.5 if REAL[kind] == 4 else 1.25) * min(_passes(n), around)


def fast_length(n: int, real: bool) -> int:
    """The smallest length >= n with a fast transform: no prime factor above 5, or 11 for complex data, as in pocketfft."""
    while True:
        rest = n
        for p in (2, 3, 5) if real else (2, 3, 5, 7, 11):
            while rest % p == 0:
                rest //= p
        if rest == 1:
            return n
        n += 1


def circulant_length(n: int, diagonals: int, kind: str) -> int:
    """The length of the transforms of an n×n f-circulant with so many diagonals in sight: n, or that of a Toeplitz matrix.

    n = 16381 is prime: 1.05 ms a product by transforms of that length, 0.30 by padded ones (float64).
    """
    padded = fast_length(max(1, diagonals), REAL[kind] == 1)
    return padded if fft_cost(padded, kind) < PADDED * fft_cost(n, kind) else n


PADDED = 0.75  # of the transforms that a padded one may cost, so that padding pays for itself


def _passes(n: int) -> float:
    """n times the sum of its prime factors, those above 5 counted 1.1 times."""
    total, rest, p = 0.0, n, 2
    while p * p <= rest:
        while rest % p == 0:
            total, rest = total + (p if p <= 5 else 1.1 * p), rest // p
        p += 1
    if rest > 1:
        total += rest if rest <= 5 else 1.1 * rest
    return n * max(2.0, total)


def _good_length(n: int) -> int:
    """A power of two, 3/2 or 5/4 of one, at least n."""
    k = (n - 1).bit_length()
    return min(c for c in (2**k, 3 * 2**k // 4, 5 * 2**k // 8) if c >= n)


def vectors(n: int, kind: str, axis: int = -1) -> int:
    """How many rows are transformed together: those whose three arrays nearly stay in L2, in multiples of pocketfft's vectors
    (of 16 bytes in SciPy's wheels); of columns those that share cache lines.

    64 rows of 1024, padded to 2048, float64: 0.63 ms by 8 rows, 0.58 by 32, 0.56 at once, but 0.97 where memory is fresh each
    time; 16384: 11.8 ms by 2 or 4, 12.8 by 16, 16 by 32.
    """
    lanes = (16 if axis == -1 else 64) // (SIZE[kind] // (2 if REAL[kind] == 4 else 1))
    return max(lanes, VECTORS // max(1, 3 * n * SIZE[kind]) // lanes * lanes)


VECTORS = CACHE * 3 // 2  # bytes of the rows that are transformed together, padded, transformed and back
