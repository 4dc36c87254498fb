"""What one asks about two separated representations, or about some of their factors, without forming either matrix."""

import math
from collections.abc import Sequence
from typing import Any, cast

from . import _array, _check
from ._array import Array
from .basic import is_identity
from .errors import ArgumentError, DTypeError, SepmatError, ShapeError, UnsupportedError
from .kernels import terms
from .kronecker import Kronecker, _balanced, as_operator
from .linalg import convert, norm, trace
from .matrix import StructuredMatrix
from .separated import Separated, _as_terms, _concatenate, pairwise

__all__ = ["distance", "hadamard", "inner", "partial_trace"]


def inner(A: StructuredMatrix, B: StructuredMatrix) -> Array:
    """⟨A, B⟩_F = Σ_ij conj(A_ij) B_ij = Σ_lm conj(s_l) t_m Π_k ⟨V_k^l, W_k^m⟩ as a 0-d array of the common dtype.

    A, B: `Separated`, or what converts to it (Kronecker, KroneckerSum, Identity), with the same factor shapes. Computed in
    double precision with all exponents set aside, so nothing overflows on the way; |error| is a few u Σ|s_l| Σ|t_m| for
    unit-norm factors. Cost O(terms_A terms_B Σ m_k n_k).

    Raises DTypeError for what is no structured matrix, ShapeError where the factor shapes differ, UnsupportedError for a
    class that is no sum of Kronecker products. ‖A‖_F is `norm(A)`, ‖A − B‖_F is `distance(A, B)`: not from this
    formula, which keeps half the digits of a difference (Beylkin & Mohlenkamp 2005).

    >>> import numpy as np, sepmat as sm
    >>> A = sm.kron(np.eye(2), [[1.0, 2.0], [3.0, 4.0]])
    >>> float(sm.inner(A, A)), float(sm.inner(sm.Identity(4), A))  # the second one is the trace
    (60.0, 10.0)
    """
    A, B = _pair(A, B, "inner")
    with _array.quiet():
        value, e = terms.inner(A.factors, A._weights, B.factors, B._weights)
        return _array.astype(_array.ldexp(value, e), A.xp.result_type(A.dtype, B.dtype))


def hadamard(A: StructuredMatrix, B: StructuredMatrix) -> StructuredMatrix:
    """A ∘ B, the entrywise product: (V ⊗ W) ∘ (X ⊗ Y) = (V ∘ X) ⊗ (W ∘ Y), the numbers of terms multiply.

    A, B as for `inner`; two Kronecker products give a Kronecker product, everything else a `Separated` with
    terms_A terms_B terms (at most 2^20, else SizeLimitError). Raises as `inner` does.

    >>> import numpy as np, sepmat as sm
    >>> S = sm.KroneckerSum(np.diag([1.0, 2.0]), np.ones((3, 3)))
    >>> sm.hadamard(S, S)
    Separated((2×2 ⊗ 3×3) × 4 terms, shape=(6, 6), float64)
    """
    products = isinstance(A, Kronecker) and isinstance(B, Kronecker)
    A, B = _pair(A, B, "hadamard")
    with _array.quiet():
        (A, j), (B, k) = A._balance(), B._balance()
        C = pairwise(A, B, lambda F, G: F * G)
        if j + k:
            C = Separated._of(factors=C.factors, scales=_array.ldexp(C._weights, j + k))
        if not products:
            return C
        C, e = C._balance()
        first, *rest = (F[0, ...] for F in C.factors)
        return Kronecker._of(factors=(first if C.scales is None else _array.ldexp(first * C.scales[0], e), *rest))


def partial_trace(A: StructuredMatrix, factors: int | Sequence[int]) -> Any:
    """The trace over some of the factors: tr_2(V ⊗ W ⊗ X) = tr(W) V ⊗ X; a 0-d array, `trace(A)`, where none is left.

    A: `Separated`, Kronecker or KroneckerSum. factors: an index or several, from -d to d - 1, of square factors; the others
    may be rectangular and keep their order. A Kronecker product stays one, everything else gives a `Separated` of as
    many terms as before. Cost O(terms Σ m_i).

    Raises OutOfBoundsError for an index beyond the factors, ShapeError for a factor that is not square or named twice.

    >>> import numpy as np, sepmat as sm
    >>> A = sm.kron([[1.0, 2.0]], np.diag([3.0, 4.0]))
    >>> sm.partial_trace(A, 1).to_dense()
    array([[ 7., 14.]])
    """
    B = A if isinstance(A, Kronecker) else as_separated(A, "partial_trace", "A")
    shapes = [F.shape for F in B.operators] if isinstance(B, Kronecker) else B.shapes
    traced = _traced(factors, shapes)
    if len(traced) in (0, len(shapes)):
        return trace(B) if traced else B
    kept = [i for i in range(len(shapes)) if i not in traced]
    with _array.quiet():
        if isinstance(B, Kronecker):
            even, e = _balanced(B.factors)
            scale = _array.scaled_product([trace.rule(as_operator(even[i])) for i in traced])
            return Kronecker._of(factors=tuple(even[i] for i in kept))._scale(_array.ldexp(scale, e))
        B, e = B._balance()
        traces = [B.xp.sum(B.xp.linalg.diagonal(B.factors[i]), axis=-1) for i in traced]
        scales = _array.ldexp(_array.scaled_product([B._weights, *traces]), e)
        return Separated._of(factors=tuple(B.factors[i] for i in kept), scales=scales)


