"""Plans: by which route a Kronecker product, or a sum of them, is computed, what that costs, and why. FFTs: plan_fft.py.

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
from collections.abc import Sequence
from typing import NamedTuple

from .limits import CACHE, LARGE_RATE, REAL, SIZE

# Small GEMMs. Time a number of y when F (n, n) meets y (n, 64), panel after panel in L2, float64 (float32), ns:
# n = 8 0.25 (0.13), 16 0.37 (0.20), 32 0.64 (0.33), 64 1.2 (0.60); y (n, 2^16/n) at once: 0.22 (0.12), 0.62 (0.49),
# 1.0 (0.75), 1.7 (0.9), n = 128 3.1 (1.4), 256 6.2 (2.5). OpenBLAS takes m n k <= 10^6 without packing: the fast lane.
SMALL_RATE = {4: 225e9, 8: 112e9}  # flop/s in the fast lane, by the size of a real number
SMALL_PANEL = 150e9  # bytes of y and the result per second beside the multiplications
LARGE_PANEL = 40e9
PANEL = 128  # columns of a panel
NARROW_PANEL = 8  # rows. 256×256 on 256 × (256, 16), float64: 5.3 ms in panels of rows, 9.7 in a GEMM for each; 64×512 on (512, 64): 44, 57 µs
FAST_LANE = 10**6  # m n k of a GEMM that OpenBLAS does without packing
CALL = 20e-9  # one GEMM of a batch: y of 4×16 and 8×16 in panels against one of 4×16384
STEP = 2e-6  # one call from Python with its views
NARROW = 0.8e-9  # a number of y when y (·, n) meets Fᵀ from the right, times 1/n: n = 2 1.0, 4 0.5, 8 0.3 ns in all
SHARED_CACHE = 2**24  # bytes that L3 holds for us
COPY_CACHED = 1 / 90e9  # six 8×8 on one vector of 2 MB: 0.46 ns a number and factor, 0.28 in L2
COPY = 1 / 28e9
LARGE_ARRAY = 2**25  # bytes from which malloc takes fresh pages for each array, and these have to be cleared:
FRESH = 1 / 11e9  # 3.2 ms for 33.5 MB, where writing takes 0.9
BLOCK = 2**18  # bytes of a slab of a blocked chain: two of them and the factors stay in L2
NARROWEST = 512  # bytes of a row of a slab that is cut out of longer rows
LAID_OUT = 2**16  # entries of a factor that is kept in column order too: 256×256
TERMS_BYTES = 2**28  # of the intermediates of a block of terms
MERGED = 2**12  # entries of a merged factor: 64×64. Larger ones cost more multiplications than they save calls


class Step(NamedTuple):
    """Factor `factor`, (m, n), along the middle axis of y viewed as (left, n, right)."""

    factor: int
    m: int
    n: int
    left: int
    right: int
    form: str  # one of FORMS
    width: int  # columns or rows of a panel, or 0
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
    "row panels": "F y_l in panels of rows of F",
}
ROWS = 64  # rows of a panel


def step(factor: int, m: int, n: int, left: int, right: int) -> Step:
    """A step in the form that its sizes ask for."""
    if right == 1:
        many = left >= 4 * ROWS and m * n <= MERGED
        return Step(factor, m, n, left, 1, "rows" if many else "from the right", ROWS if many else 0)
    if m * n * right > FAST_LANE and right <= PANEL // (2 if left == 1 else 1):
        w = 2 ** (FAST_LANE // (n * right)).bit_length() // 2
        if w >= NARROW_PANEL:
            return Step(factor, m, n, left, right, "row panels", w)
    w = min(PANEL, 2 ** (FAST_LANE // max(1, m * n)).bit_length() // 2)
    if 16 <= n <= PANEL and 32 <= w < right:
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
    elif form == "row panels":
        calls = left * -(-m // w)
    small = (m * n * columns <= FAST_LANE or form == "row panels") and form != "from the right"
    rate, panel = (SMALL_RATE, SMALL_PANEL) if small else (LARGE_RATE, LARGE_PANEL)
    moved = step.numbers * size
    if not cached and moved > CACHE:
        extra += moved * (COPY if moved > SHARED_CACHE else COPY_CACHED)
    if not cached and m * left * right * size >= LARGE_ARRAY:
        extra += m * left * right * size * FRESH
    packed = {"rows": 1, "row panels": left}.get(form, calls) * m * n * size / SMALL_PANEL
    return STEP + calls * CALL + packed + moved / panel + step.flops * REAL[kind] / rate[real] + extra


# Kronecker products ---------------------------------------------------------------------------------------------------------


def order(shapes: Sequence[tuple[int, int]]) -> list[int]:
    """The order of the factors with the fewest multiplications: those that shrink most first.

    Applying i before j is cheaper iff 1/m_i - 1/n_i > 1/m_j - 1/n_j (exchange argument); square factors are taken
    from the last to the first, so that one column is a plain GEMM from the right.
    """
    gain = [1 / max(m, 0.5) - 1 / max(n, 0.5) for m, n in shapes]
    return sorted(range(len(shapes)), key=lambda i: (-gain[i], -i))


def sides(shape: tuple[int, ...], axis: int) -> tuple[int, int]:
    """(left, right) of x viewed as (left, n, right) along an axis, -1 or -2."""
    if len(shape) == 1:
        return 1, 1
    if axis == -1:
        return math.prod(shape[:-1]), 1
    return math.prod(shape[:-2]), shape[-1]


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
        if all(s.numbers * size <= CACHE for s in self.steps):  # only x and the result
            first, last = self.steps[0], self.steps[-1]
            return size * (factors + first.left * first.n * first.right + last.left * last.m * last.right)
        return size * (factors + sum(s.numbers for s in self.steps))

    @functools.cached_property
    def largest(self) -> Step:
        """The step with the largest result."""
        return max(self.steps, key=lambda s: s.left * s.m * s.right)


@functools.lru_cache(maxsize=4096)
def chain(
    shapes: tuple[tuple[int, int], ...], left: int, right: int, kind: str, merge: bool = False, block: bool = True
) -> Chain:
    """The plan of a Kronecker product. merge: factors may be multiplied out; block: slabs may be used."""
    groups = tuple((i, i + 1) for i in range(len(shapes)))
    best = _best(groups, shapes, left, right, kind, block)
    if merge and len(shapes) > 1 and 0 not in (n for s in shapes for n in s):
        for cached in (False, True):
            candidate = _groups(shapes, left, right, kind, cached)
            merged = merged_shapes(shapes, candidate)
            other = _best(candidate, merged, left, right, kind, block)
            best = min(best, other, key=lambda c: c.seconds)
    return best


def merged_shapes(shapes: Sequence[tuple[int, int]], groups: Sequence[tuple[int, int]]) -> tuple[tuple[int, int], ...]:
    """The shapes of the products of neighbours."""
    return tuple((math.prod(s[0] for s in shapes[i:j]), math.prod(s[1] for s in shapes[i:j])) for i, j in groups)


def _groups(
    shapes: Sequence[tuple[int, int]], left: int, right: int, kind: str, cached: bool
) -> tuple[tuple[int, int], ...]:
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
            cost = seconds(step(i, m, n, before, after), kind, cached)
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
    cost += sum(numbers * size * FRESH for numbers in fresh if numbers * size >= LARGE_ARRAY)
    return Chain(groups, shapes, left, right, kind, split, rows, columns, (*first, *second), cost)


# sums of Kronecker products -------------------------------------------------------------------------------------------------


class Terms(NamedTuple):
    """How Σ_l F_1[l] ⊗ … ⊗ F_d[l] meets x viewed as (left, Π n_i, right): `block` terms at a time."""

    shapes: tuple[tuple[int, int], ...]
    terms: int
    left: int
    right: int
    kind: str
    block: int
    largest: int  # numbers of the largest intermediate of a term
    steps: tuple[Step, ...]  # of one block
    seconds: float

    @property
    def flops(self) -> int:
        m = math.prod(m for m, _ in self.shapes)
        blocks = -(-self.terms // self.block)
        per_term = sum(s.flops for s in self.steps) // self.block * self.terms
        return REAL[self.kind] * per_term + (blocks - 1) * m * self.left * self.right

    @property
    def bytes(self) -> int:
        numbers = sum(s.numbers for s in self.steps) + self.terms * sum(m * n for m, n in self.shapes)
        return SIZE[self.kind] * numbers * -(-self.terms // self.block)


@functools.lru_cache(maxsize=4096)
def terms(shapes: tuple[tuple[int, int], ...], terms: int, left: int, right: int, kind: str) -> Terms:
    """All terms at once, or half of them where that avoids fresh pages, within TERMS_BYTES.

    8 terms, 64 ⊗ 64 on 256 columns: float32 16.3 ms at once (33.5 MB), 15.4 in halves; float64 35 (67 MB), 39 in halves. Smaller
    blocks never won, not even where only they stay in L2: 55 ms in blocks of 2.
    """
    size = SIZE[kind]
    largest = max(
        left * right * math.prod(n for _, n in shapes[:i]) * math.prod(m for m, _ in shapes[i:])
        for i in range(1, len(shapes))
    )
    parts = -(-terms // max(1, (LARGE_ARRAY - 1) // (largest * size)))
    if parts > 2:
        parts = -(-terms // max(1, TERMS_BYTES // (largest * size)))
    block = -(-terms // parts)
    sequence = stacked(shapes, block, left, right)
    rows = left * right * math.prod(m for m, _ in shapes)
    cost = sum(seconds(s, kind) for s in sequence) * terms / block
    cost += (parts - 1) * (STEP + 3 * rows * size * COPY_CACHED)
    return Terms(shapes, terms, left, right, kind, block, largest, sequence, cost)


def stacked(shapes: Sequence[tuple[int, int]], terms: int, left: int, right: int) -> tuple[Step, ...]:
    """The steps of a block of terms: the last factors stacked, the ones between term by term, the first ones side by side."""
    d = len(shapes)
    m, n = shapes[-1]
    before, after = left * math.prod(s[1] for s in shapes[:-1]), right
    found = [step(d - 1, terms * m, n, before, after)]
    for i in range(d - 2, 0, -1):
        after, (m, n) = after * m, shapes[i]
        before //= n
        found.append(Step(i, m, n, before * terms, after, "batched", 0))
    after, (m, n) = after * m, shapes[0]
    return (*found, step(0, m, n * terms, left, after))
