"""Plans: by which route a product is computed, what that costs, and why. The one place where routes are chosen.

A plan is a pure function of sizes and precision, computed once for each of them; the kernels run it and `explain` prints
it, so that what is said is what is done. Every route is exact: plans differ in rounding, never in the matrix.

The cost model is max-free and additive: a time for every call, for every number that a GEMM reads and writes, for its
multiplications, and for every byte that does not stay in the cache. Its constants are medians of one core of an AVX-512
server (OpenBLAS 0.3.31 on its SkylakeX kernels, SciPy 1.17); each stands with the measurement that gave it. Routes
follow ratios of these, so that they hold on other machines too, where times do not.
"""

import dataclasses
import functools
import itertools
import math
import time
from collections.abc import Callable, Sequence
from typing import Any, NamedTuple

import numpy as np

from .. import _array

# sizes of one number, and real multiplications in one of its multiplications, by the character of the dtype
SIZE = {"f": 4, "d": 8, "F": 8, "D": 16}
REAL = {"f": 1, "d": 1, "F": 4, "D": 4}


def kind(dtype: Any) -> str:
    """The character of the dtype that products with this one are computed in."""
    known: str | None = getattr(dtype, "char", None)
    if known in SIZE:
        return known
    return {"float64": "d", "complex64": "F", "complex128": "D"}.get(_array.dtype_name(dtype), "f")


@dataclasses.dataclass(frozen=True)
class Limits:
    """What one core can do: seconds are predicted with these, and shares are shares of them.

    Defaults: measured on one AVX-512 core (see the module). `Limits.measured()` takes a second and measures yours.
    """

    gemm32: float = 205e9  # flop/s of a 1024×1024 GEMM
    gemm64: float = 86e9
    copy: float = 28e9  # bytes read and written per second by a copy of 64 MB
    fft: float = 4.5e9  # flop/s of scipy.fft, counted as 2.5 n log2 n for a real transform, in either precision

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
        return cls(rates[0], rates[1], copied, fft)


def scipy_fft() -> Any:
    import scipy.fft

    return scipy.fft


# Small GEMMs. Time a number of y when F (n, n) meets y (n, 64), panel after panel in L2, float64 (float32), ns:
# n = 8 0.25 (0.13), 16 0.37 (0.20), 32 0.64 (0.33), 64 1.2 (0.60); y (n, 2^16/n) at once: 0.22 (0.12), 0.62 (0.49),
# 1.0 (0.75), 1.7 (0.9), n = 128 3.1 (1.4), 256 6.2 (2.5). OpenBLAS takes m n k <= 10^6 without packing: the fast lane.
SMALL_RATE = {4: 225e9, 8: 112e9}  # flop/s in the fast lane, by the size of a real number
LARGE_RATE = {4: 220e9, 8: 86e9}
SMALL_PANEL = 150e9  # bytes of y and the result per second beside the multiplications
LARGE_PANEL = 40e9
PANEL = 128  # columns of a panel
FAST_LANE = 10**6  # m n k of a GEMM that OpenBLAS does without packing
CALL = 20e-9  # one GEMM of a batch: y of 4×16 and 8×16 in panels against one of 4×16384
STEP = 2e-6  # one call from Python with its views
NARROW = 0.8e-9  # a number of y when y (·, n) meets Fᵀ from the right, times 1/n: n = 2 1.0, 4 0.5, 8 0.3 ns in all
RUN = 4e-9  # one run of a strided copy: gathering (c, n, r) into (n, c r) costs 4 ns a run and 0.15 ns a number
GATHERED = 0.15e-9
CACHE = 2**20  # bytes of L2: what is larger pays COPY at every step
SHARED_CACHE = 2**24  # bytes that L3 holds for us
COPY_CACHED = 1 / 90e9  # six 8×8 on one vector of 2 MB: 0.46 ns a number and factor, 0.28 in L2
COPY = 1 / 28e9
LARGE_ARRAY = 2**25  # bytes above which malloc takes fresh pages for each array, and these have to be cleared:
FRESH = 1 / 11e9  # 3.2 ms for 33.5 MB, where writing takes 0.9
BLOCK = 2**18  # bytes of a slab of a blocked chain: two of them and the factors stay in L2
NARROWEST = 512  # bytes of a row of a slab that is cut out of longer rows
MERGED = 2**12  # entries of a merged factor: 64×64. Larger ones cost more multiplications than they save calls


