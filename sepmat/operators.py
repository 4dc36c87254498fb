"""Operators of the literature on many variables, in as few terms as they are known to have, for any number of variables.

Sources: Beylkin & Mohlenkamp, "Numerical operator calculus in higher dimensions", PNAS 99 (2002) 10246, and "Algorithms for
numerical analysis in high dimensions", SIAM J. Sci. Comput. 26 (2005) 2133.
"""

import functools
import math
from collections.abc import Sequence
from typing import Any

from . import _array, _check
from ._array import Array
from .compress import check_condition
from .errors import ArgumentError, DTypeError, ShapeError, speaks
from .exponential_sums import exponential_sum
from .fit import tail_norms
from .separated import Separated, _concatenate
from .symmetric_powers import LARGEST_DEGREE, power_sum
from .symmetric_sums import all_pairs, everywhere, in_powers, plane, powers, safe

__all__ = ["gaussian_sum", "inverse_laplacian", "laplacian", "radial_kernel", "schroedinger", "sin_sum"]


def laplacian(
    n: int, d: int, terms: int | None = None, max_condition: float | None = None, like: Any = None
) -> Separated:
    """Σ_i I ⊗ … ⊗ V ⊗ … ⊗ I with V = tridiag(−1, 2, −1) n×n: the negative Laplacian on a grid of n^d points, times h².

    Dirichlet conditions, V in each of the d places. Exact with d terms. Fewer `terms` approximate it, because its border
    rank is 2: [Π(I + hV) − Π(I − hV)] / (2h) errs by O(h²) with κ = O(1/h) (Beylkin & Mohlenkamp 2005, section 2). Better
    than any such difference is the best sum of powers Σ_l c_l (cos t_l a + sin t_l b)^⊗d, a and b an orthonormal basis of
    span{I, V}, with κ <= max_condition: a problem in d + 1 numbers (a binary form) whatever n. At the same κ its
    error is smaller by 45 (d = 10, 2 terms) to 75 000 times (d = 100, 4 terms). Where max_condition < 1.3, terms that are no
    powers can halve the error (`compress`). Without max_condition the error and the round-off d u κ of the factors are
    balanced.

    like: an array whose library, dtype and device the factors have (default NumPy float64). max_condition: at least 1,
    for κ = (Σ s_l²)^½ / ‖Â‖. All factors are one array of (terms, n, n). Cost: some tenths of a second for the fit,
    some seconds where max_condition < 1.5. Raises ArgumentError, DTypeError.

    >>> import sepmat as sm
    >>> L, A = sm.laplacian(8, 10), sm.laplacian(8, 10, terms=2, max_condition=10)
    >>> L.terms, A.terms, f"{A.condition_number:.1f}", f"{sm.norm(L - A) / sm.norm(L):.1e}"
    (10, 2, '10.0', '1.5e-05')
    """
    where = "laplacian"
    n, d = _check.as_integer(n, where, "n"), _check.as_integer(d, where, "d")
    like = _like(like, where)
    terms = d if terms is None else min(d, _check.as_integer(terms, where, "terms"))
    _check_size(where, n, terms, d if terms == d else 1, like)
    cap = check_condition(max_condition, where)
    V = _second_difference(n, like)
    if terms == d:
        return everywhere(V, d).astype(like.dtype)
    d = _check.as_integer(d, where, "d", maximum=LARGEST_DEGREE)
    u = d * _array.unit_roundoff(_array.array_namespace(V), V.dtype)  # the same rounding in each factor
    m, spread, G = plane(V)
    form = [m * d, spread * math.sqrt(d), *[0.0] * (d - 1)]
    return powers(G, d, power_sum(form, terms, safe(cap, u), u)).astype(like.dtype)


