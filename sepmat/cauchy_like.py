"""Solving with Toeplitz, Hankel and low-displacement-rank matrices: O(n² r), then refined; and their inverses.

One elimination (kernels/cauchy.py) gives A⁻¹ b and the generators of A⁻¹, which is of low displacement rank too:
Z_1 A − A Z_{-1} = P Qᵀ implies Z_{-1} A⁻¹ − A⁻¹ Z_1 = −(A⁻¹P)(A⁻ᵀQ)ᵀ. Every further solve costs products only.
"""

import functools
import math
from typing import Any

from . import _array, _check
from ._array import Array
from .displacement import LowDisplacementRank
from .errors import ConditionWarning, PrecisionWarning, SingularMatrixError, warn
from .generators import uncancelled
from .inverse_generators import displaced_inverse, log_det_change, polished, times, toeplitz_inverse
from .kernels.cauchy import Solved, displacement_solve, toeplitz_generators, toeplitz_solve
from .linalg import Factorization, factorize, inverse, norm, singular, slogdet, solve
from .matrix import Product, StructuredMatrix
from .toeplitz import Hankel, Toeplitz

STEPS = 6  # of refinement at most
GOAL = 0.5  # residual / (n u ‖A‖₂ ‖x‖) at which it ends; 1 is promised
LIMIT = 30.0  # and beyond which a result comes with a warning
DENSE = _check.DENSE_LEAST_SQUARES  # for singular ones: sm.lstsq needs full rank
PROBES = 1  # random vectors that estimate norms
SURE = 8  # of them before a warning

Displaced = Toeplitz | Hankel | LowDisplacementRank


# elimination --------------------------------------------------------------------------------------------------------------


def _eliminate(A: Displaced, rhs: Array) -> Solved:
    """A⁻¹ rhs, of a plain A. A LowDisplacementRank has P = G, Q = 2 J H."""
    if isinstance(A, Toeplitz):
        return toeplitz_solve(A.c, A.r, rhs)
    if isinstance(A, Hankel):
        found = _eliminate(_toeplitz(A), rhs)
        return found._replace(x=_flip(found.x))
    if not A.terms:
        return Solved(rhs, 0.0, -math.inf)
    if not A.transposed:
        return displacement_solve(A.g, 2 * _flip(A.h), rhs)
    # W' = J Wᵀ J: Z_{-1} W' − W' Z_1 = −(J Q)(J P)ᵀ
    found = displacement_solve(-2 * A.h, _flip(A.g), _flip(rhs), half=True)
    return found._replace(x=_flip(found.x))


def _solved(A: Displaced, rhs: Array, where: str) -> Array:
    found = _eliminate(A, rhs)
    if found.logabs == -math.inf:
        raise singular(A, where, "a pivot is 0", DENSE)
    return found.x


def _invert(A: Displaced, where: str, rhs: Array) -> tuple[StructuredMatrix, Array]:
    """A⁻¹ of a plain A, up to κ(A)² u, and A⁻¹ rhs."""
    xp = A.xp
    if isinstance(A, Hankel):
        M, x = _invert(_toeplitz(A), where, rhs)
        return Product._of(factors=(_exchange(M), M)), _flip(x)
    if isinstance(A, Toeplitz):
        P, _ = toeplitz_generators(A.c, A.r)
        found = _solved(A, xp.concat((P, rhs), axis=1), where)
        return toeplitz_inverse(found[:, :2]), found[:, 2:]
    if A.transposed:
        M, _ = _invert(_turned(A), where, rhs[:, :0])
        return M.T, _solved(A, rhs, where)
    r = A.terms
    found = _solved(A, xp.concat((A.g, rhs), axis=1), where)
    Y = _solved(_turned(A), 2 * _flip(A.h), where)
    return displaced_inverse(found[:, :r], Y), found[:, r:]


def _turned(A: LowDisplacementRank) -> LowDisplacementRank:
    return LowDisplacementRank._of(g=A.g, h=A.h, corner=A.corner, transposed=not A.transposed)


def _toeplitz(A: Hankel) -> Toeplitz:
    """T with A = T J: the columns in reverse order."""
    h, n = A._diagonals(), A.shape[1]
    return Toeplitz._of(c=h[n - 1 :], tail=_flip(h[: n - 1]))


