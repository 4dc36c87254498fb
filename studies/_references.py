"""Products in a few plain lines of NumPy, SciPy or torch: what a careful user would write, and the least to reach.

Every function returns a call without arguments; what a matrix used again would keep (a spectrum, a merged factor, a
dense form) is made before, outside the clock. Arrays of torch are taken where only operators and `reshape` are used.
"""

import functools
import math
from collections.abc import Callable, Sequence
from typing import Any

import numpy as np
import scipy.fft
import scipy.linalg

Call = Callable[[], Any]
CACHE = 2**17  # bytes of a chunk that stays in the second-level cache with its intermediates

# --- Kronecker products: factors F_1 ... F_d, X (N, k) or x (N,) ---------------------------------------------------------


def batched(factors: Sequence[Any], X: Any) -> Call:
    """B: batched matmul along the middle axis of the C-order array, first factor first."""
    return lambda: _batched(factors, X)


def _batched(factors: Sequence[Any], X: Any) -> Any:
    y, left = X, 1
    for F in factors:
        m, n = F.shape
        y = F @ y.reshape(left, n, -1)
        left *= m
    return y.reshape(left, *X.shape[1:])


def reshaped(factors: Sequence[Any], X: Any) -> Call:
    """R: reshape, multiply, transpose; the axes go round once and the columns come last again at the end."""

    def call() -> Any:
        y = X
        for F in factors:
            y = (F @ y.reshape(F.shape[1], -1)).T
        return y.reshape(*X.shape[1:], -1).T

    return call


def from_the_right(factors: Sequence[Any], X: Any) -> Call:
    """G: the last factor as one GEMM from the right on rows, the others batched; columns are transposed before and after."""

    def call() -> Any:
        right = 1
        y = X.T.reshape(-1)
        for F in reversed(factors):
            m, n = F.shape
            y = y.reshape(-1, n) @ F.T if right == 1 else F @ y.reshape(-1, n, right)
            right *= m
        return y.reshape(*X.shape[1:], -1).T

    return call


def rows_batched(factors: Sequence[Any], rows: Any) -> Call:
    """B on rows (k, N): every factor but the last by batched matmul, the last by one GEMM from the right."""

    def call() -> Any:
        y, right = rows, rows.shape[-1]
        for F in factors:
            n = F.shape[1]
            right //= n
            y = F @ y.reshape(-1, n, right) if right > 1 else y.reshape(-1, n) @ F.T
        return y.reshape(rows.shape)

    return call


def rows_from_the_right(factors: Sequence[Any], rows: Any) -> Call:
    """G on rows (k, N): last factor first."""

    def call() -> Any:
        y, right = rows, 1
        for F in reversed(factors):
            m, n = F.shape
            y = F @ y.reshape(-1, n, right) if right > 1 else y.reshape(-1, n) @ F.T
            right *= m
        return y.reshape(rows.shape)

    return call


def einsum(factors: Sequence[Any], X: Any) -> Call:
    """E: np.einsum with optimize=True, two factors."""
    A, B = factors
    x = X.reshape(A.shape[1], B.shape[1], -1)
    return lambda: np.einsum("ai,bj,ijk->abk", A, B, x, optimize=True).reshape(-1, *X.shape[1:])


def merged(factors: Sequence[Any], X: Any, largest: int) -> Call:
    """M: neighbours multiplied out (before the clock) while they have at most `largest` columns, then B or G."""
    groups: list[Any] = []
    for F in factors:
        if groups and groups[-1].shape[1] * F.shape[1] <= largest:
            groups[-1] = np.kron(groups[-1], F)
        else:
            groups.append(F)
    return batched(groups, X) if X.ndim > 1 else from_the_right(groups, X)


