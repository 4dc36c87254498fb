"""Linear systems in separated form, A X = F, by alternating least squares; fewer terms for each step of an iteration."""

import dataclasses
import math
import sys
from collections.abc import Callable, Sequence
from typing import Any, cast

from . import _array, _check, errors
from ._array import Array
from .algebra import as_separated, relative_distance
from .compress import check_condition, compress
from .equations import Equations, Factors, Reduction, Solution, solution
from .errors import ConvergenceWarning, DTypeError, ShapeError, SingularMatrixError, speaks
from .fit import Fit, check_tolerance, constant
from .matrix import StructuredMatrix
from .separated import Separated

__all__ = ["als_solve"]

BLOCK = 64  # terms
LOOSE = 1e-2  # relative error to which a first guess is compressed
SHARE = 0.01  # of a tolerance that the tensor train may use up which stands for what is reduced


@speaks
def als_solve(
    A: StructuredMatrix,
    F: StructuredMatrix,
    rank: int | None = None,
    tol: float | None = None,
    max_condition: float | None = None,
    preconditioner: StructuredMatrix | None = None,
    start: StructuredMatrix | None = None,
    seed: Any = 0,
) -> Fit:
    """X = Σ_{l<=rank} s_l X_1^l ⊗ … ⊗ X_d^l with A X ≈ F: the minimum of ‖A X − F‖² + λ Σ s_l², nothing of full size formed.

    A, F: Separated, or what converts to one (Kronecker, KroneckerSum), with factors A_i (m_i, n_i) and F_i (m_i, c_i); a
    vector has factors (terms, m_i, 1). X has factors (n_i, c_i); for rectangular A_i it is a least-squares solution.
    rank: the number of terms; or tol: terms are added until ‖A X − F‖ <= tol ‖F‖. max_condition: a bound on κ of X, >= 1.

    At every rank two starts compete: the last solution with new terms, and a random one with falling λ. start: a first
    guess of X. preconditioner: a separated P ≈ A⁻¹ (`inverse_laplacian`, `schulz_inverse`): P F with fewer terms makes the
    start, and the sweeps, which minimise the residual itself, go on from there.

    A sweep costs O(d ((p r)² n c + (ρ r m) (r n)²)) for p terms of A, ρ of them independent in a mode. Fit.relative_error is
    ‖A X − F‖ / ‖F‖ by the QR sweep; it bounds the error of X only together with cond(A). Warns with ConvergenceWarning where
    tol is not reached or the sweeps have not settled. Raises ShapeError, ArgumentError, NonFiniteError, DTypeError, and
    SingularMatrixError for A = 0.

    >>> import numpy as np, sepmat as sm
    >>> A = sm.KroneckerSum(*[np.diag([2.0, 2.0, 2.0]) - np.eye(3, k=1) - np.eye(3, k=-1)] * 5)
    >>> fit = sm.als_solve(A, sm.Separated([np.ones((1, 3, 1))] * 5), tol=1e-4)
    >>> fit.matrix.shapes[0], fit.matrix.terms < 10, fit.relative_error <= 1e-4, fit.condition_number < 2
    ((3, 1), True, True, True)
    """
    where = "als_solve"
    _check.one_of(where, rank=rank, tol=tol)
    A, F = finite(A, where, "A"), finite(F, where, "F")
    _check.same_place(where, (("A", A.factors[0]), ("F", F.factors[0])))
    if [m for m, _ in A.shapes] != [m for m, _ in F.shapes]:
        got = " ⊗ ".join(f"{m}×{c}" for m, c in F.shapes)
        expected = f"factors of {', '.join(str(m) for m, _ in A.shapes)} rows, as A"
        raise ShapeError(where, "F", got, expected, "Give F the factors (terms, m_i, c_i)")
    shapes = tuple((n, c) for (_, n), (_, c) in zip(A.shapes, F.shapes, strict=True))
    start = None if start is None else shaped(start, shapes, where, "start", A)
    inverse = None
    if preconditioner is not None:
        inverse = shaped(preconditioner, tuple((n, m) for m, n in A.shapes), where, "preconditioner", A)
    if rank is not None:
        rank = _check.as_integer(rank, where, "rank", maximum=most_terms(shapes))
    else:
        tol = check_tolerance(tol, F.factors[0], where)
    cap, rng = check_condition(max_condition, where), _check.as_generator(seed, where)
    with _array.quiet():
        if not F._sweep(where)[0]:
            parts = [A.xp.zeros((0, *s), dtype=A.xp.result_type(A.dtype, F.dtype), device=A.device) for s in shapes]
            return Fit(Separated._of(factors=tuple(parts), scales=None), 0.0, 0, condition_number=1.0, optimal=True)
        if not A._sweep(where)[0]:
            advice = "Use a matrix with a term that is not zero"
            raise SingularMatrixError(where, "A", f"{A._name()} is zero", "a matrix that is not zero", advice)
        reduce = Reducer(where, rank, cap, rng)
        if inverse is not None and start is None:
            start = reduce(cast(Separated, inverse @ F), None if tol is None else min(LOOSE, tol))
        equations, back = scaled(A, F)
        first = None if start is None else unknown(start, equations)
        goal = 0.0 if tol is None else tol * (1 - 1e-3)
        found = solution(equations, most_terms(shapes) if rank is None else rank, goal, cap, rng, first)
        matrix = capped(back(found, A.xp.result_type(A.dtype, F.dtype)), cap)  # rounded to float32, κ moves a little
        error = relative_distance(F, A @ matrix)
    settled = found.settled if tol is None else error <= tol
    if not settled:
        warn(where, f"{found.sweeps} sweeps with {matrix.terms} terms", error)
    return Fit(
        matrix, error, matrix.num_parameters, matrix.condition_number, converged=settled, iterations=found.sweeps
    )


