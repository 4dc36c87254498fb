"""Eigenpairs in separated form: power and inverse iteration with compression at each step."""

import dataclasses
import math
from collections.abc import Callable
from typing import Any

from . import _array, _check
from .algebra import inner, relative_distance
from .als_solve import Reducer, capped, most_terms, scaled, shaped, unknown, warn
from .compress import check_condition
from .equations import FALL, WARM, settle, solution
from .errors import ShapeError, speaks
from .fit import check_tolerance
from .functions import LOOSE, SHARE, Terms, attainable, double, identity, in_dtype, norm_bound, random_vector, square
from .linalg import norm
from .matrix import StructuredMatrix
from .separated import Separated

__all__ = ["Eigenpair", "inverse_iteration", "power_iteration"]

STEPS, SOLVES = 1000, 60  # of power and of inverse iteration at most
PAUSE = 20  # steps in which the residual must fall by 1 %
AHEAD = 0.02  # of the residual: what a compression may add to it, a step gains more


@dataclasses.dataclass(frozen=True, eq=False)
class Eigenpair:
    """What `power_iteration` and `inverse_iteration` return: A x ≈ λ x, value λ, vector x (N, 1) separated, ‖x‖ = 1.

    residual: ‖A x − λ x‖ / ‖A x‖ by the QR sweep; condition_number: κ of x.
    """

    value: float | complex
    vector: Separated
    residual: float
    condition_number: float
    iterations: int
    converged: bool


@speaks
def power_iteration(
    A: StructuredMatrix,
    rank: int | None = None,
    tol: float | None = None,
    max_condition: float | None = None,
    start: StructuredMatrix | None = None,
    seed: Any = 0,
) -> Eigenpair:
    """The eigenvalue of largest modulus and a separated eigenvector: x ← A x / ‖A x‖ with compression at each step.

    A: Separated, or what converts to one, with square factors. tol: on ‖A x − λ x‖ / ‖A x‖, x with as many terms as that asks
    for; or rank: as good as it gets with so many terms, until 20 steps gain less than 1 %. max_condition: a bound on κ
    of x. start: a separated vector with factors (terms, n_i, 1); a random term by default. λ = <x, A x> / <x, x>. The
    error falls by |λ_2 / λ_1| a step, at most 1000 of them. For a normal A some eigenvalue is within residual · |λ| of λ.

    Warns with ConvergenceWarning where tol is not reached. Raises ShapeError, ArgumentError, NonFiniteError, DTypeError.

    >>> import numpy as np, sepmat as sm
    >>> A = sm.KroneckerSum(np.diag([1.0, 2.0]), np.diag([1.0, 5.0]), np.diag([0.0, 3.0]))
    >>> pair = sm.power_iteration(A, tol=1e-8)
    >>> round(pair.value, 10), pair.vector.terms, pair.residual <= 1e-8
    (10.0, 1, True)
    """
    where = "power_iteration"
    M, dtype = square(A, where)
    x, reduce, tol = _start(M, rank, tol, max_condition, start, seed, where)
    with _array.quiet():
        bound = norm_bound(M)

        def step(x: Terms, y: Terms, value: Any, residual: float) -> Terms:
            return reduce(y, _vector_tolerance(tol, value, bound, residual), x)

        return _iterated(M, x, step, tol, STEPS, reduce.cap, dtype, where)


