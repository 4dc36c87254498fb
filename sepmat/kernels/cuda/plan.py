"""Plans for a GPU: which factors are multiplied out, in how many passes x is read, and by which route. Sizes only.

A pass reads and writes all of x once. It takes a run of neighbouring factors and is either

    merged   the factors multiplied out, then one GEMM or one batch of them (cuBLAS)
    kernel   the fused chain of kron.cuh, one factor after the other in shared memory

and costs max(bytes / bandwidth, flops / rate) and a launch. Passes are chosen by dynamic programming. The kernel is
taken only where that is faster than the best plan of merged passes by more than MARGIN.

In a sum of terms the first pass reads x once for all terms, the last one writes their sum; between them stands one array for
each term. A single pass needs none: the kernel adds up as it goes, and one merged factor is the sum of all of them.

The limits are those of an H100 and derived, not measured: bytes that a copy moves, arithmetic that GEMMs reach, and the
shares of both that a pass of either kind is expected to reach. Measured ones replace them as soon as there are any.
"""

import dataclasses
import functools
import math
from collections.abc import Sequence
from typing import NamedTuple

from ..plan import merged_shapes, order
from .specialise import KINDS, Specialisation, specialise

RESERVED = 1024  # bytes of shared memory that the driver keeps for each block
MARGIN = 0.05  # by how much the kernel must be predicted to be faster than the merged plan
SIZE = {"float32": 4, "float64": 8, "complex64": 8, "complex128": 16, "tf32": 4, "bfloat16": 2, "float16": 2}
REAL = {"complex64": 4, "complex128": 4}  # real multiplications in one multiplication, where it is not 1
SIDE = {"tf32": 512, "bfloat16": 512, "float16": 512}  # the longest side of a merged factor, where it is not 64


@dataclasses.dataclass(frozen=True)
class Limits:
    """What one GPU can do; the defaults are an H100."""

    bandwidth: float = 3.0e12  # bytes read and written per second by a copy
    float32: float = 60e12  # flop/s of GEMMs
    tf32: float = 395e12
    bfloat16: float = 800e12
    float64: float = 60e12  # on tensor cores
    plain64: float = 30e12  # the same without tensor cores: what a kernel of ours has
    launch: float = 5e-6  # of one kernel from Python, mostly the time of the host
    multiprocessors: int = 132
    shared_bytes: int = 233_472  # of one multiprocessor; a block may have 1 KiB less
    streamed: float = 0.8  # of the bandwidth of a copy that a pass of either kind reaches
    issued: float = 0.7  # of float32 or plain64 that the kernel reaches

    @property
    def copy(self) -> float:
        """The same under the name that the limits of a core have, with `cache`, `fft` (never what takes the time) and `gemm`."""
        return self.bandwidth

    cache = copy
    fft = math.inf

    def gemm(self, kind: str) -> float:
        """Of GEMMs of the dtype with this character."""
        return self.rate({"f": "float32", "d": "float64", "F": "complex64", "D": "complex128"}[kind])

    def rate(self, dtype: str) -> float:
        """Of GEMMs of a dtype, a key of SIZE."""
        names = {"complex64": "float32", "complex128": "float64", "float16": "bfloat16"}
        rate: float = getattr(self, names.get(dtype, dtype))
        return rate


H100 = Limits()
H200 = Limits(bandwidth=4.3e12)


class Pass(NamedTuple):
    """Factors i to j - 1 of a plan, (m, n) in all, along the middle axis of x viewed as (left, n, right)."""

    kind: str  # "kernel" or "merged"
    modes: tuple[int, int]
    m: int
    n: int
    left: int
    right: int
    specialisation: Specialisation | None
    flops: int
    bytes: int
    floor: float  # max(bytes / bandwidth, flops / rate), which nothing can beat that does the same
    seconds: float  # that it is expected to take


