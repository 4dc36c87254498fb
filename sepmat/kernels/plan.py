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
WIDE = 12  # rows of y that are cut in panels as wide as the fast lane: 8 of 2^15, float64 (float32), 56 (40) in place of 112 (64) µs
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
FREED = 2**19  # bytes from which malloc gives back what is free, as nothing as large was freed before
PAIR = 2**23  # bytes of each from which it gives back two at a time: it keeps twice the largest array it had
BLOCK = 2**18  # bytes of a slab of a blocked chain: two of them and the factors stay in L2
NARROWEST = 512  # bytes of a row of a slab that is cut out of longer rows
SHARED_CALL = 3e-5  # seconds of a call from which threads of Python share slabs
LEAST_WIDTH = 32  # columns of a slab that all factors meet
LAID_OUT = 2**16  # entries of a factor that is kept in column order too: 256×256
SLAB = 2**23  # bytes of the intermediate of a sum of terms, half of L3, where it can be cut;
LARGEST_SLAB = 2**28  # and where the way that cuts it is not the faster one
FEW_COLUMNS = 32
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

    @property
    def multiplications(self) -> int:
        """Those of its largest GEMM."""
        if self.form == "row panels":
            return self.width * self.n * self.right
        return self.m * self.n * (self.width or (self.left if self.right == 1 else self.right))


FORMS = {
    "from the right": "y Fᵀ, one GEMM",
    "rows": "y Fᵀ in panels of rows",
    "from the left": "F y, one GEMM",
    "batched": "F y_l, a GEMM for each l",
    "panels": "F y in panels of columns",
    "row panels": "F y_l in panels of rows of F",
}
# y Fᵀ in panels of rows over one GEMM, 8192 rows, float64 (float32): 8×8 0.45 (0.61), 64×64 0.67 (0.85), 64×512 0.77 (0.77),
# 100×100 0.68 (0.89), but 128×128 0.95 (1.23), 512×64 1.11 (1.21); below FAST_LANE panels only cost calls
NARROW_FACTOR = 100  # rows of F
LEAST_ROWS = 16


