"""Low displacement rank: W(G, H) = Σ_i Z_1(g_i) Z_{-1}(h_i), the matrices M for which Z_1 M - M Z_{-1} has rank r.

Z_f is the unit f-circulant shift, Z_f(v) = Σ_i v_i Z_f^i has first column v: circulant for f = 1, skew-circulant for
f = -1. From ∇(M) = Z_1 M - M Z_{-1} = P Qᵀ follows M = W(P/2, J Q), J the reversal, and ∇(W(G, H)) = 2 G (J H)ᵀ: the
matrices with r terms are exactly those of displacement rank <= r. Circulant, skew-circulant and the identity have one
term, Toeplitz matrices 2, products of t of them 2 t, matrices of rank k have 2 k.
"""

from collections.abc import Iterator, Sequence
from typing import Any, final

from . import _array, _check
from ._array import Array
from .basic import Identity, is_identity
from .errors import ArgumentError, ShapeError
from .kernels import fourier, plan_fft
from .kernels.limits import kind_of
from .linalg import conversion, convert, diagonal, norm, trace
from .matrix import StructuredMatrix, structure
from .toeplitz import Circulant, SkewCirculant, Toeplitz
from .transformed import Transformed

__all__ = ["LowDisplacementRank", "displacement", "displacement_rank", "shift"]

BLOCK = 2**18  # entries of a block of columns, when a norm or a dense form is collected from products
SMALL_BLOCK = 32  # up to this many rows and columns a block is multiplied out, term by term; larger ones use the FFT


def shift(n: int, f: float = 1, like: Any = None) -> StructuredMatrix:
    """Z_f, n×n: ones below the diagonal and f in the top right corner (n = 1: the number f).

    A Circulant for f = 1, a SkewCirculant for f = -1 and a Toeplitz matrix otherwise, of the library, dtype and device
    of `like` (default: NumPy float64).

    >>> import sepmat as sm
    >>> sm.shift(3, 2.0).to_dense()
    array([[0., 0., 2.],
           [1., 0., 0.],
           [0., 1., 0.]])
    """
    n = _check.as_integer(n, "shift", "n", 0)
    like = _check.as_array(0.0 if like is None else like, "shift", "like")
    _check.check_bytes((n,), _array.itemsize(like.dtype), _check.DENSE_LIMIT, "shift", "Use a smaller n")
    f = _check.as_real(f, "shift", "f")
    column = _unit(like, n, 1) if n > 1 else f * _unit(like, n, 0)
    if abs(f) == 1:
        return (Circulant if f == 1 else SkewCirculant)._of(c=column, corner=(n, n))
    return Toeplitz._of(c=column, tail=f * _unit(like, n - 1, n - 2) if n else None)


def displacement(M: Any, f: float = 1, g: float = -1) -> Array:
    """∇(M) = Z_f M - M Z_g of a square dense matrix, by shifting its rows and columns: 2 n² operations.

    Raises ArgumentError for f = g, where ∇ is
    singular; otherwise ∇(M) determines M (for f = 1, g = -1 with condition 1 / sin(π / 2n)).

    >>> import sepmat as sm
    >>> sm.displacement([[1.0, 3.0], [2.0, 1.0]])
    array([[-1.,  2.],
           [ 0.,  5.]])
    """
    M = _as_square(M, "displacement")
    f, g = _check.as_real(f, "displacement", "f"), _check.as_real(g, "displacement", "g")
    if f == g:
        raise ArgumentError(
            "displacement", "g", f"{g} = f", "f and g that differ", "The displacement operator is singular; use g = -f"
        )
    with _array.quiet():
        return _displacement(M, f, g)


def _displacement(M: Array, f: float, g: float) -> Array:
    """Z_f M - M Z_g."""
    xp, n = _array.array_namespace(M), M.shape[0]
    if not n:
        return _array.copy(M)
    down = xp.concat((f * M[n - 1 :, :], M[: n - 1, :]), axis=0)
    left = xp.concat((M[:, 1:], g * M[:, :1]), axis=1)
    return down - left


