"""The nearest matrix of low displacement rank: weighted low-rank least squares in Fourier coordinates.

With F the unitary DFT, D = diag(e^{iπj/N}) and K = F Dᴴ Fᴴ, a Cauchy-like matrix,

    F W(G, H) Dᴴ Fᴴ = K ∘ (Ĝ Ĥᵀ),   Ĝ = fft(G), Ĥ = fft(D H),

so the fit is min ‖M̂ − K ∘ (Ĝ Ĥᵀ)‖_F: for fixed Ĥ the rows of Ĝ are N separate least-squares problems with r unknowns,
for fixed Ĝ the rows of Ĥ are. Alternating between them never increases the error; it ends in a local optimum, so
several starts are tried.
"""

import math
from collections.abc import Iterator
from typing import Any, NamedTuple, cast

from . import _array, _check
from ._array import Array
from .displacement import LowDisplacementRank, displacement
from .errors import ConvergenceWarning, warn
from .fit import Fit, as_target, constant, relative_error, svd
from .linalg import convert
from .matrix import StructuredMatrix
from .nearest import nearest_circulant, nearest_low_rank, nearest_skew_circulant, nearest_toeplitz

__all__ = ["nearest_displacement"]

RANDOM_STARTS = 2
SHORT, LONG = 10, 500  # sweeps of every start, and of the best one
SETTLED, PATIENCE = 1e-6, 5  # converged: the error falls by less than this share a sweep, over that many sweeps
RIDGE = 1e-10  # of the normal equations, relative to the mean of their diagonal
POLISH = 1e-6  # below this relative error the normal equations lose digits: pseudo-inverses instead
CHUNK = 2**20  # entries of the least-squares problems formed at a time


def nearest_displacement(M: Any, rank: int, seed: Any = 0) -> Fit:
    """The nearest W(G, H) = Σ_{i<=rank} Z_1(g_i) Z_{-1}(h_i) that alternating least squares finds.

    M: dense (m, n); a rectangular one is met by the top-left corner of an N×N matrix, N = max(m, n), the entries
    outside being filled in from the current fit: slower, and the further from square, the more local the optimum.
    rank: 1 to N; 2 N rank parameters. A sweep costs O(N² rank²); two random starts and those of the classes inside
    are run for 10 sweeps, the best one on, until the error settles or for 500 sweeps.

    The result is a local optimum (Fit.optimal is False unless the error is 0), never worse than the nearest circulant
    and skew-circulant, for rank >= 2 the nearest Toeplitz matrix, and the nearest matrix of rank ⌊rank/2⌋. Warns with
    ConvergenceWarning when the error had not settled. Raises ArgumentError, NonFiniteError, DTypeError. `seed` draws
    the random starts: every call repeats.

    >>> import numpy as np, sepmat as sm
    >>> T = sm.Toeplitz([4.0, 1.0, 2.0, 3.0], [4.0, 0.5, 1.0, 0.0])
    >>> fit = sm.nearest_displacement(np.linalg.inv(T.to_dense()), rank=2)
    >>> fit.matrix, fit.relative_error < 1e-12
    (LowDisplacementRank(r=2, shape=(4, 4), float64), True)
    """
    fit = fit_displacement(M, rank, seed, "nearest_displacement")
    if not fit.converged:
        warn(
            ConvergenceWarning,
            f"nearest_displacement: not settled after {fit.iterations} sweeps, "
            f"at a relative error of {fit.relative_error:.3e}",
        )
    return fit


