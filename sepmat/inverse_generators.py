"""The inverse of a Toeplitz matrix and of W(G, H) by its generators: which ones, how accurate, and with gradients.

From Z_1 A − A Z_{-1} = P Qᵀ follows A⁻¹ = Σ_l Z_{-1}(x_l) Z_1(J y_l / 2) with X = A⁻¹P and Y = A⁻ᵀQ. P Qᵀ = (P R⁻¹)(Q Rᵀ)ᵀ
leaves R free, and it decides: the columns of X mostly are one direction, that of the smallest singular value, and the
terms are then up to κ(A) times as large as their sum. With orthogonal columns no term exceeds ‖∇(A⁻¹)‖_F <= 2 √n ‖A⁻¹‖,
and X and Y, exact to κ u after steps X + A⁻¹(P − A X), give A⁻¹ to κ u instead of κ² u. The same steps carry gradients.
"""

from collections.abc import Callable
from typing import Any

from . import _array
from ._array import Array
from .displacement import LowDisplacementRank
from .kernels.cauchy import toeplitz_generators
from .linalg import convert
from .matrix import Product, StructuredMatrix
from .toeplitz import Circulant, SkewCirculant, Toeplitz

STEPS = 5  # of refinement at most; two at least where gradients are asked for, which makes second derivatives right
ROUNDING = 2.0**-51  # a step that small, relative to the columns, is the last
PARALLEL = 1e-13  # columns nearer to dependent than this are left as they are


def times(A: StructuredMatrix, x: Array) -> Array:
    """A x by FFTs at any size: these matrices live for a few products, where a plan would think of many."""
    if isinstance(A, Product):
        for factor in reversed(A.factors):
            x = times(factor, x)
        return x
    if _array.is_complex(x) and not A._is_complex:
        xp = A.xp
        return times(A, xp.real(x)) + 1j * times(A, xp.imag(x))
    by_fft: Any = A._by_fft  # type: ignore[attr-defined]
    return by_fft(_array.astype(x, A.dtype), -2)


def toeplitz_inverse(X: Array) -> LowDisplacementRank:
    """T⁻¹ from X = T⁻¹ [e_0, q]: T is persymmetric, so T⁻ᵀ [p, e_{n-1}] = J T⁻¹ [J p, e_0], and J p = 2 T e_0 − q."""
    xp, n = _array.array_namespace(X), X.shape[0]
    first = xp.astype(xp.arange(n, dtype=xp.int64, device=_array.device(X)) == 0, X.dtype)
    G = xp.stack((first - 0.5 * X[:, 1], 0.5 * X[:, 0]), axis=1)
    return LowDisplacementRank._of(g=G, h=X, corner=(n, n), transposed=False)


def displaced_inverse(X: Array, Y: Array) -> LowDisplacementRank:
    """A⁻¹ from X and Y: the transposes of circulants whose first columns are these."""
    n = X.shape[0]
    g, h = _backward(0.5 * _flip(Y), 1.0), _backward(X, -1.0)
    return LowDisplacementRank._of(g=g, h=h, corner=(n, n), transposed=True)


def polished(A: Toeplitz | LowDisplacementRank, M: Any) -> LowDisplacementRank:
    """A⁻¹ from an approximation M that has the form above: orthogonal columns, refined, with the gradients of A.

    A: square, in double precision, a LowDisplacementRank not transposed. O(n log n r²).
    """
    M = M.map(_array.stop_gradient)
    build: Callable[..., LowDisplacementRank]
    if isinstance(A, Toeplitz):
        P, _ = toeplitz_generators(A.c, A.r)
        build, columns, given = toeplitz_inverse, [_sheared(M.h, M.h)], [_sheared(M.h, P)]
    else:
        X, Y, P, Q = _backward(M.h, -1.0), 2 * _flip(_backward(M.g, 1.0)), A.g, 2 * _flip(A.h)
        if M.terms != A.terms:  # M is of fewer ones that do not cancel
            X, Y = times(M, _array.stop_gradient(P)), times(M.T, _array.stop_gradient(Q))
        R = _triangle(X)
        if R is not None:
            xp, S = A.xp, A.xp.linalg.inv(R)
            X, P, Y, Q = X @ S, P @ S, Y @ xp.matrix_transpose(R), Q @ xp.matrix_transpose(R)
        build, columns, given = displaced_inverse, [X, Y], [P, Q]
    wanted, before = _array.attached(*A.arrays()), [0.5 * _size(X) for X in columns]
    for k in range(STEPS):
        M = build(*map(_array.stop_gradient, columns))
        known = zip((M, M.T), (A, A.T), columns, given, strict=False)
        steps = [times(N, rhs - times(B, X)) for N, B, X, rhs in known]
        sizes = [_size(step) for step in steps]
        if any(size > most for size, most in zip(sizes, before, strict=True)) and not (wanted and k < 2):
            break
        columns = [X + step for X, step in zip(columns, steps, strict=True)]
        before = [0.5 * size for size in sizes]
        if k and all(size <= ROUNDING * _size(X) for size, X in zip(sizes, columns, strict=True)):
            break
    return build(*columns)


