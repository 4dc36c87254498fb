"""Solving with sums of Kronecker products: one term factor by factor, several terms that one congruence diagonalises.

Where the factors of a place are Hermitian and commute, F^l = Q diag(d^l) Qᴴ with one unitary Q for all terms l; where one of them, M,
is definite and the M^{-1/2} F^l M^{-1/2} commute (always for two of them, a stiffness and a mass matrix), F^l = X⁻ᴴ diag(d^l) X⁻¹
with X = M^{-1/2} Q. With such an X_i in every place

    A = Σ_l s_l F_1^l ⊗ … ⊗ F_d^l = (⊗ X_i)⁻ᴴ Λ (⊗ X_i)⁻¹,   Λ = Σ_l s_l diag(d_1^l) ⊗ … ⊗ diag(d_d^l):

a Kronecker product plus a multiple of the identity (a covariance and its noise, normal equations and their regularisation),
polynomials in the second differences along each axis, finite elements K ⊗ M + M ⊗ K on a grid. Lynch, Rice and Thomas, "Direct solution
of partial difference equations by tensor product methods" (1964). Q diagonalises a random combination; that it diagonalises
every one of them is checked, to the round-off, and else there is no rule.
"""

import functools
import math
from collections.abc import Sequence
from typing import Any, NamedTuple

from . import _array, _check
from ._array import Array
from .basic import Diagonal, inverse_of_values
from .kronecker import Kronecker, apply_factors, outer
from .linalg import (
    Factorization,
    OpenFunction,
    cut_off,
    eigvals,
    factorize,
    factorize_as_solve,
    inverse,
    log_product,
    lstsq,
    singular,
    slogdet,
    solve,
)
from .matrix import StructuredMatrix
from .separated import Separated

__all__: list[str] = []

DRAWS = 3  # of combinations
TOLERANCE = 16.0  # ‖F − Qᵢ diag(d) Qᵢᴴ‖ / (n u ‖F‖); a combination with the identity leaves about 1


class _Basis(NamedTuple):
    """X with Xᴴ F^l X = diag(values[l]) for the factors of one place; X Xᴴ = M⁻¹, M = I where they commute."""

    X: Array
    values: Array
    logdet: float  # of M
    condition: float  # of M
    ratios: Array  # ‖y‖ / ‖x‖ of the columns of X⁻ᴴ and X


class _Spectrum(NamedTuple):
    """A = (⊗ X_i)⁻ᴴ diag(values) (⊗ X_i)⁻¹ with det A = e^logdet Π values.

    rcond: of the columns x of ⊗ X_i, A x = λ y, the least |λ| ‖y‖ / ‖x‖ >= 1 / ‖A⁻¹‖₂, over Σ_l |s_l| Π ‖F_i^l‖₂ >= ‖A‖₂;
    to the latter the error of the values is relative.
    """

    bases: tuple[Array, ...]
    values: Array
    logdet: float
    rcond: float
    unitary: bool

    def solve(self, b: Array) -> Array:
        y = apply_factors([_array.adjoint(X) for X in self.bases], b, -2)
        return apply_factors(self.bases, y / _array.astype(self.values, b.dtype)[:, None], -2)

    def check(self, where: str) -> None:
        xp = _array.array_namespace(self.values)
        n, u = max(X.shape[0] for X in self.bases), _array.unit_roundoff(xp, self.values.dtype)
        _check.check_rcond(self.rcond, n, u, where, "A (a sum of commuting terms)", _check.DENSE_LEAST_SQUARES)


def _spectrum(A: Separated, function: OpenFunction) -> _Spectrum:
    found = A._remember("commuting", lambda: _diagonalized(A.map(_array.stop_gradient)))
    if not isinstance(found, _Spectrum):
        raise function.unsupported(A, f"several terms, {found},")
    return found