@speaks
def inverse_laplacian(
    n: int, d: int, terms: int | None = None, tol: float | None = None, relative: bool = False, like: Any = None
) -> Separated:
    """(Σ_i V_i)⁻¹ ≈ Σ_k w_k exp(−t_k V) ⊗ … ⊗ exp(−t_k V), the inverse of `laplacian(n, d)`, any d.

    w, t: the best exponential sum for 1/x on [1, R], R = λ_max/λ_min = cot²(π/(2(n + 1))), which does not depend on d
    (`exponential_sum`). Its largest error is ‖X − A⁻¹‖₂ / ‖A⁻¹‖₂; with relative=True it is ‖A X − I‖₂ that is as small
    as possible. Either `terms`, or `tol` for that error: as few terms as give it. All terms are positive definite, so
    κ <= 1. The exponentials are formed from the sines that diagonalise V.

    Terms for an error of 1e-3, 1e-6, 1e-9: 4, 8, 11 for n = 8; 5, 11, 17 for n = 50. like: as for `laplacian`.
    Cost O(terms n³). Raises ArgumentError, DTypeError; PrecisionWarning for a tol below 1e-12.

    >>> import numpy as np, sepmat as sm
    >>> X = sm.inverse_laplacian(8, 50, terms=6)
    >>> X.terms, f"{X.condition_number:.2f}"
    (6, '0.75')
    >>> A = sm.laplacian(4, 3)
    >>> float(np.linalg.norm((A @ sm.inverse_laplacian(4, 3, tol=1e-9)).to_dense() - np.eye(64), 2)) < 1e-8
    True
    """
    where = "inverse_laplacian"
    n, d = _check.as_integer(n, where, "n"), _check.as_integer(d, where, "d")
    like = _like(like, where)
    _check.one_of(where, terms=terms, tol=tol)
    _check_size(where, n, 1, 1, like)
    _check.check_bytes((d,), 8, _check.DENSE_LIMIT, where, "Use fewer variables")
    smallest = d * _eigenvalue(1, n)
    w, t, _ = exponential_sum(_eigenvalue(n, n) / _eigenvalue(1, n), terms, tol, relative=relative)
    xp = _array.array_namespace(like)
    place = {"dtype": xp.float64, "device": _array.device(like)}
    angles = [[math.pi * (j * k % (2 * n + 2)) / (n + 1) for k in range(1, n + 1)] for j in range(1, n + 1)]
    sines = xp.sin(xp.asarray(angles, **place)) * math.sqrt(2 / (n + 1))
    values = xp.asarray([[-s * _eigenvalue(k, n) / smallest for k in range(1, n + 1)] for s in t.tolist()], **place)
    factor = _array.astype((sines[None, :, :] * xp.exp(values)[:, None, :]) @ sines, like.dtype)
    scales = xp.asarray([v / smallest for v in w.tolist()], dtype=like.dtype, device=_array.device(like))
    return Separated._of(factors=(factor,) * d, scales=scales)


def sin_sum(n: int, d: int, like: Any = None) -> Separated:
    """sin(x_1 + … + x_d) on the grid x = 2π(i + ½)/n in every variable, a vector of n^d entries in d terms.

    sin(Σ x_j) = Σ_j sin x_j Π_{k≠j} sin(x_k + a_k − a_j) / sin(a_k − a_j) for any a with distinct sines (Mohlenkamp & Monzón,
    "Trigonometric identities and sums of separable functions", Math. Intelligencer 27 (2005) 65), here a_j = jπ/d, for
    which κ = √(2^(d−1)/d): 7.2 for d = 10, 3.4e6 for d = 50. The naive expansion has 2^(d−1) terms and κ = 1. Over
    the complex numbers two terms do, (e^{iS} − e^{−iS})/2i, κ = 1, which no real representation has for d > 2.

    Factors (d, n, 1) of the library and dtype of `like` (default NumPy float64). Cost O(d² n). Raises ArgumentError,
    DTypeError.

    >>> import sepmat as sm
    >>> S = sm.sin_sum(8, 10)
    >>> S, f"{S.condition_number:.4f}"
    (Separated((8×1 ⊗ ... ⊗ 8×1) × 10 terms, shape=(1073741824, 1), float64), '7.1554')
    """
    where = "sin_sum"
    n, d = _check.as_integer(n, where, "n"), _check.as_integer(d, where, "d")
    like = _like(like, where)
    _check.check_bytes((d, d, n), 8, _check.DENSE_LIMIT, where, "Use fewer points or variables")
    xp = _array.array_namespace(like)
    place = {"dtype": xp.float64, "device": _array.device(like)}
    at, factors = (2 * xp.arange(n, **place) + 1) / n, []
    for k in range(d):
        apart = (k - xp.arange(d, **place)) / d
        below = xp.where(apart == 0, xp.ones_like(apart), xp.sin(math.pi * apart))
        rows = xp.sin(math.pi * (at[None, :] + apart[:, None])) / below[:, None]
        factors.append(_array.astype(rows, like.dtype)[:, :, None])
    return Separated._of(factors=tuple(factors), scales=None)


