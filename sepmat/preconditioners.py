"""Structured matrices near a given one whose inverses are structured too: what makes an iterative solve short.

Each function returns P ≈ A. Pass `M=sm.inverse(P)` to `sepmat.interop.cg`, `minres` and `gmres`: they take an approximate
inverse, as SciPy's solvers do (`separated_inverse` returns one itself). Nothing is regularised in silence: where P is
singular `sm.inverse` raises, and `floor=` or `damp=` say what is to be done about it.
"""

import functools
import math
from collections.abc import Callable, Sequence
from typing import Any

from . import _array, _check
from ._array import Array
from .algebra import relative_distance
from .basic import Diagonal
from .compress import compress
from .errors import ShapeError, UnsupportedError, speaks
from .fourier_basis import splitting
from .functions import schulz_inverse
from .kernels import fourier_nd
from .kernels.terms import khatri_rao
from .kronecker import Kronecker
from .kronecker_sum import KroneckerSum
from .linalg import convert, inverse
from .matrix import Product, StructuredMatrix
from .multilevel import MultilevelCirculant, MultilevelToeplitz
from .nearest_kronecker import nearest_kronecker
from .separated import Separated
from .toeplitz import Circulant

__all__ = ["kronecker_preconditioner", "separated_inverse", "strang", "superoptimal", "t_chan"]

HERMITIAN = 1e-6  # a relative difference from the adjoint that rounding may leave, also in float32


def strang(T: StructuredMatrix, floor: float | None = None) -> StructuredMatrix:
    """Strang's circulant: the central diagonals of T, |k| <= n/2, wrapped around; level by level where there are several.

    T: a square Toeplitz or MultilevelToeplitz matrix, or what converts to one; the result is a Circulant, with several
    levels a MultilevelCirculant. For n even c_{n/2} is the mean of t_{n/2} and t_{-n/2}. O(n). For a Hermitian T with a
    positive generating function in the Wiener class it is positive definite once n is large, and the eigenvalues of
    C⁻¹T cluster at 1, so that CG converges superlinearly.

    floor: eigenvalues below floor · max|λ| are raised to it, for a Hermitian T all of them, also negative ones, so that
    C is positive definite; else those of smaller modulus, the phase kept. Default: C as it comes, singular or not.
    Raises UnsupportedError, ShapeError, ArgumentError, NonFiniteError.

    Source: Strang, "A proposal for Toeplitz matrix calculations", Stud. Appl. Math. 74 (1986).

    >>> import sepmat as sm
    >>> sm.strang(sm.Toeplitz([4.0, 1.0, 0.5, 0.1])).c
    array([4. , 1. , 0.5, 1. ])
    """

    return _wrapped(
        T, lambda k, n: T.xp.clip(0.5 * (n + 1) - k, 0.0, 1.0), floor, "strang"
    )  # 1, at k = n/2 1/2, then 0


def t_chan(T: StructuredMatrix, floor: float | None = None) -> StructuredMatrix:
    """T. Chan's optimal circulant, the nearest one to T in the Frobenius norm: c_k = ((n − k) t_k + k t_{k−n}) / n.

    T, floor and errors as for `strang`; with several levels the nearest multilevel circulant. O(n), where
    `nearest_circulant` reads the dense matrix. It is the diagonal of T in the Fourier basis, so for a Hermitian T its
    eigenvalues lie between the smallest and the largest of T: positive definite where T is.

    Source: T. Chan, "An optimal circulant preconditioner for Toeplitz systems", SIAM J. Sci. Stat. Comput. 9 (1988), eq. 5;
    Tyrtyshnikov, "Optimal and superoptimal circulant preconditioners", SIAM J. Matrix Anal. Appl. 13 (1992), Theorem 3.1.

    >>> import sepmat as sm
    >>> sm.t_chan(sm.Toeplitz([4.0, 1.0, 0.5, 0.1])).c
    array([4.   , 0.775, 0.5  , 0.775])
    """
    return _wrapped(T, lambda k, n: (n - k) / n, floor, "t_chan")