def blocked(factors: Sequence[Any], X: Any) -> Call:
    """C: the factors in two halves, each on chunks that stay in the cache."""
    half = len(factors) // 2
    n = math.prod(F.shape[1] for F in factors[:half])
    rest = X.size // n
    width = max(1, CACHE // (n * X.itemsize))

    def call() -> Any:
        x = X.reshape(n, rest)
        y = np.empty_like(x)
        for j in range(0, rest, width):
            y[:, j : j + width] = _batched(factors[:half], np.ascontiguousarray(x[:, j : j + width]))
        z = y.reshape(n, rest // (X.size // X.shape[0]), -1)
        out = np.empty_like(z)
        for i in range(n):
            out[i] = _batched(factors[half:], z[i])
        return out.reshape(X.shape)

    return call


def dense(A: Any, X: Any) -> Call:
    """D: GEMV or GEMM with the dense matrix."""
    return lambda: A @ X


def kronecker_solve(factors: Sequence[Any], b: Any) -> Call:
    """LU of each factor, then its triangular solves along its axis."""

    def call() -> Any:
        y, left = b, 1
        for F in factors:
            n = F.shape[0]
            y = np.linalg.solve(F, y.reshape(left, n, -1))
            left *= n
        return y.reshape(b.shape)

    return call


# --- sums of Kronecker products V_l ⊗ W_l: stacks V (L, m, n), W (L, p, q) ----------------------------------------------


def looped(V: Any, W: Any, X: Any) -> Call:
    """L: a loop over the terms, two GEMMs each."""
    a, b = V.shape[2], W.shape[2]

    def term(A: Any, B: Any) -> Any:
        if X.ndim == 1:
            return (A @ (X.reshape(a, b) @ B.T)).reshape(-1)
        y = B @ X.reshape(a, b, -1)
        return (A @ y.reshape(a, -1)).reshape(-1, X.shape[1])

    def call() -> Any:
        y = term(V[0], W[0])
        for A, B in zip(V[1:], W[1:], strict=True):
            y += term(A, B)
        return y

    return call


def stacked(V: Any, W: Any, X: Any) -> Call:
    """K: the terms side by side, two GEMMs for all of them."""
    L, m, a = V.shape
    _, p, b = W.shape
    left = V.swapaxes(0, 1).reshape(m, L * a)  # the terms summed inside the second GEMM

    def call() -> Any:
        if X.ndim == 1:
            y = X.reshape(a, b) @ W.swapaxes(1, 2)  # (L, a, p)
            return (left @ y.reshape(L * a, p)).reshape(-1)
        y = W[:, None] @ X.reshape(1, a, b, -1)  # (L, a, p, k)
        return (left @ y.reshape(L * a, -1)).reshape(m * p, -1)

    return call


# --- circulant, Toeplitz, Hankel: x (n,) or rows (k, n); columns along axis 0 ----------------------------------------------


def spectrum_kept(fft: Any, column: Any, n: int, x: Any, start: int, stop: int, axis: int = -1) -> Call:
    """S, N, M: one real FFT there, one back, of a good length, the spectrum of the column kept."""
    values = fft.rfft(column, n)
    if axis == 0 and x.ndim == 2:
        values = values[:, None]
    name = "dim" if type(x).__module__.startswith("torch") else "axis"

    def call() -> Any:
        y = fft.irfft(fft.rfft(x, n, **{name: axis}) * values, n, **{name: axis})
        if start == 0 and stop == n:
            return y
        return y[..., start:stop] if axis == -1 else y[start:stop]

    return call


def spectrum_each_call(column: Any, n: int, x: Any, start: int, stop: int) -> Call:
    """The same with a new spectrum at every call."""

    def call() -> Any:
        y = scipy.fft.irfft(scipy.fft.rfft(x, n) * scipy.fft.rfft(column, n), n)
        return y[..., start:stop]

    return call


def turned(fft: Any, column: Any, n: int, x: Any, start: int, stop: int) -> Call:
    """The same on columns (n, k) by way of a transposed copy."""
    values = fft.rfft(column, n)

    def call() -> Any:
        rows = np.ascontiguousarray(x.T) if isinstance(x, np.ndarray) else x.T.contiguous()
        return fft.irfft(fft.rfft(rows, n) * values, n)[:, start:stop].T

    return call


def made_anew(c: Any, r: Any, n: int, x: Any) -> Call:
    """Toeplitz once: the column of the circulant, its spectrum, the product."""
    m = len(c)

    def call() -> Any:
        t = np.zeros(n, c.dtype)
        t[:m] = c
        t[n - m + 1 :] = r[:0:-1]
        return scipy.fft.irfft(scipy.fft.rfft(x, n) * scipy.fft.rfft(t), n)[:m]

    return call


def one_and_back(fft: Any, n: int, x: Any) -> Call:
    """The limit of every FFT product: one real transform of length n and one back."""
    return lambda: fft.irfft(fft.rfft(x, n), n)


# --- low displacement rank: Σ_i Z_1(g_i) Z_{-1}(h_i), G, H (n, r); x (n,) or rows (k, n) -----------------------------------


def whole_length(fft: Any, G: Any, H: Any, x: Any) -> Call:
    """P: complex FFTs of length n for the skew-circulants, real ones for the circulants."""
    n = G.shape[0]
    xp = __import__("torch") if type(x).__module__.startswith("torch") else np
    twist = np.exp(1j * np.pi * np.arange(n) / n).astype("complex64" if G.dtype.itemsize == 4 else "complex128")
    twist = xp.asarray(twist)
    g, h = fft.rfft(G.T), fft.fft(H.T * twist)

    def call() -> Any:
        y = fft.ifft(fft.fft(x * twist)[..., None, :] * h) * twist.conj()
        return fft.irfft((fft.rfft(y.real) * g).sum(-2), n)

    return call


def half_length(G: Any, H: Any, x: Any) -> Call:
    """H: a real skew-circulant product by complex FFTs of length n/2, n even."""
    n = G.shape[0]
    half = n // 2
    twist = np.exp(-1j * np.pi * np.arange(half) / n).astype("complex64" if G.dtype.itemsize == 4 else "complex128")
    fft = scipy.fft

    def folded(v: Any) -> Any:
        return fft.fft((v[..., :half] - 1j * v[..., half:]) * twist)

    g, h = fft.rfft(G.T), folded(np.ascontiguousarray(H.T))

    def call() -> Any:
        z = fft.ifft(folded(x)[..., None, :] * h) * twist.conj()
        y = np.concatenate((z.real, -z.imag), axis=-1)
        return fft.irfft((fft.rfft(y) * g).sum(-2), n)

    return call


# --- dense forms, for small sizes and for the truth ------------------------------------------------------------------------


def kron(factors: Sequence[Any]) -> Any:
    """The dense Kronecker product."""
    return functools.reduce(np.kron, factors)


def skew_circulant(c: Any) -> Any:
    """The dense skew-circulant matrix with first column c."""
    return scipy.linalg.toeplitz(c, np.concatenate((c[:1], -c[:0:-1])))


def low_displacement_rank(G: Any, H: Any) -> Any:
    """The dense Σ_i Z_1(g_i) Z_{-1}(h_i), column by column from products in double precision."""
    n = G.shape[0]
    G, H, eye = G.astype(float), H.astype(float), np.eye(n)
    step = max(1, 2**21 // (n * G.shape[1]))
    rows = [whole_length(scipy.fft, G, H, eye[i : i + step])() for i in range(0, n, step)]
    return np.ascontiguousarray(np.concatenate(rows).T)
