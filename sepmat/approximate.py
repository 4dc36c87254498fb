"""Which structure does a matrix nearly have? Every class and factor shape that fits, best first."""

import dataclasses
from collections.abc import Callable, Iterable, Iterator
from typing import Any

from . import _array, _check
from ._array import Array
from .errors import DTypeError
from .fit import Fit, as_target, check_tolerance, constant, progress_bar
from .nearest import nearest_circulant, nearest_hankel, nearest_low_rank, nearest_skew_circulant, nearest_toeplitz
from .nearest_displacement import fit_displacement
from .nearest_kronecker import nearest_kronecker

__all__ = ["STRUCTURES", "Fit", "approximate"]


@dataclasses.dataclass(frozen=True)
class Goal:
    """What is asked for: the smallest error with at most `parameters`, or, with tol, the fewest parameters below."""

    parameters: int
    tol: float | None
    seed: Any

    def accepts(self, fit: Fit) -> bool:
        return fit.num_parameters <= self.parameters and (self.tol is None or fit.relative_error <= self.tol)

    def order(self, fit: Fit) -> tuple[float, float]:
        pair = (fit.relative_error, float(fit.num_parameters))
        return pair if self.tol is None else pair[::-1]


Candidate = Callable[[], Fit]


def low_rank(M: Array, goal: Goal) -> Iterator[Candidate]:
    """The largest rank that fits."""
    rank = min(goal.parameters // max(1, sum(M.shape)), *M.shape)
    if rank >= 1:
        yield lambda: nearest_low_rank(M, tol=goal.tol) if goal.tol else nearest_low_rank(M, rank=rank)


def circulant(M: Array, goal: Goal) -> Iterator[Candidate]:
    yield lambda: nearest_circulant(M)


def skew_circulant(M: Array, goal: Goal) -> Iterator[Candidate]:
    yield lambda: nearest_skew_circulant(M)


def toeplitz(M: Array, goal: Goal) -> Iterator[Candidate]:
    """All of them, and the symmetric ones where they have fewer parameters."""
    if 0 not in M.shape:
        yield lambda: nearest_toeplitz(M)
        if M.shape[0] == M.shape[1] > 1 and not _array.is_complex(M):
            yield lambda: nearest_toeplitz(M, symmetric=True)


def hankel(M: Array, goal: Goal) -> Iterator[Candidate]:
    if 0 not in M.shape:
        yield lambda: nearest_hankel(M)


def kronecker(M: Array, goal: Goal) -> Iterator[Candidate]:
    """Every pair of factor shapes, each with the largest number of terms that fits."""

    def candidate(pair: tuple[tuple[int, int], tuple[int, int]], rank: int) -> Candidate:
        if goal.tol:
            return lambda: nearest_kronecker(M, pair, tol=goal.tol, seed=goal.seed)
        return lambda: nearest_kronecker(M, pair, rank=rank, seed=goal.seed)

    m, n = (int(k) for k in M.shape)
    for m1 in _divisors(m):
        for n1 in _divisors(n):
            pair = ((m1, n1), (m // m1, n // n1))
            # 1×1 factors are dense matrices, and column ⊗ row is a matrix of rank one
            if (1, 1) in pair or pair in (((m, 1), (1, n)), ((1, n), (m, 1))):
                continue
            sizes = [a * b for a, b in pair]
            rank = min(max(goal.parameters // (sum(sizes) + 1), int(goal.parameters >= sum(sizes))), *sizes)
            if rank >= 1:
                yield candidate(pair, rank)


def _divisors(n: int) -> list[int]:
    return [k for k in range(1, n + 1) if n % k == 0]


def displacement(M: Array, goal: Goal) -> Iterator[Candidate]:
    """The largest displacement rank that fits; under a tolerance the smallest that bisection finds."""
    N = max(M.shape)
    largest = min(goal.parameters // max(1, 2 * N), N)

    def fit(rank: int) -> Fit:
        return fit_displacement(M, rank, goal.seed, "approximate")

    def smallest() -> Fit:
        low, rank, best = 0, 1, fit(1)
        while not goal.accepts(best) and rank < largest:
            low, rank = rank, min(2 * rank, largest)
            best = fit(rank)
        while goal.accepts(best) and rank - low > 1:
            middle = (low + rank) // 2
            found = fit(middle)
            if goal.accepts(found):
                best, rank = found, middle
            else:
                low = middle
        return best

    if largest >= 1 and 0 not in M.shape:
        yield smallest if goal.tol else lambda: fit(largest)


STRUCTURES: dict[str, Callable[[Array, Goal], Iterator[Candidate]]] = {
    "low_rank": low_rank,
    "circulant": circulant,
    "skew_circulant": skew_circulant,
    "toeplitz": toeplitz,
    "hankel": hankel,
    "kronecker": kronecker,
    "displacement": displacement,
}


def approximate(
    M: Any,
    max_parameters: int | None = None,
    tol: float | None = None,
    structures: Iterable[str] | str | None = None,
    seed: Any = 0,
    progress: bool = False,
) -> list[Fit]:
    """Every structured matrix near M that meets the goal, best first.

    M: dense (m, n). Exactly one goal: max_parameters, the smallest relative error first among the fits that store at
    most so many numbers; or tol, the fewest parameters first among those with a relative error of at most tol and
    fewer parameters than M itself. structures: names from `STRUCTURES` (default: all): low_rank, circulant,
    skew_circulant, toeplitz (also symmetric), hankel, kronecker (every pair of factor shapes, as many terms as fit),
    displacement. progress: a bar on stderr (needs tqdm).

    Each Fit is what the nearest_NAME function returns. The Kronecker products cost O(rank m n) for each pair of
    divisors, the displacement fit is the slowest, about a second at 256×256. Raises ArgumentError, NonFiniteError,
    DTypeError, and BackendError without tqdm. No gradient passes.

    >>> import numpy as np, sepmat as sm
    >>> M = sm.Toeplitz([4.0, 1.0, 2.0, 3.0], [4.0, 5.0, 6.0, 7.0]).to_dense()
    >>> sm.approximate(M, max_parameters=8)[0].matrix
    Toeplitz(shape=(4, 4), float64)
    """
    where = "approximate"
    _check.one_of(where, max_parameters=max_parameters, tol=tol)
    as_target(M, where)
    M = constant(_check.as_array(M, where, "M", 2), where, "M")
    _check.as_generator(seed, where)
    progress = _check.as_flag(progress, where, "progress")
    if max_parameters is not None:
        goal = Goal(_check.as_integer(max_parameters, where, "max_parameters"), None, seed)
    else:
        u = _array.unit_roundoff(_array.array_namespace(M), M.dtype)
        goal = Goal(M.shape[0] * M.shape[1] - 1, max(u, check_tolerance(tol, M, where)), seed)
    names = STRUCTURES if structures is None else [structures] if isinstance(structures, str) else structures
    try:
        names = list(names)
    except TypeError:
        names = []
    if not names:
        got = "empty" if isinstance(structures, (list, tuple, set)) else f"a {type(structures).__name__}"
        raise DTypeError(where, "structures", got, "a list of names", f"Choose from {', '.join(STRUCTURES)}")
    names = [_check.as_choice(name, list(STRUCTURES), where, "structures") for name in names]
    candidates = [fit for name in dict.fromkeys(names) for fit in STRUCTURES[name](M, goal)]
    tried = progress_bar(where, "fit", candidates) if progress else candidates
    fits = (candidate() for candidate in tried)
    return sorted(filter(goal.accepts, fits), key=goal.order)