def displacement_rank(M: Any, tol: float | None = None) -> int:
    """The number of singular values of Z_1 M - M Z_{-1} above tol ‖M‖_F (default: 4 n u); costs an SVD, O(n³).

    Raises NonFiniteError for NaN and infinity.

    >>> import numpy as np, sepmat as sm
    >>> sm.displacement_rank(np.linalg.inv(sm.Toeplitz([4.0, 1.0, 2.0, 3.0], [4.0, 0.5, 1.0, 0.0]).to_dense()))
    2
    """
    M = _check.check_finite(_as_square(M, "displacement_rank"), "displacement_rank", "M")
    n, xp = M.shape[0], _array.array_namespace(M)
    u = _array.unit_roundoff(xp, _check.check_full_precision(M, "displacement_rank", "M").dtype)
    relative = 4 * n * u if tol is None else _check.as_tolerance(tol, "displacement_rank")
    if not n:
        return 0
    M = M / _array.astype(_array.power_of_two(M), M.dtype)
    values = xp.linalg.svdvals(displacement(M))
    return int(xp.sum(xp.astype(values > relative * _array.frobenius(M), xp.int64)))


def _as_square(M: Any, where: str) -> Array:
    M = _check.as_array(M, where, "M", 2)
    if M.shape[0] != M.shape[1]:
        raise ShapeError(where, "M", f"shape {tuple(M.shape)}", "a square matrix", "Pad it by zeros to a square")
    return M


def _unit(like: Array, n: int, k: int) -> Array:
    """The unit vector e_k of length n, of the dtype of `like`; zeros where k is outside."""
    xp = _array.array_namespace(like)
    return xp.astype(xp.arange(n, dtype=xp.int64, device=_array.device(like)) == k, like.dtype)