def distance(A: StructuredMatrix, B: StructuredMatrix) -> Array:
    """‖A − B‖_F as a 0-d array, by the QR sweep of the terms of both: right where A and B agree to many digits.

    A, B as for `inner`. The error is a few d u (Σ|s_l| + Σ|t_m|) for unit-norm factors, u of double precision also for
    float32 data, so relative errors down to 1e-14 are true; ‖A‖² + ‖B‖² − 2⟨A, B⟩ stops at 2e-8. Nothing of the size
    of A is formed; cost O(d M R³), R the terms of both, M <= R the entries of a factor. Raises as `inner` does.

    >>> import numpy as np, sepmat as sm
    >>> A = sm.Separated([np.ones((2, 3, 3))] * 3)
    >>> print(f"{float(sm.distance(A, A * (1 + 1e-12)) / sm.norm(A)):.2e}")
    1.00e-12
    """
    A, B = _pair(A, B, "distance")
    with _array.quiet():
        return norm.rule(_concatenate(A, cast(Separated, -B)), "fro")


def relative_distance(A: StructuredMatrix, B: StructuredMatrix) -> float:
    """‖A − B‖_F / ‖A‖_F as `distance`, whatever the range of both norms; 0 for A = B = 0, inf for A = 0 alone."""
    A, B = _pair(A, B, "relative_distance")
    top, _, j = _concatenate(A, cast(Separated, -B))._sweep("relative_distance")
    bottom, _, k = A._sweep("relative_distance")
    if not top or not bottom:
        return math.inf if top else 0.0
    return math.ldexp(top / bottom, max(-2000, min(j - k, 900)))


# arguments --------------------------------------------------------------------------------------------------------------


def _pair(A: Any, B: Any, where: str) -> tuple[Separated, Separated]:
    """Both as sums of Kronecker products with the same factor shapes; an identity takes those of the other."""
    for name, X in (("A", A), ("B", B)):
        _check_structured(X, where, name)
    _check.same_place(where, (("A", A.arrays()[0]), ("B", B.arrays()[0])))
    if A.shape != B.shape:
        got, expected = f"{B.shape[0]}×{B.shape[1]}", f"{A.shape[0]}×{A.shape[1]} as A"
        raise ShapeError(where, "B", got, expected, "Check the sizes")
    known = {name: as_separated(X, where, name) for name, X in (("A", A), ("B", B)) if not is_identity(X)}
    shapes = next((X.shapes for X in known.values()), (A.shape,))
    if len(known) < 2:
        _check.check_bytes(max(shapes), _array.itemsize(A.dtype), _check.DENSE_LIMIT, where, "Use sm.trace(A)")
    first, second = (known.get(name) or _as_terms(X, shapes) for name, X in (("A", A), ("B", B)))
    if first is None or second is None or first.shapes != second.shapes:
        got = _split(known["B"].shapes) if "B" in known else B._name()
        expected = f"the factor shapes of A, {_split(known['A'].shapes) if 'A' in known else 'square ones'}"
        raise ShapeError(where, "B", got, expected, "Use factors of the same shapes in both")
    return first, second


def _split(shapes: Sequence[tuple[int, int]]) -> str:
    return " ⊗ ".join(f"{m}×{n}" for m, n in shapes)


def _check_structured(A: Any, where: str, name: str) -> None:
    if not isinstance(A, StructuredMatrix):
        advice = "Use nearest_separated(A, shapes, ...), or sm.Separated([A[None]]) for a single factor"
        raise DTypeError(where, name, f"a {type(A).__name__}", f"a structured matrix: {_SUMS}", advice)


def as_separated(A: Any, where: str, name: str, refusal: type[SepmatError] = UnsupportedError) -> Separated:
    """A as a sum of Kronecker products, where it is one; a matrix of another class raises `refusal`."""
    _check_structured(A, where, name)
    try:
        return cast(Separated, convert(A, Separated))
    except UnsupportedError:
        advice = "Use nearest_separated(A.to_dense(), shapes, ...), or sm.Separated([A.to_dense()[None]])"
        raise refusal(where, name, A._name(), _SUMS, advice) from None


_SUMS = "a Separated, or a Kronecker product or sum"


def _traced(factors: Any, shapes: Sequence[tuple[int, int]]) -> list[int]:
    """The indices of square factors, each once."""
    where = "partial_trace"
    traced = list(_check.as_indices(factors, len(shapes), "factors", where))
    for i in traced:
        m, n = shapes[i]
        if m != n:
            advice = "Trace over square factors only"
            raise ShapeError(where, "factors", f"factor {i} is {m}×{n}", "a square factor", advice)
        if traced.count(i) > 1:
            raise ArgumentError(where, "factors", f"{factors} names factor {i} twice", "each factor once", "Drop one")
    return traced
