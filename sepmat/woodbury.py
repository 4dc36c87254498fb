"""Solving with sums: one matrix that is easy to solve with plus low rank, and everything of low displacement rank.

Sums with Toeplitz matrices and W(G, H) in them become one W(G, H) (`expressivity`), which is solved with pivoting. The others
take the formula of Sherman, Morrison and Woodbury. With A = M + U Vᵀ, X = M⁻¹ U and the capacitance matrix C = I + Vᵀ X (r × r),

    A⁻¹ b = y − X C⁻¹ Vᵀ y,  y = M⁻¹ b;        A⁻¹ = M⁻¹ − X C⁻¹ (M⁻ᵀ V)ᵀ;        det A = det M · det C.

The formula alone loses κ(M) (Yip, "A note on the stability of solving a rank-p modification of a linear system by the
Sherman–Morrison–Woodbury formula", 1986); steps of refinement with products of A take that back as long as the first
solution has a digit, and what then still leaves a residual is refused. Small entries of a diagonal M are raised first.
"""

import functools
import math
from collections.abc import Callable
from typing import NamedTuple

from . import _array, _check
from ._array import Array
from .basic import Dense, Diagonal
from .displacement import LowDisplacementRank
from .errors import SingularMatrixError, UnsupportedError
from .expressivity import displacement_form, has_displacement, leaves
from .linalg import Factorization, OpenFunction, factorize, factorize_as_solve, inverse, singular, slogdet, solve
from .low_rank import LowRank
from .matrix import StructuredMatrix, Sum
from .toeplitz import Toeplitz

__all__: list[str] = []

STEPS = 4  # of refinement at most; the formula takes one at least
GOAL = 1.0  # ‖b - A x‖ / (n u ‖A‖ ‖x‖) at which it ends
LIMIT = 30.0  # and beyond which the result is refused
SMALL = 1e-3  # entries of a diagonal term, relative to the largest, beside which the formula would lose digits


class _Parts(NamedTuple):
    """A = M + U Vᵀ with X = M⁻¹ U and C = I + Vᵀ X."""

    M: StructuredMatrix
    U: Array
    V: Array
    X: Array
    C: Array
    size: float  # ‖U‖ ‖V‖ plus a lower bound of ‖M‖

    def step(self, b: Array) -> Array:
        """A⁻¹ b by the formula."""
        xp = self.M.xp
        y = solve.rule(self.M, b)
        return y - self.X @ xp.linalg.solve(self.C, xp.matrix_transpose(self.V) @ y)

    def adjoint_step(self, b: Array) -> Array:
        """A⁻ᴴ b."""
        xp = self.M.xp
        C, U = (xp.conj(xp.matrix_transpose(Z)) for Z in (self.C, self.U))
        y = solve.rule(self.M.H, b)
        return y - solve.rule(self.M.H, xp.conj(self.V) @ xp.linalg.solve(C, U @ y))


def _lengths(x: Array) -> Array:
    return _array.frobenius(_array.stop_gradient(x), axis=0)


def _split(A: Sum, function: OpenFunction) -> tuple[StructuredMatrix, Array, Array]:
    """M, U and V of a sum with one term beside those of low rank, in the dtype of A."""
    low = [B for B in A.terms if isinstance(B, LowRank)]
    rest = [B for B in A.terms if not isinstance(B, LowRank)]
    if not low or len(rest) != 1 or solve.find(type(rest[0])) is None:
        raise function.unsupported(A, "no rule (but for low rank plus one term that has one)")
    (M,), U, V = rest, *_array.promote(*(A.xp.concat([getattr(B, k) for B in low], axis=1) for k in "UV"))
    return M.astype(A.dtype), _array.astype(U, A.dtype), _array.astype(V, A.dtype)


