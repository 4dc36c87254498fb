"""Solving with sums of Kronecker products: one term factor by factor, several terms whose factors commute by their eigenvectors.

Where the factors of every place are Hermitian and commute, F_i^l = Q_i diag(d_i^l) Q_iᴴ with one unitary Q_i for all terms l, and

    A = Σ_l s_l F_1^l ⊗ … ⊗ F_d^l = (⊗ Q_i) Λ (⊗ Q_i)ᴴ,   Λ = Σ_l s_l diag(d_1^l) ⊗ … ⊗ diag(d_d^l):

a Kronecker product plus a multiple of the identity (a covariance and its noise, normal equations and their regularisation), every
polynomial in the second differences along each axis. Lynch, Rice and Thomas, "Direct solution of partial difference
equations by tensor product methods" (1964). Q_i diagonalises a random combination of the F_i^l; that it diagonalises every one
of them is checked, to the round-off, and else there is no rule.
"""

import functools
from typing import NamedTuple

from . import _array, _check
from ._array import Array
from .basic import Diagonal
from .kronecker import Kronecker, apply_factors, outer
from .linalg import (
    Factorization,
    OpenFunction,
    eigvals,
    factorize,
    factorize_as_solve,
    inverse,
    log_product,
    singular,
    slogdet,
    solve,
)
from .matrix import StructuredMatrix
from .separated import Separated

__all__: list[str] = []

DRAWS = 3  # of combinations
TOLERANCE = 16.0  # ‖F − Qᵢ diag(d) Qᵢᴴ‖ / (n u ‖F‖); a combination with the identity leaves about 1


class _Spectrum(NamedTuple):
    """A = (⊗ Q_i) diag(values) (⊗ Q_i)ᴴ; rcond: min |Λ| over Σ_l |s_l| Π ‖F_i^l‖₂ >= ‖A‖₂, to which the error of Λ is relative."""

    bases: tuple[Array, ...]
    values: Array
    rcond: float

    def solve(self, b: Array) -> Array:
        xp = _array.array_namespace(b)
        adjoints = [xp.conj(xp.matrix_transpose(Q)) for Q in self.bases]
        y = apply_factors(adjoints, b, -2) / _array.astype(self.values, b.dtype)[:, None]
        return apply_factors(self.bases, y, -2)

    def check(self, where: str) -> None:
        xp = _array.array_namespace(self.values)
        n, u = max(Q.shape[0] for Q in self.bases), _array.unit_roundoff(xp, self.values.dtype)
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
    bases, spectra = list[Array](), list[Array]()
    for F in factors:
        tolerance, norms = TOLERANCE * F.shape[1] * u, _norms(F)
        norms = _array.astype(xp.where(norms > 0, norms, xp.ones_like(norms)), F.dtype)
        F, weights = F / norms[:, None, None], weights * norms
        turned = xp.conj(xp.matrix_transpose(F))
        if not _array.to_float(xp.max(_norms(F - turned))) <= tolerance:
            return "factors that are not Hermitian"
        basis = _common_basis((F + turned) / 2, tolerance)
        if basis is None:
            return "factors that do not commute"
        bases.append(basis[0])
        spectra.append(basis[1])
    values, size = xp.zeros((A.shape[0],), dtype=A.dtype, device=A.device), 0.0
    for l in range(A.terms):
        term = outer("solve", [weights[l] * spectra[0][l, :], *[d[l, :] for d in spectra[1:]]], lambda x, y: x * y)
        values, size = values + term, size + _array.to_float(xp.max(xp.abs(term)))
    smallest = _array.to_float(xp.min(xp.abs(values)))
    return _Spectrum(tuple(bases), _array.ldexp(values, e), smallest / size if size else 0.0)


def _common_basis(F: Array, tolerance: float) -> tuple[Array, Array] | None:
    """(Q, d), d (terms, n), with Qᴴ F^l Q = diag(d^l) to the tolerance for a stack F of Hermitian matrices of norm 1."""
    xp, rng, n = _array.array_namespace(F), _check.as_generator(0, "solve"), F.shape[1]
    real = _array.real_dtype(xp, F.dtype)
    off = 1.0 - xp.eye(n, dtype=F.dtype, device=_array.device(F))
    for _ in range(DRAWS):
        weights = _array.normal(rng, (F.shape[0], 1, 1), xp.zeros((0,), dtype=real, device=_array.device(F)))
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
    first, *rest = (F[0, ...] for F in A.factors)
    return Kronecker._of(factors=(first * A._weights[0], *rest))


@solve.register
def _(A: Separated, b: Array) -> Array:
    """With refinement by products of A: one step, and where somebody differentiates two, for the second derivative."""
    single = _single(A, solve)
    if single is not None:
        return solve.rule(single, b)
    spectrum = _spectrum(A, solve)
    spectrum.check("solve")
    x = spectrum.solve(_array.stop_gradient(b))
    for _ in range(2 if _array.attached(*A.arrays(), b) else 1):
        x = x + spectrum.solve(b - A._product(x, -2))
    return x


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
    """(⊗ Q_i) Λ⁻¹ (⊗ Q_i)ᴴ as a product of three."""
    single = _single(A, inverse)
    if single is not None:
        return inverse.rule(single)
    spectrum = _detached(A, inverse)
    spectrum.check("inverse")
    Q = Kronecker._of(factors=spectrum.bases)
    return Q @ Diagonal(1.0 / _array.astype(spectrum.values, A.dtype)) @ Q.H


@slogdet.register
def _(A: Separated) -> tuple[Array, Array]:
    if not A.shape[0]:
        return log_product(A.xp.ones((1,), dtype=A.dtype, device=A.device))
    if not bool(A.xp.any(A._weights != 0)):
        return log_product(A._weights if A.terms else A.xp.zeros((1,), dtype=A.dtype, device=A.device))
    single = _single(A, slogdet)
    return log_product(_detached(A, slogdet).values) if single is None else slogdet.rule(single)


@eigvals.register
def _(A: Separated) -> Array:
    if not A.shape[0] or not bool(A.xp.any(A._weights != 0)):
        return A.xp.zeros((A.shape[0],), dtype=_array.complex_dtype(A.xp, A.dtype), device=A.device)
    single = _single(A, eigvals)
    if single is not None:
        return eigvals.rule(single)
    return _array.astype(_detached(A, eigvals).values, _array.complex_dtype(A.xp, A.dtype))


def _detached(A: Separated, function: OpenFunction) -> _Spectrum:
    if _array.attached(*A.arrays()):
        raise function.unsupported(A, "no gradient through the eigenvectors of several terms")
    return _spectrum(A, function)


solve.ways[Separated] = (
    "Use sm.interop.cg(A, b, M=sm.inverse(sm.kronecker_preconditioner(A))), or sm.solve(sm.Dense(A.to_dense()), b)"
)