def _exchange(A: StructuredMatrix) -> Hankel:
    """J, the identity with its columns in reverse order."""
    xp, n = A.xp, A.shape[0]
    last = xp.astype(xp.arange(n, dtype=xp.int64, device=A.device) == n - 1, A.dtype)
    return Hankel._of(c=last, tail=None)


def _flip(X: Array) -> Array:
    return _array.array_namespace(X).flip(X, axis=0)


# the rules ----------------------------------------------------------------------------------------------------------------


def _full(A: StructuredMatrix, function: Any) -> None:
    if isinstance(A, LowDisplacementRank) and A.g.shape[0] != A.shape[0]:
        raise function.unsupported(A, "no rule for a corner")


def _scaled(A: Displaced, plain: bool = True) -> tuple[Displaced, int]:
    """(A / 2^k in double precision, with entries near 1 and, if plain, without gradients, k)."""
    S: Any = A.map(lambda a: _array.double(_array.stop_gradient(a) if plain else a))
    if not isinstance(S, LowDisplacementRank):
        k = _array.exponent(S._diagonals())
        return S.map(lambda a: _array.ldexp(a, -k)), k
    k, l = _array.exponent(S.g), _array.exponent(S.h)
    g, h = _array.ldexp(S.g, -k), _array.ldexp(S.h, -l)
    S = S._of(g=g, h=h, corner=S.shape, transposed=S.transposed)
    return uncancelled(S) if plain else S, k + l


def _power(A: StructuredMatrix, k: int) -> Array:
    return A.xp.asarray(2.0 ** max(-1000, min(1000, k)), dtype=A.dtype, device=A.device)


def _found(A: Displaced, S: Displaced, where: str, rhs: Array) -> tuple[StructuredMatrix, float, Array]:
    """S⁻¹, rcond, S⁻¹ rhs before refinement; SingularMatrixError where rcond < n u.

    ‖S⁻¹‖ is estimated from below by random right-hand sides of the same elimination, which are right even when S⁻¹ as a
    matrix has no digits left.
    """
    n = A.shape[0]
    probes = _array.normal(_check.as_generator(0, "solve"), (n, PROBES), S.arrays()[0])
    both = (
        _array.astype(X, A.xp.result_type(rhs.dtype, S.dtype))
        for X in (probes, _array.double(_array.stop_gradient(rhs)))
    )
    try:
        M, x = _invert(S, where, A.xp.concat(tuple(both), axis=1))
    except SingularMatrixError:  # a Hankel matrix is eliminated as a Toeplitz one
        raise singular(A, where, "a pivot is 0", DENSE) from None
    size = _one_norm(S) * _array.to_float(_array.frobenius(x[:, :PROBES])) / _array.to_float(_array.frobenius(probes))
    rcond = 1.0 / size if 0 < size < math.inf else 0.0
    _check.check_rcond(rcond, n, _array.unit_roundoff(A.xp, A.dtype), where, f"A ({A._name()})", DENSE)
    return M, rcond, x[:, PROBES:]


def _solve(A: Displaced, b: Array) -> Array:
    """Elimination, then refinement; the inverse's generators are part of the same elimination."""
    _full(A, solve)
    if not A.shape[0]:
        return _array.copy(b)
    S, k = _scaled(A)
    M, _, x = _found(A, S, "solve", b)
    return _refined(A, b, S, k, M, x)


def _inverted(A: Displaced, where: str) -> tuple[StructuredMatrix, float]:
    """A⁻¹ in double precision, with the gradients of A, and rcond."""
    S, k = _scaled(A)
    nothing = A.xp.zeros((A.shape[0], 0), dtype=S.dtype, device=A.device)
    if not A.shape[0]:
        none = LowDisplacementRank._of(g=nothing, h=nothing, corner=A.shape, transposed=False)
        return (Product._of(factors=(S, none)) if isinstance(S, Hankel) else none), 1.0
    M, rcond, _ = _found(A, S, where, nothing)
    S = _scaled(A, plain=False)[0] if _array.attached(*A.arrays()) else S
    return _polished(S, M)._scale(_power(M, -k)), rcond