def log_det_change(A: Toeplitz | LowDisplacementRank, M: Any) -> Array:
    """Zero, with the first and second derivatives of log det A; M is A⁻¹ with its gradient, as `polished` gives it.

    t = tr((M + M₀)/2 (A − A₀)), where ₀ means held fixed: dt = tr(A⁻¹ dA), and d²t = tr(dA⁻¹ dA).
    """
    W: Any = convert(A, LowDisplacementRank)
    inner, outer = [(M.g, M.h), (W.g, W.h)]
    if M.transposed:
        inner = (_backward(M.g, 1.0), _backward(M.h, -1.0))
    fixed, at = (tuple(map(_array.stop_gradient, pair)) for pair in (inner, outer))
    t = 0.5 * (_trace(inner, outer) + _trace(fixed, outer) - _trace(inner, at))
    return t - _array.stop_gradient(t)


def _trace(inner: Any, outer: Any) -> Array:
    """tr(Σ Z_{-1}(h) Z_1(g) Σ Z_1(G) Z_{-1}(H)) in O(n log n r²): tr(Z_1(a) Z_{-1}(b)) = Σ_d (n − 2d) a[−d mod n] b[d].

    The first factor is A⁻¹; of a Toeplitz matrix, which is persymmetric, it is Σ Z_1(g) Z_{-1}(h) too.
    """
    (g, h), (G, H) = inner, outer
    xp, n = _array.array_namespace(g), g.shape[0]
    weights = xp.asarray([float(n - 2 * d) for d in range(n)], dtype=g.dtype, device=_array.device(g))[:, None]
    total = xp.zeros((), dtype=g.dtype, device=_array.device(g))
    for l in range(g.shape[1]):
        a = times(Circulant._of(c=g[:, l], corner=(n, n)), G)
        b = times(SkewCirculant._of(c=h[:, l], corner=(n, n)), H)
        total = total + xp.sum(weights * _backward(a, 1.0) * b)
    return total


def _backward(X: Array, sign: float) -> Array:
    """Entries −d mod n, those beyond the first times the sign: first columns of transposes."""
    xp = _array.array_namespace(X)
    return xp.concat((X[:1, :], sign * _flip(X[1:, :])), axis=0)


def _size(X: Array) -> float:
    return _array.to_float(_array.frobenius(_array.stop_gradient(X)))


def _flip(X: Array) -> Array:
    return _array.array_namespace(X).flip(X, axis=0)


def _sheared(X: Array, P: Array) -> Array:
    """[P_0, P_1 − α P_0] with the α for which the columns of X become orthogonal; of [e_0, q], q_0 = 0, exactly."""
    xp = _array.array_namespace(X)
    conj = _array.conj(X[:, 0])
    alpha = xp.sum(conj * X[:, 1]) / xp.sum(conj * X[:, 0])
    return xp.stack((P[:, 0], P[:, 1] - alpha * P[:, 0]), axis=1)


def _triangle(X: Array) -> Array | None:
    """R with X = (orthonormal columns) R; None where they are near to dependent."""
    xp, (n, r) = _array.array_namespace(X), X.shape
    if not 1 < r <= n:
        return None
    R = _array.qr_triangle(X)
    size, own = xp.abs(xp.linalg.diagonal(R)), _array.frobenius(X, axis=0)
    return R if bool(xp.all(size > PARALLEL * own)) else None