def step(factor: int, m: int, n: int, left: int, right: int) -> Step:
    """A step in the form that its sizes ask for."""
    if right == 1:
        w = 2 ** (FAST_LANE // max(1, m * n)).bit_length() // 2
        rows = m * n * left > FAST_LANE and m <= NARROW_FACTOR and w >= LEAST_ROWS
        return Step(factor, m, n, left, 1, "rows" if rows else "from the right", w if rows else 0)
    if m * n * right > FAST_LANE and right <= PANEL // (2 if left == 1 else 1):
        w = 2 ** (FAST_LANE // (n * right)).bit_length() // 2
        if w >= NARROW_PANEL:
            return Step(factor, m, n, left, right, "row panels", w)
    w = min(PANEL, 2 ** (FAST_LANE // max(1, m * n)).bit_length() // 2)
    if 16 <= n <= PANEL and 32 <= w < right:
        return Step(factor, m, n, left, right, "panels", w)
    if n <= WIDE and m * n * right > FAST_LANE and (w := 2 ** (FAST_LANE // max(1, m * n)).bit_length() // 2) > PANEL:
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


def length(step: Step, size: int) -> int:
    """Numbers from one row of its result to the next: where they are spaced out, one cache line more than there are."""
    return step.m * step.right + (64 // size if step.gap else 0)


@dataclasses.dataclass(frozen=True)
class Chain:
    """How F_1 ⊗ … ⊗ F_d meets x viewed as (left, Π n_i, right).

    groups: which factors are multiplied out first. Factors split, …, d-1 (of the groups) meet slabs of `rows` blocks of
    them, then the first ones slabs of `columns`: two passes over x, or one with all factors on slabs of rows (split = 0) or of
    columns (split = d). rows = columns = 0: step after step on all of x.
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

    @property
    def in_slabs(self) -> bool:
        """Whether x is taken a slab at a time."""
        return bool(self.rows or self.columns)

    @functools.cached_property
    def room(self) -> int:
        """Bytes of one of two places that results of steps on all of x have in turn; 0: an array for each.

        malloc gives back what is free beyond twice the largest array it had, and two equal ones at a time are more: every
        product would take fresh pages. One array of two places is as large, though one result leaves half of it untouched:
        64⊗64 on 16 columns in a process of its own 550 to 160 µs, 8⁶ on one vector 2.1 to 0.4 ms, 32³ on 16 columns 2.9 to 1.1.
        """
        size, first = SIZE[self.kind], self.steps[:-1]
        most = -(-max((s.left * length(s, size) for s in first), default=0) * size // 64) * 64
        return most if FREED <= most < PAIR and not self.in_slabs else 0

    @functools.cached_property
    def shared(self) -> bool:
        """Whether threads of Python may share the slabs: where the BLAS takes one thread for each GEMM on a slab, and GEMMs are long.

        Threads hand Python's lock to each other between any two of them. Two threads over one, calls of 10 to 20 µs: 0.8 to 1.4,
        of 40 µs and more 0.6 to 0.8.
        """
        rows, columns = (
            steps(self.shapes[self.split :], self.rows, self.right),
            steps(self.shapes[: self.split], 1, self.columns),
        )
        cut = [s._replace(form="panels", width=self.columns) for s in columns[:1] + columns[-1:]]
        fast = all(s.multiplications <= FAST_LANE for s in (*rows, *columns[1:-1], *cut))
        calls = [seconds(s, self.kind) for s in (*rows, *columns)]
        return fast and sum(calls) >= SHARED_CALL * len(calls)

    @functools.cached_property
    def flops(self) -> int:
        """Real additions and multiplications."""
        return REAL[self.kind] * sum(s.flops for s in self.steps)

    @functools.cached_property
    def bytes(self) -> int:
        """Bytes that move between memory and cache: the factors, and every array once in each direction."""
        size = SIZE[self.kind]
        factors = sum(m * n for m, n in self.shapes)
        if self.in_slabs:
            head, tail = self.shapes[: self.split], self.shapes[self.split :]
            n, m = (math.prod(s[k] for s in head) for k in (1, 0))
            q, p = (math.prod(s[k] for s in tail) for k in (1, 0))
            between = 2 * n * p if head and tail else 0
            return size * (factors + self.left * self.right * (n * q + between + m * p))
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
    """The cheapest of one chain over all of x, of one over slabs of it, and of two over slabs that stay in L2."""
    whole, size = steps(shapes, left, right), SIZE[kind]
    sizes = [s.left * s.m * s.right * size for s in whole]
    cost = sum(seconds(s, kind) for s in whole) + sum(FRESH * b for b in sizes[-2:] if PAIR <= b < LARGE_ARRAY)
    best = Chain(groups, shapes, left, right, kind, 0, 0, 0, whole, cost)
    if not block or len(shapes) < 2 or max(s.numbers for s in whole) * size <= CACHE:
        return best
    for split in range(len(shapes) + 1):
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
    """The last factors on slabs of rows, then the first ones on slabs of columns; None where there is one slab, or it is too large."""
    size, head, tail = SIZE[kind], shapes[:split], shapes[split:]
    (m, n), (p, q) = ([math.prod(s[k] for s in part) for k in (0, 1)] for part in (head, tail))
    slabs, length = left * n, right * p
    widest, tallest = right * max(p, q) * size, max(m, n) * size
    rows, columns = min(slabs, max(1, BLOCK // widest)), min(length, max(NARROWEST // size, BLOCK // tallest))
    if not head:
        rows, columns = min(slabs, max(1, 2 * BLOCK // widest)), 0
    elif not tail:
        rows, columns = 0, _width(head, length, tallest, size)
    elif widest > 2 * BLOCK or tallest * columns > 2 * BLOCK:
        return None
    if (not head and rows == slabs) or (not tail and not columns):
        return None
    cost = 0.0
    for part, pieces, moved in (
        (steps(tail, rows, right), slabs / max(1, rows), slabs * (right * q + length)),
        (steps(head, 1, columns), left * length / max(1, columns), left * (n + m) * length),
    ):
        paid = COPY_CACHED if max((s.numbers for s in part), default=0) * size > CACHE else 0.0  # by the steps
        cost += pieces * sum(seconds(s, kind) for s in part) + (moved * size * (COPY - paid) if part else 0.0)
    fresh = [left * m * length] if n == m or not tail else [slabs * length, left * m * length]
    cost += sum(numbers * size * FRESH for numbers in fresh if numbers * size >= PAIR)
    first, second = steps(tail, slabs, right), steps(head, left, length)
    return Chain(groups, shapes, left, right, kind, split, rows, columns, (*first, *second), cost)


def _width(shapes: Sequence[tuple[int, int]], right: int, tallest: int, size: int) -> int:
    """Columns of a slab that all factors meet: as wide as the fast lane takes them, a power of two; 0 where that is too narrow."""
    largest = max(m * n for m, n in shapes)
    w = min(PANEL, FAST_LANE // max(1, largest), max(NARROWEST // size, 2 * CACHE // tallest))
    return 2 ** (w.bit_length() - 1) if LEAST_WIDTH <= w < right else 0


# sums of Kronecker products -------------------------------------------------------------------------------------------------


class Terms(NamedTuple):
    """How Σ_l F_1[l] ⊗ … ⊗ F_d[l] meets x viewed as (left, Π n_i, right).

    The end that x meets first has the factors of all terms stacked in one tall matrix, the other end has them side by side in
    one wide matrix, so that the last step also adds up the terms. slab: how many entries of `left` at a time, or rows of
    F_1 where left = 1, which takes the way from the first factor on.
    """

    shapes: tuple[tuple[int, int], ...]
    terms: int
    left: int
    right: int
    kind: str
    forward: bool  # from the first factor to the last
    slab: int
    steps: tuple[Step, ...]  # of all of x
    seconds: float

    @property
    def slabs(self) -> list[tuple[int, int]]:
        """The ranges of `left`, or of rows of F_1, that are taken at a time."""
        whole = _slabbed(self.shapes, self.left, self.forward)
        return [(i, min(i + self.slab, whole)) for i in range(0, whole, self.slab)]

    def part(self, size: int) -> tuple[Step, ...]:
        """The steps of so many of them."""
        if self.left == 1 and self.forward:
            return stacked(((size, self.shapes[0][1]), *self.shapes[1:]), self.terms, 1, self.right, True)
        return stacked(self.shapes, self.terms, size, self.right, self.forward)

    @property
    def largest(self) -> int:
        """Numbers of the largest intermediate."""
        return max(s.left * s.m * s.right for s in self.part(self.slab)[:-1])

    @property
    def flops(self) -> int:
        return REAL[self.kind] * sum(s.flops for s in self.steps)

    @property
    def bytes(self) -> int:
        return SIZE[self.kind] * (sum(s.numbers for s in self.steps) + self.terms * sum(m * n for m, n in self.shapes))


@functools.lru_cache(maxsize=4096)
def terms(shapes: tuple[tuple[int, int], ...], terms: int, left: int, right: int, kind: str) -> Terms:
    """From the end that costs fewer multiplications; where both cost the same, from the first factor if few columns are left.

    8 terms, 64 ⊗ 64, float64 (float32), over the time from the last factor: one column 0.76 (0.83), 16 columns 0.92 (0.87),
    64 columns 1.09 (0.97), 256 columns in slabs 0.89 (0.95). Where the wide matrix leaves L2, slices with few columns are slow:
    256 ⊗ 256 on 16 columns 1.06 (1.15). Slabs of y keep to memory that is not fresh: 256 rows 0.68 (0.70) of all at once.
    """
    size = SIZE[kind]
    ways = [stacked(shapes, terms, left, right, forward) for forward in (True, False)]
    first, last = (sum(s.flops for s in way) for way in ways)
    largest, other = (max(s.left * s.m * s.right for s in way[:-1]) * size for way in ways)
    m, n = shapes[-1]
    few = right <= FEW_COLUMNS or (left == 1 and other >= LARGE_ARRAY)
    better = (few and terms * m * n * size <= CACHE) or (left == 1 and other > LARGEST_SLAB)
    forward = first < 0.9 * last or (better and first <= 1.1 * last)
    steps = ways[0] if forward else ways[1]
    whole, y = _slabbed(shapes, left, forward), largest if forward else other
    slab = whole if y <= SLAB else max(1, whole * SLAB // y)
    cost = sum(seconds(s, kind) for s in steps) + len(steps) * (-(-whole // slab) - 1) * STEP
    return Terms(shapes, terms, left, right, kind, forward, slab, steps, cost)


def _slabbed(shapes: tuple[tuple[int, int], ...], left: int, forward: bool) -> int:
    """How many entries of `left`, or rows of F_1 where left = 1, can be taken one after the other."""
    return shapes[0][0] if left == 1 and forward else left


@functools.lru_cache(maxsize=4096)
def merged_terms(
    shapes: tuple[tuple[int, int], ...], count: int, left: int, right: int, kind: str, merge: bool
) -> tuple[tuple[tuple[int, int], ...], Terms | None]:
    """What is multiplied out in every term, and the plan of the rest; None where it is one matrix, or has no numbers."""
    groups = chain(shapes, left, right, kind, merge).groups
    merged = merged_shapes(shapes, groups)
    if count < 2 or len(merged) < 2 or not left * right or not all(m * n for m, n in merged):
        return groups, None
    return groups, terms(merged, count, left, right, kind)


@functools.lru_cache(maxsize=4096)
def stacked(shapes: tuple[tuple[int, int], ...], terms: int, left: int, right: int, forward: bool) -> tuple[Step, ...]:
    """The steps of a sum from one end: the tall matrix, the factors between term by term, the wide matrix."""
    sizes, d = [n for _, n in shapes], len(shapes)
    found = []
    for k, i in enumerate(range(d) if forward else reversed(range(d))):
        m, n = shapes[i]
        before, after = left * math.prod(sizes[:i]), math.prod(sizes[i + 1 :]) * right
        if k == 0:
            found.append(step(i, terms * m, n, before, after))
        elif k == d - 1:
            found.append(step(i, m, terms * n, before, after))
        else:
            found.append(Step(i, m, n, before * terms, after, "batched", 0))
        sizes[i] = m
    return tuple(found)