def _diagonalized(A: Separated) -> _Spectrum | str:
    """The spectrum, or why there is none."""
    if any(m != n for m, n in A.shapes):
        return "rectangular factors"
    xp, u = A.xp, _array.unit_roundoff(A.xp, A.dtype)
    (*factors, weights), e = _array.balanced((*A.factors, A._weights))
    bases, sizes = list[_Basis](), A.xp.abs(weights)
    for F in factors:
        tolerance, norms = TOLERANCE * F.shape[1] * u, _norms(F)
        norms = _array.astype(xp.where(norms > 0, norms, xp.ones_like(norms)), F.dtype)
        F, weights = F / norms[:, None, None], weights * norms
        turned = xp.conj(xp.matrix_transpose(F))
        if not _array.to_float(xp.max(_norms(F - turned))) <= tolerance:
            return "factors that are not Hermitian"
        F = (F + turned) / 2
        basis = _common_basis(F, tolerance) or _common_congruence(F, tolerance, u)
        if basis is None:
            return "factors that do not commute, nor with a well-conditioned definite one of them divided out"
        bases.append(basis)
        sizes = sizes * xp.abs(norms) * xp.max(xp.abs(xp.linalg.eigvalsh(F)), axis=-1)
    if math.prod(basis.condition for basis in bases) > u**-0.5:
        return "definite factors that are ill-conditioned together"
    values = _values(weights, [basis.values for basis in bases])
    grown = xp.abs(values) * outer("solve", [basis.ratios for basis in bases], lambda x, y: x * y)
    size, N = _array.to_float(xp.sum(sizes)), A.shape[0]
    return _Spectrum(
        tuple(basis.X for basis in bases),
        _array.ldexp(values, e),
        sum(basis.logdet * (N // basis.X.shape[0]) for basis in bases),
        _array.to_float(xp.min(grown)) / size if size else 0.0,
        all(basis.condition == 1 for basis in bases),
    )


def _values(weights: Array, diagonals: Sequence[Array]) -> Array:
    """Σ_l s_l d_1^l ⊗ … ⊗ d_d^l."""
    total: Any = 0.0
    for l in range(weights.shape[0]):
        first, *rest = (d[l, :] for d in diagonals)
        total = total + outer("solve", [weights[l] * first, *rest], lambda x, y: x * y)
    return total


def _common_basis(F: Array, tolerance: float) -> _Basis | None:
    """Of commuting ones: X is unitary."""
    found = _diagonalizing(F, tolerance)
    if found is None:
        return None
    X, values = found
    xp = _array.array_namespace(F)
    return _Basis(
        X, values, 0.0, 1.0, xp.ones((F.shape[1],), dtype=_array.real_dtype(xp, F.dtype), device=_array.device(F))
    )


def _common_congruence(F: Array, tolerance: float, u: float) -> _Basis | None:
    """With the best-conditioned definite one of them as M: M^{-1/2} F^l M^{-1/2} commute. Rounding grows by κ(M)."""
    xp = _array.array_namespace(F)
    w, V = xp.linalg.eigh(F)
    least = xp.min(xp.abs(w), axis=-1) / xp.max(xp.abs(w), axis=-1)
    definite = xp.where(w[:, 0] * w[:, -1] > 0, least, xp.zeros_like(least))
    l = int(xp.argmax(definite))
    rcond = _array.to_float(definite[l])
    if not rcond > u**0.5:
        return None
    size, V = xp.abs(w[l, :]), V[l, :, :]
    root = _array.astype(xp.sqrt(size), V.dtype)[None, :]
    B = V / root
    turned = _array.adjoint(B) @ F @ B
    found = _diagonalizing(
        (turned + xp.conj(xp.matrix_transpose(turned))) / 2, tolerance / _array.to_float(xp.min(size))
    )
    if found is None:
        return None
    X, Y = B @ found[0], (V * root) @ found[0]
    ratios = _array.frobenius(Y, axis=0) / _array.frobenius(X, axis=0)
    return _Basis(X, found[1], _array.to_float(xp.sum(xp.log(size))), 1 / rcond, ratios)


def _diagonalizing(F: Array, tolerance: float) -> tuple[Array, Array] | None:
    """(Q, d), d (terms, n), with Qᴴ F^l Q = diag(d^l) to the tolerance for a stack F of Hermitian matrices."""
    xp, rng, n = _array.array_namespace(F), _check.as_generator(0, "solve"), F.shape[1]
    real = _array.real_dtype(xp, F.dtype)
    off = 1.0 - xp.eye(n, dtype=F.dtype, device=_array.device(F))
    norms = _norms(F)
    shares = 1.0 / xp.where(norms > 0, norms, xp.ones_like(norms))[:, None, None]
    for _ in range(DRAWS):
        weights = shares * _array.normal(rng, (F.shape[0], 1, 1), xp.zeros((0,), dtype=real, device=_array.device(F)))
        _, Q = xp.linalg.eigh(xp.sum(_array.astype(weights, F.dtype) * F, axis=0))
        D = xp.conj(xp.matrix_transpose(Q)) @ F @ Q
        if _array.to_float(xp.max(_norms(D * off))) <= tolerance:
            return Q, xp.linalg.diagonal(D)
    return None


def _norms(F: Array) -> Array:
    xp = _array.array_namespace(F)
    return _array.frobenius(xp.reshape(F, (F.shape[0], F.shape[1] * F.shape[2])), axis=1)


# rules --------------------------------------------------------------------------------------------------------------------


def _single(A: Separated, function: OpenFunction) -> Kronecker | None:
    """The one term as a Kronecker product, None for several; A without a term is singular."""
    if A.shape[0] and not bool(A.xp.any(A._weights != 0)):
        raise singular(A, function.__name__, "it has no term")
    if not A.shape[0]:
        return Kronecker._of(factors=(A.xp.zeros((0, 0), dtype=A.dtype, device=A.device),))
    if A.terms > 1:
        return None
    A, e = A._balance()
    first, *rest = (F[0, ...] for F in A.factors)
    return Kronecker._of(factors=(_array.ldexp(first * A._weights[0], e), *rest))


@solve.register
def _(A: Separated, b: Array) -> Array:
    """With refinement by products of A: one step, and two after a congruence or where somebody differentiates, for the second derivative.

    The residual is at most c n u Σ |s_l| Π ‖F_i^l‖ ‖x‖ (1 + u κ_M² κ(A)), κ_M = Π κ(M_i), which is 1 where factors commute.
    """
    single = _single(A, solve)
    if single is not None:
        return solve.rule(single, b)
    spectrum = _spectrum(A, solve)
    spectrum.check("solve")
    x = spectrum.solve(_array.stop_gradient(b))
    for _ in range(1 if spectrum.unitary and not _array.attached(*A.arrays(), b) else 2):
        x = x + spectrum.solve(b - A._product(x, -2))
    return x


@lstsq.register
def _(A: Separated, b: Array, rcond: float | None) -> Array:
    """One term factor by factor; of factors that commute by the eigenvalues, which are the singular values but for signs and phases.

    No gradient through several terms of which some eigenvalue counts as zero.
    """
    if not bool(A.xp.any(A._weights != 0)):
        return A.xp.zeros((A.shape[1], b.shape[1]), dtype=b.dtype, device=A.device)
    single = _single(A, lstsq)
    if single is not None:
        return lstsq.rule(single, b, rcond)
    spectrum = _spectrum(A, lstsq)
    if not spectrum.unitary:
        return solve.rule(A, b)
    inverted = inverse_of_values(spectrum.values, cut_off(A, rcond))
    if bool(A.xp.all(inverted != 0)):
        return solve.rule(A, b)
    if _array.attached(*A.arrays(), b):
        raise lstsq.unsupported(A, "no gradient where eigenvalues count as zero,")
    X = [_array.astype(Q, b.dtype) for Q in spectrum.bases]
    y = apply_factors([_array.adjoint(Q) for Q in X], b, -2)
    return apply_factors(X, _array.astype(inverted, b.dtype)[:, None] * y, -2)


@factorize.register
def _(A: Separated) -> Factorization:
    single = _single(A, factorize)
    if single is None:
        return factorize_as_solve(A)
    inner: Factorization = factorize.rule(single)
    return Factorization(A, functools.partial(_solve_single, inner), inner.inverse, inner.rcond)


def _solve_single(inner: Factorization, A: Separated, b: Array) -> Array:
    return inner.solver(inner.matrix.astype(b.dtype), b)


@inverse.register
def _(A: Separated) -> StructuredMatrix:
    """(⊗ X_i) Λ⁻¹ (⊗ X_i)ᴴ as a product of three."""
    single = _single(A, inverse)
    if single is not None:
        return inverse.rule(single)
    spectrum = _detached(A, inverse)
    spectrum.check("inverse")
    X = Kronecker._of(factors=spectrum.bases)
    return X @ Diagonal(1.0 / _array.astype(spectrum.values, A.dtype)) @ X.H


@slogdet.register
def _(A: Separated) -> tuple[Array, Array]:
    """Σ log|Λ|, and log det M_i where a congruence divided it out; for its derivatives see `_log_det_change`."""
    if not A.shape[0]:
        return log_product(A.xp.ones((1,), dtype=A.dtype, device=A.device))
    if not bool(A.xp.any(A._weights != 0)):
        return log_product(A._weights if A.terms else A.xp.zeros((1,), dtype=A.dtype, device=A.device))
    single = _single(A, slogdet)
    if single is not None:
        return slogdet.rule(single)
    spectrum = _spectrum(A, slogdet)
    sign, logabs = log_product(spectrum.values)
    logabs = logabs + spectrum.logdet
    if not _array.attached(*A.arrays()):
        return sign, logabs
    xp, change = A.xp, _log_det_change(A, spectrum)
    change = change - _array.stop_gradient(change)
    if not A._is_complex:
        return sign, logabs + change
    return sign * _array.astype(xp.exp(1j * xp.imag(change)), sign.dtype), logabs + xp.real(change)


def _log_det_change(A: Separated, spectrum: _Spectrum) -> Array:
    """2 tr(SA) − ½ tr(SASA) with S = A⁻¹ held fixed: log det A up to a constant and terms of third order in I − SA.

    With G_i^l = X_iᴴ F_i^l X_i and the vector v = 1/Λ: tr(SA) = Σ_l s_l (⊗ diag G_i^l)ᵀ v, tr(SASA) = Σ_lm s_l s_m vᵀ ⊗_i (G_i^l ∘ G_i^mᵀ) v.
    """
    xp, v = A.xp, 1.0 / _array.astype(spectrum.values, A.dtype)
    G = [_array.adjoint(X) @ F @ X for X, F in zip(spectrum.bases, A.factors, strict=True)]
    first = xp.sum(v * _values(A._weights, [xp.linalg.diagonal(g) for g in G]))
    second: Any = 0.0
    for l in range(A.terms):
        for m in range(A.terms):
            factors = [g[l, :, :] * xp.matrix_transpose(g[m, :, :]) for g in G]
            second = second + A._weights[l] * A._weights[m] * xp.sum(v * apply_factors(factors, v[:, None], -2)[:, 0])
    return 2.0 * first - 0.5 * second


@eigvals.register
def _(A: Separated) -> Array:
    """Each right to a few n u Σ |s_l| Π ‖F_i^l‖₂, which is more than n u ‖A‖ where terms cancel."""
    if not A.shape[0] or not bool(A.xp.any(A._weights != 0)):
        return A.xp.zeros((A.shape[0],), dtype=_array.complex_dtype(A.xp, A.dtype), device=A.device)
    single = _single(A, eigvals)
    if single is not None:
        return eigvals.rule(single)
    spectrum = _detached(A, eigvals)
    if not spectrum.unitary:
        raise eigvals.unsupported(A, "several terms, factors that do not commute (but for a congruence),")
    return _array.astype(spectrum.values, _array.complex_dtype(A.xp, A.dtype))


def _detached(A: Separated, function: OpenFunction) -> _Spectrum:
    if _array.attached(*A.arrays()):
        raise function.unsupported(A, "no gradient through the eigenvectors of several terms")
    return _spectrum(A, function)


lstsq.square.add(Separated)
lstsq.ways[Separated] = "Use sm.interop.lsmr(A, b), or sm.lstsq(sm.Dense(A.to_dense()), b)"
solve.ways[Separated] = (
    "Use sm.interop.cg(A, b, M=sm.inverse(sm.kronecker_preconditioner(A))), or sm.solve(sm.Dense(A.to_dense()), b)"
)