def gaussian_sum(grids: Sequence[Any], weights: Any, exponents: Any, diagonal: bool = False) -> Separated:
    """Σ_k weights[k] exp(−exponents[k] |x|²) on the tensor grid of d one-dimensional grids: a vector, or diag of it.

    grids: d arrays (n_i,). weights, exponents: (terms,). exp(−t |x|²) = Π_i exp(−t x_i²), so each Gaussian is one term. With
    diagonal=True the factors are diagonal n_i×n_i matrices instead of columns. Raises ShapeError, DTypeError.

    >>> import sepmat as sm
    >>> sm.gaussian_sum([[0.0, 1.0], [0.0, 2.0]], [1.0, 0.5], [1.0, 0.1]).to_dense()[:, 0].round(4)
    array([1.5   , 0.3535, 0.8203, 0.31  ])
    """
    where = "gaussian_sum"
    axes, diagonal = _grids(grids, where), _check.as_flag(diagonal, where, "diagonal")
    w = _check.as_array(weights, where, "weights", 1, like=axes[0])
    t = _check.as_array(exponents, where, "exponents", 1, like=axes[0])
    _check.check_finite(w, where, "weights")
    _check.check_finite(t, where, "exponents")
    if w.shape != t.shape:
        got, expected = f"{t.shape[0]} entries", f"{w.shape[0]} as weights"
        raise ShapeError(where, "exponents", got, expected, "Give one exponent a weight")
    *axes, w, t = _array.promote(*axes, w, t)
    xp, factors = _array.array_namespace(w), []
    for x in axes:
        values = xp.exp(-t[:, None] * x**2)
        unit = xp.eye(x.shape[0], dtype=x.dtype, device=_array.device(x))
        factors.append(values[:, :, None] * unit if diagonal else values[:, :, None])
    return Separated._of(factors=tuple(factors), scales=w)


@speaks
def radial_kernel(
    grids: Sequence[Any],
    power: float = 1.0,
    terms: int | None = None,
    tol: float | None = None,
    relative: bool = True,
    diagonal: bool = False,
) -> Separated:
    """|x|^-power ≈ Σ_k w_k exp(−t_k |x|²) on the tensor grid of d one-dimensional grids: a vector, or diag of it.

    The exponential sum for s^(-power/2), s = |x|²/δ² in [1, R], where δ is the smallest |x| of the grid and R δ² the largest |x|²
    (`exponential_sum`). The error is relative at every x, or, with relative=False, relative to the value at δ.
    Either `terms`, or `tol` for that error: O(log(1/tol) log(R/tol)) terms, 20 for 1e-6 where |x| goes from 1 to
    300, for any d. κ <= 1, because all terms are positive.

    grids: d arrays (n_i,) that do not all contain 0. diagonal=True: the operator that multiplies by the kernel. Raises
    ArgumentError, ShapeError, DTypeError.

    >>> import numpy as np, sepmat as sm
    >>> x = np.linspace(-0.95, 0.95, 20)
    >>> K = sm.radial_kernel([x, x, x], tol=1e-6)
    >>> r = np.sqrt((x**2)[:, None, None] + (x**2)[:, None] + x**2)
    >>> K.terms, bool(np.max(np.abs(K.to_dense()[:, 0] * r.ravel() - 1)) < 1e-6)
    (11, True)
    """
    where = "radial_kernel"
    axes, diagonal = _grids(grids, where), _check.as_flag(diagonal, where, "diagonal")
    power = _check.as_positive(power, where, "power")
    _check.one_of(where, terms=terms, tol=tol)
    squares = [_array.to_numpy(x**2).tolist() for x in axes]
    smallest, largest = sum(map(min, squares)), sum(map(max, squares))
    if not smallest:
        raise ArgumentError(where, "grids", "0 in every grid", "|x| > 0 everywhere", "Shift a grid by half a step")
    w, t, _ = exponential_sum(largest / smallest, terms, tol, power=power / 2, relative=relative)
    weights = [v * smallest ** (-power / 2) for v in w.tolist()]
    xp, place = _array.array_namespace(axes[0]), {"dtype": axes[0].dtype, "device": _array.device(axes[0])}
    exponents = xp.asarray([v / smallest for v in t.tolist()], **place)
    return gaussian_sum(axes, xp.asarray(weights, **place), exponents, diagonal)


