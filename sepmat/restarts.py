"""One right-hand side by a solver that may believe to be done when it is not: it starts again until the true residual is small.

A solver is a function run(r, tolerance, callback) -> (d, info) that starts from 0; those of SciPy and CuPy are in `interop`.
"""

import dataclasses
import math
from collections.abc import Callable
from typing import Any

from . import _array
from ._array import Array

PASSES = 5  # how often a solver may be started until the true residual meets the tolerance
FINEST = 2.0**-60  # what a solver is asked for at most: some divide by their tolerance
STAGNANT = 0.9  # a start that leaves more than this of the residual is the last one


@dataclasses.dataclass(frozen=True, eq=False, repr=False)
class Solution:
    """What an iterative solver returns.

    x: as the right-hand side, (n,) or (n, k). relative_residual: ‖b − A x‖ / ‖b‖, computed from x. converged: whether that
    meets the tolerance. iterations: the number of them. history: with history=True ‖b − A x_k‖ / ‖b‖ for k = 0, 1, …
    (gmres: the preconditioned norm that it knows). Of several right-hand sides: the largest residual, and the
    iterations and history of the slowest.
    """

    x: Array
    converged: bool
    iterations: int
    relative_residual: float
    history: tuple[float, ...] = ()

    def __repr__(self) -> str:
        verdict = "converged" if self.converged else "not converged"
        return f"Solution({verdict}, {self.iterations} iterations, relative residual {self.relative_residual:.1e})"


@dataclasses.dataclass(frozen=True)
class Column:
    """One right-hand side after the other, by a solver that starts from 0: run(r, tolerance, callback) gives (d, info)."""

    where: str
    run: Callable[..., tuple[Array, int]]
    apply: Callable[[Array], Array]
    rtol: float
    atol: float
    callback: Callable[[Any], Any] | None
    history: bool

    def solve(self, b: Array, start: Array | None) -> Solution:
        x = _array.array_namespace(b).zeros_like(b) if start is None else start
        size = norm(b)
        if not size:
            return Solution(0.0 * x, True, 0, 0.0)
        r = b if start is None else b - self.apply(x)
        left, target = norm(r), max(self.rtol * size, self.atol)
        norms, count = [left / size] if self.history else [], [0]
        miss = 1.0  # how much larger a residual came out than was asked for, at worst
        for attempt in range(PASSES):
            if left <= target:
                break
            k = 0 if 1e-8 < left < 1e8 else round(math.log2(left))  # SciPy squares norms
            asked = max(target / left / miss, FINEST)
            d, info = self.run(_array.ldexp(r, -k), asked, self._watch(b, x, k, left / size, size, norms, count))
            new = x + _array.ldexp(_array.astype(d, x.dtype), k)  # MINRES comes back in float64
            r = b - self.apply(new)
            before, now = left, norm(r)
            if not (now < before or (attempt == 0 and math.isfinite(now))):  # a CG residual may grow before it falls
                break
            x, left, miss = new, now, max(miss, 2 * now / (before * asked))
            if info or left > STAGNANT * before:
                break
        return Solution(x, left <= target, count[0], left / size, tuple(norms))

    def _watch(
        self, b: Array, x: Array, k: int, share: float, size: float, norms: list[float], count: list[int]
    ) -> Callable[[Any], None]:
        """The callback of one start: it counts, records, and tells the user about x + 2^k d."""

        def watch(seen: Any) -> None:
            count[0] += 1
            if self.where == "gmres":  # a norm relative to where it started
                if self.history:
                    norms.append(float(seen) * share)
            elif self.history or self.callback:
                seen = x + _array.ldexp(seen, k)
                if self.history:
                    norms.append(norm(b - self.apply(seen)) / size)
            if self.callback:
                self.callback(seen)

        return watch


def norm(x: Array) -> float:
    """‖x‖₂; the slower way only where squares leave the range."""
    value = _array.to_float(_array.array_namespace(x).linalg.vector_norm(x))
    return value if 1e-15 < value < 1e15 else _array.to_float(_array.frobenius(x))