def _polished(S: Displaced, M: StructuredMatrix) -> StructuredMatrix:
    """M ≈ S⁻¹ from orthogonal columns, refined, with the gradients of S."""
    if isinstance(S, Hankel):
        exchange, inner = M.factors  # type: ignore[attr-defined]
        return Product._of(factors=(exchange, polished(_toeplitz(S), inner)))
    if isinstance(S, LowDisplacementRank) and S.transposed:
        return polished(_turned(S), M.T).T
    return polished(S, M)


def _factorize(A: Displaced) -> Factorization:
    """Two products and refinement for each right-hand side."""
    _full(A, factorize)
    M, rcond = _inverted(A, "factorize")
    return Factorization(A, functools.partial(_solve_with, M.map(_array.stop_gradient)), M, rcond)


def _solve_with(M: StructuredMatrix, A: Displaced, b: Array) -> Array:
    if not A.shape[0]:
        return _array.copy(b)
    S, k = _scaled(A)
    return _refined(A, b, S, k, M._scale(_power(M, k)))


def _inverse(A: Displaced) -> StructuredMatrix:
    """A⁻¹ in the dtype of A, to κ u; a ConditionWarning where fewer than half of its digits are left."""
    _full(A, inverse)
    M, rcond = _inverted(A, "inverse")
    if _array.unit_roundoff(A.xp, M.dtype) / rcond > math.sqrt(_array.unit_roundoff(A.xp, A.dtype)):
        _lossy(A, rcond)
    return M.astype(A.dtype)


def _slogdet(A: Displaced) -> tuple[Array, Array]:
    """From the pivots; det J = (−1)^{n(n−1)/2}. The sign of a real determinant is that of the real part.

    Derivatives are those of tr(A⁻¹ dA), from the generators of the inverse.
    """
    _full(A, slogdet)
    xp, n = A.xp, A.shape[0]
    S, k = _scaled(A)
    found, swaps = Solved(None, 1.0, 0.0), 0
    if isinstance(S, LowDisplacementRank):
        found = _eliminate(S, S.g) if n else found
    elif n:
        swaps = n * (n - 1) // 2 if isinstance(S, Hankel) else 0
        T = _toeplitz(S) if isinstance(S, Hankel) else S
        found = displacement_solve(*toeplitz_generators(T.c, T.r), T.c[:, None])
    sign = found.sign if A._is_complex else math.copysign(1.0, found.sign.real) if found.sign else 0.0
    real = {"dtype": _array.real_dtype(xp, A.dtype), "device": A.device}
    logabs = xp.asarray(found.logabs + n * k * math.log(2.0), **real)
    unit = xp.asarray((-1) ** swaps * sign, dtype=A.dtype, device=A.device)
    if not n or not _array.attached(*A.arrays()):
        return unit, logabs
    W: Any = _scaled(A, plain=False)[0]  # the same determinant but for the sign
    W = _toeplitz(W) if isinstance(W, Hankel) else _turned(W) if getattr(W, "transposed", False) else W
    nothing = xp.zeros((n, 0), dtype=S.dtype, device=A.device)
    change = log_det_change(W, polished(W, _found(A, W.map(_array.stop_gradient), "slogdet", nothing)[0]))
    if not A._is_complex:
        return unit, logabs + _array.astype(change, logabs.dtype)
    turn = xp.exp(1j * xp.imag(change))
    return unit * _array.astype(turn, unit.dtype), logabs + _array.astype(xp.real(change), logabs.dtype)


for _cls in (Toeplitz, Hankel, LowDisplacementRank):
    solve.rules[_cls], inverse.rules[_cls], factorize.rules[_cls] = _solve, _inverse, _factorize
    slogdet.rules[_cls] = _slogdet


# refinement ---------------------------------------------------------------------------------------------------------------


