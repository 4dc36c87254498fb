"""Fewer terms for W(G, H)."""

from . import _array, _check
from .displacement import LowDisplacementRank
from .errors import speaks
from .expressivity import displacement_form
from .fit import Fit, check_tolerance, constant, svd, tail_norms
from .linalg import norm
from .matrix import StructuredMatrix

__all__ = ["compress_displacement"]


@speaks
def compress_displacement(W: StructuredMatrix, rank: int | None = None, tol: float | None = None) -> Fit:
    """W(G, H) with fewer terms, from the singular values of ∇(W) = 2 G (J H)ᵀ: Fit, with the true error.

    W: a `LowDisplacementRank`, or what displacement_form takes. rank: so many terms; tol: the fewest that this route
    meets the relative error tol with; neither: those that rounding did not add, tol = 4 N u. At the displacement rank
    and above the result is W, at O(N r²) for two QR factorizations and O(N log N r²) for the norms. Below it the
    largest singular values of ∇ are kept, which is not the best choice: their errors weigh between 1/2 and N/π in W.
    `nearest_displacement(W.to_dense(), rank)` fits them. Raises ArgumentError, DTypeError, UnsupportedError.

    >>> import numpy as np, sepmat as sm
    >>> T = sm.Toeplitz([4.0, 1.0, 0.5, 0.0, 2.0], [4.0, 2.0, 1.0, 3.0, 1.0])
    >>> W = sm.convert(T, sm.LowDisplacementRank) - sm.convert(T.T, sm.LowDisplacementRank)
    >>> W.terms, sm.compress_displacement(W).matrix
    (4, LowDisplacementRank(r=2, shape=(5, 5), float64))
    """
    where = "compress_displacement"
    if rank is not None and tol is not None:
        _check.one_of(where, rank=rank, tol=tol)
    W = displacement_form(W)
    xp, N = W.xp, W.g.shape[0]
    u = _array.unit_roundoff(xp, _check.check_full_precision(W.g, where, "W").dtype)
    for name, X in (("G", W.g), ("H", W.h)):
        _check.check_finite(X, where, name)
    limit = 4 * N * u if tol is None else check_tolerance(tol, W.g, where)
    if rank is not None:
        rank = _check.as_integer(rank, where, "rank", maximum=max(1, N))
    W = W.map(lambda a: constant(a, where, "W"))
    with _array.quiet():
        V, tails = _by_size(W)
        size, most = _array.to_float(norm(V)), V.terms

        def part(start: int, stop: int) -> LowDisplacementRank:
            return V._of(g=V.g[:, start:stop], h=V.h[:, start:stop], corner=V.corner, transposed=False)

        def error(k: int) -> float:
            return _array.to_float(norm(part(k, most))) / size if k < most and size else 0.0

        if rank is None:
            rank = next((k for k in range(most) if tails[k] <= limit * size and error(k) <= limit), most)
        A = part(0, min(rank, most))
        residual, _ = _by_size(W._plus(-A))
        found = _array.to_float(norm(residual)) / size if size else 0.0
    return Fit(A, found, A.num_parameters, optimal=found == 0.0)


def _by_size(W: LowDisplacementRank) -> tuple[LowDisplacementRank, list[float]]:
    """W with generators from the SVD of ∇(W), so that its terms do not cancel; ‖∇‖_F / 2, at most ‖W‖_F, of those from k on."""
    xp = W.xp
    (g, h), e = _array.balanced((xp.matrix_transpose(W.g), xp.matrix_transpose(W.h)), beyond=0)
    (P, R), (Q, S) = (_array.qr(xp.matrix_transpose(X)) for X in (g, h))
    U, s, V = svd(R @ xp.matrix_transpose(S))
    root = _array.astype(xp.sqrt(s), P.dtype)
    G, H = _array.ldexp(P @ (U * root), e - e // 2), _array.ldexp(Q @ (V * root), e // 2)
    found = LowDisplacementRank._of(g=G, h=H, corner=W.corner, transposed=False)
    return found, tail_norms(_array.ldexp(s, e))