def _lifted(M: Diagonal, U: Array, V: Array) -> tuple[Diagonal, Array, Array]:
    """M + U Vᵀ with the r smallest entries of M, r = rank, raised to the largest, and that taken back by r terms more.

    σ_min(A) is at most the (r + 1)-th smallest |d_j| (Weyl), so M is then no worse conditioned than A is.
    """
    xp, (n, r) = M.xp, U.shape
    size = xp.abs(_array.stop_gradient(M.d))
    if not r or not n or not bool(xp.min(size) < SMALL * xp.max(size)):
        return M, U, V
    top = _array.astype(xp.max(size), M.dtype)
    small = xp.argsort(size, stable=True)[: min(r, n)]
    rows = xp.arange(n, dtype=small.dtype, device=M.device)
    E = _array.astype(rows[:, None] == small[None, :], M.dtype)
    low = xp.concat((V, E * (xp.take(M.d, small, axis=0) - top)), axis=1)
    raised = xp.where(xp.any(rows[:, None] == small[None, :], axis=1), top, M.d)
    return Diagonal._of(d=raised), xp.concat((U, E), axis=1), low


def _parts(A: Sum, function: OpenFunction) -> _Parts:
    M, U, V = _split(A, function)
    where, xp = function.__name__, A.xp
    if isinstance(M, Diagonal):
        M, U, V = _lifted(M, U, V)
    try:
        X = solve.rule(M, U)
    except SingularMatrixError as error:
        if isinstance(M, Diagonal):
            raise singular(A, where, f"more zeros on the diagonal than the rank {U.shape[1] // 2}") from None
        got = f"the term {M._name()} of the sum is singular, which A need not be ({error.args[2]})"
        raise _refused(where, got) from None
    C = xp.eye(U.shape[1], dtype=U.dtype, device=A.device) + xp.matrix_transpose(V) @ X
    return _Parts(M, U, V, X, C, _array.to_float(_array.frobenius(U)) * _array.to_float(_array.frobenius(V)))


def _refused(where: str, got: str) -> UnsupportedError:
    advice = f"Use sm.{where} of sm.Dense(A.to_dense()), or of a sum with another nonsingular term"
    return UnsupportedError(where, "A", got, "a well-conditioned term plus low rank", advice)


def _checked(A: Sum, function: OpenFunction) -> _Parts:
    """The parts of an A that is not singular to the precision."""
    parts, where = _parts(A, function), function.__name__
    n, u = A.shape[0], _array.unit_roundoff(A.xp, A.dtype)
    if not n or not parts.U.shape[1]:
        return parts
    if not _array.lu_factor(parts.C).rcond:
        raise singular(A, where, "its capacitance matrix is")
    # with z = A⁻¹ c for a random c, ‖A⁻ᴴ z‖ / ‖z‖ is a lower bound of ‖A⁻¹‖, and close to it when it is large
    c = _array.stop_gradient(_array.normal(_check.as_generator(0, where), (n, 1), parts.U))
    z = parts.step(c)
    z = z / _array.astype(_array.power_of_two(z), z.dtype)  # A may be of the order of 1e200, and A⁻ᴴ A⁻¹ out of range
    grown = _ratio(parts.adjoint_step(z), z)
    size = max(_ratio(A._product(v, -2), v) for v in (c, z))
    rcond = 1 / (size * grown) if 0 < size * grown < math.inf else 0.0
    _check.check_rcond(rcond, n, u, where, f"A ({A._name()})", _check.DENSE_LEAST_SQUARES)
    return parts._replace(size=parts.size + _ratio(parts.M._product(c, -2), c))


def _ratio(y: Array, x: Array) -> float:
    """‖y‖ / ‖x‖"""
    return _array.to_float(_array.frobenius(y)) / _array.to_float(_array.frobenius(x))


