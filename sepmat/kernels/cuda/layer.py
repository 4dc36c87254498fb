"""Direct Kronecker layers on a GPU: by which of the exact routes y = x (Σ_l F_1[l] ⊗ F_2[l])ᵀ is computed.

    fused     x is read once and y written once, by the compiled kernel where it takes the sizes and the dtype
    chain     two GEMMs: all F_2[l] in one tall matrix, then all F_1[l] in one wide one; between them x stands once for each term
    formed    Σ_l F_1[l] ⊗ F_2[l] by one GEMM and one copy, then one GEMM as large as that of a dense layer

Pure arithmetic of sizes with the limits of `plan`: each step takes the longer of its bytes and its flops, and a launch. Where
gradients are asked for, theirs are counted too: the chain forms what stands between its GEMMs anew, the formed matrix has a gradient
of its own size. Nothing here is measured yet.
"""

import functools
import math
from typing import NamedTuple

from .plan import H100, SIZE, Limits
from .specialise import specialise

Pair = tuple[int, int]

ROWS = 8192  # what a traced layer is planned for: the graph may not depend on how many rows there are


class Step(NamedTuple):
    """One launch: numbers that it reads and writes, and its flops."""

    numbers: int
    flops: int


class Route(NamedTuple):
    """A route by name, its steps, and the seconds that they are expected to take."""

    name: str
    steps: tuple[Step, ...]
    seconds: float


@functools.lru_cache(maxsize=4096)
def routes(
    shapes: tuple[Pair, Pair], terms: int, rows: int, dtype: str, trains: bool = False, limits: Limits = H100
) -> tuple[Route, ...]:
    """The routes there are, the fastest one first. trains: forward and the gradients of x and of both factors, else forward alone.

    >>> square = ((64, 64), (64, 64))
    >>> [[route.name for route in routes(square, terms, 8192, "bfloat16")] for terms in (4, 8)]
    [['chain', 'formed'], ['formed', 'chain']]
    """
    found = {"chain": _chain(shapes, terms, rows, trains), "formed": _formed(shapes, terms, rows, trains)}
    if specialise(shapes, dtype, terms=terms) is not None:
        found["fused"] = _fused(shapes, terms, rows, trains)
    timed = [Route(name, steps, _seconds(name, steps, dtype, limits)) for name, steps in found.items()]
    return tuple(sorted(timed, key=lambda route: route.seconds))


def _seconds(name: str, steps: tuple[Step, ...], dtype: str, limits: Limits) -> float:
    rate = limits.rate(dtype)
    if name == "fused":
        rate = limits.issued * (limits.plain64 if dtype == "float64" else rate)
    bandwidth = limits.streamed * limits.bandwidth
    return sum(limits.launch + max(s.numbers * SIZE[dtype] / bandwidth, s.flops / rate) for s in steps)


def _sizes(shapes: tuple[Pair, Pair], rows: int) -> tuple[int, int, int]:
    """Entries of x, of y and of the matrix."""
    m, n = (math.prod(s[k] for s in shapes) for k in (0, 1))
    return rows * n, rows * m, m * n


def _chain(shapes: tuple[Pair, Pair], terms: int, rows: int, trains: bool) -> tuple[Step, ...]:
    """∂F_1 sums over both sides of the middle axis: small products are written and added up, or its operands are turned."""
    (x, y, _), ((m1, n1), (m2, n2)) = _sizes(shapes, rows), shapes
    between = rows * n1 * terms * m2
    last, first = Step(x + between, 2 * between * n2), Step(between + y, 2 * between * m1)
    if not trains:
        return last, first
    gradient = Step(first.numbers + 2 * min(rows * terms * m1 * n1, between + y), first.flops)
    return last, first, last, gradient, first, last, last  # what stands between anew, ∂F_1, its gradient, ∂F_2, ∂x


def _formed(shapes: tuple[Pair, Pair], terms: int, rows: int, trains: bool) -> tuple[Step, ...]:
    x, y, W = _sizes(shapes, rows)
    form, copy, product = Step(W, 2 * terms * W), Step(2 * W, 0), Step(x + y + W, 2 * rows * W)
    return (form, copy, product, product, product, copy, form, form) if trains else (form, copy, product)


def _fused(shapes: tuple[Pair, Pair], terms: int, rows: int, trains: bool) -> tuple[Step, ...]:
    """One launch forward and one for ∂x; the gradients of the factors as those of the chain."""
    x, y, _ = _sizes(shapes, rows)
    last, first, *backward, _ = _chain(shapes, terms, rows, True)
    whole = Step(x + y, last.flops + first.flops)
    return (whole, whole, *backward) if trains else (whole,)