@speaks
def inverse_iteration(
    A: StructuredMatrix,
    shift: complex = 0.0,
    rank: int | None = None,
    tol: float | None = None,
    max_condition: float | None = None,
    preconditioner: StructuredMatrix | None = None,
    start: StructuredMatrix | None = None,
    seed: Any = 0,
) -> Eigenpair:
    """The eigenvalue closest to a shift and a separated eigenvector: x ← (A − shift I)⁻¹ x with compression at each step.

    The system is solved as in `als_solve`, from the last x and to a tenth of its residual. preconditioner: a separated P ≈
    (A − shift I)⁻¹ (`inverse_laplacian`, `schulz_inverse`); then x ← x − P (A x − λ x), which for the exact inverse is inverse
    iteration, and for an inexact one still ends at an eigenvector of A. The other arguments, the result, warnings and errors
    are those of `power_iteration`; the error falls by |λ_1 − shift| / |λ_2 − shift| a step, at most 60 of them.

    >>> import numpy as np, sepmat as sm
    >>> L = np.diag([2.0, 2.0, 2.0]) - np.eye(3, k=1) - np.eye(3, k=-1)
    >>> pair = sm.inverse_iteration(sm.KroneckerSum(L, L, L), tol=1e-6)
    >>> round(pair.value, 8), pair.residual <= 1e-6  # 3 (2 − √2)
    (1.75735931, True)
    """
    where = "inverse_iteration"
    M, dtype = square(A, where)
    shift = _check.as_number(shift, where, "shift")
    if isinstance(shift, complex) and not M._is_complex:  # the eigenvectors of a real matrix closest to it are complex
        M, dtype = M.astype(M.xp.complex128), _array.complex_dtype(M.xp, dtype)
    x, reduce, tol = _start(M, rank, tol, max_condition, start, seed, where)
    with _array.quiet():
        bound, I = norm_bound(M), identity(M)
        if preconditioner is not None:
            P = double(shaped(preconditioner, M.shapes, where, "preconditioner", M))

            def step(x: Terms, y: Terms, value: Any, residual: float) -> Terms:
                off = reduce(y - x * value, LOOSE)
                return reduce(x - P @ off, _vector_tolerance(tol, value, bound, residual), x)
        else:
            B = (M - I * shift).merged()

            def step(x: Terms, y: Terms, value: Any, residual: float) -> Terms:
                equations, back = scaled(B, x)
                guess, cap = unknown(x, equations), reduce.cap
                if tol is not None:
                    goal = LOOSE * min(1.0, residual)
                    found = solution(equations, most_terms(x.shapes), goal, cap, reduce.rng, guess)
                else:
                    few = settle(equations, guess, WARM, FALL, cap, 0.0, sweeps=10)
                    found = few or solution(equations, x.terms, 0.0, cap, reduce.rng, guess)
                return back(found, x.dtype)

        return _iterated(M, x, step, tol, SOLVES, reduce.cap, dtype, where)


# steps ----------------------------------------------------------------------------------------------------------------------


def _iterated(
    A: Terms,
    x: Terms,
    step: Callable[[Terms, Terms, Any, float], Terms],
    tol: float | None,
    limit: int,
    cap: float,
    dtype: Any,
    where: str,
) -> Eigenpair:
    """Steps until the residual is tol, or falls no more; the best pair."""
    best, steps, since, mark = None, 0, 0, math.inf
    while True:
        x = x / norm(x)
        y = A @ x
        value = inner(x, y)
        residual = relative_distance(y, x * value)
        if best is None or residual < best[0]:
            best = (residual, x)
        since, mark = (0, best[0]) if best[0] < 0.99 * mark else (since + 1, mark)
        if residual <= (tol or 0.0) or since >= PAUSE or steps >= limit:
            break
        x, steps = step(x, y, value, residual), steps + 1
    x = capped(best[1], cap)
    x = capped(in_dtype(x / norm(x), dtype), cap)
    wide = double(x)
    y = A @ wide
    value = inner(wide, y) / inner(wide, wide)
    residual = relative_distance(y, wide * value)
    converged = residual <= tol if tol is not None else since >= PAUSE or residual == 0
    if not converged:
        warn(where, f"{steps} steps with {x.terms} terms", residual)
    number: Any = _array.to_numpy(value).item()
    return Eigenpair(number, x, residual, x.condition_number, steps, converged)


def _vector_tolerance(tol: float | None, value: Any, bound: float, residual: float) -> float | None:
    """The relative error of x that moves its residual by a share of what it is, or of what it shall be."""
    if tol is None:
        return None
    size = _array.to_float(_array.array_namespace(value).abs(value))
    return min(LOOSE, attainable(2 * SHARE * max(tol, AHEAD * residual) * size / bound))


def _start(
    A: Separated, rank: Any, tol: Any, max_condition: Any, start: Any, seed: Any, where: str
) -> tuple[Separated, Reducer, float | None]:
    _check.one_of(where, rank=rank, tol=tol)
    shapes = tuple((n, 1) for n, _ in A.shapes)
    if not A.shape[0]:
        raise ShapeError(where, "A", "0×0", "a matrix with an eigenvalue", "Check the sizes")
    rng, cap = _check.as_generator(seed, where), check_condition(max_condition, where)
    if rank is not None:
        rank = _check.as_integer(rank, where, "rank", maximum=most_terms(shapes))
    else:
        tol = check_tolerance(tol, A.factors[0], where)
    reduce = Reducer(where, rank, cap, rng)
    if start is not None:
        return capped(double(shaped(start, shapes, where, "start", A)), cap, rank), reduce, tol
    return random_vector(A, rank or 1, rng), reduce, tol