@final
@structure
class LowDisplacementRank(Transformed):
    """W(G, H) = Σ_i Z_1(G[:, i]) Z_{-1}(H[:, i]), or its top-left corner of the given shape (m, n), max(m, n) = N.

    G, H: (N, terms), kept as A.g and A.h (A.H is the conjugate transpose); 2 N terms numbers. A product costs
    1 + r + r + 1 FFTs of length N a vector (real data: real and half-length ones); its error is at most
    (40 log2 N + 12 + r) u Σ_i ‖Z_1(g_i)‖_F ‖Z_{-1}(h_i)‖_F ‖x‖. The transpose keeps G and H. Sums stay in the class,
    and so do circulant @ W and W @ skew-circulant. Class: Sindhwani, Sainath & Kumar, "Structured transforms for
    small-footprint deep learning" (2015). Raises ShapeError when G, H and shape do not fit.

    >>> import numpy as np, sepmat as sm
    >>> T = sm.Toeplitz([1.0, 2.0, 5.0], [1.0, 3.0, 4.0])
    >>> W = sm.convert(T, sm.LowDisplacementRank); W
    LowDisplacementRank(r=2, shape=(3, 3), float64)
    >>> bool(np.allclose(W.to_dense(), T.to_dense()))
    True
    """

    g: Array
    h: Array
    corner: tuple[int, int]
    transposed: bool

    def __init__(self, G: Any, H: Any, shape: Any = None) -> None:
        where = "LowDisplacementRank"
        G, H = _check.as_arrays([("G", G), ("H", H)], where, 2)
        if H.shape != G.shape:
            raise ShapeError(where, "H", f"shape {tuple(H.shape)}", f"{tuple(G.shape)} as G", "Both are (N, terms)")
        corner = _check.as_corner(shape, G.shape[0], where, "rows in G and H")
        for name, value in (("g", G), ("h", H), ("corner", corner), ("transposed", False)):
            object.__setattr__(self, name, value)

    def _arguments(self) -> tuple[Any, ...]:
        return (self.g, self.h, self.corner)

    @property
    def shape(self) -> tuple[int, int]:
        return self.corner

    @property
    def terms(self) -> int:
        """The number r of terms stored, at least the displacement rank."""
        return int(self.g.shape[1])

    def _times_dense(self, x: Array, axis: int) -> Array:
        near, e = self._remember("near", self._near)
        return _array.ldexp(StructuredMatrix._times_dense(near, x, axis), e)

    def _near(self) -> tuple["LowDisplacementRank", int]:
        """(W, e) with self = 2^e W: where entries would leave the range, a W with entries near 1."""
        turn = self.xp.matrix_transpose
        (g, h), e = _array.balanced((turn(self.g), turn(self.h)), beyond=0)
        k = _array.exponent(g) if self.terms else 0
        if abs(2 * k + e) < 256:
            return self, 0
        g, h = (turn(_array.ldexp(v, -k)) for v in (g, h))
        return self._of(g=g, h=h, corner=self.corner, transposed=self.transposed), 2 * k + e

    @property
    def _transforms(self) -> int:  # type: ignore[override]
        return 2 * self.terms + 2

    def _by_fft(self, x: Array, axis: int) -> Array:
        outer, inner, e = self._remember("spectra", self._spectra)
        return _array.ldexp(fourier.convolve_twice(outer, inner, x, self.corner[0], axis), e)

    def _spectra(self) -> tuple[fourier.Spectrum, fourier.Spectrum, int]:
        xp, N = self.xp, self.g.shape[0]
        # one power of two serves all terms of a spectrum, so the two vectors of a term share their exponent first
        (g, h), e = _array.balanced((xp.matrix_transpose(self.g), xp.matrix_transpose(self.h)), beyond=0)
        if self.transposed:  # the first columns of the transposes
            k = min(1, N)
            g = xp.concat((g[:, :k], xp.flip(g[:, k:], axis=1)), axis=1)
            h = xp.concat((h[:, :k], -xp.flip(h[:, k:], axis=1)), axis=1)
        length = self._fft_length
        if length == N:
            S, T = fourier.spectrum(g, N), fourier.spectrum(h, N, skew=True)
        else:
            S, T = fourier.padded_spectrum(g, length), fourier.padded_spectrum(h, length, skew=True)
        return (T, S, e) if self.transposed else (S, T, e)

    def _length(self) -> int:
        """Of the transforms: N, or that of a Toeplitz matrix where N is a bad length for SciPy's."""
        N = int(self.g.shape[0])
        return plan_fft.circulant_length(N, 2 * N - 1, kind_of(self.g.dtype)) if _array.is_numpy(self.g) else N

    def _transpose(self) -> "LowDisplacementRank":
        return self._of(g=self.g, h=self.h, corner=self.corner[::-1], transposed=not self.transposed)

    def _plus(self, other: StructuredMatrix) -> Any:
        if isinstance(other, LowDisplacementRank):
            if other.transposed != self.transposed:
                return NotImplemented
            G, H, K, L = _array.promote(self.g, self.h, other.g, other.h)
            G, H = self.xp.concat((G, K), axis=1), self.xp.concat((H, L), axis=1)
            return self._of(g=G, h=H, corner=self.corner, transposed=self.transposed)
        if not isinstance(other, (Circulant, SkewCirculant, Toeplitz)) and not is_identity(other):
            return NotImplemented
        if self.transposed:
            return self.T._plus(other.T).T
        return self._plus(convert(other, LowDisplacementRank))

    def _rtimes(self, other: StructuredMatrix) -> Any:
        """Z_1(c) Z_1(g) = Z_1(Z_1(c) g): a circulant from the left goes into G."""
        if self.transposed:
            return _transposed(self.T._times(other.T))
        if isinstance(other, Circulant) and self._closes(other, (other.shape[0], self.shape[1]), self.shape[0]):
            return self._with((other.shape[0], self.shape[1]), g=_whole(other)._product(self.g, -2))
        return NotImplemented

    def _times(self, other: StructuredMatrix) -> Any:
        """Z_{-1}(h) Z_{-1}(s) = Z_{-1}(Z_{-1}(s) h): a skew-circulant from the right goes into H."""
        if self.transposed:
            return _transposed(self.T._rtimes(other.T))
        if isinstance(other, SkewCirculant) and self._closes(other, (self.shape[0], other.shape[1]), self.shape[1]):
            return self._with((self.shape[0], other.shape[1]), h=_whole(other)._product(self.h, -2))
        return NotImplemented

    def _closes(self, other: Circulant | SkewCirculant, corner: tuple[int, int], inner: int) -> bool:
        """Whether nothing was cut off between the two, and the result is a corner of the same N×N."""
        return inner == self.g.shape[0] == other.c.shape[0] == max(corner)

    def _with(self, corner: tuple[int, int], **changed: Array) -> "LowDisplacementRank":
        G, H = _array.promote(changed.get("g", self.g), changed.get("h", self.h))
        return self._of(g=G, h=H, corner=corner, transposed=self.transposed)

    def _scale(self, s: Array) -> StructuredMatrix:
        s, G = _array.promote(s, self.g)
        return self._with(self.corner, g=s * G)

    def _block(self, rows: Sequence[int], cols: Sequence[int]) -> Array:
        if max(len(rows), len(cols)) > SMALL_BLOCK or not self.terms:
            return StructuredMatrix._block(self, rows, cols)
        if self.transposed:
            return self.xp.matrix_transpose(self.T._block(cols, rows))
        N = self.g.shape[0]
        terms = (
            Circulant._of(c=self.g[:, i], corner=(N, N))._block(rows, range(N))
            @ SkewCirculant._of(c=self.h[:, i], corner=(N, N))._block(range(N), cols)
            for i in range(self.terms)
        )
        return sum(terms, start=next(terms))

    def _dense_transpose(self) -> Array:
        """W e_{j+1} = Z_1 W e_j - 2 Σ_l h_l[N-1-j] g_l: runs of columns, each from a product with a unit vector.

        A column of a run of k has at most k roundings more than a product.
        """
        if self.transposed:
            return _array.in_rows(self.xp.matrix_transpose(self.T._dense_transpose()))
        if _array.is_half(self.dtype):
            return _array.astype(self.astype("float32")._dense_transpose(), self.dtype)
        near, e = self._remember("near", self._near)
        return _array.ldexp(near._in_runs(), e)

    def _in_runs(self) -> Array:
        """The transpose of the dense form of a W that is not transposed, with entries near 1."""
        xp, N, (m, n) = self.xp, self.g.shape[0], self.shape
        if not m * n * self.terms:
            return xp.zeros((n, m), dtype=self.dtype, device=self.device)
        run = plan_fft.run(n)
        whole = self if m == N else self._of(g=self.g, h=self.h, corner=(N, n), transposed=False)
        E = self._unit_columns(range(0, n, run))
        columns = [whole._by_fft(xp.matrix_transpose(E), -1)]  # of all runs the first ones, as rows
        g, h = xp.matrix_transpose(self.g), _padded(xp.flip(self.h, axis=0), max(N, run * E.shape[1]))
        for j in range(run - 1):
            last = columns[-1]
            shifted = xp.concat((last[:, N - 1 :], last[:, : N - 1]), axis=1)
            columns.append(shifted - 2.0 * (h[j : run * E.shape[1] : run, :] @ g))
        return xp.reshape(xp.stack(columns, axis=1), (-1, N))[:n, :m]

    def _columns(self) -> Iterator[Array]:
        """Blocks of columns, each as rows (k, m), by products with unit vectors."""
        m, n = self.shape
        step = max(1, BLOCK // max(m, n, 1))
        for start in range(0, n, step):
            E = self._unit_columns(range(start, min(start + step, n)))
            yield self._by_fft(self.xp.matrix_transpose(E), -1)

    def _detail(self) -> str:
        return f"r={self.terms}" + (", transposed" if self.transposed else "")


def _whole(A: Circulant | SkewCirculant) -> Circulant | SkewCirculant:
    """The N×N matrix that A is a corner of."""
    N = A.c.shape[0]
    return A if A.corner == (N, N) else A._of(c=A.c, corner=(N, N))


def _transposed(A: Any) -> Any:
    return A if A is NotImplemented else A.T


@diagonal.register
def _(A: LowDisplacementRank) -> Array:
    """With p_d = Σ_l g_l[-d mod N] h_l[d]: A[i, i] = Σ_{d < N-i} p_d - Σ_{d >= N-i} p_d, in O(N r)."""
    xp, k = A.xp, min(A.shape)
    if not k:
        return xp.zeros((0,), dtype=A.dtype, device=A.device)
    backward = xp.concat((A.g[:1, :], xp.flip(A.g[1:, :], axis=0)), axis=0)
    p = xp.sum(backward * A.h, axis=1)
    first = xp.flip(xp.cumulative_sum(p, include_initial=True))
    last = xp.cumulative_sum(xp.flip(p), include_initial=True)
    return first[:k] - last[:k]


@trace.register
def _(A: LowDisplacementRank) -> Array:
    return A.xp.sum(diagonal.rule(A))


@norm.register
def _(A: LowDisplacementRank, ord: Any) -> Array:
    """Frobenius: from the traces of pairs of terms in O(N log N r²) where they hardly cancel, else column by column."""
    if ord != "fro":
        raise norm.unsupported(A, f"no closed form of ord={ord!r}")
    xp = A.xp
    if not A.terms or not min(A.shape):
        return xp.zeros((), dtype=_array.real_dtype(xp, A.dtype), device=A.device)
    if A.shape[0] == A.shape[1] and not _array.is_half(A.dtype):
        value = _gram_norm(A)
        if value is not None:
            return value
    narrow = A if A.shape[1] <= A.shape[0] else A._transpose()
    return _array.frobenius(xp.stack([_array.frobenius(columns) for columns in narrow._columns()]))


def _gram_norm(A: LowDisplacementRank) -> Array | None:
    """‖W‖_F from Σ_ij tr(Z_1(g_i)ᴴ Z_1(g_j) Z_{-1}(h_j) Z_{-1}(h_i)ᴴ), or None where cancellation costs digits.

    A circulant times a skew-circulant, of first columns a and b, has the trace Σ_d (N - 2d) a[-d mod N] b[d].
    """
    xp, N = A.xp, A.g.shape[0]
    (g, h), e = _array.balanced((xp.matrix_transpose(A.g), xp.matrix_transpose(A.h)), beyond=0)
    g, *scales_g = _near_one(g)
    h, *scales_h = _near_one(h)
    S, T = fourier.spectrum(g, N), fourier.spectrum(h, N, skew=True)
    weights = xp.asarray([float(N - 2 * d) for d in range(N)], dtype=_array.real_dtype(xp, A.dtype), device=A.device)
    gg, hh = (xp.sqrt(xp.sum(xp.abs(_array.stop_gradient(v)) ** 2, axis=1)) for v in (g, h))
    total, size = 0.0, 0.0
    for i in range(A.terms):
        a = fourier.generator(S._replace(values=xp.conj(S.values[i, :]) * S.values))
        b = fourier.generator(T._replace(values=xp.conj(T.values[i, :]) * T.values))
        a = xp.concat((a[:, :1], xp.flip(a[:, 1:], axis=1)), axis=1)
        total = total + xp.sum(_array.astype(weights, a.dtype) * a * b)
        # what rounding may add: the errors of a and b are relative to the norms of the generators
        a, b = (xp.sum(xp.abs(weights * xp.abs(_array.stop_gradient(v))), axis=1) for v in (a, b))
        size = size + xp.sum(gg[i] * gg * b + hh[i] * hh * a)
    square = xp.real(total) if A._is_complex else total
    if not _array.to_float(square) > 1e-3 * _array.to_float(size):
        return None
    return _array.ldexp(fourier.rescale(xp.sqrt(square), *scales_g, *scales_h), e)


def _near_one(x: Array) -> tuple[Array, Array, Array]:
    """x / (s t) with entries near 1, and the powers of two s and t; one of them cannot lift subnormal numbers."""
    s = _array.power_of_two(x)
    x = x / _array.astype(s, x.dtype)
    t = _array.power_of_two(x)
    return x / _array.astype(t, x.dtype), s, t


# conversions ------------------------------------------------------------------------------------------------------------


@conversion
def _(A: Identity) -> Circulant:
    return Circulant._of(c=_unit(A.like, A.n, 0), corner=A.shape)


@conversion
def _(A: Identity) -> SkewCirculant:
    return SkewCirculant._of(c=_unit(A.like, A.n, 0), corner=A.shape)


def _half_generators(A: Toeplitz, g: float, f: float = 1) -> tuple[Array, Array]:
    """J p/2 and q/2 with Z_f A - A Z_g = e_0 pᵀ + q e_{N-1}ᵀ: (J p)_i = f t_i - t_{i-N}, q_i = t_{i-N} - g t_i.

    The entry t_{-N}, which A does not have, is g t_0 here.
    """
    xp, k = A.xp, min(1, A.c.shape[0])
    below = 0.5 * A.c
    above = xp.concat((g * below[:k], xp.flip(0.5 * A.r[k:])))
    return f * below - above, above - g * below


def _padded(X: Array, N: int) -> Array:
    """X with rows (entries) of zeros up to N."""
    xp = _array.array_namespace(X)
    zeros = xp.zeros((N - X.shape[0], *X.shape[1:]), dtype=X.dtype, device=_array.device(X))
    return xp.concat((X, zeros), axis=0)