class Step(NamedTuple):
    """Factor `factor`, (m, n), along the middle axis of y viewed as (left, n, right)."""

    factor: int
    m: int
    n: int
    left: int
    right: int
    form: str  # one of FORMS
    width: int  # columns of a panel, slices that are gathered, or 0
    gap: bool = False  # whether rows of the result are spaced out for the next step

    @property
    def flops(self) -> int:
        """2 m n left right, to be multiplied by 4 for complex numbers."""
        return 2 * self.m * self.n * self.left * self.right

    @property
    def numbers(self) -> int:
        """Numbers read and written."""
        return (self.m + self.n) * self.left * self.right


FORMS = {
    "from the right": "y Fᵀ, one GEMM",
    "rows": "y Fᵀ in panels of 64 rows",
    "from the left": "F y, one GEMM",
    "batched": "F y_l, a GEMM for each l",
    "panels": "F y in panels of columns",
    "gathered": "F on several y_l side by side",
}
ROWS = 64  # rows of a panel


def step(factor: int, m: int, n: int, left: int, right: int) -> Step:
    """A step in the form that its sizes ask for."""
    if right == 1:
        many = left >= 4 * ROWS and m * n <= MERGED
        return Step(factor, m, n, left, 1, "rows" if many else "from the right", ROWS if many else 0)
    if left > 1 and m * n * right > FAST_LANE and right <= PANEL:
        return Step(factor, m, n, left, right, "gathered", min(left, 4 * PANEL // right))
    w = min(PANEL, FAST_LANE // (2 * max(1, m * n)))
    if n >= 16 and 32 <= w < right:
        return Step(factor, m, n, left, right, "panels", w)
    return Step(factor, m, n, left, right, "from the left" if left == 1 else "batched", 0)


def seconds(step: Step, kind: str, cached: bool = False) -> float:
    """The predicted time of one step."""
    _, m, n, left, right, form, w, _ = step
    size = SIZE[kind]
    real = 4 if kind in "fF" else 8
    calls, columns, extra = left, right, 0.0
    if right == 1:
        calls, columns, extra = 1, left, NARROW * left
    if form in ("panels", "rows"):
        calls, columns = -(-left * right // w), w
    elif form == "gathered":
        calls, columns = -(-left // w), w * right
        extra = (m + n) * left * RUN + step.numbers * GATHERED * size / 8
    small = m * n * columns <= FAST_LANE and form != "from the right"
    rate, panel = (SMALL_RATE, SMALL_PANEL) if small else (LARGE_RATE, LARGE_PANEL)
    moved = step.numbers * size
    if not cached and moved > CACHE:
        extra += moved * (COPY if moved > SHARED_CACHE else COPY_CACHED)
    if not cached and m * left * right * size > LARGE_ARRAY:
        extra += m * left * right * size * FRESH
    packed = (calls if form != "rows" else 1) * m * n * size / SMALL_PANEL
    return STEP + calls * CALL + packed + moved / panel + step.flops * REAL[kind] / rate[real] + extra


# Kronecker products ---------------------------------------------------------------------------------------------------------


def order(shapes: Sequence[tuple[int, int]]) -> list[int]:
    """The order of the factors with the fewest multiplications: those that shrink most first.

    Applying i before j is cheaper iff 1/m_i - 1/n_i > 1/m_j - 1/n_j (exchange argument); square factors are taken
    from the last to the first, so that one column is a plain GEMM from the right.
    """
    gain = [1 / max(m, 0.5) - 1 / max(n, 0.5) for m, n in shapes]
    return sorted(range(len(shapes)), key=lambda i: (-gain[i], -i))


@functools.lru_cache(maxsize=4096)
def steps(shapes: tuple[tuple[int, int], ...], left: int, right: int) -> tuple[Step, ...]:
    """The steps of a chain in its cheapest order."""
    sizes = [n for _, n in shapes]
    found = []
    for i in order(shapes):
        m, n = shapes[i]
        found.append(step(i, m, n, left * math.prod(sizes[:i]), math.prod(sizes[i + 1 :]) * right))
        sizes[i] = m
    for k, (a, b) in enumerate(itertools.pairwise(found)):
        if b.form == "panels" and b.left * b.n == a.left and a.right > 1:
            found[k] = a._replace(gap=True)
    return tuple(found)


@dataclasses.dataclass(frozen=True)
class Chain:
    """How F_1 ⊗ … ⊗ F_d meets x viewed as (left, Π n_i, right).

    groups: which factors are multiplied out first. split = 0: step after step on all of x. Else factors split, …, d-1
    (of the groups) on slabs of `rows` blocks of them, then the first ones on slabs of `columns`.
    """

    groups: tuple[tuple[int, int], ...]  # (from, to) of the factors that are merged
    shapes: tuple[tuple[int, int], ...]  # of the merged factors
    left: int
    right: int
    kind: str
    split: int
    rows: int
    columns: int
    steps: tuple[Step, ...]
    seconds: float

    @functools.cached_property
    def flops(self) -> int:
        """Real additions and multiplications."""
        return REAL[self.kind] * sum(s.flops for s in self.steps)

    @functools.cached_property
    def bytes(self) -> int:
        """Bytes that move between memory and cache: the factors, and every array once in each direction."""
        size = SIZE[self.kind]
        factors = sum(m * n for m, n in self.shapes)
        if self.split:
            head, tail = self.shapes[: self.split], self.shapes[self.split :]
            n, m = (math.prod(s[k] for s in head) for k in (1, 0))
            q, p = (math.prod(s[k] for s in tail) for k in (1, 0))
            return size * (factors + self.left * self.right * (n * q + 2 * n * p + m * p))
        return size * (factors + sum(s.numbers for s in self.steps))

    @functools.cached_property
    def largest(self) -> Step:
        """The step with the largest result."""
        return max(self.steps, key=lambda s: s.left * s.m * s.right)


@functools.lru_cache(maxsize=4096)
def chain(
    shapes: tuple[tuple[int, int], ...], left: int, right: int, kind: str, merge: bool = False, block: bool = True
) -> Chain:
    """The plan of a Kronecker product. merge: factors may be multiplied out; block: slabs may be written in place."""
    groups = tuple((i, i + 1) for i in range(len(shapes)))
    best = _best(groups, shapes, left, right, kind, block)
    if merge and len(shapes) > 1 and 0 not in (n for s in shapes for n in s):
        candidate = _groups(shapes, left, right, kind)
        merged = tuple(
            (math.prod(s[0] for s in shapes[i:j]), math.prod(s[1] for s in shapes[i:j])) for i, j in candidate
        )
        other = _best(candidate, merged, left, right, kind, block)
        best = min(best, other, key=lambda c: c.seconds)
    return best


def _groups(shapes: Sequence[tuple[int, int]], left: int, right: int, kind: str) -> tuple[tuple[int, int], ...]:
    """Neighbours to multiply out, by dynamic programming over the first factors, for the order from last to first."""
    d = len(shapes)
    best: list[tuple[float, tuple[tuple[int, int], ...]]] = [(0.0, ())]
    for j in range(1, d + 1):
        after = right * math.prod(s[0] for s in shapes[j:])
        found = []
        for i in reversed(range(j)):
            m, n = (math.prod(s[k] for s in shapes[i:j]) for k in (0, 1))
            if j - i > 1 and m * n > MERGED:
                break
            before = left * math.prod(s[1] for s in shapes[:i])
            cost = seconds(step(i, m, n, before, after), kind)
            found.append((best[i][0] + cost, (*best[i][1], (i, j))))
        best.append(min(found))
    return best[d][1]


def _best(
    groups: tuple[tuple[int, int], ...],
    shapes: tuple[tuple[int, int], ...],
    left: int,
    right: int,
    kind: str,
    block: bool,
) -> Chain:
    """The cheaper of one chain over all of x and of two over slabs that stay in the cache."""
    whole = steps(shapes, left, right)
    cost = sum(seconds(s, kind) for s in whole)
    best = Chain(groups, shapes, left, right, kind, 0, 0, 0, whole, cost)
    if not block or max(s.numbers for s in whole) * SIZE[kind] <= CACHE:
        return best
    for split in range(1, len(shapes)):
        found = _blocked(groups, shapes, left, right, kind, split)
        if found is not None and found.seconds < best.seconds:
            best = found
    return best


def _blocked(
    groups: tuple[tuple[int, int], ...],
    shapes: tuple[tuple[int, int], ...],
    left: int,
    right: int,
    kind: str,
    split: int,
) -> Chain | None:
    """The last factors on slabs of rows, then the first ones on slabs of columns; None where a slab is too large."""
    size, head, tail = SIZE[kind], shapes[:split], shapes[split:]
    widest = right * max(math.prod(s[0] for s in tail), math.prod(s[1] for s in tail))
    tallest = max(math.prod(s[0] for s in head), math.prod(s[1] for s in head))
    rows = max(1, BLOCK // (widest * size))
    slabs = left * math.prod(n for _, n in head)
    length = right * math.prod(m for m, _ in tail)
    columns = min(length, max(NARROWEST, BLOCK // tallest) // size)
    if widest * size > 2 * BLOCK or tallest * columns * size > 2 * BLOCK:
        return None
    rows = min(rows, slabs)
    first = steps(tail, slabs, right)
    second = steps(head, left, length)
    cost = 0.0
    for part, pieces in ((first, -(-slabs // rows)), (second, left * -(-length // columns))):
        cost += sum(seconds(s, kind, cached=True) for s in part) + len(part) * (pieces - 1) * STEP
    n, m = (math.prod(s[k] for s in head) for k in (1, 0))
    moved = (slabs * right * math.prod(s[1] for s in tail), slabs * length, slabs * length, left * m * length)
    cost += sum(moved) * size * COPY
    fresh = [moved[3]] if n == m else [moved[1], moved[3]]
    cost += sum(numbers * size * FRESH for numbers in fresh if numbers * size > LARGE_ARRAY)
    return Chain(groups, shapes, left, right, kind, split, rows, columns, (*first, *second), cost)


# transforms -----------------------------------------------------------------------------------------------------------------

# Crossovers that these constants give, n of square matrices, float64 (float32): circulant, 1 vector 240 (350), 64 rows 110
# (130); Toeplitz, 1 vector 300 (430), 64 rows 240 (300). Measured, dense over FFT at n = 256: 0.9 (0.5), 2.4 (1.7); Toeplitz 0.6
# (0.3), 1.0 (0.9).
TRANSFORM = 6e-6  # what a product by FFT costs beside its transforms: circulant, n = 64
PADDING = 1.5e-6  # and more where x is padded: Toeplitz, n = 64
FFT_ONE = 8.5e9  # flop/s of a transform of one vector: n = 1024 in 3.0 µs, both precisions
FFT_MANY = {4: 23e9, 8: 13e9}  # of 64 rows of 1024, by the size of a real number
DENSE_CALL = 1.2e-6
GEMV = 80e9  # bytes of the matrix per second: n = 256 float64 in 6.4 µs
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
    saved: float  # seconds that the dense form saves, negative where it costs more
    making: float  # seconds that making it takes
    seconds: float

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
    """FFT or dense, by sizes alone."""
    size = SIZE[kind]
    rate = FFT_ONE if vectors < 4 else FFT_MANY[size // (2 if REAL[kind] == 4 else 1)]
    one = transforms * fft_cost(length, kind) / rate
    fixed = TRANSFORM * transforms / 2 + (PADDING if length > max(m, n) else 0.0)
    fast = fixed + vectors * one
    dense = DENSE_CALL + m * n * size / GEMV
    if vectors > 1:
        dense += 2 * m * n * vectors * REAL[kind] / LARGE_RATE[size // (2 if REAL[kind] == 4 else 1)]
    small = m * n * size <= DENSE_BYTES
    route = "dense" if dense < fast and small else "fft"
    making = fixed + n * transforms * fft_cost(length, kind) / FFT_MANY[size // (2 if REAL[kind] == 4 else 1)]
    saved = fast - dense if small else -math.inf
    return Transform(route, m, n, length, transforms, vectors, kind, saved, making, min(fast, dense) if small else fast)


def fft_flops(n: int, kind: str) -> float:
    """The usual count of a transform of length n: 2.5 n log2 n for real data, twice that for complex."""
    return (5.0 if REAL[kind] == 4 else 2.5) * n * math.log2(max(2, n))


@functools.lru_cache(maxsize=4096)
def fft_cost(n: int, kind: str) -> float:
    """fft_flops of as much work: Bluestein's way around a large prime factor takes four transforms of twice the length.

    n = 16381 takes 8.7 times as long as 16384.
    """
    rest = n
    for p in (2, 3, 5, 7, 11, 13, 17, 19, 23):
        while rest > 1 and rest % p == 0:
            rest //= p
    return fft_flops(n, kind) if rest <= 1 else 4 * fft_flops(2 * n, kind)


def vectors(n: int, kind: str) -> int:
    """How many rows are transformed together: those that fit in L2 twice over, in eights for pocketfft's vectors.

    64 rows of 4099, padded to 8232, float64: 6.9 ms at once, 4.8 ms in blocks of 8.
    """
    return max(8, 2 * CACHE // max(1, 3 * n * SIZE[kind]) // 8 * 8)