def _refined(A: StructuredMatrix, b: Array, S: Displaced, k: int, M: StructuredMatrix, x: Array | None = None) -> Array:
    """x with A x = b to the round-off, A = 2^k S, by steps x + M (b − S x), from x or M b; M is S⁻¹.

    Where one step is not enough, M is too rough (κ u near 1) and the residual is eliminated anew. Gradients of A and b come from two steps
    with M and x held fixed, which have the right first and second derivatives.
    """
    rhs = _array.double(_array.stop_gradient(b))
    scale = A.shape[0] * _array.unit_roundoff(A.xp, A.dtype) * _norm(S)

    def judged(x: Array) -> tuple[Array, Array, float]:
        rest = rhs - times(S, x)
        return x, rest, _worst(rest, x, scale)

    eliminated = x is not None
    x, rest, reached = judged(times(M, rhs) if x is None else x)
    for _ in range(STEPS):
        if reached <= GOAL:
            break
        step = judged(x + times(M, rest))
        if not step[-1] <= GOAL:
            step = judged(x + _solved(S, rest, "solve") if eliminated else _solved(S, rhs, "solve"))
            eliminated, reached = True, reached if eliminated else math.inf
        if not step[-1] < reached:
            break
        x, rest, reached = step
    if not reached <= LIMIT:
        reached *= _norm(S) / _norm(S, SURE)  # one probe in some hundred is so short that it blames a good x
    if not reached <= LIMIT:
        _rough(A, reached)
    x = _array.astype(_array.ldexp(x, -k), b.dtype)
    if _array.attached(*A.arrays(), b):
        N = M._scale(_power(M, -k)).astype(b.dtype)
        for _ in range(2):
            x = x + N @ (b - A @ x)
    return x


def _worst(rest: Array, x: Array, scale: float) -> float:
    """The largest ‖r‖ / (scale ‖x‖) of the columns."""
    xp = _array.array_namespace(rest)
    if not _array.size(rest):
        return 0.0
    top, bottom = _array.frobenius(rest, axis=0), scale * _array.frobenius(x, axis=0)
    ratio = xp.where(top > 0, top / xp.where(bottom > 0, bottom, top * 2.0**-53), xp.zeros_like(top))
    return _array.to_float(xp.max(xp.where(xp.isnan(ratio), xp.ones_like(ratio) * math.inf, ratio)))


def _norm(A: Displaced, probes: int = PROBES) -> float:
    """‖A‖_F / √n, which is at most ‖A‖₂; of terms about that."""
    if not isinstance(A, LowDisplacementRank):
        return _array.to_float(norm.rule(A, "fro")) / math.sqrt(A.shape[0])
    V = _array.normal(_check.as_generator(0, "solve"), (A.shape[1], probes), A.g)
    return _array.to_float(_array.frobenius(times(A, V))) / _array.to_float(_array.frobenius(V))


def _one_norm(A: Displaced) -> float:
    """‖A‖₁; of terms a lower bound, rarely below a third of it, from at most 5 products with A and Aᴴ (Hager 1984)."""
    xp, n, H = A.xp, A.shape[0], A.H
    if not isinstance(A, LowDisplacementRank):
        return _array.to_float(norm.rule(A, 1))
    x = xp.ones((n, 1), dtype=A.dtype, device=A.device) / n
    best, seen = 0.0, -1
    for _ in range(5):
        y = times(A, x)
        size = xp.abs(y)
        total = _array.to_float(xp.sum(size))
        if not total > best:
            break
        best = total
        unit = xp.where(
            size > 0, y / _array.astype(xp.where(size > 0, size, xp.ones_like(size)), y.dtype), xp.ones_like(y)
        )
        j = int(xp.argmax(xp.abs(times(H, unit))))
        if j == seen:
            break
        seen = j
        x = xp.astype(xp.arange(n, dtype=xp.int64, device=A.device) == j, A.dtype)[:, None]
    return best


def _rough(A: StructuredMatrix, reached: float) -> None:
    warn(
        PrecisionWarning,
        f"solve: the residual with A ({A._name()}) is {reached:.0f} n u ‖A‖ ‖x‖ after refinement, not 1; use "
        "sm.solve(sm.Dense(A.to_dense()), b), or add s * Identity(n)",
    )


def _lossy(A: StructuredMatrix, rcond: float) -> None:
    warn(
        ConditionWarning,
        f"inverse: A ({A._name()}) has rcond {rcond:.1e}, and few digits of the inverse of a matrix of low displacement "
        "rank are left; use sm.factorize(A).solve(b), which refines",
    )