def schroedinger(
    x: Any,
    particles: int,
    potential: Any = None,
    interaction: Any = None,
    tol: float = 1e-12,
    max_condition: float | None = None,
) -> Separated:
    """H = Σ_i (−½ ∂²/∂x_i² + V(x_i)) + Σ_{i<j} W(x_i − x_j) for particles on a line, one factor a particle.

    x: (n,) points at equal distances h; the second differences over h² take the wave function as 0 beyond. potential: V(x)
    as an array (n,) or a function of x. interaction: W(x_i − x_j) as a symmetric array (n, n) or an even function of the
    array of differences.

    W is split as w + w(x_i) + w(x_j) + W̃(x_i, x_j), the rows of W̃ of mean 0, and W̃ = Σ_m λ_m b_m b_mᵀ by its
    eigenvectors, as few as hold it to tol ‖W‖_F. The first three go into the one-particle part, so what is left are orthogonal
    sums, Σ_i H_1(i) and λ_m Σ_{i<j} b_m(x_i) b_m(x_j): exactly N + m N(N − 1)/2 terms. With max_condition each of them
    is replaced by the fewest powers v ⊗ … ⊗ v (as in `laplacian`) that keep κ <= max_condition and the error of all
    together within tol ‖H‖_F, where these are fewer: the number of terms then does not grow with N.

    H acts on all functions; its lowest state is that of bosons. The library, dtype and device are those of x. Derivatives
    by V and W pass through the exact terms, of which all m = n are kept then; fitted powers are constants. Raises
    ArgumentError, ShapeError, DTypeError; SizeLimitError where the exact terms would need more than 1 GiB.

    >>> import numpy as np, sepmat as sm
    >>> x = np.linspace(-6, 6, 25)
    >>> H = sm.schroedinger(x, 2, x**2 / 2, lambda r: np.exp(-(r**2)))
    >>> H, float(np.linalg.eigvalsh(H.to_dense())[0].round(4))
    (Separated((25×25 ⊗ 25×25) × 26 terms, shape=(625, 625), float64), 1.5145)
    """
    where = "schroedinger"
    x = _check.check_full_precision(_check.as_array(x, where, "x", 1), where, "x")
    h = _spacing(x, where)
    N = _check.as_integer(particles, where, "particles")
    cap, tol = check_condition(max_condition, where), _check.as_tolerance(tol, where)
    xp, n = _array.array_namespace(x), x.shape[0]
    V = _sampled(potential, x, where, "potential", (n,))
    W = _sampled(interaction, x[:, None] - x[None, :], where, "interaction", (n, n))
    unit = xp.eye(n, dtype=x.dtype, device=_array.device(x))
    asymmetry = _array.to_float(_array.frobenius(W - xp.matrix_transpose(W)))
    size = _array.to_float(_array.frobenius(W))
    if asymmetry > 1e-6 * size:
        got = f"asymmetric by {asymmetry / size:.1e}"
        raise ArgumentError(where, "interaction", got, "W(x_i − x_j) = W(x_j − x_i)", "Pass an even function")
    if math.isfinite(cap):  # a fit is a constant
        N = _check.as_integer(N, where, "particles", maximum=LARGEST_DEGREE)
        V, W, x = (_array.stop_gradient(a) for a in (V, W, x))
    mean = xp.mean(W)
    field = xp.mean(W, axis=1) - mean  # what one particle feels of another that may be anywhere
    own = V + float(N - 1) * (field + 0.5 * mean)
    one = _second_difference(n, x) * (0.5 / h**2) + own[:, None] * unit
    rest = W - field[:, None] - field[None, :] - mean
    values, vectors = xp.linalg.eigh(_array.stop_gradient(rest))
    order = xp.argsort(xp.abs(values), descending=True)
    values, vectors = xp.take(values, order), xp.take(vectors, order, axis=1)
    count = next(k for k, tail in enumerate(tail_norms(values)) if tail <= tol * size)
    count = 0 if N == 1 else n if _array.attached(rest) else count  # all, for all derivatives
    modes = [vectors[:, m][:, None] * unit for m in range(count)]
    if math.isfinite(cap):
        return in_powers(one, values.tolist()[:count], modes, N, cap, tol)
    terms = N + count * N * (N - 1) // 2
    advice = "Set max_condition for fewer terms"
    _check.check_bytes((terms, N, n, n), _array.itemsize(x.dtype), _check.DENSE_LIMIT, where, advice)
    partners = [(rest @ vectors[:, m])[:, None] * unit for m in range(count)]  # λ_m b_m
    pairs = [all_pairs(B, C, N) for B, C in zip(modes, partners, strict=True)]
    return functools.reduce(_concatenate, [everywhere(one, N), *pairs])