@dataclasses.dataclass(frozen=True)
class Plan:
    """How Σ_l F_1[l] ⊗ … ⊗ F_d[l] meets x viewed as (rows, Π n_i, columns). Passes stand in the order in which they run."""

    shapes: tuple[tuple[int, int], ...]
    rows: int
    columns: int
    dtype: str
    terms: int
    passes: tuple[Pass, ...]

    @functools.cached_property
    def groups(self) -> tuple[tuple[int, int], ...]:
        """Which factors are multiplied out before the passes: (from, to), in the order of the factors."""
        found: list[tuple[int, int]] = []
        for p in sorted(self.passes, key=lambda p: p.modes):
            i, j = p.modes
            found += [(k, k + 1) for k in range(i, j)] if p.kind == "kernel" else [(i, j)]
        return tuple(found)

    @property
    def route(self) -> str:
        """ "kernel", "merged" or "kernel and merged"."""
        return " and ".join(sorted({p.kind for p in self.passes}))

    @property
    def flops(self) -> int:
        return sum(p.flops for p in self.passes)

    @property
    def bytes(self) -> int:
        return sum(p.bytes for p in self.passes)

    @property
    def floor(self) -> float:
        """Seconds that its passes take at the limits of the machine, without launches."""
        return sum(p.floor for p in self.passes)

    @property
    def seconds(self) -> float:
        return sum(p.seconds for p in self.passes)


def compulsory(shapes: Sequence[tuple[int, int]], rows: int, dtype: str, terms: int = 1, columns: int = 1) -> int:
    """Bytes that any product must move: x, the result, and the factors."""
    m, n = (math.prod(s[k] for s in shapes) for k in (0, 1))
    return SIZE[dtype] * ((m + n) * rows * columns + terms * sum(a * b for a, b in shapes))


def chain_flops(shapes: Sequence[tuple[int, int]], sequence: Sequence[int]) -> int:
    """Additions and multiplications of one chain on one vector, the factors in this order."""
    sizes, total = [n for _, n in shapes], 0
    for i in sequence:
        sizes[i] = shapes[i][0]
        total += 2 * shapes[i][1] * math.prod(sizes)
    return total


def floor(
    shapes: Sequence[tuple[int, int]], rows: int, dtype: str, terms: int = 1, columns: int = 1, limits: Limits = H100
) -> float:
    """Seconds of a perfect fused product: one read of x, one write, and the fewest multiplications factor by factor."""
    flops = chain_flops(shapes, order(shapes)) * rows * columns * terms * REAL.get(dtype, 1)
    moved = 2 * SIZE[dtype] * rows * columns * max(math.prod(s[k] for s in shapes) for k in (0, 1))
    return max(moved / limits.bandwidth, flops / limits.rate(dtype))


@functools.lru_cache(maxsize=4096)
def plan(
    shapes: tuple[tuple[int, int], ...],
    rows: int,
    dtype: str,
    terms: int = 1,
    columns: int = 1,
    limits: Limits = H100,
    kernels: bool = True,
) -> Plan:
    """The cheapest passes. dtype: a key of SIZE, "tf32" for float32 whose GEMMs may round to it; kernels: whether ours may be used.

    >>> plan(((8, 8),) * 6, 1024, "float32", kernels=False).groups
    ((0, 2), (2, 4), (4, 6))
    """
    best = _merged(Plan(shapes, rows, columns, dtype, terms, ()), limits)
    if not kernels or not rows * columns * terms or any(0 in s for s in shapes):
        return best
    other = _cheapest(best, limits, ("kernel", "merged") if terms == 1 else ("kernel",))
    return other if other is not None and other.seconds * (1 + MARGIN) < best.seconds else best


def _merged(p: Plan, limits: Limits) -> Plan:
    """GEMMs only; those of a single chain in the order of fewest multiplications."""
    found = _cheapest(p, limits, ("merged",)) or p
    if p.terms != 1:
        return found
    groups = sorted(step.modes for step in found.passes)
    sizes = merged_shapes(p.shapes, groups)
    lengths, passes = [n for _, n in sizes], list[Pass | None]()
    for k in order(sizes):
        left, right = p.rows * math.prod(lengths[:k]), p.columns * math.prod(lengths[k + 1 :])
        passes.append(_gemm(p, groups[k], left, right, limits))
        lengths[k] = sizes[k][0]
    return dataclasses.replace(p, passes=tuple(filter(None, passes)))