# arguments ----------------------------------------------------------------------------------------------------------------


def finite(A: Any, where: str, name: str) -> Separated:
    """A in separated form, without NaN and infinity, and without gradients."""
    A = as_separated(A, where, name, DTypeError)
    _check.check_full_precision(A.factors[0], where, name)
    for i, F in enumerate(A.factors):
        _check.check_finite(F, where, f"{name}.factors[{i}]")
    if A.scales is not None:
        _check.check_finite(A.scales, where, f"{name}.scales")
    return A.map(lambda a: constant(a, where, name))


def shaped(X: Any, shapes: Sequence[tuple[int, int]], where: str, name: str, like: Separated) -> Separated:
    """X in separated form with the given factor shapes, beside another matrix."""
    X = finite(X, where, name)
    _check.same_place(where, (("A", like.factors[0]), (name, X.factors[0])))
    if X.shapes != tuple(shapes):
        got, expected = (" ⊗ ".join(f"{m}×{n}" for m, n in s) for s in (X.shapes, shapes))
        raise ShapeError(where, name, got, expected, "Give it factors of these shapes")
    return X


def most_terms(shapes: Sequence[tuple[int, int]]) -> int:
    """The separation rank is at most this."""
    sizes = [m * n for m, n in shapes]
    return max(1, math.prod(sizes) // max(1, *sizes))


def warn(where: str, steps: str, error: float, advice: str = "") -> None:
    text = f"{where}: not converged after {steps}, at a relative error of {error:.3e}"
    errors.warn(ConvergenceWarning, f"{text}; {advice}" if advice else text)


# scaling ------------------------------------------------------------------------------------------------------------------


def scaled(A: Separated | None, F: Separated) -> tuple[Equations, Callable[[Solution, Any], Separated]]:
    """The equations A X = F (A = I for None) with ‖A‖₂ <= 1 and ‖F‖ = 1, and the way back from their solution to X."""
    xp = F.xp
    dtype = xp.result_type(F.dtype, *(() if A is None else (A.dtype,)), xp.float64)
    right, k = stacks(F, dtype)
    size, _, e = F._sweep("als_solve")
    size = math.ldexp(size, e - k)
    right[0] = right[0] / size
    if A is None:
        one = xp.ones((1, 1, 1), dtype=dtype, device=F.device)
        left, l = [one] * len(right), 0
        shapes = F.shapes
        right = [xp.reshape(G, (G.shape[0], 1, G.shape[1] * G.shape[2])) for G in right]
    else:
        left, l = stacks(A, dtype)
        bound = spectral_bound(left)
        left[0], size = left[0] / bound, size / bound
        shapes = tuple((n, c) for (_, n), (_, c) in zip(A.shapes, F.shapes, strict=True))

    def back(found: Solution, dtype: Any) -> Separated:
        order = xp.argsort(found.scales, descending=True)[: int(xp.sum(xp.astype(found.scales > 0, xp.int64)))]
        parts = [xp.take(X, order, axis=0) for X in found.factors]
        parts = [xp.reshape(X, (X.shape[0], *shape)) for X, shape in zip(parts, shapes, strict=True)]
        scales = _array.ldexp(xp.take(found.scales, order, axis=0) * size, k - l)
        return Separated._of(factors=tuple(_array.astype(X, dtype) for X in parts), scales=_array.astype(scales, dtype))

    return Equations(left, right), back


def stacks(A: Separated, dtype: Any) -> tuple[list[Array], int]:
    """Factors with all scales in the first of them, and the exponent they still need."""
    unit_terms = A.astype(dtype).normalized()
    k = _array.exponent(unit_terms._weights)
    first, *others = unit_terms.factors
    return [first * _array.ldexp(unit_terms._weights, -k)[:, None, None], *others], k


def spectral_bound(factors: Sequence[Array]) -> float:
    """Σ_l Π_i ‖A_i^l‖₂ >= ‖A‖₂."""
    xp = _array.array_namespace(factors[0])
    return _array.to_float(xp.sum(_array.scaled_product([xp.max(xp.linalg.svdvals(F), axis=-1) for F in factors])))


def unknown(X: Separated, equations: Equations) -> Factors:
    """A guess of the solution as the sweeps want it: unit factors, the largest term first."""
    X = X.normalized()
    xp, parts = X.xp, zip(X.factors, equations.sizes, strict=True)
    return [_array.astype(xp.reshape(G, (X.terms, n, c)), equations.like.dtype) for G, (n, c) in parts]


# fewer terms ----------------------------------------------------------------------------------------------------------------


def capped(X: Separated, cap: float, rank: int | None = None) -> Separated:
    """X, or the nearest with κ <= cap and at most so many terms."""
    most = min(most_terms(X.shapes), max(1, X.terms)) if rank is None else rank
    if X.terms <= most and X.condition_number <= cap:
        return X
    return cast(Separated, compress(X, rank=most, max_condition=None if cap == math.inf else cap).matrix)


@dataclasses.dataclass(frozen=True)
class Reducer:
    """What every step of an iteration ends with: X with fewer terms and κ <= cap.

    where: who asks. At most `rank` terms, or as many as a relative error of `tol` asks for. Two factors: `compress`,
    exact. More: sweeps that go on from the last iterate, which is close; `compress` begins anew, more thoroughly.
    """

    where: str
    rank: int | None
    cap: float
    rng: Any
    most: int = sys.maxsize  # terms; more are not looked for, and one more is returned

    def __call__(self, X: Separated, tol: float | None = None, start: Separated | None = None) -> Separated:
        most = min(most_terms(X.shapes), X.terms)
        rank = most if self.rank is None else min(self.rank, most)
        if not X._sweep(self.where)[0] or (self.rank == rank == X.terms and X.condition_number <= self.cap):
            return X
        if len(X.factors) <= 2:
            X = _in_blocks(X, 0.0 if tol is None else tol / 2, self.where)
            return cast(
                Separated, compress(X, rank=rank if tol is None else None, tol=None if tol is None else tol / 2).matrix
            )
        equations, back = scaled(None, X)
        first = None if start is None or not start.terms else unknown(start, equations)
        goal, quick = (tol or 0.0) * (1 - SHARE), tol is not None or first is not None
        reduction = Reduction(equations.F, SHARE * (tol or 0.0))
        found = solution(reduction, min(rank, self.most + 1), goal, self.cap, self.rng, first, quick)
        if (
            tol is not None
            and found.error > tol
            and X.terms <= found.scales.shape[0]
            and X.condition_number <= self.cap
        ):
            return X
        return back(found, X.dtype)


def _in_blocks(X: Separated, tol: float, where: str) -> Separated:
    """X of one or two factors with fewer terms, a block of them after the other: QR of few columns many times is cheaper."""
    if X.terms <= 2 * BLOCK:
        return X
    parts = [
        X.map(lambda a, i=i: a[i : min(i + BLOCK, X.terms), ...])  # type: ignore[misc]
        for i in range(0, X.terms, BLOCK)
    ]
    total, goal = parts[0], max(tol, 2.0**-50) / len(parts)
    for part in parts[1:]:
        both = cast(Separated, total + part)
        share = min(0.5, goal / max(relative_size(both, X, where), goal))
        total = cast(Separated, compress(both, tol=share).matrix) if relative_size(both, X, where) else both
    return total


def relative_size(X: Separated, Y: Separated, where: str) -> float:
    """‖X‖_F / ‖Y‖_F."""
    (top, _, j), (bottom, _, k) = X._sweep(where), Y._sweep(where)
    return math.ldexp(top / bottom, max(-2000, min(j - k, 900))) if bottom else math.inf