# the grid -----------------------------------------------------------------------------------------------------------------


def _second_difference(n: int, like: Array) -> Array:
    """tridiag(−1, 2, −1), real, in the precision of an array."""
    xp = _array.array_namespace(like)
    dtype = _array.real_dtype(xp, like.dtype)
    at = xp.arange(n, dtype=dtype, device=_array.device(like))
    apart = xp.abs(at[:, None] - at[None, :])
    return xp.clip(2.0 - 3.0 * apart, -1.0, 2.0) * xp.astype(apart < 1.5, dtype)


def _eigenvalue(k: int, n: int) -> float:
    """The k-th smallest eigenvalue of tridiag(−1, 2, −1), k = 1 … n."""
    return 4 * math.sin(k * math.pi / (2 * n + 2)) ** 2


def _like(like: Any, where: str) -> Array:
    """The array whose library, dtype and device to use."""
    return _check.check_full_precision(_check.as_array(0.0 if like is None else like, where, "like"), where, "like")


def _check_size(where: str, n: int, terms: int, factors: int, like: Array) -> None:
    """Refuse what cannot be stored, before any of it is made."""
    shape = (factors, terms, n, n)
    _check.check_bytes(shape, _array.itemsize(like.dtype), _check.DENSE_LIMIT, where, "Use fewer points or variables")


def _grids(grids: Any, where: str) -> list[Array]:
    """The points in each variable, one array each."""
    if not isinstance(grids, (list, tuple)) or not grids:
        got = "empty" if isinstance(grids, (list, tuple)) else f"a {type(grids).__name__}"
        raise ShapeError(
            where, "grids", got, "a list of d arrays (n_i,)", "Use [x] * d for the same grid in each variable"
        )
    axes = _check.as_arrays([(f"grids[{i}]", x) for i, x in enumerate(grids)], where, 1)
    for i, x in enumerate(axes):
        _check.check_finite(x, where, f"grids[{i}]")
        if _array.is_complex(x) or not x.shape[0]:
            got = "complex" if x.shape[0] else "no points"
            raise ArgumentError(where, f"grids[{i}]", got, "real points, one at least", "Take the real part")
    return list(axes)


def _spacing(x: Array, where: str) -> float:
    """The distance of neighbours on an equidistant grid."""
    xp, n = _array.array_namespace(x), x.shape[0]
    if _array.is_complex(x) or n < 2:
        got = f"{n} points" if n < 2 else "complex"
        raise ArgumentError(where, "x", got, "two real points or more", "Use numpy.linspace(a, b, n)")
    _check.check_finite(x, where, "x")
    steps = x[1:] - x[:-1]
    h = _array.to_float(x[-1] - x[0]) / (n - 1)
    off = _array.to_float(xp.max(xp.abs(steps - h)))
    if h <= 0 or off > 1e-5 * h:
        got = f"steps that differ by {off:.1e}" if h > 0 else "descending"
        raise ArgumentError(where, "x", got, "equal distances, ascending", "Use numpy.linspace(a, b, n)")
    return h


def _sampled(values: Any, at: Array, where: str, name: str, shape: tuple[int, ...]) -> Array:
    """A function of the grid, or its values, or nothing, as an array of the dtype of the grid."""
    xp = _array.array_namespace(at)
    if values is None:
        return xp.zeros(shape, dtype=at.dtype, device=_array.device(at))
    found = _check.as_array(values(at) if callable(values) else values, where, name, len(shape), like=at)
    if tuple(found.shape) != shape:
        expected = f"shape {shape}, that of the grid"
        raise ShapeError(where, name, f"shape {tuple(found.shape)}", expected, "Evaluate it on the points of x")
    if _array.is_complex(found):
        raise DTypeError(where, name, "complex", "real values", "Take the real part")
    return _array.astype(_check.check_finite(found, where, name), at.dtype)