def fit_displacement(M: Any, rank: int, seed: Any, where: str) -> Fit:
    """nearest_displacement without the warning."""
    rng = _check.as_generator(seed, where)
    with _array.quiet():
        M, k = as_target(M, where)
        M = constant(M, where, "M")
        xp, N = _array.array_namespace(M), max(M.shape)
        rank = _check.as_integer(rank, where, "rank", maximum=max(1, N))
        if not M.shape[0] or not M.shape[1] or not bool(xp.any(M != 0)):
            zeros = xp.zeros((N, rank), dtype=M.dtype, device=_array.device(M))
            A = LowDisplacementRank(zeros, zeros, shape=tuple(M.shape))
            return Fit(A, 0.0, A.num_parameters, optimal=True)
        classes = _classes(M, rank)
        best = min(classes, key=lambda fit: fit.relative_error)
        A, error, converged, sweeps = _converted(best.matrix), best.relative_error, True, 0
        if error > _floor(xp, M.dtype, N):
            target = _Target(_array.astype(M, xp.complex128 if _array.is_complex(M) else xp.float64))
            runs = [_alternate(target, *start, sweeps=SHORT) for start in _starts(target, classes, rank, rng)]
            run = min(runs, key=lambda run: run.error)
            run = _alternate(target, run.H, run.filled, sweeps=LONG)
            G, H = (_array.astype(X, M.dtype) for X in target.generators(run))
            W = LowDisplacementRank._of(g=G, h=H, corner=tuple(M.shape), transposed=False)
            found = relative_error(M, W._to_dense())
            if found < error:  # rounding can leave a class inside ahead, when M is nearly of it
                A, error, converged, sweeps = W, found, run.converged, run.sweeps
        # 2^k goes to both generators, so that neither leaves the range before the product does
        A = LowDisplacementRank._of(
            g=_array.ldexp(A.g, k // 2), h=_array.ldexp(A.h, k - k // 2), corner=A.corner, transposed=False
        )
        return Fit(A, error, A.num_parameters, None, error == 0.0, converged, sweeps)


class _Run(NamedTuple):
    """Where an alternation stands: Ĝ and Ĥ, the target with its missing entries filled in, the relative error."""

    G: Array
    H: Array
    filled: Array
    error: float
    converged: bool
    sweeps: int


class _Target:
    """M in Fourier coordinates, and the way there and back.

    The columns stand in the order l = 1, 2, …, N−1, 0. For real M, row −k of M̂ and Ĝ is the conjugate of row k with
    its columns reversed, and row N−1−l of Ĥ the conjugate of row l: half of the rows is enough.
    """

    def __init__(self, M: Array) -> None:
        self.xp = xp = _array.array_namespace(M)
        self.M, self.N, self.real = M, max(M.shape), not _array.is_complex(M)
        N, place = self.N, {"device": _array.device(M)}
        self.rows, self.cols = (N // 2 + 1, (N + 1) // 2) if self.real else (N, N)
        j = xp.arange(N, dtype=xp.float64, **place)
        self.d = xp.exp(1j * math.pi / N * _array.astype(j, xp.complex128))
        angle = (2.0 * (j[:, None] - (j[None, :] + 1.0)) + 1.0) * (-math.pi / N)
        self.K = (2.0 / N) / (1.0 - xp.exp(1j * _array.astype(angle, xp.complex128)))
        m, n = M.shape
        self.complete = m == n
        if not self.complete:
            self.corner = xp.concat(
                (
                    xp.concat((M, xp.zeros((m, N - n), dtype=M.dtype, **place)), axis=1),
                    xp.zeros((N - m, N), dtype=M.dtype, **place),
                ),
                axis=0,
            )
            self.known = xp.logical_and((j < m)[:, None], (j < n)[None, :])
        self.norm = _array.to_float(_array.frobenius(M))

    def filled(self, model: Array) -> Array:
        """M, or the N×N matrix that takes from the model what M does not have."""
        return self.M if self.complete else self.xp.where(self.known, self.corner, model)

    def transformed(self, M: Array) -> Array:
        """F M Dᴴ Fᴴ."""
        xp = self.xp
        M = _array.astype(M, xp.complex128) * xp.conj(self.d)
        return xp.roll(xp.fft.fft(xp.fft.ifft(M, axis=1), axis=0), -1, axis=1)

    def model(self, G: Array, H: Array) -> Array:
        """W(G, H), N×N."""
        xp = self.xp
        W = xp.fft.ifft(xp.fft.fft(xp.roll(self.K * (G @ xp.matrix_transpose(H)), 1, axis=1), axis=1), axis=0) * self.d
        return xp.real(W) if self.real else W

    def spectrum(self, H: Array) -> Array:
        """Ĥ of H."""
        xp = self.xp
        return xp.roll(xp.fft.fft(_array.astype(H, xp.complex128) * self.d[:, None], axis=0), -1, axis=0)

    def generators(self, run: _Run) -> tuple[Array, Array]:
        """G and H of Ĝ and Ĥ, balanced."""
        xp = self.xp
        G = xp.fft.ifft(run.G, axis=0)
        H = xp.conj(self.d)[:, None] * xp.fft.ifft(xp.roll(run.H, 1, axis=0), axis=0)
        if self.real:
            G, H = xp.real(G), xp.real(H)
        g, h = (xp.linalg.vector_norm(X, axis=0) for X in (G, H))
        ratio = xp.sqrt(xp.where(xp.logical_and(g > 0, h > 0), h / g, xp.ones_like(g)))
        return G * _array.astype(ratio, G.dtype), H / _array.astype(ratio, H.dtype)


def _classes(M: Array, rank: int) -> list[Fit]:
    """The best of the classes inside."""
    fits = [nearest_circulant(M), nearest_skew_circulant(M)]
    if rank >= 2:
        fits += [nearest_toeplitz(M), nearest_low_rank(M, rank=min(rank // 2, *M.shape))]
    return fits


def _converted(A: StructuredMatrix) -> LowDisplacementRank:
    return cast(LowDisplacementRank, convert(A, LowDisplacementRank))


def _floor(xp: Any, dtype: Any, N: int) -> float:
    """A relative error that is rounding: the fit is exact."""
    return 8 * math.sqrt(N) * _array.unit_roundoff(xp, dtype)


def _starts(target: _Target, classes: list[Fit], rank: int, rng: Any) -> Iterator[tuple[Array, Array]]:
    """Pairs of Ĥ and filled target. G is not needed: the first half sweep finds the best one.

    The classes inside, completed to the rank by the leading singular vectors of ∇(residual); those of ∇(M); random.
    """
    xp, M = target.xp, target.M
    zeros = xp.zeros((target.N, target.N), dtype=M.dtype, device=_array.device(M))
    starts: list[StructuredMatrix | None] = [None, *(fit.matrix for fit in classes)]
    for A in starts:
        W, H = zeros, zeros[:, :0]
        if A is not None:
            B = _converted(A).astype(M.dtype)
            H = B.h
            W = LowDisplacementRank._of(g=B.g, h=H, corner=(target.N, target.N), transposed=False)._to_dense()
        filled = target.filled(W)
        if H.shape[1] < rank:
            _, _, V = svd(displacement(filled - W))
            more = rank - H.shape[1]
            H = xp.concat((H, xp.flip(V[:, :more], axis=0)), axis=1)
        yield target.spectrum(H), filled
    for _ in range(RANDOM_STARTS):
        yield target.spectrum(_array.normal(rng, (target.N, rank), M)), target.filled(zeros)


def _alternate(target: _Target, H: Array, filled: Array, sweeps: int) -> _Run:
    """Sweeps from Ĥ until the error settles; the best pair seen.

    Filled-in entries follow the model with momentum (Nesterov's weights, dropped whenever the error rises): where
    most entries are missing, plain replacement would crawl.
    """
    xp, K = target.xp, target.K
    Kt = xp.matrix_transpose(K)
    X, errors, speed = target.transformed(filled), [math.inf], 0
    best = _Run(H, H, filled, math.inf, False, 0)
    floor = _floor(xp, xp.float64, target.N)
    patience = PATIENCE if target.complete else 4 * PATIENCE  # momentum overshoots for some sweeps
    for sweep in range(1, sweeps + 1):
        exact = errors[-1] < POLISH
        H = xp.linalg.qr(H)[0]
        G = _half(xp, K, X, H, target.rows, exact)
        G = xp.concat((G, xp.conj(xp.flip(G[1 : target.N - target.rows + 1, :], axis=0))), axis=0)
        G = xp.linalg.qr(G)[0]
        H = _half(xp, Kt, xp.matrix_transpose(X), G, target.cols, exact)
        H = xp.concat((H, xp.conj(xp.flip(H[: target.N - target.cols, :], axis=0))), axis=0)
        if target.complete:
            residual = X - K * (G @ xp.matrix_transpose(H))
        else:
            model = target.model(G, H)
            before, filled = filled, target.filled(model)
            residual = filled - model
        errors.append(_array.to_float(xp.linalg.vector_norm(residual)) / target.norm)
        # the smallest of the last sweeps: near the unit roundoff the errors jump
        settled = errors[-1] < floor or (
            sweep > patience and min(errors[-patience:]) > (1 - patience * SETTLED) * min(errors[:-patience])
        )
        if errors[-1] < best.error:
            best = _Run(G, H, filled, errors[-1], settled, sweep)
        if settled:
            break
        if not target.complete:
            speed = speed + 1 if errors[-1] <= errors[-2] else 0
            X = target.transformed(filled + (speed / (speed + 3)) * (filled - before))
    return best._replace(converged=settled, sweeps=sweep)


def _half(xp: Any, K: Array, X: Array, H: Array, rows: int, exact: bool) -> Array:
    """The rows g_k, k < rows, that minimise ‖X_k − (K_k ∘ H) g_k‖ each."""
    N, r = H.shape
    step = max(1, CHUNK // (r * (N if exact else r)))
    found = []
    for i in range(0, rows, step):
        j = min(i + step, rows)
        if exact:
            x = xp.linalg.pinv(K[i:j, :, None] * H, rtol=1e-14) @ X[i:j, :, None]
        else:
            right = (xp.conj(K[i:j, :]) * X[i:j, :]) @ xp.conj(H)
            x = xp.linalg.solve(_normal_matrices(xp, K[i:j, :], H), right[:, :, None])
        found.append(x[:, :, 0])
    return xp.concat(found, axis=0)


def _normal_matrices(xp: Any, K: Array, H: Array) -> Array:
    """Σ_l |K_kl|² conj(h_l) h_lᵀ plus the ridge, for every row k of K: products with the real |K|²."""
    (rows, N), r = K.shape, H.shape[1]
    weights = xp.real(K) ** 2 + xp.imag(K) ** 2
    blocks, step = [], max(1, CHUNK // (N * r))
    for a in range(0, r, step):
        pairs = xp.reshape(xp.conj(H[:, a : min(a + step, r), None]) * H[:, None, :], (N, -1))
        block = weights @ xp.real(pairs) + 1j * (weights @ xp.imag(pairs))
        blocks.append(xp.reshape(block, (rows, -1, r)))
    A = xp.concat(blocks, axis=1)
    ridge = RIDGE * xp.mean(xp.real(xp.linalg.diagonal(A)), axis=-1)
    return A + xp.eye(r, dtype=A.dtype, device=_array.device(A)) * _array.astype(ridge, A.dtype)[:, None, None]