def superoptimal(T: StructuredMatrix) -> Circulant:
    """Tyrtyshnikov's circulant, which minimises ‖I − C⁻¹ T‖_F: C = c(T Tᴴ) c(Tᴴ)⁻¹ with c(·) the nearest circulant.

    T: a square Toeplitz matrix, or what converts to one (one level). O(n log n): with T = C_0 + S, a circulant plus a
    skew-circulant, c(T Tᴴ) = C_0 C_0ᴴ + C_0 c(S)ᴴ + c(S) C_0ᴴ + c(S Sᴴ). Positive definite where T is. Raises
    SingularMatrixError where c(T) is singular, and as `strang` does.

    Source: Tyrtyshnikov (1992), as above; the splitting: R. Chan, Jin & Yeung, SIAM J. Numer. Anal. 28 (1991).

    >>> import numpy as np, sepmat as sm
    >>> bool(np.allclose(sm.superoptimal(sm.Circulant([2.0, 1.0, 0.5])).c, [2.0, 1.0, 0.5]))
    True
    """
    where = "superoptimal"
    A = _multilevel(T, where)
    if A.t.ndim != 1:
        raise _unsupported(T, where, "a Toeplitz matrix of one level", "Use t_chan(T)")
    xp, n = A.xp, A.shape[0]
    with _array.quiet():
        if not n:
            return Circulant._of(c=A.t, corner=(0, 0))
        C, S = splitting(A.t)

        def projected(s: Array) -> Any:
            """c(S) of a skew-circulant: ((n - k) s_k - k s_k) / n."""
            k = xp.arange(n, dtype=_array.real_dtype(xp, s.dtype), device=A.device)
            return _circulant(_shares((n - 2 * k) / n, s, 0) * s)

        cS = projected(S.c)
        cSS = projected((S @ S.H).c)
        total = C @ C.H + C @ cS.H + cS @ C.H + cSS
        return total @ inverse((C + cS).H)


@speaks
def kronecker_preconditioner(
    A: Any, shapes: Sequence[tuple[int, int]] | None = None, terms: int = 1, damp: float | None = None, seed: Any = 0
) -> StructuredMatrix:
    """P ≈ A from the nearest Kronecker product of A, or from the nearest sum of several, inverted factor by factor.

    A: a dense array or what `nearest_kronecker` takes, with shapes=((n_1, n_1), (n_2, n_2)); a Separated, Kronecker or
    KroneckerSum matrix (its own factors), or a MultilevelToeplitz of two levels, whose nearest product is found from the
    weighted t (Kamm & Nagy 2000): there shapes are not needed. Factors must be square.

    terms = 1: the Kronecker product itself, positive definite where A is. terms > 1: P = (⊗ U_i) D (⊗ V_i)ᴴ, U_i and V_i the
    singular bases of the factors of the nearest product (eigenvectors where these are Hermitian) and D the
    diagonal of the sum of all terms in these bases: the best P of that form, and invertible where D has no zero.

    damp = μ > 0: P ≈ AᴴA + μ² I, that is (⊗ V_i) (|D|² + μ²) (⊗ V_i)ᴴ, for the normal equations of Tikhonov's
    min ‖A x − b‖² + μ² ‖x‖² (deblurring); always positive definite.

    Costs the fit and an SVD of each factor; an application costs two Kronecker products. Raises ShapeError, ArgumentError,
    and as `nearest_kronecker` does.

    Source: Van Loan & Pitsianis (1993); Kamm & Nagy, "Kronecker product and SVD approximations in image restoration",
    Linear Algebra Appl. 284 (1998); Nagy, Ng & Perrone, SIAM J. Matrix Anal. Appl. 25 (2004).

    >>> import numpy as np, sepmat as sm
    >>> A = sm.KroneckerSum(*[np.diag([2.0, 3.0]) - 0.5] * 2)
    >>> sm.kronecker_preconditioner(A)
    Kronecker(2×2 ⊗ 2×2, shape=(4, 4), float64)
    >>> P = sm.kronecker_preconditioner(A, terms=2, damp=0.1)
    >>> bool(np.allclose((sm.inverse(P) @ (A.H @ A + 0.01 * sm.Identity(4))).to_dense(), np.eye(4)))
    True
    """
    where = "kronecker_preconditioner"
    terms = _check.as_integer(terms, where, "terms")
    damp = None if damp is None else _check.as_positive(damp, where, "damp")
    with _array.quiet():
        S = _nearest_sum(A, shapes, terms, seed, where)
        if any(m != n for m, n in S.shapes):
            advice = "Precondition the normal equations Aᴴ A"
            raise ShapeError(where, "shapes", f"{S.shapes}", "square factors", advice)
        xp, weights = S.xp, S._weights
        if terms == 1 and damp is None:
            first, *rest = (F[0, ...] for F in S.factors)
            return Kronecker._of(factors=(first * weights[0], *rest))
        leading: Any = S if S.terms == 1 else compress(S, rank=1, seed=seed).matrix
        bases = [_singular_bases(F[0, ...]) for F in leading.factors]
        entries = [
            xp.matrix_transpose(xp.linalg.diagonal(_array.adjoint(U)[None, :, :] @ F @ V[None, :, :]))
            for F, (U, V) in zip(S.factors, bases, strict=True)
        ]
        d = functools.reduce(khatri_rao, entries) @ weights
        left, right = (Kronecker._of(factors=tuple(side)) for side in zip(*bases, strict=True))
        if damp is None:
            return Product._of(factors=(left, Diagonal._of(d=d), right.H))
        squares = xp.abs(d) ** 2 + damp**2
        return Product._of(factors=(right, Diagonal._of(d=_array.astype(squares, d.dtype)), right.H))