def _displacement_form(A: Sum) -> LowDisplacementRank | None:
    """A as W(G, H), where that is the better way: Toeplitz matrices in it, or more than one term beside low rank."""
    if not has_displacement(A):
        return None
    slow = any(isinstance(B, (Toeplitz, LowDisplacementRank)) for B in leaves(A))
    if not slow and sum(not isinstance(B, LowRank) for B in A.terms) == 1 and len(A.terms) > 1:
        return None
    W: LowDisplacementRank = A._remember("displacement form", lambda: displacement_form(A))
    return W


@solve.register
def _(A: Sum, b: Array) -> Array:
    """The residual is at most LIMIT n u (‖M‖ + ‖U‖ ‖V‖) ‖x‖, or there is an error."""
    W = _displacement_form(A)
    if W is not None:
        return _solve_displaced(solve.rule, W, _size(A), A, b)
    parts = A._remember(f"woodbury {b.dtype}", lambda: _checked(A, solve))
    return _refined(A, b, parts.step, parts.size, parts.M)


def _size(A: Sum) -> float:
    """About ‖A‖_F / √n, which is at most ‖A‖₂."""
    like = A.arrays()[0]
    c = _array.stop_gradient(_array.normal(_check.as_generator(0, "solve"), (A.shape[0], 1), like))
    return _ratio(A @ c, c) if A.shape[0] else 0.0


def _solve_displaced(
    rule: Callable[[StructuredMatrix, Array], Array], W: LowDisplacementRank, size: float, A: Sum, b: Array
) -> Array:
    return _refined(A, b, functools.partial(rule, W.astype(b.dtype)), size, A)


def _refined(A: Sum, b: Array, step: Callable[[Array], Array], size: float, blamed: StructuredMatrix) -> Array:
    """x with A x = b by step(b) and steps of refinement; `size` is about ‖A‖."""
    if not A.shape[0] or not b.shape[1]:
        return _array.copy(b)
    xp, unit = A.xp, A.shape[0] * _array.unit_roundoff(A.xp, b.dtype)

    def residual(x: Array) -> tuple[Array, float]:
        r = b - A._product(x, -2)
        scale = size * _lengths(x) + _lengths(b)
        return r, _array.to_float(xp.max(_lengths(r) / (unit * xp.where(scale > 0, scale, xp.ones_like(scale)))))

    x = step(b)
    r, error = residual(x)
    least = 0 if blamed is A else 1  # elimination with pivoting comes refined
    for k in range(STEPS):
        if k >= least and error <= GOAL:
            break
        refined = x + step(r)
        rest, smaller = residual(refined)
        if not smaller < error:
            break
        x, r, error = refined, rest, smaller
    if not error <= LIMIT:
        got = f"the term {blamed._name()} is so ill-conditioned that a residual of {error:.0e} n u is left"
        raise _refused("solve", got)
    return x


@factorize.register
def _(A: Sum) -> Factorization:
    """The generators of the inverse of W(G, H), or what the formula needs, which `solve` remembers."""
    W = _displacement_form(A)
    if W is None:
        return factorize_as_solve(A)
    F: Factorization = factorize.rule(W)
    return Factorization(A, functools.partial(_solve_displaced, F.solver, W, _size(A)), None, F.rcond)


@inverse.register
def _(A: Sum) -> StructuredMatrix:
    W = _displacement_form(A)
    if W is not None:
        return inverse.rule(W)
    parts = _checked(A, inverse)
    xp = A.xp
    Y = solve.rule(parts.M.T, parts.V)
    X = xp.matrix_transpose(xp.linalg.solve(xp.matrix_transpose(parts.C), xp.matrix_transpose(parts.X)))
    return inverse.rule(parts.M) + LowRank._of(U=-X, V=Y)


@slogdet.register
def _(A: Sum) -> tuple[Array, Array]:
    W = _displacement_form(A)
    if W is not None:
        return slogdet.rule(W)
    parts = _parts(A, slogdet)
    sign, logabs = slogdet.rule(parts.M)
    s, l = slogdet.rule(Dense._of(array=parts.C))
    return sign * _array.astype(s, sign.dtype), logabs + l