def _cheapest(p: Plan, limits: Limits, kinds: Sequence[str]) -> Plan | None:
    """Passes from the last factors to the first, by dynamic programming; among equals the fewest operations. None: no way."""
    best: list[tuple[float, int, tuple[Pass, ...]] | None] = [(0.0, 0, ())]
    for j in range(1, len(p.shapes) + 1):
        right, found = p.columns * math.prod(m for m, _ in p.shapes[j:]), []
        for i in reversed(range(j)):
            left, before = p.rows * math.prod(n for _, n in p.shapes[:i]), best[i]
            for make in [_MAKERS[kind] for kind in kinds] if before else []:
                step = make(p, (i, j), left, right, limits)
                if before and step:
                    found.append((before[0] + step.seconds, before[1] + step.flops, (step, *before[2])))
        best.append(min(found, key=lambda f: f[:2]) if found else None)
    last = best[-1]
    return dataclasses.replace(p, passes=last[2]) if last else None


def _arrays(p: Plan, modes: tuple[int, int]) -> tuple[int, int]:
    """How many arrays of the size of x a pass reads and writes: one for each term between the first pass and the last."""
    i, j = modes
    return (1 if j == len(p.shapes) else p.terms), (1 if i == 0 else p.terms)


def _gemm(p: Plan, modes: tuple[int, int], left: int, right: int, limits: Limits) -> Pass | None:
    """One GEMM or one batch, in a sum one for each term between the first pass and the last. None: too long a factor."""
    (i, j), ((m, n),) = modes, merged_shapes(p.shapes, [modes])
    if j - i > 1 and max(m, n) > SIDE.get(p.dtype, 64):
        return None
    read, written = _arrays(p, modes)
    whole = j - i == len(p.shapes)  # all terms are added up before they meet x
    flops = 2 * m * n * left * right * (1 if whole else p.terms) * REAL.get(p.dtype, 1)
    moved = SIZE[p.dtype] * ((n * read + m * written) * left * right + (1 if whole else p.terms) * m * n)
    launches = p.terms if min(read, written) > 1 else 1
    arithmetic = flops / limits.rate(p.dtype)
    floor = max(moved / limits.bandwidth, arithmetic)
    seconds = max(moved / (limits.bandwidth * limits.streamed), arithmetic) + launches * limits.launch
    return Pass("merged", modes, m, n, left, right, None, flops, moved, floor, seconds)


def _kernel(p: Plan, modes: tuple[int, int], left: int, right: int, limits: Limits) -> Pass | None:
    """The fused chain, or None where it does not take the factors.

    Two blocks on a multiprocessor overlap what one loads with what the other computes; one alone does not. While the last
    tiles are worked on, part of the machine is idle.
    """
    part, (read, written) = p.shapes[modes[0] : modes[1]], _arrays(p, modes)
    kind = "one" if p.terms == 1 else KIND_OF[read == 1, written == 1]
    s = specialise(part, p.dtype, inner=right, terms=1 if kind == "one" else p.terms, kind=kind)
    if s is None:
        return None
    ((m, n),) = merged_shapes(part, [(0, len(part))])
    flops = chain_flops(part, range(len(part) - 1, -1, -1)) * left * right * p.terms
    moved = SIZE[p.dtype] * ((n * read + m * written) * left * right + p.terms * sum(a * b for a, b in part))
    rate = limits.plain64 if p.dtype == "float64" else limits.float32
    floor = max(moved / limits.bandwidth, flops / rate)
    tiles = s.tiles(left, right)
    idle = limits.multiprocessors * -(-tiles // limits.multiprocessors) / tiles
    memory, arithmetic = moved / limits.bandwidth, flops / (rate * limits.issued)
    alone = s.shared_bytes + RESERVED > limits.shared_bytes // 2
    seconds = idle * (memory + arithmetic if alone else max(memory / limits.streamed, arithmetic))
    launches = p.terms if min(read, written) > 1 else 1
    return Pass("kernel", modes, m, n, left, right, s, flops, moved, floor, seconds + launches * limits.launch)


KIND_OF = {flags: kind for kind, flags in KINDS.items()}  # by whether one array is read, one is written
_MAKERS = {"kernel": _kernel, "merged": _gemm}