@speaks
def separated_inverse(
    A: StructuredMatrix, tol: float = 0.1, max_condition: float | None = None, start: Any = None, seed: Any = 0
) -> Separated:
    """X ≈ A⁻¹ with ‖I − A X‖_F <= tol ‖I‖_F and few Kronecker terms: pass it as `M=` itself.

    A: Separated, or what converts to one (Kronecker sums), square factors; max_condition, start and errors as for
    `schulz_inverse`, which computes X with compression at each step. For a Hermitian A the Hermitian part of X is
    returned, compressed to tol / 10, since cg and minres need it. A start of 2 / (λ_min + λ_max) halves the steps.

    >>> import numpy as np, sepmat as sm
    >>> A = sm.KroneckerSum(*[2 * np.eye(8) - np.eye(8, k=1) - np.eye(8, k=-1)] * 2)
    >>> X = sm.separated_inverse(A, tol=0.1)
    >>> X.terms < 5, bool(np.linalg.norm(np.eye(64) - (A @ X).to_dense()) < 0.1 * 8)
    (True, True)
    """
    X: Any = schulz_inverse(A, tol, max_condition, start, seed).matrix
    if relative_distance(A, A.H) > HERMITIAN:
        return X
    return compress((X + X.H) / 2, tol=tol / 10, max_condition=max_condition, seed=seed).matrix  # type: ignore[return-value]


# circulants -------------------------------------------------------------------------------------------------------------


def _wrapped(
    T: StructuredMatrix, weight: Callable[[Array, int], Array], floor: float | None, where: str
) -> StructuredMatrix:
    """c_k = w(k, n) t_k + w(n - k, n) t_{k-n} along every level."""
    A = _multilevel(T, where)
    with _array.quiet():
        xp, c = A.xp, A.t
        for axis, (n, _) in enumerate(A.shapes):
            if n:
                ahead = _along(c, axis, n - 1, 2 * n - 1)
                behind = xp.concat((_along(ahead, axis, 0, 1), _along(c, axis, 0, n - 1)), axis=axis)
                k = xp.arange(n, dtype=_array.real_dtype(xp, c.dtype), device=A.device)
                w = weight(k, n)
                back = xp.concat((0.0 * w[:1], xp.flip(w[1:])))
                c = ahead * _shares(w, c, axis) + behind * _shares(back, c, axis)
        if floor is not None:
            hermitian = bool(xp.all(A.t == (xp.conj(xp.flip(A.t)) if A._is_complex else xp.flip(A.t))))
            c = _floored(c, _check.as_tolerance(floor, where, "floor"), hermitian)
        return _circulant(c) if c.ndim == 1 else MultilevelCirculant._of(c=c)


def _multilevel(T: StructuredMatrix, where: str) -> MultilevelToeplitz:
    """T as a multilevel Toeplitz matrix with square levels and finite entries."""
    if not isinstance(T, StructuredMatrix):
        raise _unsupported(T, where, "a Toeplitz matrix", "Use sm.nearest_circulant for a dense one")
    try:
        A: Any = convert(T, MultilevelToeplitz)
    except UnsupportedError:
        raise _unsupported(T, where, "a Toeplitz matrix of one level or more", "Use kronecker_preconditioner") from None
    if any(m != n for m, n in A.shapes):
        raise ShapeError(where, "T", f"levels {A.shapes}", "square ones", "Precondition the normal equations Tᴴ T")
    _check.check_finite(_check.check_full_precision(A.t, where, "T"), where, "T")
    return A


def _unsupported(T: Any, where: str, expected: str, advice: str) -> UnsupportedError:
    got = T._name() if isinstance(T, StructuredMatrix) else f"a {type(T).__name__}"
    return UnsupportedError(where, "T", got, expected, advice)


def _circulant(c: Array) -> Any:
    return Circulant._of(c=c, corner=(c.shape[0], c.shape[0]))


def _along(x: Array, axis: int, start: int, stop: int) -> Array:
    return x[(*[slice(None)] * axis, slice(start, stop), ...)]


def _shares(values: Array, like: Array, axis: int) -> Array:
    """Numbers that multiply the entries along an axis, in the dtype of `like`."""
    shape = (*[1] * axis, values.shape[0], *[1] * (like.ndim - axis - 1))
    return _array.astype(_array.array_namespace(values).reshape(values, shape), like.dtype)


def _floored(c: Array, floor: float, hermitian: bool) -> Array:
    """The first column with the eigenvalues below floor · max|λ| raised to it."""
    xp = _array.array_namespace(c)
    if not _array.size(c):
        return c
    values = fourier_nd.eigenvalues(c)
    size = xp.abs(values)
    least = floor * xp.max(size)
    if hermitian:
        found = _array.astype(xp.maximum(xp.real(values), least), values.dtype)
    else:
        phase = values / _array.astype(xp.where(size > 0, size, xp.ones_like(size)), values.dtype)
        phase = xp.where(size > 0, phase, xp.ones_like(phase))
        found = xp.where(size < least, _array.astype(least, values.dtype) * phase, values)
    new = fourier_nd.generator(fourier_nd.Spectrum(found, None, tuple(c.shape), False))
    return new if _array.is_complex(c) else xp.real(new)


# Kronecker products -----------------------------------------------------------------------------------------------------


def _nearest_sum(A: Any, shapes: Any, terms: int, seed: Any, where: str) -> Separated:
    """The nearest sum of so many Kronecker products."""
    if isinstance(A, MultilevelToeplitz):
        if len(A.shapes) != 2 or 0 in A.shape:
            raise _unsupported(A, where, "two levels", "Use t_chan for more levels")
        return _split(A, terms)
    if isinstance(A, (Separated, Kronecker, KroneckerSum)) and shapes is None:
        S: Any = convert(A, Separated)
        S = compress(S, rank=terms, seed=seed).matrix if terms < S.terms else S
        return S
    if shapes is None:
        expected = "((n_1, n_1), (n_2, n_2))"
        raise ShapeError(where, "shapes", "None", expected, "Only separated and multilevel matrices have factors")
    return convert(nearest_kronecker(A, shapes, rank=terms, seed=seed).matrix, Separated)  # type: ignore[return-value]


def _split(A: MultilevelToeplitz, terms: int) -> Separated:
    """Σ σ T(u) ⊗ T(v) nearest to a BTTB matrix: the SVD of t weighted by the square roots of the lengths of the diagonals.

    ‖T(u) ⊗ T(v)‖_F = ‖W_1 u‖ ‖W_2 v‖, so R(A) and W_1 t W_2 have the same singular values (Kamm & Nagy 2000).
    """
    xp, (first, second) = A.xp, A.shapes
    real = _array.real_dtype(xp, A.dtype)
    lengths = [[math.sqrt(min(k + 1, m, n, m + n - 1 - k)) for k in range(m + n - 1)] for m, n in (first, second)]
    rows, cols = (_shares(xp.asarray(w, dtype=real, device=A.device), A.t, axis) for axis, w in enumerate(lengths))
    U, s, Vh = xp.linalg.svd(A.t * rows * cols, full_matrices=False)
    r = min(terms, s.shape[0])
    columns = (U[:, :r] / rows, xp.matrix_transpose(Vh[:r, :] / cols))
    stacks = [
        xp.stack([MultilevelToeplitz._of(t=u[:, l], shapes=(shape,))._to_dense() for l in range(r)])
        for u, shape in zip(columns, A.shapes, strict=True)
    ]
    return Separated._of(factors=tuple(stacks), scales=_array.astype(s[:r], A.dtype))


def _singular_bases(F: Array) -> tuple[Array, Array]:
    """Unitary U, V with Uᴴ F V diagonal; the eigenvectors twice where F is Hermitian up to rounding."""
    xp, H = _array.array_namespace(F), _array.adjoint(F)
    size = _array.to_float(_array.frobenius(F))
    if _array.to_float(_array.frobenius(F - H)) <= HERMITIAN * size:
        Q = xp.linalg.eigh((F + H) / 2)[1]
        return Q, Q
    U, _, Vh = xp.linalg.svd(F)
    return U, _array.adjoint(Vh)
